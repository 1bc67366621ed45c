"""The listener that asks for client certificates: ours, valid and good now, or refused."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon

REQUEST = b"GET /scep/default?operation=GetCACaps HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node")).start()
    yield node
    node.kill()


def connect(daemon: Daemon, pem: Path | None, port: int | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=daemon.directory / "root.pem")
    if pem is not None:
        context.load_cert_chain(pem)
    raw = socket.create_connection(("127.0.0.1", port or daemon.client_port), timeout=15)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def ask(connection: ssl.SSLSocket) -> int:
    connection.sendall(REQUEST)
    return int(connection.recv(65_536)[9:12])


def issued(daemon: Daemon, directory: Path, name: str) -> tuple[Path, str]:
    """Return a file with key and certificate, and the serial number."""
    profile = ("--ca", "issuing", "--profile", "tls-client")
    answer = daemon.json("cert", "issue", name, *profile, "--out", str(directory))
    pem = directory / f"{name}.pem"
    pem.write_text(
        (directory / f"{name}.key").read_text() + (directory / f"{name}.chain.pem").read_text()
    )
    return pem, answer["serial"]


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def foreign(directory: Path) -> Path:
    """Return a certificate that its holder has made himself."""
    pem = directory / "foreign.pem"
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", "/CN=foreign", "-keyout", directory / "f.key", "-out", pem)  # fmt: skip
    pem.write_text((directory / "f.key").read_text() + pem.read_text())
    return pem


def test_g_authz_3_a_revocation_ends_the_next_request_of_an_open_connection(
    daemon: Daemon, tmp_path: Path
) -> None:
    pem, serial = issued(daemon, tmp_path, "client-1")
    with connect(daemon, pem) as connection:
        assert ask(connection) == 200
        daemon.tmad("cert", "revoke", serial, "--reason", "key-compromise")
        assert ask(connection) == 401
    with connect(daemon, pem) as connection:
        assert ask(connection) == 401


def test_a_certificate_that_is_not_ours_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    with connect(daemon, foreign(tmp_path)) as connection:
        assert ask(connection) == 401


def test_a_certificate_is_asked_for_not_demanded(daemon: Daemon) -> None:
    with connect(daemon, None) as connection:
        assert ask(connection) == 200


def test_gen_08_the_main_listener_does_not_ask(daemon: Daemon, tmp_path: Path) -> None:
    with connect(daemon, foreign(tmp_path), daemon.https_port) as connection:
        assert ask(connection) == 200
