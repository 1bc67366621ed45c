"""SMPP: whatever a centre sends, a PDU or a Fault; what we send is read back the same."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge
from tmad.errors import Fault, FaultCode
from tmad.identity.delivery import smpp_codec as codec
from tmad.identity.delivery.smpp_codec import Bare, Deliver, Response, Unknown

DELIVER = (
    b"\0\x01\x01491701234567\0\x01\x01491709999999\0\x04\0\0\0\0\0\0\0\0\x05hello\x04\x27\0\x01\x02"
)
SEEDS = [
    codec.encode(codec.BIND_TRANSCEIVER | codec.RESPONSE, 0, 1, b"smsc\0\x02\x10\0\x01\x34"),
    codec.encode(codec.SUBMIT_SM | codec.RESPONSE, 0, 2, b"message-1\0"),
    codec.encode(codec.SUBMIT_SM | codec.RESPONSE, 0x58, 2),
    codec.encode(codec.DELIVER_SM, 0, 3, DELIVER),
    codec.encode(codec.ENQUIRE_LINK, 0, 4),
    codec.encode(codec.GENERIC_NACK, 3, 5),
    codec.encode(0x103, 0, 6, b"data_sm"),
]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(4, len(data)))
        end = min(len(data), at + draw(st.integers(0, 6)))
        data = data[:at] + draw(st.binary(max_size=8)) + data[end:]
    # Mostly with the right length, or nothing behind the header would ever be looked at.
    return draw(st.just(len(data).to_bytes(4) + data[4:]) | st.just(data))


@given(altered() | st.binary(max_size=64))
@example(b"")
def test_any_pdu(data: bytes) -> None:
    result = judge(codec.decode, data)
    if isinstance(result, Fault):
        assert (result.code, result.rule) == (FaultCode.MALFORMED, "otp.smpp.malformed")
    else:
        assert isinstance(result, Bare | Response | Deliver | Unknown)


@given(st.lists(st.sampled_from(SEEDS), max_size=6), st.data())
def test_pieces_make_no_difference(pdus: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pdus)
    stream = codec.Stream()
    found: list[bytes] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += stream.receive(whole[:size])
        whole = whole[size:]
    assert found == pdus


@given(st.binary(min_size=4, max_size=200))
def test_any_stream(data: bytes) -> None:
    def read() -> list[bytes]:
        return list(codec.Stream().receive(data))

    result = judge(read)
    if isinstance(result, Fault):
        assert result.rule == "otp.smpp.malformed"
    else:
        assert all(16 <= len(pdu) <= codec.LARGEST for pdu in result)
