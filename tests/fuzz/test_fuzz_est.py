"""EST's bodies and fields: a value or a Fault, quickly, whatever a stranger sends."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tests.unit.est_world import make_csr
from tmad.errors import Fault, FaultCode
from tmad.protocols.est import codec
from tmad.wire import der
from tmad.wire.signatures import Age, Policy

POLICY = Policy(Age.LEGACY)
KEY = ec.generate_private_key(ec.SECP256R1())


def unsigned(*attributes: tuple[str, bytes]) -> bytes:
    """Return a template with any attributes, whose signature is not looked at."""
    outer = der.read(make_csr(key=KEY), der.SEQUENCE)
    info = outer.enter(der.SEQUENCE)
    kept = [info.raw() for _ in range(3)]
    parts = sorted(der.sequence(der.oid(oid), der.tlv(der.SET, value)) for oid, value in attributes)
    return der.sequence(der.sequence(*kept, der.explicit(0, *parts)), outer.rest())


SEEDS = [
    make_csr(key=KEY, attributes=(("1.2.840.113549.1.9.7", b"MDEyMzQ1Njc4OWFi"),)),
    make_csr(key=KEY, attributes=(("1.2.840.113549.1.9.16.2.58", b"MDEyMzQ1Njc4OWFi"),)),
    unsigned(
        ("1.2.840.113549.1.9.16.2.54", der.octets(b"k" * 20)),
        ("1.2.840.113549.1.9.15", der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.1.2")))),
        ("1.2.840.113549.1.9.16.2.56", der.tlv(der.UTF8_STRING, b"123456")),
        ("1.3.6.1.5.5.7.7.36", der.sequence()),
    ),
]
BODIES = [base64.b64encode(seed) for seed in SEEDS] + [base64.encodebytes(seed) for seed in SEEDS]
REFUSALS = {
    FaultCode.MALFORMED,
    FaultCode.UNSUPPORTED,
    FaultCode.BAD_ALGORITHM,
    FaultCode.BAD_PROOF,
}


def read_all(body: bytes) -> None:
    """Ask everything that a template can be asked."""
    request = codec.decode_request(body, POLICY, is_proof=False)
    codec.is_linked(codec.links(request), (b"0123456789ab",))
    word = codec.challenge(request)
    assert word is None or "Secret()" in repr(word)
    for question in (codec.key_recipient, codec.check_subject):
        answer = judge(question, request)
        if isinstance(answer, Fault):
            assert answer.code in (*REFUSALS, FaultCode.REJECTED)


@given(st.binary(max_size=300) | mutated(st.sampled_from(BODIES)) | mutated(st.sampled_from(SEEDS)))
def test_a_body_is_a_request_or_a_fault(body: bytes) -> None:
    result = judge(codec.decode_request, body, POLICY)
    if isinstance(result, Fault):
        assert result.code in REFUSALS


@given(mutated(st.sampled_from(SEEDS)))
def test_what_stands_in_a_template_is_a_value_or_a_fault(octets: bytes) -> None:
    result = judge(read_all, base64.b64encode(octets))
    if isinstance(result, Fault):
        assert result.code in REFUSALS


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: f"Basic {b.decode('latin1')}"))
def test_an_authorization_is_a_name_and_a_password_or_a_fault(field: str) -> None:
    result = judge(codec.decode_basic, field)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


@given(st.text(max_size=60), st.binary(max_size=60))
def test_any_name_and_password_come_through(user: str, password: bytes) -> None:
    name = user.replace(":", "").encode("utf-8", "ignore")
    field = base64.b64encode(name + b":" + password).decode()
    found = codec.decode_basic(f"basic  {field} ")
    assert found is not None
    assert (found.user.encode(), found.password.reveal()) == (name, password)


def test_a_body_of_the_largest_size_is_cheap() -> None:
    for body in (b"A" * 524_288, b" " * 524_288, b"\x30" * 524_288, b"-" * 524_288,
                 b"-----BEGIN CERTIFICATE REQUEST-----" * 14_000):  # fmt: skip
        assert isinstance(judge(codec.decode_request, body, POLICY), Fault)
