"""Keys of SNMPv3's User-based Security Model (RFC 3414, 2.6 and A.2; RFC 7860; RFC 3826, 1.2).

A passphrase becomes a key, the key becomes another one for each engine. AES-192 and AES-256
need more octets than SHA-1 and SHA-224 give; there are two ways to lengthen a key, and no RFC
for either: net-snmp's "AES-256" hashes the key once more (draft-blumenthal-aes-usm-04, 3.1.2.1),
Cisco's treats the key as a passphrase (draft-reeder-snmpv3-usm-3desede-00, 2.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

_STRETCHED: Final = 1_048_576  # octets


class Authentication(NamedTuple):
    """A hash, and how many octets of its HMAC a message carries."""

    hash: str
    octets: int


class Privacy(NamedTuple):
    """An AES key's octets, and whether it is lengthened Cisco's way."""

    octets: int
    is_reeder: bool = False


AUTHENTICATIONS: Final[Mapping[str, Authentication]] = {
    "sha1": Authentication("sha1", 12),
    "sha224": Authentication("sha224", 16),
    "sha256": Authentication("sha256", 24),
    "sha384": Authentication("sha384", 32),
    "sha512": Authentication("sha512", 48),
}
PRIVACIES: Final[Mapping[str, Privacy]] = {
    "aes128": Privacy(16),
    "aes192": Privacy(24),
    "aes256": Privacy(32),
    "aes192c": Privacy(24, is_reeder=True),
    "aes256c": Privacy(32, is_reeder=True),
}


def key_of(authentication: str, passphrase: bytes) -> bytes:
    """Return the key of a passphrase; ValueError for an empty one. It takes milliseconds."""
    if not passphrase:
        raise ValueError("an empty passphrase")
    repeated = passphrase * (_STRETCHED // len(passphrase) + 1)
    name = AUTHENTICATIONS[authentication].hash
    return hashlib.new(name, memoryview(repeated)[:_STRETCHED]).digest()


def localised(authentication: str, key: bytes, engine_id: bytes) -> bytes:
    """Return a key for the use with one engine (RFC 3414, 2.6)."""
    return hashlib.new(AUTHENTICATIONS[authentication].hash, key + engine_id + key).digest()


def privacy_key(authentication: str, privacy: str, key: bytes, engine_id: bytes) -> bytes:
    """Return the AES key for the use with one engine."""
    wanted = PRIVACIES[privacy]
    own = localised(authentication, key, engine_id)
    while len(own) < wanted.octets:
        if wanted.is_reeder:
            own += localised(authentication, key_of(authentication, own), engine_id)
        else:
            own += hashlib.new(AUTHENTICATIONS[authentication].hash, own).digest()
    return own[: wanted.octets]
