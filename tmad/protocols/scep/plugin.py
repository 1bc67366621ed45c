"""SCEP: settings and wiring (RFC 8894)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.scep.responder import EndpointOptions, SCEPResponder

__all__ = ["EndpointOptions", "Settings", "mount"]


class Settings(plugin.Settings):
    """The SCEP server, below /scep."""

    default_label: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,50}$",
        description="The endpoint behind /cgi-bin/pkiclient.exe and /certsrv/mscep/mscep.dll.",
    )
    body_limit: int = Field(
        default=65_536, ge=4_096, le=524_288, description="Largest message, in octets."
    )
    url_limit: int = Field(
        default=16_384, ge=4_096, le=65_536, description="Longest URL of a GET, in octets."
    )
    rate: float = Field(
        default=5.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer at every path that SCEP clients are known to use, over plain HTTP too.

    SCEP protects its messages itself, and a client has no trusted certificate yet.
    """
    responder = SCEPResponder(services, default_label=settings.default_label)
    limits = Limits(
        body=settings.body_limit,
        url=settings.url_limit,
        rate=settings.rate,
        burst=settings.burst,
    )
    edge.http("/scep/", responder.respond_below, plain=True, limits=limits)
    for path in ("/cgi-bin/pkiclient.exe", "/certsrv/mscep/mscep.dll"):
        edge.http(path, responder.respond_default, plain=True, limits=limits)
