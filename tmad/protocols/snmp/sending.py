"""How a notification reaches its target: one datagram, or as many as an acknowledgement takes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol

from tmad.errors import Fault, FaultCode
from tmad.identity.snmp_access import SNMPAccess
from tmad.lifecycle.snmp_targets import (
    Notification,
    SNMPTargetDocument,
    Target,
    parse_address,
)
from tmad.protocols.snmp.codec import Kind
from tmad.protocols.snmp.notification import (
    InformSession,
    Outcome,
    acknowledges,
    community_message,
    trap_message,
)
from tmad.protocols.snmp.notify import Binding, bindings
from tmad.protocols.snmp.usm import LocalEngine, Salts

_MOST_STEPS: Final = 6  # found out, wrong about the time, said again: more lead nowhere


class Sender:
    """Sends as each target is configured; in a trap this node's engine speaks."""

    def __init__(self, access: SNMPAccess, reactor: Any) -> None:
        self._access = access
        self._reactor = reactor
        # Begun anywhere: several processes send in the name of one engine.
        self._salts = Salts(secrets.randbits(64))
        self._sessions: dict[str, tuple[object, InformSession]] = {}

    async def __call__(self, target: Target, told: Notification) -> None:
        """Send; Fault when the target does not acknowledge an inform, or refuses it."""
        document = target.document
        local = LocalEngine(await self._access.engine(), time.monotonic)
        found = bindings(told, local.time())
        request_id = secrets.randbits(31)
        if not document.inform:
            self._send(document, await self._trap(document, local, request_id, found))
        elif document.version == "2c":
            community = await self._community(document)
            message = community_message(community, Kind.INFORM, request_id, found)
            await self._exchange(
                document, lambda: message, lambda reply: _judged(reply, community, request_id)
            )
        else:
            session = await self._session(target)
            try:
                await self._exchange(
                    document,
                    lambda: session.datagram(request_id, found),
                    lambda reply: session.receive(reply, request_id),
                )
            except Fault:
                # The receiver may be another one by now.
                session.forget()
                raise

    async def _trap(
        self,
        document: SNMPTargetDocument,
        local: LocalEngine,
        request_id: int,
        found: list[Binding],
    ) -> bytes:
        if document.version == "2c":
            community = await self._community(document)
            return community_message(community, Kind.TRAP, request_id, found)
        user = await self._access.user(document.user)
        return trap_message(local, user, request_id, found, self._salts)

    async def _community(self, document: SNMPTargetDocument) -> bytes:
        return (await self._access.community(document.community)).community.reveal()

    async def _session(self, target: Target) -> InformSession:
        """Return the session with a target, a new one if its user or address is another one."""
        user = await self._access.user(target.document.user)
        about = (user, target.document.address)
        known = self._sessions.get(target.key)
        if known is not None and known[0] == about:
            return known[1]
        session = InformSession(user, self._salts, time.monotonic)
        self._sessions[target.key] = (about, session)
        return session

    def _send(self, document: SNMPTargetDocument, datagram: bytes) -> None:
        line = _Line(document.address, lambda reply: None)
        line.open(self._reactor)
        try:
            line.send(datagram)
        finally:
            line.close()

    async def _exchange(
        self,
        document: SNMPTargetDocument,
        make: Callable[[], bytes],
        judge: Callable[[bytes], Outcome],
    ) -> None:
        """Send what ``make`` returns until ``judge`` takes a reply for the acknowledgement."""
        waiting: list[Deferred[bool]] = []
        steps = 0

        def received(reply: bytes) -> None:
            nonlocal steps
            if waiting[0].called:
                return
            try:
                outcome = judge(reply)
                if outcome is Outcome.AGAIN and (steps := steps + 1) <= _MOST_STEPS:
                    line.send(make())
            except Fault as fault:
                waiting[0].errback(fault)
            else:
                if outcome is Outcome.ACKNOWLEDGED:
                    waiting[0].callback(True)

        line = _Line(document.address, received)
        line.open(self._reactor)
        try:
            for _ in range(document.retries + 1):
                waiting[:] = [Deferred()]
                line.send(make())
                timer = self._reactor.callLater(document.timeout, _give_up, waiting[0])
                try:
                    if await waiting[0]:
                        return
                finally:
                    if timer.active():
                        timer.cancel()
        finally:
            line.close()
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"{document.address} did not acknowledge within"
            f" {document.retries + 1} times {document.timeout:g} seconds",
            rule="snmp.target.silent",
            values={"address": document.address},
        )


def _judged(reply: bytes, community: bytes, request_id: int) -> Outcome:
    is_ours = acknowledges(reply, community, request_id)
    return Outcome.ACKNOWLEDGED if is_ours else Outcome.IGNORED


def _give_up(waiting: Deferred[bool]) -> None:
    if not waiting.called:
        waiting.callback(False)


class _Line(DatagramProtocol):
    """A socket of its own for each exchange, on which only the target is heard.

    It is not connected: Twisted closes a connected one as soon as the kernel hears that nobody
    listens there, and whoever is being restarted listens again in a moment.
    """

    noisy = False

    def __init__(self, address: str, received: Callable[[bytes], object]) -> None:
        self._target = parse_address(address)
        self._received = received
        self._port: Any = None

    def open(self, reactor: Any) -> None:
        """Open it."""
        self._port = reactor.listenUDP(0, self, interface="::" if ":" in self._target[0] else "")

    def send(self, datagram: bytes) -> None:
        """Send one datagram; Fault(UNAVAILABLE) where the machine has no way there."""
        try:
            self._port.write(datagram, self._target)
        except OSError as error:
            raise Fault(
                FaultCode.UNAVAILABLE,
                f"there is no way to {self._target[0]}: {error.strerror or error}",
                rule="snmp.target.silent",
                values={"address": self._target[0]},
            ) from error

    def close(self) -> None:
        """Close it."""
        port, self._port = self._port, None
        port.stopListening()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802  Twisted's name
        if self._port is not None and (addr[0].partition("%")[0], addr[1]) == self._target:
            self._received(datagram)
