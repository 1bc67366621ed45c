"""A CMP client for tests that can do everything wrong, too; answers are read by pyasn1."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import univ
from pyasn1_alt_modules import rfc9810

from tests.cmc_client import open_envelope
from tmad.wire import der

IR, IP, CR, CP, P10CR, POPDECC, POPDECR, KUR, KUP, RR, RP = 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12
PKICONF, NESTED, GENM, GENP, ERROR, CERTCONF, POLLREQ, POLLREP = 19, 20, 21, 22, 23, 24, 25, 26
IMPLICIT = der.sequence(der.oid("1.3.6.1.5.5.7.4.13"), der.NULL_DER)
_PBM = der.oid("1.2.840.113533.7.66.13")
_PBMAC1 = der.oid("1.2.840.113549.1.5.14")
_SHA256 = der.oid("2.16.840.1.101.3.4.2.1")
_HMAC_SHA1 = der.oid("1.3.6.1.5.5.8.1.2")
_HMAC_SHA256 = der.oid("1.2.840.113549.2.9")
_PBKDF2 = der.oid("1.2.840.113549.1.5.12")


@dataclass(frozen=True)
class Shared:
    """A shared secret and how it is used."""

    reference: str
    secret: str
    kind: str = "pbm"
    rounds: int = 500
    salt: bytes = field(default_factory=lambda: os.urandom(16))

    def algorithm(self) -> bytes:
        if self.kind == "pbm":
            parameters = der.sequence(
                der.octets(self.salt),
                der.sequence(_SHA256),
                der.integer(self.rounds),
                der.sequence(_HMAC_SHA1),  # as OpenSSL does
            )
            return der.sequence(_PBM, parameters)
        derivation = der.sequence(
            der.octets(self.salt),
            der.integer(self.rounds),
            der.integer(32),
            der.sequence(_HMAC_SHA256, der.NULL_DER),
        )
        mac = der.sequence(_HMAC_SHA256, der.NULL_DER)
        return der.sequence(_PBMAC1, der.sequence(der.sequence(_PBKDF2, derivation), mac))

    def value(self, protected: bytes) -> bytes:
        if self.kind == "pbm":
            key = self.secret.encode() + self.salt
            for _ in range(self.rounds):
                key = hashlib.sha256(key).digest()
            return hmac.digest(key, protected, "sha1")
        key = hashlib.pbkdf2_hmac("sha256", self.secret.encode(), self.salt, self.rounds, 32)
        return hmac.digest(key, protected, "sha256")


@dataclass(frozen=True)
class Holder:
    """A certificate, its key and what stands above it."""

    certificate: x509.Certificate
    key: Any
    chain: tuple[x509.Certificate, ...] = ()


Credential = Shared | Holder | None

_SIGNATURES: dict[type, bytes] = {
    ed25519.Ed25519PrivateKey: der.oid("1.3.101.112"),
    ed448.Ed448PrivateKey: der.oid("1.3.101.113"),
    mldsa.MLDSA44PrivateKey: der.oid("2.16.840.1.101.3.4.3.17"),
    mldsa.MLDSA65PrivateKey: der.oid("2.16.840.1.101.3.4.3.18"),
    mldsa.MLDSA87PrivateKey: der.oid("2.16.840.1.101.3.4.3.19"),
}


def algorithm_of(key: Any) -> bytes:
    """Return the AlgorithmIdentifier that sign() uses."""
    if isinstance(key, rsa.RSAPrivateKey):
        return der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return der.sequence(der.oid("1.2.840.10045.4.3.2"))
    return next(der.sequence(oid) for kind, oid in _SIGNATURES.items() if isinstance(key, kind))


def sign(key: Any, data: bytes) -> bytes:
    """Sign with SHA-256, or as the key does by itself."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    signature: bytes = key.sign(data)
    return signature


def directory_name(name: x509.Name) -> bytes:
    return der.explicit(4, name.public_bytes())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def spki(key: Any) -> bytes:
    octets: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


