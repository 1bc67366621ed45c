"""SCEP from the outside: any bytes get a Response, and only a good request enrols."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from tests import scep_client as client
from tests.fuzz.mutations import judge, mutated
from tests.unit.scep_core import SmallCore, rsa_key
from tmad.errors import Fault, FaultCode
from tmad.protocols.scep import codec
from tmad.wire import der

CORE = SmallCore(manual=True)
OWN = client.self_signed(rsa_key())
REQUEST = client.make_csr(rsa_key(), challenge="secret")
ENVELOPE = client.make_envelope(REQUEST, CORE.ra)
POLL = client.issuer_and_subject(CORE.ca.certificate.subject, client.name("device"))
SEEDS = [
    client.make_message(ENVELOPE, OWN).der,
    client.make_message(ENVELOPE, OWN, message_type="17").der,
    client.make_message(client.make_envelope(POLL, CORE.ra), OWN, message_type="20").der,
    client.make_message(
        client.make_envelope(client.issuer_and_serial(CORE.ra), CORE.ra), OWN, message_type="21"
    ).der,
]


@given(st.binary(max_size=400) | mutated(st.sampled_from(SEEDS)))
def test_decode_is_a_value_or_malformed(data: bytes) -> None:
    result = judge(codec.decode, data)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


@given(mutated(st.sampled_from(SEEDS), most=2))
def test_any_body_gets_an_answer(data: bytes) -> None:
    answer = judge(CORE.post, data)
    assert answer.status in (200, 400)
    assert all(request.evidence == REQUEST for request in CORE.requests)
    CORE.requests.clear()
    CORE.journal_rows.clear()


@st.composite
def inner(draw: st.DrawFn) -> bytes:
    """A well-signed, well-sealed message about nonsense."""
    content = draw(st.binary(max_size=200) | mutated(st.sampled_from([REQUEST, POLL])))
    kind = draw(st.sampled_from(["17", "19", "20", "21", "22", "18"]))
    if draw(st.booleans()):
        content = client.make_envelope(content, CORE.ra)
    else:
        content = draw(mutated(st.just(ENVELOPE)))
    return client.make_message(content, OWN, message_type=kind).der


@given(inner())
def test_signed_nonsense_gets_a_certrep(data: bytes) -> None:
    answer = judge(CORE.post, data)
    assert answer.status == 200
    reply = client.read_reply(answer.body, None, CORE.ra)
    if reply.status == client.FAILURE:
        assert reply.fail_info in ("0", "1", "2", "4")
    assert all(request.evidence == REQUEST for request in CORE.requests)
    CORE.requests.clear()
    CORE.journal_rows.clear()


@given(
    st.binary(max_size=300)
    | st.text("operationmessage=&%+ GetCACapsPKI0123ABCDEF\n", max_size=200).map(str.encode)
)
def test_any_query_gets_an_answer(query: bytes) -> None:
    result = judge(codec.decode_get_message, query)
    assert isinstance(result, bytes) or result.code is FaultCode.MALFORMED
    assert judge(CORE.get, query.decode("latin-1")).status in (200, 400, 404)


@given(st.binary(max_size=40))
def test_any_tail_gets_an_answer(tail: bytes) -> None:
    assert judge(CORE.get, "operation=GetCACaps", tail).status in (200, 404)


def test_g_bad_3_the_costliest_messages() -> None:
    """At the caps of the door: 64 kB, 1 500 elements."""
    worst = [
        b"\x30\x82\xff\xf0" + b"\x05\x00" * 32_000,
        b"\x30\x80" * 32_000,
        b"\x24\x80" * 31 + b"\x04\x82\xf0\x00" + bytes(0xF000) + b"\0\0" * 31,
        _with_certificates(SEEDS[0], 60),
    ]
    for body in worst:
        tracemalloc.start()
        try:
            judge(codec.decode, body)
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()


def _with_certificates(body: bytes, count: int) -> bytes:
    own = OWN.der
    reader = der.read(body, der.SEQUENCE)
    oid = reader.raw()
    signed = reader.enter(0xA0).enter(der.SEQUENCE)
    head = signed.raw() + signed.raw() + signed.raw()
    signed.raw()
    tail = signed.raw()
    filled = der.explicit(0, *[own] * count)
    return der.sequence(oid, der.explicit(0, der.sequence(head, filled, tail)))
