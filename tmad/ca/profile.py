"""Profiles: the policy for one kind of certificate, as a document and checked as a whole.

RFC 5280, 4.2. A ProfileDocument is what an administrator writes; every mistake in it is found
when it is stored, never when the first certificate is made. ``tmad/ca/shape.py`` applies it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from tmad.ca import names
from tmad.ca.extensions import OID_TEXT, Extensions, Part, check_oid
from tmad.ca.keycheck import ALGORITHMS, KeyRules
from tmad.errors import Fault
from tmad.managed.catalogue import Kind

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhdwy])\Z")

ATTRIBUTES: Mapping[str, ObjectIdentifier] = {
    "CN": NameOID.COMMON_NAME,
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "street": NameOID.STREET_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "title": NameOID.TITLE,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "initials": NameOID.INITIALS,
    "pseudonym": NameOID.PSEUDONYM,
    "UID": NameOID.USER_ID,
    "DC": NameOID.DOMAIN_COMPONENT,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "unstructuredName": names.UNSTRUCTURED_NAME,
}


def _read_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _DURATION.match(value)
    if found is None:
        raise ValueError('not a duration: write a number and s, m, h, d, w or y, as in "90d"')
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _write_duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit in ("y", "w", "d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0 and unit != "w":
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(_write_duration, return_type=str),
    Field(ge=timedelta(0), le=timedelta(days=365 * 100)),
]


class Validity(Part):
    """How long a certificate is good; both ends belong to it, so 90d ends a second earlier."""

    default: Duration = Field(default=timedelta(days=365), description="Without another wish.")
    max: Duration = Field(default=timedelta(days=397), description="Longest that may be asked for.")
    backdate: Duration = Field(
        default=timedelta(minutes=5), description="How far notBefore lies back, for slow clocks."
    )
    past_issuer: Literal["shorten", "refuse"] = Field(
        default="shorten", description="What to do when the issuer's certificate ends earlier."
    )

    @model_validator(mode="after")
    def _default_fits(self) -> Validity:
        if not timedelta(minutes=5) <= self.default <= self.max:
            raise ValueError("default must be from 5m to max")
        if self.backdate > timedelta(days=2):
            raise ValueError("backdate is at most 2d")
        return self


class AttributeRule(Part):
    """What may stand in one attribute of the subject."""

    fixed: str = Field(
        default="", max_length=255, description="The value, whatever the request says."
    )
    from_request: bool = Field(
        default=True, description="Take the value that the request proposes."
    )
    required: bool = False
    patterns: tuple[str, ...] = Field(
        default=(),
        description="Shell patterns, one of which the whole value matches; empty: any value.",
    )
    max: int = Field(default=1, ge=1, le=20, description="How many times it may occur.")


class SubjectRules(Part):
    """How the subject is built from what the request proposes."""

    attributes: dict[str, AttributeRule] = Field(
        default_factory=dict,
        description='By short name or object identifier; "*" stands for every other one.',
    )
    unknown: Literal["refuse", "drop"] = Field(
        default="refuse", description="What to do with an attribute that has no rule."
    )
    order: tuple[str, ...] = Field(
        default=(),
        description="Order of the attributes; empty keeps the request's octets as they are.",
    )
    allow_empty: bool = False
    common_name_in_names: bool = Field(
        default=False, description="The common name must also be an alternative name."
    )
    name_from_common_name: bool = Field(
        default=False, description="A host name in CN becomes a DNS name when the request has none."
    )

    @field_validator("attributes", "order")
    @classmethod
    def _attributes_exist(
        cls, value: dict[str, AttributeRule] | tuple[str, ...]
    ) -> dict[str, AttributeRule] | tuple[str, ...]:
        for attribute in value:
            if attribute != "*" and attribute not in ATTRIBUTES and not OID_TEXT.match(attribute):
                known = ", ".join(ATTRIBUTES)
                raise ValueError(f"unknown attribute {attribute!r}; one of {known} or an OID")
        return value

    @model_validator(mode="after")
    def _fixed_values_are_valid(self) -> SubjectRules:
        for attribute, rule in self.attributes.items():
            if not rule.fixed:
                continue
            if attribute == "*":
                raise ValueError('"*" cannot have a fixed value')
            try:
                names.check_subject(
                    x509.Name([x509.NameAttribute(attribute_oid(attribute), rule.fixed)])
                )
            except (Fault, ValueError) as error:
                raise ValueError(f"{attribute}: fixed value: {error}") from None
        return self


class NameRule(Part):
    """What may stand in one kind of alternative name; without a rule the kind is refused."""

    patterns: tuple[str, ...] = Field(
        default=(),
        description="One must match: shell patterns on the lower-case name, networks for ip, "
        "object identifiers for registered_id and other; empty: any valid name.",
    )
    max: int = Field(default=10, ge=1, le=100)
    required: bool = False
    wildcard: bool = Field(default=False, description="Allow a leftmost * in a DNS name.")


class NameRules(Part):
    """Which subject alternative names a request may propose."""

    dns: NameRule | None = None
    ip: NameRule | None = None
    email: NameRule | None = None
    uri: NameRule | None = None
    upn: NameRule | None = None
    directory: NameRule | None = None
    registered_id: NameRule | None = None
    other: NameRule | None = None
    unknown: Literal["refuse", "drop"] = Field(
        default="refuse", description="What to do with a name whose kind has no rule."
    )
    required: bool = Field(
        default=False, description="There must be at least one name of any kind."
    )

    @model_validator(mode="after")
    def _patterns_fit(self) -> NameRules:
        for pattern in self.ip.patterns if self.ip else ():
            ipaddress.ip_network(pattern)
        for rule in (self.registered_id, self.other):
            for pattern in rule.patterns if rule else ():
                check_oid(pattern)
        for kind in names.NameKind:
            rule = self.rule(kind)
            if rule is not None and rule.wildcard and kind is not names.NameKind.DNS:
                raise ValueError(f"{kind.value}: only DNS names have wildcards")
        return self

    def rule(self, kind: names.NameKind) -> NameRule | None:
        """Return the rule for one kind of name."""
        rule: NameRule | None = getattr(self, kind.value)
        return rule


class ProfileRenewal(Part):
    """When a certificate of this profile may be followed by its successor."""

    window: Duration = Field(
        default=timedelta(0), description="Only this long before the end; 0s: at any time."
    )


class ProfileDocument(Part):
    """The policy for one kind of certificate."""

    description: str = Field(default="", max_length=500)
    category: str = Field(
        default="general",
        pattern=r"^[a-z][a-z0-9-]{0,30}$",
        description="Security class: user, web-server, network, device, infrastructure, …",
    )
    via: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,20}$")], ...] = Field(
        default=("operator",),
        min_length=1,
        description="Roads that lead to it: protocols, operator (by hand), system (tmad itself).",
    )
    approval: Literal["automatic", "manual"] = "automatic"
    duplicate_keys: Literal["none", "warn", "same-subject", "refuse"] = Field(
        default="same-subject",
        description="What to do when the key is certified already: none of our business, "
        "journal a warning, allow for the same subject, refuse.",
    )
    signature_hash: Literal["", "sha256", "sha384", "sha512"] = Field(
        default="", description="Instead of the authority's choice."
    )
    validity: Validity = Validity()
    keys: KeyRules = KeyRules()
    subject: SubjectRules = SubjectRules()
    names: NameRules = NameRules()
    extensions: Extensions = Extensions()
    renewal: ProfileRenewal = ProfileRenewal()

    @model_validator(mode="after")
    def _can_issue(self) -> ProfileDocument:
        unknown = set(self.keys.algorithms) - ALGORITHMS
        if unknown:
            raise ValueError(f"keys.algorithms: unknown: {', '.join(sorted(unknown))}")
        if self.keys.rsa_min > self.keys.rsa_max:
            raise ValueError("keys: rsa_min is larger than rsa_max")
        if self.subject.allow_empty and self.extensions.ca:
            raise ValueError("subject: an authority must have a name")
        return self


def attribute_oid(attribute: str) -> ObjectIdentifier:
    """Return the object identifier of a subject attribute in a document."""
    return ATTRIBUTES.get(attribute) or ObjectIdentifier(attribute)


PROFILE = Kind(name="profile", model=ProfileDocument)
