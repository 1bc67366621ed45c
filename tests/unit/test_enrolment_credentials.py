"""Who may enrol by a password, a MAC, a manufacturer's certificate or as an RA, and who not."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support import drive
from tests.unit.ca_bench import ADMIN, Bench, asked, bench, name
from tmad.ca.approval import Requests
from tmad.ca.requests import (
    EndpointID,
    EnrollmentRequest,
    Intent,
    Issued,
    KeyWish,
    NoCredential,
    Password,
    Pending,
    Proof,
    SharedKey,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor
from tmad.identity.binding import Binding
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import tables

DOOR = EndpointID("est", "people")
WORD = "correct horse battery"


@pytest.fixture
def b() -> Bench:
    made = bench()
    drive(made.accounts.person("alice", WORD, mail="alice@example.test"))
    return made


def door(b: Bench, **document: Any) -> None:
    drive(b.open("est", "people", **({"profile": "user", "authenticate": ["password"]} | document)))


def basic(user: str = "alice", word: str = WORD) -> Password:
    return Password(user, Secret(word))


def wish(credential: Any, common: str = "alice", **options: Any) -> EnrollmentRequest:
    given: dict[str, Any] = {"via": "est", "endpoint": DOOR, "names": (), "common": common}
    return asked(credential=credential, **(given | options))


def enroll(b: Bench, request: EnrollmentRequest) -> Issued:
    outcome = drive(b.authority.enroll(request))
    assert isinstance(outcome, Issued)
    return outcome


def refused(b: Bench, request: EnrollmentRequest) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(b.authority.enroll(request))
    assert caught.value.explain_id
    return caught.value


def row_of(b: Bench, outcome: Issued) -> Any:
    table = tables.certificates
    query = sa.select(table).where(table.c.id == outcome.certificate_id)
    return drive(b.database.read(lambda c: c.execute(query).one()))


def data_of(b: Bench, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b.events(kind)[-1].data)
    return found


# -- passwords --------------------------------------------------------------------------------


def test_a_person_enrols_for_her_own_name(b: Bench) -> None:
    door(b)
    outcome = enroll(b, wish(basic()))
    assert row_of(b, outcome).owner == "person:alice"
    assert data_of(b, "certificate.intended")["method"] == "password"


@pytest.mark.parametrize(
    ("user", "word", "rule"),
    [
        ("alice", "wrong", "login.password"),
        ("alice", "", "login.password"),
        ("nobody", WORD, "login.unknown"),
        ("", WORD, "login.unknown"),
    ],
)
def test_a_wrong_name_or_password_is_refused_in_the_same_words(
    b: Bench, user: str, word: str, rule: str
) -> None:
    door(b)
    fault = refused(b, wish(basic(user, word)))
    assert (fault.code, fault.detail) == (FaultCode.UNAUTHENTICATED, "login refused")
    assert fault.rule == rule


def test_a_disabled_person_and_one_of_another_tenant_are_refused(b: Bench) -> None:
    door(b)
    drive(b.accounts.people.disable(ADMIN, "default", "alice"))
    assert refused(b, wish(basic())).rule == "login.disabled"
    drive(b.objects.put(ADMIN, "*", "tenant", "other", {}))
    drive(b.accounts.people.create(ADMIN, "other", "carol"))
    drive(b.accounts.people.set_password(ADMIN, "other", "carol", Secret(WORD)))
    assert refused(b, wish(basic("carol"), "carol")).rule == "login.unknown"


@pytest.mark.parametrize(
    "options",
    [
        {"common": "bob"},
        {"subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")] * 2)},
        {"names": (x509.RFC822Name("bob@example.test"),)},
        {"names": (x509.RFC822Name("alice@example.test"), x509.RFC822Name("bob@example.test"))},
        {"names": (x509.DNSName("www.example.test"),), "profile": "device"},
        {
            "subject": x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
                    x509.NameAttribute(NameOID.USER_ID, "bob"),
                ]
            )
        },
        {
            "subject": x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
                    x509.NameAttribute(NameOID.EMAIL_ADDRESS, "bob@example.test"),
                ]
            )
        },
    ],
)
def test_est_13_a_person_gets_nobody_elses_names(b: Bench, options: dict[str, Any]) -> None:
    door(b, profile=options.pop("profile", "user"))
    fault = refused(b, wish(basic(), **options))
    assert fault.rule in ("person.names", "profile.subject.count")


def test_a_request_without_any_name_is_not_a_persons(b: Bench) -> None:
    door(b, profile="device")
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")])
    assert refused(b, wish(basic(), subject=subject)).rule == "person.names"


def test_her_mail_address_is_her_own(b: Bench) -> None:
    door(b)
    enroll(b, wish(basic(), names=(x509.RFC822Name("Alice@example.test"),)))


def test_an_account_that_sets_up_devices_may_name_them(b: Bench) -> None:
    door(b, people={"names": "any", "groups": ["installers"]}, profile="device")
    request = wish(basic(), "r1.example.test", names=(x509.DNSName("r1.example.test"),))
    assert refused(b, request).rule == "person.groups"
    drive(b.accounts.people.change_groups(ADMIN, "default", "alice", add=("Installers",)))
    enroll(b, request)


def test_every_answer_needs_the_password_again(b: Bench) -> None:
    """GEN-24: a copy gets the first one's certificate, but only from who made it."""
    door(b)
    request = wish(basic(), evidence=b"csr")
    first = enroll(b, request)
    again = enroll(b, request)
    assert again.replayed
    assert again.certificate == first.certificate
    wrong = wish(basic(word="wrong"), evidence=b"csr", public_key=request.public_key)
    assert refused(b, wrong).rule == "login.password"


