"""A node whose database is a hot standby: it answers all that needs no change, and says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, free_ports
from tests.eapol import login
from tests.interop.device import Enrolled, enroll
from tests.postgres import Cluster, start_cluster
from tests.radius import RadiusNode


def beside(primary: Daemon, directory: Path, url: str) -> Daemon:
    """Return a second node with the first one's master key, and another database URL."""
    shutil.copytree(primary.directory, directory, ignore=shutil.ignore_patterns("run", "*.log"))
    node = Daemon.__new__(Daemon)
    node.__dict__.update(primary.__dict__, directory=directory, process=None)
    node.config = directory / "tmad.toml"
    node.log = directory / "daemon.log"
    text = node.config.read_text()
    old = next(line for line in text.splitlines() if line.startswith("url = "))
    text = text.replace(old, f'url = "{url}"')
    ports = [name for name in vars(primary) if name.endswith("_port")]
    for name, port in zip(ports, free_ports(len(ports)), strict=True):
        text = text.replace(f":{getattr(primary, name)}", f":{port}")
        setattr(node, name, port)
    node.config.write_text(text)
    node.url = f"http://127.0.0.1:{node.http_port}"
    node.https_url = f"https://127.0.0.1:{node.https_port}"
    node.ops_url = f"http://127.0.0.1:{node.ops_port}"
    return node


class Site:
    """Two PostgreSQL servers, one of which follows the other, and a node at each."""

    def __init__(self, directory: Path) -> None:
        self.primary_server = start_cluster()
        url = self.primary_server.empty_database()
        self.primary = Daemon(directory / "primary", "--db", url)
        self.standby_server: Cluster = self.primary_server.standby()
        self.replay()
        self.standby = beside(self.primary, directory / "standby", self.standby_server.follow(url))
        self.radius = RadiusNode(self.primary)
        self.replay()
        self.primary.start()
        self.standby.start()

    def replay(self) -> None:
        """Wait until the standby has what the primary has committed."""
        self.standby_server.replay(self.primary_server)

    def end(self) -> None:
        """End all of it."""
        for node in (self.primary, self.standby):
            node.kill()
        for server in (self.standby_server, self.primary_server):
            server.remove()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def device(site: Site) -> Enrolled:
    return enroll(site.primary, "r1")


