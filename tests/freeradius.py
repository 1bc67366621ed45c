"""A throw-away FreeRADIUS on loopback: the reference that rigs and benchmarks are proven with."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TypeVar

from tests.daemon import free_ports
from tests.pki import Identity

Self = TypeVar("Self", bound="Server")

_READY = "Ready to process requests"

# Nothing in it depends on what Debian puts below /etc: one file holds all of it.
_HEAD = """
prefix = /usr
libdir = /usr/lib/freeradius
name = radiusd
modconfdir = {home}
raddbdir = {home}
confdir = {home}
run_dir = {home}
logdir = {home}
pidfile = {home}/pid
max_request_time = 30
cleanup_delay = 5
max_requests = 65536
hostname_lookups = no
security {{
    allow_core_dumps = no
    max_attributes = 200
    reject_delay = 0
    status_server = yes
}}
thread pool {{
    start_servers = {threads}
    max_servers = {threads}
    min_spare_servers = 0
    max_spare_servers = {threads}
    max_requests_per_server = 0
    max_queue_size = 65536
}}
"""
_CONFIGURATION = """
log {{
    destination = files
    file = {home}/radius.log
    auth = no
}}
client loopback {{
    ipaddr = 127.0.0.1
    secret = {secret}
    require_message_authenticator = yes
}}
modules {{
    always ok {{
        rcode = ok
    }}
    pap {{
    }}
    mschap {{
    }}
    files {{
        usersfile = {home}/users
    }}
    {sql}
    eap {{
        default_eap_type = tls
        timer_expire = 60
        ignore_unknown_eap_types = no
        max_sessions = 65536
        gtc {{
            auth_type = PAP
        }}
        mschapv2 {{
        }}
        tls-config common {{
            private_key_file = {key}
            certificate_file = {chain}
            ca_file = {authority}
            fragment_size = {fragment}
            ecdh_curve = ""
            cipher_list = "DEFAULT"
            tls_min_version = "1.2"
            tls_max_version = "1.3"
            check_crl = {check_crl}
            cache {{
                enable = yes
                lifetime = 1
                name = "tests"
                persist_dir = {home}/sessions
            }}
        }}
        tls {{
            tls = common
        }}
        ttls {{
            tls = common
            default_eap_type = mschapv2
            copy_request_to_tunnel = no
            use_tunneled_reply = no
            virtual_server = "inner"
        }}
        peap {{
            tls = common
            default_eap_type = mschapv2
            copy_request_to_tunnel = no
            use_tunneled_reply = no
            virtual_server = "inner"
        }}
    }}
}}
server default {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {port}
    }}
    authorize {{
        eap {{
            ok = return
        }}
        files
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
        eap
    }}
    post-auth {{
        {record}
        if (EAP-Key-Name && &reply:EAP-Session-Id) {{
            update reply {{
                EAP-Key-Name := &reply:EAP-Session-Id
            }}
        }}
    }}
}}
server inner {{
    authorize {{
        mschap
        eap {{
            ok = return
        }}
        files
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
        Auth-Type MS-CHAP {{
            mschap
        }}
        eap
    }}
}}
"""

_SQL = """
    sql {{
        dialect = "sqlite"
        driver = "rlm_sql_sqlite"
        sqlite {{
            filename = "{home}/logins.db"
            busy_timeout = 5000
        }}
        sql_user_name = "%{{User-Name}}"
        pool {{
            start = {threads}
            min = {threads}
            max = {threads}
            spare = 0
            uses = 0
            lifetime = 0
            idle_timeout = 0
        }}
    }}
"""
# One durable row for each login, and a counter that only goes up: what an OTP server has to do.
_RECORD = """
        update control {
            Tmp-Integer-0 := "%{sql:INSERT INTO logins (name, station, at) VALUES \
('%{User-Name}', '%{Calling-Station-Id}', CURRENT_TIMESTAMP)}"
        }
        if (User-Password) {
            update control {
                Tmp-Integer-0 := "%{sql:UPDATE counters SET value = value + 1 WHERE \
name = '%{User-Name}'}"
            }
        }
"""
_TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE logins (id INTEGER PRIMARY KEY, name TEXT, station TEXT, at TEXT);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER);
"""


class Server:
    """A server in a directory of its own that serves what ``configuration`` says."""

    program = "/usr/sbin/freeradius"
    options: tuple[str, ...] = ("-f",)

    def __init__(self, directory: Path, configuration: str, *, threads: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        file = directory / "radiusd.conf"
        file.write_text(_HEAD.format(home=directory, threads=threads) + configuration)
        file.chmod(0o600)  # it warns of what others can read

    @property
    def pid(self) -> int:
        """Return the process with all its threads."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return everything that it has said."""
        files = self.directory / "radius.log", self.directory / "output"
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def start(self: Self) -> Self:
        """Start it and wait until it says that it listens."""
        heard = self.log().count(_READY)
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [self.program, *self.options, "-d", str(self.directory), "-n", "radiusd"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while self.log().count(_READY) == heard:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"FreeRADIUS did not start\n{self.log()[-3000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class FreeRADIUS(Server):
    """One for the certificates that ``authority`` issued.

    With ``records`` it does more of what tmad does: each login becomes a durable row in SQLite,
    and one with a password raises a counter there. ``check_crl`` wants CRLs in ``authority``.
    """

    def __init__(
        self,
        directory: Path,
        authority: Path,
        identity: Identity,
        *,
        secret: str,
        users: dict[str, str] | None = None,
        fragment: int = 1024,
        threads: int = 8,
        check_crl: bool = False,
        records: bool = False,
    ) -> None:
        self.secret = secret
        self.port, *_ = free_ports(2)
        configuration = _CONFIGURATION.format(
            home=directory, port=self.port, secret=secret, key=identity.key,
            chain=identity.chain, authority=authority, fragment=fragment,
            check_crl="yes" if check_crl else "no", record=_RECORD if records else "",
            sql=_SQL.format(home=directory, threads=threads) if records else "",
        )  # fmt: skip
        super().__init__(directory, configuration, threads=threads)
        # Since 3.2 it resumes only sessions that it finds in files.
        (directory / "sessions").mkdir(exist_ok=True)
        identity.key.chmod(0o600)
        lines = (f'{name} Cleartext-Password := "{word}"\n' for name, word in (users or {}).items())
        (directory / "users").write_text("".join(lines))
        if records:
            with contextlib.closing(sqlite3.connect(directory / "logins.db")) as database:
                database.executescript(_TABLES)
                database.executemany(
                    "INSERT INTO counters VALUES (?, 0)", [(name,) for name in users or {}]
                )
                database.commit()
