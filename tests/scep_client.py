"""A SCEP client of the tests' own, on asn1crypto and cryptography: it shares no code with tmad.

It can misbehave in every way that a test needs: each layer is a function whose arguments say
what is put on the wire.
"""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from asn1crypto import algos, cms, core
from asn1crypto import x509 as ax509
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.x509.oid import NameOID

PKCS_REQ, RENEWAL_REQ, CERT_POLL, GET_CERT, GET_CRL = "19", "17", "20", "21", "22"
SUCCESS, FAILURE, PENDING = "0", "2", "3"

_ATTRIBUTES: dict[str, tuple[str, Any]] = {
    "2.16.840.1.113733.1.9.2": ("message_type", core.PrintableString),
    "2.16.840.1.113733.1.9.3": ("pki_status", core.PrintableString),
    "2.16.840.1.113733.1.9.4": ("fail_info", core.PrintableString),
    "2.16.840.1.113733.1.9.5": ("sender_nonce", core.OctetString),
    "2.16.840.1.113733.1.9.6": ("recipient_nonce", core.OctetString),
    "2.16.840.1.113733.1.9.7": ("transaction_id", core.Any),
    "1.3.6.1.5.5.7.24.1": ("fail_info_text", core.UTF8String),
}


def _register() -> None:
    for oid, (name, kind) in _ATTRIBUTES.items():
        values = type(f"SetOf_{name}", (core.SetOf,), {"_child_spec": kind})
        cms.CMSAttributeType._map[oid] = name
        cms.CMSAttribute._oid_specs[name] = values
    cms.CMSAttributeType._reverse_map = None


_register()

