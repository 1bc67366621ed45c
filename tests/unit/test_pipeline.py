"""The pipeline, step by step: who gets what, who does not, and what is recorded of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from gmpy2 import next_prime
from twisted.internet.defer import Deferred, ensureDeferred

from tests.support import drive
from tests.unit.ca_bench import ADMIN, ROUTERS, asked, bench, name
from tmad.ca.pipeline import Authority
from tmad.ca.requests import (
    Challenge,
    EndpointID,
    Intent,
    Issued,
    NoCredential,
    Operator,
    Pending,
    Proof,
    SignedBy,
)
from tmad.ca.writing import Constraints
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.binding import Binding
from tmad.signer.keyring import KeyAlgorithm
from tmad.storage import certificates, tables


def refused(coroutine) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def rows(b, table):
    def read(connection):
        return connection.execute(sa.select(table)).all()

    return drive(b.database.read(read))


def issued_count(b, via="scep"):
    return sum(row.via == via and row.state == "issued" for row in rows(b, tables.certificates))


class Gate:
    """A keyring whose signatures wait until the gate is opened, or fail."""

    def __init__(self, keyring) -> None:
        self.keyring = keyring
        self.waiting: list[Deferred[None]] = []
        self.before = None
        self.closed = False

    async def use(self, key_id, operation):
        if self.before is not None:
            self.before()
        if self.closed:
            turn: Deferred[None] = Deferred()
            self.waiting.append(turn)
            await turn
        return await self.keyring.use(key_id, operation)

    def open(self) -> None:
        self.closed = False
        for turn in self.waiting:
            turn.callback(None)


def gated(b) -> Gate:
    """Put a gate before the bench's key."""
    gate = Gate(b.keyring)
    b.authority._issuing._keyring = gate
    return gate


def start(coroutine) -> list:
    """Begin a coroutine; the list gets its result or Failure."""
    results: list = []
    ensureDeferred(coroutine).addBoth(results.append)
    return results


def self_signed(key, subject=None) -> x509.Certificate:
    subject = subject or name("r1.example.test")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .serial_number(7)
        .public_key(key.public_key())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2030, 1, 1))
        .sign(key, hashes.SHA256())
    )


# -- the straight road ------------------------------------------------------------------------


def test_a_challenge_gets_a_certificate():
    b = bench()
    request = asked(secret=drive(b.secret()))
    outcome = drive(b.authority.enroll(request))
    assert isinstance(outcome, Issued)
    assert not outcome.replayed
    certificate = outcome.certificate
    issuer = drive(b.hierarchy.active("default", "devices"))
    certificate.verify_directly_issued_by(issuer.certificate)
    assert drive(b.status.of(outcome.issuer_id, certificate.serial_number)).state == "good"
    intended, issued = b.events("certificate.intended")[-1], b.events("certificate.issued")[-1]
    assert intended.object == issued.object == f"certificate/{outcome.certificate_id}"
    stored = rows(b, tables.certificates)[-1]
    assert stored.certificate_der == certificate.public_bytes(Encoding.DER)
    assert stored.profile == "device"
    assert stored.profile_revision == 1
    assert stored.tbs_der is None
    found = drive(
        b.database.read(
            lambda c: certificates.find_by_name(c, "default", "R1.example.test", after=0, limit=10)
        )
    )
    assert [row.id for row in found] == [outcome.certificate_id]


def test_scep_44_the_subject_keeps_its_octets():
    b = bench()
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "r1", _type=_PRINTABLE),
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "NL"),
        ]
    )
    outcome = drive(b.authority.enroll(asked(secret=drive(b.secret()), subject=subject)))
    assert outcome.certificate.subject.public_bytes() == subject.public_bytes()


_PRINTABLE = x509.name._ASN1Type.PrintableString


@pytest.mark.parametrize("algorithm", list(KeyAlgorithm), ids=str)
def test_every_kind_of_authority_issues(algorithm):
    b = bench(algorithm=algorithm)
    outcome = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    issuer = drive(b.hierarchy.active("default", "devices"))
    outcome.certificate.verify_directly_issued_by(issuer.certificate)


