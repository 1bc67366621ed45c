"""The schema: what attributes and classes there are (RFC 4512, 4519, 4523, 4524, 2798).

The tables hold definitions as the RFCs give them; ``subschema`` writes them for clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tmad.protocols.ldap.tree import Entry

SUBSCHEMA: Final = "cn=Subschema"

_SYNTAX: Final = "1.3.6.1.4.1.1466.115.121.1."
_CERTIFICATE, _LIST, _PAIR, _ALGORITHM = "8", "9", "10", "49"
_BINARY: Final = frozenset({_CERTIFICATE, _LIST, _PAIR, _ALGORITHM})

# The last number of a syntax's OID, or all of it, and what it is called (RFC 4517, 4523, 4530).
_SYNTAXES: Final = {
    "3": "Attribute Type Description",
    "4": "Audio",
    "5": "Binary",
    "6": "Bit String",
    "7": "Boolean",
    "8": "X.509 Certificate",
    "9": "X.509 Certificate List",
    "10": "X.509 Certificate Pair",
    "11": "Country String",
    "12": "DN",
    "14": "Delivery Method",
    "15": "Directory String",
    "16": "DIT Content Rule Description",
    "22": "Facsimile Telephone Number",
    "23": "Fax",
    "24": "Generalized Time",
    "25": "Guide",
    "26": "IA5 String",
    "27": "INTEGER",
    "28": "JPEG",
    "30": "Matching Rule Description",
    "34": "Name And Optional UID",
    "36": "Numeric String",
    "37": "Object Class Description",
    "38": "OID",
    "39": "Other Mailbox",
    "40": "Octet String",
    "41": "Postal Address",
    "44": "Printable String",
    "49": "X.509 Supported Algorithm",
    "50": "Telephone Number",
    "51": "Teletex Terminal Identifier",
    "52": "Telex Number",
    "54": "LDAP Syntax Description",
    "58": "Substring Assertion",
    "1.3.6.1.1.15.1": "X.509 Certificate Exact Assertion",
    "1.3.6.1.1.15.5": "X.509 Certificate List Exact Assertion",
    "1.3.6.1.1.16.1": "UUID",
}

# OID, name, syntax of the assertion (RFC 4517, 4.2; RFC 4523, 3; RFC 4530, 2): those of
# matching.py, and no others.
RULES: Final = (
    ("2.5.13.0", "objectIdentifierMatch", "38"),
    ("2.5.13.1", "distinguishedNameMatch", "12"),
    ("2.5.13.2", "caseIgnoreMatch", "15"),
    ("2.5.13.3", "caseIgnoreOrderingMatch", "15"),
    ("2.5.13.4", "caseIgnoreSubstringsMatch", "58"),
    ("2.5.13.5", "caseExactMatch", "15"),
    ("2.5.13.6", "caseExactOrderingMatch", "15"),
    ("2.5.13.7", "caseExactSubstringsMatch", "58"),
    ("2.5.13.8", "numericStringMatch", "36"),
    ("2.5.13.9", "numericStringOrderingMatch", "36"),
    ("2.5.13.10", "numericStringSubstringsMatch", "58"),
    ("2.5.13.13", "booleanMatch", "7"),
    ("2.5.13.14", "integerMatch", "27"),
    ("2.5.13.15", "integerOrderingMatch", "27"),
    ("2.5.13.17", "octetStringMatch", "40"),
    ("2.5.13.18", "octetStringOrderingMatch", "40"),
    ("2.5.13.20", "telephoneNumberMatch", "50"),
    ("2.5.13.21", "telephoneNumberSubstringsMatch", "58"),
    ("2.5.13.27", "generalizedTimeMatch", "24"),
    ("2.5.13.28", "generalizedTimeOrderingMatch", "24"),
    ("2.5.13.34", "certificateExactMatch", "1.3.6.1.1.15.1"),
    ("2.5.13.38", "certificateListExactMatch", "1.3.6.1.1.15.5"),
    ("1.3.6.1.1.16.2", "UUIDMatch", "1.3.6.1.1.16.1"),
    ("1.3.6.1.1.16.3", "UUIDOrderingMatch", "1.3.6.1.1.16.1"),
    ("1.3.6.1.4.1.1466.109.114.1", "caseExactIA5Match", "26"),
    ("1.3.6.1.4.1.1466.109.114.2", "caseIgnoreIA5Match", "26"),
    ("1.3.6.1.4.1.1466.109.114.3", "caseIgnoreIA5SubstringsMatch", "58"),
)

Usage: TypeAlias = Literal["", "directoryOperation", "dSAOperation"]


@dataclass(frozen=True, slots=True)
class AttributeType:
    """One attribute type; ``superior`` and the rules are names, "" where there is none."""

    oid: str
    names: tuple[str, ...]
    superior: str = ""
    syntax: str = ""  # the last number of _SYNTAX, or a whole OID
    equality: str = ""
    ordering: str = ""
    substring: str = ""
    is_single: bool = False
    usage: Usage = ""

    @property
    def name(self) -> str:
        """The spelling in answers."""
        return self.names[0]

    @property
    def is_operational(self) -> bool:
        """Whether only "+" or its name asks for it."""
        return bool(self.usage)

    @property
    def is_binary(self) -> bool:
        """Whether it is transferred with ";binary" (RFC 4523, 2)."""
        return self.syntax in _BINARY


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """One object class."""

    oid: str
    names: tuple[str, ...]
    kind: Literal["ABSTRACT", "STRUCTURAL", "AUXILIARY"]
    superior: str = "top"
    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


def _strings(
    oid: str, names: str, *, superior: str = "name", single: bool = False
) -> AttributeType:
    """Return a type of Directory Strings; below ``name`` it has that one's rules."""
    rules = ("caseIgnoreMatch", "", "caseIgnoreSubstringsMatch")
    return AttributeType(oid, tuple(names.split()), superior, "15", *rules, is_single=single)


