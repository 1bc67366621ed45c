"""A machine's whole life: tmad agent, nginx and the appliance, by EST; time goes by in leaps."""

from __future__ import annotations

import itertools
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.agent_world import Machine, Nginx, same_pair, sha256
from tests.daemon import Daemon

pytestmark = pytest.mark.interop

SETTINGS = "\n[protocols.est]\nrate = 0\n[protocols.agent]\nrate = 0\n"


@pytest.fixture(scope="module")
def daemon(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A node with the endpoint est/default for TLS servers."""
    for program in ("/usr/sbin/nginx", "openssl", "faketime"):
        require_client(program)
    node = Daemon(tmp_path_factory.mktemp("node"), settings=SETTINGS)
    # The preset lets nobody renew in the first third of its life.
    node.tmad("profile", "set", "tls-server", "renewal.window=0s",
              'keys.algorithms=["rsa", "p256", "ed25519"]')  # fmt: skip
    node.endpoint("default", "--profile", "tls-server", protocol="est")
    node.tmad("profile", "set", "device", "validity.default=10d")
    node.endpoint("short", protocol="est")
    node.start()
    yield node
    node.kill()


_NUMBERS = itertools.count(1)


class Site:
    """A machine with nginx and an agent that knows the appliance."""

    def __init__(self, directory: Path, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.name = name
        self.machine = Machine(directory)
        self.live = directory / "live"
        self.nginx = Nginx(directory / "nginx", self.live)
        self.secret = directory / "secret"

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.daemon.client_port}"

    def options(self, label: str = "default") -> list[str]:
        return [
            "--est", f"{self.base}/.well-known/est/{label}",
            "--trust", str(self.daemon.pem("root")),
            "--report", f"{self.base}/agent",
        ]  # fmt: skip

    def enroll(self, *more: str, label: str = "default", expect: int = 0) -> Any:
        self.secret.write_text(self.daemon.secret(f"est/{label}"))
        return self.machine.run(
            "enroll", self.name, *self.options(label), "--subject", f"CN={self.name}",
            "--san", f"dns:{self.name}", "--secret-file", str(self.secret),
            "--link", str(self.live), *more, expect=expect,
        )  # fmt: skip

    def serve(self) -> None:
        """Start nginx with what was enrolled, and let the agent reload it from now on."""
        self.nginx.start()
        path = self.machine.state / self.name / "settings.toml"
        words = ", ".join(f'"{word}"' for word in self.nginx.reload.split())
        path.write_text(
            path.read_text() + f"\n[reload]\ncommand = [{words}]\n\n[check]\n"
            f'address = "{self.nginx.address}"\nserver_name = "{self.name}"\n'
        )

    def shows(self, is_so: Callable[[x509.Certificate], bool]) -> None:
        """Wait for nginx: for a moment, old workers take connections beside the new ones."""
        deadline = time.monotonic() + 20
        while not is_so(self.nginx.shown()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def reported(self) -> dict[str, Any]:
        """Return what the appliance knows of the agent."""
        (found,) = [row for row in self.daemon.json("agent", "list") if row["label"] == self.name]
        shown: dict[str, Any] = self.daemon.json("agent", "show", found["id"])
        return shown


@pytest.fixture
def site(daemon: Daemon, tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path, daemon, f"site{next(_NUMBERS)}.example.test")
    yield found
    found.nginx.stop()


def later(days: float) -> dict[str, str]:
    """Return the environment in which a process lives so many days later."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"+{days:g}d",
        "NO_FAKE_STAT": "1",
    }


