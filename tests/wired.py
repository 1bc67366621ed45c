"""A switch port and a device at its other end: hostapd and wpa_supplicant over a veth pair.

hostapd (driver "wired") is the switch: it asks a RADIUS server on loopback, sends accounting and
takes Disconnect-Requests. wpa_supplicant is the device, in a network namespace of its own. Both
are Debian's; making the pair needs root.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.eapol import Peer

NAS_IDENTIFIER = "wired-switch"


def may_make_namespaces() -> bool:
    """Tell whether this user can make a network namespace."""
    return os.geteuid() == 0


class WiredPort:
    """One port of a switch with a device plugged in; used as a context.

    ``das_port`` is where the switch takes Disconnect-Requests.
    """

    def __init__(
        self,
        directory: Path,
        peer: Peer,
        *,
        auth_port: int,
        accounting_port: int,
        secret: str,
        interim: int = 0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(3)
        self.namespace = f"tmad-{token}"
        self.switch_side, self.device_side = f"tsw{token}", f"tdv{token}"
        self.das_port = _free_udp_port()
        self._directory = directory
        self._peer = peer
        self._ports = auth_port, accounting_port
        self._secret = secret
        self._interim = interim
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.station = ""

    # -- the cable and its ends -----------------------------------------------------------

    def __enter__(self) -> WiredPort:
        try:
            self._plug_in()
            self._start_switch()
            self._start_device()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tear_down()

    def _plug_in(self) -> None:
        _run("ip", "netns", "add", self.namespace)
        _run(
            "ip", "link", "add", self.switch_side, "type", "veth",
            "peer", "name", self.device_side, "netns", self.namespace,
        )  # fmt: skip
        _run("ip", "link", "set", self.switch_side, "up")
        _run("ip", "-n", self.namespace, "link", "set", self.device_side, "up")
        _run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        shown = _run("ip", "-n", self.namespace, "-br", "link", "show", self.device_side)
        self.station = shown.split()[2]

    def _tear_down(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        # Its end of the pair goes with the namespace, and the other end with that.
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.switch_side], check=False, capture_output=True)

    def _start_switch(self) -> None:
        auth, accounting = self._ports
        lines = [
            f"interface={self.switch_side}",
            "driver=wired",
            f"ctrl_interface={self._directory}/switch",
            "logger_stdout=-1",
            "logger_stdout_level=0",
            "ieee8021x=1",
            "use_pae_group_addr=1",
            "eap_reauth_period=0",
            "own_ip_addr=127.0.0.1",
            f"nas_identifier={NAS_IDENTIFIER}",
            "auth_server_addr=127.0.0.1",
            f"auth_server_port={auth}",
            f"auth_server_shared_secret={self._secret}",
            "acct_server_addr=127.0.0.1",
            f"acct_server_port={accounting}",
            f"acct_server_shared_secret={self._secret}",
            f"radius_das_port={self.das_port}",
            f"radius_das_client=127.0.0.1 {self._secret}",
            "radius_das_require_event_timestamp=1",
            "radius_das_require_message_authenticator=1",
        ]
        if self._interim:
            lines.append(f"radius_acct_interim_interval={self._interim}")
        self._start("switch", lines, "hostapd", "-dd")
        self._wait(lambda: "AP-ENABLED" in self.log("switch"), "the switch did not start")

    def _start_device(self) -> None:
        peer = self._peer
        network = {
            "key_mgmt": "IEEE8021X",
            "eapol_flags": "0",
            "eap": peer.eap,
            "identity": f'"{peer.identity}"',
            "phase1": '"tls_disable_tlsv1_3=0"',
        }
        for name, path in (
            ("ca_cert", peer.authority),
            ("client_cert", peer.certificate),
            ("private_key", peer.key),
        ):
            if path is not None:
                network[name] = f'"{path}"'
        lines = [
            f"ctrl_interface={self._directory}/device",
            "ap_scan=0",
            "network={",
            *(f"    {name}={value}" for name, value in network.items()),
            "}",
        ]
        self._start(
            "device", lines, "ip", "netns", "exec", self.namespace,
            "wpa_supplicant", "-D", "wired", "-i", self.device_side, "-c",
        )  # fmt: skip

    def _start(self, name: str, lines: list[str], *command: str) -> None:
        config = self._directory / f"{name}.conf"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*command, str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    # -- what is seen ---------------------------------------------------------------------

    def log(self, name: str) -> str:
        """Return what the "switch" or the "device" has said."""
        return (self._directory / f"{name}.log").read_text(errors="replace")

    @property
    def is_open(self) -> bool:
        """Whether the switch lets the device's frames through."""
        return "[AUTHORIZED]" in self._ask_switch("sta", self.station)

    def wait_open(self, seconds: float = 10.0) -> None:
        """Wait until the port is open."""
        self._wait(lambda: self.is_open, "the port did not open", seconds)

    def wait_closed(self, seconds: float = 5.0) -> float:
        """Wait until the port is closed; return the seconds that it took."""
        return self._wait(lambda: not self.is_open, "the port stayed open", seconds)

    def wait_forgotten(self) -> None:
        """Wait until the switch has forgotten the device that it was told to disconnect.

        Five seconds later hostapd does, and takes a port that was opened meanwhile with it.
        """
        self._wait(
            lambda: not self._ask_switch("sta", self.station).startswith(self.station),
            "the switch remembers the device",
            15,
        )

    def log_in_again(self) -> None:
        """Let the device begin anew, as after it was plugged in."""
        self._ask_device("reassociate")

    def pause_switch(self) -> None:
        """Let the switch neither hear nor say anything."""
        self._processes["switch"].send_signal(signal.SIGSTOP)

    def resume_switch(self) -> None:
        """Let the switch go on where it was."""
        self._processes["switch"].send_signal(signal.SIGCONT)

    def _ask_switch(self, *command: str) -> str:
        return _ask("hostapd_cli", "-p", f"{self._directory}/switch", "-i", self.switch_side,
                    *command)  # fmt: skip

    def _ask_device(self, *command: str) -> str:
        return _ask("wpa_cli", "-p", f"{self._directory}/device", "-i", self.device_side, *command)

    def _wait(self, is_so: Callable[[], bool], why: str, seconds: float = 10.0) -> float:
        begin = time.monotonic()
        while not is_so():
            if time.monotonic() - begin > seconds:
                raise AssertionError(
                    f"{why} within {seconds} s\n{self.log('switch')[-3000:]}\n---\n"
                    + (self.log("device")[-1500:] if "device" in self._processes else "")
                )
            time.sleep(0.02)
        return time.monotonic() - begin


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def _ask(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    return done.stdout


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
