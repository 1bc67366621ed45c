"""The agent and servers that others wrote: pebble, which loses nonces, and micromdm."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.agent_world import Machine, Nginx, Pebble, same_pair, sha256, wait_for_port
from tests.daemon import free_ports

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def pebble(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pebble]:
    for program in ("pebble", "pebble-challtestsrv", "openssl"):
        require_client(program)
    server = Pebble(tmp_path_factory.mktemp("pebble"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def closed(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pebble]:
    """One that lets in only who has an external account."""
    require_client("pebble")
    server = Pebble(tmp_path_factory.mktemp("closed"), has_accounts=True)
    yield server
    server.stop()


def options(pebble: Pebble) -> list[str]:
    return ["--acme", pebble.directory_url, "--trust", str(pebble.trust), "--agree"]


def test_a_certificate_by_http_01_with_a_listener_of_its_own_and_its_renewal(
    pebble: Pebble, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    machine.run(
        "enroll", "web.example.test", *options(pebble), "--san", "dns:web.example.test",
        "--san", "dns:www.example.test", "--listen", f"127.0.0.1:{pebble.http_port}",
        "--link", machine.path("live"), "--contact", "admin@example.test",
    )  # fmt: skip
    first = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"web.example.test", "www.example.test"}
    assert (tmp_path / "live/chain.pem").read_bytes()
    machine.run("once", "--now")
    second = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert sha256(second) != sha256(first)
    assert second.public_key() != first.public_key()


def test_http_01_by_the_files_of_a_web_server(
    pebble: Pebble, require_client: Callable[[str], str], tmp_path: Path
) -> None:
    require_client("/usr/sbin/nginx")
    machine, webroot = Machine(tmp_path), tmp_path / "www"
    webroot.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    server = Nginx(tmp_path / "nginx", tmp_path)
    text = server.config.read_text()
    start = text.index("server {")
    server.config.write_text(
        f"user root;\n{text[:start]}server {{ listen 127.0.0.1:{pebble.http_port}; "
        f"root {webroot}; }} }}\n"
    )
    server.port = pebble.http_port
    server.start()
    try:
        machine.run("enroll", "site", *options(pebble), "--san", "dns:site.example.test",
                    "--webroot", str(webroot), "--key", "rsa-2048",
                    "--bundle-out", machine.path("bundle.pem"))  # fmt: skip
    finally:
        server.stop()
    same_pair(tmp_path / "bundle.pem", tmp_path / "bundle.pem")
    assert not list((webroot / ".well-known/acme-challenge").iterdir())


def test_an_external_account_and_what_happens_without(closed: Pebble, tmp_path: Path) -> None:
    machine, key = Machine(tmp_path), tmp_path / "eab"
    listen = ("--listen", f"127.0.0.1:{closed.http_port}", "--san", "dns:eab.example.test")
    refused = machine.run("enroll", "bare", *options(closed), *listen, expect=2)
    assert "externalAccountRequired" in refused.stdout
    key.write_text("AAAA" + Pebble.EAB[4:])
    wrong = machine.run("enroll", "wrong", *options(closed), *listen, "--eab-kid", "kid-1",
                        "--eab-key-file", str(key), expect=2)  # fmt: skip
    assert "ACME server says no" in wrong.stdout
    key.write_text(Pebble.EAB + "\n")
    machine.run("enroll", "good", *options(closed), *listen, "--eab-kid", "kid-1",
                "--eab-key-file", str(key), "--cert-out", machine.path("eab.pem"))  # fmt: skip
    assert x509.load_pem_x509_certificate((tmp_path / "eab.pem").read_bytes())


def test_nobody_answers_the_challenge(pebble: Pebble, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    webroot = tmp_path / "nobody-shows-this"
    webroot.mkdir()
    done = machine.run("enroll", "lost", *options(pebble), "--san", "dns:lost.example.test",
                       "--webroot", str(webroot), expect=2)  # fmt: skip
    assert "could not validate lost.example.test" in done.stdout
    state = machine.remembers("lost")
    assert (state["failures"], state["order"]) == (1, "")
    assert state["retry_at"]
    again = machine.run("once")
    assert "nothing is due before" in again.stdout


@pytest.mark.parametrize("moment", ["account", "order"])
def test_kill_9_in_the_middle_of_an_order(pebble: Pebble, tmp_path: Path, moment: str) -> None:
    """As soon as an account or an order is there: the next run goes on with it."""
    machine = Machine(tmp_path)
    name = f"kill-{moment}.example.test"
    process = subprocess.Popen(
        [sys.executable, "-m", "tmad.cli.main", "agent", "enroll", name, *options(pebble),
         "--san", f"dns:{name}", "--listen", f"127.0.0.1:{pebble.http_port}",
         "--link", machine.path("live")],
        env={**os.environ, "TMAD_AGENT_DIR": str(machine.state)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    found = ""
    while not found and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            found = machine.remembers(name)[moment]
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert found
    key = (machine.state / name / "pending/key.pem").read_bytes()
    machine.run("once", "--now")
    same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert (tmp_path / "live/key.pem").read_bytes() == key
    assert machine.remembers(name)["order"] == ""


def test_a_server_that_was_never_trusted(pebble: Pebble, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    done = machine.run("enroll", "strange", "--acme", pebble.directory_url, "--san",
                       "dns:strange.example.test", "--listen", "127.0.0.1:0", expect=5)  # fmt: skip
    assert "cannot prove who it is" in done.stdout


def test_scep_answers_in_broken_algorithms_are_refused(
    require_client: Callable[[str], str], tmp_path: Path
) -> None:
    """micromdm 2.1 signs with SHA-1 and encrypts with single DES: the second is never taken."""
    for program in ("scepserver", "scepclient"):
        require_client(program)
    machine = Machine(tmp_path)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/scep"
    quiet: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL,
                             "stderr": subprocess.DEVNULL}  # fmt: skip
    subprocess.run(["scepserver", "ca", "-init", "-keySize", "2048"], check=True, **quiet)
    server = subprocess.Popen(
        ["scepserver", "-port", str(port), "-capass", "", "-allowrenew", "0"], **quiet
    )
    try:
        wait_for_port(port, server)
        subprocess.run(
            ["scepclient", "-server-url", url, "-private-key", "c.key", "-certificate", "c.pem",
             "-cn", "dev1", "-keySize", "2048"],
            check=True, **quiet,
        )  # fmt: skip
        before = same_pair(tmp_path / "c.key", tmp_path / "c.pem")
        machine.run("adopt", machine.path("c.pem"), "--key", machine.path("c.key"), "--scep", url,
                    "--trust", machine.path("depot/ca.pem"), "--name", "dev1")  # fmt: skip
        refused = machine.run("once", "--now", expect=2)
        assert "digest SHA-1 is not accepted" in refused.stdout
        assert same_pair(tmp_path / "c.key", tmp_path / "c.pem") == before
        settings = machine.state / "dev1/settings.toml"
        settings.write_text(settings.read_text().replace("[scep]", "[scep]\nlegacy = true"))
        refused = machine.run("once", "--now", expect=2)
        assert "single DES is not accepted" in refused.stdout
        assert same_pair(tmp_path / "c.key", tmp_path / "c.pem") == before
    finally:
        server.kill()
        server.wait()
