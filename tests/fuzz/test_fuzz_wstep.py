"""Windows' enrolment: XML, tokens, LDAP answers and tickets are values or Faults, quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tests.scep_client import self_signed
from tests.unit.wstep_world import csr, get_policies, issue, query, signed_by
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import kerberos
from tmad.protocols.wstep import codec, policies
from tmad.wire import der, ldap, soap
from tmad.wire.signatures import Age, Policy

VECTORS = Path(__file__).parents[1] / "vectors" / "wstep"
POLICY = Policy(Age.LEGACY)
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = csr(key=KEY)
RENEWAL = signed_by(CSR, self_signed(KEY).certificate, KEY)
MESSAGES = [
    issue(CSR), issue(RENEWAL, user="bob", word="w"), query(7), get_policies(),
    *[path.read_bytes() for path in sorted(VECTORS.glob("*.xml"))],
]  # fmt: skip
REFUSALS = {
    FaultCode.MALFORMED,
    FaultCode.UNSUPPORTED,
    FaultCode.BAD_ALGORITHM,
    FaultCode.BAD_INTEGRITY,
    FaultCode.BAD_PROOF,
}
NAMES = st.sampled_from(["s:Envelope", "s:Header", "s:Body", "a:Action", "x", "o:Security"])


def read(body: bytes) -> Any:
    """Ask everything that a message can be asked."""
    message = soap.decode(body)
    for question in (lambda: codec.decode(message, POLICY), lambda: policies.decode(message)):
        result = judge(question)
        if isinstance(result, Fault):
            assert result.code in REFUSALS
    return message


def check(result: Any) -> None:
    if isinstance(result, Fault):
        assert result.code in REFUSALS


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Return a message in which some octets, or whole tags, are others."""
    data = draw(st.sampled_from(MESSAGES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        upto = min(len(data), at + draw(st.integers(0, 60)))
        piece = draw(st.binary(max_size=12) | st.builds(lambda n: f"<{n}>".encode(), NAMES))
        data = data[:at] + piece + data[upto:]
    return data


@given(st.binary(max_size=300) | edited())
def test_a_message_is_read_or_refused(body: bytes) -> None:
    check(judge(read, body))


@given(mutated(st.sampled_from([CSR, RENEWAL])))
def test_a_token_is_a_request_or_a_fault(token: bytes) -> None:
    check(judge(read, issue(token)))


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_whatever_is_written_is_read_again(one: str, two: str, three: str) -> None:
    node = soap.element("urn:a", "b", one, attributes={soap.Name("", "c"): two})
    found = soap.parse(soap.write(soap.element("urn:x", "y", node)))
    [inside] = found.children
    # What no XML can hold, a question mark stands for; white space in an attribute is a space.
    assert len(inside.text) == len(one)
    assert len(inside.get("", "c")) == len(two)
    check(judge(soap.instant, three))


def reply(tag: int, *parts: bytes) -> bytes:
    return der.sequence(der.integer(1), der.tlv(tag, *parts))


REPLIES = [
    reply(
        0x64, der.octets(b"CN=bob"),
        der.sequence(der.sequence(der.octets(b"cn"), der.tlv(0x31, der.octets(b"bob")))),
    ),
    reply(0x65, der.tlv(0x0A, b"\0"), der.octets(b""), der.octets(b"")),
    reply(0x61, der.tlv(0x0A, b"\x31"), der.octets(b""), der.octets(b"no")),
    b"\x30\x84\x00\x00\x00\x07\x02\x01\x01\x73\x84\x00\x00\x00\x00",
]  # fmt: skip


@given(st.binary(max_size=200) | mutated(st.sampled_from(REPLIES)))
def test_an_answer_of_a_directory_is_read_or_refused(data: bytes) -> None:
    length = judge(ldap.length_of, data)
    check(length)
    result = judge(ldap.decode, data)
    check(result)
    if isinstance(result, ldap.Reply) and isinstance(result.content, ldap.Entry):
        for question in (result.content.text, result.content.octets, result.content.number):
            check(judge(question, "cn"))


@given(st.binary(max_size=80))
def test_sids_are_read_or_refused(data: bytes) -> None:
    result = judge(ldap.sid_text, data)
    check(result)
    if isinstance(result, str):
        assert ldap.sid_octets(result) == data
    assert isinstance(judge(kerberos.sid_in_upn_info, data), bytes)
    check(judge(ldap.sid_octets, data.decode("latin-1")))


@given(st.text(max_size=200), st.binary(max_size=200))
def test_a_filter_holds_a_value_and_nothing_else(attribute: str, value: bytes) -> None:
    wanted = ldap.equal("cn", value)
    reader = der.Reader(der.content(wanted, 0xA3))
    assert reader.content(der.OCTET_STRING) == b"cn"
    assert reader.content(der.OCTET_STRING) == value
    reader.finish()
    name = attribute.encode("utf-8", "replace").decode()
    assert isinstance(judge(ldap.bind, 1, name, Secret(value)), bytes | Fault)
