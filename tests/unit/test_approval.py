"""Requests that wait, and what a person may decide about them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import drive
from tests.unit.ca_bench import ADMIN, ROUTERS, Bench, asked, bench
from tests.unit.test_pipeline import gated, refused, rows
from tmad.ca.approval import Requests
from tmad.ca.requests import EndpointID, Intent, Issued, Password, Pending, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor, Grant
from tmad.storage import requests, tables

APPROVER = Actor("person:anna", (Grant("approver", "default"),))
AUDITOR = Actor("person:otto", (Grant("auditor", "default"),))


def waiting(**endpoint) -> tuple[Bench, Requests, object, str]:
    """Return a bench with one request that waits."""
    b = bench(**(endpoint or {"authenticate": ["manual"]}))
    decide = Requests(
        database=b.database,
        journal=b.journal,
        authority=b.authority,
        secrets=b.secrets,
        now=b.clock,
    )
    secret = drive(b.secret()) if "approval" in endpoint else None
    wish = x509.Extension(
        x509.ObjectIdentifier("1.2.3.4"),
        False,
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    )
    request = asked(secret=secret, evidence=b"csr", wanted=(wish,))
    pending = drive(b.authority.enroll(request))
    assert isinstance(pending, Pending)
    return b, decide, request, pending.request_id


def test_an_approved_request_is_issued_at_once_and_polled():
    b, decide, request, request_id = waiting()
    outcome = drive(decide.approve(APPROVER, "default", request_id))
    assert isinstance(outcome, Issued)
    polled = drive(b.authority.poll(ROUTERS, request.transaction, request.public_key))
    assert polled.certificate == outcome.certificate
    assert polled.certificate.subject == request.subject
    san = polled.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(san.value) == list(request.names)
    assert b.events("request.approved")[-1].actor == "person:anna"
    assert b.events("certificate.issued")[-1].actor == "person:anna"
    assert drive(b.authority.enroll(request)).certificate == outcome.certificate


def test_what_was_asked_survives_the_row():
    _, decide, request, request_id = waiting()
    found = drive(decide.show(APPROVER, "default", request_id)).request
    assert found.subject == request.subject
    assert found.names == request.names
    assert found.public_key == request.public_key
    assert [wish.oid for wish in found.wanted] == [wish.oid for wish in request.wanted]
    assert (found.proof, found.via, found.transaction) == ("csr-signature", "scep", "tx-1")


def test_a_denied_request_is_told_so_with_the_comment():
    b, decide, request, request_id = waiting()
    drive(decide.deny(APPROVER, "default", request_id, comment="use your own name"))
    for again in (
        b.authority.poll(ROUTERS, request.transaction, request.public_key),
        b.authority.enroll(request),
    ):
        fault = refused(again)
        assert fault.code is FaultCode.REJECTED
        assert "use your own name" in fault.detail
    assert refused(decide.approve(APPROVER, "default", request_id)).code is FaultCode.CONFLICT


def test_a_denial_gives_the_secret_back():
    b, decide, request, request_id = waiting(approval="manual")
    drive(decide.deny(APPROVER, "default", request_id))
    again = replace(request, transaction="tx-2", evidence=b"other")
    assert isinstance(drive(b.authority.enroll(again)), Pending)


def test_a_waiting_request_keeps_its_secret():
    b, _, request, _ = waiting(approval="manual")
    other = replace(
        request,
        transaction="tx-2",
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
    )
    assert refused(b.authority.enroll(other)).code is FaultCode.UNAUTHENTICATED


def test_nobody_approves_his_own_request():
    b, decide, _, request_id = waiting()

    def mine(connection):
        connection.execute(tables.requests.update().values(applicant="person:anna"))

    drive(b.database.write(mine))
    for decision in (decide.approve, decide.deny):
        fault = refused(decision(APPROVER, "default", request_id))
        assert fault.rule == "request.self-approval"
    assert rows(b, tables.requests)[0].state == "pending"


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_an_auditor_decides_nothing(verb):
    _, decide, _, request_id = waiting()
    fault = refused(getattr(decide, verb)(AUDITOR, "default", request_id))
    assert fault.code is FaultCode.FORBIDDEN
    assert drive(decide.list(AUDITOR, "default"))[0].id == request_id


def test_another_tenants_request_is_not_found():
    b, decide, _, request_id = waiting()
    drive(b.objects.put(ADMIN, "*", "tenant", "other", {}))
    stranger = Actor("person:eve", (Grant("administrator", "other"),))
    assert refused(decide.show(stranger, "other", request_id)).code is FaultCode.NOT_FOUND
    assert refused(decide.show(stranger, "default", request_id)).code is FaultCode.NOT_FOUND
    assert drive(decide.list(stranger, "other")) == ()


def test_approval_follows_the_profile_of_today():
    b, decide, _, request_id = waiting()
    stored = drive(b.objects.load("default", "profile", "device"))
    document = stored.document.model_dump(mode="json")
    document["names"]["dns"] = None
    drive(b.objects.put(ADMIN, "default", "profile", "device", document))
    fault = refused(decide.approve(APPROVER, "default", request_id))
    assert fault.rule == "profile.names.dns"
    assert rows(b, tables.requests)[0].state == "pending"
    assert b.events("request.refused")[-1].trace == fault.explain_id


def test_an_approval_follows_the_authority_of_today():
    b, decide, _, request_id = waiting()
    drive(b.objects.put(ADMIN, "default", "authority", "devices", {"profiles": ["user"]}))
    fault = refused(decide.approve(APPROVER, "default", request_id))
    assert fault.rule == "authority.profile"


def test_a_secret_that_was_revoked_meanwhile_is_not_enough():
    b, decide, _, request_id = waiting(approval="manual")
    b.clock.advance(days=3)  # it may have expired while the request waited
    [secret] = drive(b.secrets.list(ADMIN, "default"))
    drive(b.secrets.revoke(ADMIN, "default", secret.id))
    fault = refused(decide.approve(APPROVER, "default", request_id))
    assert fault.rule == "secret.revoked"


def test_who_was_disabled_meanwhile_gets_nothing():
    b, decide, _, _ = waiting()
    drive(b.open("est", "people", profile="user", authenticate=["password"], approval="manual"))
    drive(b.accounts.person("alice", "correct horse battery"))
    pending = drive(
        b.authority.enroll(
            asked(
                via="est",
                endpoint=EndpointID("est", "people"),
                names=(),
                common="alice",
                credential=Password("alice", Secret("correct horse battery")),
            )
        )
    )
    drive(b.accounts.people.disable(ADMIN, "default", "alice"))
    fault = refused(decide.approve(APPROVER, "default", pending.request_id))
    assert fault.rule == "applicant.owner"
    drive(b.accounts.people.enable(ADMIN, "default", "alice"))
    assert isinstance(drive(decide.approve(APPROVER, "default", pending.request_id)), Issued)


def test_a_certificate_that_was_revoked_meanwhile_is_not_renewed():
    b, decide, _, first = waiting()
    old = drive(decide.approve(APPROVER, "default", first))
    profile = drive(b.objects.load("default", "profile", "device")).document
    manual = profile.model_copy(update={"approval": "manual"})
    drive(b.objects.put(ADMIN, "default", "profile", "device", manual))
    renewal = asked(credential=SignedBy(old.certificate), intent=Intent.RENEW, transaction="renew")
    pending = drive(b.authority.enroll(renewal))
    drive(b.revocation.revoke_by_id(ADMIN, "default", old.certificate_id, 0))
    fault = refused(decide.approve(APPROVER, "default", pending.request_id))
    assert fault.rule == "renewal.revoked"


def test_a_dry_run_of_an_approval_changes_nothing():
    b, decide, request, request_id = waiting()
    shown = drive(decide.approve(APPROVER, "default", request_id, dry_run=True))
    assert shown.certificate.subject == request.subject
    assert shown.certificate.signature == b""
    assert rows(b, tables.requests)[0].state == "pending"


def test_a_failed_signature_lets_the_request_wait_again():
    b, decide, _, request_id = waiting(approval="manual")
    gate = gated(b)

    def fail():
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    gate.before = fail
    assert refused(decide.approve(APPROVER, "default", request_id)).detail == "the token is gone"
    gate.before = None
    assert isinstance(drive(decide.approve(APPROVER, "default", request_id)), Issued)


def test_requests_that_nobody_decides_about_expire():
    b, decide, request, request_id = waiting()
    assert drive(decide.expire_due()) == 0
    b.clock.advance(days=15)
    assert refused(decide.approve(APPROVER, "default", request_id)).code is FaultCode.CONFLICT
    assert drive(decide.expire_due()) == 1
    fault = refused(b.authority.poll(ROUTERS, request.transaction, request.public_key))
    assert "in time" in fault.detail


def test_a_comment_is_kept_and_journaled():
    b, decide, _, request_id = waiting()
    row = drive(decide.comment(APPROVER, "default", request_id, "asked by telephone"))
    assert row.comment == "asked by telephone"
    assert b.events("request.commented")[-1].object == f"request/{request_id}"
    assert refused(decide.comment(APPROVER, "default", request_id, "x" * 1001))


def test_pages_of_requests_do_not_overlap():
    b, decide, _, _ = waiting()
    for number in range(5):
        drive(b.authority.enroll(asked(transaction=f"t{number}", common=f"r{number}")))
        b.clock.advance(seconds=1)
    seen = []
    page = drive(decide.list(APPROVER, "default", limit=2))
    while page:
        seen += [row.id for row in page]
        page = drive(decide.list(APPROVER, "default", after=seen[-1], limit=2))
    assert len(seen) == len(set(seen)) == 6
    assert seen == sorted(seen)


def test_two_people_cannot_both_decide():
    b, decide, _, request_id = waiting()
    row = drive(b.database.read(requests.by_id, "default", request_id))
    drive(decide.deny(APPROVER, "default", request_id))
    fault = refused(b.authority.issue_pending(APPROVER, row))
    assert fault.rule == "request.state"
