"""TLS of our own listeners: a certificate that tmad issues to itself and renews (RFC 8446)."""

from __future__ import annotations

from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.logger import Logger

from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.service_records import ServiceCertificate
from tmad.ca.service_tls import ServiceTLS, ask_for_certificate, remember_nobody
from tmad.ca.status import StatusSource
from tmad.ca.trust import Trust, check_path
from tmad.edge import tcp
from tmad.edge.secure import SecureConnection
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.signer.keyring import Keyring
from tmad.wire import parsing

log = Logger()


class ServerTLS(ServiceTLS):
    """The server side of one HTTPS listener.

    ``asks`` asks clients for a certificate. A handshake proves that the client has its key;
    whether we trust the certificate is ClientCertificates' question, for each request.
    """

    def __init__(
        self, certificates: ServiceCertificates, keyring: Keyring, host: str, *, asks: bool = False
    ) -> None:
        super().__init__(certificates, keyring, host, _finish_asking if asks else _finish)

    async def refresh(self) -> ServiceCertificate | None:
        """Use the certificate that is current now, and say so when it is a new one."""
        found = await super().refresh()
        if found is not None:
            log.info(
                "HTTPS uses certificate {serial}, valid until {until}",
                serial=f"{found.certificate.serial_number:x}",
                until=found.not_after.isoformat(),
            )
        return found

    def adopt(self, reactor: Any, descriptor: int, family: int, factory: Any) -> tcp.Port:
        """Listen with TLS on a socket that is bound and listening already."""
        connect = partial(SecureConnection, handshakes=self)
        return tcp.adopt(reactor, descriptor, family, factory, connect)


def _finish(context: SSL.Context) -> None:
    context.set_alpn_select_callback(_choose_protocol)
    context.set_session_id(b"tmad https")


def _finish_asking(context: SSL.Context) -> None:
    context.set_alpn_select_callback(_choose_protocol)
    # A resumed session would carry a client certificate past its check on another listener.
    context.set_session_id(b"tmad https client")
    ask_for_certificate(context)
    remember_nobody(context)


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class ClientCertificates:
    """Decides, for each request, whether a client certificate is one of ours and good now."""

    def __init__(self, trust: Trust, status: StatusSource, now: Clock) -> None:
        self._trust = trust
        self._status = status
        self._now = now

    async def check(self, certificate_der: bytes) -> None:
        """Return for a certificate that holds now; raise Fault(UNAUTHENTICATED) otherwise.

        The status is asked anew each time: a revocation ends the next request also on a
        connection that is open already.
        """
        try:
            certificate = parsing.certificate(certificate_der)
            issuer = await self._trust.issuer_of(certificate)
        except ValueError:
            raise _refusal("cannot be read", "tls.client.malformed") from None
        if issuer is None or issuer.certificate is None:
            raise _refusal("not issued here", "tls.client.issuer")
        now = self._now()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _refusal("outside its validity", "tls.client.validity")
        try:
            check_path(issuer.chain, now)
        except Fault as fault:
            raise _refusal(f"its issuer: {fault.detail}", "tls.client.chain") from fault
        status = await self._status.of(issuer.id, certificate.serial_number)
        if status.state != "good":
            raise _refusal(status.state, "tls.client.status")


def _refusal(why: str, rule: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client certificate was not accepted",
        private=why,
        rule=rule,
        values={"why": why},
    )