def test_gen_23_serial_and_tbs_are_committed_before_the_key_is_used():
    b = bench()
    gate = gated(b)
    seen = []
    gate.before = lambda: seen.append(rows(b, tables.certificates)[-1])
    outcome = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    assert seen[0].state == "intent"
    assert seen[0].certificate_der is None
    assert int.from_bytes(seen[0].serial) == outcome.certificate.serial_number
    tbs = outcome.certificate.tbs_certificate_bytes
    assert seen[0].tbs_der == tbs
    assert seen[0].tbs_sha256 == hashlib.sha256(tbs).digest()


# -- 0 record ---------------------------------------------------------------------------------


def test_gen_24_a_retransmission_gets_the_same_certificate():
    b = bench()
    request = asked(secret=drive(b.secret()), evidence=b"csr")
    first = drive(b.authority.enroll(request))
    again = drive(b.authority.enroll(request))
    assert again.replayed
    assert again.certificate == first.certificate
    assert again.request_id == first.request_id
    assert issued_count(b) == 1


def test_scep_45_the_same_transaction_with_another_csr_is_a_new_request():
    b = bench()
    key = ec.generate_private_key(ec.SECP256R1())
    first = drive(b.authority.enroll(asked(key=key, secret=drive(b.secret()), evidence=b"1")))
    second = drive(b.authority.enroll(asked(key=key, secret=drive(b.secret()), evidence=b"2")))
    assert second.certificate != first.certificate


def test_gen_24_after_the_window_a_copy_is_a_new_request():
    b = bench(idempotency_minutes=10)
    request = asked(secret=drive(b.secret()), evidence=b"csr")
    drive(b.authority.enroll(request))
    b.clock.advance(minutes=11)
    assert refused(b.authority.enroll(request)).rule == "secret.used"
    fresh = replace(request, credential=Challenge(drive(b.secret())))
    assert not drive(b.authority.enroll(fresh)).replayed
    assert issued_count(b) == 2


def test_t_scep_02_fifty_copies_at_once_yield_one_certificate():
    b = bench()
    gate = gated(b)
    gate.closed = True
    request = asked(secret=drive(b.secret()), evidence=b"csr")
    results = [start(b.authority.enroll(request)) for _ in range(50)]
    assert len(gate.waiting) == 1
    gate.open()
    outcomes = [result[0] for result in results]
    assert {outcome.certificate_id for outcome in outcomes} == {outcomes[0].certificate_id}
    assert sum(outcome.replayed for outcome in outcomes) == 49
    assert issued_count(b) == 1


def test_t_scep_02_fifty_requests_with_one_secret_yield_one_certificate():
    b = bench()
    gate = gated(b)
    gate.closed = True
    secret = drive(b.secret())
    results = [
        start(b.authority.enroll(asked(secret=secret, transaction=f"t{n}"))) for n in range(50)
    ]
    gate.open()
    outcomes = [result[0] for result in results]
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    faults = [outcome.value for outcome in outcomes if not isinstance(outcome, Issued)]
    assert {fault.code for fault in faults} == {FaultCode.UNAUTHENTICATED}
    assert {fault.detail for fault in faults} == {"the challenge was not accepted"}
    assert len(b.events("request.refused")) == 49
    assert issued_count(b) == 1


def test_a_copy_in_another_process_waits_and_polls():
    b = bench()
    gate = gated(b)
    gate.closed = True
    request = asked(secret=drive(b.secret()), evidence=b"csr")
    first = start(b.authority.enroll(request))
    other = _second_process(b)
    waits = drive(other.enroll(request))
    assert isinstance(waits, Pending)
    assert waits.retry_after == 1.0
    gate.open()
    polled = drive(other.poll(ROUTERS, request.transaction, request.public_key))
    assert polled.certificate == first[0].certificate


def _second_process(b) -> Authority:
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


# -- 1 authenticate ---------------------------------------------------------------------------


def test_without_a_credential_nobody_gets_in():
    b = bench()
    fault = refused(b.authority.enroll(asked()))
    assert fault.code is FaultCode.UNAUTHENTICATED
    record = b.events("request.refused")[-1]
    assert record.trace == fault.explain_id != ""
    assert drive(b.journal.explain(fault.explain_id))[0].kind == "request.refused"


