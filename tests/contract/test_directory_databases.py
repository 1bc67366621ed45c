"""What the directory shows, on both databases: issued is found, revoked is gone at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.directory_world import (
    BASE,
    ONE,
    STAFF,
    SUFFIX,
    DirectoryWorld,
    eq,
    like,
    person,
)
from tests.hierarchy_world import ADMIN
from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap.filters import And, Extensible, Filter, Not, Or, Present
from tmad.protocols.ldap.tree import ANONYMOUS, Entry, Login
from tmad.storage.database import Database

ANYTHING = Present("objectClass")
CERTIFICATE = "userCertificate"


@pytest.fixture
def world(open_database: Callable[..., Database], clock: Clock) -> DirectoryWorld:
    return DirectoryWorld(database=open_database(reactor=None), clock=clock).furnish()


@pytest.fixture
def there(world: DirectoryWorld, open_database: Callable[..., Database]) -> DirectoryWorld:
    """Another process on the same database."""
    return DirectoryWorld(world, database=open_database(reactor=None), holder="two")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def held(entries: list[Entry]) -> set[bytes]:
    return {value for entry in entries for value in entry.attributes.get(CERTIFICATE, ())}


def refused(world: DirectoryWorld, wanted: Filter, *args: object, **more: object) -> Fault:
    with pytest.raises(Fault) as caught:
        world.search(wanted, *args, **more)  # type: ignore[arg-type]  # passed on
    return caught.value


# -- live -----------------------------------------------------------------------------------------


def test_issued_is_found_and_revoked_is_gone_at_the_next_search(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    by_mail = eq("mail", "ALICE@example.test")
    assert held(world.search(by_mail)) == set()
    one = there.mail_certificate("alice@example.test", owner="person:alice")
    assert held(world.search(by_mail)) == {der(one)}
    two = there.mail_certificate("alice@example.test")  # by its mail address alone
    [entry] = world.search(by_mail)
    # The newest comes first.
    assert entry.attributes[CERTIFICATE] == (der(two), der(one))
    there.revoke(one)
    assert held(world.search(by_mail)) == {der(two)}
    there.hold(two)
    assert held(world.search(by_mail)) == set()
    there.release(two)
    assert held(world.search(by_mail)) == {der(two)}
    world.later(days=4000)
    assert held(world.search(by_mail)) == set()


def test_what_cannot_be_trusted_any_more_is_not_shown(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    mine = there.mail_certificate("alice@example.test", owner="person:alice")
    sub = drive(there.hierarchy.active("default", "issuing")).certificate
    assert sub is not None
    there.hold(sub)
    assert held(world.search(eq("uid", "alice"))) == set()
    there.release(sub)
    assert held(world.search(eq("uid", "alice"))) == {der(mine)}
    drive(there.ceremony.compromise(ADMIN, "default", "issuing"))
    assert held(world.search(eq("uid", "alice"))) == set()
    [entry] = world.search(eq("cn", "issuing"))
    assert "cACertificate" not in entry.attributes
    # Its list is what tells others so.
    assert "certificateRevocationList" in entry.attributes


def test_people_and_devices_come_and_go(world: DirectoryWorld, there: DirectoryWorld) -> None:
    alice = eq("uid", "alice")
    there.change_person("alice", disabled_at=there.clock())
    assert world.names(alice) == []
    there.change_person("alice", disabled_at=None, valid_until=there.clock() + timedelta(hours=1))
    assert world.names(alice) == [person("alice")]
    world.later(hours=2)
    assert world.names(alice) == []
    assert drive(world.tree.who_is("default", "person:alice", is_secure=True)) is None
    there.change_person("alice", valid_until=None, full_name="Alicia Other", mail="al@example.test")
    assert world.names(eq("cn", "alicia other")) == [person("alice")]
    assert world.names(eq("sn", "Other")) == [person("alice")]
    assert world.names(eq("mail", "al@example.test")) == [person("alice")]
    assert world.names(eq("cn", "alice maria example")) == []


def test_rules_of_another_process_hold_at_once(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    mine = there.mail_certificate("alice@example.test", owner="person:alice")
    question = eq("mail", "alice@example.test")
    there.publish(anonymous="by-mail")
    assert held(world.search(question, who=ANONYMOUS)) == {der(mine)}
    there.publish(anonymous="by-mail", profiles=["wifi-*"])
    assert held(world.search(question, who=ANONYMOUS)) == set()
    there.publish(anonymous="nothing")
    assert refused(world, question, who=ANONYMOUS).rule == "ldap.forbidden"
    assert drive(world.tree.naming_contexts(ANONYMOUS)) == ()
    drive(there.objects.delete(ADMIN, "default", "directory", "main"))
    assert refused(world, question).rule == "ldap.no-such-object"


def test_a_revocation_is_in_the_list_that_the_directory_shows(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    mine = there.mail_certificate("alice@example.test", owner="person:alice")
    there.revoke(mine)
    [entry] = world.search(ANYTHING, "cn=issuing,ou=CAs,o=acme", BASE, who=ANONYMOUS)
    [crl_der] = entry.attributes["certificateRevocationList"]
    crl = x509.load_der_x509_crl(crl_der)
    assert crl.get_revoked_certificate_by_serial_number(mine.serial_number) is not None
    [ca] = entry.attributes["cACertificate"]
    issuer = drive(world.hierarchy.active("default", "issuing"))
    assert issuer.certificate is not None
    assert ca == der(issuer.certificate)


def test_t_ocsp_04_the_directory_never_disagrees_with_the_status(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    made = [there.mail_certificate("alice@example.test") for _ in range(8)]
    chance = random.Random(4)
    held_now: set[int] = set()
    for _ in range(24):
        one = chance.choice(made)
        if one.serial_number in held_now:
            there.release(one)
            held_now.discard(one.serial_number)
        elif drive(_is_good(there, one)):
            if chance.random() < 0.3:
                there.revoke(one)
            else:
                there.hold(one)
                held_now.add(one.serial_number)
        good = {der(each) for each in made if drive(_is_good(world, each))}
        assert held(world.search(eq("uid", "alice"))) == good


async def _is_good(world: DirectoryWorld, certificate: x509.Certificate) -> bool:
    [issuer] = await world.hierarchy.by_subject(certificate.issuer.public_bytes())
    return (await world.status.of(issuer.id, certificate.serial_number)).state == "good"


# -- whose certificate it is ----------------------------------------------------------------------


def test_everybody_with_a_shared_address_is_found(world: DirectoryWorld) -> None:
    for name in ("desk-1", "desk-2"):
        world.person(name, mail="desk@example.test")
    shared = world.mail_certificate("desk@example.test")
    found = world.search(eq("mail", "desk@example.test"))
    assert [entry.dn for entry in found] == [person("desk-1"), person("desk-2")]
    for entry in found:
        assert entry.attributes[CERTIFICATE] == (der(shared),)


def test_a_certificate_that_has_an_owner_is_nobody_elses(world: DirectoryWorld) -> None:
    theirs = world.mail_certificate("alice@example.test", owner="person:bob")
    assert held(world.search(eq("uid", "alice"))) == set()
    assert held(world.search(eq("uid", "bob"))) == {der(theirs)}
    machine = world.mail_certificate("bob@example.test", owner="device:printer-1.example.test")
    assert held(world.search(eq("uid", "bob"))) == {der(theirs)}
    assert held(world.search(eq("cn", "printer-1.example.test"))) == {der(machine)}


def test_a_certificate_is_found_by_serial_number_and_issuer(world: DirectoryWorld) -> None:
    mine = world.mail_certificate("alice@example.test", owner="person:alice")
    other = world.mail_certificate("bob@example.test")
    printer = world.issue("printer-1", profile="device", owner="device:printer-1.example.test")
    name = mine.issuer.rfc4514_string()
    serial = mine.serial_number
    for value in (
        f'{{ serialNumber {serial}, issuer rdnSequence:"{name}" }}',
        f'{{ serialNumber {serial}, issuer rdnSequence:"{name.upper()}" }}',
        f"{serial}${name}",
    ):
        assert world.names(eq(CERTIFICATE, value)) == [person("alice")]
        assert world.names(eq("userCertificate;binary", value)) == [person("alice")]
        for rule in ("certificateExactMatch", "2.5.13.34"):
            wanted = Extensible(rule, CERTIFICATE, value.encode(), False)
            assert world.names(wanted) == [person("alice")]
    assert world.names(eq(CERTIFICATE, der(mine))) == [person("alice")]
    assert world.names(eq(CERTIFICATE, f"{other.serial_number}${name}")) == [person("bob")]
    assert world.names(eq(CERTIFICATE, f"{printer.serial_number}${name}")) == [
        "cn=printer-1.example.test,ou=devices,o=acme"
    ]
    both = Or((eq(CERTIFICATE, der(mine)), eq(CERTIFICATE, der(printer))))
    assert len(world.names(both)) == 2
    for value in (f"{serial + 1}${name}", f"{serial}$CN=nobody", "nonsense", f"-{serial}${name}"):
        assert world.names(eq(CERTIFICATE, value)) == []
    world.revoke(mine)
    assert world.names(eq(CERTIFICATE, der(mine))) == []


def test_who_has_a_certificate_and_who_has_none(world: DirectoryWorld) -> None:
    world.mail_certificate("alice@example.test", owner="person:alice")
    world.mail_certificate("bob@example.test")
    having = And((eq("objectClass", "inetOrgPerson"), Present(CERTIFICATE)))
    assert world.names(having, "ou=people,o=acme") == [person("alice"), person("bob")]
    lacking = And((eq("objectClass", "inetOrgPerson"), Not(Present(CERTIFICATE))))
    assert world.names(lacking, "ou=people,o=acme") == [person("carol")]


def test_what_outlook_prefers_is_there(world: DirectoryWorld) -> None:
    mine = world.mail_certificate("alice@example.test", owner="person:alice")
    world.issue("laptop", owner="person:alice")  # not for mail
    [entry] = world.search(eq("uid", "alice"), attributes=frozenset({"usersmimecertificate"}))
    [value] = entry.attributes["userSMIMECertificate"]
    certificates = pkcs7.load_der_pkcs7_certificates(value)
    assert mine in certificates
    assert len(certificates) == 3


# -- what filters find ----------------------------------------------------------------------------


FOUND: list[tuple[Filter, list[str]]] = [
    (eq("uid", "ALICE"), ["alice"]),
    (eq("uid", "nobody"), []),
    (eq("cn", "bob  builder"), ["bob"]),
    (eq("commonName", "bob builder"), ["bob"]),
    (eq("2.5.4.4", "example"), ["alice", "carol"]),
    (eq("givenName", "Alice Maria"), ["alice"]),
    (eq("displayName", "carol example"), ["carol"]),
    (eq("name", "example"), ["alice", "carol"]),
    (eq("telephoneNumber", "+43 1234567"), ["bob"]),
    (like("mail", "bo*"), ["bob"]),
    (like("mail", "*@EXAMPLE.test"), ["alice", "bob"]),
    (like("cn", "*mar*"), ["alice"]),
    (like("cn", "*o*l*"), ["bob", "carol"]),
    (like("sn", "ex*"), ["alice", "carol"]),
    (like("uid", "ca*"), ["carol"]),
    (like("givenName", "ali*"), ["alice"]),
    (like("givenName", "*maria"), ["alice"]),
    (like("cn", "100%*"), []),
    (like("cn", "_lice*"), []),
    (Present("mail"), ["alice", "bob"]),
    (And((eq("objectClass", "person"), Not(Present("mail")))), ["carol"]),
    (And((eq("objectClass", "2.5.6.6"), Not(eq("uid", "bob")))), ["alice", "carol"]),
    (And((like("mail", "*example*"), eq("sn", "builder"))), ["bob"]),
    (Or((eq("uid", "alice"), eq("mail", "bob@example.test"))), ["alice", "bob"]),
    (Or((eq("uid", "alice"), eq("nothing", "x"))), ["alice"]),
    (And((eq("uid", "alice"), eq("nothing", "x"))), []),
    (And((eq("uid", "alice"), Not(eq("nothing", "x")))), []),
    (Not(And((eq("objectClass", "person"), eq("nothing", "x")))), []),
    (And((eq("uid", "alice"), Not(Present("nothing")))), ["alice"]),
    (eq("objectClass", "pkiUser"), ["alice", "bob", "carol"]),
    (Extensible("", "uid", b"bob", False), ["bob"]),
    (Extensible("caseExactMatch", "cn", b"Bob Builder", False), ["bob"]),
    (Extensible("caseExactMatch", "cn", b"bob builder", False), []),
    (Extensible("caseIgnoreMatch", "", b"bob", False), ["bob"]),
    (
        And((eq("objectClass", "person"), Extensible("", "ou", b"people", True))),
        ["alice", "bob", "carol"],
    ),
]


def test_filters_find_people(world: DirectoryWorld) -> None:
    for wanted, found in FOUND:
        expected = [person(name) for name in found]
        assert world.names(wanted, "ou=people,o=acme", ONE) == expected, wanted


def test_a_mail_programs_autocompletion(world: DirectoryWorld) -> None:
    """Thunderbird asks for what is typed in any of these."""
    typed = Or(tuple([like(a, "*exam*") for a in ("mail", "cn", "givenName", "sn")]))
    found = [person("alice"), person("bob"), person("carol")]
    assert world.names(typed, "ou=people,o=acme") == found


def test_scopes_and_what_holds_the_tree_together(world: DirectoryWorld) -> None:
    units = ["ou=CAs,o=acme", "ou=people,o=acme", "ou=devices,o=acme"]
    assert world.names(ANYTHING, SUFFIX, BASE) == [SUFFIX]
    assert world.names(ANYTHING, SUFFIX, ONE) == units
    every = world.names(ANYTHING)
    assert every == [
        SUFFIX, units[0], "cn=root,ou=CAs,o=acme", "cn=issuing,ou=CAs,o=acme", units[1],
        person("alice"), person("bob"), person("carol"), units[2],
        "cn=printer-1.example.test,ou=devices,o=acme",
    ]  # fmt: skip
    assert world.names(ANYTHING, person("bob"), BASE) == [person("bob")]
    assert world.names(ANYTHING, person("bob"), ONE) == []
    assert world.names(ANYTHING, "UID=Bob, OU=People, O=ACME") == [person("bob")]
    for limit in (1, 2, 3, 7):
        assert world.names(ANYTHING, limit=limit) == every


def test_a_base_that_is_not_there(world: DirectoryWorld) -> None:
    for base, matched in (
        ("o=other", ""),
        ("ou=nothing,o=acme", SUFFIX),
        ("uid=nobody,ou=people,o=acme", "ou=people,o=acme"),
        ("cn=bob,ou=people,o=acme", "ou=people,o=acme"),
        ("cn=x,uid=bob,ou=people,o=acme", "ou=people,o=acme"),
        ("cn=nobody,ou=CAs,o=acme", "ou=CAs,o=acme"),
    ):
        fault = refused(world, ANYTHING, base)
        assert (fault.code, fault.rule) == (FaultCode.NOT_FOUND, "ldap.no-such-object")
        assert fault.values == {"matched": matched}


def test_pages_of_many(world: DirectoryWorld) -> None:
    for number in range(250):
        world.person(f"p{number:03}", full_name=f"Person Numbered{number % 7}")
    people = "ou=people,o=acme"
    every = world.names(ANYTHING, people, ONE, limit=60)
    assert len(every) == 253
    assert every == sorted(every)
    assert world.names(eq("sn", "numbered3"), people, ONE, limit=5) == [
        person(f"p{number:03}") for number in range(250) if number % 7 == 3
    ]
    assert len(world.names(like("cn", "*numbered*"), people, limit=17)) == 250


def test_what_no_index_answers_is_bounded(world: DirectoryWorld) -> None:
    for number in range(150):
        world.person(f"p{number:03}", full_name=f"Person {number}")
    world.publish(look_through=20, scan=100)
    assert refused(world, like("cn", "*nobody*")).rule == "ldap.unindexed"
    assert refused(world, eq("createTimestamp", "19700101000000Z")).rule == "ldap.unindexed"
    # More items take longer to judge, so fewer entries are looked at.
    many = Or(tuple([like("cn", f"*nobody{n}*") for n in range(100)]))
    assert refused(world, many).rule == "ldap.unindexed"
    # What mail programs ask for while somebody types is looked for by the database.
    world.publish(look_through=20)
    typed = Or(tuple([like(a, "*n 14*") for a in ("mail", "cn", "givenName", "sn")]))
    assert world.names(typed) == [person(f"p{n:03}") for n in (14, *range(140, 150))]
    world.publish(look_through=20, scan=100)
    # An index bounds these, or the base does.
    assert world.names(eq("cn", "nobody")) == []
    assert world.names(And((eq("uid", "bob"), like("cn", "*nobody*")))) == []
    assert world.names(like("cn", "*nobody*"), person("bob")) == []
    assert world.names(like("sn", "14*")) == [person(f"p{n:03}") for n in (14, *range(140, 150))]


# -- who may see what -----------------------------------------------------------------------------


def test_strangers_find_people_by_their_whole_mail_address_alone(world: DirectoryWorld) -> None:
    world.publish(anonymous="by-mail")
    [entry] = world.search(eq("mail", "bob@example.test"), who=ANONYMOUS)
    assert entry.dn == person("bob")
    assert "telephoneNumber" not in entry.attributes
    assert {"cn", "mail", "objectClass"} <= set(entry.attributes)
    for wanted in (
        ANYTHING,
        like("mail", "bob*"),
        like("mail", "*example*"),
        eq("uid", "bob"),
        Or((eq("mail", "bob@example.test"), eq("sn", "example"))),
        Not(eq("mail", "bob@example.test")),
    ):
        assert refused(world, wanted, who=ANONYMOUS).rule == "ldap.unindexed"
    # Each of these is somebody whom they know already.
    known = Or((eq("mail", "bob@example.test"), eq("mail", "alice@example.test")))
    assert len(world.names(known, who=ANONYMOUS)) == 2
    # What is not shown is not tested, either.
    both = And((eq("mail", "bob@example.test"), eq("telephoneNumber", "+431234567")))
    assert world.names(both, who=ANONYMOUS) == []
    assert world.names(ANYTHING, "ou=CAs,o=acme", who=ANONYMOUS)
    assert refused(world, ANYTHING, "ou=devices,o=acme", who=ANONYMOUS).code is FaultCode.FORBIDDEN


def test_strangers_must_know_whom_they_look_for(world: DirectoryWorld) -> None:
    world.publish(anonymous="all")
    assert world.names(like("cn", "bob*"), who=ANONYMOUS) == [person("bob")]
    assert world.names(eq("cn", "printer-1.example.test"), who=ANONYMOUS) != []
    for wanted in (ANYTHING, like("cn", "bo*"), like("cn", "*bob"), Present("mail")):
        assert refused(world, wanted, who=ANONYMOUS).rule == "ldap.unindexed"


def test_strangers_see_authorities_by_default(world: DirectoryWorld) -> None:
    assert world.names(ANYTHING, who=ANONYMOUS) == [
        SUFFIX, "ou=CAs,o=acme", "cn=root,ou=CAs,o=acme", "cn=issuing,ou=CAs,o=acme",
    ]  # fmt: skip
    assert world.names(eq("mail", "bob@example.test"), who=ANONYMOUS) == []
    for base in ("ou=people,o=acme", person("bob"), person("nobody")):
        assert refused(world, ANYTHING, base, who=ANONYMOUS).rule == "ldap.forbidden"
    elsewhere = STAFF._replace(tenant="other")
    assert refused(world, ANYTHING, person("bob"), who=elsewhere).rule == "ldap.forbidden"


def test_people_see_of_each_other_what_the_directory_says(world: DirectoryWorld) -> None:
    world.publish(attributes=["cn", "mail"])
    [entry] = world.search(eq("uid", "bob"))
    assert "telephoneNumber" not in entry.attributes
    assert "sn" not in entry.attributes
    assert world.names(eq("telephoneNumber", "+431234567")) == []
    bob = STAFF._replace(name="bob", dn=person("bob"))
    [entry] = world.search(ANYTHING, person("bob"), BASE, who=bob)
    assert entry.attributes["telephoneNumber"] == (b"+431234567",)


def test_each_tenant_has_its_own_tree(world: DirectoryWorld) -> None:
    drive(world.objects.put(ADMIN, "*", "tenant", "other", {}))
    world.publish("theirs", "dc=other,dc=test", tenant="other", anonymous="all")
    world.person("bob", tenant="other", full_name="Another Bob", mail="bob@example.test")
    theirs = "uid=bob,ou=people,dc=other,dc=test"
    assert world.names(eq("mail", "bob@example.test"), "dc=other,dc=test") == [theirs]
    assert world.names(eq("mail", "bob@example.test")) == [person("bob")]
    mine = world.mail_certificate("bob@example.test")
    assert held(world.search(eq("uid", "bob"))) == {der(mine)}
    assert held(world.search(eq("uid", "bob"), "dc=other,dc=test")) == set()
    assert drive(world.tree.naming_contexts(STAFF)) == (SUFFIX, "dc=other,dc=test")
    assert drive(world.tree.login_of("UID=Bob,OU=people,DC=other,DC=test")) == Login("other", "bob")


def test_two_suffixes_never_mean_one_entry(world: DirectoryWorld) -> None:
    for suffix, rule in (("O=ACME", "objects.handle"), ("ou=x,o=acme", "directory.nested")):
        with pytest.raises(Fault) as caught:
            world.publish("second", suffix.lower())
        assert caught.value.code is FaultCode.CONFLICT, rule
    with pytest.raises(Fault) as caught:
        world.publish("second", "cn=acme")
    assert caught.value.code is FaultCode.REJECTED
    world.publish("second", "o=acme international", anonymous="all", publish=["authorities"])
    assert world.names(ANYTHING, "o=acme international", who=ANONYMOUS)[0] == "o=acme international"


# -- logins ---------------------------------------------------------------------------------------


def test_whom_a_login_means(world: DirectoryWorld) -> None:
    assert drive(world.tree.login_of(person("nobody"))) == Login("default", "nobody")
    for dn in ("o=acme", "o=other", "cn=issuing,ou=CAs,o=acme", "cn=bob,ou=people,o=acme"):
        assert drive(world.tree.login_of(dn)) is None
    with pytest.raises(Fault):
        drive(world.tree.login_of("bob"))
    bob = drive(world.tree.who_is("default", "person:BOB", is_secure=True))
    assert bob is not None
    assert (bob.kind, bob.dn, bob.is_secure) == ("person", person("bob"), True)
    printer = drive(world.tree.who_is("default", "device:printer-1.example.test", is_secure=False))
    assert printer is not None
    assert printer.dn == "cn=printer-1.example.test,ou=devices,o=acme"
    for owner in ("person:nobody", "device:nothing", "operator", ""):
        assert drive(world.tree.who_is("default", owner, is_secure=True)) is None
    assert drive(world.tree.who_is("other", "person:bob", is_secure=True)) is None


def test_operational_attributes(world: DirectoryWorld) -> None:
    [entry] = world.search(eq("uid", "bob"), attributes=frozenset({"+"}))
    found = entry.attributes
    assert found["entryDN"] == (person("bob").encode(),)
    assert found["structuralObjectClass"] == (b"inetOrgPerson",)
    assert found["hasSubordinates"] == (b"FALSE",)
    assert found["createTimestamp"][0].endswith(b"Z")
    [again] = world.search(eq("uid", "bob"), attributes=frozenset({"entryuuid"}))
    assert again.attributes["entryUUID"] == found["entryUUID"]
    assert world.names(eq("entryDN", person("bob")), person("bob")) == [person("bob")]


def test_names_that_need_escaping(world: DirectoryWorld) -> None:
    for name in ("a,b", "a+b", 'a"b', "*", ")(uid=*", "#x", "ü & co"):
        world.person(name, mail=f"m{len(name)}{ord(name[0])}@example.test")
        [entry] = world.search(eq("uid", name))
        assert entry.attributes["uid"] == (name.encode(),)
        assert world.names(ANYTHING, entry.dn, BASE) == [entry.dn]
        assert world.names(eq("entryDN", entry.dn), entry.dn, BASE) == [entry.dn]
