"""CMP: settings and wiring (RFC 9811)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.cmp.responder import CMPResponder
from tmad.protocols.cmp.visit import EndpointOptions
from tmad.signer.workers import Workers

__all__ = ["EndpointOptions", "Settings", "mount"]


class Settings(plugin.Settings):
    """The CMP server, at /.well-known/cmp and below /cmp."""

    default_label: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,50}$",
        description="The endpoint behind /.well-known/cmp without a label.",
    )
    body_limit: int = Field(
        default=65_536, ge=4_096, le=524_288, description="Largest message, in octets."
    )
    rate: float = Field(
        default=5.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20, ge=1, description="Requests at once from one address.")
    attend_seconds: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="How often certificates that nobody confirmed in time are looked for.",
    )


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer at every path that CMP clients are known to use, over plain HTTP too.

    CMP protects its messages itself, and a client has no trusted certificate yet.
    """
    workers = Workers("the keys of MACs", threads=1, queue=64, reactor=edge.reactor)
    responder = CMPResponder(services, default_label=settings.default_label, workers=workers)
    limits = Limits(body=settings.body_limit, rate=settings.rate, burst=settings.burst)
    edge.http("/.well-known/cmp", responder.respond_well_known, plain=True, limits=limits)
    for prefix in ("/cmp/", "/ejbca/publicweb/cmp/"):
        edge.http(prefix, responder.respond_below, plain=True, limits=limits)
    edge.every(settings.attend_seconds, services.exchanges.attend, name="unconfirmed", lease=True)
