"""The server's side of TLS, for LDAPS and StartTLS (RFC 4511, 4.14; RFC 4513, 3)."""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from tmad.ca.service_certificates import ServiceCertificate, ServiceCertificates
from tmad.signer.keyring import Keyring

_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"


@implementer(IOpenSSLServerConnectionCreator)
class LDAPTLS:
    """Makes the connection objects of handshakes; ``refresh`` follows a renewed certificate.

    ``asks`` asks clients for a certificate. That they have its key is settled by the
    handshake; whose it is, a bind asks.
    """

    def __init__(
        self, certificates: ServiceCertificates, keyring: Keyring, host: str, *, asks: bool
    ) -> None:
        self._certificates = certificates
        self._keyring = keyring
        self._host = host
        self._asks = asks
        self._context: SSL.Context | None = None
        self._current = 0

    @property
    def is_ready(self) -> bool:
        """Whether there is a certificate."""
        return self._context is not None

    async def refresh(self) -> None:
        """Use the certificate that is current now; open connections keep theirs."""
        found = await self._certificates.current("tls", self._host)
        if found.id != self._current:
            self._context = await self._keyring.use(
                found.key_id, lambda key: _context(found, key, asks=self._asks)
            )
            self._current = found.id

    def serverConnectionForTLS(  # noqa: N802  Twisted's name
        self, protocol: TLSMemoryBIOProtocol
    ) -> SSL.Connection:
        """Return the connection object of one handshake."""
        assert self._context is not None, "connections are refused until there is a certificate"
        return SSL.Connection(self._context, None)


def _context(found: ServiceCertificate, key: Any, *, asks: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_cipher_list(_CIPHERS)
    context.use_certificate(found.certificate)
    for above in found.chain[1:]:
        if above.subject != above.issuer:
            context.add_extra_chain_cert(above)
    context.use_privatekey(key)
    context.check_privatekey()
    if asks:
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
    # A session would carry a client certificate past the handshake that proves its key.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    return context


def _accept_any(
    connection: SSL.Connection, certificate: Any, code: int, depth: int, is_good: int
) -> bool:
    return True
