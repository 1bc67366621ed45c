"""Which extensions a profile writes, which it copies, and which nobody may copy.

RFC 5280, 4.2; RFC 7633 (TLS feature); RFC 9608 (noRevAvail); MS-WCCE 2.2.2.7.7.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

OID_TEXT = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,11})){1,30}\Z")

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
    "certificate_request_agent": ObjectIdentifier("1.3.6.1.4.1.311.20.2.1"),
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


def check_oid(value: str) -> str:
    """Return an object identifier in dotted form; ValueError for anything else."""
    if not OID_TEXT.match(value):
        raise ValueError(f"not an object identifier: {value!r}")
    return value


OID = Annotated[str, BeforeValidator(lambda value: check_oid(str(value)))]


class Part(BaseModel):
    """A part of a profile document: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(Part):
    """One certificate policy."""

    oid: OID
    cps: str = Field(
        default="", pattern=r"^(https?://[^\s]+)?$", description="Where it can be read."
    )


class MSTemplate(Part):
    """The Microsoft template extension, version 2."""

    oid: OID
    major: int = Field(default=100, ge=0, le=0x7FFFFFFF)
    minor: int = Field(default=0, ge=0, le=0x7FFFFFFF)


class NameConstraintRules(Part):
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


class RawExtension(Part):
    """An extension that is the same in every certificate of the profile."""

    oid: OID
    der_hex: str = Field(pattern=r"^([0-9a-fA-F]{2})+$", max_length=20_000)
    critical: bool = False


class Extensions(Part):
    """Which extensions a certificate has; addresses come from the authority."""

    key_usage: tuple[KeyUsageName, ...] = Field(
        default=("digital_signature",),
        description="Those that the kind of key cannot do are left out.",
    )
    extended_key_usage: tuple[str, ...] = Field(
        default=(), description="By name or object identifier: " + ", ".join(EXTENDED_USAGES)
    )
    ca: bool = Field(default=False, description="The subject is itself an authority.")
    path_length: int | None = Field(
        default=None, ge=0, le=20, description="How many CAs may follow it."
    )
    subject_key_identifier: bool = True
    policies: tuple[Policy, ...] = ()
    aia_ocsp: bool = True
    aia_ca_issuers: bool = True
    crl: bool = Field(default=True, description="Name the CRL's address.")
    must_staple: bool = False
    ocsp_no_check: bool = False
    no_rev_avail: bool = Field(
        default=False,
        description="RFC 9608: too short-lived to be revoked; then no OCSP and no CRL.",
    )
    ms_template_v1: str = Field(default="", max_length=100)
    ms_template_v2: MSTemplate | None = None
    sid: Literal["never", "optional", "required"] = Field(
        default="never", description="The account's SID, from the directory only (KB5014754)."
    )
    permitted: NameConstraintRules = NameConstraintRules()
    excluded: NameConstraintRules = NameConstraintRules()
    raw: tuple[RawExtension, ...] = ()
    copy_from_request: tuple[OID, ...] = Field(
        default=(), description="Extensions of the request that are taken over as they are."
    )

    @field_validator("extended_key_usage")
    @classmethod
    def _usages_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for usage in value:
            if usage not in EXTENDED_USAGES and not OID_TEXT.match(usage):
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
        if oid in NEVER_COPIED - {MS_APPLICATION_POLICIES, MS_CA_VERSION} and not _has_no_field(oid)
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
