"""The contract between edge, protocols and core."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface, implementer

from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    # For the types only: Twisted imports this module to list plugins, before anything heavy.
    from tmad.ca.acme.service import ACME
    from tmad.ca.agents import Agents
    from tmad.ca.crl import CRLs
    from tmad.ca.device_profiles.profiles import DeviceProfiles
    from tmad.ca.directory import Directories
    from tmad.ca.endpoint import Endpoints
    from tmad.ca.exchanges import Exchanges
    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.numbers import RequestNumbers
    from tmad.ca.pipeline import Authority
    from tmad.ca.revocation import Revocation
    from tmad.ca.service_certificates import ServiceCertificates
    from tmad.ca.status import StatusSource
    from tmad.events import Clock
    from tmad.identity.credentials import EnrollSecrets
    from tmad.identity.login import Logins
    from tmad.identity.snmp_access import SNMPAccess
    from tmad.journal import Journal
    from tmad.lifecycle.alarms import Alarms
    from tmad.lifecycle.figures import Sampler
    from tmad.lifecycle.log_collectors import LogCollectors
    from tmad.lifecycle.snmp_targets import SNMPTargets
    from tmad.managed.objects import Objects
    from tmad.network.anchors import TrustAnchors
    from tmad.network.clients import RadiusClients
    from tmad.network.decision import Admission
    from tmad.network.sessions import Sessions
    from tmad.signer.keyring import Keyring
    from tmad.storage.changes import Changes
    from tmad.storage.database import Database

HTTPHandler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]
# What a protocol does for another one: a request and an endpoint's label to an answer.
Provision: TypeAlias = Callable[[Request, str], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The core, as a responder sees it."""

    host: str  # DNS name of this node
    now: Clock
    database: Database
    changes: Changes
    journal: Journal
    keyring: Keyring
    objects: Objects
    endpoints: Endpoints
    secrets: EnrollSecrets
    hierarchy: Hierarchy
    service_certificates: ServiceCertificates
    authority: Authority
    revocation: Revocation
    status: StatusSource
    exchanges: Exchanges
    request_numbers: RequestNumbers
    acme: ACME
    crls: CRLs
    device_profiles: DeviceProfiles
    logins: Logins
    radius_clients: RadiusClients
    admission: Admission
    directories: Directories
    anchors: TrustAnchors
    sessions: Sessions
    snmp: SNMPAccess
    figures: Sampler
    alarms: Alarms
    snmp_targets: SNMPTargets
    log_collectors: LogCollectors
    agents: Agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one door accepts from one peer, before anything expensive is done (security 6.3)."""

    body: int = 65_536  # octets
    url: int = 16_384  # octets
    rate: float = 5.0  # requests a second and peer; 0 means unlimited
    burst: int = 20


class Meter(Protocol):
    """The counters of one door."""

    def count(self, outcome: int | str) -> None:
        """Count one request by a word of a fixed set, never by what a stranger sent."""

    def time(self, seconds: float) -> None:
        """Add how long a request took."""


class Relay(Protocol):
    """The identical workers of this node: this is number ``index`` of ``count``."""

    index: int
    count: int

    async def ask(self, worker: int, question: bytes) -> bytes:
        """Return what another worker answers, nothing for silence; Fault(UNAVAILABLE)."""


class Edge(Protocol):
    """Everything that owns a socket, a TLS context or a timer."""

    @property
    def reactor(self) -> Any:
        """The reactor, for timers and for what goes out; never to listen."""

    @property
    def worker(self) -> int:
        """Which of the node's identical workers this is, from 0."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def meter(self, door: str) -> Meter:
        """Return the counters of a door that is none of HTTP."""

    def relay(self, name: str, answer: Callable[[bytes], Awaitable[bytes | None]]) -> Relay:
        """Reach the other workers; ``answer`` answers what they ask, up to 8000 octets."""

    def http(
        self,
        prefix: str,
        handler: HTTPHandler,
        *,
        plain: bool = False,
        hot: bool = False,
        limits: Limits = Limits(),
        judges: bool = False,
        private: bool = False,
        methods: tuple[str, ...] = ("GET", "HEAD", "POST"),
    ) -> None:
        """Serve every path below ``prefix`` with ``handler``, on HTTPS and, if ``plain``, HTTP.

        ``hot`` answers it on the fast lane. With ``judges`` the handler gets ``Request.tls``, and
        whatever certificate a client showed there is for it to judge. With ``private`` the path
        below the prefix is a secret, and the log does not show it. A Fault that escapes the
        handler becomes a plain text answer; any other exception a 500 whose text is withheld.
        """

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> Callable[[], None]:
        """Call ``function`` again and again; with ``lease``, in one process of all only.

        Return what lets it be called in the next turn of the reactor.
        """

    def provide(self, name: str, provision: Provision) -> None:
        """Offer other protocols of this process what they may not import."""

    def provided(self, name: str) -> Provision | None:
        """Return what another protocol offers, None where it is switched off.

        Ask when it is needed: protocols are mounted in no certain order.
        """

    def works(self, *, reading: str = "", changing: str = "") -> None:
        """Name, for /readyz, what needs a database to read only, and what one to change."""

    def stream(self, name: str, address: str, factory: Any) -> None:
        """Listen on a TCP address ("127.0.0.1:389") with a Twisted protocol factory."""

    def datagram(self, name: str, address: str, protocol: Any, limits: Limits = Limits()) -> None:
        """Listen on a UDP address ("127.0.0.1:1812") with a Twisted DatagramProtocol.

        ``limits``' body and rate hold for a datagram and its source.
        """

    def outgoing(self, address: str, protocol: Any) -> None:
        """Open a UDP socket of this process alone, which asks and gets the answers.

        ``address`` is where it sends from; port 0 means any.
        """


class Settings(BaseModel):
    """A protocol's own section of tmad.toml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True


class IProtocolPlugin(Interface):
    """One way of talking to the appliance, found by Twisted's plugin system."""

    name = Attribute("the protocol's name: its folder, its section of tmad.toml, its URL")

    def load() -> ProtocolModule:
        """Import the protocol; nothing heavy happens before."""


class ProtocolModule(Protocol):
    """What a protocol's ``plugin.py`` defines.

    ``EndpointOptions`` is the model of the protocol's own part of an endpoint document
    (``options``), or None for a protocol without endpoints.
    """

    Settings: type[Settings]
    EndpointOptions: type[BaseModel] | None

    @staticmethod
    def mount(settings: Any, services: Services, edge: Edge) -> None: ...


@implementer(IPlugin, IProtocolPlugin)
@dataclass(frozen=True)
class ProtocolPlugin:
    """Names a protocol and the module that holds its Settings and mount()."""

    name: str
    module: str

    def load(self) -> ProtocolModule:
        module: Any = importlib.import_module(self.module)
        loaded: ProtocolModule = module
        return loaded
