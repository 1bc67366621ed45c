"""The LDAP server asked by OpenLDAP's tools and by ldap3, over TCP, StartTLS and LDAPS."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap3
import pytest
from ldap3.core.exceptions import LDAPException
from ldaptor.protocols import pureldap

from tests.daemon import Daemon
from tests.fuzz.test_fuzz_ldap import SEEDS
from tests.support import drive
from tests.system.commands import commands_of
from tests.unit.test_ldap_codec import MALFORMED, wire
from tmad.events import utc_now
from tmad.protocols.ldap import codec
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.people import PersonRow

pytestmark = pytest.mark.interop

PASSWORD = secrets.token_urlsafe(12)
SUFFIX = "o=acme"
PEOPLE = f"ou=people,{SUFFIX}"
ALICE = f"uid=alice,{PEOPLE}"
PERSONS = 260


class Node:
    """A daemon with one directory, people in it, and certificates of two of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon = daemon = Daemon(
            directory / "node", ldap="entries = 200\nfirst_seconds = 3.0\nmessage_seconds = 2.0"
        )
        self.password_file = directory / "password"
        self.password_file.write_text(PASSWORD)
        self.password_file.chmod(0o600)
        tmad = commands_of(daemon)
        tmad.run("directory", "create", "main", SUFFIX, "--anonymous", "all")
        for name in ("alice", "bob", "carol"):
            mail = f"{name}@acme.example"
            tmad.run(
                "user", "create", name, "--mail", mail, "--full-name", f"{name.title()} Doe",
                "--password-file", str(self.password_file),
            )  # fmt: skip
            tmad.run(
                "cert", "issue", name, "--profile", "user", "--san", f"email:{mail}",
                "--out", str(directory),
            )  # fmt: skip
        database = Database(f"sqlite:///{daemon.directory}/tmad.db")
        drive(database.write(_insert))
        drive(_closed(database))
        self.root = str(daemon.pem("root"))
        daemon.start()
        self.url = f"ldap://127.0.0.1:{daemon.ldap_port}"
        self.tls_url = f"ldaps://127.0.0.1:{daemon.ldaps_port}"

    def run(
        self, program: str, *arguments: str, user: str = "", url: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one of OpenLDAP's tools; ``user`` shows a client certificate in TLS."""
        environment = {**os.environ, "LDAPTLS_CACERT": self.root}
        if user:
            environment["LDAPTLS_CERT"] = str(self.directory / f"{user}.crt")
            environment["LDAPTLS_KEY"] = str(self.directory / f"{user}.key")
        return subprocess.run(
            [program, "-H", url or self.url, *arguments],
            capture_output=True, text=True, timeout=60, check=False, env=environment,
        )  # fmt: skip

    def search(
        self, wanted: str, *arguments: str, base: str = SUFFIX, expect: int = 0, login: bool = False
    ) -> list[dict[str, list[str]]]:
        """Search with ldapsearch; return the entries. Options, "--", attributes."""
        options = ["-x", "-LLL", "-o", "ldif-wrap=no", "-b", base]
        if login:
            options += ["-ZZ", "-D", ALICE, "-y", str(self.password_file)]
        mark = arguments.index("--") if "--" in arguments else len(arguments)
        done = self.run("ldapsearch", *options, *arguments[:mark], wanted, *arguments[mark + 1 :])
        assert done.returncode == expect, done.stdout + done.stderr
        return _entries(done.stdout)


def _entries(ldif: str) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = []
    for block in re.split(r"\n\n+", ldif.strip()):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines or not lines[0].startswith("dn:"):
            continue
        entry: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            entry.setdefault(name, []).append(value.lstrip(": "))
        found.append(entry)
    return found


def _insert(connection: Any) -> None:
    now = utc_now()
    for number in range(PERSONS):
        people.insert(
            connection,
            PersonRow(
                tenant="default", name=f"p{number:04d}", full_name=f"Person {number:04d}",
                mail=f"p{number:04d}@acme.example", created_at=now, updated_at=now,
            ),
        )  # fmt: skip


async def _closed(database: Database) -> None:
    await database.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, require_client: Any) -> Iterator[Node]:
    for program in ("ldapsearch", "ldapwhoami", "ldapcompare", "ldapmodify"):
        require_client(program)
    found = Node(tmp_path_factory.mktemp("ldap"))
    yield found
    found.daemon.kill()


def names(entries: list[dict[str, list[str]]]) -> list[str]:
    return [entry["dn"][0] for entry in entries]


