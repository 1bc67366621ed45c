"""RADIUS: settings and wiring."""

from __future__ import annotations

import secrets

from pydantic import BaseModel, Field

from tmad import plugin
from tmad.config import AddressText
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.radius import codec
from tmad.protocols.radius.conversations import Conversations
from tmad.protocols.radius.responder import Responder
from tmad.protocols.radius.server import Exchange, Policy, UDPDoor, Voice

EndpointOptions: type[BaseModel] | None = None

_FLUSH_SECONDS = 15.0
_FORGET_SECONDS = 3_600.0


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
    rate: float = Field(
        default=2_000.0, ge=0, description="Packets a second from one address; 0: unlimited."
    )
    burst: int = Field(default=5_000, ge=1, description="Packets at once from one address.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Open the doors for authentication and accounting."""
    clients = services.radius_clients
    seconds = edge.reactor.seconds
    conversations = Conversations(
        seconds, maximum=settings.conversations, lifetime=settings.conversation_seconds
    )
    exchange = Exchange(
        clients,
        Responder(conversations),
        services.now,
        secrets.randbits,
        alive=services.changes.catch_up,
    )
    exchange.relay = edge.relay("conversations", exchange.answer_worker)
    conversations.worker = exchange.relay.index
    policy = Policy(
        reject_delay=settings.reject_delay,
        delayed=settings.delayed,
        window=settings.dup_window,
        table=settings.dup_table,
    )
    voice = Voice(seconds)
    # The edge counts octets of a datagram: what is longer than a packet is none.
    limits = Limits(body=codec.LONGEST, rate=settings.rate, burst=settings.burst)
    for address in settings.auth:
        door = UDPDoor("auth", exchange, clients, edge.meter("auth"), edge.reactor, policy, voice)
        edge.datagram("auth", address, door, limits)
    for address in settings.accounting:
        meter = edge.meter("accounting")
        door = UDPDoor("accounting", exchange, clients, meter, edge.reactor, policy, voice)
        edge.datagram("accounting", address, door, limits)
    edge.every(_FLUSH_SECONDS, clients.flush, name="statistics")
    edge.every(_FORGET_SECONDS, clients.forget_expired, name="secrets", lease=True)
