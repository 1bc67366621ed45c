"""RADIUS over TLS with certificates on both sides (RFC 6614, and what is to replace it).

The certificate says which client it is; the shared secret is the word "radsec" and proves
nothing. A certificate is looked at with every packet, and while there is none: revoked, it takes
its connection with it (R-74).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.ca.client_certificates import CertificateCheck
from tmad.ca.service_tls import ask_for_certificate, remember_nobody
from tmad.ca.status import StatusSource
from tmad.ca.trust import Trust
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.network.client import Client
from tmad.network.clients import RADSEC_SECRET, RadiusClients
from tmad.plugin import Meter
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Code, Packet
from tmad.protocols.radius.reverse import ANSWER_CODES, Line, Reverse
from tmad.protocols.radius.server import OUTCOMES, SERVED, Dropped, Exchange, Policy, Voice

log = Logger()

_UNSUPPORTED_EXTENSION: Final = 406  # RFC 5176, 3.6
_MOST_WAITING: Final = 256  # requests of one connection
_GOODBYE_SECONDS: Final = 1.0
# What a stream cannot recover from, or what no honest client sends over TLS.
_FATAL: Final = frozenset({"malformed", "forged", "unsigned", "unsigned-eap"})


def finish_context(context: SSL.Context) -> None:
    """Settle what RadSec's handshakes have of their own."""
    ask_for_certificate(context, required=True)
    remember_nobody(context)
    context.set_alpn_select_callback(_choose_version)


def _choose_version(connection: SSL.Connection, offered: list[bytes]) -> Any:
    # RFC 9765, 3: without a choice of ours it is the old protocol, too.
    return b"radius/1.0" if b"radius/1.0" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


@dataclass(frozen=True, slots=True)
class Passport:
    """A client's certificate as it was found good."""

    certificate: x509.Certificate
    issuer: int
    client: tuple[str, str]


class Passports:
    """Which client a certificate belongs to, if it is one of our CAs' and good now."""

    def __init__(
        self, clients: RadiusClients, trust: Trust, status: StatusSource, now: Clock
    ) -> None:
        self._clients = clients
        self._check = CertificateCheck(trust, status, now, _refusal)

    async def check(self, certificate: x509.Certificate, address: str) -> Passport:
        """Return whose certificate it is; Fault(UNAUTHENTICATED) says why not."""
        client = await self._clients.find_radsec(certificate)
        if client is None:
            raise _refusal("client", "no radius-client names this certificate in its radsec")
        if client.document.prefixes and await self._clients.find(address) != client:
            raise _refusal("address", f"{client.name} does not come from {address}")
        issuer = await self._check.issuer_of(
            certificate,
            "not issued by an authority of the client's tenant",
            tenant=client.tenant,
        )
        passport = Passport(certificate, issuer.id, client.key)
        await self.recheck(passport)
        return passport

    async def recheck(self, passport: Passport) -> Client:
        """Return the client while the certificate is good and still the client's."""
        await self._check.check_standing(passport.certificate, passport.issuer)
        client = await self._clients.find_radsec(passport.certificate)
        if client is None or client.key != passport.client:
            raise _refusal("client", "the radius-client does not name it any more")
        return client


class RadSec(Factory):
    """Accepts connections; ``walk`` ends those whose certificate is no longer good."""

    noisy = False

    def __init__(
        self,
        exchange: Exchange,
        clients: RadiusClients,
        passports: Passports,
        meter: Meter,
        reactor: Any,
        policy: Policy,
        voice: Voice,
        reverse: Reverse,
    ) -> None:
        self.exchange = exchange
        self.reverse = reverse
        self.clients = clients
        self.passports = passports
        self.meter = meter
        self.reactor = reactor
        self.policy = policy
        self.voice = voice
        self.open: set[RadSecConnection] = set()
        self.is_stopping = False

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802  Twisted's name
        return RadSecConnection(self, addr.host)

    def startFactory(self) -> None:  # noqa: N802  Twisted's name
        self.is_stopping = False

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        self.is_stopping = True
        for connection in list(self.open):
            connection.finish()

    async def walk(self) -> None:
        """Look at the certificate of every open connection (R-74)."""
        for connection in list(self.open):
            await connection.recheck()


