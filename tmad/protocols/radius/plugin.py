"""RADIUS: settings and wiring."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import BaseModel, Field

from tmad import plugin
from tmad.ca.service_tls import Behind, ServiceTLS
from tmad.ca.service_wishes import eap_scope
from tmad.ca.trust import Trust
from tmad.config import AddressText
from tmad.network.client import PLAIN, Client
from tmad.network.visit import Visit
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.radius import codec, sessions
from tmad.protocols.radius.conversations import Conversations
from tmad.protocols.radius.eap.conversation import Conversation
from tmad.protocols.radius.eap.tls import Engine, TLSRules
from tmad.protocols.radius.hooks import LoginHooks
from tmad.protocols.radius.radsec import Passports, RadSec, finish_context
from tmad.protocols.radius.responder import Responder
from tmad.protocols.radius.reverse import Reverse
from tmad.protocols.radius.server import Exchange, Policy, UDPDoor, Voice
from tmad.protocols.radius.sessions import SessionSettings
from tmad.protocols.radius.workers import Workers
from tmad.signer.algorithms import KeyAlgorithm

EndpointOptions: type[BaseModel] | None = None

_FLUSH_SECONDS = 15.0
_FORGET_SECONDS = 3_600.0
_EXPIRE_SECONDS = 5.0
_PREPARE_SECONDS = 30.0
_TLS_SECONDS = 30.0
_WALK_SECONDS = 5.0


class Settings(plugin.Settings):
    """Network access: authentication and accounting over RADIUS."""

    auth: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:1812",),
        description="UDP, authentication; name each address of this machine that clients use,"
        " since answers leave from the address that is named here.",
    )
    accounting: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:1813",), description="UDP, accounting."
    )
    radsec: tuple[AddressText, ...] = Field(
        default=(),
        description="TCP, RADIUS over TLS: clients show a certificate of our CAs (port 2083).",
    )
    server_name: str = Field(
        default="",
        description="DNS name in the certificates that supplicants and RadSec clients see;"
        " default: node.host.",
    )
    server_keys: tuple[Literal["p256", "p384", "rsa-2048", "rsa-3072", "rsa-4096"], ...] = Field(
        default=("p256",),
        min_length=1,
        description="Keys of the EAP server; a second kind is for clients without the first.",
    )
    tls_lowest: Literal["1.2", "1.3"] = Field(
        default="1.2", description="The oldest TLS version in EAP."
    )
    tls_highest: Literal["1.2", "1.3"] = Field(
        default="1.3", description="The newest TLS version in EAP."
    )
    resumption_seconds: int = Field(
        default=3_600,
        ge=0,
        le=604_800,
        description="How long EAP-TLS can be resumed, decided anew each time; 0: never.",
    )
    when_unwritable: Literal["degrade", "stop"] = Field(
        default="degrade",
        description="While nothing can be journaled (a standby): decide logins by certificate and"
        " log them, or let nobody in.",
    )
    reject_delay: float = Field(
        default=1.0, ge=0, le=10, description="Seconds before an Access-Reject leaves over UDP."
    )
    delayed: int = Field(
        default=5_000, ge=0, description="Rejects that wait at once; more leave at once."
    )
    dup_window: float = Field(
        default=10.0, ge=1, le=60, description="Seconds in which a repeated request is the same."
    )
    dup_table: int = Field(default=20_000, ge=100, description="Requests remembered for that.")
    conversations: int = Field(default=4_096, ge=16, description="Logins under way in a worker.")
    conversation_seconds: float = Field(
        default=60.0, ge=5, le=600, description="Until a login under way is given up."
    )
    challenge_seconds: float = Field(
        default=120.0, ge=10, le=300, description="That a person has to answer a challenge."
    )
    rate: float = Field(
        default=10_000.0, ge=0, description="Packets a second from one address; 0: unlimited."
    )
    burst: int = Field(default=20_000, ge=1, description="Packets at once from one address.")
    sessions: SessionSettings = SessionSettings()


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Open the doors for authentication and accounting."""
    clients = services.radius_clients
    seconds = edge.reactor.seconds
    conversations = Conversations(
        seconds, maximum=settings.conversations, lifetime=settings.conversation_seconds
    )
    services.admission.register.when_unwritable = settings.when_unwritable
    talks = _Talks(settings, services, is_alone=edge.workers == 1)
    responder = Responder(
        conversations,
        services.admission,
        services.logins,
        talks.begin,
        patience=settings.challenge_seconds,
    )
    reverse = None
    if settings.radsec:
        reverse = Reverse()
        reverse.relay = edge.relay("disconnects", reverse.answer_worker)
    accounting = sessions.mount(
        settings.sessions, services, edge, services.sessions, clients, reverse
    )
    exchange = Exchange(
        clients,
        responder,
        services.now,
        random.getrandbits,  # RFC 2548, 2.4.2: salts need only differ within one packet
        alive=services.changes.catch_up,
        account=accounting.respond,
    )
    exchange.relay = edge.relay("conversations", exchange.answer_worker)
    conversations.worker = exchange.relay.index
    talks.workers.relay = exchange.relay
    _open_udp(settings, exchange, services, edge)
    if reverse is not None:
        _open_radsec(settings, exchange, services, edge, reverse)
    edge.every(_FLUSH_SECONDS, clients.flush, name="statistics")
    edge.every(_FORGET_SECONDS, clients.forget_expired, name="secrets", lease=True)
    edge.every(_EXPIRE_SECONDS, conversations.expire, name="conversations")
    edge.every(_PREPARE_SECONDS, talks.prepare, name="server-certificates", lease=True)
    edge.works(
        reading="network logins with certificates",
        changing="network logins with passwords and codes, accounting",
    )


