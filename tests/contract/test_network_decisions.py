"""Decisions on both databases, with another process that changes what they stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.hierarchy_world import ADMIN
from tests.network_world import NetworkWorld, a_visit
from tests.pki import Authority
from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.network.logins import Admitted, TLSLogin
from tmad.storage import devices, tables
from tmad.storage import network as rows
from tmad.storage.database import Database

LOGIN = TLSLogin(
    method="eap-tls", version="TLSv1.3", cipher="AES", resumed=True, outer_identity="anonymous"
)


@pytest.fixture
def worlds(
    open_database: Callable[..., Database], clock: Clock
) -> tuple[NetworkWorld, NetworkWorld]:
    """Two processes on one database: the second shares nothing with the first but that."""
    first = NetworkWorld(database=open_database(reactor=None), clock=clock).prepare()
    first.policy()
    second = NetworkWorld(first, database=open_database(reactor=None), holder="two")
    return first, second


def test_a_revocation_committed_by_another_process_holds_for_the_next_login(
    worlds: tuple[NetworkWorld, NetworkWorld],
) -> None:
    here, there = worlds
    certificate = here.issue()
    here.login(certificate)
    there.hold(certificate)
    assert here.refused(certificate, resumed=True).rule == "network.held"
    there.release(certificate)
    here.login(certificate)
    there.revoke(certificate)
    assert here.refused(certificate, resumed=True).rule == "network.revoked"


def test_people_and_devices_of_another_process(worlds: tuple[NetworkWorld, NetworkWorld]) -> None:
    here, there = worlds
    here.person("alice", groups=("engineering",), mail="alice@example.test")
    here.device("laptop-7.example.test", mac="020000000001")
    certificate = here.issue(owner="person:alice")
    assert here.login(certificate).person == "alice"
    there.change_person("alice", disabled_at=there.clock())
    assert here.refused(certificate).rule == "network.owner-disabled"
    there.change_person("alice", disabled_at=None, valid_until=there.clock() - timedelta(1))
    assert here.refused(certificate).rule == "network.owner-expired"
    there.change_person("alice", valid_until=None)
    here.login(certificate)
    drive(there.database.write(_block))
    assert here.refused(certificate).rule == "network.device-blocked"


def _block(connection: sa.Connection) -> None:
    row = devices.by_name(connection, "default", "laptop-7.example.test")
    assert row is not None
    devices.update(connection, replace(row, blocked_at=row.created_at))


def test_policies_and_authorities_of_another_process(
    worlds: tuple[NetworkWorld, NetworkWorld],
) -> None:
    here, there = worlds
    certificate = here.issue()
    here.login(certificate)
    there.policy({"name": "no", "then": "reject"})
    assert here.refused(certificate).rule == "network.rejected"
    there.policy()
    here.login(certificate)
    sub = drive(there.hierarchy.active("default", "issuing")).certificate
    assert sub is not None
    there.hold(sub)
    assert here.refused(certificate).rule == "network.issuer-revoked"
    there.release(sub)
    here.login(certificate)
    drive(there.ceremony.compromise(ADMIN, "default", "issuing"))
    assert here.refused(certificate).rule == "network.issuer-compromised"


def test_a_crl_of_another_process(
    worlds: tuple[NetworkWorld, NetworkWorld], tmp_path: Path
) -> None:
    here, there = worlds
    partner = Authority(tmp_path, "Partner CA")
    device = partner.issue("guest.test").certificate
    here.clock.time = device.not_valid_before_utc + timedelta(hours=2)
    here.anchor("partner", certificates=partner.path.read_text())
    assert here.refused(device).rule == "network.crl-missing"
    crl = partner.crl(begins=here.clock())
    drive(there.anchors.refresh(ADMIN, "default", "partner", crl=crl))
    assert here.login(device).anchor == "partner"
    here.later(minutes=1)
    crl = partner.crl([device.serial_number], begins=here.clock())
    drive(there.anchors.refresh(ADMIN, "default", "partner", crl=crl))
    assert here.refused(device).rule == "network.revoked"


def test_the_session_and_its_record_are_one_transaction(
    worlds: tuple[NetworkWorld, NetworkWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = worlds
    certificate = here.issue()

    def broken(*arguments: object) -> None:
        raise Fault(FaultCode.INTERNAL, "it breaks here", rule="test.broken")

    monkeypatch.setattr(here.journal, "append", broken)
    with pytest.raises(Fault):
        here.login(certificate)
    monkeypatch.undo()
    assert here.count(tables.radius_sessions) == 0


def test_a_revocation_between_question_and_record_is_seen(
    worlds: tuple[NetworkWorld, NetworkWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = worlds
    certificate = here.issue()
    decide = here.admission._rulings.answer

    async def slowly(*arguments: object) -> Admitted:
        admitted = await decide(*arguments)  # type: ignore[arg-type]  # passed on
        if here.count(tables.certificates, reason=0, state="issued") == 0:
            there.revoke(certificate)
        return admitted

    monkeypatch.setattr(here.admission._rulings, "answer", slowly)
    assert here.refused(certificate).rule == "network.revoked"
    assert here.count(tables.radius_sessions) == 0


def test_what_the_point_reads_return(worlds: tuple[NetworkWorld, NetworkWorld]) -> None:
    here, _ = worlds
    here.person("alice", mail="a@example.test", groups=("b", "a"), disabled_at=here.clock())
    here.person("nobody")
    here.device("box", mac="0a0b0c0d0e0f", owner="alice", blocked_at=here.clock())
    certificate = here.issue()

    def read(connection: sa.Connection) -> tuple[rows.Principals, rows.Principals]:
        return (
            rows.principals(connection, "default", ("alice",), (), (), "0a0b0c0d0e0f"),
            rows.principals(connection, "default", (), ("a@example.test",), ("box",), ""),
        )

    by_name, by_mail = drive(here.database.lookup(read))
    assert by_name == by_mail
    [person], [device] = by_name
    assert (person.name, person.groups, person.disabled_at) == ("alice", ("a", "b"), here.clock())
    assert (device.owner_is_known, device.owner_disabled_at) == (True, here.clock())
    assert device.blocked_at == here.clock()
    empty = drive(here.database.lookup(rows.principals, "default", (), (), (), ""))
    assert empty == rows.Principals((), ())
    other = drive(here.database.lookup(rows.principals, "other", ("alice",), (), ("box",), ""))
    assert other == rows.Principals((), ())
    digest = certificate.fingerprint(hashes.SHA256())
    found = drive(here.database.lookup(rows.by_sha256, "default", digest))
    assert found is not None
    assert (found.state, found.profile, found.authority) == ("issued", "wifi-client", "issuing")
    assert drive(here.database.lookup(rows.by_sha256, "other", digest)) is None


def test_under_a_reactor_many_logins_share_commits(
    loop: Loop, open_database: Callable[..., Database], worlds: tuple[NetworkWorld, NetworkWorld]
) -> None:
    here, _ = worlds
    certificate = here.issue()
    # A process whose commits happen in a thread, as in the daemon.
    running = NetworkWorld(here, database=open_database(), holder="three")
    logins = [
        ensureDeferred(
            running.admission.certificate(
                a_visit(calling_station=f"0200000000{number:02x}"), (certificate,), LOGIN
            )
        )
        for number in range(20)
    ]
    done = loop.run(DeferredList(logins, consumeErrors=True), 60.0)
    assert all(success for success, _ in done)
    assert len({admitted.session for _, admitted in done}) == 20
    assert here.count(tables.radius_sessions) == 20
