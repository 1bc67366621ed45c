"""Signed messages of ACME: flattened JWS and the keys that sign them.

RFC 8555, 6.2; RFC 7515 (JWS), 7517 and 7518 (keys, algorithms), 7638 (thumbprints), 8037
(Ed25519). Pure: no clock, no randomness.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.acme.strictjson import Object, malformed, pack, parse_object, unpack
from tmad.wire.parsing import UNREADABLE

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_RSA_BITS: Final = range(2048, 4097)
_RSA_EXPONENTS: Final = range(65_537, 1 << 32)
_LONGEST_URL: Final = 2_000

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int, str]]] = {
    "P-256": (ec.SECP256R1(), 32, "ES256"),
    "P-384": (ec.SECP384R1(), 48, "ES384"),
    "P-521": (ec.SECP521R1(), 66, "ES512"),
}
_BY_CURVE: Final = {curve.name: (octets, name) for curve, octets, name in _CURVES.values()}
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "ES256": hashes.SHA256(),
    "ES384": hashes.SHA384(),
    "ES512": hashes.SHA512(),
}
ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "RS256")
_MACS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JWK:
    """A public key as a client wrote it down; ``thumbprint`` is SHA-256 (RFC 7638)."""

    key: PublicKey
    thumbprint: bytes

    @property
    def spki_der(self) -> bytes:
        """Return the key as a SubjectPublicKeyInfo."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class JWS:
    """A message whose signature nobody has checked yet.

    Exactly one of ``jwk`` and ``kid`` is there; ``nonce`` is None where there must be none.
    """

    algorithm: str
    url: str
    nonce: str | None
    jwk: JWK | None
    kid: str
    payload: bytes
    signed: bytes  # what the signature is over, as received
    signature: bytes


def decode(body: bytes) -> JWS:
    """Read the message of a request (RFC 8555, 6.2); Fault(MALFORMED) and others."""
    found = _read(parse_object(body, "the message"))
    if found.algorithm not in ALGORITHMS:
        raise _bad_algorithm(found.algorithm)
    if found.nonce is None:
        # RFC 8555, 6.5.2
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "the message has no nonce",
            rule="acme.nonce",
            values={"problem": "badNonce"},
        )
    return found


def decode_inner(value: object, what: str, *, is_mac: bool) -> JWS:
    """Read a message inside another one's payload: it has no nonce (RFC 8555, 7.3.4, 7.3.5)."""
    if not isinstance(value, dict):
        raise malformed(f"{what} is not a JWS")
    found = _read(value)
    if found.nonce is not None:
        raise malformed(f"{what} must not have a nonce")
    if found.algorithm not in (_MACS if is_mac else ALGORITHMS):
        raise _bad_algorithm(found.algorithm, offered=tuple(_MACS) if is_mac else ALGORITHMS)
    if is_mac != bool(found.kid):
        raise malformed(f"{what} is signed with the wrong kind of key")
    return found


def _read(message: Object) -> JWS:
    if set(message) - {"protected", "payload", "signature"}:
        # RFC 8555, 6.2: no signatures, no unprotected header.
        raise malformed("a message has protected, payload and signature, and nothing else")
    protected = message.get("protected")
    payload = message.get("payload")
    header = parse_object(unpack(protected, "protected"), "the protected header")
    if not {"crit", "b64"}.isdisjoint(header):
        # RFC 7515, 4.1.11 and RFC 7797: no extension is understood.
        raise malformed("the protected header has crit or b64")
    texts = {name: _text(header, name) for name in ("alg", "url", "nonce", "kid")}
    if not texts["alg"] or not texts["url"]:
        raise malformed("the protected header lacks alg or url")
    if ("jwk" in header) == bool(texts["kid"]):
        raise malformed("the protected header has exactly one of jwk and kid")
    content = unpack(payload, "payload")
    return JWS(
        algorithm=texts["alg"] or "",
        url=texts["url"] or "",
        nonce=texts["nonce"],
        jwk=decode_key(header["jwk"]) if "jwk" in header else None,
        kid=texts["kid"] or "",
        payload=content,
        signed=f"{protected}.{payload}".encode("ascii"),
        signature=unpack(message.get("signature"), "signature", longest=1_024),
    )


def _text(header: Object, name: str) -> str | None:
    value = header.get(name)
    if value is None and name not in header:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_URL:
        raise malformed(f"{name} in the protected header is not a text")
    return value


# -- keys -----------------------------------------------------------------------------------------


def decode_key(value: object) -> JWK:
    """Read a JWK; Fault(MALFORMED), badPublicKey, for one that is none of ours."""
    if not isinstance(value, dict):
        raise _bad_key("jwk is not an object")
    kind = value.get("kty")
    reader = _KEYS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise _bad_key("a key is of the type EC, RSA or OKP")
    if "d" in value:
        raise _bad_key("a private key was sent: it must not be used any more")
    try:
        key, members = reader(value)
    except UNREADABLE:
        raise _bad_key("the key is not valid") from None
    canonical = ",".join(f'"{name}":"{members[name]}"' for name in sorted(members))
    digest = hashlib.sha256(f"{{{canonical}}}".encode("ascii")).digest()
    return JWK(key=key, thumbprint=digest)


