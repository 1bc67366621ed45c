"""What one CMP endpoint can be told, and one request at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire.signatures import Age, Policy

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint


class EndpointOptions(BaseModel):
    """What one CMP endpoint can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    implicit_confirm: bool = Field(
        default=True, description="Let clients that ask for it do without certConf."
    )
    confirm_seconds: int = Field(
        default=600,
        ge=10,
        le=604_800,
        description="How long a client may take to confirm its certificate, which is revoked then, "
        "or to answer a challenge.",
    )
    check_after: int = Field(
        default=60, ge=1, le=86_400, description="Seconds after which to ask again, at most."
    )
    ca_pubs: Literal["never", "mac", "always"] = Field(
        default="mac",
        description="Whether ip carries the root, which clients may trust: only where a shared "
        "secret protects it, or always.",
    )
    encrypted_certificates: bool = Field(
        default=False,
        description="Certify keys that cannot sign: the certificate leaves encrypted to its key, "
        "and whoever confirms it has shown to have that.",
    )
    revoke_updated: bool = Field(
        default=False, description="Revoke a certificate once its update (kur) is confirmed."
    )
    certificate_profiles: dict[str, str] = Field(
        default_factory=dict,
        description="Other CMP endpoints of the tenant, by the name that certProfile has for "
        "them; their own rules hold.",
    )
    clock_window: int = Field(
        default=0,
        ge=0,
        description="Seconds that a message's messageTime may differ from now; 0: any.",
    )
    strict: bool = Field(
        default=False,
        description="Insist on the lightweight profile (RFC 9483) where packaged clients do not "
        "keep to it: certReqId 0, the sender of a MAC named like its reference, long salts.",
    )
    legacy: bool = Field(default=False, description="Accept SHA-1 in signatures, of old devices.")
    ra_algorithm: KeyAlgorithm | None = Field(
        default=None, description="The key that signs answers; empty: as fits the authority."
    )
    ra_store: str | None = Field(
        default=None, description="The key store that makes that key; empty: the default."
    )

    @property
    def policy(self) -> Policy:
        """Return the oldest algorithms that the endpoint accepts."""
        return Policy(Age.LEGACY if self.legacy else Age.MODERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request at one endpoint; ``operation`` is the URL's last part, or empty."""

    endpoint: Endpoint
    options: EndpointOptions
    peer: str
    operation: str = ""

    @property
    def door(self) -> str:
        """Return "cmp/LABEL"."""
        return str(self.endpoint.id)
