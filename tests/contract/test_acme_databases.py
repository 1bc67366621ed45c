"""ACME on both databases: what two workers do at once has one outcome."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.acme_world import Judge
from tests.unit.ca_bench import ADMIN, Bench
from tmad.ca.acme import control
from tmad.ca.acme.accounts import AccountKey, ExternalBinding, NewAccount
from tmad.ca.acme.orders import NewOrder
from tmad.ca.acme.service import ACME
from tmad.ca.acme.validating import LEASE
from tmad.ca.requests import DomainControl, EndpointID, EnrollmentRequest, Issued, Proof
from tmad.errors import Fault
from tmad.signer.seal import Seal
from tmad.storage.database import Database

DOOR = EndpointID("acme", "default")
NAME = "a.example.test"


class World:
    """One endpoint, and two processes that serve it."""

    def __init__(self, loop: Loop, database: Database, clock: Clock) -> None:
        self.loop = loop
        self.bench = loop.run(Bench(database=database, clock=clock).prepare())
        loop.run(
            self.bench.open(
                "acme", "default", authenticate=["acme"], profile="tls-server",
                challenge={"recoverable": True}, options={"new_accounts_per_hour": 0},
            )
        )  # fmt: skip
        self.endpoint = loop.run(self.bench.endpoints.by_id(DOOR))
        self.judge = Judge()
        self.later: list[Coroutine[Any, Any, object]] = []
        self.one, self.two = self.process(), self.process()

    def process(self) -> ACME:
        b = self.bench
        return ACME(
            database=b.database, journal=b.journal, endpoints=b.endpoints, objects=b.objects,
            hierarchy=b.hierarchy, status=b.status, revocation=b.revocation, secrets=b.secrets,
            seal=Seal(bytes(32)), validator=self.judge, now=b.clock, later=self.later.append,
            base_url="https://ca.example.test",
        )  # fmt: skip

    def at_once(self, *coroutines: Any) -> list[Any]:
        begun = [ensureDeferred(coroutine) for coroutine in coroutines]
        done = self.loop.run(DeferredList(begun, consumeErrors=True), 60.0)
        return [found.value if isinstance(found, Failure) else found for _, found in done]

    def account(self, number: int, **more: Any) -> NewAccount:
        key = AccountKey(spki_der=b"key %d" % number, thumbprint=b"%032d" % number)
        given: dict[str, Any] = {
            "contacts": (), "agrees": False, "only_existing": False, "binding": None,
            "peer": "192.0.2.1",
        }  # fmt: skip
        return NewAccount(key=key, **(given | more))

    def order(self, number: int = 1) -> tuple[Any, Any]:
        """Return an account's standing and an order of its that is pending."""
        account, _ = self.loop.run(self.one.accounts.register(self.endpoint, self.account(number)))
        standing = self.loop.run(self.one.accounts.stand(account))
        new = NewOrder(identifiers=(("dns", NAME),))
        return standing, self.loop.run(self.one.orders.create(self.endpoint, standing, new))

    def show(self, standing: Any, order: Any) -> None:
        """Show control of an order's name, as the client and a worker do."""
        (authorization,) = order.row.authorizations
        run, account = self.loop.run, standing.account.id
        found = run(self.one.orders.authorization(self.endpoint, account, authorization))
        run(self.one.validations.begin(found, "http-01", b"{}"))
        while self.later:
            run(self.later.pop())


@pytest.fixture
def world(loop: Loop, database: Database, clock: Clock) -> World:
    return World(loop, database, clock)


