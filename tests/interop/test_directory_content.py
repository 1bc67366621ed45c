"""What ldapsearch finds: issued at once, revoked never again, in two workers, on both databases."""

from __future__ import annotations

import base64
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.postgres import start_cluster
from tests.system.commands import Commands, commands_of

pytestmark = pytest.mark.interop

SUFFIX = "dc=acme,dc=test"
PEOPLE = f"ou=people,{SUFFIX}"
CERTIFICATE = "userCertificate;binary"


class Node:
    """A daemon of two workers with one directory, open to whoever knows a mail address."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.daemon = Daemon(directory / "node", *options, ldap=True, workers=2)
        self.daemon.start()
        self.url = f"ldap://127.0.0.1:{self.daemon.ldap_port}"

    def search(
        self, wanted: str, *attributes: str, base: str = SUFFIX, scope: str = "sub", expect: int = 0
    ) -> list[dict[str, list[bytes]]]:
        """Search as a stranger, on a new connection."""
        done = subprocess.run(
            ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", self.url, "-b", base,
             "-s", scope, wanted, *attributes],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        return [_entry(block) for block in re.split(r"\n\n+", done.stdout.strip()) if block]

    def certificates(self, mail: str) -> set[bytes]:
        """Return what is found for a mail address; whichever worker answers says the same."""
        answers = []
        for _ in range(4):
            found = self.search(f"(mail={mail})", CERTIFICATE)
            answers.append({value for entry in found for value in entry.get(CERTIFICATE, ())})
        assert all(answer == answers[0] for answer in answers)
        return answers[0]


def _entry(block: str) -> dict[str, list[bytes]]:
    entry: dict[str, list[bytes]] = {}
    for line in block.splitlines():
        name, mark, value = re.fullmatch(r"([^:]+):(:?) ?(.*)", line).groups()  # type: ignore[union-attr]  # LDIF
        decoded = base64.b64decode(value) if mark else value.encode()
        entry.setdefault(name, []).append(decoded)
    return entry


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, require_client: Any
) -> Iterator[Node]:
    require_client("ldapsearch")
    options = []
    if request.param == "postgresql":
        options = ["--db", start_cluster().empty_database()]
    found = Node(tmp_path_factory.mktemp("directory"), *options)
    yield found
    found.daemon.kill()


def openssl(*arguments: str, data: bytes) -> str:
    done = subprocess.run(
        ["openssl", *arguments], input=data, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return (done.stdout + done.stderr).decode()


def issue(tmad: Commands, node: Node, name: str, mail: str) -> tuple[bytes, str]:
    """Issue a certificate to encrypt mail to; return it and its serial number."""
    found = tmad.json(
        "cert", "issue", name, "--profile", "smime-encrypt", "--san", f"email:{mail}",
        "--out", str(node.directory),
    )  # fmt: skip
    pem = (node.directory / f"{name}.crt").read_bytes()
    body = b"".join(pem.split(b"-----")[2].split())
    return base64.b64decode(body), str(found["serial"])


def test_issued_is_found_and_revoked_is_gone(node: Node) -> None:
    tmad = commands_of(node.daemon)
    node.search("(mail=ann@acme.test)", expect=32)
    tmad.run("directory", "create", "main", SUFFIX, "--anonymous", "by-mail")
    assert node.search("(mail=ann@acme.test)") == []
    tmad.run("user", "create", "ann", "--full-name", "Ann Other", "--mail", "ann@acme.test")
    assert node.certificates("ann@acme.test") == set()
    one, serial = issue(tmad, node, "ann", "ann@acme.test")
    assert node.certificates("Ann@ACME.test") == {one}
    two, _ = issue(tmad, node, "ann-new", "ann@acme.test")
    assert node.certificates("ann@acme.test") == {one, two}
    tmad.run("cert", "revoke", serial)
    assert node.certificates("ann@acme.test") == {two}
    tmad.run("user", "disable", "ann")
    assert node.search("(mail=ann@acme.test)") == []
    tmad.run("user", "enable", "ann")
    assert node.certificates("ann@acme.test") == {two}
    tmad.run("directory", "set", "main", 'profiles=["user"]')
    assert node.certificates("ann@acme.test") == set()
    tmad.run("directory", "set", "main", "profiles=")
    [entry] = node.search("(mail=ann@acme.test)")
    assert entry["dn"] == [f"uid=ann,{PEOPLE}".encode()]
    assert {"cn", "sn", "mail", CERTIFICATE, "userSMIMECertificate"} <= entry.keys()
    assert "telephoneNumber" not in entry


def test_outlooks_attribute_is_a_pkcs7_with_the_path(node: Node) -> None:
    tmad = commands_of(node.daemon)
    tmad.run("user", "create", "pat", "--mail", "pat@acme.test")
    issue(tmad, node, "pat", "pat@acme.test")
    [entry] = node.search("(mail=pat@acme.test)", "userSMIMECertificate")
    [value] = entry["userSMIMECertificate"]
    text = openssl("pkcs7", "-inform", "DER", "-print_certs", "-noout", data=value)
    assert len(re.findall("^subject=", text, re.M)) == 3


def test_authorities_and_their_lists_are_the_same_as_over_http(node: Node) -> None:
    base = f"ou=CAs,{SUFFIX}"
    found = node.search("(objectClass=pkiCA)", "*", base=base)
    assert {entry["cn"][0] for entry in found} == {b"root", b"issuing"}
    tmad = commands_of(node.daemon)
    _, serial = issue(tmad, node, "gone", "gone@acme.test")
    tmad.run("cert", "revoke", serial)
    [entry] = node.search(
        "(objectClass=cRLDistributionPoint)", "certificateRevocationList", "cACertificate",
        base=f"cn=issuing,{base}", scope="base",
    )  # fmt: skip
    [crl] = entry["certificateRevocationList;binary"]
    with urllib.request.urlopen(f"{node.daemon.url}/crl/issuing.crl", timeout=10) as answer:
        assert answer.read() == crl
    text = openssl("crl", "-inform", "DER", "-noout", "-text", data=crl)
    assert int(serial, 16) in [int(each, 16) for each in re.findall(r"Serial Number: (\w+)", text)]
    [ca] = entry["cACertificate;binary"]
    assert openssl("x509", "-inform", "DER", "-noout", "-subject", data=ca).startswith("subject=")
    verified = openssl(
        "crl", "-inform", "DER", "-noout", "-CAfile", str(node.daemon.pem("issuing")), data=crl
    )
    assert "verify OK" in verified


def test_strangers_cannot_harvest(node: Node) -> None:
    for wanted in ("(objectClass=*)", "(mail=*acme*)", "(mail=ann*)", "(uid=ann)", "(mail=*)"):
        assert node.search(wanted, "mail", expect=11) == []
    assert node.search("(objectClass=*)", "mail", base=f"ou=devices,{SUFFIX}", expect=50) == []


def test_names_that_other_programs_must_escape(node: Node) -> None:
    names = {"o'neil, jr.": "o1@acme.test", "a+b": "o2@acme.test", 'q"uote': "o3@acme.test"}
    tmad = commands_of(node.daemon)
    for name, mail in names.items():
        tmad.run("user", "create", name, "--mail", mail)
    for name, mail in names.items():
        [entry] = node.search(f"(mail={mail})", "uid")
        [dn] = entry["dn"]
        [again] = node.search("(objectClass=*)", "uid", base=dn.decode(), scope="base")
        assert again["uid"] == [name.encode()]
