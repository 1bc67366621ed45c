"""Names in certificates: validation, and one spelling for comparing.

RFC 5280 sections 4.1.2.4 and 4.2.1.6; RFC 9549 (internationalised names). Everything here is
pure: a value or ``Fault(REJECTED)``.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tmad.errors import Fault, FaultCode

UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
SMTP_UTF8_MAILBOX = ObjectIdentifier("1.3.6.1.5.5.7.8.9")
NTDS_SECURITY = ObjectIdentifier("1.3.6.1.4.1.311.25.2.1")
UNSTRUCTURED_NAME = ObjectIdentifier("1.2.840.113549.1.9.2")
# An account's SID in a URI maps to that account in Windows (KB5014754): never by request.
SID_URI_PREFIX = "tag:microsoft.com,2022-09-14:sid:"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_URI_TEXT = re.compile(r"[!-~]+\Z")
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+\Z")
_MAX_URI = 2048
_MAX_NAME_OCTETS = 4096

# RFC 5280, appendix A.1: upper bounds, in characters.
_MAX_LENGTH = {
    NameOID.COMMON_NAME: 64,
    NameOID.ORGANIZATION_NAME: 64,
    NameOID.ORGANIZATIONAL_UNIT_NAME: 64,
    NameOID.TITLE: 64,
    NameOID.SERIAL_NUMBER: 64,
    NameOID.LOCALITY_NAME: 128,
    NameOID.STATE_OR_PROVINCE_NAME: 128,
    NameOID.EMAIL_ADDRESS: 255,
    UNSTRUCTURED_NAME: 255,
}
_DEFAULT_MAX_LENGTH = 255
_PRINTABLE_ONLY = frozenset({NameOID.COUNTRY_NAME, NameOID.SERIAL_NUMBER, NameOID.DN_QUALIFIER})
_IA5_ONLY = frozenset({NameOID.EMAIL_ADDRESS, NameOID.DOMAIN_COMPONENT})
_IA5_TOO = frozenset({UNSTRUCTURED_NAME})
_DIRECTORY_STRINGS = frozenset({_ASN1Type.UTF8String, _ASN1Type.PrintableString})


class NameKind(StrEnum):
    """The kinds of subject alternative name that a profile can speak about."""

    DNS = "dns"
    IP = "ip"
    EMAIL = "email"
    URI = "uri"
    UPN = "upn"
    DIRECTORY = "directory"
    REGISTERED_ID = "registered_id"
    OTHER = "other"


def refuse(rule: str, detail: str, **values: str) -> Fault:
    """Make the Fault for a name that may not go into a certificate."""
    return Fault(FaultCode.REJECTED, detail, rule=rule, values=values)


def kind_of(name: x509.GeneralName) -> NameKind:
    """Tell which kind of name this is."""
    if type(name) is x509.DNSName:  # most of them, and a match asks each class for its word
        return NameKind.DNS
    match name:
        case x509.DNSName():
            return NameKind.DNS
        case x509.IPAddress():
            return NameKind.IP
        case x509.RFC822Name():
            return NameKind.EMAIL
        case x509.UniformResourceIdentifier():
            return NameKind.URI
        case x509.DirectoryName():
            return NameKind.DIRECTORY
        case x509.RegisteredID():
            return NameKind.REGISTERED_ID
        case x509.OtherName():
            return NameKind.UPN if name.type_id == UPN else NameKind.OTHER
    raise refuse("name.kind", "this kind of alternative name is not supported")


def text_of(name: x509.GeneralName) -> str:
    """Return the name's one spelling for comparing and searching.

    Lower case, A-labels, "TYPE;HEX" for an otherName that is not a UPN. The name has been
    through ``normalise``, or at least through ``cryptography``'s parser.
    """
    if type(name) is x509.DNSName:
        return name.value.lower()
    match name:
        case x509.IPAddress():
            return str(name.value)
        case x509.DirectoryName():
            return name.value.rfc4514_string().lower()
        case x509.RegisteredID():
            return name.value.dotted_string
        case x509.OtherName():
            if name.type_id in (UPN, SMTP_UTF8_MAILBOX):
                return utf8_string(name.value).lower()
            return f"{name.type_id.dotted_string};{name.value.hex()}"
    return str(name.value).lower()


def utf8_string(value_der: bytes) -> str:
    """Read a DER UTF8String; raise Fault(REJECTED) for anything else."""
    content = _content(value_der, tag=0x0C)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("name.other.encoding", "an otherName is not valid UTF-8") from None


def normalise(name: x509.GeneralName, *, wildcard: bool = False) -> x509.GeneralName:
    """Validate one alternative name and return it in its canonical spelling.

    ``wildcard`` allows "*" as the leftmost label of a DNS name.
    """
    match name:
        case x509.DNSName():
            return x509.DNSName(_dns(name.value, wildcard=wildcard))
        case x509.IPAddress():
            if not isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):
                # A network belongs into name constraints only.
                raise refuse("name.ip.address", "an IP name must be one address")
            return name
        case x509.RFC822Name():
            return x509.RFC822Name(_email(name.value))
        case x509.UniformResourceIdentifier():
            return x509.UniformResourceIdentifier(_uri(name.value))
        case x509.DirectoryName():
            if not list(name.value):
                raise refuse("name.directory.empty", "a directory name is empty")
            check_subject(name.value)
            return name
        case x509.RegisteredID():
            return name
        case x509.OtherName():
            return _other(name)
    raise refuse("name.kind", "this kind of alternative name is not supported")


def unique(names: Iterable[x509.GeneralName]) -> tuple[x509.GeneralName, ...]:
    """Drop names that differ only in spelling from an earlier one; keep the order."""
    seen: dict[tuple[NameKind, str], x509.GeneralName] = {}
    for name in names:
        seen.setdefault((kind_of(name), text_of(name)), name)
    return tuple(seen.values())


def same(one: Iterable[x509.GeneralName], other: Iterable[x509.GeneralName]) -> bool:
    """Tell whether both hold the same names, whatever their order and spelling."""
    return {(kind_of(n), text_of(n)) for n in one} == {(kind_of(n), text_of(n)) for n in other}


def looks_like_host(text: str) -> bool:
    """Tell whether a common name would be taken for a host name by a client."""
    try:
        _dns(text, wildcard=True)
    except Fault:
        return False
    return "." in text


def check_subject(subject: x509.Name) -> None:
    """Refuse values, lengths and string types that RFC 5280 does not allow in a name."""
    if len(subject.public_bytes()) > _MAX_NAME_OCTETS:
        raise refuse("name.subject.size", "the name is too long")
    for attribute in subject:
        _check_attribute(attribute)


def search_terms(
    subject: x509.Name, names: Iterable[x509.GeneralName]
) -> frozenset[tuple[str, str]]:
    """Return the (kind, value) pairs under which a certificate can be found."""
    terms = {
        ("cn", str(attribute.value).lower())
        for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    }
    searchable = (NameKind.DNS, NameKind.IP, NameKind.EMAIL, NameKind.URI, NameKind.UPN)
    terms |= {(kind_of(n).value, text_of(n)) for n in names if kind_of(n) in searchable}
    return frozenset(terms)


def _content(value_der: bytes, *, tag: int) -> bytes:
    # Short and one- or two-octet long forms are enough for a name.
    if len(value_der) < 2 or value_der[0] != tag:
        raise refuse("name.other.encoding", "an otherName has the wrong ASN.1 type")
    length, start = value_der[1], 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 2 or len(value_der) < 2 + count:
            raise refuse("name.other.encoding", "an otherName is not well-formed DER")
        start += count
        length = int.from_bytes(value_der[2:start])
        if length < 0x80 or (count == 2 and length < 0x100):
            raise refuse("name.other.encoding", "an otherName is not well-formed DER")
    if len(value_der) != start + length:
        raise refuse("name.other.encoding", "an otherName is not well-formed DER")
    return value_der[start:]


def _has_control(text: str) -> bool:
    # Cc and Cf: controls (NUL, the classic name-cutting attack) and invisible formatting.
    if text.isascii():
        return not text.isprintable()
    return any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in text)


def _dns(value: str, *, wildcard: bool) -> str:
    text = value.lower()
    labels = text.split(".")
    if labels[0] == "*":
        if not wildcard:
            raise refuse("name.dns.wildcard", "a wildcard is not allowed here", name=value)
        labels = labels[1:]
        if len(labels) < 2:
            raise refuse("name.dns.wildcard", "a wildcard needs two labels after it", name=value)
    if len(text) > 253 or not all(_LABEL.match(label) for label in labels):
        raise refuse("name.dns.syntax", "not a DNS host name", name=value)
    if labels[-1].isdigit():
        # An address in a dNSName is matched by no client and misleads people.
        raise refuse("name.dns.address", "an IP address is not a DNS name", name=value)
    for label in labels:
        if label[2:4] == "--":
            _check_a_label(label, value)
    return text


def _check_a_label(label: str, value: str) -> None:
    # RFC 5890, 2.3.1: only "xn--" may have hyphens there, and it must decode.
    try:
        decoded = label[4:].encode().decode("punycode")
    except UnicodeError:
        decoded = ""
    if not label.startswith("xn--") or not decoded or decoded.isascii() or _has_control(decoded):
        raise refuse("name.dns.a-label", "not a valid internationalised label", name=value)


def _email(value: str) -> str:
    local, separator, domain = value.rpartition("@")
    if not separator or not _LOCAL_PART.match(local) or len(local) > 64:
        raise refuse("name.email.syntax", "not an e-mail address", name=value)
    return f"{local}@{_dns(domain, wildcard=False)}"


def _uri(value: str) -> str:
    if len(value) > _MAX_URI or not _URI_TEXT.match(value):
        raise refuse("name.uri.syntax", "not a URI", name=value[:200])
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        raise refuse("name.uri.syntax", "not a URI", name=value) from None
    # RFC 5280, 4.2.1.6: a relative URI must not be used.
    if not _SCHEME.match(parts.scheme) or not value[len(parts.scheme) + 1 :]:
        raise refuse("name.uri.scheme", "a URI must be absolute", name=value)
    if value.lower().startswith(SID_URI_PREFIX):
        raise refuse("name.uri.sid", "an account's SID is never taken from a request", name=value)
    if value[len(parts.scheme) + 1 :].startswith("//") and not host:
        raise refuse("name.uri.host", "the URI has no host", name=value)
    return value


def _other(name: x509.OtherName) -> x509.OtherName:
    if name.type_id == NTDS_SECURITY:
        raise refuse("name.other.sid", "an account's SID is never taken from a request")
    if name.type_id not in (UPN, SMTP_UTF8_MAILBOX):
        if len(name.value) > _MAX_NAME_OCTETS or not name.value:
            raise refuse("name.other.size", "an otherName is too long")
        _content(name.value, tag=name.value[0])
        return name
    text = utf8_string(name.value)
    local, separator, domain = text.rpartition("@")
    if not separator or not local or not domain or "@" in local or _has_control(text):
        raise refuse("name.upn.syntax", "not of the form user@domain", name=text)
    if len(text) > 1024 or text != unicodedata.normalize("NFC", text) or " " in text:
        raise refuse("name.upn.syntax", "not of the form user@domain", name=text)
    return name


def _check_attribute(attribute: x509.NameAttribute[str | bytes]) -> None:
    oid, value = attribute.oid, attribute.value
    if isinstance(value, bytes):
        # x500UniqueIdentifier is a BIT STRING; nothing legible is in it.
        raise refuse(
            "name.subject.type",
            "a name attribute is not text",
            attribute=attribute.rfc4514_attribute_name,
        )
    if not value.strip() or _has_control(value):
        raise refuse(
            "name.subject.value",
            "a name attribute is empty or has control characters",
            attribute=attribute.rfc4514_attribute_name,
        )
    limit = _MAX_LENGTH.get(oid, _DEFAULT_MAX_LENGTH)
    if len(value) > limit:
        raise refuse(
            "name.subject.length",
            "a name attribute is too long",
            attribute=attribute.rfc4514_attribute_name,
            length=str(len(value)),
            limit=str(limit),
        )
    if oid == NameOID.COUNTRY_NAME and not re.fullmatch("[A-Za-z]{2}", value):
        raise refuse("name.subject.country", "a country is two letters", value=value)
    _check_string_type(attribute)


def _check_string_type(attribute: x509.NameAttribute[str | bytes]) -> None:
    string_type = attribute._type
    if attribute.oid in _PRINTABLE_ONLY:
        allowed = frozenset({_ASN1Type.PrintableString})
    elif attribute.oid in _IA5_ONLY:
        allowed = frozenset({_ASN1Type.IA5String})
    elif attribute.oid in _IA5_TOO:
        allowed = _DIRECTORY_STRINGS | {_ASN1Type.IA5String}
    else:
        allowed = _DIRECTORY_STRINGS
    # RFC 5280, 4.1.2.4 and appendix A.1
    if string_type not in allowed:
        raise refuse(
            "name.subject.string-type",
            "a name attribute has the wrong ASN.1 string type",
            attribute=attribute.rfc4514_attribute_name,
            type=string_type.name,
        )
    text = str(attribute.value)
    if string_type is _ASN1Type.PrintableString and not _PRINTABLE.match(text):
        raise refuse(
            "name.subject.characters",
            "a PrintableString holds other characters",
            attribute=attribute.rfc4514_attribute_name,
        )
    if string_type is _ASN1Type.IA5String and not text.isascii():
        raise refuse(
            "name.subject.characters",
            "an IA5String is not ASCII",
            attribute=attribute.rfc4514_attribute_name,
        )
