"""Whether the client wants its certificate: certConf, and error (RFC 9810, 5.3.18 and 5.3.21)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp import bodies, codec, encrypted, keys
from tmad.protocols.cmp.bodies import CertStatus
from tmad.protocols.cmp.codec import Status
from tmad.protocols.cmp.conversation import Turn, check_nonce, is_about
from tmad.storage import certificates
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.delivery import Delivery
    from tmad.storage.certificates import CertificateRow


class Confirmation:
    """Serves what ends an enrolment."""

    def __init__(self, services: Services, delivery: Delivery) -> None:
        self._services = services
        self._delivery = delivery

    async def confirm(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Hear whether the client wants its certificate (RFC 9810, 5.3.18)."""
        if exchange is None or exchange.certificate_id is None:
            raise codec.bad_request("there is nothing to confirm", "cmp.confirm.nothing")
        if exchange.state != "unconfirmed":
            raise Fault(
                FaultCode.CONFLICT,
                "the certificate was confirmed or withdrawn before",
                rule="cmp.confirm.done",
            )
        check_nonce(turn.message, exchange)
        statuses = bodies.read_confirmation(turn.message.content)
        if len(statuses) > 1:
            raise codec.bad_request("certConf is about one certificate", "cmp.confirm.several")
        why, is_held = "certConf is empty", False
        if statuses:
            row = await self._check_hash(turn, exchange, statuses[0])
            why, is_held = _rejection(statuses[0]), await encrypted.is_held(self._services, row)
        sealed = await self._delivery.seal(turn, bodies.PKI_CONFIRM)
        if why:
            await self._services.exchanges.reject(
                exchange, why, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce
            )
        else:
            await self._services.exchanges.confirm(
                exchange,
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
                is_held=is_held,
            )
            await self._delivery.supersede(turn, exchange)
        return sealed.octets

    async def _check_hash(
        self, turn: Turn, exchange: Exchange, status: CertStatus
    ) -> CertificateRow:
        numbers = (status.id,)
        if not is_about(numbers, exchange, strict=turn.visit.options.strict):
            raise codec.bad_request("certConf is about another request", "cmp.confirm.number")
        if status.hash_algorithm is not None and turn.message.header.version < 3:
            raise codec.bad_request("hashAlg needs pvno 3", "cmp.confirm.hash-algorithm")
        row = await self._services.database.lookup(
            certificates.by_id, exchange.tenant, exchange.certificate_id or 0
        )
        assert row is not None, "certificates are never deleted"
        if not hmac.compare_digest(keys.confirmation_hash(row, status), status.hash):
            raise Fault(
                FaultCode.REJECTED,
                "certHash is not that of the certificate that was sent",
                rule="cmp.confirm.certificate",
            )
        return row

    async def fail(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Hear that a client gives up (RFC 9810, 5.3.21)."""
        status = bodies.read_error(turn.message.content)
        sealed = await self._delivery.seal(turn, bodies.PKI_CONFIRM)
        if exchange is not None and exchange.state == "unconfirmed":
            await self._services.exchanges.reject(
                exchange,
                f"error: {status.text}",
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
            )
        return sealed.octets


def _rejection(status: CertStatus) -> str:
    """Return why a client does not want its certificate; empty when it does."""
    info = status.info
    if info is None or info.status in (Status.ACCEPTED, Status.GRANTED_WITH_MODS):
        if info is not None and info.fail_info:
            raise codec.bad_request("certConf accepts and fails at once", "cmp.confirm.both")
        return ""
    if info.status != Status.REJECTION:
        raise codec.bad_request("certConf neither accepts nor rejects", "cmp.confirm.status")
    return info.text or "rejected"
