"""Certificates over CMC: asked for, challenged, waited for, confirmed (RFC 10002, 6.7, 6.13, 6.14).

Nothing is kept here for a challenge or a request that waits: what a client has to bring back is
computed from its request under the appliance's master key, so that any worker goes on with it.
Where certificates must be confirmed, the conversation is written down (tmad/ca/exchanges.py).
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from tmad.ca.requests import EnrollmentRequest, Intent, Issued, Outcome, Proof
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import codec, controls, requests, witnesses
from tmad.protocols.cmc.answers import chain_of, refusal
from tmad.protocols.cmc.codec import Control, FailInfo, Status, StatusInfo
from tmad.protocols.cmc.requests import Wish
from tmad.storage import certificates
from tmad.storage import requests as rows
from tmad.wire import der, recipients
from tmad.wire.signatures import SHA256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from tmad.events import Secret
    from tmad.plugin import Services
    from tmad.protocols.cmc.turn import Turn
    from tmad.storage.exchanges import Exchange
    from tmad.wire.cms import IssuerAndSerial

_TRANSACTION: Final = 32  # octets
_SOON: Final = 1.0  # seconds: what another process is at, or was when it died
_OPENING: Final = 0  # what exchanges of CMC are begun with: there is only one thing
_REVOKED: Final = "the certificate was not confirmed in time, or rejected, and is revoked"


class Enrolment:
    """Serves requests for certificates, and what follows them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    # -- requests -----------------------------------------------------------------------------

    async def enroll(self, turn: Turn, wish: Wish) -> StatusInfo:
        """Ask the pipeline for one certificate; return what to say about it."""
        sender = turn.sender
        transaction = requests.transaction_of(wish, sender.identity, turn.transaction)
        exchange = None
        if turn.visit.options.confirm:
            exchange = await self._begin(turn, wish, transaction)
        assert wish.proof is not None, "a challenge comes first"
        try:
            outcome = await self._services.authority.enroll(
                EnrollmentRequest(
                    via="cmc",
                    endpoint=turn.visit.endpoint.id,
                    public_key=wish.public_key,
                    subject=wish.subject,
                    names=wish.names,
                    wanted=wish.wanted,
                    proof=wish.proof,
                    credential=sender.credential(wish.challenge),
                    intent=await self._intent(turn),
                    transaction=transaction.hex(),
                    peer=turn.visit.peer,
                    selector=wish.selector,
                    evidence=wish.evidence,
                )
            )
        except Fault as fault:
            if exchange is not None and exchange.state == "begun":
                await self._services.exchanges.forget(exchange)
            return refusal(fault, (wish.number,))
        try:
            return await self._tell(turn, wish.number, outcome, wish.spki, transaction, exchange)
        except Fault as fault:
            return refusal(fault, (wish.number,))

    async def _intent(self, turn: Turn) -> Intent:
        """Tell a renewal by its signer: the holder of a certificate of ours (RFC 10002, 3.2)."""
        sender = turn.sender
        if sender.known is not None or sender.shown is None or sender.is_authority:
            return Intent.ENROLL
        issuer = sender.shown.certificate.issuer.public_bytes()
        found = await self._services.hierarchy.by_subject(issuer)
        is_ours = any(each.tenant == turn.visit.endpoint.tenant for each in found)
        return Intent.RENEW if is_ours else Intent.ENROLL

    async def _tell(
        self,
        turn: Turn,
        number: int,
        outcome: Outcome,
        spki: bytes,
        transaction: bytes,
        exchange: Exchange | None,
    ) -> StatusInfo:
        visit = turn.visit
        if not isinstance(outcome, Issued):
            if exchange is not None and exchange.state == "begun" and outcome.retry_after > _SOON:
                await self._services.exchanges.wait(
                    exchange, digest=exchange.digest, answer=b"", nonce=b"", spki=spki
                )
            seconds = min(outcome.retry_after, visit.options.check_after)
            return StatusInfo(
                status=Status.PENDING,
                parts=((number,),),
                text="a person decides about it; ask again",
                token=self._token(visit.door, transaction, spki),
                again_at=self._services.now() + timedelta(seconds=max(1.0, seconds)),
            )
        status = Status.SUCCESS
        if exchange is not None:
            status = await self._expect(turn, exchange, outcome)
        issuer = await self._services.hierarchy.by_id(outcome.issuer_id)
        certificate_der = outcome.certificate.public_bytes(Encoding.DER)
        turn.reply.add([certificate_der, *chain_of(issuer.chain)])
        turn.has_issued = True
        return StatusInfo(status=status, parts=((number,),))

    # -- requests that wait -------------------------------------------------------------------

    def _token(self, door: str, transaction: bytes, spki: bytes) -> bytes:
        """Return a pendToken: all that is needed to ask, and a proof that we have made it."""
        named = transaction + spki
        stamp = self._services.secrets.stamp(f"cmc pending {door}", named)
        return stamp.reveal() + named

    async def query(self, turn: Turn, control: Control) -> StatusInfo:
        """Tell what has become of a request that waits: whoever has its token may ask."""
        token = der.content(control.value, der.OCTET_STRING)
        stamp, named = token[:32], token[32:]
        own = self._services.secrets.stamp(f"cmc pending {turn.visit.door}", named).reveal()
        if not hmac.compare_digest(stamp, own):
            raise codec.bad_request("no request waits under this token", "cmc.pending")
        transaction, spki = named[:_TRANSACTION], named[_TRANSACTION:]
        key: CertificatePublicKeyTypes = load_der_public_key(spki)  # type: ignore[assignment]  # it is in a token of ours
        outcome = await self._services.authority.poll(
            turn.visit.endpoint.id, transaction.hex(), key
        )
        if not isinstance(outcome, Issued):
            # RFC 10002, 6.13: no other pendInfo than the first one.
            return StatusInfo(status=Status.PENDING, parts=((control.id,),))
        exchange = None
        if turn.visit.options.confirm:
            exchange = await self._services.exchanges.find(turn.visit.door, transaction)
        return await self._tell(turn, control.id, outcome, spki, transaction, exchange)

    # -- possession by decryption -------------------------------------------------------------

    def check_decryption(self, turn: Turn, wish: Wish) -> Proof | None:
        """Return the proof that a client decrypted its challenge; None where it must yet.

        Fault(BAD_PROOF) for a wrong one.
        """
        for control in turn.data.of_type(codec.DECRYPTED_POP):
            found = controls.decrypted_pop(control)
            if found.request != wish.number:
                continue
            if any(
                witnesses.is_proof(found.algorithm, found.value, value, wish.tagged)
                for value in self._values(turn, wish)
            ):
                return Proof.DECRYPTION
            raise Fault(
                FaultCode.BAD_PROOF,
                "thePOP is not what the challenge's holder would have sent, or comes too late",
                rule="cmc.pop.decrypted",
            )
        return None

    def challenge(self, turn: Turn, wish: Wish) -> StatusInfo:
        """Send what only the holder of the key can decrypt (RFC 10002, 6.7)."""
        value, _ = self._values(turn, wish)
        envelope = recipients.seal_to_key(
            value.reveal(),
            wish.public_key,
            key_identifier=wish.key_identifier,
            number=wish.number,
            random=token_bytes,
        )
        control = controls.encrypted_pop(
            wish.tagged,
            envelope,
            witnesses.HMAC_SHA256,
            SHA256.algorithm,
            SHA256.of(value.reveal()),
        )
        turn.reply.controls.append((codec.ENCRYPTED_POP, control))
        return StatusInfo(
            status=Status.FAILED,
            parts=((wish.number,),),
            text="decrypt the challenge and send the request again",
            fail_info=FailInfo.POP_REQUIRED,
        )

    def _values(self, turn: Turn, wish: Wish) -> tuple[Secret, Secret]:
        """Return the proof values of now and of the period before.

        They are this sender's alone: a proof that somebody else has overheard is none.
        """
        period = 60 * turn.visit.options.challenge_minutes
        count = int(self._services.now().timestamp()) // period
        asked = hashlib.sha256(turn.sender.identity).digest() + wish.tagged
        stamp = self._services.secrets.stamp
        about = f"cmc challenge {turn.visit.door} {period}"
        return stamp(f"{about} {count}", asked), stamp(f"{about} {count - 1}", asked)

    # -- confirmation -------------------------------------------------------------------------

    async def _begin(self, turn: Turn, wish: Wish, transaction: bytes) -> Exchange:
        """Write down that a certificate will have to be confirmed, or find that it was."""
        exchanges, visit = self._services.exchanges, turn.visit
        digest = hashlib.sha256(wish.tagged).digest()
        try:
            return await exchanges.begin(
                endpoint=visit.door,
                tenant=visit.endpoint.tenant,
                transaction=transaction,
                opening=_OPENING,
                number=0,
                holder=hashlib.sha256(turn.sender.identity).digest(),
                digest=digest,
                is_implicit=False,
            )
        except Fault as fault:
            if fault.rule != "exchange.exists":
                raise
            found = await exchanges.find(visit.door, transaction)
            if found is None:
                raise
            return found

    async def _expect(self, turn: Turn, exchange: Exchange, issued: Issued) -> Status:
        if exchange.state == "unconfirmed":
            return Status.CONFIRM_REQUIRED
        if exchange.state in ("begun", "waiting"):
            until = self._services.now() + timedelta(seconds=turn.visit.options.confirm_seconds)
            await self._services.exchanges.expect(
                exchange,
                digest=exchange.digest,
                answer=b"",
                nonce=b"",
                certificate_id=issued.certificate_id,
                until=until,
            )
            return Status.CONFIRM_REQUIRED
        number = issued.certificate.serial_number
        if (await self._services.status.of(issued.issuer_id, number)).state == "good":
            return Status.SUCCESS
        raise Fault(FaultCode.CONFLICT, _REVOKED, rule="cmc.confirm.late")

    async def confirm(self, turn: Turn, control: Control) -> StatusInfo:
        """Hear whether a client wants its certificate (RFC 10002, 6.14)."""
        named = controls.certificate_id(control)
        try:
            await self._settle(turn, named)
        except Fault as fault:
            if fault.rule != "exchange.changed":
                raise
            # A copy that was served at the same time was faster: what came of it counts.
            await self._settle(turn, named)
        return StatusInfo(status=Status.SUCCESS, parts=((control.id,),))

    async def _settle(self, turn: Turn, named: IssuerAndSerial) -> None:
        exchange, issuer_id = await self._exchange_of(turn, named)
        exchanges, why = self._services.exchanges, _rejection(turn)
        if exchange.state == "unconfirmed":
            digest = exchange.digest
            if why:
                await exchanges.reject(exchange, why, digest=digest, answer=b"", nonce=b"")
            else:
                await exchanges.confirm(exchange, digest=digest, answer=b"", nonce=b"")
            return
        status = await self._services.status.of(issuer_id, named.serial)
        if exchange.state != "closed" or why or status.state != "good":
            raise Fault(
                FaultCode.CONFLICT,
                "the certificate was confirmed or withdrawn before",
                rule="cmc.confirm.done",
            )
        # Else it is a copy, whose first answer was lost.

    async def _exchange_of(self, turn: Turn, named: IssuerAndSerial) -> tuple[Exchange, int]:
        visit, database = turn.visit, self._services.database
        for issuer in await self._services.hierarchy.by_subject(named.issuer):
            row = None
            if named.serial >= 0:
                row = await database.lookup(certificates.by_serial, issuer.id, named.serial)
            if row is None or row.tenant != visit.endpoint.tenant or row.endpoint != visit.door:
                continue
            request = await database.read(rows.by_id, row.tenant, row.request_id or "")
            if request is None:
                continue
            exchange = await self._services.exchanges.find(
                visit.door, bytes.fromhex(request.transaction)
            )
            # The holder may sign with what is to be confirmed, or like the request.
            mine = hashlib.sha256(turn.author.identity).digest()
            own = hashlib.sha256(turn.author.certificate_der).digest()
            if (
                exchange is not None
                and exchange.certificate_id == row.id
                and (mine == exchange.holder or own == row.sha256)
            ):
                return exchange, issuer.id
        raise Fault(
            FaultCode.NOT_FOUND,
            "there is no such certificate to confirm",
            rule="cmc.confirm.certificate",
            values={"serial": f"{named.serial:x}"[:64]},
        )


def _rejection(turn: Turn) -> str:
    """Return why a client does not want its certificate; empty when it does."""
    for control in turn.data.of_type(codec.STATUS_INFO_V2):
        found = controls.status_info(control)
        if found.status != Status.SUCCESS:
            return found.text or "rejected"
    return ""
