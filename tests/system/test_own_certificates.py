"""A listener's certificate that is revoked: its successor is shown without waiting for a timer."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from cryptography import x509

from tests.daemon import Daemon

_PATIENCE = 5.0  # seconds; the timers look twice a minute, or once
_IN_A_ROW = 12  # handshakes, so that each process has its turn


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node"), workers=2, ldap=True, radsec=True)
    yield node.start()
    node.kill()


def _shown(port: int) -> x509.Certificate:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=15) as raw,
        context.wrap_socket(raw) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_every_listener_of_every_process_shows_the_successor(daemon: Daemon) -> None:
    ports = (daemon.https_port, daemon.client_port, daemon.ldaps_port, daemon.radsec_port)
    shown = {_shown(port).serial_number for port in ports for _ in range(_IN_A_ROW)}
    assert len(shown) == 1
    [old] = shown

    daemon.tmad("cert", "revoke", f"{old:x}", "--reason", "key-compromise")
    began = time.monotonic()
    while time.monotonic() < began + _PATIENCE:
        shown = {_shown(port).serial_number for port in ports for _ in range(_IN_A_ROW)}
        if old not in shown:
            break
        time.sleep(0.1)

    assert old not in shown
    assert len(shown) == 1
