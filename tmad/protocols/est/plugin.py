"""EST: settings and wiring (RFC 7030)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.est.responder import EndpointOptions, ESTResponder

__all__ = ["EndpointOptions", "Settings", "mount"]


class Settings(plugin.Settings):
    """The EST server, below /.well-known/est."""

    default_label: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,50}$",
        description="The endpoint behind the addresses without a label.",
    )
    body_limit: int = Field(
        default=65_536, ge=4_096, le=524_288, description="Largest message, in octets."
    )
    rate: float = Field(
        default=5.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer over TLS only; the door that asks for client certificates has a port of its own.

    Certificates of manufacturers, and ours that have ended, get an answer that says what is
    wrong with them: so they are judged behind the door.
    """
    responder = ESTResponder(
        services,
        default_label=settings.default_label,
        full_cmc=lambda: edge.provided("fullcmc"),
    )
    limits = Limits(body=settings.body_limit, rate=settings.rate, burst=settings.burst)
    edge.http("/.well-known/est/", responder.respond, limits=limits, judges=True)
