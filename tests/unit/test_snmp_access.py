"""Who may ask the SNMP agent: keys as RFC 3414 and pysnmp make them, rows, engines and boots."""

from __future__ import annotations

from hashlib import sha1, sha224, sha256, sha384, sha512
from typing import Any

import pytest
import sqlalchemy as sa
from pysnmp.proto import rfc1902
from pysnmp.proto.secmod.rfc3414 import localkey  # first: the next ones import it in a circle

from pysnmp.proto.secmod.eso.priv.aes192 import Aes192, AesBlumenthal192  # isort: skip
from pysnmp.proto.secmod.eso.priv.aes256 import Aes256, AesBlumenthal256  # isort: skip
from pysnmp.proto.secmod.rfc3414.auth.hmacsha import HmacSha
from pysnmp.proto.secmod.rfc7860.auth.hmacsha2 import HmacSha2

from tests.support import Clock, drive
from tests.unit.test_credentials import Notes
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.snmp_access import SNMPAccess
from tmad.identity.snmp_managers import Passphrases, parse_view
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.wire import usm

ADMIN = Actor.administrator("local:root")
ENGINE = bytes.fromhex("80001f880511223344")
HASHES: dict[str, Any] = {
    "sha1": sha1, "sha224": sha224, "sha256": sha256, "sha384": sha384, "sha512": sha512,
}  # fmt: skip
SERVICES = {
    "sha1": HmacSha.SERVICE_ID,
    "sha224": HmacSha2.SHA224_SERVICE_ID,
    "sha256": HmacSha2.SHA256_SERVICE_ID,
    "sha384": HmacSha2.SAH384_SERVICE_ID,
    "sha512": HmacSha2.SHA512_SERVICE_ID,
}


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)
        self.notes = Notes()
        self.seal = Seal(bytes(32))
        self.access = self.another()

    def another(self, node: str = "one") -> SNMPAccess:
        """Return the service of another process."""
        changes = Changes(self.database)
        return SNMPAccess(self.database, self.notes, changes, self.seal, self.clock, node=node)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.notes.events]


@pytest.fixture
def world() -> World:
    return World()


