"""Who vouches for devices that come with a certificate of their manufacturer (802.1AR IDevID).

Other people's authorities and their CRLs are kept in a layer above (tmad/network).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from cryptography import x509

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Vouching(Protocol):
    """A device's certificate that a manufacturer's trust anchor vouched for."""

    @property
    def anchor(self) -> str:
        """Return the anchor's name."""

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates from the device's to the anchor's."""

    def check(self, connection: Connection, at: datetime) -> None:
        """Raise Fault(UNAUTHENTICATED) unless all of it holds as this transaction sees it."""


class Manufacturers(Protocol):
    """Who knows the manufacturers' authorities (tmad/network/manufacturers.py)."""

    async def vouch(
        self,
        tenant: str,
        anchors: Sequence[str],
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        at: datetime,
    ) -> Vouching:
        """Return what one of the anchors says of a device's certificate.

        Raise Fault(UNAUTHENTICATED) for one that does not hold, or of which nobody can tell.
        """
