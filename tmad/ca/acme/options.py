"""What one ACME endpoint can be told (RFC 8555, 7.1.1; RFC 9773; security 6.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad.ca.validation.contract import ChallengeKind, ValidationRules
from tmad.wire import parsing

_DNS = (
    ChallengeKind.HTTP_01,
    ChallengeKind.DNS_01,
    ChallengeKind.TLS_ALPN_01,
    ChallengeKind.DNS_ACCOUNT_01,
)
# RFC 8555, 8.3 and 8.4; RFC 8737, 3; RFC 8738, 4 and 7; device-attest is for devices alone.
_KINDS: Mapping[str, tuple[ChallengeKind, ...]] = {
    "dns": _DNS,
    "ip": (ChallengeKind.HTTP_01, ChallengeKind.TLS_ALPN_01),
    "permanent-identifier": (ChallengeKind.DEVICE_ATTEST_01,),
}
_WILDCARD = (ChallengeKind.DNS_01, ChallengeKind.DNS_ACCOUNT_01)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.netloc or '"' in text):
        raise ValueError("must be an address that begins with https:// or http://")
    return text


URL = Annotated[str, AfterValidator(_url), Field(max_length=500)]


class ProfileChoice(BaseModel):
    """One kind of certificate that an account may choose (draft-ietf-acme-profiles)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = Field(description="Which profile shapes what is issued.")
    description: str = Field(default="", max_length=500, description="For people, or its address.")


class ACMEOptions(BaseModel):
    """What one ACME endpoint can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    challenges: tuple[ChallengeKind, ...] = Field(
        default=(ChallengeKind.HTTP_01, ChallengeKind.DNS_01, ChallengeKind.TLS_ALPN_01),
        min_length=1,
        description="How control of a name may be shown.",
    )
    mode: Literal["validate", "eab-preauthorized"] = Field(
        default="validate",
        description="eab-preauthorized: the names that an account's enrolment secret is bound to "
        "are its own without a challenge; for insides that no validator reaches.",
    )
    external_account_required: bool = Field(
        default=False, description="An account needs an enrolment secret (EAB)."
    )
    preauthorization: bool = Field(
        default=False, description="Accounts may show control before they order (newAuthz)."
    )
    terms_of_service: URL = Field(default="", description="Must be agreed to, if it is there.")
    website: URL = ""
    profiles: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], ProfileChoice] = Field(
        default_factory=dict,
        max_length=50,
        description="What accounts may choose from; empty: the endpoint's own profile, unnamed.",
    )
    default_profile: str = Field(
        default="", description="Of orders that name none; needed where there are profiles."
    )
    validation: ValidationRules = ValidationRules()
    order_hours: int = Field(default=168, ge=1, le=8760, description="Until an order expires.")
    authorization_hours: int = Field(
        default=720, ge=1, le=8760, description="How long control once shown counts."
    )
    new_accounts_per_hour: int = Field(
        default=10, ge=0, description="From one address; 0: unlimited."
    )
    new_orders_per_3_hours: int = Field(
        default=300, ge=0, description="Of one account; 0: unlimited."
    )
    failed_validations_per_hour: int = Field(
        default=5, ge=0, description="Of one account for one name; 0: unlimited."
    )
    retry_after: int = Field(
        default=3, ge=1, le=3600, description="Seconds after which a client may look again."
    )
    renewal_explanation: URL = Field(
        default="", description="A page that says why certificates are to be renewed early."
    )
    alternate_chains: tuple[str, ...] = Field(
        default=(),
        max_length=10,
        description="Other ways up, each a PEM bundle that begins with a certificate of the "
        "issuer's own name and key.",
    )

    @field_validator("alternate_chains")
    @classmethod
    def _chains_are_pem(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parsing.certificates(each.encode())
        return value

    @model_validator(mode="after")
    def _default_exists(self) -> ACMEOptions:
        if bool(self.profiles) != bool(self.default_profile) or (
            self.default_profile and self.default_profile not in self.profiles
        ):
            raise ValueError("default_profile must name one of profiles")
        return self

    @property
    def needs_binding(self) -> bool:
        """Tell whether nobody gets an account without an enrolment secret."""
        return self.external_account_required or self.mode == "eab-preauthorized"

    @property
    def order_lifetime(self) -> timedelta:
        return timedelta(hours=self.order_hours)

    @property
    def authorization_lifetime(self) -> timedelta:
        return timedelta(hours=self.authorization_hours)

    def kinds(self, identifier_type: str, *, is_wildcard: bool) -> tuple[ChallengeKind, ...]:
        """Return the challenges that show control of such an identifier, in our order."""
        fitting = _WILDCARD if is_wildcard else _KINDS.get(identifier_type, ())
        return tuple([each for each in self.challenges if each in fitting])

    def references(self) -> Iterable[tuple[str, str]]:
        """Return the managed objects that the options name."""
        return (("profile", choice.profile) for choice in self.profiles.values())
