"""Messages for log collectors: settings and wiring."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)
from twisted.internet.defer import Deferred, ensureDeferred

from tmad import plugin
from tmad.config import FilePath
from tmad.errors import Fault, FaultCode
from tmad.identity.hostclock import kernel_disciplines
from tmad.lifecycle.log_collectors import Collector
from tmad.plugin import Edge, Services
from tmad.protocols.syslog import tls, transports
from tmad.protocols.syslog.collector import Courier, Render
from tmad.protocols.syslog.couriers import Couriers
from tmad.protocols.syslog.formats import Formatter, Layout, Origin, journal_fields, json_text
from tmad.protocols.syslog.transports import Link
from tmad.signer.seal import read_private
from tmad.storage.journal import Record
from tmad.wire import parsing

EndpointOptions: type[BaseModel] | None = None

_TURN_PAUSE: Final = 0.25  # seconds; a record waits no longer for its turn
_CLOCK_SECONDS: Final = 60.0
_LIMITS: Final = {"udp": 2_048}
_LIMIT: Final = 8_192


def _absolute(text: str, info: ValidationInfo) -> str:
    if not text:
        return text
    return str(TypeAdapter(FilePath).validate_python(text, context=info.context))


OptionalPath: TypeAlias = Annotated[str, AfterValidator(_absolute)]


class Settings(plugin.Settings):
    """Records of the journal to log collectors, which are managed objects."""

    host: str = Field(default="", description="HOSTNAME in messages; default: node.host.")
    address: str = Field(default="", description="This node's address in messages, if any.")
    enterprise: str = Field(
        default="8072.9999.9999",
        pattern=r"[0-9]+(\.[0-9]+)*",
        max_length=24,
        description="Private enterprise number of the structured data; sub-numbers after dots.",
    )
    operator_tenant: str = Field(
        default="",
        description="Tenant whose collectors may name others' events in `tenants`; empty: none.",
    )
    client_certificate_file: OptionalPath = Field(
        default="",
        description='PEM chain that collectors with tls.client = "file" are shown, own first.',
    )
    client_key_file: OptionalPath = Field(default="", description="Its private key, as PEM.")
    journald_socket: FilePath = Field(
        default=Path("/run/systemd/journal/socket"), description="Where journald listens."
    )

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Settings:
        if bool(self.client_certificate_file) != bool(self.client_key_file):
            raise ValueError("client_certificate_file and client_key_file belong together")
        return self


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Deliver what the journal records, in one process of all."""
    ways = Ways(settings, services, edge.reactor)
    meter = edge.meter("delivery")

    def hire(collector: Collector) -> Courier:
        return Courier(
            collector,
            services.log_collectors,
            ways.open,
            ways.render(collector),
            meter,
            edge.reactor,
            operator=ways.is_operators(collector),
        )

    couriers = Couriers(services.log_collectors, hire, edge.reactor)

    def stop() -> Deferred[None]:
        return ensureDeferred(couriers.stop())

    edge.reactor.addSystemEventTrigger("before", "shutdown", stop)
    edge.every(_TURN_PAUSE, couriers.turn, name="deliver", lease=True)
    edge.works(changing="messages to log collectors")


class Ways:
    """Opens the way to a collector, and makes its messages."""

    def __init__(self, settings: Settings, services: Services, reactor: Any) -> None:
        self._settings = settings
        self._services = services
        self._reactor = reactor
        self._clock_checked = float("-inf")
        self._is_synced = False

    def is_operators(self, collector: Collector) -> bool:
        """Tell whether a collector may have other tenants' events."""
        return bool(self._settings.operator_tenant == collector.tenant)

    def render(self, collector: Collector) -> Render:
        """Return what makes a record a message for this collector."""
        document = collector.document
        digest = document.digest
        if document.transport == "journald":
            facility = document.facility
            return lambda record, number: journal_fields(record, facility, digest=digest)
        limit = document.limit or _LIMITS.get(document.transport, _LIMIT)
        if document.transport == "stdout" and document.format == "json":
            return lambda record, number: json_text(record, limit, digest=digest).encode()
        layout = Layout(
            style=document.format,
            facility=document.facility,
            limit=limit,
            bom=document.bom,
            digest=digest,
        )
        formatter = Formatter(layout, self._origin())

        def message(record: Record, number: int) -> bytes:
            formatter.is_synced = self._clock_is_right()
            return formatter.message(record, number)

        return message

    async def open(self, collector: Collector, lost: Callable[[str], None]) -> Link:
        """Return an open link; Fault(UNAVAILABLE) says why there is none."""
        document = collector.document
        host, port = document.host, document.port
        link: Link
        if document.transport == "udp":
            link = await transports.open_datagrams(self._reactor, host, port, lost=lost)
        elif document.transport == "journald":
            link = transports.JournaldLink(str(self._settings.journald_socket), lost)
        elif document.transport == "stdout":
            link = transports.OutputLink(self._reactor, sys.stdout.fileno(), lost)
        else:
            link = await transports.open_stream(
                self._reactor,
                host,
                port,
                framing=document.framing,
                lost=lost,
                tls=await self._tls(collector) if document.transport == "tls" else None,
                fingerprint=document.tls.fingerprint,
            )
        return link

    async def _tls(self, collector: Collector) -> Any:
        rules = collector.document.tls
        name = rules.name or collector.document.host
        identity = await self._identity(collector)
        if rules.fingerprint:
            return tls.Pinned(name, identity)
        anchors: list[x509.Certificate] = []
        if rules.ca:
            anchors = list(parsing.certificates(rules.ca.encode()))
        elif rules.authority:
            hierarchy = self._services.hierarchy
            for issuer in await hierarchy.generations(collector.tenant, rules.authority):
                anchors += [each for each in issuer.chain if each not in anchors]
            if not anchors:
                raise transports.unreachable(f"authority {rules.authority} has no certificate")
        return tls.options(name, anchors, identity)

    async def _identity(self, collector: Collector) -> tls.Identity | None:
        settings, services = self._settings, self._services
        which = collector.document.tls.client
        if which == "none":
            return None
        if which == "own":
            found = await services.service_certificates.current("tls-client", services.host)
            key = await services.keyring.use(found.key_id, lambda key: key)
            return tls.Identity(found.chain, key)
        if not settings.client_certificate_file:
            raise transports.unreachable(
                "tls.client is file, and protocols.syslog.client_certificate_file is not set"
            )
        return _identity_of(Path(settings.client_certificate_file), Path(settings.client_key_file))

    def _origin(self) -> Origin:
        settings = self._settings
        return Origin(
            host=settings.host or self._services.host,
            version=importlib.metadata.version("tmad"),
            process=str(os.getpid()),
            address=settings.address,
            enterprise=settings.enterprise,
        )

    def _clock_is_right(self) -> bool:
        now = self._reactor.seconds()
        if now - self._clock_checked > _CLOCK_SECONDS:
            self._clock_checked = now
            self._is_synced = kernel_disciplines()
        return self._is_synced


def _identity_of(certificate_file: Path, key_file: Path) -> tls.Identity:
    """Read the certificate that somebody else has issued to us."""
    try:
        chain = parsing.certificates(certificate_file.read_bytes())
        key = load_pem_private_key(read_private(key_file), None)
    except (OSError, Fault, *parsing.UNREADABLE) as error:
        raise Fault(
            FaultCode.UNAVAILABLE,
            "the client certificate for log collectors cannot be read",
            private=f"{type(error).__name__}: {error}",
            rule="syslog.client-certificate",
        ) from None
    return tls.Identity(chain, key)
