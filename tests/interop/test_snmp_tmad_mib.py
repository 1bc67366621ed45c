"""What the agent shows, as net-snmp's command line and libsmi's smilint see it (A-S2, A-S6)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.interop import snmp_tools
from tests.interop.snmp_tools import MIBS, ROOT, TMAD, eventually, run, user_options

MIB = ROOT / "conf" / "mibs" / "TMAD-MIB.txt"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node"), snmp='contact = "ops@example.test"').start()
    snmp_tools.add_user(node)
    yield node
    node.kill()


@pytest.fixture(scope="module")
def agent(daemon: Daemon) -> str:
    address = f"127.0.0.1:{daemon.snmp_port}"

    def is_complete() -> bool:
        # Certificates were counted, and the journal has its first checkpoint.
        times = [f"{TMAD}.1.1.5.0", f"{TMAD}.1.1.13.0"]
        manager = daemon.directory / "manager"
        answer = snmp_tools.attempt("snmpget", *user_options(), address, *times, directory=manager)
        return answer.count("STRING") == len(times)

    eventually(is_complete, "the first complete sample")
    return address


def ask(daemon: Daemon, program: str, *arguments: str) -> str:
    return run(program, *arguments, directory=daemon.directory / "manager")


def test_smilint_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    (tmp_path / "smi.conf").write_text(f"path {MIBS.partition(':')[0]}\n")
    done = subprocess.run(
        ["smilint", "-c", str(tmp_path / "smi.conf"), "-s", "-l", "9", str(MIB)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_net_snmp_loads_the_module_and_names_what_is_in_it(tmp_path: Path) -> None:
    run("snmptranslate", "-IR", "tmadMIB", directory=tmp_path)  # it makes its directories
    done = subprocess.run(
        ["snmptranslate", "-m", "TMAD-MIB", "-On", "TMAD-MIB::tmadCRLStale"],
        capture_output=True, text=True, timeout=60, check=False,
        env=snmp_tools.environment(tmp_path),
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (f".{TMAD}.0.3", "")
    back = run("snmptranslate", f"{TMAD}.1.2.1.15.7", directory=tmp_path)
    assert back.strip() == "TMAD-MIB::tmadAuthorityCRLAge.7"


def test_every_object_of_the_module_is_there_and_none_that_is_not(
    daemon: Daemon, agent: str
) -> None:
    def shown() -> set[str]:
        walked = ask(daemon, "snmpbulkwalk", *user_options(), "-Cr30", "-OQs", agent, TMAD)
        return {re.split(r"[.\[]", line)[0] for line in walked.splitlines() if " = " in line}

    # The journal has a subscriber once one has asked for the first time.
    eventually(lambda: "tmadSubscriberBehind" in shown(), "the first subscriber")
    text = MIB.read_text()
    blocks = re.findall(r"^(tmad\w+) OBJECT-TYPE\n((?:.+\n|\n(?!tmad))*?)    ::=", text, re.M)
    readable = {name for name, block in blocks if "MAX-ACCESS  read-only" in block}
    # No alarm is raised here.
    absent = {name for name in readable if name.startswith("tmadAlarm") and name != "tmadAlarms"}
    assert shown() == readable - absent


def test_values_have_the_types_and_names_that_the_module_gives_them(
    daemon: Daemon, agent: str
) -> None:
    # Net-snmp writes "Wrong Type" where a value is none of what the module says.
    walked = ask(daemon, "snmpwalk", *user_options(), agent, TMAD)
    assert "Wrong Type" not in walked
    assert "TMAD-MIB::tmadAuthorityState.2 = INTEGER: active(4)" in walked
    assert "TMAD-MIB::tmadAuthorityCRLState.2 = INTEGER: good(3)" in walked
    assert "TMAD-MIB::tmadDatabaseState.0 = INTEGER: ok(1)" in walked
    assert 'TMAD-MIB::tmadKeyStoreState."soft" = INTEGER: ok(1)' in walked
    assert 'TMAD-MIB::tmadTenantPending."default" = Gauge32: 0' in walked


def test_the_table_of_authorities_is_a_table(daemon: Daemon, agent: str) -> None:
    table = ask(
        daemon, "snmptable", *user_options(), "-Cb", "-Cf", ";", agent, "tmadAuthorityTable"
    )
    lines = [line.split(";") for line in table.splitlines() if ";" in line]
    named = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [(row["Tenant"], row["Name"], row["State"]) for row in named] == [
        ("default", "root", "active"),
        ("default", "issuing", "active"),
    ]
    assert all(int(row["Issued"]) >= 2 for row in named)


def test_counts_follow_what_is_issued_and_revoked(daemon: Daemon, agent: str) -> None:
    def counter() -> int:
        oid = 'tmadDoorRequests."crl"."/crl"'
        return int(ask(daemon, "snmpget", *user_options(), "-OQv", agent, oid))

    before = counter()
    subprocess.run(
        ["curl", "-sf", "-o", os.devnull, f"{daemon.url}/crl/issuing.crl"], check=True, timeout=30
    )
    eventually(lambda: counter() == before + 1, "the request is counted", 15)


def test_the_standard_groups_are_those_of_this_machine(daemon: Daemon, agent: str) -> None:
    def get(oid: str) -> str:
        return ask(daemon, "snmpget", *user_options(), "-OnqvU", agent, oid).strip().strip('"')

    assert get("1.3.6.1.2.1.1.1.0").startswith("tmad ")
    assert get("1.3.6.1.2.1.1.2.0") == f".{TMAD}.3.1"
    assert get("1.3.6.1.2.1.1.4.0") == "ops@example.test"
    interfaces = ask(daemon, "snmpwalk", *user_options(), "-OqvU", agent, "1.3.6.1.2.1.2.2.1.2")
    assert {name.strip('"') for name in interfaces.split()} == set(os.listdir("/sys/class/net"))
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines())
    assert get("1.3.6.1.2.1.25.2.2.0") == memory.split()[1]
    assert get("1.3.6.1.4.1.2021.4.5.0") == memory.split()[1]
    processors = ask(daemon, "snmpwalk", *user_options(), "-Oqv", agent, "1.3.6.1.2.1.25.3.3.1.2")
    assert len(processors.split()) == os.cpu_count()
    assert all(0 <= int(load) <= 100 for load in processors.split())
    loads = ask(daemon, "snmpwalk", *user_options(), "-OqvU", agent, "1.3.6.1.4.1.2021.10.1.3")
    assert all(re.fullmatch(r'"?\d+\.\d\d"?', load) for load in loads.split())


def test_a_whole_walk_ends_and_goes_forward_only(daemon: Daemon, agent: str) -> None:
    begin = time.monotonic()
    # snmpbulkwalk itself fails with "OID not increasing" (no -Cc).
    walked = ask(daemon, "snmpbulkwalk", *user_options(), "-On", agent, "1.3")
    assert time.monotonic() - begin < 10
    assert len(walked.splitlines()) > 300


def test_counters_are_those_of_all_workers_and_outlive_one(tmp_path: Path) -> None:
    """One worker answers for all; what a killed one has counted is not forgotten."""
    node = Daemon(tmp_path / "node", snmp=True, workers=2)
    snmp_tools.add_user(node)
    address = f"127.0.0.1:{node.snmp_port}"

    def get(oid: str) -> str:
        return snmp_tools.attempt(
            "snmpget", *user_options(), "-OQvU", address, oid, directory=tmp_path / "manager"
        ).strip()

    def counted() -> int:
        text = get('tmadDoorRequests."crl"."/crl"')
        return int(text) if text.isdigit() else -1

    try:
        node.start()
        eventually(lambda: get("tmadWorkerProcess.2").isdigit(), "both workers are shown")
        for _ in range(24):
            # A connection each, so that the kernel gives some to either worker.
            subprocess.run(
                ["curl", "-sf", "-o", os.devnull, f"{node.url}/crl/issuing.crl"],
                check=True, timeout=30,
            )  # fmt: skip
        eventually(lambda: counted() == 24, "all requests are counted")
        second = int(get("tmadWorkerProcess.2"))
        os.kill(second, signal.SIGKILL)
        seen = []

        def is_back() -> bool:
            seen.append(counted())
            process = get("tmadWorkerProcess.2")
            return process.isdigit() and int(process) != second

        eventually(is_back, "another worker takes its place")
        assert set(seen) == {24}
    finally:
        node.kill()
