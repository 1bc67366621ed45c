"""Distinguished names: RFC 4514 in and out, and one form for comparing (RFC 4512, 2.3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import schema
from tmad.protocols.ldap.strings import prepare

LONGEST: Final = 4096  # characters
MOST: Final = 64  # RDNs

Value: TypeAlias = str | bytes  # bytes: of a type that is no string (RFC 4514, 2.4: "#hex")
RDN: TypeAlias = tuple[tuple[str, Value], ...]
DN: TypeAlias = tuple[RDN, ...]  # the entry's own RDN first
RDNKey: TypeAlias = tuple[tuple[str, Value], ...]
Key: TypeAlias = tuple[RDNKey, ...]

_TYPE: Final = re.compile(r" *(?:oid\.)?([A-Za-z][A-Za-z0-9-]*|\d+(?:\.\d+)+) *= *", re.I | re.A)
_PLAIN: Final = re.compile(r'[^\\"+,;<>#=\x00]*[^\\"+,;<> #=\x00]')
_HEX: Final = re.compile(r"#((?:[0-9A-Fa-f]{2})+) *")
_PAIR: Final = re.compile(r"[0-9A-Fa-f]{2}")
_SPECIAL: Final = frozenset('\\"+,;<>#= ')
_ESCAPED: Final = re.compile(r'([\\"+,;<>])')
# UTF8String, PrintableString, TeletexString, IA5String, and BMPString: how octets are text.
_STRINGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}


@lru_cache(maxsize=4096)
def parse(text: str) -> DN:
    """Read a name, also in the spellings of RFC 2253 and 1779; Fault(MALFORMED, ldap.dn)."""
    if len(text) > LONGEST:
        raise _malformed("a name is too long")
    if not text.strip(" "):
        return ()
    found: list[RDN] = []
    parts: list[tuple[str, Value]] = []
    at = 0
    while True:
        kind = _TYPE.match(text, at)
        if kind is None:
            raise _malformed("a name is TYPE=VALUE, with commas between")
        value, at = _value(text, kind.end())
        parts.append((kind[1], value))
        separator = text[at : at + 1]
        if separator != "+":
            found.append(tuple(parts))
            parts = []
        if not separator:
            return tuple(found)
        if len(found) + len(parts) >= MOST:
            raise _malformed("a name has too many parts")
        at += 1


def _value(text: str, at: int) -> tuple[Value, int]:
    """Return the value that begins at ``at``, and where its separator stands."""
    plain = _PLAIN.match(text, at)
    if plain is not None:
        end = plain.end()
        while text[end : end + 1] == " ":
            end += 1
        if text[end : end + 1] in ("", ",", "+", ";"):
            return plain[0], end
    hexed = _HEX.match(text, at)
    if hexed is not None:
        return _decoded(bytes.fromhex(hexed[1])), _end(text, hexed.end())
    if text[at : at + 1] == '"':
        return _quoted(text, at + 1)
    return _escaped(text, at)


def _escaped(text: str, at: int) -> tuple[str, int]:
    octets = bytearray()
    keep = 0  # how many of the octets are not spaces at the end
    while at < len(text) and text[at] not in ",+;":
        character = text[at]
        if character == "\\":
            octets_here, at = _pair(text, at + 1)
            octets += octets_here
            keep = len(octets)
        elif character in '"<>\0':
            raise _malformed("a character of a name is not escaped")
        else:
            octets += character.encode("utf-8", "surrogatepass")
            at += 1
            if character != " ":
                keep = len(octets)
    return _utf8(bytes(octets[:keep])), at


def _quoted(text: str, at: int) -> tuple[str, int]:
    octets = bytearray()
    while at < len(text):
        if text[at] == '"':
            return _utf8(bytes(octets)), _end(text, at + 1)
        if text[at] == "\\":
            octets_here, at = _pair(text, at + 1)
            octets += octets_here
        else:
            octets += text[at].encode("utf-8", "surrogatepass")
            at += 1
    raise _malformed("a quotation mark in a name is never closed")


def _pair(text: str, at: int) -> tuple[bytes, int]:
    if _PAIR.match(text, at):
        return bytes.fromhex(text[at : at + 2]), at + 2
    if text[at : at + 1] in _SPECIAL and at < len(text):
        return text[at].encode(), at + 1
    raise _malformed("a backslash in a name stands before nothing that needs it")


def _end(text: str, at: int) -> int:
    while text[at : at + 1] == " ":
        at += 1
    if text[at : at + 1] not in ("", ",", "+", ";"):
        raise _malformed("something stands after a value of a name")
    return at


def _utf8(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _malformed("a name is not UTF-8") from None


def _decoded(octets: bytes) -> Value:
    """Return the text of an encoded string; of any other type, its octets."""
    encoding = _STRINGS.get(octets[0])
    if encoding is None or len(octets) < 2 or octets[1] > 127 or octets[1] != len(octets) - 2:
        return octets
    try:
        return octets[2:].decode(encoding)
    except UnicodeDecodeError:
        return octets


def key(dn: DN) -> Key:
    """Return a name as it is compared: types by their OIDs, values folded."""
    return tuple([rdn_key(rdn) for rdn in dn])


def rdn_key(rdn: RDN) -> RDNKey:
    """Return one RDN as it is compared, whatever the order of its parts."""
    parts = [(_oid(kind), _folded(value)) for kind, value in rdn]
    return tuple(parts) if len(parts) == 1 else tuple(sorted(parts, key=repr))


@lru_cache(maxsize=4096)
def key_of_text(text: str) -> Key:
    """Return a name as it is compared; Fault(MALFORMED, ldap.dn)."""
    return key(parse(text))


def key_of(name: x509.Name) -> Key:
    """Return a certificate's name as it is compared; there the root stands first."""
    return tuple(
        [
            rdn_key(tuple([(a.oid.dotted_string, a.value) for a in rdn]))
            for rdn in reversed(name.rdns)
        ]
    )


def escape(value: str) -> str:
    """Return a value as it stands in a name (RFC 4514, 2.4)."""
    if value.isalnum():
        return value
    last = "\\ " if value[1:].endswith(" ") else ""
    text = _ESCAPED.sub(r"\\\1", value[:-1] if last else value).replace("\0", "\\00")
    return ("\\" if text[:1] in ("#", " ") else "") + text + last


def text_of(dn: Iterable[RDN]) -> str:
    """Return a name as RFC 4514 writes it."""
    return ",".join(
        "+".join(
            f"{kind}=#{value.hex()}" if isinstance(value, bytes) else f"{kind}={escape(value)}"
            for kind, value in rdn
        )
        for rdn in dn
    )


def _oid(kind: str) -> str:
    return schema.identify(kind) or kind.lower()


def _folded(value: Value) -> Value:
    return prepare(value, fold=True) if isinstance(value, str) else value


def _malformed(detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule="ldap.dn")
