"""CMS EnvelopedData: messages that only the holder of a key or a password can read.

RFC 5652, section 6; key transport RFC 3370 (PKCS#1 v1.5) and 3560 (OAEP), AES RFC 3565,
passwords RFC 3211 and 8018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, CipherContext
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tmad.errors import Fault, FaultCode
from tmad.wire import ber, cms, der
from tmad.wire.cms import ENVELOPED_DATA, Identifier, IssuerAndSerial, Random
from tmad.wire.signatures import (
    DIGESTS,
    MGF1,
    RSA_ENCRYPTION,
    SHA1,
    Age,
    Algorithm,
    Policy,
    bad_algorithm,
)

RSAES_OAEP = der.oid("1.2.840.113549.1.1.7")
_P_SPECIFIED = der.oid("1.2.840.113549.1.1.9")
_PBKDF2 = der.oid("1.2.840.113549.1.5.12")
_HMAC_SHA256 = der.oid("1.2.840.113549.2.9")
_PWRI_KEK = der.oid("1.2.840.113549.1.9.16.3.9")

# The rule that cannot_open() names.
CANNOT_OPEN = "wire.envelope"


@dataclass(frozen=True, slots=True)
class Cipher:
    """A block cipher in CBC mode, with PKCS#7 padding; sizes in octets."""

    name: str
    oid: bytes
    key_size: int
    block_size: int
    algorithm: Callable[[bytes], BlockCipherAlgorithm]
    age: Age = Age.MODERN

    def encryptor(self, key: bytes, vector: bytes) -> CipherContext:
        """Return a context that encrypts whole blocks."""
        return BlockCipher(self.algorithm(key), CBC(vector)).encryptor()

    def encrypt(self, key: bytes, vector: bytes, content: bytes) -> bytes:
        """Pad and encrypt."""
        fill = self.block_size - len(content) % self.block_size
        context = self.encryptor(key, vector)
        return context.update(content + bytes((fill,)) * fill) + context.finalize()

    def decrypt(self, key: bytes, vector: bytes, encrypted: bytes) -> bytes | None:
        """Decrypt and strip the padding; None if it is not padding."""
        if not encrypted or len(encrypted) % self.block_size:
            return None
        context = BlockCipher(self.algorithm(key), CBC(vector)).decryptor()
        padded = context.update(encrypted) + context.finalize()
        fill = padded[-1]
        if not 1 <= fill <= self.block_size or padded[-fill:] != bytes((fill,)) * fill:
            return None
        return padded[:-fill]


AES128 = Cipher("AES-128-CBC", der.oid("2.16.840.1.101.3.4.1.2"), 16, 16, AES)
AES192 = Cipher("AES-192-CBC", der.oid("2.16.840.1.101.3.4.1.22"), 24, 16, AES)
AES256 = Cipher("AES-256-CBC", der.oid("2.16.840.1.101.3.4.1.42"), 32, 16, AES)
DES3 = Cipher("3DES-CBC", der.oid("1.2.840.113549.3.7"), 24, 8, TripleDES, Age.LEGACY)

DES = Cipher("DES-CBC", der.oid("1.3.14.3.2.7"), 8, 8, lambda key: TripleDES(key * 3), Age.INSECURE)

CIPHERS: Mapping[bytes, Cipher] = {c.oid: c for c in (AES128, AES192, AES256, DES3, DES)}


@dataclass(frozen=True, slots=True)
class KeyTransport:
    """A recipient whose key transports the content key."""

    identifier: Identifier
    algorithm: Algorithm
    encrypted_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopedData:
    """An envelope; recipients of other kinds than key transport are left out."""

    recipients: tuple[KeyTransport, ...]
    content_type: bytes
    algorithm: Algorithm
    encrypted: bytes


def decode(content_info: bytes) -> EnvelopedData:
    """Read a ContentInfo that holds EnvelopedData; nothing is decrypted."""
    outer = cms.unwrap(content_info, ENVELOPED_DATA)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    reader.integer()
    if reader.peek() == 0xA0:
        reader.raw()  # originatorInfo
    infos = reader.enter(der.SET)
    recipients = [_read_recipient(infos) for _ in infos.each()]
    encrypted_info = reader.enter(der.SEQUENCE)
    if reader.peek() == 0xA1:
        reader.raw()  # unprotectedAttrs
    reader.finish()
    content_type = encrypted_info.raw(der.OBJECT_IDENTIFIER)
    algorithm = Algorithm.read(encrypted_info)
    # Go's pkcs7 and every streaming writer send the octets in pieces.
    encrypted = ber.pieces(encrypted_info, 0)
    encrypted_info.finish()
    return EnvelopedData(
        recipients=tuple([r for r in recipients if r is not None]),
        content_type=content_type,
        algorithm=algorithm,
        encrypted=encrypted,
    )


