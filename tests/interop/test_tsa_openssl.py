"""``openssl ts`` and osslsigncode against the running daemon's time-stamps."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asn1crypto import cms

from tests.daemon import Daemon
from tests.interop.device import run
from tests.softhsm import create_token
from tmad.identity.hostclock import kernel_bound

pytestmark = pytest.mark.interop

POLICY = "1.3.6.1.4.1.32473.1"  # an enterprise for documents
IMPRINTS = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
# OpenSSL 3.0 checks PKCS#7 signatures, as `ts -verify` does, by RSA and ECDSA only.
SOFT = ("p256", "p384", "p521", "rsa-2048", "rsa-3072")
TOKEN = ("p256", "rsa-2048")
QUERY = "application/timestamp-query"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers; an authority for each kind of signer, two of them in a token."""
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    node = Daemon(
        tmp_path_factory.mktemp("node"),
        settings=token.toml + "\n[protocols.tsa]\nrate = 0\n",
        environment=token.environment,
        workers=2,
    )

    def door(label: str, *options: str) -> None:
        arguments = [f"options.{each}" for each in (f"policy={POLICY}", *options)]
        node.endpoint(
            label, "--profile", "tsa-signer",
            *(part for each in arguments for part in ("--set", each)), protocol="tsa",
        )  # fmt: skip

    # The machine that runs the tests need not have a clock that anybody keeps.
    door("default", "clock=vouched", 'policies=["1.3.6.1.4.1.32473.2"]')
    door("strict")
    door("counted", "clock=vouched", "journal=count")
    door("old", "clock=vouched", "sha1=true")
    for kind in (*SOFT, "ed25519", "ml-dsa-65"):
        door(kind, "clock=vouched", f"signer_algorithm={kind}")
    for kind in TOKEN:
        door(f"hsm-{kind}", "clock=vouched", f"signer_algorithm={kind}", "signer_store=pkcs11")
    node.start()
    yield node
    node.kill()


class Client:
    """What a person does with openssl, in a directory of its own."""

    def __init__(self, node: Daemon, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.data = folder / "data"
        self.data.write_bytes(b"what is to be stamped")
        self.asked = folder / "q.tsq"
        self.answer = folder / "r.tsr"

    def query(self, *options: str) -> bytes:
        run("openssl", "ts", "-query", "-data", self.data, "-out", self.asked, *options)
        return self.asked.read_bytes()

    def post(
        self, label: str, body: bytes, *, method: str = "POST", kind: str = QUERY
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.node.http_port, timeout=30)
        connection.request(method, f"/tsa/{label}", body, {"Content-Type": kind})
        response = connection.getresponse()
        self.answer.write_bytes(response.read())
        connection.close()
        return response

    def text(self, label: str, *options: str) -> str:
        """Return how openssl prints the answer to a new question."""
        response = self.post(label, self.query(*options))
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/timestamp-reply"
        return run("openssl", "ts", "-reply", "-in", self.answer, "-text").stdout.decode()

    def verify(self, *others: str | Path) -> None:
        for check in (("-queryfile", self.asked), ("-data", self.data)):
            done = run(
                "openssl", "ts", "-verify", "-in", self.answer, *check,
                "-CAfile", self.node.pem("root"), *others,
            )  # fmt: skip
            assert b"Verification: OK" in done.stdout + done.stderr

    def token(self) -> Path:
        path = self.folder / "token.der"
        run("openssl", "ts", "-reply", "-in", self.answer, "-token_out", "-out", path)
        return path


@pytest.fixture
def client(daemon: Daemon, tmp_path: Path, require_client: Callable[[str], str]) -> Client:
    require_client("openssl")
    return Client(daemon, tmp_path)


@pytest.mark.parametrize("imprint", IMPRINTS)
def test_tsa_03_each_imprint(imprint: str, client: Client) -> None:
    text = client.text("default", f"-{imprint}", "-cert")
    assert "Status: Granted." in text
    assert f"Policy OID: {POLICY}" in text
    assert "Accuracy: 0x01 seconds" in text
    assert "Ordering: no" in text
    client.verify()


@pytest.mark.parametrize("label", [*SOFT, *(f"hsm-{kind}" for kind in TOKEN)])
@pytest.mark.parametrize("wants", [True, False])
def test_each_signer(label: str, wants: bool, client: Client) -> None:
    """Without -cert there is no certificate in the token: whoever checks it has it already."""
    chain = client.folder / "chain.pem"
    assert "Status: Granted." in client.text(label, "-sha256", "-cert")
    done = run("openssl", "pkcs7", "-inform", "DER", "-in", client.token(), "-print_certs")
    chain.write_bytes(done.stdout)
    assert done.stdout.count(b"BEGIN CERTIFICATE") == 2  # the signer and the issuing CA
    if wants:
        client.verify()
        return
    assert "Status: Granted." in client.text(label, "-sha512")
    done = run("openssl", "pkcs7", "-inform", "DER", "-in", client.token(), "-print_certs")
    assert b"BEGIN CERTIFICATE" not in done.stdout
    client.verify("-untrusted", chain)


def test_ed25519_by_openssl_pkeyutl(client: Client) -> None:
    """Neither ts nor cms of OpenSSL 3.0 checks it: so its parts are checked one by one."""
    assert "Status: Granted." in client.text("ed25519", "-sha256", "-cert")
    signed = cms.ContentInfo.load(client.token().read_bytes())["content"]
    (signer,) = signed["signer_infos"]
    covered, signature = client.folder / "covered", client.folder / "signature"
    covered.write_bytes(signer["signed_attrs"].untag().dump())
    signature.write_bytes(signer["signature"].native)
    content = signed["encap_content_info"]["content"]
    (digest,) = [
        each["values"][0].native
        for each in signer["signed_attrs"]
        if each["type"].native == "message_digest"
    ]
    assert digest == hashlib.sha512(bytes(content)).digest()
    certificate, key = client.folder / "signer.der", client.folder / "key.pem"
    certificate.write_bytes(signed["certificates"][0].dump())
    done = run("openssl", "x509", "-inform", "DER", "-in", certificate, "-noout", "-pubkey")
    key.write_bytes(done.stdout)
    run(
        "openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", key, "-in", covered,
        "-sigfile", signature,
    )  # fmt: skip


def test_ml_dsa_is_read(client: Client) -> None:
    """OpenSSL 3.0 knows no ML-DSA: the signature is checked in test_tsa_responder.py."""
    assert "Status: Granted." in client.text("ml-dsa-65", "-sha256", "-cert")


def test_tsa_09_without_a_nonce_and_with_another_policy(client: Client) -> None:
    text = client.text(
        "default", "-sha256", "-cert", "-no_nonce", "-tspolicy", "1.3.6.1.4.1.32473.2"
    )
    assert "Nonce: unspecified" in text
    assert "Policy OID: 1.3.6.1.4.1.32473.2" in text
    client.verify()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-md5",), "unrecognized or unsupported algorithm"),
        (("-sha1",), "unrecognized or unsupported algorithm"),
        (("-sha256", "-tspolicy", "1.2.3"), "policy is not supported"),
    ],
)
def test_tsa_03_refusals(options: tuple[str, ...], words: str, client: Client) -> None:
    text = client.text("default", *options)
    assert "Status: Rejected." in text
    assert words in text
    assert "TST info:\nNot included." in text


