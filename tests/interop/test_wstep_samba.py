"""Windows' enrolment against a real Active Directory (Samba), by clients that nobody here wrote.

Two workers, so that a ticket, a request that waits and a question about it meet different ones.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import Daemon
from tests.postgres import start_cluster
from tests.samba_domain import ADDRESS, REALM, SYSTEM_PYTHON, Samba, require_samba
from tests.softhsm import SoftToken, create_token
from tests.unit import wstep_world as wstep
from tests.warm import COMMANDS
from tmad.wire.http import Response

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

CLIENT = Path(__file__).with_name("windows_client.py")
WORDS = {"bob": "Bob-word-1234", "eve": "Eve-word-1234", "pc1$": "Pc1-word-1234"}
READER = "Tmad-word-1234"
SID = x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2")
DENIED = str(0x8009030C - (1 << 32))
ACCOUNTS = {
    "people": {
        "bob": {"password": WORDS["bob"], "displayName": "Bob Builder", "mail": "bob@corp.test",
                "userPrincipalName": "bob@corp.test"},
        "eve": {"password": WORDS["eve"], "displayName": "Eve", "userPrincipalName":
                "eve@corp.test"},
        "tmad": {"password": READER},
        "http": {"password": "Http-word-1234"},
    },
    "computers": {"pc1$": {"password": WORDS["pc1$"], "dNSHostName": "pc1.corp.test"}},
    "groups": {"staff": ["bob"], "everybody": ["staff"]},
    "services": {"http": ["HTTP/127.0.0.1"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def domain(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Samba]:
    require_samba()
    for program in ("openssl", "curl"):
        require_client(program)
    samba = Samba(tmp_path_factory.mktemp("domain"))
    samba.fill(ACCOUNTS)
    samba.start()
    yield samba
    samba.stop()


def set_up(domain: Samba, directory: Path, *init: str, token: SoftToken | None = None) -> Daemon:
    """Return a node with doors for the domain; with a token, their authority is in it."""
    settings, environment = (token.toml, token.environment) if token is not None else ("", None)
    daemon = Daemon(directory, *init, workers=2, settings=settings, environment=environment)
    if token is not None:
        daemon.tmad("ca", "create", "hsm", "--algorithm", "p256", "--parent", "root",
                    "--store", "pkcs11")  # fmt: skip
    ca = ("--ca", "issuing" if token is None else "hsm")
    with daemon.config.open("a") as file:
        file.write(
            f'\n[protocols.wstep]\nrate = 0\nkeytab_file = "{domain.keytab}"\n'
            f'certificate_url = "https://127.0.0.1:{daemon.client_port}"\n'
        )
    daemon.tmad(
        "active-directory", "create", "corp", "--realm", REALM, "--server", ADDRESS,
        "--bind", "tmad@corp.test", "--ca-file", str(domain.ca_file),
    )  # fmt: skip
    word = directory / "word"
    word.write_text(READER)
    daemon.tmad("active-directory", "password", "corp", "--password-file", str(word))
    daemon.endpoint(
        "users", *ca, "--profile", "windows-user", "--directory", "corp",
        "--authenticate", "kerberos", "--authenticate", "directory",
        "--set", "options.subject=user", "--set", 'people.groups=["everybody"]',
        "--set", "idempotency_minutes=1", protocol="wstep",
    )  # fmt: skip
    daemon.endpoint(
        "machines", *ca, "--profile", "windows-machine", "--directory", "corp",
        "--set", 'options.together_with=["users"]',
        "--set", "options.channel_binding=required", protocol="wstep",
    )  # fmt: skip
    daemon.endpoint(
        "checked", *ca, "--profile", "windows-user", "--directory", "corp", "--approval", "manual",
        protocol="wstep",
    )  # fmt: skip
    return daemon


@pytest.fixture(scope="module")
def node(domain: Samba, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = set_up(domain, tmp_path_factory.mktemp("node"))
    daemon.start()
    yield daemon
    daemon.kill()


class Machine:
    """Somebody in the domain, with a key of openssl."""

    def __init__(self, domain: Samba, node: Daemon, folder: Path, user: str) -> None:
        self.node, self.folder, self.user = node, folder, user
        self.environment = domain.log_in(user, WORDS[user])
        self.key = folder / "key.pem"
        openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-out", "key.pem")  # fmt: skip

    def request(self, subject: str = "/CN=Administrator") -> bytes:
        return openssl(
            self.folder, "req", "-new", "-key", str(self.key), "-subj", subject,
            "-addext", "subjectAltName=DNS:dc1.corp.test", "-outform", "DER",
        )  # fmt: skip

    def ask(self, path: str, operation: str, **more: Any) -> dict[str, Any]:
        """Let the foreign client ask; by Kerberos unless told otherwise."""
        base = self.node.https_url if "identity" not in more else (
            f"https://127.0.0.1:{self.node.client_port}"
        )  # fmt: skip
        given = {
            "url": f"{base}{path}", "ca": str(self.node.pem("root")), "operation": operation,
            "kerberos": "bound", **more,
        }  # fmt: skip
        if isinstance(given.get("request"), bytes):
            given["request"] = base64.b64encode(given["request"]).decode()
        done = subprocess.run(
            [SYSTEM_PYTHON, str(CLIENT)], input=json.dumps(given), capture_output=True, text=True,
            timeout=90, check=False, env=self.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def enrol(self, label: str = "users", **more: Any) -> x509.Certificate:
        answer = self.ask(f"/wstep/{label}", "issue", **({"request": self.request()} | more))
        assert "found" in answer, answer
        return certificate_of(answer)


def openssl(folder: Path, *arguments: str, data: bytes = b"", expect: int = 0) -> bytes:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, input=data, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stderr
    return done.stdout


def certificate_of(answer: dict[str, Any]) -> x509.Certificate:
    token = answer["found"]["RequestedSecurityToken"]["BinarySecurityToken"]
    return x509.load_der_x509_certificate(base64.b64decode(token["_value_1"]))


def sid_of(certificate: x509.Certificate) -> str:
    value = certificate.extensions.get_extension_for_oid(SID).value.public_bytes()
    return value[value.index(b"S-1-5") :].decode()


@pytest.fixture(scope="module")
def bob(domain: Samba, node: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(domain, node, tmp_path_factory.mktemp("bob"), "bob")


def verify(
    node: Daemon, certificate: x509.Certificate, folder: Path, issuer: str = "issuing"
) -> str:
    """Let openssl judge a certificate; return its text."""
    (folder / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    openssl(folder, "verify", "-x509_strict", "-CAfile", str(node.pem("root")), "-untrusted",
            str(node.pem(issuer)), "leaf.pem")  # fmt: skip
    return openssl(folder, "x509", "-noout", "-text", "-in", "leaf.pem").decode()


def test_the_domain_is_asked(node: Daemon) -> None:
    shown = node.json("active-directory", "check", "corp", "--user", "bob")
    assert (shown["name"], shown["upn"]) == ("Bob Builder", "bob@corp.test")
    assert shown["groups"] == ["everybody", "staff"]


def test_a_computer_learns_its_templates_and_enrols(
    domain: Samba, node: Daemon, tmp_path: Path
) -> None:
    machine = Machine(domain, node, tmp_path, "pc1$")
    answer = machine.ask("/xcep/machines", "policies")
    assert answer["mutual"] is True
    policies = answer["found"]["response"]["policies"]["policy"]
    assert [each["attributes"]["commonName"] for each in policies] == [
        "windows-machine", "windows-user",
    ]  # fmt: skip
    # A computer is in no group of people.
    assert [each["attributes"]["permission"]["enroll"] for each in policies] == [True, False]
    [address, *_] = answer["found"]["cAs"]["cA"][0]["uris"]["cAURI"]
    assert address["clientAuthentication"] == 2
    certificate = machine.enrol(url=address["uri"])
    shown = verify(node, certificate, tmp_path)
    assert "DNS:pc1.corp.test" in shown
    assert "dc1.corp.test" not in shown
    assert sid_of(certificate) == node.json("active-directory", "check", "corp", "--user", "pc1$")[
        "sid"
    ]  # fmt: skip
    # Where AD CS has its policies, clients that are told a host only look for them.
    default = machine.ask("/ADPolicyProvider_CEP_Kerberos/service.svc/CEP", "policies")
    assert "fault" in default  # there is no endpoint wstep/default here


def test_a_ticket_must_be_tied_to_its_connection_where_that_is_said(
    domain: Samba, node: Daemon, tmp_path: Path
) -> None:
    machine = Machine(domain, node, tmp_path, "pc1$")
    free = machine.ask("/wstep/machines", "issue", request=machine.request(), kerberos="free")
    assert free["detail"]["ErrorCode"] == DENIED


def test_a_person_enrols_by_ticket_and_by_password(node: Daemon, bob: Machine) -> None:
    first = bob.enrol()
    shown = verify(node, first, bob.folder)
    assert "CN = Bob Builder" in shown
    assert "email:bob@corp.test" in shown
    second = bob.enrol(kerberos="", user="CORP\\bob", password=WORDS["bob"])
    assert second.subject == first.subject
    assert sid_of(second) == sid_of(first)
    wrong = bob.ask("/wstep/users", "issue", request=bob.request(), kerberos="", user="bob",
                    password="Wrong-word-1234")  # fmt: skip
    assert wrong["detail"]["ErrorCode"] == DENIED


def test_who_is_not_in_the_group_gets_nothing(domain: Samba, node: Daemon, tmp_path: Path) -> None:
    eve = Machine(domain, node, tmp_path, "eve")
    answer = eve.ask("/wstep/users", "issue", request=eve.request())
    assert answer["detail"]["InvalidRequest"] == "true"
    assert "may not enrol" in answer["fault"]


def test_a_ticket_is_good_once_whichever_worker_it_meets(bob: Machine, node: Daemon) -> None:
    script = (
        "import base64, gssapi; print(base64.b64encode(gssapi.SecurityContext("
        "name=gssapi.Name('HTTP@127.0.0.1', gssapi.NameType.hostbased_service),"
        "mech=gssapi.OID.from_int_seq('1.3.6.1.5.5.2'), usage='initiate').step()).decode())"
    )
    token = subprocess.run(
        [SYSTEM_PYTHON, "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env=bob.environment,
    ).stdout.strip()  # fmt: skip
    body = bob.folder / "policies.xml"
    body.write_bytes(
        (CLIENT.parents[1] / "vectors" / "wstep" / "cepces-get-policies.xml").read_bytes()
    )
    answers = [
        subprocess.run(
            ["curl", "-sS", "--cacert", str(node.pem("root")), "-H",
             "Content-Type: application/soap+xml", "-H", f"Authorization: Negotiate {token}",
             "--data-binary", f"@{body}", f"{node.https_url}/xcep/users"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for _ in range(6)
    ]  # fmt: skip
    assert ["windows-user" in answer for answer in answers] == [True] + [False] * 5


def test_curl_negotiates_too(bob: Machine, node: Daemon) -> None:
    body = CLIENT.parents[1] / "vectors" / "wstep" / "cepces-get-policies.xml"
    done = subprocess.run(
        ["curl", "-sS", "--negotiate", "-u", ":", "--cacert", str(node.pem("root")), "-H",
         "Content-Type: application/soap+xml", "--data-binary", f"@{body}",
         f"{node.https_url}/xcep/users"],
        capture_output=True, text=True, check=True, timeout=60, env=bob.environment,
    )  # fmt: skip
    assert "windows-user" in done.stdout


def test_an_account_that_is_disabled_gets_nothing_with_the_ticket_that_it_has(
    domain: Samba, bob: Machine
) -> None:
    domain.change(bob={"userAccountControl": "514"})
    try:
        answer = bob.ask("/wstep/users", "issue", request=bob.request())
        assert answer["detail"]["ErrorCode"] == DENIED
    finally:
        domain.change(bob={"userAccountControl": "512"})
    assert bob.enrol()


def test_a_computer_that_calls_itself_a_domain_controller_gets_nothing(
    domain: Samba, node: Daemon, tmp_path: Path
) -> None:
    machine = Machine(domain, node, tmp_path, "pc1$")
    domain.change(**{"pc1$": {"dNSHostName": "dc1.corp.test"}})
    try:
        answer = machine.ask("/wstep/machines", "issue", request=machine.request())
        assert "not that of the account" in answer["fault"]
    finally:
        domain.change(**{"pc1$": {"dNSHostName": "pc1.corp.test"}})


def renewed_by(machine: Machine, old: x509.Certificate) -> x509.Certificate:
    """Renew with a new key, in a message that openssl signs with the old one, and nothing else."""
    folder = machine.folder
    (folder / "old.pem").write_bytes(old.public_bytes(Encoding.PEM))
    openssl(folder, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048",
            "-out", "new.pem")  # fmt: skip
    request = openssl(folder, "req", "-new", "-key", "new.pem", "-subj", "/CN=x",
                      "-outform", "DER")  # fmt: skip
    signed = openssl(folder, "cms", "-sign", "-binary", "-nodetach", "-md", "sha256",
                     "-signer", "old.pem", "-inkey", "key.pem", "-outform", "DER",
                     data=request)  # fmt: skip
    return machine.enrol("users/renewal", request=signed, kerberos="")


def test_the_old_certificate_renews_signed_by_openssl_and_over_tls(
    node: Daemon, bob: Machine
) -> None:
    old = bob.enrol()
    renewed = renewed_by(bob, old)
    assert renewed.subject == old.subject
    assert sid_of(renewed) == sid_of(old)
    identity = [str(bob.folder / "old.pem"), str(bob.key)]
    policies = bob.ask("/xcep/users", "policies", identity=identity, kerberos="", user="CORP\\bob",
                       password=WORDS["bob"])  # fmt: skip
    assert policies["found"]["response"]["policiesNotChanged"] is False


def test_a_request_that_waits_is_approved_and_fetched(node: Daemon, bob: Machine) -> None:
    answer = bob.ask("/wstep/checked", "issue", request=bob.request())
    found = answer["found"]
    assert found["DispositionMessage"] == "Taken Under Submission"
    reference = found["RequestedSecurityToken"]["SecurityTokenReference"]["Reference"]
    assert reference["URI"] == f"{node.https_url}/wstep/checked"
    # The CMC answer in it holds, says openssl, and says that the request waits.
    status = base64.b64decode(found["BinarySecurityToken"]["_value_1"])
    (bob.folder / "status.der").write_bytes(status)
    chain = bob.folder / "chain.pem"
    chain.write_bytes(node.pem("root").read_bytes() + node.pem("issuing").read_bytes())
    inside = openssl(bob.folder, "cms", "-verify", "-binary", "-inform", "DER", "-in",
                     "status.der", "-CAfile", str(chain), "-purpose", "any")  # fmt: skip
    assert b"id-cmc-statusInfo" in openssl(bob.folder, "asn1parse", "-inform", "DER", data=inside)
    number = found["RequestID"]
    asked = bob.ask("/wstep/checked", "query", number=number)
    assert asked["found"]["RequestID"] == number
    [waiting] = node.json("request", "list")
    node.tmad("request", "approve", waiting["id"])
    issued = bob.ask("/wstep/checked", "query", number=number)
    assert "CN = Bob Builder" in verify(node, certificate_of(issued), bob.folder)
    assert "no such request" in bob.ask("/wstep/checked", "query", number="77")["fault"]


def test_the_page_is_true(domain: Samba, node: Daemon, tmp_path: Path) -> None:
    """The lines of docs/windows-autoenrolment.md, with this domain's names."""
    page = Path(__file__).parents[2] / "docs" / "windows-autoenrolment.md"
    script = "".join(re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
    for told, here in (
        ("dc1.corp.test", ADDRESS), ("tmad-reader@", "tmad@"), ("domain-ca.pem", "ca.pem"),
        (" corp ", " corp2 "), ("wstep machines", "wstep machines2"),
        ("wstep users", "wstep users2"), ('["users"]', '["users2"]'),
    ):  # fmt: skip
        script = script.replace(told, here)
    (tmp_path / "ca.pem").write_bytes(domain.ca_file.read_bytes())
    (tmp_path / "reader-password").write_text(READER + "\n")
    done = subprocess.run(
        ["bash", "-c", COMMANDS.shell() + script], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False, env={**os.environ, "TMAD_CONFIG": str(node.config)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Bob Builder" in done.stdout
    machine = Machine(domain, node, tmp_path, "pc1$")
    answer = machine.ask("/xcep/machines2", "policies")
    assert "found" in answer, answer
    found = answer["found"]["response"]["policies"]["policy"]
    assert [each["attributes"]["commonName"] for each in found] == ["Machine", "Staff"]
    assert machine.enrol("machines2")


# -- on PostgreSQL, with the authority's key in a token, and with workers that die ----------------


@pytest.fixture(scope="module")
def heavy(
    domain: Samba, require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    require_client("softhsm2-util")
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    database = start_cluster().empty_database()
    daemon = set_up(domain, tmp_path_factory.mktemp("heavy"), "--db", database, token=token)
    daemon.start()
    yield daemon
    daemon.kill()


def test_a_token_signs_for_the_domain_and_postgresql_keeps_it(
    domain: Samba, heavy: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "pc").mkdir()
    (tmp_path / "bob").mkdir()
    machine = Machine(domain, heavy, tmp_path / "pc", "pc1$")
    answer = machine.ask("/xcep/machines", "policies")
    assert len(answer["found"]["response"]["policies"]["policy"]) == 2
    shown = verify(heavy, machine.enrol("machines"), machine.folder, "hsm")
    assert "DNS:pc1.corp.test" in shown
    bob = Machine(domain, heavy, tmp_path / "bob", "bob")
    old = bob.enrol()
    renewed = renewed_by(bob, old)
    assert (renewed.subject, sid_of(renewed)) == (old.subject, sid_of(old))
    assert "CN = Bob Builder" in verify(heavy, renewed, bob.folder, "hsm")
    waiting = bob.ask("/wstep/checked", "issue", request=bob.request())["found"]
    # What waits, waits in the database.
    heavy.kill()
    heavy.start()
    [request] = heavy.json("request", "list")
    heavy.tmad("request", "approve", request["id"])
    issued = bob.ask("/wstep/checked", "query", number=waiting["RequestID"])
    assert certificate_of(issued).subject == old.subject


@dataclass
class Ledger:
    """What clients were told; they go on until they are told to stop."""

    stop: threading.Event = field(default_factory=threading.Event)
    told: list[x509.Certificate] = field(default_factory=list)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


def enrol_on_and_on(daemon: Daemon, ledger: Ledger) -> None:
    """Enrol as bob by password, one key after the other; repeat what got no answer, as it was."""
    tls = ssl.create_default_context(cafile=str(daemon.pem("root")))
    while not ledger.stop.is_set():
        body = wstep.issue(wstep.csr(), user="CORP\\bob", word=WORDS["bob"])
        deadline = time.monotonic() + 60
        while (answer := post(daemon, tls, body)) is None or any(
            words in answer for words in (b"ErrorCode", b"Taken Under Submission")
        ):
            # The process that was at it has died; until its intent is void, it is under way.
            ledger.repeated += 1
            if time.monotonic() > deadline:
                ledger.problems.append(repr(answer))
                return
            time.sleep(0.2)
        ledger.told.append(wstep.certificate_of(Response(status=200, body=answer)))


def post(daemon: Daemon, tls: ssl.SSLContext, body: bytes) -> bytes | None:
    """Send one message; None where the connection broke."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", daemon.https_port, timeout=30, context=tls
    )
    with contextlib.closing(connection):
        try:
            connection.request("POST", "/wstep/users", body, wstep.SOAP | {"host": "127.0.0.1"})
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return None


@pytest.mark.parametrize("level", [pytest.param("node", marks=pytest.mark.long), "heavy"])
def test_enrolments_survive_power_cuts(level: str, request: pytest.FixtureRequest) -> None:
    daemon: Daemon = request.getfixturevalue(level)
    before = {row["serial"] for row in users_certificates(daemon)}
    ledger = Ledger()
    threads = [threading.Thread(target=enrol_on_and_on, args=(daemon, ledger)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.7)
        daemon.kill()
        daemon.start()
    ledger.stop.set()
    for thread in threads:
        thread.join(90)
    assert ledger.problems == []
    assert ledger.repeated > 0
    told = [f"{certificate.serial_number:x}" for certificate in ledger.told]
    assert len(told) == len(set(told)) >= len(threads)
    # None is lost and none is there twice: what was told is what there is.
    assert {row["serial"] for row in users_certificates(daemon)} - before == set(told)


def users_certificates(daemon: Daemon) -> list[dict[str, Any]]:
    """Return what was issued at wstep/users."""
    rows = daemon.json("cert", "list", "--limit", "10000")
    return [row for row in rows if row["endpoint"] == "wstep/users" and row["state"] == "issued"]
