"""The machine: HOST-RESOURCES-MIB (RFC 2790) and UCD-SNMP-MIB, from /proc and statvfs(3)."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tmad.protocols.snmp.mib import Item, scalar, table
from tmad.protocols.snmp.values import (
    OID,
    Counter32,
    Gauge32,
    Integer,
    ObjectID,
    Octets,
    Opaque,
    TimeTicks,
    Value,
)

_HOST: OID = (1, 3, 6, 1, 2, 1, 25)
_UCD: OID = (1, 3, 6, 1, 4, 1, 2021)

_RAM: OID = (*_HOST, 2, 1, 2)
_VIRTUAL: OID = (*_HOST, 2, 1, 3)
_FIXED_DISK: OID = (*_HOST, 2, 1, 4)
_PROCESSOR: OID = (*_HOST, 3, 1, 3)

_MOST = 0x7FFF_FFFF
_FIRST_PROCESSOR = 196_608  # where other agents put them; any number beyond the disks would do
_FIRST_DISK = 31
_LOAD_SECONDS = 60.0
# A file system with less is in trouble (UCD-SNMP-MIB, dskMinPercent).
_LEAST_PERCENT = 10
# Statistics of these never wait for another machine.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "vfat", "overlay"})
_MOST_DISKS = 64


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class _Disk:
    device: str
    path: str
    unit: int  # octets
    total: int  # units
    free: int
    available: int  # for those who are not root
    nodes: int
    free_nodes: int


class HostGroup:
    """Processors, memory, storage and processes.

    ``workers`` gives how many processes of tmad run and ought to; ``now`` is the local time.
    """

    def __init__(
        self,
        *,
        seconds: Callable[[], float],
        now: Callable[[], datetime],
        workers: Callable[[], tuple[int, int]],
        proc: Path = Path("/proc"),
    ) -> None:
        self._seconds = seconds
        self._now = now
        self._workers = workers
        self._proc = proc
        self._loads: deque[tuple[float, list[tuple[int, int]]]] = deque()

    def __call__(self) -> Iterator[Item]:
        memory = self._memory()
        disks = self._disks()
        times = self._times()
        yield from self._system(memory)
        yield from self._storage(memory, disks)
        yield from self._processors(times[1:])
        yield from _ucd_memory(memory)
        yield from _ucd_disks(disks)
        yield from self._ucd_load()
        yield from self._ucd_statistics(times[:1])
        yield from self._ucd_processes()

    # -- HOST-RESOURCES-MIB ----------------------------------------------------------------------

    def _system(self, memory: Mapping[str, int]) -> Iterator[Item]:
        uptime = (_lines(self._proc / "uptime") or ["0"])[0].split()[0]
        loadavg = (_lines(self._proc / "loadavg") or ["0 0 0 0/0 0"])[0].split()
        yield scalar((*_HOST, 1, 1), TimeTicks(int(float(uptime) * 100)))
        yield scalar((*_HOST, 1, 2), Octets(date_and_time(self._now())))
        yield scalar((*_HOST, 1, 6), Gauge32(int(loadavg[3].partition("/")[2] or "0")))
        yield scalar((*_HOST, 1, 7), Integer(0))  # no fixed maximum
        yield scalar((*_HOST, 2, 2), Integer(min(memory.get("MemTotal", 0), _MOST)))

    def _storage(self, memory: Mapping[str, int], disks: list[_Disk]) -> Iterator[Item]:
        def kept(total: str, free: str, kind: OID, text: str) -> dict[int, Value]:
            size = memory.get(total, 0)
            return _stored(kind, text, 1024, size, size - memory.get(free, 0))

        rows: list[tuple[OID, Mapping[int, Value]]] = [
            ((1,), kept("MemTotal", "MemAvailable", _RAM, "Physical memory")),
            ((10,), kept("SwapTotal", "SwapFree", _VIRTUAL, "Swap space")),
        ]
        for number, disk in enumerate(disks, _FIRST_DISK):
            row = _stored(_FIXED_DISK, disk.path, disk.unit, disk.total, disk.total - disk.free)
            rows.append(((number,), row))
        yield from table(
            (*_HOST, 2, 3, 1), [(index, {1: Integer(index[0]), **row}) for index, row in rows]
        )

    def _processors(self, times: list[list[int]]) -> Iterator[Item]:
        busy = [(sum(each) - each[3] - each[4], sum(each)) for each in times]
        now = self._seconds()
        self._loads.append((now, busy))
        while len(self._loads) > 2 and now - self._loads[1][0] >= _LOAD_SECONDS:
            self._loads.popleft()
        before = self._loads[0][1]
        devices, loads = [], []
        for number, (used, total) in enumerate(busy):
            was = before[number] if number < len(before) else (0, 0)
            passed = max(1, total - was[1])
            load = round(100 * max(0, used - was[0]) / passed) if len(self._loads) > 1 else 0
            index = (_FIRST_PROCESSOR + number,)
            devices.append((index, _processor(index[0])))
            loads.append((index, {1: ObjectID((0, 0)), 2: Integer(min(load, 100))}))
        yield from table((*_HOST, 3, 2, 1), devices)
        yield from table((*_HOST, 3, 3, 1), loads)

    # -- UCD-SNMP-MIB ------------------------------------------------------------------------------

    def _ucd_load(self) -> Iterator[Item]:
        averages = (_lines(self._proc / "loadavg") or ["0 0 0"])[0].split()[:3]
        rows = []
        for number, (text, minutes) in enumerate(zip(averages, (1, 5, 15), strict=False), 1):
            load = float(text)
            row: dict[int, Value] = {
                1: Integer(number),
                2: Octets(b"Load-%d" % minutes),
                3: Octets(f"{load:.2f}".encode()),
                4: Octets(b"0.00"),
                5: Integer(round(load * 100)),
                6: Opaque(b"\x9f\x78\x04" + struct.pack(">f", load)),  # net-snmp's Float
                100: Integer(0),
                101: Octets(b""),
            }
            rows.append(((number,), row))
        yield from table((*_UCD, 10, 1), rows)

    def _ucd_statistics(self, times: list[list[int]]) -> Iterator[Item]:
        if not times:
            return
        user, nice, system, idle, wait, interrupt, soft, *_ = [*times[0], *[0] * 7]
        numbers = {
            50: user, 51: nice, 52: system + interrupt + soft, 53: idle, 54: wait, 55: system,
            56: interrupt, 61: soft,
        }  # fmt: skip
        for line in _lines(self._proc / "stat"):
            word, _, rest = line.partition(" ")
            if word == "intr":
                numbers[59] = int(rest.split()[0])
            elif word == "ctxt":
                numbers[60] = int(rest)
        yield scalar((*_UCD, 11, 1), Integer(0))
        yield scalar((*_UCD, 11, 2), Octets(b"systemStats"))
        for place, number in sorted(numbers.items()):
            yield scalar((*_UCD, 11, place), Counter32(number))

    def _ucd_processes(self) -> Iterator[Item]:
        running, wanted = self._workers()
        is_short = running < wanted
        row: dict[int, Value] = {
            1: Integer(1),
            2: Octets(b"tmad"),
            3: Integer(wanted),
            4: Integer(wanted),
            5: Integer(running),
            100: Integer(1 if is_short else 0),
            101: Octets(f"{running} of {wanted} workers".encode() if is_short else b""),
        }
        yield from table((*_UCD, 2, 1), [((1,), row)])

    # -- sources -----------------------------------------------------------------------------------

    def _memory(self) -> dict[str, int]:
        """Return /proc/meminfo, kibibytes."""
        found = {}
        for line in _lines(self._proc / "meminfo"):
            name, _, rest = line.partition(":")
            fields = rest.split()
            if fields and fields[0].isdigit():
                found[name] = int(fields[0])
        return found

    def _times(self) -> list[list[int]]:
        """Return the ticks of all processors together, then of each one."""
        return [
            [int(field) for field in line.split()[1:9]]
            for line in _lines(self._proc / "stat")
            if line.startswith("cpu")
        ]

    def _disks(self) -> list[_Disk]:
        found: dict[str, _Disk] = {}
        for line in _lines(self._proc / "self" / "mounts"):
            device, path, kind, *_ = [*line.split(" "), "", "", ""]
            if kind not in _LOCAL or device in found or len(found) >= _MOST_DISKS:
                continue
            path = path.replace("\\040", " ")
            try:
                numbers = os.statvfs(path)
            except OSError:
                continue
            if numbers.f_blocks:
                found[device] = _Disk(
                    device, path, numbers.f_frsize, numbers.f_blocks, numbers.f_bfree,
                    numbers.f_bavail, numbers.f_files, numbers.f_ffree,
                )  # fmt: skip
        return list(found.values())


def date_and_time(at: datetime) -> bytes:
    """Return a time as DateAndTime (RFC 2579, 2): eleven octets with the zone."""
    offset = at.utcoffset()
    minutes = 0 if offset is None else int(offset.total_seconds() // 60)
    sign = b"-" if minutes < 0 else b"+"
    minutes = abs(minutes)
    return (
        struct.pack(">HBBBBBB", at.year, at.month, at.day, at.hour, at.minute, at.second,
                    at.microsecond // 100_000)
        + sign
        + bytes((minutes // 60, minutes % 60))
    )  # fmt: skip


def _stored(kind: OID, text: str, unit: int, size: int, used: int) -> dict[int, Value]:
    """Return a row of hrStorageTable; the unit grows until both numbers fit (Integer32)."""
    while size > _MOST:
        unit, size, used = unit * 2, size // 2, used // 2
    return {
        2: ObjectID(kind),
        3: Octets(text.encode()[:255]),
        4: Integer(min(unit, _MOST)),
        5: Integer(size),
        6: Integer(max(0, used)),
        7: Counter32(0),
    }


def _processor(index: int) -> dict[int, Value]:
    return {
        1: Integer(index),
        2: ObjectID(_PROCESSOR),
        3: Octets(b"Processor"),
        4: ObjectID((0, 0)),
        5: Integer(2),  # running
        6: Counter32(0),
    }


def _ucd_memory(memory: Mapping[str, int]) -> Iterator[Item]:
    def kilobytes(*names: str) -> Integer:
        return Integer(min(sum(memory.get(name, 0) for name in names), _MOST))

    is_short = memory.get("SwapTotal", 0) > 0 and memory.get("SwapFree", 0) < 16_000
    values: dict[int, Value] = {
        1: Integer(0),
        2: Octets(b"swap"),
        3: kilobytes("SwapTotal"),
        4: kilobytes("SwapFree"),
        5: kilobytes("MemTotal"),
        6: kilobytes("MemFree"),
        11: kilobytes("MemFree", "SwapFree"),
        12: Integer(16_000),
        13: kilobytes("Shmem"),
        14: kilobytes("Buffers"),
        15: kilobytes("Cached", "SReclaimable"),
        100: Integer(1 if is_short else 0),
        101: Octets(b"Running out of swap space" if is_short else b""),
    }
    for place, value in values.items():
        yield scalar((*_UCD, 4, place), value)


def _ucd_disks(disks: list[_Disk]) -> Iterator[Item]:
    rows: list[tuple[OID, Mapping[int, Value]]] = []
    for number, disk in enumerate(disks, 1):
        total, available, used = (
            blocks * disk.unit // 1024
            for blocks in (disk.total, disk.available, disk.total - disk.free)
        )
        percent = round(100 * used / max(1, used + available))
        nodes = round(100 * (disk.nodes - disk.free_nodes) / disk.nodes) if disk.nodes else 0
        is_full = 100 - percent < _LEAST_PERCENT
        text = f"{disk.path}: less than {_LEAST_PERCENT}% free (= {percent}%)" if is_full else ""
        row: dict[int, Value] = {
            1: Integer(number),
            2: Octets(disk.path.encode()[:255]),
            3: Octets(disk.device.encode()[:255]),
            4: Integer(-1),
            5: Integer(_LEAST_PERCENT),
            6: Integer(min(total, _MOST)),
            7: Integer(min(available, _MOST)),
            8: Integer(min(used, _MOST)),
            9: Integer(percent),
            10: Integer(nodes),
            100: Integer(1 if is_full else 0),
            101: Octets(text.encode()[:255]),
        }
        # The same beyond 32 bits, low word first (dskTotalLow, …).
        for place, amount in ((11, total), (13, available), (15, used)):
            row[place] = Gauge32(amount & 0xFFFF_FFFF)
            row[place + 1] = Gauge32(amount >> 32)
        rows.append(((number,), row))
    yield from table((*_UCD, 9, 1), rows)
