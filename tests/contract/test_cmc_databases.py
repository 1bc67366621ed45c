"""CMC on both databases: copies at once, a challenge, a confirmation and a passphrase."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from twisted.internet.defer import DeferredList, ensureDeferred

from tests import cmc_client as client
from tests.cmc_client import SUCCESS, Answer, Challenge, Holder, pki_data, signed, tcr
from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.ca_bench import ADMIN
from tests.unit.cmc_world import FULL, World, name
from tests.unit.cmp_world import new_key
from tmad.protocols.cmc.responder import CMCResponder
from tmad.storage.database import Database
from tmad.wire.http import Request

RULES: dict[str, Any] = {"challenge": {"recoverable": True, "static": True}}


class Door:
    """A world on a real database, and a second process beside it."""

    def __init__(self, loop: Loop, world: World) -> None:
        self.loop = loop
        self.world = world
        self.other = CMCResponder(world.services)

    def requested(self, octets: bytes) -> Request:
        return Request(
            method="POST",
            path=b"/cmc/iot",
            headers={"content-type": FULL},
            body=octets,
            peer="192.0.2.7",
            tail=b"iot",
        )

    def ask(self, octets: bytes, *, other: bool = False) -> Answer:
        responder = self.other if other else self.world.cmc
        response = self.loop.run(responder.respond(self.requested(octets)))
        assert response.status == 200, response.body
        return Answer(response.body)

    def at_once(self, octets: bytes) -> list[Answer]:
        begun = [
            ensureDeferred(each.respond(self.requested(octets)))
            for each in (self.world.cmc, self.other) * 3
        ]
        done = self.loop.run(DeferredList(begun, fireOnOneErrback=True), 60.0)
        return [Answer(response.body) for _, response in done]

    def open(self, **document: Any) -> None:
        self.loop.run(self.world.open("cmc", "iot", **{**RULES, **document}))

    def known(self, **options: Any) -> tuple[str, str]:
        row, secret = self.loop.run(
            self.world.secrets.create(ADMIN, "default", "cmc/iot", recoverable=True, **options)
        )
        return row.id, secret.reveal().decode()

    def status(self, holder: Holder) -> str:
        issuer = self.loop.run(self.world.hierarchy.active("default", "devices"))
        number = holder.certificate.serial_number
        state: str = self.loop.run(self.world.status.of(issuer.id, number)).state
        return state


@pytest.fixture
def door(loop: Loop, database: Database, clock: Clock) -> Door:
    world = loop.run(World(database=database, clock=clock).prepare())
    return Door(loop, world)


def by_secret(known: tuple[str, str], request: Any, *more: Any) -> bytes:
    return signed(pki_data([*client.proof(*known, [request]), *more], [request]), no_signature=b"k")


def test_copies_at_once_are_one_certificate(door: Door) -> None:
    key = new_key()
    message = by_secret(door.known(), tcr(1, client.csr(key, name("dev1"))))
    answers = door.at_once(message)
    assert {answer.statuses[0][0] for answer in answers} <= {SUCCESS, client.PENDING}
    serials = {answer.certified(key).serial_number for answer in answers if answer.certificates
               and answer.statuses[0][0] == SUCCESS}  # fmt: skip
    assert len(serials) == 1


def test_a_challenge_is_solved_at_another_process(door: Door) -> None:
    rules = {
        "via": ["cmc"],
        "keys": {"algorithms": ["x25519"]},
        "subject": {"attributes": {"CN": {}}},
        "extensions": {"key_usage": ["key_agreement"]},
    }
    door.loop.run(door.world.objects.put(ADMIN, "default", "profile", "agreeing", rules))
    door.open(profile="agreeing")
    known, key = door.known(), x25519.X25519PrivateKey.generate()
    request = client.crm(1, key, name("dev1"), proof="keyEncipherment")
    challenge = Challenge.of(door.ask(by_secret(known, request)))
    message = by_secret(known, request, challenge.answer(key, 1))
    assert door.ask(message, other=True).certified(key)


def test_a_confirmation_and_a_deadline(door: Door) -> None:
    door.open(options={"confirm": True})
    holders = []
    for _ in range(2):
        key = new_key()
        request = tcr(1, client.csr(key, name("dev1")))
        answer = door.ask(by_secret(door.known(), request))
        assert answer.statuses == [(client.CONFIRM_REQUIRED, (1,), None)]
        holders.append(Holder(answer.certified(key), key))
    kept, lost = holders
    named = client.encode(client.issuer_and_serial(kept.certificate))
    confirmation = signed(pki_data([(5, client.CONFIRM, named)]), kept)
    assert {a.statuses[0][0] for a in door.at_once(confirmation)} == {SUCCESS}
    door.world.clock.advance(seconds=601)
    door.loop.run(door.world.exchanges.attend())
    assert (door.status(kept), door.status(lost)) == ("good", "revoked")


def test_a_passphrase_revokes_what_it_enrolled(door: Door) -> None:
    key, known = new_key(), door.known()
    answer = door.ask(by_secret(known, tcr(1, client.csr(key, name("dev1")))))
    holder = Holder(answer.certified(key), key)
    wrong = (5, client.REVOKE, client.revoke(holder.certificate, 4, passphrase="x" * 32))
    assert door.ask(signed(pki_data([wrong]))).statuses[0][0] == client.FAILED
    assert door.status(holder) == "good"
    right = (5, client.REVOKE, client.revoke(holder.certificate, 4, passphrase=known[1]))
    assert {a.statuses[0][0] for a in door.at_once(signed(pki_data([right])))} == {SUCCESS}
    assert door.status(holder) == "revoked"
