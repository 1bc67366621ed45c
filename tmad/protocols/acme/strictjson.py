"""JSON and base64url as JOSE has them, read strictly (RFC 8259; RFC 7515, 2).

A member that occurs twice, a number that is no integer, half a surrogate or deep nesting is
refused: two readers of one text must not see two different things.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, NoReturn, TypeAlias

from tmad.errors import Fault, FaultCode

Object: TypeAlias = dict[str, Any]

DEPTH: Final = 8
_DIGITS: Final = 20


def parse_object(text: bytes, what: str) -> Object:
    """Return a JSON object; Fault(MALFORMED) for anything else. ``what`` names it."""
    try:
        found = _DECODER.decode(text.decode("utf-8"))
        _bound(found)
    except (ValueError, RecursionError):
        # A UnicodeDecodeError is a ValueError, too.
        raise malformed(f"{what} is not JSON as it must be") from None
    if not isinstance(found, dict):
        raise malformed(f"{what} is not a JSON object")
    return found


def unpack(text: object, what: str, *, longest: int = 65_536) -> bytes:
    """Return the octets of a base64url text without padding; Fault(MALFORMED) otherwise."""
    if not isinstance(text, str) or len(text) > 2 * longest or not text.isascii():
        raise malformed(f"{what} is not base64url")
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise malformed(f"{what} is not base64url") from None
    if pack(octets) != text:
        # RFC 7515, 2: no padding, and no second spelling of the same octets.
        raise malformed(f"{what} is not base64url without padding")
    return octets


def pack(octets: bytes) -> str:
    """Return octets in base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def encode(value: object) -> bytes:
    """Return JSON on one line, as shell clients read it: nothing escaped that need not be."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def malformed(detail: str, rule: str = "acme.message") -> Fault:
    """Return the Fault for a message that is not what it must be."""
    return Fault(FaultCode.MALFORMED, detail, rule=rule, values={"problem": "malformed"})


def _pairs(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError("a number is too long")
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"not a number here: {text[:20]}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_refuse, parse_constant=_refuse
)


def _bound(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, str):
            found.encode()  # raises for half a surrogate
        elif isinstance(found, dict | list):
            if depth > DEPTH:
                raise ValueError("too deep")
            inside = found.values() if isinstance(found, dict) else found
            waiting += [(each, depth + 1) for each in inside]
            if isinstance(found, dict):
                waiting += [(name, depth + 1) for name in found]
