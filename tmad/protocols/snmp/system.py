"""What every agent says of itself and its network: RFC 3418, RFC 3411-3414, RFC 2863."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tmad.protocols.snmp.mib import Item, scalar, table
from tmad.protocols.snmp.values import (
    OID,
    Counter32,
    Counter64,
    Gauge32,
    Integer,
    ObjectID,
    Octets,
    TimeTicks,
    Value,
)

_SYSTEM: OID = (1, 3, 6, 1, 2, 1, 1)
_INTERFACES: OID = (1, 3, 6, 1, 2, 1, 2)
_SNMP: OID = (1, 3, 6, 1, 2, 1, 11)
_IF_X_ENTRY: OID = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)
_ENGINE: OID = (1, 3, 6, 1, 6, 3, 10, 2, 1)
_MPD_STATS: OID = (1, 3, 6, 1, 6, 3, 11, 2, 1)
_USM_STATS: OID = (1, 3, 6, 1, 6, 3, 15, 1, 1)

# A host that offers applications: layers 4 and 7 (RFC 3418, sysServices).
_SERVICES = 72

# sysORTable: what this agent implements, by the module's identity.
_MODULES: tuple[tuple[OID, str], ...] = (
    ((1, 3, 6, 1, 6, 3, 1), "The MIB module for SNMPv2 entities (RFC 3418)."),
    ((1, 3, 6, 1, 6, 3, 10, 3, 1, 1), "The SNMP management architecture (RFC 3411)."),
    ((1, 3, 6, 1, 6, 3, 11, 3, 1, 1), "Message processing and dispatching (RFC 3412)."),
    ((1, 3, 6, 1, 6, 3, 15, 2, 1, 1), "The user-based security model (RFC 3414)."),
    ((1, 3, 6, 1, 2, 1, 31), "The interfaces group (RFC 2863), read-only."),
    ((1, 3, 6, 1, 2, 1, 25, 7, 1), "Host resources (RFC 2790): system, storage, processors."),
    ((1, 3, 6, 1, 4, 1, 2021), "Memory, disks, load and processor time (UCD-SNMP-MIB)."),
)

# Counters of the engine by their places (RFC 3418, 3412, 3414).
_COUNTERS: tuple[tuple[OID, str], ...] = (
    ((*_SNMP, 1), "snmpInPkts"),
    ((*_SNMP, 3), "snmpInBadVersions"),
    ((*_SNMP, 4), "snmpInBadCommunityNames"),
    ((*_SNMP, 5), "snmpInBadCommunityUses"),
    ((*_SNMP, 6), "snmpInASNParseErrs"),
    ((*_SNMP, 31), "snmpSilentDrops"),
    ((*_SNMP, 32), "snmpProxyDrops"),
    ((*_MPD_STATS, 1), "snmpUnknownSecurityModels"),
    ((*_MPD_STATS, 2), "snmpInvalidMsgs"),
    ((*_MPD_STATS, 3), "snmpUnknownPDUHandlers"),
    ((*_USM_STATS, 1), "usmStatsUnsupportedSecLevels"),
    ((*_USM_STATS, 2), "usmStatsNotInTimeWindows"),
    ((*_USM_STATS, 3), "usmStatsUnknownUserNames"),
    ((*_USM_STATS, 4), "usmStatsUnknownEngineIDs"),
    ((*_USM_STATS, 5), "usmStatsWrongDigests"),
    ((*_USM_STATS, 6), "usmStatsDecryptionErrors"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is: what its settings say, and the identity of its own MIB module."""

    name: str
    contact: str
    location: str
    version: str
    product: OID


class SystemGroup:
    """The system group; ``uptime`` gives seconds since the agent started."""

    def __init__(self, identity: Identity, uptime: Callable[[], float]) -> None:
        self._uptime = uptime
        machine = platform.uname()
        described = (
            f"tmad {identity.version} on {machine.system} {machine.release} {machine.machine}"
        )
        modules = (*_MODULES, (identity.product[:-2], "Trust management appliance (TMAD-MIB)."))
        self._fixed: tuple[Item, ...] = (
            scalar((*_SYSTEM, 1), Octets(described.encode()[:255])),
            scalar((*_SYSTEM, 2), ObjectID(identity.product)),
            scalar((*_SYSTEM, 4), Octets(identity.contact.encode()[:255])),
            scalar((*_SYSTEM, 5), Octets(identity.name.encode()[:255])),
            scalar((*_SYSTEM, 6), Octets(identity.location.encode()[:255])),
            scalar((*_SYSTEM, 7), Integer(_SERVICES)),
            # What is implemented does not change while the agent runs.
            scalar((*_SYSTEM, 8), TimeTicks(0)),
            *table(
                (*_SYSTEM, 9, 1),
                [
                    (
                        (number,),
                        {2: ObjectID(module), 3: Octets(text.encode()), 4: TimeTicks(0)},
                    )
                    for number, (module, text) in enumerate(modules, 1)
                ],
            ),
        )

    def __call__(self) -> Iterator[Item]:
        yield from self._fixed
        yield scalar((*_SYSTEM, 3), TimeTicks(int(self._uptime() * 100)))


class EngineGroup:
    """What the engine counts, and who it is for SNMPv3."""

    def __init__(
        self,
        counters: Mapping[str, int],
        *,
        engine_id: Callable[[], bytes],
        boots: Callable[[], int],
        time: Callable[[], int],
        largest: int,
    ) -> None:
        """``time`` is snmpEngineTime in seconds, ``largest`` a message in octets."""
        self._counters = counters
        self._engine_id = engine_id
        self._boots = boots
        self._time = time
        self._largest = largest

    def __call__(self) -> Iterator[Item]:
        for place, name in _COUNTERS:
            yield scalar(place, Counter32(self._counters.get(name, 0)))
        # 2: authenticationFailure notifications are not sent.
        yield scalar((*_SNMP, 30), Integer(2))
        if not (engine_id := self._engine_id()):
            return  # it has not booted yet
        yield scalar((*_ENGINE, 1), Octets(engine_id))
        yield scalar((*_ENGINE, 2), Integer(self._boots()))
        yield scalar((*_ENGINE, 3), Integer(self._time()))
        yield scalar((*_ENGINE, 4), Integer(self._largest))


