"""Revocation over CMP: rr and rp (RFC 9810, 5.3.9 and 5.3.10; RFC 9483, 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.status import Reason
from tmad.errors import PASSING, Fault, FaultCode
from tmad.protocols.cmp import answers, bodies, codec
from tmad.protocols.cmp.bodies import Reply, RevocationWish, StatusInfo
from tmad.protocols.cmp.codec import Body, Status
from tmad.protocols.cmp.conversation import Turn, in_use, journal_refusal
from tmad.protocols.cmp.sender import SignatureSender
from tmad.storage import certificates
from tmad.storage.exchanges import Exchange
from tmad.wire import cms, crmf
from tmad.wire.cms import IssuerAndSerial

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.answers import Answers

_MOST: Final = 20  # certificates in one message


@dataclass(frozen=True, slots=True)
class _Target:
    """One certificate that is to be revoked, and why."""

    certificate: IssuerAndSerial
    reason: int


class Revoking:
    """Serves rr."""

    def __init__(self, services: Services, replies: Answers) -> None:
        self._services = services
        self._answers = replies

    async def revoke(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Revoke what a message names; ``exchange`` is what a copy of it left behind."""
        if not isinstance(turn.sender, SignatureSender):
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "a revocation is signed by the certificate's holder or a registration authority",
                rule="cmp.protection.kind",
            )
        wishes = bodies.read_revocations(turn.message.content)
        if len(wishes) > (1 if turn.visit.options.strict else _MOST):
            raise codec.bad_request("rr names too many certificates", "cmp.revocation.several")
        is_copy = exchange is not None
        if exchange is None:
            exchange = await self._begin(turn)
            if exchange.answer is not None:
                return exchange.answer
        statuses: list[StatusInfo] = []
        named: list[bytes] = []
        for wish in wishes:
            try:
                target = await self._revoke(turn, turn.sender, wish, is_copy=is_copy)
            except Fault as fault:
                if fault.code in PASSING:
                    await self._services.exchanges.forget(exchange)
                    raise
                await journal_refusal(self._services, turn.visit, turn.message, fault)
                words = answers.words_of(fault)
                statuses.append(bodies.rejection(codec.fail_info(fault), words))
            else:
                statuses.append(StatusInfo(status=Status.ACCEPTED))
                named.append(crmf.cert_id(target.certificate))
        if len(named) < len(wishes):
            named = []  # rp has them for all or for none, else nobody knows which is which
        reply = Reply(body=Body.RP, content=bodies.rev_rep(statuses, named))
        sealed = await self._answers.seal(turn.visit, turn.message.header, reply, turn.sender)
        await self._services.exchanges.close(
            exchange, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce
        )
        return sealed.octets

    async def _begin(self, turn: Turn) -> Exchange:
        visit, message = turn.visit, turn.message
        try:
            return await self._services.exchanges.begin(
                endpoint=visit.door,
                tenant=visit.endpoint.tenant,
                transaction=message.transaction,
                opening=message.body,
                number=0,
                holder=turn.sender.identity,
                digest=turn.digest,
                is_implicit=True,
            )
        except Fault as fault:
            if fault.rule != "exchange.exists":
                raise
        found = await self._services.exchanges.find(visit.door, message.transaction)
        if found is None or found.digest != turn.digest:
            raise in_use(turn)
        return found

    async def _revoke(
        self, turn: Turn, sender: SignatureSender, wish: RevocationWish, *, is_copy: bool
    ) -> _Target:
        target = _target(wish)
        if not await self._matches(turn, wish, target):
            raise Fault(
                FaultCode.NOT_FOUND,
                "the template does not fit the certificate that it names",
                rule="cmp.revocation.certificate",
                values={"serial": f"{target.certificate.serial:x}"},
            )
        effect = await self._services.revocation.revoke_by_holder(
            turn.visit.endpoint,
            sender.certificate,
            target.certificate.issuer,
            target.certificate.serial,
            target.reason,
        )
        if not effect.has_changed and not is_copy:
            raise Fault(
                FaultCode.CONFLICT,
                "the certificate is revoked already",
                rule="cmp.revocation.done",
                values={"serial": f"{target.certificate.serial:x}"},
            )
        return target

    async def _matches(self, turn: Turn, wish: RevocationWish, target: _Target) -> bool:
        """Tell whether what the template says besides issuer and serial number is so.

        A certificate that is not found fits: that is for the core to tell.
        """
        template = wish.template
        if template.subject is None and template.public_key is None:
            return True
        for issuer in await self._services.hierarchy.by_subject(target.certificate.issuer):
            row = await self._services.database.lookup(
                certificates.by_serial, issuer.id, target.certificate.serial
            )
            if row is None or row.certificate_der is None:
                continue
            if row.tenant != turn.visit.endpoint.tenant:
                continue
            if template.subject not in (None, cms.subject_of(row.certificate_der)):
                return False
            key = x509.load_der_x509_certificate(row.certificate_der).public_key()
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return template.public_key in (None, spki)
        return True


def _target(wish: RevocationWish) -> _Target:
    template = wish.template
    if template.issuer is None or template.serial is None:
        raise Fault(
            FaultCode.REJECTED,
            "the certificate is named by its issuer and its serial number",
            rule="cmp.revocation.information",
        )
    if template.serial < 0:
        # RFC 5280, 4.1.2.2: no serial number of ours is negative, and storage knows none.
        raise Fault(
            FaultCode.NOT_FOUND, "there is no such certificate", rule="cmp.revocation.certificate"
        )
    if len(wish.reasons) > 1:
        raise codec.bad_request("rr gives more than one reason", "cmp.revocation.several")
    reason = wish.reasons[0] if wish.reasons else Reason.UNSPECIFIED.value
    if reason == Reason.REMOVE_FROM_CRL:
        raise Fault(
            FaultCode.FORBIDDEN,
            "a certificate on hold is released by an administrator",
            rule="cmp.revocation.revive",
        )
    return _Target(IssuerAndSerial(template.issuer, template.serial), reason)
