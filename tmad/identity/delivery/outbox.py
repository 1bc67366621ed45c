"""Sends messages behind the back of whoever waits, and journals what became of each.

A login never waits for a gateway (a VPN client gives up after three seconds). A message that
could not be sent is tried again while its code is good; what a crash cuts off is lost, and the
person asks for another code.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity.access import Records

log = Logger()

_PAUSES: Final = (2.0, 5.0, 15.0, 30.0, 60.0)  # seconds before the next try
_MOST: Final = 1_000  # messages on their way


class Delivery(Protocol):
    """One way to a person's telephone or mailbox."""

    async def send(self, to: str, text: Secret) -> str:
        """Hand a message over; return what the gateway calls it, or "".

        Fault(UNAVAILABLE) is worth another try, any other Fault is not.
        """

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What goes to whom; ``about`` is the id of the code, ``lifetime`` how long it is good."""

    tenant: str
    person: str
    kind: str  # "sms" | "mail"
    to: str
    text: Secret
    about: str
    lifetime: timedelta


class Outbox:
    """Everything that is on its way, bounded."""

    def __init__(
        self, reactor: IReactorTime, journal: Records, now: Clock, ways: Mapping[str, Delivery]
    ) -> None:
        self._reactor = reactor
        self._journal = journal
        self._now = now
        self._ways = dict(ways)
        self._under_way: set[Deferred[None]] = set()
        self._closed = False

    def has(self, kind: str) -> bool:
        """Tell whether there is a way for "sms" or "mail"."""
        return kind in self._ways

    def require(self, kind: str) -> None:
        """Raise Fault(UNAVAILABLE) when a message of this kind could not be taken now."""
        if kind not in self._ways:
            section = "delivery.mail" if kind == "mail" else "delivery"
            raise Fault(
                FaultCode.UNAVAILABLE,
                f"nothing sends {kind} here; the settings have no [{section}]",
                rule="otp.delivery.off",
                values={"kind": kind},
            )
        if self._closed or len(self._under_way) >= _MOST:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "too many messages are on their way",
                retry_after=30,
                rule="otp.delivery.queue",
                values={"kind": kind, "under_way": str(len(self._under_way))},
            )

    def post(self, message: Message) -> None:
        """Begin to send; return at once, whatever becomes of it."""
        task = ensureDeferred(self._deliver(message))
        self._under_way.add(task)
        task.addErrback(_note_failure)
        task.addBoth(lambda _: self._under_way.discard(task))

    async def send_now(self, kind: str, to: str, text: Secret) -> str:
        """Send one message and wait for it: for whoever tests the settings."""
        self.require(kind)
        return await self._ways[kind].send(to, text)

    async def close(self) -> None:
        """Give up what is on its way, let go of connections."""
        self._closed = True
        waiting = list(self._under_way)
        for task in waiting:
            task.cancel()
        await DeferredList(waiting)
        for way in self._ways.values():
            await way.close()

    async def _deliver(self, message: Message) -> None:
        deadline = self._now() + message.lifetime
        tries = 0
        while True:
            tries += 1
            try:
                reference = await self._send(message)
            except Fault as fault:
                pause = max(_PAUSES[min(tries, len(_PAUSES)) - 1], fault.retry_after or 0)
                late = self._now() + timedelta(seconds=pause) >= deadline
                if fault.code is not FaultCode.UNAVAILABLE or late:
                    await self._journal.write(_failed(message, tries, fault))
                    return
                await deferLater(self._reactor, pause)
            else:
                await self._journal.write(_delivered(message, tries, reference))
                return

    async def _send(self, message: Message) -> str:
        try:
            return await self._ways[message.kind].send(message.to, message.text)
        except Exception as error:
            if isinstance(error, Fault):
                raise
            # Not the exception's own words: they may cite the message.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "sending {kind} is broken: {error} in {file}, line {line}",
                kind=message.kind,
                error=type(error).__name__,
                file=place.filename,
                line=place.lineno,
            )
            raise Fault(
                FaultCode.INTERNAL,
                "a mistake of ours; the log shows it",
                private=type(error).__name__,
                rule="otp.delivery.broken",
            ) from None


def _note_failure(failure: Failure) -> None:
    # Nobody waits for the outcome: the journal could not take it, or the node is stopping.
    if not failure.check(CancelledError):  # type: ignore[no-untyped-call]  # Twisted's class
        log.failure("a message was lost", failure=failure)


def masked(to: str) -> str:
    """Return a number or an address as the journal shows it: enough to tell which it was."""
    name, at, domain = to.partition("@")
    if at:
        return f"{name[:1]}…@{domain}"
    return f"{to[:3]}…{to[-3:]}" if len(to) > 7 else "…"


def _delivered(message: Message, tries: int, reference: str) -> Event:
    return Event(
        kind="code.delivered",
        tenant=message.tenant,
        actor="system",
        object=message.about,
        data={
            "person": message.person,
            "kind": message.kind,
            "to": masked(message.to),
            "tries": tries,
            "reference": reference[:100],
        },
    )


def _failed(message: Message, tries: int, fault: Fault) -> Event:
    return Event(
        kind="code.delivery-failed",
        tenant=message.tenant,
        actor="system",
        object=message.about,
        data={
            "person": message.person,
            "kind": message.kind,
            "to": masked(message.to),
            "tries": tries,
            "rule": fault.rule,
            "why": (fault.private or fault.detail)[:300],
        },
    )
