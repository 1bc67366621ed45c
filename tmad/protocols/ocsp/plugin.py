"""OCSP: settings and wiring."""

from __future__ import annotations

from pydantic import BaseModel, Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.ocsp import codec
from tmad.protocols.ocsp.responder import OCSPResponder

EndpointOptions: type[BaseModel] | None = None


class Settings(plugin.Settings):
    """The OCSP responder of all authorities, below /ocsp."""

    cache_mib: int = Field(
        default=64, ge=1, le=65_536, description="Memory for signed answers, in MiB."
    )
    rate: float = Field(
        default=100.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=500, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer on /ocsp and /ocsp/CA, over plain HTTP too (a TLS client has to ask first)."""
    responder = OCSPResponder(services, cache_octets=settings.cache_mib << 20)
    services.service_certificates.staple_by(responder.staple)
    edge.http(
        "/ocsp",
        responder.respond,
        plain=True,
        hot=True,
        limits=Limits(body=codec.LONGEST_REQUEST, rate=settings.rate, burst=settings.burst),
    )
