"""What a token file says about one token, checked: serial number, kind, seed and counter."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from tmad.events import Secret

Kind: TypeAlias = Literal["hotp", "totp"]
Algorithm: TypeAlias = Literal["sha1", "sha256", "sha512"]

_SERIAL: Final = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,63}")
_ALGORITHM: Final = re.compile(r"(?:hmac-?)?sha-?(1|256|512)", re.IGNORECASE)
_SHORTEST_SEED: Final = 16  # octets; RFC 4226, 4, R6
_LONGEST_SEED: Final = 128
_LARGEST_COUNTER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSeed:
    """One token as its maker describes it; ``period`` is in seconds, 0 for HOTP."""

    serial: str  # upper case
    kind: Kind
    algorithm: Algorithm
    digits: int
    period: int
    counter: int
    seed: Secret
    person: str | None


def token_seed(
    *,
    serial: str,
    kind: str,
    seed: bytes,
    algorithm: str = "",
    digits: int | None = None,
    period: int | None = None,
    counter: int | None = None,
    person: str = "",
) -> TokenSeed:
    """Return a token after every check; raise ValueError that says what is wrong with it."""
    name = serial.strip().upper()
    if not _SERIAL.fullmatch(name):
        raise ValueError(f"{_shown(serial)} is not a serial number (letters, digits, . _ -)")
    kind = kind.strip().lower()
    if kind not in ("hotp", "totp"):
        raise ValueError(f"the type must be hotp or totp, not {_shown(kind)}")
    if not _SHORTEST_SEED <= len(seed) <= _LONGEST_SEED:
        raise ValueError(
            f"the seed has {len(seed)} octets; {_SHORTEST_SEED} to {_LONGEST_SEED} are allowed"
        )
    digits = 6 if digits is None else digits
    if not 6 <= digits <= 8:
        raise ValueError(f"{digits} digits; 6, 7 and 8 are allowed")
    period = 30 if period is None else period
    if kind == "totp" and not 10 <= period <= 300:
        raise ValueError(f"a period of {period} s; 10 to 300 are allowed")
    counter = 0 if counter is None else counter
    if not 0 <= counter <= _LARGEST_COUNTER:
        raise ValueError("the counter is out of range")
    return TokenSeed(
        serial=name,
        kind=cast(Kind, kind),
        algorithm=hash_name(algorithm or "sha1"),
        digits=digits,
        period=period if kind == "totp" else 0,
        # What a file calls the counter of a clock is the time when the token was made.
        counter=counter if kind == "hotp" else 0,
        seed=Secret(seed),
        person=person.strip() or None,
    )


def hash_name(text: str) -> Algorithm:
    """Return the name that tmad uses for "HMAC-SHA256", "SHA-1" and the like; ValueError."""
    match = _ALGORITHM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"the algorithm {_shown(text)} is not known; sha1, sha256, sha512 are")
    return cast(Algorithm, f"sha{match[1]}")


def whole_number(text: str, what: str) -> int:
    """Return a decimal number of ASCII digits; ValueError names ``what`` it should have been."""
    if not re.fullmatch(r"[0-9]{1,19}", text.strip(), re.ASCII):
        raise ValueError(f"the {what} must be a whole number, not {_shown(text)}")
    return int(text)


def decode_hex(text: str) -> bytes:
    """Return what hexadecimal text spells, groups allowed; ValueError."""
    try:
        return binascii.unhexlify(re.sub(r"[ \t:.-]", "", text))
    except (binascii.Error, ValueError):
        raise ValueError("the seed is not hexadecimal") from None


def decode_base32(text: str) -> bytes:
    """Return what RFC 4648 base 32 spells, in either case, padded or not; ValueError."""
    plain = re.sub(r"[ \t-]", "", text).rstrip("=").upper()
    try:
        return base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("the seed is not base32") from None


def decode_base64(text: str) -> bytes:
    """Return what RFC 4648 base 64 spells; ValueError."""
    try:
        return base64.b64decode(re.sub(r"[ \t\r\n]", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


def _shown(text: str) -> str:
    # A column that is not what it should be may hold the seed of a file read the wrong way.
    return repr(text) if len(text) <= 24 else f"a text of {len(text)} characters"
