"""Revocation over CMC (RFC 10002, 6.11): signed by the holder or an authority, or by passphrase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmad.ca.revocation import COMPROMISES
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import controls
from tmad.protocols.cmc.codec import Control, Status, StatusInfo

if TYPE_CHECKING:
    from datetime import datetime

    from tmad.ca.revocation import Effect
    from tmad.plugin import Services
    from tmad.protocols.cmc.controls import RevokeRequest
    from tmad.protocols.cmc.turn import Turn


class Revoking:
    """Serves revokeRequest."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def revoke(self, turn: Turn, control: Control) -> StatusInfo:
        """Revoke what a control names; what is so already is no error, since it may be a copy."""
        wish = controls.revoke_request(control)
        if wish.reason == Reason.REMOVE_FROM_CRL:
            raise Fault(
                FaultCode.FORBIDDEN,
                "a certificate on hold is released by an administrator",
                rule="cmc.revocation.revive",
            )
        if wish.passphrase is not None:
            await self._by_passphrase(turn, wish)
        else:
            await self._by_signature(turn, wish)
        return StatusInfo(status=Status.SUCCESS, parts=((control.id,),))

    async def _by_signature(self, turn: Turn, wish: RevokeRequest) -> Effect:
        author = turn.author
        if author.shown is None or not author.is_whole:
            # An identity proof covers requests only: nobody stands behind this control.
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "a revocation is signed with a certificate of the holder or of a registration "
                "authority, or brings the passphrase",
                rule="cmc.revocation.unsigned",
            )
        return await self._services.revocation.revoke_by_holder(
            turn.visit.endpoint,
            author.shown.certificate,
            wish.certificate.issuer,
            wish.certificate.serial,
            wish.reason,
            invalidity_date=_suspected_since(wish),
        )

    async def _by_passphrase(self, turn: Turn, wish: RevokeRequest) -> Effect:
        visit, secrets = turn.visit, self._services.secrets
        assert wish.passphrase is not None, "the caller has asked"
        policy = visit.endpoint.document.challenge
        secrets.admit(visit.door, visit.peer, policy)
        try:
            return await self._services.revocation.revoke_by_secret(
                visit.endpoint,
                secrets.digest(visit.door, wish.passphrase),
                wish.certificate.issuer,
                wish.certificate.serial,
                wish.reason,
                invalidity_date=_suspected_since(wish),
            )
        except Fault as fault:
            if fault.code is FaultCode.UNAUTHENTICATED:
                await secrets.note_failure(visit.door, visit.endpoint.tenant, visit.peer, policy)
            raise


def _suspected_since(wish: RevokeRequest) -> datetime | None:
    """Return the invalidity date, which is at our discretion: of a compromise it matters."""
    return wish.invalidity_date if wish.reason in COMPROMISES else None