def test_an_operators_credential_is_no_way_through_a_door():
    b = bench()
    fault = refused(b.authority.enroll(asked(credential=Operator("local:root"))))
    assert fault.code is FaultCode.UNAUTHENTICATED


@pytest.mark.parametrize("rule", ["secret.wrong", "secret.used", "secret.expired"])
def test_a_bad_secret_is_refused_without_telling_why(rule):
    b = bench()
    secret = drive(b.secret())
    if rule == "secret.wrong":
        secret = Secret("wrong")
    elif rule == "secret.used":
        drive(b.authority.enroll(asked(secret=secret)))
    else:
        b.clock.advance(hours=25)
    fault = refused(b.authority.enroll(asked(secret=secret, transaction="tx-2")))
    assert fault.rule == rule
    assert fault.detail == "the challenge was not accepted"
    assert len(b.events("request.refused")) == 1


def test_t_scep_02_a_secret_is_bound_to_names():
    b = bench()
    secret = drive(b.secret(bound_to=Binding(names=("dns:r1.example.test",), subject=())))
    other = asked(
        secret=secret,
        common="vpn.example.test",
        names=(x509.DNSName("vpn.example.test"),),
    )
    fault = refused(b.authority.enroll(other))
    assert fault.code is FaultCode.UNAUTHENTICATED
    assert fault.rule.startswith("secret.binding")
    # The secret is as good as before for what it was made for.
    assert isinstance(drive(b.authority.enroll(asked(secret=secret))), Issued)


def test_scep_43_a_self_signed_signer_must_hold_the_requests_key():
    b = bench()
    key = ec.generate_private_key(ec.SECP256R1())
    secret = drive(b.secret())
    other = self_signed(ec.generate_private_key(ec.SECP256R1()))
    fault = refused(b.authority.enroll(asked(key=key, credential=SignedBy(other, secret))))
    assert fault.code is FaultCode.BAD_PROOF
    own = self_signed(key)
    assert drive(b.authority.enroll(asked(key=key, credential=SignedBy(own, secret))))


def test_a_proof_of_possession_is_asked_for():
    b = bench()
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()), proof=Proof.NONE)))
    assert fault.code is FaultCode.BAD_PROOF


# -- renewal ----------------------------------------------------------------------------------


def renewal(certificate, **options):
    return asked(
        credential=SignedBy(certificate),
        intent=options.pop("intent", Intent.RENEW),
        transaction=options.pop("transaction", "renew"),
        **options,
    )


def test_scep_42_the_holder_renews():
    b = bench()
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    new = drive(b.authority.enroll(renewal(old.certificate)))
    assert new.certificate.subject == old.certificate.subject
    assert new.certificate.public_key() != old.certificate.public_key()
    stored = rows(b, tables.certificates)[-1]
    assert stored.replaces_id == old.certificate_id
    assert stored.owner == f"certificate:{old.certificate_id}"


def test_a_renewal_without_names_keeps_the_old_ones():
    b = bench()
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    new = drive(b.authority.enroll(renewal(old.certificate, names=())))
    san = new.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.DNSName) == ["r1.example.test"]


def test_t_scep_07_a_renewal_for_other_names_is_refused():
    b = bench()
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    for change in (
        {"common": "vpn.example.test"},
        {"names": (x509.DNSName("vpn.example.test"),)},
        {"names": (x509.DNSName("r1.example.test"), x509.DNSName("vpn.example.test"))},
    ):
        fault = refused(b.authority.enroll(renewal(old.certificate, **change)))
        assert fault.rule == "renewal.names"
    assert issued_count(b) == 1


def test_t_scep_07_a_revoked_signer_renews_nothing():
    b = bench()
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    _revoke(b, old.certificate_id, 6)
    fault = refused(b.authority.enroll(renewal(old.certificate)))
    assert fault.rule == "renewal.revoked"


def _revoke(b, certificate_id, reason):
    def revoke(connection):
        connection.execute(
            tables.certificates.update()
            .where(tables.certificates.c.id == certificate_id)
            .values(revoked_at=b.clock(), reason=reason)
        )

    drive(b.database.write(revoke))


