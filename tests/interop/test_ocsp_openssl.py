"""``openssl ocsp`` asks the running daemon."""

from __future__ import annotations

import base64
import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.daemon import Daemon
from tests.interop.device import Enrolled, enroll, run

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def openssl(require_client: Callable[[str], str]) -> str:
    return require_client("openssl")


@pytest.fixture(scope="module")
def good(daemon: Daemon) -> Enrolled:
    return enroll(daemon, "good")


@pytest.fixture
def ask(daemon: Daemon, openssl: str) -> Callable[..., str]:
    """Return a function that asks and lets openssl verify the answer."""

    def call(*arguments: str | Path, path: str = "/ocsp", verified: bool = True) -> str:
        done = run(
            openssl, "ocsp", "-url", f"{daemon.url}{path}", "-CAfile", daemon.pem("root"),
            "-verify_other", daemon.pem(), *arguments, expect=None,
        )  # fmt: skip
        output = done.stdout.decode() + done.stderr.decode()
        assert ("Response verify OK" in output) is verified, output
        return output

    return call


def test_ocsp_20_good_then_revoked_at_the_very_next_query(daemon, ask) -> None:
    device = enroll(daemon, "short-lived")
    wanted = ("-issuer", daemon.pem(), "-cert", device.path)
    for _ in range(3):
        assert f"{device.path}: good" in ask(*wanted, "-no_nonce")
    daemon.tmad("cert", "revoke", device.serial, "--reason", "key-compromise")
    for nonce in (("-no_nonce",), ()):
        answer = ask(*wanted, *nonce)
        assert f"{device.path}: revoked" in answer
        assert "Reason: keyCompromise" in answer


def test_ocsp_20_hold_and_release(daemon, ask) -> None:
    device = enroll(daemon, "held")
    wanted = ("-issuer", daemon.pem(), "-cert", device.path, "-no_nonce")
    assert ": good" in ask(*wanted)
    daemon.tmad("cert", "hold", device.serial)
    assert "Reason: certificateHold" in ask(*wanted)
    daemon.tmad("cert", "release", device.serial)
    assert ": good" in ask(*wanted)


@pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha384", "-sha512"])
@pytest.mark.parametrize("path", ["/ocsp", "/ocsp/issuing"])
def test_ocsp_13_hashes_and_paths(digest, path, daemon, ask, good) -> None:
    # The digest stands before what it is for.
    answer = ask(digest, "-issuer", daemon.pem(), "-cert", good.path, path=path)
    assert f"{good.path}: good" in answer
    assert "WARNING" not in answer  # it sent a nonce, and got it back


def test_ocsp_12_several_cert_ids_in_one_message(daemon, ask, good) -> None:
    revoked = enroll(daemon, "gone")
    daemon.tmad("cert", "revoke", revoked.serial, "--reason", "superseded")
    answer = ask(
        "-sha256", "-issuer", daemon.pem(), "-cert", good.path,
        "-sha1", "-issuer", daemon.pem(), "-cert", revoked.path, "-serial", "0x1234",
    )  # fmt: skip
    assert f"{good.path}: good" in answer
    assert f"{revoked.path}: revoked" in answer
    assert "0x1234: unknown" in answer


def test_ocsp_20_an_issuer_that_is_not_ours(daemon, ask, openssl, tmp_path) -> None:
    other = tmp_path / "other.pem"
    run(
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", tmp_path / "key", "-out", other, "-subj", "/CN=other",
    )  # fmt: skip
    answer = ask("-issuer", other, "-serial", "1", verified=False)
    assert "unauthorized (6)" in answer
    answer = ask("-issuer", daemon.pem(), "-serial", "1", path="/ocsp/root", verified=False)
    assert "unauthorized (6)" in answer


def test_ocsp_23_the_root_answers_for_its_sub_ca(daemon, ask) -> None:
    answer = ask("-issuer", daemon.pem("root"), "-cert", daemon.pem())
    assert f"{daemon.pem()}: good" in answer


def encoded(daemon: Daemon, openssl: str, device: Enrolled) -> bytes:
    path = daemon.directory / "request.der"
    run(
        openssl, "ocsp", "-issuer", daemon.pem(), "-cert", device.path, "-no_nonce",
        "-reqout", path,
    )  # fmt: skip
    return path.read_bytes()


def fetch(
    daemon: Daemon, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response, data


@pytest.mark.parametrize("safe", ["", "/+="])
def test_ocsp_02_and_04_get(safe, daemon, openssl, good, tmp_path) -> None:
    data = encoded(daemon, openssl, good)
    path = "/ocsp/" + quote(base64.b64encode(data).decode(), safe=safe)
    response, body = fetch(daemon, "GET", path)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/ocsp-response"
    assert response.headers["Cache-Control"].startswith("max-age=")
    answer = tmp_path / "answer.der"
    answer.write_bytes(body)
    done = run(
        openssl, "ocsp", "-respin", answer, "-issuer", daemon.pem(), "-cert", good.path,
        "-CAfile", daemon.pem("root"), "-verify_other", daemon.pem(),
    )  # fmt: skip
    assert b": good" in done.stdout
    again, nothing = fetch(daemon, "GET", path, If_None_Match=response.headers["ETag"])
    assert (again.status, nothing) == (304, b"")
    head, nothing = fetch(daemon, "HEAD", path)
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/ocsp", b"x", "malformedrequest (1)"),
        ("POST", "/ocsp", b"", "malformedrequest (1)"),
        ("GET", "/ocsp/M%ZZ", None, "malformedrequest (1)"),
        ("GET", "/ocsp", None, "malformedrequest (1)"),
    ],
)
def test_ocsp_03_errors_are_ocsp_answers(
    method, path, body, expected, daemon, openssl, tmp_path
) -> None:
    response, data = fetch(daemon, method, path, body)
    assert response.status == 200
    answer = tmp_path / "answer.der"
    answer.write_bytes(data)
    done = run(openssl, "ocsp", "-respin", answer, "-resp_text", expect=None)
    assert expected in (done.stdout + done.stderr).decode()


def test_ocsp_03_where_no_ocsp_answer_makes_sense(daemon) -> None:
    assert fetch(daemon, "PUT", "/ocsp", b"x")[0].status == 405
    assert fetch(daemon, "POST", "/ocsp", bytes(1 << 20))[0].status == 413


def test_ocsp_a_client_that_says_nothing_costs_nothing(daemon, openssl, good) -> None:
    # What makes "openssl ocsp -port" spin for ever (spec/performance.md, 5.9).
    for _ in range(20):
        socket.create_connection(("127.0.0.1", daemon.http_port)).close()
    silent = [socket.create_connection(("127.0.0.1", daemon.http_port)) for _ in range(20)]
    begin = time.monotonic()
    response, _ = fetch(daemon, "POST", "/ocsp", encoded(daemon, openssl, good))
    assert response.status == 200
    assert time.monotonic() - begin < 2
    for one in silent:
        one.close()
