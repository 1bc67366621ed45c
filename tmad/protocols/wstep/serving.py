"""One message over HTTP, whichever service it is for: what all of them have to be like."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.ca.endpoint import journal_refusal
from tmad.ca.requests import EndpointID
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep.visit import Visit, refusal
from tmad.wire import soap
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_SKEW: Final = timedelta(minutes=5)
_MEDIA_TYPE: Final = re.compile(r"\s*application/soap\+xml\s*(;|$)", re.IGNORECASE)


async def serve(
    services: Services,
    request: Request,
    label: str,
    answer: Callable[[Visit], Awaitable[Response]],
    *,
    via: str,
) -> Response:
    """Have a message to an endpoint answered; whatever is wrong with it becomes a SOAP fault.

    ``via`` is what the journal calls the service.
    """
    if request.method != "POST":
        return Response(status=405, headers=(("Allow", "POST"),), body=b"POST a message\n")
    message = None
    visit = None
    try:
        _check_media_type(request)
        message = soap.decode(request.body)
        _check_times(message, services.now())
        endpoint = await services.endpoints.by_id(EndpointID("wstep", label))
        visit = Visit(request=request, endpoint=endpoint, message=message)
        return await answer(visit)
    except Fault as fault:
        if visit is not None and fault.code is not FaultCode.UNAVAILABLE:
            await journal_refusal(
                services.journal, visit.endpoint, fault, peer=request.peer, via=via
            )
        return refusal(fault, "" if message is None else message.message_id)


def _check_media_type(request: Request) -> None:
    """Raise Fault(UNSUPPORTED) for what does not call itself SOAP 1.2."""
    if not _MEDIA_TYPE.match(request.headers.get("content-type", "")):
        raise Fault(
            FaultCode.UNSUPPORTED,
            "the content type must be application/soap+xml",
            rule="soap.content-type",
        )


def _check_times(message: soap.Message, now: datetime) -> None:
    """Raise Fault(BAD_TIME) for a message that says it is not for now (WS-Security, 10)."""
    is_early = message.created is not None and message.created > now + _SKEW
    if is_early or (message.expires is not None and message.expires < now - _SKEW):
        raise Fault(
            FaultCode.BAD_TIME,
            "the message's time stamp is not of now; compare the clocks",
            rule="soap.time",
            values={
                "created": str(message.created),
                "expires": str(message.expires),
                "now": now.isoformat(),
            },
        )
