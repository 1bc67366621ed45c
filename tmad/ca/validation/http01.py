"""http-01: a file on a web server of the name (RFC 8555, 8.3; RFC 8738, 4)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.ca.validation.contract import Identifier, Problem, Question, refusal
from tmad.ca.validation.resolver import Address
from tmad.ca.validation.targets import FAILURES, Reach, in_words
from tmad.errors import Fault
from tmad.events import JSON
from tmad.wire.answer import Answer

_REDIRECTS: Final = 10
_SPARE: Final = 128  # octets that a body may be longer than what is expected
_LONGEST_URL: Final = 2_000
_REDIRECTING: Final = (301, 302, 303, 307, 308)
_URL: Final = re.compile(
    r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?(/[!-\"$-~]*)?(?:\?([!-\"$-~]*))?"
)
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that is asked."""

    scheme: str
    host: str  # a DNS name in lower case, or an address without brackets
    port: int
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """What the Host field says: without the port where the scheme says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _usual(self.scheme) else f"{host}:{self.port}"


async def validate(question: Question, reach: Reach) -> dict[str, JSON]:
    """Return the record of a good answer, or raise a refusal."""
    tried: list[JSON] = []
    place = _first(question.identifier, reach.rules.http_port, question.token)
    for _ in range(_REDIRECTS + 1):
        answer = await _ask(place, reach, len(question.key_authorization) + _SPARE, tried)
        if answer.status not in _REDIRECTING:
            _judge(place, answer, question.key_authorization)
            return {"requests": tried}
        place = _redirected(place, answer.location, reach)
    raise refusal(
        Problem.CONNECTION, f"more than {_REDIRECTS} redirects, the last to {place}", url=str(place)
    )


def _first(identifier: Identifier, port: int, token: str) -> Place:
    return Place("http", identifier.value, port, f"/.well-known/acme-challenge/{token}")


def _judge(place: Place, answer: Answer, expected: str) -> None:
    if answer.status != 200:
        raise refusal(
            Problem.UNAUTHORIZED,
            f"{place} answers with HTTP status {answer.status}, not 200",
            url=str(place),
            status=str(answer.status),
        )
    # The body is not told to the client: what it reads must be what it wrote.
    if answer.is_too_long or bytes(answer.body).rstrip() != expected.encode():
        raise refusal(
            Problem.INCORRECT_RESPONSE,
            f"{place} does not hold the key authorisation of this account",
            url=str(place),
            octets=f"more than {len(answer.body) - 1}" if answer.is_too_long
            else str(len(answer.body)),
        )  # fmt: skip


def _redirected(place: Place, location: str, reach: Reach) -> Place:
    """Return where a redirect leads; only to web servers, on the ports that they have."""
    try:
        url = urljoin(str(place), location)
    except ValueError:
        url = ""
    found = _URL.fullmatch(url.partition("#")[0])
    if found is None or len(url) > _LONGEST_URL or not location:
        raise _wrong_redirect(place, location, "this is no http or https URL")
    scheme, host = found[1], found[2].strip("[]").lower().rstrip(".")
    port = int(found[3] or _usual(scheme))
    rules = reach.rules
    if port not in (80, 443, rules.http_port, rules.tls_port):
        raise _wrong_redirect(place, location, f"port {port} is not a web server's")
    if not is_host(host):
        raise _wrong_redirect(place, location, "this is no name and no address")
    path = (found[4] or "/") + (f"?{found[5]}" if found[5] is not None else "")
    return Place(scheme, host, port, path)


def _wrong_redirect(place: Place, location: str, why: str) -> Fault:
    return refusal(
        Problem.CONNECTION, f"{place} redirects, but {why}", url=str(place), location=location
    )


def is_host(text: str) -> bool:
    """Tell whether text is an address, or a name that no resolver takes for an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # 2130706433, 0x7f.1 and 127.1 are addresses to some.
        last = text.rstrip(".").rpartition(".")[2]
        return (
            len(text) <= 253
            and _NAME.fullmatch(text) is not None
            and not last.isdigit()
            and not last.startswith("0x")
        )
    return True


def _usual(scheme: str) -> int:
    return 443 if scheme == "https" else 80


async def _ask(place: Place, reach: Reach, largest: int, tried: list[JSON]) -> Answer:
    """Ask a URL at each address of its host until one answers."""
    addresses = await reach.addresses(place.host, place.port)
    failure: Fault | None = None
    for address in addresses:
        note: dict[str, JSON] = {"url": str(place), "address": str(address)}
        tried.append(note)
        try:
            answer = await _ask_at(place, address, reach, largest)
        except (*FAILURES, SSL.Error, Fault) as error:
            note["failure"] = in_words(error)
            failure = failure or refusal(
                Problem.TLS if isinstance(error, SSL.Error) else Problem.CONNECTION,
                f"{place} at {address}: {note['failure']}",
                url=str(place),
                address=str(address),
            )
        else:
            note["status"] = answer.status
            return answer
    assert failure is not None  # a host without addresses is refused before
    raise failure


async def _ask_at(place: Place, address: Address, reach: Reach, largest: int) -> Answer:
    conversation = _Conversation(place, largest)
    tls = _AnyCertificate(place.host) if place.scheme == "https" else None
    await reach.connect(address, place.port, conversation, tls)
    try:
        return await conversation.answer.addTimeout(reach.left(), reach.reactor)
    finally:
        conversation.hang_up()


class _Conversation(Protocol):
    """One request and its answer."""

    def __init__(self, place: Place, largest: int) -> None:
        self.answer: Deferred[Answer] = Deferred()
        self._place = place
        self._read = Answer(largest)

    def hang_up(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        transport: Any = self.transport
        transport.write(
            f"GET {self._place.path} HTTP/1.1\r\nHost: {self._place.authority}\r\n"
            "User-Agent: tmad (ACME validation)\r\nAccept: */*\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")
        )

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self.answer.called:
            return
        try:
            self._read.receive(data)
        except Fault as fault:
            self.answer.errback(fault)
            return
        if self._read.is_whole or self._read.status in _REDIRECTING:
            self.answer.callback(self._read)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.answer.called:
            return
        if reason.check(SSL.Error):  # type: ignore[no-untyped-call]  # Twisted's class
            self.answer.errback(reason)
            return
        try:
            self._read.end()
        except Fault as fault:
            self.answer.errback(fault)
        else:
            self.answer.callback(self._read)


@implementer(IOpenSSLClientConnectionCreator)
class _AnyCertificate:
    """TLS to a web server whose certificate may be the very one that is to be replaced."""

    def __init__(self, host: str) -> None:
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_verify(SSL.VERIFY_NONE)
        connection = SSL.Connection(context, None)
        if not is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        connection.set_connect_state()
        return connection


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
