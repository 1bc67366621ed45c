"""RADIUS policies: ordered rules that say who may join, and what the answer tells the switch.

The rules of all policies of a tenant are one list, by ``order``, then the policy's name, then
their place. The first rule that matches decides; when none does, the answer is no (R-60).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad import documents
from tmad.managed.catalogue import Kind, Reference
from tmad.network import attributes as radius
from tmad.network import templates

if TYPE_CHECKING:
    from sqlalchemy import Connection

KIND: Final = "radius-policy"

PORT_TYPES: Final = {"ethernet": 15, "wireless": 19, "virtual": 5}  # NAS-Port-Type
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NAME_KINDS: Final = ("dns", "ip", "email", "uri", "upn")
MAC: Final = "mac"  # the method of a device that shows nothing but its address


_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")
_MOST_OCTETS: Final = 3000  # of all attributes of a rule; the packet ends at 4096
_MOST_RULES: Final = 500

Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
AuthorityName: TypeAlias = Annotated[
    str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,62}/)?[a-z0-9][a-z0-9-]{0,62}$")
]
Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=253)]
Value: TypeAlias = str | int


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """What a login must be like; what is left empty does not matter.

    Of one list, one entry is enough. In ``subject``, ``names``, ``people`` and ``devices`` a
    ``*`` stands for any text, in a DNS name for one label, and case does not matter.
    """

    clients: tuple[Name, ...] = Field(default=(), description="RADIUS clients, by name.")
    tags: tuple[Text, ...] = Field(default=(), description="Tags of RADIUS clients.")
    ssids: tuple[Text, ...] = Field(default=(), description="Wireless networks, exactly.")
    port_types: tuple[Literal["ethernet", "wireless", "virtual"] | int, ...] = Field(
        default=(), description="NAS-Port-Type, by word or number."
    )
    service_types: tuple[int, ...] = Field(
        default=(), description="Service-Type that was asked for; 6 and 7: to administer the NAS."
    )
    methods: tuple[Text, ...] = Field(
        default=(),
        description="eap-tls, eap-ttls, peap, pap …; mac only where it is named, and alone.",
    )
    authorities: tuple[AuthorityName, ...] = Field(
        default=(), description="Who issued the certificate; TENANT/NAME for another tenant's."
    )
    anchors: tuple[Name, ...] = Field(
        default=(), description="Trust anchors of certificates from elsewhere."
    )
    profiles: tuple[Name, ...] = Field(
        default=(), description="Profiles under which the certificate was issued."
    )
    groups: tuple[Text, ...] = Field(default=(), description="Groups that the person is in.")
    people: tuple[Text, ...] = Field(default=(), description='Names of people; "*": anybody known.')
    devices: tuple[Text, ...] = Field(
        default=(), description='Names of devices; "*": any known one.'
    )
    subject: tuple[Text, ...] = Field(
        default=(), description='Such as "OU=Sales", "O=Example *"; every attribute named must fit.'
    )
    names: tuple[Text, ...] = Field(
        default=(), description='Alternative names: "dns:*.example.test", "upn:*@example.test".'
    )
    hours: tuple[Text, ...] = Field(default=(), description='Such as "08:00-18:00".')
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    timezone: str = Field(default="UTC", description="Of hours and days: Europe/Vienna.")

    @field_validator("subject")
    @classmethod
    def _subject_is_known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            attribute, equals, value = pattern.partition("=")
            if not equals or not value or attribute.upper() not in templates.SUBJECT:
                known = ", ".join(templates.SUBJECT)
                raise ValueError(f"{pattern!r} is not ATTRIBUTE=PATTERN with one of {known}")
        return patterns

    @field_validator("names")
    @classmethod
    def _names_are_known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            kind, _, value = pattern.partition(":")
            if kind not in NAME_KINDS or not value:
                known = ", ".join(NAME_KINDS)
                raise ValueError(f"{pattern!r} is not KIND:PATTERN with one of {known}")
        return patterns

    @field_validator("hours")
    @classmethod
    def _hours_are_times(cls, spans: tuple[str, ...]) -> tuple[str, ...]:
        for span in spans:
            if not _HOURS.fullmatch(span):
                raise ValueError(f"{span!r} is not HH:MM-HH:MM, from 00:00 to 24:00")
        return spans

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            # KeyError is ZoneInfoNotFoundError; OSError a directory of the zone database.
            raise ValueError(f"there is no time zone {name!r}; one is Europe/Vienna") from None
        return name


class Reply(_Part):
    """What an accepted login gets. Texts may hold templates: "vlan-{subject.OU}"."""

    vlan: Value | None = Field(default=None, description="Number or name of the VLAN (RFC 3580).")
    acl: str = Field(default="", description="Filter-Id: the name of an access list or role.")
    session_timeout: int = Field(
        default=86_400,
        ge=0,
        le=2_592_000,
        description="Seconds until the client must log in again; 0: when the certificate ends. "
        "Never beyond the end of the certificate or the account.",
    )
    reauthenticate: bool = Field(
        default=True,
        description="At the end of the session let 802.1X ports log in again without a break.",
    )
    idle_timeout: int | None = Field(default=None, ge=60, le=2_592_000, description="Seconds.")
    acct_interim: int | None = Field(
        default=None, ge=60, le=86_400, description="Seconds between accounting updates."
    )
    attributes: dict[str, Value | tuple[Value, ...]] = Field(
        default_factory=dict,
        description="Further attributes by name; a vendor's go to that vendor's clients only.",
    )

    @model_validator(mode="after")
    def _attributes_fit(self) -> Reply:
        octets = 0
        for name, value in self.pairs():
            if (mistake := _mistake(name, value)) is not None:
                raise ValueError(f"{name}: {mistake}")
            octets += len(str(value).encode()) + 8
        if octets > _MOST_OCTETS:
            raise ValueError(f"the attributes take more than {_MOST_OCTETS} octets")
        return self

    def pairs(self) -> Iterator[tuple[str, Value]]:
        """Yield every attribute by its name in the dictionary, templates as they are."""
        if self.vlan is not None:
            # RFC 3580, 3.31: three attributes, here untagged.
            yield "Tunnel-Type", 13
            yield "Tunnel-Medium-Type", 6
            yield "Tunnel-Private-Group-Id", str(self.vlan)
        if self.acl:
            yield "Filter-Id", self.acl
        if self.idle_timeout is not None:
            yield "Idle-Timeout", self.idle_timeout
        if self.acct_interim is not None:
            yield "Acct-Interim-Interval", self.acct_interim
        for name, values in self.attributes.items():
            for value in values if isinstance(values, tuple) else (values,):
                yield name, value


class Rule(_Part):
    """One rule of a policy."""

    name: Name
    when: When = When()
    then: Literal["accept", "reject"] = "accept"
    reply: Reply = Reply()
    any_purpose: bool = Field(
        default=False,
        description="Accept certificates that allow any purpose, or name none; by default they "
        "must be for client authentication.",
    )
    simultaneous: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Devices that one person may have on the network at the same time.",
    )
    monitor: bool = Field(
        default=False,
        description="Only write down what would be refused. A rule that rejects is then noted and "
        "passed over; one that accepts lets in held, revoked or expired certificates, disabled "
        "owners and blocked devices, and notes each.",
    )
    unlisted: bool = Field(
        default=False,
        description="With the method mac: let addresses in, too, that no device has. Their VLAN "
        "should lead nowhere but to where they can be enrolled.",
    )

    @model_validator(mode="after")
    def _addresses_get_little(self) -> Rule:
        # an address is what everybody can read and give himself.
        if MAC not in self.when.methods:
            if self.unlisted:
                raise ValueError('unlisted is for rules with methods = ["mac"]')
            return self
        if self.then == "reject":
            return self
        if self.when.methods != (MAC,):
            raise ValueError("a rule that accepts mac accepts no other method: write two")
        if self.reply.vlan is None:
            raise ValueError("a rule that accepts mac names the VLAN of such devices")
        if self.monitor:
            raise ValueError("a rule that accepts mac cannot only monitor")
        return self


class RadiusPolicyDocument(_Part):
    """What an administrator says about who may join the network."""

    description: str = Field(default="", max_length=500)
    enabled: bool = True
    order: int = Field(
        default=100, ge=0, le=10_000, description="Policies with lower numbers come first."
    )
    rules: tuple[Rule, ...] = Field(default=(), max_length=_MOST_RULES)

    @model_validator(mode="after")
    def _rules_have_their_own_names(self) -> RadiusPolicyDocument:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rules are named {twice[0]}")
        return self


def kind() -> Kind:
    """Return the managed kind "radius-policy"."""

    def references(document: RadiusPolicyDocument) -> Iterable[Reference]:
        for rule in document.rules:
            yield from (("radius-client", name) for name in rule.when.clients)
            yield from (("trust-anchor", name) for name in rule.when.anchors)
            yield from (("profile", name) for name in rule.when.profiles)
            yield from (("authority", name) for name in rule.when.authorities if "/" not in name)

    def check(
        connection: Connection, tenant: str, name: str, document: RadiusPolicyDocument
    ) -> None:
        for rule in document.rules:
            if rule.then == "reject" and rule.reply != Reply():
                # Access-Reject carries no VLAN and no other authorisation.
                raise documents.rejection(
                    {f"{KIND}.{name}.rules.{rule.name}.reply": "a rule that rejects has no reply"}
                )

    return Kind(name=KIND, model=RadiusPolicyDocument, references=references, check=check)


def _mistake(name: str, value: Value) -> str | None:
    """Return what is wrong with an attribute or its template, or None."""
    if isinstance(value, str) and ("{" in value or "}" in value):
        if (mistake := templates.mistake(value)) is not None:
            return mistake
        # What a template becomes is checked when it is filled in; its kind is checked here.
        return radius.check(name, "x")
    return radius.check(name, value)
