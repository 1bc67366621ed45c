"""A directory server over TLS, asked in words and in time (RFC 4511, RFC 4513).

One connection a question: what it answers is what the directory holds now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.httpclient import trust_root_of
from tmad.wire import ldap
from tmad.wire.ldap import Entry, Reference, Result

_PORT: Final = 636
_FAILURES: Final = (
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    TimeoutError,
    CancelledError,
    TLSError,
    CertificateError,
    VerificationError,
    OSError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a directory is. ``addresses`` are HOST or HOST:PORT, asked in this order.

    ``trusted`` are the authorities of its TLS in PEM; empty: those that this machine trusts.
    """

    addresses: Sequence[str]
    trusted: str
    seconds: float  # for a connection with all its questions


class LDAPClient:
    """Opens connections to directories."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def connect(self, server: Server) -> LDAPSession:
        """Return a connection to the first server that answers; Fault(UNAVAILABLE).

        The server's certificate is checked, and that it is for the name in the address.
        """
        deadline = self._reactor.seconds() + server.seconds
        trusted = trust_root_of(server.trusted.encode()) if server.trusted else None
        failures = []
        for address in server.addresses:
            host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
            left = deadline - self._reactor.seconds()
            try:
                plain = HostnameEndpoint(
                    self._reactor, host.encode(), int(port or _PORT), timeout=max(0.1, left)
                )
                options = optionsForClientTLS(host, trusted)
                endpoint = wrapClientTLS(options, plain)
                connecting: Deferred[Any] = endpoint.connect(_Conversations())
                protocol = await connecting.addTimeout(max(0.1, left), self._reactor)
                return LDAPSession(self._reactor, protocol, deadline)
            except _FAILURES as error:
                failures.append(f"{address}: {type(error).__name__}: {error}")
        raise unavailable("; ".join(failures))


class LDAPSession:
    """One connection; close it in the end."""

    def __init__(self, reactor: Any, protocol: _Conversation, deadline: float) -> None:
        self._reactor = reactor
        self._protocol = protocol
        self._deadline = deadline

    def close(self) -> None:
        """End the session."""
        self._protocol.leave()

    async def bind(self, name: str, password: Secret) -> bool:
        """Tell whether the directory takes this name and password; Fault(UNAVAILABLE)."""
        _, result = await self._ask(lambda number: ldap.bind(number, name, password))
        if result.code in (ldap.SUCCESS, ldap.INVALID_CREDENTIALS):
            return result.code == ldap.SUCCESS
        raise unavailable(f"bind: {result.code} {result.text}")

    async def search(
        self, base: str, wanted: bytes, attributes: Iterable[str], *, limit: int
    ) -> tuple[Entry, ...]:
        """Return what a filter finds, at most ``limit`` entries; Fault(UNAVAILABLE)."""
        seconds = max(1, int(self._deadline - self._reactor.seconds()))
        entries, result = await self._ask(
            lambda number: ldap.search(
                number, base, wanted, attributes, limit=limit, seconds=seconds
            )
        )
        if result.code == ldap.NO_SUCH_OBJECT:
            return ()
        if result.code not in (ldap.SUCCESS, ldap.SIZE_LIMIT):
            raise unavailable(f"search: {result.code} {result.text}")
        return entries[:limit]

    async def _ask(self, request: Any) -> tuple[tuple[Entry, ...], Result]:
        left = max(0.05, self._deadline - self._reactor.seconds())
        try:
            return await self._protocol.ask(request).addTimeout(left, self._reactor)
        except _FAILURES as error:
            raise unavailable(f"{type(error).__name__}: {error}") from None
        except Fault as fault:
            if fault.code is FaultCode.MALFORMED:
                raise unavailable(fault.detail) from None
            raise


def unavailable(why: str) -> Fault:
    """Return the Fault for a directory that gives no answer."""
    return Fault(
        FaultCode.UNAVAILABLE,
        "the directory gives no answer at the moment",
        private=why[:500],
        retry_after=30,
        rule="directory.unavailable",
        values={"failure": why[:300]},
    )


@dataclass(slots=True)
class _Question:
    answered: Deferred[tuple[tuple[Entry, ...], Result]]
    entries: list[Entry] = field(default_factory=list)


class _Conversation(Protocol):
    """Numbers requests, and finds whom an answer is for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._number = 0
        self._open: dict[int, _Question] = {}

    def ask(self, request: Any) -> Deferred[tuple[tuple[Entry, ...], Result]]:
        self._number += 1
        number = self._number
        message = request(number)
        answered: Deferred[tuple[tuple[Entry, ...], Result]] = Deferred(
            lambda _: self._forget(number)
        )
        self._open[number] = _Question(answered)
        if self.transport is None or not self.connected:
            self._fail(ConnectionClosed())
        else:
            self.transport.write(message)
        return answered

    def leave(self) -> None:
        if self.transport is not None and self.connected:
            self.transport.write(ldap.unbind(self._number + 1))
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._buffer += data
        try:
            while (length := ldap.length_of(self._buffer)) and length <= len(self._buffer):
                message = bytes(self._buffer[:length])
                del self._buffer[:length]
                self._take(ldap.decode(message))
        except Fault as fault:
            self._fail(fault)

    def _take(self, reply: ldap.Reply) -> None:
        question = self._open.get(reply.number)
        match reply.content:
            case Entry() as entry if question is not None:
                question.entries.append(entry)
            case Reference() | Entry():
                pass
            case Result() as result if question is not None:
                del self._open[reply.number]
                question.answered.callback((tuple(question.entries), result))
            case Result():
                # A notice of disconnection, or an answer to what nobody waits for.
                self._fail(ConnectionClosed())

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._fail(reason.value or ConnectionClosed())

    def _fail(self, error: BaseException) -> None:
        waiting, self._open = self._open, {}
        if self.transport is not None and self.connected:
            self.transport.loseConnection()
        for question in waiting.values():
            question.answered.errback(error)

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)


class _Conversations(Factory):
    noisy = False

    def buildProtocol(self, addr: object) -> _Conversation:  # noqa: N802  Twisted's name
        return _Conversation()
