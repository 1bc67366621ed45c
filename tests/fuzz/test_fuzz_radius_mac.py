"""Logins by MAC address from clients that know the secret: one address, or a Fault."""

from __future__ import annotations

import re
import secrets

from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_radius_responder import SECRET, World
from tmad.errors import Fault
from tmad.network.visit import mac_of
from tmad.protocols.radius import codec, mab
from tmad.protocols.radius.responder import Asked, visit_of

_CLIENT = World.make_client("ap-1", ("mac",))
_EXPECTED = {"radius.mac.station", "radius.mac.password", "radius.malformed.password"}
_digits = st.text("0123456789abcdefABCDEF-:. g", max_size=20)
_texts = (_digits | st.text(max_size=20)).map(lambda text: text.encode())
_attributes = st.lists(
    st.tuples(st.sampled_from([1, 31]), _texts)
    | st.tuples(st.sampled_from([2, 3, 6, 60]), st.binary(max_size=40)),
    max_size=8,
)


@given(_digits | st.text(max_size=20))
@example("0200aabbccdd\n")
@example("٠٢٠٠aabbccdd")
def test_a_text_is_twelve_digits_or_no_address(text: str) -> None:
    found = mac_of(text)
    assert found == "" or re.fullmatch("[0-9a-f]{12}", found, re.ASCII)
    if found:
        assert mac_of(found) == found
        assert re.sub("[-:. ]", "", text).lower() == found


@given(_attributes)
def test_nobody_gets_further_without_one_address_and_its_password(
    attributes: list[tuple[int, bytes]],
) -> None:
    octets = codec.encode_access(
        1, 1, secrets.token_bytes(16), [each for each in attributes if each[1]], SECRET.reveal()
    )
    packet = codec.decode(octets)
    mab.is_asked(packet, ("mac",))
    visit = visit_of(Asked(packet=packet, client=_CLIENT, secret=SECRET, address="192.0.2.1"))
    try:
        station = mab.of_station(visit)
        mab.check_password(packet, station, SECRET.reveal())
    except Fault as fault:
        if fault.rule not in _EXPECTED:
            raise
        return
    # Somebody who knows the secret has hidden the address, or left it out and signed.
    assert station.calling_station == mac_of(packet.text(codec.USER_NAME)) != ""
    assert packet.first(codec.USER_PASSWORD) or packet.first(codec.CHAP_PASSWORD)
