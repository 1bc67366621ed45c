"""Alarms reach snmptrapd: traps and informs, v2c and v3, also after it was away (A-S5, S-20)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.interop import snmp_tools
from tests.interop.snmp_tools import TMAD, Master, TrapReceiver, eventually, run
from tests.softhsm import RemoteToken, client_path, create_token

COMMUNITY = "trap-community"


def _node(directory: Path) -> Daemon:
    node = Daemon(directory, snmp=True)
    snmp_tools.add_user(node)
    secret = directory / "community"
    secret.write_text(COMMUNITY)
    node.tmad(
        "snmp", "community", "add", "traps", "--prefix", "127.0.0.1/32",
        "--secret-file", str(secret),
    )  # fmt: skip
    return node


def _receiver(node: Daemon, directory: Path) -> TrapReceiver:
    engine = node.json("snmp", "engine")["engine_id"]
    return TrapReceiver(directory, engine=engine, community=COMMUNITY)


def _journal(node: Daemon) -> set[str]:
    """Return the kinds of what was journaled, without a process for each look."""
    with closing(sqlite3.connect(f"file:{node.directory / 'tmad.db'}?mode=ro", uri=True)) as db:
        return {kind for (kind,) in db.execute("SELECT DISTINCT kind FROM journal")}


def _make_stale(node: Daemon, authority: str) -> None:
    """Let an authority's CRL be a month old, and its key be one that nobody can use."""
    with closing(sqlite3.connect(node.directory / "tmad.db")) as db:
        ((issuer, key),) = db.execute(
            "SELECT id, key_id FROM issuers WHERE authority = ?", (authority,)
        ).fetchall()
        month = 30 * 86_400 * 1_000_000
        db.execute(
            "UPDATE crls SET this_update = this_update - ?, next_update = next_update - ?"
            " WHERE issuer_id = ?", (month, month, issuer),
        )  # fmt: skip
        db.execute("UPDATE private_keys SET material = x'00' WHERE id = ?", (key,))
        db.commit()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = _node(tmp_path_factory.mktemp("node")).start()
    yield node
    node.kill()


@pytest.fixture(scope="module")
def receiver(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrapReceiver]:
    server = _receiver(daemon, tmp_path_factory.mktemp("trapd"))
    server.start()
    yield server
    server.stop()


# Of what else happens here these targets hear nothing.
QUIET = 'severity = "critical"\nalarms = ["disk-low"]\n'
V2C = 'version = "2c"\ncommunity = "traps"\n'
TARGETS = {
    "v3-inform": 'user = "ops"\n' + QUIET,
    "v3-trap": 'user = "ops"\ninform = false\n' + QUIET,
    "v2c-inform": V2C + QUIET,
    "v2c-trap": V2C + "inform = false\n" + QUIET,
    "refuses": 'user = "stranger"\n' + QUIET,
    "silent": 'address = "127.0.0.1:9"\ntimeout = 0.1\nretries = 1\n' + V2C + QUIET,
}


@pytest.fixture(scope="module")
def targets(daemon: Daemon, receiver: TrapReceiver) -> None:
    """Every target, as configuration as code."""
    text = ""
    for name, document in TARGETS.items():
        address = "" if "address" in document else f'address = "{receiver.address}"\n'
        text += f"[tenant.default.snmp-target.{name}]\n{address}{document}"
    path = daemon.directory / "targets.toml"
    path.write_text(text)
    daemon.tmad("apply", str(path))


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize("name", ["v3-inform", "v3-trap", "v2c-inform", "v2c-trap"])
def test_a_test_notification_arrives(daemon: Daemon, receiver: TrapReceiver, name: str) -> None:
    before = len(receiver.received())
    answer = daemon.json("snmp", "test", name)
    assert answer["acknowledged"].startswith("traps are not" if "trap" in name else "yes")

    def arrived() -> list[str]:
        # An inform that was acknowledged late is there twice, and may come after the answer.
        return [line for line in receiver.received()[before:] if f"snmp-target/{name}" in line]

    line = eventually(arrived, f"the {name}", 10)[0]
    assert "TMAD-MIB::tmadTest" in line
    assert "TMAD-MIB::tmadNotifySeverity.0 = INTEGER: warning(2)" in line
    assert ("INFORM" if "inform" in name else "TRAP2") in line


@pytest.mark.usefixtures("targets")
def test_a_receiver_that_refuses_says_why(daemon: Daemon) -> None:
    secrets = daemon.directory / "other"
    secrets.write_text("another-passphrase\n")
    daemon.tmad("snmp", "user", "add", "stranger", "--secret-file", str(secrets))
    done = daemon.tmad("snmp", "test", "refuses", expect=None)
    assert done.returncode in (2, 5)
    assert "does not know the user" in done.stdout + done.stderr


@pytest.mark.usefixtures("targets")
def test_a_target_that_is_silent_is_named(daemon: Daemon) -> None:
    done = daemon.tmad("snmp", "test", "silent", expect=None)
    assert done.returncode in (2, 5)
    assert "did not acknowledge within 2 times 0.1 seconds" in done.stdout + done.stderr


