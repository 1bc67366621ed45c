"""RADIUS attributes by name: the dictionary, and values to octets and back (RFC 2865, 5).

The dictionary is the text file beside this module. An attribute that it does not name is
``Attr-NUMBER`` or ``Attr-26.VENDOR.NUMBER``, its value ``0x`` and hexadecimal digits.
"""

from __future__ import annotations

import functools
import importlib.resources
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tmad.documents import nearest
from tmad.errors import Fault, FaultCode

Value: TypeAlias = str | int
Type: TypeAlias = Literal["string", "octets", "integer", "ipaddr", "ipv6addr", "ipv6prefix", "date"]

VENDOR_SPECIFIC: Final = 26
_LONGEST: Final = 253
_LONGEST_OF_VENDOR: Final = 247  # RFC 2865, 5.26: four octets of vendor, type and length
_BY_NUMBER: Final = re.compile(r"Attr-(?:26\.(\d{1,10})\.)?(\d{1,3})", re.ASCII)
_TAGGED: Final = re.compile(r"(.*):(\d{1,2})", re.ASCII)
_HIGHEST_TAG: Final = 0x1F  # RFC 2868, 3.1
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One attribute of the dictionary; ``vendor`` is 0 for those of the RFCs.

    ``is_own`` marks what tmad itself puts into a packet.
    """

    name: str
    vendor: int
    number: int
    type: Type
    has_tag: bool
    is_own: bool
    words: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Definitions by lower-case name, and by vendor and number."""

    by_name: Mapping[str, Definition]
    by_number: Mapping[tuple[int, int], Definition]
    vendors: Mapping[int, str]


@functools.cache
def dictionary() -> Dictionary:
    """Return the dictionary that tmad is installed with."""
    text = importlib.resources.files("tmad.network").joinpath("dictionary").read_text("ascii")
    return parse(text)


def parse(text: str) -> Dictionary:
    """Read a dictionary; raise ValueError naming the first line that makes no sense."""
    words: dict[str, dict[str, int]] = {}
    found: list[Definition] = []
    vendors: dict[int, str] = {}
    vendor = 0
    for number, line in enumerate(text.splitlines(), start=1):
        match line.partition("#")[0].split():
            case []:
                continue
            case ["VENDOR", name, digits] if digits.isdigit():
                vendor = int(digits)
                vendors[vendor] = name
            case ["ATTRIBUTE", name, digits, kind, *flags] if (
                digits.isdigit() and kind in Type.__args__ and {*flags} <= {"tag", "own"}  # type: ignore[attr-defined]  # Literal has it
            ):
                found.append(
                    Definition(
                        name=name,
                        vendor=vendor,
                        number=int(digits),
                        type=kind,  # type: ignore[arg-type]  # checked above
                        has_tag="tag" in flags,
                        is_own="own" in flags,
                        words=words.setdefault(name, {}),
                    )
                )
            case ["VALUE", attribute, word, digits] if digits.isdigit() and attribute in words:
                words[attribute][word] = int(digits)
            case _:
                raise ValueError(f"line {number} of the dictionary makes no sense: {line}")
    return Dictionary(
        by_name={each.name.lower(): each for each in found},
        by_number={(each.vendor, each.number): each for each in found},
        vendors=vendors,
    )


# -- for policies ------------------------------------------------------------------------------


def check(name: str, value: Value) -> str | None:
    """Return what is wrong with an attribute that a policy wants to answer, or None."""
    try:
        definition, _ = _named(name)
        if definition.is_own:
            return f"{definition.name} is set by tmad itself, not by a policy"
        encode(name, value)
    except Fault as fault:
        return fault.detail
    return None


@functools.lru_cache(maxsize=4_096)
def encode(name: str, value: Value) -> tuple[int, bytes]:
    """Return type and octets of one attribute; Fault(REJECTED) in words.

    ``NAME:2`` sets the tag of a tunnel attribute. A vendor's attribute comes out wrapped.
    """
    definition, tag = _named(name)
    octets = _encoded(definition, value)
    if definition.has_tag:
        octets = _tag(definition, octets, tag)
    longest = _LONGEST_OF_VENDOR if definition.vendor else _LONGEST
    if len(octets) > longest:
        raise _wrong(f"{definition.name} holds {longest} octets, not {len(octets)}")
    if not definition.vendor:
        return definition.number, octets
    head = definition.vendor.to_bytes(4, "big") + bytes((definition.number, len(octets) + 2))
    return VENDOR_SPECIFIC, head + octets


def _named(name: str) -> tuple[Definition, int]:
    """Return the attribute that a name means, and its tag (0: none)."""
    base, tag = name, 0
    if (tagged := _TAGGED.fullmatch(name)) is not None:
        base, tag = tagged[1], int(tagged[2])
    found = dictionary().by_name.get(base.lower()) or _by_number(base)
    if found is None:
        known = [each.name for each in dictionary().by_name.values()]
        raise _wrong(f"there is no attribute {base!r}{nearest(base, known)}")
    if tagged is not None and not (found.has_tag and 1 <= tag <= _HIGHEST_TAG):
        raise _wrong(
            f"{found.name} has no tag" if not found.has_tag else f"a tag is 1 to {_HIGHEST_TAG}"
        )
    return found, tag


