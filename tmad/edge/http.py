"""The HTTP doors: which path is whose, what a door admits, what its faults look like."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import count
from secrets import token_hex
from types import CoroutineType
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad import coroutines, observe
from tmad.config import LimitsSection
from tmad.edge.fastlane import Channel
from tmad.edge.http1 import Head, Refused
from tmad.edge.limits import Buckets, Connections, Exempt, source_of
from tmad.edge.peer import PeerSession
from tmad.errors import Fault, FaultCode
from tmad.plugin import HTTPHandler, Limits
from tmad.wire.http import Request, Response, TLSSession

log = Logger()

STATUS: Mapping[FaultCode, int] = {
    FaultCode.MALFORMED: 400,
    FaultCode.UNSUPPORTED: 400,
    FaultCode.BAD_ALGORITHM: 400,
    FaultCode.BAD_INTEGRITY: 400,
    FaultCode.BAD_TIME: 400,
    FaultCode.BAD_PROOF: 400,
    FaultCode.UNAUTHENTICATED: 401,
    FaultCode.FORBIDDEN: 403,
    FaultCode.REJECTED: 403,
    FaultCode.NOT_FOUND: 404,
    FaultCode.CONFLICT: 409,
    FaultCode.RATE_LIMITED: 429,
    FaultCode.UNAVAILABLE: 503,
    FaultCode.INTERNAL: 500,
}

# Verifies a client certificate (DER) against our issuers and its live status, or raises Fault.
Verifier = Callable[[bytes], Awaitable[None]]

_DEFAULT_LIMITS = Limits()
_INTERNAL = Response(status=500, body=b"internal error\n")


@dataclass(frozen=True, slots=True)
class Door:
    """One mounted prefix."""

    prefix: bytes
    handler: HTTPHandler
    plain: bool
    hot: bool
    limits: Limits
    judges: bool
    private: bool
    methods: tuple[str, ...]
    buckets: Buckets
    meter: observe.DoorMeter


class Doors:
    """The routing table: the longest prefix that ends at a path segment wins."""

    def __init__(
        self, metrics: observe.Metrics, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._seconds = seconds
        self._doors: dict[bytes, list[Door]] = {}
        self._root: Door | None = None
        self.unknown = metrics.door("http", "none")

    def mount(
        self,
        protocol: str,
        prefix: str,
        handler: HTTPHandler,
        *,
        plain: bool = False,
        hot: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
        judges: bool = False,
        private: bool = False,
        methods: tuple[str, ...] = ("GET", "HEAD", "POST"),
    ) -> None:
        """Add a door; Fault(CONFLICT) when its prefix is taken."""
        raw = prefix.rstrip("/").encode("ascii")
        door = Door(
            raw,
            handler,
            plain,
            hot,
            limits,
            judges,
            private,
            methods,
            Buckets(limits, self._seconds),
            self._metrics.door(protocol, prefix),
        )
        if not raw:
            taken, self._root = self._root is not None, door
        else:
            doors = self._doors.setdefault(_segment(raw), [])
            taken = any(other.prefix == raw for other in doors)
            doors.append(door)
            doors.sort(key=lambda other: -len(other.prefix))
        if taken:
            raise Fault(FaultCode.CONFLICT, f"the path {prefix} is mounted twice")

    def meter(self, protocol: str, door: str) -> observe.DoorMeter:
        """Return the counters of a door that is none of HTTP."""
        return self._metrics.door(protocol, door)

    def find(self, path: bytes) -> Door | None:
        """Return the door that a raw path belongs to."""
        for door in self._doors.get(_segment(path), ()):
            if path.startswith(door.prefix):
                end = len(door.prefix)
                if len(path) == end or path[end] == 0x2F:
                    return door
        return self._root


def _segment(path: bytes) -> bytes:
    end = path.find(b"/", 1)
    return path if end < 0 else path[:end]


class Site(Factory):
    """One listener: its connections, its limits, and the way from a head to an answer."""

    noisy = False

    def __init__(
        self,
        doors: Doors,
        limits: LimitsSection,
        reactor: Any,
        *,
        secure: bool = False,
        access: observe.AccessLog | None = None,
        access_hot: bool = False,
        verifier: Verifier | None = None,
        connections: Connections | None = None,
        maximum: int | None = None,
    ) -> None:
        self.doors = doors
        self.limits = limits
        self.reactor = reactor
        self.secure = secure
        self.access = access
        self.access_hot = access_hot
        self.verifier = verifier
        self.exempt = Exempt(limits.exempt)
        # Shared between the listeners of a process: the limit is the process's.
        self.connections = connections or Connections()
        self._ceiling = maximum or limits.connections
        self.maximum = min(self._ceiling, limits.connections)
        self.channels: set[Channel] = set()
        self.heads: dict[bytes, tuple[Head, Door | None]] = {}
        self.waiting: dict[Channel, None] = self.connections.waiting
        self.cut_off = 0
        self.running = 0
        self.seconds: Callable[[], float] = reactor.seconds
        self._date = b""
        self._date_end = 0.0
        self._marks = count(1)
        self._mark_prefix = token_hex(3)
        self._sweeping: Any = None
        self._is_stopping = False

    # -- Twisted's side ---------------------------------------------------------------------

    def startFactory(self) -> None:  # noqa: N802  Twisted's name
        self._sweep()

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        # Sweeping goes on until the last connection is gone.
        self._is_stopping = True

    def buildProtocol(self, addr: IAddress | None) -> Channel:  # noqa: N802  Twisted's name
        return Channel(self)

    def _sweep(self) -> None:
        now = self.seconds()
        for channel in [each for each in self.channels if each.deadline <= now]:
            channel.expire()
        if self.access is not None:
            self.access.flush()
        if not self._is_stopping or self.channels:
            self._sweeping = self.reactor.callLater(1.0, self._sweep)

    def reconfigure(self, limits: LimitsSection, *, access_hot: bool) -> None:
        """Take over new settings; open connections go on."""
        self.limits = limits
        self.exempt = Exempt(limits.exempt)
        self.maximum = min(self._ceiling, limits.connections)
        self.access_hot = access_hot

    def drain(self) -> None:
        """Close every connection as soon as its running request is answered."""
        for channel in list(self.channels):
            channel.drain()

    def abort(self) -> None:
        """Close every connection now."""
        for channel in list(self.channels):
            channel.deadline = 0.0
            channel.transport.abortConnection()  # type: ignore[union-attr]  # it is connected
        if self._sweeping is not None and self._sweeping.active():
            self._sweeping.cancel()

    # -- for the channel --------------------------------------------------------------------

    def later(self, function: Callable[[], None]) -> None:
        """Call in the reactor's next turn."""
        self.reactor.callLater(0, function)

    def opened(self, channel: Channel) -> bool:
        """Count a new connection; False when there are too many."""
        source = channel.source = source_of(channel.peer)
        connections = self.connections
        limit = self.limits.connections_per_source
        if connections.count(source) >= limit and not self.exempt.covers(source):
            self.cut_off += 1
            channel.source = ""
            return False
        if connections.total >= self.maximum and not self._make_room():
            channel.source = ""
            return False
        connections.opened(source)
        self.channels.add(channel)
        self.waiting[channel] = None
        return True

    def _make_room(self) -> bool:
        """Cut off whoever has been silent longest: silence must not keep others out."""
        for channel in self.waiting:
            self.cut_off += 1
            del self.waiting[channel]
            channel.transport.abortConnection()  # type: ignore[union-attr]  # it is connected
            return True
        return False

    def closed(self, channel: Channel) -> None:
        """Forget a connection."""
        self.waiting.pop(channel, None)
        self.channels.discard(channel)
        if channel.source:
            self.connections.closed(channel.source)

    def date(self) -> bytes:
        """Return the Date field, made once a second."""
        now = self.seconds()
        if now >= self._date_end:
            self._date = format_datetime(datetime.now(UTC), usegmt=True).encode()
            self._date_end = now + 0.5
        return self._date

    def door(self, head: Head) -> Door | None:
        """Return the door that a request knocks at, if this listener has it."""
        door = self.doors.find(head.path)
        return door if door is not None and (door.plain or self.secure) else None

    def answer(
        self, channel: Channel, head: Head, door: Door | None, body: bytes
    ) -> Response | Deferred[Response]:
        """Return the answer, or a Deferred that never fails."""
        if door is None:
            self.doors.unknown.count(404)
            response = Response(status=404, body=b"there is nothing here\n")
            self._note(channel, head, head.path, response, 0.0, "")
            return response
        begin = 0.0 if door.hot else time.perf_counter()
        refused = self._refusal_of(door, channel, head)
        if refused is not None:
            return self._done(refused, door, channel, head, begin, "")
        request = Request(
            # The channel leaves the body out of an answer to HEAD.
            method="GET" if head.method == "HEAD" else head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            body=body,
            peer=channel.peer,
            secure=self.secure,
            tail=head.path[len(door.prefix) :],
            is_head=head.method == "HEAD",
        )
        if door.hot and self.verifier is None:
            return self._answer_hot(door, request, channel, head)
        mark = f"{self._mark_prefix}-{next(self._marks):x}"
        return self._answer_in_context(door, request, channel, head, begin, mark)

    def _refusal_of(self, door: Door, channel: Channel, head: Head) -> Response | None:
        if head.method not in door.methods:
            allowed = (("Allow", ", ".join(door.methods)),)
            return Response(status=405, headers=allowed, body=b"method not allowed\n")
        if not self.exempt.covers(channel.source):
            wait = door.buckets.wait(channel.source, self.limits.rate_scale)
            if wait:
                return fault_response(
                    Fault(FaultCode.RATE_LIMITED, "too many requests", retry_after=wait)
                )
        return None

    def _answer_hot(
        self, door: Door, request: Request, channel: Channel, head: Head
    ) -> Response | Deferred[Response]:
        try:
            answer = door.handler(request)
        except Exception as error:
            answer = failure_response(error)
        if isinstance(answer, Response):
            return self._done(answer, door, channel, head, 0.0, "")
        coroutine = answer if type(answer) is CoroutineType else _awaited(answer)
        return self._begin(coroutine, door, channel, head, 0.0, "")

    def _answer_in_context(
        self, door: Door, request: Request, channel: Channel, head: Head, begin: float, mark: str
    ) -> Response | Deferred[Response]:
        token = observe.trace.set(mark)
        try:
            # A coroutine that waits keeps this context; ours goes back to what it was.
            return self._begin(
                self._handled(door, request, channel), door, channel, head, begin, mark
            )
        finally:
            observe.trace.reset(token)

    async def _handled(self, door: Door, request: Request, channel: Channel) -> Response:
        if door.judges:
            request.tls = tls_session(channel)
        elif self.verifier is not None:
            session = tls_session(channel)
            if session is not None and session.certificates:
                own = session.certificates[0]
                await self.verifier(own)
                request.client_certificate = own
        answer = door.handler(request)
        return answer if isinstance(answer, Response) else await answer

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Response],
        door: Door,
        channel: Channel,
        head: Head,
        begin: float,
        mark: str,
    ) -> Response | Deferred[Response]:
        """Answer without a Deferred as long as the handler waits for nothing."""
        try:
            waiting = coroutine.send(None)
        except StopIteration as end:
            answer = end.value
        except Exception as error:
            answer = failure_response(error, mark)
        else:
            rest = coroutines.rest(coroutine, waiting)
            return self._later(rest, door, channel, head, begin, mark)
        return self._done(answer, door, channel, head, begin, mark)

    def _later(
        self,
        coroutine: Coroutine[Any, Any, Response],
        door: Door,
        channel: Channel,
        head: Head,
        begin: float,
        mark: str,
    ) -> Response | Deferred[Response]:
        self.running += 1
        deferred = ensureDeferred(coroutine)
        outcome: list[Response] = []

        def arrived(result: Response | Failure) -> Response:
            self.running -= 1
            if isinstance(result, Failure):
                result = failure_response(result.value, mark)
            response = self._done(result, door, channel, head, begin, mark)
            outcome.append(response)
            return response

        deferred.addBoth(arrived)
        return outcome[0] if outcome else deferred

    def _done(
        self,
        response: Response,
        door: Door,
        channel: Channel,
        head: Head,
        begin: float,
        mark: str,
    ) -> Response:
        """Count and note one answer."""
        door.meter.count(response.status)
        seconds = 0.0
        if not door.hot:
            seconds = time.perf_counter() - begin
            door.meter.time(seconds)
        if not door.hot or self.access_hot:
            path = door.prefix if door.private else head.path
            self._note(channel, head, path, response, seconds, "hot" if door.hot else mark)
        return response

    def _note(
        self,
        channel: Channel,
        head: Head,
        path: bytes,
        response: Response,
        seconds: float,
        mark: str,
    ) -> None:
        if self.access is not None:
            self.access.add(
                channel.peer,
                head.method,
                path,
                response.status,
                len(response.body),
                seconds,
                mark,
            )

    def broken(self, head: Head) -> Response:
        """Return what is sent instead of an answer that HTTP cannot express."""
        log.error("a handler's answer cannot be sent", method=head.method)
        return _INTERNAL

    def refusal(self, channel: Channel, refused: Refused) -> Response:
        """Return the answer to a request that is not served."""
        self.doors.unknown.count(refused.status)
        if self.access is not None:
            self.access.add(channel.peer, "-", b"-", refused.status, 0, 0.0, refused.text)
        return Response(status=refused.status, body=f"{refused.text}\n".encode())


