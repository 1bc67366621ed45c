"""The pipeline on both databases, under a real reactor: threads, commits and races."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.ca_bench import ADMIN, ROUTERS, Bench, asked, name
from tmad.ca.approval import Requests
from tmad.ca.pipeline import Authority
from tmad.ca.requests import Issued, Pending
from tmad.errors import Fault, FaultCode
from tmad.storage import certificates, tables
from tmad.storage.database import Database


@pytest.fixture
def b(loop: Loop, database: Database, clock: Clock) -> Bench:
    return loop.run(Bench(database=database, clock=clock).prepare())


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    """Run coroutines side by side; return results and exceptions."""
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    return [result.value if isinstance(result, Failure) else result for _, result in done]


def issued(loop: Loop, b: Bench) -> int:
    def count(connection: sa.Connection) -> int:
        table = tables.certificates
        query = sa.select(sa.func.count()).where(table.c.via == "scep", table.c.state == "issued")
        return int(connection.execute(query).scalar_one())

    return loop.run(b.database.read(count))


def other_process(b: Bench) -> Authority:
    """Return an authority that shares nothing with the bench's but the database."""
    return Authority(
        database=b.database,
        journal=b.journal,
        keyring=b.keyring,
        objects=b.objects,
        endpoints=b.endpoints,
        hierarchy=b.hierarchy,
        secrets=b.secrets,
        now=b.clock,
    )


def test_a_certificate_is_durable_and_findable(loop: Loop, b: Bench) -> None:
    outcome = loop.run(b.authority.enroll(asked(secret=loop.run(b.secret()))))
    assert isinstance(outcome, Issued)
    serial = outcome.certificate.serial_number

    def find(connection: sa.Connection) -> list[Any]:
        return [
            certificates.by_serial(connection, outcome.issuer_id, serial),
            *certificates.find_by_name(connection, "default", "r1.example.test", after=0, limit=9),
        ]

    assert {row.id for row in loop.run(b.database.read(find))} == {outcome.certificate_id}


def test_t_scep_02_copies_in_two_processes_yield_one_certificate(loop: Loop, b: Bench) -> None:
    request = asked(secret=loop.run(b.secret()), evidence=b"csr")
    one, two = b.authority, other_process(b)
    outcomes = at_once(loop, *(each.enroll(request) for each in (one, two) * 10))
    # Whoever came between the two commits is told to poll.
    assert {type(outcome) for outcome in outcomes} <= {Issued, Pending}
    polled = loop.run(two.poll(ROUTERS, request.transaction, request.public_key))
    serials = {o.certificate.serial_number for o in outcomes if isinstance(o, Issued)}
    assert serials == {polled.certificate.serial_number}
    assert issued(loop, b) == 1


def test_g_loss_5_one_secret_in_two_processes_yields_one_certificate(loop: Loop, b: Bench) -> None:
    secret = loop.run(b.secret())
    wishes = [asked(secret=secret, transaction=f"t{number}") for number in range(20)]
    doors = (b.authority, other_process(b)) * 10
    outcomes = at_once(loop, *(d.enroll(w) for d, w in zip(doors, wishes, strict=True)))
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert {fault.code for fault in faults} == {FaultCode.UNAUTHENTICATED}
    assert len(faults) == 19
    assert issued(loop, b) == 1


def test_many_at_once_each_get_their_own(loop: Loop, b: Bench) -> None:
    loop.run(b.authority.enroll(asked(secret=loop.run(b.secret()))))
    wishes = [
        asked(
            secret=loop.run(b.secret()),
            transaction=f"many{number}",
            common=f"r{number}.example.test",
            names=(x509.DNSName(f"r{number}.example.test"),),
        )
        for number in range(60)
    ]
    outcomes = at_once(loop, *(b.authority.enroll(wish) for wish in wishes))
    assert all(isinstance(outcome, Issued) for outcome in outcomes)
    for wish, outcome in zip(wishes, outcomes, strict=True):
        assert outcome.certificate.public_key() == wish.public_key
        assert outcome.certificate.subject == wish.subject


def test_who_is_refused_spoils_nothing_for_those_of_the_same_moment(loop: Loop, b: Bench) -> None:
    def wish(number: int, **options: Any) -> Any:
        host = f"m{number}.example.test"
        options = {"secret": loop.run(b.secret()), "names": (x509.DNSName(host),), **options}
        return asked(transaction=f"moment{number}", common=host, **options)

    key, secret = ec.generate_private_key(ec.SECP256R1()), loop.run(b.secret())
    good = [wish(number) for number in range(20)]
    same_key = [wish(20 + number, key=key) for number in range(4)]
    same_secret = [wish(30 + number, secret=secret) for number in range(4)]
    mixed = [*good[:10], *same_key, *same_secret, *good[10:]]
    outcomes = at_once(loop, *(b.authority.enroll(each) for each in mixed))
    found = dict(zip((each.transaction for each in mixed), outcomes, strict=True))
    assert all(isinstance(found[each.transaction], Issued) for each in good)
    for several, rule in ((same_key, "key.duplicate.same-subject"), (same_secret, "secret.used")):
        own = [found[each.transaction] for each in several]
        assert sum(isinstance(outcome, Issued) for outcome in own) == 1
        assert {outcome.rule for outcome in own if isinstance(outcome, Fault)} == {rule}
    assert issued(loop, b) == 22
    assert loop.run(b.journal.verify({})).findings == ()


def test_a_used_key_and_a_dry_run(loop: Loop, b: Bench) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    loop.run(b.authority.enroll(asked(key=key, secret=loop.run(b.secret()))))
    other = asked(key=key, secret=loop.run(b.secret()), common="r2", transaction="t2")
    with pytest.raises(Fault) as caught:
        loop.run(b.authority.enroll(other))
    assert caught.value.rule == "key.duplicate.same-subject"
    shown = loop.run(
        b.authority.issue(
            ADMIN,
            "default",
            authority="devices",
            profile="tls-server",
            subject=name("www.example.test"),
            names=(x509.DNSName("www.example.test"),),
            public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
            proof=asked().proof,
            dry_run=True,
        )
    )
    assert shown.certificate.signature == b""
    assert issued(loop, b) == 1


def test_an_approval_and_an_expiry(loop: Loop, database: Database, clock: Clock) -> None:
    b = loop.run(Bench(database=database, clock=clock, authenticate=["manual"]).prepare())
    decide = Requests(
        database=database, journal=b.journal, authority=b.authority, secrets=b.secrets, now=clock
    )
    first = loop.run(b.authority.enroll(asked(transaction="one")))
    loop.run(b.authority.enroll(asked(transaction="two")))
    assert isinstance(loop.run(decide.approve(ADMIN, "default", first.request_id)), Issued)
    clock.advance(days=15)
    assert loop.run(decide.expire_due()) == 1
    assert loop.run(b.authority.recover()) == 0
