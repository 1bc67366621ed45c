"""Names of people and devices in the one spelling that is stored, compared and counted.

PRECIS (RFC 8265) in its effect: compatibility forms, case and outer spaces make no difference,
so that no spelling of a name has a failure counter of its own.
"""

from __future__ import annotations

import re
import unicodedata

from tmad.errors import Fault, FaultCode

_LONGEST = 128
_MOST = 1_024  # characters that are looked at
_NO_CHARACTER = "\ufffd"
_MAC = re.compile(r"[0-9a-f]{12}")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_MAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")
_DEVICE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?")
_GROUP = re.compile(r"[^\s,/\\][^,/\\]{0,126}")


def person_key(text: str) -> str:
    """Return a typed name as it is looked up; never fails, whatever a stranger typed."""
    folded = unicodedata.normalize("NFKC", text[:_MOST]).casefold()
    # Folding can bring back what normalisation had removed, so it is done again.
    words = unicodedata.normalize("NFKC", folded).split()
    # PostgreSQL stores no NUL, nobody stores a surrogate, and no name has such things.
    return "".join(c if c.isprintable() else _NO_CHARACTER for c in " ".join(words))[:_LONGEST]


def person_name(text: str) -> str:
    r"""Return the name under which a person is stored; Fault(REJECTED).

    "/" and "\\" are refused: they separate tenants and realms from names.
    """
    name = person_key(text)
    if not name or any(c in name for c in f"/\\{_NO_CHARACTER}"):
        raise _refused("person.name", "a person's name", text, r"printable, without / and \\")
    if len(" ".join(text.split())) > _LONGEST:
        raise _refused("person.name", "a person's name", text, f"at most {_LONGEST} characters")
    return name


def line(text: str, what: str, *, rule: str, most: int = 200) -> str:
    """Return a text of one line, its white space made single blanks; Fault(REJECTED)."""
    words = " ".join(text.split())
    if len(words) > most or not words.isprintable():
        detail = f"{what} has at most {most} printable characters"
        raise Fault(FaultCode.REJECTED, detail, rule=rule)
    return words


def spellings(text: str, realms: tuple[str, ...]) -> tuple[str, ...]:
    r"""Return the names that a typed name may mean: itself, then without one of the realms.

    ``bob@realm`` and ``REALM\bob`` are bob where the realm is listed.
    """
    name = person_key(text)
    known = {person_key(realm) for realm in realms}
    user, at, realm = name.rpartition("@")
    if at and user and realm in known:
        return (name, user)
    domain, backslash, user = name.partition("\\")
    if backslash and user and domain in known:
        return (name, user)
    return (name,)


def mail_address(text: str) -> str:
    """Return an address as it is stored, or "" for none; Fault(REJECTED)."""
    address = unicodedata.normalize("NFKC", text).strip().lower()
    if address and not (_MAIL.fullmatch(address) and address.isprintable()):
        raise _refused("person.mail", "an e-mail address", text, "NAME@DOMAIN")
    return address


def phone_number(text: str) -> str:
    """Return a number as E.164 has it, or "" for none; Fault(REJECTED).

    Only the international form: what a national one means depends on where one stands.
    """
    number = re.sub(r"[ ()./-]", "", text.strip())
    if number.startswith("00"):
        number = "+" + number[2:]
    if number and not _PHONE.fullmatch(number):
        raise _refused("person.phone", "a telephone number", text, "+ country code number")
    return number


def group_name(text: str) -> str:
    """Return a group's name, spaces and Unicode forms made equal; Fault(REJECTED)."""
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if not _GROUP.fullmatch(name) or not name.isprintable():
        raise _refused("person.group", "a group", text, r"printable, without , / and \\")
    return name


def device_key(text: str) -> str:
    """Return a device's name as it is looked up; never fails."""
    name = unicodedata.normalize("NFKC", text[:_MOST]).strip().lower().rstrip(".")
    return "".join(c if c.isprintable() else _NO_CHARACTER for c in name)


def device_name(text: str) -> str:
    """Return the name under which a device is stored: like a DNS name; Fault(REJECTED)."""
    name = device_key(text)
    if not _DEVICE.fullmatch(name):
        raise _refused("device.name", "a device's name", text, "letters, digits, dots, hyphens")
    return name


def mac_address(text: str) -> str:
    """Return a MAC address as 12 lower-case hex digits; Fault(REJECTED)."""
    digits = re.sub(r"[:.\-\s]", "", text).lower()
    if not _MAC.fullmatch(digits):
        raise _refused("device.mac", "a MAC address", text, "12 hex digits")
    return digits


def _refused(rule: str, what: str, text: str, form: str) -> Fault:
    shown = text[:_LONGEST]
    return Fault(
        FaultCode.REJECTED,
        f"{shown!r} is not {what}: {form}",
        rule=rule,
        values={"given": shown},
    )
