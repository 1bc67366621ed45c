"""People and devices: names, details, passwords, and what the journal keeps of each change."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.login_world import ADMIN, LoginWorld
from tests.support import drive
from tmad.config import PasswordSection
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import naming, passwords
from tmad.identity.actors import Actor, Grant
from tmad.identity.devices import Particulars
from tmad.identity.passwords import Passwords
from tmad.identity.people import Details
from tmad.signer.seal import Seal
from tmad.storage import people as rows
from tmad.wire.md4 import md4

ABOUT = "password default/bob"


@pytest.fixture
def world() -> LoginWorld:
    return LoginWorld()


def fault(coroutine: Any) -> tuple[FaultCode, str]:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value.code, caught.value.rule


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Bob", "bob"),
        ("  bob\t", "bob"),
        ("Bob  Smith", "bob smith"),
        ("\uff22ob", "bob"),
        ("STRASSE", "strasse"),
        ("Stra\u00dfe", "strasse"),
        ("bob@Example.Test", "bob@example.test"),
        ("\u1e9b\u0323", "\u1e69"),  # NFKC: long s with two dots is one letter
        ("\u03a3\u03b1\u03c2", "\u03c3\u03b1\u03c3"),
    ],
)
def test_t_otp_06_names_have_one_spelling(typed: str, name: str) -> None:
    assert naming.person_name(typed) == name


@given(st.text(max_size=60))
def test_t_otp_06_the_spelling_is_final(text: str) -> None:
    key = naming.person_key(text)
    assert naming.person_key(key) == key
    assert naming.spellings(text, ("realm",))[0] == key


@pytest.mark.parametrize(
    "name", ["", "   ", "a/b", "a\\b", "a\0b", "a\u200bb", "a\u202eb", "x" * 129, "\ud800"]
)
def test_what_is_no_name_of_a_person(name: str) -> None:
    with pytest.raises(Fault) as caught:
        naming.person_name(name)
    assert caught.value.rule == "person.name"


@pytest.mark.parametrize(
    ("function", "good", "stored", "bad"),
    [
        (naming.mail_address, "Bob@Example.Test", "bob@example.test", "bob"),
        (naming.mail_address, "", "", "a b@c"),
        (naming.phone_number, "+49 (351) 123-456", "+49351123456", "0351 123456"),
        (naming.phone_number, "0049351123456", "+49351123456", "+0123456789"),
        (naming.phone_number, "", "", "+49351abc"),
        (naming.mac_address, "AA-BB-CC-DD-EE-FF", "aabbccddeeff", "aa:bb:cc:dd:ee"),
        (naming.mac_address, "aabb.ccdd.eeff", "aabbccddeeff", "gg:bb:cc:dd:ee:ff"),
        (naming.device_name, "Laptop-1.Example.Test.", "laptop-1.example.test", "a b"),
        (naming.group_name, " Domain  Users ", "Domain Users", "a,b"),
    ],
)
def test_things_are_stored_in_one_spelling(function: Any, good: str, stored: str, bad: str) -> None:
    assert function(good) == stored
    with pytest.raises(Fault) as caught:
        function(bad)
    assert caught.value.code is FaultCode.REJECTED


# -- people ------------------------------------------------------------------------------------


def test_a_person_is_made_changed_and_deleted_with_its_difference_journaled(
    world: LoginWorld,
) -> None:
    made = drive(
        world.people.create(
            ADMIN,
            "default",
            "Bob",
            Details(
                full_name="Bob B.",
                mail="BOB@example.test",
                phone="+49 351 12345",
                groups=("b", "a"),
            ),
        )
    )
    assert (made.name, made.mail, made.phone, made.groups) == (
        "bob",
        "bob@example.test",
        "+4935112345",
        ("a", "b"),
    )
    drive(world.people.update(ADMIN, "default", "BOB", Details(mail="", full_name="Robert")))
    drive(world.people.change_groups(ADMIN, "default", "bob", add=["c"], remove=["a", "z"]))
    assert drive(world.people.show(ADMIN, "default", "bob")).of.groups == ("b", "c")
    drive(world.people.delete(ADMIN, "default", "bob"))
    created, changed, regrouped, deleted = world.journal.events
    assert [event.kind for event in world.journal.events] == [
        "person.created",
        "person.changed",
        "person.changed",
        "person.deleted",
    ]
    assert "~ mail: - -> bob@example.test" in created.data["difference"]
    assert changed.data["difference"] == [
        "~ full_name: Bob B. -> Robert",
        "~ mail: bob@example.test -> -",
    ]
    assert regrouped.data["difference"] == ["~ groups: a, b -> b, c"]
    assert deleted.object == "person:bob"
    assert {event.actor for event in world.journal.events} == {"local:test"}


def test_nothing_is_written_where_nothing_changes(world: LoginWorld) -> None:
    drive(world.person())
    before = len(world.journal.events)
    drive(world.people.enable(ADMIN, "default", "bob"))
    drive(world.people.update(ADMIN, "default", "bob", Details(full_name="")))
    assert len(world.journal.events) == before


def test_a_dry_run_changes_nothing(world: LoginWorld) -> None:
    drive(world.people.create(ADMIN, "default", "eve", dry_run=True))
    assert fault(world.people.show(ADMIN, "default", "eve")) == (
        FaultCode.NOT_FOUND,
        "person.absent",
    )
    drive(world.person())
    drive(world.people.disable(ADMIN, "default", "bob", dry_run=True))
    assert drive(world.people.show(ADMIN, "default", "bob")).of.disabled_at is None


def test_a_name_is_taken_whatever_its_spelling(world: LoginWorld) -> None:
    drive(world.person())
    assert fault(world.people.create(ADMIN, "default", "\uff22OB ")) == (
        FaultCode.CONFLICT,
        "person.exists",
    )
    drive(world.people.create(ADMIN, "acme", "bob"))


def test_who_is_not_there(world: LoginWorld) -> None:
    absent = (FaultCode.NOT_FOUND, "person.absent")
    for method in ("disable", "enable", "unlock", "delete", "remove_password", "set_password"):
        assert fault(getattr(world.people, method)(ADMIN, "default", "eve")) == absent, method
    given = Secret("a long password")
    assert fault(world.people.set_password(ADMIN, "default", "eve", given)) == absent


def test_other_tenants_people_are_not_there(world: LoginWorld) -> None:
    drive(world.people.create(ADMIN, "acme", "dave"))
    ours = Actor("local:us", (Grant("operator", "default"),))
    assert fault(world.people.show(ours, "acme", "dave"))[0] is FaultCode.NOT_FOUND
    assert fault(world.people.disable(ours, "acme", "dave"))[0] is FaultCode.NOT_FOUND
    assert fault(world.people.show(ours, "default", "dave")) == (
        FaultCode.NOT_FOUND,
        "person.absent",
    )
    approver = Actor("local:p", (Grant("approver", "default"),))
    assert fault(world.people.list(approver, "default"))[0] is FaultCode.FORBIDDEN


def test_pages_of_people(world: LoginWorld) -> None:
    for name in ("carol", "alice", "bob"):
        drive(world.person(name))
    page = drive(world.people.list(ADMIN, "default", limit=2))
    assert [person.name for person in page] == ["alice", "bob"]
    page = drive(world.people.list(ADMIN, "default", after="bob"))
    assert [person.name for person in page] == ["carol"]


def test_failures_that_strangers_collected_are_not_a_new_persons(world: LoginWorld) -> None:
    drive(world.person())
    for _ in range(10):
        world.refused(world.login("wrong", mode="password"))
    drive(world.people.delete(ADMIN, "default", "bob"))
    drive(world.person(password="a long password"))
    world.allowed(world.login("a long password", mode="password"))


def test_who_comes_from_a_directory_is_changed_there(world: LoginWorld) -> None:
    drive(world.person())
    now = world.clock()

    def adopt(connection: Any) -> None:
        person = rows.locked(connection, "default", "bob")
        assert person is not None
        rows.update(connection, replace(person, source="ad.example.test", updated_at=now))

    drive(world.database.write(adopt))
    refused = (FaultCode.CONFLICT, "person.source")
    assert fault(world.people.update(ADMIN, "default", "bob", Details(mail="x@y.test"))) == refused
    assert fault(world.people.set_password(ADMIN, "default", "bob")) == refused
    # What the appliance decides itself it may still decide.
    drive(world.people.disable(ADMIN, "default", "bob"))
    drive(world.people.set_end(ADMIN, "default", "bob", now + timedelta(days=1)))


# -- passwords ---------------------------------------------------------------------------------


def test_a_password_is_argon2id_and_appears_nowhere(world: LoginWorld) -> None:
    drive(world.person("bob", "correct horse battery"))
    person = drive(world.people.show(ADMIN, "default", "bob")).of
    assert person.password_hash is not None
    assert person.password_hash.startswith("$argon2id$v=19$m=8192,t=1,p=1$")
    assert person.password_hash not in repr(person)
    [event] = [e for e in world.journal.events if e.kind == "person.password-set"]
    assert event.data["difference"] == ["~ password"]
    everything = f"{world.journal.events} {person}"
    assert "battery" not in everything
    assert "argon2id" not in everything


def test_a_random_password_is_returned_once_and_works(world: LoginWorld) -> None:
    drive(world.person())
    password = drive(world.people.set_password(ADMIN, "default", "bob"))
    assert len(password.reveal()) == 23
    assert str(password) == "Secret()"
    world.allowed(world.login(password.reveal(), mode="password"))
    drive(world.people.remove_password(ADMIN, "default", "bob"))
    assert world.refused(world.login(password.reveal(), mode="password")) == "login.no-password"
    assert passwords.generate().reveal() != password.reveal()


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "aaaaaaaa",
        "abababab",
        "Alice@example.test",
        "ALICE SMITH",
        "x" * 129,
        "tab\there",
    ],
)
def test_passwords_that_nobody_should_have(world: LoginWorld, password: str) -> None:
    drive(world.person("alice", mail="alice@example.test", full_name="Alice Smith"))
    refused = world.people.set_password(ADMIN, "default", "alice", Secret(password))
    assert fault(refused) == (FaultCode.REJECTED, "password.weak")


def test_a_password_is_the_same_in_every_unicode_form_and_space(world: LoginWorld) -> None:
    drive(world.person("bob", "caf\u00e9 au lait"))
    world.allowed(world.login("cafe\u0301 au\u00a0lait", mode="password"))
    assert world.refused(world.login("Caf\u00e9 au lait", mode="password"))
    assert world.refused(world.login(b"caf\xe9 au lait", mode="password"))


def test_a_hash_is_good_for_its_row_and_master_key_only(world: LoginWorld) -> None:
    cost = PasswordSection(memory_kib=8_192, iterations=1)
    checks = world.passwords
    stored = drive(checks.hash(ABOUT, Secret("secret word")))
    assert drive(checks.is_right(ABOUT, Secret("secret word"), stored))
    assert not drive(checks.is_right(ABOUT + "x", Secret("secret word"), stored))
    other = Passwords(Seal(b"o" * 32), cost, None)
    assert not drive(other.is_right(ABOUT, Secret("secret word"), stored))
    assert not drive(checks.is_right(ABOUT, Secret("secret word"), None))
    empty = drive(checks.hash(ABOUT, Secret("")))
    assert not drive(checks.is_right(ABOUT, Secret(""), empty))


@pytest.mark.parametrize(
    "stored",
    [
        "plain",
        "$argon2i$v=19$m=8192,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=8192,t=101,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
    ],
)
def test_a_hash_that_was_put_there_takes_no_memory(world: LoginWorld, stored: str) -> None:
    assert fault(world.passwords.is_right(ABOUT, Secret("x"), stored)) == (
        FaultCode.BAD_INTEGRITY,
        "password.hash",
    )


@pytest.mark.parametrize("pin", ["123", "1111", "1234", "4321", "x" * 17, "12 34", "a\tbc"])
def test_pins_that_nobody_should_have(pin: str) -> None:
    with pytest.raises(Fault) as caught:
        passwords.check_new_pin(Secret(pin))
    assert caught.value.rule == "password.weak"


def test_md4_vectors() -> None:
    # RFC 1320, A.5
    vectors = {
        b"": "31d6cfe0d16ae931b73c59d7e0c089c0",
        b"a": "bde52cb31de33e46245e05fbdbd6fb24",
        b"abc": "a448017aaf21d8525fc10ae87aa6729d",
        b"message digest": "d9130a8164549fe818874806e1c7014b",
        b"abcdefghijklmnopqrstuvwxyz": "d79e1c308aa5bbcdeea8ed63df412da9",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": (
            "043f8582f241db351ce627e153e7f0e4"
        ),
        b"1234567890" * 8: "e33b4ddc9c38f2199c3e7b164fcc0536",
    }
    assert {text: md4(text).hex() for text in vectors} == vectors


# -- devices -----------------------------------------------------------------------------------


def test_a_device_is_made_blocked_and_deleted_with_its_difference_journaled(
    world: LoginWorld,
) -> None:
    drive(world.person())
    made = drive(
        world.devices.create(
            ADMIN,
            "default",
            "Laptop-1",
            Particulars(mac="AA:BB:CC:00:11:22", owner="BOB", description="grey"),
        )
    )
    assert (made.name, made.mac, made.owner) == ("laptop-1", "aabbcc001122", "bob")
    drive(world.devices.block(ADMIN, "default", "laptop-1."))
    drive(world.devices.block(ADMIN, "default", "laptop-1"))
    shown = drive(world.devices.show(ADMIN, "default", "LAPTOP-1"))
    assert shown.blocked_at == world.clock()
    drive(world.devices.update(ADMIN, "default", "laptop-1", Particulars(mac="", owner="")))
    drive(world.devices.unblock(ADMIN, "default", "laptop-1"))
    drive(world.devices.delete(ADMIN, "default", "laptop-1"))
    kinds = [kind for kind in world.journal.kinds() if kind.startswith("device.")]
    assert kinds == [
        "device.created",
        "device.blocked",
        "device.changed",
        "device.unblocked",
        "device.deleted",
    ]
    [changed] = [e for e in world.journal.events if e.kind == "device.changed"]
    assert changed.data["difference"] == ["~ mac: aabbcc001122 -> -", "~ owner: bob -> -"]


def test_what_a_device_cannot_be(world: LoginWorld) -> None:
    drive(world.devices.create(ADMIN, "default", "one", Particulars(mac="aabbcc001122")))
    assert fault(world.devices.create(ADMIN, "default", "ONE")) == (
        FaultCode.CONFLICT,
        "device.exists",
    )
    twin = world.devices.create(ADMIN, "default", "two", Particulars(mac="aa-bb-cc-00-11-22"))
    assert fault(twin) == (FaultCode.CONFLICT, "device.exists")
    drive(world.devices.create(ADMIN, "acme", "one", Particulars(mac="aabbcc001122")))
    drive(world.devices.create(ADMIN, "default", "two"))
    moved = world.devices.update(ADMIN, "default", "two", Particulars(mac="aabbcc001122"))
    assert fault(moved) == (FaultCode.CONFLICT, "device.exists")
    for particulars, rule in (
        (Particulars(owner="nobody"), "device.owner"),
        (Particulars(mac="12"), "device.mac"),
        (Particulars(description="x" * 501), "device.text"),
        (Particulars(serial_number="a\x1bb"), "device.text"),
    ):
        asked = world.devices.update(ADMIN, "default", "two", particulars)
        assert fault(asked) == (FaultCode.REJECTED, rule)
    for method in ("block", "unblock", "delete", "show"):
        asked = getattr(world.devices, method)(ADMIN, "default", "three")
        assert fault(asked) == (FaultCode.NOT_FOUND, "device.absent")
    page = drive(world.devices.list(ADMIN, "default", after="one"))
    assert [device.name for device in page] == ["two"]
