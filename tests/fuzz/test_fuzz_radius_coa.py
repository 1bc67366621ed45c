"""Whatever comes to the socket that Disconnect-Requests leave from ends nothing by mistake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.network_sessions import NAS
from tests.unit.test_radius_coa import Wire


@given(st.data())
def test_only_the_honest_answer_counts(data: st.DataObject) -> None:
    silent = NAS(answer=lambda code, attributes: None)
    wire = Wire(silent)
    wire.ask()
    honest = silent.reply(silent.octets[0], data.draw(st.sampled_from([41, 42])), 503)
    noise = data.draw(st.binary(max_size=120))
    at = data.draw(st.integers(0, len(honest) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = honest[:at] + bytes([honest[at] ^ 1 << bit]) + honest[at + 1 :]
    for octets in (noise, flipped, honest[:at], b"x" + noise + honest, silent.octets[0]):
        wire.coa.received(octets, ("192.0.2.1", 3799))
    assert wire.outcomes == []
    assert len(silent.requests) == 1
    # Octets behind the packet are padding (RFC 2865, 3).
    wire.coa.received(honest + noise, ("192.0.2.1", 3799))
    assert wire.outcomes or len(silent.requests) == 2