def test_the_same_request_of_somebody_else_is_another_one(b: Bench) -> None:
    drive(b.accounts.person("bob", WORD))
    door(b, people={"names": "any"})
    request = wish(basic(), evidence=b"csr")
    enroll(b, request)
    other = wish(basic("bob"), evidence=b"csr", public_key=request.public_key)
    outcome = enroll(b, other)
    assert not outcome.replayed
    assert row_of(b, outcome).owner == "person:bob"


def test_a_waiting_request_answers_only_who_made_it(b: Bench) -> None:
    door(b, approval="manual")
    request = wish(basic(), evidence=b"csr")
    assert isinstance(drive(b.authority.enroll(request)), Pending)
    assert isinstance(drive(b.authority.enroll(request)), Pending)
    assert len(b.events("request.pending")) == 1
    wrong = wish(basic(word="wrong"), evidence=b"csr", public_key=request.public_key)
    assert refused(b, wrong).rule == "login.password"


def test_a_password_may_be_an_enrolment_secret(b: Bench) -> None:
    door(b, authenticate=["challenge", "password"])
    row, secret = drive(
        b.secrets.create(ADMIN, "default", str(DOOR), bound_to=Binding(subject=("CN=printer-*",)))
    )
    word = secret.reveal().decode()
    assert refused(b, wish(basic("any", word), "alice")).rule == "secret.binding.subject"
    request = wish(basic("any", word.lower()), "printer-1", evidence=b"csr")
    outcome = enroll(b, request)
    assert row_of(b, outcome).owner == f"secret:{row.id}"
    assert enroll(b, request).replayed
    assert refused(b, wish(basic("any", word), "printer-2")).rule == "secret.used"
    enroll(b, wish(basic(), evidence=b"by password"))


def test_who_guesses_has_to_wait_whatever_he_guesses(b: Bench) -> None:
    door(b, authenticate=["challenge", "password"], challenge={"failures_per_minute": 3})
    for _ in range(3):
        assert refused(b, wish(basic(word="wrong"))).code is FaultCode.UNAUTHENTICATED
    fault = refused(b, wish(basic()))
    assert (fault.code, fault.rule) == (FaultCode.RATE_LIMITED, "secret.guessing")
    enroll(b, wish(basic(), peer="192.0.2.77"))


def test_where_no_password_counts_it_says_nothing(b: Bench) -> None:
    door(b, authenticate=["manual"])
    assert isinstance(drive(b.authority.enroll(wish(basic()))), Pending)
    drive(b.open("est", "other", authenticate=["certificate"]))
    fault = refused(b, wish(basic(), endpoint=EndpointID("est", "other")))
    assert fault.rule == "credential.none"


def test_a_person_renews_with_her_password(b: Bench) -> None:
    door(b)
    first = enroll(b, wish(basic()))
    renewal = wish(basic(), intent=Intent.RENEW, evidence=b"again")
    outcome = enroll(b, renewal)
    stored = row_of(b, outcome)
    assert stored.replaces_id == first.certificate_id
    assert stored.owner == "person:alice"
    drive(b.accounts.person("bob", WORD))
    fault = refused(b, wish(basic("bob"), intent=Intent.RENEW))
    assert fault.rule == "renewal.absent"