@implementer(IHandshakeListener)
class RadSecConnection(Protocol):
    """One connection: packets one behind the other, each as long as it says (R-70)."""

    factory: RadSec

    def __init__(self, factory: RadSec, address: str) -> None:
        self.factory = factory
        self.address = address
        self._buffer = bytearray()
        self._passport: Passport | None = None
        self._line = Line(address, self._write, factory.reactor)
        self._waiting = 0
        self._is_closed = False

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        self.factory.open.add(self)

    def handshakeCompleted(self) -> None:  # noqa: N802  Twisted's name
        ensureDeferred(self._identify())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._buffer += data
        self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._forget()
        self._buffer.clear()

    def finish(self) -> None:
        """Close once everything that arrived is answered."""
        if not self._waiting and not self._is_closed:
            self._transport.loseConnection()
            # Not every client says good-bye in its turn (RFC 8446, 6.1).
            self.factory.reactor.callLater(_GOODBYE_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if not self._is_closed:
            self._transport.abortConnection()

    async def recheck(self) -> None:
        """Close unless the certificate is still good."""
        if self._passport is not None:
            try:
                await self.factory.passports.recheck(self._passport)
            except Fault as fault:
                self._end(fault)

    # -- steps --------------------------------------------------------------------------------

    async def _identify(self) -> None:
        """Find out who is there, before any packet of his is looked at."""
        try:
            shown = self._transport.getPeerCertificate()
            certificate = shown.to_cryptography()
            self._passport = await self.factory.passports.check(certificate, self.address)
        except Fault as fault:
            self._end(fault)
            return
        except Exception:
            log.failure("RADIUS radsec: a certificate could not be looked at")
            self._abort("failed")
            return
        log.info(
            "RadSec: {client} is connected from {address}",
            client=self._passport.client[1],
            address=self.address,
        )
        if not self._is_closed:
            self.factory.reverse.add(self._passport.client, self._line)
        self._read()

    def _read(self) -> None:
        while self._passport is not None and not self._is_closed and len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[2:4], "big")
            if not codec.HEADER <= length <= codec.LONGEST:
                self._abort("malformed")
                return
            if len(self._buffer) < length:
                break
            octets = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._waiting += 1
            if self._waiting == _MOST_WAITING:
                self._transport.pauseProducing()
            ensureDeferred(self._serve(octets))
        if self._passport is None and len(self._buffer) > 4 * codec.LONGEST:
            self._abort("malformed")

    async def _serve(self, octets: bytes) -> None:
        began = self.factory.reactor.seconds()
        try:
            await self._answer(octets)
        except Dropped as dropped:
            if dropped.reason in _FATAL:
                self._abort(dropped.reason, dropped.detail)
            else:
                self.factory.meter.count(f"dropped-{dropped.reason}")
        except Fault as fault:
            if fault.code is FaultCode.UNAUTHENTICATED and fault.rule.startswith("radius.radsec"):
                self._end(fault)
            else:
                self.factory.meter.count("dropped-unavailable")
                self.factory.voice.say("radsec", "unavailable", self.address, fault.detail)
        except Exception:
            self.factory.meter.count("dropped-failed")
            log.failure("RADIUS radsec: a packet failed")
        else:
            self.factory.meter.time(self.factory.reactor.seconds() - began)
        finally:
            self._done()

    def _done(self) -> None:
        self._waiting -= 1
        if self._is_closed:
            return
        if self._waiting == _MOST_WAITING - 1:
            self._transport.resumeProducing()
        if self.factory.is_stopping:
            self.finish()

    async def _answer(self, octets: bytes) -> None:
        own = self.factory
        assert self._passport is not None
        try:
            packet = codec.decode(octets)
        except Fault as fault:
            raise Dropped("malformed", fault.detail) from None
        client = await own.passports.recheck(self._passport)
        if packet.code in ANSWER_CODES:
            self._line.received(packet)
            return
        if packet.code not in SERVED["radsec"]:
            self._refuse_code(packet)
            return
        secret = own.exchange.secret_of("radsec", packet, client)
        own.clients.note_seen(client)
        reply = await own.exchange.answer("radsec", packet, client, secret, self.address)
        is_status = packet.code == Code.STATUS_SERVER
        own.meter.count("status" if is_status else OUTCOMES.get(Code(reply[0]), "other"))
        if reply[0] == Code.ACCESS_REJECT and own.policy.reject_delay:
            await deferLater(own.reactor, own.policy.reject_delay)
        self._write(reply)

    def _write(self, octets: bytes) -> None:
        # who has gone meanwhile asks again elsewhere.
        if not self._is_closed:
            self._transport.write(octets)

    def _refuse_code(self, packet: Packet) -> None:
        """Say that this kind of packet is not served here (draft-ietf-radext-radiusdtls-bis)."""
        self.factory.meter.count("protocol-error")
        cause = (codec.ERROR_CAUSE, _UNSUPPORTED_EXTENSION.to_bytes(4, "big"))
        self._transport.write(
            codec.encode_reply(packet, Code.PROTOCOL_ERROR, [cause], RADSEC_SECRET)
        )

    def _end(self, fault: Fault) -> None:
        is_nobody = fault.rule == "radius.radsec.client"
        why = fault.values.get("why", fault.detail)
        self._abort("unknown-client" if is_nobody else "certificate", why)

    def _abort(self, reason: str, detail: str = "") -> None:
        self.factory.meter.count(f"dropped-{reason}")
        self.factory.voice.say("radsec", reason, self.address, detail)
        self._forget()
        self._transport.abortConnection()

    def _forget(self) -> None:
        self._is_closed = True
        self.factory.open.discard(self)
        if self._passport is not None:
            self.factory.reverse.remove(self._passport.client, self._line)

    @property
    def _transport(self) -> Any:
        # TLSMemoryBIOProtocol; the attribute's type knows only what every transport has.
        return self.transport


def _refusal(rule: str, why: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client certificate was not accepted",
        private=why,
        rule=f"radius.radsec.{rule}",
        values={"why": why},
    )
