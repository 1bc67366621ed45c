"""What validators read from strangers' servers and devices: a value or a Fault, quickly."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.names import dns as twisted_dns

from tests import attestation as made
from tests.attestation import NOW, Maker, cbor
from tests.fuzz.mutations import judge, mutated, one_octet_wrong
from tests.name_server import add, reply_to
from tests.unit.validation_world import DIGEST, KEY_AUTHORIZATION, TOKEN, certificate, question
from tmad.ca.validation import attestation, caa, tls_alpn01
from tmad.ca.validation.contract import Identifier, Problem
from tmad.ca.validation.http01 import is_host
from tmad.errors import Fault
from tmad.wire import cbor as wire_cbor
from tmad.wire import dns, tpm
from tmad.wire.answer import Answer
from tmad.wire.parsing import UNREADABLE

MAKER = Maker()
KEY = ec.generate_private_key(ec.SECP256R1())
FORMATS = ["apple", "tpm", "step"]


def message(*records: tuple[str, str, Any], code: int = 0) -> bytes:
    """Return an answer that Twisted has encoded, with its compressed names."""
    asked = twisted_dns.Message(id=7, recDes=1)
    asked.queries = [twisted_dns.Query("www.example.test", twisted_dns.TXT)]
    answer = reply_to(asked)
    answer.rCode = code
    for name, kind, value in records:
        add(answer, name, kind, value)
    octets: bytes = answer.toStr()
    return octets


NAME = "www.example.test"
MESSAGES = [
    message(),
    message(code=3),
    message((NAME, "CNAME", "a.example.test"), ("a.example.test", "TXT", b"x" * 600)),
    message((NAME, "A", "192.0.2.1"), (NAME, "AAAA", "2001:db8::1")),
    message((NAME, "CAA", (True, "issue", "ca.test; accounturi=https://ca.test/1"))),
]


def read_message(octets: bytes) -> None:
    found = dns.decode(octets)
    assert len(found.records) <= 200
    for each in found.records:
        assert len(each.name) <= 254
        if isinstance(each.data, dns.CAA):
            caa.parse(each.data.value)


@given(mutated(st.sampled_from(MESSAGES)) | one_octet_wrong(st.sampled_from(MESSAGES)))
def test_dns_messages(octets: bytes) -> None:
    judge(read_message, octets)


@given(st.binary(max_size=600))
def test_octets_behind_a_good_header(octets: bytes) -> None:
    judge(read_message, MESSAGES[0][:4] + b"\0\1\0\5\0\0\0\0" + octets)


LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=6).map(".".join)
RECORDS = st.one_of(
    st.tuples(NAMES, st.just("TXT"), st.binary(max_size=600)),
    st.tuples(NAMES, st.just("CNAME"), NAMES),
    st.tuples(NAMES, st.just("A"), st.ip_addresses(v=4).map(str)),
    st.tuples(NAMES, st.just("AAAA"), st.ip_addresses(v=6).map(str)),
)


@given(st.lists(RECORDS, max_size=20))
def test_twisted_is_the_judge_of_good_messages(records: list[tuple[str, str, Any]]) -> None:
    found = dns.decode(message(*records))
    assert [(each.name, each.kind.name) for each in found.records] == [
        (name, kind) for name, kind, _ in records
    ]
    for each, (_, kind, value) in zip(found.records, records, strict=True):
        assert (each.data if kind == "TXT" else str(each.data)) == value


@given(NAMES)
def test_questions_are_what_twisted_reads(name: str) -> None:
    asked = twisted_dns.Message()
    asked.fromStr(dns.query(4711, name, dns.Kind.CAA))
    assert (asked.id, asked.recDes, asked.queries[0].type) == (4711, 1, 257)
    assert asked.queries[0].name.name.decode() == name


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200\r\n\r\nhello",
    b"HTTP/1.1 302 Found\r\nLocation: http://www.example.test/x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
]


def read_answer(octets: bytes, cuts: list[int]) -> Any:
    """Read an answer in pieces; return what came of it."""
    answer = Answer(8)
    try:
        begin = 0
        for cut in sorted(min(cut, len(octets)) for cut in cuts):
            answer.receive(octets[begin:cut])
            begin = cut
        answer.receive(octets[begin:])
        answer.end()
    except Fault as fault:
        return fault.rule
    assert len(answer.body) <= 9
    return answer.status, answer.location, bytes(answer.body)


@given(
    st.sampled_from(ANSWERS)
    | one_octet_wrong(st.sampled_from(ANSWERS))
    | mutated(st.sampled_from(ANSWERS)),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_answers_do_not_depend_on_where_they_are_cut(octets: bytes, cuts: list[int]) -> None:
    whole = judge(read_answer, octets, [])
    in_pieces = judge(read_answer, octets, cuts)
    assert type(whole) is type(in_pieces)
    if isinstance(whole, tuple):
        assert whole == in_pieces


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(VALUES)
def test_cbor_comes_back(value: Any) -> None:
    found = judge(wire_cbor.decode, cbor(value))
    if not isinstance(found, Fault):  # too deep
        assert found == value


@given(st.binary(max_size=200) | mutated(st.sampled_from([cbor({"fmt": "tpm", "x": [1, b"y"]})])))
def test_cbor(octets: bytes) -> None:
    judge(wire_cbor.decode, octets)


PUBLIC = made.public_area(KEY)
INFORMATION = made.certify_info(PUBLIC, b"x" * 32)
SIGNATURE = made.tpm_signature(KEY, INFORMATION)


@given(one_octet_wrong(st.sampled_from([PUBLIC, INFORMATION, SIGNATURE])) | st.binary(max_size=99))
def test_tpm_structures(octets: bytes) -> None:
    judge(tpm.public, octets)
    judge(tpm.certified, octets)
    assert judge(tpm.verify, KEY.public_key(), octets, INFORMATION) is None or octets != SIGNATURE


STATEMENTS = {
    "apple": made.apple(MAKER, KEY, TOKEN, serial="device"),
    "tpm": made.tpm(MAKER, KEY, KEY_AUTHORIZATION, device="device"),
    "step": made.yubikey(MAKER, KEY, KEY_AUTHORIZATION, serial=4711),
}


@st.composite
def statements(draw: st.DrawFn) -> bytes:
    """Return a good statement with one member or one certificate mutated, or the whole of it."""
    kind = draw(st.sampled_from(FORMATS))
    statement = dict(STATEMENTS[kind])
    name = draw(st.sampled_from(sorted(statement)))
    value = statement[name]
    if isinstance(value, bytes):
        statement[name] = draw(one_octet_wrong(st.just(value)))
    elif isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        statement[name] = [*value[:at], draw(mutated(st.just(value[at]))), *value[at + 1 :]]
    else:
        statement[name] = draw(VALUES)
    return made.payload(kind, statement)


@given(statements() | one_octet_wrong(st.just(made.payload("tpm", STATEMENTS["tpm"]))))
def test_attestations(posted: bytes) -> None:
    asked = question(
        "device-attest-01", "device", "permanent-identifier", payload=posted,
        attestation_formats=FORMATS, attestation_roots=[MAKER.root_pem],
    )  # fmt: skip
    found = judge(attestation.validate, asked, NOW)
    if isinstance(found, Fault):
        assert found.values["problem"] == Problem.BAD_ATTESTATION


SHOWN = certificate(
    x509.DNSName(NAME), extensions=((tls_alpn01.ACME_IDENTIFIER.dotted_string, True,
                                     b"\x04\x20" + DIGEST),)
)[0].public_bytes(made.Encoding.DER)  # fmt: skip


def read_certificate(octets: bytes) -> None:
    try:
        found = x509.load_der_x509_certificate(octets)
    except UNREADABLE:
        return
    tls_alpn01.check(found, Identifier("dns", NAME), KEY_AUTHORIZATION)


@given(mutated(st.just(SHOWN)))
def test_certificates_of_tls_alpn_01(octets: bytes) -> None:
    judge(read_certificate, octets)


@given(st.text(max_size=80) | st.binary(max_size=80))
def test_caa_values_and_hosts(text: Any) -> None:
    judge(caa.parse, text if isinstance(text, bytes) else text.encode())
    judge(is_host, text if isinstance(text, str) else text.decode("latin-1"))