def _ia5(oid: str, names: str, *, single: bool = False) -> AttributeType:
    rules = ("caseIgnoreIA5Match", "", "caseIgnoreIA5SubstringsMatch")
    return AttributeType(oid, tuple(names.split()), "", "26", *rules, is_single=single)


def _dn(oid: str, name: str) -> AttributeType:
    return AttributeType(oid, (name,), "distinguishedName", "12", "distinguishedNameMatch")


def _phone(oid: str, names: str) -> AttributeType:
    rules = ("telephoneNumberMatch", "", "telephoneNumberSubstringsMatch")
    return AttributeType(oid, tuple(names.split()), "", "50", *rules)


def _plain(oid: str, name: str, syntax: str) -> AttributeType:
    """Return a type that no rule compares."""
    return AttributeType(oid, (name,), "", syntax)


def _of_server(oid: str, name: str, syntax: str, equality: str = "") -> AttributeType:
    return AttributeType(oid, (name,), "", syntax, equality, usage="dSAOperation")


def _described(oid: str, name: str, syntax: str) -> AttributeType:
    return AttributeType(oid, (name,), "", syntax, usage="directoryOperation")


_TIME_RULES: Final = ("24", "generalizedTimeMatch", "generalizedTimeOrderingMatch")

ATTRIBUTES: Final = (
    # RFC 4512: every entry's, the subschema's, the rootDSE's
    AttributeType("2.5.4.0", ("objectClass",), "", "38", "objectIdentifierMatch"),
    AttributeType(
        "2.5.18.1", ("createTimestamp",), "", *_TIME_RULES, is_single=True,
        usage="directoryOperation",
    ),
    AttributeType(
        "2.5.18.2", ("modifyTimestamp",), "", *_TIME_RULES, is_single=True,
        usage="directoryOperation",
    ),
    AttributeType(
        "2.5.18.9", ("hasSubordinates",), "", "7", "booleanMatch", is_single=True,
        usage="directoryOperation",
    ),
    AttributeType(
        "2.5.18.10", ("subschemaSubentry",), "", "12", "distinguishedNameMatch", is_single=True,
        usage="directoryOperation",
    ),
    AttributeType(
        "2.5.21.9", ("structuralObjectClass",), "", "38", "objectIdentifierMatch", is_single=True,
        usage="directoryOperation",
    ),
    AttributeType(
        "1.3.6.1.1.16.4", ("entryUUID",), "", "1.3.6.1.1.16.1", "UUIDMatch", "UUIDOrderingMatch",
        is_single=True, usage="directoryOperation",
    ),
    AttributeType(
        "1.3.6.1.1.20", ("entryDN",), "", "12", "distinguishedNameMatch", is_single=True,
        usage="directoryOperation",
    ),
    _described("2.5.21.4", "matchingRules", "30"),
    _described("2.5.21.5", "attributeTypes", "3"),
    _described("2.5.21.6", "objectClasses", "37"),
    _described("1.3.6.1.4.1.1466.101.120.16", "ldapSyntaxes", "54"),
    _of_server("1.3.6.1.4.1.1466.101.120.5", "namingContexts", "12", "distinguishedNameMatch"),
    _of_server("1.3.6.1.4.1.1466.101.120.6", "altServer", "26"),
    _of_server("1.3.6.1.4.1.1466.101.120.7", "supportedExtension", "38", "objectIdentifierMatch"),
    _of_server("1.3.6.1.4.1.1466.101.120.13", "supportedControl", "38", "objectIdentifierMatch"),
    _of_server("1.3.6.1.4.1.1466.101.120.14", "supportedSASLMechanisms", "15"),
    _of_server("1.3.6.1.4.1.1466.101.120.15", "supportedLDAPVersion", "27"),
    _of_server("1.3.6.1.4.1.4203.1.3.5", "supportedFeatures", "38", "objectIdentifierMatch"),
    AttributeType(
        "1.3.6.1.1.4", ("vendorName",), "", "15", "caseExactMatch", is_single=True,
        usage="dSAOperation",
    ),
    AttributeType(
        "1.3.6.1.1.5", ("vendorVersion",), "", "15", "caseExactMatch", is_single=True,
        usage="dSAOperation",
    ),
    # RFC 4519
    _strings("2.5.4.41", "name", superior=""),
    AttributeType("2.5.4.49", ("distinguishedName",), "", "12", "distinguishedNameMatch"),
    _strings("2.5.4.3", "cn commonName"),
    _strings("2.5.4.4", "sn surname"),
    AttributeType(
        "2.5.4.6", ("c", "countryName"), "name", "11", "caseIgnoreMatch", "",
        "caseIgnoreSubstringsMatch", is_single=True,
    ),
    _strings("2.5.4.7", "l localityName"),
    _strings("2.5.4.8", "st stateOrProvinceName"),
    _strings("2.5.4.10", "o organizationName"),
    _strings("2.5.4.11", "ou organizationalUnitName"),
    _strings("2.5.4.12", "title"),
    _strings("2.5.4.42", "givenName gn"),
    _strings("2.5.4.43", "initials"),
    _strings("2.5.4.9", "street streetAddress", superior=""),
    _strings("2.5.4.13", "description", superior=""),
    _strings("2.5.4.15", "businessCategory", superior=""),
    _strings("2.5.4.17", "postalCode", superior=""),
    _strings("2.5.4.18", "postOfficeBox", superior=""),
    _strings("2.5.4.19", "physicalDeliveryOfficeName", superior=""),
    AttributeType(
        "2.5.4.5", ("serialNumber",), "", "44", "caseIgnoreMatch", "", "caseIgnoreSubstringsMatch"
    ),
    _plain("2.5.4.16", "postalAddress", "41"),
    _plain("2.5.4.26", "registeredAddress", "41"),
    _phone("2.5.4.20", "telephoneNumber"),
    _plain("2.5.4.21", "telexNumber", "52"),
    _plain("2.5.4.22", "teletexTerminalIdentifier", "51"),
    _plain("2.5.4.23", "facsimileTelephoneNumber", "22"),
    AttributeType(
        "2.5.4.24", ("x121Address",), "", "36", "numericStringMatch", "",
        "numericStringSubstringsMatch",
    ),
    AttributeType(
        "2.5.4.25", ("internationalISDNNumber",), "", "36", "numericStringMatch", "",
        "numericStringSubstringsMatch",
    ),
    AttributeType(
        "2.5.4.27", ("destinationIndicator",), "", "44", "caseIgnoreMatch", "",
        "caseIgnoreSubstringsMatch",
    ),
    AttributeType("2.5.4.28", ("preferredDeliveryMethod",), "", "14", is_single=True),
    _plain("2.5.4.14", "searchGuide", "25"),
    _dn("2.5.4.32", "owner"),
    _dn("2.5.4.34", "seeAlso"),
    AttributeType("2.5.4.35", ("userPassword",), "", "40", "octetStringMatch"),
    _plain("2.5.4.45", "x500UniqueIdentifier", "6"),
    AttributeType(
        "0.9.2342.19200300.100.1.1", ("uid", "userid"), "", "15", "caseIgnoreMatch", "",
        "caseIgnoreSubstringsMatch",
    ),
    _ia5("0.9.2342.19200300.100.1.25", "dc domainComponent", single=True),
    # RFC 4524, RFC 2798
    _ia5("0.9.2342.19200300.100.1.3", "mail rfc822Mailbox"),
    _strings("0.9.2342.19200300.100.1.6", "roomNumber", superior=""),
    _plain("0.9.2342.19200300.100.1.7", "photo", "23"),
    _dn("0.9.2342.19200300.100.1.10", "manager"),
    _dn("0.9.2342.19200300.100.1.21", "secretary"),
    _phone("0.9.2342.19200300.100.1.20", "homePhone homeTelephoneNumber"),
    _plain("0.9.2342.19200300.100.1.39", "homePostalAddress", "41"),
    _phone("0.9.2342.19200300.100.1.41", "mobile mobileTelephoneNumber"),
    _phone("0.9.2342.19200300.100.1.42", "pager pagerTelephoneNumber"),
    _plain("0.9.2342.19200300.100.1.55", "audio", "4"),
    _plain("0.9.2342.19200300.100.1.60", "jpegPhoto", "28"),
    AttributeType("1.3.6.1.4.1.250.1.57", ("labeledURI",), "", "15", "caseExactMatch"),
    _strings("2.16.840.1.113730.3.1.1", "carLicense", superior=""),
    _strings("2.16.840.1.113730.3.1.2", "departmentNumber", superior=""),
    _strings("2.16.840.1.113730.3.1.3", "employeeNumber", superior="", single=True),
    _strings("2.16.840.1.113730.3.1.4", "employeeType", superior=""),
    _strings("2.16.840.1.113730.3.1.39", "preferredLanguage", superior="", single=True),
    _plain("2.16.840.1.113730.3.1.40", "userSMIMECertificate", "5"),
    _plain("2.16.840.1.113730.3.1.216", "userPKCS12", "5"),
    _strings("2.16.840.1.113730.3.1.241", "displayName", superior="", single=True),
    # RFC 4523
    AttributeType("2.5.4.36", ("userCertificate",), "", _CERTIFICATE, "certificateExactMatch"),
    AttributeType("2.5.4.37", ("cACertificate",), "", _CERTIFICATE, "certificateExactMatch"),
    AttributeType(
        "2.5.4.38", ("authorityRevocationList",), "", _LIST, "certificateListExactMatch"
    ),
    AttributeType(
        "2.5.4.39", ("certificateRevocationList",), "", _LIST, "certificateListExactMatch"
    ),
    _plain("2.5.4.40", "crossCertificatePair", _PAIR),
    _plain("2.5.4.52", "supportedAlgorithms", _ALGORITHM),
    AttributeType("2.5.4.53", ("deltaRevocationList",), "", _LIST, "certificateListExactMatch"),
)  # fmt: skip

