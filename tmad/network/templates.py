"""Values of reply attributes with names in braces: "vlan-{subject.OU}" (R-61).

What is put in comes from the certificate or from the person's record, never from what whoever
logs in says of himself. It is put in once, as text: nothing in it is read as a template again,
control characters are taken out, and what does not fit is refused, never cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from tmad.errors import Fault, FaultCode

LONGEST: Final = 253  # octets of one attribute's value (RFC 2865, 5)

# What may stand in braces, beside "subject.ATTRIBUTE".
FIELDS: Final = (
    "user",  # the canonical name, as User-Name of the answer
    "person",
    "person.mail",
    "device",
    "authority",
    "profile",
    "serial",  # of the certificate, hexadecimal
    "san.dns",
    "san.email",
    "san.upn",
    "san.uri",
    "san.ip",
)
SUBJECT: Final = ("CN", "OU", "O", "L", "ST", "C", "DC", "UID", "SERIALNUMBER", "EMAIL", "TITLE")

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
# Control and format characters (bidirectional overrides, zero width), line and paragraph
# separators, halves of surrogate pairs and what is assigned to nothing.
_UNWANTED: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def mistake(template: str) -> str | None:
    """Return what is wrong with a template, in words, or None."""
    for piece in _PIECE.finditer(template):
        text, name = piece[0], piece[1]
        if text in ("{", "}"):
            return f"a single {text} stands for nothing; write {text}{text} for the character"
        if name is not None and not _is_known(name):
            known = ", ".join((*FIELDS, *(f"subject.{each}" for each in SUBJECT)))
            return f"{{{name}}} is not known; there are {known}"
    if clean(template) != template:
        return "has control characters"
    if len(template.encode()) > LONGEST:
        return f"has more than {LONGEST} octets"
    return None


def expand(template: str, values: Mapping[str, str]) -> str:
    """Return the template with its names replaced.

    Raise Fault(FORBIDDEN) when a name has no value for this login, or the result is too long.
    """
    return _limited(
        "".join(_text(piece, template, values) for piece in _PIECE.finditer(template)), template
    )


def clean(text: str) -> str:
    """Return a text without the characters that no attribute should carry."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _UNWANTED)


def _text(piece: re.Match[str], template: str, values: Mapping[str, str]) -> str:
    if piece[0] in ("{{", "}}"):
        return piece[0][0]
    if piece[1] is None:
        return piece[0]
    value = clean(values.get(piece[1], "")).strip()
    if not value:
        raise Fault(
            FaultCode.FORBIDDEN,
            "an attribute of the answer cannot be filled in",
            rule="network.template",
            values={"template": template, "missing": piece[1]},
        )
    return value


def _limited(text: str, template: str) -> str:
    octets = len(text.encode())
    if octets > LONGEST:
        raise Fault(
            FaultCode.FORBIDDEN,
            "an attribute of the answer would be too long",
            rule="network.attribute-length",
            values={"template": template, "octets": str(octets), "longest": str(LONGEST)},
        )
    return text


def _is_known(name: str) -> bool:
    kind, _, attribute = name.partition(".")
    return name in FIELDS or (kind == "subject" and attribute in SUBJECT)
