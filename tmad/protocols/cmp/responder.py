"""CMP: from an HTTP request to its answer (RFC 9811; RFC 9810, 5; RFC 9483, 3 and 5)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from tmad.ca.requests import EndpointID
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp import answers, bodies, codec, requests
from tmad.protocols.cmp.answers import Answers
from tmad.protocols.cmp.bodies import Reply
from tmad.protocols.cmp.challenges import Challenges
from tmad.protocols.cmp.codec import VERSIONS, Body, Message
from tmad.protocols.cmp.confirmation import Confirmation
from tmad.protocols.cmp.conversation import OPENINGS, Turn, earlier, journal_refusal
from tmad.protocols.cmp.delivery import Delivery
from tmad.protocols.cmp.enrolment import Enrolment
from tmad.protocols.cmp.revoking import Revoking
from tmad.protocols.cmp.sender import MACSender, Sender, Senders, SignatureSender
from tmad.protocols.cmp.support import Support
from tmad.protocols.cmp.visit import EndpointOptions, Visit
from tmad.signer.workers import Workers
from tmad.storage.exchanges import Exchange
from tmad.wire import der
from tmad.wire.cms import Random
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_CONTENT_TYPE: Final = "application/pkixcmp"
_ACCEPTED: Final = frozenset({_CONTENT_TYPE, "application/pkixcmp-poll"})
_SHORTEST_NONCE: Final = 16
_LONGEST: Final = 128  # transactionIDs and nonces, in octets

# RFC 9483, 6.1: the last part of a path says what the message should be.
OPERATIONS: Final[Mapping[str, frozenset[int]]] = {
    "initialization": frozenset({Body.IR}),
    "certification": frozenset({Body.CR}),
    "keyupdate": frozenset({Body.KUR}),
    "pkcs10": frozenset({Body.P10CR}),
    "revocation": frozenset({Body.RR}),
    "serverkeygen": frozenset({Body.IR, Body.CR, Body.KUR}),
    "getcacerts": frozenset({Body.GENM}),
    "getrootupdate": frozenset({Body.GENM}),
    "getcertreqtemplate": frozenset({Body.GENM}),
    "getcrls": frozenset({Body.GENM}),
    "nested": frozenset({Body.NESTED}),
}
# What goes on with a conversation is sent to the path where it began.
_CONTINUING: Final = frozenset({Body.CERT_CONF, Body.POLL_REQ, Body.POPDECR, Body.ERROR})
_ANNOUNCEMENTS: Final = frozenset({Body.CKUANN, Body.CANN, Body.RANN, Body.CRLANN})

_STATUSES: Final = {FaultCode.NOT_FOUND: 404, FaultCode.MALFORMED: 400}

_Serving: TypeAlias = "Callable[[Turn, Exchange | None], Awaitable[bytes]]"


class CMPResponder:
    """Answers every message at every endpoint."""

    def __init__(
        self,
        services: Services,
        *,
        default_label: str = "default",
        workers: Workers | None = None,
        random: Random = os.urandom,
    ) -> None:
        """``workers`` derive the keys of MACs that take long."""
        self._services = services
        self._default_label = default_label
        self._senders = Senders(services, workers, random)
        self._answers = Answers(services, self._senders, random)
        delivery = Delivery(services, self._answers, random)
        challenges = Challenges(services, self._answers, random)
        enrolment = Enrolment(services, delivery, challenges, random)
        confirmation = Confirmation(services, delivery)
        self._revoking = Revoking(services, self._answers)
        self._support = Support(services)
        # An allow-list: a body that is not in here is refused.
        self._bodies: Mapping[int, _Serving] = {
            **dict.fromkeys(OPENINGS, enrolment.begin),
            Body.RR: self._revoking.revoke,
            Body.GENM: self._general,
            Body.POPDECR: enrolment.answer,
            Body.POLL_REQ: enrolment.poll,
            Body.CERT_CONF: confirmation.confirm,
            Body.ERROR: confirmation.fail,
            Body.NESTED: self._nested,
        }

    # -- HTTP ---------------------------------------------------------------------------------

    async def respond_well_known(self, request: Request) -> Response:
        """Answer below /.well-known/cmp: ``[/p/LABEL][/OPERATION]`` (RFC 9811, 3.3)."""
        parts = _segments(request.tail)
        label = ""
        if parts[:1] == ["p"]:
            label, parts = (parts[1] if len(parts) > 1 else "?"), parts[2:]
        return await self._respond(request, label, parts)

    async def respond_below(self, request: Request) -> Response:
        """Answer below /cmp and where EJBCA's clients look: ``/LABEL[/OPERATION]``."""
        parts = _segments(request.tail)
        return await self._respond(request, parts[0] if parts else "", parts[1:])

    async def _respond(self, request: Request, label: str, rest: list[str]) -> Response:
        if request.method != "POST":
            return Response(status=405, headers=(("Allow", "POST"),), body=b"CMP is posted\n")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in _ACCEPTED:
            return Response(status=415, body=f"send {_CONTENT_TYPE}\n".encode())
        try:
            operation = _operation(rest)
            endpoint = await self._services.endpoints.by_id(
                EndpointID("cmp", label or self._default_label)
            )
            message = codec.decode(request.body)
        except Fault as fault:
            # RFC 9811, 3.1: by the status only where there is no message to answer.
            status = _STATUSES.get(fault.code)
            if status is None:
                raise
            return Response(status=status, body=f"{fault.detail}\n".encode())
        if message.body in _ANNOUNCEMENTS:
            return Response(status=403, body=b"announcements are not taken here\n")
        visit = Visit(
            endpoint=endpoint,
            options=cast("EndpointOptions", endpoint.options),
            peer=request.peer,
            operation=operation,
        )
        with self._services.exchanges.present():
            body = await self._serve(visit, message)
        return Response(body=body, content_type=_CONTENT_TYPE)

    # -- messages -----------------------------------------------------------------------------

    async def _serve(self, visit: Visit, message: Message, *, is_inner: bool = False) -> bytes:
        """Return the answer to one message, whatever it is."""
        sender: Sender | None = None
        try:
            visit = await self._choose(visit, message)
            _check_header(visit, message)
            sender = await self._senders.of(visit, message)
            self._check_time(visit, message)
            return await self._answer(Turn(visit, message, sender), is_inner=is_inner)
        except Fault as fault:
            return await self._refuse(visit, message, sender, fault)

    async def _choose(self, visit: Visit, message: Message) -> Visit:
        """Turn to the endpoint that certProfile names (RFC 9483, 3.1)."""
        wanted = requests.cert_profile(message)
        if wanted is None or wanted in (visit.endpoint.document.profile, visit.endpoint.id.label):
            return visit
        label = visit.options.certificate_profiles.get(wanted)
        unknown = codec.bad_request(
            "there is no such certProfile", "cmp.profile", asked=wanted[:64]
        )
        if label is None:
            raise unknown
        try:
            endpoint = await self._services.endpoints.by_id(EndpointID("cmp", label))
        except Fault:
            raise unknown from None
        if endpoint.tenant != visit.endpoint.tenant:
            raise unknown
        return replace(visit, endpoint=endpoint, options=cast("EndpointOptions", endpoint.options))

    def _check_time(self, visit: Visit, message: Message) -> None:
        window, at = visit.options.clock_window, message.header.time
        now = self._services.now()
        if window and at is not None and abs(at - now) > timedelta(seconds=window):
            raise Fault(
                FaultCode.BAD_TIME,
                "the message was made at another time; check the clock",
                rule="cmp.time",
                values={"messageTime": at.isoformat(), "now": now.isoformat()},
            )

    async def _answer(self, turn: Turn, *, is_inner: bool) -> bytes:
        message = turn.message
        serving = self._bodies.get(message.body)
        if serving is None or (is_inner and message.body == Body.NESTED):
            raise codec.bad_request("this body is not served here", body=str(message.body))
        _check_operation(turn.visit, message)
        exchange, answered = None, None
        if message.body not in (Body.GENM, Body.NESTED):
            exchange, answered = await earlier(self._services, turn)
        if answered is not None:
            return answered
        await self._check_sender(turn, exchange)
        try:
            return await serving(turn, exchange)
        except Fault as fault:
            if fault.rule != "exchange.changed":
                raise
            # A copy that another worker served was faster: its answer is this one's, too.
            _, answered = await earlier(self._services, turn)
            if answered is None:
                raise
            return answered

    async def _check_sender(self, turn: Turn, exchange: Exchange | None) -> None:
        """Judge whoever signed, before anything is done for him (RFC 9483, 3.5)."""
        sender = turn.sender
        if isinstance(sender, MACSender):
            return
        if sender.is_self_signed and (turn.message.body in OPENINGS or exchange is not None):
            # A key of its own making, with a one-time secret inside: the pipeline's question;
            # and whoever goes on is whoever began.
            return
        await self._services.authority.recognise(turn.visit.endpoint, sender.shown)

    async def _general(self, turn: Turn, exchange: Exchange | None) -> bytes:
        visit, message = turn.visit, turn.message
        if isinstance(turn.sender, MACSender):
            # Who has used up a secret has a certificate to ask with.
            await self._check_secret(visit, turn.sender)
        reply = await self._support.answer(visit, message.content)
        return (await self._answers.seal(visit, message.header, reply, turn.sender)).octets

    async def _check_secret(self, visit: Visit, sender: MACSender) -> None:
        secrets = self._services.secrets
        found = await self._services.database.lookup(
            secrets.shared,
            visit.endpoint.tenant,
            visit.door,
            sender.reference.decode("ascii", "replace"),
        )
        if found is not None:
            secrets.check_usable(found[0])

    # -- nested -------------------------------------------------------------------------------

    async def _nested(self, turn: Turn, exchange: Exchange | None) -> bytes:
        """Serve what a registration authority has wrapped (RFC 9483, 5.2.2)."""
        visit, outer, sender = turn.visit, turn.message, turn.sender
        if not isinstance(sender, SignatureSender):
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "nested messages are signed by a registration authority",
                rule="cmp.protection.kind",
            )
        if not await self._services.authority.is_registration_authority(
            visit.endpoint, sender.shown
        ):
            raise Fault(
                FaultCode.FORBIDDEN,
                "only registration authorities wrap messages here",
                rule="cmp.nested.sender",
                values={"sender": sender.certificate.subject.rfc4514_string()[:255]},
            )
        wrapped = [codec.decode(octets) for octets in bodies.read_nested(outer.content)]
        if not wrapped:
            raise codec.bad_request("there is nothing in the wrapping", "cmp.nested.empty")
        if len(wrapped) == 1:
            # Added protection: the answer goes to whoever made the inner message.
            _check_wrapping(outer, wrapped[0])
            return await self._serve(visit, wrapped[0], is_inner=True)
        transactions = {message.transaction for message in wrapped}
        if len(transactions) < len(wrapped) or outer.transaction in transactions:
            raise codec.bad_request(
                "each message of a batch has a transactionID of its own", "cmp.nested.transaction"
            )
        served = [await self._serve(visit, message, is_inner=True) for message in wrapped]
        reply = Reply(body=Body.NESTED, content=der.sequence(*served))
        return (await self._answers.seal(visit, outer.header, reply, sender)).octets

    # -- refusals -----------------------------------------------------------------------------

    async def _refuse(
        self, visit: Visit, message: Message, sender: Sender | None, fault: Fault
    ) -> bytes:
        """Return the error message that tells a Fault; never raise."""
        try:
            await journal_refusal(self._services, visit, message, fault)
        except Fault as outage:
            # What cannot be journaled is not decided, either.
            fault = outage
        reply = answers.error(fault)
        try:
            return (await self._answers.seal(visit, message.header, reply, sender)).octets
        except Fault as outage:
            return self._answers.unprotected(message.header, answers.error(outage))


