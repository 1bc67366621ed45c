"""ACME: settings and wiring (RFC 8555)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.ca.acme.options import ACMEOptions as EndpointOptions
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.acme.responder import ACMEResponder

__all__ = ["EndpointOptions", "Settings", "mount"]

_FORGET_SECONDS = 600.0


class Settings(plugin.Settings):
    """The ACME servers, below /acme."""

    body_limit: int = Field(
        default=65_536, ge=4_096, le=524_288, description="Largest message, in octets."
    )
    rate: float = Field(
        default=10.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(
        default=200,
        ge=1,
        description="Requests at once from one address: an order of many names makes two for each.",
    )
    attend_seconds: float = Field(
        default=2.0,
        ge=0.5,
        le=60,
        description="How often challenges are looked for that are due again, or whose worker "
        "has died.",
    )


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer over TLS only (RFC 8555, 6.1)."""
    limits = Limits(body=settings.body_limit, rate=settings.rate, burst=settings.burst)
    edge.http("/acme/", ACMEResponder(services).respond, limits=limits)
    edge.every(settings.attend_seconds, services.acme.validations.run_due, name="challenges")
    edge.every(_FORGET_SECONDS, services.acme.forget, name="acme-forget", lease=True)
