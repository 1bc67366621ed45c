"""A throw-away FreeRADIUS on loopback: the reference that rigs and benchmarks are proven with."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from pathlib import Path

from tests.daemon import free_ports
from tests.pki import Identity

# Nothing in it depends on what Debian puts below /etc: one file holds all of it.
_CONFIGURATION = """
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
log {{
    destination = files
    file = {home}/radius.log
    auth = no
}}
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


class FreeRADIUS:
    """One server in a directory of its own, for the certificates that ``authority`` issued.

    With ``records`` it does more of what tmad does: each login becomes a durable row in SQLite,
    and one with a password raises a counter there. ``check_crl`` wants CRLs in ``authority``.
    """

    program = "/usr/sbin/freeradius"

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
        self.directory = directory
        self.secret = secret
        self.port, *_ = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        # Since 3.2 it resumes only sessions that it finds in files.
        (directory / "sessions").mkdir(parents=True, exist_ok=True)
        configuration = _CONFIGURATION.format(
            home=directory, port=self.port, secret=secret, key=identity.key,
            chain=identity.chain, authority=authority, fragment=fragment, threads=threads,
            check_crl="yes" if check_crl else "no", record=_RECORD if records else "",
            sql=_SQL.format(home=directory, threads=threads) if records else "",
        )  # fmt: skip
        (directory / "radiusd.conf").write_text(configuration)
        # It warns of each file that it could read and others can, too.
        for path in (directory / "radiusd.conf", identity.key):
            path.chmod(0o600)
        lines = (f'{name} Cleartext-Password := "{word}"\n' for name, word in (users or {}).items())
        (directory / "users").write_text("".join(lines))
        if records:
            with contextlib.closing(sqlite3.connect(directory / "logins.db")) as database:
                database.executescript(_TABLES)
                database.executemany(
                    "INSERT INTO counters VALUES (?, 0)", [(name,) for name in users or {}]
                )
                database.commit()

    @property
    def pid(self) -> int:
        """Return the process with all its threads."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> FreeRADIUS:
        """Start it and wait until it says that it listens."""
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [self.program, "-f", "-d", str(self.directory), "-n", "radiusd"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        log = self.directory / "radius.log"
        deadline = time.monotonic() + 20
        while not (log.exists() and "Ready to process requests" in log.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text() if log.exists() else ""
                said += (self.directory / "output").read_text()
                self.stop()
                raise AssertionError(f"FreeRADIUS did not start\n{said[-3000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
