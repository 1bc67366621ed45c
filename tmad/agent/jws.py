"""JSON Web Signatures as an ACME client makes them: flattened, ES256 (RFC 7515; 8555, 6.2)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tmad.events import Secret

_P256: Final = 32  # octets of a coordinate


def b64(octets: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Read base64url without padding; ValueError."""
    if "=" in text:
        raise ValueError("padding")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return a P-256 key's public half."""
    numbers = key.public_key().public_numbers()
    x, y = (b64(value.to_bytes(_P256, "big")) for value in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the thumbprint that key authorisations hold (RFC 7638)."""
    canonical = json.dumps(jwk(key), sort_keys=True, separators=(",", ":"))
    return b64(hashlib.sha256(canonical.encode()).digest())


def sign(
    key: ec.EllipticCurvePrivateKey, header: Mapping[str, Any], payload: Mapping[str, Any] | None
) -> bytes:
    """Return a flattened JWS; no payload is a POST-as-GET (RFC 8555, 6.3)."""
    protected, body = _parts({"alg": "ES256", **header}, payload)
    der = key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(der)
    signature = r.to_bytes(_P256, "big") + s.to_bytes(_P256, "big")
    return _flattened(protected, body, signature)


def bind(key: ec.EllipticCurvePrivateKey, kid: str, mac_key: Secret, url: str) -> dict[str, Any]:
    """Return the binding of an account to an external one (RFC 8555, 7.3.4).

    ``mac_key`` is what the server gave: base64url. ValueError for what is not.
    """
    secret = unb64(mac_key.reveal().decode("ascii").rstrip("="))
    protected, body = _parts({"alg": "HS256", "kid": kid, "url": url}, jwk(key))
    mac = hmac.digest(secret, f"{protected}.{body}".encode(), hashlib.sha256)
    found: dict[str, Any] = json.loads(_flattened(protected, body, mac))
    return found


def _parts(header: Mapping[str, Any], payload: Mapping[str, Any] | None) -> tuple[str, str]:
    body = "" if payload is None else b64(json.dumps(payload, separators=(",", ":")).encode())
    return b64(json.dumps(header, separators=(",", ":")).encode()), body


def _flattened(protected: str, payload: str, signature: bytes) -> bytes:
    return json.dumps(
        {"protected": protected, "payload": payload, "signature": b64(signature)}
    ).encode()
