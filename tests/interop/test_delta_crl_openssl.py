"""openssl uses our delta CRLs, GnuTLS and ldapsearch read them; two workers say the same."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemon import Daemon
from tests.interop.device import Enrolled, enroll, run
from tests.interop.test_crl_openssl import download, save
from tests.postgres import start_cluster

pytestmark = pytest.mark.interop

SUFFIX = "dc=acme,dc=test"


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def node(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require_client: Callable[[str], str],
) -> Iterator[Daemon]:
    for name in ("openssl", "certtool", "ldapsearch"):
        require_client(name)
    options = []
    if request.param == "postgresql":
        options = ["--db", start_cluster().empty_database()]
    daemon = Daemon(tmp_path_factory.mktemp("deltas") / "node", *options, ldap=True, workers=2)
    daemon.start()
    try:
        assert download(daemon, "/crl/issuing-delta.crl")[0].status == 404
        daemon.tmad("ca", "set", "issuing", "crl.delta_hours=12")
        daemon.tmad("directory", "create", "main", SUFFIX)
        yield daemon
    finally:
        daemon.kill()


class Relying:
    """Somebody who keeps a complete CRL and fetches delta CRLs only."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._daemon = daemon
        self._directory = directory
        self.chain = directory / "chain.pem"
        self.chain.write_text(daemon.pem().read_text() + daemon.pem("root").read_text())
        self.refresh()

    def refresh(self) -> None:
        self.base = save(self._daemon, self._directory, "/crl/issuing.pem").rename(
            self._directory / "base.pem"
        )

    def verify(self, device: Enrolled, *options: str, delta: bool = True) -> str:
        files = [self.base]
        if delta:
            files.append(save(self._daemon, self._directory, "/crl/issuing-delta.pem"))
        lists = [part for file in files for part in ("-CRLfile", str(file))]
        done = run(
            "openssl", "verify", "-crl_check", *options, "-CAfile", self.chain, *lists,
            device.path, expect=None,
        )  # fmt: skip
        return done.stdout.decode() + done.stderr.decode()


@pytest.fixture
def relying(node: Daemon, tmp_path: Path) -> Relying:
    return Relying(node, tmp_path)


DELTAS = ("-extended_crl", "-use_deltas")


def test_crl_07_good_revoked_in_the_delta_only_and_released(node: Daemon, tmp_path: Path) -> None:
    good, bad, held = (enroll(node, name) for name in ("good", "bad", "held"))
    node.tmad("cert", "hold", held.serial)
    relying = Relying(node, tmp_path)
    for device in (good, bad):
        assert ": OK" in relying.verify(device, *DELTAS)
    assert "certificate revoked" in relying.verify(held, *DELTAS)
    node.tmad("cert", "revoke", bad.serial, "--reason", "key-compromise")
    node.tmad("cert", "release", held.serial)
    # The complete CRL that is kept is older than both, and the delta knows them.
    assert ": OK" in relying.verify(bad, delta=False)
    assert "certificate revoked" in relying.verify(held, delta=False)
    assert ": OK" in relying.verify(good, *DELTAS)
    assert "certificate revoked" in relying.verify(bad, *DELTAS)
    assert ": OK" in relying.verify(held, *DELTAS)
    relying.refresh()
    for options in (DELTAS, ()):
        assert ": OK" in relying.verify(good, *options)
        assert "certificate revoked" in relying.verify(bad, *options)
        assert ": OK" in relying.verify(held, *options)


def text_of(file: Path, ca: Path) -> str:
    done = run(
        "openssl", "crl", "-inform", "DER", "-in", file, "-noout", "-text", "-CAfile", ca
    )  # fmt: skip
    assert b"verify OK" in done.stderr
    return done.stdout.decode()


