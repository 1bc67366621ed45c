"""An SMS centre that speaks SMPP 3.4, asked when there is something to send.

One connection a process, bound when the first message comes, kept alive by enquire_link, and
unbound when nothing was sent for a while: centres count how often an account is bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import (
    Deferred,
    DeferredSemaphore,
    TimeoutError,  # noqa: A004
    ensureDeferred,
)
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad.config import SMPPGateway
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.delivery import gsm7
from tmad.identity.delivery import smpp_codec as codec
from tmad.identity.delivery.smpp_codec import Bare, Deliver, Response, Unknown
from tmad.identity.httpclient import FAILURES, trust_root
from tmad.signer.seal import read_private

log = Logger()

_DEFAULT_ALPHABET: Final = 0  # data_coding, SMPP 3.4, 5.2.19
_UCS2: Final = 8
# Statuses after which the same message may be taken later (5.1.3): system error, message queue
# full, submit failed, throttled, temporary application error.
_LATER: Final = {0x08: 5.0, 0x14: 10.0, 0x45: 5.0, 0x58: 5.0, 0x64: 10.0}
_FIRST_PAUSE: Final = 1.0  # seconds before the centre is asked again
_LONGEST_PAUSE: Final = 60.0
_GOODBYE: Final = 2.0

Connect = Callable[[Factory], Deferred[Any]]


class SMPPDelivery:
    """Sends by submit_sm."""

    def __init__(
        self,
        settings: SMPPGateway,
        reactor: IReactorTime,
        *,
        validity: int,
        connect: Connect | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._validity = validity
        self._connect = connect or self._open
        self._window = DeferredSemaphore(settings.window)
        self._session: _Session | None = None
        self._waiting: list[Deferred[_Session]] = []
        self._connecting = False
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    async def send(self, to: str, text: Secret) -> str:
        """Hand a message over; return the centre's message id. See Delivery."""
        coding, message = encoded(text.reveal().decode(), self._settings.alphabet)
        await self._window.acquire()
        try:
            session = await self._bound()
            return await session.submit(to.removeprefix("+"), coding, message, self._validity)
        finally:
            self._window.release()

    async def close(self) -> None:
        """Unbind."""
        if self._session is not None:
            await self._session.unbind()

    async def _bound(self) -> _Session:
        if self._session is not None and self._session.is_bound:
            return self._session
        wait = self._not_before - self._reactor.seconds()
        if wait > 0 and not self._connecting:
            raise _away("it could not be reached a moment ago", retry_after=wait)
        waiting: Deferred[_Session] = Deferred()
        self._waiting.append(waiting)
        if not self._connecting:
            self._connecting = True
            ensureDeferred(self._bind()).addErrback(_note)
        return await waiting

    async def _bind(self) -> None:
        """Connect and bind, once for everybody who waits."""
        outcome: _Session | Fault
        try:
            session = _Session(self._settings, self._reactor)
            factory: Any = Factory()
            factory.buildProtocol = lambda _: session
            factory.noisy = False
            await self._connect(factory).addTimeout(self._settings.timeout_seconds, self._reactor)
            await session.bind()
            outcome = self._session = session
            self._pause = _FIRST_PAUSE
        except Fault as fault:
            outcome = fault
        except FAILURES as error:
            outcome = _away(f"{type(error).__name__}: {error}")
        if isinstance(outcome, Fault):
            self._not_before = self._reactor.seconds() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._connecting = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if isinstance(outcome, Fault):
                each.errback(outcome)
            else:
                each.callback(outcome)

    def _open(self, factory: Factory) -> Deferred[Any]:
        settings = self._settings
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, settings.host, settings.port, timeout=settings.timeout_seconds
        )
        if settings.tls:
            options = optionsForClientTLS(settings.host, trust_root(settings.ca_file))
            endpoint = wrapClientTLS(options, endpoint)
        opened: Deferred[Any] = endpoint.connect(factory)
        return opened


