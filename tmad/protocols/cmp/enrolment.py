"""Certificates over CMP: asked for and waited for (RFC 9483, 4.1 and 4.4).

A conversation is written down before the pipeline is asked and after each answer
(tmad/ca/exchanges.py), so that any worker goes on with it, a lost answer is sent again, and a
certificate that nobody confirms is revoked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import load_der_public_key

from tmad.ca.requests import EnrollmentRequest, Proof, SharedKey, SignedBy
from tmad.errors import PASSING, Fault, FaultCode
from tmad.protocols.cmp import bodies, codec, encrypted, keys, requests
from tmad.protocols.cmp.codec import Body
from tmad.protocols.cmp.conversation import (
    Turn,
    check_nonce,
    earlier,
    in_use,
    is_about,
    journal_refusal,
)
from tmad.protocols.cmp.requests import Wish
from tmad.protocols.cmp.sender import MACSender, SignatureSender
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from tmad.ca.exchanges import Challenge
    from tmad.plugin import Services
    from tmad.protocols.cmp.challenges import Challenges
    from tmad.protocols.cmp.delivery import Delivery
    from tmad.wire.cms import Random


class Enrolment:
    """Serves what begins and continues an enrolment."""

    def __init__(
        self, services: Services, delivery: Delivery, challenges: Challenges, random: Random
    ) -> None:
        self._services = services
        self._delivery = delivery
        self._challenges = challenges
        self._random = random

    # -- ir, cr, kur, p10cr -------------------------------------------------------------------

    async def begin(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Serve a request; ``exchange`` is what a copy of it left behind, without an answer."""
        visit, message, sender = turn.visit, turn.message, turn.sender
        if message.body == Body.KUR and not isinstance(sender, SignatureSender):
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "an update is signed with the certificate that it updates",
                rule="cmp.protection.kind",
            )
        wants_implicit = requests.wants_implicit_confirm(message)
        try:
            wish = await self._read(turn)
            keys.check_receiver(wish, sender)
            encrypted.check(
                wish, message.header.version,
                is_allowed=visit.options.encrypted_certificates, random=self._random,
            )  # fmt: skip
            challenge = await self._challenges.make(turn, wish) if exchange is None else None
        except Fault as fault:
            return await self._delivery.refuse_before(turn, fault)
        if exchange is None:
            # To confirm it is the proof, where the certificate is encrypted.
            may_be_implicit = wish.proof is not Proof.ENCRYPTED_CERTIFICATE
            exchange = await self._open(
                turn,
                wish,
                is_implicit=wants_implicit and visit.options.implicit_confirm and may_be_implicit,
                challenge=challenge,
            )
            if exchange.answer is not None:
                return exchange.answer
        return await self._enroll(turn, exchange, wish)

    async def _enroll(self, turn: Turn, exchange: Exchange, wish: Wish) -> bytes:
        try:
            outcome = await self._services.authority.enroll(self._request(turn, wish))
        except Fault as fault:
            return await self._delivery.refuse(turn, exchange, wish.number, fault)
        return await self._delivery.tell(turn, exchange, outcome, wish)

    async def _open(
        self, turn: Turn, wish: Wish, *, is_implicit: bool, challenge: Challenge | None
    ) -> Exchange:
        visit, message = turn.visit, turn.message
        try:
            return await self._services.exchanges.begin(
                endpoint=visit.door,
                tenant=visit.endpoint.tenant,
                transaction=message.transaction,
                opening=message.body,
                number=wish.number,
                holder=turn.sender.identity,
                digest=turn.digest,
                is_implicit=is_implicit,
                challenge=challenge,
            )
        except Fault as fault:
            if fault.rule != "exchange.exists":
                raise
        # Another worker was faster, with a copy or with something else.
        found, _ = await earlier(self._services, turn)
        if found is None:
            raise in_use(turn)
        return found

    async def _read(self, turn: Turn) -> Wish:
        visit, message = turn.visit, turn.message
        if message.body == Body.P10CR:
            return requests.read_pkcs10(message, visit.options.policy)
        generations = await self._services.hierarchy.generations(
            visit.endpoint.tenant, visit.endpoint.document.authority
        )
        return requests.read_crmf(
            message,
            turn.sender,
            issuers={issuer.subject_der for issuer in generations},
            policy=visit.options.policy,
            strict=visit.options.strict,
        )

    @staticmethod
    def _request(turn: Turn, wish: Wish) -> EnrollmentRequest:
        sender = turn.sender
        credential: SharedKey | SignedBy
        if isinstance(sender, MACSender):
            credential = SharedKey(sender.reference, sender.is_secret, sender.row)
        else:
            credential = SignedBy(sender.certificate, wish.challenge, sender.chain)
        return EnrollmentRequest(
            via="cmp",
            endpoint=turn.visit.endpoint.id,
            public_key=wish.public_key,
            subject=wish.subject,
            names=wish.names,
            wanted=wish.wanted,
            proof=wish.proof,
            credential=credential,
            intent=wish.intent,
            transaction=turn.message.transaction.hex(),
            peer=turn.visit.peer,
            selector=wish.selector,
            evidence=wish.evidence,
        )

    # -- popdecr ------------------------------------------------------------------------------

    async def answer(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Serve the request whose challenge a client has answered (RFC 9810, 5.2.8.3.3)."""
        try:
            exchange, request = self._challenges.solve(turn, exchange)
        except Fault as fault:
            if fault.code is not FaultCode.BAD_PROOF or exchange is None:
                raise
            return await self._refuse(turn, exchange, fault)
        if exchange.state == "challenged":
            exchange = await self._resume(turn, exchange)
        try:
            wish = await self._read(Turn(turn.visit, request, turn.sender))
        except Fault as fault:
            return await self._refuse(turn, exchange, fault)
        return await self._enroll(turn, exchange, wish)

    async def _resume(self, turn: Turn, exchange: Exchange) -> Exchange:
        try:
            return await self._services.exchanges.resume(exchange, digest=turn.digest)
        except Fault as fault:
            if fault.rule != "exchange.changed":
                raise
            found, _ = await earlier(self._services, turn)
            if found is None or found.state != "begun" or found.digest != turn.digest:
                raise
            # Another worker was faster with a copy.
            return found

    async def _refuse(self, turn: Turn, exchange: Exchange, fault: Fault) -> bytes:
        """Refuse what the pipeline has not judged."""
        await journal_refusal(self._services, turn.visit, turn.message, fault)
        return await self._delivery.refuse(turn, exchange, exchange.number, fault)

    # -- pollReq ------------------------------------------------------------------------------

    async def poll(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Tell what has become of a request that waits (RFC 9483, 4.4)."""
        if exchange is None or exchange.state != "waiting" or exchange.spki is None:
            raise codec.bad_request("nothing waits in this transaction", "cmp.poll")
        check_nonce(turn.message, exchange)
        numbers = bodies.read_poll(turn.message.content)
        if not is_about(numbers, exchange, strict=turn.visit.options.strict):
            raise codec.bad_request("pollReq asks about another request", "cmp.poll")
        key: CertificatePublicKeyTypes = load_der_public_key(exchange.spki)  # type: ignore[assignment]  # it was certified
        try:
            outcome = await self._services.authority.poll(
                turn.visit.endpoint.id, turn.message.transaction.hex(), key
            )
        except Fault as fault:
            if fault.code in PASSING:
                raise
            if fault.rule == "request.absent":
                # The process that was at it has died, and what it began was given up.
                fault = Fault(
                    FaultCode.INTERNAL, "the request was lost; begin anew", rule="cmp.poll.lost"
                )
            return await self._refuse(turn, exchange, fault)
        return await self._delivery.tell(turn, exchange, outcome, None)
