"""LDAP from strangers: a value or Fault(MALFORMED), a notice and an end, in bounded time."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap

from tests.fuzz.mutations import judge, mutated
from tests.ldap_world import World
from tests.unit.test_ldap_codec import FILTERS, MALFORMED, wire
from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import codec, evaluation, schema
from tmad.protocols.ldap.codec import Control, Search
from tmad.protocols.ldap.filters import (
    And,
    Approx,
    AtLeast,
    AtMost,
    Equal,
    Extensible,
    Filter,
    Not,
    Or,
    Present,
    Substrings,
)
from tmad.protocols.ldap.tree import Entry

SLOWEST = 0.05  # seconds, X-01 and G-BAD-3


def _written(wanted: Filter) -> Any:
    """Return a filter of ours as ldaptor's object."""
    text = pureber.BEROctetString
    match wanted:
        case And(parts) | Or(parts):
            kind = pureldap.LDAPFilter_and if isinstance(wanted, And) else pureldap.LDAPFilter_or
            return kind([_written(part) for part in parts])
        case Not(part):
            return pureldap.LDAPFilter_not(_written(part))
        case Present(attribute):
            return pureldap.LDAPFilter_present(attribute)
        case Substrings(attribute, initial, middle, final):
            pieces = [pureldap.LDAPFilter_substrings_any(piece) for piece in middle]
            if initial is not None:
                pieces.insert(0, pureldap.LDAPFilter_substrings_initial(initial))
            if final is not None:
                pieces.append(pureldap.LDAPFilter_substrings_final(final))
            return pureldap.LDAPFilter_substrings(type=attribute, substrings=pieces)
        case Extensible(rule, attribute, value, dn_attributes):
            return pureldap.LDAPFilter_extensibleMatch(
                matchingRule=rule or None,
                type=attribute or None,
                matchValue=value,
                dnAttributes=dn_attributes or None,
            )
        case Equal(attribute, value):
            kind = pureldap.LDAPFilter_equalityMatch
        case AtLeast(attribute, value):
            kind = pureldap.LDAPFilter_greaterOrEqual
        case AtMost(attribute, value):
            kind = pureldap.LDAPFilter_lessOrEqual
        case Approx(attribute, value):
            kind = pureldap.LDAPFilter_approxMatch
        case _:
            raise AssertionError(wanted)
    return kind(attributeDesc=text(attribute), assertionValue=text(value))


_names = st.sampled_from(["cn", "mail", "userCertificate;binary", "2.5.4.3", "noSuch", "é"])
_values = st.binary(max_size=20)
_items = (
    st.builds(Present, _names)
    | st.builds(Equal, _names, _values)
    | st.builds(AtLeast, _names, _values)
    | st.builds(AtMost, _names, _values)
    | st.builds(Approx, _names, _values)
    | st.builds(
        Substrings,
        _names,
        st.none() | _values,
        st.lists(_values, min_size=1, max_size=3).map(tuple),
        st.none() | _values,
    )
    | st.builds(
        Extensible,
        st.sampled_from(["caseIgnoreMatch", "2.5.13.5", "noSuch"]),
        _names,
        _values,
        st.booleans(),
    )
)
_filters = st.recursive(
    _items,
    lambda inner: (
        st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=12,
)
SEEDS = [
    *[
        wire(pureldap.LDAPSearchRequest(baseObject="o=acme", scope=2, filter=_written(wanted)))
        for wanted in FILTERS.values()
    ],
    wire(pureldap.LDAPBindRequest(dn="uid=p0001,ou=people,o=acme", auth=b"1000p")),
    wire(pureldap.LDAPBindRequest(dn="", auth=(b"EXTERNAL", b""), sasl=True)),
    wire(pureldap.LDAPUnbindRequest()),
    wire(pureldap.LDAPAbandonRequest(id=7)),
    wire(pureldap.LDAPStartTLSRequest()),
    wire(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I)),
    wire(
        pureldap.LDAPExtendedRequest(requestName=codec.CANCEL, requestValue=b"\x30\x03\x02\x01\x01")
    ),
    wire(pureldap.LDAPDelRequest(entry="o=acme")),
    pureldap.LDAPMessage(
        pureldap.LDAPSearchRequest(baseObject="", scope=2),
        id=9,
        controls=[
            (codec.PAGED, True, codec.encode_paged(2, b"").value),
            (codec.SORT, False, codec.sequence(codec.sequence(codec.tlv(4, b"cn")))),
        ],
    ).toWire(),
]
_seeds = st.sampled_from(SEEDS)


def read(data: bytes) -> codec.Message | None:
    """Decode; None for a Fault that is as it should be."""
    found = judge(codec.decode, data)
    if isinstance(found, Fault):
        if found.code is not FaultCode.MALFORMED:
            raise found
        return None
    assert isinstance(found, codec.Message)
    return found


