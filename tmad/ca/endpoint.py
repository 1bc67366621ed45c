"""Endpoints: one enrolment door each: who may knock, how they prove it, and what they get.

An endpoint is a managed object; its protocol and label together are its URL and are unique
across tenants, since a URL names no tenant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad import documents
from tmad.ca.device_profiles.rules import DeviceRules
from tmad.ca.requests import EndpointID
from tmad.errors import Fault, FaultCode
from tmad.events import JSON
from tmad.identity.credentials import ChallengePolicy, Door
from tmad.identity.login_rules import LoginRules
from tmad.identity.webhook import Webhook
from tmad.managed.catalogue import Kind, Reference, Stored
from tmad.managed.objects import Objects

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.journal import Journal

_SERIAL = "serial:"
_HEX = re.compile(r"[1-9a-f][0-9a-f]{0,39}")
LABEL = r"[a-z0-9][a-z0-9-]{0,50}"
PROTOCOL = r"[a-z][a-z0-9]{0,10}"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Renewal(_Part):
    """Whether and how the holder of a certificate gets its successor with it."""

    enabled: bool = True
    window_days: int | None = Field(
        default=None,
        ge=1,
        description="Renewal is open this many days before the end; without it, at any time.",
    )
    grace_days: int = Field(
        default=0, ge=0, le=365, description="Days after the end in which it still renews."
    )
    profiles: tuple[str, ...] = Field(
        default=(),
        description="Profiles whose certificates renew here; empty: the endpoint's own.",
    )
    authorities: tuple[str, ...] = Field(
        default=(),
        description="Authorities whose certificates renew here; empty: the endpoint's own.",
    )
    via_enroll: bool = Field(
        default=True,
        description="Accept a first-enrolment message signed by a certificate as a renewal, "
        "as Apple devices send it.",
    )


class EndpointLimits(_Part):
    """How much one endpoint hands out; 0 means unlimited."""

    per_day: int = Field(default=0, ge=0, description="Certificates in 24 hours.")
    pending: int = Field(default=1000, ge=0, description="Requests that wait at one time.")


class PeopleRules(_Part):
    """Which people may enrol with their password, and for whom."""

    groups: tuple[str, ...] = Field(
        default=(), max_length=100, description="Members of any of these; empty: everybody."
    )
    names: Literal["own", "any"] = Field(
        default="own",
        description="own: CN and UID are the person's name, every address the person's. any: "
        "whatever the profile allows, for accounts that set up devices.",
    )
    realms: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9.-]{0,252}$")], ...] = Field(
        default=(),
        description="Kerberos realms whose principals are people of the same name: with "
        "CORP.TEST, bob@CORP.TEST is bob. Not together with directory.",
    )


Method = Literal[
    "challenge",
    "password",
    "directory",
    "kerberos",
    "certificate",
    "manufacturer",
    "webhook",
    "acme",
    "manual",
]


class EndpointDocument(_Part):
    """What an administrator says about one endpoint."""

    protocol: str = Field(pattern=f"^{PROTOCOL}$")
    label: str = Field(pattern=f"^{LABEL}$", description="The part of the URL that names it.")
    authority: str = Field(description="Which authority issues.")
    profile: str = Field(description="Which profile shapes what is issued.")
    enabled: bool = True
    description: str = Field(default="", max_length=500)
    authenticate: tuple[Method, ...] = Field(
        default=("challenge",),
        min_length=1,
        description="What proves a first enrolment; one of them is enough. manual: a person "
        "decides whenever nothing else proved it.",
    )
    approval: Literal["automatic", "manual"] = Field(
        default="automatic", description="manual: a person decides about every first enrolment."
    )
    renewal: Renewal = Renewal()
    challenge: ChallengePolicy = ChallengePolicy()
    login: LoginRules = Field(
        default=LoginRules(), description="What a person's password must be, and when it locks."
    )
    people: PeopleRules = PeopleRules()
    directory: str = Field(
        default="",
        description="The Active Directory whose accounts enrol here, by password (directory) or "
        "ticket (kerberos): their names and their SID are what it says, whatever is asked for.",
    )
    manufacturers: tuple[str, ...] = Field(
        default=(),
        description="Trust anchors whose devices enrol with the certificate that they were made "
        "with (802.1AR).",
    )
    manufacturer_serial: bool = Field(
        default=True,
        description="The subject must have the serialNumber of the manufacturer's certificate: "
        "without it, one device can enrol as any other.",
    )
    registration_authorities: tuple[str, ...] = Field(
        default=(),
        description="Whose certificates may ask for others: names of profiles, or serial:HEX.",
    )
    server_keys: bool = Field(
        default=False, description="The appliance makes key pairs for applicants that ask for it."
    )
    webhook: Webhook | None = None
    devices: DeviceRules = Field(
        default=DeviceRules(), description="What configuration profiles for devices say."
    )
    limits: EndpointLimits = EndpointLimits()
    idempotency_minutes: int = Field(
        default=60,
        ge=1,
        le=10_080,
        description="How long a repeated request is answered with the first certificate.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="What the protocol itself can be told."
    )

    @model_validator(mode="after")
    def _webhook_is_told(self) -> EndpointDocument:
        if "webhook" in self.authenticate and self.webhook is None:
            raise ValueError("authenticate says webhook, but there is no webhook table")
        if ("manufacturer" in self.authenticate) != bool(self.manufacturers):
            raise ValueError("authenticate says manufacturer where manufacturers names some")
        if ("acme" in self.authenticate) != (self.protocol == "acme"):
            # An order is an ACME account's, and an ACME endpoint takes nothing else.
            raise ValueError('authenticate says ["acme"] where the protocol is acme')
        if "directory" in self.authenticate:
            if not self.directory:
                raise ValueError("authenticate says directory, but directory names none")
            if not {"password", "webhook"}.isdisjoint(self.authenticate):
                # One field, two meanings: a wrong guess at the one would be tried on the other.
                raise ValueError("authenticate: directory goes with neither password nor webhook")
        if "kerberos" in self.authenticate and bool(self.directory) == bool(self.people.realms):
            raise ValueError("authenticate says kerberos: set either directory or people.realms")
        modes = {self.login.mode, *(rule.mode for rule in self.login.by_group)}
        if any("-then-" in mode for mode in modes):
            raise ValueError("login: there is no second question here; use a mode of one field")
        if self.approval == "manual" and any("otp" in mode for mode in modes):
            # Whoever waits asks again with the same words, and a code is good once.
            raise ValueError("login: a one-time code cannot be shown again by who has to wait")
        if self.server_keys and (self.approval == "manual" or "manual" in self.authenticate):
            raise ValueError("server_keys: a key that waits for a person would have to be kept")
        return self

    @field_validator("registration_authorities")
    @classmethod
    def _authorities_can_be_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each.startswith(_SERIAL) and not _HEX.fullmatch(each.removeprefix(_SERIAL)):
                raise ValueError(f"{each!r} is not serial: and lower-case hexadecimal digits")
        return value

    def is_registration_authority(self, profile: str, serial: int) -> bool:
        """Tell whether the holder of such a certificate may ask for others."""
        return not {profile, f"{_SERIAL}{serial:x}"}.isdisjoint(self.registration_authorities)

    @property
    def secrets(self) -> ChallengePolicy:
        """Return which enrolment secrets may exist: ACME binds an account by a MAC only."""
        if self.protocol != "acme":
            return self.challenge
        return self.challenge.model_copy(update={"recoverable": True})

    @property
    def id(self) -> EndpointID:
        """Return protocol and label, as the URL names them."""
        return EndpointID(self.protocol, self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint in force; ``options`` is an instance of its protocol's EndpointOptions."""

    id: EndpointID
    tenant: str
    document: EndpointDocument
    revision: int
    options: BaseModel


