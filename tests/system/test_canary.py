"""G-SECRET-1: secrets with a face are planted, and must be seen nowhere (security 6.1).

One daemon with a token logs at debug level while every kind of secret succeeds and fails. What
it wrote, said and answered is then searched in every spelling that a leak could have.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID

from tests import scep_client as client
from tests.daemon import Daemon
from tests.softhsm import SoftToken, create_token
from tests.system.commands import Commands, commands_of
from tests.system.visitor import Visitor, knock, new_key, spare_key

SETTINGS = """
[log]
level = "debug"
format = "json"
access_hot = true
"""


def spellings(secret: bytes) -> set[bytes]:
    """Return what a secret looks like wherever it was written by somebody who did not think."""
    found = {secret, secret[:8], secret[-8:], secret[::-1]}
    found |= {secret.hex().encode(), secret.hex().upper().encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            # The octets around it are not known: only the characters in the middle are.
            found.add(encode(bytes(shift) + secret)[4 * bool(shift) : -4])
    found |= {base64.b32encode(secret)[:-8]}
    found |= {quote(secret).encode(), quote(secret, safe="").encode()}
    text = secret.decode("latin-1")
    found |= {text.encode("utf-16-le"), text.encode("utf-16-be"), repr(secret)[2:-1].encode()}
    found |= {json.dumps(text)[1:-1].encode(), ", ".join(map(str, secret)).encode()}
    return {each for each in found if len(each) >= 8}


def test_the_search_finds_what_it_looks_for() -> None:
    """Else all that follows would prove nothing."""
    secret = b"canary/+4f1d~\xff"
    hiding = (
        b"a:" + base64.b64encode(b"x" + secret + b"yz"),
        b"a:" + base64.urlsafe_b64encode(b"xy" + secret),
        b"<" + secret.hex().encode() + b">",
        repr(b"?" + secret).encode(),
        f"/p?c={quote(secret)}".encode(),
        ("..." + secret.decode("latin-1")).encode("utf-16"),
        json.dumps({"c": secret.decode("latin-1")}).encode(),
        b"beginning: " + secret[:8],
    )
    for place in hiding:
        assert any(each in place for each in spellings(secret)), place
    assert not any(each in b"nothing here but canaries" for each in spellings(secret))


class Oracle(http.server.BaseHTTPRequestHandler):
    """The outside service that validates challenges: one is good, one breaks it."""

    good = ""
    breaks = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["challenge"]
        if asked == self.breaks:
            self.send_error(500)
            return
        body = json.dumps({"allow": asked == self.good, "reason": "because"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused: object) -> None:
        """Say nothing."""


@dataclass
class Hunt:
    """The daemon, what was planted, and everything that was seen of it."""

    node: Daemon
    token: SoftToken
    commands: Commands
    canaries: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)

    def plant(self, kind: str, value: str | bytes = "") -> str:
        """Note a secret; without ``value``, make one."""
        text = (
            value
            or f"{secrets.token_urlsafe(12)}+{secrets.token_urlsafe(9)}/{secrets.token_hex(5)}"
        )
        self.canaries[kind] = text.encode() if isinstance(text, str) else text
        return text if isinstance(text, str) else ""

    def file(self, kind: str, value: str = "") -> Path:
        """Write a new secret to a file outside the node's directory, as a person would."""
        path = self.node.directory.parent / f"{kind}.secret"
        path.touch(mode=0o600)
        path.write_text(value or self.plant(kind))
        return path

    def see(self, where: str, what: bytes) -> bytes:
        """Keep what an outsider could see."""
        assert where not in self.seen
        self.seen[where] = what
        return what

    def run(self, *arguments: str, expect: int | None = 0) -> None:
        """Run a command and keep what it printed."""
        done = self.commands.run(*arguments, expect=None)
        where = f"{len(self.seen)} tmad {' '.join(arguments)[-60:]}"
        self.see(where, (done.out + done.err).encode())
        assert expect is None or done.code == expect, done.err

    def once(self, kind: str, *arguments: str) -> str:
        """Run the one command that may print a secret, as its purpose is; plant it."""
        made = self.commands.json("enroll-secret", "create", "--endpoint", *arguments)
        return self.plant(kind, str(made["secret"]))

    def post(self, door: Visitor, der: bytes) -> bytes:
        """Send a message by POST and by GET; keep the answers."""
        number = len(self.seen)
        encoded = quote(base64.b64encode(der), safe="")
        path = f"{door.url}?operation=PKIOperation"
        for method, target, body in (
            ("POST", path, der),
            ("GET", f"{path}&message={encoded}", b""),
        ):
            status, headers, answer = knock(door.url, method, target, body)
            self.see(f"{number} {method} {door.url}", repr((status, headers)).encode() + answer)
            if method == "POST":
                first = answer
        return first


