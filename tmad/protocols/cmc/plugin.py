"""CMC: settings and wiring (RFC 10003)."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.cmc.responder import CMCResponder
from tmad.protocols.cmc.visit import EndpointOptions
from tmad.signer.workers import Workers

__all__ = ["EndpointOptions", "Settings", "mount"]


class Settings(plugin.Settings):
    """The CMC server, below /cmc and behind EST's fullcmc."""

    body_limit: int = Field(
        default=262_144, ge=4_096, le=524_288, description="Largest message, in octets."
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
    """Answer over TLS, and offer EST what it may not import.

    A simple request shows who sends it by a client certificate only, which is judged behind the
    door: manufacturers' devices come with theirs.
    """
    workers = Workers("the keys of passwords", threads=1, queue=64, reactor=edge.reactor)
    responder = CMCResponder(services, workers=workers)
    limits = Limits(body=settings.body_limit, rate=settings.rate, burst=settings.burst)
    edge.http("/cmc/", responder.respond, limits=limits, judges=True)
    edge.provide("fullcmc", responder.respond_for)
    edge.every(settings.attend_seconds, services.exchanges.attend, name="unconfirmed", lease=True)
