"""Links to configuration profiles: settings and wiring."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.enroll.responder import EnrollResponder

__all__ = ["EndpointOptions", "Settings", "mount"]

EndpointOptions = None
_FORGET_SECONDS = 3600.0


class Settings(plugin.Settings):
    """The links that hand configuration profiles to devices, below /enroll."""

    rate: float = Field(
        default=2.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=10, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer over TLS only: what a link hands out is a secret, or a key."""
    edge.http(
        "/enroll/",
        EnrollResponder(services).respond,
        private=True,
        # No HEAD: programs that look at links in messages ask so, and would use one up.
        methods=("GET", "POST"),
        limits=Limits(body=1_024, url=1_024, rate=settings.rate, burst=settings.burst),
    )
    edge.every(_FORGET_SECONDS, services.device_profiles.forget, name="device links", lease=True)
