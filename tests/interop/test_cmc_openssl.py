"""CMC with `openssl cms` outside and curl below, against a running daemon of two workers.

What OpenSSL does not know, the PKIData, is made by pyasn1; it signs, encrypts and carries it, and
checks and shows what comes back.
"""

from __future__ import annotations

import base64
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pyasn1_alt_modules import rfc6402

from tests import cmc_client as client
from tests.cmc_client import FAILED, PENDING, SUCCESS, Challenge, Holder, pki_data, tcr
from tests.daemon import Daemon
from tests.softhsm import create_token
from tests.unit.cmc_world import name
from tests.unit.cmp_world import new_key

pytestmark = pytest.mark.interop
SETTINGS = "\n[protocols.cmc]\nrate = 0\nattend_seconds = 1\n[protocols.est]\nrate = 0\n"
FULL = "application/pkcs7-mime; smime-type=CMC-request"
AUTHORITIES = {
    "ec": ("--algorithm", "p256"),
    "rsa": ("--algorithm", "rsa-2048"),
    "ed": ("--algorithm", "ed25519"),
    "pq": ("--algorithm", "ml-dsa-65"),
    "token": ("--algorithm", "p256", "--store", "pkcs11"),
}
ENDPOINTS = {  # an authority, and what else the document says
    "iot": ("ec", ""),
    "manual": ("ec", 'approval = "manual"\noptions = { check_after = 1 }\n'),
    "hasty": ("ec", "options = { confirm = true, confirm_seconds = 10 }\n"),
    "sealed": ("ec", "options = { envelopes = true }\n"),
    "batch": ("ec", 'registration_authorities = ["cmc-ra"]\n'),
    "ras": ("ec", ""),
    "rsa": ("rsa", ""),
    "ed": ("ed", ""),
    "pq": ("pq", ""),
    "token": ("token", 'options = { signer_store = "pkcs11" }\n'),
    "agreeing": ("ec", ""),
}
PROFILES = {"ras": "cmc-ra", "agreeing": "agreeing"}
AGREEING = """
[tenant.default.profile.agreeing]
via = ["cmc"]
keys = { algorithms = ["x25519"] }
subject = { attributes = { CN = {} } }
extensions = { key_usage = ["key_agreement"] }
[tenant.default.endpoint.est-iot]
protocol = "est"
label = "iot"
authority = "ec"
profile = "device"
"""
SECRETS: dict[str, tuple[str, str]] = {}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node of two workers with authorities of each kind, one of them in a token."""
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    node = Daemon(
        tmp_path_factory.mktemp("node"),
        settings=token.toml + SETTINGS,
        environment=token.environment,
        workers=2,
    )
    for authority, options in AUTHORITIES.items():
        node.tmad("ca", "create", authority, "--parent", "root", *options)
    document = AGREEING
    for label, (authority, more) in ENDPOINTS.items():
        document += (
            f'[tenant.default.endpoint.cmc-{label}]\nprotocol = "cmc"\nlabel = "{label}"\n'
            f'authority = "{authority}"\nprofile = "{PROFILES.get(label, "device")}"\n'
            f"challenge = {{ recoverable = true, static = true }}\n{more}"
        )
    node.tmad("apply", "-", text=document)
    for label in ENDPOINTS:
        made = node.json("enroll-secret", "create", "--endpoint", f"cmc/{label}", "--recoverable",
                         "--static")  # fmt: skip
        SECRETS[label] = made["reference"], made["secret"]
    (node.directory / "root.pem").write_text(node.tmad("ca", "export", "root").stdout)
    node.start()
    yield node
    node.kill()


@dataclass
class Device:
    """Somebody with openssl, curl and a directory."""

    daemon: Daemon
    path: Path

    def run(self, *command: str, data: bytes = b"", expect: int | None = 0) -> bytes:
        done = subprocess.run(
            command, cwd=self.path, input=data, capture_output=True, timeout=60, check=False
        )
        if expect is not None:
            log = self.daemon.log.read_text()[-2000:]
            assert done.returncode == expect, (done.stdout, done.stderr.decode(), log)
        return done.stdout

    def curl(
        self,
        octets: bytes,
        where: str,
        *options: str,
        media_type: str = FULL,
        port: int | None = None,
        path: str = "/cmc/",
    ) -> tuple[int, str, bytes]:
        (self.path / "request").write_bytes(octets)
        said = self.run(
            "curl", "-sS", "--cacert", self.root, "--data-binary", "@request", "-o", "answer",
            "-H", f"Content-Type: {media_type}", "-w", "%{http_code} %{content_type}", *options,
            f"https://127.0.0.1:{port or self.daemon.https_port}{path}{where}",
        )  # fmt: skip
        status, _, kind = said.decode().partition(" ")
        return int(status), kind, (self.path / "answer").read_bytes()

    def ask(self, message: bytes, label: str) -> client.Answer:
        status, kind, octets = self.curl(message, label)
        assert status == 200, (octets, self.daemon.log.read_text()[-3000:])
        answer = client.Answer(octets)
        if answer.is_full:
            assert kind == "application/pkcs7-mime; smime-type=CMC-response"
            self.verify(octets)
        else:
            assert kind == "application/pkcs7-mime; smime-type=certs-only"
        return answer

    def verify(self, octets: bytes) -> None:
        """Let openssl check who signed an answer, where it knows the algorithm."""
        (self.path / "answer.p7").write_bytes(octets)
        key = client.Answer(octets).signer.public_key()
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return  # OpenSSL 3.0 has no EdDSA in CMS and no ML-DSA; our reader has checked it
        self.run(
            "openssl", "cms", "-verify", "-inform", "DER", "-in", "answer.p7", "-CAfile",
            self.root, "-purpose", "any", "-out", "body.der",
        )  # fmt: skip
        assert b"SEQUENCE" in self.run("openssl", "asn1parse", "-inform", "DER", "-in", "body.der")

    def sign(
        self, content: bytes, holder: Holder, *options: str, kind: str = client.PKI_DATA
    ) -> bytes:
        """Return SignedData by openssl."""
        (self.path / "content").write_bytes(content)
        pem = holder.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.path / "key.pem").write_bytes(pem)
        (self.path / "own.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
        return self.run(
            "openssl", "cms", "-sign", "-binary", "-nodetach", "-econtent_type", kind, "-outform",
            "DER", "-in", "content", "-signer", "own.pem", "-inkey", "key.pem", *options,
        )  # fmt: skip

    def enroll(self, label: str, common: str = "dev1", key: Any = None) -> Holder:
        """Enrol by the endpoint's secret; the request is signed by its own key."""
        key = key or new_key()
        requests = [tcr(1, client.csr(key, name(common)))]
        content = pki_data(client.proof(*SECRETS[label], requests), requests)
        answer = self.ask(client.signed(content, key=key), label)
        assert answer.statuses == [(SUCCESS, (1,), None)], answer.told
        return Holder(answer.certified(key), key)

    def status(self, holder: Holder, authority: str = "ec") -> str:
        """Return what the daemon's OCSP responder says of a certificate."""
        (self.path / "asked.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
        said = self.run(
            "openssl", "ocsp", "-issuer", str(self.daemon.pem(authority)), "-cert", "asked.pem",
            "-url", f"{self.daemon.url}/ocsp", "-noverify",
        )  # fmt: skip
        return said.decode().partition("asked.pem: ")[2].split()[0]

    @property
    def root(self) -> str:
        return str(self.daemon.directory / "root.pem")


@pytest.fixture
def device(daemon: Daemon, tmp_path: Path) -> Device:
    return Device(daemon, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def unconfirmed(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> list[Holder]:
    """Return a certificate that was confirmed and one that will not be: the last test looks."""
    device = Device(daemon, tmp_path_factory.mktemp("hasty"))
    holders = []
    for _ in range(2):
        key = new_key()
        requests = [tcr(1, client.csr(key, name("dev1")))]
        content = pki_data(client.proof(*SECRETS["hasty"], requests), requests)
        answer = device.ask(client.signed(content, key=key), "hasty")
        assert answer.statuses == [(client.CONFIRM_REQUIRED, (1,), None)]
        holders.append(Holder(answer.certified(key), key))
    named = client.encode(client.issuer_and_serial(holders[0].certificate))
    content = pki_data([(5, client.CONFIRM, named)])
    answer = device.ask(device.sign(content, holders[0]), "hasty")
    assert answer.statuses == [(SUCCESS, (5,), None)]
    return holders


def request(holder: Holder, key: Any, controls: Sequence[Any] = ()) -> bytes:
    return pki_data(controls, [tcr(1, client.csr(key, holder.certificate.subject))])


@pytest.mark.parametrize("label", ["iot", "rsa", "ed", "pq", "token"])
def test_enrolment_renewal_and_revocation(device: Device, label: str) -> None:
    authority = ENDPOINTS[label][0]
    holder = device.enroll(label)
    key = new_key()
    renewed = device.ask(device.sign(request(holder, key), holder), label)
    assert not renewed.is_full
    following = Holder(renewed.certified(key), key)
    assert following.certificate.subject == holder.certificate.subject
    (device.path / "new.pem").write_bytes(following.certificate.public_bytes(Encoding.PEM))
    if label != "pq":
        device.run("openssl", "verify", "-CAfile", device.root, "-untrusted",
                   str(device.daemon.pem(authority)), "new.pem")  # fmt: skip
    control = (5, client.REVOKE, client.revoke(holder.certificate, 4))
    answer = device.ask(device.sign(pki_data([control]), holder), label)
    assert answer.statuses == [(SUCCESS, (5,), None)]
    if label != "pq":
        assert device.status(holder, authority) == "revoked"
        assert device.status(following, authority) == "good"
    # T-EST-01: what was revoked a moment ago asks for nothing.
    refused = device.ask(device.sign(request(holder, new_key()), holder), label)
    assert refused.statuses == [(FAILED, (0,), client.BAD_IDENTITY)]


def test_a_simple_request_over_mutual_tls(device: Device) -> None:
    holder = device.enroll("iot")
    device.sign(b"x", holder)  # writes key.pem and own.pem
    csr = client.csr(new_key(), holder.certificate.subject)
    status, kind, octets = device.curl(
        csr, "iot", "--cert", "own.pem", "--key", "key.pem", media_type="application/pkcs10",
        port=device.daemon.client_port,
    )  # fmt: skip
    assert (status, kind) == (200, "application/pkcs7-mime; smime-type=certs-only")
    shown = device.run("openssl", "pkcs7", "-inform", "DER", "-print_certs", data=octets)
    assert b"CN = dev1" in shown
    status, kind, octets = device.curl(csr, "iot", media_type="application/pkcs10")
    assert (status, kind) == (200, "application/pkcs7-mime; smime-type=CMC-response")
    assert client.Answer(octets).statuses == [(FAILED, (1,), client.BAD_IDENTITY)]


def test_est_fullcmc(device: Device) -> None:
    holder = device.enroll("iot")
    key = new_key()
    message = base64.encodebytes(device.sign(request(holder, key), holder))
    where = "iot/fullcmc"
    status, kind, octets = device.curl(message, where, path="/.well-known/est/")
    assert (status, kind) == (200, "application/pkcs7-mime; smime-type=certs-only")
    assert client.Answer(base64.b64decode(octets)).certified(key)
    refused = base64.encodebytes(device.sign(pki_data([(3, 99, b"\x05\x00")]), holder))
    status, kind, octets = device.curl(refused, where, path="/.well-known/est/")
    assert (status, kind) == (400, "application/pkcs7-mime; smime-type=CMC-response")
    device.verify(base64.b64decode(octets))


def test_openssl_encrypts_a_request(device: Device) -> None:
    probe = device.ask(client.signed(pki_data([(3, 99, b"\x05\x00")])), "sealed")
    (own,) = [c for c in probe.certificates if isinstance(c.public_key(), rsa.RSAPublicKey)]
    (device.path / "to.pem").write_bytes(own.public_bytes(Encoding.PEM))
    key = new_key()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    content = pki_data(client.proof(*SECRETS["sealed"], requests), requests)
    for options in ((), ("-keyopt", "rsa_padding_mode:oaep")):
        sealed = device.run(
            "openssl", "cms", "-encrypt", "-binary", "-aes256", "-outform", "DER", "-recip",
            "to.pem", *options, data=client.signed(content, key=key),
        )  # fmt: skip
        assert device.ask(sealed, "sealed").certified(key)


def test_a_key_that_only_decrypts(device: Device) -> None:
    key = x25519.X25519PrivateKey.generate()
    asked = [client.crm(201, key, name("dev1"), proof="keyEncipherment")]
    controls = client.proof(*SECRETS["agreeing"], asked)
    first = device.ask(client.signed(pki_data(controls, asked), no_signature=b"k"), "agreeing")
    controls.append(Challenge.of(first).answer(key, 201))
    for _ in range(4):  # whichever worker it meets
        message = client.signed(pki_data(controls, asked), no_signature=b"k")
        second = device.ask(message, "agreeing")
        assert second.certified(key)


def test_waiting_and_confirmation(device: Device) -> None:
    key = new_key()
    requests = [tcr(1, client.csr(key, name("dev1")))]
    content = pki_data(client.proof(*SECRETS["manual"], requests), requests)
    (told,) = device.ask(client.signed(content, key=key), "manual").told
    assert told.status == PENDING
    (row,) = [
        each for each in device.daemon.json("request", "list") if each["subject"] == "CN=dev1"
    ]
    device.daemon.tmad("request", "approve", row["id"])
    query = client.signed(pki_data([(9, client.QUERY, client.octets(told.token))]))
    for _ in range(4):
        assert device.ask(query, "manual").certified(key)


def test_a_registration_authority_wraps_what_openssl_has_signed(device: Device) -> None:
    authority = device.enroll("ras", "ra1")
    key = new_key()
    requests = [tcr(201, client.csr(key, name("draft")))]
    own = client.signed(pki_data(client.proof(*SECRETS["batch"], requests), requests), key=key)
    holder = device.enroll("batch", "dev2")
    other = device.sign(request(holder, holder.key), holder)
    change = client.modify([1], [201], subject=name("final"))
    controls = [(8, client.BATCH, client.numbers(1, 2)), (9, client.MOD_TEMPLATE, change)]
    message = device.sign(pki_data(controls, messages=[(1, own), (2, other)]), authority)
    answer = device.ask(message, "batch")
    assert answer.statuses == [(SUCCESS, (8,), None)]
    assert answer.inner(1).certified(key).subject == name("final")
    assert answer.inner(2).certificates
    refused = device.ask(device.sign(pki_data(controls, messages=[(1, own)]), holder), "batch")
    assert refused.statuses == [(FAILED, (8, 9), client.BAD_IDENTITY)]


def test_of_many_copies_at_once_one_is_served(device: Device) -> None:
    """A one-time secret, eight connections, two workers: one certificate."""
    made = device.daemon.json("enroll-secret", "create", "--endpoint", "cmc/iot", "--recoverable")
    key = new_key()
    requests = [tcr(1, client.csr(key, name("once")))]
    content = pki_data(client.proof(made["reference"], made["secret"], requests), requests)
    message = client.signed(content, key=key)
    answers: list[client.Answer] = []

    def ask(folder: Path) -> None:
        folder.mkdir()
        answers.append(Device(device.daemon, folder).ask(message, "iot"))

    threads = [threading.Thread(target=ask, args=(device.path / str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    serials = {
        each.serial_number
        for answer in answers
        for each in answer.certificates
        if each.subject == name("once")
    }
    assert len(serials) == 1
    assert all(answer.statuses[0][0] in (SUCCESS, PENDING) for answer in answers)


def test_old_status_is_for_those_who_speak_it(device: Device) -> None:
    answer = device.ask(client.signed(pki_data([(3, client.PROOF, client.octets(b"x"))])), "iot")
    old = client.decode(answer.controls[client.STATUS][0], rfc6402.CMCStatusInfo())
    assert int(old["cMCStatus"]) == FAILED
    assert x509.ObjectIdentifier("1.3.6.1.5.5.7.3.27") in (
        answer.signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )


def test_what_is_not_confirmed_is_revoked_by_itself(
    device: Device, unconfirmed: list[Holder]
) -> None:
    kept, lost = unconfirmed
    deadline = time.monotonic() + 60
    while device.status(lost) == "good" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert device.status(lost) == "revoked"
    assert device.status(kept) == "good"
