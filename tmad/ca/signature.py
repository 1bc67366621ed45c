"""Sign spliced structures: the AlgorithmIdentifier that says how, and the signature itself.

RFC 4055 (RSA), RFC 5758 (ECDSA), RFC 8410 (Edwards curves), RFC 9881 (ML-DSA). Certificates are
built and signed by ``cryptography``'s builders; CRLs and OCSP answers are spliced, and need this.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from tmad.ca.scheme import SignatureScheme
from tmad.errors import Fault, FaultCode
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm

_RSA = {
    "sha256": bytes.fromhex("300d06092a864886f70d01010b0500"),
    "sha384": bytes.fromhex("300d06092a864886f70d01010c0500"),
    "sha512": bytes.fromhex("300d06092a864886f70d01010d0500"),
}
_ECDSA = {
    "sha256": bytes.fromhex("300a06082a8648ce3d040302"),
    "sha384": bytes.fromhex("300a06082a8648ce3d040303"),
    "sha512": bytes.fromhex("300a06082a8648ce3d040304"),
}
# id-RSASSA-PSS with its parameters written out: hash, MGF1 with the same hash, salt as long.
_PSS = {
    name: bytes.fromhex(
        "304106092a864886f70d01010a3034"
        f"a00f300d06096086480165030402{arc}0500"
        f"a11c301a06092a864886f70d010108300d06096086480165030402{arc}0500"
        f"a2030201{salt}"
    )
    for name, arc, salt in (("sha256", "01", "20"), ("sha384", "02", "30"), ("sha512", "03", "40"))
}
_OPENSSL = "cryptography.hazmat.bindings._rust"  # where cryptography's own kinds of key live
# Made once: it takes as long as a tenth of a signature.
_SIGNED = {
    each.name: ec.ECDSA(each) for each in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
}
_WHOLE = {
    KeyAlgorithm.ED25519: bytes.fromhex("300506032b6570"),
    KeyAlgorithm.ED448: bytes.fromhex("300506032b6571"),
    KeyAlgorithm.ML_DSA_44: bytes.fromhex("300b0609608648016503040311"),
    KeyAlgorithm.ML_DSA_65: bytes.fromhex("300b0609608648016503040312"),
    KeyAlgorithm.ML_DSA_87: bytes.fromhex("300b0609608648016503040313"),
}


def algorithm_der(public_key: CertificatePublicKeyTypes, scheme: SignatureScheme) -> bytes:
    """Return the AlgorithmIdentifier of signatures by this key under this scheme."""
    if scheme.hash is None:
        return _WHOLE[algorithms.of(public_key)]
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _ECDSA[scheme.hash.name]
    return (_PSS if isinstance(scheme.padding, padding.PSS) else _RSA)[scheme.hash.name]


def sign(private_key: Any, scheme: SignatureScheme, data: bytes) -> bytes:
    """Sign ``data``; the key may live in an HSM."""
    return _sign(private_key, scheme, data, scheme.hash)


def sign_as(
    public_key: CertificatePublicKeyTypes, private_key: Any, scheme: SignatureScheme, data: bytes
) -> bytes:
    """Sign ``data`` as the owner of ``public_key``; Fault(INTERNAL) when that is somebody else.

    A token's signature is verified, and RSA's, which is cheap and where a fault in one half of
    the computation would give the key away. Where OpenSSL signs in this process the two keys are
    compared: that costs 2 µs instead of 50 to 70.
    """
    signature = sign(private_key, scheme, data)
    is_here = type(private_key).__module__.startswith(_OPENSSL)
    if is_here and scheme.padding is None:
        if private_key.public_key() != public_key:
            raise _wrong("another key than the issuer's was asked to sign")
    else:
        check(public_key, scheme, signature, data, digest=False)
    return signature


def sign_digest(private_key: Any, scheme: SignatureScheme, digest: bytes) -> bytes:
    """Sign something long whose ``scheme.hash`` is known; not for keys without a hash."""
    assert scheme.hash is not None
    return _sign(private_key, scheme, digest, Prehashed(scheme.hash))


def _sign(
    private_key: Any,
    scheme: SignatureScheme,
    data: bytes,
    algorithm: hashes.HashAlgorithm | Prehashed | None,
) -> bytes:
    signature: bytes
    if algorithm is None:
        signature = private_key.sign(data)
    elif scheme.padding is None:
        signature = private_key.sign(data, _ecdsa(algorithm))
    else:
        signature = private_key.sign(data, scheme.padding, algorithm)
    return signature


def _ecdsa(algorithm: hashes.HashAlgorithm | Prehashed) -> ec.ECDSA:
    if isinstance(algorithm, Prehashed):
        return ec.ECDSA(algorithm)
    return _SIGNED[algorithm.name]


def check(
    public_key: Any, scheme: SignatureScheme, signature: bytes, data: bytes, *, digest: bool
) -> None:
    """Raise Fault(INTERNAL) unless ``signature`` is right over ``data``, or over its digest.

    A wrong handle or a faulty HSM is noticed here, before anybody sees what it signed.
    """
    algorithm: hashes.HashAlgorithm | Prehashed | None = scheme.hash
    if digest and scheme.hash is not None:
        algorithm = Prehashed(scheme.hash)
    try:
        if algorithm is None:
            public_key.verify(signature, data)
        elif scheme.padding is None:
            public_key.verify(signature, data, _ecdsa(algorithm))
        else:
            public_key.verify(signature, data, scheme.padding, algorithm)
    except InvalidSignature:
        raise _wrong(
            "the private key made a signature that its public key does not accept"
        ) from None


def _wrong(private: str) -> Fault:
    return Fault(
        FaultCode.INTERNAL, "a signature failed its check", private=private, rule="signature.check"
    )