def template(
    *,
    subject: x509.Name | None = None,
    public_key: bytes | None = None,
    names: Sequence[x509.GeneralName] = (),
    issuer: x509.Name | None = None,
    serial: int | None = None,
    validity: bytes | None = None,
    extensions: bytes | None = None,
) -> bytes:
    """Return a CertTemplate."""
    parts = []
    if serial is not None:
        parts.append(b"\x81" + der.integer(serial)[1:])
    if issuer is not None:
        parts.append(der.explicit(3, issuer.public_bytes()))
    if validity is not None:
        parts.append(der.explicit(4, validity))
    if subject is not None:
        parts.append(der.explicit(5, subject.public_bytes()))
    if public_key is not None:
        parts.append(b"\xa6" + public_key[1:])
    if names:
        value = x509.SubjectAlternativeName(names).public_bytes()
        extensions = der.sequence(der.sequence(der.oid("2.5.29.17"), der.octets(value)))
    if extensions is not None:
        parts.append(b"\xa9" + extensions[1:])
    return der.sequence(*parts)


def crmf(
    template_der: bytes,
    key: Any = None,
    *,
    number: int = 0,
    controls: bytes = b"",
    proof: bytes | None = None,
) -> bytes:
    """Return a CertReqMsg; with ``key`` it is signed, else ``proof`` says how it is proved."""
    request = der.sequence(der.integer(number), template_der, controls)
    if proof is None:
        proof = b""
        if key is not None:
            bits = der.tlv(der.BIT_STRING, b"\0", sign(key, request))
            proof = der.explicit(1, algorithm_of(key), bits)
    return der.sequence(request, proof)


def message(
    body: int,
    content: bytes,
    credential: Credential,
    *,
    transaction: bytes | None,
    nonce: bytes | None = b"n" * 16,
    recipient_nonce: bytes | None = None,
    version: int = 2,
    infos: Sequence[bytes] = (),
    sender: bytes | None = None,
    kid: bytes | None = b"default",
    time: datetime | None = None,
    algorithm: bytes | None = b"default",
    value: bytes | None = None,
    extra: Sequence[bytes] | None = None,
) -> bytes:
    """Return a PKIMessage; every part can be made wrong."""
    if sender is None:
        sender = directory_name(name("client"))
        if isinstance(credential, Holder):
            sender = directory_name(credential.certificate.subject)
    if kid == b"default":
        kid = None
        if isinstance(credential, Shared):
            kid = credential.reference.encode()
        elif isinstance(credential, Holder):
            kid = key_identifier(credential.certificate)
    if algorithm == b"default":
        algorithm = None
        if isinstance(credential, Shared):
            algorithm = credential.algorithm()
        elif isinstance(credential, Holder):
            algorithm = algorithm_of(credential.key)
    header = [der.integer(version), sender, directory_name(x509.Name([]))]
    at = (time or datetime.now(UTC)).strftime("%Y%m%d%H%M%SZ").encode()
    header.append(der.explicit(0, der.tlv(der.GENERALIZED_TIME, at)))
    if algorithm is not None:
        header.append(der.explicit(1, algorithm))
    for number, octets in ((2, kid), (4, transaction), (5, nonce), (6, recipient_nonce)):
        if octets is not None:
            header.append(der.explicit(number, der.octets(octets)))
    if infos:
        header.append(der.explicit(8, der.sequence(*infos)))
    header_der, body_der = der.sequence(*header), der.explicit(body, content)
    protected = der.sequence(header_der, body_der)
    if value is None and credential is not None:
        if isinstance(credential, Shared):
            value = credential.value(protected)
        else:
            value = sign(credential.key, protected)
    parts = [header_der, body_der]
    if value is not None:
        parts.append(der.explicit(0, der.tlv(der.BIT_STRING, b"\0", value)))
    if extra is None and isinstance(credential, Holder):
        found = (credential.certificate, *credential.chain)
        extra = [each.public_bytes(Encoding.DER) for each in found]
    if extra:
        parts.append(der.explicit(1, der.sequence(*extra)))
    return der.sequence(*parts)


def key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.digest


# -- answers --------------------------------------------------------------------------------


