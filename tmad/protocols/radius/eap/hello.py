"""Which TLS sessions a ClientHello wants to go on with (RFC 5246, 7.4.1.2; RFC 8446, 4.2.11)."""

from __future__ import annotations

from typing import Final, NamedTuple

_HANDSHAKE: Final = b"\x16"
_CLIENT_HELLO: Final = b"\x01"
_SUPPORTED_VERSIONS: Final = 43
_PRE_SHARED_KEY: Final = 41
_TLS_13: Final = b"\x03\x04"
_RECORD: Final = 5  # octets of a record's header
_RANDOM_END: Final = 2 + 32  # version, random


class _CutOffError(Exception):
    """The message ends within a field."""


class _Field(NamedTuple):
    """What stands behind a length of so many octets, and where it ends."""

    value: bytes
    end: int


def offered(message: bytes, *, speaks_13: bool) -> tuple[bytes, ...]:
    """Return the ids of the sessions that a client offers to resume, the preferred first.

    ``speaks_13`` tells whether the server does. Nothing is offered by what is no ClientHello, or
    one that is cut into several records.
    """
    if message[:1] != _HANDSHAKE or message[_RECORD : _RECORD + 1] != _CLIENT_HELLO:
        return ()
    try:
        hello = _field(message, _RECORD + 1, 3).value
        session, at = _field(hello, _RANDOM_END, 1)
        at = _field(hello, at, 2).end  # cipher suites
        at = _field(hello, at, 1).end  # compression methods
        extensions = _extensions(_field(hello, at, 2).value) if at < len(hello) else {}
        if speaks_13 and _TLS_13 in _pairs(extensions.get(_SUPPORTED_VERSIONS, b"")):
            # Then the other field is filled for the sake of boxes in the middle, and means nothing.
            return _identities(extensions.get(_PRE_SHARED_KEY, b""))
    except _CutOffError:
        return ()
    return (session,) if session else ()


def _field(octets: bytes, at: int, size: int) -> _Field:
    begin = at + size
    end = begin + int.from_bytes(octets[at:begin], "big")
    if end > len(octets):
        raise _CutOffError
    return _Field(octets[begin:end], end)


def _extensions(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(octets):
        kind = int.from_bytes(octets[at : at + 2], "big")
        found[kind], at = _field(octets, at + 2, 2)
    return found


def _pairs(versions: bytes) -> list[bytes]:
    return [versions[at : at + 2] for at in range(1, len(versions), 2)]


def _identities(octets: bytes) -> tuple[bytes, ...]:
    if not octets:
        return ()
    listed = _field(octets, 0, 2).value
    found: list[bytes] = []
    at = 0
    while at < len(listed):
        identity, at = _field(listed, at, 2)
        at += 4  # the ticket's age
        found.append(identity)
    return tuple(found)