class NoOptions(_Part):
    """The options of a protocol that has none."""


OptionModels = Mapping[str, type[BaseModel] | None]


def object_name(id: EndpointID) -> str:  # noqa: A002  the house's word for it
    """Return the name of the managed object that holds this endpoint."""
    return f"{id.protocol}-{id.label}"


def kind(option_models: OptionModels) -> Kind:
    """Return the managed kind "endpoint" for these protocols and their EndpointOptions."""

    def references(document: EndpointDocument) -> Iterable[Reference]:
        yield "authority", document.authority
        yield "profile", document.profile
        yield from (("profile", name) for name in document.renewal.profiles)
        yield from (("authority", name) for name in document.renewal.authorities)
        yield from (("trust-anchor", name) for name in document.manufacturers)
        if document.directory:
            yield "active-directory", document.directory
        for network in document.devices.wifi:
            yield from (("authority", name) for name in network.authorities)
        for each in document.registration_authorities:
            if not each.startswith(_SERIAL):
                yield "profile", each
        model = option_models.get(document.protocol)
        if model is not None and hasattr(model, "references"):
            yield from documents.parse(model, document.options, at="options").references()

    def check(connection: Connection, tenant: str, name: str, document: EndpointDocument) -> None:
        if name != object_name(document.id):
            raise documents.rejection(
                {f"endpoint.{name}": f"must be named {object_name(document.id)}"}
            )
        _options(option_models, document, at=f"endpoint.{name}.options")

    return Kind(
        name="endpoint",
        model=EndpointDocument,
        handle=lambda tenant, name, document: str(document.id),
        references=references,
        check=check,
    )


