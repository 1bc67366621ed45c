"""What is known about one login, what speaks against it, and how that is put into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from tmad.errors import Fault, FaultCode
from tmad.events import JSON
from tmad.network import matching
from tmad.network.facts import Facts
from tmad.network.holder import Holder
from tmad.network.matching import CompiledRule, Question
from tmad.network.reasons import refusal
from tmad.network.visit import Visit
from tmad.storage.network import Standing

CertificateID: TypeAlias = tuple[int, bytes]  # issuer id, serial as the database stores it

_HOLD: Final = 6  # RFC 5280, 5.3.1: certificateHold
_KEY_COMPROMISE: Final = 1
_SHOWN: Final = 5  # rules of which a refusal says what did not fit
_SECOND: Final = timedelta(seconds=1)


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Origin:
    """Who issued a certificate, and what speaks against it; ``owner`` is our record's."""

    authority: str = ""
    anchor: str = ""
    profile: str = ""
    owner: str = ""
    certificate: CertificateID | None = None  # one of our inventory
    foreign: tuple[bytes, int] | None = None  # which CA of the anchor, and the serial number
    doubts: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    names_people: bool = True


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Case:
    """All that is known about one login before the rules are asked."""

    question: Question
    holder: Holder
    user_name: str
    facts: Facts | None = None
    standing: Standing | None = None  # of a certificate of ours
    is_remembered: bool = False  # as it was at the last login
    certificate: CertificateID | None = None
    foreign: tuple[bytes, int] | None = None
    doubts: tuple[Fault, ...] = ()
    ends: tuple[datetime, ...] = ()
    notes: tuple[str, ...] = ()

    def holds(self, standings: Mapping[tuple[str, bytes], Standing]) -> bool:
        """Tell whether the certificate is still what it was when this was found out."""
        facts = self.facts
        return facts is None or self.standing == standings.get(
            (self.question.visit.tenant, facts.sha256)
        )


def of_status(standing: Standing, facts: Facts) -> Iterator[Fault]:
    """Yield what the certificate's own row says against it."""
    if standing.revoked_at is None:
        return
    values = {"serial": standing.serial.hex(), "since": standing.revoked_at.isoformat()}
    if standing.reason == _HOLD:
        yield refusal("network.held", "the certificate is on hold", **values)
    elif standing.reason == _KEY_COMPROMISE:
        yield compromised_key(facts)
    else:
        values["reason"] = str(standing.reason or 0)
        yield refusal("network.revoked", "the certificate is revoked", **values)


def compromised_key(facts: Facts) -> Fault:
    return refusal(
        "network.compromised-key",
        "the certificate's key is in wrong hands",
        serial=facts.serial.hex(),
        spki_sha256=facts.spki_sha256.hex(),
    )


def of_time(facts: Facts, at: datetime) -> Iterator[Fault]:
    if at < facts.not_before:
        yield refusal(
            "network.not-yet-valid",
            "the certificate is not valid yet",
            now=at.isoformat(),
            not_before=facts.not_before.isoformat(),
        )
    # A session lasts a second at least.
    if at + _SECOND > facts.not_after:
        yield refusal(
            "network.expired",
            "the certificate has expired",
            now=at.isoformat(),
            not_after=facts.not_after.isoformat(),
        )


def of_purpose(facts: Facts) -> Iterator[Fault]:
    if facts.purpose != "client" or not facts.signs:
        usage = "" if facts.signs else ", and its key may not sign"
        words = {"any": "any purpose, or none named", "": "other purposes"}
        yield refusal(
            "network.purpose",
            f"the certificate is not for client authentication{usage}",
            purpose=words.get(facts.purpose, "client authentication"),
            digital_signature=str(facts.signs).lower(),
        )


def unanswered(doubts: Sequence[Fault], rule: CompiledRule | None) -> Iterator[Fault]:
    """Yield the doubts that the chosen rule does not answer."""
    for doubt in doubts:
        if rule is None or not _answers(rule, doubt):
            yield doubt


