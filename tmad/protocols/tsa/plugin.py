"""Time-stamping: settings and wiring (RFC 3161)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.tsa import codec
from tmad.protocols.tsa.responder import EndpointOptions, TSAResponder

__all__ = ["EndpointOptions", "Settings", "mount"]

_COUNT_SECONDS = 60.0


class Settings(plugin.Settings):
    """The time-stamping authorities, below /tsa."""

    default_label: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,50}$",
        description="The endpoint behind /tsa without a label.",
    )
    rate: float = Field(
        default=20.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=100, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer on /tsa/LABEL, over plain HTTP too: a token protects itself."""
    responder = TSAResponder(services, default_label=settings.default_label)
    edge.http(
        "/tsa",
        responder.respond,
        plain=True,
        limits=Limits(body=codec.LONGEST_REQUEST, rate=settings.rate, burst=settings.burst),
        methods=("POST",),
    )
    edge.every(_COUNT_SECONDS, responder.count, name="time-stamps")
