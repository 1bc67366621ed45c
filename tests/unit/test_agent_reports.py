"""Agents' reports at the appliance: who may say what of which certificate, and what is answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import drive
from tests.unit.ca_bench import ADMIN, name
from tests.unit.est_world import Session, World, body_of, make_csr
from tmad.ca import renewing
from tmad.ca.agents import Agents
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant
from tmad.protocols.agent import codec
from tmad.protocols.agent.responder import AgentResponder
from tmad.storage import certificates
from tmad.wire.http import Request, Response

ID = "0123456789abcdef"
REPORT = {
    "id": ID,
    "host": "web1",
    "label": "www",
    "version": "1.0",
    "source": "est",
    "state": "good",
    "served": "same",
    "error": "",
    "renew_at": "2027-01-01T00:00:00Z",
}


class Appliance:
    """One with a certificate for alice, and the door that agents report to."""

    def __init__(self) -> None:
        self.world = World()
        b = self.bench = self.world.bench
        self.agents = Agents(
            database=b.database,
            journal=b.journal,
            hierarchy=b.hierarchy,
            status=b.status,
            endpoints=b.endpoints,
            objects=b.objects,
            now=b.clock,
        )
        services: Any = SimpleNamespace(agents=self.agents)
        self.responder = AgentResponder(services)
        self.certificate = self.world.enrolled(body_of(make_csr("alice")))

    def ask(
        self,
        report: Any = REPORT,
        *,
        shown: x509.Certificate | str | None = "own",
        tail: bytes = b"/report",
        content_type: str = "application/json",
    ) -> Response:
        certificate = self.certificate if shown == "own" else shown
        der = () if certificate is None else (certificate.public_bytes(Encoding.DER),)  # type: ignore[union-attr]
        body = report if isinstance(report, bytes) else json.dumps(report).encode()
        return drive(
            self.responder.respond(
                Request(
                    method="POST",
                    path=b"/agent" + tail,
                    tail=tail,
                    headers={"content-type": content_type},
                    body=body,
                    peer="192.0.2.9",
                    secure=True,
                    tls=Session(der),
                )
            )
        )

    def row_of(self, **changes: Any) -> certificates.CertificateRow:
        """Return the certificate's row with other values."""
        digest = self.certificate.fingerprint(hashes.SHA256())
        found = drive(self.bench.database.read(certificates.by_sha256, "default", digest))
        assert found is not None
        return found._replace(**changes)

    def rows(self, **how: Any) -> Any:
        return drive(self.agents.list(ADMIN, "default", **how))


@pytest.fixture(scope="module")
def appliance() -> Appliance:
    return Appliance()


@pytest.fixture(autouse=True)
def _fresh(appliance: Appliance) -> None:
    for row in appliance.rows():
        drive(appliance.agents.forget(ADMIN, "default", row.id))


def test_a_report_is_kept_and_answered(appliance: Appliance) -> None:
    answer = appliance.ask()
    assert (answer.status, answer.content_type) == (200, "application/json")
    said = json.loads(answer.body)
    own = appliance.certificate
    life = own.not_valid_after_utc - own.not_valid_before_utc
    start, end = (datetime.fromisoformat(said["window"][k]) for k in ("start", "end"))
    assert said["status"] == "good"
    assert own.not_valid_after_utc - life / 3 - timedelta(seconds=1) <= start < end
    assert end < own.not_valid_after_utc
    (row,) = appliance.rows()
    assert (row.host, row.label, row.state, row.served) == ("web1", "www", "good", "same")
    assert row.renew_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert row.owner == "person:alice"
    events = appliance.bench.events("agent.registered")
    assert events[-1].object == f"agent:{ID}"


def test_only_a_change_of_state_is_journaled(appliance: Appliance) -> None:
    appliance.ask()
    before = len(appliance.bench.events("agent.changed"))
    appliance.ask()
    appliance.ask({**REPORT, "state": "failing", "error": "no"})
    appliance.ask({**REPORT, "state": "failing", "error": "no again"})
    appliance.ask()
    events = appliance.bench.events("agent.changed")[before:]
    found = [json.loads(event.data) for event in events]
    assert [(data["was"], data["state"]) for data in found] == [
        ("good", "failing"),
        ("failing", "good"),
    ]


def test_lists_by_state_and_silence(appliance: Appliance) -> None:
    appliance.ask()
    appliance.ask({**REPORT, "id": "f" * 16, "state": "failing"})
    assert [row.id for row in appliance.rows(state="failing")] == ["f" * 16]
    assert appliance.rows(silent_for=timedelta(days=1)) == ()
    appliance.bench.clock.advance(days=2)
    appliance.ask()
    assert [row.id for row in appliance.rows(silent_for=timedelta(days=1))] == ["f" * 16]
    assert [row.id for row in appliance.rows(after=ID)] == ["f" * 16]


@pytest.mark.parametrize("tail", [b"", b"/", b"/report/x", b"/../report", b"/window"])
def test_there_is_nothing_else(appliance: Appliance, tail: bytes) -> None:
    assert appliance.ask(tail=tail).status == 404


def test_without_a_certificate_or_with_a_strangers(appliance: Appliance) -> None:
    assert appliance.ask(shown=None).status == 403
    key = ec.generate_private_key(ec.SECP256R1())
    now = appliance.bench.clock()

    def forged(issuer: x509.Name, serial: int) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(appliance.certificate.subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )

    own = appliance.certificate
    for shown in (forged(name("Nobody"), 7), forged(own.issuer, own.serial_number)):
        answer = appliance.ask(shown=shown)
        assert (answer.status, answer.body) == (
            403,
            b"the client certificate was not issued here\n",
        )
    assert appliance.rows() == ()


