"""What one CMC endpoint can be told, and one request at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire.signatures import Age, Policy

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint


class EndpointOptions(BaseModel):
    """What one CMC endpoint can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pop_link: Literal["optional", "required"] = Field(
        default="optional",
        description="Whether requests under a shared secret must hold a POP Link Witness: "
        "optional checks it where the client made one, required refuses others.",
    )
    challenge_minutes: int = Field(
        default=60,
        ge=2,
        le=1_440,
        description="How long a client may take to decrypt a challenge (Encrypted POP).",
    )
    confirm: bool = Field(
        default=False,
        description="Ask clients to confirm each certificate; it is revoked without.",
    )
    confirm_seconds: int = Field(
        default=600, ge=10, le=604_800, description="How long a client may take to confirm."
    )
    check_after: int = Field(
        default=60, ge=1, le=86_400, description="Seconds after which to ask again."
    )
    trust_anchors: bool = Field(
        default=True,
        description="Send the root, protected by the shared secret, to clients that have "
        "nothing else to trust.",
    )
    envelopes: bool = Field(
        default=False,
        description="Accept requests that are encrypted to the endpoint's own RSA key, whose "
        "certificate is in every answer.",
    )
    open_getcert: bool = Field(
        default=False, description="getCert gives a certificate to others than its holder."
    )
    clock_window: int = Field(
        default=0,
        ge=0,
        description="Seconds that a message's signingTime may differ from now; 0: any.",
    )
    legacy: bool = Field(
        default=False,
        description="Accept SHA-1, and with it the identity proof and POP link of version 1.",
    )
    signer_algorithm: KeyAlgorithm | None = Field(
        default=None, description="The key that signs answers; empty: as fits the authority."
    )
    signer_store: str | None = Field(
        default=None, description="The key store that makes that key; empty: the default."
    )

    @property
    def policy(self) -> Policy:
        """Return the oldest algorithms that the endpoint accepts."""
        return Policy(Age.LEGACY if self.legacy else Age.MODERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request at one endpoint."""

    endpoint: Endpoint
    options: EndpointOptions
    peer: str

    @property
    def door(self) -> str:
        """Return "cmc/LABEL"."""
        return str(self.endpoint.id)
