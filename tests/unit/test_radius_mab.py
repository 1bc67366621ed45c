"""Logins by MAC address as makers send them: which requests are some, and what they must hold."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from tests.support import drive
from tests.unit.test_radius_responder import IDENTITY, SECRET, World, goes_on, value
from tmad.errors import Fault, FaultCode
from tmad.network.visit import mac_of
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code
from tmad.protocols.radius.responder import Asked, Reply

MAC = "0200aabbccdd"
CALL_CHECK = (codec.SERVICE_TYPE, (10).to_bytes(4))
NOBODY = Fault(FaultCode.UNAUTHENTICATED, "nobody", rule="login.unknown")
FRAMED = (codec.SERVICE_TYPE, (2).to_bytes(4))
# User-Name, Calling-Station-Id: what each writes, by its own manual.
FORMS = {
    "cisco": ("0200aabbccdd", "02-00-AA-BB-CC-DD"),
    "cisco-dots": ("0200.aabb.ccdd", "0200.aabb.ccdd"),
    "aruba": ("0200aabbccdd", "0200aabbccdd"),
    "hp-single-dash": ("0200aa-bbccdd", "02-00-aa-bb-cc-dd"),
    "hp-multi-colon": ("02:00:aa:bb:cc:dd", "02-00-aa-bb-cc-dd"),
    "comware": ("02-00-aa-bb-cc-dd", "0200-aabb-ccdd"),
    "mikrotik": ("02:00:AA:BB:CC:DD", "02-00-AA-BB-CC-DD"),
    "meraki": ("0200AABBCCDD", "02-00-AA-BB-CC-DD"),
    "hostapd": ("0200aabbccdd", "02-00-AA-BB-CC-DD"),
}


def ask(
    world: World,
    name: str,
    *more: Attribute,
    password: bytes | None = None,
    chap: bytes | None = None,
    signed: bool = True,
) -> Reply:
    authenticator = secrets.token_bytes(16)
    found = [(codec.USER_NAME, name.encode())]
    if password is not None:
        hidden = codec.hide_password(password, authenticator, SECRET.reveal())
        found.append((codec.USER_PASSWORD, hidden))
    if chap is not None:
        challenges = [value for kind, value in more if kind == codec.CHAP_CHALLENGE]
        made = hashlib.md5(b"\x07" + chap + (challenges or [authenticator])[0]).digest()
        found.append((codec.CHAP_PASSWORD, b"\x07" + made))
    octets = codec.encode_access(1, 7, authenticator, [*found, *more], SECRET.reveal())
    if not signed:
        at = octets.index(bytes((codec.MESSAGE_AUTHENTICATOR, 18)))
        octets = octets[:2] + (len(octets) - 18).to_bytes(2) + octets[4:at] + octets[at + 18 :]
    reply = drive(
        world.responder.respond(
            Asked(
                packet=codec.decode(octets),
                client=world.client,
                secret=SECRET,
                address="192.0.2.1",
            )
        )
    )
    assert reply is not None
    return reply


@pytest.fixture
def world() -> World:
    return World(methods=("eap-tls", "pap", "mac"))


@pytest.mark.parametrize("chap", [False, True], ids=["pap", "chap"])
@pytest.mark.parametrize("service", [CALL_CHECK, FRAMED, None], ids=["call-check", "framed", "-"])
@pytest.mark.parametrize("maker", FORMS)
def test_r17_every_makers_form_is_the_same_station(
    world: World, maker: str, service: Attribute | None, chap: bool
) -> None:
    name, station = FORMS[maker]
    more = [(codec.CALLING_STATION_ID, station.encode()), *([service] if service else [])]
    own = name.encode()
    reply = ask(world, name, *more, chap=own if chap else None, password=None if chap else own)
    assert reply.code == Code.ACCESS_ACCEPT
    [visit] = world.admission.stations
    assert visit.calling_station == MAC
    assert visit.calling_station_sent == station
    assert world.logins.asked == []


def test_chap_has_a_challenge_of_its_own_where_there_is_one(world: World) -> None:
    """RFC 2865, 5.3 and 5.40."""
    more = (codec.CHAP_CHALLENGE, secrets.token_bytes(24)), CALL_CHECK
    assert ask(world, MAC, *more, chap=MAC.encode()).code == Code.ACCESS_ACCEPT
    assert ask(world, MAC, *more, chap=b"secret").code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.mac.password", "mac")]


def test_without_calling_station_the_name_is_the_station(world: World) -> None:
    assert ask(world, MAC, CALL_CHECK, password=MAC.encode()).code == Code.ACCESS_ACCEPT
    [visit] = world.admission.stations
    assert (visit.calling_station, visit.calling_station_sent) == (MAC, "")


@pytest.mark.parametrize(
    ("name", "station", "password", "rule"),
    [
        ("bob", MAC, b"bob", "radius.mac.station"),
        (MAC, "02-00-AA-BB-CC-DE", MAC.encode(), "radius.mac.station"),
        (MAC, "+43 1 234", MAC.encode(), "radius.mac.station"),
        ("", MAC, MAC.encode(), "radius.mac.station"),
        (MAC, MAC, b"secret", "radius.mac.password"),
        (MAC, MAC, b"0200aabbccde", "radius.mac.password"),
        (MAC, MAC, b"\xff\xfe\xfd", "radius.mac.password"),
        (MAC, MAC, None, "radius.mac.password"),
    ],
)
def test_what_is_not_one_address_is_refused(
    world: World, name: str, station: str, password: bytes | None, rule: str
) -> None:
    more = (codec.CALLING_STATION_ID, station.encode()), CALL_CHECK
    assert ask(world, name, *more, password=password).code == Code.ACCESS_REJECT
    assert world.admission.refused == [(rule, "mac")]
    assert world.admission.stations == []
    assert world.logins.asked == []


def test_an_empty_password_is_enough_for_a_client_that_signs(world: World) -> None:
    """MikroTik's default. Unsigned, nothing would show that the client has our secret."""
    assert ask(world, MAC, CALL_CHECK, password=b"").code == Code.ACCESS_ACCEPT
    reply = ask(world, MAC, CALL_CHECK, password=b"", signed=False)
    assert reply.code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.mac.password", "mac")]
    reply = ask(world, MAC, CALL_CHECK, password=MAC.encode(), signed=False)
    assert reply.code == Code.ACCESS_ACCEPT