def test_a_persons_certificate_renews_only_while_she_may_have_it(b: Bench) -> None:
    door(b)
    first = enroll(b, wish(basic()))
    by_certificate = SignedBy(first.certificate)
    second = enroll(b, wish(by_certificate, intent=Intent.RENEW, evidence=b"2"))
    assert row_of(b, second).owner == "person:alice"
    drive(b.accounts.people.disable(ADMIN, "default", "alice"))
    fault = refused(b, wish(by_certificate, intent=Intent.RENEW, evidence=b"3"))
    assert fault.rule == "renewal.owner"


def meanwhile(b: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let something happen between the decision and the transaction that acts on it."""
    issuing = b.authority._issuing
    make = issuing.make

    async def late(*arguments: Any, **named: Any) -> Any:
        change()
        return await make(*arguments, **named)

    monkeypatch.setattr(issuing, "make", late)


def test_who_is_disabled_while_it_is_decided_gets_nothing(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    door(b)
    first = enroll(b, wish(basic()))
    meanwhile(b, monkeypatch, lambda: drive(b.accounts.people.disable(ADMIN, "default", "alice")))
    renewal = wish(SignedBy(first.certificate), intent=Intent.RENEW, evidence=b"2")
    assert refused(b, renewal).rule == "renewal.owner"
    drive(b.accounts.people.enable(ADMIN, "default", "alice"))
    assert refused(b, wish(basic(), evidence=b"3")).rule == "applicant.owner"


@pytest.mark.parametrize("reason", [0, 6])
def test_what_is_revoked_while_it_is_decided_gets_no_successor(
    b: Bench, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    door(b)
    first = enroll(b, wish(basic()))
    revoke = b.revocation.revoke_by_id
    meanwhile(b, monkeypatch, lambda: drive(revoke(ADMIN, "default", first.certificate_id, reason)))
    renewal = wish(SignedBy(first.certificate), intent=Intent.RENEW, evidence=b"2")
    assert refused(b, renewal).rule == "renewal.revoked"


def test_a_one_time_code_enrols_once(b: Bench) -> None:
    """Each request needs a code of its own, also a copy of an earlier one."""
    drive(b.accounts.token("alice", serial="T9"))
    door(b, login={"mode": "otp"})
    request = wish(basic(word="755224"), evidence=b"csr")  # RFC 4226, appendix D
    enroll(b, request)
    assert refused(b, request).rule == "otp.wrong"


# -- shared keys ------------------------------------------------------------------------------


def shared(b: Bench, policy: dict[str, Any] | None = None, **options: Any) -> tuple[str, bytes]:
    door(
        b,
        profile="device",
        authenticate=["challenge"],
        challenge={"recoverable": True} if policy is None else policy,
    )
    row, secret = drive(b.secrets.create(ADMIN, "default", str(DOOR), recoverable=True, **options))
    return row.id, secret.reveal()


def mac(reference: str, secret: bytes, asked: list[bytes] | None = None) -> SharedKey:
    """Return what a client proves that made its MAC with ``secret``."""

    def verify(candidate: Secret) -> bool:
        if asked is not None:
            asked.append(candidate.reveal())
        return hmac.compare_digest(candidate.reveal(), secret)

    return SharedKey(reference.encode(), verify)


def test_who_knows_a_recoverable_secret_enrols_once(b: Bench) -> None:
    reference, secret = shared(b)
    request = wish(mac(reference, secret), "r1", evidence=b"csr")
    outcome = enroll(b, request)
    assert row_of(b, outcome).owner == f"secret:{reference}"
    assert enroll(b, request).replayed
    assert refused(b, wish(mac(reference, secret), "r1", evidence=b"2")).rule == "secret.used"


def test_a_copy_without_the_secret_gets_nothing(b: Bench) -> None:
    reference, secret = shared(b)
    request = wish(mac(reference, secret), "r1", evidence=b"csr")
    enroll(b, request)
    forged = wish(mac(reference, b"guessed"), "r1", evidence=b"csr", public_key=request.public_key)
    assert refused(b, forged).rule == "secret.wrong"


@pytest.mark.parametrize("reference", ["", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "\x00", "x" * 5000])
def test_an_unknown_reference_is_answered_like_a_wrong_secret(b: Bench, reference: str) -> None:
    known, secret = shared(b)
    candidates: list[bytes] = []
    fault = refused(b, wish(mac(reference, secret, candidates), "r1"))
    wrong = refused(b, wish(mac(known, b"wrong"), "r1"))
    assert (fault.rule, fault.detail) == (wrong.rule, wrong.detail)
    assert len(candidates) == 1
    assert candidates[0] != secret


def test_a_yes_to_a_random_secret_is_not_believed(b: Bench) -> None:
    shared(b)
    gullible = SharedKey(b"nobody", lambda secret: True)
    assert refused(b, wish(gullible, "r1")).rule == "secret.wrong"


def test_a_verdict_may_come_later(b: Bench) -> None:
    reference, secret = shared(b)

    async def verify(candidate: Secret) -> bool:
        return candidate.reveal() == secret

    enroll(b, wish(SharedKey(reference.encode(), verify), "r1"))


def test_a_secret_of_another_endpoint_or_a_plain_one_has_no_reference(b: Bench) -> None:
    _, _ = shared(b)
    plain, secret = drive(b.secrets.create(ADMIN, "default", str(DOOR)))
    assert refused(b, wish(mac(plain.id, secret.reveal()), "r1")).rule == "secret.wrong"
    drive(b.open("cmp", "other", challenge={"recoverable": True}))
    other, secret = drive(b.secrets.create(ADMIN, "default", "cmp/other", recoverable=True))
    assert refused(b, wish(mac(other.id, secret.reveal()), "r1")).rule == "secret.wrong"


def test_revoked_and_expired_secrets_are_refused(b: Bench) -> None:
    reference, secret = shared(b)
    b.clock.advance(days=2)
    assert refused(b, wish(mac(reference, secret), "r1")).rule == "secret.expired"
    row, clear = drive(b.secrets.create(ADMIN, "default", str(DOOR), recoverable=True))
    drive(b.secrets.revoke(ADMIN, "default", row.id))
    assert refused(b, wish(mac(row.id, clear.reveal()), "r1")).rule == "secret.revoked"


def test_a_policy_must_allow_recoverable_secrets(b: Bench) -> None:
    with pytest.raises(Fault) as caught:
        shared(b, policy={})
    assert caught.value.rule == "secret.recoverable"


def test_a_recoverable_secret_is_sealed_to_its_row(b: Bench) -> None:
    _, secret = shared(b)
    table = tables.enroll_secrets
    stored = drive(b.database.read(lambda c: c.execute(sa.select(table)).one()))
    assert secret not in stored.sealed
    other, _ = drive(b.secrets.create(ADMIN, "default", str(DOOR), recoverable=True))
    swap = table.update().where(table.c.id == other.id).values(sealed=stored.sealed)
    drive(b.database.write(lambda c: c.execute(swap).rowcount))
    with pytest.raises(Fault) as caught:
        drive(b.authority.enroll(wish(mac(other.id, secret), "r1")))
    assert caught.value.rule == "seal.integrity"


def test_macs_are_guessed_no_faster_than_challenges(b: Bench) -> None:
    reference, secret = shared(b, policy={"recoverable": True, "failures_per_minute": 2})
    for _ in range(2):
        refused(b, wish(mac(reference, b"wrong"), "r1"))
    assert refused(b, wish(mac(reference, secret), "r1")).rule == "secret.guessing"


def test_a_mac_renews_nothing(b: Bench) -> None:
    reference, secret = shared(b)
    fault = refused(b, wish(mac(reference, secret), "r1", intent=Intent.RENEW))
    assert fault.rule == "renewal.signer"


# -- manufacturers ----------------------------------------------------------------------------


class Maker:
    """A manufacturer's CA in memory, and its devices."""

    def __init__(self, b: Bench, common: str = "Maker Root") -> None:
        self.b = b
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = name(common)
        begins = b.clock() - timedelta(days=100)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(begins)
            .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def anchor(self, title: str = "maker", **document: Any) -> None:
        pem = self.certificate.public_bytes(Encoding.PEM).decode()
        given = {"certificates": pem, "uses": ["enrollment"], **document}
        drive(self.b.objects.put(ADMIN, "default", "trust-anchor", title, given))

    def device(
        self,
        serial: str | None = "SN-0001",
        *,
        ends: datetime | None = None,
        number: int = 77,
        usage: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Maker")]
        if serial is not None:
            attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self.name)
            .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
            .serial_number(number)
            .not_valid_before(self.b.clock() - timedelta(days=10))
            .not_valid_after(ends or datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self, *revoked: int) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(self.b.clock())
            .next_update(self.b.clock() + timedelta(days=1))
        )
        for number in revoked:
            entry = x509.RevokedCertificateBuilder(number, self.b.clock()).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def devices(b: Bench, **document: Any) -> None:
    door(
        b,
        profile="device",
        **({"authenticate": ["manufacturer"], "manufacturers": ["maker"]} | document),
    )


