"""CMP messages: recorded ones of `openssl cmp`, and pyasn1 as an independent reader and writer."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc9810

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmp import bodies, codec, protection
from tmad.protocols.cmp.bodies import StatusInfo
from tmad.protocols.cmp.codec import FAULTS, FAULTS_BY_RULE, Body, FailInfo, Header, Info, Status
from tmad.wire import crmf, der, signatures
from tmad.wire.cms import IssuerAndSerial
from tmad.wire.signatures import Algorithm, Policy

VECTORS = Path(__file__).parents[1] / "vectors" / "cmp"
NAMES = sorted(path.stem for path in VECTORS.glob("*.der"))
SECRET = Secret("vector-secret")


def vector(name: str) -> bytes:
    return (VECTORS / f"{name}.der").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_recorded_messages_read_as_pyasn1_reads_them(name: str) -> None:
    octets = vector(name)
    message = codec.decode(octets)
    oracle, rest = decoder.decode(octets, asn1Spec=rfc9810.PKIMessage())
    assert not rest
    header = oracle["header"]
    assert message.header.version == int(header["pvno"])
    assert message.transaction == bytes(header["transactionID"])
    assert message.header.sender_nonce == bytes(header["senderNonce"])
    assert message.header.sender == encoder.encode(header["sender"])
    # Bodies have the names of the RFC in pyasn1, and ours in upper case.
    assert Body(message.body).name.replace("_", "").lower() == oracle["body"].getName().lower()
    assert message.protected == der.sequence(encoder.encode(header), encoder.encode(oracle["body"]))
    assert len(message.extra) == len(oracle["extraCerts"])
    assert codec.encode_header(message.header) == encoder.encode(header)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("ir-pbm", "poll", "genm"))])
def test_recorded_macs_are_right_with_the_right_secret_only(name: str) -> None:
    message = codec.decode(vector(name))
    assert message.header.protection is not None
    assert message.protection is not None
    mac = protection.read_mac(message.header.protection)
    assert mac.algorithm() == message.header.protection
    assert mac.check(mac.key(SECRET), message.protected, message.protection)
    assert not mac.check(mac.key(Secret("another")), message.protected, message.protection)


@pytest.mark.parametrize("name", ["ir-sig-1", "cr-1", "kur-1", "rr-1", "ra-1", "p10cr-1"])
def test_recorded_signatures_are_right(name: str) -> None:
    message = codec.decode(vector(name))
    certificate = x509.load_der_x509_certificate(message.extra[0])
    assert message.header.protection is not None
    assert message.protection is not None
    signatures.verify_whole(
        certificate.public_key(),
        message.header.protection,
        message.protection,
        message.protected,
        Policy(),
    )
    assert message.header.sender == crmf.general_name(certificate.subject)


def test_requests_of_openssl() -> None:
    message = codec.decode(vector("ir-pbm-1"))
    (request,) = bodies.read_requests(message.content)
    template = request.template
    assert (request.id, template.issuer, template.has_validity) == (0, None, True)
    assert template.subject is not None
    content = crmf.read(template, subject_der=template.subject)
    assert content.subject.rfc4514_string() == "CN=dev1"
    assert [name.value for name in content.names] == ["dev1.example.test"]
    assert isinstance(request.proof, crmf.SignatureProof)
    crmf.check_signature(
        request, request.proof, content.public_key, message.header.sender, Policy()
    )
    (request,) = bodies.read_requests(codec.decode(vector("ra-1")).content)
    assert isinstance(request.proof, crmf.Vouched)
    (request,) = bodies.read_requests(codec.decode(vector("kur-1")).content)
    old = crmf.read_cert_id(request.controls[crmf.OLD_CERT_ID])
    assert crmf.cert_id(old) == request.controls[crmf.OLD_CERT_ID]


def test_a_key_that_is_shown_by_an_encrypted_certificate() -> None:
    message = codec.decode(vector("encrcert-1"))
    (request,) = bodies.read_requests(message.content)
    assert request.proof == crmf.OtherProof("keyEncipherment", crmf.Later.ENCRYPTED_CERTIFICATE)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("rsa", "keyEncipherment"), ("ec", "keyAgreement"), ("kem", "keyEncipherment")],
)
def test_keys_that_are_shown_by_a_challenge(kind: str, name: str) -> None:
    """Bouncy Castle believed the witness, and its answer is what we had hidden."""
    asked, told, answered = (codec.decode(vector(f"pop-{kind}-{at}")) for at in ("1", "r1", "2"))
    (request,) = bodies.read_requests(asked.content)
    assert request.proof == crmf.OtherProof(name, crmf.Later.CHALLENGE)
    (number,) = bodies.read_numbers(answered.content)
    content, rest = decoder.decode(told.content, asn1Spec=rfc9810.POPODecKeyChallContent())
    assert not rest
    (challenge,) = content
    assert challenge["witness"].asOctets() == hashlib.sha256(der.integer(number)).digest()
    envelope = der.Reader(encoder.encode(challenge["encryptedRand"])).content(0xA0)
    assert told.content == bodies.challenge(
        signatures.SHA256.algorithm, challenge["witness"].asOctets(), envelope=envelope
    )


def test_a_proof_by_another_key_is_none() -> None:
    message = codec.decode(vector("ir-pbm-1"))
    (request,) = bodies.read_requests(message.content)
    (other,) = bodies.read_requests(codec.decode(vector("ir-sig-1")).content)
    assert isinstance(request.proof, crmf.SignatureProof)
    assert other.template.public_key is not None
    assert other.template.subject is not None
    key = crmf.read(other.template, subject_der=other.template.subject).public_key
    with pytest.raises(Fault) as caught:
        crmf.check_signature(request, request.proof, key, message.header.sender, Policy())
    assert caught.value.code is FaultCode.BAD_PROOF
    # poposkInput beside a complete template is a way to have something else signed.
    proof = replace(request.proof, input=der.sequence())
    own = crmf.read(request.template, subject_der=der.sequence()).public_key
    for changed, sender in (
        (request, message.header.sender),
        (replace(request, template=replace(request.template, subject=None)), b""),
    ):
        with pytest.raises(Fault):
            crmf.check_signature(changed, proof, own, sender, Policy())


def test_confirmations_polls_and_questions() -> None:
    (status,) = bodies.read_confirmation(codec.decode(vector("p10cr-2")).content)
    assert (status.id, status.info, status.hash_algorithm) == (-1, StatusInfo(status=0), None)
    (status,) = bodies.read_confirmation(codec.decode(vector("kur-2")).content)
    assert status.info is not None
    assert (status.info.status, status.info.fail_info) == (Status.REJECTION, (7,))
    assert bodies.read_poll(codec.decode(vector("poll-2")).content) == (0,)
    questions = bodies.read_questions(codec.decode(vector("genm-1")).content)
    assert questions == (Info(der.oid("1.3.6.1.5.5.7.4.17")),)
    (wish,) = bodies.read_revocations(codec.decode(vector("rr-1")).content)
    assert wish.reasons == (1,)
    assert wish.template.serial is not None


def test_what_is_written_pyasn1_reads_and_writes_alike() -> None:
    ip = codec.decode(vector("ir-pbm-r1"))
    issued = codec.decode(vector("ir-sig-1")).extra[0]
    info = StatusInfo(status=1, text="changed", fail_info=(FailInfo.BAD_ALG, FailInfo.BAD_POP))
    oid = der.oid("1.3.6.1.5.5.7.4.13")
    written = (
        (Body.IP, bodies.cert_rep([bodies.cert_response(0, info, issued)], [issued])),
        (Body.CP, bodies.cert_rep([bodies.cert_response(-1, info)])),
        (Body.RP, bodies.rev_rep([info], [_cert_id(issued)])),
        (Body.POLL_REP, bodies.poll_rep(0, 60, "an administrator decides")),
        (Body.ERROR, bodies.error(bodies.rejection(FailInfo.DUPLICATE_CERT_REQ, "no"))),
        (Body.GENP, bodies.infos([Info(oid), Info(oid, der.NULL_DER)])),
        (Body.PKICONF, bodies.PKI_CONFIRM.content),
    )
    for number, content in written:
        body = codec.body(number, content)
        message = codec.encode(codec.encode_header(ip.header), body, b"12345", [issued])
        oracle, rest = decoder.decode(message, asn1Spec=rfc9810.PKIMessage())
        assert not rest
        assert encoder.encode(oracle) == message, number
        assert codec.decode(message).content == content


def _cert_id(issued: bytes) -> bytes:
    certificate = x509.load_der_x509_certificate(issued)
    name = certificate.issuer.public_bytes()
    return crmf.cert_id(IssuerAndSerial(name, certificate.serial_number))


def test_headers_survive() -> None:
    header = Header(
        version=3,
        sender=crmf.general_name(x509.Name([])),
        recipient=crmf.general_name(x509.Name.from_rfc4514_string("CN=x")),
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        protection=Algorithm(der.oid("1.2.3")),
        sender_kid=b"4711",
        transaction=b"t" * 16,
        sender_nonce=b"s" * 16,
        recipient_nonce=b"r" * 16,
        info=(Info(der.oid("1.2.3.4"), der.NULL_DER), Info(der.oid("1.2.3.5"))),
    )
    body = bodies.PKI_CONFIRM.encode()
    assert codec.decode(codec.encode(codec.encode_header(header), body, b"x")).header == header
    assert header.value_of(der.oid("1.2.3.5")) == Info(der.oid("1.2.3.5"))


def test_bits_of_failures_are_der() -> None:
    for bit in FailInfo:
        encoded = StatusInfo(status=2, fail_info=(bit,)).encode()
        oracle, _ = decoder.decode(encoded)
        bits = oracle[1]
        assert [n for n in range(len(bits)) if bits[n]] == [bit]
        assert bodies.read_status_info(der.Reader(encoded)).fail_info == (bit,)


def test_every_fault_has_a_bit_and_rules_refine_it() -> None:
    assert set(FAULTS) == set(FaultCode)
    assert codec.fail_info(Fault(FaultCode.INTERNAL, "")) is FailInfo.SYSTEM_FAILURE
    for rule, bit in FAULTS_BY_RULE.items():
        for name in (rule, f"{rule}.deeper"):
            assert codec.fail_info(Fault(FaultCode.REJECTED, "", rule=name)) is bit
    away = Fault(FaultCode.UNAVAILABLE, "", rule="secret.guessing")
    assert codec.fail_info(away) is FailInfo.SYSTEM_UNAVAIL
    assert codec.fail_info(Fault(FaultCode.REJECTED, "", rule="name.x")) is (
        FailInfo.BAD_CERT_TEMPLATE
    )


# -- protection -----------------------------------------------------------------------------


def pbm(rounds: int = 500, salt: int = 16, owf: str = "2.16.840.1.101.3.4.2.1") -> Algorithm:
    return Algorithm(
        protection.PASSWORD_BASED_MAC,
        der.sequence(
            der.octets(b"s" * salt),
            der.sequence(der.oid(owf)),
            der.integer(rounds),
            der.sequence(der.oid("1.2.840.113549.2.9")),
        ),
    )


def pbmac1(
    rounds: int = 10_000, length: int | None = 32, prf: str = "1.2.840.113549.2.9", salt: int = 16
) -> Algorithm:
    parts = [der.octets(b"s" * salt), der.integer(rounds)]
    if length is not None:
        parts.append(der.integer(length))
    parts.append(der.sequence(der.oid(prf), der.NULL_DER))
    derivation = der.sequence(protection.PBKDF2, der.sequence(*parts))
    mac = der.sequence(der.oid("1.2.840.113549.2.9"), der.NULL_DER)
    return Algorithm(protection.PBMAC1, der.sequence(derivation, mac))


@pytest.mark.parametrize(
    "algorithm",
    [
        pbm(99),
        pbm(10_001),
        pbm(10**7),
        pbm(2**31),
        pbm(-1),
        pbm(salt=7),
        pbm(salt=129),
        pbm(owf="1.2.840.113549.2.5"),  # MD5
        pbmac1(999),
        pbmac1(200_001),
        pbmac1(2**31),
        pbmac1(length=None),
        pbmac1(length=2**31),
        pbmac1(length=1),
        pbmac1(prf="1.2.3"),
        pbmac1(salt=60_000),
        Algorithm(protection.DH_BASED_MAC, der.sequence()),
        Algorithm(protection.KEM_BASED_MAC, der.sequence()),
        Algorithm(protection.PBMAC1, der.sequence(der.sequence(der.oid("1.2.3")), der.sequence(
            der.oid("1.2.840.113549.2.9")))),
    ],
)  # fmt: skip
def test_t_cmp_02_a_stranger_buys_no_work(algorithm: Algorithm) -> None:
    """The caps hold before anything is computed, so that this takes microseconds."""
    with pytest.raises(Fault) as caught:
        protection.read_mac(algorithm)
    assert caught.value.code is FaultCode.BAD_ALGORITHM


def test_pbmac1_as_pkcs12_computes_it() -> None:
    """RFC 9879, appendix A.1, has the only published PBMAC1; here the parts are compared."""
    mac = protection.read_mac(pbmac1(2048))
    assert (mac.kind, mac.rounds, mac.key_length, mac.is_long) == ("pbmac1", 2048, 32, False)
    key = hashlib.pbkdf2_hmac("sha256", b"secret", b"s" * 16, 2048, 32)
    assert mac.key(Secret("secret")) == key
    assert mac.check(key, b"data", hmac.digest(key, b"data", "sha256"))
    assert protection.read_mac(pbmac1(200_000)).is_long


@pytest.mark.parametrize("algorithm", [pbm(), pbmac1()])
def test_t_cmp_01_answers_have_salts_of_sixteen_octets(algorithm: Algorithm) -> None:
    mac = protection.read_mac(algorithm)
    renewed = mac.renewed(lambda size: b"r" * size)
    assert renewed.salt == b"r" * 16
    assert protection.read_mac(renewed.algorithm()) == renewed


def test_hashes_of_confirmations() -> None:
    sha256 = der.oid("2.16.840.1.101.3.4.2.1")
    p256, ed25519, ed448 = "1.2.840.10045.4.3.2", "1.3.101.112", "1.3.101.113"
    assert protection.confirmation_digest(hashes.SHA384(), p256, None).name == "SHA-384"
    assert protection.confirmation_digest(None, ed25519, None).name == "SHA-512"
    assert len(protection.confirmation_digest(None, ed448, None).of(b"")) == 64
    assert protection.confirmation_digest(None, ed25519, Algorithm(sha256)).name == "SHA-256"
    with pytest.raises(Fault):
        protection.confirmation_digest(None, ed25519, Algorithm(der.oid("1.2.840.113549.2.5")))


@pytest.mark.parametrize("cut", range(0, 1200, 37))
def test_cut_off_messages_are_malformed(cut: int) -> None:
    octets = vector("ir-sig-1")
    with pytest.raises(Fault) as caught:
        codec.decode(octets[: min(cut, len(octets) - 1)])
    assert caught.value.code is FaultCode.MALFORMED
