"""`openssl cmp` against the running daemon: every command, both kinds of protection."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import Daemon

pytestmark = pytest.mark.interop
SETTINGS = "\n[protocols.cmp]\nrate = 0\nattend_seconds = 1\n"


CREATE = ("--ca", "issuing", "--profile", "device", "--set", "challenge.recoverable=true",
          "--set", "challenge.static=true")  # fmt: skip
ENDPOINTS = {
    "iot": (),
    "manual": ("--set", "approval=manual", "--set", "options.check_after=1"),
    "hasty": ("--set", "options.confirm_seconds=10"),
    "sealed": ("--set", "options.encrypted_certificates=true"),
}
RSA = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
SECRETS: dict[str, tuple[str, ...]] = {}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node of two workers, so that each message of a transaction may meet another one."""
    node = Daemon(tmp_path_factory.mktemp("node"), settings=SETTINGS, workers=2)
    for label, options in ENDPOINTS.items():
        node.tmad("endpoint", "create", "cmp", label, *CREATE, *options)
        made = secret(node, label, "--static")
        SECRETS[label] = made
    node.start()
    (node.directory / "root.pem").write_text(node.tmad("ca", "export", "root").stdout)
    node.pem("issuing")
    yield node
    node.kill()


def secret(node: Daemon, label: str, *options: str) -> tuple[str, ...]:
    """Return the options of openssl for a fresh shared secret."""
    made = node.json("enroll-secret", "create", "--endpoint", f"cmp/{label}", "--recoverable",
                     *options)  # fmt: skip
    return ("-ref", made["reference"], "-secret", f"pass:{made['secret']}")


@dataclass
class Device:
    """Somebody with `openssl cmp` and a directory."""

    daemon: Daemon
    path: Path
    label: str = "iot"

    def key(self, name: str, *kind: str) -> str:
        options = kind or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        self._run("openssl", "genpkey", *options, "-out", name)
        return name

    def secret(self) -> tuple[str, ...]:
        """Return the options for the endpoint's static secret."""
        return SECRETS[self.label]

    def cmp(self, command: str, *options: str, expect: int = 0, path: str = "") -> str:
        """Run ``openssl cmp``; return what it said."""
        where = path or f"/.well-known/cmp/p/{self.label}"
        done = self._run(
            "openssl", "cmp", "-config", "", "-server", f"127.0.0.1:{self.daemon.http_port}",
            "-path", where, "-recipient", "/CN=CA", "-trusted", self.root, "-verbosity", "7",
            "-cmd", command, *options, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == expect, said + self.daemon.log.read_text()[-2000:]
        return said

    def enrolled(self, name: str, *options: str, command: str = "ir") -> tuple[str, ...]:
        """Enrol; return the options that sign with the new certificate."""
        key = self.key(f"{name}.key")
        self.cmp(
            command, *self.secret(), "-newkey", key, "-subject", f"/CN={name}",
            "-certout", f"{name}.pem", "-chainout", "chain.pem", *options,
        )  # fmt: skip
        return ("-cert", f"{name}.pem", "-key", key, "-extracerts", "chain.pem")

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.path / f"{name}.pem").read_bytes())

    def status(self, name: str) -> str:
        """Return what the daemon's OCSP responder says of a certificate."""
        done = self._run(
            "openssl", "ocsp", "-issuer", str(self.daemon.pem("issuing")), "-cert", f"{name}.pem",
            "-url", f"{self.daemon.url}/ocsp", "-noverify",
        )  # fmt: skip
        return done.stdout.partition(f"{name}.pem: ")[2].split()[0]

    @property
    def root(self) -> str:
        return str(self.daemon.directory / "root.pem")

    def verify(self, name: str) -> None:
        self._run("openssl", "verify", "-CAfile", self.root, "-untrusted", "chain.pem",
                  f"{name}.pem")  # fmt: skip

    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.path, capture_output=True, text=True, timeout=60, check=check
        )


@pytest.fixture
def device(daemon: Daemon, tmp_path: Path) -> Device:
    return Device(daemon, tmp_path)