class _Talks:
    """Begins EAP conversations, with one TLS engine for each tenant."""

    def __init__(self, settings: Settings, services: Services, *, is_alone: bool) -> None:
        self.workers = Workers()
        self._services = services
        self._host = settings.server_name or services.host
        self._rules = TLSRules(
            keys=tuple(KeyAlgorithm(name) for name in settings.server_keys),
            lowest=settings.tls_lowest,
            highest=settings.tls_highest,
            resumption=settings.resumption_seconds,
            is_shared=not is_alone,
        )
        self._engines: dict[str, Engine] = {}

    async def prepare(self) -> None:
        """Have the server certificates of every tenant that has clients.

        The first login need not wait for them, and a node at a standby cannot make any.
        """
        for tenant in await self._services.radius_clients.tenants():
            for algorithm in self._rules.keys:
                scope = eap_scope(tenant, self._host, algorithm)
                await self._services.service_certificates.current("eap", scope)

    def begin(self, visit: Visit, client: Client) -> Conversation:
        """Return a new conversation about a visit."""
        services = self._services
        engine = self._engines.get(client.tenant)
        if engine is None:
            # Tenants are few, and only one that has a RADIUS client gets here.
            engine = self._engines[client.tenant] = Engine(
                client.tenant,
                self._host,
                services.service_certificates,
                services.keyring,
                services.changes,
                services.admission.trust,
                rules=self._rules,
                staple=services.service_certificates.staple,
                now=services.now,
            )
        document = client.document
        return Conversation(
            visit,
            [method for method in document.methods if method not in PLAIN],
            engine,
            LoginHooks(visit, client, services.admission, services.logins, self.workers),
            fragment_size=document.fragment_size,
        )


def _policy(settings: Settings) -> Policy:
    return Policy(
        reject_delay=settings.reject_delay,
        delayed=settings.delayed,
        window=settings.dup_window,
        table=settings.dup_table,
    )


def _open_udp(settings: Settings, exchange: Exchange, services: Services, edge: Edge) -> None:
    clients, policy = services.radius_clients, _policy(settings)
    voice = Voice(edge.reactor.seconds)
    # The edge counts the octets of a datagram: what is longer than a packet may have padding.
    limits = Limits(body=2 * codec.LONGEST, rate=settings.rate, burst=settings.burst)
    for address in settings.auth:
        door = UDPDoor("auth", exchange, clients, edge.meter("auth"), edge.reactor, policy, voice)
        edge.datagram("auth", address, door, limits)
    for address in settings.accounting:
        meter = edge.meter("accounting")
        door = UDPDoor("accounting", exchange, clients, meter, edge.reactor, policy, voice)
        edge.datagram("accounting", address, door, limits)


def _open_radsec(
    settings: Settings, exchange: Exchange, services: Services, edge: Edge, reverse: Reverse
) -> None:
    clients = services.radius_clients
    passports = Passports(clients, Trust(services.hierarchy), services.status, services.now)
    tls = ServiceTLS(
        services.service_certificates,
        services.keyring,
        settings.server_name or services.host,
        finish_context,
    )
    factory = RadSec(
        exchange,
        clients,
        passports,
        edge.meter("radsec"),
        edge.reactor,
        _policy(settings),
        Voice(edge.reactor.seconds),
        reverse,
    )
    for address in settings.radsec:
        edge.stream("radsec", address, Behind(tls, factory))
    refresh = edge.every(_TLS_SECONDS, tls.refresh, name="radsec-certificate")
    services.service_certificates.listen(refresh)
    edge.every(_WALK_SECONDS, factory.walk, name="radsec-walk")
