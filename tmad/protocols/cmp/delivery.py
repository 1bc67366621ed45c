"""What came of a request, on its way to the client: ip, cp, kup and pollRep.

RFC 9810, 5.3.4 and 5.3.22; RFC 9483, 4.1 and 4.4. Each answer is written down before it is sent.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.requests import Issued, KeyWish, Outcome, Pending
from tmad.errors import PASSING, Fault
from tmad.protocols.cmp import answers, bodies, codec, encrypted, keys, requests
from tmad.protocols.cmp.bodies import ANSWERS, Reply, StatusInfo
from tmad.protocols.cmp.codec import Body, FailInfo, Status
from tmad.protocols.cmp.conversation import Turn, journal_refusal
from tmad.protocols.cmp.requests import Wish
from tmad.protocols.cmp.sender import MACSender, Sender, SignatureSender
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from tmad.ca.exchanges import Exchanges
    from tmad.plugin import Services
    from tmad.protocols.cmp.answers import Answers, Sealed
    from tmad.protocols.cmp.visit import Visit
    from tmad.wire.cms import Random

_DECIDING: Final = "a person decides about it; ask again"
_WORKING: Final = "it is being worked on; ask again"
_SOON: Final = 1.0  # seconds: what another process is at, or was when it died


class Delivery:
    """Sends certificates, and tells those who wait or have waited in vain."""

    def __init__(self, services: Services, replies: Answers, random: Random) -> None:
        self._services = services
        self._answers = replies
        self._random = random

    @property
    def _exchanges(self) -> Exchanges:
        return self._services.exchanges

    async def tell(
        self, turn: Turn, exchange: Exchange, outcome: Outcome, wish: Wish | None
    ) -> bytes:
        """Answer with what came of a request; ``wish`` is None where it has waited."""
        if isinstance(outcome, Issued):
            return await self._deliver(turn, exchange, outcome, wish)
        return await self._let_wait(turn, exchange, outcome, wish)

    async def _let_wait(
        self, turn: Turn, exchange: Exchange, outcome: Pending, wish: Wish | None
    ) -> bytes:
        words = _WORKING if outcome.retry_after <= _SOON else _DECIDING
        if wish is None:
            seconds = min(int(outcome.retry_after), turn.visit.options.check_after)
            content = bodies.poll_rep(exchange.number, max(1, seconds), words)
            reply = Reply(body=Body.POLL_REP, content=content)
            spki = exchange.spki or b""
        else:
            assert not isinstance(wish.public_key, KeyWish), "such a request never waits"
            status = StatusInfo(status=Status.WAITING, text=words)
            reply = _answer(exchange, [bodies.cert_response(exchange.number, status)])
            spki = _spki_of(wish.public_key)
        sealed = await self.seal(turn, reply)
        await self._exchanges.wait(
            exchange, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce, spki=spki
        )
        return sealed.octets

    async def _deliver(
        self, turn: Turn, exchange: Exchange, issued: Issued, wish: Wish | None
    ) -> bytes:
        visit = turn.visit
        until = self._services.now() + timedelta(seconds=visit.options.confirm_seconds)
        by = None if exchange.is_implicit else until.strftime("%Y%m%d%H%M%SZ").encode()
        issuer = await self._services.hierarchy.by_id(issued.issuer_id)
        package = None
        if issued.private_key is not None:
            package = await keys.seal(
                self._services, self._answers, visit, turn.sender, issued, self._random
            )
        version = turn.message.header.version
        sealed_certificate = await encrypted.certificate_of(
            self._services, exchange, issued, wish, version, self._random
        )
        changed = wish is not None and wish.is_changed(issued.certificate)
        status = Status.GRANTED_WITH_MODS if changed else Status.ACCEPTED
        response = bodies.cert_response(
            exchange.number,
            StatusInfo(status=status),
            issued.certificate.public_bytes(Encoding.DER),
            package,
            encrypted=sealed_certificate,
        )
        roots: tuple[bytes, ...] = ()
        if exchange.opening == Body.IR and _may_have_roots(visit, turn.sender):
            roots = answers.roots_of(issuer.chain)
        reply = _answer(
            exchange,
            [response],
            roots=roots,
            info=requests.confirmation_infos(by),
            extra=answers.chain_of(issuer.chain),
            needs_2021=package is not None,
        )
        sealed = await self.seal(turn, reply)
        if exchange.is_implicit:
            await self._exchanges.close(
                exchange,
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
                certificate_id=issued.certificate_id,
            )
            await self.supersede(turn, exchange)
        else:
            await self._exchanges.expect(
                exchange,
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
                certificate_id=issued.certificate_id,
                until=until,
                is_held=sealed_certificate is not None,
            )
        return sealed.octets

    async def supersede(self, turn: Turn, exchange: Exchange) -> None:
        """Revoke what was updated, where the endpoint wants that (RFC 9483, 4.1.3)."""
        if exchange.opening != Body.KUR or not turn.visit.options.revoke_updated:
            return
        assert isinstance(turn.sender, SignatureSender), "kur has no other"
        await self._exchanges.supersede(exchange, turn.sender.sha256)

    # -- refusals -----------------------------------------------------------------------------

    async def refuse_before(self, turn: Turn, fault: Fault) -> bytes:
        """Refuse what was asked for; nothing was begun, so nothing is kept."""
        if codec.fail_info(fault) is FailInfo.UNSUPPORTED_VERSION:
            raise fault
        await journal_refusal(self._services, turn.visit, turn.message, fault)
        number = bodies.P10_ID if turn.message.body == Body.P10CR else 0
        return (await self.seal(turn, _refusal(turn.message.body, number, fault))).octets

    async def refuse(self, turn: Turn, exchange: Exchange, number: int, fault: Fault) -> bytes:
        """Refuse what was asked for, and remember it, unless it may work the next time."""
        if fault.code in PASSING:
            if exchange.request is None:
                await self._exchanges.forget(exchange)
            # else the same answer to the challenge finds it as it is
            raise fault
        sealed = await self.seal(turn, _refusal(exchange.opening, number, fault))
        await self._exchanges.close(
            exchange, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce
        )
        return sealed.octets

    async def seal(self, turn: Turn, reply: Reply) -> Sealed:
        """Return a reply to a message, protected like it."""
        return await self._answers.seal(turn.visit, turn.message.header, reply, turn.sender)


def _answer(
    exchange: Exchange,
    responses: list[bytes],
    *,
    roots: tuple[bytes, ...] = (),
    info: tuple[codec.Info, ...] = (),
    extra: tuple[bytes, ...] = (),
    needs_2021: bool = False,
) -> Reply:
    return Reply(
        body=ANSWERS[Body(exchange.opening)],
        content=bodies.cert_rep(responses, roots),
        info=info,
        extra=extra,
        needs_2021=needs_2021,
    )


def _refusal(opening: int, number: int, fault: Fault) -> Reply:
    """Return ip, cp or kup that tells a Fault about what was asked for (RFC 9483, 3.6.2)."""
    status = bodies.rejection(codec.fail_info(fault), answers.words_of(fault))
    response = bodies.cert_response(number, status)
    return Reply(body=ANSWERS[Body(opening)], content=bodies.cert_rep([response]))


def _may_have_roots(visit: Visit, sender: Sender) -> bool:
    wish = visit.options.ca_pubs
    return wish == "always" or (wish == "mac" and isinstance(sender, MACSender))


def _spki_of(key: CertificatePublicKeyTypes) -> bytes:
    """Return a key as SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
