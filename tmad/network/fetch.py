"""Gets a document from an HTTP server that an administrator named, and from no other place.

What a server answers decides nothing about where else tmad goes: redirects stay on the host,
and addresses that only this machine or its link can mean are refused when they are connected
to, not when the URL is written down (T-ACME-05).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from tmad.errors import Fault, FaultCode

# Twisted leaves these untyped.
_make_agent: Callable[..., Any] = Agent.usingEndpointFactory
_not_connected: Callable[..., Exception] = ConnectError

_URL: Final = re.compile(
    r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?(/[!-~]*)?"
)
_REDIRECTS: Final = 3
_TIMEOUT: Final = 30.0  # seconds, for all of it
_CONNECT: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FAILURES: Final = (
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    ResponseFailed,
    RequestTransmissionFailed,
    TimeoutError,
    CancelledError,
    OSError,  # a name that does not resolve
    ValueError,
)


def mistake(url: str) -> str | None:
    """Return what is wrong with a URL, in words, or None."""
    found = _URL.fullmatch(url)
    if found is None or "#" in url:
        return "must be an http or https URL without user, password and fragment"
    if found[3] is not None and not 1 <= int(found[3]) <= 65_535:
        return "the port is 1 to 65535"
    return None


class Fetcher:
    """Fetches documents of bounded size."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        policy = BrowserLikePolicyForHTTPS()  # type: ignore[no-untyped-call]  # Twisted's class
        self._agent = guarded_agent(reactor, policy)

    async def get(self, url: str, largest: int) -> bytes:
        """Return the document; Fault(UNAVAILABLE) in words when it cannot be had."""
        deadline = self._reactor.seconds() + _TIMEOUT
        try:
            for _ in range(_REDIRECTS + 1):
                if (wrong := mistake(url)) is not None:
                    raise _failure(url, wrong)
                response = await self._ask(url, deadline)
                if response.code == 200:
                    return await self._body(url, response, largest, deadline)
                url = _redirected(url, response)
        except _FAILURES as error:
            if self._reactor.seconds() >= deadline:
                raise _failure(url, f"no whole answer in {_TIMEOUT:g} s") from error
            raise _failure(url, f"{type(error).__name__}: {error}") from error
        raise _failure(url, f"more than {_REDIRECTS} redirects")

    async def _ask(self, url: str, deadline: float) -> IResponse:
        asked: Deferred[IResponse] = self._agent.request(
            b"GET", url.encode(), Headers({"User-Agent": ["tmad"], "Accept-Encoding": ["identity"]})
        )
        return await asked.addTimeout(self._left(deadline), self._reactor)

    async def _body(self, url: str, response: IResponse, largest: int, deadline: float) -> bytes:
        collector = _Collector(largest)
        response.deliverBody(collector)  # type: ignore[no-untyped-call]  # Twisted's interface
        data = await collector.whole.addTimeout(self._left(deadline), self._reactor)
        if data is None:
            raise _failure(url, f"more than {largest} octets")
        return data

    def _left(self, deadline: float) -> float:
        return max(0.001, deadline - float(self._reactor.seconds()))


def _redirected(url: str, response: IResponse) -> str:
    """Return where a redirect leads; it may change path, port and http to https, not the host."""
    [location, *_] = response.headers.getRawHeaders("location") or [""]
    if response.code not in (301, 302, 303, 307, 308) or not location:
        raise _failure(url, f"HTTP status {response.code}")
    target = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(target)
    if new.hostname != old.hostname or (old.scheme == "https" and new.scheme != "https"):
        raise _failure(url, f"a redirect to {target[:200]}, which is another place")
    return str(target)


def guarded_agent(reactor: Any, policy: IPolicyForHTTPS) -> IAgent:
    """Return an agent for a URL that an administrator wrote down, guarded like a fetch."""
    agent: IAgent = _make_agent(reactor, _Endpoints(reactor, policy))
    return agent


class _Collector(Protocol):
    """Takes a body of bounded size and hangs up on a longer one."""

    def __init__(self, largest: int) -> None:
        self.whole: Deferred[bytes | None] = Deferred(lambda _: self._hang_up())
        self._received = bytearray()
        self._largest = largest

    def _hang_up(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            (getattr(transport, "abortConnection", None) or transport.loseConnection)()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._received += data
        if len(self._received) > self._largest and not self.whole.called:
            self._received.clear()
            self.whole.callback(None)
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.whole.called:
            return
        if reason.check(ResponseDone):  # type: ignore[no-untyped-call]  # Twisted's class
            self.whole.callback(bytes(self._received))
        else:
            self.whole.errback(reason)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Makes connections that look whom they have reached before they say anything."""

    def __init__(self, reactor: Any, policy: IPolicyForHTTPS) -> None:
        self._reactor = reactor
        self._policy = policy

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:  # noqa: N802  Twisted's name
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=_CONNECT)
        guarded = _Guarded(endpoint, uri.host.decode("ascii").strip("[]").lower())
        if uri.scheme == b"https":
            return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), guarded)
        return guarded


@implementer(IStreamClientEndpoint)
class _Guarded:
    """Hangs up on an address that a name on the network must not mean."""

    def __init__(self, endpoint: Any, host: str) -> None:
        self._endpoint = endpoint
        self._host = host

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  Twisted's name
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._check)

    def _check(self, protocol: Any) -> Any:
        address = protocol.transport.getPeer().host
        if not is_reachable(address, self._host):
            protocol.transport.abortConnection()
            raise _not_connected(string=f"{self._host} is {address}, where nothing is fetched from")
        return protocol


def is_reachable(address: str, host: str) -> bool:
    """Tell whether a document may be fetched from an address that a host name led to."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback:
        # Only who writes this machine down means this machine.
        return host in _LOOPBACK
    return not (
        found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved
    )


def _failure(url: str, why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        f"{url[:200]} could not be fetched: {why[:300]}",
        rule="network.fetch",
        values={"url": url[:200], "failure": why[:300]},
    )