def test_sha1_where_it_is_allowed(client: Client) -> None:
    assert "Status: Granted." in client.text("old", "-sha1", "-cert")
    client.verify()


def test_tsa_08_the_kernel_has_the_last_word(client: Client) -> None:
    bound = kernel_bound()
    text = client.text("strict", "-sha256")
    if bound is not None and bound < 0.9:
        assert "Status: Granted." in text
    else:
        assert "time source is not available" in text


def test_tsa_01_everything_else(client: Client) -> None:
    query = client.query("-sha256")
    assert client.post("default", b"", method="GET").status == 405
    assert client.post("default", b"", method="HEAD").status == 405
    assert client.post("default", query, kind="application/ocsp-request").status == 415
    assert client.post("nobody", query).status == 404
    assert client.post("default", bytes(8193)).status == 413
    for garbage in (b"", b"\x30", bytes(8192), query + b"\x00", query[:-1]):
        assert client.post("default", garbage).status == 200
        text = run("openssl", "ts", "-reply", "-in", client.answer, "-text").stdout.decode()
        assert "Status: Rejected." in text
        assert "data submitted has the wrong format" in text


def test_a_changed_file_is_noticed(client: Client) -> None:
    client.text("default", "-sha256", "-cert")
    client.data.write_bytes(b"something else")
    done = run(
        "openssl", "ts", "-verify", "-in", client.answer, "-data", client.data,
        "-CAfile", client.node.pem("root"), expect=1,
    )  # fmt: skip
    assert b"message imprint mismatch" in done.stderr


def test_two_workers_and_a_crash_repeat_no_serial_number(client: Client) -> None:
    def serials(count: int) -> set[str]:
        found = set()
        for _ in range(count):
            text = client.text("counted", "-sha256")
            found.add(re.search(r"Serial number: (0x[0-9A-F]+)", text)[1])  # type: ignore[index]
        return found

    before = serials(12)
    client.node.kill()
    client.node.start()
    assert len(before | serials(12)) == 24


def test_each_token_stands_in_the_journal(client: Client) -> None:
    text = client.text("default", "-sha384")
    serial = re.search(r"Serial number: 0x([0-9A-F]+)", text)[1].lower()  # type: ignore[index]
    lines = client.node.tmad("audit", "tail").stdout
    assert "timestamp.made" in lines
    exported = client.node.tmad("audit", "export").stdout
    assert serial.lstrip("0") in exported


def test_osslsigncode_stamps_a_signature(
    client: Client, require_client: Callable[[str], str]
) -> None:
    """Authenticode's client; it asks for our CRL, too, before it believes the stamp."""
    program = require_client("osslsigncode")
    folder = client.folder
    (folder / "a.ps1").write_bytes(b"\xef\xbb\xbfWrite-Host hello\r\n")
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "k.pem",
        "-out", folder / "c.pem", "-subj", "/CN=signer", "-addext", "extendedKeyUsage=codeSigning",
        "-addext", "keyUsage=digitalSignature",
    )  # fmt: skip
    run(
        program, "sign", "-certs", folder / "c.pem", "-key", folder / "k.pem",
        "-ts", f"{client.node.url}/tsa/rsa-3072", "-in", folder / "a.ps1",
        "-out", folder / "b.ps1",
    )  # fmt: skip
    done = run(
        program, "verify", "-CAfile", folder / "c.pem", "-TSA-CAfile", client.node.pem("root"),
        "-in", folder / "b.ps1",
    )  # fmt: skip
    assert b"Timestamp Server Signature verification: ok" in done.stdout
