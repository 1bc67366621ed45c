"""The LDAP server's doors: connections accepted, and ended when they are too slow."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOProtocol

from tmad.ca.service_tls import Behind, ServiceTLS
from tmad.protocols.ldap.bounds import Bounds, Meters, Rates
from tmad.protocols.ldap.codec import Result
from tmad.protocols.ldap.connection import LDAPConnection
from tmad.protocols.ldap.responder import Responder


class LDAPFactory(Factory):
    """Accepts connections; ``sweep`` ends what is too slow.

    ``is_secure`` is for connections that arrive through TLS (LDAPS).
    """

    noisy = False

    def __init__(
        self,
        responder: Responder,
        bounds: Bounds,
        meters: Meters,
        reactor: Any,
        tls: ServiceTLS,
        *,
        is_secure: bool = False,
    ) -> None:
        self.responder = responder
        self.bounds = bounds
        self.meters = meters
        self.reactor = reactor
        self.tls = tls
        self.is_secure = is_secure
        self.rates = Rates(bounds, reactor.seconds)
        self.open: set[LDAPConnection] = set()

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802  Twisted's name
        return LDAPConnection(self, getattr(addr, "host", ""), is_secure=self.is_secure)

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        for connection in list(self.open):
            connection.disconnect(Result.UNAVAILABLE, "the server stops")

    async def sweep(self) -> None:
        """Look at every connection: what takes too long ends."""
        now = self.reactor.seconds()
        for connection in list(self.open):
            connection.sweep(now)


class LDAPSFactory(Behind):
    """Accepts connections behind TLS."""

    # Twisted's usual one waits for more to write; here each write is a whole answer.
    protocol = TLSMemoryBIOProtocol
