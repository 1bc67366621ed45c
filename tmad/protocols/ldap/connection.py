"""A connection: messages cut out of a stream, operations side by side, and an end to all of it.

RFC 4511, 5. What a stranger may hold is bounded before anything is decoded: the length of a
message from its header, the time in which it has to be complete, operations, answers that
nobody reads.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import ber, codec
from tmad.protocols.ldap.codec import Abandon, Bind, Extended, Message, Result, Search, Unbind
from tmad.protocols.ldap.responder import Ended
from tmad.protocols.ldap.session import Session

if TYPE_CHECKING:
    from tmad.protocols.ldap.server import LDAPFactory

log = Logger()

_WORDS: Final = {result: result.name.lower().replace("_", "-") for result in Result}
_GOODBYE_SECONDS: Final = 2.0
_MOST_A_TURN: Final = 32  # messages of one connection, before others are looked at


class Operation:
    """One operation under way, and the way out for its answers."""

    __slots__ = ("_connection", "began", "deadline", "is_over", "message")

    def __init__(self, connection: LDAPConnection, message: Message) -> None:
        self._connection = connection
        self.message = message
        self.began = 0.0  # of one that has to wait; the others take no time worth a clock
        self.deadline = 0.0
        self.is_over = False

    def write(self, octets: bytes) -> None:
        """Send whole messages."""
        if not self.is_over:
            self._connection.send(octets)

    def finish(self, octets: bytes, result: Result) -> None:
        """Send the last ones."""
        if not self.is_over:
            self.is_over = True
            self._connection.send(octets)
            self._connection.count(self, result)

    async def turn(self) -> None:
        """Let others have a turn; return when the client has read enough."""
        await self._connection.turn()


@implementer(IPushProducer)
class LDAPConnection(Protocol):
    """One connection. After StartTLS another one, inside TLS, takes its place: whoever was
    bound before is nobody then, and nothing that came before the handshake gets in."""

    factory: LDAPFactory

    def __init__(self, factory: LDAPFactory, address: str, *, is_secure: bool) -> None:
        self.factory = factory
        self.session = Session(address, is_secure=is_secure, certificate=self._certificate)
        self._buffer = bytearray()
        self._running: dict[int, Operation] = {}
        self._barrier: Message | None = None  # a bind that waits for what runs, or runs itself
        self._inside: TLSMemoryBIOProtocol | None = None
        self._is_free = factory.rates.is_unlimited(address)
        self._is_closed = False
        self._is_held = False  # the transport is asked to read nothing
        self._is_resting = False  # it is the others' turn
        self._paused_at: float | None = None  # since when the client does not read
        self._waiters: list[Deferred[None]] = []
        self._goodbye: Any = None
        # When the message that is arriving must be there; the first one is always arriving.
        self._deadline: float | None = None

    # -- what Twisted calls -------------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        self.factory.open.add(self)
        self._deadline = self.factory.reactor.seconds() + self.factory.bounds.first_seconds
        self._transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        if self._inside is not None:
            self._inside.dataReceived(data)  # type: ignore[no-untyped-call]  # untyped
        elif self._buffer or self._is_blocked:
            self._buffer += data
            self._read_buffer()
        else:
            rest = self._read(data)
            if rest < len(data):
                self._buffer += data[rest:]
                self._expect_rest()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._is_closed = True
        self.factory.open.discard(self)
        self._buffer.clear()
        if self._goodbye is not None and self._goodbye.active():
            self._goodbye.cancel()
        for operation in self._running.values():
            operation.is_over = True
        self._wake()
        if self._inside is not None:
            self._inside.connectionLost(reason)  # type: ignore[no-untyped-call]  # untyped

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """The client does not read: make no more answers."""
        self._paused_at = self.factory.reactor.seconds()

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """It reads again."""
        self._paused_at = None
        self._wake()
        self._go_on()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """The connection is closing."""

    # -- cutting out messages -----------------------------------------------------------------

    @property
    def _is_blocked(self) -> bool:
        return (
            self._is_resting
            or self._barrier is not None
            or self._paused_at is not None
            or len(self._running) >= self.factory.bounds.operations
        )

    def _read_buffer(self) -> None:
        if not self._is_blocked and not self._is_closed:
            taken = self._read(self._buffer)
            del self._buffer[:taken]
        # What is not read waits in the kernel, and in the end at the client.
        self._hold(self._is_blocked and len(self._buffer) > self.factory.bounds.message_octets)
        self._expect_rest()

    def _expect_rest(self) -> None:
        """Begin to wait for the rest of a message; more octets do not buy more time."""
        if not self._buffer or self._is_blocked:
            self._deadline = None
        elif self._deadline is None:
            self._deadline = self.factory.reactor.seconds() + self.factory.bounds.message_seconds

    def _read(self, data: bytes | bytearray) -> int:
        """Take the whole messages that are there; return how many octets they had."""
        position, size, count = 0, len(data), 0
        while position < size and not self._is_closed and self._inside is None:
            if self._is_blocked:
                break
            try:
                length = codec.length_of(data, position)
                if length > self.factory.bounds.message_octets:
                    raise ber.malformed("the message is too long")
                if not length or position + length > size:
                    break
                message = codec.decode(bytes(data[position : position + length]))
            except Fault as fault:
                self._refuse(fault.detail)
                return size
            position += length
            self._deadline = None
            self._take(message)
            count += 1
            if count == _MOST_A_TURN and position < size:
                self._rest()
        return size if self._is_closed or self._inside is not None else position

    def _refuse(self, why: str) -> None:
        log.info("LDAP: {source} was cut off: {why}", source=self.session.source, why=why)
        self.factory.meters.other.count("malformed")
        self.disconnect(Result.PROTOCOL_ERROR, why)

    def _take(self, message: Message) -> None:
        operation = message.operation
        kind = type(operation)
        if kind is Search and self._is_free and not self._running:
            self._start(message)
        elif kind is Unbind:
            self._close()
        elif isinstance(operation, Abandon):
            self._abandon(operation)
        elif message.id in self._running:
            self._refuse("a message has the number of one that is not answered yet")
        elif not self._is_free and not self.session.owner and not self._admit(message):
            return
        elif kind is Bind:
            self._barrier = message
            self._pass_barrier()
        elif isinstance(operation, Extended) and operation.name == codec.START_TLS:
            self._start_tls(message)
        elif isinstance(operation, Extended) and operation.name == codec.CANCEL:
            self._cancel(message)
        else:
            self._start(message)

    def _admit(self, message: Message) -> bool:
        if self.factory.rates.admit(self.session.source):
            return True
        fault = Fault(
            FaultCode.RATE_LIMITED, "too many requests from your address", rule="ldap.rate"
        )
        operation = Operation(self, message)
        self.factory.responder.refuse(message, operation, fault)
        return False

    # -- operations ---------------------------------------------------------------------------

    def _start(self, message: Message) -> None:
        """Answer at once what waits for nothing; remember what does."""
        operation = Operation(self, message)
        coroutine = self.factory.responder.respond(self.session, message, operation)
        try:
            waiting = coroutine.send(None)
        except StopIteration:
            return
        except Ended as ended:
            self.disconnect(Result.STRONGER_AUTH_REQUIRED, str(ended))
            return
        request = message.operation
        operation.began = self.factory.reactor.seconds()
        if isinstance(request, Search):
            bounds = self.factory.bounds
            seconds = bounds.named_seconds if self.session.owner else bounds.anonymous_seconds
            if request.time_limit:
                seconds = min(seconds, request.time_limit)
            operation.deadline = operation.began + seconds
        self._running[message.id] = operation
        ensureDeferred(_continued(coroutine, waiting)).addBoth(self._finished, operation)

    def _finished(self, outcome: object, operation: Operation) -> None:
        self._running.pop(operation.message.id, None)
        if isinstance(outcome, Failure):
            if isinstance(outcome.value, Ended):
                self.disconnect(Result.STRONGER_AUTH_REQUIRED, str(outcome.value))
            else:
                log.failure("LDAP: an operation failed", outcome)
                self.disconnect(Result.OTHER, "internal error")
        if self._barrier is operation.message:
            self._barrier = None
        self._go_on()

    def _pass_barrier(self) -> None:
        """Run a bind once nothing else runs (RFC 4511, 4.2.1)."""
        message = self._barrier
        if message is None or self._running:
            return
        self._start(message)
        if message.id not in self._running:
            self._barrier = None

    def _go_on(self) -> None:
        """Look whether something can be read again."""
        if self._is_closed:
            return
        self._pass_barrier()
        if not self._is_blocked:
            self._hold(False)
            if self._buffer:
                # Not from within an answer: many messages would nest as deeply.
                self._rest()

    def _rest(self) -> None:
        """Let others have a turn before the next message is taken."""
        if not self._is_resting:
            self._is_resting = True
            self.factory.reactor.callLater(0, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        if not self._is_closed:
            self._read_buffer()

    def _hold(self, is_held: bool) -> None:
        if is_held != self._is_held:
            self._is_held = is_held
            if is_held:
                self._transport.pauseProducing()
            else:
                self._transport.resumeProducing()

    def _abandon(self, request: Abandon) -> None:
        found = self._running.get(request.message_id)
        # RFC 4511, 4.11: binds cannot be abandoned, and nobody hears of it.
        if found is not None and not isinstance(found.message.operation, Bind):
            found.is_over = True
            self.factory.meters.other.count("abandoned")

    def _cancel(self, message: Message) -> None:
        """Stop an operation and say so (RFC 3909)."""
        assert isinstance(message.operation, Extended)
        operation = Operation(self, message)
        try:
            wanted = codec.decode_cancel(message.operation.value)
        except Fault as fault:
            self.factory.responder.refuse(message, operation, fault)
            return
        found = self._running.get(wanted)
        result = Result.NO_SUCH_OPERATION
        if found is not None and not found.is_over:
            self.factory.responder.end(found.message, found, Result.CANCELED)
            result = Result.SUCCESS
        self.factory.responder.end(message, operation, result)

    def _start_tls(self, message: Message) -> None:
        operation = Operation(self, message)
        refuse = partial(self.factory.responder.refuse, message, operation)
        if self.session.is_secure:
            refuse(_refusal("TLS is on already", "ldap.tls"))
        elif self._running:
            refuse(_refusal("other operations have to be over before StartTLS", "ldap.tls"))
        elif not self.factory.tls.is_ready:
            refuse(Fault(FaultCode.UNAVAILABLE, "TLS has no certificate yet", rule="ldap.no-tls"))
        else:
            operation.finish(
                codec.message(message.id, codec.extended(Result.SUCCESS, name=codec.START_TLS)),
                Result.SUCCESS,
            )
            self._go_inside()

    def _go_inside(self) -> None:
        # L-24: what arrived behind the request came without TLS; whoever sent it, it is lost.
        self._buffer.clear()
        self._deadline = None
        self._transport.unregisterProducer()
        self.factory.open.discard(self)
        inner = LDAPConnection(self.factory, self.session.source, is_secure=True)
        wrapping = TLSMemoryBIOFactory(self.factory.tls, False, self.factory, self.factory.reactor)
        self._inside = TLSMemoryBIOProtocol(wrapping, inner)  # type: ignore[no-untyped-call]  # untyped
        self._inside.makeConnection(self._transport)  # type: ignore[no-untyped-call]  # untyped

    # -- writing ------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Send whole messages."""
        if not self._is_closed:
            self._transport.write(octets)

    def count(self, operation: Operation, result: Result) -> None:
        """Count an answer."""
        meters = self.factory.meters
        kind = type(operation.message.operation)
        meter = meters.search if kind is Search else meters.bind if kind is Bind else meters.other
        meter.count(_WORDS[result])
        if operation.began:
            meter.time(self.factory.reactor.seconds() - operation.began)

    async def turn(self) -> None:
        """Let others have a turn; return when the client has read enough."""
        await deferLater(self.factory.reactor, 0)
        while self._paused_at is not None and not self._is_closed:
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    # -- the end ------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        bounds = self.factory.bounds
        if self._deadline is not None and self._deadline <= now:
            self._refuse("a message was not complete in time")
        elif self._paused_at is not None and self._paused_at + bounds.write_seconds <= now:
            log.info("LDAP: {source} was cut off: it reads nothing", source=self.session.source)
            self._is_closed = True
            self._transport.abortConnection()
        else:
            for operation in [each for each in self._running.values() if each.deadline]:
                if operation.deadline <= now and not operation.is_over:
                    self.factory.responder.end(
                        operation.message, operation, Result.TIME_LIMIT, "it took too long"
                    )

    def disconnect(self, result: Result, why: str) -> None:
        """Say why, and hang up (RFC 4511, 4.4.1)."""
        self.send(codec.disconnection(result, why))
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.factory.open.discard(self)
        for operation in self._running.values():
            operation.is_over = True
        self._wake()
        # A producer that writes nothing more would keep the connection open.
        self._transport.unregisterProducer()
        self._transport.loseConnection()
        # Not every client says good-bye in its turn.
        self._goodbye = self.factory.reactor.callLater(
            _GOODBYE_SECONDS, self._transport.abortConnection
        )

    def _certificate(self) -> x509.Certificate | None:
        """Return what the client has shown in the handshake, if it can be read."""
        shown = self._transport.getPeerCertificate() if self.session.is_secure else None
        try:
            return None if shown is None else shown.to_cryptography()
        except ValueError:
            return None  # OpenSSL takes certificates that are none

    @property
    def _transport(self) -> Any:
        # A TCP transport or TLSMemoryBIOProtocol, whose types know too little.
        return self.transport


async def _continued(coroutine: Coroutine[Any, Any, None], waiting: Any) -> None:
    """Go on with a coroutine that was started by hand and waits for a Deferred."""
    while True:
        try:
            try:
                result = await waiting
            except Exception as error:
                waiting = coroutine.throw(error)
            else:
                waiting = coroutine.send(result)
        except StopIteration:
            return


def _refusal(detail: str, rule: str) -> Fault:
    return Fault(FaultCode.REJECTED, detail, rule=rule)