@pytest.fixture(scope="module")
def hunt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hunt]:
    """Do everything that involves secrets, well and badly, and collect what it left behind."""
    token = create_token(tmp_path_factory.mktemp("token"), pin=f"pin-{secrets.token_hex(12)}")
    directory = tmp_path_factory.mktemp("node") / "tmad"
    node = Daemon(
        directory, "--keys", "pkcs11", "--pkcs11-module", str(token.module),
        "--pkcs11-token", token.label, "--pin-file", str(token.pin_file),
        settings=SETTINGS, environment=token.environment,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Oracle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        node.start()
        commands = commands_of(node, TMAD_DEBUG="1")
        hunt = Hunt(node, token, commands)
        hunt.plant("pin", token.pin)
        hunt.plant("passphrase", (directory / "passphrase").read_text().strip())
        _doors(hunt, server.server_port)
        _soft_keys(hunt)
        _challenges(hunt)
        _webhooks(hunt)
        _mishaps(hunt)
        _collect(hunt)
        yield hunt
    finally:
        server.shutdown()
        server.server_close()
        node.kill()


def _doors(hunt: Hunt, port: int) -> None:
    common = ("--ca", "issuing", "--profile", "device")
    many = ("--set", "challenge.failures_per_minute=6000", "--set", "challenge.static=true")
    hunt.run("endpoint", "create", "scep", "phones", *common, *many)
    hunt.run("endpoint", "create", "scep", "slow", *common, *many, "--approval", "manual")
    hunt.run(
        "endpoint", "create", "scep", "asking", *common, "--set",
        "challenge.failures_per_minute=6000", "--webhook", f"http://127.0.0.1:{port}/",
    )  # fmt: skip


def _soft_keys(hunt: Hunt) -> None:
    """A CA's key that was made elsewhere, so that it is known here."""
    key = ec.generate_private_key(ec.SECP256R1())
    hunt.canaries["ca-key"] = key.private_numbers().private_value.to_bytes(32)
    name = client.name("Adopted CA")
    now = hunt_time()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.not_valid_before_utc)
        .not_valid_after(now.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(x509.KeyUsage(*[n in (5, 6) for n in range(9)]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = hunt.file("ca", pem.decode())
    path.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    hunt.run("ca", "import", "adopted", str(path.with_suffix(".pem")), str(path))


def hunt_time() -> x509.Certificate:
    """Return a certificate that is valid now, for its dates."""
    return client.self_signed(spare_key()).certificate


def _challenges(hunt: Hunt) -> None:
    door = Visitor(f"{hunt.node.url}/scep/phones")
    good = hunt.once("one-time", "scep/phones")
    message = door.request(good, key=new_key())
    reply = client.read_reply(hunt.post(door, message.der), message, door.ra)
    assert reply.status == client.SUCCESS
    # A key that cannot decrypt: the challenge is the password of the answer (RFC 8894, 3.1).
    shared = hunt.once("password", "scep/phones")
    curve = ec.generate_private_key(ec.SECP256R1())
    hunt.post(door, door.request(shared, key=curve).der)
    static = hunt.file("static")
    hunt.run(
        "enroll-secret", "create", "--endpoint", "scep/phones", "--static",
        "--secret-file", str(static),
    )  # fmt: skip
    value = static.read_text()
    hunt.post(door, door.request(value, key=new_key()).der)
    hunt.post(door, door.request(hunt.plant("guess")).der)
    hunt.post(door, door.request(good).der)  # used
    bound = hunt.once("bound", "scep/phones", "--subject", "CN=r1.example.test")
    hunt.post(door, door.request(bound, name="r2.example.test").der)
    # Waiting for a person, the request lies in the database.
    slow = Visitor(f"{hunt.node.url}/scep/slow")
    waiting = slow.request(hunt.once("pending", "scep/slow"), key=new_key())
    reply = client.read_reply(hunt.post(slow, waiting.der), waiting, slow.ra)
    assert reply.status == client.PENDING
    # Refused by the command, as it is too short to be good.
    hunt.run(
        "enroll-secret", "create", "--endpoint", "scep/phones", "--static",
        "--secret-file", str(hunt.file("weak", hunt.plant("weak", f"Wk{secrets.token_hex(5)}"))),
        expect=2,
    )  # fmt: skip
    hunt.run("enroll-secret", "list")


def _webhooks(hunt: Hunt) -> None:
    key = hunt.file("webhook-key")
    hunt.run("endpoint", "webhook-key", "scep/asking", "--key-file", str(key))
    hunt.run("endpoint", "show", "scep/asking")
    hunt.run("endpoint", "history", "scep/asking")
    door = Visitor(f"{hunt.node.url}/scep/asking")
    Oracle.good, Oracle.breaks = hunt.plant("token"), hunt.plant("breaking-token")
    message = door.request(Oracle.good, key=new_key())
    reply = client.read_reply(hunt.post(door, message.der), message, door.ra)
    assert reply.status == client.SUCCESS
    hunt.post(door, door.request(hunt.plant("bad-token")).der)
    hunt.post(door, door.request(Oracle.breaks).der)
    assert list(hunt.seen.values())[-1].startswith(b"(503")


def _mishaps(hunt: Hunt) -> None:
    """Secrets where nobody expects them, and keys that do not open anything."""
    door = Visitor(f"{hunt.node.url}/scep/phones")

    def request(kind: str, *tags: int) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(client.name("mishap"))
        challenge = hunt.plant(kind).encode()
        for tag in tags:
            octets = challenge.decode().encode("utf-16-be") if tag == 30 else challenge
            builder = builder.add_attribute(
                AttributeOID.CHALLENGE_PASSWORD, octets, _tag=x509.name._ASN1Type(tag)
            )
        csr = builder.sign(spare_key(), hashes.SHA256())
        return csr.public_bytes(serialization.Encoding.DER)

    identity = client.self_signed(spare_key())
    hunt.post(door, door.request(csr=request("bmp", 30)).der)
    hunt.post(door, door.request(csr=request("t61", 20)).der)
    hunt.post(door, client.make_message(request("open", 12), identity).der)
    broken = request("broken", 12)
    hunt.post(door, door.request(csr=broken[:-1] + bytes([broken[-1] ^ 1])).der)
    hunt.post(door, door.request(csr=request("cut", 12)[:-300]).der)
    hunt.post(door, request("naked", 12))
    hunt.post(door, door.request(hunt.plant("kind"), message_type="18").der)
    hunt.post(door, door.request(hunt.plant("other-key"), recipient=identity.certificate).der)
    # Somebody uploads a private key.
    pem = new_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    hunt.canaries["uploaded-key"] = pem.splitlines()[5]
    for target in ("/scep/phones?operation=PKIOperation", "/ocsp", "/nothing"):
        answer = knock(hunt.node.url, "POST", target, pem)
        hunt.see(f"upload to {target}", repr(answer).encode())
    # The wrong PIN and the wrong passphrase, for nodes that share the files of this one.
    directory, own = hunt.node.directory, hunt.node.config.read_text()
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", own.replace('"."', f'"{directory}"'))
    for kind, files, commands in (
        ("HSM", (directory / "passphrase", hunt.file("wrong-pin")), (("ca", "renew", "issuing"),)),
        (
            "passphrase",
            (hunt.file("wrong-passphrase"), hunt.token.pin_file),
            (("ca", "renew", "issuing"), ("run",)),
        ),
    ):
        settings = text.replace("[keyring]", f'[keyring]\npassphrase_file = "{files[0]}"')
        other = directory.parent / f"wrong-{kind}.toml"
        other.write_text(settings.replace(str(hunt.token.pin_file), str(files[1])))
        hunt.run("hsm", "check", "--config", str(other), expect=None)
        for command in commands:
            hunt.run(*command, "--config", str(other), expect=None)
            assert kind.encode() in list(hunt.seen.values())[-1]


def _collect(hunt: Hunt) -> None:
    """Keep what lies about when all is done."""
    hunt.run("audit", "export", "--out", "-")
    hunt.run("audit", "tail", "-n", "10000", "--all-tenants", "-o", "json")
    hunt.run("export")
    hunt.run("cert", "list", "-o", "json")
    hunt.run("request", "list", "-o", "json")
    for page in ("/metrics", "/healthz", "/readyz"):
        hunt.see(page, knock(hunt.node.ops_url, "GET", page)[2])
    assert hunt.node.process is not None
    process = Path("/proc") / str(hunt.node.process.pid)
    for name in ("cmdline", "environ", "status"):
        hunt.see(f"process {name}", (process / name).read_bytes())
    for path in sorted(hunt.node.directory.rglob("*")):
        if path.is_file() and path.name != "passphrase":
            hunt.see(f"file {path.name}", path.read_bytes())


def test_the_hunt_saw_everything(hunt: Hunt) -> None:
    """The places are not empty, and what was planted was used."""
    assert len(hunt.canaries) >= 20
    assert {"file tmad.db", "file tmad.db-wal", "file daemon.log", "/metrics"} <= set(hunt.seen)
    assert all(hunt.seen[name] for name in hunt.seen if name.startswith(("file", "/", "process")))
    assert b"/scep/phones" in hunt.seen["file daemon.log"]
    journal = next(seen for name, seen in hunt.seen.items() if "audit export" in name)
    for rule in (
        "secret.wrong",
        "secret.used",
        "secret.binding.subject",
        "secret.weak",
        "scep.message-type",
        "wire.csr.signature",
        "wire.envelope",
    ):
        assert rule.encode() in journal, rule
    assert b"tmad_" in hunt.seen["/metrics"]


def test_g_secret_1_no_canary_is_seen_anywhere(hunt: Hunt) -> None:
    hits = [
        f"{kind} in {where}"
        for kind, secret in hunt.canaries.items()
        for spelling in spellings(secret)
        for where, what in hunt.seen.items()
        if spelling in what
    ]
    assert sorted(set(hits)) == []


def test_what_is_kept_is_closed_to_others(hunt: Hunt) -> None:
    for path in hunt.node.directory.rglob("*"):
        if path.suffix in (".db", ".db-wal", ".db-shm", ".json") or path.name == "passphrase":
            assert os.stat(path).st_mode & 0o077 == 0, path