@dataclass
class Reply:
    """An answer as pyasn1 reads it."""

    der: bytes
    body: int
    asn1: Any
    protected: bytes

    @property
    def header(self) -> Any:
        return self.asn1["header"]

    @property
    def nonce(self) -> bytes:
        return bytes(self.header["senderNonce"])

    @property
    def version(self) -> int:
        return int(self.header["pvno"])

    @property
    def infos(self) -> dict[str, Any]:
        found = self.header["generalInfo"]
        return {str(info["infoType"]): info["infoValue"] for info in found}

    @property
    def extra(self) -> list[x509.Certificate]:
        return [
            x509.load_der_x509_certificate(encoder.encode(each)) for each in self.asn1["extraCerts"]
        ]

    @property
    def response(self) -> Any:
        """Return the one CertResponse of ip, cp or kup."""
        (response,) = self.asn1["body"].getComponent()["response"]
        return response

    @property
    def ca_pubs(self) -> list[x509.Certificate]:
        found = self.asn1["body"].getComponent()["caPubs"]
        return [x509.load_der_x509_certificate(encoder.encode(each)) for each in found]

    @property
    def _status_info(self) -> Any:
        content = self.asn1["body"].getComponent()
        if self.body in (IP, CP, KUP):
            return self.response["status"]
        if self.body == RP:
            return content["status"][0]
        return content["pKIStatusInfo"]

    @property
    def status(self) -> int:
        return int(self._status_info["status"])

    @property
    def fail(self) -> tuple[str, ...]:
        """Return the names of the bits of failInfo."""
        bits = self._status_info["failInfo"]
        if not bits.hasValue():
            return ()
        names = {int(number): name for name, number in rfc9810.PKIFailureInfo.namedValues.items()}
        return tuple(names[at] for at in range(len(bits)) if bits[at])

    @property
    def text(self) -> str:
        found = self._status_info["statusString"]
        return str(found[0]) if len(found) else ""

    @property
    def certificate(self) -> x509.Certificate:
        found = self.response["certifiedKeyPair"]["certOrEncCert"]["certificate"]
        content = encoder.encode(found)
        return x509.load_der_x509_certificate(der.Reader(content).enter(0xA0).raw())

    def check(self, credential: Credential, trusted: x509.Certificate) -> None:
        """Check the protection: by the shared secret, or by a signer that ``trusted`` certified."""
        value = bytes(self.asn1["protection"].asOctets())
        algorithm = self.header["protectionAlg"]
        if isinstance(credential, Shared):
            parameters = bytes(algorithm["parameters"])
            kind = {"1.2.840.113533.7.66.13": "pbm"}.get(str(algorithm["algorithm"]), "pbmac1")
            assert kind == credential.kind
            reader = der.read(parameters, der.SEQUENCE)
            if kind == "pbmac1":
                reader = reader.enter(der.SEQUENCE)
                reader.raw()
                reader = reader.enter(der.SEQUENCE)
            salt = reader.content(der.OCTET_STRING)
            assert len(salt) >= 16
            own = Shared(credential.reference, credential.secret, kind, credential.rounds, salt)
            assert hmac.compare_digest(own.value(self.protected), value)
            assert bytes(self.header["senderKID"]) == credential.reference.encode()
            return
        signer = self.extra[0]
        assert signer.issuer == trusted.subject
        signer.verify_directly_issued_by(trusted)
        usage = signer.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.value.digital_signature
        assert bytes(self.header["senderKID"]) == key_identifier(signer)
        key: Any = signer.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(value, self.protected, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            sizes: dict[int, hashes.HashAlgorithm] = {
                384: hashes.SHA384(),
                521: hashes.SHA512(),
            }
            digest = sizes.get(key.curve.key_size, hashes.SHA256())
            key.verify(value, self.protected, ec.ECDSA(digest))
        else:
            key.verify(value, self.protected)


def solved(reply: Reply, key: Any, *, number: int = 0) -> int:
    """Decrypt a challenge with what others have written; check what it says of itself."""
    assert reply.body == POPDECC, reply.text
    (challenge,) = reply.asn1["body"]["popdecc"]
    if reply.version == 2:
        assert not challenge["encryptedRand"].isValue
        octets = key.decrypt(challenge["challenge"].asOctets(), padding.PKCS1v15())
    else:
        assert challenge["challenge"].asOctets() == b""
        envelope = encoder.encode(challenge["encryptedRand"])
        inside = der.Reader(envelope).content(0xA0)
        info = der.sequence(der.oid("1.2.840.113549.1.7.3"), der.explicit(0, inside))
        octets = open_envelope(info, key)
        assert der.sequence(der.sequence(), der.integer(number)) in envelope  # rid
    rand, rest = decoder.decode(octets, asn1Spec=rfc9810.Rand())
    assert not rest
    assert encoder.encode(rand["sender"]) == encoder.encode(reply.header["sender"])
    assert str(challenge["owf"]["algorithm"]) == "2.16.840.1.101.3.4.2.1"
    witness = hashlib.sha256(encoder.encode(univ.Integer(int(rand["int"])))).digest()
    assert challenge["witness"].asOctets() == witness
    return int(rand["int"])


def read(octets: bytes) -> Reply:
    """Read an answer; pyasn1 must write it again octet by octet."""
    asn1, rest = decoder.decode(octets, asn1Spec=rfc9810.PKIMessage())
    assert not rest
    reader = der.read(octets, der.SEQUENCE)
    header, body = reader.raw(), reader.raw()
    return Reply(octets, body[0] - 0xA0, asn1, der.sequence(header, body))


@dataclass
class Client:
    """One transaction after the other over a function that posts octets and returns octets."""

    post: Callable[[bytes], bytes]
    credential: Credential
    trusted: x509.Certificate
    transaction: bytes = field(default_factory=lambda: os.urandom(16))
    nonce: bytes | None = None  # the server's last one
    sent: list[bytes] = field(default_factory=list)

    def send(self, body: int, content: bytes, **how: Any) -> Reply:
        """Send one message of the transaction; the answer's protection is checked."""
        credential = how.pop("credential", self.credential)
        octets = message(
            body,
            content,
            credential,
            **{
                "transaction": self.transaction,
                "nonce": os.urandom(16),
                "recipient_nonce": self.nonce,
                **how,
            },
        )
        return self.send_raw(octets)

    def send_raw(self, octets: bytes) -> Reply:
        self.sent.append(octets)
        reply = read(self.post(octets))
        self.nonce = reply.nonce
        return reply

    def begin(self) -> None:
        """Begin another transaction."""
        self.transaction, self.nonce = os.urandom(16), None

    def request(
        self,
        body: int,
        key: Any,
        subject: x509.Name | None = None,
        *,
        names: Sequence[x509.GeneralName] = (),
        implicit: bool = False,
        number: int = 0,
        controls: bytes = b"",
        proof: bytes | None = None,
        how: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Reply:
        """Send ir, cr or kur for one key."""
        wanted = template(subject=subject, public_key=spki(key.public_key()), names=names, **fields)
        content = der.sequence(crmf(wanted, key, number=number, controls=controls, proof=proof))
        infos = (IMPLICIT,) if implicit else ()
        return self.send(body, content, infos=infos, **(how or {}))

    def confirm(
        self,
        certificate: x509.Certificate,
        *,
        number: int = 0,
        digest: bytes | None = None,
        status: bytes = b"",
        algorithm: bytes = b"",
        **how: Any,
    ) -> Reply:
        """Send certConf."""
        if digest is None:
            chosen = certificate.signature_hash_algorithm or hashes.SHA512()
            if certificate.signature_algorithm_oid.dotted_string == "1.3.101.113":
                chosen = hashes.SHAKE256(64)  # Ed448: RFC 9481, 3.3
            digest = certificate.fingerprint(chosen)
        one = der.sequence(der.octets(digest), der.integer(number), status, algorithm)
        return self.send(CERTCONF, der.sequence(one), **how)

    def answer(self, *numbers: int, **how: Any) -> Reply:
        """Send popdecr: what stood in the challenges."""
        content = der.sequence(*[der.integer(number) for number in numbers])
        return self.send(POPDECR, content, **how)

    def poll(self, number: int = 0, **how: Any) -> Reply:
        """Send pollReq."""
        return self.send(POLLREQ, der.sequence(der.sequence(der.integer(number))), **how)

    def revoke(
        self,
        certificate: x509.Certificate,
        reason: int | None = 1,
        *,
        reasons: bytes | None = None,
        **fields: Any,
    ) -> Reply:
        """Send rr about a certificate."""
        given = {"issuer": certificate.issuer, "serial": certificate.serial_number, **fields}
        details = b""
        if reason is not None:
            value = der.octets(der.tlv(0x0A, bytes((reason,))))
            details = der.sequence(der.sequence(der.oid("2.5.29.21"), value))
        if reasons is not None:
            details = reasons
        return self.send(RR, der.sequence(der.sequence(template(**given), details)))

    def ask(self, *questions: tuple[int, bytes], **how: Any) -> Reply:
        """Send genm; each question is the last arc of id-it, and a value or nothing."""
        infos = [
            der.sequence(der.oid(f"1.3.6.1.5.5.7.4.{number}"), value) for number, value in questions
        ]
        return self.send(GENM, der.sequence(*infos), **how)


def status_info(status: int, *bits: int) -> bytes:
    """Return a PKIStatusInfo as a client sends it."""
    parts = [der.integer(status)]
    if bits:
        octets = bytearray(4)
        for bit in bits:
            octets[bit // 8] |= 0x80 >> bit % 8
        parts.append(der.tlv(der.BIT_STRING, b"\x05", bytes(octets)))
    return der.sequence(*parts)