def test_crl_07_openssl_and_gnutls_read_both(node: Daemon, tmp_path: Path) -> None:
    device = enroll(node, "listed")
    enroll(node, "other")
    node.tmad("cert", "revoke", device.serial, "--reason", "superseded")
    file = save(node, tmp_path, "/crl/issuing-delta.crl")
    text = text_of(file, node.pem())
    assert re.search(r"X509v3 Delta CRL Indicator: critical\s+\d+", text)
    assert "Superseded" in text
    assert device.serial.upper().lstrip("0") in text
    assert "Freshest CRL" not in text
    complete = text_of(save(node, tmp_path, "/crl/issuing.crl"), node.pem())
    assert re.search(r"X509v3 Freshest CRL:\s+Full Name:\s+URI:http://\S+/crl/issuing-delta.crl",
                     complete)  # fmt: skip
    assert "Delta CRL Indicator" not in complete
    number = r"X509v3 CRL Number:\s+(\d+)"
    assert re.findall(number, text) == re.findall(number, complete)
    shown = run("certtool", "--crl-info", "--inder", "--infile", file).stdout.decode()
    assert device.serial in shown.replace(":", "").lower()


def test_crl_14_ldapsearch_finds_what_http_serves(node: Daemon, tmp_path: Path) -> None:
    device = enroll(node, "in-the-directory")
    node.tmad("cert", "revoke", device.serial)
    for _ in range(4):  # whichever worker answers
        done = run(
            "ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no",
            "-H", f"ldap://127.0.0.1:{node.ldap_port}", "-b", f"cn=issuing,ou=CAs,{SUFFIX}",
            "-s", "base", "(deltaRevocationList=*)", "deltaRevocationList;binary",
        )  # fmt: skip
        [value] = re.findall(r"^deltaRevocationList;binary:: (\S+)$", done.stdout.decode(), re.M)
        delta_der = base64.b64decode(value)
        delta = x509.load_der_x509_crl(delta_der)
        serial = device.certificate.serial_number
        assert delta.get_revoked_certificate_by_serial_number(serial) is not None
        assert download(node, "/crl/issuing-delta.crl")[1] == delta_der


def test_tmad_crl_show_delta(node: Daemon, tmp_path: Path) -> None:
    [built] = node.json("crl", "build", "issuing")
    rows = node.json("crl", "show", "issuing", "--delta")
    assert rows[0]["number"] == built["number"]
    assert rows[0]["base"] < built["number"]
    file = tmp_path / "delta.der"
    node.tmad("crl", "show", "issuing", "--delta", "--form", "der", "--out", str(file))
    delta = x509.load_der_x509_crl(file.read_bytes())
    indicator = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value
    assert indicator.crl_number == rows[0]["base"]
    assert node.json("crl", "show", "root", "--delta") == []
    out = str(tmp_path / "none")
    assert "crl.delta_hours" in node.tmad(
        "crl", "show", "root", "--delta", "--out", out, expect=2
    ).stderr  # fmt: skip
    assert download(node, "/crl/root-delta.crl")[0].status == 404


def test_crl_13_conditional_downloads(node: Daemon) -> None:
    response, whole = download(node, "/crl/issuing-delta.crl")
    assert response.headers["Content-Type"] == "application/pkix-crl"
    again, nothing = download(
        node, "/crl/issuing-delta.crl", If_None_Match=response.headers["ETag"]
    )
    assert (again.status, nothing) == (304, b"")
    part, first = download(node, "/crl/issuing-delta.crl", Range="bytes=0-99")
    assert (part.status, first) == (206, whole[:100])


def test_g_loss_4_killed_it_goes_on_from_a_base_that_was_published(
    node: Daemon, tmp_path: Path
) -> None:
    devices = [enroll(node, f"killed-{n}") for n in range(2)]
    relying = Relying(node, tmp_path)
    published = {row["number"] for row in node.json("crl", "show", "issuing", "--limit", "100")}
    for device in devices:
        node.tmad("cert", "revoke", device.serial)
        node.kill()
        node.start()
        assert "certificate revoked" in relying.verify(device, *DELTAS)
        [row] = node.json("crl", "show", "issuing", "--delta", "--limit", "1")
        assert row["base"] in published
        assert row["number"] > max(published)
