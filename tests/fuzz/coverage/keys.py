"""Keys that are the same in every run, so that a finding in the corpus can still be opened.

They are computed from their names: no key stands in the repository, and none of them is worth
anything.
"""

from __future__ import annotations

import hashlib
from functools import cache

import gmpy2  # type: ignore[import-untyped]  # ships no stubs
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

_EXPONENT = 65_537


def _octets(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def _prime(name: str, bits: int) -> int:
    # The two topmost bits are set, so that the product of two has all its bits.
    start = int.from_bytes(_octets(name, bits // 8)) | 3 << (bits - 2)
    while True:
        start = int(gmpy2.next_prime(start))
        if start % _EXPONENT != 1:
            return start


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key."""
    p, q = _prime(f"{name} p", bits // 2), _prime(f"{name} q", bits // 2)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    ).private_key()


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return a P-256 key."""
    return ec.derive_private_key(int.from_bytes(_octets(name, 31)), ec.SECP256R1())


@cache
def ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    """Return an Ed25519 key."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(_octets(name, 32))
