"""eapol_test, where it is installed: a device that logs in to the network, for demonstrations.

It is wpa_supplicant without a network card; Debian has it in the package eapoltest.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tmad.errors import Fault, FaultCode
from tmad.events import Secret

PROGRAM = "eapol_test"
_PATIENCE = 30  # seconds
_CONFIGURATION = """network={{
    key_mgmt=IEEE8021X
    eap=TLS
    eapol_flags=0
    identity="{name}"
    ca_cert="{authority}"
    client_cert="{home}/device.pem"
    private_key="{home}/device.key"
    phase1="tls_disable_tlsv1_3=0"
}}
"""


def is_here() -> bool:
    """Tell whether eapol_test is installed."""
    return shutil.which(PROGRAM) is not None


def log_in(
    address: str,
    secret: Secret,
    *,
    name: str,
    certificate: x509.Certificate,
    key: rsa.RSAPrivateKey,
    authority: Path,
) -> bool:
    """Log in by EAP-TLS at a RADIUS server ("127.0.0.1:1812"); return whether it said yes.

    ``authority`` is the file with the CA that the server's certificate is believed from. Both
    sides' keys must be the same, too. Fault when there was no answer.
    """
    host, _, port = address.rpartition(":")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "device.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        # The directory is nobody else's.
        (home / "device.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        configuration = home / "device.conf"
        configuration.write_text(_CONFIGURATION.format(name=name, authority=authority, home=home))
        done = subprocess.run(  # noqa: S603  a program of the system
            [
                *(PROGRAM, "-c", str(configuration)),
                *(
                    "-a",
                    host,
                    "-p",
                    port,
                    "-s",
                    secret.reveal().decode(),
                    "-t",
                    str(_PATIENCE // 2),
                ),
            ],
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    if b"CTRL-EVENT-EAP-SUCCESS" in done.stdout and done.returncode == 0:
        return True
    if b"EAP: Received EAP-Failure" in done.stdout:
        return False
    raise Fault(
        FaultCode.UNAVAILABLE, f"the RADIUS server at {address} did not answer as it should"
    )
