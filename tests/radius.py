"""A running node as a RADIUS server for the outside clients: secrets, policies, certificates."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.eapol import NAS, Peer
from tests.pki import Identity

# Lets everybody in who has a good certificate or password; what a test wants goes before it.
OPEN_POLICY = """
[tenant.default.radius-policy.default]
order = 1000

[[tenant.default.radius-policy.default.rules]]
name = "everybody"
"""


class RadiusNode:
    """What a test does at a daemon's RADIUS doors, and at the command line for them."""

    def __init__(self, daemon: Daemon, *, policy: str = OPEN_POLICY) -> None:
        self.daemon = daemon
        if policy:
            daemon.tmad("apply", "-", text=policy)
        self.secret = self.add_client("lab", "127.0.0.0/8")

    def add_client(self, name: str, prefix: str, *options: str) -> str:
        """Let clients at these addresses ask; return their shared secret."""
        answer = self.daemon.json("radius-client", "create", name, "--prefix", prefix, *options)
        return str(answer["secret"])

    def issue(self, name: str, *, profile: str = "wifi-client", kind: str = "p256") -> Identity:
        """Issue a certificate to ``name`` (a DNS name) with a key in a file."""
        home = self.daemon.directory / "devices"
        home.mkdir(exist_ok=True)
        self.daemon.tmad(
            "cert", "issue", name, "--profile", profile, "--algorithm", kind, "--out", str(home)
        )
        path = home / f"{name}.crt"
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        return Identity(certificate, path, home / f"{name}.key", home / f"{name}.chain.pem")

    @property
    def authority(self) -> Path:
        """Return the file with the root that signed the server's certificate."""
        return self.daemon.pem("root")

    def nas(self, **values: object) -> NAS:
        """Return an access point that asks this node."""
        settings: dict[str, object] = {
            "port": self.daemon.radius_port, "secret": self.secret, **values,
        }  # fmt: skip
        return NAS(**settings)  # type: ignore[arg-type]  # the test names them

    def peer(self, device: Identity, **values: object) -> Peer:
        """Return a device with a certificate that trusts this node."""
        settings: dict[str, object] = {
            "identity": device.path.stem,
            "authority": self.authority,
            "certificate": device.path,
            "key": device.key,
            **values,
        }
        return Peer(**settings)  # type: ignore[arg-type]  # the test names them
