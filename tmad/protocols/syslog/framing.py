"""Where a message ends on a stream (RFC 6587, 3.4; RFC 5425, 4.3); pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

Framing: TypeAlias = Literal["octet-counting", "lf", "nul"]

_TRAILERS = {"lf": b"\n", "nul": b"\0"}


def frame(message: bytes, framing: Framing) -> bytes:
    """Return a message as it stands on a stream.

    A message of ours holds neither a line feed nor a NUL, so that a trailer ends it and
    nothing else does.
    """
    if framing == "octet-counting":
        return b"%d %b" % (len(message), message)
    return message + _TRAILERS[framing]
