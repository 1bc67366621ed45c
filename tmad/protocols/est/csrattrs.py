"""What a client should put into its request: CSR attributes (RFC 7030, 4.5; RFC 9908).

The old form names single attributes, the template of RFC 9908 draws the whole request with
holes for the client to fill. An answer holds both: who knows templates passes over the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from tmad.protocols.est.codec import CHALLENGE_PASSWORD, IDENTITY_LINKING
from tmad.wire import der

_EXTENSION_TEMPLATE: Final = der.oid("1.2.840.113549.1.9.16.2.62")
_REQUEST_TEMPLATE: Final = der.oid("1.2.840.113549.1.9.16.2.61")
_SUBJECT_ALTERNATIVE_NAME: Final = der.oid("2.5.29.17")
_RSA: Final = der.oid("1.2.840.113549.1.1.1")
_EC: Final = der.oid("1.2.840.10045.2.1")
_ECDSA: Final = "1.2.840.10045.4.3."
# Key algorithm of a profile -> key, parameters (None: absent), signature in the old form.
_CURVES: Final[Mapping[str, tuple[str, str]]] = {
    "p256": ("1.2.840.10045.3.1.7", _ECDSA + "2"),
    "p384": ("1.3.132.0.34", _ECDSA + "3"),
    "p521": ("1.3.132.0.35", _ECDSA + "4"),
    "secp256k1": ("1.3.132.0.10", _ECDSA + "2"),
    "brainpool-p256": ("1.3.36.3.3.2.8.1.1.7", _ECDSA + "2"),
    "brainpool-p384": ("1.3.36.3.3.2.8.1.1.11", _ECDSA + "3"),
    "brainpool-p512": ("1.3.36.3.3.2.8.1.1.13", _ECDSA + "4"),
}
_SHA256_WITH_RSA: Final = der.oid("1.2.840.113549.1.1.11")
_OTHERS: Final[Mapping[str, bytes]] = {
    "ed25519": der.oid("1.3.101.112"),
    "ed448": der.oid("1.3.101.113"),
    "x25519": der.oid("1.3.101.110"),
    "x448": der.oid("1.3.101.111"),
    "ml-dsa-44": der.oid("2.16.840.1.101.3.4.3.17"),
    "ml-dsa-65": der.oid("2.16.840.1.101.3.4.3.18"),
    "ml-dsa-87": der.oid("2.16.840.1.101.3.4.3.19"),
    "ml-kem-768": der.oid("2.16.840.1.101.3.4.4.2"),
    "ml-kem-1024": der.oid("2.16.840.1.101.3.4.4.3"),
}
# GeneralName tags; an empty value is a hole for the client.
_EMPTY_NAMES: Final[Mapping[str, bytes]] = {
    "email": b"\x81\x00",
    "dns": b"\x82\x00",
    "uri": b"\x86\x00",
    "ip": b"\x87\x00",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a request should look like.

    ``key`` is an algorithm as profiles name it, with ``rsa_bits`` for RSA. ``subject`` are
    attributes with the value that they must have, None for one of the client's. ``names`` are
    the kinds of alternative names that there must be.
    """

    key: str
    rsa_bits: int
    subject: Sequence[tuple[x509.ObjectIdentifier, str | None]]
    names: Sequence[str]
    is_linked: bool


def encode(wishes: Wishes) -> bytes:
    """Return CsrAttrs (RFC 7030, 4.5.2)."""
    parts: list[bytes] = []
    if wishes.is_linked:
        # RFC 7030, 3.5 and RFC 7894, 3.3: show that the request is of this TLS session.
        parts += [CHALLENGE_PASSWORD, IDENTITY_LINKING]
    parts += _old_key(wishes)
    if not wishes.is_linked:
        # A template has no place for an attribute without a value, and who knows templates
        # would pass over the wish for linking.
        parts.append(_attribute(_REQUEST_TEMPLATE, _template(wishes)))
    return der.sequence(*parts)


def _old_key(wishes: Wishes) -> Iterable[bytes]:
    """Yield key and signature algorithm as RFC 7030's own example has them."""
    if wishes.key == "rsa":
        yield _attribute(_RSA, der.integer(wishes.rsa_bits))
        yield _SHA256_WITH_RSA
    elif wishes.key in _CURVES:
        curve, signature = _CURVES[wishes.key]
        yield _attribute(_EC, der.oid(curve))
        yield der.oid(signature)
    else:
        yield _OTHERS[wishes.key]


def _attribute(oid: bytes, value: bytes) -> bytes:
    return der.sequence(oid, der.tlv(der.SET, value))


def _template(wishes: Wishes) -> bytes:
    """Return a CertificationRequestInfoTemplate (RFC 9908, 3.4)."""
    names = b"".join(
        der.tlv(der.SET, der.sequence(der.oid(oid.dotted_string), _value(oid, value)))
        for oid, value in wishes.subject
    )
    extensions = _extensions(wishes)
    attributes = b"" if extensions is None else _attribute(_EXTENSION_TEMPLATE, extensions)
    return der.sequence(
        der.integer(0),
        *((der.sequence(names),) if names else ()),
        der.explicit(0, _key(wishes)),
        der.explicit(1, attributes),
    )


def _value(oid: x509.ObjectIdentifier, value: str | None) -> bytes:
    if value is None:
        return b""
    # As the library would write it: countryName and serialNumber are no UTF8String.
    name = x509.Name([x509.NameAttribute(oid, value)]).public_bytes()
    pair = der.read(name, der.SEQUENCE).enter(der.SET).enter(der.SEQUENCE)
    pair.raw(der.OBJECT_IDENTIFIER)
    return pair.raw()


def _key(wishes: Wishes) -> bytes:
    """Return the content of a SubjectPublicKeyInfoTemplate."""
    if wishes.key == "rsa":
        # RFC 9908, 3.4: a placeholder shows how long the modulus shall be.
        modulus = der.integer((1 << wishes.rsa_bits) - 1)
        key = der.sequence(modulus, der.integer(65_537))
        return der.sequence(_RSA, der.NULL_DER) + der.tlv(der.BIT_STRING, b"\0" + key)
    if wishes.key in _CURVES:
        return der.sequence(_EC, der.oid(_CURVES[wishes.key][0]))
    return der.sequence(_OTHERS[wishes.key])


def _extensions(wishes: Wishes) -> bytes | None:
    """Return an ExtensionReqTemplate with a hole for each alternative name that is required."""
    holes = b"".join(_EMPTY_NAMES[kind] for kind in wishes.names if kind in _EMPTY_NAMES)
    if not holes:
        return None
    value = der.octets(der.sequence(holes))
    return der.sequence(der.sequence(_SUBJECT_ALTERNATIVE_NAME, value))
