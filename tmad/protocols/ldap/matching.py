"""Matching rules (RFC 4517, 4523): what makes two values the same, ordered, or one part of another.

Values and assertions are brought into a form that Python compares. None stands for octets that
are not of the rule's syntax: a filter about them is Undefined, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from tmad.errors import Fault
from tmad.protocols.ldap import names
from tmad.protocols.ldap.strings import prepare
from tmad.wire import parsing

Reader: TypeAlias = Callable[[bytes], Any]

_TIME: Final = re.compile(
    r"(\d{4})(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:(\d\d))?)?(?:[.,](\d+))?(?:Z|([+-])(\d\d)(\d\d)?)",
    re.ASCII,
)
_INTEGER: Final = re.compile(r"0|-?[1-9]\d{0,199}", re.ASCII)
_OID: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*|\d+(?:\.\d+)+", re.ASCII)
_PHONE: Final = str.maketrans("", "", " -")


def _text(fold: bool, substring: bool = False) -> Reader:
    def read(value: bytes) -> str | None:
        try:
            return prepare(value.decode(), fold=fold, substring=substring)
        except UnicodeDecodeError:
            return None

    return read


def _ia5(fold: bool, substring: bool = False) -> Reader:
    def read(value: bytes) -> str | None:
        if not value.isascii():
            return None
        return prepare(value.decode(), fold=fold, substring=substring)

    return read


def _octets(value: bytes) -> bytes:
    return value


def _phone(value: bytes) -> str | None:
    try:
        return value.decode().lower().translate(_PHONE)
    except UnicodeDecodeError:
        return None


def _digits(value: bytes) -> str | None:
    text = value.decode("latin-1").replace(" ", "")
    return text if text.isascii() and text.isdigit() else None


def _integer(value: bytes) -> int | None:
    text = value.decode("latin-1")
    return int(text) if _INTEGER.fullmatch(text) else None


def _boolean(value: bytes) -> bool | None:
    return {b"TRUE": True, b"FALSE": False}.get(value)


def _identifier(value: bytes) -> str | None:
    text = value.decode("latin-1").strip()
    return text.lower() if _OID.fullmatch(text) else None


def _uuid(value: bytes) -> bytes | None:
    try:
        text = value.decode("ascii")
        return UUID(text).bytes if len(text) == 36 else None
    except ValueError:
        return None


def _time(value: bytes) -> datetime | None:
    """Return a GeneralizedTime (RFC 4517, 3.3.13)."""
    found = _TIME.fullmatch(value.decode("latin-1"))
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = (
        found.groups()
    )
    unit = 1 if second is not None else 60 if minute is not None else 3600
    # A leap second is allowed.
    seconds = int(second or 0)
    late = seconds + (float(f"0.{fraction[:9]}") * unit if fraction else 0.0)
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    if seconds > 60 or offset >= timedelta(days=1):
        return None
    zone = timezone(-offset if sign == "-" else offset)
    try:
        at = datetime(int(year), int(month), int(day), int(hour), int(minute or 0), tzinfo=zone)
        return at.astimezone(UTC) + timedelta(seconds=late)
    except (ValueError, OverflowError):
        return None


# -- names, certificates, CRLs -------------------------------------------------------------------


def _name(value: bytes) -> Hashable | None:
    try:
        return names.key(names.parse(value.decode()))
    except (Fault, UnicodeDecodeError):
        return None


def _issuer(text: str) -> Hashable | None:
    return _name(text.replace('""', '"').encode())


# RFC 4523, appendix A: GSER, whose fields slapd takes in either order; and what came before it.
_SERIAL: Final = r"(?:(-?\d{1,60})|0x([0-9A-Fa-f]{1,48})|'([0-9A-Fa-f]{1,48})'H)"
_NAME: Final = r'(?:rdnSequence\s*:\s*)?"((?:[^"]|"")*)"'
_EXACT: Final = re.compile(rf"\{{\s*serialNumber\s+{_SERIAL}\s*,\s*issuer\s+{_NAME}\s*\}}")
_EXACT_TURNED: Final = re.compile(rf"\{{\s*issuer\s+{_NAME}\s*,\s*serialNumber\s+{_SERIAL}\s*\}}")
_EXACT_OLD: Final = re.compile(_SERIAL)
_THIS_UPDATE: Final = r'(?:(?:utcTime|generalizedTime)\s*:\s*)?"([0-9]{10,14}Z)"'
_LIST: Final = re.compile(rf"\{{\s*issuer\s+{_NAME}\s*,\s*thisUpdate\s+{_THIS_UPDATE}\s*\}}")
_LIST_OLD: Final = re.compile(r"[0-9]{10,14}Z")
_LONGEST: Final = 8192  # octets of such a description


def _serial(decimal: str | None, *hexadecimal: str | None) -> int:
    if decimal is not None:
        return int(decimal)
    return int("".join(filter(None, hexadecimal)), 16)


def _description(value: bytes) -> str:
    """Return the text of an assertion, or nothing for what cannot be one."""
    try:
        return value.decode().strip() if len(value) <= _LONGEST else ""
    except UnicodeDecodeError:
        return ""


def _exact(value: bytes) -> tuple[int, Hashable] | None:
    """Return the serial number and issuer that a CertificateExactAssertion names."""
    if value[:1] == b"\x30":
        # slapd, too, takes a whole certificate for a description of it.
        return _certificate(value)
    text = _description(value)
    before, mark, after = text.partition("$")
    if found := _EXACT.fullmatch(text):
        *serial, name = found.groups()
    elif found := _EXACT_TURNED.fullmatch(text):
        name, *serial = found.groups()
    elif mark and (found := _EXACT_OLD.fullmatch(before.strip())):
        serial, name = list(found.groups()), after.strip()
        name = name.replace('"', '""')
    else:
        return None
    issuer = _issuer(name or "")
    return None if issuer is None else (_serial(*serial), issuer)


def _certificate(value: bytes) -> tuple[int, Hashable] | None:
    try:
        found = parsing.certificate(value)
        return found.serial_number, names.key_of(found.issuer)
    except (ValueError, Fault):
        return None


def _list_exact(value: bytes) -> tuple[Hashable, datetime] | None:
    """Return the issuer and thisUpdate that a CertificateListExactAssertion names."""
    text = _description(value)
    before, mark, after = text.rpartition("$")
    if found := _LIST.fullmatch(text):
        name, time = found.groups()
    elif mark and _LIST_OLD.fullmatch(after.strip()):
        name, time = before.strip().replace('"', '""'), after.strip()
    else:
        return None
    issuer = _issuer(name)
    if len(time) < 14:
        # RFC 5280, 4.1.2.5.1: two digits of a year, from 1950 on.
        time = ("19" if time >= "5" else "20") + time
    at = _time(time.encode())
    return None if issuer is None or at is None else (issuer, at)


def _list(value: bytes) -> tuple[Hashable, datetime] | None:
    try:
        found = parsing.crl(value)
        return names.key_of(found.issuer), found.last_update_utc
    except (ValueError, Fault):
        return None


# -- the rules -----------------------------------------------------------------------------------


class Rule(NamedTuple):
    """One matching rule; ``kind`` is "equality", "ordering" or "substrings".

    ``value`` reads a value of an attribute, ``assertion`` what it is compared with: for
    substrings one piece. Rules of one ``family`` are about the same kind of values.
    """

    name: str
    oid: str
    syntax: str  # of the assertion
    kind: str
    family: str
    value: Reader
    assertion: Reader


_SYNTAX: Final = "1.3.6.1.4.1.1466.115.121.1."
_DIRECTORY_STRING: Final = _SYNTAX + "15"
_IA5: Final = _SYNTAX + "26"
_PIECES: Final = _SYNTAX + "58"

_ALL: Final = (
    Rule("objectIdentifierMatch", "2.5.13.0", _SYNTAX + "38", "equality", "oid",
         _identifier, _identifier),
    Rule("distinguishedNameMatch", "2.5.13.1", _SYNTAX + "12", "equality", "name", _name, _name),
    Rule("caseIgnoreMatch", "2.5.13.2", _DIRECTORY_STRING, "equality", "text",
         _text(True), _text(True)),
    Rule("caseIgnoreOrderingMatch", "2.5.13.3", _DIRECTORY_STRING, "ordering", "text",
         _text(True), _text(True)),
    Rule("caseIgnoreSubstringsMatch", "2.5.13.4", _PIECES, "substrings", "text",
         _text(True), _text(True, True)),
    Rule("caseExactMatch", "2.5.13.5", _DIRECTORY_STRING, "equality", "text",
         _text(False), _text(False)),
    Rule("caseExactOrderingMatch", "2.5.13.6", _DIRECTORY_STRING, "ordering", "text",
         _text(False), _text(False)),
    Rule("caseExactSubstringsMatch", "2.5.13.7", _PIECES, "substrings", "text",
         _text(False), _text(False, True)),
    Rule("numericStringMatch", "2.5.13.8", _SYNTAX + "36", "equality", "digits",
         _digits, _digits),
    Rule("numericStringOrderingMatch", "2.5.13.9", _SYNTAX + "36", "ordering", "digits",
         _digits, _digits),
    Rule("numericStringSubstringsMatch", "2.5.13.10", _PIECES, "substrings", "digits",
         _digits, _digits),
    Rule("booleanMatch", "2.5.13.13", _SYNTAX + "7", "equality", "boolean", _boolean, _boolean),
    Rule("integerMatch", "2.5.13.14", _SYNTAX + "27", "equality", "integer", _integer, _integer),
    Rule("integerOrderingMatch", "2.5.13.15", _SYNTAX + "27", "ordering", "integer",
         _integer, _integer),
    Rule("octetStringMatch", "2.5.13.17", _SYNTAX + "40", "equality", "octets",
         _octets, _octets),
    Rule("octetStringOrderingMatch", "2.5.13.18", _SYNTAX + "40", "ordering", "octets",
         _octets, _octets),
    Rule("telephoneNumberMatch", "2.5.13.20", _SYNTAX + "50", "equality", "phone",
         _phone, _phone),
    Rule("telephoneNumberSubstringsMatch", "2.5.13.21", _PIECES, "substrings", "phone",
         _phone, _phone),
    Rule("generalizedTimeMatch", "2.5.13.27", _SYNTAX + "24", "equality", "time", _time, _time),
    Rule("generalizedTimeOrderingMatch", "2.5.13.28", _SYNTAX + "24", "ordering", "time",
         _time, _time),
    Rule("certificateExactMatch", "2.5.13.34", "1.3.6.1.1.15.1", "equality", "certificate",
         _certificate, _exact),
    Rule("certificateListExactMatch", "2.5.13.38", "1.3.6.1.1.15.5", "equality", "crl",
         _list, _list_exact),
    Rule("caseExactIA5Match", "1.3.6.1.4.1.1466.109.114.1", _IA5, "equality", "text",
         _ia5(False), _ia5(False)),
    Rule("caseIgnoreIA5Match", "1.3.6.1.4.1.1466.109.114.2", _IA5, "equality", "text",
         _ia5(True), _ia5(True)),
    Rule("caseIgnoreIA5SubstringsMatch", "1.3.6.1.4.1.1466.109.114.3", _PIECES, "substrings",
         "text", _ia5(True), _ia5(True, True)),
    Rule("UUIDMatch", "1.3.6.1.1.16.2", "1.3.6.1.1.16.1", "equality", "uuid", _uuid, _uuid),
    Rule("UUIDOrderingMatch", "1.3.6.1.1.16.3", "1.3.6.1.1.16.1", "ordering", "uuid",
         _uuid, _uuid),
)  # fmt: skip

RULES: Final[Mapping[str, Rule]] = {
    name: rule for rule in _ALL for name in (rule.name, rule.name.lower(), rule.oid)
}


def rule_of(text: str) -> Rule | None:
    """Return the rule of this name, in any case, or OID."""
    return RULES.get(text) or RULES.get(text.lower())
