"""A real Active Directory: Samba as the only domain controller of CORP.TEST, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pki import Authority

REALM = "CORP.TEST"
ADDRESS = "127.0.10.1"
NEEDS = (
    "/usr/sbin/samba", "/usr/bin/samba-tool", "/usr/bin/kinit",
    "/usr/share/samba/setup/provision.ldif", "/usr/lib/python3/dist-packages/gssapi/__init__.py",
)  # fmt: skip
SYSTEM_PYTHON = "/usr/bin/python3"
_HERE = Path(__file__).parent
_START = 30.0  # seconds


class Samba:
    """One domain; its ports are the well-known ones, of an address of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keytab = directory / "http.keytab"
        self.krb5_conf = directory / "krb5.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._provision()

    def _provision(self) -> None:
        directory = self.directory
        _run(
            "samba-tool", "domain", "provision", f"--targetdir={directory}", f"--realm={REALM}",
            "--domain=CORP", "--server-role=dc", "--dns-backend=NONE", "--host-name=dc1",
            f"--host-ip={ADDRESS}", "--adminpass=Only-4-the-test",
            "--option=vfs objects=dfs_samba4 acl_xattr xattr_tdb",
            f"--option=xattr_tdb:file={directory}/xattr.tdb", "--option=ldb:nosync=true",
        )  # fmt: skip
        authority = Authority(directory / "tls", "Domain CA")
        tls = authority.issue("dc1.corp.test", uses=(), addresses=[ADDRESS])
        tls.key.chmod(0o600)
        self.ca_file = authority.path
        (directory / "pid").mkdir(exist_ok=True)
        # Only what answers questions and gives tickets.
        (directory / "etc" / "smb.conf").write_text(
            "[global]\n"
            "bind interfaces only = yes\n"
            f"interfaces = {ADDRESS}/8\n"
            f"realm = {REALM}\nworkgroup = CORP\nnetbios name = DC1\n"
            "server role = active directory domain controller\n"
            "server services = ldap, kdc\n"
            f"private dir = {directory}/private\nlock directory = {directory}\n"
            f"state directory = {directory}/state\ncache directory = {directory}/cache\n"
            f"binddns dir = {directory}/bind-dns\npid directory = {directory}/pid\n"
            f"ncalrpc dir = {directory}/nc\nxattr_tdb:file = {directory}/xattr.tdb\n"
            f"tls certfile = {tls.path}\ntls keyfile = {tls.key}\n"
            f"tls cafile = {authority.path}\n"
            "vfs objects = dfs_samba4 acl_xattr xattr_tdb\n"
            f"[sysvol]\npath = {directory}/state/sysvol\n"
            f"[netlogon]\npath = {directory}/state/sysvol/corp.test/scripts\n"
        )
        self.krb5_conf.write_text(
            f"[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_realm = false\n"
            "dns_lookup_kdc = false\nrdns = false\ndns_canonicalize_hostname = false\n"
            f"[realms]\n{REALM} = {{\n kdc = {ADDRESS}\n}}\n"
        )

    def fill(self, accounts: dict[str, Any]) -> None:
        """Make accounts and the keytab of the services among them; see samba_accounts.py."""
        self._accounts(str(self.keytab), accounts)

    def change(self, **accounts: dict[str, str]) -> None:
        """Change attributes of accounts by sAMAccountName."""
        self._accounts("change", accounts)

    def _accounts(self, verb: str, given: dict[str, Any]) -> None:
        conf = self.directory / "etc" / "smb.conf"
        _run(SYSTEM_PYTHON, str(_HERE / "samba_accounts.py"), str(conf), verb,
             text=json.dumps(given))  # fmt: skip

    def start(self) -> Samba:
        """Start it and wait until it answers."""
        with (self.directory / "samba.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["samba", "--foreground", "--no-process-group", "--model=single",
                 "--debug-stdout", "-s", str(self.directory / "etc" / "smb.conf")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START
        while not all(_answers(port) for port in (88, 636)):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return self

    def log(self) -> str:
        return (self.directory / "samba.log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log_in(self, user: str, password: str) -> dict[str, str]:
        """Return the environment of somebody who has logged in to the domain."""
        cache = self.directory / f"tickets-{user.strip('$')}"
        environment = {
            **os.environ, "KRB5_CONFIG": str(self.krb5_conf), "KRB5CCNAME": f"FILE:{cache}",
        }  # fmt: skip
        _run("kinit", user, text=password, environment=environment)
        return environment


def require_samba() -> None:
    """Skip, or fail where clients are required, unless all of it is installed."""
    missing = [path for path in NEEDS if not Path(path).exists()]
    if not missing:
        return
    if os.environ.get("TMAD_REQUIRE_CLIENTS"):
        pytest.fail(f"missing: {', '.join(missing)}")
    pytest.skip(f"missing: {', '.join(missing)}")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((ADDRESS, port), timeout=1):
            return True
    except OSError:
        return False


def _run(*command: str, text: str = "", environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=100, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
