"""What tests with ACME clients share: a node, a name server, and how clients are told of both."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.daemon import Daemon, free_ports
from tests.name_server import NameServer

SETTINGS = "\n[protocols.acme]\nrate = 0\nattend_seconds = 0.5\n"
NAMES = ("a.example.test", "b.example.test", "www.example.test", "host.example.test")


class ACMENode:
    """A daemon with ACME endpoints that validate on loopback, and a name server beside it."""

    def __init__(
        self,
        directory: Path,
        *init: str,
        workers: int = 1,
        settings: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.names = NameServer({(name, "A"): ["127.0.0.1"] for name in NAMES})
        self.http_port, self.tls_port = free_ports(2)
        self.daemon = Daemon(
            directory, *init, workers=workers, settings=settings + SETTINGS,
            environment=environment,
        )  # fmt: skip
        self.endpoint("default")

    def endpoint(self, label: str, *arguments: str, **options: Any) -> str:
        """Create an endpoint; what is a rule of validation goes there. Return the directory."""
        values = {
            "validation.allowed_networks": ["127.0.0.0/8"],
            "validation.resolvers": [self.names.address],
            "validation.http_port": self.http_port,
            "validation.tls_port": self.tls_port,
            "new_accounts_per_hour": 0,
            "failed_validations_per_hour": 0,
            "retry_after": 1,
            **options,
        }
        told = [
            word
            for name, value in values.items()
            for word in ("--set", f"options.{name}={_toml(value)}")
        ]
        if "--profile" not in arguments:
            arguments = (*arguments, "--profile", "tls-server")
        self.daemon.endpoint(label, *told, *arguments, protocol="acme")
        return self.directory(label)

    def directory(self, label: str = "default") -> str:
        """Return what a client calls the server."""
        return f"{self.daemon.https_url}/acme/{label}/directory"

    @property
    def trust(self) -> Path:
        """The file with which a client trusts the node."""
        return self.daemon.pem("root")

    def context(self) -> ssl.SSLContext:
        """Return what Python trusts the node with."""
        return ssl.create_default_context(cafile=str(self.trust))

    def external_account(self, label: str, *options: str) -> dict[str, str]:
        """Return id and eab_hmac_key of a new enrolment secret."""
        found: dict[str, str] = self.daemon.json(
            "enroll-secret", "create", "--endpoint", f"acme/{label}", *options
        )
        return found

    def close(self) -> None:
        self.daemon.kill()
        self.names.close()


def a_node(*programs: str) -> Any:
    """Return the fixture ``node`` of a module of tests that need these programs."""

    @pytest.fixture(scope="module")
    def node(
        require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[ACMENode]:
        for program in programs:
            require_client(program)
        found = ACMENode(tmp_path_factory.mktemp("acme") / "node")
        found.daemon.start()
        yield found
        found.close()

    return node


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_toml(each) for each in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'


def run(
    folder: Path,
    *command: str,
    expect: int | None = 0,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a client; fail on another exit code."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=90, check=False,
        input=text, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if expect is not None and done.returncode != expect:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def hook(zone: Path) -> Path:
    """Return a program that a client calls with present NAME VALUE, as lego does."""
    script = zone / "hook"
    script.write_text(
        "#!/bin/sh\n"
        'name=$(printf %s "$2" | sed "s/\\.$//")\n'
        f'[ "$1" = present ] && echo "$3" >>"{zone}/$name"\nexit 0\n'
    )
    script.chmod(0o755)
    return script


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without telling."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def web_server(folder: Path, port: int) -> Iterator[Path]:
    """Serve a folder as an administrator's web server does; give where challenges lie in it."""
    root = folder / ".well-known" / "acme-challenge"
    root.mkdir(parents=True)
    pages = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield root
    finally:
        server.shutdown()
        server.server_close()


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names of a certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)