def _answers(rule: CompiledRule, doubt: Fault) -> bool:
    if doubt.rule == "network.unlisted":
        return rule.rule.unlisted
    return (
        doubt.rule == "network.purpose"
        and rule.rule.any_purpose
        and doubt.values["digital_signature"] == "true"
        and doubt.values["purpose"].startswith("any")
    )


def no_rule(rules: Sequence[CompiledRule], question: Question) -> Fault:
    """Return the refusal of a login that no rule accepts, naming what nearly did."""
    missed = matching.misses([rule for rule in rules if rule.rule.then == "accept"], question)
    values = {
        miss.rule.title: "; ".join(
            f"{check.name}: wants {check.wanted}, got {check.got(question) or 'none'}"
            for check in miss.failed
        )
        for miss in missed[:_SHOWN]
    }
    if not missed:
        return _forbidden("network.policy", "no policy accepts anybody here", values)
    # Named after what was missing where only that was missing.
    single = {miss.failed[0].name for miss in missed if len(miss.failed) == 1}
    if single == {"profiles"}:
        return _forbidden("network.profile", "no rule accepts this certificate's profile", values)
    if single == {"time"}:
        return _forbidden("network.time", "no rule accepts it at this time", values)
    return _forbidden("network.policy", "no rule accepts this login", values)


def _forbidden(rule: str, detail: str, values: dict[str, str]) -> Fault:
    return Fault(FaultCode.FORBIDDEN, detail, rule=rule, values=values)


def session_timeout(case: Case, wanted: int) -> int | None:
    """Return Session-Timeout: the rule's, never beyond the end of certificate and account."""
    at = case.question.at
    shortest = wanted or None
    for end in case.ends:
        # What has ended already and still passes is let in by a rule that only monitors.
        if end > at:
            # Below one second there is no session to speak of; 0 would mean that it never ends.
            seconds = max(1, (end - at) // _SECOND)
            shortest = seconds if shortest is None else min(shortest, seconds)
    return shortest


def template_values(case: Case) -> dict[str, str]:
    """Return what templates are filled with: certificate and person, nothing else (R-61)."""
    question, held = case.question, case.holder
    values = {
        "user": case.user_name,
        "person": question.person,
        "device": question.device,
        "authority": question.authority,
        "profile": question.profile,
    }
    if held.person is not None and question.person:
        values["person.mail"] = held.person.mail
    if case.facts is not None:
        values["serial"] = case.facts.serial.hex()
        values |= {f"subject.{name}": texts[0] for name, texts in question.subject.items()}
        for kind, value in reversed(question.names):
            values[f"san.{kind}"] = value
    return values


def trail(rules: Sequence[CompiledRule], case: Case | None) -> tuple[tuple[str, str], ...]:
    """Say of each rule, up to the one that decided, why it does not match or that it does."""
    if case is None:
        return ()
    trail: list[tuple[str, str]] = []
    for rule in rules:
        failed = rule.failed(case.question)
        if failed:
            trail.append(
                (
                    rule.title,
                    "; ".join(
                        f"{check.name}: wants {check.wanted},"
                        f" got {check.got(case.question) or 'none'}"
                        for check in failed
                    ),
                )
            )
        elif rule.rule.then == "reject" and rule.rule.monitor:
            trail.append((rule.title, "matches, would reject, and only monitors"))
        else:
            trail.append((rule.title, f"matches: {rule.rule.then}"))
            break
    return tuple(trail)


def visit_data(visit: Visit, method: str) -> dict[str, JSON]:
    return {
        "method": method,
        "client": visit.client,
        "address": visit.address,
        "nas_identifier": visit.nas_identifier,
        "nas_port": visit.nas_port,
        "nas_port_type": visit.nas_port_type,
        "ssid": visit.ssid,
        "called_station": visit.called_station,
        "calling_station": visit.calling_station,
        "session_key": visit.session_key,
    }
