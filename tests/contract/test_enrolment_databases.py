"""Shared secrets, people and holders on both databases: races between processes."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.ca_bench import ADMIN, Bench, asked
from tmad.ca.pipeline import Authority
from tmad.ca.requests import EndpointID, Intent, Issued, Password, Pending, SharedKey
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.storage import tables
from tmad.storage.database import Database

DOOR = EndpointID("cmp", "devices")


@pytest.fixture
def b(loop: Loop, database: Database, clock: Clock) -> Bench:
    made = loop.run(Bench(database=database, clock=clock).prepare())
    loop.run(
        made.open(
            "cmp",
            "devices",
            authenticate=["challenge", "password"],
            challenge={"recoverable": True},
            people={"names": "any"},
        )
    )
    return made


def other_process(b: Bench) -> Authority:
    return Authority(
        database=b.database,
        journal=b.journal,
        keyring=b.keyring,
        objects=b.objects,
        endpoints=b.endpoints,
        hierarchy=b.hierarchy,
        secrets=b.secrets,
        logins=b.accounts.logins,
        now=b.clock,
    )


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    return [result.value if isinstance(result, Failure) else result for _, result in done]


def issued(loop: Loop, b: Bench) -> int:
    table = tables.certificates
    query = sa.select(sa.func.count()).where(table.c.via == "cmp", table.c.state == "issued")
    return int(loop.run(b.database.read(lambda c: c.execute(query).scalar_one())))


def test_one_shared_secret_in_two_processes_yields_one_certificate(loop: Loop, b: Bench) -> None:
    row, secret = loop.run(b.secrets.create(ADMIN, "default", str(DOOR), recoverable=True))
    key = SharedKey(row.id.encode(), lambda s: hmac.compare_digest(s.reveal(), secret.reveal()))
    wishes = [
        asked(via="cmp", endpoint=DOOR, credential=key, transaction=f"t{number}")
        for number in range(16)
    ]
    doors = (b.authority, other_process(b)) * 8
    outcomes = at_once(loop, *(d.enroll(w) for d, w in zip(doors, wishes, strict=True)))
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert {fault.code for fault in faults} == {FaultCode.UNAUTHENTICATED}
    assert issued(loop, b) == 1


def test_copies_of_a_request_with_a_password_yield_one_certificate(loop: Loop, b: Bench) -> None:
    loop.run(b.accounts.person("alice", "correct horse battery"))
    request = asked(
        via="cmp",
        endpoint=DOOR,
        credential=Password("alice", Secret("correct horse battery")),
        evidence=b"csr",
    )
    doors = (b.authority, other_process(b)) * 4
    outcomes = at_once(loop, *(door.enroll(request) for door in doors))
    # Whoever came between the two commits is told to come again.
    assert {type(outcome) for outcome in outcomes} <= {Issued, Pending}, outcomes
    assert issued(loop, b) == 1


def test_a_person_renews_and_a_holder_revokes(loop: Loop, b: Bench) -> None:
    loop.run(b.accounts.person("alice", "correct horse battery"))
    request = asked(
        via="cmp",
        endpoint=DOOR,
        credential=Password("alice", Secret("correct horse battery")),
    )
    first = loop.run(b.authority.enroll(request))
    renewal = asked(
        via="cmp",
        endpoint=DOOR,
        credential=request.credential,
        intent=Intent.RENEW,
        transaction="again",
    )
    second = loop.run(b.authority.enroll(renewal))
    assert isinstance(first, Issued)
    assert isinstance(second, Issued)
    endpoint = loop.run(b.endpoints.by_id(DOOR))
    own = second.certificate
    effect = loop.run(
        b.revocation.revoke_by_holder(
            endpoint, own, own.issuer.public_bytes(), own.serial_number, 4
        )
    )
    assert effect.certificate_id == second.certificate_id
    assert loop.run(b.status.of(second.issuer_id, own.serial_number)).state == "revoked"
    good = loop.run(b.status.of(first.issuer_id, first.certificate.serial_number))
    assert good.state == "good"