@pytest.mark.parametrize("length", [0, 1, 16, 18, 100])
def test_a_chap_response_of_another_length_is_none(world: World, length: int) -> None:
    reply = ask(world, MAC, CALL_CHECK, (codec.CHAP_PASSWORD, bytes(length)))
    assert reply.code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.mac.password", "mac")]


def test_it_is_off_unless_the_client_lists_it() -> None:
    world = World(methods=("eap-tls", "pap"))
    station = (codec.CALLING_STATION_ID, MAC.encode())
    assert ask(world, MAC, station, CALL_CHECK, password=MAC.encode()).code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.method.mac", "mac")]
    # And without Call-Check it is somebody with a strange name.
    world.logins.outcome = NOBODY
    ask(world, MAC, station, password=MAC.encode())
    assert [each["name"] for each in world.logins.asked] == [MAC]
    assert world.admission.stations == []


def test_people_log_in_beside_it(world: World) -> None:
    world.logins.outcome = NOBODY
    ask(world, "bob", (codec.CALLING_STATION_ID, MAC.encode()), password=b"x")
    ask(world, MAC, (codec.CALLING_STATION_ID, b"0200aabbccde"), password=b"x")
    assert [each["name"] for each in world.logins.asked] == ["bob", MAC]
    assert ask(world, "bob", (codec.CALLING_STATION_ID, MAC.encode()), chap=b"x").code == (
        Code.ACCESS_REJECT
    )
    assert world.admission.refused[-1] == ("radius.method.chap", "pap")


def test_eap_is_no_login_by_address() -> None:
    """Cisco's and Juniper's EAP-MD5 for addresses: a conversation like any other."""
    world = World(goes_on(), methods=("eap-tls", "mac"))
    reply = world.eap(IDENTITY, CALL_CHECK)
    assert reply.code == Code.ACCESS_CHALLENGE
    alone = World(methods=("mac",))
    reply = alone.eap(IDENTITY, CALL_CHECK)
    assert reply.code == Code.ACCESS_REJECT
    assert value(reply, codec.EAP_MESSAGE)[0] == 4
    assert alone.admission.refused == [("radius.method.eap", "eap")]


@pytest.mark.parametrize("text", ["", "bob", "0200aabbccd", "02:00-aa:bb:cc:dd", "0200aabbccdg"])
def test_other_texts_are_no_address(text: str) -> None:
    assert mac_of(text) == ""
