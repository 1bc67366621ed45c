"""Certificates and CRLs that clients ask for (RFC 10002, 6.9 and 6.10)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import controls
from tmad.protocols.cmc.codec import Control, Status, StatusInfo
from tmad.storage import certificates
from tmad.wire import der

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Issuer
    from tmad.plugin import Services
    from tmad.protocols.cmc.turn import Turn
    from tmad.storage.certificates import CertificateRow


class Lookups:
    """Serves getCert and getCRL."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def certificate(self, turn: Turn, control: Control) -> StatusInfo:
        """Send a certificate to its holder, or to a registration authority.

        To others it does not exist: getCert is not for looking around.
        """
        wish = controls.get_cert(control)
        author = turn.author
        if author.known is not None:
            # Who has used up a secret has a certificate to ask with.
            self._services.secrets.check_usable(author.known.row)
        if not author.is_whole:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "a certificate is told to somebody who signs with one, or by a shared secret",
                rule="cmc.lookup.unsigned",
            )
        for issuer in await self._issuers(turn, wish.issuer):
            row = None
            if wish.serial >= 0:
                row = await self._services.database.lookup(
                    certificates.by_serial, issuer.id, wish.serial
                )
            if row is not None and row.certificate_der is not None and _may_see(turn, row):
                turn.reply.add([row.certificate_der])
                return StatusInfo(status=Status.SUCCESS, parts=((control.id,),))
        raise Fault(
            FaultCode.NOT_FOUND,
            "there is no such certificate",
            rule="cmc.lookup.certificate",
            values={"serial": f"{wish.serial:x}"[:64]},
        )

    async def crl(self, turn: Turn, control: Control) -> StatusInfo:
        """Send the CRL of one of the endpoint's authorities: it is public."""
        wish = controls.get_crl(control)
        found = False
        for issuer in await self._issuers(turn, wish.issuer):
            address = self._services.hierarchy.urls(issuer).crl.encode()
            if not issuer.signs or wish.name not in (None, der.tlv(0x86, address)):
                continue
            crl = await self._services.crls.current(issuer.id)
            if wish.at is not None and wish.at < crl.this_update:
                continue
            found = True
            if crl.der not in turn.reply.crls:
                turn.reply.crls.append(crl.der)
        if not found:
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such CRL; only the last one is kept here",
                rule="cmc.lookup.crl",
            )
        return StatusInfo(status=Status.SUCCESS, parts=((control.id,),))

    async def _issuers(self, turn: Turn, name: bytes) -> list[Issuer]:
        """Return the keys of a name that the endpoint has to do with."""
        document = turn.visit.endpoint.document
        listed = (document.authority, *document.renewal.authorities)
        return [
            issuer
            for issuer in await self._services.hierarchy.by_subject(name)
            if issuer.tenant == turn.visit.endpoint.tenant and issuer.authority in listed
        ]


def _may_see(turn: Turn, row: CertificateRow) -> bool:
    author = turn.author
    if turn.visit.options.open_getcert:
        return True
    if author.shown is None:
        return False
    if author.is_authority:
        return row.endpoint == turn.visit.door
    key = author.shown.certificate.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return row.spki_sha256 == hashlib.sha256(spki).digest()