def test_alarms_arrive_in_order_also_after_both_were_away(
    daemon: Daemon, receiver: TrapReceiver
) -> None:
    """The receiver is gone while an authority is about to end; the daemon restarts meanwhile.

    And with the daemon's return there is a CRL that cannot be replaced: its key is damaged.
    """
    receiver.stop()
    daemon.tmad(
        "snmp", "target", "create", "noc", receiver.address, "--user", "ops",
        "--set", "timeout=0.2", "--set", "retries=0",
    )  # fmt: skip
    daemon.tmad("ca", "create", "brief", "--lifetime", "5d", "--algorithm", "p256")

    def raised() -> bool:
        return "alarm.raised" in _journal(daemon)

    eventually(raised, "the alarm")
    assert receiver.received("brief") == []
    assert daemon.stop() == 0
    _make_stale(daemon, "root")
    daemon.start()
    receiver.start()
    (line,) = eventually(lambda: receiver.received("authority/brief"), "the inform")
    assert "TMAD-MIB::tmadAuthorityExpiring" in line
    assert "tmadNotifySeverity.0 = INTEGER: critical(4)" in line
    assert re.search(r'tmadNotifyAlarm\.0 = STRING: "?authority-expiring', line)
    # The start of the engine came later, and is told later (SNMPv2-MIB::coldStart): once to
    # another target that had nothing to wait for, and once here.
    own = "INFORM, SNMP v3, user ops"
    # One whose acknowledgement came late is told again.
    eventually(lambda: len(receiver.received("snmpModules.1.1.5.1", own)) >= 2, "both coldStarts")
    told = receiver.received(own)
    assert told.index(line) < max(at for at, each in enumerate(told) if "Modules.1.1.5.1" in each)
    assert len(receiver.received("authority/brief")) == 1
    (line,) = eventually(lambda: receiver.received("authority/root"), "the stale CRL")
    assert "TMAD-MIB::tmadCRLStale" in line
    assert "tmadNotifySeverity.0 = INTEGER: critical(4)" in line
    assert "expired on" in line


def test_the_alarm_is_in_the_table_and_its_end_is_told(
    daemon: Daemon, receiver: TrapReceiver
) -> None:
    address = f"127.0.0.1:{daemon.snmp_port}"

    def table() -> str:
        # Just after its start the agent has nothing to show yet.
        return snmp_tools.attempt(
            "snmpwalk", *snmp_tools.user_options(), address, f"{TMAD}.1.10",
            directory=daemon.directory / "manager",
        )  # fmt: skip

    eventually(lambda: 'tmadAlarmSeverity."authority-expiring".' in table(), "the row")
    daemon.tmad("ca", "withdraw", "brief", "--reason", "superseded")
    (line,) = eventually(
        lambda: receiver.received("tmadAlarmCleared", "authority/brief"), "the end"
    )
    assert "tmadNotifySeverity.0 = INTEGER: cleared(1)" in line
    eventually(lambda: "authority/brief" not in table(), "the row is gone")


def test_a_subagent_joins_snmpd_answers_and_tells_of_an_hsm(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> None:
    """AgentX: the same walk through Debian's snmpd, also after snmpd was restarted (A-S6).

    The HSM goes and comes back; snmpd sends the traps.
    """
    module = Path(require_client(str(client_path() or "p11-kit-client.so")))
    hsm = RemoteToken(create_token(tmp_path_factory.mktemp("hsm") / "token"), module)
    hsm.start()
    receiver_directory = tmp_path_factory.mktemp("trapd")
    receiver = TrapReceiver(receiver_directory, engine="0x8000000001020304", community="mastertrap")
    master = Master(
        tmp_path_factory.mktemp("snmpd"), trap_address=receiver.address, community="mastertrap"
    )
    node = Daemon(
        tmp_path_factory.mktemp("node"),
        "--keys", "pkcs11", "--pkcs11-module", str(hsm.client),
        "--pkcs11-token", hsm.token.label, "--pin-file", str(hsm.token.pin_file),
        environment=hsm.environment,
        snmp=f'agentx = "{master.agentx}"',
    )  # fmt: skip
    snmp_tools.add_user(node)
    manager = node.directory / "manager"
    own, joined = f"127.0.0.1:{node.snmp_port}", f"127.0.0.1:{master.port}"
    try:
        receiver.start()
        master.start()
        node.start()

        def walk(address: str, *options: str) -> list[str]:
            # Bulk through snmpd, too: it asks the subagent one by one.
            done = snmp_tools.attempt(
                "snmpbulkwalk", *options, "-OnQ", "-Cr25", address, f"{TMAD}.1", directory=manager
            )
            return [line.split(" = ")[0] for line in done.splitlines() if " = " in line]

        eventually(lambda: len(walk(joined, "-v2c", "-cpublic")) > 100, "the subagent joins")
        through = set(walk(joined, "-v2c", "-cpublic"))
        direct = set(walk(own, *snmp_tools.user_options()))
        # Outcomes appear as requests are counted, between two walks too.
        assert through ^ direct <= {name for name in through | direct if f"{TMAD}.1.6." in name}
        assert len(through & direct) > 100
        state = run(
            "snmpget", "-v2c", "-cpublic", "-OQv", joined, f"{TMAD}.1.1.6.0", directory=manager
        )
        assert state.strip() == "ok"
        hsm.stop()
        (line,) = eventually(lambda: receiver.received("tmadKeyStoreLost"), "the loss is told")
        assert "TMAD-MIB::tmadNotifySeverity.0 = INTEGER: critical(4)" in line
        master.stop()
        hsm.start()
        master.start()
        eventually(lambda: len(walk(joined, "-v2c", "-cpublic")) > 100, "the subagent is back")
        (line,) = eventually(lambda: receiver.received("tmadKeyStoreRestored"), "the return")
        assert "TMAD-MIB::tmadNotifySeverity.0 = INTEGER: cleared(1)" in line
    finally:
        node.kill()
        master.stop()
        receiver.stop()
        hsm.stop()