def _read_recipient(infos: der.Reader) -> KeyTransport | None:
    if infos.peek() != der.SEQUENCE:
        infos.raw()
        return None
    reader = infos.enter(der.SEQUENCE)
    reader.integer()
    identifier = cms.read_identifier(reader)
    algorithm = Algorithm.read(reader)
    encrypted_key = reader.content(der.OCTET_STRING)
    reader.finish()
    return KeyTransport(identifier, algorithm, encrypted_key)


def cipher_for(algorithm: Algorithm, policy: Policy) -> Cipher:
    """Return the cipher that is named; raise Fault(BAD_ALGORITHM) where policy forbids it."""
    cipher = CIPHERS.get(algorithm.oid)
    if cipher is None or cipher.age > policy.oldest:
        raise bad_algorithm("cipher", algorithm.oid)
    return cipher


def open_envelope(
    key: rsa.RSAPrivateKey,
    enveloped: EnvelopedData,
    recipient: KeyTransport,
    *,
    policy: Policy,
    random: Random,
) -> bytes:
    """Return the content.

    Whatever goes wrong behind the private key ends in one Fault(BAD_INTEGRITY), after the
    same work: a random key takes the place of one that cannot be had, so that the answer
    tells a Bleichenbacher or padding attacker nothing.
    """
    cipher = cipher_for(enveloped.algorithm, policy)
    scheme = _transport_padding(recipient.algorithm)
    vector = der.content(enveloped.algorithm.parameters, der.OCTET_STRING)
    if len(vector) != cipher.block_size:
        raise der.malformed("the initialisation vector has a wrong length")
    substitute = random(cipher.key_size)
    try:
        content_key = key.decrypt(recipient.encrypted_key, scheme)
    except ValueError:
        content_key = substitute
    except Fault as fault:
        if fault.code is FaultCode.UNAVAILABLE:
            raise
        content_key = substitute
    if len(content_key) != cipher.key_size:
        content_key = substitute
    content = cipher.decrypt(content_key, vector, enveloped.encrypted)
    if content is None:
        raise cannot_open("wrong key or padding")
    return content


def cannot_open(private: str = "") -> Fault:
    """Return the one Fault for an envelope that yields nothing sensible.

    ``private`` tells an operator what was wrong; nobody else may learn it.
    """
    return Fault(
        FaultCode.BAD_INTEGRITY, "the envelope cannot be opened", private=private, rule=CANNOT_OPEN
    )


def _transport_padding(algorithm: Algorithm) -> padding.AsymmetricPadding:
    if algorithm.oid == RSA_ENCRYPTION:
        return padding.PKCS1v15()
    if algorithm.oid != RSAES_OAEP:
        raise bad_algorithm("key transport", algorithm.oid)
    # RSAES-OAEP-params (RFC 4055, 4.1). SHA-1 is the default and harmless in this place.
    digest_id = mask_digest_id = Algorithm(SHA1.oid)
    reader = der.read(algorithm.parameters or der.sequence(), der.SEQUENCE)
    if reader.peek() == 0xA0:
        digest_id = Algorithm.read(reader.enter(0xA0))
    if reader.peek() == 0xA1:
        mask = Algorithm.read(reader.enter(0xA1))
        if mask.oid != MGF1:
            raise bad_algorithm("mask generation", mask.oid)
        mask_digest_id = Algorithm.read(der.Reader(mask.parameters))
    label = None
    if reader.peek() == 0xA2:
        source = Algorithm.read(reader.enter(0xA2))
        if source.oid != _P_SPECIFIED:
            raise bad_algorithm("label source", source.oid)
        label = der.content(source.parameters, der.OCTET_STRING) or None
    reader.finish()
    digest, mask_digest = DIGESTS.get(digest_id.oid), DIGESTS.get(mask_digest_id.oid)
    if digest is None or mask_digest is None:
        raise bad_algorithm("digest", (mask_digest_id if digest else digest_id).oid)
    return padding.OAEP(padding.MGF1(mask_digest.hash), digest.hash, label)


