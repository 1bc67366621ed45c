"""How strings are made ready to be compared (RFC 4518)."""

from __future__ import annotations

import unicodedata
from typing import Final

# RFC 4518, 2.2: what is mapped to a space, and what to nothing.
_MAPPED: Final = {
    **dict.fromkeys(range(0x20), None),
    **dict.fromkeys(range(0x7F, 0xA0), None),
    **dict.fromkeys((9, 10, 11, 12, 13, 0x85), " "),
    **dict.fromkeys((0xAD, 0x034F, 0x06DD, 0x070F, 0x1806, 0x180E, 0x200B, 0x2060, 0xFEFF, 0xFFFC)),
    **dict.fromkeys(range(0x180B, 0x180E)),
    **dict.fromkeys(range(0x200C, 0x2010)),
    **dict.fromkeys(range(0x202A, 0x202F)),
    **dict.fromkeys(range(0x2061, 0x2064)),
    **dict.fromkeys(range(0x206A, 0x2070)),
    **dict.fromkeys(range(0xFE00, 0xFE10)),
    **dict.fromkeys(range(0xFFF9, 0xFFFC)),
    **dict.fromkeys(range(0x1D173, 0x1D17B)),
    **dict.fromkeys((0xE0001, *range(0xE0020, 0xE0080))),
}


def prepare(text: str, *, fold: bool, substring: bool = False) -> str:
    """Return a string as it is compared (RFC 4518): one space for many, case folded or not.

    Spaces at the ends go, but for pieces of substrings, which keep one.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_MAPPED))
        if fold:
            text = unicodedata.normalize("NFKC", text.casefold())
    elif not text.isprintable():
        text = text.translate(_MAPPED)
    if fold:
        text = text.lower()
    joined = " ".join(text.split())
    if not substring:
        return joined
    if not joined:
        return " " if text else ""
    return " " * text[0].isspace() + joined + " " * text[-1].isspace()