_LOCATION: Final = ("street", "l", "st", "postalAddress", "postalCode", "postOfficeBox")
_REACH: Final = (
    "x121Address", "registeredAddress", "destinationIndicator", "preferredDeliveryMethod",
    "telexNumber", "teletexTerminalIdentifier", "telephoneNumber", "internationalISDNNumber",
    "facsimileTelephoneNumber", "physicalDeliveryOfficeName", *_LOCATION,
)  # fmt: skip
_UNIT: Final = (
    "userPassword", "searchGuide", "seeAlso", "businessCategory", "description", *_REACH,
)  # fmt: skip
_OF_A_CA: Final = (
    "cACertificate", "certificateRevocationList", "authorityRevocationList",
    "crossCertificatePair",
)  # fmt: skip

CLASSES: Final = (
    ObjectClass("2.5.6.0", ("top",), "ABSTRACT", "", ("objectClass",)),
    ObjectClass("1.3.6.1.4.1.1466.101.120.111", ("extensibleObject",), "AUXILIARY"),
    ObjectClass(
        "2.5.20.1", ("subschema",), "AUXILIARY",
        may=("objectClasses", "attributeTypes", "matchingRules", "ldapSyntaxes"),
    ),
    ObjectClass("2.5.6.2", ("country",), "STRUCTURAL", must=("c",),
                may=("searchGuide", "description")),
    ObjectClass("2.5.6.4", ("organization",), "STRUCTURAL", must=("o",), may=_UNIT),
    ObjectClass("2.5.6.5", ("organizationalUnit",), "STRUCTURAL", must=("ou",), may=_UNIT),
    ObjectClass("0.9.2342.19200300.100.4.13", ("domain",), "STRUCTURAL", must=("dc",),
                may=("o", *_UNIT)),
    ObjectClass("1.3.6.1.4.1.1466.344", ("dcObject",), "AUXILIARY", must=("dc",)),
    ObjectClass(
        "2.5.6.6", ("person",), "STRUCTURAL", must=("sn", "cn"),
        may=("userPassword", "telephoneNumber", "seeAlso", "description"),
    ),
    ObjectClass(
        "2.5.6.7", ("organizationalPerson",), "STRUCTURAL", "person",
        may=("title", "ou", *_REACH),
    ),
    ObjectClass(
        "2.16.840.1.113730.3.2.2", ("inetOrgPerson",), "STRUCTURAL", "organizationalPerson",
        may=(
            "audio", "businessCategory", "carLicense", "departmentNumber", "displayName",
            "employeeNumber", "employeeType", "givenName", "homePhone", "homePostalAddress",
            "initials", "jpegPhoto", "labeledURI", "mail", "manager", "mobile", "o", "pager",
            "photo", "roomNumber", "secretary", "uid", "userCertificate", "x500UniqueIdentifier",
            "preferredLanguage", "userSMIMECertificate", "userPKCS12",
        ),
    ),
    ObjectClass(
        "2.5.6.14", ("device",), "STRUCTURAL", must=("cn",),
        may=("serialNumber", "seeAlso", "owner", "ou", "o", "l", "description"),
    ),
    ObjectClass("2.5.6.15", ("strongAuthenticationUser",), "AUXILIARY", must=("userCertificate",)),
    ObjectClass(
        "2.5.6.16", ("certificationAuthority",), "AUXILIARY",
        must=("authorityRevocationList", "certificateRevocationList", "cACertificate"),
        may=("crossCertificatePair",),
    ),
    ObjectClass(
        "2.5.6.16.2", ("certificationAuthority-V2",), "AUXILIARY", "certificationAuthority",
        may=("deltaRevocationList",),
    ),
    ObjectClass("2.5.6.18", ("userSecurityInformation",), "AUXILIARY",
                may=("supportedAlgorithms",)),
    ObjectClass(
        "2.5.6.19", ("cRLDistributionPoint",), "STRUCTURAL", must=("cn",),
        may=("certificateRevocationList", "authorityRevocationList", "deltaRevocationList"),
    ),
    ObjectClass("2.5.6.21", ("pkiUser",), "AUXILIARY", may=("userCertificate",)),
    ObjectClass("2.5.6.22", ("pkiCA",), "AUXILIARY", may=_OF_A_CA),
    ObjectClass("2.5.6.23", ("deltaCRL",), "AUXILIARY", may=("deltaRevocationList",)),
)  # fmt: skip