def of_device(serial: str | None, common: str = "r1") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if serial is not None:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(attributes)


def test_a_device_enrols_with_its_makers_certificate(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    outcome = enroll(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))
    assert row_of(b, outcome).owner == "manufacturer:maker/SN-0001"


@pytest.mark.parametrize("serial", ["SN-0002", None, "sn-0001", "SN-0001 "])
def test_vu_971035_one_device_cannot_enrol_as_another(b: Bench, serial: str | None) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    fault = refused(b, wish(SignedBy(maker.device()), subject=of_device(serial)))
    assert fault.rule == "manufacturer.serial"


def test_a_device_without_a_serial_number_needs_the_rule_switched_off(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    assert (
        refused(b, wish(SignedBy(maker.device(None)), subject=of_device(None))).rule
        == "manufacturer.serial"
    )
    drive(
        b.open(
            "est",
            "loose",
            authenticate=["manufacturer"],
            manufacturers=["maker"],
            manufacturer_serial=False,
        )
    )
    loose = wish(
        SignedBy(maker.device(None)), endpoint=EndpointID("est", "loose"), subject=of_device(None)
    )
    assert row_of(b, enroll(b, loose)).owner == "manufacturer:maker/serial-4d"


def test_without_a_crl_no_device_is_believed(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor()
    devices(b)
    request = wish(SignedBy(maker.device()), subject=of_device("SN-0001"))
    assert refused(b, request).rule == "network.crl-missing"
    drive(b.anchors.refresh(ADMIN, "default", "maker", crl=maker.crl()))
    enroll(b, request)
    b.clock.advance(days=2)
    assert refused(b, wish(request.credential, subject=of_device("SN-0001"))).rule == (
        "network.crl-stale"
    )


def test_a_device_that_its_maker_revoked_is_refused_at_once(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor()
    devices(b)
    drive(b.anchors.refresh(ADMIN, "default", "maker", crl=maker.crl()))
    enroll(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))
    b.clock.advance(minutes=1)
    drive(b.anchors.refresh(ADMIN, "default", "maker", crl=maker.crl(77)))
    fault = refused(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))
    assert fault.rule == "network.revoked"


def test_only_the_makers_that_the_endpoint_names_count(b: Bench) -> None:
    maker, other = Maker(b), Maker(b, "Other Root")
    maker.anchor(revocation="off")
    other.anchor("other", revocation="off")
    devices(b)
    for stranger in (other, Maker(b)):
        request = wish(SignedBy(stranger.device()), subject=of_device("SN-0001"))
        assert refused(b, request).rule == "manufacturer.unknown"


def test_an_anchor_for_the_network_enrols_nobody_and_the_other_way_round(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off", uses=["network"])
    devices(b)
    request = wish(SignedBy(maker.device()), subject=of_device("SN-0001"))
    assert refused(b, request).rule == "manufacturer.unknown"
    assert drive(b.anchors.certificates("default")) == [maker.certificate]
    maker.anchor(revocation="off", uses=["enrollment"])
    enroll(b, request)
    assert drive(b.anchors.certificates("default")) == []


def test_expired_or_alien_device_certificates_are_refused(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    old = maker.device(ends=b.clock() - timedelta(days=1))
    assert refused(b, wish(SignedBy(old), subject=of_device("SN-0001"))).rule == (
        "manufacturer.expired"
    )
    server = maker.device(usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert refused(b, wish(SignedBy(server), subject=of_device("SN-0001"))).rule == (
        "manufacturer.purpose"
    )


def test_est_22_a_makers_certificate_renews_nothing(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    renewal = wish(SignedBy(maker.device()), subject=of_device("SN-0001"), intent=Intent.RENEW)
    assert refused(b, renewal).rule == "renewal.foreign"


def test_a_switched_off_anchor_stops_its_devices_at_once(b: Bench) -> None:
    maker = Maker(b)
    maker.anchor(revocation="off")
    devices(b)
    enroll(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))
    maker.anchor(revocation="off", enabled=False)
    fault = refused(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))
    assert fault.rule == "manufacturer.unknown"


def _newer_crl(b: Bench, maker: Maker, *revoked: int) -> None:
    b.clock.advance(seconds=1)
    drive(b.anchors.refresh(ADMIN, "default", "maker", crl=maker.crl(*revoked)))


_TAKEN_BACK: dict[str, tuple[Callable[[Bench, Maker], object], str]] = {
    "revoked": (lambda b, maker: _newer_crl(b, maker, 77), "network.revoked"),
    "switched-off": (lambda b, maker: maker.anchor(enabled=False), "manufacturer.unknown"),
    "not-for-enrolling": (lambda b, maker: maker.anchor(uses=["network"]), "manufacturer.unknown"),
    "another-ca": (lambda b, _: Maker(b, "Other").anchor(), "manufacturer.unknown"),
}


@pytest.mark.parametrize("how", _TAKEN_BACK)
def test_a_device_that_is_taken_back_while_it_is_decided_gets_nothing(
    b: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    change, rule = _TAKEN_BACK[how]
    maker = Maker(b)
    maker.anchor()
    devices(b)
    _newer_crl(b, maker)
    meanwhile(b, monkeypatch, lambda: change(b, maker))
    assert refused(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001"))).rule == rule


def test_a_device_beside_one_that_is_revoked_while_it_is_decided_enrols(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(b)
    maker.anchor()
    devices(b)
    _newer_crl(b, maker)
    meanwhile(b, monkeypatch, lambda: _newer_crl(b, maker, 78))
    enroll(b, wish(SignedBy(maker.device()), subject=of_device("SN-0001")))


@pytest.mark.parametrize("how", [*_TAKEN_BACK, "expired", "not-named", "good"])
def test_a_device_that_waited_is_looked_at_again(b: Bench, how: str) -> None:
    maker = Maker(b)
    maker.anchor()
    devices(b, approval="manual")
    _newer_crl(b, maker)
    device = maker.device(ends=b.clock() + timedelta(hours=1) if how == "expired" else None)
    request = wish(SignedBy(device), subject=of_device("SN-0001"))
    waiting = drive(b.authority.enroll(request))
    assert isinstance(waiting, Pending)
    rule = {"expired": "manufacturer.expired", "not-named": "manufacturer.unknown"}.get(how, "")
    match how:
        case "expired":
            b.clock.advance(hours=2)
        case "not-named":
            Maker(b, "Other").anchor("other")
            devices(b, approval="manual", manufacturers=["other"])
        case "good":
            pass
        case _:
            change, rule = _TAKEN_BACK[how]
            change(b, maker)
    desk = Requests(
        database=b.database, journal=b.journal, authority=b.authority, secrets=b.secrets,
        now=b.clock,
    )  # fmt: skip
    other = Actor.administrator("local:approver")
    approve = desk.approve(other, "default", waiting.request_id)
    if rule:
        with pytest.raises(Fault) as refused_:
            drive(approve)
        assert refused_.value.rule == rule
    else:
        assert row_of(b, drive(approve)).owner == "manufacturer:maker/SN-0001"


def test_a_password_beside_a_certificate_decides_about_a_first_enrolment(b: Bench) -> None:
    door(b)
    first = enroll(b, wish(basic()))
    both = SignedBy(first.certificate, password=basic(word="wrong"))
    assert refused(b, wish(both, evidence=b"2")).rule == "login.password"
    renewal = wish(both, intent=Intent.RENEW, evidence=b"3")
    assert row_of(b, enroll(b, renewal)).replaces_id == first.certificate_id


# -- registration authorities -----------------------------------------------------------------


def ra(b: Bench, profile: str = "tls-client") -> x509.Certificate:
    issued = drive(
        b.authority.issue(
            ADMIN,
            "default",
            authority="devices",
            profile=profile,
            subject=name("ra.example.test"),
            names=(),
            public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
            proof=Proof.CSR_SIGNATURE,
        )
    )
    return issued.certificate


def test_a_registration_authority_asks_for_others(b: Bench) -> None:
    door(b, profile="device", registration_authorities=["tls-client"])
    outcome = enroll(b, wish(SignedBy(ra(b)), "r7", proof=Proof.RA_VERIFIED))
    assert row_of(b, outcome).owner.startswith("registration-authority:")


def test_one_is_named_by_its_serial_number(b: Bench) -> None:
    certificate = ra(b)
    named = f"serial:{certificate.serial_number:x}"
    door(b, profile="device", registration_authorities=[named])
    enroll(b, wish(SignedBy(certificate), "r7"))
    assert refused(b, wish(SignedBy(ra(b)), "r8")).rule == "renewal.profile"


def test_a_revoked_or_expired_one_asks_for_nothing(b: Bench) -> None:
    door(b, profile="device", registration_authorities=["tls-client"])
    certificate = ra(b)
    issuer = drive(b.hierarchy.active("default", "devices"))
    drive(b.revocation.revoke(ADMIN, "default", issuer.id, certificate.serial_number, 1))
    assert refused(b, wish(SignedBy(certificate), "r7")).rule == "renewal.revoked"
    other = ra(b)
    b.clock.advance(days=800)
    assert refused(b, wish(SignedBy(other), "r7")).rule == "renewal.expired"


def test_one_that_is_revoked_while_it_is_decided_gets_nothing_for_others(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    door(b, profile="device", registration_authorities=["tls-client"])
    certificate = ra(b)
    issuer = drive(b.hierarchy.active("default", "devices"))
    revoke = b.revocation.revoke
    meanwhile(
        b,
        monkeypatch,
        lambda: drive(revoke(ADMIN, "default", issuer.id, certificate.serial_number, 1)),
    )
    assert refused(b, wish(SignedBy(certificate), "r7")).rule == "renewal.revoked"


def test_nobody_else_may_say_that_a_proof_was_checked(b: Bench) -> None:
    door(b)
    for proof in (Proof.NONE, Proof.RA_VERIFIED, Proof.GENERATED_HERE):
        fault = refused(b, wish(basic(), proof=proof))
        assert (fault.code, fault.rule) == (FaultCode.BAD_PROOF, "request.proof")


# -- keys that are made here ------------------------------------------------------------------


def key_wish(credential: Any, *algorithms: KeyAlgorithm, **options: Any) -> EnrollmentRequest:
    return wish(credential, public_key=KeyWish(algorithms), proof=Proof.GENERATED_HERE, **options)


def test_a_key_is_made_for_who_may_have_one(b: Bench) -> None:
    door(b, server_keys=True)
    outcome = enroll(b, key_wish(basic(), KeyAlgorithm.ED25519))
    assert outcome.private_key is not None
    key = load_der_private_key(outcome.private_key.pkcs8().reveal(), None)
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*spki) == outcome.certificate.public_key().public_bytes(
        *spki
    )
    assert data_of(b, "certificate.intended")["proof"] == "generated-here"
    made = data_of(b, "key.generated")
    assert (made["algorithm"], made["applicant"]) == ("ed25519", "person:alice")
    assert "PRIVATE" not in repr(outcome)
    assert repr(outcome.private_key) == "GeneratedKey(ed25519)"


def test_each_wish_gets_another_key(b: Bench) -> None:
    door(b, server_keys=True)
    one, two = (enroll(b, key_wish(basic(), evidence=b"csr")) for _ in range(2))
    assert one.certificate.public_key() != two.certificate.public_key()
    assert not two.replayed


def test_no_key_is_made_for_who_is_not_believed(b: Bench) -> None:
    door(b, server_keys=True)
    for request in (key_wish(basic(word="wrong")), key_wish(NoCredential())):
        assert refused(b, request).code is FaultCode.UNAUTHENTICATED
    assert b.events("key.generated") == []


def test_keys_are_made_only_where_the_endpoint_says_so(b: Bench) -> None:
    door(b)
    assert refused(b, key_wish(basic())).rule == "keys.server"


def test_a_wish_must_fit_the_profile(b: Bench) -> None:
    drive(
        b.objects.put(
            ADMIN,
            "default",
            "profile",
            "narrow",
            {
                "via": ["est"],
                "keys": {"algorithms": ["rsa"], "rsa_min": 3072},
                "subject": {"attributes": {"CN": {}}},
            },
        )
    )
    door(b, server_keys=True, profile="narrow")
    fault = refused(b, key_wish(basic(), KeyAlgorithm.P256, KeyAlgorithm.RSA_2048))
    assert (fault.code, fault.rule) == (FaultCode.BAD_ALGORITHM, "keys.algorithm")
    outcome = enroll(b, key_wish(basic()))
    assert outcome.private_key is not None
    assert outcome.private_key.algorithm is KeyAlgorithm.RSA_3072


def test_a_key_does_not_wait_for_a_person(b: Bench) -> None:
    with pytest.raises(Fault) as caught:
        door(b, server_keys=True, approval="manual")
    assert "would have to be kept" in str(caught.value.values)
    drive(
        b.objects.put(
            ADMIN,
            "default",
            "profile",
            "slow",
            {"via": ["est"], "approval": "manual", "subject": {"attributes": {"CN": {}}}},
        )
    )
    door(b, server_keys=True, profile="slow")
    assert refused(b, key_wish(basic())).rule == "keys.approval"
    assert b.events("key.generated") == []


# -- revocation by the holder -----------------------------------------------------------------


def revoke(b: Bench, signer: x509.Certificate, target: x509.Certificate, reason: int = 1) -> Any:
    endpoint = drive(b.endpoints.by_id(DOOR))
    return drive(
        b.revocation.revoke_by_holder(
            endpoint, signer, target.issuer.public_bytes(), target.serial_number, reason
        )
    )


def not_revoked(b: Bench, *arguments: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        revoke(b, *arguments)
    return caught.value


def test_a_holder_revokes_what_has_its_key(b: Bench) -> None:
    door(b)
    key = ec.generate_private_key(ec.SECP256R1())
    one = enroll(b, wish(basic(), key=key, evidence=b"1")).certificate
    two = enroll(b, wish(basic(), key=key, evidence=b"2")).certificate
    other = enroll(b, wish(basic(), evidence=b"3")).certificate
    fault = not_revoked(b, two, other)
    assert (fault.code, fault.rule) == (FaultCode.NOT_FOUND, "revocation.not-yours")
    assert revoke(b, two, one, 4).after.reason == 4
    assert revoke(b, two, two).after.reason == 1
    assert not_revoked(b, two, two).rule == "revocation.signer-status"
    record = b.events("certificate.revoked")[-1]
    assert record.actor == "est/people"


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, 99])
def test_a_holder_gives_no_reason_that_is_the_cas(b: Bench, reason: int) -> None:
    door(b)
    own = enroll(b, wish(basic())).certificate
    assert not_revoked(b, own, own, reason).rule == "revocation.reason"


def test_an_ra_revokes_what_its_endpoint_issued_and_nothing_else(b: Bench) -> None:
    door(b, profile="device", registration_authorities=["tls-client"])
    ours = enroll(b, wish(SignedBy(ra(b)), "r7")).certificate
    elsewhere = ra(b)
    signer = ra(b)
    assert revoke(b, signer, ours).has_changed
    assert not_revoked(b, signer, elsewhere).rule == "revocation.not-yours"


def test_strangers_and_endings_revoke_nothing(b: Bench) -> None:
    door(b)
    own = enroll(b, wish(basic())).certificate
    assert not_revoked(b, Maker(b).device(), own).rule == "revocation.signer-foreign"
    drive(b.objects.put(ADMIN, "default", "authority", "second", {}))
    drive(b.root("second", KeyAlgorithm.P256))
    drive(b.open("est", "second", authority="second", profile="device"))
    endpoint = drive(b.endpoints.by_id(EndpointID("est", "second")))
    with pytest.raises(Fault) as caught:
        drive(
            b.revocation.revoke_by_holder(
                endpoint, own, own.issuer.public_bytes(), own.serial_number, 1
            )
        )
    assert caught.value.rule == "revocation.signer-authority"
    assert not_revoked(b, own, ra(b)).rule == "revocation.not-yours"
    b.clock.advance(days=900)
    assert not_revoked(b, own, own).rule == "revocation.signer-status"


# -- what an endpoint may say -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        ({"authenticate": ["manufacturer"]}, "manufacturer"),
        ({"manufacturers": ["maker"]}, "manufacturer"),
        ({"authenticate": ["manufacturer"], "manufacturers": ["nobody"]}, "trust-anchor"),
        ({"login": {"mode": "password-then-otp"}}, "second question"),
        (
            {"login": {"by_group": [{"groups": ["a"], "mode": "password-then-sms"}]}},
            "second question",
        ),
        ({"login": {"mode": "otp"}, "approval": "manual"}, "one-time code"),
        ({"registration_authorities": ["serial:XYZ"]}, "hexadecimal"),
        ({"registration_authorities": ["nobody"]}, "profile"),
        ({"server_keys": True, "authenticate": ["manual"]}, "server_keys"),
    ],
)
def test_a_contradictory_endpoint_is_refused_when_it_is_stored(
    b: Bench, document: dict[str, Any], mistake: str
) -> None:
    with pytest.raises(Fault) as caught:
        door(b, **document)
    assert mistake in f"{caught.value.detail} {caught.value.values}"