def test_t_scep_07_an_expired_signer_renews_within_the_grace_only():
    b = bench(renewal={"grace_days": 7})
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    b.clock.time = old.certificate.not_valid_after_utc + timedelta(days=6)
    assert isinstance(drive(b.authority.enroll(renewal(old.certificate))), Issued)
    b.clock.advance(days=2)
    fault = refused(b.authority.enroll(renewal(old.certificate, transaction="late")))
    assert fault.rule == "renewal.expired"


def test_t_scep_07_a_foreign_signer_renews_nothing():
    b, other = bench(), bench()
    foreign = drive(other.authority.enroll(asked(secret=drive(other.secret()))))
    fault = refused(b.authority.enroll(renewal(foreign.certificate)))
    assert fault.rule == "renewal.foreign"


def test_t_scep_07_a_certificate_of_another_profile_renews_nothing_here():
    b = bench()
    server = drive(
        b.authority.issue(
            ADMIN,
            "default",
            authority="devices",
            profile="tls-server",
            subject=name("r1.example.test"),
            names=(x509.DNSName("r1.example.test"),),
            public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
            proof=Proof.CSR_SIGNATURE,
        )
    )
    fault = refused(b.authority.enroll(renewal(server.certificate)))
    assert fault.rule == "renewal.profile"


def test_scep_42_a_self_signed_signer_renews_nothing():
    b = bench()
    key = ec.generate_private_key(ec.SECP256R1())
    fault = refused(b.authority.enroll(renewal(self_signed(key), key=key)))
    assert fault.rule == "renewal.self-signed"


def test_a_renewal_has_to_wait_for_its_window():
    b = bench(renewal={"window_days": 30})
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    fault = refused(b.authority.enroll(renewal(old.certificate)))
    assert fault.code is FaultCode.REJECTED
    assert fault.rule == "renewal.window"
    b.clock.time = old.certificate.not_valid_after_utc - timedelta(days=29)
    assert isinstance(drive(b.authority.enroll(renewal(old.certificate))), Issued)


def test_scep_42_a_first_enrolment_signed_by_our_certificate_renews_if_allowed():
    b = bench()
    old = drive(b.authority.enroll(asked(secret=drive(b.secret()))))
    apple = renewal(old.certificate, intent=Intent.ENROLL)
    assert drive(b.authority.enroll(apple)).certificate.subject == old.certificate.subject
    strict = bench(renewal={"via_enroll": False})
    old = drive(strict.authority.enroll(asked(secret=drive(strict.secret()))))
    apple = renewal(old.certificate, intent=Intent.ENROLL)
    assert refused(strict.authority.enroll(apple)).code is FaultCode.UNAUTHENTICATED
    both = replace(apple, credential=SignedBy(old.certificate, drive(strict.secret())))
    assert isinstance(drive(strict.authority.enroll(both)), Issued)


def test_a_challenge_does_not_renew():
    b = bench()
    request = asked(secret=drive(b.secret()), intent=Intent.RENEW)
    assert refused(b.authority.enroll(request)).rule == "renewal.signer"


# -- 2 authorise ------------------------------------------------------------------------------


def test_t_scep_03_a_profile_is_reached_by_its_own_roads_only():
    b = bench()
    drive(
        b.objects.put(
            ADMIN,
            "default",
            "endpoint",
            "scep-routers",
            {
                "protocol": "scep",
                "label": "routers",
                "authority": "devices",
                "profile": "timestamping",
            },
        )
    )
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()), names=())))
    assert fault.code is FaultCode.FORBIDDEN
    assert fault.rule == "profile.via"
    assert fault.values["via"] == "scep"


def test_t_scep_03_another_protocol_cannot_use_the_endpoint():
    b = bench()
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()), via="acme")))
    assert fault.rule == "endpoint.protocol"


def test_an_unknown_endpoint_is_not_found():
    b = bench()
    request = asked(secret=Secret("x" * 20), endpoint=EndpointID("scep", "nowhere"))
    assert refused(b.authority.enroll(request)).code is FaultCode.NOT_FOUND