def _by_name(kinds: tuple[AttributeType, ...]) -> Mapping[str, AttributeType]:
    found = {kind.oid: kind for kind in kinds}
    for kind in kinds:
        # Most clients spell a name as everybody does.
        found |= dict.fromkeys(kind.names, kind)
        found |= {f"{name};binary": kind for name in kind.names if kind.is_binary}
        found |= {name.lower(): kind for name in kind.names}
    return found


_TYPES: Final = _by_name(ATTRIBUTES)
_CLASSES: Final = {
    name: each for each in CLASSES for name in (each.oid, *[name.lower() for name in each.names])
}


def find(description: str) -> AttributeType | None:
    """Return the type that a description means, whatever its case and its options."""
    found = _TYPES.get(description)
    if found is None:
        text = description.partition(";")[0].strip().lower().removeprefix("oid.")
        found = _TYPES.get(text)
    return found


def subtypes(kind: AttributeType) -> tuple[AttributeType, ...]:
    """Return the types whose values are values of this one, too: itself first."""
    return _SUBTYPES[kind.name]


def find_class(text: str) -> ObjectClass | None:
    """Return the object class that a name or an OID means."""
    return _CLASSES.get(text.strip().lower().removeprefix("oid."))


def identify(text: str) -> str | None:
    """Return the OID that the name of a class or an attribute stands for; None: of neither."""
    found = find_class(text) or find(text)
    return None if found is None else found.oid


