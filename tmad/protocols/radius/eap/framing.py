"""TLS messages cut to what fits into one EAP packet, and put together again (RFC 5216, 2.1.5)."""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.protocols.radius.eap import codec

LONGEST_MESSAGE: Final = 65_536  # octets: a chain of ten RSA-4096 certificates fits (E-24)
SMALLEST_FRAGMENT: Final = 200


class Incoming:
    """Puts together what a peer sends in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._total: int | None = None

    def add(self, fragment: codec.Fragment) -> bytes | None:
        """Return the whole message, or None while more is to come; raise Fault(REJECTED)."""
        if fragment.total is not None:
            if self._total not in (None, fragment.total) or fragment.total > LONGEST_MESSAGE:
                raise peer_fault("the TLS message is longer than allowed or announced", "length")
            self._total = fragment.total
        if not self._pieces and not fragment.more:
            self._check(len(fragment.data))
            self._total = None
            return fragment.data
        if fragment.more and not fragment.data:
            raise peer_fault("a fragment of a TLS message is empty", "fragment")
        self._pieces.append(fragment.data)
        self._size += len(fragment.data)
        if self._size > (LONGEST_MESSAGE if self._total is None else self._total):
            raise peer_fault("the TLS message is longer than allowed or announced", "length")
        if fragment.more:
            return None
        self._check(self._size)
        message = b"".join(self._pieces)
        self._pieces, self._size, self._total = [], 0, None
        return message

    def _check(self, size: int) -> None:
        # An acknowledgement may say L = 0 or nothing at all; anything else must be as it says.
        if self._total not in (None, size):
            raise peer_fault("the TLS message is shorter than it said", "length")


class Outgoing:
    """Hands out a message piece by piece."""

    def __init__(self, size: int, flags: int = 0) -> None:
        """``size`` is the most that one EAP packet may have; ``flags`` holds the version."""
        self.size = max(size, SMALLEST_FRAGMENT)
        self._flags = flags
        self._message = b""
        self._at = 0

    @property
    def is_waiting(self) -> bool:
        """Whether a piece is out and more is to follow."""
        return self._at < len(self._message)

    def fit(self, size: int) -> None:
        """Make the pieces that are still to come no longer than this."""
        self.size = max(size, SMALLEST_FRAGMENT)

    def send(self, message: bytes) -> bytes:
        """Return the first piece of a message, or all of it."""
        room = self.size - 6  # header, type, flags
        if len(message) <= room:
            # RFC 9190, 2.1.9: the length stands only where there is more than one piece.
            return bytes((self._flags,)) + message
        self._message = message
        self._at = room - 4
        flags = self._flags | codec.LENGTH | codec.MORE
        return bytes((flags,)) + len(message).to_bytes(4) + message[: self._at]

    def next(self) -> bytes:
        """Return the next piece."""
        end = self._at + self.size - 6
        is_last = end >= len(self._message)
        piece = self._message[self._at : end]
        if is_last:
            self._message, self._at = b"", 0
        else:
            self._at = end
        return bytes((self._flags if is_last else self._flags | codec.MORE,)) + piece

    def acknowledge(self) -> bytes:
        """Return what says that a piece has arrived."""
        return bytes((self._flags,))


def peer_fault(detail: str, rule: str) -> Fault:
    """Return the Fault that ends a conversation over what the peer sent."""
    return Fault(FaultCode.REJECTED, detail, rule=f"eap.{rule}")