_HASHES = {
    "md5": hashes.MD5(),
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
# name: (asn1crypto's name or an OID, key octets, block octets, algorithm)
_CIPHERS = {
    "aes128": ("aes128_cbc", 16, 16, AES),
    "aes192": ("aes192_cbc", 24, 16, AES),
    "aes256": ("aes256_cbc", 32, 16, AES),
    "3des": ("tripledes_3key", 24, 8, TripleDES),
    "des": ("des", 8, 8, lambda key: TripleDES(key * 3)),
}


@dataclass(frozen=True)
class Identity:
    """A private key and the certificate that a message is signed with."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "NL"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def self_signed(
    key: Any, common_name: str = "device", *, issuer: str | None = None, ski: bool = False
) -> Identity:
    """Return what a client makes for its first message."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(issuer or common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )
    if ski:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    return Identity(key, builder.sign(key, _certificate_hash(key)))


def _certificate_hash(key: Any) -> hashes.HashAlgorithm | None:
    return (
        hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else None
    )


def make_csr(
    key: Any,
    common_name: str = "device",
    *,
    challenge: str | bytes | None = None,
    challenge_tag: int | None = None,
    dns: tuple[str, ...] = (),
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> bytes:
    """Return a PKCS#10; ``challenge_tag`` is the ASN.1 tag of the challenge's string."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(common_name))
    if challenge is not None:
        octets = challenge.encode() if isinstance(challenge, str) else challenge
        builder = builder.add_attribute(
            x509.oid.AttributeOID.CHALLENGE_PASSWORD,
            octets,
            **({"_tag": x509.name._ASN1Type(challenge_tag)} if challenge_tag else {}),
        )
    if dns:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in dns]), critical=False
        )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, _certificate_hash(key)).public_bytes(serialization.Encoding.DER)


def make_envelope(
    content: bytes,
    recipient: x509.Certificate,
    *,
    cipher: str = "aes256",
    transport: str = "pkcs1",
    content_key: bytes | None = None,
    encrypted_key: bytes | None = None,
    pad: bool = True,
    by_ski: bool = False,
    constructed: bool = False,
) -> bytes:
    """Return EnvelopedData in a ContentInfo."""
    cipher_name, key_size, block, algorithm = _CIPHERS[cipher]
    content_key = content_key or os.urandom(key_size)
    vector = os.urandom(block)
    fill = block - len(content) % block if pad else 0
    encryptor = Cipher(algorithm(content_key), modes.CBC(vector)).encryptor()
    encrypted = encryptor.update(content + bytes([fill]) * fill) + encryptor.finalize()
    public_key = recipient.public_key()
    if transport == "pkcs1":
        scheme: Any = padding.PKCS1v15()
        key_algorithm: Any = {"algorithm": "rsaes_pkcs1v15", "parameters": core.Null()}
    else:
        hash_name = transport.removeprefix("oaep-")
        scheme = padding.OAEP(padding.MGF1(_HASHES[hash_name]), _HASHES[hash_name], None)
        key_algorithm = {
            "algorithm": "rsaes_oaep",
            "parameters": algos.RSAESOAEPParams(
                {
                    "hash_algorithm": {"algorithm": hash_name},
                    "mask_gen_algorithm": {
                        "algorithm": "mgf1",
                        "parameters": {"algorithm": hash_name},
                    },
                }
            ),
        }
    if encrypted_key is None:
        encrypted_key = public_key.encrypt(content_key, scheme)
    theirs = ax509.Certificate.load(recipient.public_bytes(serialization.Encoding.DER))
    if by_ski:
        rid = cms.RecipientIdentifier("subject_key_identifier", theirs.key_identifier)
    else:
        rid = cms.RecipientIdentifier(
            "issuer_and_serial_number",
            {"issuer": theirs.issuer, "serial_number": theirs.serial_number},
        )
    info = cms.EncryptedContentInfo(
        {
            "content_type": "data",
            "content_encryption_algorithm": {"algorithm": cipher_name, "parameters": vector}
            if cipher != "des"
            else {"algorithm": "1.3.14.3.2.7", "parameters": core.OctetString(vector)},
            "encrypted_content": encrypted,
        }
    )
    enveloped = cms.ContentInfo(
        {
            "content_type": "enveloped_data",
            "content": {
                "version": "v0",
                "recipient_infos": [
                    cms.RecipientInfo(
                        "ktri",
                        {
                            "version": "v2" if by_ski else "v0",
                            "rid": rid,
                            "key_encryption_algorithm": key_algorithm,
                            "encrypted_key": encrypted_key,
                        },
                    )
                ],
                "encrypted_content_info": info,
            },
        }
    ).dump()
    if constructed:
        return _in_pieces(enveloped, encrypted)
    return enveloped


def _length(size: int) -> bytes:
    if size < 128:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([0x80 | len(octets)]) + octets


def _in_pieces(enveloped: bytes, encrypted: bytes) -> bytes:
    """Return the same envelope with encryptedContent as Go's pkcs7 writes it."""
    parsed = cms.ContentInfo.load(enveloped)
    body = parsed["content"]
    half = len(encrypted) // 2
    inner = b"".join(
        b"\x04" + _length(len(part)) + part for part in (encrypted[:half], encrypted[half:])
    )
    info = body["encrypted_content_info"]
    pieces = (
        info["content_type"].dump()
        + info["content_encryption_algorithm"].dump()
        + b"\xa0"
        + _length(len(inner))
        + inner
    )
    info_der = b"\x30" + _length(len(pieces)) + pieces
    fields = body["version"].dump() + body["recipient_infos"].dump() + info_der
    body_der = b"\x30" + _length(len(fields)) + fields
    whole = parsed["content_type"].dump() + b"\xa0" + _length(len(body_der)) + body_der
    return b"\x30" + _length(len(whole)) + whole


@dataclass
class Message:
    """One pkiMessage and what is needed to read its answer."""

    der: bytes
    transaction: str
    nonce: bytes
    identity: Identity


def make_message(
    content: bytes | None,
    identity: Identity,
    *,
    message_type: str | None = PKCS_REQ,
    transaction: str | None = "",
    transaction_type: Any = core.PrintableString,
    nonce: bytes | None = None,
    digest: str = "sha256",
    signature_algorithm: str | None = None,
    signing_time: datetime | None = None,
    signers: int = 1,
    with_certificate: bool = True,
    spoil_signature: bool = False,
    spoil_digest: bool = False,
    content_type: str = "data",
) -> Message:
    """Return a signed pkiMessage; ``transaction`` "" is derived from the key, as clients do."""
    nonce = os.urandom(16) if nonce is None else nonce
    if transaction == "":
        spki = identity.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        transaction = hashlib.sha1(spki).hexdigest()
    hashed = hashlib.new(digest, content or b"").digest()
    if spoil_digest:
        hashed = bytes([hashed[0] ^ 1]) + hashed[1:]
    attributes: list[Any] = [
        {"type": "content_type", "values": ["data"]},
        {"type": "message_digest", "values": [hashed]},
    ]
    if nonce:
        attributes.append({"type": "sender_nonce", "values": [nonce]})
    if message_type is not None:
        # core.PrintableString would refuse nothing; the octets go as they are.
        octets = core.PrintableString()
        octets.contents = message_type.encode()
        attributes.append({"type": "message_type", "values": [octets]})
    if transaction is not None:
        attributes.append(
            {"type": "transaction_id", "values": [core.Any(transaction_type(transaction))]}
        )
    if signing_time is not None:
        attributes.append({"type": "signing_time", "values": [cms.Time("utc_time", signing_time)]})
    signed_attributes = cms.CMSAttributes(attributes)
    to_sign = b"\x31" + signed_attributes.dump()[1:]
    own = ax509.Certificate.load(identity.der)
    algorithm, signature = _sign(identity.key, to_sign, digest, signature_algorithm)
    if spoil_signature:
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    info = {
        "version": "v1",
        "sid": cms.SignerIdentifier(
            "issuer_and_serial_number",
            {"issuer": own.issuer, "serial_number": own.serial_number},
        ),
        "digest_algorithm": {"algorithm": digest},
        "signed_attrs": signed_attributes,
        "signature_algorithm": algorithm,
        "signature": signature,
    }
    encapsulated: dict[str, Any] = {"content_type": content_type}
    if content is not None:
        encapsulated["content"] = content
    signed = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [{"algorithm": digest}],
            "encap_content_info": encapsulated,
            "certificates": [cms.CertificateChoices("certificate", own)]
            if with_certificate
            else [],
            "signer_infos": [info] * signers,
        }
    )
    der = cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump()
    return Message(der, transaction or "", nonce, identity)