@given(st.binary(max_size=300))
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x82" * 2_000)
def test_any_octets(data: bytes) -> None:
    read(data)
    try:
        assert codec.length_of(data) >= 0
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise


@settings(max_examples=300)
@given(mutated(_seeds))
def test_t_ldap_05_nearly_right_messages(data: bytes) -> None:
    found = read(data)
    if found is None or not isinstance(found.operation, Search):
        return
    # Whatever filter it is, an entry is judged by it.
    test = judge(evaluation.tester, found.operation.filter, schema)
    entry = Entry("cn=a", {"cn": (b"a",), "objectClass": (b"top",)})
    assert judge(test, entry) in (True, False, None)


@given(_filters, st.sampled_from([0, 1, 2]), st.integers(0, 2**31 - 1), st.booleans())
def test_what_ldaptor_writes_we_read(
    wanted: Filter, scope: int, limit: int, types_only: bool
) -> None:
    request = pureldap.LDAPSearchRequest(
        baseObject="o=acme",
        scope=scope,
        sizeLimit=limit,
        typesOnly=types_only,
        filter=_written(wanted),
        attributes=["cn"],
    )
    found = read(wire(request))
    assert found is not None
    assert found.operation == Search("o=acme", scope, limit, 0, types_only, wanted, ("cn",))


@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from(list(codec.Result)),
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.lists(st.builds(Control, st.just("1.2.3"), st.booleans(), st.none() | _values), max_size=3),
)
def test_what_we_write_ldaptor_reads(
    number: int, code: codec.Result, text: str, controls: list[Control]
) -> None:
    from tests.unit.test_ldap_codec import read as read_with_ldaptor

    octets = codec.message(number, codec.result(codec.SEARCH_DONE, code, "", text), controls)
    assert codec.length_of(octets) == len(octets)
    found = read_with_ldaptor(octets)
    assert (found.id, found.value.resultCode) == (number, code)
    assert found.value.errorMessage == text.encode()
    assert len(found.controls or []) == len(controls)


@settings(max_examples=150, deadline=None)
@given(st.lists(mutated(_seeds) | _seeds | st.binary(max_size=40), min_size=1, max_size=5),
       st.integers(1, 60))  # fmt: skip
def test_t_ldap_02_a_connection_answers_or_ends(messages: list[bytes], size: int) -> None:
    """Whatever arrives, in whatever pieces: answers that can be read, or an end; no exception."""
    world = World()
    client = world.connect(is_secure=True)
    stream = b"".join(messages)
    begin = time.thread_time()
    for start in range(0, len(stream), size):
        if client.is_closed:
            break
        client.send(stream[start : start + size])
        world.reactor.advance(0)
    # A collection of garbage may fall into it.
    assert time.thread_time() - begin < SLOWEST * (len(messages) + 3)
    client.answers()
    # Somebody else is served all the same.
    other = world.connect()
    assert len(other.ask(pureldap.LDAPSearchRequest(baseObject="o=acme", scope=0))) == 2


# The last two are an unbind, and no message yet.
@pytest.mark.parametrize("name", sorted(MALFORMED.keys() - {"rest", "nothing"}))
def test_t_ldap_02_what_is_malformed_ends_its_connection(name: str) -> None:
    client = World().connect()
    client.send(MALFORMED[name])
    answers = client.answers()
    assert client.is_closed
    assert answers[-1].id == 0


@pytest.mark.parametrize(
    "filter_",
    [
        b"\xa2\x84\x00\x03\xff\x00" * 40_000,
        codec.tlv(0xA0, b"\xa0\x00" * 100_000),
        codec.tlv(0xA0, b"\x87\x00" * 100_000),
        codec.tlv(0xA4, codec.tlv(4, b"cn") + codec.tlv(0x30, b"\x81\x00" * 100_000)),
        codec.tlv(0xA9, b"\x83\x00" * 100_000),
        codec.tlv(0xA3, codec.tlv(4, b"a" * 250_000) + b"\x04\x00"),
    ],
)
def test_t_ldap_01_the_worst_filters_are_cheap(filter_: bytes) -> None:
    head = b"\x04\x00\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00"
    data = codec.message(1, codec.tlv(0x63, head + filter_ + b"\x30\x00"))
    tracemalloc.start()
    try:
        read(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_most_that_a_filter_may_be_is_judged_in_time() -> None:
    value = b" a" * 300
    item = Substrings("cn", value, (value,) * 4, value)
    wanted: Filter = Or(tuple([item] * 42))
    for _ in range(31):
        wanted = Not(wanted)
    entry = Entry("cn=a", {"cn": tuple([value * 3] * 20), "objectClass": (b"top",)})
    assert judge(evaluation.tester(wanted, schema), entry) in (True, False)
