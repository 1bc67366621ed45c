"""An SMS gateway that takes HTTP requests: whatever method, URL, body and answer it wants.

Where the request goes is a setting of the node, which only its administrator writes; redirects
are not followed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from tmad.config import HTTPGateway
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.delivery.templates import escape_for, fill, in_header, in_url
from tmad.identity.httpclient import FAILURES, ask, verifying_agent
from tmad.signer.seal import read_private

_LOOKED_AT: Final = 4_096  # octets of an answer that the pattern is searched in

AgentMaker = Callable[[IReactorTime, HTTPGateway], IAgent]


class HTTPDelivery:
    """Sends by one HTTP request each; tries once more at once when the line breaks."""

    def __init__(
        self, settings: HTTPGateway, reactor: IReactorTime, *, agent: AgentMaker | None = None
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._agent = agent or _agent
        self._escape = escape_for(settings.content_type)
        self._success = re.compile(settings.success_pattern)

    async def send(self, to: str, text: Secret) -> str:
        """Hand a message over; see Delivery."""
        settings = self._settings
        values = {
            "to": to,
            "digits": to.removeprefix("+"),
            "text": text.reveal().decode(),
            "secret": _word(settings.secret_file),
        }
        url = fill(settings.url, values, in_url)
        body = None
        if settings.method != "GET":
            body = fill(settings.body, values, self._escape).encode()
        headers = self._headers(values, body)
        for last in (False, True):
            try:
                status, answer = await ask(
                    self._reactor,
                    self._agent(self._reactor, settings),
                    settings.method,
                    url,
                    headers,
                    body,
                    patience=settings.timeout_seconds,
                )
            except FAILURES as error:
                if last:
                    raise _away(_why(error)) from None
            else:
                self._judge(status, answer)
                return ""
        raise AssertionError  # the loop returns or raises

    async def close(self) -> None:
        """Nothing is kept open."""

    def _headers(self, values: dict[str, str], body: bytes | None) -> Headers:
        headers = Headers({"User-Agent": ["tmad"]})
        if body is not None:
            headers.setRawHeaders("Content-Type", [self._settings.content_type])
        if self._settings.user:
            password = _word(self._settings.password_file)
            token = b64encode(f"{self._settings.user}:{password}".encode()).decode()
            headers.setRawHeaders("Authorization", [f"Basic {token}"])
        for name, template in self._settings.headers.items():
            headers.setRawHeaders(name, [fill(template, values, in_header)])
        return headers

    def _judge(self, status: int, answer: bytes) -> None:
        shown = answer[:_LOOKED_AT].decode("utf-8", "replace")
        if status in self._settings.status:
            if self._success.search(shown):
                return
            raise Fault(
                FaultCode.REJECTED,
                "the SMS gateway answered, but not that it took the message",
                private=f"status {status}, no match for {self._settings.success_pattern!r}",
                rule="otp.delivery.refused",
            )
        if status in (408, 429) or status >= 500:
            raise _away(f"status {status}")
        raise Fault(
            FaultCode.REJECTED,
            f"the SMS gateway refused the message with status {status}",
            rule="otp.delivery.refused",
            values={"status": str(status)},
        )


def _agent(reactor: IReactorTime, settings: HTTPGateway) -> IAgent:
    return verifying_agent(reactor, settings.ca_file, settings.timeout_seconds)


def _why(error: BaseException) -> str:
    # A ValueError may cite the URL, which may hold the code.
    name = type(error).__name__
    return name if isinstance(error, ValueError) else f"{name}: {error}"


def _word(path: Path | None) -> str:
    return "" if path is None else read_private(path).decode().strip()


def _away(why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "the SMS gateway cannot be reached",
        private=why,
        rule="otp.delivery.gateway",
        values={"failure": why},
    )
