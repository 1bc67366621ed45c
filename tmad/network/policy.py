"""RADIUS policies: ordered rules that say who may join, and what the answer tells the switch.

The rules of all policies of a tenant are one list, by ``order``, then the policy's name, then
their place. The first rule that matches decides; when none does, the answer is no (R-60).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad import documents
from tmad.managed.catalogue import Kind, Reference
from tmad.network import attributes as radius
from tmad.network import templates
from tmad.network.visit import Visit

if TYPE_CHECKING:
    from sqlalchemy import Connection

KIND: Final = "radius-policy"

PORT_TYPES: Final = {"ethernet": 15, "wireless": 19, "virtual": 5}  # NAS-Port-Type
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NAME_KINDS: Final = ("dns", "ip", "email", "uri", "upn")
MAC: Final = "mac"  # the method of a device that shows nothing but its address

# Whose attributes each kind of client understands: MikroTik and some Aruba versions drop an
# answer that has another vendor's (aaa-protocols 13).
FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "cisco": frozenset({"cisco", "airespace", "cisco-asa"}),
    "aruba": frozenset({"aruba", "hp"}),
    "hp": frozenset({"hp", "aruba"}),
    "airespace": frozenset({"airespace", "cisco"}),
}

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


# -- matching ------------------------------------------------------------------------------------


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Question:
    """One login as the rules see it; all but the visit was shown by certificate or record."""

    visit: Visit
    method: str
    at: datetime
    authority: str = ""
    anchor: str = ""
    profile: str = ""
    person: str = ""
    groups: tuple[str, ...] = ()
    device: str = ""
    subject: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()  # kind, value


class Check(NamedTuple):
    """One condition of a rule."""

    name: str
    wanted: str
    holds: Callable[[Question], bool]
    got: Callable[[Question], str]


class Miss(NamedTuple):
    """A rule that did not match, and the conditions that did not hold."""

    rule: CompiledRule
    failed: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to be matched."""

    policy: str
    rule: Rule
    checks: tuple[Check, ...]
    attributes: tuple[Attribute, ...]

    @property
    def title(self) -> str:
        return f"{self.policy}/{self.rule.name}"

    @property
    def has_templates(self) -> bool:
        """Whether its attributes depend on who logs in."""
        return any(attribute.is_template for attribute in self.attributes)

    def matches(self, question: Question) -> bool:
        """Tell whether every condition holds."""
        return all(check.holds(question) for check in self.checks)

    def failed(self, question: Question) -> tuple[Check, ...]:
        """Return every condition that does not hold."""
        return tuple(check for check in self.checks if not check.holds(question))


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of an answer; ``vendor`` is "" for those of the RFCs."""

    name: str
    value: Value
    vendor: str
    vendor_id: int
    is_template: bool


def compile_rules(
    policies: Iterable[tuple[str, RadiusPolicyDocument]],
) -> tuple[CompiledRule, ...]:
    """Return the rules of all enabled policies in the order in which they are asked."""
    ordered = sorted(
        ((document.order, name, document) for name, document in policies if document.enabled),
        key=lambda item: item[:2],
    )
    return tuple(
        CompiledRule(name, rule, tuple(_checks(rule)), tuple(_attributes(rule.reply)))
        for _, name, document in ordered
        for rule in document.rules
    )


def misses(rules: Sequence[CompiledRule], question: Question) -> list[Miss]:
    """Return the rules that do not match with what failed, those that nearly did first."""
    found = [Miss(rule, failed) for rule in rules if (failed := rule.failed(question))]
    return sorted(found, key=lambda miss: len(miss.failed))


def fill(
    rule: CompiledRule, values: Mapping[str, str], client_vendor: str
) -> tuple[tuple[str, Value], ...]:
    """Return the attributes of an accepted login for one client.

    Raise Fault(FORBIDDEN) for a template that cannot be filled in, Fault(REJECTED) when what
    it became is no value of its attribute.
    """
    found: list[tuple[str, Value]] = []
    for attribute in rule.attributes:
        if attribute.vendor_id and not _speaks(client_vendor, attribute):
            continue
        value = attribute.value
        if attribute.is_template:
            value = templates.expand(str(value), values)
            radius.encode(attribute.name, value)
        found.append((attribute.name, value))
    return tuple(found)


def _speaks(client_vendor: str, attribute: Attribute) -> bool:
    client = client_vendor.lower()
    return (
        attribute.vendor == client
        or attribute.vendor in FAMILIES.get(client, ())
        or client == str(attribute.vendor_id)
    )


def _attributes(reply: Reply) -> Iterator[Attribute]:
    for name, value in reply.pairs():
        vendor_id = _vendor_of(name)
        vendor = radius.dictionary().vendors.get(vendor_id, "").lower()
        text = isinstance(value, str) and ("{" in value or "}" in value)
        yield Attribute(name, value, vendor, vendor_id, text)


def _vendor_of(name: str) -> int:
    if (numbered := re.fullmatch(r"Attr-26\.(\d+)\.\d+", name)) is not None:
        return int(numbered[1])
    found = radius.dictionary().by_name.get(name.partition(":")[0].lower())
    return 0 if found is None else found.vendor


def _mistake(name: str, value: Value) -> str | None:
    """Return what is wrong with an attribute or its template, or None."""
    if isinstance(value, str) and ("{" in value or "}" in value):
        if (mistake := templates.mistake(value)) is not None:
            return mistake
        # What a template becomes is checked when it is filled in; its kind is checked here.
        return radius.check(name, "x")
    return radius.check(name, value)


def _checks(rule: Rule) -> Iterator[Check]:
    when = rule.when
    yield from _of_visit(when)
    if rule.then == "accept" and not when.methods:
        yield Check("methods", "any but mac", lambda q: q.method != MAC, lambda q: q.method)
    yield from _of_certificate(when)
    if when.people:
        yield _any("people", when.people, lambda q: (q.person,) if q.person else ())
    if when.devices:
        yield _any("devices", when.devices, lambda q: (q.device,) if q.device else ())
    if when.groups:
        wanted = frozenset(group.casefold() for group in when.groups)
        yield Check(
            "groups",
            ", ".join(when.groups),
            lambda q: any(group.casefold() in wanted for group in q.groups),
            lambda q: ", ".join(q.groups),
        )
    if when.days or when.hours:
        yield _time(when)


def _of_visit(when: When) -> Iterator[Check]:
    if when.clients:
        yield _one("clients", when.clients, lambda q: q.visit.client)
    if when.tags:
        tags = frozenset(when.tags)
        yield Check(
            "tags",
            ", ".join(when.tags),
            lambda q: not tags.isdisjoint(q.visit.tags),
            lambda q: ", ".join(q.visit.tags),
        )
    if when.ssids:
        yield _one("ssids", when.ssids, lambda q: q.visit.ssid)
    if when.port_types:
        numbers = frozenset(PORT_TYPES.get(str(each), each) for each in when.port_types)
        yield Check(
            "port_types",
            ", ".join(map(str, when.port_types)),
            lambda q: q.visit.nas_port_type in numbers,
            lambda q: str(q.visit.nas_port_type),
        )
    if when.service_types:
        services = frozenset(when.service_types)
        yield Check(
            "service_types",
            ", ".join(map(str, when.service_types)),
            lambda q: q.visit.service_type in services,
            lambda q: str(q.visit.service_type),
        )
    if when.methods:
        yield Check(
            "methods",
            ", ".join(when.methods),
            lambda q: any(is_method(q.method, wanted) for wanted in when.methods),
            lambda q: q.method,
        )


def _of_certificate(when: When) -> Iterator[Check]:
    if when.authorities:
        yield _one("authorities", when.authorities, lambda q: q.authority)
    if when.anchors:
        yield _one("anchors", when.anchors, lambda q: q.anchor)
    if when.profiles:
        yield _one("profiles", when.profiles, lambda q: q.profile)
    for attribute, patterns in _by_attribute(when.subject).items():
        yield _subject(attribute, patterns)
    if when.names:
        yield _names(when.names)


def is_method(method: str, wanted: str) -> bool:
    """Tell whether a login by ``method`` is of the wanted kind: eap-ttls covers eap-ttls-pap."""
    return method == wanted or (wanted in ("eap-ttls", "peap") and method.startswith(f"{wanted}-"))


def _by_attribute(patterns: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        attribute, _, value = pattern.partition("=")
        found.setdefault(attribute.upper(), []).append(value)
    return found


def _one(name: str, wanted: Iterable[str], got: Callable[[Question], str]) -> Check:
    allowed = frozenset(wanted)
    return Check(name, ", ".join(wanted), lambda q: got(q) in allowed, got)


def _any(name: str, patterns: Iterable[str], got: Callable[[Question], Iterable[str]]) -> Check:
    matchers = [Pattern(text) for text in patterns]
    return Check(
        name,
        ", ".join(patterns),
        lambda q: any(matcher.matches(value) for value in got(q) for matcher in matchers),
        lambda q: ", ".join(got(q)),
    )


def _subject(attribute: str, patterns: Iterable[str]) -> Check:
    return _any(f"subject.{attribute}", patterns, lambda q: q.subject.get(attribute, ()))


def _names(patterns: Iterable[str]) -> Check:
    matchers = []
    for text in patterns:
        kind_, _, value = text.partition(":")
        matchers.append((kind_, Pattern(value, labels=kind_ == "dns")))
    return Check(
        "names",
        ", ".join(patterns),
        lambda q: any(
            kind_ == wanted and matcher.matches(value)
            for kind_, value in q.names
            for wanted, matcher in matchers
        ),
        lambda q: ", ".join(f"{kind_}:{value}" for kind_, value in q.names),
    )


class Pattern:
    """A text in which only ``*`` is special; with ``labels`` it does not span a dot.

    Only the rule's own text is ever a pattern: what it is compared with stays text (T-WEB-05).
    No regular expression, so that a long name with many near misses takes no longer.
    """

    def __init__(self, text: str, *, labels: bool = False) -> None:
        self._labels = labels
        texts = text.split(".") if labels else [text]
        self._parts = [each.casefold().split("*") for each in texts]

    def matches(self, value: str) -> bool:
        """Tell whether the whole value fits; case does not matter."""
        folded = value.casefold()
        values = folded.split(".") if self._labels else [folded]
        return len(values) == len(self._parts) and all(map(_fits, self._parts, values))


def _fits(parts: list[str], value: str) -> bool:
    first, *middle = parts
    if not middle:
        return value == first
    last = middle.pop()
    end = len(value) - len(last)
    if len(first) > end or not (value.startswith(first) and value.endswith(last)):
        return False
    at = len(first)
    for part in middle:
        # The leftmost place leaves the most for what follows.
        at = value.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _time(when: When) -> Check:
    zone = ZoneInfo(when.timezone)
    days = frozenset(DAYS.index(day) for day in when.days) or frozenset(range(7))
    spans = [_span(text) for text in when.hours] or [(time.min, None)]

    def holds(question: Question) -> bool:
        local = question.at.astimezone(zone)
        return local.weekday() in days and any(_within(local.time(), span) for span in spans)

    wanted = f"{' '.join(when.days)} {' '.join(when.hours)} {when.timezone}".strip()
    return Check("time", wanted, holds, lambda q: f"{q.at.astimezone(zone):%a %H:%M}")


def _span(text: str) -> tuple[time, time | None]:
    begin, _, end = text.partition("-")
    return time.fromisoformat(begin), None if end == "24:00" else time.fromisoformat(end)


def _within(now: time, span: tuple[time, time | None]) -> bool:
    begin, end = span
    if end is None:
        return now >= begin
    if begin <= end:
        return begin <= now < end
    # 22:00-06:00 goes over midnight; the day is the one on which it is asked.
    return now >= begin or now < end
