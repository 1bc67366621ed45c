"""What CMC refuses, and how it says so: one rule broken at a time (RFC 10002, 6.1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pyasn1_alt_modules import rfc4211, rfc5652

from tests import cmc_client as client
from tests.cmc_client import (
    BAD_CERT_ID,
    BAD_IDENTITY,
    BAD_MESSAGE_CHECK,
    BAD_REQUEST,
    FAILED,
    NO_SUPPORT,
    SUCCESS,
    Holder,
    integer,
    octets,
    pki_data,
    signed,
    tcr,
    utf8,
)
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmc_world import World, name, world
from tests.unit.cmp_world import issued_by, new_key, self_signed
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import EVERY_TENANT
from tmad.identity.binding import Binding
from tmad.protocols.cmc import answers, codec
from tmad.protocols.cmc.codec import FailInfo


@pytest.fixture
def w() -> World:
    return world()


def flipped(octets: bytes) -> bytes:
    """Return octets whose last bit is another one."""
    return octets[:-1] + bytes([octets[-1] ^ 1])


def by_secret(w: World, requests: list[Any], *more: Any, known: Any = None) -> list[Any]:
    reference, secret = known or w.known()
    return [*client.proof(reference, secret, requests), *more]


def a_request(number: int = 1, common: str = "dev1") -> Any:
    return tcr(number, client.csr(new_key(), name(common)))


# -- HTTP -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/pkcs7-mime; smime-type=CMC-request", 200),
        ("application/pkcs7-mime; smime-type=cmc-REQUEST; name=x", 200),
        ('Application/PKCS7-mime;smime-type="CMC-Request"', 200),
        ("application/pkcs7-mime", 200),
        ("application/x-pkcs7-mime", 200),
        ("application/pkcs7-mime; smime-type=signed-data", 415),
        ("application/octet-stream", 415),
        ("", 415),
    ],
)
def test_types_are_compared_without_case(w: World, media_type: str, status: int) -> None:
    response = w.send(signed(pki_data([(1, 99, b"\x05\x00")])), media_type=media_type)
    assert response.status == status


def test_what_is_no_message_has_a_status_of_http(w: World) -> None:
    assert w.send(b"", method="GET").status == 405
    assert w.send(b"nothing").status == 400
    assert w.send(signed(pki_data()) + b"x").status == 400
    assert w.send(client.content_info(client.DATA, octets(b"x"))).status == 400
    assert w.send(signed(pki_data()), tail="nowhere").status == 404
    assert w.send(signed(pki_data()), tail="").status == 404


def test_what_is_inside_is_told_by_a_message(w: World) -> None:
    for content in (b"nothing", b"", b"\x30\x03\x02\x01", pki_data()[:-1]):
        answer = w.ask(signed(content or b"\x05\x00"))
        assert answer.statuses == [(FAILED, (0,), BAD_REQUEST)]
        assert '"cmc.' in w.why(answer) or '"wire.' in w.why(answer)
    answer = w.ask(signed(pki_data(), content_type=client.DATA))
    assert answer.statuses == [(FAILED, (0,), BAD_REQUEST)]
    assert w.ask(signed(pki_data())).statuses == [(FAILED, (0,), BAD_REQUEST)]


# -- body parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["twice", "zero", "control and request", "too large"])
def test_body_parts_have_one_number_each(w: World, fault: str) -> None:
    key = new_key()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    controls: list[Any] = [(5, client.REG_INFO, octets(b"x"))]
    if fault == "twice":
        requests.append(tcr(1, client.csr(new_key(), name("dev2"))))
    if fault == "zero":
        requests = [tcr(0, client.csr(key, name("dev1")))]
    if fault == "control and request":
        controls = [(1, client.REG_INFO, octets(b"x"))]
    content = pki_data([*by_secret(w, requests), *controls], requests)
    if fault == "too large":
        content = content.replace(b"\x02\x01\x05\x06", b"\x02\x01\xff\x06", 1)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses == [(FAILED, (0,), BAD_REQUEST)]
    assert '"cmc.body-part"' in w.why(answer)
    assert w.issued_by_cmc() == 0


def test_an_unknown_control_stops_everything(w: World) -> None:
    """CMC-20: the answer names each control that nobody here understands."""
    requests = [a_request()]
    unknown = [(71, "1.2.3.4", b"\x05\x00"), (72, 26, b"\x05\x00")]
    answer = w.ask(signed(pki_data(by_secret(w, requests, *unknown), requests), no_signature=b"k"))
    assert answer.statuses == [(FAILED, (71, 72), BAD_REQUEST)]
    assert w.issued_by_cmc() == 0


def test_what_is_known_and_not_done_is_nosupport(w: World) -> None:
    requests = [a_request()]
    more = (71, client.PUBLISH, b"\x05\x00")
    answer = w.ask(signed(pki_data(by_secret(w, requests, more), requests), no_signature=b"k"))
    assert answer.statuses == [(NO_SUPPORT, (71,), None)]
    requests = [a_request(), client.orm(8)]
    answer = w.ask(signed(pki_data(by_secret(w, requests), requests), no_signature=b"k"))
    assert answer.statuses == [(NO_SUPPORT, (8,), None)]
    assert w.issued_by_cmc() == 0


@pytest.mark.parametrize(
    "arc",
    [
        client.IDENTIFICATION, client.PROOF_V2, client.TRANSACTION, client.SENDER_NONCE,
        client.LINK_RANDOM,
    ],
)  # fmt: skip
def test_a_control_that_can_only_be_said_once(w: World, arc: int) -> None:
    requests = [a_request()]
    value = {client.IDENTIFICATION: utf8("x"), client.TRANSACTION: integer(1)}.get(
        arc, octets(b"x")
    )
    if arc == client.PROOF_V2:
        value = client.witness("s", b"x")
    content = pki_data(by_secret(w, requests, (71, arc, value), (72, arc, value)), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses[0][::2] == (FAILED, BAD_REQUEST)
    assert w.issued_by_cmc() == 0


@pytest.mark.parametrize(
    ("arc", "value"),
    [
        (client.IDENTIFICATION, octets(b"x")),
        (client.PROOF_V2, octets(b"x")),
        (client.TRANSACTION, octets(b"x")),
        (client.SENDER_NONCE, integer(1)),
        pytest.param(client.SENDER_NONCE, octets(b"x" * 2000), id="long"),
        (client.DATA_RETURN, integer(1)),
        (client.DECRYPTED, octets(b"x")),
        (client.GET_CERT, octets(b"x")),
        (client.GET_CRL, octets(b"x")),
        (client.REVOKE, octets(b"x")),
        (client.QUERY, integer(1)),
        (client.CONFIRM, octets(b"x")),
    ],
)
def test_a_control_with_something_else_in_it(w: World, arc: int, value: bytes) -> None:
    request = client.crm(1, new_key(), name("dev1"), proof="keyEncipherment")
    holder = w.enroll_by_secret("before")
    answer = w.ask(signed(pki_data([(71, arc, value)], [request]), holder))
    assert {status[0] for status in answer.statuses} == {FAILED}
    assert w.issued_by_cmc() == 1


# -- signatures -----------------------------------------------------------------------------


def test_a_signature_must_fit(w: World) -> None:
    holder = w.enroll_by_secret()
    message = signed(pki_data(requests=[a_request()]), holder)
    for position in (-1, -5):
        broken = bytearray(message)
        broken[position] ^= 1
        answer = w.ask(bytes(broken))
        assert answer.statuses == [(FAILED, (0,), BAD_MESSAGE_CHECK)]
    key = new_key()
    csr = client.csr(key, name("dev1"))
    content = pki_data(requests=[tcr(1, csr)])
    for wrong in (
        flipped(signed(content, key=key)),
        # By a key that is in no request, and by one whose certificate is not there.
        signed(content, key=new_key()),
        signed(content, holder, certificates=()),
        # A digest in the place of a signature shows at least that it arrived whole.
        flipped(signed(content, no_signature=b"k")),
    ):
        assert w.ask(wrong).statuses == [(FAILED, (0,), BAD_MESSAGE_CHECK)]
    assert w.issued_by_cmc() == 1


def test_sha1_is_for_endpoints_that_say_so() -> None:
    for legacy in (False, True):
        w = world(options={"legacy": legacy})
        holder = w.enroll_by_secret()
        key = new_key()
        csr = client.csr(key, holder.certificate.subject)
        answer = w.ask(signed(pki_data(requests=[tcr(1, csr)]), holder, digest="sha1"))
        if legacy:
            assert answer.certified(key)
        else:
            assert answer.statuses == [(FAILED, (0,), client.BAD_ALG)]


def test_nobody_enrols_by_a_digest_alone(w: World) -> None:
    """Spec 6.4: noSignature without an identity proof is unauthenticated."""
    for message in (
        signed(pki_data(requests=[a_request()]), no_signature=b"k"),
        signed(pki_data(requests=[a_request()])),
    ):
        answer = w.ask(message)
        assert answer.statuses == [(FAILED, (0,), BAD_IDENTITY)]
        assert '"cmc.identity.missing"' in w.why(answer)
    key = new_key()
    content = pki_data(requests=[tcr(1, client.csr(key, name("dev1")))])
    assert w.ask(signed(content, key=key)).statuses == [(FAILED, (1,), BAD_IDENTITY)]
    assert w.issued_by_cmc() == 0


@pytest.mark.parametrize(
    "who", ["stranger", "revoked", "expired", "other authority", "other tenant", "encryption only"]
)
def test_a_signer_that_is_not_good_here(w: World, who: str) -> None:
    holder = w.enroll_by_secret()
    if who == "stranger":
        holder = issued_by(self_signed(new_key(), "CA"), "dev1", new_key())  # type: ignore[assignment]
    if who == "revoked":
        issuer = drive(w.hierarchy.active("default", "devices"))
        number = holder.certificate.serial_number
        drive(w.revocation.revoke(ADMIN, "default", issuer.id, number, Reason.SUPERSEDED))
    if who == "expired":
        w.clock.advance(days=366)
    if who == "other authority":
        drive(w.objects.put(ADMIN, "default", "authority", "other", {}))
        drive(w.root("other", w._algorithm))
        drive(w.open("cmc", "iot", authority="other"))
    if who == "other tenant":
        drive(_other_tenant(w))
    if who == "encryption only":
        rules = {
            "via": ["cmc"], "extensions": {"key_usage": ["key_encipherment"]},
            "subject": {"attributes": {"CN": {}}},
        }  # fmt: skip
        drive(w.objects.put(ADMIN, "default", "profile", "enc", rules))
        drive(w.open("cmc", "iot", profile="enc", challenge={"recoverable": True}))
        holder = w.enroll_by_secret(key=rsa.generate_private_key(65537, 2048))
    before = w.issued_by_cmc()
    key = new_key()
    csr = client.csr(key, holder.certificate.subject)
    sender = Holder(holder.certificate, holder.key)
    message = signed(pki_data(requests=[tcr(1, csr)]), sender)
    if who == "other tenant":
        # Its authority has no key yet, so that the answer cannot be read; the journal can.
        assert w.send(message).status == 503
        assert any('"renewal.foreign"' in each.data for each in w.events("request.refused"))
    else:
        answer = w.ask(message)
        assert answer.statuses[0][::2] == (FAILED, BAD_IDENTITY), answer.told
    assert w.issued_by_cmc() == before


async def _other_tenant(w: World) -> None:
    put = w.objects.put
    await put(ADMIN, EVERY_TENANT, "tenant", "acme", {})
    for preset in ("device", "cmp-signer", "root-ca"):
        stored = await w.objects.load("default", "profile", preset)
        await put(ADMIN, "acme", "profile", preset, stored.document.model_dump(mode="json"))
    await w.objects.delete(ADMIN, "default", "endpoint", "cmc-iot")
    await put(ADMIN, "acme", "authority", "devices", {"serves_tenants": []})
    row = {"protocol": "cmc", "label": "iot", "authority": "devices", "profile": "device"}
    await put(ADMIN, "acme", "endpoint", "cmc-iot", row)


# -- identity -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    ["secret", "reference", "no reference", "other requests", "revoked", "expired", "other door",
     "not recoverable", "used"],
)  # fmt: skip
def test_a_wrong_identity_proof_is_badidentity(w: World, fault: str) -> None:
    reference, secret = w.known()
    requests = [a_request()]
    covered = [a_request()] if fault == "other requests" else requests
    if fault == "secret":
        secret = "x" * 32
    if fault == "other door":
        drive(w.open("cmc", "other", challenge={"recoverable": True}))
        reference, secret = w.known(endpoint="cmc/other")
    if fault == "revoked":
        drive(w.secrets.revoke(ADMIN, "default", reference))
    if fault == "expired":
        w.clock.advance(days=2)
    if fault == "used":
        w.enroll_by_secret("first", known=(reference, secret))
    if fault == "not recoverable":
        row, found = drive(w.secrets.create(ADMIN, "default", "cmc/iot"))
        reference, secret = row.id, found.reveal().decode()
    controls = client.proof(reference, secret, covered)
    if fault == "reference":
        controls = client.proof("0" * 26, secret, covered)
    if fault == "no reference":
        controls = controls[1:]
    before = w.issued_by_cmc()
    answer = w.ask(signed(pki_data(controls, requests), no_signature=b"k"))
    assert answer.statuses[0][::2] == (FAILED, BAD_IDENTITY), answer.told
    assert w.issued_by_cmc() == before


def test_an_endpoint_without_shared_secrets_takes_none() -> None:
    w = world(challenge={}, authenticate=["certificate"])
    requests = [a_request()]
    content = pki_data(client.proof("a", "b" * 32, requests), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses[0][::2] == (FAILED, BAD_IDENTITY)
    assert '"cmc.identity.secret"' in w.why(answer)


def test_guessing_is_slowed_down(w: World) -> None:
    requests = [a_request()]
    content = pki_data(client.proof("0" * 26, "x" * 32, requests), requests)
    for _ in range(10):
        w.ask(signed(content, no_signature=b"k"))
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses[0][::2] == (FAILED, client.TRY_LATER)
    answer = w.ask(client.authenticated(pki_data([(client.IDENTIFICATION, utf8("0" * 26))]), b"x"))
    assert answer.statuses[0][::2] == (FAILED, client.TRY_LATER)


@pytest.mark.parametrize("fault", ["password", "content", "rounds", "salt", "sha1", "no name"])
def test_authenticated_data_must_fit(w: World, fault: str) -> None:
    reference, secret = w.known()
    named = [(client.IDENTIFICATION, utf8(reference))]
    content = pki_data(() if fault == "no name" else named, [a_request()])
    password = (reference + secret).encode()
    options: dict[str, Any] = {}
    if fault == "password":
        password = secret.encode()
    if fault == "rounds":
        options["rounds"] = 100
    if fault == "salt":
        options["salt"] = b"x"
    if fault == "sha1":
        options["mac"] = "sha1"
    message = bytearray(client.authenticated(content, password, **options))
    if fault == "content":
        message[-1] ^= 1
    answer = w.ask(bytes(message))
    bad = client.BAD_ALG if fault in ("rounds", "salt", "sha1") else BAD_IDENTITY
    assert answer.statuses[0][::2] == (FAILED, bad), answer.told
    assert w.issued_by_cmc() == 0


def test_a_secret_is_bound_to_its_names(w: World) -> None:
    known = w.known(bound_to=Binding(subject=("CN=dev1",)))
    requests = [a_request(common="root")]
    content = pki_data(by_secret(w, requests, known=known), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses == [(FAILED, (1,), BAD_IDENTITY)]
    requests = [a_request(common="dev1")]
    content = pki_data(by_secret(w, requests, known=known), requests)
    assert w.ask(signed(content, no_signature=b"k")).statuses == [(SUCCESS, (1,), None)]


# -- requests -------------------------------------------------------------------------------


def test_of_two_requests_one_can_be_refused(w: World) -> None:
    """T-CMC-04: policy is each request's own, with a status of its own."""
    known = w.known(uses=None)
    weak, key = rsa.generate_private_key(65537, 1024), new_key()
    requests = [tcr(1, client.csr(weak, name("weak"))), tcr(2, client.csr(key, name("dev1")))]
    content = pki_data(by_secret(w, requests, known=known), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses == [(FAILED, (1,), client.BAD_ALG), (SUCCESS, (2,), None)]
    assert answer.certified(key)
    assert w.issued_by_cmc() == 1


def test_a_missing_proof_stops_all_of_them(w: World) -> None:
    """RFC 10002, 6.7: nothing is issued as long as possession of one key is open."""
    known = w.known(uses=None)
    good, bad = a_request(1), bytearray(client.csr(new_key(), name("dev2")))
    bad[-1] ^= 1
    requests = [good, tcr(2, bytes(bad))]
    content = pki_data(by_secret(w, requests, known=known), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses == [(FAILED, (2,), client.POP_FAILED)]
    assert w.issued_by_cmc() == 0
    requests = [good, client.crm(2, new_key(), name("dev2"), proof="raVerified")]
    content = pki_data(by_secret(w, requests, known=known), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses[1] == (FAILED, (2,), client.POP_FAILED)


def test_a_template_is_complete(w: World) -> None:
    request = client.crm(1, new_key(), name("dev1"))
    request["crm"]["certReq"]["certTemplate"]["subject"] = rfc4211.CertTemplate()["subject"].clone()
    requests = [request]
    content = pki_data(by_secret(w, requests), requests)
    answer = w.ask(signed(content, no_signature=b"k"))
    assert answer.statuses[0][0] == FAILED
    assert w.issued_by_cmc() == 0


def test_the_clock_can_be_checked() -> None:
    w = world(options={"clock_window": 60})
    now = w.clock()
    for at, is_good in ((now, True), (now - timedelta(seconds=61), False), (None, False)):
        requests = [a_request()]
        content = pki_data(by_secret(w, requests), requests)
        answer = w.ask(signed(content, no_signature=b"k", at=at))
        if is_good:
            assert answer.statuses == [(SUCCESS, (1,), None)]
        else:
            assert answer.statuses == [(FAILED, (0,), client.BAD_TIME)]


# -- revocation, certificates, CRLs ---------------------------------------------------------


def test_a_holder_revokes_its_own(w: World) -> None:
    holder = w.enroll_by_secret()
    since = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
    control = (5, client.REVOKE, client.revoke(holder.certificate, 1, since=since, comment="lost"))
    message = signed(pki_data([control]), holder)
    assert w.ask(message).statuses == [(SUCCESS, (5,), None)]
    assert w.status_of(holder.certificate) == "revoked"
    # A signer that has revoked itself says nothing more, not even the same.
    assert w.ask(message).statuses[0][::2] == (FAILED, BAD_IDENTITY)


@pytest.mark.parametrize("who", ["other", "noSignature with proof", "nobody", "secret"])
def test_nobody_else_revokes(w: World, who: str) -> None:
    """Spec 6.4: an identity proof covers the requests, and no control."""
    holder = w.enroll_by_secret()
    control = (5, client.REVOKE, client.revoke(holder.certificate))
    if who == "other":
        message = signed(pki_data([control]), w.enroll_by_secret("dev2"))
    elif who == "nobody":
        message = signed(pki_data([control]))
    elif who == "secret":
        reference, secret = w.known()
        content = pki_data([(client.IDENTIFICATION, utf8(reference)), control])
        message = client.authenticated(content, (reference + secret).encode())
    else:
        requests = [a_request()]
        message = signed(pki_data(by_secret(w, requests, control), requests), no_signature=b"k")
    answer = w.ask(message)
    expected = BAD_CERT_ID if who == "other" else BAD_IDENTITY
    assert answer.statuses[0] == (FAILED, (5,), expected)
    # The request beside it was not looked at.
    assert {status[0] for status in answer.statuses} == {FAILED}
    assert w.status_of(holder.certificate) == "good"


@pytest.mark.parametrize(
    "fault", ["", "other secret", "other certificate", "static", "revoked secret", "other door"]
)
def test_the_secret_of_the_enrolment_revokes(w: World, fault: str) -> None:
    known = w.known(uses=None) if fault == "static" else w.known()
    holder = w.enroll_by_secret(known=known)
    other = w.enroll_by_secret("dev2")
    word = "x" * 32 if fault == "other secret" else known[1]
    target = other if fault == "other certificate" else holder
    tail = "iot"
    if fault == "revoked secret":
        drive(w.secrets.revoke(ADMIN, "default", known[0]))
    if fault == "other door":
        drive(w.open("cmc", "other", challenge={"recoverable": True}))
        tail = "other"
    control = (5, client.REVOKE, client.revoke(target.certificate, 5, passphrase=word))
    answer = w.ask(signed(pki_data([control])), tail=tail)
    if fault:
        assert answer.statuses == [(FAILED, (5,), BAD_IDENTITY)]
        assert w.status_of(target.certificate) == "good"
    else:
        assert answer.statuses == [(SUCCESS, (5,), None)]
        assert w.status_of(target.certificate) == "revoked"
        assert w.ask(signed(pki_data([control]))).statuses == [(SUCCESS, (5,), None)]


@pytest.mark.parametrize("reason", [2, 6, 8, 10, 99])
def test_some_reasons_are_not_a_holders(w: World, reason: int) -> None:
    holder = w.enroll_by_secret()
    value = client.revoke(holder.certificate, 1).replace(b"\x0a\x01\x01", bytes((10, 1, reason)))
    answer = w.ask(signed(pki_data([(5, client.REVOKE, value)]), holder))
    assert answer.statuses == [(FAILED, (5,), BAD_REQUEST)]
    assert w.status_of(holder.certificate) == "good"


def test_certificates_and_crls_are_told(w: World) -> None:
    holder = w.enroll_by_secret()
    issuer, number = holder.certificate.issuer, holder.certificate.serial_number
    controls = [(5, client.GET_CERT, client.get_cert(issuer, number))]
    answer = w.ask(signed(pki_data(controls), holder))
    assert not answer.is_full
    assert answer.certificates == [holder.certificate]
    crl = (6, client.GET_CRL, client.get_crl(issuer))
    answer = w.ask(signed(pki_data([crl])))
    assert not answer.is_full
    assert answer.crls[0].is_signature_valid(w.ca.public_key())  # type: ignore[arg-type]
    answer = w.ask(signed(pki_data([*controls, crl, (7, client.TRANSACTION, integer(1))]), holder))
    assert answer.is_full
    assert answer.crls
    assert holder.certificate in answer.certificates


@pytest.mark.parametrize(
    "fault", ["serial", "negative", "issuer", "nobody", "used secret", "other holder", "secret"]
)
def test_certificates_are_not_told_to_anybody(w: World, fault: str) -> None:
    known = w.known()
    holder = w.enroll_by_secret(known=known)
    issuer, number = holder.certificate.issuer, holder.certificate.serial_number
    if fault == "serial":
        number += 1
    if fault == "negative":
        number = -number
    if fault == "issuer":
        issuer = name("another CA")
    content = pki_data(
        [(5, client.GET_CERT, client.get_cert(issuer, number)),
         (6, client.IDENTIFICATION, utf8(known[0]))]
    )  # fmt: skip
    asking = w.enroll_by_secret("dev2") if fault == "other holder" else holder
    message = signed(content, None if fault == "nobody" else asking)
    if fault == "secret":
        fresh = w.known()
        content = pki_data(
            [(5, client.GET_CERT, client.get_cert(issuer, number)),
             (6, client.IDENTIFICATION, utf8(fresh[0]))]
        )  # fmt: skip
        message = client.authenticated(content, "".join(fresh).encode())
    if fault == "used secret":
        message = client.authenticated(content, (known[0] + known[1]).encode())
    answer = w.ask(message)
    expected = BAD_IDENTITY if fault in ("nobody", "used secret") else BAD_CERT_ID
    assert answer.statuses == [(FAILED, (5,), expected)]
    assert holder.certificate not in answer.certificates


def test_a_certificate_is_told_to_others_where_the_endpoint_says_so() -> None:
    w = world(options={"open_getcert": True})
    holder, other = w.enroll_by_secret(), w.enroll_by_secret("dev2")
    value = client.get_cert(holder.certificate.issuer, holder.certificate.serial_number)
    answer = w.ask(signed(pki_data([(5, client.GET_CERT, value)]), other))
    assert answer.certificates == [holder.certificate]


def test_an_older_crl_is_not_kept(w: World) -> None:
    value = client.get_crl(w.ca.subject, datetime(2020, 1, 1, tzinfo=UTC))
    answer = w.ask(signed(pki_data([(5, client.GET_CRL, value)])))
    assert answer.statuses == [(FAILED, (5,), BAD_CERT_ID)]
    answer = w.ask(signed(pki_data([(5, client.GET_CRL, client.get_crl(name("x")))])))
    assert answer.statuses == [(FAILED, (5,), BAD_CERT_ID)]


# -- outages and the table ------------------------------------------------------------------


def test_where_nothing_can_be_signed_http_says_so(w: World, monkeypatch: Any) -> None:
    async def fail(*_: Any) -> Any:
        raise Fault(FaultCode.UNAVAILABLE, "no", retry_after=3)

    monkeypatch.setattr(w.service_certificates, "current", fail)
    response = w.send(signed(pki_data()))
    assert (response.status, response.body) == (503, answers.UNSIGNED)
    assert ("Retry-After", "3") in response.headers
    message = client.decode(response.body, rfc5652.ContentInfo())
    inside = client.decode(bytes(message["content"]), rfc5652.SignedData())
    assert not len(inside["signerInfos"])


def test_every_failure_of_the_core_has_a_value() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
    assert codec.fail_info(Fault(FaultCode.REJECTED, "", rule="key.duplicate.refuse")) is (
        FailInfo.NO_KEY_REUSE
    )
    assert codec.fail_info(Fault(FaultCode.UNAVAILABLE, "", rule="secret.x")) is FailInfo.TRY_LATER


def test_extensions_that_a_profile_does_not_give_are_dropped(w: World) -> None:
    """T-ACME-06, ESC15: what stands in a request is a wish."""
    key = new_key()
    reference, secret = w.known()
    extensions = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2"), b"\x30\x00"),
    ]
    requests = [tcr(1, client.csr(key, name("dev1"), extensions=extensions))]
    content = pki_data(client.proof(reference, secret, requests), requests)
    certificate = w.ask(signed(content, key=key)).certified(key)
    oids = {each.oid.dotted_string for each in certificate.extensions}
    assert "1.3.6.1.4.1.311.25.2" not in oids
    assert (
        b"\x01\x01\xff"
        not in certificate.public_bytes(Encoding.DER).partition(b"\x55\x1d\x13")[2][:8]
    )
