"""Our side of TLS with a collector (RFC 5425, 4.2 and 5; RFC 9662): who it is, who we are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from zope.interface import implementer

# TLS 1.2 with forward secrecy and AEAD only; TLS 1.3 chooses among its own.
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"

# Twisted leaves these untyped.
_certificate: Any = Certificate
_trust_root: Any = trustRootFromCertificates


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate that we show, first in its chain, and its key."""

    chain: tuple[x509.Certificate, ...]
    key: Any


def options(
    name: str, anchors: Sequence[x509.Certificate], identity: Identity | None
) -> IOpenSSLClientConnectionCreator:
    """Return what makes connections to a collector that proves ``name``.

    Without ``anchors`` those that this machine trusts vouch for it.
    """
    own: dict[str, Any] = {}
    if identity is not None:
        own = {
            "privateKey": identity.key,
            "certificate": identity.chain[0],
            "extraCertChain": [c for c in identity.chain[1:] if c.subject != c.issuer],
        }
    trust = _trust_root([_certificate(X509.from_cryptography(c)) for c in anchors])
    made: IOpenSSLClientConnectionCreator = optionsForClientTLS(
        name, trust if anchors else None, extraCertificateOptions=own
    )
    return made


@implementer(IOpenSSLClientConnectionCreator)
class Pinned:
    """Makes connections to a collector whose certificate is known by its fingerprint.

    The handshake proves that it has the key; whose certificate that is, the link looks at
    before it sends anything (RFC 5425, 4.2.2).
    """

    def __init__(self, name: str, identity: Identity | None) -> None:
        self._name = name
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(_CIPHERS)
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        if identity is not None:
            context.use_certificate(identity.chain[0])
            for above in identity.chain[1:]:
                if above.subject != above.issuer:
                    context.add_extra_chain_cert(above)
            context.use_privatekey(identity.key)
            context.check_privatekey()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        """Return the connection object of one handshake."""
        connection = SSL.Connection(self._context, None)
        if not self._name.replace(".", "").isdigit() and ":" not in self._name:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


def _accept_any(
    connection: SSL.Connection, certificate: Any, code: int, depth: int, is_good: int
) -> bool:
    return True