def test_ir_with_a_shared_secret(device: Device) -> None:
    key = device.key("new.key")
    once = secret(device.daemon, "iot")
    said = device.cmp(
        "ir", *once, "-newkey", key, "-subject", "/CN=dev1",
        "-sans", "dev1.example.test", "-certout", "dev1.pem", "-cacertsout", "roots.pem",
        "-chainout", "chain.pem", "-reqout", "a.der,b.der", "-rspout", "c.der,d.der",
    )  # fmt: skip
    assert "received PKICONF" in said
    device.verify("dev1")
    assert (device.path / "roots.pem").read_text() == Path(device.root).read_text()
    names = device.certificate("dev1").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["dev1.example.test"]
    # The secret works once.
    again = device.cmp("ir", *once, "-newkey", device.key("x.key"), "-subject", "/CN=dev1",
                       "-certout", "x.pem", expect=1)  # fmt: skip
    assert "badMessageCheck" in again
    # The whole conversation again, octet by octet: a replay.
    said = device.cmp("ir", *once, "-newkey", key, "-subject", "/CN=dev1", "-certout", "x.pem",
                      "-reqin", "a.der,b.der", expect=1)  # fmt: skip
    assert "transactionIdInUse" in said


def test_a_lost_answer_is_sent_again(device: Device) -> None:
    command = ("ir", *device.secret(), "-newkey", device.key("new.key"), "-subject", "/CN=dev1",
               "-implicit_confirm")  # fmt: skip
    device.cmp(*command, "-certout", "first.pem", "-reqout", "a.der")
    device.cmp(*command, "-certout", "again.pem", "-reqin", "a.der")
    assert device.certificate("again") == device.certificate("first")


@pytest.mark.parametrize("confirm", ["-implicit_confirm", "-disable_confirm"])
def test_without_certconf(device: Device, confirm: str) -> None:
    said = device.cmp(
        "ir", *device.secret(), "-newkey", device.key("new.key"), "-subject", "/CN=dev2",
        "-certout", "dev2.pem", confirm,
    )  # fmt: skip
    assert "CERTCONF" not in said


def test_cr_kur_p10cr_and_rr_with_a_certificate(device: Device) -> None:
    own = device.enrolled("dev3")
    device.cmp("cr", *own, "-newkey", device.key("k2.key"), "-subject", "/CN=dev3",
               "-certout", "c2.pem")  # fmt: skip
    second = ("-cert", "c2.pem", "-key", "k2.key", "-extracerts", "chain.pem")
    device.cmp("kur", *second, "-newkey", device.key("k3.key"), "-certout", "c3.pem")
    assert device.certificate("c3").subject == device.certificate("dev3").subject
    device._run("openssl", "req", "-new", "-key", "k3.key", "-subj", "/CN=dev3", "-out", "r.csr")
    third = ("-cert", "c3.pem", "-key", "k3.key", "-extracerts", "chain.pem")
    device.cmp("p10cr", *third, "-csr", "r.csr", "-certout", "c4.pem")
    device.verify("c4")
    device.cmp("rr", *third, "-oldcert", "c3.pem", "-revreason", "4")
    assert device.status("c3") == "revoked"
    assert device.status("c2") == "good"
    said = device.cmp("rr", *third, "-oldcert", "c3.pem", "-revreason", "4", expect=1)
    assert "certRevoked" in said
    said = device.cmp("kur", *third, "-newkey", "k3.key", "-certout", "no.pem", expect=1)
    assert "certRevoked" in said


def test_rr_about_somebody_else(device: Device) -> None:
    own = device.enrolled("dev4")
    device.enrolled("dev5")
    said = device.cmp("rr", *own, "-oldcert", "dev5.pem", "-revreason", "1", expect=1)
    assert "badCertId" in said
    assert device.status("dev5") == "good"


