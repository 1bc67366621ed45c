"""A switch port and a device at its other end: hostapd and wpa_supplicant over a veth pair.

hostapd (driver "wired") is the switch: it asks a RADIUS server on loopback, sends accounting and
takes Disconnect-Requests. wpa_supplicant is the device, in a network namespace of its own. Both
are Debian's; making the pair needs root.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from tests.cable import Cable
from tests.eapol import Peer

NAS_IDENTIFIER = "wired-switch"


class WiredPort(Cable):
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
        super().__init__(directory)
        self.das_port = _free_udp_port()
        self._peer = peer
        self._ports = auth_port, accounting_port
        self._secret = secret
        self._interim = interim
        self.station = ""

    # -- the cable and its ends -----------------------------------------------------------

    def begin(self) -> None:
        self.station = self.inside("-br", "link", "show", self.theirs).split()[2]
        self._start_switch()
        self._start_device()

    def _start_switch(self) -> None:
        auth, accounting = self._ports
        lines = [
            f"interface={self.ours}",
            "driver=wired",
            f"ctrl_interface={self.directory}/switch",
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
        config = self.configure("switch", "\n".join(lines) + "\n")
        self.start("switch", "hostapd", "-dd", str(config))
        self.wait(lambda: "AP-ENABLED" in self.log("switch"), "the switch did not start")

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
            f"ctrl_interface={self.directory}/device",
            "ap_scan=0",
            "network={",
            *(f"    {name}={value}" for name, value in network.items()),
            "}",
        ]
        config = self.configure("device", "\n".join(lines) + "\n")
        self.start(
            "device", "wpa_supplicant", "-D", "wired", "-i", self.theirs, "-c", str(config),
            is_inside=True,
        )  # fmt: skip

    # -- what is seen ---------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the switch lets the device's frames through."""
        return "[AUTHORIZED]" in self._ask_switch("sta", self.station)

    def wait_open(self, seconds: float = 10.0) -> None:
        """Wait until the port is open."""
        self.wait(lambda: self.is_open, "the port did not open", seconds)

    def wait_closed(self, seconds: float = 5.0) -> float:
        """Wait until the port is closed; return the seconds that it took."""
        return self.wait(lambda: not self.is_open, "the port stayed open", seconds)

    def wait_forgotten(self) -> None:
        """Wait until the switch has forgotten the device that it was told to disconnect.

        Five seconds later hostapd does, and takes a port that was opened meanwhile with it.
        """
        self.wait(
            lambda: not self._ask_switch("sta", self.station).startswith(self.station),
            "the switch remembers the device",
            15,
        )

    def log_in_again(self) -> None:
        """Let the device begin anew, as after it was plugged in."""
        self._ask_device("reassociate")

    def pause_switch(self) -> None:
        """Let the switch neither hear nor say anything."""
        self.signal("switch", signal.SIGSTOP)

    def resume_switch(self) -> None:
        """Let the switch go on where it was."""
        self.signal("switch", signal.SIGCONT)

    def _ask_switch(self, *command: str) -> str:
        return _ask("hostapd_cli", "-p", f"{self.directory}/switch", "-i", self.ours,
                    *command)  # fmt: skip

    def _ask_device(self, *command: str) -> str:
        return _ask("wpa_cli", "-p", f"{self.directory}/device", "-i", self.theirs, *command)


def _ask(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    return done.stdout


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