class _Session(Protocol):
    """One connection to the centre."""

    def __init__(self, settings: SMPPGateway, reactor: IReactorTime) -> None:
        self._settings = settings
        self._reactor = reactor
        self._stream = codec.Stream()
        self._sequence = 0
        self._pending: dict[int, Deferred[Bare | Response]] = {}
        self._timer: IDelayedCall | None = None
        self._used_at = 0.0
        self._lost: Deferred[None] = Deferred()
        self.is_bound = False

    async def bind(self) -> None:
        """Bind; Fault(UNAVAILABLE) or, for a wrong password, Fault(REJECTED)."""
        settings = self._settings
        password = b""
        if settings.password_file is not None:
            password = read_private(settings.password_file).strip()
        command = codec.BIND_TRANSCEIVER
        if settings.bind == "transmitter":
            command = codec.BIND_TRANSMITTER
        number = self._next()
        pdu = codec.bind(command, number, settings.system_id, password, settings.system_type)
        answer = await self._ask(command, number, pdu)
        if answer.status != codec.OK:
            self._hang_up()
            raise _refused("bind", answer.status)
        self.is_bound = True
        self._used_at = self._reactor.seconds()
        self._keep_alive()

    async def submit(self, to: str, coding: int, message: bytes, validity: int) -> str:
        """Send one message; return its id at the centre."""
        self._used_at = self._reactor.seconds()
        number = self._next()
        answer = await self._ask(
            codec.SUBMIT_SM,
            number,
            codec.submit(
                number,
                source=self._settings.source,
                destination=to,
                data_coding=coding,
                message=message,
                validity=validity,
            ),
        )
        if answer.status != codec.OK:
            raise _refused("message", answer.status)
        return answer.text if isinstance(answer, Response) else ""

    async def unbind(self) -> None:
        """Say good-bye and wait for the end of the connection."""
        if self.is_bound:
            self.is_bound = False
            number = self._next()
            try:
                await self._ask(codec.UNBIND, number, codec.encode(codec.UNBIND, codec.OK, number))
            except Fault as fault:
                # The connection ends either way.
                log.debug("no answer to unbind: {why}", why=fault.private)
            self._hang_up()
            self._stop_timer()
            # A peer that says no good-bye of its own is not waited for.
            self._timer = self._reactor.callLater(_GOODBYE, self._abort)
            await self._lost

    # -- Twisted's side ---------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        try:
            for pdu in self._stream.receive(data):
                self._received(codec.decode(pdu))
        except Fault as fault:
            log.warn("the SMS centre sent what is {what}", what=fault.detail)
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.is_bound = False
        self._stop_timer()
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            waiting.errback(_away("the connection ended"))
        self._lost.callback(None)

    def _received(self, pdu: codec.PDU) -> None:
        match pdu:
            case Response() | Bare() if pdu.command & codec.RESPONSE:
                waiting = self._pending.pop(pdu.sequence, None)
                # What nobody waits for any longer was answered too late.
                if waiting is not None:
                    waiting.callback(pdu)
            case Bare(command=codec.ENQUIRE_LINK):
                self._write(codec.ENQUIRE_LINK | codec.RESPONSE, codec.OK, pdu.sequence)
            case Bare():
                # unbind: what is under way gets its Fault when the connection ends.
                self.is_bound = False
                self._write(codec.UNBIND | codec.RESPONSE, codec.OK, pdu.sequence)
                self._hang_up()
            case Deliver():
                # Receipts are not asked for; a person's answer has no reader. Both want an
                # acknowledgement, or they come again for ever.
                self._write(codec.DELIVER_SM | codec.RESPONSE, codec.OK, pdu.sequence, b"\0")
            case Unknown() if not pdu.command & codec.RESPONSE:
                self._write(codec.GENERIC_NACK, codec.INVALID_COMMAND, pdu.sequence)

    async def _ask(self, command: int, number: int, pdu: bytes) -> Bare | Response:
        if self.transport is None or self._lost.called:
            raise _away("the connection ended")
        answer: Deferred[Bare | Response] = Deferred()
        self._pending[number] = answer
        self.transport.write(pdu)
        try:
            found = await answer.addTimeout(self._settings.timeout_seconds, self._reactor)
        except TimeoutError:
            # A centre that does not answer is no longer there, whatever TCP thinks.
            self._abort()
            raise _away("no answer in time") from None
        finally:
            self._pending.pop(number, None)
        if found.command == command | codec.RESPONSE:
            return found
        # A generic_nack, or the answer to another question; neither means success.
        raise _refused("PDU", found.status or 0xFF)

    def _keep_alive(self) -> None:
        if self.is_bound:
            self._timer = self._reactor.callLater(self._settings.enquire_seconds, self._enquire)

    def _enquire(self) -> None:
        idle = self._reactor.seconds() - self._used_at
        if idle >= self._settings.idle_seconds and not self._pending:
            ensureDeferred(self.unbind()).addErrback(_note)
            return
        number = self._next()
        asked = ensureDeferred(
            self._ask(
                codec.ENQUIRE_LINK, number, codec.encode(codec.ENQUIRE_LINK, codec.OK, number)
            )
        )
        asked.addCallbacks(lambda _: self._keep_alive(), lambda failure: failure.trap(Fault))

    def _write(self, command: int, status: int, sequence: int, body: bytes = b"") -> None:
        if self.transport is not None:
            self.transport.write(codec.encode(command, status, sequence, body))

    def _next(self) -> int:
        self._sequence = self._sequence % codec.LAST_SEQUENCE + 1
        return self._sequence

    def _hang_up(self) -> None:
        self.is_bound = False
        if self.transport is not None:
            self.transport.loseConnection()

    def _abort(self) -> None:
        self.is_bound = False
        transport: Any = self.transport
        if transport is not None and not self._lost.called:
            transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def encoded(text: str, alphabet: str) -> tuple[int, bytes]:
    """Return data_coding and octets of a text: the centre's default alphabet, or UCS-2."""
    octets: bytes | None
    if alphabet == "gsm":
        octets = gsm7.encode(text)
    else:
        try:
            octets = text.encode("latin-1" if alphabet == "latin1" else "ascii")
        except UnicodeEncodeError:
            octets = None
    return (_UCS2, text.encode("utf-16-be")) if octets is None else (_DEFAULT_ALPHABET, octets)


def _refused(what: str, status: int) -> Fault:
    if status in _LATER:
        return _away(f"{what}: status 0x{status:02X}", retry_after=_LATER[status])
    return Fault(
        FaultCode.REJECTED,
        f"the SMS centre refused the {what} with status 0x{status:02X}",
        rule="otp.delivery.refused",
        values={"status": f"0x{status:08X}"},
    )


def _away(why: str, *, retry_after: float | None = None) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "the SMS centre cannot be reached",
        private=why,
        retry_after=retry_after,
        rule="otp.delivery.gateway",
        values={"failure": why},
    )


def _note(failure: Failure) -> None:
    log.failure("the SMS centre's connection broke", failure=failure)