def test_an_endpoint_gives_out_no_more_than_its_daily_limit():
    b = bench(limits={"per_day": 2})
    for n in range(2):
        drive(b.authority.enroll(asked(secret=drive(b.secret()), transaction=f"t{n}")))
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()), transaction="t2")))
    assert fault.code is FaultCode.RATE_LIMITED
    assert fault.retry_after
    b.clock.advance(hours=25)
    again = asked(secret=drive(b.secret()), transaction="t3")
    assert isinstance(drive(b.authority.enroll(again)), Issued)


@pytest.mark.parametrize("state", ["withdrawn", "retired", "pending"])
def test_an_authority_that_is_not_active_issues_nothing(state):
    b = bench()
    request = asked(secret=drive(b.secret()))
    _set_issuer(b, state=state)
    assert refused(b.authority.enroll(request)).code is FaultCode.UNAVAILABLE
    assert issued_count(b) == 0


def test_a_compromised_authority_issues_nothing():
    b = bench()
    request = asked(secret=drive(b.secret()))
    _set_issuer(b, compromised_at=b.clock())
    assert refused(b.authority.enroll(request)).rule == "issuer.state"


def _set_issuer(b, **values):
    def change(connection):
        connection.execute(tables.issuers.update().values(**values))

    drive(b.database.write(change))


def test_an_authority_issues_only_its_profiles():
    b = bench()
    drive(b.objects.put(ADMIN, "default", "authority", "devices", {"profiles": ["tls-server"]}))
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()))))
    assert fault.rule == "authority.profile"


# -- 3 shape: keys ----------------------------------------------------------------------------


def test_key_04_a_compromised_key_is_refused_for_ever_and_everywhere():
    b = bench()
    key = ec.generate_private_key(ec.SECP256R1())
    first = drive(b.authority.enroll(asked(key=key, secret=drive(b.secret()))))
    _revoke(b, first.certificate_id, 1)

    def elsewhere(connection):
        connection.execute(tables.certificates.update().values(tenant="other"))

    drive(b.database.write(elsewhere))
    b.clock.advance(days=4000)
    fault = refused(b.authority.enroll(asked(key=key, secret=_fresh(b), transaction="t2")))
    assert fault.rule == "key.compromised"


def _fresh(b):
    return drive(b.secret())


def test_key_04_our_own_keys_are_nobodys_subject_keys():
    b = bench()
    issuer = drive(b.hierarchy.active("default", "devices"))
    request = replace(asked(secret=_fresh(b)), public_key=issuer.public_key)
    assert refused(b.authority.enroll(request)).rule == "key.own"


def test_key_04_a_key_belongs_to_one_subject():
    b = bench()
    key = ec.generate_private_key(ec.SECP256R1())
    drive(b.authority.enroll(asked(key=key, secret=_fresh(b))))
    same = asked(key=key, secret=_fresh(b), transaction="t2", evidence=b"2")
    assert isinstance(drive(b.authority.enroll(same)), Issued)
    other = asked(key=key, secret=_fresh(b), transaction="t3", common="r2")
    assert refused(b.authority.enroll(other)).rule == "key.duplicate.same-subject"


@pytest.mark.parametrize(("policy", "rule"), [("none", ""), ("warn", ""), ("refuse", "refuse")])
def test_key_04_the_profile_decides_over_a_key_that_is_certified_already(policy, rule):
    b = bench()
    stored = drive(b.objects.load("default", "profile", "device"))
    document = stored.document.model_copy(update={"duplicate_keys": policy})
    drive(b.objects.put(ADMIN, "default", "profile", "device", document))
    key = ec.generate_private_key(ec.SECP256R1())
    drive(b.authority.enroll(asked(key=key, secret=_fresh(b))))
    second = asked(key=key, secret=_fresh(b), transaction="t2", common="r2")
    if rule:
        assert refused(b.authority.enroll(second)).rule == f"key.duplicate.{rule}"
        return
    assert isinstance(drive(b.authority.enroll(second)), Issued)
    warning = "already" in b.events("certificate.intended")[-1].data
    assert warning == (policy == "warn")


