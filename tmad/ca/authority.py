"""The rules of an authority, as a managed object; all its keys share them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tmad.ca.scheme import SignaturePolicy, check_policy
from tmad.errors import Fault, FaultCode
from tmad.managed.catalogue import Kind
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import issuers, objects, private_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection

KIND = "authority"
DEFAULT_TENANT = "default"
# Stands behind an authority's name in the address of its delta CRL.
DELTA_SUFFIX = "-delta"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class URLPolicy(_Document):
    """Which addresses this authority's certificates name."""

    base: str = Field(
        default="",
        pattern=r"^(http://[^\s?#]+[^\s?#/])?$",
        description="Base of the published http addresses; empty: the node's public address.",
    )
    ocsp: bool = Field(default=True, description="Name the OCSP responder in certificates.")
    ca_issuers: bool = Field(default=True, description="Name the CA certificate's address.")
    crl: bool = Field(default=True, description="Name the CRL's address.")


class CRLPolicy(_Document):
    """When CRLs are made and how long they are good."""

    period_hours: int = Field(default=24, ge=1, le=24 * 365, description="Hours between CRLs.")
    overlap_hours: int = Field(
        default=24 * 6,
        ge=1,
        le=24 * 365,
        description="How long a CRL stays good after the next one is due.",
    )
    rebuild: Literal["immediate", "scheduled"] = Field(
        default="immediate", description="Make a CRL upon each revocation, or only on schedule."
    )
    delay_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="How long a revocation may wait for others before a CRL is made.",
    )
    expired_certs_on_crl: bool = Field(
        default=False, description="Keep revoked certificates on the CRL after they expired."
    )
    delta_hours: int | None = Field(
        default=None,
        ge=1,
        le=24 * 365,
        description="How long a delta CRL is good, at most as long as the CRL; empty: none is"
        " made. Both are then made together, when half of it is over at the latest.",
    )

    @property
    def interval(self) -> timedelta:
        """How long after a CRL the next one is due, whatever is revoked."""
        period = timedelta(hours=self.period_hours)
        if self.delta_hours is None:
            return period
        return min(period, timedelta(hours=self.delta_hours) / 2)


class OCSPPolicy(_Document):
    """How OCSP answers for this authority are made."""

    validity_hours: int = Field(
        default=12, ge=1, le=240, description="From thisUpdate to nextUpdate."
    )
    max_age_seconds: int | None = Field(
        default=None, ge=0, description="Cache-Control max-age; empty: until nextUpdate."
    )
    unknown: Literal["unknown", "revoked"] = Field(
        default="unknown",
        description="What to say about a serial number that was never issued (RFC 6960, 2.2).",
    )
    nonce: bool = Field(default=True, description="Answer nonces (RFC 9654).")
    signer: Literal["delegated", "ca"] = Field(
        default="delegated", description="Sign with a responder certificate or the CA's key."
    )
    responder_id: Literal["key", "name"] = Field(
        default="key", description="How an answer names its signer."
    )
    responder_algorithm: KeyAlgorithm | None = Field(
        default=None, description="The responder's key; empty: fits the CA's."
    )
    responder_store: Literal["soft", "pkcs11"] | None = Field(
        default=None, description="Where the responder's key lives; empty: where the CA's does."
    )
    archive_cutoff_days: int | None = Field(
        default=None,
        ge=1,
        description="How long answers about expired certificates go on (RFC 6960, 4.4.4).",
    )


class AuthorityDocument(_Document):
    """The rules of one authority; all its generations share them."""

    description: str = Field(default="", max_length=500)
    signature: SignaturePolicy = SignaturePolicy()
    urls: URLPolicy = URLPolicy()
    crl: CRLPolicy = CRLPolicy()
    ocsp: OCSPPolicy = OCSPPolicy()
    profiles: tuple[Name, ...] = Field(
        default=(), description="Profiles that may be used; empty: every profile."
    )
    serves_tenants: tuple[Name, ...] = Field(
        default=(), description="Other tenants whose authorities this one may certify."
    )
    announce_next: bool = Field(
        default=True, description="Tell clients of the next key (SCEP GetNextCACert)."
    )

    @field_validator("profiles", "serves_tenants")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a name stands twice")
        return value

    def allows_profile(self, profile: str) -> bool:
        """Tell whether certificates of this profile may be issued."""
        return not self.profiles or profile in self.profiles or profile in INTERNAL_PROFILES


# What an authority needs for itself is not up to the allow-list.
INTERNAL_PROFILES = frozenset(
    {
        "root-ca",
        "ocsp-responder",
        "scep-ra",
        "tls-client-self",
        "cmp-signer",
        "tsa-signer",
        "tls-self",
        "eap-self",
        "profile-signer",
    }
)


def slug_of(tenant: str, authority: str, generation: int = 1) -> str:
    """Return an authority's part of a URL.

    Each key has its own (RFC 5280, 5: a CRL is signed by one key, and old certificates name
    the address of the CRL that was signed with the key that signed them). An underscore cannot
    stand in a name, so no other authority can have the same one.
    """
    slug = authority if tenant == DEFAULT_TENANT else f"{tenant}.{authority}"
    return slug if generation == 1 else f"{slug}_{generation}"


def _check(connection: Connection, tenant: str, name: str, document: AuthorityDocument) -> None:
    if tenant in document.serves_tenants:
        raise Fault(
            FaultCode.REJECTED,
            "serves_tenants: an authority serves its own tenant anyway",
            rule="authority.serves-tenants",
        )
    _check_delta_address(connection, tenant, name, document)
    rows = issuers.find_of_authority(connection, tenant, name)
    key = private_keys.by_id(connection, rows[-1].key_id) if rows else None
    if key is not None:
        check_policy(load_key(key.public_key_der), document.signature)


def _check_delta_address(
    connection: Connection, tenant: str, name: str, document: AuthorityDocument
) -> None:
    """Refuse two authorities where the delta CRL of one has the address of the other's CRL."""
    other = name + DELTA_SUFFIX
    is_taken = bool(
        document.crl.delta_hours is not None
        and objects.by_name(connection, tenant, KIND, other) is not None
    )
    if not is_taken and name.endswith(DELTA_SUFFIX):
        other = name.removesuffix(DELTA_SUFFIX)
        row = objects.by_name(connection, tenant, KIND, other)
        if row is not None:
            rules = AuthorityDocument.model_validate_json(row.document)
            is_taken = rules.crl.delta_hours is not None
    if is_taken:
        raise Fault(
            FaultCode.CONFLICT,
            f"a delta CRL would have the same address as the CRL of another authority: {name} and"
            f" {other}; rename one, or make no delta CRLs (crl.delta_hours)",
            rule="authority.delta-address",
            values={"authority": name, "other": other},
        )


def _check_delete(connection: Connection, tenant: str, name: str, document: object) -> None:
    # What an authority signed outlives the wish to forget it: CRL and OCSP need its rules.
    if rows := issuers.find_of_authority(connection, tenant, name):
        raise Fault(
            FaultCode.CONFLICT,
            f"authority {name} has keys; withdraw it instead",
            rule="authority.in-use",
            values={"generations": str(len(rows))},
        )


AUTHORITY = Kind(
    name=KIND,
    model=AuthorityDocument,
    handle=lambda tenant, name, document: slug_of(tenant, name),
    check=_check,
    check_delete=_check_delete,
)


def load_key(der: bytes) -> CertificateIssuerPublicKeyTypes:
    """Read the SubjectPublicKeyInfo of a key that the keyring made."""
    return serialization.load_der_public_key(der)  # type: ignore[return-value]  # ours sign
