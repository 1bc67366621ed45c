"""A device with a certificate from the running daemon, for the tests of what comes after."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import Daemon
from tmad.cli.demo import Device
from tmad.events import Secret


@dataclass(frozen=True)
class Enrolled:
    """One certificate in a file."""

    certificate: x509.Certificate
    path: Path

    @property
    def serial(self) -> str:
        """Return the serial number as commands take it."""
        return f"{self.certificate.serial_number:x}"


def enroll(daemon: Daemon, name: str) -> Enrolled:
    """Enrol over SCEP."""
    device = Device(f"{daemon.url}/scep/default", name)
    certificate = device.enroll(Secret(daemon.secret()))
    path = daemon.directory / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return Enrolled(certificate, path)


def run(
    *arguments: str | Path, expect: int | None = 0, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program; fail on another exit code than expected."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        input=data,
        timeout=60,
        check=False,
    )
    if expect is not None and done.returncode != expect:
        raise AssertionError(
            f"{arguments[0]}: exit {done.returncode}\n"
            f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}"
        )
    return done