class Endpoints:
    """The endpoints in force, as the protocols ask for them."""

    def __init__(self, objects: Objects, option_models: OptionModels) -> None:
        self._objects = objects
        self._option_models = option_models
        self._parsed: dict[EndpointID, tuple[Stored, Endpoint]] = {}

    async def by_id(self, id: EndpointID) -> Endpoint:  # noqa: A002
        """Return the endpoint as of the last committed change.

        Raise Fault(NOT_FOUND) when there is none or it is switched off: a stranger learns no
        difference.
        """
        stored = await self._objects.load_by_handle("endpoint", str(id))
        if stored is None or not stored.document.enabled:
            self._parsed.pop(id, None)
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such endpoint",
                rule="endpoint.absent" if stored is None else "endpoint.disabled",
                values={"endpoint": str(id)},
            )
        parsed = self._parsed.get(id)
        if parsed is not None and parsed[0] is stored:
            return parsed[1]
        endpoint = Endpoint(
            id=id,
            tenant=stored.tenant,
            document=stored.document,
            revision=stored.revision,
            options=_options(self._option_models, stored.document, at="options"),
        )
        self._parsed[id] = (stored, endpoint)
        return endpoint

    async def door(self, endpoint: str) -> Door:
        """Return what identity/credentials.py must know of "scep/routers"; Fault(NOT_FOUND)."""
        try:
            found = await self.by_id(EndpointID.parse(endpoint))
        except ValueError as error:
            raise Fault(FaultCode.NOT_FOUND, str(error), rule="endpoint.absent") from None
        return Door(tenant=found.tenant, policy=found.document.secrets)


async def journal_refusal(
    journal: Journal, endpoint: Endpoint, fault: Fault, *, peer: str, **data: JSON
) -> None:
    """Write down a refusal at an endpoint, unless the core has written it down itself."""
    door = str(endpoint.id)
    await journal.refuse(
        fault,
        tenant=endpoint.tenant,
        actor=door,
        object=f"endpoint/{door}",
        data={"via": endpoint.id.protocol, "peer": peer, **data},
    )


def _options(option_models: OptionModels, document: EndpointDocument, *, at: str) -> BaseModel:
    if document.protocol not in option_models:
        raise documents.rejection(
            {
                "protocol": f"there is no protocol {document.protocol!r}"
                + documents.nearest(document.protocol, list(option_models))
            }
        )
    return documents.parse(option_models[document.protocol] or NoOptions, document.options, at=at)
