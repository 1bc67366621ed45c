"""Client certificates of TLS: whether one is ours, for clients, and good now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tmad.ca.hierarchy import Issuer
from tmad.ca.status import StatusSource
from tmad.ca.trust import Trust, check_path
from tmad.errors import Fault
from tmad.events import Clock
from tmad.wire.parsing import UNREADABLE

# Makes the refusal of a protocol: what was wrong, and that in words.
Refusal: TypeAlias = Callable[[str, str], Fault]


class CertificateCheck:
    """Judges certificates whose key a client has just used in a handshake."""

    def __init__(self, trust: Trust, status: StatusSource, now: Clock, refusal: Refusal) -> None:
        self._trust = trust
        self._status = status
        self._now = now
        self._refusal = refusal

    async def issuer_of(
        self, certificate: x509.Certificate, stranger: str, *, tenant: str | None = None
    ) -> Issuer:
        """Return who issued it for clients; ``stranger`` is said of one that is not ours."""
        try:
            issuer = await self._trust.issuer_of(certificate, tenant=tenant)
        except ValueError:
            issuer = None
        if issuer is None or not issuer.signs:
            raise self._refusal("issuer", stranger)
        try:
            check_path(issuer.chain, self._now())
        except Fault as fault:
            raise self._refusal("chain", f"its issuer: {fault.detail}") from fault
        if not _is_for_clients(certificate):
            raise self._refusal("usage", "not meant for clients (extendedKeyUsage)")
        return issuer

    async def check_standing(self, certificate: x509.Certificate, issuer_id: int) -> None:
        """Refuse one that is not valid or not good now: asked anew each time."""
        now = self._now()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise self._refusal("validity", "outside its validity")
        status = await self._status.of(issuer_id, certificate.serial_number)
        if status.state != "good":
            raise self._refusal("status", status.state)


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """Tell whether extendedKeyUsage, where it is there, allows TLS clients (RFC 5280, 4.2.1.12)."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except UNREADABLE:
        return False
    return (
        ExtendedKeyUsageOID.CLIENT_AUTH in usages
        or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages
    )