_SUBTYPES: Final = {
    kind.name: (kind, *[each for each in ATTRIBUTES if each.superior == kind.name])
    for kind in ATTRIBUTES
}


# -- as clients read it ---------------------------------------------------------------------------


def subschema() -> Entry:
    """Return the entry that describes all this (RFC 4512, 4.2)."""
    return _SUBSCHEMA_ENTRY


def _quoted(names: tuple[str, ...]) -> str:
    quoted = " ".join(f"'{name}'" for name in names)
    return quoted if len(names) == 1 else f"( {quoted} )"


def _list(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"( {' $ '.join(names)} )"


def _oid_of(syntax: str) -> str:
    return syntax if "." in syntax else f"{_SYNTAX}{syntax}"


def _describe_type(kind: AttributeType) -> str:
    inherited = find(kind.superior) if kind.superior else None
    parts = [kind.oid, f"NAME {_quoted(kind.names)}"]
    if inherited is not None:
        parts.append(f"SUP {kind.superior}")
    for word in ("equality", "ordering", "substring"):
        rule = getattr(kind, word)
        if rule and (inherited is None or getattr(inherited, word) != rule):
            parts.append(f"{'SUBSTR' if word == 'substring' else word.upper()} {rule}")
    if inherited is None or inherited.syntax != kind.syntax:
        parts.append(f"SYNTAX {_oid_of(kind.syntax)}")
    if kind.is_single:
        parts.append("SINGLE-VALUE")
    if kind.usage:
        parts.append(f"NO-USER-MODIFICATION USAGE {kind.usage}")
    return f"( {' '.join(parts)} )"


def _describe_class(each: ObjectClass) -> str:
    parts = [each.oid, f"NAME {_quoted(each.names)}"]
    if each.superior:
        parts.append(f"SUP {each.superior}")
    parts.append(each.kind)
    if each.must:
        parts.append(f"MUST {_list(each.must)}")
    if each.may:
        parts.append(f"MAY {_list(each.may)}")
    return f"( {' '.join(parts)} )"


def _values(lines: list[str]) -> tuple[bytes, ...]:
    return tuple([line.encode() for line in lines])


def _describe_syntax(number: str, name: str) -> str:
    extension = " X-BINARY-TRANSFER-REQUIRED 'TRUE'" if number in _BINARY else ""
    return f"( {_oid_of(number)} DESC '{name}'{extension} )"


def _make_subschema() -> Entry:
    rules = [f"( {oid} NAME '{name}' SYNTAX {_oid_of(syntax)} )" for oid, name, syntax in RULES]
    return Entry(
        SUBSCHEMA,
        {
            "objectClass": (b"top", b"subschema", b"extensibleObject"),
            "cn": (b"Subschema",),
            "structuralObjectClass": (b"subschema",),
            "entryDN": (SUBSCHEMA.encode(),),
            "subschemaSubentry": (SUBSCHEMA.encode(),),
            "hasSubordinates": (b"FALSE",),
            "objectClasses": _values([_describe_class(each) for each in CLASSES]),
            "attributeTypes": _values([_describe_type(each) for each in ATTRIBUTES]),
            "matchingRules": _values(rules),
            "ldapSyntaxes": _values([_describe_syntax(*each) for each in _SYNTAXES.items()]),
        },
    )


_SUBSCHEMA_ENTRY: Final = _make_subschema()
