"""Agents' reports: settings and wiring."""

from __future__ import annotations

from pydantic import Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.agent.responder import AgentResponder
from tmad.wire import reports

__all__ = ["EndpointOptions", "Settings", "mount"]

EndpointOptions = None


class Settings(plugin.Settings):
    """What `tmad agent` on other machines reports to, below /agent."""

    rate: float = Field(
        default=5.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer over mutual TLS; what has ended or was revoked hears so, hence judged here."""
    edge.http(
        "/agent/",
        AgentResponder(services).respond,
        limits=Limits(body=reports.LONGEST, rate=settings.rate, burst=settings.burst),
        judges=True,
        methods=("POST",),
    )