def test_enrol_serve_renew_and_report(site: Site) -> None:
    site.enroll()
    first = same_pair(site.live / "key.pem", site.live / "fullchain.pem")
    site.serve()
    assert site.nginx.shown() == first
    assert "nothing is due" in site.machine.run("once").stdout
    # nginx goes on with the new one, and shows it.
    site.machine.run("once", "--now")
    second = same_pair(site.live / "key.pem", site.live / "fullchain.pem")
    site.shows(lambda shown: shown == second)
    assert second.public_key() != first.public_key()
    told = site.reported()
    assert (told["state"], told["served"], told["source"]) == ("good", "same", "est")
    assert told["subject"] == f"CN={site.name}"
    assert told["last_contact"] >= told["first_contact"]
    lines = site.machine.run("status", site.name).stdout
    assert "served       same" in lines
    # What openssl says of the files.
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", str(site.daemon.pem("root")),
         "-untrusted", str(site.live / "chain.pem"), str(site.live / "certificate.pem")],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_configuration_that_nginx_refuses_brings_the_old_certificate_back(site: Site) -> None:
    site.enroll()
    site.serve()
    first = site.nginx.shown()
    good = site.nginx.config.read_text()
    site.nginx.config.write_text(good.replace("ssl_certificate_key", "ssl_certificate_nonsense"))
    done = site.machine.run("once", "--now", expect=5)
    assert "the reload command has failed, the old files are back" in done.stdout
    assert "ssl_certificate_nonsense" in done.stdout
    assert site.nginx.shown() == first == same_pair(site.live / "key.pem", site.live / "bundle.pem")
    assert site.reported()["state"] == "failing"
    assert "ssl_certificate_nonsense" in site.reported()["error"]
    site.nginx.config.write_text(good)
    site.machine.run("once", "--now")
    site.shows(lambda shown: shown != first)
    assert site.reported()["state"] == "good"


def test_time_goes_by_and_the_agent_renews_in_time(
    site: Site, require_client: Callable[[str], str]
) -> None:
    """The agent's clock is set forward, and no server says when."""
    site.enroll("--renew-before", "3d", "--spread", "1h", "--report", "", label="short")
    site.serve()
    first = site.nginx.shown()
    site.machine.run("once", environment=later(6.8))
    assert site.nginx.shown() == first
    # Ten days of life, and three before the end.
    done = site.machine.run("once", environment=later(7.1))
    assert "put it in place" in done.stdout
    site.shows(lambda shown: shown != first)


def test_f30_what_was_revoked_stays_so(site: Site) -> None:
    site.enroll()
    site.serve()
    shown = site.nginx.shown()
    serial = site.machine.status(site.name)["serial"]
    site.daemon.tmad("cert", "revoke", serial, "--reason", "superseded")
    done = site.machine.run("once", "--now", expect=2)
    assert "the certificate is revoked; it is not renewed" in done.stdout
    assert site.machine.status(site.name)["state"] == "withdrawn"
    assert site.nginx.shown() == shown
    # Told otherwise, it begins anew, with a new secret.
    site.secret.write_text(site.daemon.secret("est/default"))
    settings = site.machine.state / site.name / "settings.toml"
    settings.write_text(settings.read_text() + '\n[renewal]\nrevoked = "enroll"\n')
    site.machine.run("once", "--now")
    site.shows(lambda found: found != shown)
    assert site.machine.status(site.name)["state"] == "good"


def test_f30_ocsp_tells_an_agent_that_reports_nothing(site: Site) -> None:
    site.enroll("--report", "")
    serial = site.machine.status(site.name)["serial"]
    assert site.machine.run("once").returncode == 0
    site.daemon.tmad("cert", "hold", serial)
    done = site.machine.run("once", "--now", expect=2)
    assert "the certificate is on hold; it is not renewed" in done.stdout
    site.daemon.tmad("cert", "release", serial)
    site.machine.run("once", "--now")
    serial = site.machine.status(site.name)["serial"]
    site.daemon.tmad("cert", "revoke", serial, "--reason", "superseded")
    done = site.machine.run("once", "--now", expect=2)
    assert "the certificate is revoked; it is not renewed" in done.stdout
    assert site.machine.status(site.name)["withdrawn"] == "revoked"