def _segments(tail: bytes) -> list[str]:
    return [part.decode("ascii", "replace") for part in tail.split(b"/") if part]


def _operation(rest: list[str]) -> str:
    if not rest:
        return ""
    if len(rest) > 1 or rest[0] not in OPERATIONS:
        raise Fault(FaultCode.NOT_FOUND, "there is no such operation", rule="cmp.operation")
    return rest[0]


def _check_operation(visit: Visit, message: Message) -> None:
    if not visit.operation or message.body in _CONTINUING:
        return
    if message.body not in OPERATIONS[visit.operation]:
        raise codec.bad_request(
            "the message is another one than the path says", operation=visit.operation
        )


def _check_header(visit: Visit, message: Message) -> None:
    """Check what every message must say about itself (RFC 9483, 3.1 and 3.5)."""
    header = message.header
    if header.version not in VERSIONS:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "this version is not spoken here; use pvno 2 or 3",
            rule="cmp.version",
            values={"pvno": str(header.version)[:20]},
        )
    if (header.protection is None) != (message.protection is None):
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "protectionAlg and protection go together",
            rule="cmp.protection.missing",
        )
    if not 1 <= len(header.transaction or b"") <= _LONGEST:
        raise der.malformed("the transactionID is missing or too long", "cmp.transaction")
    if not _SHORTEST_NONCE <= len(header.sender_nonce or b"") <= _LONGEST:
        raise codec.bad_request(
            f"senderNonce has {_SHORTEST_NONCE} to {_LONGEST} octets", "cmp.nonce.sender"
        )
    if header.recipient_nonce is not None and message.body not in _CONTINUING:
        raise codec.bad_request(
            "the first message of a transaction repeats no nonce", "cmp.nonce.recipient"
        )


def _check_wrapping(outer: Message, inner: Message) -> None:
    if outer.transaction != inner.transaction:
        raise codec.bad_request(
            "the wrapping has another transactionID than the message", "cmp.nested.transaction"
        )
    if outer.header.sender_nonce != inner.header.sender_nonce:
        raise codec.bad_request(
            "the wrapping has another senderNonce than the message", "cmp.nonce.sender"
        )
