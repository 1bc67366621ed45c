"""Sessions at the RADIUS doors: settings, and what happens to sessions by itself."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from tmad.config import Address, AddressText
from tmad.network.clients import RadiusClients
from tmad.network.disconnects import Disconnects
from tmad.network.sessions import Sessions
from tmad.plugin import Edge, Services
from tmad.protocols.radius.accounting import Accounting
from tmad.protocols.radius.coa import CoA
from tmad.protocols.radius.reverse import Reverse
from tmad.storage.disconnects import TOPIC

# A revocation by another process is acted upon within a second.
_TICK_SECONDS: Final = 0.5
_SCAN_SECONDS: Final = 60.0
_TAKE_SECONDS: Final = 60.0
_PRUNE_SECONDS: Final = 3_600.0


class SessionSettings(BaseModel):
    """What becomes of sessions: [protocols.radius.sessions]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    disconnect: bool = Field(
        default=True,
        description="Send Disconnect-Requests when a certificate is revoked or held, a person"
        " disabled, a device blocked (RFC 5176).",
    )
    disconnect_locked: bool = Field(
        default=False,
        description="Also when somebody is locked out for wrong codes; then whoever types them"
        " can put others off the network.",
    )
    sources: tuple[AddressText, ...] = Field(
        default=("0.0.0.0:0",),
        description="Where Disconnect-Requests are sent from, at most one of each IP version;"
        " port 0: any. Clients accept them only from addresses that they know.",
    )
    accounting_days: int = Field(
        default=90, ge=1, le=36_500, description="How long raw accounting records are kept."
    )
    session_days: int = Field(
        default=365, ge=1, le=36_500, description="How long closed sessions are kept."
    )


def mount(
    settings: SessionSettings,
    services: Services,
    edge: Edge,
    sessions: Sessions,
    clients: RadiusClients,
    reverse: Reverse | None,
) -> Accounting:
    """Plan what happens to sessions by itself; return what answers accounting."""
    if settings.disconnect:
        _mount_disconnects(settings, services, edge, sessions, clients, reverse)

    async def prune() -> None:
        await sessions.prune(
            accounting=timedelta(days=settings.accounting_days),
            sessions=timedelta(days=settings.session_days),
        )

    edge.every(_SCAN_SECONDS, sessions.expire, name="stale", lease=True)
    edge.every(_PRUNE_SECONDS, prune, name="prune-sessions", lease=True)
    return Accounting(sessions)


def _mount_disconnects(
    settings: SessionSettings,
    services: Services,
    edge: Edge,
    sessions: Sessions,
    clients: RadiusClients,
    reverse: Reverse | None,
) -> None:
    client = CoA(edge.reactor, services.now, reverse)
    for text in settings.sources:
        host = Address.parse(text).host
        is_six = not host or isinstance(ip_address(host), IPv6Address)
        edge.outgoing(text, client.socket(6 if is_six else 4))
    disconnects = Disconnects(
        services.database,
        services.changes,
        services.journal,
        sessions,
        services.now,
        client=clients.named,
        is_revoked=services.anchors.is_revoked,
        ask=client.ask,
        count=edge.meter("coa").count,
        connected=lambda: frozenset() if reverse is None else reverse.clients,
        locked=settings.disconnect_locked,
    )
    edge.every(_TICK_SECONDS, disconnects.tick, name="disconnect", lease=True)
    edge.every(_SCAN_SECONDS, disconnects.scan, name="scan-sessions", lease=True)
    if reverse is not None:
        # The one process that looks for what must end need not be the one with the connection.
        take = edge.every(_TAKE_SECONDS, disconnects.take, name="disconnect-connected")
        reverse.listen(take)
        services.changes.listen(TOPIC, lambda key: take())