@pytest.mark.parametrize(
    "kind",
    [
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("-algorithm", "ED25519"),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_kinds_of_keys(device: Device, kind: tuple[str, ...]) -> None:
    device.key("k.key", *kind)
    device.cmp("ir", *device.secret(), "-newkey", "k.key", "-subject", "/CN=dev6",
               "-certout", "c.pem", "-chainout", "chain.pem")  # fmt: skip
    device.verify("c")
    if "ED25519" not in kind:  # OpenSSL 3.0 does not protect messages with such a key
        device.cmp("kur", "-cert", "c.pem", "-key", "k.key", "-extracerts", "chain.pem",
                   "-newkey", "k.key", "-certout", "d.pem")  # fmt: skip
        device.verify("d")


@pytest.mark.parametrize("asked", ["caCerts", "currentCRL", "signKeyPairTypes", "certReqTemplate"])
def test_genm(device: Device, asked: str) -> None:
    said = device.cmp("genm", *device.secret(), "-infotype", asked)
    assert f"id-it-{asked}" in said


def test_genm_with_a_certificate(device: Device) -> None:
    own = device.enrolled("dev7")
    for asked in ("caCerts", "unsupportedOIDs"):
        device.cmp("genm", *own, "-infotype", asked)


def test_paths(device: Device) -> None:
    for path in ("/cmp/iot", "/ejbca/publicweb/cmp/iot", "/.well-known/cmp/p/iot/getcacerts"):
        device.cmp("genm", *device.secret(), "-infotype", "caCerts", path=path)
    device.cmp("genm", *device.secret(), "-infotype", "caCerts", path="/cmp/nosuch", expect=1)
    said = device.cmp("genm", *device.secret(), "-infotype", "caCerts",
                      path="/.well-known/cmp/p/iot/keyupdate", expect=1)  # fmt: skip
    assert "badRequest" in said


def test_waiting_for_a_person(device: Device) -> None:
    daemon = device.daemon
    device.label = "manual"
    command = [
        "openssl", "cmp", "-config", "", "-server", f"127.0.0.1:{daemon.http_port}",
        "-path", "/.well-known/cmp/p/manual", "-recipient", "/CN=CA", "-trusted", device.root,
        "-cmd", "ir", *device.secret(), "-newkey", device.key("new.key"),
        "-subject", "/CN=dev8", "-certout", "dev8.pem", "-total_timeout", "50",
    ]  # fmt: skip
    waiting = subprocess.Popen(
        command, cwd=device.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while not (found := daemon.json("request", "list")) and time.monotonic() < deadline:
            time.sleep(0.2)
        daemon.tmad("request", "approve", found[0]["id"])
        said, _ = waiting.communicate(timeout=40)
    finally:
        waiting.kill()
    assert waiting.returncode == 0, said
    assert device.certificate("dev8").subject.rfc4514_string() == "CN=dev8"


def test_refusals(device: Device) -> None:
    known = device.secret()
    wrong = (*known[:3], "pass:wrong-secret-of-a-stranger")
    key = device.key("new.key")
    base = ("-newkey", key, "-subject", "/CN=dev9", "-certout", "no.pem")
    cases = [
        ((*wrong, *base), "badMessageCheck"),
        ((*known, *base, "-unprotected_requests"), "badMessageCheck"),
        ((*known, *base, "-popo", "-1"), "badPOP"),
        ((*known, *base, "-popo", "0"), "badPOP"),
        ((*known, *base, "-issuer", "/CN=nobody"), "badCertTemplate"),
    ]
    for options, bit in cases:
        assert bit in device.cmp("ir", *options, expect=1)
    own = device.enrolled("dev10")
    kur = ("-newkey", key, "-certout", "no.pem")
    assert "badAlg" in device.cmp("kur", *own, *kur, "-digest", "sha1", expect=1)
    other = device.enrolled("dev11")
    said = device.cmp("kur", *own, *kur, "-oldcert", "dev11.pem", expect=1)
    assert "badCertId" in said or "badCertTemplate" in said
    assert other
    # After all that the next client is served.
    device.cmp("ir", *known, *base)


def test_what_nobody_confirms_is_revoked(device: Device) -> None:
    device.label = "hasty"
    device.cmp("ir", *device.secret(), "-newkey", device.key("new.key"), "-subject", "/CN=dev12",
               "-certout", "dev12.pem", "-disable_confirm")  # fmt: skip
    assert device.status("dev12") == "good"
    deadline = time.monotonic() + 40
    while device.status("dev12") == "good" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert device.status("dev12") == "revoked"


def test_a_certificate_that_only_the_key_can_read(device: Device) -> None:
    """-popo 2 is keyEncipherment: openssl decrypts what comes, and confirms it with that."""
    base = ("ir", *device.secret(), "-newkey", device.key("new.key", *RSA), "-subject", "/CN=dev13",
            "-popo", "2", "-certout", "dev13.pem", "-chainout", "chain.pem")  # fmt: skip
    assert "badPOP" in device.cmp(*base, expect=1)  # the endpoint does not do that
    device.label = "sealed"
    base = (base[0], *device.secret(), *base[5:])
    said = device.cmp(
        *base, "-implicit_confirm", "-reqout", "a.der,b.der", "-rspout", "c.der,d.der"
    )
    assert "received PKICONF" in said  # what nobody has shown yet is never confirmed silently
    assert device.certificate("dev13").subject.rfc4514_string() == "CN=dev13"
    device.verify("dev13")
    answer = (device.path / "c.der").read_bytes()
    assert device.certificate("dev13").public_bytes(Encoding.DER) not in answer
    assert device.status("dev13") == "good"
    # An elliptic curve cannot be encrypted to in messages as old as openssl's.
    curve = (*base[:6], device.key("ec.key"), *base[7:])
    assert "unsupportedVersion" in device.cmp(*curve, expect=1)
