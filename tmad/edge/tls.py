"""TLS of our own listeners: a certificate that tmad issues to itself and renews (RFC 8446)."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from tmad.ca.service_certificates import ServiceCertificate, ServiceCertificates
from tmad.ca.status import StatusSource
from tmad.ca.trust import Trust, check_path
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.signer.keyring import Keyring

log = Logger()

# TLS 1.2 with forward secrecy and AEAD only; TLS 1.3 chooses among its own.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The server side of one listener; ``refresh`` puts a renewed certificate into use.

    ``asks`` asks clients for a certificate. A handshake proves that the client has its key;
    whether we trust the certificate is ClientCertificates' question, for each request.
    """

    def __init__(
        self, certificates: ServiceCertificates, keyring: Keyring, host: str, *, asks: bool = False
    ) -> None:
        self._certificates = certificates
        self._keyring = keyring
        self._host = host
        self._asks = asks
        self._context: SSL.Context | None = None
        self._current = 0

    async def refresh(self) -> None:
        """Use the certificate that is current now; open connections keep theirs."""
        found = await self._certificates.current("tls", self._host)
        if found.id == self._current:
            return
        # The key stays inside the context: OpenSSL cannot reach an HSM from here, so this
        # key is always a software key (architecture, 7).
        self._context = await self._keyring.use(
            found.key_id, lambda key: _context(found, key, asks=self._asks)
        )
        self._current = found.id
        log.info(
            "HTTPS uses certificate {serial}, valid until {until}",
            serial=f"{found.certificate.serial_number:x}",
            until=found.not_after.isoformat(),
        )

    @property
    def is_ready(self) -> bool:
        """Whether there is a certificate."""
        return self._context is not None

    def serverConnectionForTLS(  # noqa: N802  Twisted's name
        self, protocol: TLSMemoryBIOProtocol
    ) -> SSL.Connection:
        """Return the connection object of one handshake."""
        assert self._context is not None, "the listener opens once there is a certificate"
        return SSL.Connection(self._context, None)

    def wrap(self, factory: Any, reactor: Any) -> TLSMemoryBIOFactory:
        """Return ``factory`` behind TLS."""
        wrapped = TLSMemoryBIOFactory(self, False, factory, reactor)
        wrapped.noisy = False
        return wrapped


def _context(found: ServiceCertificate, key: Any, *, asks: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_cipher_list(_CIPHERS)
    context.use_certificate(found.certificate)
    for above in found.chain[1:]:
        # A root is trusted or it is not; sending it changes nothing.
        if above.subject != above.issuer:
            context.add_extra_chain_cert(above)
    context.use_privatekey(key)
    context.check_privatekey()
    context.set_alpn_select_callback(_choose_protocol)
    # A resumed session would carry a client certificate past its check on another listener.
    context.set_session_id(b"tmad https client" if asks else b"tmad https")
    if asks:
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # A ticket would bring the certificate back without a proof that its key is still there.
        context.set_options(SSL.OP_NO_TICKET)
    return context


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _accept_any(
    connection: SSL.Connection, certificate: Any, code: int, depth: int, is_good: int
) -> bool:
    # Only that the key signed is settled here; see ClientCertificates.
    return True


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
            certificate = x509.load_der_x509_certificate(certificate_der)
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
