"""CMC over HTTP: from a request to its answer (RFC 10003, 4)."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final, cast

from tmad.ca.endpoint import journal_refusal
from tmad.ca.requests import EndpointID, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import answers, codec, layers, requests
from tmad.protocols.cmc.answers import Answer, Answers, Reply
from tmad.protocols.cmc.codec import PKCS10Request
from tmad.protocols.cmc.enrolment import Enrolment
from tmad.protocols.cmc.senders import Sender, Senders
from tmad.protocols.cmc.serving import Serving
from tmad.protocols.cmc.turn import NO_NOTES, Turn
from tmad.protocols.cmc.visit import EndpointOptions, Visit
from tmad.signer.workers import Workers
from tmad.wire import der, parsing
from tmad.wire.cms import Random
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_PKCS10: Final = "application/pkcs10"
_PKCS7: Final = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_KINDS: Final = frozenset({"", "cmc-request"})  # smime-type, without case (CMC-02)
_FULL: Final = "application/pkcs7-mime; smime-type=CMC-response"
_SIMPLE: Final = "application/pkcs7-mime; smime-type=certs-only"
_THE_REQUEST: Final = 1  # how a status names a simple request (RFC 10002, 6.1.1)
_GRACE: Final = 10  # seconds after which to come again, where a Fault does not say


class CMCResponder:
    """Answers simple and full requests at every endpoint."""

    def __init__(
        self,
        services: Services,
        *,
        workers: Workers | None = None,
        random: Random = os.urandom,
    ) -> None:
        """``workers`` derive the keys of passwords, which takes long."""
        self._services = services
        self._answers = Answers(services)
        self._serving = Serving(services, Senders(services, workers), self._answers, random)
        self._enrolment = Enrolment(services)

    async def respond(self, request: Request) -> Response:
        """Answer below /cmc: ``/LABEL``; 200 for every answer, refusals included (CMC-02)."""
        if request.method != "POST":
            return Response(status=405, headers=(("Allow", "POST"),), body=b"CMC is posted\n")
        label = request.tail.strip(b"/").decode("ascii", "replace")
        answer = await self._respond(request, label)
        return answer if isinstance(answer, Response) else _response(answer, 200)

    async def respond_for(self, request: Request, label: str) -> Response:
        """Answer for EST, where a refusal has a status of HTTP, too (RFC 7030, 4.3.2)."""
        answer = await self._respond(request, label)
        if isinstance(answer, Response):
            return answer
        return _response(answer, 400 if answer.is_refusal else 200)

    async def _respond(self, request: Request, label: str) -> Answer | Response:
        is_simple = _is_simple(request)
        if is_simple is None:
            words = f"send {_PKCS10}, or application/pkcs7-mime; smime-type=CMC-request\n"
            return Response(status=415, body=words.encode())
        try:
            endpoint = await self._services.endpoints.by_id(EndpointID("cmc", label))
            content_info = request.body if is_simple else layers.normalise(request.body)
        except Fault as fault:
            # By the status only where there is no message to answer.
            status = {FaultCode.NOT_FOUND: 404, FaultCode.MALFORMED: 400}.get(fault.code)
            if status is None:
                raise
            return Response(status=status, body=f"{fault.detail}\n".encode())
        visit = Visit(
            endpoint=endpoint,
            options=cast("EndpointOptions", endpoint.options),
            peer=request.peer,
        )
        try:
            if is_simple:
                return await self._simple(visit, request)
            return await self._serving.serve(visit, content_info)
        except Fault as fault:
            return await self._last_words(visit, fault)

    async def _simple(self, visit: Visit, request: Request) -> Answer:
        """Serve a PKCS#10, whose sender the TLS session shows (RFC 10002, 3.1)."""
        reply = Reply()
        try:
            sender = _sender(request)
            wish = requests.read(
                PKCS10Request(_THE_REQUEST, request.body, request.body), visit.options.policy
            )
            if wish.proof is None:
                # No challenge can be answered by a simple request.
                raise Fault(
                    FaultCode.BAD_PROOF,
                    "this key's possession cannot be shown in a simple request",
                    rule="cmc.pop.missing",
                )
            turn = Turn(
                visit=visit,
                data=_NOTHING,
                author=sender,
                sender=sender,
                notes=NO_NOTES,
                reply=reply,
            )
            reply.statuses.append(await self._enrolment.enroll(turn, wish))
        except Fault as fault:
            await journal_refusal(self._services.journal, visit.endpoint, fault, peer=visit.peer)
            reply.statuses.append(answers.refusal(fault, (_THE_REQUEST,)))
        return await self._answers.seal(visit, reply)

    async def _last_words(self, visit: Visit, fault: Fault) -> Answer | Response:
        """Tell a Fault by a signed answer, or where that fails by HTTP."""
        if fault.code is FaultCode.MALFORMED:
            return Response(status=400, body=f"{fault.detail}\n".encode())
        try:
            await journal_refusal(self._services.journal, visit.endpoint, fault, peer=visit.peer)
            return await self._answers.seal(visit, Reply(statuses=[answers.refusal(fault)]))
        except Fault as outage:
            seconds = math.ceil(outage.retry_after or _GRACE)
            return Response(
                status=503,
                headers=(("Retry-After", str(seconds)),),
                body=answers.UNSIGNED,
                content_type=_FULL,
            )


_NOTHING: Final = codec.decode(der.sequence(*[der.sequence()] * 4))


def _response(answer: Answer, status: int) -> Response:
    return Response(
        status=status,
        body=answer.octets,
        content_type=_FULL if answer.is_full else _SIMPLE,
    )


def _is_simple(request: Request) -> bool | None:
    """Tell a simple request from a full one by its type; None for anything else."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = media_type.strip().lower()
    if kind == _PKCS10:
        return True
    if kind not in _PKCS7:
        return None
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "smime-type":
            return False if value.strip().strip('"').lower() in _KINDS else None
    return False


def _sender(request: Request) -> Sender:
    """Return who holds the TLS client certificate; nobody where there is none."""
    shown = () if request.tls is None else request.tls.certificates
    if not shown:
        return Sender()
    try:
        own, *above = map(parsing.certificate, shown)
        parsing.key_of(own)  # the pipeline may ask for it without fear
    except ValueError as error:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the client certificate cannot be read",
            private=str(error),
            rule="cmc.client-certificate",
        ) from None
    return Sender(shown=SignedBy(own, chain=tuple(above)), certificate_der=shown[0], is_whole=True)