def status(node: Daemon, device: Enrolled, *options: str) -> str:
    """Return what ``openssl ocsp`` says, having verified the answer."""
    done = subprocess.run(
        ["openssl", "ocsp", "-issuer", node.pem(), "-cert", device.path, "-url",
         f"{node.url}/ocsp", "-CAfile", node.pem("root"), *options],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert "Response verify OK" in output, output
    return output.split(f"{device.path}: ")[1].split("\n")[0]


def ready(node: Daemon) -> dict[str, object]:
    with urllib.request.urlopen(f"{node.ops_url}/readyz", timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def test_it_is_ready_and_says_what_works(site: Site) -> None:
    report = ready(site.standby)
    assert report["ready"] is True
    parts, works = report["parts"], report["works"]
    assert isinstance(parts, dict)
    assert isinstance(works, dict)
    assert parts["database.writes"] == "read-only standby"
    assert works["signed status and CRLs at hand"] is True
    assert works["network logins with certificates"] is True
    assert works["network logins with passwords and codes, accounting"] is False
    assert works["revocation"] is works["enrolment"] is False
    assert "database.writes" not in str(ready(site.primary)["parts"])


@pytest.mark.interop
def test_a_revocation_is_seen_as_soon_as_it_has_been_replayed(
    site: Site, require_client: Callable[[str], str]
) -> None:
    require_client("openssl")
    device = enroll(site.primary, "r2")
    site.replay()
    assert status(site.standby, device, "-no_nonce") == "good"
    assert status(site.standby, device) == "good"
    site.primary.tmad("cert", "hold", device.serial)
    site.replay()
    assert status(site.standby, device, "-no_nonce") == "revoked"
    site.primary.tmad("cert", "release", device.serial)
    site.replay()
    assert status(site.standby, device, "-no_nonce") == "good"


def test_the_primary_s_new_crl_is_served_and_until_then_the_last_good_one(
    site: Site, device: Enrolled
) -> None:
    def crl(node: Daemon) -> bytes:
        with urllib.request.urlopen(f"{node.url}/crl/issuing.crl", timeout=10) as answer:
            data: bytes = answer.read()
        return data

    before = crl(site.primary)
    site.replay()
    assert crl(site.standby) == before
    other = enroll(site.primary, "r3")
    site.primary.tmad("cert", "revoke", other.serial, "--reason", "superseded")
    site.replay()
    assert crl(site.standby)  # this one or the next, as the primary's timer decides
    after = crl(site.primary)
    assert after != before
    site.replay()
    assert crl(site.standby) == after


@pytest.mark.interop
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_certificates_log_in_over_radius_and_not_once_they_are_on_hold(
    site: Site, require_client: Callable[[str], str], version: str
) -> None:
    require_client("eapol_test")
    device = site.radius.issue(f"r{version}.example.test")
    deadline = time.monotonic() + 30
    while "eap-self" not in site.primary.tmad("cert", "list").stdout:
        assert time.monotonic() < deadline, "the primary makes no certificate of the EAP server"
    site.replay()
    nas = site.radius.nas(port=site.standby.radius_port)

    def hold() -> None:
        site.primary.tmad("cert", "hold", device.serial)
        site.replay()

    login(nas, site.radius.peer(device, tls=version), again=1).check(2, resumed=1)
    refused = login(nas, site.radius.peer(device, tls=version), again=1, between=hold)
    refused.check_refused()
    assert (refused.logins, refused.resumed) == (1, 1)
    site.primary.tmad("cert", "release", device.serial)
    site.replay()
    login(nas, site.radius.peer(device, tls=version)).check()
    log = site.standby.log.read_text()
    assert "Traceback" not in log
    assert device.serial in log  # what cannot be journaled is logged


@pytest.mark.parametrize(
    "command",
    [
        ("cert", "revoke", "{serial}", "--reason", "superseded"),
        ("cert", "hold", "{serial}"),
        ("enroll-secret", "create", "--endpoint", "scep/default"),
        ("crl", "build", "issuing"),
        ("user", "create", "alice"),
        ("radius-client", "rotate", "lab"),
    ],
)
def test_what_would_change_something_is_refused_in_words(
    site: Site, device: Enrolled, command: tuple[str, ...]
) -> None:
    site.replay()
    arguments = [word.format(serial=device.serial) for word in command]
    done = site.standby.tmad(*arguments, expect=5)
    assert "read-only standby" in done.stderr
    assert "promote" in done.stderr


def test_it_reads_the_inventory_and_verifies_the_journal(site: Site, device: Enrolled) -> None:
    site.replay()
    assert device.serial.lower() in site.standby.tmad("cert", "list").stdout
    site.standby.tmad("audit", "verify")


def test_it_says_so_once_and_not_at_each_heartbeat(site: Site) -> None:
    time.sleep(5)  # more than a heartbeat
    log = site.standby.log.read_text()
    assert log.count("the timers' lease could not be asked for") == 1
    assert "Traceback" not in log


def test_once_promoted_it_is_a_node_like_any_other(site: Site, device: Enrolled) -> None:
    # The last test of this file: the primary dies for good.
    site.replay()
    site.primary.kill()
    site.primary_server.kill()
    site.standby_server.promote()
    site.standby.tmad("cert", "revoke", device.serial, "--reason", "key-compromise")
    assert status(site.standby, device, "-no_nonce") == "revoked"
    # The dead one's lease has to end first (G-FAULT-11: 20 seconds).
    deadline = time.monotonic() + 25
    while "this process now runs what only one of all runs" not in site.standby.log.read_text():
        assert time.monotonic() < deadline, "it does not take the timers over"
        time.sleep(0.2)
    assert "database.writes" not in str(ready(site.standby)["parts"])
    assert enroll(site.standby, "r4").serial
    site.standby.tmad("audit", "verify")