def seal_to_certificate(
    content: bytes, certificate: x509.Certificate, certificate_der: bytes, *,
    cipher: Cipher, random: Random, content_type: bytes = cms.DATA,
) -> bytes:  # fmt: skip
    """Return a ContentInfo with an envelope for the RSA key of one certificate.

    Key transport is PKCS#1 v1.5, the only one that every SCEP client reads, and the content a
    primitive ``[0]``. :mod:`tmad.wire.agreement` does the same for elliptic curves.
    """
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "nothing can be encrypted to this certificate: its key is not RSA",
            rule="wire.envelope.recipient",
        )
    content_key = random(cipher.key_size)
    try:
        encrypted_key = key.encrypt(content_key, padding.PKCS1v15())
    except ValueError:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the RSA key of this certificate is too short to encrypt to",
            rule="wire.envelope.recipient",
        ) from None
    recipient = der.sequence(
        der.integer(0),
        IssuerAndSerial.of(certificate_der).encode(),
        Algorithm(RSA_ENCRYPTION, der.NULL_DER).encode(),
        der.octets(encrypted_key),
    )
    return enclose(0, recipient, content, content_key, cipher, random, content_type)


def seal_with_password(
    content: bytes, password: bytes, *, cipher: Cipher, random: Random, rounds: int = 20_000,
    content_type: bytes = cms.DATA,
) -> bytes:  # fmt: skip
    """Return a ContentInfo with an envelope for whoever knows the password (RFC 3211)."""
    content_key = random(cipher.key_size)
    recipient = password_recipient(
        content_key, password, cipher=cipher, random=random, rounds=rounds
    )
    return enclose(3, recipient, content, content_key, cipher, random, content_type)


def password_recipient(
    content_key: bytes, password: bytes, *, cipher: Cipher, random: Random, rounds: int
) -> bytes:
    """Return a PasswordRecipientInfo, as a RecipientInfo (RFC 5652, 6.2.4)."""
    salt = random(16)
    wrapping_key = PBKDF2HMAC(hashes.SHA256(), cipher.key_size, salt, rounds).derive(password)
    derivation = der.sequence(
        der.octets(salt),
        der.integer(rounds),
        Algorithm(_HMAC_SHA256, der.NULL_DER).encode(),
    )
    vector = random(cipher.block_size)
    wrapping = Algorithm(cipher.oid, der.octets(vector)).encode()
    return der.explicit(
        3,
        der.integer(0),
        # keyDerivationAlgorithm [0] IMPLICIT AlgorithmIdentifier
        der.explicit(0, _PBKDF2, derivation),
        Algorithm(_PWRI_KEK, wrapping).encode(),
        der.octets(_wrap_key(content_key, wrapping_key, vector, cipher, random)),
    )


def _wrap_key(
    content_key: bytes, wrapping_key: bytes, vector: bytes, cipher: Cipher, random: Random
) -> bytes:
    """Wrap as RFC 3211, 2.3.1: length, check octets, key and filling, encrypted twice."""
    check = bytes(octet ^ 0xFF for octet in content_key[:3])
    block = bytes((len(content_key),)) + check + content_key
    fill = -len(block) % cipher.block_size
    context = cipher.encryptor(wrapping_key, vector)
    return context.update(context.update(block + random(fill)))


def enclose(
    version: int, recipient: bytes, content: bytes, content_key: bytes, cipher: Cipher,
    random: Random, content_type: bytes = cms.DATA,
) -> bytes:  # fmt: skip
    """Return a ContentInfo with an envelope that one RecipientInfo can open.

    ``content`` is what ``content_type`` says, without a ContentInfo of its own.
    """
    vector = random(cipher.block_size)
    encrypted = cipher.encrypt(content_key, vector, content)
    body = der.sequence(
        der.integer(version),
        der.tlv(der.SET, recipient),
        der.sequence(
            content_type,
            Algorithm(cipher.oid, der.octets(vector)).encode(),
            der.tlv(0x80, encrypted),
        ),
    )
    return der.sequence(ENVELOPED_DATA, der.explicit(0, body))
