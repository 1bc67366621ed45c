"""Identifiers of orders, in their one spelling (RFC 8555, 7.1.4; RFC 8738, 3; RFC 5891)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tmad.ca import names as spelling
from tmad.ca.acme.faults import deny
from tmad.ca.validation.contract import Identifier
from tmad.errors import Fault, FaultCode
from tmad.wire import der

MOST: Final = 100  # identifiers of one order
PERMANENT: Final = "permanent-identifier"
WILDCARD: Final = "*."

_PERMANENT_OID: Final = ObjectIdentifier("1.3.6.1.5.5.7.8.3")  # RFC 4043
_TEXT: Final = re.compile(r"[!-~]{1,100}\Z")


def parse(kind: str, value: str) -> Identifier:
    """Return an identifier as it was meant, a wildcard with its ``*.``; Fault for any other."""
    match kind:
        case "dns":
            return Identifier("dns", _host(value))
        case "ip":
            return Identifier("ip", _address(value))
        case "permanent-identifier":
            if not _TEXT.match(value):
                raise _malformed("not a permanent identifier", value)
            return Identifier(PERMANENT, value)
    raise deny(
        FaultCode.UNSUPPORTED,
        "unsupportedIdentifier",
        "this kind of identifier is not known here",
        "acme.identifier.type",
        type=kind,
    )


def split(identifier: Identifier) -> tuple[Identifier, bool]:
    """Return what must be controlled, and whether it is for a wildcard (RFC 8555, 7.1.3)."""
    if identifier.type == "dns" and identifier.value.startswith(WILDCARD):
        return Identifier("dns", identifier.value.removeprefix(WILDCARD)), True
    return identifier, False


def join(value: str, is_wildcard: bool) -> str:
    """Return what :func:`split` has split."""
    return WILDCARD + value if is_wildcard else value


def general_name(identifier: Identifier) -> x509.GeneralName:
    """Return an identifier as an alternative name."""
    if identifier.type == "dns":
        return x509.DNSName(identifier.value)
    if identifier.type == "ip":
        return x509.IPAddress(ipaddress.ip_address(identifier.value))
    text = der.tlv(der.UTF8_STRING, identifier.value.encode())
    return x509.OtherName(_PERMANENT_OID, der.sequence(text))


def named(
    subject: x509.Name, names: Iterable[x509.GeneralName], ordered: frozenset[Identifier]
) -> frozenset[Identifier]:
    """Return which of an order's identifiers a request or certificate holds.

    Fault(REJECTED) for any other name in it. A common name repeats one (RFC 8555, 7.4).
    """
    found = {of_name(name) for name in names}
    by_text = {each.value.lower(): each for each in ordered}
    for attribute in subject:
        same = by_text.get(str(attribute.value).lower())
        if attribute.oid not in (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER) or same is None:
            raise _not_ordered("subject", attribute.rfc4514_string())
        found.add(same)
    for each in found - ordered:
        raise _not_ordered(each.type, each.value)
    return frozenset(found)


def of_name(name: x509.GeneralName) -> Identifier:
    """Return an alternative name as an identifier; Fault(REJECTED) for one of another kind."""
    if isinstance(name, x509.DNSName):
        return Identifier("dns", name.value.lower())
    if isinstance(name, x509.IPAddress):
        return Identifier("ip", str(name.value))
    if isinstance(name, x509.OtherName) and name.type_id == _PERMANENT_OID:
        return Identifier(PERMANENT, _permanent(name.value))
    raise _not_ordered(type(name).__name__, repr(name))


def _permanent(value_der: bytes) -> str:
    """Return the identifierValue of a PermanentIdentifier that says nothing else (RFC 4043)."""
    try:
        inside = der.read(value_der, der.SEQUENCE)
        text = inside.content(der.UTF8_STRING).decode()
        inside.finish()
    except (Fault, UnicodeDecodeError):
        raise _not_ordered("permanentIdentifier", value_der.hex()) from None
    return text


def _host(value: str) -> str:
    if not value.isascii():
        # RFC 8555, 7.1.4: internationalised names come as A-labels.
        raise _malformed("write an internationalised name as A-labels (xn--…)", value)
    host = value.lower()
    bare = host.removeprefix(WILDCARD)
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        pass
    else:
        raise _malformed("an address is of the type ip", value)
    if "_" in bare:
        raise deny(
            FaultCode.REJECTED,
            "rejectedIdentifier",
            "a host name has no underscore",
            "acme.identifier.value",
            value=value,
        )
    try:
        spelling.normalise(x509.DNSName(bare))
    except Fault:
        raise _malformed("not a host name", value) from None
    return host


def _address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise _malformed("not an IP address", value) from None
    if str(address) != value or "%" in value:
        # RFC 8738, 3: as RFC 5952 writes it.
        raise _malformed(f"write the address as {str(address).split('%')[0]}", value)
    return value


def _malformed(detail: str, value: str) -> Fault:
    return deny(FaultCode.MALFORMED, "malformed", detail, "acme.identifier.value", value=value)


def _not_ordered(kind: str, value: str) -> Fault:
    return deny(
        FaultCode.REJECTED,
        "badCSR",
        "the request holds a name that was not ordered",
        "acme.names",
        kind=kind,
        value=value,
    )