# -- OpenLDAP's tools -------------------------------------------------------------------------


def test_l_25_root_dse_and_subschema(node: Node) -> None:
    [root] = node.search("(objectClass=*)", "-s", "base", "--", "*", "+", base="")
    assert root["namingContexts"] == [SUFFIX]
    assert root["supportedLDAPVersion"] == ["3"]
    assert root["subschemaSubentry"] == ["cn=Subschema"]
    [subschema] = node.search(
        "(objectClass=subschema)", "-s", "base", "--", "attributeTypes", "objectClasses",
        base="cn=Subschema",
    )  # fmt: skip
    assert any("'userCertificate'" in each for each in subschema["attributeTypes"])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("(mail=ALICE@acme.example)", ["alice"]),
        ("(uid=alice)", ["alice"]),
        ("(cn=alice  doe)", ["alice"]),
        ("(cn~=alice doe)", ["alice"]),
        ("(mail=ali*)", ["alice"]),
        ("(cn=ali*doe)", ["alice"]),
        ("(&(uid=alice)(objectClass=inetOrgPerson))", ["alice"]),
        ("(&(uid=alice)(!(mail=*)))", []),
        ("(|(uid=alice)(uid=bob))", ["alice", "bob"]),
        ("(&(uid=alice)(userCertificate;binary=*))", ["alice"]),
        ("(&(uid=p0001)(userCertificate=*))", []),
        ("(uid:caseIgnoreMatch:=alice)", ["alice"]),
        ("(&(uid=alice)(ou:dn:=people))", ["alice"]),
        ("(&(uid=alice)(createTimestamp>=20200101000000Z))", ["alice"]),
        ("(&(uid=alice)(createTimestamp<=20200101000000Z))", []),
        ("(&(uid=alice)(noSuchThing=x))", []),
        ("(&(uid=alice)(!(noSuchThing=x)))", []),
        ("(&(uid=alice)(|(noSuchThing=x)(sn=doe)))", ["alice"]),
    ],
)
def test_l_20_every_kind_of_filter(node: Node, wanted: str, found: list[str]) -> None:
    entries = node.search(wanted, "--", "1.1", login=True)
    assert sorted(names(entries)) == [f"uid={name},{PEOPLE}" for name in found]


def test_l_21_certificate_exact_match(node: Node) -> None:
    serial = int(
        subprocess.run(
            ["openssl", "x509", "-in", str(node.directory / "alice.crt"), "-noout", "-serial"],
            capture_output=True, text=True, check=True,
        ).stdout.partition("=")[2], 16,
    )  # fmt: skip
    issuer = subprocess.run(
        ["openssl", "x509", "-in", str(node.directory / "alice.crt"), "-noout", "-issuer",
         "-nameopt", "RFC2253"],
        capture_output=True, text=True, check=True,
    ).stdout.partition("=")[2].strip()  # fmt: skip
    for wanted in (
        f'(userCertificate={{ serialNumber {serial}, issuer rdnSequence:"{issuer}" }})',
        f"(userCertificate:certificateExactMatch:={{ serialNumber {serial}, issuer "
        f'rdnSequence:"{issuer.lower()}" }})',
        f'(userCertificate:2.5.13.34:={{ serialNumber {serial}, issuer rdnSequence:"{issuer}" }})',
        f"(userCertificate;binary={serial}${issuer})",
    ):
        assert names(node.search(wanted, "--", "1.1")) == [ALICE]
    assert node.search(f"(userCertificate={serial + 1}${issuer})", "--", "1.1") == []


@pytest.mark.parametrize(
    ("asked", "there", "absent"),
    [
        (("userCertificate",), "userCertificate;binary", "mail"),
        (("usercertificate;BINARY",), "userCertificate;binary", "mail"),
        (("*",), "userCertificate;binary", "entryUUID"),
        (("+",), "entryUUID", "mail"),
        (("mail", "+"), "entryUUID", "cn"),
    ],
)  # fmt: skip
def test_l_03_l_04_attributes(node: Node, asked: tuple[str, ...], there: str, absent: str) -> None:
    [entry] = node.search("(uid=alice)", "--", *asked)
    assert there in entry
    assert absent not in entry


def test_l_04_only_types(node: Node) -> None:
    [entry] = node.search("(uid=alice)", "-A", "--", "mail")
    assert entry == {"dn": [ALICE], "mail": [""]}


def test_l_17_pages(node: Node) -> None:
    found = node.search("(uid=p*)", "-E", "pr=70/noprompt", "--", "1.1", login=True)
    assert len(set(names(found))) == PERSONS


