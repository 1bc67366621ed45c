"""Agents' reports: from a request over mutual TLS to its answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tmad.errors import Fault, FaultCode
from tmad.protocols.agent import codec
from tmad.wire import reports
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_GRACE: Final = 60  # seconds after which to come again, where a Fault does not say
_JSON: Final = "application/json"


class AgentResponder:
    """Answers ``POST /agent/report``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def respond(self, request: Request) -> Response:
        """Answer below /agent/."""
        if request.tail.strip(b"/") != b"report":
            return Response(status=404, body=b"there is no such operation\n")
        try:
            shown = () if request.tls is None else request.tls.certificates
            if not shown:
                raise Fault(
                    FaultCode.UNAUTHENTICATED,
                    "a client certificate is needed, at the port that asks for one",
                    rule="agent.no-certificate",
                )
            if request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
                return Response(status=415, body=b"a report is application/json\n")
            report = reports.decode_report(request.body)
            advice = await self._services.agents.report(shown[0], report)
        except Fault as fault:
            return _refusal(fault)
        return Response(body=reports.encode_advice(advice), content_type=_JSON)


def _refusal(fault: Fault) -> Response:
    status = codec.FAULTS[fault.code]
    headers: tuple[tuple[str, str], ...] = ()
    if status in (429, 503):
        headers = (("Retry-After", str(math.ceil(fault.retry_after or _GRACE))),)
    return Response(status=status, headers=headers, body=f"{fault.detail}\n".encode())
