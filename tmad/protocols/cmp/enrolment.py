"""Certificates over CMP: asked for, waited for, confirmed or not (RFC 9483, 4.1 and 4.4).

A conversation is written down before the pipeline is asked and after each answer
(tmad/ca/exchanges.py), so that any worker goes on with it, a lost answer is sent again, and a
certificate that nobody confirms is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tmad.ca.requests import (
    EnrollmentRequest,
    Issued,
    KeyWish,
    Outcome,
    Pending,
    Proof,
    SharedKey,
    SignedBy,
)
from tmad.errors import PASSING, Fault, FaultCode
from tmad.protocols.cmp import answers, bodies, codec, encrypted, keys, requests
from tmad.protocols.cmp.bodies import ANSWERS, CertStatus, Reply, StatusInfo
from tmad.protocols.cmp.codec import Body, FailInfo, Message, Status
from tmad.protocols.cmp.requests import Wish
from tmad.protocols.cmp.sender import MACSender, Sender, SignatureSender, check_same
from tmad.storage import certificates
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from tmad.ca.exchanges import Exchanges
    from tmad.plugin import Services
    from tmad.protocols.cmp.answers import Answers, Sealed
    from tmad.protocols.cmp.visit import Visit
    from tmad.storage.certificates import CertificateRow
    from tmad.wire.cms import Random

OPENINGS: Final = frozenset({Body.IR, Body.CR, Body.P10CR, Body.KUR})
_DECIDING: Final = "a person decides about it; ask again"
_WORKING: Final = "it is being worked on; ask again"
_SOON: Final = 1.0  # seconds: what another process is at, or was when it died


def digest_of(message: Message) -> bytes:
    """Return what tells a copy of a message from another one."""
    return hashlib.sha256(message.der).digest()


@dataclass(slots=True)
class Turn:
    """One message of a conversation, and who sent it."""

    visit: Visit
    message: Message
    sender: Sender
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.digest = digest_of(self.message)


class Enrolment:
    """Serves what begins, continues and ends an enrolment."""

    def __init__(self, services: Services, replies: Answers, random: Random) -> None:
        self._services = services
        self._answers = replies
        self._random = random

    @property
    def _exchanges(self) -> Exchanges:
        return self._services.exchanges

    # -- copies -------------------------------------------------------------------------------

    async def earlier(self, turn: Turn) -> tuple[Exchange | None, bytes | None]:
        """Return the conversation of a message's transaction, and the answer if it is a copy.

        Fault(CONFLICT) for another message under a transactionID that was used before, where
        the body is one that begins a conversation.
        """
        found = await self._exchanges.find(turn.visit.door, turn.message.transaction)
        if found is None:
            return None, None
        is_copy = found.digest == turn.digest
        if turn.message.body in OPENINGS or turn.message.body == Body.RR:
            if not is_copy or found.holder != turn.sender.identity:
                raise in_use(turn)
            if found.answer is None and found.state != "begun":
                raise in_use(turn)
            return found, found.answer
        check_same(found.holder, turn.sender)
        return found, found.answer if is_copy else None

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
        except Fault as fault:
            return await self._refuse_before(turn, fault)
        if exchange is None:
            # To confirm it is the proof, where the certificate is encrypted.
            may_be_implicit = wish.proof is not Proof.ENCRYPTED_CERTIFICATE
            exchange = await self._open(
                turn,
                wish,
                is_implicit=wants_implicit and visit.options.implicit_confirm and may_be_implicit,
            )
            if exchange.answer is not None:
                return exchange.answer
        try:
            outcome = await self._services.authority.enroll(self._request(turn, wish))
        except Fault as fault:
            return await self._refuse(turn, exchange, wish.number, fault)
        return await self._tell(turn, exchange, outcome, wish)

    async def _open(self, turn: Turn, wish: Wish, *, is_implicit: bool) -> Exchange:
        visit, message = turn.visit, turn.message
        try:
            return await self._exchanges.begin(
                endpoint=visit.door,
                tenant=visit.endpoint.tenant,
                transaction=message.transaction,
                opening=message.body,
                number=wish.number,
                holder=turn.sender.identity,
                digest=turn.digest,
                is_implicit=is_implicit,
            )
        except Fault as fault:
            if fault.rule != "exchange.exists":
                raise
        # Another worker was faster, with a copy or with something else.
        found, _ = await self.earlier(turn)
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
            credential = SharedKey(sender.reference, sender.is_secret)
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

    # -- what came of it ----------------------------------------------------------------------

    async def _tell(
        self, turn: Turn, exchange: Exchange, outcome: Outcome, wish: Wish | None
    ) -> bytes:
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
            spki = spki_of(wish.public_key)
        sealed = await self._seal(turn, reply)
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
            roots = tuple(
                each.public_bytes(Encoding.DER)
                for each in issuer.chain
                if each.issuer == each.subject
            )
        reply = _answer(
            exchange,
            [response],
            roots=roots,
            info=requests.confirmation_infos(by),
            extra=answers.chain_of(issuer.chain),
            needs_2021=package is not None,
        )
        sealed = await self._seal(turn, reply)
        if exchange.is_implicit:
            await self._exchanges.close(
                exchange,
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
                certificate_id=issued.certificate_id,
            )
            await self._supersede(turn, exchange)
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

    async def _supersede(self, turn: Turn, exchange: Exchange) -> None:
        """Revoke what was updated, where the endpoint wants that (RFC 9483, 4.1.3)."""
        if exchange.opening != Body.KUR or not turn.visit.options.revoke_updated:
            return
        assert isinstance(turn.sender, SignatureSender), "kur has no other"
        await self._exchanges.supersede(exchange, turn.sender.sha256)

    # -- refusals -----------------------------------------------------------------------------

    async def _refuse_before(self, turn: Turn, fault: Fault) -> bytes:
        """Refuse what was asked for; nothing was begun, so nothing is kept."""
        if codec.fail_info(fault) is FailInfo.UNSUPPORTED_VERSION:
            raise fault
        await journal_refusal(self._services, turn.visit, turn.message, fault)
        number = bodies.P10_ID if turn.message.body == Body.P10CR else 0
        return (await self._seal(turn, _refusal(turn.message.body, number, fault))).octets

    async def _refuse(self, turn: Turn, exchange: Exchange, number: int, fault: Fault) -> bytes:
        """Refuse what was asked for, and remember it, unless it may work the next time."""
        if fault.code in PASSING:
            await self._exchanges.forget(exchange)
            raise fault
        sealed = await self._seal(turn, _refusal(exchange.opening, number, fault))
        await self._exchanges.close(
            exchange, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce
        )
        return sealed.octets

    # -- pollReq ------------------------------------------------------------------------------

    async def poll(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Tell what has become of a request that waits (RFC 9483, 4.4)."""
        if exchange is None or exchange.state != "waiting" or exchange.spki is None:
            raise codec.bad_request("nothing waits in this transaction", "cmp.poll")
        check_nonce(turn.message, exchange)
        numbers = bodies.read_poll(turn.message.content)
        if not _is_about(numbers, exchange, strict=turn.visit.options.strict):
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
            await journal_refusal(self._services, turn.visit, turn.message, fault)
            return await self._refuse(turn, exchange, exchange.number, fault)
        return await self._tell(turn, exchange, outcome, None)

    # -- certConf and error -------------------------------------------------------------------

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
        sealed = await self._seal(turn, bodies.PKI_CONFIRM)
        if why:
            await self._exchanges.reject(
                exchange, why, digest=turn.digest, answer=sealed.octets, nonce=sealed.nonce
            )
        else:
            await self._exchanges.confirm(
                exchange,
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
                is_held=is_held,
            )
            await self._supersede(turn, exchange)
        return sealed.octets

    async def _check_hash(
        self, turn: Turn, exchange: Exchange, status: CertStatus
    ) -> CertificateRow:
        numbers = (status.id,)
        if not _is_about(numbers, exchange, strict=turn.visit.options.strict):
            raise codec.bad_request("certConf is about another request", "cmp.confirm.number")
        if status.hash_algorithm is not None and turn.message.header.version < 3:
            raise codec.bad_request("hashAlg needs pvno 3", "cmp.confirm.hash-algorithm")
        row = await self._services.database.lookup(
            certificates.by_id, exchange.tenant, exchange.certificate_id or 0
        )
        assert row is not None, "certificates are never deleted"
        assert row.certificate_der is not None, "it was sent"
        if not hmac.compare_digest(
            keys.confirmation_hash(row.certificate_der, status), status.hash
        ):
            raise Fault(
                FaultCode.REJECTED,
                "certHash is not that of the certificate that was sent",
                rule="cmp.confirm.certificate",
            )
        return row

    async def fail(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Hear that a client gives up (RFC 9810, 5.3.21)."""
        status = bodies.read_error(turn.message.content)
        sealed = await self._seal(turn, bodies.PKI_CONFIRM)
        if exchange is not None and exchange.state == "unconfirmed":
            await self._exchanges.reject(
                exchange,
                f"error: {status.text}",
                digest=turn.digest,
                answer=sealed.octets,
                nonce=sealed.nonce,
            )
        return sealed.octets

    async def _seal(self, turn: Turn, reply: Reply) -> Sealed:
        return await self._answers.seal(turn.visit, turn.message.header, reply, turn.sender)


def check_nonce(message: Message, exchange: Exchange) -> None:
    """Check that a message follows our last one (RFC 9483, 3.5)."""
    repeated = message.header.recipient_nonce
    if repeated is None or not hmac.compare_digest(repeated, exchange.nonce):
        raise codec.bad_request(
            "recipNonce must repeat the senderNonce of the last answer", "cmp.nonce.recipient"
        )


def _is_about(numbers: tuple[int, ...], exchange: Exchange, *, strict: bool) -> bool:
    if numbers == (exchange.number,):
        return True
    # Some clients say 0 about what a PKCS#10 asked for (RFC 9483, erratum 8806).
    return not strict and exchange.number == bodies.P10_ID and numbers == (0,)


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


def in_use(turn: Turn) -> Fault:
    """Return the Fault for a transactionID that was used before (RFC 9483, 3.5)."""
    return Fault(
        FaultCode.CONFLICT,
        "this transactionID is in use",
        rule="cmp.transaction.in-use",
        values={"transaction": turn.message.transaction.hex()},
    )


def spki_of(key: CertificatePublicKeyTypes) -> bytes:
    """Return a key as SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def journal_refusal(services: Services, visit: Visit, message: Message, fault: Fault) -> None:
    """Write down a refusal that the core has not written down itself."""
    if fault.explain_id:
        return
    await services.journal.refuse(
        fault,
        tenant=visit.endpoint.tenant,
        actor=visit.door,
        object=f"endpoint/{visit.door}",
        data={
            "via": "cmp",
            "peer": visit.peer,
            "body": message.body,
            "transaction": message.transaction.hex()[:128],
        },
    )
