"""Certificates over CMC: by secret, by certificate, by decryption, pending, confirmed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from pyasn1_alt_modules import rfc5652, rfc6402

from tests import cmc_client as client
from tests.cmc_client import (
    FAILED,
    PENDING,
    SUCCESS,
    Answer,
    Challenge,
    Holder,
    decode,
    integer,
    octets,
    pki_data,
    signed,
    tcr,
)
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmc_world import FULL, NONCE, World, name, world
from tests.unit.cmp_world import new_key, self_signed
from tests.unit.est_world import Session
from tests.unit.test_enrolment_credentials import Maker
from tmad.protocols.est.responder import ESTResponder
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire.http import Request, Response


@pytest.fixture
def w() -> World:
    return world()


def renewal(w: World, holder: Holder, key: Any = None, **options: Any) -> bytes:
    """Return a full request for the successor of a certificate."""
    key = key or new_key()
    subject = holder.certificate.subject
    requests = [tcr(1, client.csr(key, subject, **options))]
    return signed(pki_data(requests=requests), holder)


# -- by a shared secret ---------------------------------------------------------------------


def test_a_secret_enrols_and_everything_is_repeated(w: World) -> None:
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(7, client.csr(key, name("dev1"), names=[x509.DNSName("dev1.example.test")]))]
    controls = [
        *client.proof(reference, secret, requests),
        (client.TRANSACTION, integer(2**80 + 1)),
        (client.SENDER_NONCE, octets(NONCE)),
        (client.DATA_RETURN, octets(b"where the key is")),
        (client.REG_INFO, octets(b"any thing")),
    ]
    answer = w.ask(signed(pki_data(controls, requests), key=key))
    assert answer.statuses == [(SUCCESS, (7,), None)]
    assert answer.controls[client.TRANSACTION] == [integer(2**80 + 1)]
    assert answer.controls[client.RECIPIENT_NONCE] == [octets(NONCE)]
    assert len(answer.controls[client.SENDER_NONCE][0]) == 18
    assert answer.controls[client.DATA_RETURN] == [octets(b"where the key is")]
    certificate = answer.certified(key)
    certificate.verify_directly_issued_by(w.ca)
    assert w.issued_by_cmc() == 1
    # The same secret does nothing else.
    again = [tcr(7, client.csr(new_key(), name("dev2")))]
    other = w.ask(signed(pki_data(client.proof(reference, secret, again), again), key=key))
    assert other.statuses[0][0] == FAILED


@pytest.mark.parametrize("make", ["noSignature", "own key", "authenticated", "crmf"])
def test_the_secret_can_be_shown_in_each_form(w: World, make: str) -> None:
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    if make == "crmf":
        requests = [client.crm(1, key, name("dev1"), extensions=[_identifier(key)])]
    content = pki_data(client.proof(reference, secret, requests), requests)
    if make == "noSignature":
        message = signed(content, no_signature=client.identifier(key))
    elif make == "authenticated":
        bare = pki_data([(client.IDENTIFICATION, client.utf8(reference))], requests)
        message = client.authenticated(bare, (reference + secret).encode())
    else:
        message = signed(content, key=key)
    answer = w.ask(message)
    assert answer.statuses == [(SUCCESS, (1,), None)], answer.told
    assert answer.certified(key).subject == name("dev1")


def _identifier(key: Any) -> tuple[str, bytes]:
    value = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).public_bytes()
    return "2.5.29.14", value


def test_a_lost_answer_is_given_again(w: World) -> None:
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    first, second = w.ask(message), w.ask(message)
    assert first.certified(key) == second.certified(key)
    assert w.issued_by_cmc() == 1
    # After the idempotency window a replay finds the secret used up.
    w.clock.advance(minutes=61)
    late = w.ask(message)
    assert late.statuses == [(FAILED, (1,), client.BAD_IDENTITY)]
    assert w.issued_by_cmc() == 1


def test_the_root_comes_protected_by_the_secret(w: World) -> None:
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    answer = w.ask(signed(pki_data(client.proof(reference, secret, requests), requests), key=key))
    (body_part,) = answer.controls[client.AUTH_DATA]
    number = int(decode(body_part))
    content = client.open_authenticated(answer.messages[number], (reference + secret).encode())
    inside = decode(content, rfc6402.PKIData())
    (control,) = inside["controlSequence"]
    anchors = decode(bytes(control["attrValues"][0]), rfc6402.PublishTrustAnchors())
    assert bytes(anchors["anchorHashes"][0]) == _sha256(w.ca)
    assert w.ca in answer.certificates


def _sha256(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


@pytest.mark.parametrize("form", ["PKCS#10", "CRMF", "as Dogtag makes the key", "PBKDF2"])
def test_a_pop_link_ties_the_request_to_the_secret(form: str) -> None:
    w = world(options={"pop_link": "required"})
    key, random = new_key(), b"r" * 64
    reference, secret = w.known()
    identification = reference if form.startswith("as Dogtag") else ""
    attribute = client.link(secret, random, identification=identification)
    if form == "PBKDF2":
        attribute = client.link_by_pbkdf2(secret, random, rounds=1000)
    request = tcr(1, client.csr(key, name("dev1"), attributes=[attribute]))
    if form == "CRMF":
        request = client.crm(1, key, name("dev1"), controls=[attribute])
    controls = [*client.proof(reference, secret, [request]), (client.LINK_RANDOM, octets(random))]
    answer = w.ask(signed(pki_data(controls, [request]), no_signature=b"k"))
    assert answer.statuses == [(SUCCESS, (1,), None)], answer.told


@pytest.mark.parametrize("fault", ["absent", "other secret", "other random", "no random"])
def test_a_wrong_pop_link_is_popfailed(fault: str) -> None:
    w = world(options={"pop_link": "required"})
    key, random = new_key(), b"r" * 64
    reference, secret = w.known()
    attributes = [client.link("x" * 32 if fault == "other secret" else secret, random)]
    csr = client.csr(key, name("dev1"), attributes=() if fault == "absent" else attributes)
    requests = [tcr(1, csr)]
    controls = client.proof(reference, secret, requests)
    if fault != "no random":
        shown = b"s" * 64 if fault == "other random" else random
        controls.append((client.LINK_RANDOM, octets(shown)))
    answer = w.ask(signed(pki_data(controls, requests), key=key))
    assert answer.statuses == [(FAILED, (1,), client.POP_FAILED)]
    assert w.issued_by_cmc() == 0


def test_the_first_versions_are_for_endpoints_that_say_so() -> None:
    for legacy in (False, True):
        w = world(options={"legacy": legacy})
        key = new_key()
        reference, secret = w.known()
        random = b"r" * 64
        sha1 = hashlib.sha1(secret.encode()).digest()
        link = (client.CMC + "23", octets(hmac.digest(sha1, random, "sha1")))
        requests = [tcr(1, client.csr(key, name("dev1"), attributes=[link]))]
        words = hashlib.sha1((secret + reference).encode()).digest()
        proof = hmac.digest(words, client.sequence_of(requests), "sha1")
        controls = [
            (client.IDENTIFICATION, client.utf8(reference)),
            (client.PROOF, octets(proof)),
            (client.LINK_RANDOM, octets(random)),
        ]
        answer = w.ask(signed(pki_data(controls, requests), key=key))
        if legacy:
            assert answer.statuses == [(SUCCESS, (1,), None)], answer.told
        else:
            assert answer.statuses[0][::2] == (FAILED, client.BAD_IDENTITY)
        # Who speaks the old version gets the old status, too (CMC-14).
        old = decode(answer.controls[client.STATUS][0], rfc6402.CMCStatusInfo())
        assert int(old["cMCStatus"]) == answer.statuses[0][0]


def test_a_challenge_password_enrols_like_over_other_protocols() -> None:
    w = world(authenticate=["challenge"])
    row, secret = drive(w.secrets.create(ADMIN, "default", "cmc/iot"))
    assert row.uses_left == 1
    key = new_key()
    password = ("1.2.840.113549.1.9.7", client.utf8(secret.reveal().decode()))
    requests = [tcr(1, client.csr(key, name("dev1"), attributes=[password]))]
    answer = w.ask(signed(pki_data(requests=requests), key=key))
    assert answer.statuses == [(SUCCESS, (1,), None)] or not answer.is_full
    assert answer.certified(key)


# -- by a certificate -----------------------------------------------------------------------


def test_a_certificate_renews_itself_with_a_simple_answer(w: World) -> None:
    holder = w.enroll_by_secret()
    key = new_key()
    answer = w.ask(renewal(w, holder, key))
    # Nothing had to be said besides the certificate (RFC 10002, 3.2).
    assert not answer.is_full
    assert answer.certified(key).subject == holder.certificate.subject


def test_a_renewal_keeps_its_names(w: World) -> None:
    holder = w.enroll_by_secret()
    key = new_key()
    message = signed(pki_data(requests=[tcr(1, client.csr(key, name("root")))]), holder)
    answer = w.ask(message)
    assert answer.statuses == [(FAILED, (1,), client.BAD_IDENTITY)]
    wish = (client.CMC + "36", client.new_name(name("root")))
    csr = client.csr(key, holder.certificate.subject, attributes=[wish])
    answer = w.ask(signed(pki_data(requests=[tcr(1, csr)]), holder))
    assert answer.statuses == [(FAILED, (1,), client.BAD_IDENTITY)]
    assert '"renewal.names"' in w.why(answer)


def test_a_new_name_can_be_wished_where_the_secret_allows_it(w: World) -> None:
    key = new_key()
    reference, secret = w.known()
    wish = client.CMC + "36", client.new_name(name("new"), [x509.DNSName("new.example.test")])
    requests = [tcr(1, client.csr(key, name("old"), attributes=[wish]))]
    answer = w.ask(signed(pki_data(client.proof(reference, secret, requests), requests), key=key))
    certificate = answer.certified(key)
    assert certificate.subject == name("new")
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["new.example.test"]


def test_a_manufacturers_device_enrols_with_its_own_certificate(w: World) -> None:
    maker = Maker(w)
    maker.anchor(revocation="off")
    rules = {"authenticate": ["manufacturer"], "manufacturers": ["maker"]}
    drive(w.open("cmc", "iot", **rules))
    device, other = made_by(maker, "SN-1"), made_by(maker, "SN-2")
    stranger = made_by(Maker(w, "Another Root"), "SN-1")
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, "SN-1"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev1"),
        ]
    )
    key = new_key()
    content = pki_data(requests=[tcr(1, client.csr(key, subject))])
    assert w.ask(signed(content, device)).certified(key).subject == subject
    # As another device, or as a stranger's: no.
    assert w.ask(signed(content, other)).statuses == [(FAILED, (1,), client.BAD_IDENTITY)]
    assert w.ask(signed(content, stranger)).statuses == [(FAILED, (0,), client.BAD_IDENTITY)]


def made_by(maker: Maker, serial: str) -> Holder:
    key = new_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, serial)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(maker.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2036, 1, 1))
    )
    return Holder(builder.sign(maker.key, hashes.SHA256()), key, (maker.certificate,))


# -- simple requests ------------------------------------------------------------------------


def test_a_simple_request_is_shown_by_tls(w: World) -> None:
    holder = w.enroll_by_secret()
    key = new_key()
    csr = client.csr(key, holder.certificate.subject)
    shown = (holder.certificate.public_bytes(Encoding.DER),)
    answer = w.ask(csr, media_type="application/pkcs10", certificates=shown)
    assert not answer.is_full
    assert answer.certified(key)


def test_a_simple_request_of_nobody_gets_a_full_refusal(w: World) -> None:
    csr = client.csr(new_key(), name("dev1"))
    answer = w.ask(csr, media_type="application/pkcs10")
    assert answer.statuses == [(FAILED, (1,), client.BAD_IDENTITY)]
    assert "[" in answer.told[0].text
    broken = bytearray(csr)
    broken[-1] ^= 1
    answer = w.ask(bytes(broken), media_type="application/pkcs10")
    assert answer.statuses == [(FAILED, (1,), client.POP_FAILED)]
    answer = w.ask(b"nothing", media_type="application/pkcs10")
    assert answer.statuses == [(FAILED, (1,), client.BAD_REQUEST)]
    answer = w.ask(client.no_signature_csr(new_key(), name("x")), media_type="application/pkcs10")
    assert answer.statuses == [(FAILED, (1,), client.FAIL_POP_REQUIRED)]


# -- possession by decryption ---------------------------------------------------------------

KEYS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p256": new_key,
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "x25519": x25519.X25519PrivateKey.generate,
    "ml-kem-768": mlkem.MLKEM768PrivateKey.generate,
    "ml-kem-1024": mlkem.MLKEM1024PrivateKey.generate,
}


def encrypting(**options: Any) -> World:
    """Return a world whose profile certifies keys that encrypt."""
    w = world(**options)
    document = {
        "via": ["cmc"],
        "keys": {"algorithms": [*KEYS, "x448"]},
        "subject": {"attributes": {"CN": {}}},
        "extensions": {"key_usage": ["key_encipherment", "key_agreement"]},
    }
    drive(w.objects.put(ADMIN, "default", "profile", "encrypting", document))
    drive(w.open("cmc", "iot", profile="encrypting", challenge={"recoverable": True}))
    return w


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_a_key_that_only_decrypts_shows_so(kind: str) -> None:
    w = encrypting()
    key = KEYS[kind]()
    reference, secret = w.known()
    request = client.crm(201, key, name("dev1"), proof="keyEncipherment")
    if kind == "rsa":
        request = tcr(201, client.no_signature_csr(key, name("dev1")))
    controls = [
        *client.proof(reference, secret, [request]),
        (client.TRANSACTION, integer(5)),
        (client.SENDER_NONCE, octets(NONCE)),
    ]
    first = w.ask(signed(pki_data(controls, [request]), no_signature=b"key id"))
    assert first.statuses == [(FAILED, (201,), client.FAIL_POP_REQUIRED)], first.told
    challenge = Challenge.of(first)
    assert challenge.request == client.encode(request)
    assert w.issued_by_cmc() == 0
    controls.append(challenge.answer(key, 201))
    second = w.ask(signed(pki_data(controls, [request]), no_signature=b"key id"))
    assert second.statuses == [(SUCCESS, (201,), None)], (second.told, w.why(second))
    assert second.certified(key)
    assert w.issued_by_cmc() == 1


@pytest.mark.parametrize("fault", ["wrong", "late", "somebody else's"])
def test_a_challenge_is_for_one_request_of_one_sender_for_a_time(fault: str) -> None:
    w = encrypting()
    key = KEYS["x25519"]()
    reference, secret = w.known()
    request = client.crm(1, key, name("dev1"), proof="keyEncipherment")
    controls = client.proof(reference, secret, [request])
    first = w.ask(signed(pki_data(controls, [request]), no_signature=b"key id"))
    kind, value = Challenge.of(first).answer(key, 1)
    if fault == "wrong":
        value = value[:-1] + bytes([value[-1] ^ 1])
    if fault == "late":
        w.clock.advance(minutes=121)
    if fault == "somebody else's":
        reference, secret = w.known()
        controls = client.proof(reference, secret, [request])
    controls.append((kind, value))
    answer = w.ask(signed(pki_data(controls, [request]), no_signature=b"key id"))
    assert answer.statuses == [(FAILED, (1,), client.POP_FAILED)], answer.told
    assert w.issued_by_cmc() == 0


def test_a_key_that_can_sign_must(w: World) -> None:
    key = new_key()
    reference, secret = w.known()
    request = client.crm(1, key, name("dev1"), proof="none")
    answer = w.ask(signed(pki_data(client.proof(reference, secret, [request]), [request]),
                          no_signature=b"k"))  # fmt: skip
    assert answer.statuses == [(FAILED, (1,), client.FAIL_POP_REQUIRED)]
    assert client.ENCRYPTED not in answer.controls


# -- requests that wait ---------------------------------------------------------------------


def test_a_request_waits_and_whoever_has_the_token_hears() -> None:
    w = world(approval="manual", challenge={"recoverable": True})
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(4, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    first = w.ask(message)
    (told,) = first.told
    assert (told.status, told.parts) == (PENDING, (4,))
    assert told.again_at == datetime(2026, 11, 23, 12, 1, tzinfo=UTC)
    assert w.ask(message).told[0].status == PENDING  # a copy waits no less
    query = signed(pki_data([(9, client.QUERY, octets(told.token))]))
    assert w.ask(query).statuses == [(PENDING, (9,), None)]
    w.approve()
    answer = w.ask(query)
    assert answer.certified(key)
    # Nobody makes a token.
    for token in (b"", told.token[:-1], b"x" + told.token[1:]):
        answer = w.ask(signed(pki_data([(9, client.QUERY, octets(token))])))
        assert answer.statuses == [(FAILED, (9,), client.BAD_REQUEST)]
    drive(w.open("cmc", "other", challenge={"recoverable": True}))
    answer = w.ask(query, tail="other")
    assert answer.statuses == [(FAILED, (9,), client.BAD_REQUEST)]


def test_a_denied_request_is_told_so() -> None:
    w = world(approval="manual", challenge={"recoverable": True})
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(4, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    token = w.ask(message).told[0].token
    for row in drive(w.requests.list(ADMIN, "default")):
        drive(w.requests.deny(ADMIN, "default", row.id, comment="call us"))
    answer = w.ask(signed(pki_data([(9, client.QUERY, octets(token))])))
    assert answer.statuses[0][::2] == (FAILED, client.BAD_REQUEST)
    assert "call us" in answer.told[0].text


# -- confirmation ---------------------------------------------------------------------------


def confirming(**options: Any) -> World:
    return world(options={"confirm": True, **options}, challenge={"recoverable": True})


def unconfirmed(w: World) -> tuple[Holder, tuple[str, str]]:
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    answer = w.ask(message)
    assert answer.statuses == [(client.CONFIRM_REQUIRED, (1,), None)]
    assert w.ask(message).statuses == answer.statuses
    return Holder(answer.certified(key), key), (reference, secret)


def confirmation(holder: Holder, *more: Any) -> bytes:
    named = client.encode(client.issuer_and_serial(holder.certificate))
    return pki_data([(5, client.CONFIRM, named), *more])


def test_a_certificate_is_confirmed_by_its_holder() -> None:
    w = confirming()
    holder, _ = unconfirmed(w)
    answer = w.ask(signed(confirmation(holder), holder))
    assert answer.statuses == [(SUCCESS, (5,), None)]
    w.clock.advance(days=1)
    drive(w.exchanges.attend())
    assert w.status_of(holder.certificate) == "good"
    # A copy is told the same; who thinks better of it is too late.
    assert w.ask(signed(confirmation(holder), holder)).statuses == [(SUCCESS, (5,), None)]
    told = client.status_v2(FAILED, 1)
    late = signed(confirmation(holder, (6, client.STATUS_V2, told)), holder)
    assert w.ask(late).statuses == [(FAILED, (5,), client.BAD_REQUEST)]
    assert w.status_of(holder.certificate) == "good"


def test_a_certificate_is_confirmed_with_the_secret() -> None:
    w = confirming()
    holder, (reference, secret) = unconfirmed(w)
    named = client.encode(client.issuer_and_serial(holder.certificate))
    content = pki_data(
        [(client.IDENTIFICATION, client.utf8(reference)), (5, client.CONFIRM, named)]
    )
    answer = w.ask(client.authenticated(content, (reference + secret).encode()))
    assert answer.statuses == [(SUCCESS, (5,), None)]


def test_what_nobody_confirms_or_somebody_rejects_is_revoked() -> None:
    w = confirming()
    late, _ = unconfirmed(w)
    unwanted, _ = unconfirmed(w)
    told = client.status_v2(FAILED, 1, text="wrong name")
    answer = w.ask(signed(confirmation(unwanted, (6, client.STATUS_V2, told)), unwanted))
    assert answer.statuses == [(SUCCESS, (5,), None)]
    assert w.status_of(unwanted.certificate) == "revoked"
    w.clock.advance(seconds=601)
    drive(w.exchanges.attend())
    assert w.status_of(late.certificate) == "revoked"
    assert w.ask(signed(confirmation(late), late)).statuses[0][0] == FAILED


@pytest.mark.parametrize("who", ["nobody", "somebody else"])
def test_only_the_holder_confirms(who: str) -> None:
    w = confirming()
    holder, _ = unconfirmed(w)
    other, _ = unconfirmed(w)
    content = confirmation(holder)
    message = signed(content, other) if who == "somebody else" else signed(content)
    answer = w.ask(message)
    assert answer.statuses == [(FAILED, (5,), client.BAD_CERT_ID)]
    w.clock.advance(seconds=601)
    drive(w.exchanges.attend())
    assert w.status_of(holder.certificate) == "revoked"


def test_a_request_that_waited_is_confirmed_too() -> None:
    w = world(options={"confirm": True}, approval="manual", challenge={"recoverable": True})
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(4, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    token = w.ask(message).told[0].token
    w.clock.advance(hours=5)
    drive(w.exchanges.attend())
    w.approve()
    answer = w.ask(signed(pki_data([(9, client.QUERY, octets(token))])))
    assert answer.statuses == [(client.CONFIRM_REQUIRED, (9,), None)]
    holder = Holder(answer.certified(key), key)
    assert w.ask(signed(confirmation(holder), holder)).statuses == [(SUCCESS, (5,), None)]


# -- encrypted requests ---------------------------------------------------------------------


def test_a_request_can_be_encrypted_inside_and_outside_of_a_signature() -> None:
    w = world(options={"envelopes": True}, challenge={"recoverable": True})
    probe = w.ask(signed(pki_data([(1, client.GET_CRL, client.get_crl(w.ca.subject))]), None))
    assert probe.crls
    refused = w.ask(signed(pki_data([(1, 99, b"\x05\x00")])))
    (own,) = [c for c in refused.certificates if isinstance(c.public_key(), rsa.RSAPublicKey)]
    key = new_key()
    for content_type in (client.SIGNED_DATA, client.DATA):
        reference, secret = w.known()
        requests = [tcr(1, client.csr(key, name("dev1")))]
        message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
        inside = message
        if content_type == client.SIGNED_DATA:
            inside = bytes(decode(message, rfc5652.ContentInfo())["content"])
        envelope = client.enveloped(inside, own, content_type=content_type)
        answer = w.ask(envelope)
        assert answer.statuses == [(SUCCESS, (1,), None)], answer.told
    # Option 2: a signature around the envelope.
    holder = w.enroll_by_secret("dev2")
    message = renewal(w, holder)
    inside = bytes(decode(message, rfc5652.ContentInfo())["content"])
    envelope = client.enveloped(inside, own, content_type=client.SIGNED_DATA)
    body = bytes(decode(envelope, rfc5652.ContentInfo())["content"])
    outer = signed(body, holder, content_type="1.2.840.113549.1.7.3")
    assert not w.ask(outer).is_full
    # A wrong key, a wrong padding and no CMS inside are one answer.
    broken = [
        client.enveloped(b"no CMS at all", own, content_type=client.SIGNED_DATA),
        envelope[:-1] + bytes([envelope[-1] ^ 1]),
    ]
    answers = [w.ask(each) for each in broken]
    assert [each.statuses for each in answers] == [[(FAILED, (0,), client.BAD_MESSAGE_CHECK)]] * 2
    assert len({each.told[0].text.partition("[")[0] for each in answers}) == 1


def test_envelopes_are_refused_where_the_endpoint_has_no_key(w: World) -> None:
    certificate = self_signed(rsa.generate_private_key(65537, 2048)).certificate
    message = client.enveloped(b"x", certificate, content_type=client.DATA)
    assert w.ask(message).statuses == [(FAILED, (0,), client.BAD_REQUEST)]


# -- EST ------------------------------------------------------------------------------------


def test_est_hands_full_requests_on(w: World) -> None:
    drive(w.open("est", "iot", profile="device"))
    est = ESTResponder(w.services, full_cmc=lambda: w.cmc.respond_for)

    def ask(body: bytes, label: str = "iot") -> Response:
        request = Request(
            method="POST",
            path=b"/",
            headers={"content-type": FULL, "user-agent": "curl"},
            body=base64.b64encode(body),
            tail=label.encode() + b"/fullcmc",
            tls=Session(()),
        )
        return drive(est.respond(request))

    key = new_key()
    reference, secret = w.known()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    message = signed(pki_data(client.proof(reference, secret, requests), requests), key=key)
    response = ask(message)
    assert response.status == 200
    assert dict(response.headers)["Content-Transfer-Encoding"] == "base64"
    assert Answer(base64.b64decode(response.body)).certified(key)
    # RFC 7030, 4.3.2: a refusal has a status of HTTP as well as an answer.
    refused = ask(signed(pki_data([(3, 99, b"\x05\x00")])))
    assert refused.status == 400
    answer = Answer(base64.b64decode(refused.body))
    assert answer.statuses == [(FAILED, (3,), client.BAD_REQUEST)]
    assert ask(b"nothing").status == 400
    drive(w.open("est", "alone", profile="device"))
    assert ask(message, "alone").status == 501


# -- the authority's keys -------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RSA_3072", "P384", "ED25519", "ML_DSA_65"])
def test_answers_are_signed_as_fits_the_authority(algorithm: str) -> None:
    w = world(algorithm=KeyAlgorithm[algorithm])
    key = {
        "ED25519": ed25519.Ed25519PrivateKey.generate,
        "ML_DSA_65": mldsa.MLDSA65PrivateKey.generate,
    }
    holder = w.enroll_by_secret(key=key.get(algorithm, new_key)())
    holder.certificate.verify_directly_issued_by(w.ca)
    assert not w.ask(renewal(w, holder)).is_full


def test_x448_is_challenged_too() -> None:
    w = encrypting()
    key = x448.X448PrivateKey.generate()
    reference, secret = w.known()
    request = client.crm(1, key, name("dev1"), proof="keyEncipherment")
    answer = w.ask(signed(pki_data(client.proof(reference, secret, [request]), [request]),
                          no_signature=b"k"))  # fmt: skip
    assert answer.statuses == [(FAILED, (1,), client.FAIL_POP_REQUIRED)]