def test_l_18_limits(node: Node) -> None:
    assert len(node.search("(uid=p00*)", "-z", "5", "--", "1.1", expect=4)) == 5
    assert len(node.search("(uid=p00*)", "--", "1.1", expect=4)) == 50
    assert len(node.search("(uid=p0*)", "--", "1.1", expect=4, login=True)) == 200
    # Harvesting without a login.
    node.search("(objectClass=*)", expect=11)
    node.search("(objectClass=*)", "-s", "base", base="cn=nobody,o=acme", expect=32)
    node.search("(objectClass=*)", "-s", "base", base="nonsense", expect=34)


def test_rfc_2891_sorted_by_the_server(node: Node) -> None:
    found = node.search("(uid=p000*)", "-E", "!sss=-uid", "--", "1.1")
    assert names(found) == [f"uid=p000{n},{PEOPLE}" for n in range(9, -1, -1)]
    node.search("(uid=p000*)", "-E", "!sss=noSuch", "--", "1.1", expect=12)
    found = node.search(
        "(uid=p00*)", "-E", "sss=-uid", "-E", "pr=30/noprompt", "--", "1.1", login=True
    )
    assert names(found) == [f"uid=p00{n:02d},{PEOPLE}" for n in range(99, -1, -1)]


def test_l_15_unknown_controls(node: Node) -> None:
    node.search("(uid=alice)", "-e", "!1.2.3.4", expect=12)
    assert len(node.search("(uid=alice)", "-e", "1.2.3.4")) == 1
    assert len(node.search("(uid=alice)", "-M")) == 1


def test_l_23_l_24_binds(node: Node) -> None:
    password = ("-y", str(node.password_file))
    wrong = ("-w", "wrong")
    for arguments, code in (
        (("-x", "-D", ALICE, *password), 13),
        (("-x", "-ZZ", "-D", ALICE, *password), 0),
        (("-x", "-ZZ", "-D", ALICE, *wrong), 49),
        (("-x", "-ZZ", "-D", f"uid=nobody,{PEOPLE}", *wrong), 49),
        (("-x", "-ZZ", "-D", "cn=admin", *wrong), 49),
        (("-x", "-ZZ", "-D", "nonsense", *wrong), 34),
        (("-x", "-ZZ"), 0),
    ):
        done = node.run("ldapwhoami", *arguments)
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        if code == 0:
            assert done.stdout.strip() == ("anonymous" if "-D" not in arguments else f"dn:{ALICE}")


def test_l_23_external(node: Node) -> None:
    for arguments, url in ((("-ZZ",), node.url), ((), node.tls_url)):
        done = node.run("ldapwhoami", "-Y", "EXTERNAL", *arguments, user="alice", url=url)
        assert done.stdout.strip() == f"dn:{ALICE}", done.stderr
    done = node.run("ldapwhoami", "-Y", "EXTERNAL", "-ZZ")
    assert done.returncode != 0


def test_a_revoked_certificate_logs_nobody_in_and_ends_open_connections(node: Node) -> None:
    server = ldap3.Server(node.tls_url, tls=_tls(node, "bob"))
    open_ = ldap3.Connection(
        server, authentication=ldap3.SASL, sasl_mechanism=ldap3.EXTERNAL, sasl_credentials="",
        raise_exceptions=False, receive_timeout=20,
    )  # fmt: skip
    assert open_.bind(), open_.result
    assert open_.search(PEOPLE, "(uid=bob)", attributes=["userCertificate"])
    assert "userCertificate;binary" in open_.response[0]["attributes"]
    [row] = [
        row for row in node.daemon.json("cert", "list") if row["subject"] == "CN=bob"
    ]  # fmt: skip
    node.daemon.tmad("cert", "revoke", row["serial"])
    # Gone at the very next search, for everybody.
    [entry] = node.search("(uid=bob)", "--", "userCertificate", "mail")
    assert "userCertificate;binary" not in entry
    with pytest.raises(LDAPException):
        open_.search(PEOPLE, "(uid=bob)")
    done = node.run("ldapwhoami", "-Y", "EXTERNAL", "-ZZ", user="bob")
    assert done.returncode == 49, done.stderr


