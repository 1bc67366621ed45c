"""Answers whoever has a link: first what it is for, then the profile, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.protocols.enroll import codec
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_log = Logger()

_INSTALLER = "passpoint"


class EnrollResponder:
    """All links of this node."""

    def __init__(self, services: Services) -> None:
        self._profiles = services.device_profiles

    async def respond(self, request: Request) -> Response:
        """Answer one HTTP request with a page or a profile."""
        try:
            return await self._respond(request)
        except Fault as fault:
            _log.info(
                "no profile for {peer}: {fault} {private}",
                peer=request.peer,
                fault=str(fault),
                private=fault.private,
                rule=fault.rule,
            )
            return codec.refusal(fault)

    async def _respond(self, request: Request) -> Response:
        token, wants_file = codec.decode(request.tail)
        if request.method == "POST" or (wants_file and request.method == "GET"):
            if codec.is_prefetch(request.headers):
                raise Fault(
                    FaultCode.FORBIDDEN,
                    "a link that works once is not fetched in advance",
                    rule="device-profile.link.prefetch",
                )
            made = await self._profiles.open(token, request.peer)
            assert made.content is not None
            return codec.file(
                name=made.name,
                media_type=made.platform.media_type,
                content=made.content,
                is_installer=made.platform.name == _INSTALLER,
            )
        offer = await self._profiles.offer(token)
        return codec.page(
            title=offer.title,
            organisation=offer.organisation,
            device=offer.device,
            kind=offer.platform.title,
            until=offer.expires_at,
            token=token,
        )
