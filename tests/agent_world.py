"""What an agent lives with in tests: nginx that serves its files, pebble that certifies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.daemon import free_ports
from tests.warm import COMMANDS

START_SECONDS = 30


class Machine:
    """A machine with an agent on it: a directory, and the command line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "agent"
        directory.mkdir(parents=True, exist_ok=True)

    def run(
        self, *arguments: str, expect: int | None = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``tmad agent ARGUMENTS``; fail on another exit code than expected."""
        place = {**os.environ, "TMAD_AGENT_DIR": str(self.state), **(environment or {})}
        done = COMMANDS.run(("agent", *arguments), place, None)
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def status(self, name: str) -> dict[str, Any]:
        """Return what ``tmad agent status`` says."""
        found: dict[str, Any] = json.loads(self.run("status", name, "-o", "json").stdout)
        return found

    def remembers(self, name: str) -> dict[str, Any]:
        """Return state.json."""
        found: dict[str, Any] = json.loads((self.state / name / "state.json").read_bytes())
        return found

    def path(self, name: str) -> str:
        """Return a path on this machine."""
        return str(self.directory / name)


class Nginx:
    """nginx on loopback, which serves key.pem and fullchain.pem of a directory."""

    def __init__(self, directory: Path, files: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.config = directory / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {directory}/tmp;\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(
            f"worker_processes 1;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off;\n{temporary}"
            f"server {{ listen 127.0.0.1:{self.port} ssl;\n"
            f"ssl_certificate {files}/fullchain.pem;\nssl_certificate_key {files}/key.pem;\n"
            "location / { return 200 'here'; } } }\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def reload(self) -> str:
        """Return the command that lets nginx read its files again."""
        return f"/usr/sbin/nginx -c {self.config} -s reload"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            ["/usr/sbin/nginx", "-c", str(self.config), "-g", "daemon off;"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        """End it and its workers."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None

    def shown(self) -> x509.Certificate:
        """Return the certificate that it shows."""
        return shown_at(self.port)


class Pebble:
    """Debian's ACME test server, and the DNS that it asks."""

    # base64url, as in the examples of its package.
    EAB = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

    def __init__(self, directory: Path, *, has_accounts: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, management, self.http_port, tls, dns, self.control = free_ports(6)
        key, self.trust = directory / "tls.key", directory / "tls.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", str(key), "-out", str(self.trust), "-days", "9", "-subj",
             "/CN=pebble", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        config: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(self.trust),
            "privateKey": str(key),
            "httpPort": self.http_port,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": has_accounts,
        }
        if has_accounts:
            config["externalAccountMACKeys"] = {"kid-1": self.EAB}
        path = directory / "pebble.json"
        path.write_text(json.dumps({"pebble": config}))
        self._processes = []
        self._log = (directory / "pebble.log").open("ab")
        self._start("pebble-challtestsrv", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}",
                    "-http01", "", "-https01", "", "-tlsalpn01", "",
                    "-management", f"127.0.0.1:{self.control}")  # fmt: skip
        process = self._start("pebble", "-config", str(path), "-dnsserver", f"127.0.0.1:{dns}",
                              "-strict")  # fmt: skip
        wait_for_port(self.port, process)
        wait_for_port(self.control, process)

    @property
    def directory_url(self) -> str:
        """Return the address of its directory."""
        return f"https://127.0.0.1:{self.port}/dir"

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log,
            env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"},
        )  # fmt: skip
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End both."""
        for process in self._processes:
            process.kill()
            process.wait(timeout=20)
        self._log.close()


class Proxy:
    """tinyproxy, which lets through whoever knows the word."""

    def __init__(self, directory: Path, *beyond: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self._log = directory / "log"
        config = directory / "tinyproxy.conf"
        config.write_text(
            f'Port {self.port}\nListen 127.0.0.1\nTimeout 60\nLogFile "{self._log}"\n'
            f"LogLevel Connect\nAllow 127.0.0.1\nBasicAuth agent a-word\n"
            + "".join(f"ConnectPort {port}\n" for port in beyond)
        )
        self._process = subprocess.Popen(
            ["tinyproxy", "-d", "-c", str(config)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_port(self.port, self._process)

    def environment(self, word: str = "a-word") -> dict[str, str]:
        """Return what a program that shall use it is told."""
        url = f"http://agent:{word}@127.0.0.1:{self.port}"
        return {"HTTPS_PROXY": url, "HTTP_PROXY": url, "NO_PROXY": ""}

    def asked(self) -> list[str]:
        """Return the request lines that it has seen."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line.partition("): ")[2] for line in lines if "Request (" in line]

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(timeout=20)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody listens there."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at port {port}")


def shown_at(port: int) -> x509.Certificate:
    """Return the certificate that a TLS server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def same_pair(key: Path, certificate: Path) -> x509.Certificate:
    """Return a file's certificate; fail unless it is for the key in the other file."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert private.public_key() == found.public_key()
    return found


def sha256(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())