async def _awaited(answer: Awaitable[Response]) -> Response:
    return await answer


def failure_response(error: BaseException | None, mark: str = "") -> Response:
    """Return the answer when a handler failed; what was not foreseen is logged, not shown."""
    if isinstance(error, Fault):
        if error.private:
            log.info(
                "refused: {detail} ({private})",
                detail=error.detail,
                private=error.private,
                trace=mark,
            )
        return fault_response(error)
    failure = Failure(error)  # type: ignore[no-untyped-call]  # Twisted's is untyped
    log.failure("a handler failed", failure, trace=mark)
    return _INTERNAL


def fault_response(fault: Fault) -> Response:
    """Return a fault as plain text: its detail, and the id that explains it."""
    text = f"{fault.detail} [{fault.explain_id}]\n" if fault.explain_id else f"{fault.detail}\n"
    headers: tuple[tuple[str, str], ...] = ()
    if fault.retry_after is not None:
        headers = (("Retry-After", str(max(1, round(fault.retry_after + 0.49)))),)
    return Response(status=STATUS[fault.code], headers=headers, body=text.encode())


def tls_session(channel: Channel) -> TLSSession | None:
    """Return what the connection's TLS can tell, read once; None for a plain one."""
    if channel.tls is None:
        handle = getattr(channel.transport, "getHandle", lambda: None)()
        channel.tls = PeerSession(handle) if isinstance(handle, SSL.Connection) else None
    return channel.tls
