"""EST by curl and openssl, as a script on a device does it, against the running daemon."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from OpenSSL import SSL

from tests.daemon import Daemon
from tests.est_client import (
    Answer,
    Connection,
    basic,
    curl,
    issuer_of,
    make_csr,
    new_key,
    post,
    write_identity,
)
from tests.postgres import start_cluster
from tests.softhsm import create_token
from tests.system.commands import Commands, commands_of

pytestmark = pytest.mark.interop

SETTINGS = "\n[protocols.est]\nrate = 0\n"
WORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def daemon(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A node with software keys and the endpoint est/default for devices."""
    for program in ("curl", "openssl"):
        require_client(program)
    node = Daemon(tmp_path_factory.mktemp("node"), settings=SETTINGS)
    node.endpoint(
        "default", "--authenticate", "challenge", "--set", "server_keys=true", protocol="est"
    )
    node.start()
    yield node
    node.kill()


@pytest.fixture(scope="module")
def tmad(daemon: Daemon) -> Commands:
    return commands_of(daemon)


def secret(tmad: Commands, label: str = "default", *options: str) -> str:
    answer = tmad.json("enroll-secret", "create", "--endpoint", f"est/{label}", *options)
    return str(answer["secret"])


def openssl(folder: Path, *arguments: str, data: bytes = b"") -> bytes:
    command = ["openssl", *arguments]
    done = subprocess.run(
        command, cwd=folder, input=data, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def enrolled(
    daemon: Daemon, tmad: Commands, name: str, folder: Path, label: str = "default"
) -> tuple[Path, Any, x509.Certificate]:
    """Enrol by a one-time secret; return an identity for mutual TLS, its key and certificate."""
    key = new_key()
    body = base64.encodebytes(make_csr(name, key))
    answer = curl(daemon, f"{label}/simpleenroll", body, user=f"x:{secret(tmad, label)}")
    certificate = answer.certificate
    return write_identity(folder / f"{name}.pem", key, certificate), key, certificate


def verify(daemon: Daemon, folder: Path, answer: Answer, authority: str = "issuing") -> None:
    """Let openssl judge what came, as the spec's script does."""
    text = openssl(
        folder, "pkcs7", "-inform", "DER", "-print_certs", data=base64.b64decode(answer.body)
    )
    (folder / "leaf.pem").write_bytes(text)
    openssl(folder, "verify", "-x509_strict", "-CAfile", str(daemon.pem("root")),
            "-untrusted", str(daemon.pem(authority)), "leaf.pem")  # fmt: skip


def test_cacerts_are_there_before_anything_is_trusted(daemon: Daemon, tmp_path: Path) -> None:
    answer = curl(daemon, "cacerts")
    assert answer.headers["content-type"] == "application/pkcs7-mime"
    assert "transfer-encoding" not in answer.headers
    names = openssl(tmp_path, "pkcs7", "-inform", "DER", "-print_certs", "-noout",
                    data=base64.b64decode(answer.body))  # fmt: skip
    assert b"Issuing CA" in names
    assert b"Root" in names


def test_csrattrs_are_asn1(daemon: Daemon, tmp_path: Path) -> None:
    answer = curl(daemon, "csrattrs")
    assert answer.headers["content-type"] == "application/csrattrs"
    shown = openssl(tmp_path, "asn1parse", "-inform", "DER", data=base64.b64decode(answer.body))
    assert b"rsaEncryption" in shown


def test_what_is_switched_off_or_not_served(daemon: Daemon, tmad: Commands) -> None:
    tmad.run("endpoint", "create", "est", "bare", "--ca", "issuing", "--profile", "device",
             "--set", "options.csr_attributes=false")  # fmt: skip
    nothing = curl(daemon, "bare/csrattrs")
    assert (nothing.status, nothing.body) == (204, b"")
    assert "content-length" not in nothing.headers
    assert curl(daemon, "bare/fullcmc", b"x", user="a:b").status == 501
    assert curl(daemon, "bare/serverkeygen", b"x", user="a:b").status == 404
    assert curl(daemon, "bare/simpleenroll").status == 405


def test_plain_http_has_no_est(daemon: Daemon) -> None:
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
         f"{daemon.url}/.well-known/est/cacerts"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"404"


def test_enrol_renew_rekey_and_revoke(daemon: Daemon, tmad: Commands, tmp_path: Path) -> None:
    """The whole life of a device's certificate, by a one-time secret and then by itself."""
    identity, key, first = enrolled(daemon, tmad, "dev1", tmp_path)
    same = curl(daemon, "simplereenroll", base64.encodebytes(make_csr("dev1", key)),
                identity=identity)  # fmt: skip
    verify(daemon, tmp_path, same)
    assert same.certificate.public_key() == first.public_key()
    fresh = new_key()
    rekeyed = curl(daemon, "simplereenroll", base64.encodebytes(make_csr("dev1", fresh)),
                   identity=identity)  # fmt: skip
    verify(daemon, tmp_path, rekeyed)
    assert rekeyed.certificate.public_key() == fresh.public_key()
    tmad.run("cert", "revoke", f"{first.serial_number:x}", "--reason", "key-compromise")
    refused = curl(daemon, "simplereenroll", base64.encodebytes(make_csr("dev1")),
                   identity=identity)  # fmt: skip
    assert (refused.status, refused.headers["content-type"]) == (403, "text/plain; charset=utf-8")
    again = write_identity(tmp_path / "again.pem", fresh, rekeyed.certificate)
    other = curl(daemon, "simplereenroll", base64.encodebytes(make_csr("dev2")), identity=again)
    assert other.status == 400


def test_a_revocation_counts_at_the_next_request_of_an_open_connection(
    daemon: Daemon, tmad: Commands, tmp_path: Path
) -> None:
    identity, _, certificate = enrolled(daemon, tmad, "dev-open", tmp_path)
    connection = Connection(daemon, identity=identity)
    assert connection.post("simplereenroll", make_csr("dev-open")).status == 200
    tmad.run("cert", "revoke", f"{certificate.serial_number:x}", "--reason", "superseded")
    assert connection.post("simplereenroll", make_csr("dev-open")).status == 403
    connection.close()


def test_no_wrong_and_used_passwords_are_asked_for_again(daemon: Daemon, tmad: Commands) -> None:
    body = base64.encodebytes(make_csr("dev3"))
    word = secret(tmad)
    for user in ("", "x:wrong", f"x:{word[:-1]}"):
        answer = curl(daemon, "simpleenroll", body, user=user)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="estrealm"'
    assert curl(daemon, "simpleenroll", body, user=f"x:{word}").status == 200
    used = curl(daemon, "simpleenroll", base64.encodebytes(make_csr("dev3")), user=f"x:{word}")
    assert used.status == 401


def test_curl_that_asks_first_and_posts_then(daemon: Daemon, tmad: Commands) -> None:
    body = base64.encodebytes(make_csr("dev-any"))
    answer = curl(daemon, "simpleenroll", body, user=f"x:{secret(tmad)}", options=("--anyauth",))
    assert answer.status == 200


def test_a_person_enrols_for_herself(daemon: Daemon, tmad: Commands, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(WORD)
    tmad.run("user", "create", "alice", "--password-file", str(password))
    tmad.run("endpoint", "create", "est", "people", "--ca", "issuing", "--profile", "user",
             "--authenticate", "password")  # fmt: skip
    own = base64.encodebytes(make_csr("alice"))
    assert curl(daemon, "people/simpleenroll", own, user="alice:wrong").status == 401
    answer = curl(daemon, "people/simpleenroll", own, user=f"alice:{WORD}")
    verify(daemon, tmp_path, answer)
    other = base64.encodebytes(make_csr("bob"))
    assert curl(daemon, "people/simpleenroll", other, user=f"alice:{WORD}").status == 403
    tmad.run("user", "disable", "alice")
    again = base64.encodebytes(make_csr("alice"))
    assert curl(daemon, "people/simpleenroll", again, user=f"alice:{WORD}").status == 401


def test_a_device_enrols_with_its_makers_certificate(
    daemon: Daemon, tmad: Commands, tmp_path: Path
) -> None:
    """802.1AR: a chain of openssl's making, root, sub-CA, device; then the CRL of the maker."""
    config = tmp_path / "maker.cnf"
    config.write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\n"
        "default_crl_days=1\n[v3]\nbasicConstraints=critical,CA:true\n"
    )
    (tmp_path / "index").write_text("")
    (tmp_path / "number").write_text("01")
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(tmp_path, "req", "-x509", *ec, "-subj", "/CN=Maker Root", "-keyout", "r.key", "-out",
            "r.pem", "-days", "30")  # fmt: skip
    openssl(tmp_path, "req", "-new", *ec, "-subj", "/O=Maker/serialNumber=SN-42", "-keyout",
            "device.key", "-out", "device.csr")  # fmt: skip
    openssl(tmp_path, "x509", "-req", "-in", "device.csr", "-CA", "r.pem", "-CAkey", "r.key",
            "-set_serial", "4242", "-days", "20", "-out", "device.crt")  # fmt: skip
    identity = tmp_path / "device.pem"
    identity.write_bytes(
        (tmp_path / "device.crt").read_bytes() + (tmp_path / "device.key").read_bytes()
    )
    tmad.run("trust-anchor", "add", "maker", str(tmp_path / "r.pem"), "--for", "enrollment")
    tmad.run("endpoint", "create", "est", "factory", "--ca", "issuing", "--profile", "device",
             "--manufacturer", "maker")  # fmt: skip
    own = base64.encodebytes(make_csr("router-1", serial="SN-42"))
    # Without a CRL nobody knows what the maker has revoked.
    assert curl(daemon, "factory/simpleenroll", own, identity=identity).status == 403
    openssl(tmp_path, "ca", "-config", "maker.cnf", "-gencrl", "-cert", "r.pem", "-keyfile",
            "r.key", "-out", "r.crl")  # fmt: skip
    tmad.run("trust-anchor", "refresh", "maker", "--crl", str(tmp_path / "r.crl"))
    verify(daemon, tmp_path, curl(daemon, "factory/simpleenroll", own, identity=identity))
    others = base64.encodebytes(make_csr("router-2", serial="SN-43"))
    assert curl(daemon, "factory/simpleenroll", others, identity=identity).status == 403
    (tmp_path / "index").write_text(
        "R\t300101000000Z\t260101000000Z\t1092\tunknown\t/O=Maker/serialNumber=SN-42\n"
    )
    time.sleep(1.1)  # thisUpdate has whole seconds, and only a newer CRL is taken
    openssl(tmp_path, "ca", "-config", "maker.cnf", "-gencrl", "-cert", "r.pem", "-keyfile",
            "r.key", "-out", "r.crl")  # fmt: skip
    tmad.run("trust-anchor", "refresh", "maker", "--crl", str(tmp_path / "r.crl"))
    fresh = base64.encodebytes(make_csr("router-1", serial="SN-42"))
    assert curl(daemon, "factory/simpleenroll", fresh, identity=identity).status == 403


def test_a_key_is_made_and_handed_over(daemon: Daemon, tmad: Commands, tmp_path: Path) -> None:
    body = base64.encodebytes(make_csr("dev-key"))
    answer = curl(daemon, "serverkeygen", body, user=f"x:{secret(tmad)}")
    assert answer.status == 200, answer.body
    boundary = answer.headers["content-type"].partition("boundary=")[2]
    parts = answer.body.split(f"--{boundary}".encode())
    assert len(parts) == 4
    assert parts[3].strip() == b"--"
    key_part, certificate_part = (part.partition(b"\r\n\r\n")[2] for part in parts[1:3])
    key = load_der_private_key(base64.b64decode(key_part), None)
    der = base64.b64decode(certificate_part)
    text = openssl(tmp_path, "pkcs7", "-inform", "DER", "-print_certs", data=der)
    certificate = x509.load_pem_x509_certificate(text)
    assert certificate.public_key() == key.public_key()
    log = daemon.log.read_bytes()
    assert base64.b64encode(base64.b64decode(key_part))[:40] not in log


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pytest.mark.parametrize("attribute", ["1.2.840.113549.1.9.7", "1.2.840.113549.1.9.16.2.58"])
def test_est_14_a_request_is_linked_to_its_tls_session(
    daemon: Daemon, tmad: Commands, version: int, attribute: str
) -> None:
    label = "linked"
    if not any(row["name"] == "est-linked" for row in tmad.json("endpoint", "list")):
        tmad.run("endpoint", "create", "est", label, "--ca", "issuing", "--profile", "device",
                 "--set", "options.linking=required")  # fmt: skip
    authorization = basic("x", secret(tmad, label))
    one, two = (Connection(daemon, version=version) for _ in range(2))
    assert one.binding() != two.binding()

    def linked(connection: Connection) -> bytes:
        value = base64.b64encode(connection.binding())
        return make_csr("dev-linked", attributes=((attribute, value),))

    stolen = one.post(f"{label}/simpleenroll", linked(two), Authorization=authorization)
    assert stolen.status == 400
    bare = one.post(f"{label}/simpleenroll", make_csr("dev-linked"), Authorization=authorization)
    assert bare.status == 400
    good = one.post(f"{label}/simpleenroll", linked(one), Authorization=authorization)
    assert good.status == 200, good.body
    one.close()
    two.close()


def test_est_23_who_waits_polls_until_a_person_has_decided(
    daemon: Daemon, tmad: Commands, tmp_path: Path
) -> None:
    tmad.run("endpoint", "create", "est", "slow", "--ca", "issuing", "--profile", "device",
             "--approval", "manual", "--set", "options.retry_after=7")  # fmt: skip
    body = base64.encodebytes(make_csr("dev-slow"))
    user = f"x:{secret(tmad, 'slow')}"
    answer = curl(daemon, "slow/simpleenroll", body, user=user)
    assert (answer.status, answer.headers["retry-after"]) == (202, "7")
    assert curl(daemon, "slow/simpleenroll", body, user="x:wrong").status == 401
    (request,) = tmad.json("request", "list")
    tmad.run("request", "approve", str(request["id"]))
    verify(daemon, tmp_path, curl(daemon, "slow/simpleenroll", body, user=user))


# -- other keys, other databases, tokens, processes -------------------------------------------


ALGORITHMS = ["rsa-2048", "p384", "ed25519", "ml-dsa-65"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_authorities_and_clients_with_each_kind_of_key(
    daemon: Daemon, tmad: Commands, algorithm: str, tmp_path: Path
) -> None:
    tmad.run("ca", "create", algorithm, "--algorithm", algorithm, "--parent", "root")
    tmad.run("endpoint", "create", "est", algorithm, "--ca", algorithm, "--profile", "device")
    keys: dict[str, Any] = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate(),
    }
    chain = curl(daemon, f"{algorithm}/cacerts").certificates
    for kind, key in keys.items():
        body = base64.encodebytes(make_csr(f"{algorithm}.{kind}", key))
        answer = curl(daemon, f"{algorithm}/simpleenroll", body,
                      user=f"x:{secret(tmad, algorithm)}")  # fmt: skip
        assert issuer_of(answer.certificate, chain).subject.rfc4514_string()
        assert answer.certificate.public_key() == key.public_key()


def test_an_authority_in_a_token(require_client: Callable[[str], str], tmp_path: Path) -> None:
    require_client("softhsm2-util")
    token = create_token(tmp_path / "softhsm")
    node = Daemon(tmp_path / "node", settings=token.toml + SETTINGS, environment=token.environment)
    tmad = commands_of(node)
    tmad.run("ca", "create", "hsm", "--algorithm", "p256", "--parent", "root",
             "--store", "pkcs11")  # fmt: skip
    tmad.run("endpoint", "create", "est", "default", "--ca", "hsm", "--profile", "device")
    word = secret(tmad)
    node.start()
    try:
        body = base64.encodebytes(make_csr("dev-hsm"))
        answer = curl(node, "simpleenroll", body, user=f"x:{word}")
        issuer_of(answer.certificate, curl(node, "cacerts").certificates)
    finally:
        node.kill()


def test_two_workers_on_postgresql(tmp_path: Path) -> None:
    """Whoever answers, it is the same: enrolment, copies, waiting, renewal, revocation."""
    node = Daemon(
        tmp_path / "node", "--db", start_cluster().empty_database(), workers=2, settings=SETTINGS
    )
    tmad = commands_of(node)
    words = {}
    for label, approval in (("default", "automatic"), ("slow", "manual")):
        tmad.run("endpoint", "create", "est", label, "--ca", "issuing", "--profile", "device",
                 "--approval", approval, "--set", "challenge.static=true")  # fmt: skip
        words[label] = basic("x", secret(tmad, label, "--static"))
    node.start()
    try:
        key = new_key()
        csr_der = make_csr("dev-pg", key)
        answers = [
            post(node, "simpleenroll", csr_der, authorization=words["default"]) for _ in range(6)
        ]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.certificate for answer in answers}) == 1
        pending = make_csr("dev-wait")
        for _ in range(4):
            answer = post(node, "slow/simpleenroll", pending, authorization=words["slow"])
            assert answer.status == 202
        (request,) = tmad.json("request", "list")
        tmad.run("request", "approve", str(request["id"]))
        for _ in range(4):
            answer = post(node, "slow/simpleenroll", pending, authorization=words["slow"])
            assert answer.status == 200
        certificate = answers[0].certificate
        identity = write_identity(tmp_path / "dev.pem", key, certificate)
        assert post(node, "simplereenroll", csr_der, identity=identity).status == 200
        tmad.run("cert", "revoke", f"{certificate.serial_number:x}", "--reason", "superseded")
        for _ in range(4):
            answer = post(node, "simplereenroll", make_csr("dev-pg"), identity=identity)
            assert answer.status == 403
    finally:
        node.kill()


def test_cacerts_are_what_the_command_exports(daemon: Daemon) -> None:
    found = {
        each.public_bytes(Encoding.PEM).decode() for each in curl(daemon, "cacerts").certificates
    }
    assert found == {daemon.pem("issuing").read_text(), daemon.pem("root").read_text()}