def _sign(key: Any, data: bytes, digest: str, named: str | None) -> tuple[Any, bytes]:
    algorithm = _HASHES[digest]
    if isinstance(key, rsa.RSAPrivateKey):
        if named == "rsassa_pss":
            size = algorithm.digest_size
            parameters = algos.RSASSAPSSParams(
                {
                    "hash_algorithm": {"algorithm": digest},
                    "mask_gen_algorithm": {
                        "algorithm": "mgf1",
                        "parameters": {"algorithm": digest},
                    },
                    "salt_length": size,
                }
            )
            signature = key.sign(data, padding.PSS(padding.MGF1(algorithm), size), algorithm)
            return {"algorithm": "rsassa_pss", "parameters": parameters}, signature
        chosen = named or "rsassa_pkcs1v15"
        return {"algorithm": chosen}, key.sign(data, padding.PKCS1v15(), algorithm)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"algorithm": named or f"{digest}_ecdsa"}, key.sign(data, ec.ECDSA(algorithm))
    oids = {
        ed25519.Ed25519PrivateKey: "1.3.101.112",
        mldsa.MLDSA44PrivateKey: "2.16.840.1.101.3.4.3.17",
        mldsa.MLDSA65PrivateKey: "2.16.840.1.101.3.4.3.18",
        mldsa.MLDSA87PrivateKey: "2.16.840.1.101.3.4.3.19",
    }
    oid = next(oid for kind, oid in oids.items() if isinstance(key, kind))
    return {"algorithm": named or oid}, key.sign(data)


def issuer_and_subject(issuer: x509.Name, subject: x509.Name) -> bytes:
    body = issuer.public_bytes() + subject.public_bytes()
    return b"\x30" + _length(len(body)) + body


def issuer_and_serial(certificate: x509.Certificate, serial: int | None = None) -> bytes:
    theirs = ax509.Certificate.load(certificate.public_bytes(serialization.Encoding.DER))
    return cms.IssuerAndSerialNumber(
        {
            "issuer": theirs.issuer,
            "serial_number": theirs.serial_number if serial is None else serial,
        }
    ).dump()


# -- answers --------------------------------------------------------------------------------


@dataclass
class Reply:
    """A CertRep whose signature was checked."""

    status: str
    fail_info: str | None
    text: str
    digest: str
    signature_algorithm: str
    signer: x509.Certificate
    attributes: dict[str, Any]
    content: bytes | None  # the envelope
    cipher: str = ""
    certificates: list[x509.Certificate] = field(default_factory=list)
    crls: list[x509.CertificateRevocationList] = field(default_factory=list)


