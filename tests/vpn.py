"""A VPN gateway that asks a RADIUS server, and a device that dials in: strongSwan's charon twice.

The gateway is on the side of the daemon, where it asks on loopback, sends accounting and takes
Disconnect-Requests; the device is in a network namespace of its own, at the other end of a veth
pair. Both do ESP by themselves (kernel-libipsec), so that the kernel need not know it. Both are
Debian's; the pair and the tunnel's interfaces need root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cable import Cable, run
from tests.daemon import free_ports
from tests.pki import Identity

NAS_IDENTIFIER = "vpn-gateway"
GATEWAY = "vpn.example.test"
POOL = "10.213.0.0/24"  # from which the gateway gives its devices addresses
BEHIND, INSIDE = "10.213.1.0/24", "10.213.1.1"  # the network behind it, its own address there
_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints md5 sha1 sha2 hmac kdf drbg "
    "kernel-libipsec kernel-netlink socket-default vici "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The RADIUS server that the gateway asks, and whom everybody trusts.

    ``name`` is in the certificate that it shows to devices.
    """

    auth_port: int
    accounting_port: int
    secret: str
    name: str
    root: Path
    issuing: Path


class VPN(Cable):
    """A gateway and a device; used as a context.

    ``charon`` is the program, ``identity`` the gateway's. ``das_port`` is where the gateway takes
    Disconnect-Requests.
    """

    def __init__(
        self,
        directory: Path,
        charon: Path,
        server: Server,
        identity: Identity,
    ) -> None:
        super().__init__(directory)
        # A network of its own of those for documentation (RFC 5737), by the token.
        first = 4 * (int(self.token, 16) % 64)
        self.gateway_address, self.device_address = (
            f"198.51.100.{first + 1}",
            f"198.51.100.{first + 2}",
        )
        [self.das_port, self._port, self._nat_port] = free_ports(3)
        self._charon = charon
        self._server = server
        self._identity = identity

    # -- both ends --------------------------------------------------------------------------

    def begin(self) -> None:
        run("ip", "addr", "add", f"{self.gateway_address}/30", "dev", self.ours)
        run("ip", "addr", "add", f"{INSIDE}/32", "dev", self.ours)
        self.inside("addr", "add", f"{self.device_address}/30", "dev", self.theirs)
        self._start("gateway", self._gateway_settings())
        self._start("device", self._settings("device", "eap-identity eap-tls"), is_inside=True)
        self._load("gateway", self._gateway_connections(), self._identity)

    def _settings(self, name: str, plugins: str) -> dict[str, Any]:
        return {
            "load": _PLUGINS + plugins,
            "routing_table": "0",  # no rules: what it installs goes with its interface
            "retry_initiate_interval": "0",
            "retransmit_tries": "2",
            "retransmit_timeout": "1.0",
            "filelog": {
                "stderr": {"default": "1", "cfg": "2", "tls": "2", "ike": "2", "flush_line": "yes"}
            },
            "plugins": {"vici": {"socket": f"unix://{self._socket(name)}"}},
        }

    # -- the gateway ------------------------------------------------------------------------

    def _gateway_settings(self) -> dict[str, Any]:
        settings = self._settings("gateway", "eap-identity eap-radius")
        settings |= {"port": str(self._port), "port_nat_t": str(self._nat_port)}
        settings["plugins"]["eap-radius"] = {
            "nas_identifier": NAS_IDENTIFIER,
            "accounting": "yes",
            "accounting_send_class": "yes",
            "station_id_with_port": "no",
            "retransmit_timeout": "1.0",
            "servers": {
                "tmad": {
                    "address": "127.0.0.1",
                    "secret": self._server.secret,
                    "auth_port": str(self._server.auth_port),
                    "acct_port": str(self._server.accounting_port),
                }
            },
            "dae": {
                "enable": "yes",
                "listen": "127.0.0.1",
                "port": str(self.das_port),
                "secret": self._server.secret,
            },
        }
        return settings

    def _gateway_connections(self) -> dict[str, Any]:
        return {
            "connections": {
                "devices": {
                    "version": "2",
                    "local_addrs": self.gateway_address,
                    "pools": "devices",
                    "unique": "never",
                    "local": {"auth": "pubkey", "certs": "own.pem", "id": GATEWAY},
                    "remote": {"auth": "eap-radius", "id": "%any", "eap_id": "%any"},
                    "children": {"net": {"local_ts": BEHIND}},
                }
            },
            "pools": {"devices": {"addrs": POOL}},
        }

    # -- the device -------------------------------------------------------------------------

    def _device_connections(self, name: str) -> dict[str, Any]:
        return {
            "connections": {
                "home": {
                    "version": "2",
                    "local_port": "4500",
                    "remote_addrs": self.gateway_address,
                    "remote_port": str(self._nat_port),
                    "vips": "0.0.0.0",
                    "local": {
                        "auth": "eap-tls",
                        "certs": "own.pem",
                        "id": name,
                        "aaa_id": self._server.name,
                    },
                    "remote": {"auth": "pubkey", "id": GATEWAY},
                    "children": {"net": {"remote_ts": BEHIND}},
                }
            }
        }

    def dial(self, device: Identity, *, expect: bool = True) -> str:
        """Dial in with a certificate; return what charon says of it."""
        self._load("device", self._device_connections(device.path.stem), device)
        done = self._swanctl("device", "--initiate", "--child", "net", "--timeout", "20")
        if (done.returncode == 0 and self.is_up("device")) != expect:
            raise AssertionError(f"{done.stdout}{done.stderr}\n{self.logs()}")
        return done.stdout

    def hang_up(self) -> None:
        """Let the device end its tunnel."""
        self._swanctl("device", "--terminate", "--ike", "home", "--timeout", "10")

    # -- what is seen -----------------------------------------------------------------------

    def is_up(self, name: str) -> bool:
        """Tell whether one end has a tunnel."""
        return "ESTABLISHED" in self._swanctl(name, "--list-sas").stdout

    def wait_down(self, seconds: float) -> None:
        """Wait until neither end has a tunnel."""
        self.wait(
            lambda: not (self.is_up("gateway") or self.is_up("device")),
            "the tunnel stayed",
            seconds,
        )

    @property
    def address(self) -> str:
        """The address that the gateway has given to the device."""
        found = re.search(r"\[(10\.[0-9.]+)\]", self._swanctl("device", "--list-sas").stdout)
        return found[1] if found else ""

    # -- the programs -----------------------------------------------------------------------

    def _start(self, name: str, settings: Mapping[str, Any], *, is_inside: bool = False) -> None:
        config = self.configure(name, _text({"charon-systemd": settings}))
        self.start(name, "env", f"STRONGSWAN_CONF={config}", str(self._charon), is_inside=is_inside)
        self.wait(self._socket(name).exists, f"the {name} did not start")

    def _load(self, name: str, connections: Mapping[str, Any], own: Identity) -> None:
        home = self.directory / name
        for folder in ("x509", "x509ca", "private"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(own.path, home / "x509" / "own.pem")
        shutil.copy(own.key, home / "private" / "own.pem")
        shutil.copy(self._server.root, home / "x509ca" / "root.pem")
        shutil.copy(self._server.issuing, home / "x509ca" / "issuing.pem")
        (home / "swanctl.conf").write_text(_text(connections))
        self._swanctl(name, "--load-all", "--clear").check_returncode()

    def _swanctl(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        command, *options = words
        return subprocess.run(
            ["swanctl", command, "--uri", f"unix://{self._socket(name)}", *options],
            env={**os.environ, "SWANCTL_DIR": str(self.directory / name)},
            check=False, capture_output=True, text=True, timeout=40,
        )  # fmt: skip

    def _socket(self, name: str) -> Path:
        return self.directory / f"{name}.vici"


def _text(section: Mapping[str, Any], depth: int = 0) -> str:
    """Return a section as strongSwan's configuration files have it."""
    lines = []
    for name, value in section.items():
        indent = "  " * depth
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name} {{\n{_text(value, depth + 1)}{indent}}}\n")
        else:
            lines.append(f"{indent}{name} = {value}\n")
    return "".join(lines)
