"""The User-based Security Model: digests, encryption, engines (RFC 3414, 3826, 7860).

Pure: the clock is a function that counts seconds, salts are counted from a random start.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tmad.events import Secret
from tmad.identity.snmp_managers import EngineState, User
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import AUTHENTICATED, ENCRYPTED, SecureMessage
from tmad.wire import usm

MOST_BOOTS: Final = 2**31 - 1  # RFC 3414, 2.2.2: then the engine id must change
WINDOW: Final = 150  # seconds (RFC 3414, 2.2.3)
_SALT: Final = 8
_SALTS: Final = 2**64


class LocalEngine:
    """Our own engine, which is authoritative for what it answers and for its traps."""

    def __init__(self, state: EngineState, seconds: Callable[[], float]) -> None:
        """``seconds`` counts evenly, whatever becomes of the wall clock."""
        self.engine_id = state.engine_id
        self.boots = min(state.boots, MOST_BOOTS)
        self._seconds = seconds
        self._origin = seconds() - state.age

    def time(self) -> int:
        """Return the seconds since the last boot."""
        return min(int(self._seconds() - self._origin), MOST_BOOTS)

    def is_timely(self, boots: int, time: int) -> bool:
        """Whether a message is neither old nor from another boot (RFC 3414, 3.2.7 a)."""
        return boots == self.boots < MOST_BOOTS and abs(time - self.time()) <= WINDOW


class Salts:
    """Salts that never repeat in this process, and hardly ever among others (RFC 3826, 3.1.2.1)."""

    def __init__(self, start: int) -> None:
        self._next = start % _SALTS

    def take(self) -> bytes:
        """Return the next salt."""
        found, self._next = self._next, (self._next + 1) % _SALTS
        return found.to_bytes(_SALT)


@dataclass(frozen=True, slots=True)
class Keys:
    """A user's keys for one engine."""

    user: User
    authentication: Secret
    privacy: Secret
    hash: str = field(init=False)
    digest_octets: int = field(init=False)

    def __post_init__(self) -> None:
        found = usm.AUTHENTICATIONS[self.user.authentication]
        object.__setattr__(self, "hash", found.hash)
        object.__setattr__(self, "digest_octets", found.octets)

    @classmethod
    def of(cls, user: User, engine_id: bytes) -> Keys:
        """Return the keys localised to an engine; with Cisco's long keys it takes milliseconds."""
        return cls(
            user,
            Secret(usm.localised(user.authentication, user.authentication_key.reveal(), engine_id)),
            Secret(
                usm.privacy_key(
                    user.authentication, user.privacy, user.privacy_key.reveal(), engine_id
                )
            ),
        )

    def _digest(self, octets: bytes) -> bytes:
        return hmac.digest(self.authentication.reveal(), octets, self.hash)[: self.digest_octets]

    def is_authentic(self, message: SecureMessage) -> bool:
        """Whether a message carries this user's digest, in full length (CVE-2008-0960)."""
        size = self.digest_octets
        if len(message.digest) != size:
            return False
        octets, at = message.octets, message.digest_at
        blanked = b"%b%b%b" % (octets[:at], bytes(size), octets[at + size :])
        return hmac.compare_digest(self._digest(blanked), message.digest)

    def decrypt(self, message: SecureMessage) -> bytes | None:
        """Return the scoped PDU of a message, None where the salt has another size."""
        if len(message.salt) != _SALT:
            return None
        decryptor = self._cipher(message.boots, message.time, message.salt).decryptor()
        return decryptor.update(message.data) + decryptor.finalize()

    def _cipher(self, boots: int, time: int, salt: bytes) -> Cipher[CFB]:
        # RFC 3826, 3.1.2.1: the initialisation vector.
        vector = boots.to_bytes(4) + time.to_bytes(4) + salt
        return Cipher(AES(self.privacy.reveal()), CFB(vector))

    def sealed(self, message: SecureMessage, salts: Salts) -> bytes:
        """Return a message encrypted and signed as far as its flags say, encoded."""
        salt, data = message.salt, message.data
        if message.flags & ENCRYPTED:
            salt = salts.take()
            encryptor = self._cipher(message.boots, message.time, salt).encryptor()
            data = encryptor.update(data) + encryptor.finalize()
        if not message.flags & AUTHENTICATED:
            return codec.splice_secure(message, b"", salt, data)[0]
        size = self.digest_octets
        octets, at = codec.splice_secure(message, bytes(size), salt, data)
        return octets[:at] + self._digest(octets) + octets[at + size :]
