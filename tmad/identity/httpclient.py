"""One HTTP request to a service that an administrator named: verified TLS, bounded, in time.

Redirects are not followed: what is sent holds secrets, and the answer may not choose who else
gets them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from OpenSSL.crypto import X509
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed  # noqa: A004
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from tmad.wire import parsing

# Twisted leaves these untyped.
_make_agent: Callable[..., IAgent] = Agent
_policy: Callable[..., Any] = BrowserLikePolicyForHTTPS
_certificate: Callable[..., Any] = Certificate
_trust_root: Callable[..., Any] = trustRootFromCertificates

LARGEST_ANSWER: Final = 65_536  # octets
# What a service that is down, slow, cut off or not trusted looks like; OSError also covers a
# name that does not resolve and a CA file that cannot be read, ValueError one without PEM.
FAILURES: Final = (
    ConnectError,
    ConnectionLost,
    ConnectionDone,
    ResponseFailed,
    RequestTransmissionFailed,
    PotentialDataLoss,
    TimeoutError,
    CancelledError,
    OSError,
    ValueError,
)


async def ask(
    reactor: IReactorTime,
    agent: IAgent,
    method: str,
    url: str,
    headers: Headers,
    body: bytes | None,
    *,
    patience: float,
) -> tuple[int, bytes]:
    """Return status and body of the answer; raise one of FAILURES.

    ``patience`` is in seconds, for all of it.
    """
    deadline = reactor.seconds() + patience
    producer = None if body is None else _Body(body)
    asked: Deferred[IResponse] = agent.request(method.encode(), url.encode(), headers, producer)
    response = await asked.addTimeout(patience, reactor)
    collector = _Collector()
    response.deliverBody(collector)  # type: ignore[no-untyped-call]  # Twisted's interface
    left = max(0.001, deadline - reactor.seconds())
    return response.code, await collector.whole.addTimeout(left, reactor)


def verifying_agent(reactor: IReactorTime, ca_file: Path | str | None, patience: float) -> IAgent:
    """Return an agent that trusts the authorities of a PEM file, or those of this machine."""
    # Names are always checked.
    return _make_agent(reactor, _policy(trust_root(ca_file)), connectTimeout=patience)


def trust_root(ca_file: Path | str | None) -> Any:
    """Return Twisted's trust root for a PEM file; None stands for what this machine trusts."""
    if not ca_file:
        return None
    return trust_root_of(Path(ca_file).read_bytes())


def trust_root_of(pem: bytes) -> Any:
    """Return Twisted's trust root for certificates in PEM; ValueError where there are none."""
    found = parsing.certificates(pem)
    return _trust_root([_certificate(X509.from_cryptography(each)) for each in found])


@implementer(IBodyProducer)
class _Body:
    """Octets that are all there already."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802  nothing is left to pause
        pass

    def resumeProducing(self) -> None:  # noqa: N802
        pass

    def stopProducing(self) -> None:  # noqa: N802
        pass


class _Collector(Protocol):
    """Takes an answer of bounded size and hangs up on a longer one."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self.hang_up())
        self._received = bytearray()

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._received += data
        if len(self._received) > LARGEST_ANSWER:
            self._received.clear()
            self.hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.whole.called:
            return
        if reason.check(ResponseDone):  # type: ignore[no-untyped-call]  # Twisted's class
            self.whole.callback(bytes(self._received))
        else:
            self.whole.errback(reason)