# -- interfaces ------------------------------------------------------------------------------------

_ETHERNET, _LOOPBACK, _OTHER, _TUNNEL = 6, 24, 1, 131
# <linux/if_arp.h> → IANAifType
_TYPES = {1: _ETHERNET, 772: _LOOPBACK, 768: _TUNNEL, 769: _TUNNEL, 776: _TUNNEL}
_STATES = {"up": 1, "down": 2, "testing": 3, "unknown": 4, "dormant": 5, "notpresent": 6,
           "lowerlayerdown": 7}  # fmt: skip
_UP, _PROMISCUOUS = 0x1, 0x100  # <linux/if.h>
_MOST_INTERFACES = 512

# The columns of /proc/net/dev after the name.
_IN_OCTETS, _IN_PACKETS, _IN_ERRORS, _IN_DROPPED, _IN_MULTICAST = 0, 1, 2, 3, 7
_OUT_OCTETS, _OUT_PACKETS, _OUT_ERRORS, _OUT_DROPPED = 8, 9, 10, 11


class InterfaceGroup:
    """ifTable and ifXTable, from /proc/net/dev and /sys/class/net."""

    def __init__(self, *, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._numbers = proc / "net" / "dev"
        self._devices = sys / "class" / "net"

    def __call__(self) -> Iterator[Item]:
        counts = self._counts()
        rows: list[tuple[OID, Mapping[int, Value]]] = []
        more: list[tuple[OID, Mapping[int, Value]]] = []
        found = [(name, self._number(name, "ifindex")) for name in counts]
        for name, index in sorted(found, key=lambda each: each[1])[:_MOST_INTERFACES]:
            if index > 0:
                rows.append(((index,), self._row(name, index, counts[name])))
                more.append(((index,), self._more(name, counts[name])))
        yield scalar((*_INTERFACES, 1), Integer(len(rows)))
        yield from table((*_INTERFACES, 2, 1), rows)
        yield from table(_IF_X_ENTRY, more)

    def _counts(self) -> dict[str, list[int]]:
        try:
            lines = self._numbers.read_text(encoding="ascii", errors="replace").splitlines()[2:]
        except OSError:
            return {}
        counts = {}
        for line in lines:
            name, _, numbers = line.strip().rpartition(":")
            fields = numbers.split()
            if name and len(fields) >= 16:
                counts[name.strip()] = [int(field) for field in fields]
        return counts

    def _row(self, name: str, index: int, counts: list[int]) -> Mapping[int, Value]:
        megabits = self._speed(name)
        flags = int(self._text(name, "flags") or "0", 16)
        state = _STATES.get(self._text(name, "operstate"), 4)
        if state == _STATES["unknown"] and flags & _UP:
            # The loopback and tunnels never say more.
            state = _STATES["up"]
        return {
            1: Integer(index),
            2: Octets(name.encode()),
            3: Integer(_TYPES.get(self._number(name, "type"), _OTHER)),
            4: Integer(min(self._number(name, "mtu"), 0x7FFF_FFFF)),
            5: Gauge32(megabits * 1_000_000),
            6: Octets(_hardware(self._text(name, "address"))),
            7: Integer(1 if flags & _UP else 2),
            8: Integer(state),
            9: TimeTicks(0),
            10: Counter32(counts[_IN_OCTETS]),
            11: Counter32(counts[_IN_PACKETS] - counts[_IN_MULTICAST]),
            13: Counter32(counts[_IN_DROPPED]),
            14: Counter32(counts[_IN_ERRORS]),
            16: Counter32(counts[_OUT_OCTETS]),
            17: Counter32(counts[_OUT_PACKETS]),
            19: Counter32(counts[_OUT_DROPPED]),
            20: Counter32(counts[_OUT_ERRORS]),
        }

    def _more(self, name: str, counts: list[int]) -> Mapping[int, Value]:
        flags = int(self._text(name, "flags") or "0", 16)
        return {
            1: Octets(name.encode()),
            2: Counter32(counts[_IN_MULTICAST]),
            6: Counter64(counts[_IN_OCTETS]),
            7: Counter64(counts[_IN_PACKETS] - counts[_IN_MULTICAST]),
            8: Counter64(counts[_IN_MULTICAST]),
            10: Counter64(counts[_OUT_OCTETS]),
            11: Counter64(counts[_OUT_PACKETS]),
            14: Integer(2),  # linkUp and linkDown are not sent
            15: Gauge32(self._speed(name)),
            16: Integer(1 if flags & _PROMISCUOUS else 2),
            17: Integer(1 if (self._devices / name / "device").exists() else 2),
            18: Octets(self._text(name, "ifalias").encode()[:64]),
            19: TimeTicks(0),
        }

    def _speed(self, name: str) -> int:
        """Return megabits a second; 0 where nobody knows."""
        return max(0, self._number(name, "speed"))

    def _number(self, name: str, what: str) -> int:
        text = self._text(name, what)
        return int(text) if text.lstrip("-").isdigit() else 0

    def _text(self, name: str, what: str) -> str:
        try:
            path = self._devices / name / what
            return path.read_text(encoding="utf-8", errors="replace").strip()
        except (OSError, ValueError):
            # The interface has gone meanwhile, or its driver does not know (EINVAL).
            return ""


def _hardware(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
