"""Devices: blocked as a whole, whatever certificate they show and whoever carries them.

Every change is journaled with its difference and announced in the transaction that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity import naming
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.differences import difference
from tmad.storage import devices as rows
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.devices import DeviceRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SHOWN: Final = ("mac", "serial_number", "owner", "description", "blocked_at")
_LONGEST: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Particulars:
    """What is known of a device beside its name; None leaves it as it is, "" takes it away."""

    mac: str | None = None
    serial_number: str | None = None
    owner: str | None = None
    description: str | None = None

    def given(self) -> dict[str, Any]:
        """Return what is not left as it is, in the spelling that is stored; Fault(REJECTED)."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        found = {name: value for name, value in every.items() if value is not None}
        for name in ("serial_number", "description"):
            if name in found:
                found[name] = naming.line(
                    found[name], "a line of text", rule="device.text", most=_LONGEST
                )
        if "mac" in found:
            found["mac"] = naming.mac_address(found["mac"]) if found["mac"] else None
        if "owner" in found:
            found["owner"] = naming.person_key(found["owner"])
        return found


class Devices:
    """The devices of one database."""

    def __init__(self, database: Database, journal: Records, now: Clock) -> None:
        self.journal = journal
        self._database = database
        self._now = now

    @guarded("device.write")
    async def create(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        particulars: Particulars = Particulars(),
        *,
        dry_run: bool = False,
    ) -> DeviceRow:
        """Add a device; Fault(CONFLICT) when its name or its MAC address is taken."""
        now = self._now()
        device = replace(
            DeviceRow(tenant=tenant, name=naming.device_name(name), created_at=now, updated_at=now),
            **particulars.given(),
        )
        await self._database.write(self._insert, actor, device, dry_run=dry_run)
        return device

    @guarded("device.write")
    async def update(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        particulars: Particulars,
        *,
        dry_run: bool = False,
    ) -> DeviceRow:
        """Change what is given of a device; Fault(NOT_FOUND)."""
        given = particulars.given()
        return await self._change(
            actor, tenant, name, lambda device: replace(device, **given), dry_run=dry_run
        )

    @guarded("device.block")
    async def block(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> DeviceRow:
        """Refuse every login of a device from the next one on."""
        now = self._now()
        return await self._change(
            actor,
            tenant,
            name,
            lambda device: replace(device, blocked_at=device.blocked_at or now),
            dry_run=dry_run,
            kind="device.blocked",
        )

    @guarded("device.block")
    async def unblock(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> DeviceRow:
        """Let a device log in again."""
        return await self._change(
            actor,
            tenant,
            name,
            lambda device: replace(device, blocked_at=None),
            dry_run=dry_run,
            kind="device.unblocked",
        )

    @guarded("device.delete")
    async def delete(self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False) -> None:
        """Forget a device; Fault(NOT_FOUND)."""
        await self._database.write(
            self._delete, actor, tenant, naming.device_key(name), dry_run=dry_run
        )

    @guarded("device.read")
    async def list(
        self, actor: Actor, tenant: str, *, after: str = "", limit: int = 100
    ) -> tuple[DeviceRow, ...]:
        """Return a page of a tenant's devices by name, beginning after the name ``after``."""
        return await self._database.read(rows.find, tenant, after, limit)

    @guarded("device.read")
    async def show(self, actor: Actor, tenant: str, name: str) -> DeviceRow:
        """Return one device; Fault(NOT_FOUND)."""
        key = naming.device_key(name)
        device = await self._database.read(rows.by_name, tenant, key)
        if device is None:
            raise _absent(key)
        return device

    # -- transactions -----------------------------------------------------------------------

    def _insert(self, connection: Connection, actor: Actor, device: DeviceRow) -> None:
        self._check_owner(connection, device)
        rows.insert(connection, device)
        self._note(connection, "device.created", actor, device, difference(None, device, _SHOWN))

    async def _change(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        apply: Callable[[DeviceRow], DeviceRow],
        *,
        dry_run: bool,
        kind: str = "device.changed",
    ) -> DeviceRow:
        key = naming.device_key(name)
        return await self._database.write(
            self._apply, actor, tenant, key, apply, kind, dry_run=dry_run
        )

    def _apply(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        key: str,
        apply: Callable[[DeviceRow], DeviceRow],
        kind: str,
    ) -> DeviceRow:
        old = rows.locked(connection, tenant, key)
        if old is None:
            raise _absent(key)
        new = apply(old)
        if new == old:
            return old
        if new.owner != old.owner:
            self._check_owner(connection, new)
        new = replace(new, updated_at=self._now())
        rows.update(connection, new)
        self._note(connection, kind, actor, new, difference(old, new, _SHOWN))
        return new

    def _delete(self, connection: Connection, actor: Actor, tenant: str, key: str) -> None:
        device = rows.locked(connection, tenant, key)
        if device is None:
            raise _absent(key)
        rows.delete(connection, tenant, key)
        self._note(connection, "device.deleted", actor, device, difference(device, None, _SHOWN))

    @staticmethod
    def _check_owner(connection: Connection, device: DeviceRow) -> None:
        if device.owner and people.by_name(connection, device.tenant, device.owner) is None:
            raise Fault(
                FaultCode.REJECTED,
                f"there is no person {device.owner!r} who could own the device",
                rule="device.owner",
                values={"owner": device.owner},
            )

    def _note(
        self,
        connection: Connection,
        kind: str,
        actor: Actor,
        device: DeviceRow,
        lines: Sequence[str],
    ) -> None:
        self.journal.append(
            connection,
            Event(
                kind=kind,
                tenant=device.tenant,
                actor=actor.name,
                object=f"device:{device.name}",
                data={"difference": list(lines)},
            ),
        )


def _absent(name: str) -> Fault:
    return Fault(FaultCode.NOT_FOUND, f"there is no device {name!r}", rule="device.absent")