def test_a_certificate_made_by_hand_is_adopted(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "by-hand"
    folder.mkdir()
    site.daemon.tmad("cert", "issue", site.name, "--out", str(folder))
    key, chain = folder / f"{site.name}.key", folder / f"{site.name}.chain.pem"
    certificate = folder / f"{site.name}.crt"
    before = certificate.read_bytes()
    site.machine.run("adopt", str(certificate), "--key", str(key), "--chain", str(chain),
                     "--name", "handmade", "--same-key", *site.options())  # fmt: skip
    assert certificate.read_bytes() == before
    assert site.machine.status("handmade")["state"] == "good"
    site.machine.run("once", "--now")
    after = same_pair(key, certificate)
    assert certificate.read_bytes() != before
    assert after.public_key() == x509.load_pem_x509_certificate(before).public_key()
    assert after.subject == x509.load_pem_x509_certificate(before).subject


def test_an_adopted_certificate_is_renewed_by_scep(site: Site, tmp_path: Path) -> None:
    url = site.daemon.endpoint("web", "--profile", "tls-server")
    folder = tmp_path / "by-hand"
    folder.mkdir()
    site.daemon.tmad("cert", "issue", site.name, "--algorithm", "rsa-2048", "--out", str(folder))
    key, certificate = folder / f"{site.name}.key", folder / f"{site.name}.crt"
    before = same_pair(key, certificate)
    site.machine.run(
        "adopt", str(certificate), "--key", str(key), "--scep", url, "--name", "old",
        "--chain", str(folder / f"{site.name}.chain.pem"),
        "--trust", str(site.daemon.pem("root")), "--report", f"{site.base}/agent",
    )  # fmt: skip
    site.machine.run("once", "--now")
    after = same_pair(key, certificate)
    assert after.serial_number != before.serial_number
    assert after.public_key() != before.public_key()
    assert after.subject == before.subject
    # Whoever shows no certificate that leads to the root is not asked.
    stranger = tmp_path / "stranger.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "/dev/null", "-out", str(stranger), "-subj", "/CN=x"],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = site.machine.state / "old/settings.toml"
    text = settings.read_text()
    settings.write_text(text.replace(str(site.daemon.pem("root")), str(stranger)))
    refused = site.machine.run("once", "--now", expect=2)
    assert "none of the server's certificates leads to the trust file" in refused.stdout


@pytest.mark.parametrize("algorithm", ["rsa-2048", "ed25519", "ml-dsa-65"])
def test_authorities_and_keys_of_each_kind(site: Site, algorithm: str) -> None:
    site.daemon.tmad("ca", "create", algorithm, "--algorithm", algorithm, "--parent", "root")
    site.daemon.endpoint(algorithm, "--ca", algorithm, "--profile", "tls-server", protocol="est")
    key = "rsa-2048" if algorithm == "rsa-2048" else "ed25519"
    site.enroll("--key", key, label=algorithm)
    first = same_pair(site.live / "key.pem", site.live / "fullchain.pem")
    chain = x509.load_pem_x509_certificates((site.live / "fullchain.pem").read_bytes())
    assert len(chain) == 2
    first.verify_directly_issued_by(chain[1])
    if algorithm == "ml-dsa-65" and ssl.OPENSSL_VERSION_INFO < (3, 5):
        refused = site.machine.run("once", "--now", expect=2)
        assert "does not know how our certificate is signed (ML-DSA)" in refused.stdout
        return
    site.machine.run("once", "--now")
    second = same_pair(site.live / "key.pem", site.live / "fullchain.pem")
    assert second.serial_number != first.serial_number
    assert site.reported()["state"] == "good"


def test_only_the_fingerprint_is_known_of_the_ca(site: Site) -> None:
    root = x509.load_pem_x509_certificate(site.daemon.pem("root").read_bytes())
    digits = root.fingerprint(hashes.SHA256()).hex()
    site.secret.write_text(site.daemon.secret("est/default"))
    arguments = [
        "--est", f"{site.base}/.well-known/est/default", "--subject", f"CN={site.name}", "--san",
        f"dns:{site.name}", "--secret-file", str(site.secret),
        "--cert-out", site.machine.path("c.pem"),
    ]  # fmt: skip
    wrong = site.machine.run("enroll", "wrong", *arguments, "--fingerprint", "00" * 32, expect=2)
    assert "no CA certificate with this fingerprint" in wrong.stderr
    site.machine.run("enroll", "right", *arguments, "--fingerprint", digits)
    assert (site.machine.state / "right/trust.pem").read_bytes().startswith(b"-----BEGIN")


def test_a_wrong_secret_a_used_one_and_a_server_that_is_away(site: Site) -> None:
    good = site.daemon.secret("est/default")
    site.enroll()
    site.secret.write_text("wrong")
    arguments = [
        *site.options(), "--secret-file", str(site.secret), "--subject", "CN=x.example.test",
        "--san", "dns:x.example.test",
    ]  # fmt: skip
    refused = site.machine.run("enroll", "other", *arguments, expect=2)
    assert "(401)" in refused.stdout
    away = site.machine.run(
        "enroll", "away", "--est", "https://127.0.0.1:1/x", "--trust",
        str(site.daemon.pem("root")), expect=5,
    )  # fmt: skip
    assert "127.0.0.1:1 does not answer: Connection refused" in away.stdout
    site.secret.write_text(good)
    site.machine.run("once", "other", "--now")
    assert site.machine.status("other")["state"] == "good"


def test_who_waits_for_a_person(site: Site) -> None:
    site.daemon.tmad("endpoint", "create", "est", "slow", "--ca", "issuing", "--profile", "device",
                     "--approval", "manual", "--set", "options.retry_after=1")  # fmt: skip
    site.secret.write_text(site.daemon.secret("est/slow"))
    waits = site.machine.run(
        "enroll", "slow", "--est", f"{site.base}/.well-known/est/slow", "--trust",
        str(site.daemon.pem("root")), "--secret-file", str(site.secret),
        "--bundle-out", site.machine.path("slow.pem"), expect=4,
    )  # fmt: skip
    assert "the server lets us wait" in waits.stdout
    (request,) = site.daemon.json("request", "list")
    site.daemon.tmad("request", "approve", str(request["id"]))
    site.machine.run("once", "slow", "--now")
    same_pair(Path(site.machine.path("slow.pem")), Path(site.machine.path("slow.pem")))


def test_the_process_that_stays(site: Site) -> None:
    """`tmad agent run`: SIGHUP looks at all at once, SIGTERM ends it."""
    site.enroll()
    site.serve()
    first = site.nginx.shown()
    process = subprocess.Popen(
        [sys.executable, "-m", "tmad.cli.main", "agent", "run"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMAD_AGENT_DIR": str(site.machine.state)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "nothing is due" in process.stdout.readline()
        state = site.machine.state / site.name / "state.json"
        # As if the server had said so: the window lies in the past.
        text = state.read_text()
        start, _, rest = text.partition('"window_start": "')
        state.write_text(f'{start}"window_start": "2020{rest[4:]}')
        process.send_signal(signal.SIGHUP)
        assert "nothing is due" in process.stdout.readline()  # it is younger than an hour
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
    assert site.nginx.shown() == first


def test_kill_while_the_server_answers(site: Site) -> None:
    """kill -9 at random moments of an enrolment: one certificate, in place, in the end."""
    site.secret.write_text(site.daemon.secret("est/default"))
    arguments = [
        sys.executable, "-m", "tmad.cli.main", "agent", "enroll", site.name, *site.options(),
        "--subject", f"CN={site.name}", "--san", f"dns:{site.name}", "--secret-file",
        str(site.secret), "--link", str(site.live),
    ]  # fmt: skip
    environment = {**os.environ, "TMAD_AGENT_DIR": str(site.machine.state)}
    pending = site.machine.state / site.name / "pending/request.der"
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not pending.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    site.machine.run("once", "--now")
    placed = same_pair(site.live / "key.pem", site.live / "fullchain.pem")
    rows = site.daemon.json("cert", "list", "--name", site.name)
    assert [row["serial"] for row in rows if row["status"] == "good"] == [
        f"{placed.serial_number:x}"
    ]
    assert sha256(placed)
