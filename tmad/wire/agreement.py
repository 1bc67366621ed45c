"""CMS envelopes for elliptic-curve keys: ephemeral-static ECDH (RFC 5652, 6.2.2; RFC 5753)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.errors import Fault, FaultCode
from tmad.wire import cms, der, envelopes
from tmad.wire.cms import IssuerAndSerial, Random
from tmad.wire.envelopes import Cipher
from tmad.wire.signatures import Algorithm

_EC_PUBLIC_KEY = der.oid("1.2.840.10045.2.1")
_SCHEMES_BELOW = "1.3.132.1.11."


class _Scheme(NamedTuple):
    """dhSinglePass-stdDH with one digest, for curves up to a size."""

    oid: bytes
    digest: hashes.HashAlgorithm


# RFC 5753, 7.1.4: as strong as the curve.
_SCHEMES: Mapping[int, _Scheme] = {
    256: _Scheme(der.oid(_SCHEMES_BELOW + "1"), hashes.SHA256()),
    384: _Scheme(der.oid(_SCHEMES_BELOW + "2"), hashes.SHA384()),
    521: _Scheme(der.oid(_SCHEMES_BELOW + "3"), hashes.SHA512()),
}
WRAPS: Mapping[int, bytes] = {
    16: der.oid("2.16.840.1.101.3.4.1.5"),
    24: der.oid("2.16.840.1.101.3.4.1.25"),
    32: der.oid("2.16.840.1.101.3.4.1.45"),
}


def seal_to_holder(
    content: bytes, certificate: x509.Certificate, certificate_der: bytes, *,
    cipher: Cipher, random: Random, content_type: bytes = cms.DATA,
) -> bytes:  # fmt: skip
    """Return a ContentInfo with an envelope for one certificate's RSA or elliptic-curve key.

    ``cipher`` is AES. Raise Fault(BAD_ALGORITHM) for a key that can neither transport nor agree.
    """
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return envelopes.seal_to_certificate(
            content, certificate, certificate_der,
            cipher=cipher, random=random, content_type=content_type,
        )  # fmt: skip
    content_key = random(cipher.key_size)
    recipient = recipient_of(key, IssuerAndSerial.of(certificate_der).encode(), content_key)
    return envelopes.enclose(2, recipient, content, content_key, cipher, random, content_type)


def recipient_of(key: CertificatePublicKeyTypes, identifier: bytes, content_key: bytes) -> bytes:
    """Return a KeyAgreeRecipientInfo whose originator is a key made for it alone.

    ``identifier`` is a KeyAgreeRecipientIdentifier. Fault(BAD_ALGORITHM) for other keys.
    """
    scheme = _SCHEMES.get(key.key_size) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if scheme is None or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "nothing can be encrypted to this kind of key",
            rule="wire.envelope.recipient",
        )
    ephemeral = ec.generate_private_key(key.curve)
    wrapping = Algorithm(WRAPS[len(content_key)], b"").encode()
    # ECC-CMS-SharedInfo (RFC 5753, 7.2): what the key is for, and its length in bits.
    shared_info = der.sequence(
        wrapping, der.explicit(2, der.octets((8 * len(content_key)).to_bytes(4, "big")))
    )
    wrapping_key = X963KDF(scheme.digest, len(content_key), shared_info).derive(
        ephemeral.exchange(ec.ECDH(), key)
    )
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    originator = der.explicit(
        1, Algorithm(_EC_PUBLIC_KEY, b"").encode(), der.tlv(der.BIT_STRING, b"\0" + point)
    )
    return der.explicit(
        1,
        der.integer(3),
        der.explicit(0, originator),
        Algorithm(scheme.oid, wrapping).encode(),
        der.sequence(der.sequence(identifier, der.octets(aes_key_wrap(wrapping_key, content_key)))),
    )
