"""Private keys in a token, as ``cryptography``'s builders want them (PKCS#11 v2.40, v3.0).

The builders accept any octets as a signature, so each one is verified with the public key
before it leaves. A key object is good until the operation that it was lent to returns.
"""

from __future__ import annotations

import secrets
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Mechanism

from tmad.signer.algorithms import PublicKey
from tmad.signer.grip import Grip, TokenKey, hashed, unsupported
from tmad.signer.hsm_rsa import TokenRSAKey


class TokenECKey(TokenKey, ec.EllipticCurvePrivateKey):
    """An EC key in a token: ECDSA."""

    def __init__(self, grip: Grip, public_key: ec.EllipticCurvePublicKey) -> None:
        self._grip = grip
        self._public_key = public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        data = bytes(data)
        if signature_algorithm.deterministic_signing:
            raise unsupported("deterministic ECDSA (RFC 6979)")
        _, digest = hashed(data, signature_algorithm.algorithm)
        # CKM_ECDSA takes a digest no longer than the order, and returns r || s.
        raw = self._grip.sign(digest[: (self.key_size + 7) // 8], Mechanism.ECDSA)
        half = len(raw) // 2
        signature = encode_dss_signature(
            int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        )
        return self._grip.verified(
            signature, lambda s: self._public_key.verify(s, data, signature_algorithm)
        )

    def exchange(self, algorithm: Any, peer_public_key: Any) -> bytes:
        raise unsupported("key agreement: this key signs")

    def __copy__(self) -> TokenECKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenECKey:
        return self


class TokenEd25519Key(TokenKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key in a token."""

    def __init__(self, grip: Grip, public_key: ed25519.Ed25519PublicKey) -> None:
        self._grip = grip
        self._public_key = public_key

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self._public_key

    def sign(self, data: Any) -> bytes:
        data = bytes(data)
        return self._grip.verified(
            self._grip.sign(data, Mechanism.EDDSA), lambda s: self._public_key.verify(s, data)
        )

    def __copy__(self) -> TokenEd25519Key:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEd25519Key:
        return self


class TokenEd448Key(TokenKey, ed448.Ed448PrivateKey):
    """An Ed448 key in a token."""

    def __init__(self, grip: Grip, public_key: ed448.Ed448PublicKey) -> None:
        self._grip = grip
        self._public_key = public_key

    def public_key(self) -> ed448.Ed448PublicKey:
        return self._public_key

    def sign(self, data: Any) -> bytes:
        data = bytes(data)
        return self._grip.verified(
            self._grip.sign(data, Mechanism.EDDSA), lambda s: self._public_key.verify(s, data)
        )

    def __copy__(self) -> TokenEd448Key:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEd448Key:
        return self


AnyTokenKey = TokenRSAKey | TokenECKey | TokenEd25519Key | TokenEd448Key


def key_for(grip: Grip, public_key: PublicKey) -> AnyTokenKey:
    """Return the key object that belongs to a public key."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return TokenRSAKey(grip, public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return TokenECKey(grip, public_key)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return TokenEd25519Key(grip, public_key)
    if isinstance(public_key, ed448.Ed448PublicKey):
        return TokenEd448Key(grip, public_key)
    raise unsupported(f"{type(public_key).__name__} for signatures")


def challenge(key: AnyTokenKey) -> None:
    """Sign something fresh; ``sign`` itself verifies that the token's key is the right one."""
    data = secrets.token_bytes(32)
    if isinstance(key, TokenRSAKey):
        key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, TokenECKey):
        key.sign(data, ec.ECDSA(hashes.SHA256()))
    else:
        key.sign(data)
