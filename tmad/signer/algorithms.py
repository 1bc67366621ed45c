"""The private-key algorithms: their names, how a key of each is made, and which one a key is."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from tmad.errors import Fault, FaultCode

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)


class KeyAlgorithm(enum.StrEnum):
    """What a key is; the values are what settings, commands and the database say."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"
    ED448 = "ed448"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"


RSA_BITS = {
    KeyAlgorithm.RSA_2048: 2048,
    KeyAlgorithm.RSA_3072: 3072,
    KeyAlgorithm.RSA_4096: 4096,
}
CURVES: dict[KeyAlgorithm, ec.EllipticCurve] = {
    KeyAlgorithm.P256: ec.SECP256R1(),
    KeyAlgorithm.P384: ec.SECP384R1(),
    KeyAlgorithm.P521: ec.SECP521R1(),
}
_CURVE_ALGORITHMS = {curve.name: algorithm for algorithm, curve in CURVES.items()}
_RSA_ALGORITHMS = {bits: algorithm for algorithm, bits in RSA_BITS.items()}
_SINGLE: dict[KeyAlgorithm, tuple[type[PublicKey], Callable[[], PrivateKey]]] = {
    KeyAlgorithm.ED25519: (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey.generate),
    KeyAlgorithm.ED448: (ed448.Ed448PublicKey, ed448.Ed448PrivateKey.generate),
    KeyAlgorithm.ML_DSA_44: (mldsa.MLDSA44PublicKey, mldsa.MLDSA44PrivateKey.generate),
    KeyAlgorithm.ML_DSA_65: (mldsa.MLDSA65PublicKey, mldsa.MLDSA65PrivateKey.generate),
    KeyAlgorithm.ML_DSA_87: (mldsa.MLDSA87PublicKey, mldsa.MLDSA87PrivateKey.generate),
}


def generate(algorithm: KeyAlgorithm) -> PrivateKey:
    """Make a software key."""
    if algorithm in RSA_BITS:
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS[algorithm])
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm])
    return _SINGLE[algorithm][1]()


def of(public_key: object) -> KeyAlgorithm:
    """Return which algorithm a public key belongs to; Fault(BAD_ALGORITHM) for any other."""
    algorithm: KeyAlgorithm | None = None
    name = type(public_key).__name__
    if isinstance(public_key, rsa.RSAPublicKey):
        name = f"RSA with {public_key.key_size} bits"
        algorithm = _RSA_ALGORITHMS.get(public_key.key_size)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        name = f"the curve {public_key.curve.name}"
        algorithm = _CURVE_ALGORITHMS.get(public_key.curve.name)
    else:
        for candidate, (cls, _) in _SINGLE.items():
            if isinstance(public_key, cls):
                algorithm = candidate
    if algorithm is None:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            f"tmad holds no private keys for {name}",
            rule="key.algorithm",
            values={"algorithm": name},
        )
    return algorithm
