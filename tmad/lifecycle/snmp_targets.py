"""Who gets SNMP notifications: managed objects, and how far each was served from the journal.

What is told are alarms (tmad/lifecycle/alarms.py) and starts of the engine; a target's cursor
moves when it has acknowledged (inform) or when the notification has left (trap).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.lifecycle import alarms
from tmad.managed.catalogue import Kind
from tmad.storage import objects
from tmad.storage import snmp_targets as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.journal import Record
from tmad.storage.kept import Kept
from tmad.storage.snmp_targets import KIND, News

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.storage.objects import ObjectRow

RAISED: Final = "alarm.raised"
CLEARED: Final = "alarm.cleared"
STARTED: Final = "snmp-engine.started"
KINDS: Final = (RAISED, CLEARED, STARTED)
TESTED: Final = "snmp-target.tested"
UNREACHABLE: Final = "snmp-target.unreachable"
REACHED: Final = "snmp-target.reached"

_PORT: Final = 162
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")
_SEVERITIES: Final = ("warning", "error", "critical")


def parse_address(text: str) -> tuple[str, int]:
    """Return an address and a port; ValueError for anything else, names included.

    A name would have to be looked up while the network is in trouble, which is when it matters.
    """
    match = _ADDRESS.fullmatch(text)
    port = _PORT if match is None or match[3] is None else int(match[3])
    if match is None or not 0 < port <= 65_535:
        raise ValueError("write ADDRESS or ADDRESS:PORT, IPv6 in brackets")
    return str(ipaddress.ip_address(match[1] or match[2])), port


class SNMPTargetDocument(BaseModel):
    """One receiver of notifications: a network management system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="Where it listens: ADDRESS or ADDRESS:PORT; default port 162.")
    description: str = Field(default="", max_length=500)
    enabled: bool = True
    version: Literal["3", "2c"] = Field(
        default="3", description="3: signed and encrypted in a user's name; 2c: readable by all."
    )
    user: str = Field(default="", description="The user of SNMPv3 (tmad snmp user).")
    community: str = Field(
        default="", description="The name of the community for 2c (tmad snmp community)."
    )
    inform: bool = Field(
        default=True, description="Ask for an acknowledgement and repeat until there is one."
    )
    timeout: float = Field(
        default=5.0, ge=0.1, le=60, description="Seconds until an inform is sent again."
    )
    retries: int = Field(
        default=3, ge=0, le=10, description="How often at once; later it is tried again anyway."
    )
    severity: Literal["warning", "error", "critical"] = Field(
        default="warning", description="The least grave alarm that is told."
    )
    alarms: tuple[str, ...] = Field(
        default=(), description="Names of alarms that are told; empty: all."
    )

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("alarms")
    @classmethod
    def _check_alarms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - alarms.EVERYWHERE - alarms.NODE):
            known = ", ".join(sorted(alarms.EVERYWHERE | alarms.NODE))
            raise ValueError(f"there is no alarm {unknown[0]!r}; there are {known}")
        return value

    @model_validator(mode="after")
    def _check_identity(self) -> SNMPTargetDocument:
        wanted, other = ("user", "community") if self.version == "3" else ("community", "user")
        if not getattr(self, wanted):
            raise ValueError(f"version {self.version} needs a {wanted}")
        if getattr(self, other):
            raise ValueError(f"version {self.version} has no {other}")
        return self


def subscriber(tenant: str, name: str) -> str:
    """Return what the journal's cursors call a target."""
    return f"{KIND}/{tenant}/{name}"


def _check(connection: Connection, tenant: str, name: str, document: Any) -> None:
    # What happened before it was there is no news.
    rows.begin_now(connection, subscriber(tenant, name))


def _check_delete(connection: Connection, tenant: str, name: str, document: Any) -> None:
    rows.forget(connection, subscriber(tenant, name))


