"""Asks name servers, each question anew: what control of a name rests on is not cached.

Twisted's resolver takes an answer from any address and to any question, so the questions go
out here: from a random port of a connected socket and with a random id, and over TCP where
the answer does not fit (RFC 5452).
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,  # noqa: A004  Twisted's own
    ensureDeferred,
    gatherResults,
)
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tmad.ca.validation.contract import Problem, name_server, refusal
from tmad.errors import Fault
from tmad.wire import dns

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_PATIENCE: Final = 2.0  # seconds for one server to answer
_ROUNDS: Final = 2
_ALIASES: Final = 8
_STRAY: Final = 100  # datagrams that are no answer to the question
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_HOSTS: Final = Path("/etc/hosts")
_UNREADABLE_EDNS: Final = (dns.Code.FORMERR, dns.Code.NOTIMP)


@dataclass(frozen=True, slots=True)
class _Found:
    """The records of a name, or of what it is an alias of."""

    records: tuple[dns.Record, ...]
    code: int


class Resolver:
    """The name servers of one validation; everything is over at ``deadline``.

    ``servers`` are ADDRESS or ADDRESS:PORT; without any, the system's are asked, and its hosts
    file is read first.
    """

    def __init__(self, reactor: Any, servers: Sequence[str], deadline: float) -> None:
        self._reactor = reactor
        self._deadline = deadline
        self._hosts = None if servers else _HOSTS
        self._servers = tuple(map(name_server, servers)) or system_servers()

    async def addresses(self, name: str) -> list[Address]:
        """Return the addresses of a name, IPv6 before IPv4; refusal(DNS) if there are none."""
        if self._hosts is not None and (known := _in_hosts(self._hosts, name)):
            return sorted(known, key=lambda address: -address.version)
        asked = gatherResults(
            [ensureDeferred(self._addresses(name, kind)) for kind in (dns.Kind.AAAA, dns.Kind.A)],
            consumeErrors=True,
        )
        outcomes = await asked
        found = [address for each in outcomes if isinstance(each, list) for address in each]
        if found:
            return found
        for each in outcomes:
            if isinstance(each, Fault):
                raise each
        raise refusal(Problem.DNS, f"{name} has no address in the DNS", name=name)

    async def _addresses(self, name: str, kind: dns.Kind) -> list[Address] | Fault:
        # A server that knows no AAAA must not hide an A.
        try:
            found = await self._find(name, kind)
        except Fault as fault:
            return fault
        return [each.data for each in found.records]  # type: ignore[misc]  # of that kind

    async def texts(self, name: str) -> list[bytes]:
        """Return the TXT records of a name, strings joined; refusal(DNS) if there are none."""
        found = await self._find(name, dns.Kind.TXT)
        if found.code == dns.Code.NXDOMAIN:
            raise refusal(Problem.DNS, f"{name} is not in the DNS", name=name)
        if not found.records:
            raise refusal(Problem.DNS, f"{name} has no TXT record", name=name)
        return [each.data for each in found.records if isinstance(each.data, bytes)]

    async def caa(self, name: str) -> list[dns.CAA]:
        """Return the CAA records of a name, or of what it is an alias of; often none."""
        found = await self._find(name, dns.Kind.CAA)
        return [each.data for each in found.records if isinstance(each.data, dns.CAA)]

    async def _find(self, name: str, kind: dns.Kind) -> _Found:
        """Ask for a name and follow its aliases, as far as the server has not done it."""
        owner = name.lower()
        try:
            dns.encode_name(owner)
        except ValueError:
            raise refusal(Problem.DNS, f"{name} is longer than the DNS allows", name=name) from None
        for _ in range(_ALIASES):
            reply = await self._ask(owner, kind)
            end = _followed(owner, reply.records)
            records = tuple(
                each for each in reply.records if each.kind == kind and each.name == end
            )
            if records or end == owner or reply.code != dns.Code.NOERROR:
                return _Found(records, reply.code)
            owner = end
        raise refusal(Problem.DNS, f"{name} is an alias of an alias … without end", name=name)

    async def _ask(self, name: str, kind: dns.Kind) -> dns.Reply:
        trouble = "there is no name server"
        for server in self._servers * _ROUNDS:
            try:
                reply = await self._exchange(server, name, kind)
            except _FAILURES as error:
                trouble = _in_words(error)
            else:
                if reply.code in (dns.Code.NOERROR, dns.Code.NXDOMAIN):
                    return reply
                trouble = f"it answered {_code(reply.code)}"
            if self._left() <= 0:
                break
        asked = ", ".join(f"{address}:{port}" for address, port in self._servers[:3])
        raise refusal(
            Problem.DNS,
            f"the name server has no answer for {name} {kind.name}: {trouble}",
            name=name,
            type=kind.name,
            servers=asked,
        )

    async def _exchange(self, server: tuple[str, int], name: str, kind: dns.Kind) -> dns.Reply:
        reply = await self._over_udp(server, name, kind, edns=True)
        if reply.code in _UNREADABLE_EDNS:
            reply = await self._over_udp(server, name, kind, edns=False)
        if reply.is_truncated:
            reply = await self._over_tcp(server, name, kind)
        return reply

    async def _over_udp(
        self, server: tuple[str, int], name: str, kind: dns.Kind, *, edns: bool
    ) -> dns.Reply:
        question = _Question(name, kind)
        conversation = _Datagrams(server, question, question.encoded(edns=edns))
        here = "::" if ":" in server[0] else "0.0.0.0"  # noqa: S104  a client's socket
        port = self._reactor.listenUDP(0, conversation, interface=here, maxPacketSize=4096)
        try:
            return await conversation.answer.addTimeout(self._patience(), self._reactor)
        finally:
            await port.stopListening()

    async def _over_tcp(self, server: tuple[str, int], name: str, kind: dns.Kind) -> dns.Reply:
        question = _Question(name, kind)
        make: Any = TCP6ClientEndpoint if ":" in server[0] else TCP4ClientEndpoint
        endpoint = make(self._reactor, *server)
        conversation = _Stream(question)
        factory: Any = Factory.forProtocol(lambda: conversation)
        factory.noisy = False
        await endpoint.connect(factory).addTimeout(self._patience(), self._reactor)
        try:
            return await conversation.answer.addTimeout(self._patience(), self._reactor)
        finally:
            conversation.end()

    def _left(self) -> float:
        return self._deadline - float(self._reactor.seconds())

    def _patience(self) -> float:
        return max(0.001, min(_PATIENCE, self._left()))


class _Question:
    """One question on its way, and whether something is its answer."""

    def __init__(self, name: str, kind: dns.Kind) -> None:
        self._id = secrets.randbits(16)
        self._name, self._kind = name, kind

    def encoded(self, *, edns: bool) -> bytes:
        return dns.query(self._id, self._name, self._kind, edns=edns)

    def fits(self, reply: dns.Reply) -> bool:
        return (reply.id, reply.name, reply.kind) == (self._id, self._name, self._kind)


class _Datagrams(DatagramProtocol):
    """Sends a question and waits for its answer; others are not listened to."""

    def __init__(self, server: tuple[str, int], question: _Question, octets: bytes) -> None:
        self.answer: Deferred[dns.Reply] = Deferred()
        self._server, self._question, self._octets = server, question, octets
        self._stray = 0

    def startProtocol(self) -> None:  # noqa: N802  Twisted's name
        transport: Any = self.transport
        # A connected socket hears this server alone.
        transport.connect(*self._server)
        transport.write(self._octets)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
        if self.answer.called:
            return
        try:
            reply = dns.decode(datagram)
            if self._question.fits(reply):
                self.answer.callback(reply)
                return
        except Fault:
            pass
        self._stray += 1
        if self._stray > _STRAY:
            self.answer.errback(OSError("a flood of answers to other questions"))

    def connectionRefused(self) -> None:  # noqa: N802
        if not self.answer.called:
            self.answer.errback(OSError("nobody listens there"))


class _Stream(Protocol):
    """Sends a question over TCP and reads one answer (RFC 7766)."""

    def __init__(self, question: _Question) -> None:
        self.answer: Deferred[dns.Reply] = Deferred()
        self._question = question
        self._received = bytearray()

    def end(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionMade(self) -> None:  # noqa: N802
        octets = self._question.encoded(edns=True)
        transport: Any = self.transport
        transport.write(len(octets).to_bytes(2) + octets)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self.answer.called:
            return
        self._received += data
        length = int.from_bytes(self._received[:2])
        if len(self._received) < 2 + length or len(self._received) < 2:
            return
        try:
            reply = dns.decode(bytes(self._received[2 : 2 + length]))
        except Fault as fault:
            self.answer.errback(fault)
            return
        if self._question.fits(reply) and not reply.is_truncated:
            self.answer.callback(reply)
        else:
            self.answer.errback(OSError("an answer to another question"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self.answer.called:
            self.answer.errback(reason)


_FAILURES: Final = (
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    TimeoutError,
    CancelledError,
    OSError,
    Fault,
)


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError | CancelledError | ConnectingCancelledError):
        return "no answer in time"
    return error.detail if isinstance(error, Fault) else str(error)


def _code(code: int) -> str:
    return dns.Code(code).name if code in list(dns.Code) else f"code {code}"


def _followed(name: str, records: Sequence[dns.Record]) -> str:
    """Return what a name is an alias of in the end, as far as these records tell."""
    aliases = {each.name: str(each.data) for each in records if each.kind == dns.Kind.CNAME}
    for _ in range(_ALIASES):
        if name not in aliases:
            break
        name = aliases[name]
    return name


def system_servers(path: Path = _RESOLV_CONF) -> tuple[tuple[str, int], ...]:
    """Return the name servers of this machine (resolv.conf(5))."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    return tuple((address.partition("%")[0], 53) for address in named[:3]) or (("127.0.0.1", 53),)


def _in_hosts(path: Path, name: str) -> list[Address]:
    """Return the addresses of a name in a hosts file (hosts(5))."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found: list[Address] = []
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if name.lower() in map(str.lower, names):
            try:
                found.append(ipaddress.ip_address(address))
            except ValueError:
                continue
    return found