def read_reply(body: bytes, message: Message | None, trusted: x509.Certificate) -> Reply:
    """Check everything that a client can check, and open the envelope if it is for an RSA key."""
    info = cms.ContentInfo.load(body, strict=True)
    assert info["content_type"].native == "signed_data"
    signed = info["content"]
    (signer_info,) = signed["signer_infos"]
    (choice,) = signed["certificates"]
    signer = x509.load_der_x509_certificate(choice.chosen.dump())
    assert signer == trusted, "another certificate signed the answer"
    digest = signer_info["digest_algorithm"]["algorithm"].native
    attributes = {a["type"].native: a["values"] for a in signer_info["signed_attrs"]}
    key = signer.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(
        signer_info["signature"].native,
        b"\x31" + signer_info["signed_attrs"].dump()[1:],
        padding.PKCS1v15(),
        _HASHES[digest],
    )
    content = signed["encap_content_info"]["content"].native
    expected = hashlib.new(digest, content or b"").digest()
    assert attributes["message_digest"][0].native == expected
    assert attributes["content_type"][0].native == "data"
    assert attributes["message_type"][0].native == "3"
    if message is not None:
        assert attributes["recipient_nonce"][0].native == message.nonce
        sent = cms.ContentInfo.load(message.der)["content"]["signer_infos"][0]["signed_attrs"]
        ours = next(a["values"] for a in sent if a["type"].native == "transaction_id")
        assert attributes["transaction_id"].dump() == ours.dump(), "not echoed octet by octet"
    assert len(attributes["sender_nonce"][0].native) == 16
    reply = Reply(
        status=attributes["pki_status"][0].native,
        fail_info=attributes["fail_info"][0].native if "fail_info" in attributes else None,
        text=attributes["fail_info_text"][0].native if "fail_info_text" in attributes else "",
        digest=digest,
        signature_algorithm=signer_info["signature_algorithm"]["algorithm"].dotted,
        signer=signer,
        attributes=attributes,
        content=content,
    )
    if content is not None and message is not None:
        _open(reply, message.identity)
    return reply


def _open(reply: Reply, identity: Identity) -> None:
    assert reply.content is not None
    enveloped = cms.ContentInfo.load(reply.content, strict=True)["content"]
    algorithm = enveloped["encrypted_content_info"]["content_encryption_algorithm"]
    reply.cipher = algorithm["algorithm"].native
    (recipient,) = enveloped["recipient_infos"]
    if recipient.name != "ktri":
        return
    ktri = recipient.chosen
    assert ktri["version"].native == "v0"
    own = ax509.Certificate.load(identity.der)
    assert ktri["rid"].chosen["serial_number"].native == own.serial_number
    assert ktri["rid"].chosen["issuer"].dump() == own.issuer.dump()
    content_key = identity.key.decrypt(ktri["encrypted_key"].native, padding.PKCS1v15())
    if reply.cipher == "1.3.14.3.2.7":
        reply.cipher = "des"
    vector = algorithm["parameters"].native
    cipher = next(kind[3] for kind in _CIPHERS.values() if kind[0] == reply.cipher)
    decryptor = Cipher(cipher(content_key), modes.CBC(vector)).decryptor()
    encrypted = enveloped["encrypted_content_info"]["encrypted_content"].native
    padded = decryptor.update(encrypted) + decryptor.finalize()
    read_degenerate(reply, padded[: -padded[-1]])


def read_degenerate(reply: Reply, der: bytes) -> None:
    """Put the certificates and CRLs of a certificates-only message into ``reply``."""
    degenerate = cms.ContentInfo.load(der, strict=True)["content"]
    assert len(degenerate["signer_infos"]) == 0
    for choice in degenerate["certificates"] or []:
        reply.certificates.append(x509.load_der_x509_certificate(choice.chosen.dump()))
    for choice in degenerate["crls"] or []:
        reply.crls.append(x509.load_der_x509_crl(choice.chosen.dump()))


# -- transport ------------------------------------------------------------------------------


def fetch(
    url: str, operation: str, message: bytes | None = None, *, post: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """Send one request; return status, headers (lower case) and body."""
    target = f"{url}?operation={operation}"
    if message is not None and not post:
        target += "&message=" + urllib.parse.quote(base64.b64encode(message).decode(), safe="")
    request = urllib.request.Request(target, data=message if post else None)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
