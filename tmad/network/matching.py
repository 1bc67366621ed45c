"""The rules of policies as logins are matched against them, and what an accepted login gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tmad.network import attributes as radius
from tmad.network import templates
from tmad.network.policy import (
    DAYS,
    MAC,
    PORT_TYPES,
    RadiusPolicyDocument,
    Reply,
    Rule,
    Value,
    When,
)
from tmad.network.visit import Visit

# Whose attributes each kind of client understands: MikroTik and some Aruba versions drop an
# answer that has another vendor's (aaa-protocols 13).
FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "cisco": frozenset({"cisco", "airespace", "cisco-asa"}),
    "aruba": frozenset({"aruba", "hp"}),
    "hp": frozenset({"hp", "aruba"}),
    "airespace": frozenset({"airespace", "cisco"}),
}


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
