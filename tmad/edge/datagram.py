"""UDP doors: a protocol behind a rate limit for each source."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol

from tmad.config import LimitsSection
from tmad.edge.limits import Buckets, Exempt, source_of
from tmad.plugin import Limits


class Metered(DatagramProtocol):
    """Passes datagrams on to the protocol, as fast as their source may send.

    What is too long or too fast is dropped without an answer: an answer to a forged source
    would hit somebody else.
    """

    noisy = False

    def __init__(
        self, protocol: DatagramProtocol, limits: Limits, settings: LimitsSection, reactor: Any
    ) -> None:
        self._protocol = protocol
        self._longest = limits.body
        self._buckets = Buckets(limits, reactor.seconds)
        self._scale = settings.rate_scale
        self._exempt = Exempt(settings.exempt)
        self.dropped = 0

    def startProtocol(self) -> None:  # noqa: N802  Twisted's name
        assert self.transport is not None
        self._protocol.makeConnection(self.transport)

    def stopProtocol(self) -> None:  # noqa: N802  Twisted's name
        self._protocol.doStop()  # type: ignore[no-untyped-call]  # untyped

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
        source = source_of(addr[0])
        is_free = self._exempt.covers(source)
        if len(datagram) > self._longest or (
            not is_free and self._buckets.wait(source, self._scale)
        ):
            self.dropped += 1
            return
        self._protocol.datagramReceived(datagram, addr)