def _by_number(name: str) -> Definition | None:
    match = _BY_NUMBER.fullmatch(name)
    if match is None:
        return None
    vendor, number = int(match[1] or 0), int(match[2])
    if not 1 <= number <= 255 or vendor >= 1 << 24 or (not vendor and number == VENDOR_SPECIFIC):
        return None
    # Writing a number instead of its name lets nobody set what tmad sets.
    known = dictionary().by_number.get((vendor, number))
    return Definition(
        name=name,
        vendor=vendor,
        number=number,
        type="octets",
        has_tag=False,
        is_own=known is not None and known.is_own,
        words={},
    )


def _encoded(definition: Definition, value: Value) -> bytes:
    name = definition.name
    match definition.type:
        case "integer" | "date":
            return _number(definition, value).to_bytes(4, "big")
        case "string":
            text = str(value)
            # what comes from a certificate or a directory must not forge log lines.
            if not text or _CONTROL.search(text):
                raise _wrong(f"{name} is text without control characters, and not empty")
            return text.encode("utf-8", "replace")
        case "octets":
            return _octets(name, value)
        case "ipaddr" | "ipv6addr":
            wanted = 4 if definition.type == "ipaddr" else 6
            try:
                address = ipaddress.ip_address(str(value))
            except ValueError:
                address = None
            if address is None or address.version != wanted:
                raise _wrong(f"{name} is an IPv{wanted} address, not {value!r}")
            return address.packed
        case "ipv6prefix":
            try:
                network = ipaddress.IPv6Network(str(value))
            except ValueError:
                raise _wrong(f"{name} is an IPv6 prefix like 2001:db8::/64") from None
            # RFC 3162, 2.3: only the octets that the prefix needs.
            needed = network.network_address.packed[: (network.prefixlen + 7) // 8]
            return bytes((0, network.prefixlen)) + needed


def _number(definition: Definition, value: Value) -> int:
    words = {word.lower(): number for word, number in definition.words.items()}
    if isinstance(value, str):
        if value.lower() in words:
            return words[value.lower()]
        if not (value.isascii() and value.isdigit()):
            known = f": one of {', '.join(definition.words)}" if definition.words else ""
            raise _wrong(f"{definition.name} is a number{known}, not {value!r}")
    number = int(value)
    # A tag takes the first of the four octets (RFC 2868, 3.1).
    limit = 1 << (24 if definition.has_tag else 32)
    if not 0 <= number < limit:
        raise _wrong(f"{definition.name} is a number below {limit}, not {number}")
    return number


def _octets(name: str, value: Value) -> bytes:
    text = str(value)
    try:
        if isinstance(value, str) and text[:2] in ("0x", "0X"):
            return bytes.fromhex(text[2:])
    except ValueError:
        pass
    raise _wrong(f"{name} is written as 0x and hexadecimal digits")


def _tag(definition: Definition, octets: bytes, tag: int) -> bytes:
    if definition.type == "integer":
        return bytes((tag,)) + octets[1:]
    if tag:
        return bytes((tag,)) + octets
    # RFC 2868, 3.3: a first octet above 0x1F is text already. An untagged one is left out, since
    # some switches take a zero for part of the VLAN's name.
    return octets


# -- for accounting and logs -------------------------------------------------------------------


def describe(attributes: Iterable[tuple[int, bytes]]) -> list[tuple[str, Value]]:
    """Return attributes by name, as far as they are known, with values for people.

    Whatever came in: text with undecodable octets as \\xNN, unknown attributes as 0x….
    """
    found: list[tuple[str, Value]] = []
    for number, octets in attributes:
        if number == VENDOR_SPECIFIC and (inner := _vendor_parts(octets)):
            found += [_described(vendor, kind, value) for vendor, kind, value in inner]
        else:
            found.append(_described(0, number, octets))
    return found


def _vendor_parts(octets: bytes) -> list[tuple[int, int, bytes]]:
    vendor, at = int.from_bytes(octets[:4], "big"), 4
    parts = []
    while len(octets) - at >= 2 and 2 <= octets[at + 1] <= len(octets) - at:
        parts.append((vendor, octets[at], octets[at + 2 : at + octets[at + 1]]))
        at += octets[at + 1]
    return parts if at == len(octets) else []


def _described(vendor: int, number: int, octets: bytes) -> tuple[str, Value]:
    definition = dictionary().by_number.get((vendor, number))
    if definition is None:
        name = f"Attr-26.{vendor}.{number}" if vendor else f"Attr-{number}"
        return name, f"0x{octets.hex()}"
    name = definition.name
    if definition.has_tag and octets and octets[0] <= _HIGHEST_TAG:
        tag = octets[0]
        octets = bytes(1) + octets[1:] if definition.type == "integer" else octets[1:]
        name += f":{tag}" if tag else ""
    match definition.type, len(octets):
        case "integer" | "date", 4:
            value = int.from_bytes(octets, "big")
            words = {known: word for word, known in definition.words.items()}
            return name, words.get(value, value)
        case "string", _:
            return name, octets.decode("utf-8", "backslashreplace")
        case ("ipaddr", 4) | ("ipv6addr", 16):
            return name, str(ipaddress.ip_address(octets))
    return name, f"0x{octets.hex()}"


def _wrong(detail: str) -> Fault:
    return Fault(FaultCode.REJECTED, detail, rule="network.attribute")
