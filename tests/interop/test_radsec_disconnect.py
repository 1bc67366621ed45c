"""Sessions that end down the RadSec connection of their client: FreeRADIUS as a proxy behind NAT.

It cannot be connected to; it takes Disconnect-Requests where it has connected to itself.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, free_ports
from tests.freeradius import Server
from tests.radius import OPEN_POLICY
from tests.support import tries
from tests.system.commands import commands_of

pytestmark = pytest.mark.interop

PASSWORD = secrets.token_urlsafe(12)
PROXY = "proxy.example.test"
# Whatever ends is acknowledged, but for the stations of one port: those it does not know.
CONFIGURATION = """
proxy_requests = yes
client loopback {{
    ipaddr = 127.0.0.1
    secret = {secret}
}}
home_server tmad {{
    type = auth+coa
    ipaddr = 127.0.0.1
    port = {radsec_port}
    proto = tcp
    secret = radsec
    status_check = none
    recv_coa {{
        virtual_server = ends
    }}
    tls {{
        certificate_file = {certificate}
        private_key_file = {key}
        ca_file = {root}
        tls_min_version = "1.2"
        tls_max_version = "1.2"
    }}
}}
home_server_pool tmad {{
    type = fail-over
    home_server = tmad
}}
realm tmad {{
    auth_pool = tmad
}}
modules {{
    always ok {{
        rcode = ok
    }}
    always reject {{
        rcode = reject
    }}
}}
server asks {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        update control {{
            &Proxy-To-Realm := "tmad"
        }}
    }}
}}
server ends {{
    recv-coa {{
        if (&Calling-Station-Id == "02-00-00-00-00-99") {{
            update reply {{
                &Error-Cause := Session-Context-Not-Found
            }}
            reject
        }}
        else {{
            ok
        }}
    }}
    send-coa {{
        ok
    }}
}}
"""


class Proxy(Server):
    """FreeRADIUS between its clients, here radclient, and the node; it tells every packet."""

    options = ("-X",)

    def __init__(self, directory: Path, daemon: Daemon, pki: Path) -> None:
        [self.port] = free_ports(1)
        self.secret = secrets.token_hex(16)
        configuration = CONFIGURATION.format(
            port=self.port,
            secret=self.secret,
            radsec_port=daemon.radsec_port,
            certificate=pki / f"{PROXY}.chain.pem",
            key=pki / f"{PROXY}.key",
            root=daemon.pem("root"),
        )
        super().__init__(directory, configuration, threads=2)


class Site:
    def __init__(self, directory: Path, *init: str) -> None:
        self.daemon = Daemon(
            directory / "node", *init, workers=2, radius="reject_delay = 0", radsec=True
        )
        (directory / "password").write_text(PASSWORD)
        self.tmad = commands_of(self.daemon)
        self.daemon.tmad("apply", "-", text=OPEN_POLICY)
        self.tmad.run(
            "radius-client", "create", "proxy", "--radsec-name", PROXY, "--method", "pap",
            "--set", "coa.via=radsec",
        )  # fmt: skip
        self.tmad.run("user", "create", "bob", "--password-file", str(directory / "password"))
        self.tmad.run(
            "cert", "issue", PROXY, "--profile", "tls-client", "--san", f"dns:{PROXY}",
            "--out", str(directory / "pki"),
        )  # fmt: skip
        self.start()
        self._wait_for_door(directory / "pki" / f"{PROXY}.chain.pem")
        self.proxy = Proxy(directory / "proxy", self.daemon, directory / "pki")
        self.proxy.start()

    def start(self) -> None:
        """Start what the proxy is going to be connected to."""
        self.daemon.start()

    def _wait_for_door(self, chain: Path) -> None:
        """Wait until every worker has a certificate to show: FreeRADIUS asks no second time."""
        context = ssl.create_default_context(cafile=str(self.daemon.pem("root")))
        context.load_cert_chain(chain, chain.with_name(f"{PROXY}.key"))
        deadline, good = time.monotonic() + 15, 0
        while good < 10:
            assert time.monotonic() < deadline
            try:
                with socket.create_connection(("127.0.0.1", self.daemon.radsec_port)) as raw:
                    context.wrap_socket(raw, server_hostname="127.0.0.1").close()
                good += 1
            except OSError:
                good = 0
                time.sleep(0.2)

    def login(self, station: str) -> str:
        """Log bob in from a station; return the session."""
        done = subprocess.run(
            ["radclient", "-x", "-r3", "-t4", f"127.0.0.1:{self.proxy.port}", "auth",
             self.proxy.secret],
            input=f'User-Name=bob,User-Password="{PASSWORD}",Calling-Station-Id="{station}",'
            "Message-Authenticator=0x00",
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert "Received Access-Accept" in done.stdout, self.proxy.log()[-3000:]
        [found] = self.tmad.json("session", "list", "--station", station)
        return str(found["id"])

    def ended(self, session: str, outcome: str) -> dict[str, Any]:
        """Return the session once an end of it was tried with this outcome."""
        for _ in tries(10):
            found: dict[str, Any] = self.tmad.json("session", "show", session)
            if [each["outcome"] for each in found["disconnects"]] == [outcome]:
                return found
            time.sleep(0.1)
        raise AssertionError((found, self.proxy.log()[-3000:]))

    def asks_who_is_away_and_back(self) -> None:
        session = self.login("02-00-00-00-00-05")
        self.proxy.stop()
        self.tmad.run("session", "disconnect", session)
        found = self.ended(session, "not-sent")
        assert found["state"] != "closed"
        self.proxy.start()
        self.login("02-00-00-00-00-06")
        self.ended(session, "acknowledged")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    for program in ("/usr/sbin/freeradius", "radclient"):
        require_client(program)
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.proxy.stop()
    made.daemon.kill()


def test_a_session_ends_down_the_connection_of_its_client(site: Site) -> None:
    session = site.login("02-00-00-00-00-01")
    site.tmad.run("session", "disconnect", session)
    found = site.ended(session, "acknowledged")
    assert (found["state"], found["cause"]) == ("closed", "disconnected")
    assert "Received Disconnect-Request" in site.proxy.log()


def test_what_the_client_does_not_know_any_more_is_over(site: Site) -> None:
    session = site.login("02-00-00-00-00-99")
    site.tmad.run("session", "disconnect", session)
    found = site.ended(session, "session-gone")
    assert (found["state"], found["cause"]) == ("closed", "disconnected")


def test_both_workers_reach_a_connection_that_either_has(site: Site) -> None:
    """Another process disables the person, another worker may send than has the connection."""
    for turn in range(2):
        site.proxy.stop()
        site.proxy.start()
        sessions = [site.login(f"02-00-00-00-0{turn}-0{number}") for number in range(2, 5)]
        site.tmad.run("user", "disable", "bob")
        for session in sessions:
            site.ended(session, "acknowledged")
        site.tmad.run("user", "enable", "bob")


def test_a_client_that_is_away_is_asked_when_it_is_back(site: Site) -> None:
    site.asks_who_is_away_and_back()


def test_only_a_client_of_radsec_can_be_asked_so(site: Site) -> None:
    done = site.tmad.run(
        "radius-client", "create", "switch", "--prefix", "192.0.2.1",
        "--set", "coa.via=radsec", expect=None,
    )  # fmt: skip
    assert done.code != 0
    assert "radsec.names" in done.out + done.err
