"""CAA: whether a domain lets this authority issue for it (RFC 8659, RFC 8657)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tmad.ca.validation.contract import Problem, Question, refusal
from tmad.ca.validation.resolver import Resolver
from tmad.errors import Fault
from tmad.wire import dns

# What is understood, or says nothing about who may issue (RFC 8659, 4.4; contactemail and
# contactphone of the CA/Browser Forum; issuemail of RFC 9495).
_KNOWN: Final = frozenset(
    {"issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail"}
)
_LABEL: Final = r"[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PARAMETER: Final = re.compile(rf"({_LABEL})[ \t]*=[ \t]*([!-:<-~]*)")


@dataclass(frozen=True, slots=True)
class Property:
    """The value of an issue or issuewild property; an empty domain lets nobody issue."""

    domain: str
    parameters: dict[str, str] = field(default_factory=dict)


async def check(question: Question, resolver: Resolver) -> None:
    """Refuse a domain whose CAA records, or those above it, do not let this authority issue."""
    identities = question.rules.caa_identities
    # An address has no CAA (RFC 8738, 8.1 leaves it open; the tree of reverse names says no).
    if not identities or question.identifier.type != "dns":
        return
    domain = question.identifier.value
    labels = domain.split(".")
    for index in range(len(labels)):
        owner = ".".join(labels[index:])
        try:
            records = await resolver.caa(owner)
        except Fault as fault:
            # Who cannot be asked has not allowed it (RFC 8659, 3).
            raise _refused(domain, owner, f"it cannot be looked up: {fault.detail}") from None
        if records:
            _judge(question, owner, records)
            return


def _judge(question: Question, owner: str, records: Sequence[dns.CAA]) -> None:
    domain = question.identifier.value
    for each in records:
        if each.is_critical and each.tag not in _KNOWN:
            raise _refused(domain, owner, f"it has the critical property {each.tag[:40]}")
    issue = [each.value for each in records if each.tag == "issue"]
    wild = [each.value for each in records if each.tag == "issuewild"]
    relevant = wild if question.is_wildcard and wild else issue
    if not relevant:
        return
    if not any(_allows(parse(value), question) for value in relevant):
        raise _refused(domain, owner, "none of its records allows this authority and account")


def _allows(found: Property | None, question: Question) -> bool:
    if found is None or found.domain not in map(str.lower, question.rules.caa_identities):
        return False
    parameters = found.parameters
    if parameters.get("accounturi", question.account_url) != question.account_url:
        return False
    methods = parameters.get("validationmethods")
    return methods is None or question.kind.value in methods.split(",")


def parse(value: bytes) -> Property | None:
    """Read ``domain; name=value; …``; None for what is not built so (RFC 8659, 4.2)."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    first, *rest = (part.strip(" \t") for part in text.split(";"))
    if first and not _DOMAIN.fullmatch(first):
        return None
    parameters: dict[str, str] = {}
    for part in rest:
        if not part:
            continue
        found = _PARAMETER.fullmatch(part)
        # Two of one name would let anybody choose (RFC 8657, 3).
        if found is None or found[1].lower() in parameters:
            return None
        parameters[found[1].lower()] = found[2]
    return Property(first.lower(), parameters)


def _refused(domain: str, owner: str, why: str) -> Fault:
    return refusal(
        Problem.CAA,
        f"the CAA records of {owner} keep {domain} from being issued here: {why}",
        name=domain,
        owner=owner,
    )
