"""The peer of a TLS connection, for doors that judge it themselves."""

from __future__ import annotations

from functools import cached_property
from typing import Final

from OpenSSL import SSL, crypto

_MOST = 12  # certificates above the client's own
_EXPORTER: Final = b"EXPORTER-Channel-Binding"  # RFC 9266, 2
_EXPORTED: Final = 32  # octets


class PeerSession:
    """One finished handshake; each question is answered once and remembered."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    @cached_property
    def certificates(self) -> tuple[bytes, ...]:
        """The client's certificates, its own first."""
        own = self._connection.get_peer_certificate()
        if own is None:
            return ()
        above = self._connection.get_peer_cert_chain() or ()
        found = [crypto.dump_certificate(crypto.FILETYPE_ASN1, each) for each in (own, *above)]
        # Some versions of OpenSSL name the client's own once more.
        return tuple(dict.fromkeys(found[: _MOST + 1]))

    @cached_property
    def bindings(self) -> tuple[bytes, ...]:
        """What only the two ends of this connection know."""
        connection = self._connection
        if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return (connection.export_keying_material(_EXPORTER, _EXPORTED, b""),)
        # tls-unique is the first Finished: the client's, or ours where a session is resumed.
        # Both are secrets of this connection, so either binds to it.
        found = (connection.get_peer_finished(), connection.get_finished())
        return tuple(each for each in found if each)

    @property
    def strength(self) -> int:
        """The length of the cipher's key, in bits."""
        return self._connection.get_cipher_bits() or 0