def test_a_key_has_one_account(world: World) -> None:
    new = world.account(7)
    found = world.at_once(
        *[each.accounts.register(world.endpoint, new) for each in (world.one, world.two) * 4]
    )
    assert len({account.id for account, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1


def test_a_binding_is_good_for_one_account(world: World) -> None:
    run = world.loop.run
    row, _ = run(world.bench.secrets.create(ADMIN, "default", str(DOOR), recoverable=True))
    binding = ExternalBinding(reference=row.id, verify=lambda secret: True, text="{}")
    found = world.at_once(
        *[
            each.accounts.register(world.endpoint, world.account(number, binding=binding))
            for number, each in enumerate((world.one, world.two) * 4)
        ]
    )
    faults = [each for each in found if isinstance(each, Fault)]
    assert len(faults) == 7
    assert {fault.rule for fault in faults} == {"acme.binding.wrong"}


def test_a_nonce_is_used_once(world: World) -> None:
    nonce = world.one.nonces.make()
    found = world.at_once(*[each.nonces.use(nonce) for each in (world.one, world.two) * 4])
    faults = [each for each in found if isinstance(each, Fault)]
    assert len(faults) == 7
    assert {fault.values["problem"] for fault in faults} == {"badNonce"}
    world.bench.clock.advance(hours=2)
    assert world.loop.run(world.two.forget()) == 1


def test_an_account_has_one_next_key(world: World) -> None:
    standing, _ = world.order()
    keys = [AccountKey(spki_der=b"k%d" % n, thumbprint=b"%032d" % (50 + n)) for n in range(4)]
    found = world.at_once(
        *[world.one.accounts.change_key(world.endpoint, standing.account, key) for key in keys]
    )
    assert sum(not isinstance(each, Fault) for each in found) == 1
    other, _ = world.loop.run(world.one.accounts.register(world.endpoint, world.account(9)))
    taken = next(each for each in found if not isinstance(each, Fault))
    key = AccountKey(spki_der=b"x", thumbprint=taken.thumbprint)
    with pytest.raises(Fault) as raised:
        world.loop.run(world.two.accounts.change_key(world.endpoint, other, key))
    assert raised.value.rule == "acme.account.key-in-use"


def test_a_challenge_is_tried_by_one_worker(world: World) -> None:
    standing, order = world.order()
    (authorization,) = order.row.authorizations
    account = standing.account.id
    found = world.loop.run(world.one.orders.authorization(world.endpoint, account, authorization))
    begun = world.at_once(
        *[
            each.validations.begin(found, kind, b"{}")
            for each, kind in ((world.one, "http-01"), (world.two, "dns-01"))
        ]
    )
    assert sum(not isinstance(each, Fault) for each in begun) == 1
    taken = world.at_once(
        *[each.validations.run_due() for each in (world.one, world.two, world.one, world.two)]
    )
    assert sum(taken) == 0
    for each in world.later:
        each.close()  # the worker dies
    world.later.clear()
    world.bench.clock.advance(seconds=LEASE.total_seconds())
    taken = world.at_once(
        *[each.validations.run_due() for each in (world.one, world.two, world.one, world.two)]
    )
    assert sum(taken) == 1
    while world.later:
        world.loop.run(world.later.pop())
    assert len(world.judge.asked) == 1
    assert world.loop.run(
        world.two.orders.find(world.endpoint, account, order.row.id)
    ).state == "ready"  # fmt: skip


def test_orders_of_one_moment_are_counted(world: World) -> None:
    options = world.endpoint.options.model_copy(update={"new_orders_per_3_hours": 3})
    endpoint = replace(world.endpoint, options=options)
    account, _ = world.loop.run(world.one.accounts.register(endpoint, world.account(1)))
    standing = world.loop.run(world.one.accounts.stand(account))
    new = NewOrder(identifiers=(("dns", NAME),))
    found = world.at_once(
        *[
            node.orders.create(endpoint, standing, new)
            for _ in range(4)
            for node in (world.one, world.two)
        ]
    )
    faults = [each for each in found if isinstance(each, Fault)]
    assert len(faults) == 5
    assert {fault.rule for fault in faults} == {"acme.limit"}
    listed = world.loop.run(world.two.list_orders(ADMIN, "default", account.id))
    assert {each.row.id for each in listed} == {
        each.row.id for each in found if not isinstance(each, Fault)
    }


def test_accounts_of_one_moment_are_counted(world: World) -> None:
    options = world.endpoint.options.model_copy(update={"new_accounts_per_hour": 3})
    endpoint = replace(world.endpoint, options=options)
    wanted = [world.account(number) for number in range(8)]
    found = world.at_once(
        *[
            (world.one, world.two)[number % 2].accounts.register(endpoint, each)
            for number, each in enumerate(wanted)
        ]
    )
    faults = [each for each in found if isinstance(each, Fault)]
    assert len(faults) == 5
    assert {fault.rule for fault in faults} == {"acme.limit"}


def test_an_order_that_is_refused_keeps_no_other_back(world: World) -> None:
    shown = [world.order(number) for number in range(4)]
    for standing, order in shown:
        world.show(standing, order)
    gone, _ = shown[2]
    database, now = world.bench.database, world.bench.clock()
    # As they were when it was decided.
    waiting = [
        world.loop.run(
            database.lookup(control.read, str(DOOR), standing.account.id, order.row.id, now)
        )
        for standing, order in shown
    ]
    world.loop.run(world.two.deactivate_account(ADMIN, "default", gone.account.id))
    with pytest.raises(Fault) as raised:
        world.loop.run(
            database.write(control.claim, [(each, f"Q{n}") for n, each in enumerate(waiting)], now)
        )
    assert raised.value.rule == "acme.account.state"
    requests = [
        EnrollmentRequest(
            via="acme", endpoint=DOOR,
            public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
            subject=x509.Name([]), names=(x509.DNSName(NAME),), proof=Proof.CSR_SIGNATURE,
            credential=DomainControl(account=standing.account.id, order=order.row.id),
            transaction=order.row.id,
        )
        for standing, order in shown
    ]  # fmt: skip
    found = world.at_once(*[world.bench.authority.enroll(each) for each in requests])
    assert [isinstance(each, Issued) for each in found] == [True, True, False, True]


def test_an_order_gives_one_certificate(world: World) -> None:
    standing, order = world.order()
    world.show(standing, order)
    request = EnrollmentRequest(
        via="acme", endpoint=DOOR, public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        subject=x509.Name([]), names=(x509.DNSName(NAME),), proof=Proof.CSR_SIGNATURE,
        credential=DomainControl(account=standing.account.id, order=order.row.id),
        transaction=order.row.id,
    )  # fmt: skip
    others = [
        replace(request, public_key=ec.generate_private_key(ec.SECP256R1()).public_key())
        for _ in range(5)
    ]
    found = world.at_once(*[world.bench.authority.enroll(each) for each in (request, *others)])
    issued = [each for each in found if isinstance(each, Issued)]
    assert len(issued) == 1
    assert {each.rule for each in found if isinstance(each, Fault)} == {"acme.order.used"}
    shown, authorizations = world.loop.run(world.two.show_order(ADMIN, "default", order.row.id))
    assert (shown.state, shown.certificate_id) == ("valid", issued[0].certificate_id)
    assert [each.state for each in authorizations] == ["valid"]
    (listed,) = world.loop.run(world.two.list_orders(ADMIN, "default", standing.account.id))
    assert listed == shown


def test_closing_an_account_ends_what_it_has_shown(world: World) -> None:
    standing, order = world.order()
    world.show(standing, order)
    account = standing.account.id
    run = world.loop.run
    assert run(world.two.deactivate_account(ADMIN, "default", account))
    (_, (authorization,)) = run(world.one.show_order(ADMIN, "default", order.row.id))
    assert authorization.state == "deactivated"
    assert run(world.one.show_account(ADMIN, "default", account)).state == "revoked"
    world.bench.clock.advance(days=61)
    assert run(world.one.forget()) == 2