def _elliptic(value: Object) -> tuple[PublicKey, dict[str, str]]:
    name = value.get("crv")
    found = _CURVES.get(name) if isinstance(name, str) else None
    if found is None or not isinstance(name, str):
        raise _bad_key("the curve is P-256, P-384 or P-521")
    curve, octets, _ = found
    x, y = (unpack(value.get(each), each, longest=128) for each in "xy")
    if len(x) != octets or len(y) != octets:
        # RFC 7518, 6.2.1.2: as long as the curve, leading zeros and all.
        raise _bad_key("a coordinate has the wrong length")
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    return key, {"crv": name, "kty": "EC", "x": pack(x), "y": pack(y)}


def _rsa(value: Object) -> tuple[PublicKey, dict[str, str]]:
    modulus, exponent = (unpack(value.get(each), each, longest=1_024) for each in "ne")
    if not modulus or not exponent or not modulus[0] or not exponent[0]:
        raise _bad_key("a number has leading zeros")  # RFC 7518, 2: Base64urlUInt
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    if n.bit_length() not in _RSA_BITS or e not in _RSA_EXPONENTS or not (n & e & 1):
        raise _bad_key("an RSA key has 2048 to 4096 bits and an exponent from 65537")
    key = rsa.RSAPublicNumbers(e, n).public_key()
    return key, {"e": pack(exponent), "kty": "RSA", "n": pack(modulus)}


def _edwards(value: Object) -> tuple[PublicKey, dict[str, str]]:
    if value.get("crv") != "Ed25519":
        raise _bad_key("the curve is Ed25519")
    x = unpack(value.get("x"), "x", longest=128)
    return ed25519.Ed25519PublicKey.from_public_bytes(x), {
        "crv": "Ed25519",
        "kty": "OKP",
        "x": pack(x),
    }


_KEYS: Final[Mapping[str, Callable[[Object], tuple[PublicKey, dict[str, str]]]]] = {
    "EC": _elliptic,
    "RSA": _rsa,
    "OKP": _edwards,
}


@lru_cache(1_000)
def load_key(spki_der: bytes) -> PublicKey:
    """Return an account's key as it was stored; each of its messages needs it."""
    key: Any = load_der_public_key(spki_der)
    return key  # type: ignore[no-any-return]  # decode_key has let no other in


# -- signatures -----------------------------------------------------------------------------------


def verify(message: JWS, key: PublicKey) -> None:
    """Raise a Fault unless the key has signed exactly this message, by an algorithm of its own."""
    if message.algorithm != _algorithm_of(key):
        # The key decides, never the message alone (T-ACME-07).
        raise _bad_algorithm(message.algorithm, offered=(_algorithm_of(key),))
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(message.signature, message.signed)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(message.signature, message.signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            _verify_elliptic(message, key)
    except InvalidSignature:
        raise _bad_signature() from None


def _verify_elliptic(message: JWS, key: ec.EllipticCurvePublicKey) -> None:
    octets, algorithm = _BY_CURVE[key.curve.name]
    signature = message.signature
    if len(signature) != 2 * octets:
        # RFC 7518, 3.4: both numbers, each as long as the curve; DER is something else.
        raise _bad_signature()
    r, s = (int.from_bytes(part, "big") for part in (signature[:octets], signature[octets:]))
    der = encode_dss_signature(r, s)
    key.verify(der, message.signed, ec.ECDSA(_HASHES[algorithm]))


def is_mac_of(message: JWS, secret: Secret) -> bool:
    """Tell whether a message has the MAC of a secret (RFC 7518, 3.2)."""
    digest = _MACS[message.algorithm]
    expected = hmac.digest(secret.reveal(), message.signed, digest)
    return hmac.compare_digest(expected, message.signature)


def _algorithm_of(key: PublicKey) -> str:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    return _BY_CURVE[key.curve.name][1]


# -- refusals -------------------------------------------------------------------------------------


def _bad_key(detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule="acme.key", values={"problem": "badPublicKey"})


def _bad_algorithm(found: str, offered: tuple[str, ...] = ALGORITHMS) -> Fault:
    return Fault(
        FaultCode.BAD_ALGORITHM,
        "this signature algorithm is not for this",
        rule="acme.algorithm",
        values={
            "problem": "badSignatureAlgorithm",
            "algorithm": found[:40],
            "algorithms": " ".join(offered),
        },
    )


def _bad_signature() -> Fault:
    return Fault(
        FaultCode.BAD_INTEGRITY,
        "the signature of the message is not valid",
        rule="acme.signature",
        values={"problem": "malformed"},
    )
