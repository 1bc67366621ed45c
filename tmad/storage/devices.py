"""Devices: rows by their normalised name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.statement import Statement
from tmad.storage.tables import devices as t

TOPIC = "devices"  # of storage/changes.py; the key is "tenant/name"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device. ``name`` is normalised like a DNS name, ``mac`` 12 lower-case hex digits.

    ``owner`` is a person's name or empty; ``blocked_at`` None means not blocked.
    """

    tenant: str
    name: str
    mac: str | None = None
    serial_number: str = ""
    owner: str = ""
    description: str = ""
    blocked_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


_COLUMNS = tuple(t.c)
_NAMES = tuple(column.name for column in _COLUMNS)
_KEY = (t.c.tenant == sa.bindparam("key_tenant"), t.c.name == sa.bindparam("key_name"))
_SELECT = sa.select(*_COLUMNS)
_BY_NAME = Statement(_SELECT.where(*_KEY))
_BY_NAME_LOCKED = _SELECT.where(*_KEY).with_for_update()
_BY_MAC = Statement(
    _SELECT.where(t.c.tenant == sa.bindparam("key_tenant"), t.c.mac == sa.bindparam("key_mac"))
)


def by_name(connection: sa.Connection, tenant: str, name: str) -> DeviceRow | None:
    """Return one device, as one point read."""
    return _one(_BY_NAME.rows(connection, {"key_tenant": tenant, "key_name": name}))


def by_mac(connection: sa.Connection, tenant: str, mac: str) -> DeviceRow | None:
    """Return the device that has this MAC address, as one point read."""
    return _one(_BY_MAC.rows(connection, {"key_tenant": tenant, "key_mac": mac}))


def locked(connection: sa.Connection, tenant: str, name: str) -> DeviceRow | None:
    """Return one device whose row nobody else can change before this transaction ends."""
    row = connection.execute(_BY_NAME_LOCKED, {"key_tenant": tenant, "key_name": name}).first()
    return None if row is None else _device(tuple(row))


def find(
    connection: sa.Connection, tenant: str, after: str = "", limit: int = 100
) -> tuple[DeviceRow, ...]:
    """Return a page of a tenant's devices by name, beginning after the name ``after``."""
    query = _SELECT.where(t.c.tenant == tenant, t.c.name > after).order_by(t.c.name).limit(limit)
    return tuple([_device(tuple(row)) for row in connection.execute(query)])


def insert(connection: sa.Connection, device: DeviceRow) -> None:
    """Add a device; Fault(CONFLICT) when its name or its MAC address is taken."""
    try:
        connection.execute(sa.insert(t), _values(device))
    except sa.exc.IntegrityError:
        raise _taken(device) from None
    changes.record(connection, TOPIC, f"{device.tenant}/{device.name}")


def update(connection: sa.Connection, device: DeviceRow) -> None:
    """Write everything about a device that was read by ``locked``; Fault(CONFLICT)."""
    try:
        connection.execute(
            sa.update(t).where(*_KEY).values(**_values(device)),
            {"key_tenant": device.tenant, "key_name": device.name},
        )
    except sa.exc.IntegrityError:
        raise _taken(device) from None
    changes.record(connection, TOPIC, f"{device.tenant}/{device.name}")


def delete(connection: sa.Connection, tenant: str, name: str) -> bool:
    """Remove a device; tell whether there was one."""
    result = connection.execute(sa.delete(t).where(t.c.tenant == tenant, t.c.name == name))
    changes.record(connection, TOPIC, f"{tenant}/{name}")
    return result.rowcount == 1


def _taken(device: DeviceRow) -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        f"there is a device with the name {device.name} or its MAC address already",
        rule="device.exists",
        values={"tenant": device.tenant, "name": device.name, "mac": device.mac or ""},
    )


def _values(device: DeviceRow) -> dict[str, Any]:
    return {name: getattr(device, name) for name in _NAMES}


def _one(rows: list[tuple[Any, ...]]) -> DeviceRow | None:
    return _device(rows[0]) if rows else None


def _device(row: tuple[Any, ...]) -> DeviceRow:
    return DeviceRow(**dict(zip(_NAMES, row, strict=True)))
