"""One PKIData from its layers to its reply: the order of RFC 10002, 3.2.1 (spec CMC-21).

Everything that can be refused without doing anything is refused first, and then nothing is done:
layers, identity, controls, proofs of possession. Then each request is the pipeline's, and each
has a status of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca.endpoint import journal_refusal
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import authorities, codec, controls, layers, requests, witnesses
from tmad.protocols.cmc.answers import Answer, Answers, Reply, refusal
from tmad.protocols.cmc.codec import (
    Control,
    FailInfo,
    Path,
    PKIData,
    Status,
    StatusInfo,
    TaggedRequest,
)
from tmad.protocols.cmc.enrolment import Enrolment
from tmad.protocols.cmc.envelope import Envelopes
from tmad.protocols.cmc.layers import Enveloped, Layer
from tmad.protocols.cmc.lookups import Lookups
from tmad.protocols.cmc.requests import Wish
from tmad.protocols.cmc.revoking import Revoking
from tmad.protocols.cmc.senders import Sender, Senders
from tmad.protocols.cmc.turn import NO_NOTES, Notes, Refused, Turn
from tmad.wire import der
from tmad.wire.authenticated import AuthenticatedData
from tmad.wire.cms import Random
from tmad.wire.signatures import SHA256

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmc.visit import Visit

_MOST_REQUESTS: Final = 100  # in one PKIData
_MOST_LAYERS: Final = 4  # of registration authorities
_NONCE: Final = 16  # octets

_Serving: TypeAlias = "Callable[[Turn, Control], Awaitable[StatusInfo]]"

# Those that only say something about others, or are repeated: read where they are needed.
_ABOUT_OTHERS: Final = frozenset(
    {
        codec.IDENTIFICATION,
        codec.IDENTITY_PROOF,
        codec.IDENTITY_PROOF_V2,
        codec.DATA_RETURN,
        codec.TRANSACTION_ID,
        codec.SENDER_NONCE,
        codec.RECIPIENT_NONCE,
        codec.DECRYPTED_POP,
        codec.REG_INFO,
        codec.POP_LINK_RANDOM,
        codec.STATUS_INFO,
        codec.STATUS_INFO_V2,
    }
)
# Known, and not done here.
_UNSUPPORTED: Final = frozenset({codec.PUBLISH_CERT, codec.AUTH_DATA})
# RFC 10002, 6.11 and 6.14
_ANSWERED_IN_FULL: Final = (codec.REVOKE_REQUEST, codec.CONFIRM_CERT_ACCEPTANCE)


class Serving:
    """Serves PKIData, whatever is around it."""

    def __init__(
        self, services: Services, senders: Senders, answers: Answers, random: Random
    ) -> None:
        self._services = services
        self._senders = senders
        self._answers = answers
        self._random = random
        self._envelopes = Envelopes(services)
        self._enrolment = Enrolment(services)
        revoking, lookups = Revoking(services), Lookups(services)
        # In this order: what cannot do harm first, and what cannot be undone last.
        self._controls: Mapping[bytes, _Serving] = {
            codec.GET_CERT: lookups.certificate,
            codec.GET_CRL: lookups.crl,
            codec.QUERY_PENDING: self._enrolment.query,
            codec.CONFIRM_CERT_ACCEPTANCE: self._enrolment.confirm,
            codec.REVOKE_REQUEST: revoking.revoke,
        }
        self._known = (
            _ABOUT_OTHERS | authorities.CONTROLS | _UNSUPPORTED | frozenset(self._controls)
        )

    async def serve(
        self, visit: Visit, content_info: bytes, notes: Notes = NO_NOTES, depth: int = 0
    ) -> Answer:
        """Return the answer to one full request, in DER; Faults only for what is no CMS at all.

        ``notes`` are what registration authorities around it say.
        """
        layer = layers.decode(content_info)
        reply = Reply()
        try:
            data, sender = await self._open(visit, layer)
            turn = Turn(
                visit=visit,
                data=data,
                author=sender,
                sender=sender,
                notes=notes,
                reply=reply,
                depth=depth,
            )
            self._echo(turn)
            await self._process(turn)
        except Fault as fault:
            await self._refuse(visit, reply, fault)
        except Refused as refused:
            await self._refuse(visit, reply, refused.fault, *refused.parts)
        return await self._answers.seal(visit, reply)

    async def _refuse(self, visit: Visit, reply: Reply, fault: Fault, *parts: Path) -> None:
        """Let a reply say nothing but why nothing was done."""
        try:
            await journal_refusal(self._services.journal, visit.endpoint, fault, peer=visit.peer)
        except Fault as outage:
            # What cannot be journaled is not decided, either.
            fault = outage
        reply.statuses = [refusal(fault, *parts)]
        reply.controls, reply.messages, reply.crls, reply.certificates = [], [], [], []
        reply.must_be_full = True

    # -- layers -------------------------------------------------------------------------------

    async def _open(self, visit: Visit, layer: Layer) -> tuple[PKIData, Sender]:
        """Return the PKIData and who sent it, through at most one envelope (RFC 10002, 5)."""
        if isinstance(layer, AuthenticatedData):
            return await self._senders.of_authenticated(visit, layer)
        envelope = layer if isinstance(layer, Enveloped) else layers.inner_envelope(layer)
        if envelope is not None:
            # A signature around an envelope is nobody's word for what is inside: who can read
            # that has signed it, too.
            layer = layers.decode(await self._envelopes.open(visit, envelope))
        if isinstance(layer, AuthenticatedData):
            return await self._senders.of_authenticated(visit, layer)
        if isinstance(layer, Enveloped):
            raise codec.bad_request("there is an envelope in the envelope", "cmc.envelope.nested")
        return await self._senders.of_signed(visit, layer)

    def _echo(self, turn: Turn) -> None:
        """Repeat what a client wants to hear again (RFC 10002, 6.4 and 6.6)."""
        data, echoes = turn.data, turn.reply.echoes
        transaction = data.only(codec.TRANSACTION_ID)
        if transaction is not None:
            turn.transaction = controls.transaction_id(transaction)
            echoes.append((codec.TRANSACTION_ID, transaction.value))
        nonce = data.only(codec.SENDER_NONCE)
        if nonce is not None:
            controls.octets(nonce)
            echoes.append((codec.RECIPIENT_NONCE, nonce.value))
            echoes.append((codec.SENDER_NONCE, der.octets(self._random(_NONCE))))
        for returned in data.of_type(codec.DATA_RETURN):
            der.content(returned.value, der.OCTET_STRING)
            echoes.append((codec.DATA_RETURN, returned.value))
        old = (codec.STATUS_INFO, codec.IDENTITY_PROOF)
        turn.reply.has_old_status = any(control.type in old for control in data.controls)

    # -- what is asked ------------------------------------------------------------------------

    async def _process(self, turn: Turn) -> None:
        notes = authorities.notes_of(turn)
        turn.notes = notes.joined(turn.notes)
        self._check_controls(turn)
        await self._identify(turn)
        wishes = self._read(turn)
        missing = [wish for wish in wishes if wish.proof is None]
        if missing:
            # RFC 10002, 6.7: none of them, as long as any has to be shown.
            turn.reply.statuses = [self._enrolment.challenge(turn, wish) for wish in missing]
            turn.reply.must_be_full = True
            return
        is_done = await self._serve_controls(turn)
        await self._serve_messages(turn, notes)
        for wish in wishes:
            turn.reply.statuses.append(
                await self._enrolment.enroll(turn, wish) if is_done else _not_reached(wish)
            )
        if turn.has_issued:
            await self._publish_anchors(turn)
        if not turn.reply.statuses:
            raise codec.bad_request("nothing is asked for", "cmc.empty")

    def _check_controls(self, turn: Turn) -> None:
        """Refuse all of a message for a control that nobody here understands (CMC-20)."""
        data = turn.data
        unknown = [
            control
            for control in data.controls
            if control.type not in self._known and not turn.notes.is_processed(control.id)
        ]
        if unknown:
            raise Refused(
                codec.bad_request(
                    "a control is not known, or not for requests",
                    "cmc.control.unknown",
                    control=", ".join(der.dotted(control.type) for control in unknown)[:255],
                ),
                *[(control.id,) for control in unknown],
            )
        unsupported = [
            control
            for control in data.controls
            if control.type in _UNSUPPORTED and not turn.notes.is_processed(control.id)
        ]
        if unsupported:
            fault = codec.bad_request("a control is not supported", "cmc.control.unsupported")
            raise Refused(fault, *[(control.id,) for control in unsupported])
        if data.messages and turn.depth >= _MOST_LAYERS:
            raise codec.bad_request("too many layers of wrapping", "cmc.ra.depth")
        if len(data.requests) > _MOST_REQUESTS:
            raise codec.bad_request(
                f"there are more than {_MOST_REQUESTS} requests", "cmc.request.number"
            )

    async def _identify(self, turn: Turn) -> None:
        """Find out who asks: a registration authority may have looked (RFC 10002, 6.20)."""
        data = turn.data
        proofs = [
            *data.of_type(codec.IDENTITY_PROOF_V2),
            *data.of_type(codec.IDENTITY_PROOF),
        ]
        seen = {(), *((control.id,) for control in proofs)}
        by_authority = [who for path, who in turn.notes.identities if path in seen]
        if by_authority:
            turn.sender = by_authority[0]
        else:
            try:
                turn.sender = await self._senders.by_proof(turn.visit, data, turn.sender)
            except Fault as fault:
                raise Refused(fault, *[(control.id,) for control in proofs]) from None
        if data.requests and turn.sender.is_anybody:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "a request without a signature needs an identity proof",
                rule="cmc.identity.missing",
            )

    # -- requests -----------------------------------------------------------------------------

    def _read(self, turn: Turn) -> list[Wish]:
        """Read every request and check its proofs, or refuse them all (RFC 10002, 6.7)."""
        wishes = []
        authorities.check_targets(turn)
        for request in turn.data.requests:
            try:
                wishes.append(self._read_one(turn, request))
            except Fault as fault:
                raise Refused(fault, (request.id,)) from None
        return wishes

    def _read_one(self, turn: Turn, request: TaggedRequest) -> Wish:
        wish = requests.read(
            request,
            turn.visit.options.policy,
            [each for each in turn.notes.changes if request.id in each.requests],
            is_vouched=turn.notes.is_vouched(request.id),
        )
        self._check_link(turn, wish)
        if wish.is_old_link:
            turn.reply.has_old_status = True
        if wish.proof is None:
            wish = replace(wish, proof=self._enrolment.check_decryption(turn, wish))
        return wish

    def _check_link(self, turn: Turn, wish: Wish) -> None:
        """Check that who knows the secret and who holds the key are one (RFC 10002, 6.3)."""
        known = turn.sender.known
        random = turn.data.only(codec.POP_LINK_RANDOM)
        if known is None:
            # A certificate links by its names, which the pipeline compares.
            return
        if wish.link is None or random is None:
            is_wanted = turn.visit.options.pop_link == "required"
            if is_wanted or wish.link is not None or random is not None:
                raise Fault(
                    FaultCode.BAD_PROOF,
                    "POP Link Random and a POP Link Witness in each request go together",
                    rule="cmc.pop.link-missing",
                )
            return
        policy = turn.visit.options.policy
        value = controls.octets(random)
        if not witnesses.is_linked(wish.link, known.secret, known.reference, value, policy):
            raise Fault(
                FaultCode.BAD_PROOF,
                "the POP Link Witness was not made with the shared secret",
                rule="cmc.pop.link",
            )

    # -- controls -----------------------------------------------------------------------------

    async def _serve_controls(self, turn: Turn) -> bool:
        """Do what controls ask for; tell whether all of it was done."""
        is_done = True
        for oid, serving in self._controls.items():
            for control in turn.data.of_type(oid):
                try:
                    turn.reply.statuses.append(await serving(turn, control))
                except Fault as fault:
                    await journal_refusal(
                        self._services.journal, turn.visit.endpoint, fault, peer=turn.visit.peer
                    )
                    turn.reply.statuses.append(refusal(fault, (control.id,)))
                    is_done = False
        if any(turn.data.of_type(oid) for oid in _ANSWERED_IN_FULL):
            turn.reply.must_be_full = True
        return is_done

    async def _publish_anchors(self, turn: Turn) -> None:
        """Send the root to who has only the shared secret to believe it by (RFC 10002, 6.16)."""
        known = turn.sender.known
        if known is None or not turn.visit.options.trust_anchors:
            return
        try:
            issuer = await self._services.hierarchy.active(
                turn.visit.endpoint.tenant, turn.visit.endpoint.document.authority
            )
        except Fault:
            return  # withdrawn since: what was issued is told all the same
        root = issuer.chain[-1].public_bytes(Encoding.DER)
        anchors = controls.trusted_anchors(
            int(self._services.now().timestamp()), SHA256.algorithm, [SHA256.of(root)]
        )
        content = codec.pki_data([(codec.TRUSTED_ANCHORS, anchors)])
        number = max((each for each, _ in turn.reply.messages), default=0) + 1
        turn.reply.messages.append((number, await self._senders.seal(content, known)))
        turn.reply.controls.append((codec.AUTH_DATA, der.integer(number)))
        turn.reply.add([root])

    # -- registration authorities -------------------------------------------------------------

    async def _serve_messages(self, turn: Turn, own: Notes) -> None:
        """Answer the requests that a registration authority has wrapped (RFC 10002, 6.17)."""
        data = turn.data
        batches = data.of_type(codec.BATCH_REQUESTS)
        named = [number for control in batches for number in controls.ids(control)]
        named += [path[0] for path, _ in own.modifications if path]
        named += [path[0] for path, _ in (*own.vouched, *own.identities) if path]
        messages = [number for number in dict.fromkeys(named) if number in data.messages]
        for number in messages:
            answer = await self._serve_message(turn, number)
            turn.reply.messages.append((number, answer.octets))
        if messages:
            listed = der.sequence(*[der.integer(number) for number in messages])
            turn.reply.controls.append((codec.BATCH_RESPONSES, listed))
            parts = tuple((control.id,) for control in batches)
            # Errors of single requests are told in their own answers alone.
            turn.reply.statuses.append(
                StatusInfo(status=Status.SUCCESS, parts=parts or ((codec.THIS,),))
            )

    async def _serve_message(self, turn: Turn, number: int) -> Answer:
        try:
            message = layers.normalise(turn.data.messages[number])
            return await self.serve(
                turn.visit, message, turn.notes.below(number), depth=turn.depth + 1
            )
        except Fault as fault:
            reply = Reply()
            await self._refuse(turn.visit, reply, fault)
            return await self._answers.seal(turn.visit, reply)


def _not_reached(wish: Wish) -> StatusInfo:
    return StatusInfo(
        status=Status.FAILED,
        parts=((wish.number,),),
        text="a control of the message was refused, so the requests were not looked at",
        fail_info=FailInfo.BAD_REQUEST,
    )
