"""LDAP: settings and wiring."""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL
from pydantic import BaseModel, Field
from twisted.internet.defer import ensureDeferred

from tmad import plugin
from tmad.ca.service_tls import ServiceTLS, ask_for_certificate, remember_nobody
from tmad.ca.trust import Trust
from tmad.config import AddressText
from tmad.errors import Fault
from tmad.identity.login import LoginRules
from tmad.identity.login_rules import LockRules
from tmad.plugin import Edge, Services
from tmad.protocols.ldap.binds import Binds
from tmad.protocols.ldap.bounds import Bounds, Meters
from tmad.protocols.ldap.content import Directory
from tmad.protocols.ldap.passports import Passports
from tmad.protocols.ldap.responder import Responder
from tmad.protocols.ldap.root import Root
from tmad.protocols.ldap.searches import SearchLimits
from tmad.protocols.ldap.server import LDAPFactory, behind_tls

EndpointOptions: type[BaseModel] | None = None

_TLS_SECONDS = 30.0
_SWEEP_SECONDS = 1.0


class Settings(plugin.Settings):
    """The directory: people, devices, authorities and certificates over LDAP."""

    listen: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:3389",), description="TCP, with StartTLS (port 389)."
    )
    tls: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:6636",), description="TCP, TLS from the start (LDAPS, port 636)."
    )
    server_name: str = Field(
        default="", description="DNS name in the server's certificate; default: node.host."
    )
    client_certificates: bool = Field(
        default=True,
        description="Ask for a client certificate in the handshake, for SASL EXTERNAL.",
    )
    anonymous_entries: int = Field(
        default=50, ge=1, le=100_000, description="Entries of a search by nobody, all pages."
    )
    anonymous_seconds: float = Field(
        default=5.0, gt=0, le=600, description="Of a search by nobody."
    )
    entries: int = Field(
        default=1_000, ge=1, le=100_000, description="Entries in one answer to a login."
    )
    paged_entries: int = Field(
        default=10_000, ge=1, description="Entries in all pages of one search by a login."
    )
    seconds: float = Field(default=10.0, gt=0, le=600, description="Of a search by a login.")
    rate: float = Field(
        default=50.0,
        ge=0,
        description="Operations a second from one address without a login; 0: unlimited."
        " This machine's own are never limited.",
    )
    burst: int = Field(default=500, ge=1, description="Of those, at once.")
    message_octets: int = Field(
        default=262_144, ge=1_024, le=1 << 24, description="The longest request."
    )
    operations: int = Field(
        default=32, ge=1, le=1_000, description="Operations of one connection at once."
    )
    first_seconds: float = Field(
        default=10.0, gt=0, le=600, description="Until a new connection has asked something."
    )
    message_seconds: float = Field(
        default=10.0, gt=0, le=600, description="Until a request that has begun is complete."
    )
    write_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Until a client that reads nothing is cut off."
    )
    bare_names: bool = Field(
        default=False,
        description="Answer userCertificate, not userCertificate;binary, to who asks for that.",
    )
    names_vendor: bool = Field(
        default=False, description="Say name and version of this software in the rootDSE."
    )
    lock: LockRules = LockRules()


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Open the doors of the directory."""
    tree = Directory(services.directories, services.crls)
    trust = Trust(services.hierarchy)
    passports = Passports(trust, services.status, services.database, services.now)
    rules = LoginRules(mode="password", lock=settings.lock)
    responder = Responder(
        Root(tree, names_vendor=settings.names_vendor),
        Binds(tree, services.logins, passports, rules),
        SearchLimits(
            anonymous=settings.anonymous_entries,
            named=settings.entries,
            paged=settings.paged_entries,
        ),
        bare_names=settings.bare_names,
    )
    tls = ServiceTLS(
        services.service_certificates,
        services.keyring,
        settings.server_name or services.host,
        _finish_asking if settings.client_certificates else remember_nobody,
    )
    meters = Meters(search=edge.meter("search"), bind=edge.meter("bind"), other=edge.meter("other"))
    shared: tuple[Any, ...] = (responder, _bounds(settings), meters, edge.reactor, tls)
    plain, secure = LDAPFactory(*shared), LDAPFactory(*shared, is_secure=True)
    for address in settings.listen:
        edge.stream("ldap", address, plain)
    for address in settings.tls:
        edge.stream("ldaps", address, behind_tls(secure))
    # At once: a timer may begin a second after the doors are open.
    edge.reactor.callLater(0, lambda: ensureDeferred(_prepare(tls)))
    refresh = edge.every(_TLS_SECONDS, tls.refresh, name="certificate")
    services.service_certificates.listen(refresh)
    edge.every(_SWEEP_SECONDS, plain.sweep, name="sweep")
    edge.every(_SWEEP_SECONDS, secure.sweep, name="sweep-ldaps")
    edge.works(
        reading="the directory: searches, logins by certificate",
        changing="logins by password at the directory",
    )


def _finish_asking(context: SSL.Context) -> None:
    # Whose certificate it is, a bind asks (EXTERNAL).
    ask_for_certificate(context)
    remember_nobody(context)


async def _prepare(tls: ServiceTLS) -> None:
    # What fails is tried again by the timer, which says why.
    with contextlib.suppress(Fault):
        await tls.refresh()


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        message_octets=settings.message_octets,
        operations=settings.operations,
        first_seconds=settings.first_seconds,
        message_seconds=settings.message_seconds,
        write_seconds=settings.write_seconds,
        anonymous_seconds=settings.anonymous_seconds,
        named_seconds=settings.seconds,
        rate=settings.rate,
        burst=settings.burst,
    )
