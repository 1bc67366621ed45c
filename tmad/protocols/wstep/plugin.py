"""Windows' own enrolment: settings and wiring (MS-XCEP, MS-WSTEP)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tmad import plugin
from tmad.identity.kerberos import KerberosService
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.wstep.policy_responder import PolicyResponder
from tmad.protocols.wstep.responder import WSTEPResponder
from tmad.protocols.wstep.visit import EndpointOptions, Presenting, URLs

__all__ = ["EndpointOptions", "Settings", "mount"]

# Where AD CS has these services, and clients that are told a host only look for them.
_POLICY_SERVICE = "/ADPolicyProvider_CEP_{}/service.svc/CEP"
_WAYS = ("Kerberos", "UsernamePassword", "Certificate")


class Settings(plugin.Settings):
    """Windows' enrolment: policies below /xcep, certificates below /wstep."""

    default_label: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9-]{0,50}$",
        description="The endpoint behind AD CS's own addresses, /ADPolicyProvider_CEP_…",
    )
    keytab_file: str = Field(
        default="",
        description="Keys of the service HTTP/HOST, read at each log-in; empty: no Kerberos.",
    )
    url: str = Field(
        default="",
        pattern=r"^(https://[^/\s]+)?$",
        description="How Windows reaches HTTPS; empty: as it has reached it just now.",
    )
    certificate_url: str = Field(
        default="",
        pattern=r"^(https://[^/\s]+)?$",
        description="How Windows reaches the door that asks for client certificates; empty:"
        " port 8444 of this node's host.",
    )
    body_limit: int = Field(
        default=65_536, ge=4_096, le=524_288, description="Largest message, in octets."
    )
    rate: float = Field(
        default=5.0, ge=0, description="Requests a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20, ge=1, description="Requests at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Answer over TLS only; certificates that have ended get an answer that says so."""
    presenting = Presenting(
        KerberosService(Path(settings.keytab_file) if settings.keytab_file else None, edge.reactor),
        services.service_certificates,
        services.host,
    )
    urls = URLs(host=services.host, given=settings.url, certificate=settings.certificate_url)
    enrolment = WSTEPResponder(services, presenting, urls)
    policies = PolicyResponder(services, presenting, urls, default_label=settings.default_label)
    limits = Limits(body=settings.body_limit, rate=settings.rate, burst=settings.burst)
    edge.http("/wstep/", enrolment.respond, limits=limits, judges=True)
    edge.http("/xcep/", policies.respond, limits=limits, judges=True)
    for way in _WAYS:
        edge.http(_POLICY_SERVICE.format(way), policies.respond_default, limits=limits, judges=True)