def test_an_account_that_is_disabled_loses_its_connections(node: Node) -> None:
    server = ldap3.Server(node.tls_url, tls=_tls(node))
    carol = f"uid=carol,{PEOPLE}"
    open_ = ldap3.Connection(server, carol, PASSWORD, receive_timeout=20)
    assert open_.bind(), open_.result
    assert open_.search(PEOPLE, "(uid=bob)")
    node.daemon.tmad("user", "disable", "carol")
    with pytest.raises(LDAPException):
        open_.search(PEOPLE, "(uid=bob)")
    done = node.run("ldapwhoami", "-x", "-ZZ", "-D", carol, "-y", str(node.password_file))
    assert done.returncode == 49


def test_a_password_that_is_set_anew_ends_its_connections(node: Node) -> None:
    node.daemon.tmad(
        "user", "create", "dora", "--mail", "dora@acme.example",
        "--password-file", str(node.password_file),
    )  # fmt: skip
    server = ldap3.Server(node.tls_url, tls=_tls(node))
    open_ = ldap3.Connection(server, f"uid=dora,{PEOPLE}", PASSWORD, receive_timeout=20)
    assert open_.bind(), open_.result
    assert open_.search(PEOPLE, "(uid=bob)")
    node.daemon.tmad("user", "set-password", "dora", "--generate")
    with pytest.raises(LDAPException):
        open_.search(PEOPLE, "(uid=bob)")


@pytest.mark.parametrize(
    "name",
    ["*", "a*", "*)(uid=*", "\\2a", "\\00", "alice\\,ou=people", "x" * 4_000, "é", "' OR 1=1 --"],
)
def test_t_ldap_04_names_are_names_and_nothing_else(node: Node, name: str) -> None:
    dn = f"uid={name},{PEOPLE}"
    done = node.run("ldapwhoami", "-x", "-ZZ", "-D", dn, "-y", str(node.password_file))
    assert done.returncode in (34, 49), done.stderr
    escaped = "".join(f"\\{octet:02x}" for octet in name.encode()[:200])
    assert node.search(f"(uid={escaped})", "--", "1.1", login=True) == []
    node.search("(objectClass=*)", "-s", "base", base=dn, expect=34 if len(dn) > 4_096 else 32)


def test_l_27_compare(node: Node) -> None:
    for assertion, code in (
        ("mail:ALICE@acme.example", 6),
        ("mail:bob@acme.example", 5),
        ("description:x", 16),
        ("noSuch:x", 17),
    ):
        done = node.run("ldapcompare", "-x", ALICE, assertion)
        assert done.returncode == code, done.stdout + done.stderr


