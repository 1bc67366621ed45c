"""The validator in force: each challenge in its time, ten at once, then CAA."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IListeningPort

from tmad.ca.validation import attestation, caa, dns01, http01, tls_alpn01
from tmad.ca.validation.contract import (
    ChallengeKind,
    Problem,
    Question,
    Validated,
    refusal,
)
from tmad.ca.validation.resolver import Resolver
from tmad.ca.validation.targets import Reach
from tmad.events import JSON, Clock, utc_now

TIMEOUT: Final = 10.0  # seconds for one challenge, and for CAA after it
POOL: Final = 10

# RFC 8555, 8.4 and RFC 8738, 4 to 7: which way suits which identifier.
_SUITS: Final = {
    ChallengeKind.HTTP_01: ("dns", "ip"),
    ChallengeKind.TLS_ALPN_01: ("dns", "ip"),
    ChallengeKind.DNS_01: ("dns",),
    ChallengeKind.DNS_ACCOUNT_01: ("dns",),
    ChallengeKind.DEVICE_ATTEST_01: ("permanent-identifier",),
}
_WILDCARD: Final = (ChallengeKind.DNS_01, ChallengeKind.DNS_ACCOUNT_01)


class Validators:
    """Answers questions, at most ten at once; more wait.

    The ports that the appliance listens on, and ``own_ports``, are never asked on this
    machine's addresses, whatever the rules say.
    """

    def __init__(self, reactor: Any, own_ports: Collection[int] = (), now: Clock = utc_now) -> None:
        self._reactor = reactor
        self._own_ports = frozenset(own_ports)
        self._now = now
        self._pool: Any = DeferredSemaphore(POOL)

    async def validate(self, question: Question) -> Validated:
        """Return how control was shown; contract.Validator says the rest."""
        check_suits(question)
        if question.kind is ChallengeKind.DEVICE_ATTEST_01:
            return attestation.validate(question, self._now())
        await self._pool.acquire()
        try:
            record = await self._run(question)
            await caa.check(question, self._resolver(question))
        finally:
            self._pool.release()
        return Validated(record={"challenge": question.kind.value, **record})

    async def check_caa(self, question: Question) -> None:
        """Refuse, as validate does, what CAA has forbidden since control was shown."""
        await self._pool.acquire()
        try:
            await caa.check(question, self._resolver(question))
        finally:
            self._pool.release()

    async def _run(self, question: Question) -> dict[str, JSON]:
        resolver = self._resolver(question)
        if question.kind in _WILDCARD:
            return await dns01.validate(question, resolver)
        reach = Reach(
            reactor=self._reactor,
            resolver=resolver,
            rules=question.rules,
            own_ports=lambda: self._own_ports | listening_ports(self._reactor),
            deadline=self._deadline(),
        )
        if question.kind is ChallengeKind.HTTP_01:
            return await http01.validate(question, reach)
        return await tls_alpn01.validate(question, reach)

    def _resolver(self, question: Question) -> Resolver:
        return Resolver(self._reactor, question.rules.resolvers, self._deadline())

    def _deadline(self) -> float:
        return float(self._reactor.seconds()) + TIMEOUT


def listening_ports(reactor: Any) -> frozenset[int]:
    """Return the ports that this process listens on; its fellow workers share them."""
    ports = (each.getHost() for each in reactor.getReaders() if IListeningPort.providedBy(each))
    return frozenset(each.port for each in ports if hasattr(each, "port"))


def check_suits(question: Question) -> None:
    """Refuse a way that cannot show control of such an identifier (T-ACME-10)."""
    kind, identifier = question.kind, question.identifier
    if identifier.type not in _SUITS[kind]:
        raise refusal(
            Problem.MALFORMED, f"{kind.value} does not show control of type {identifier.type}"
        )
    if question.is_wildcard and kind not in _WILDCARD:
        raise refusal(
            Problem.MALFORMED, f"{kind.value} does not show control of every name below one"
        )
