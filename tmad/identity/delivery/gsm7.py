"""The GSM default alphabet (3GPP TS 23.038, 6.2.1), one septet an octet as SMPP carries it."""

from __future__ import annotations

from typing import Final

_BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPE: Final = 0x1B
_EXTENSION: Final = {
    "\f": 0x0A,
    "^": 0x14,
    "{": 0x28,
    "}": 0x29,
    "\\": 0x2F,
    "[": 0x3C,
    "~": 0x3D,
    "]": 0x3E,
    "|": 0x40,
    "€": 0x65,
}
_SEPTETS: Final = {
    **{character: bytes((at,)) for at, character in enumerate(_BASIC) if at != _ESCAPE},
    **{character: bytes((_ESCAPE, at)) for character, at in _EXTENSION.items()},
}


def encode(text: str) -> bytes | None:
    """Return the septets of a text, or None when the alphabet lacks one of its characters."""
    try:
        return b"".join(_SEPTETS[character] for character in text)
    except KeyError:
        return None
