"""SNMP: settings and wiring."""

from __future__ import annotations

import secrets
import time

from pydantic import BaseModel, Field

from tmad import plugin
from tmad.config import AddressText
from tmad.plugin import Edge, Limits, Services
from tmad.protocols.snmp import codec, content, reporting
from tmad.protocols.snmp.door import Door, Station
from tmad.protocols.snmp.engine import Engine, Policy
from tmad.protocols.snmp.mib import Snapshot
from tmad.protocols.snmp.usm import LocalEngine, Salts

EndpointOptions: type[BaseModel] | None = None

_BOOT_SECONDS = 5.0
_TELL_SECONDS = 60.0


class Settings(plugin.Settings):
    """The SNMP agent: it shows, and lets nobody change anything."""

    listen: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:1161",),
        description="UDP; one worker of the node answers. Nobody is answered until there is a"
        " user or a community: tmad snmp user add, tmad snmp community add.",
    )
    contact: str = Field(default="", max_length=255, description="sysContact: whom to call.")
    location: str = Field(default="", max_length=255, description="sysLocation: where it stands.")
    sha1: bool = Field(
        default=False, description="Answer users with HMAC-SHA-1, for managers without SHA-2."
    )
    longest_answer: int = Field(
        default=1_472,
        ge=codec.SMALLEST_MAXIMUM,
        le=codec.LONGEST_OUT,
        description="Octets of an answer to a community and to any GETBULK; more needs fragments"
        " and makes a forged question worth more.",
    )
    rate: float = Field(
        default=5_000.0, ge=0, description="Questions a second from one address; 0: unlimited."
    )
    burst: int = Field(default=10_000, ge=1, description="Questions at once from one address.")
    stranger_rate: float = Field(
        default=20.0,
        ge=0.1,
        description="Answers a second to an address that has proved nothing: each manager that"
        " is started needs one.",
    )
    agentx: str = Field(
        default="",
        pattern=r"^(/.+|\[[0-9a-fA-F:.]+\]:\d{1,5}|[0-9.]+:\d{1,5})?$",
        description="Address or socket of an SNMP agent to join as an AgentX subagent, such as"
        " /var/agentx/master or 127.0.0.1:705; empty: none.",
    )
    stranger_burst: int = Field(default=100, ge=1, description="Such answers at once.")


def mount(settings: Settings, services: Services, edge: Edge) -> None:
    """Open the door, in one worker of the node."""
    reporting.mount_targets(services, edge)
    if edge.worker != 0:
        return
    policy = Policy(
        longest=settings.longest_answer,
        sha1=settings.sha1,
        rate=settings.stranger_rate,
        burst=settings.stranger_burst,
    )
    salts = Salts(secrets.randbits(64))

    def build(local: LocalEngine, counters: dict[str, int]) -> Engine:
        return Engine(local, snapshot, salts, time.monotonic, policy, counters)

    # Not the reactor's clock, which jumps with the wall clock.
    station = Station(services.snmp, build, time.monotonic)
    view = content.view(
        services, edge, station, contact=settings.contact, location=settings.location
    )

    def snapshot() -> Snapshot:
        return view.snapshot

    limits = Limits(body=codec.LONGEST_IN, rate=settings.rate, burst=settings.burst)
    meter = edge.meter("agent")
    doors = [Door(station, services.snmp, meter, edge.reactor) for _ in settings.listen]
    for address, door in zip(settings.listen, doors, strict=True):
        edge.datagram("agent", address, door, limits)

    async def tell() -> None:
        for door in doors:
            door.tell()

    edge.every(_TELL_SECONDS, tell, name="unanswered")
    edge.every(_BOOT_SECONDS, station.boot, name="engine")
    edge.works(reading="SNMP")
    if settings.agentx:
        reporting.mount_agentx(settings.agentx, services, edge, view)