def test_other_bodies_and_types(appliance: Appliance) -> None:
    assert appliance.ask(content_type="text/plain").status == 415
    for body in (b"", b"[]", b"{", b"\xff", b'{"id":1}', b"{}" * 5000, b'{"id":"a","id":"b"}'):
        assert appliance.ask(body).status == 400
    for spoiled in (
        {"id": "0123"},
        {"id": "0123456789ABCDEF"},
        {"host": "x" * 254},
        {"host": "a\nb"},
        {"host": 7},
        {"state": "dancing"},
        {"source": "smoke"},
        {"served": None},
        {"error": "x" * 501},
        {"renew_at": "tomorrow"},
        {"renew_at": "2027-01-01T00:00:00"},
        {"renew_at": "9999-12-31T23:59:59-23:00"},
    ):
        answer = appliance.ask({**REPORT, **spoiled})
        assert answer.status == 400, spoiled
        assert b"the report cannot be read" in answer.body
    assert appliance.rows() == ()


def test_a_newer_agent_may_say_more(appliance: Appliance) -> None:
    assert appliance.ask({**REPORT, "mood": "fine"}).status == 200


def test_an_id_belongs_to_a_subject(appliance: Appliance) -> None:
    """Whoever has another certificate cannot speak in the name of this agent."""
    appliance.ask()
    b = appliance.bench
    drive(b.accounts.person("bob", "correct horse battery", mail="bob@example.test"))
    other = appliance.world.enrolled(body_of(make_csr("bob")), user="bob")
    answer = appliance.ask({**REPORT, "host": "evil"}, shown=other)
    assert answer.status == 409
    (row,) = appliance.rows()
    assert row.host == "web1"
    refusals = [e for e in b.events("request.refused") if '"agent.other"' in e.data]
    assert refusals[-1].object == f"agent:{ID}"
    # A successor of the certificate may.
    renewed = appliance.world.enrolled(body_of(make_csr("alice")))
    assert appliance.ask({**REPORT, "host": "web2"}, shown=renewed).status == 200


def test_a_certificate_fills_no_table(appliance: Appliance) -> None:
    for number in range(64):
        assert appliance.ask({**REPORT, "id": f"{number:016x}"}).status == 200
    answer = appliance.ask({**REPORT, "id": "e" * 16})
    assert answer.status == 409
    assert b"tmad agent forget" in answer.body
    assert appliance.ask({**REPORT, "id": f"{3:016x}"}).status == 200
    assert len(appliance.rows(limit=1000)) == 64


def test_what_is_not_good_any_more_hears_it_and_says_nothing(appliance: Appliance) -> None:
    b = appliance.bench

    def status(shown: x509.Certificate) -> str:
        answer = json.loads(appliance.ask(shown=shown).body)
        assert answer["window"] is None
        assert appliance.rows() == ()
        return str(answer["status"])

    def row_of(certificate: x509.Certificate) -> Any:
        digest = certificate.fingerprint(hashes.SHA256())
        return drive(b.database.lookup(certificates.by_sha256, "default", digest))

    certificate = appliance.world.enrolled(body_of(make_csr("alice")))
    row = row_of(certificate)
    drive(b.revocation.hold(ADMIN, "default", row.issuer_id, row.serial))
    assert status(certificate) == "hold"
    drive(b.revocation.revoke(ADMIN, "default", row.issuer_id, row.serial, 4))
    assert status(certificate) == "revoked"
    drive(b.accounts.people.disable(ADMIN, "default", "alice"))
    assert status(appliance.certificate) == "withdrawn"
    drive(b.accounts.people.enable(ADMIN, "default", "alice"))
    b.clock.advance(days=3_000)
    assert status(appliance.certificate) == "expired"
    b.clock.advance(days=-3_000)


def test_only_who_may_sees_agents_and_only_their_tenants(appliance: Appliance) -> None:
    appliance.ask()
    reader = Actor("person:x", (Grant("auditor", "default"),))
    elsewhere = Actor("person:x", (Grant("administrator", "other"),))
    assert drive(appliance.agents.show(reader, "default", ID)).id == ID
    for actor, tenant, code in (
        (elsewhere, "default", FaultCode.NOT_FOUND),
        (Actor("nobody"), "default", FaultCode.NOT_FOUND),
        (ADMIN, "other", FaultCode.NOT_FOUND),
    ):
        with pytest.raises(Fault) as caught:
            drive(appliance.agents.show(actor, tenant, ID))
        assert caught.value.code is code
    with pytest.raises(Fault) as caught:
        drive(appliance.agents.forget(reader, "default", ID))
    assert caught.value.code is FaultCode.FORBIDDEN
    drive(appliance.agents.forget(ADMIN, "default", ID, dry_run=True))
    assert len(appliance.rows()) == 1


def test_the_window_is_where_the_endpoint_renews(appliance: Appliance) -> None:
    begin = datetime(2027, 1, 1, tzinfo=UTC)
    end = begin + timedelta(days=90)
    row = appliance.row_of(not_before=begin, not_after=end)
    start, stop = drive(renewing.window(appliance.bench.objects, row, None))
    assert start == begin + timedelta(days=60)
    assert stop == start + timedelta(days=7.5)
    start, stop = drive(renewing.window(appliance.bench.objects, row, 2))
    assert start == end - timedelta(days=2)
    assert stop == start + timedelta(hours=12)
    gone = row._replace(profile="gone")
    assert drive(renewing.window(appliance.bench.objects, gone, 2)) == (start, stop)


def test_every_fault_has_a_status() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