def test_a_certificate_records_the_profile_revision_it_was_issued_under():
    b = bench()
    stored = drive(b.objects.load("default", "profile", "device"))
    document = stored.document.model_copy(update={"description": "changed"})
    drive(b.objects.put(ADMIN, "default", "profile", "device", document))
    drive(b.authority.enroll(asked(secret=_fresh(b))))
    assert rows(b, tables.certificates)[-1].profile_revision == 2


# -- 5 issue: failures ------------------------------------------------------------------------


def test_g_fault_nothing_is_issued_when_the_journal_cannot_be_written():
    b = bench()
    request = asked(secret=_fresh(b))
    gate = gated(b)
    used = []
    gate.before = lambda: used.append(1)

    def stop(connection):
        connection.execute(
            sa.text(
                "create trigger stop before insert on journal when new.kind ="
                " 'certificate.intended' begin select raise(abort, 'disk full'); end"
            )
        )

    drive(b.database.write(stop))
    assert refused(b.authority.enroll(request)).code is FaultCode.UNAVAILABLE
    assert used == []
    assert rows(b, tables.requests) == []
    assert issued_count(b) == 0


def test_a_failed_signature_voids_the_intent_and_frees_the_secret():
    b = bench()
    secret = _fresh(b)
    gate = gated(b)

    def fail():
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone", retry_after=5)

    gate.before = fail
    request = asked(secret=secret, evidence=b"csr")
    assert refused(b.authority.enroll(request)).code is FaultCode.UNAVAILABLE
    stored = rows(b, tables.certificates)[-1]
    assert (stored.state, stored.reason) == ("void", 0)
    assert stored.revoked_at is not None
    assert drive(b.status.of(stored.issuer_id, int.from_bytes(stored.serial))).state == "revoked"
    assert b.events("certificate.voided")
    gate.before = None
    assert isinstance(drive(b.authority.enroll(request)), Issued)


def test_a_signature_by_the_wrong_key_never_leaves():
    b = bench()

    class Wrong:
        async def use(self, key_id, operation):
            return operation(ec.generate_private_key(ec.SECP256R1()))

    b.authority._issuing._keyring = Wrong()
    assert refused(b.authority.enroll(asked(secret=_fresh(b)))).code is FaultCode.INTERNAL
    assert rows(b, tables.certificates)[-1].state == "void"


def test_g_loss_1_a_crash_after_the_signature_is_voided_by_recover():
    b = bench()
    request = asked(secret=_fresh(b), evidence=b"csr")
    gate = gated(b)
    gate.closed = True
    forgotten = start(b.authority.enroll(request))  # its process dies here
    assert not forgotten
    assert drive(b.authority.recover()) == 0, "it may still be alive"
    b.clock.advance(minutes=3)
    other = _second_process(b)
    assert drive(other.recover()) == 1
    stored = rows(b, tables.certificates)[-1]
    assert stored.state == "void"
    assert drive(b.status.of(stored.issuer_id, int.from_bytes(stored.serial))).state == "revoked"
    # The secret is free again, and the same request works.
    assert isinstance(drive(other.enroll(request)), Issued)
    # Should the dead have been only slow, it does not hand out what was voided.
    gate.open()
    assert forgotten[0].value.rule == "certificate.void"


def test_lint_stops_what_must_not_be_signed(monkeypatch):
    b = bench()
    monkeypatch.setattr("tmad.ca.issuing.new_serial", lambda: 5)
    fault = refused(b.authority.enroll(asked(secret=_fresh(b))))
    assert fault.code is FaultCode.INTERNAL
    assert fault.rule == "lint.serial"
    assert rows(b, tables.requests) == []


# -- by hand ----------------------------------------------------------------------------------


def by_hand(b, actor=ADMIN, **options):
    given = {
        "authority": "devices",
        "profile": "tls-server",
        "subject": name("www.example.test"),
        "names": (x509.DNSName("www.example.test"),),
        "public_key": ed25519.Ed25519PrivateKey.generate().public_key(),
        "proof": Proof.CSR_SIGNATURE,
        **options,
    }
    return b.authority.issue(actor, "default", **given)


