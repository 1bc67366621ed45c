"""The objects of the SNMP agent: snapshots, what they hold, and where it was read."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock as ReactorClock

from tests.support import Clock
from tmad.lifecycle.figures import (
    AuthorityFigures,
    DatabaseFigures,
    DiskFigures,
    Figures,
    JournalFigures,
    TenantFigures,
)
from tmad.lifecycle.workers import Door, Worker
from tmad.protocols.snmp import tmad_mib
from tmad.protocols.snmp.host import HostGroup, date_and_time
from tmad.protocols.snmp.mib import Item, Snapshot, View, scalar, table, text_index
from tmad.protocols.snmp.system import EngineGroup, Identity, InterfaceGroup, SystemGroup
from tmad.protocols.snmp.tmad_mib import TMAD, TMADGroup
from tmad.protocols.snmp.values import (
    OID,
    Counter64,
    Gauge32,
    Integer,
    Octets,
    TimeTicks,
    Value,
    encode_oid,
)
from tmad.signer.keyring import StoreHealth
from tmad.storage.alarms import AlarmRow
from tmad.storage.figures import CRLHead, Signed

ROOT = Path(__file__).resolve().parents[2]
NOW = Clock()()


# -- snapshots ----------------------------------------------------------------------------------

ENTRY: OID = (1, 3, 6, 1, 4, 1, 5, 1)


def items() -> Iterator[Item]:
    yield scalar((1, 3, 6, 1, 4, 1, 4), Integer(4))
    yield from table(ENTRY, [((2,), {1: Integer(21), 3: Integer(23)}), ((1,), {1: Integer(11)})])


def test_a_snapshot_is_in_the_order_of_a_walk() -> None:
    snapshot = Snapshot.of(items())
    assert snapshot.keys == sorted(snapshot.keys)
    assert [value.value for value in snapshot.values] == [4, 11, 21, 23]
    assert snapshot.objects == ((1, 3, 6, 1, 4, 1, 4), (*ENTRY, 1), (*ENTRY, 3))
    assert snapshot.names == [encode_oid(key) for key in snapshot.keys]
    assert all(snapshot.positions[name] == at for at, name in enumerate(snapshot.names))


def test_get_and_next() -> None:
    snapshot = Snapshot.of(items())
    assert snapshot.get((*ENTRY, 1, 2)) == Integer(21)
    assert snapshot.get((*ENTRY, 2, 1)) is None
    assert snapshot.next((1, 3)) == ((1, 3, 6, 1, 4, 1, 4, 0), Integer(4))
    assert snapshot.next((*ENTRY, 1, 2)) == ((*ENTRY, 3, 2), Integer(23))
    assert snapshot.next((*ENTRY, 3, 2)) is None


def test_of_two_with_one_name_the_first_counts() -> None:
    assert Snapshot.of([*items(), *items()]).keys == Snapshot.of(items()).keys


def test_texts_of_an_index_carry_their_length() -> None:
    assert text_index("ab") == (2, 97, 98)
    assert text_index("é") == (2, 0xC3, 0xA9)


def test_a_refresh_lets_others_have_the_reactor_and_swaps_at_the_end() -> None:
    now = 0.0
    seen: list[list[OID]] = []

    class Reactor(ReactorClock):
        def callLater(self, *arguments: Any, **more: Any) -> Any:
            seen.append(view.snapshot.keys)
            return super().callLater(*arguments, **more)

    def seconds() -> float:
        return now

    def slow() -> Iterator[Item]:
        nonlocal now
        for number in range(1, 2_001):
            now += 0.0001
            yield ENTRY, (number,), Integer(number)

    reactor = Reactor()
    view = View([slow, items], reactor, seconds=seconds)
    heard: list[Snapshot] = []
    view.listen(heard.append)
    ensureDeferred(view.refresh())
    reactor.advance(0)
    # 0.2 seconds of work, in slices of a few milliseconds; nobody sees half of it.
    assert len(seen) >= 20
    assert not any(seen)
    assert len(view.snapshot.keys) == 2_000 + len(list(items()))
    assert heard == [view.snapshot]


def test_a_group_that_fails_takes_nothing_else_with_it() -> None:
    def broken() -> Iterator[Item]:
        yield scalar((1, 3, 6, 1, 4, 1, 9), Integer(9))
        raise OSError("gone")

    view = View([broken, items], ReactorClock(), seconds=lambda: 0.0)
    ensureDeferred(view.refresh())
    assert view.snapshot.get((1, 3, 6, 1, 4, 1, 9, 0)) == Integer(9)
    assert view.snapshot.get((*ENTRY, 1, 2)) == Integer(21)


# -- the machine --------------------------------------------------------------------------------


def shown(group: Any) -> dict[OID, Any]:
    return {kind + index: value.value for kind, index, value in group()}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "net").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "uptime").write_text("12345.67 2000.00\n")
    (proc / "loadavg").write_text("0.52 1.25 3.00 2/431 9999\n")
    (proc / "meminfo").write_text(
        "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"
        "Buffers:          200000 kB\nCached:          3000000 kB\nSwapTotal:       2000000 kB\n"
        "SwapFree:           1000 kB\nShmem:             5000 kB\nSReclaimable:     100000 kB\n"
    )
    (proc / "stat").write_text(_stat(100))
    (proc / "self" / "mounts").write_text(
        f"/dev/vda1 {tmp_path} ext4 rw 0 0\nproc /proc proc rw 0 0\n"
        f"server:/home {tmp_path} nfs4 rw 0 0\n/dev/vda1 /mnt ext4 rw 0 0\n"
    )
    (proc / "net" / "dev").write_text(
        "Inter-|   Receive   |  Transmit\n face |bytes packets errs drop ...\n"
        "    lo: 100 2 0 0 0 0 0 0 100 2 0 0 0 0 0 0\n"
        "  eth0: 5000000000 40 1 2 0 0 0 7 6000000000 50 3 4 0 0 0 0\n"
        "  gone: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
    )
    for name, values in {
        "lo": {"ifindex": 1, "type": 772, "mtu": 65536, "flags": "0x9", "operstate": "unknown",
               "address": "00:00:00:00:00:00"},
        "eth0": {"ifindex": 2, "type": 1, "mtu": 1500, "flags": "0x1103", "operstate": "up",
                 "address": "02:fc:00:00:00:01", "speed": 1000, "ifalias": "uplink"},
    }.items():  # fmt: skip
        (sys / "class" / "net" / name).mkdir(parents=True)
        for what, value in values.items():
            (sys / "class" / "net" / name / what).write_text(f"{value}\n")
    return tmp_path


def _stat(busy: int) -> str:
    return (
        f"cpu  {2 * busy} 0 0 1000 0 0 0 0 0 0\ncpu0 {busy} 0 0 500 0 0 0 0 0 0\n"
        f"cpu1 {busy} 0 0 500 0 0 0 0 0 0\nintr 777 1 2\nctxt 888\n"
    )


HOST: OID = (1, 3, 6, 1, 2, 1, 25)
UCD: OID = (1, 3, 6, 1, 4, 1, 2021)


def test_host_resources_and_ucd(machine: Path) -> None:
    now = 0.0

    def seconds() -> float:
        return now

    group = HostGroup(
        seconds=seconds,
        now=lambda: NOW,
        workers=lambda: (1, 2),
        proc=machine / "proc",
    )
    found = shown(group)
    assert found[(*HOST, 1, 1, 0)] == 1_234_567
    assert found[(*HOST, 1, 6, 0)] == 431
    assert found[(*HOST, 2, 2, 0)] == 16_000_000
    assert found[(*HOST, 2, 3, 1, 6, 1)] == 7_000_000  # what is not available
    assert found[(*HOST, 2, 3, 1, 5, 10)] == 2_000_000
    # The disk once, whatever else is mounted of it; nothing of other machines.
    assert [oid[-1] for oid in found if oid[:-1] == (*HOST, 2, 3, 1, 1)] == [1, 10, 31]
    assert found[(*HOST, 2, 3, 1, 3, 31)] == str(machine).encode()
    assert found[(*UCD, 4, 4, 0)] == 1_000
    assert found[(*UCD, 4, 100, 0)] == 1
    assert found[(*UCD, 10, 1, 3, 1)] == b"0.52"
    assert found[(*UCD, 10, 1, 5, 2)] == 125
    assert struct.unpack(">f", found[(*UCD, 10, 1, 6, 3)][3:])[0] == 3.0
    assert found[(*UCD, 11, 50, 0)] == 200
    assert (found[(*UCD, 11, 59, 0)], found[(*UCD, 11, 60, 0)]) == (777, 888)
    assert found[(*UCD, 2, 1, 101, 1)] == b"1 of 2 workers"
    loads = [oid for oid in found if oid[:-1] == (*HOST, 3, 3, 1, 2)]
    assert [found[oid] for oid in loads] == [0, 0]
    now = 30.0
    (machine / "proc" / "stat").write_text(_stat(600).replace(" 500 ", " 1000 "))
    found = shown(group)
    assert [found[oid] for oid in loads] == [50, 50]


def test_a_disk_beyond_32_bits_has_larger_units() -> None:
    from tmad.protocols.snmp.host import _stored

    row = {
        place: value.value for place, value in _stored((1, 3), "/big", 4096, 2**34, 2**33).items()
    }
    assert row[5] <= 0x7FFF_FFFF
    assert row[4] * row[5] == 4096 * 2**34
    assert row[4] * row[6] == 4096 * 2**33


def test_interfaces(machine: Path) -> None:
    found = shown(InterfaceGroup(proc=machine / "proc", sys=machine / "sys"))
    entry: OID = (1, 3, 6, 1, 2, 1, 2, 2, 1)
    extended: OID = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)
    assert found[(1, 3, 6, 1, 2, 1, 2, 1, 0)] == 2
    assert (found[(*entry, 2, 1)], found[(*entry, 3, 1)]) == (b"lo", 24)
    # The loopback is up although its driver does not say so.
    assert (found[(*entry, 7, 1)], found[(*entry, 8, 1)]) == (1, 1)
    assert found[(*entry, 6, 2)] == bytes.fromhex("02fc00000001")
    assert found[(*entry, 10, 2)] == 5_000_000_000 % 2**32
    assert found[(*entry, 5, 2)] == 1_000_000_000
    assert found[(*extended, 6, 2)] == 5_000_000_000
    assert found[(*extended, 15, 2)] == 1_000
    assert found[(*extended, 16, 2)] == 1
    assert found[(*extended, 18, 2)] == b"uplink"
    assert not any(oid[-1] == 0 for oid in found if oid[:-2] == entry)


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    host = HostGroup(
        seconds=lambda: 0.0, now=lambda: NOW, workers=lambda: (1, 1), proc=tmp_path / "none"
    )
    assert shown(host)
    assert shown(InterfaceGroup(proc=tmp_path, sys=tmp_path)) == {(1, 3, 6, 1, 2, 1, 2, 1, 0): 0}


@pytest.mark.parametrize(
    ("hours", "zone"), [(0, b"+\x00\x00"), (5.5, b"+\x05\x1e"), (-3.5, b"-\x03\x1e")]
)
def test_date_and_time(hours: float, zone: bytes) -> None:
    at = datetime(2026, 11, 23, 9, 8, 7, 650_000, tzinfo=timezone(timedelta(hours=hours)))
    assert date_and_time(at) == bytes((0x07, 0xEA, 11, 23, 9, 8, 7, 6)) + zone


def test_the_system_group_and_the_engine() -> None:
    identity = Identity(
        name="n1", contact="ops", location="here", version="1.2", product=tmad_mib.PRODUCT
    )
    found = shown(SystemGroup(identity, lambda: 12.34))
    assert found[(1, 3, 6, 1, 2, 1, 1, 2, 0)] == tmad_mib.PRODUCT
    assert found[(1, 3, 6, 1, 2, 1, 1, 3, 0)] == 1_234
    assert found[(1, 3, 6, 1, 2, 1, 1, 9, 1, 2, 8)] == TMAD
    engine_id = b""
    group = EngineGroup(
        {"usmStatsWrongDigests": 3},
        engine_id=lambda: engine_id,
        boots=lambda: 5,
        time=lambda: 6,
        largest=1_472,
    )
    assert not any(oid[:9] == (1, 3, 6, 1, 6, 3, 10, 2, 1) for oid in shown(group))
    engine_id = b"x" * 11
    found = shown(group)
    assert found[(1, 3, 6, 1, 6, 3, 15, 1, 1, 5, 0)] == 3
    assert found[(1, 3, 6, 1, 6, 3, 10, 2, 1, 2, 0)] == 5


# -- TMAD-MIB -----------------------------------------------------------------------------------


def _figures() -> Figures:
    crl = CRLHead(
        issuer_id=7, number=12, this_update=NOW - timedelta(hours=1),
        next_update=NOW + timedelta(days=6), entries=3, size=400,
    )  # fmt: skip
    authority = AuthorityFigures(
        id=7, tenant="default", authority="issuing", slug="issuing", generation=2, state="active",
        not_after=NOW, is_compromised=False, has_key=True, crl=crl, crl_state="overdue",
        signed=Signed(issued=10, revoked=4, revoked_unexpired=3, revoked_until=(0, 0, 0, 0)),
    )  # fmt: skip
    door = Door(
        protocol="radius", door="d" * 100, outcomes={"accept": 5, "reject": 2, "dropped-x": 1},
        buckets=(0,) * 4 + (20,),
    )  # fmt: skip
    return Figures(
        sampled_at=NOW,
        counted_at=NOW,
        node="n1",
        authorities=(authority,),
        tenants=(TenantFigures(tenant="default", pending=1, valid=6,
                               expiring={1: 1, 7: 2, 30: 3, 90: 4}),),
        stores=(StoreHealth(store="pkcs11", state="degraded", reason="gone", queue=2,
                            counters={"signed": 9, "refused": 1, "timeouts": 2}),),
        database=DatabaseFigures(dialect="sqlite", state="read-only", trouble="standby",
                                 seconds=0.01),
        journal=JournalFigures(records=99, writers=1, checkpoint=3, sealed_at=NOW, behind={"x": 4}),
        disk=DiskFigures(size=2 << 40, free=1 << 40),
        workers=(Worker(index=0, run="1", pid=42, started_at=NOW - timedelta(seconds=10),
                        sampled_at=NOW, lag=0.002, connections=3),),
        doors=(door,),
        queues={"requests": 1},
    )  # fmt: skip


ALARM = AlarmRow(
    name="crl-stale", object="authority/" + "x" * 200, tenant="default", severity="critical",
    text="é" * 200, since=NOW,
)  # fmt: skip


def test_tmad_mib_shows_the_figures() -> None:
    found = shown(TMADGroup(_figures, lambda: [ALARM], "1.2"))
    node: OID = (*TMAD, 1, 1)
    assert found[(*node, 6, 0)] == 2
    assert found[(*node, 9, 0)] == 2 << 20
    authority: OID = (*TMAD, 1, 2, 1)
    row = {oid[-2]: value for oid, value in found.items() if oid[: len(authority)] == authority}
    assert (row[3], row[5], row[11], row[12], row[15]) == (b"issuing", 4, 4, 12, 3_600)
    store: OID = (*TMAD, 1, 4, 1)
    assert found[(*store, 5, 6, *b"pkcs11")] == 9
    assert found[(*store, 6, 6, *b"pkcs11")] == 3
    outcome: OID = (*TMAD, 1, 6, 1, 2, 6, *b"radius", 55, *b"d" * 55)
    assert found[(*outcome, 6, *b"accept")] == 5
    door: OID = (*TMAD, 1, 5, 1)
    assert [found[(*door, column, 6, *b"radius", 55, *b"d" * 55)] for column in (3, 4, 5)] == [
        8,
        2,
        1,
    ]
    (text,) = (
        value for oid, value in found.items() if oid[: len(TMAD) + 4] == (*TMAD, 1, 10, 1, 6)
    )
    assert text.decode() == "é" * 127  # cut where a character ends
    assert all(len(oid) <= 128 for oid in found)


def test_before_the_first_sample_there_is_nothing() -> None:
    assert shown(TMADGroup(lambda: None, list, "1.2")) == {}


def test_what_is_not_known_is_left_out() -> None:
    from dataclasses import replace

    figures = _figures()
    authority = replace(figures.authorities[0], not_after=None, crl=None, signed=None)
    tenant = TenantFigures(tenant="default", pending=0)
    bare = replace(
        figures, counted_at=None, journal=None, authorities=(authority,), tenants=(tenant,)
    )
    found = shown(TMADGroup(lambda: bare, list, "1.2"))
    columns = {oid[-2] for oid in found if oid[: len(TMAD) + 3] == (*TMAD, 1, 2, 1)}
    assert columns == {2, 3, 4, 5, 7, 11}


SYNTAXES: dict[str, tuple[type[Value], ...]] = {
    "SnmpAdminString": (Octets,), "DateAndTime": (Octets,), "INTEGER": (Integer,),
    "TruthValue": (Integer,), "Integer32": (Integer,), "Gauge32": (Gauge32,),
    "Unsigned32": (Gauge32,), "Counter64": (Counter64,), "TimeTicks": (TimeTicks,),
}  # fmt: skip


def test_every_value_is_of_the_type_that_the_module_declares() -> None:
    text = (ROOT / "conf" / "mibs" / "TMAD-MIB.txt").read_text()
    places: dict[str, OID] = {"enterprises": (1, 3, 6, 1, 4, 1)}
    types: dict[OID, tuple[type[Value], ...]] = {}
    pattern = r"^(\w+) +(?:OBJECT IDENTIFIER|[A-Z-]+\n(?:.*\n)*?) *::= \{ (\w+) (\d+) \}"
    pending = re.findall(pattern, text, re.MULTILINE)
    for _ in range(4):  # a name may stand before what it is below
        for name, parent, number in pending:
            if parent in places:
                places[name] = (*places[parent], int(number))
    for name, syntax in re.findall(r"^(\w+) OBJECT-TYPE\n +SYNTAX +(\w+)", text, re.MULTILINE):
        types[places[name]] = SYNTAXES.get(syntax, ())
    assert places["tmadMIB"] == TMAD
    assert places["tmadAppliance"] == tmad_mib.PRODUCT
    assert places["tmadNotificationObjects"] == tmad_mib.NOTIFICATION_OBJECTS
    seen = set()
    for kind, _, value in TMADGroup(_figures, lambda: [ALARM], "1.2")():
        assert isinstance(value, types[kind]), kind
        seen.add(kind)
    blocks = re.findall(r"^(\w+) OBJECT-TYPE\n((?:.+\n)*?) +::=", text, re.MULTILINE)
    readable = {places[name] for name, block in blocks if "read-only" in block}
    assert seen == readable