def refused(coroutine: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


# -- keys ------------------------------------------------------------------------------------------


def test_rfc_3414_a_3_2_and_a_5_2() -> None:
    """The RFC's examples with SHA-1 and this passphrase and engine."""
    key = usm.key_of("sha1", b"maplesyrup")
    assert key.hex() == "9fb5cc0381497b3793528939ff788d5d79145211"
    engine = bytes.fromhex("000000000000000000000002")
    assert usm.localised("sha1", key, engine).hex() == "6695febc9288e36282235fc7151f128497b38f3f"


@pytest.mark.parametrize("name", HASHES)
def test_keys_are_those_of_pysnmp(name: str) -> None:
    for phrase in (b"maplesyrup", b"x" * 8, b"y" * 255):
        key = usm.key_of(name, phrase)
        assert key == localkey.hash_passphrase(phrase, HASHES[name]).asOctets()
        theirs = localkey.localize_key(key, rfc1902.OctetString(ENGINE), HASHES[name])
        assert usm.localised(name, key, ENGINE) == theirs.asOctets()


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize(
    ("privacy", "theirs"),
    [
        ("aes192", AesBlumenthal192()),
        ("aes256", AesBlumenthal256()),
        ("aes192c", Aes192()),
        ("aes256c", Aes256()),
    ],
)
def test_long_keys_are_those_of_pysnmp(name: str, privacy: str, theirs: Any) -> None:
    key = usm.key_of(name, b"maplesyrup")
    expected = theirs.localize_key(SERVICES[name], key, rfc1902.OctetString(ENGINE))
    assert usm.privacy_key(name, privacy, key, ENGINE) == expected.asOctets()


def test_an_empty_passphrase_has_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        usm.key_of("sha256", b"")


# -- users and communities ---------------------------------------------------------------------


def test_a_user_is_there_at_the_next_question_everywhere(world: World) -> None:
    other = world.another()
    assert not drive(other.current()).users
    given = drive(world.access.add_user(ADMIN, "*", "noc", privacy="aes256"))
    assert len(given.authentication.reveal()) == len(given.privacy.reveal()) == 24
    assert given.authentication.reveal() != given.privacy.reveal()
    user = drive(other.current()).users[b"noc"]
    assert (user.authentication, user.privacy) == ("sha256", "aes256")
    expected = usm.key_of("sha256", given.authentication.reveal())
    assert user.authentication_key.reveal() == expected
    assert user.privacy_key.reveal() == usm.key_of("sha256", given.privacy.reveal())
    assert drive(other.user("noc")) == user
    drive(world.access.remove_user(ADMIN, "*", "noc"))
    assert not drive(other.current()).users
    assert refused(other.user("noc")).rule == "snmp.absent"
    assert world.kinds() == ["snmp-user.created", "snmp-user.deleted"]


def test_a_community_is_good_from_its_prefixes(world: World) -> None:
    add = world.access.add_community
    clear = drive(add(ADMIN, "*", "site", ["192.0.2.0/24", "2001:db8::/32"]))
    drive(add(ADMIN, "*", "other", ["198.51.100.1"], view="host", secret=clear))
    table = drive(world.access.current())

    def name(address: str, presented: bytes = clear.reveal()) -> str | None:
        found = table.community(presented, address)
        return None if found is None else found.name

    assert name("192.0.2.9") == name("::ffff:192.0.2.9") == name("2001:db8::1%eth0") == "site"
    assert name("198.51.100.1") == "other"
    assert name("198.51.100.2") is name("not an address") is None
    assert name("192.0.2.9", clear.reveal()[:-1]) is None
    assert drive(world.access.community("other")).community.reveal() == clear.reveal()
    assert refused(world.access.community("third")).rule == "snmp.absent"
    # Whoever reads the wire reads it: the journal says so each time.
    assert world.kinds() == ["snmp-community.created", "warning.raised"] * 2


def test_nothing_secret_is_stored_in_clear_or_shown(world: World) -> None:
    given = drive(world.access.add_user(ADMIN, "*", "noc"))
    clear = drive(world.access.add_community(ADMIN, "*", "site", ["192.0.2.0/24"]))

    def stored(connection: sa.Connection) -> list[Any]:
        return [
            *connection.execute(sa.text("SELECT keys FROM snmp_users")).scalars(),
            *connection.execute(sa.text("SELECT sealed FROM snmp_communities")).scalars(),
        ]

    table = drive(world.access.current())
    everything = (
        b"".join(drive(world.database.read(stored)))
        + repr((table, given, world.notes.events, drive(world.access.users(ADMIN, "*")))).encode()
    )
    user = table.users[b"noc"]
    for secret in (
        given.authentication, given.privacy, clear, user.authentication_key, user.privacy_key,
    ):  # fmt: skip
        assert secret.reveal() not in everything
        assert secret.reveal().hex().encode() not in everything


def test_a_row_of_another_name_is_not_opened(world: World) -> None:
    drive(world.access.add_user(ADMIN, "*", "noc"))
    drive(world.access.add_user(ADMIN, "*", "good"))

    def move(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE snmp_users SET name = 'root' WHERE name = 'noc'"))

    drive(world.database.write(move))
    assert list(drive(world.another().current()).users) == [b"good"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "with space"},
        {"name": "x" * 33},
        {"authentication": "md5"},
        {"privacy": "des"},
        {"view": ""},
        {"view": "everything"},
        {"view": "-all"},
        {"view": "1.3.6.x"},
        {"passphrases": Passphrases(Secret("short12"), Secret("long enough"))},
        {"passphrases": Passphrases(Secret("long enough"), Secret("l\u00f6ng enough"))},
    ],
)
def test_users_that_make_no_sense_are_refused(world: World, wrong: dict[str, Any]) -> None:
    asked = {"name": "noc"} | wrong
    fault = refused(world.access.add_user(ADMIN, "*", asked.pop("name"), **asked))
    assert fault.rule == "document.invalid"
    assert not drive(world.access.users(ADMIN, "*"))