def test_an_operator_issues_by_hand():
    b = bench()
    issued = drive(by_hand(b))
    assert issued.certificate.subject == name("www.example.test")
    assert rows(b, tables.certificates)[-1].via == "operator"
    assert b.events("certificate.issued")[-1].actor == "local:test"


def test_an_auditor_issues_nothing():
    b = bench()
    auditor = Actor("person:eve", (Grant("auditor", "default"),))
    assert refused(by_hand(b, auditor)).code is FaultCode.FORBIDDEN


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"profile": "sub-ca"}, "profile.via"),
        ({"profile": "code-signing"}, "profile.approval"),
        ({"issuer_id": 1}, "issue.internal"),
        ({"constraints": Constraints()}, "issue.internal"),
        ({"validity": timedelta(days=4000)}, "profile.validity.max"),
        ({"proof": Proof.NONE}, "request.proof"),
    ],
)
def test_an_operator_is_held_to_the_profile(options, rule):
    b = bench()
    assert refused(by_hand(b, **options)).rule == rule


def test_a_dry_run_shows_the_certificate_and_leaves_nothing():
    b = bench()
    before = (len(rows(b, tables.certificates)), len(b.events()))
    gate = gated(b)
    used = []
    gate.before = lambda: used.append(1)
    shown = drive(by_hand(b, dry_run=True))
    assert shown.certificate_id == 0
    assert shown.certificate.subject == name("www.example.test")
    assert shown.certificate.signature == b""
    assert used == []
    assert (len(rows(b, tables.certificates)), len(b.events())) == before


def test_the_validity_can_be_chosen_within_the_profile():
    b = bench()
    issued = drive(by_hand(b, validity=timedelta(days=10)))
    certificate = issued.certificate
    length = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert length == timedelta(days=10) - timedelta(seconds=1)


# -- 4 approve, as the applicant sees it ------------------------------------------------------


def test_scep_46_polling_needs_the_key_of_the_request():
    b = bench(authenticate=["manual"])
    request = asked(credential=NoCredential())
    assert isinstance(drive(b.authority.enroll(request)), Pending)
    polled = drive(b.authority.poll(ROUTERS, "tx-1", request.public_key))
    assert isinstance(polled, Pending)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert refused(b.authority.poll(ROUTERS, "tx-1", stranger)).code is FaultCode.NOT_FOUND
    unknown = b.authority.poll(ROUTERS, "tx-2", request.public_key)
    assert refused(unknown).code is FaultCode.NOT_FOUND


def test_scep_47_a_new_request_of_a_pending_transaction_is_a_poll():
    b = bench(authenticate=["manual"])
    key = ec.generate_private_key(ec.SECP256R1())
    first = drive(b.authority.enroll(asked(key=key, evidence=b"1")))
    second = drive(b.authority.enroll(asked(key=key, evidence=b"2")))
    assert second.request_id == first.request_id
    assert len(rows(b, tables.requests)) == 1


def test_an_endpoint_keeps_no_more_requests_waiting_than_its_limit():
    b = bench(authenticate=["manual"], limits={"pending": 2})
    for n in range(2):
        drive(b.authority.enroll(asked(transaction=f"t{n}")))
    fault = refused(b.authority.enroll(asked(transaction="t2")))
    assert fault.rule == "limits.pending"


def test_secrets_are_not_in_the_stored_request():
    b = bench(approval="manual")
    secret = drive(b.secret())
    evidence = b"0" + secret.reveal() + b"0"
    drive(b.authority.enroll(asked(secret=secret, evidence=evidence)))
    row = rows(b, tables.requests)[0]
    assert secret.reveal().decode() not in str(row)


def test_key_01_a_prime_modulus_is_refused_before_anybody_is_asked() -> None:
    b = bench()
    before = len(rows(b, tables.certificates))
    prime = rsa.RSAPublicNumbers(65_537, int(next_prime(1 << 2047))).public_key()
    fault = refused(b.authority.enroll(asked(secret=drive(b.secret()), public_key=prime)))
    assert (fault.code, fault.rule) == (FaultCode.REJECTED, "key.rsa.prime")
    assert len(rows(b, tables.certificates)) == before