SNMP_TARGET: Final = Kind(
    name=KIND, model=SNMPTargetDocument, check=_check, check_delete=_check_delete
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What is told: an alarm that began or is over, a start, or a test."""

    kind: str
    at: datetime
    tenant: str
    alarm: str = ""
    severity: str = ""  # empty where there is none
    object: str = ""
    text: str = ""

    @classmethod
    def of(cls, record: Record) -> Notification:
        """Return what a record of the journal tells."""
        data = json.loads(record.data)
        return cls(
            kind=record.kind,
            at=record.at,
            tenant=record.tenant,
            alarm=str(data.get("alarm", "")),
            severity=str(data.get("severity", "")),
            object=str(data.get("object", record.object)),
            text=str(data.get("text", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target as it is configured now."""

    tenant: str
    name: str
    revision: int
    document: SNMPTargetDocument

    @property
    def key(self) -> str:
        """What the journal's cursors call it."""
        return subscriber(self.tenant, self.name)

    def wants(self, told: Notification) -> bool:
        """Tell whether it gets a notification.

        The operators' tenant hears of everything, every other one of what is its own.
        """
        if self.tenant not in (told.tenant, alarms.OPERATORS):
            return False
        if told.kind == STARTED:
            return True
        least = _SEVERITIES.index(self.document.severity)
        if told.severity in _SEVERITIES and _SEVERITIES.index(told.severity) < least:
            return False
        return not self.document.alarms or told.alarm in self.document.alarms


class SNMPTargets:
    """The targets of every tenant, and what each has had."""

    def __init__(self, database: Database, changes: Changes, journal: Journal, now: Clock) -> None:
        self.journal = journal
        self._database = database
        self._changes = changes
        self._now = now
        self._kept: Kept[tuple[Target, ...]] = Kept()
        changes.listen("objects", self._forget)

    @guarded("snmp-target.test")
    async def testing(self, actor: Actor, tenant: str, name: str) -> tuple[Target, Notification]:
        """Journal that a target is tested; return it and what to send; Fault(NOT_FOUND)."""
        row = await self._database.read(objects.by_name, tenant, KIND, name)
        if row is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                f"there is no snmp-target {name!r}",
                rule="snmp.target",
                values={"tenant": tenant, "name": name},
            )
        await self.journal.write(Event(kind=TESTED, tenant=tenant, actor=actor.name, object=name))
        told = Notification(
            kind=TESTED,
            at=self._now(),
            tenant=tenant,
            severity="warning",
            object=f"{KIND}/{name}",
            text=f"a test that {actor.name} asked for; nothing is wrong",
        )
        return _target(row), told

    async def all(self) -> tuple[Target, ...]:
        """Return the targets of every tenant that are switched on, as of the last change."""
        await self._changes.catch_up()
        found = self._kept.value
        if found is None:
            found = await self._kept.fill(self._read())
        return found

    async def extent(self) -> tuple[int, int]:
        """Return something that changes whenever there may be news for anybody."""
        return await self._database.read(rows.extent)

    async def news(self, key: str, kinds: Sequence[str] = KINDS) -> News:
        """Return what a subscriber has not had yet."""
        return await self._database.read(rows.news, key, kinds)

    async def settle(self, key: str, reached: Mapping[str, int]) -> None:
        """Remember how far a subscriber has been served."""
        await self._database.write(rows.settle, key, reached)

    async def begin_now(self, key: str) -> None:
        """Let a subscriber that is no target begin after the newest record."""
        await self._database.write(rows.begin_now, key)

    async def tell(self, target: Target, kind: str, **data: str | int) -> None:
        """Journal that a target does not acknowledge, or does again."""
        await self.journal.write(
            Event(
                kind=kind,
                tenant=target.tenant,
                actor="system",
                object=target.name,
                data={"address": target.document.address, **data},
            )
        )

    async def _read(self) -> tuple[Target, ...]:
        every = [_target(row) for row in await self._database.read(rows.find_all)]
        return tuple(each for each in every if each.document.enabled)

    def _forget(self, key: str) -> None:
        if key == "*" or f"/{KIND}/" in key or key.startswith("*/tenant/"):
            self._kept.forget()


def _target(row: ObjectRow) -> Target:
    return Target(
        tenant=row.tenant,
        name=row.name,
        revision=row.revision,
        document=SNMPTargetDocument.model_validate_json(row.document),
    )
