"""What the database looks for is never less than what a filter is TRUE of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.directory_world import STAFF, SUBTREE, SUFFIX, DirectoryWorld, eq
from tests.support import drive
from tmad.errors import Fault
from tmad.protocols.ldap import conditions, evaluation, matching, schema
from tmad.protocols.ldap.conditions import DEVICES, PEOPLE, compiled
from tmad.protocols.ldap.filters import (
    And,
    Approx,
    AtLeast,
    Equal,
    Extensible,
    Filter,
    Not,
    Or,
    Present,
    Substrings,
    Unknown,
)
from tmad.protocols.ldap.tree import Entry
from tmad.storage.conditions import EVERYTHING, NOTHING, Both, Either, Like, Same
from tmad.storage.directory import lookups

ANYTHING = Present("objectClass")


@pytest.fixture(scope="module")
def world() -> tuple[DirectoryWorld, list[Entry]]:
    made = DirectoryWorld().furnish()
    made.person("dora", full_name="Dora  Straße", mail="dora@example.test")
    made.person("eve", full_name="ÉVE", mail="eve@example.test", phone="+15551234")
    made.person("x", full_name="100% _under\\score")
    made.device("cam-2")
    for mail, owner in (
        ("alice@example.test", "person:alice"),
        ("bob@example.test", ""),
        ("cam@example.test", "device:cam-2"),
    ):
        made.mail_certificate(mail, owner=owner)
    return made, made.search(ANYTHING)


attributes = st.sampled_from(
    ["uid", "cn", "CN", "commonName", "sn", "givenName", "displayName", "name", "mail",
     "telephoneNumber", "objectClass", "userCertificate", "userCertificate;binary", "cn;lang-de",
     "userSMIMECertificate", "owner", "serialNumber", "description", "ou", "o", "nothing",
     "entryDN", "createTimestamp", "structuralObjectClass", "cACertificate", "2.5.4.3"]
)  # fmt: skip
values = st.sampled_from(
    [b"alice", b"ALICE ", b"bob builder", b"example", b"alice@example.test", b"EVE@example.test",
     b"\xc3\xa9ve", b"STRASSE", b"dora strasse", b"+43 1234567", b"person", b"2.5.6.6", b"device",
     b"SN 17", b"uid=bob,ou=people,o=acme", b"a", b"e", b" ", b"", b"\xff", b"*", b"%", b"_",
     b"100%", b"under\\s", b"acme", b"people", b"cam-2", b"issuing", b"Alice Maria", b"maria"]
)  # fmt: skip
rules = st.sampled_from(["", "caseIgnoreMatch", "caseExactMatch", "2.5.13.2", "nothing",
                         "caseIgnoreOrderingMatch", "certificateExactMatch"])  # fmt: skip
items = st.one_of(
    st.builds(Present, attributes),
    st.builds(Equal, attributes, values),
    st.builds(Approx, attributes, values),
    st.builds(AtLeast, attributes, values),
    st.builds(
        Substrings,
        attributes,
        st.none() | values,
        st.lists(values, max_size=2).map(tuple),
        st.none() | values,
    ),
    st.builds(Extensible, rules, st.just("") | attributes, values, st.booleans()),
    st.just(Unknown(99)),
)
wanted_filters = st.recursive(
    items,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=6,
)


FOUND_BY = ("uid", "cn", "sn", "givenName", "displayName", "name", "mail")
PIECES = (
    b"alice", b"ALICE ", b"alice maria", b"bob builder", b"example", b"eve@EXAMPLE.test", b"dora",
    b"\xc3\xa9ve", b"STRASSE", b"dora strasse", b"100%", b"_under\\s", b"cam-2", b"a", b" ",
)  # fmt: skip


@pytest.mark.parametrize("attribute", FOUND_BY)
def test_every_way_to_ask_for_a_name(
    world: tuple[DirectoryWorld, list[Entry]], attribute: str
) -> None:
    tree, every = world
    ways: list[Filter] = [Present(attribute), Not(Present(attribute))]
    for piece in PIECES:
        half = len(piece) // 2
        ways += [
            Equal(attribute, piece),
            Substrings(attribute, piece, (), None),
            Substrings(attribute, None, (piece,), None),
            Substrings(attribute, None, (), piece),
            Substrings(attribute, piece[:half] or None, (), piece[half:] or None),
            Not(Substrings(attribute, piece[:1], (), None)),
        ]
    matched = 0
    for wanted in ways:
        test = evaluation.tester(wanted, schema)
        expected = [entry.dn for entry in every if test(entry)]
        assert tree.names(wanted) == expected, wanted
        matched += bool(expected)
    assert matched > len(ways) // 4


@given(wanted=wanted_filters)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_search_finds_what_looking_at_every_entry_finds(
    world: tuple[DirectoryWorld, list[Entry]], wanted: Filter
) -> None:
    tree, every = world
    test = evaluation.tester(wanted, schema)
    expected = [entry.dn for entry in every if test(entry)]
    try:
        assert tree.names(wanted) == expected
    except Fault as fault:
        # Without an index it may be refused, but there are too few entries for that here.
        pytest.fail(f"{fault} {wanted}")


@given(wanted=wanted_filters, limit=st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_pages_of_any_size_are_the_whole(
    world: tuple[DirectoryWorld, list[Entry]], wanted: Filter, limit: int
) -> None:
    tree, _ = world
    assert tree.names(wanted, limit=limit) == tree.names(wanted)


@given(wanted=wanted_filters, names=st.frozensets(st.sampled_from(["cn", "mail", "*", "+", "1.1"])))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_answer_needs_changes_nothing_about_what_matches(
    world: tuple[DirectoryWorld, list[Entry]], wanted: Filter, names: frozenset[str]
) -> None:
    tree, _ = world
    page = drive(tree.tree.search(STAFF, SUFFIX, SUBTREE, wanted, limit=1000, attributes=names))
    assert [entry.dn for entry in page.entries] == tree.names(wanted)


def test_what_is_simple_is_one_lookup() -> None:
    mail = Same("mail", "a@example.test")
    both = And((eq("objectClass", "inetOrgPerson"), eq("mail", "A@example.test")))
    assert compiled(both, PEOPLE, None, {}) == mail
    assert compiled(both, DEVICES, None, {}) == NOTHING
    assert compiled(eq("mail", "x@y"), PEOPLE, frozenset({"cn"}), {}) == NOTHING
    assert compiled(ANYTHING, PEOPLE, None, {}) == EVERYTHING
    assert compiled(Not(ANYTHING), PEOPLE, None, {}) == NOTHING
    assert compiled(And(()), PEOPLE, None, {}) == EVERYTHING
    assert compiled(Or(()), PEOPLE, None, {}) == NOTHING


def test_the_narrowest_index_is_taken() -> None:
    begins, mail = Like("cn_key", "al", (), ""), Same("mail", "a@b")
    assert lookups("people", Both((begins, mail))) == [mail]
    assert lookups("people", Either((begins, mail))) == [begins, mail]
    assert lookups("people", Either((begins, Like("cn_key", "", ("x",), "")))) is None
    assert lookups("people", Both((Like("cn_key", "", ("x",), ""), begins))) == [begins]
    assert lookups("devices", mail) is None


def test_strangers_must_name_whom_they_look_for() -> None:
    columns = frozenset({"mail"})
    mail = Same("mail", "a@b")
    assert conditions.is_bound(Both((mail, Same("name", "x"))), columns, None)
    assert not conditions.is_bound(Either((mail, Same("name", "x"))), columns, None)
    assert conditions.is_bound(NOTHING, columns, None)
    assert not conditions.is_bound(EVERYTHING, columns, None)
    assert conditions.is_bound(Like("mail", "abc", (), ""), columns, 3)
    assert not conditions.is_bound(Like("mail", "ab", (), "c"), columns, 3)


def test_a_certificate_of_a_version_that_does_not_exist_matches_nothing() -> None:
    """The library has an error of its own for it, which is no ValueError."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "v4")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 2**80, begin, begin.replace(year=2027)
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert matching._certificate(certificate) is not None
    version = b"\xa0\x03\x02\x01"
    assert matching._certificate(certificate.replace(version + b"\2", version + b"\3")) is None
