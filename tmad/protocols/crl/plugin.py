"""CRL and CA certificate download: settings and wiring.

There is no codec: nothing that arrives needs decoding beyond a path, and what leaves was
encoded where it was signed (tmad/ca/crlcodec.py), since LDAP and SCEP hand out the same CRL.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from tmad import plugin
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.crl.responder import Repository

EndpointOptions: type[BaseModel] | None = None


class Settings(plugin.Settings):
    """CRLs below /crl, CA certificates below /aia."""

    max_age_seconds: int = Field(
        default=3600, ge=0, le=3600, description="How long HTTP caches may keep a file."
    )
    check_seconds: float = Field(
        default=30, gt=0, le=3600, description="Seconds between looks at which CRL is due."
    )
    rate: float = Field(
        default=20.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=100, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Serve the files over plain HTTP too, and make CRLs when they are due."""
    repository = Repository(services, max_age_seconds=settings.max_age_seconds)
    limits = Limits(body=0, url=1024, rate=settings.rate, burst=settings.burst)
    for prefix, answer in (("/crl", repository.crl), ("/aia", repository.aia)):
        edge.http(prefix, answer, plain=True, hot=True, limits=limits, methods=("GET", "HEAD"))
    edge.every(settings.check_seconds, services.crls.rebuild_due, name="crl", lease=True)
