"""A subagent: TMAD-MIB and its notifications through an SNMP agent that is there already.

RFC 2741. The master (net-snmp's snmpd, for one) has the users, the views and the socket; tmad
connects to it, registers its subtree, answers from the same snapshot as its own agent, and hands
over its notifications. A master that goes away is looked for until it is back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, ReconnectingClientFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad.errors import Fault, FaultCode
from tmad.protocols.snmp import agentx_codec as codec
from tmad.protocols.snmp.agentx_codec import HEADER, Error, Header, Kind, Question, Response
from tmad.protocols.snmp.mib import Snapshot
from tmad.protocols.snmp.values import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    OID,
    Value,
)

log = Logger()

_PING_SECONDS: Final = 30.0
_PATIENCE: Final = 15.0
_LONGEST_DELAY: Final = 60
# A master may ask for 65535 repetitions; what we give is within the rules (6.2.7).
_MOST_VARIABLES: Final = 512
_SHUTDOWN: Final = 5  # reasonShutdown
_ANSWERED = frozenset({Kind.GET, Kind.GETNEXT, Kind.GETBULK})
_SETTING = frozenset({Kind.TESTSET, Kind.COMMITSET, Kind.UNDOSET})

Binding = tuple[OID, Value]


# -- what is answered ----------------------------------------------------------------------------


def answer(snapshot: Snapshot, kind: int, question: Question) -> list[Binding]:
    """Return the variables that answer a Get, GetNext or GetBulk (RFC 2741, 7.2.3)."""
    if kind == Kind.GET:
        return [_get(snapshot, search.start) for search in question.ranges]
    if kind == Kind.GETNEXT:
        return [
            _next(snapshot, search.start, search.is_included, search.end)
            for search in question.ranges
        ]
    first = question.ranges[: question.non_repeaters]
    found = [_next(snapshot, search.start, search.is_included, search.end) for search in first]
    places = [
        (search.start, search.is_included, search.end)
        for search in question.ranges[question.non_repeaters :]
    ]
    for _ in range(question.repetitions):
        if not places or len(found) + len(places) > _MOST_VARIABLES:
            break
        row = [_next(snapshot, *place) for place in places]
        found += row
        places = [(oid, False, end) for (oid, _), (_, _, end) in zip(row, places, strict=True)]
        if all(value == END_OF_MIB_VIEW for _, value in row):
            break
    return found


def _get(snapshot: Snapshot, oid: OID) -> Binding:
    place = bisect_left(snapshot.keys, oid)
    if place < len(snapshot.keys) and snapshot.keys[place] == oid:
        return oid, snapshot.values[place]
    at = bisect_right(snapshot.objects, oid) - 1
    is_known = at >= 0 and oid[: len(snapshot.objects[at])] == snapshot.objects[at]
    return oid, NO_SUCH_INSTANCE if is_known else NO_SUCH_OBJECT


def _next(snapshot: Snapshot, start: OID, is_included: bool, end: OID) -> Binding:
    find = bisect_left if is_included else bisect_right
    place = find(snapshot.keys, start)
    if place < len(snapshot.keys) and (not end or snapshot.keys[place] < end):
        return snapshot.keys[place], snapshot.values[place]
    return start, END_OF_MIB_VIEW


# -- the conversation ----------------------------------------------------------------------------


class Session(Protocol):
    """One connection to a master."""

    def __init__(self, own: Subagent) -> None:
        self.is_open = False
        self._own = own
        self._session = 0
        self._packet = 0
        self._buffer = b""
        self._asked: dict[int, Deferred[Response]] = {}
        self._timers: set[Any] = set()
        self._ping: Any = None

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        own = self._own
        payload = codec.encode_open(int(_PATIENCE), own.identity, own.description.encode())
        self._ask(Kind.OPEN, payload).addCallbacks(self._opened, self._gone)

    def _opened(self, response: Response) -> None:
        if self._is_refused(response, "does not let us in"):
            return
        register = codec.encode_register(self._own.subtree)
        self._ask(Kind.REGISTER, register).addCallbacks(self._registered, self._gone)

    def _registered(self, response: Response) -> None:
        if self._is_refused(response, "does not let us register"):
            return
        self.is_open = True
        self._own.joined()
        log.info("joined the SNMP agent at {address}", address=self._own.address)
        self._plan_ping()

    def _is_refused(self, response: Response, what: str) -> bool:
        if response.error:
            log.warn(
                "the SNMP agent at {address} {what}: error {error} (RFC 2741, 6.2.16)",
                address=self._own.address,
                what=what,
                error=response.error,
            )
            self._drop()
        return bool(response.error)

    def notify(self, bindings: Sequence[Binding]) -> Deferred[Response]:
        """Hand over a notification: sysUpTime.0, snmpTrapOID.0, and what it tells."""
        return self._ask(Kind.NOTIFY, codec.encode_bindings(bindings))

    def leave(self) -> None:
        """Say good-bye and close."""
        if self.transport is not None:
            if self.is_open:
                self._send(Kind.CLOSE, codec.encode_close(_SHUTDOWN))
            self.transport.loseConnection()

    # -- in ----------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._buffer += data
        try:
            while len(self._buffer) >= HEADER:
                header = codec.decode_header(self._buffer)
                end = HEADER + header.length
                if len(self._buffer) < end:
                    return
                payload, self._buffer = self._buffer[HEADER:end], self._buffer[end:]
                self._received(header, payload)
        except Fault as fault:
            log.warn("the SNMP agent at {address} speaks no AgentX: {why}",
                     address=self._own.address, why=fault.detail)  # fmt: skip
            self._drop()

    def _received(self, header: Header, payload: bytes) -> None:
        if header.kind == Kind.RESPONSE:
            if header.packet in self._asked:
                response = codec.decode_response(header, payload)
                waiting = self._asked.pop(header.packet)
                if not self._session:
                    self._session = header.session
                waiting.callback(response)
        elif header.kind == Kind.CLOSE:
            self._drop()
        elif header.kind in _ANSWERED:
            question = codec.decode_question(header, payload)
            if question.has_context:
                self._respond(header, Error.UNSUPPORTED_CONTEXT, 1)
            else:
                found = answer(self._own.snapshot(), header.kind, question)
                self._respond(header, bindings=found)
        elif header.kind in _SETTING:
            # Nothing can be set, whatever it is.
            self._respond(header, Error.NOT_WRITABLE, 1)
        elif header.kind != Kind.CLEANUPSET:
            self._respond(header, Error.PARSE)

    # -- out ---------------------------------------------------------------------------------------

    def _respond(
        self, header: Header, error: int = 0, index: int = 0, bindings: Sequence[Binding] = ()
    ) -> None:
        payload = codec.encode_response(error, index, bindings)
        self._write(
            codec.encode(
                Kind.RESPONSE,
                payload,
                session=header.session,
                transaction=header.transaction,
                packet=header.packet,
            )
        )

    def _send(self, kind: Kind, payload: bytes) -> int:
        self._packet = self._packet % 0x7FFF_FFFF + 1
        self._write(codec.encode(kind, payload, session=self._session, packet=self._packet))
        return self._packet

    def _ask(self, kind: Kind, payload: bytes) -> Deferred[Response]:
        number = self._send(kind, payload)
        waiting: Deferred[Response] = Deferred()
        self._asked[number] = waiting
        timer = self._own.reactor.callLater(_PATIENCE, self._drop)
        self._timers.add(timer)

        def over(result: Any) -> Any:
            self._timers.discard(timer)
            if timer.active():
                timer.cancel()
            return result

        return waiting.addBoth(over)

    def _write(self, octets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(octets)

    def _plan_ping(self) -> None:
        self._ping = self._own.reactor.callLater(_PING_SECONDS, self._send_ping)

    def _send_ping(self) -> None:
        def heard(response: Response) -> None:
            # A master that was restarted behind the same address does not know us any more.
            if not self._is_refused(response, "has forgotten us"):
                self._plan_ping()

        self._ask(Kind.PING, b"").addCallbacks(heard, self._gone)

    def _gone(self, failure: Failure) -> None:
        """Nothing: connectionLost has been told."""

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.is_open:
            log.info("left the SNMP agent at {address}", address=self._own.address)
        self.is_open = False
        if self._ping is not None and self._ping.active():
            self._ping.cancel()
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            waiting.errback(_away())


class Subagent(ReconnectingClientFactory):
    """Stays connected to the master at ``address``: HOST:PORT, or the path of a socket."""

    noisy = False
    maxDelay = _LONGEST_DELAY  # noqa: N815  Twisted's name

    def __init__(
        self,
        reactor: Any,
        address: str,
        snapshot: Callable[[], Snapshot],
        *,
        subtree: OID,
        identity: OID,
        description: str,
    ) -> None:
        self.reactor = reactor
        self.clock = reactor
        self.address = address
        self.snapshot = snapshot
        self.subtree = subtree
        self.identity = identity
        self.description = description
        self._session: Session | None = None

    def start(self) -> None:
        """Begin to look for the master."""
        if self.address.startswith("/"):
            self.reactor.connectUNIX(self.address, self, timeout=_PATIENCE)
        else:
            host, _, port = self.address.rpartition(":")
            self.reactor.connectTCP(host.strip("[]"), int(port), self, timeout=_PATIENCE)

    def stop(self) -> None:
        """Leave the master for good."""
        self.stopTrying()  # type: ignore[no-untyped-call]  # untyped
        if self._session is not None:
            self._session.leave()

    def buildProtocol(self, addr: Any) -> Session:  # noqa: N802  Twisted's name
        self._session = Session(self)
        return self._session

    def joined(self) -> None:
        """Begin with short pauses again, should the master go away."""
        self.resetDelay()  # type: ignore[no-untyped-call]  # untyped

    async def notify(self, bindings: Sequence[Binding]) -> None:
        """Hand a notification to the master; Fault(UNAVAILABLE) while there is none."""
        if self._session is None or not self._session.is_open:
            raise _away()
        response = await self._session.notify(bindings)
        if response.error:
            raise Fault(
                FaultCode.UNAVAILABLE,
                f"the SNMP agent refuses a notification: error {response.error}",
                rule="snmp.agentx",
            )


def _away() -> Fault:
    return Fault(FaultCode.UNAVAILABLE, "there is no SNMP agent to join", rule="snmp.agentx")