def test_l_01_read_only(node: Node) -> None:
    for program, arguments, text in (
        ("ldapdelete", (ALICE,), ""),
        ("ldapmodify", (), f"dn: {ALICE}\nchangetype: modify\nreplace: sn\nsn: x\n"),
        ("ldapmodrdn", (ALICE, "uid=x"), ""),
        ("ldapadd", (), f"dn: uid=new,{PEOPLE}\nobjectClass: person\ncn: x\nsn: x\n"),
    ):
        done = subprocess.run(
            [program, "-x", "-H", node.url, *arguments],
            input=text, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 53, done.stderr


def test_l_14_extended_operations(node: Node) -> None:
    done = node.run("ldapexop", "-x", "1.2.3.4")
    assert "Protocol error (2)" in done.stderr
    done = node.run("ldapexop", "-x", "cancel", "99")
    assert "(119)" in done.stderr


# -- what mail programs ask -------------------------------------------------------------------

THUNDERBIRD = (
    "(|(mail=*alice*)(cn=*alice*)(givenName=*alice*)(sn=*alice*))"
)  # fmt: skip
OUTLOOK = (
    "(&(mail=*)(|(mail=alice*)(|(cn=alice*)(|(sn=alice*)(givenName=alice*)))))"
)  # fmt: skip
APPLE = (
    "(|(givenname=alice*)(sn=alice*)(cn=alice*)(mail=alice*)(uid=alice*))"
)  # fmt: skip
OUTLOOK_WANTS = (
    "cn", "commonName", "mail", "roleOccupant", "display-name", "displayname", "sn", "surname",
    "co", "organizationName", "o", "givenName", "legacyExchangeDN", "objectClass", "uid",
    "mailNickname", "title", "company", "physicalDeliveryOfficeName", "telephoneNumber",
    "userSMIMECertificate;binary", "userCertificate;binary", "userCertificate",
)  # fmt: skip


def test_thunderbird_completes_and_fetches(node: Node) -> None:
    found = node.search(THUNDERBIRD, "--", "cn", "mail", login=True)
    assert ALICE in names(found)
    [entry] = node.search("(mail=alice@acme.example)", "--", "userCertificate;binary")
    assert entry["userCertificate;binary"]


def test_outlook_looks_names_up(node: Node) -> None:
    found = node.search(OUTLOOK, "-z", "100", "--", *OUTLOOK_WANTS)
    assert names(found) == [ALICE]
    assert {"cn", "mail", "displayName", "objectClass"} <= found[0].keys()
    assert "userSMIMECertificate;binary" in found[0]


def test_apple_mail_looks_names_up(node: Node) -> None:
    found = node.search(APPLE, "--", "givenName", "sn", "cn", "mail", "userCertificate;binary")
    assert names(found) == [ALICE]


def test_windows_fetches_crls_as_a_stranger(node: Node) -> None:
    [entry] = node.search(
        "(objectClass=cRLDistributionPoint)", "-s", "base", "--", "certificateRevocationList",
        base=f"cn=issuing,ou=CAs,{SUFFIX}",
    )  # fmt: skip
    assert entry["certificateRevocationList;binary"]


# -- ldap3 ------------------------------------------------------------------------------------


def _tls(node: Node, user: str = "") -> ldap3.Tls:
    import ssl

    return ldap3.Tls(
        local_private_key_file=str(node.directory / f"{user}.key") if user else None,
        local_certificate_file=str(node.directory / f"{user}.crt") if user else None,
        ca_certs_file=node.root,
        validate=ssl.CERT_REQUIRED,
    )


def test_ldap3_reads_the_schema_and_searches(node: Node) -> None:
    server = ldap3.Server(node.url, get_info=ldap3.ALL, tls=_tls(node))
    connection = ldap3.Connection(server, ALICE, PASSWORD, receive_timeout=20)
    assert connection.start_tls()
    assert connection.bind(), connection.result
    assert server.schema.attribute_types["userCertificate"].oid == "2.5.4.36"
    assert "inetOrgPerson" in server.schema.object_classes
    assert connection.extend.standard.who_am_i() == f"dn:{ALICE}"
    reader = ldap3.Reader(
        connection, ldap3.ObjectDef("inetOrgPerson", connection), PEOPLE, "uid: p0001;p0002"
    )
    assert sorted(str(entry.uid) for entry in reader.search()) == ["p0001", "p0002"]
    pages = connection.extend.standard.paged_search(
        PEOPLE, "(uid=p*)", attributes=["uid"], paged_size=50, generator=False
    )
    assert len(pages) == PERSONS
    assert connection.compare(ALICE, "cn", "alice doe")
    assert connection.unbind()


def test_l_13_many_searches_at_once_and_abandoned_ones(node: Node) -> None:
    server = ldap3.Server(node.url, tls=_tls(node))
    connection = ldap3.Connection(
        server, client_strategy=ldap3.ASYNC, auto_bind=True, receive_timeout=20
    )
    asked = [connection.search(PEOPLE, f"(uid=p{n:04d})", attributes=["mail"]) for n in range(100)]
    connection.abandon(asked[3])
    for number, message in enumerate(asked):
        response, _ = connection.get_response(message)
        assert response[0]["attributes"]["mail"] == [f"p{number:04d}@acme.example"]
    connection.unbind()


# Octets that mean something in BER, in filters and in names.
_TELLING = (
    b'\x00\x01\x02\x04\x0a\x30\x31\x7f\x80\x81\x82\x84\x87\xa0\xa1\xa2\xa3\xa4\xa9\xff*\\,=;+#"{}$'
)


# -- hostile neighbours -----------------------------------------------------------------------


def _connect(node: Node) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", node.daemon.ldap_port), timeout=15)
    opened.settimeout(15)
    return opened


def _until_closed(opened: socket.socket) -> bytes:
    received = b""
    while part := opened.recv(65_536):
        received += part
    return received


def test_l_10_garbage_is_told_so_and_cut_off(node: Node) -> None:
    for octets in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x80",
        *[MALFORMED[name] for name in ("unknown operation", "not UTF-8", "no pieces")],
    ):
        with _connect(node) as opened:
            opened.sendall(octets)
            assert codec.DISCONNECTION.encode() in _until_closed(opened)
    assert len(node.search("(uid=alice)")) == 1


