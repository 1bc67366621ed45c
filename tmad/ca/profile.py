"""Profiles: the policy for one kind of certificate, as a document and checked as a whole.

RFC 5280, 4.2. A ProfileDocument is what an administrator writes; every mistake in it is found
when it is stored, never when the first certificate is made. ``tmad/ca/shape.py`` applies it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from tmad.ca import names
from tmad.ca.keycheck import ALGORITHMS, KeyRules
from tmad.catalogue import Kind
from tmad.errors import Fault

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhdwy])\Z")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,11})){1,30}\Z")

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

EXTENDED_USAGES: Mapping[str, ObjectIdentifier] = {
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "time_stamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "smartcard_logon": ExtendedKeyUsageOID.SMARTCARD_LOGON,
    "kdc": ExtendedKeyUsageOID.KERBEROS_PKINIT_KDC,
    "ipsec_ike": ExtendedKeyUsageOID.IPSEC_IKE,
    "ipsec_ike_intermediate": ObjectIdentifier("1.3.6.1.5.5.8.2.2"),
    "document_signing": ObjectIdentifier("1.3.6.1.5.5.7.3.36"),
    "cmc_ra": ObjectIdentifier("1.3.6.1.5.5.7.3.28"),
    "ms_lifetime_signing": ObjectIdentifier("1.3.6.1.4.1.311.10.3.13"),
}

KeyUsageName: TypeAlias = Literal[
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]

MS_TEMPLATE_V1 = ObjectIdentifier("1.3.6.1.4.1.311.20.2")
MS_TEMPLATE_V2 = ObjectIdentifier("1.3.6.1.4.1.311.21.7")
MS_APPLICATION_POLICIES = ObjectIdentifier("1.3.6.1.4.1.311.21.10")
MS_CA_VERSION = ObjectIdentifier("1.3.6.1.4.1.311.21.1")
MS_SID = ObjectIdentifier("1.3.6.1.4.1.311.25.2")
NO_REV_AVAIL = ObjectIdentifier("2.5.29.56")

# GEN-21: what a request says about these is never believed. Each decides over trust, or is
# written by the profile itself (ESC15, CVE-2024-49019; CVE-2022-26923).
NEVER_COPIED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.FRESHEST_CRL,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.SUBJECT_INFORMATION_ACCESS,
        ExtensionOID.OCSP_NO_CHECK,
        ExtensionOID.PRECERT_POISON,
        ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS,
        NO_REV_AVAIL,
        MS_TEMPLATE_V1,
        MS_TEMPLATE_V2,
        MS_APPLICATION_POLICIES,
        MS_CA_VERSION,
        MS_SID,
    }
)


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


def _check_oid(value: str) -> str:
    if not _OID.match(value):
        raise ValueError(f"not an object identifier: {value!r}")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(_write_duration, return_type=str),
    Field(ge=timedelta(0), le=timedelta(days=365 * 100)),
]
OID = Annotated[str, BeforeValidator(lambda value: _check_oid(str(value)))]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Validity(_Part):
    """How long a certificate is good; both ends belong to it, so 90d ends a second earlier."""

    default: Duration = Field(timedelta(days=365), description="Without another wish.")
    max: Duration = Field(timedelta(days=397), description="Longest that may be asked for.")
    backdate: Duration = Field(
        timedelta(minutes=5), description="How far notBefore lies back, for slow clocks."
    )
    past_issuer: Literal["shorten", "refuse"] = Field(
        "shorten", description="What to do when the issuer's certificate ends earlier."
    )

    @model_validator(mode="after")
    def _default_fits(self) -> Validity:
        if not timedelta(minutes=5) <= self.default <= self.max:
            raise ValueError("default must be from 5m to max")
        if self.backdate > timedelta(days=2):
            raise ValueError("backdate is at most 2d")
        return self


class AttributeRule(_Part):
    """What may stand in one attribute of the subject."""

    fixed: str = Field("", max_length=255, description="The value, whatever the request says.")
    from_request: bool = Field(True, description="Take the value that the request proposes.")
    required: bool = False
    patterns: tuple[str, ...] = Field(
        (), description="Shell patterns, one of which the whole value matches; empty: any value."
    )
    max: int = Field(1, ge=1, le=20, description="How many times it may occur.")


class SubjectRules(_Part):
    """How the subject is built from what the request proposes."""

    attributes: dict[str, AttributeRule] = Field(
        default_factory=dict,
        description='By short name or object identifier; "*" stands for every other one.',
    )
    unknown: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with an attribute that has no rule."
    )
    order: tuple[str, ...] = Field(
        (), description="Order of the attributes; empty keeps the request's octets as they are."
    )
    allow_empty: bool = False
    common_name_in_names: bool = Field(
        False, description="The common name must also be an alternative name."
    )
    name_from_common_name: bool = Field(
        False, description="A host name in CN becomes a DNS name when the request has none."
    )

    @field_validator("attributes", "order")
    @classmethod
    def _attributes_exist(
        cls, value: dict[str, AttributeRule] | tuple[str, ...]
    ) -> dict[str, AttributeRule] | tuple[str, ...]:
        for attribute in value:
            if attribute != "*" and attribute not in ATTRIBUTES and not _OID.match(attribute):
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


class NameRule(_Part):
    """What may stand in one kind of alternative name; without a rule the kind is refused."""

    patterns: tuple[str, ...] = Field(
        (),
        description="One must match: shell patterns on the lower-case name, networks for ip, "
        "object identifiers for registered_id and other; empty: any valid name.",
    )
    max: int = Field(10, ge=1, le=100)
    required: bool = False
    wildcard: bool = Field(False, description="Allow a leftmost * in a DNS name.")


class NameRules(_Part):
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
        "refuse", description="What to do with a name whose kind has no rule."
    )
    required: bool = Field(False, description="There must be at least one name of any kind.")

    @model_validator(mode="after")
    def _patterns_fit(self) -> NameRules:
        for pattern in self.ip.patterns if self.ip else ():
            ipaddress.ip_network(pattern)
        for rule in (self.registered_id, self.other):
            for pattern in rule.patterns if rule else ():
                _check_oid(pattern)
        for kind in names.NameKind:
            rule = self.rule(kind)
            if rule is not None and rule.wildcard and kind is not names.NameKind.DNS:
                raise ValueError(f"{kind.value}: only DNS names have wildcards")
        return self

    def rule(self, kind: names.NameKind) -> NameRule | None:
        """Return the rule for one kind of name."""
        rule: NameRule | None = getattr(self, kind.value)
        return rule


class Policy(_Part):
    """One certificate policy."""

    oid: OID
    cps: str = Field("", pattern=r"^(https?://[^\s]+)?$", description="Where it can be read.")


class MSTemplate(_Part):
    """The Microsoft template extension, version 2."""

    oid: OID
    major: int = Field(100, ge=0, le=0x7FFFFFFF)
    minor: int = Field(0, ge=0, le=0x7FFFFFFF)


class NameConstraintRules(_Part):
    """Subtrees of names: DNS domains, e-mail domains, URI hosts, networks."""

    dns: tuple[str, ...] = ()
    email: tuple[str, ...] = ()
    uri: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()

    @field_validator("ip")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    def general_names(self) -> list[x509.GeneralName]:
        """Return the subtrees as an extension holds them."""
        return [
            *(x509.DNSName(text) for text in self.dns),
            *(x509.RFC822Name(text) for text in self.email),
            *(x509.UniformResourceIdentifier(text) for text in self.uri),
            *(x509.IPAddress(ipaddress.ip_network(text)) for text in self.ip),
        ]


class RawExtension(_Part):
    """An extension that is the same in every certificate of the profile."""

    oid: OID
    der_hex: str = Field(pattern=r"^([0-9a-fA-F]{2})+$", max_length=20_000)
    critical: bool = False


class Extensions(_Part):
    """Which extensions a certificate has; addresses come from the authority."""

    key_usage: tuple[KeyUsageName, ...] = Field(
        ("digital_signature",), description="Those that the kind of key cannot do are left out."
    )
    extended_key_usage: tuple[str, ...] = Field(
        (), description="By name or object identifier: " + ", ".join(EXTENDED_USAGES)
    )
    ca: bool = Field(False, description="The subject is itself an authority.")
    path_length: int | None = Field(None, ge=0, le=20, description="How many CAs may follow it.")
    subject_key_identifier: bool = True
    policies: tuple[Policy, ...] = ()
    aia_ocsp: bool = True
    aia_ca_issuers: bool = True
    crl: bool = Field(True, description="Name the CRL's address.")
    must_staple: bool = False
    ocsp_no_check: bool = False
    no_rev_avail: bool = Field(
        False, description="RFC 9608: too short-lived to be revoked; then no OCSP and no CRL."
    )
    ms_template_v1: str = Field("", max_length=100)
    ms_template_v2: MSTemplate | None = None
    sid: Literal["never", "optional", "required"] = Field(
        "never", description="The account's SID, from the directory only (KB5014754)."
    )
    permitted: NameConstraintRules = NameConstraintRules()
    excluded: NameConstraintRules = NameConstraintRules()
    raw: tuple[RawExtension, ...] = ()
    copy_from_request: tuple[OID, ...] = Field(
        (), description="Extensions of the request that are taken over as they are."
    )

    @field_validator("extended_key_usage")
    @classmethod
    def _usages_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for usage in value:
            if usage not in EXTENDED_USAGES and not _OID.match(usage):
                raise ValueError(f"unknown usage {usage!r}")
        if len(set(value)) != len(value):
            raise ValueError("a usage stands twice")
        return value

    @field_validator("copy_from_request")
    @classmethod
    def _never_list(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for oid in value:
            if ObjectIdentifier(oid) in NEVER_COPIED:
                raise ValueError(f"{oid} is never taken from a request")
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Extensions:
        mistakes = list(_extension_mistakes(self))
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class ProfileRenewal(_Part):
    """When a certificate of this profile may be followed by its successor."""

    window: Duration = Field(
        timedelta(0), description="Only this long before the end; 0s: at any time."
    )


class ProfileDocument(_Part):
    """The policy for one kind of certificate."""

    description: str = Field("", max_length=500)
    category: str = Field(
        "general", pattern=r"^[a-z][a-z0-9-]{0,30}$",
        description="Security class: user, web-server, network, device, infrastructure, …",
    )
    via: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,20}$")], ...] = Field(
        ("operator",), min_length=1,
        description="Roads that lead to it: protocols, operator (by hand), system (tmad itself).",
    )
    approval: Literal["automatic", "manual"] = "automatic"
    duplicate_keys: Literal["none", "warn", "same-subject", "refuse"] = Field(
        "same-subject",
        description="What to do when the key is certified already: none of our business, "
        "journal a warning, allow for the same subject, refuse.",
    )
    signature_hash: Literal["", "sha256", "sha384", "sha512"] = Field(
        "", description="Instead of the authority's choice."
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


def usage_oid(usage: str) -> ObjectIdentifier:
    """Return the object identifier of an extended key usage in a document."""
    return EXTENDED_USAGES.get(usage) or ObjectIdentifier(usage)


def _extension_mistakes(extensions: Extensions) -> list[str]:
    found = []
    signs_certificates = "key_cert_sign" in extensions.key_usage
    # RFC 5280, 4.2.1.3 and 4.2.1.9
    if extensions.ca != signs_certificates:
        found.append("ca and key_cert_sign belong together")
    if extensions.path_length is not None and not extensions.ca:
        found.append("path_length is for authorities")
    constrained = extensions.permitted.general_names() or extensions.excluded.general_names()
    if constrained and not extensions.ca:
        found.append("name constraints are for authorities")
    # RFC 9608, 4: with noRevAvail there is nowhere to ask, and never for a CA.
    if extensions.no_rev_avail and (extensions.ca or extensions.crl or extensions.aia_ocsp):
        found.append("no_rev_avail excludes ca, crl and aia_ocsp")
    usages = [usage_oid(usage) for usage in extensions.extended_key_usage]
    # RFC 3161, 2.3
    if ExtendedKeyUsageOID.TIME_STAMPING in usages and len(usages) > 1:
        found.append("time_stamping must stand alone")
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages:
        found.append("anyExtendedKeyUsage is no restriction")
    written = [ObjectIdentifier(raw.oid) for raw in extensions.raw]
    written += [ObjectIdentifier(oid) for oid in extensions.copy_from_request]
    if len(set(written)) != len(written):
        found.append("an extension stands twice")
    # The profile's own fields write these; MS application policies have no field.
    found += [
        f"raw: {oid.dotted_string} has a field of its own"
        for oid in written
        if oid in NEVER_COPIED - {MS_APPLICATION_POLICIES, MS_CA_VERSION}
        and not _has_no_field(oid)
    ]
    return found


def _has_no_field(oid: ObjectIdentifier) -> bool:
    return oid in (
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.SUBJECT_INFORMATION_ACCESS,
        ExtensionOID.FRESHEST_CRL,
    )


PROFILE = Kind(name="profile", model=ProfileDocument)
