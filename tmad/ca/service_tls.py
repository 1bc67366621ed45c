"""The server's side of TLS, with a certificate that tmad issues to itself and renews (RFC 8446).

HTTPS, RadSec and LDAP have it; what differs between them is done to the context by ``finish``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.service_records import ServiceCertificate
from tmad.signer.keyring import Keyring

# TLS 1.2 with forward secrecy and AEAD only; TLS 1.3 chooses among its own.
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"


@implementer(IOpenSSLServerConnectionCreator)
class ServiceTLS:
    """Makes the connections of handshakes; ``refresh`` puts a renewed certificate into use."""

    def __init__(
        self,
        certificates: ServiceCertificates,
        keyring: Keyring,
        host: str,
        finish: Callable[[SSL.Context], object],
    ) -> None:
        self._certificates = certificates
        self._keyring = keyring
        self._host = host
        self._finish = finish
        self._context: SSL.Context | None = None
        self._shown: tuple[x509.Certificate, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether there is a certificate."""
        return self._context is not None

    async def refresh(self) -> ServiceCertificate | None:
        """Use the certificate that is current now, and return it if it is a new one.

        Or if one above it is: clients need the chain of today. Open connections keep theirs.
        """
        found = await self._certificates.current("tls", self._host)
        if found.chain == self._shown:
            return None
        # The key stays inside the context: OpenSSL cannot reach an HSM from here, so this
        # key is always a software key (architecture, 7).
        context = await self._keyring.use(found.key_id, lambda key: _context(found, key))
        self._finish(context)
        self._context, self._shown = context, found.chain
        return found

    def serverConnectionForTLS(  # noqa: N802  Twisted's name
        self, protocol: TLSMemoryBIOProtocol
    ) -> SSL.Connection:
        """Return the connection object of one handshake, as Twisted's TLS asks for it."""
        return self.connection()

    def connection(self) -> SSL.Connection:
        """Return the connection object of one handshake."""
        assert self._context is not None, "nobody is served before there is a certificate"
        return SSL.Connection(self._context, None)


class Behind(TLSMemoryBIOFactory):
    """A factory's connections behind TLS; without a certificate yet it refuses them."""

    noisy = False

    def __init__(self, tls: ServiceTLS, factory: Any) -> None:
        super().__init__(tls, False, factory, factory.reactor)
        self._tls = tls

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802  Twisted's name
        return super().buildProtocol(addr) if self._tls.is_ready else None


def _context(found: ServiceCertificate, key: Any) -> SSL.Context:
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
    return context


def ask_for_certificate(context: SSL.Context, *, required: bool = False) -> None:
    """Ask clients for a certificate.

    Only that a client has its key is settled by the handshake; whose certificate it is, and
    whether it is good, is for whoever uses it to ask.
    """
    needed = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if required else 0
    context.set_verify(SSL.VERIFY_PEER | needed, _accept_any)


def remember_nobody(context: SSL.Context) -> None:
    """Resume no session: it would bring a client certificate back without a proof of its key."""
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)


def _accept_any(
    connection: SSL.Connection, certificate: Any, code: int, depth: int, is_good: int
) -> bool:
    return True