def test_l_10_slow_and_silent_clients_are_cut_off_while_others_are_served(node: Node) -> None:
    whole = wire(pureldap.LDAPSearchRequest(baseObject=SUFFIX, scope=0))
    began = time.monotonic()
    slow, silent = _connect(node), _connect(node)
    mute = socket.create_connection(("127.0.0.1", node.daemon.ldaps_port), timeout=15)
    stop = threading.Event()

    def drip() -> None:
        try:
            for octet in whole:
                slow.sendall(bytes((octet,)))
                if stop.wait(0.2):
                    return
        except OSError:
            return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert len(node.search("(uid=alice)")) == 1
        assert codec.DISCONNECTION.encode() in _until_closed(silent)
        # Not a word of TLS, either.
        with contextlib.suppress(ConnectionError):
            _until_closed(mute)
        # It drips on into a closed connection.
        with contextlib.suppress(ConnectionError):
            assert codec.DISCONNECTION.encode() in _until_closed(slow)
        assert time.monotonic() - began < 12
    finally:
        stop.set()
        thread.join()
        for each in (slow, silent, mute):
            each.close()


def test_l_24_what_follows_start_tls_without_tls_is_lost(node: Node) -> None:
    import ssl

    injected = wire(pureldap.LDAPSearchRequest(baseObject=SUFFIX, scope=0), 2)
    with _connect(node) as opened:
        opened.sendall(wire(pureldap.LDAPStartTLSRequest(), 1) + injected)
        answer = opened.recv(65_536)
        assert codec.length_of(answer) == len(answer)
        context = ssl.create_default_context(cafile=node.root)
        with context.wrap_socket(opened, server_hostname="127.0.0.1") as inside:
            inside.sendall(wire(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I), 9))
            answer = inside.recv(65_536)
            # The first answer inside is to the first question inside, and nobody is bound.
            assert answer[:5] == b"\x30\x0e\x02\x01\x09"


def test_who_does_not_read_holds_up_nobody(node: Node) -> None:
    search = wire(
        pureldap.LDAPSearchRequest(baseObject="cn=Subschema", scope=0, attributes=["+", "*"])
    )
    with _connect(node) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                opened.sendall(search * 100)
        assert len(node.search("(uid=alice)")) == 1


def test_t_ldap_05_broken_messages_reach_no_traceback(node: Node) -> None:
    """600 messages with octets changed, through the socket and down to the database."""
    chance = random.Random(9)
    answered = 0
    opened = _connect(node)
    for _ in range(600):
        octets = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(3)):
            octets[chance.randrange(len(octets))] = chance.choice(_TELLING)
        opened.sendall(octets)
        readable, _, _ = select.select([opened], [], [], 0.1)
        answer = opened.recv(65_536) if readable else b""
        answered += bool(answer)
        if not answer or codec.DISCONNECTION.encode() in answer:
            # It has ended, or waits for the rest of what it takes for longer.
            opened.close()
            opened = _connect(node)
    opened.close()
    assert answered > 300
    assert len(node.search("(uid=alice)")) == 1
    log = node.daemon.log.read_text()
    assert "Traceback" not in log, log[-3000:]


@pytest.mark.parametrize("secure", [False, True])
def test_many_large_answers_arrive_whole_and_in_turn(node: Node, secure: bool) -> None:
    """What the socket takes at once and what waits for it make one stream."""
    import ssl

    opened = socket.create_connection(
        ("127.0.0.1", node.daemon.ldaps_port if secure else node.daemon.ldap_port), timeout=30
    )
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    if secure:
        context = ssl.create_default_context(cafile=node.root)
        opened = context.wrap_socket(opened, server_hostname="127.0.0.1")
    with opened:
        opened.settimeout(30)
        asked = pureldap.LDAPSearchRequest(
            baseObject="cn=Subschema", scope=0, attributes=["+", "*"]
        )
        opened.sendall(b"".join(wire(asked, number) for number in range(1, 61)))
        time.sleep(0.3)
        received = bytearray()
        numbers: list[int] = []
        while len(numbers) < 120:
            length = codec.length_of(received)
            if not length or len(received) < length:
                received += opened.recv(65_536)
                continue
            start = 2 if received[1] < 0x80 else 2 + received[1] - 0x80
            size = received[start + 1]
            numbers.append(int.from_bytes(received[start + 2 : start + 2 + size]))
            del received[:length]
    assert numbers == [number for number in range(1, 61) for _ in range(2)]


def test_the_log_has_no_traceback_and_metrics_count(node: Node) -> None:
    import urllib.request

    assert "Traceback" not in node.daemon.log.read_text()
    with urllib.request.urlopen(f"{node.daemon.ops_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert re.search(
        r'tmad_requests_total\{door="search",outcome="success",protocol="ldap"\}', text
    )
    assert PASSWORD not in node.daemon.log.read_text()
