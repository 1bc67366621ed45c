"""Net-snmp's command line and pysnmp ask the running agent: every version and algorithm."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from pysnmp.hlapi.v3arch import asyncio as pysnmp

from tests.daemon import Daemon
from tests.interop.snmp_tools import environment, eventually
from tests.system.commands import commands_of
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import Kind
from tmad.protocols.snmp.values import NULL, encode_oid

pytestmark = pytest.mark.interop

WORDS = ("first passphrase", "second passphrase")
COMMUNITY = "a-community-of-some-length"
DESCRIPTION = "1.3.6.1.2.1.1.1.0"

# Debian's net-snmp lengthens keys in one way only; Cisco's is left to pysnmp.
USERS = {
    "u1": ("sha1", "aes128"),
    "u2": ("sha224", "aes256"),
    "u3": ("sha256", "aes128"),
    "u4": ("sha256", "aes192"),
    "u5": ("sha384", "aes256"),
    "u6": ("sha512", "aes256"),
    "u7": ("sha224", "aes192"),
    "u8": ("sha1", "aes256"),
}
CISCO = {"c1": ("sha1", "aes256c"), "c2": ("sha224", "aes192c"), "c3": ("sha256", "aes256c")}
HASHES = {"sha1": "SHA", "sha224": "SHA-224", "sha256": "SHA-256", "sha384": "SHA-384",
          "sha512": "SHA-512"}  # fmt: skip
CIPHERS = {"aes128": "AES", "aes192": "AES-192", "aes256": "AES-256"}


class Agent:
    """The agent of a daemon, as net-snmp's programs and pysnmp reach it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.address = f"127.0.0.1:{daemon.snmp_port}"
        self._environment = environment(daemon.directory / "manager")

    def run(self, program: str, *arguments: str, expect: int | None = 0) -> str:
        done = subprocess.run(
            [program, *arguments], env=self._environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert expect is None or done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def v3(self, program: str, name: str, *rest: str, expect: int | None = 0, **other: str) -> str:
        authentication, privacy = USERS.get(name, ("sha256", "aes128"))
        options = [
            "-v3", "-l", other.get("level", "authPriv"), "-u", name,
            "-a", HASHES[authentication], "-A", other.get("first", WORDS[0]),
            "-x", CIPHERS[privacy], "-X", other.get("second", WORDS[1]),
        ]  # fmt: skip
        return self.run(program, *options, "-t3", "-On", self.address, *rest, expect=expect)

    def v2c(self, program: str, *rest: str, version: str = "2c", expect: int | None = 0) -> str:
        options = [f"-v{version}", "-c", COMMUNITY, "-t3", "-On", self.address]
        return self.run(program, *options, *rest, expect=expect)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node"), snmp="sha1 = true", workers=2)
    community, words = node.directory / "community", node.directory / "words"
    community.write_text(COMMUNITY)
    words.write_text("\n".join(WORDS))
    tmad = commands_of(node)
    tmad.run(
        "snmp", "community", "add", "site", "--prefix", "127.0.0.0/8",
        "--secret-file", str(community),
    )  # fmt: skip
    for name, (authentication, privacy) in (USERS | CISCO).items():
        kinds = ("--auth", authentication, "--priv", privacy)
        tmad.run("snmp", "user", "add", name, *kinds, "--secret-file", str(words))
    yield node.start()
    node.kill()


@pytest.fixture(scope="module")
def agent(daemon: Daemon, require_client: Any) -> Agent:
    for program in ("snmpget", "snmpwalk", "snmpbulkwalk", "snmpset"):
        require_client(program)
    found = Agent(daemon)
    eventually(
        lambda: "STRING" in found.v2c("snmpget", DESCRIPTION, expect=None), "the first answer"
    )
    return found


@pytest.mark.parametrize("name", USERS)
def test_a_s1_snmpget_with_every_algorithm(agent: Agent, name: str) -> None:
    assert '"tmad ' in agent.v3("snmpget", name, DESCRIPTION)


def test_a_s1_what_is_wrong_is_said(agent: Agent) -> None:
    def said(name: str, **other: str) -> str:
        return agent.v3("snmpget", name, DESCRIPTION, expect=None, **other)

    assert "Authentication failure" in said("u3", first="another word")
    assert "Decryption error" in said("u3", second="another word")
    assert "Unknown user name" in said("nobody")
    assert "authorizationError" in said("u3", level="noAuthNoPriv")
    assert "authorizationError" in said("u3", level="authNoPriv")


def names(output: str) -> list[tuple[int, ...]]:
    found = re.findall(r"^\.([0-9.]+) = (?!No more variables)", output, re.MULTILINE)
    return [tuple(map(int, name.split("."))) for name in found]


def test_a_s2_every_walk_is_the_same_and_ends(agent: Agent) -> None:
    walked = agent.v3("snmpbulkwalk", "u6", "-Cr100", ".1.3")
    assert "No more variables left" in walked
    expected = names(walked)
    assert len(expected) > 200
    assert expected == sorted(set(expected))
    for other in (
        agent.v3("snmpbulkwalk", "u3", "-Cr3", ".1.3"),
        agent.v3("snmpwalk", "u5", ".1.3"),
        agent.v2c("snmpwalk", ".1.3"),
        agent.v2c("snmpbulkwalk", "-Cr50", ".1.3"),
    ):
        # Processes, disks and the like come and go between two walks.
        assert len(set(names(other)) ^ set(expected)) < 20
        assert names(other) == sorted(set(names(other)))
    first = agent.v2c("snmpwalk", ".1.3", version="1")
    assert "End of MIB" in first
    assert "Counter64" not in first
    assert len(names(first)) > 150


def test_a_s3_snmpset_is_refused(agent: Agent) -> None:
    asked = ("1.3.6.1.2.1.1.6.0", "s", "elsewhere")
    assert "noAccess" in agent.v3("snmpset", "u3", *asked, expect=2)
    assert "noAccess" in agent.v2c("snmpset", *asked, expect=2)


def test_what_is_not_there_is_told_apart(agent: Agent) -> None:
    missing = agent.v2c("snmpget", "1.3.6.1.2.1.1.1.1", "1.3.6.1.2.1.99.1.0")
    assert "No Such Instance" in missing
    assert "No Such Object" in missing


def test_a_wrong_community_gets_no_answer(agent: Agent) -> None:
    options = ("-v2c", "-c", "public", "-t1", "-r0", agent.address, DESCRIPTION)
    assert "Timeout" in agent.run("snmpget", *options, expect=1)


def test_a_user_is_gone_at_the_very_next_question(agent: Agent, daemon: Daemon) -> None:
    assert '"tmad ' in agent.v3("snmpget", "u7", DESCRIPTION)
    daemon.tmad("snmp", "user", "remove", "u7")
    assert "Unknown user name" in agent.v3("snmpget", "u7", DESCRIPTION, expect=None)


def _ask_until_answered(wire: socket.socket, number: int) -> None:
    piece = codec.encode_binding(encode_oid((1, 3, 6, 1, 2, 1, 1, 1, 0)), NULL)
    pdu = codec.encode_pdu(Kind.GET, number, 0, 0, [piece])
    wire.send(codec.encode_community(1, COMMUNITY.encode(), pdu))
    while True:
        octets = wire.recv(65_536)
        assert len(octets) <= 1_472
        message = codec.decode(octets)
        if isinstance(message, codec.CommunityMessage):
            found = codec.decode_pdu(message.pdu)
            if found.request_id == number:
                assert found.bindings[0].value.value.startswith(b"tmad ")
                return


def test_t_snmp_01_ten_thousand_anomalies_and_the_next_good_one(
    agent: Agent, daemon: Daemon
) -> None:
    """G-BAD-2: through the socket. PROTOS' groups: lengths, tags, numbers, names, cut and long."""
    asked = codec.PDU(Kind.GETBULK, 1, 0, 20, [codec.VarBind(encode_oid((1, 3, 6, 1, 2, 1)), NULL)])
    seeds = [
        codec.encode_community(version, COMMUNITY.encode(), codec.pdu_octets(asked))
        for version in (0, 1, 3)
    ]
    source = random.Random(4711)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect(("127.0.0.1", daemon.snmp_port))
        wire.settimeout(10)
        for number in range(10_000):
            octets = bytearray(seeds[number % 3])
            for _ in range(source.randint(1, 4)):
                place = source.randrange(len(octets))
                octets[place] = source.choice((0, 1, 0x7F, 0x80, 0x84, 0xFF, source.randrange(256)))
            if number % 5 == 0:
                del octets[source.randrange(len(octets)) :]
            elif number % 7 == 0:
                octets += source.randbytes(source.randrange(2_000))
            wire.send(octets)
            if number % 100 == 99:
                # All of them were read before this one, which is answered.
                _ask_until_answered(wire, 1_000_000 + number)
    assert "Traceback" not in daemon.log.read_text(errors="replace")


# -- pysnmp ----------------------------------------------------------------------------------------

THEIR_HASHES = {
    "sha1": pysnmp.usmHMACSHAAuthProtocol,
    "sha224": pysnmp.usmHMAC128SHA224AuthProtocol,
    "sha256": pysnmp.usmHMAC192SHA256AuthProtocol,
    "sha384": pysnmp.usmHMAC256SHA384AuthProtocol,
    "sha512": pysnmp.usmHMAC384SHA512AuthProtocol,
}
THEIR_CIPHERS = {
    "aes128": pysnmp.usmAesCfb128Protocol,
    "aes192": pysnmp.usmAesBlumenthalCfb192Protocol,
    "aes256": pysnmp.usmAesBlumenthalCfb256Protocol,
    "aes192c": pysnmp.usmAesCfb192Protocol,
    "aes256c": pysnmp.usmAesCfb256Protocol,
}


async def _pysnmp_get(port: int, name: str, kinds: tuple[str, str]) -> str:
    engine = pysnmp.SnmpEngine()
    try:
        trouble, status, _, found = await pysnmp.get_cmd(
            engine,
            pysnmp.UsmUserData(
                name, *WORDS, authProtocol=THEIR_HASHES[kinds[0]],
                privProtocol=THEIR_CIPHERS[kinds[1]],
            ),
            await pysnmp.UdpTransportTarget.create(("127.0.0.1", port), timeout=3, retries=1),
            pysnmp.ContextData(),
            pysnmp.ObjectType(pysnmp.ObjectIdentity(DESCRIPTION)),
        )  # fmt: skip
        assert not trouble, trouble
        assert not status, status
        return str(found[0][1])
    finally:
        engine.close_dispatcher()


@pytest.mark.parametrize("name", ["u1", "u2", "u3", "u6", *CISCO])
def test_pysnmp_with_every_kind_of_key(agent: Agent, daemon: Daemon, name: str) -> None:
    kinds = (USERS | CISCO)[name]
    assert asyncio.run(_pysnmp_get(daemon.snmp_port, name, kinds)).startswith("tmad ")


async def _pysnmp_walk(port: int) -> list[tuple[int, ...]]:
    engine = pysnmp.SnmpEngine()
    found = []
    try:
        walk = pysnmp.bulk_walk_cmd(
            engine,
            pysnmp.CommunityData(COMMUNITY, mpModel=1),
            await pysnmp.UdpTransportTarget.create(("127.0.0.1", port), timeout=3, retries=1),
            pysnmp.ContextData(), 0, 25,
            pysnmp.ObjectType(pysnmp.ObjectIdentity("1.3.6.1.2.1.1")),
            lexicographicMode=False, lookupMib=False,
        )  # fmt: skip
        async for trouble, status, _, bindings in walk:
            assert not trouble, trouble
            assert not status, status
            found += [tuple(name) for name, _ in bindings]
    finally:
        engine.close_dispatcher()
    return found


def test_pysnmp_walks_with_getbulk(agent: Agent, daemon: Daemon) -> None:
    walked = asyncio.run(_pysnmp_walk(daemon.snmp_port))
    assert set(walked) == set(names(agent.v2c("snmpwalk", "1.3.6.1.2.1.1")))


# -- restarts --------------------------------------------------------------------------------------


def _boots(agent: Agent, daemon: Daemon) -> int:
    assert '"tmad ' in agent.v3("snmpget", "u3", DESCRIPTION)
    return int(daemon.json("snmp", "engine")["boots"])


def test_a_s4_boots_rise_with_each_start(agent: Agent, daemon: Daemon) -> None:
    """T-SNMP-05: a power cut takes nothing back."""
    before = _boots(agent, daemon)
    daemon.kill()
    daemon.start()
    eventually(
        lambda: "STRING" in agent.v3("snmpget", "u3", DESCRIPTION, expect=None),
        "an answer after the restart",
    )
    assert _boots(agent, daemon) == before + 1