@pytest.mark.parametrize("prefixes", [[], ["192.0.2.1/24"], ["example.test"]])
def test_a_community_needs_prefixes(world: World, prefixes: list[str]) -> None:
    fault = refused(world.access.add_community(ADMIN, "*", "site", prefixes))
    assert fault.rule == "document.invalid"


def test_a_name_is_taken_once(world: World) -> None:
    drive(world.access.add_user(ADMIN, "*", "noc"))
    fault = refused(world.access.add_user(ADMIN, "*", "noc"))
    assert (fault.code, fault.rule) == (FaultCode.CONFLICT, "snmp.name.taken")
    fault = refused(world.access.remove_community(ADMIN, "*", "noc"))
    assert (fault.code, fault.rule) == (FaultCode.NOT_FOUND, "snmp.absent")


def test_a_dry_run_changes_nothing(world: World) -> None:
    drive(world.access.add_user(ADMIN, "*", "noc", dry_run=True))
    assert not drive(world.access.users(ADMIN, "*"))


def test_sha_1_raises_a_warning(world: World) -> None:
    drive(world.access.add_user(ADMIN, "*", "old", authentication="sha1"))
    assert world.kinds() == ["snmp-user.created", "warning.raised"]


def test_a_grant_in_one_tenant_is_not_enough(world: World) -> None:
    here = Actor("person:x", (Grant("administrator", "acme"),))
    assert refused(world.access.add_user(here, "acme", "noc")).rule == "snmp.tenant"
    assert refused(world.access.users(here, "acme")).rule == "snmp.tenant"
    assert refused(world.access.users(here, "*")).rule == "access.permission"


# -- views -------------------------------------------------------------------------------------


def test_a_view_is_names_and_numbers() -> None:
    view = parse_view("all -1.3.6.1.2.1.25.4")
    assert [(each.oid, each.is_included) for each in view] == [
        ((1, 3, 6, 1), True),
        ((1, 3, 6, 1, 2, 1, 25, 4), False),
    ]
    assert all(not each.is_included for each in parse_view("1.3 -host")[1:])


# -- engines -----------------------------------------------------------------------------------


def test_t_snmp_05_boots_rise_and_the_engine_id_stays(world: World) -> None:
    states = [drive(world.access.boot()) for _ in range(3)]
    assert [state.boots for state in states] == [1, 2, 3]
    assert world.kinds() == ["snmp-engine.started"] * 3
    assert len({state.engine_id for state in states}) == 1
    assert len(states[0].engine_id) == 13
    assert states[0].engine_id.startswith(bytes.fromhex("80001f8805"))
    other = drive(world.another("two").boot())
    assert other.boots == 1
    assert other.engine_id != states[0].engine_id


def test_whoever_sends_for_the_engine_counts_its_seconds(world: World) -> None:
    drive(world.access.boot())
    world.clock.advance(seconds=100)
    state = drive(world.another().engine())
    assert (state.boots, state.age) == (1, 100.0)


def test_a_database_that_takes_no_changes_lets_the_time_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drive(world.access.boot())
    world.clock.advance(hours=1)

    async def standby(*_: Any, **__: Any) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "read only")

    monkeypatch.setattr(world.database, "write", standby)
    again = drive(world.access.boot())
    assert (again.engine_id, again.boots, again.age) == (first.engine_id, 1, 3600.0)
    # A node that has never written anything has an engine nonetheless, the same each time.
    never = world.another("standby")
    one = drive(never.boot())
    world.clock.advance(seconds=5)
    two = drive(never.boot())
    assert (one.engine_id, one.boots) == (two.engine_id, two.boots)
    assert two.age == one.age + 5
