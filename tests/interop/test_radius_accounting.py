"""A-R5: accounting by radclient, and Disconnect-Requests of two workers, on a real daemon."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.network_sessions import NAS, NAS_SECRET, ListeningNAS
from tests.radius import OPEN_POLICY

SECRET = NAS_SECRET.decode()


class Node:
    """A daemon of two workers with a RADIUS client on loopback."""

    def __init__(self, directory: Path, radclient: str) -> None:
        self.daemon = Daemon(directory, workers=2)
        self.accounting = self.daemon.radius_acct_port
        self.daemon.tmad("apply", "-", text=OPEN_POLICY)
        self.daemon.tmad(
            "radius-client", "create", "switch", "--prefix", "127.0.0.1", "--method", "pap",
            "--secret-file", "-", text=SECRET,
        )  # fmt: skip
        self.daemon.start()
        self._radclient = radclient

    def account(
        self, text: str, *, secret: str = SECRET, expect: int = 0, tries: int = 2
    ) -> subprocess.CompletedProcess[str]:
        """Send one record; radclient chooses identifier and authenticator."""
        return self.send("acct", self.accounting, text, secret, expect, tries)

    def send(
        self, kind: str, port: int, text: str, secret: str = SECRET, expect: int = 0, tries: int = 2
    ) -> subprocess.CompletedProcess[str]:
        """Send one request."""
        done = subprocess.run(
            [self._radclient, "-x", "-r", str(tries), "-t", "2", f"127.0.0.1:{port}", kind, secret],
            input=text, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == expect, f"{done.stdout}{done.stderr}"
        return done

    def sessions(self, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.daemon.json("session", "list", *options)
        return found

    def records(self, *session: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.daemon.json("session", "accounting", *session)
        return found


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("node"), require_client("radclient"))
    yield made
    made.daemon.kill()


def record(status: str, key: str, **more: object) -> str:
    known = {
        "Acct-Status-Type": status,
        "Acct-Session-Id": key,
        "User-Name": "laptop",
        "NAS-Identifier": "sw1",
        "Calling-Station-Id": f"02-00-00-00-{key[-2:]}-01",
        "NAS-Port": 7,
    }
    said = known | {name.replace("_", "-"): value for name, value in more.items()}
    return ",".join(f'{name}="{value}"' for name, value in said.items())


def test_a_r5_start_interim_stop_with_gigawords(node: Node) -> None:
    answer = node.account(record("Start", "A-01", Framed_IP_Address="198.51.100.7"))
    assert "Received Accounting-Response" in answer.stdout
    [one] = [each for each in node.sessions() if each["calling_station"] == "020000000101"]
    assert one["state"] == "open"
    node.account(
        record(
            "Interim-Update", "A-01", Acct_Session_Time=60, Acct_Input_Octets=5,
            Acct_Input_Gigawords=3, Acct_Output_Octets=9,
        )
    )  # fmt: skip
    shown = node.daemon.json("session", "show", one["id"])
    assert (shown["octets_in"], shown["octets_out"]) == ((3 << 32) + 5, 9)
    assert shown["framed_address"] == "198.51.100.7"
    node.account(record("Stop", "A-01", Acct_Session_Time=99, Acct_Terminate_Cause="User-Request"))
    shown = node.daemon.json("session", "show", one["id"])
    assert (shown["state"], shown["cause"], shown["seconds"]) == ("closed", "user-request", 99)
    assert [each["status"] for each in node.records(one["id"])] == ["stop", "interim", "start"]


def test_a_r5_a_record_that_is_sent_again_with_another_delay_is_stored_once(node: Node) -> None:
    for delay in (0, 1, 2):
        node.account(record("Start", "A-02", Acct_Delay_Time=delay))
    [one] = [each for each in node.sessions() if each["calling_station"] == "020000000201"]
    assert len(node.records(one["id"])) == 1


def test_a_r5_on_closes_every_session_of_that_nas(node: Node) -> None:
    node.account(record("Start", "B-11", NAS_Identifier="sw2"))
    node.account(record("Start", "B-12", NAS_Identifier="sw2"))
    node.account(record("Start", "B-13", NAS_Identifier="sw3"))
    time.sleep(1.1)
    node.account('Acct-Status-Type=Accounting-On,NAS-Identifier="sw2"')
    open_now = {each["calling_station"] for each in node.sessions()}
    assert "020000001301" in open_now
    assert not {"020000001101", "020000001201"} & open_now
    over = node.sessions("--all", "--station", "02:00:00:00:11:01")
    assert over[0]["cause"] == "nas-on"


def test_a_r5_a_wrong_secret_is_silence_and_stores_nothing(node: Node) -> None:
    before = len(node.records())
    node.account(record("Start", "C-21"), secret="not-the-secret-at-all", expect=1, tries=1)
    assert len(node.records()) == before


def test_a_kind_that_is_not_stored_is_answered(node: Node) -> None:
    before = len(node.records())
    answer = node.account("Acct-Status-Type=Failed,Acct-Session-Id=x")
    assert "Received Accounting-Response" in answer.stdout
    assert len(node.records()) == before


def test_what_is_acknowledged_survives_a_power_cut(node: Node) -> None:
    node.account(record("Start", "D-31"))
    node.daemon.kill()
    assert [each["calling_station"] for each in node.sessions()].count("020000003101") == 1
    before = len(node.daemon.log.read_text())
    node.daemon.start()
    # What only one process does waits until the dead one's lease is over.
    deadline = time.monotonic() + 30
    while "what only one of all runs" not in node.daemon.log.read_text()[before:]:
        assert time.monotonic() < deadline, "nobody took over"
        time.sleep(0.1)


@contextlib.contextmanager
def listening(node: Node, nas: NAS) -> Iterator[ListeningNAS]:
    with ListeningNAS(nas) as found:
        node.daemon.tmad("radius-client", "set", "switch", f"coa.port={found.port}")
        yield found


def begin(node: Node, key: str) -> str:
    node.account(record("Start", key))
    station = f"02:00:00:00:{key[-2:]}:01"
    [one] = node.sessions("--station", station)
    return str(one["id"])


def test_two_workers_send_exactly_one_disconnect_request_for_each_session(node: Node) -> None:
    sessions = [begin(node, f"E-{number}") for number in range(40, 46)]
    with listening(node, NAS()) as nas:
        for session in sessions:
            node.daemon.tmad("session", "disconnect", session)
        last = time.monotonic()
        nas.wait_for(6)
        assert time.monotonic() - last < 2.0
        time.sleep(3.0)
        assert len(nas.nas.requests) == 6
        assert {code for code, _ in nas.nas.requests} == {40}
        assert nas.nas.dropped == 0
    for session in sessions:
        shown = node.daemon.json("session", "show", session)
        assert (shown["state"], shown["cause"]) == ("closed", "disconnected")
    node.daemon.tmad("session", "disconnect", sessions[0], expect=2)


def test_a_nas_that_is_down_is_asked_again_and_the_journal_says_so(node: Node) -> None:
    session = begin(node, "F-50")
    silent = NAS(answer=lambda code, attributes: None)
    with listening(node, silent) as nas:
        node.daemon.tmad("session", "disconnect", session)
        nas.wait_for(3, seconds=15)
        assert len(set(silent.octets[:3])) == 1
        deadline = time.monotonic() + 10
        while "network.disconnect-failed" not in node.daemon.tmad("audit", "tail").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        # It comes back before the next attempt.
        silent.answer = lambda code, attributes: (code + 1, None)
        nas.wait_for(4, seconds=15)
    deadline = time.monotonic() + 5
    while (shown := node.daemon.json("session", "show", session))["state"] != "closed":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [each["outcome"] for each in shown["disconnects"]] == ["acknowledged"]
    assert shown["disconnects"][0]["attempts"] == 2


def test_r85_a_disabled_person_is_put_off_within_a_second(node: Node) -> None:
    node.daemon.tmad("user", "create", "bob", "--password-file", "-", text="correct horse battery")
    said = 'NAS-Identifier="sw1",Calling-Station-Id="02-00-00-00-60-01",Acct-Session-Id="G-60"'
    answer = node.send(
        "auth", node.daemon.radius_port,
        f'User-Name="bob",User-Password="correct horse battery",Message-Authenticator=0x00,{said}',
    )  # fmt: skip
    [given] = re.findall(r"Class = (0x[0-9a-f]+)", answer.stdout)
    node.account(f'Acct-Status-Type=Start,User-Name="bob",Class={given},{said}')
    [session] = node.sessions("--person", "bob")
    assert (session["state"], session["method"]) == ("open", "pap")
    with listening(node, NAS()) as nas:
        node.daemon.tmad("user", "disable", "bob")
        assert nas.wait_for(1) < 1.0
        [(code, attributes)] = nas.nas.requests
        assert code == 40
        assert attributes[44] == b"G-60"
        assert attributes[31] == b"02-00-00-00-60-01"
    shown = node.daemon.json("session", "show", session["id"])
    assert shown["disconnects"][0]["reason"] == "person-disabled"
