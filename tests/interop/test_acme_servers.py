"""Web servers that get their certificates by themselves: Caddy and Apache's mod_md; acme-tiny."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, dns_names, run, web_server

pytestmark = pytest.mark.interop

UNPACKED = Path(os.environ.get("TMAD_UNPACKED", Path.home() / ".cache" / "tmad-tests"))
MODULES = Path("/usr/lib/apache2/modules")
LOADED = ("mpm_event", "authz_core", "socache_shmcb", "ssl", "md")
PATIENCE = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ACMENode]:
    found = ACMENode(tmp_path_factory.mktemp("acme") / "node")
    found.endpoint("eab", "--set", "challenge.recoverable=true", external_account_required=True)
    found.daemon.start()
    yield found
    found.close()


@contextmanager
def running(folder: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; it is killed at the end with all that it has started."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def shown(node: ACMENode, name: str) -> x509.Certificate | None:
    """Return what a server shows under a name to who trusts the node's root; None: nothing good."""
    try:
        with (
            socket.create_connection(("127.0.0.1", node.tls_port), timeout=5) as plain,
            node.context().wrap_socket(plain, server_hostname=name) as tls,
        ):
            found = tls.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError):
        return None
    assert found is not None
    return x509.load_der_x509_certificate(found)


def waited(
    node: ACMENode,
    name: str,
    folder: Path,
    process: subprocess.Popen[bytes],
    again: Callable[[], object] = lambda: None,
) -> x509.Certificate:
    """Return the certificate that a server shows in the end; do something between the looks."""
    deadline = time.monotonic() + PATIENCE
    while (found := shown(node, name)) is None:
        is_alive = process.poll() is None and time.monotonic() < deadline
        assert is_alive, (folder / "server.log").read_text()[-3000:]
        time.sleep(0.5)
        again()
    return found


@pytest.mark.parametrize(("label", "challenge"), [("default", "http"), ("eab", "tls-alpn")])
def test_caddy(
    node: ACMENode,
    require_client: Callable[[str], str],
    tmp_path: Path,
    label: str,
    challenge: str,
) -> None:
    caddy = require_client(str(UNPACKED / "caddy/usr/bin/caddy"))
    bound, other = "", {"http": "tlsalpn", "tls-alpn": "http"}[challenge]
    if label == "eab":
        account = node.external_account(label)
        bound = f"eab {account['eab_kid']} {account['eab_hmac_key']}\n"
    (tmp_path / "Caddyfile").write_text(
        f"{{\nadmin off\nhttp_port {node.http_port}\nhttps_port {node.tls_port}\n"
        f"default_bind 127.0.0.1\nstorage file_system {tmp_path}/store\n}}\n"
        f"a.example.test {{\nrespond hello\ntls {{\nissuer acme {{\nemail a@example.com\n"
        f"dir {node.directory(label)}\ntrusted_roots {node.trust}\n"
        f"disable_{other}_challenge\n{bound}}}\n}}\n}}\n"
    )
    with running(tmp_path, caddy, "run", HOME=str(tmp_path)) as process:
        certificate = waited(node, "a.example.test", tmp_path, process)
        assert dns_names(certificate) == ["a.example.test"]
        said = run(
            tmp_path, "openssl", "s_client", "-connect", f"127.0.0.1:{node.tls_port}",
            "-servername", "a.example.test", "-status", "-CAfile", str(node.trust), text="",
        ).stdout  # fmt: skip
        # It staples by itself what our responder says.
        assert "OCSP Response Status: successful" in said
        assert "Cert Status: good" in said


def test_apache(node: ACMENode, require_client: Callable[[str], str], tmp_path: Path) -> None:
    apache = require_client("/usr/sbin/apache2")
    config = tmp_path / "apache.conf"
    lines = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in LOADED]
    config.write_text("\n".join([
        *lines, f"ServerRoot {tmp_path}", f"PidFile {tmp_path}/pid", "ServerName b.example.test",
        f"Mutex file:{tmp_path}", f"ErrorLog {tmp_path}/server.log", "LogLevel info md:debug",
        f"DocumentRoot {tmp_path}", f"Listen 127.0.0.1:{node.http_port}",
        f"Listen 127.0.0.1:{node.tls_port}", "ServerAdmin a@example.com",
        f"MDCertificateAuthority {node.directory()}", f"MDCACertificateFile {node.trust}",
        "MDCertificateAgreement accepted", f"MDStoreDir {tmp_path}/md",
        f"MDPortMap http:{node.http_port} https:{node.tls_port}", "MDomain b.example.test",
        f"<VirtualHost *:{node.tls_port}>", "ServerName b.example.test", "SSLEngine on",
        "</VirtualHost>", f"<VirtualHost *:{node.http_port}>", "ServerName b.example.test",
        "</VirtualHost>", "",
    ]))  # fmt: skip
    ready = tmp_path / "md/staging/b.example.test/pubcert.pem"
    with running(tmp_path, apache, "-D", "FOREGROUND", "-f", str(config)) as process:

        def reload_once() -> None:
            if ready.exists():
                process.send_signal(signal.SIGUSR1)
                time.sleep(2)

        certificate = waited(node, "b.example.test", tmp_path, process, reload_once)
        assert dns_names(certificate) == ["b.example.test"]


def test_acme_tiny(node: ACMENode, require_client: Callable[[str], str], tmp_path: Path) -> None:
    require_client("acme-tiny")
    run(tmp_path, "openssl", "genrsa", "-out", "account.key", "2048")
    run(tmp_path, "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "site.key",
        "-subj", "/CN=a.example.test", "-addext",
        "subjectAltName=DNS:a.example.test,DNS:www.example.test", "-out", "site.csr")  # fmt: skip
    with web_server(tmp_path / "web", node.http_port) as root:
        done = run(
            tmp_path, "acme-tiny", "--account-key", "account.key", "--csr", "site.csr",
            "--acme-dir", f"{root}/", "--disable-check", "--directory-url", node.directory(),
            "--contact", "mailto:a@example.com",
            environment={"SSL_CERT_FILE": str(node.trust)},
        )  # fmt: skip
    certificate = x509.load_pem_x509_certificates(done.stdout.encode())[0]
    assert dns_names(certificate) == ["a.example.test", "www.example.test"]
