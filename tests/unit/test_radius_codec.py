"""RADIUS packets: the RFCs' examples, pyrad as an independent judge, and what is refused."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable

import pytest
from pyrad.dictionary import Dictionary
from pyrad.packet import AcctPacket, AuthPacket, CoAPacket

from tmad.errors import Fault, FaultCode
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Code

# RFC 2865, 7.1, and RFC 5997, 6, both with this secret.
RFC_SECRET = b"xyzzy5461"
TELNET_REQUEST = bytes.fromhex(
    "010000380f403f9473978057bd83d5cb98f4227a01066e656d6f02120dbe708d93d413ce3196e43f782a0aee"
    "0406c0a80110050600000003"
)
TELNET_ACCEPT = bytes.fromhex(
    "0200002686fe220e7624ba2a1005f6bf9b55e0b20606000000010f06000000000e06c0a80103"
)
STATUS_REQUEST = bytes.fromhex(
    "0cda00268a54f4686fb394c52866e302185d062350125a665e2e1e8411f3e243822097c84fa3"
)
STATUS_ACCEPT = bytes.fromhex("02da0014ef0d552a4bf2d693ec2b6fe8b5411d66")

SECRET = secrets.token_hex(16).encode()
OWN = secrets.token_bytes(16)


def packet(
    *attributes: tuple[int, bytes], code: int = 1, identifier: int = 7, length: int | None = None
) -> bytes:
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)
    total = 20 + len(body) if length is None else length
    return struct.pack(">BBH16s", code, identifier, total, OWN) + body


def request(*attributes: tuple[int, bytes], secret: bytes = SECRET) -> codec.Packet:
    return codec.decode(codec.encode_access(1, 7, OWN, attributes, secret))


def test_rfc_2865_telnet_example() -> None:
    asked = codec.decode(TELNET_REQUEST)
    assert (asked.code, asked.identifier) == (Code.ACCESS_REQUEST, 0)
    assert asked.text(codec.USER_NAME) == "nemo"
    assert asked.number(codec.NAS_PORT) == 3
    hidden = asked.first(codec.USER_PASSWORD)
    assert hidden is not None
    clear = codec.reveal_password(hidden, asked.authenticator, RFC_SECRET)
    assert clear == b"arctangent"
    assert codec.hide_password(clear, asked.authenticator, RFC_SECRET) == hidden
    reply = codec.decode(TELNET_ACCEPT)
    assert codec.is_reply(reply, TELNET_REQUEST, RFC_SECRET)
    assert not codec.is_reply(reply, TELNET_REQUEST, SECRET)


def test_rfc_5997_status_server_example() -> None:
    asked = codec.decode(STATUS_REQUEST)
    assert codec.is_authentic(asked, RFC_SECRET)
    assert not codec.is_authentic(asked, SECRET)
    assert codec.is_reply(codec.decode(STATUS_ACCEPT), STATUS_REQUEST, RFC_SECRET)


def test_every_reply_is_signed_first_and_pyrad_accepts_it() -> None:
    """R-06, R-09, A-R9: the judge is pyrad."""
    asked = AuthPacket(id=9, secret=SECRET, dict=Dictionary(), authenticator=OWN)
    asked.add_message_authenticator()
    octets = asked.RequestPacket()
    ours = codec.decode(octets)
    assert codec.is_authentic(ours, SECRET)
    for code in (Code.ACCESS_ACCEPT, Code.ACCESS_REJECT, Code.ACCESS_CHALLENGE):
        answer = codec.encode_reply(ours, code, [(codec.REPLY_MESSAGE, b"hello")], SECRET)
        assert answer[20:22] == bytes((codec.MESSAGE_AUTHENTICATOR, 18))
        judged = AuthPacket(packet=answer, secret=SECRET, dict=Dictionary())
        assert asked.VerifyReply(judged, answer, enforce_ma=True)
        assert codec.is_reply(codec.decode(answer), octets, SECRET)
        forged = answer[:-1] + bytes((answer[-1] ^ 1,))
        assert not codec.is_reply(codec.decode(forged), octets, SECRET)


def test_accounting_digest_as_pyrad_makes_it() -> None:
    asked = AcctPacket(id=3, secret=SECRET, dict=Dictionary())
    octets = asked.RequestPacket()
    ours = codec.decode(octets)
    assert codec.is_digested(ours, SECRET)
    assert not codec.is_digested(ours, SECRET + b"x")
    answer = codec.encode_reply(ours, Code.ACCOUNTING_RESPONSE, [], SECRET)
    assert len(answer) == 20
    assert asked.VerifyReply(AcctPacket(packet=answer, secret=SECRET, dict=Dictionary()), answer)


def test_disconnect_request_as_pyrad_reads_it() -> None:
    octets = codec.encode_request(Code.DISCONNECT_REQUEST, 5, [(44, b"session")], SECRET)
    judged = CoAPacket(packet=octets, secret=SECRET, dict=Dictionary())
    assert judged.VerifyCoARequest()
    assert judged.verify_message_authenticator()
    assert codec.is_digested(codec.decode(octets), SECRET)


def test_proxy_state_comes_back_complete_and_in_order() -> None:
    """R-10: three of them, once each."""
    states = [b"first", b"", b"third"]
    asked = request(*((codec.PROXY_STATE, state) for state in states))
    answer = codec.decode(codec.encode_reply(asked, Code.ACCESS_REJECT, [], SECRET))
    assert list(answer.all(codec.PROXY_STATE)) == states


def test_eap_is_cut_and_joined() -> None:
    eap = secrets.token_bytes(1300)
    parts = codec.eap_attributes(eap)
    assert [len(value) for _, value in parts] == [253] * 5 + [35]
    assert request(*parts).eap == eap
    assert request().eap is None
    assert request((codec.EAP_MESSAGE, b"")).eap == b""


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 32, 127, 128])
def test_passwords_of_every_length(length: int) -> None:
    clear = b"p" * length
    hidden = codec.hide_password(clear, OWN, SECRET)
    assert len(hidden) == max(16, -(-length // 16) * 16)
    assert codec.reveal_password(hidden, OWN, SECRET) == clear
    judge = AuthPacket(secret=SECRET, dict=Dictionary(), authenticator=OWN)
    if length:
        assert judge.PwDecrypt(hidden) == clear.decode()


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 129, 144, 253])
def test_hidden_passwords_of_forbidden_lengths(length: int) -> None:
    with pytest.raises(Fault) as caught:
        codec.reveal_password(bytes(length), OWN, SECRET)
    assert caught.value.code is FaultCode.MALFORMED


def test_key_attributes_have_salts_of_their_own_and_the_right_halves() -> None:
    """RFC 2548, 2.4.2: top bit set, unique in the packet; Recv-Key is the first half."""
    msk = secrets.token_bytes(64)
    for salt in (0, 0x3FFF, 0x1234):
        found = codec.mppe_keys(msk, salt, OWN, SECRET)
        values = {number: value for _, number, value in codec.vendor_values(found)}
        salts = [value[:2] for value in values.values()]
        assert len(set(salts)) == 2
        assert all(each[0] & 0x80 for each in salts)
        read = {n: codec.reveal_mppe_key(v, OWN, SECRET) for n, v in values.items()}
        assert read == {codec.MS_MPPE_RECV_KEY: msk[:32], codec.MS_MPPE_SEND_KEY: msk[32:]}


def _attribute_that_overruns() -> bytes:
    # pyrad reads this as a value of three octets (aaa-protocols 2.9).
    return packet(length=25) + b"\x01\x20abc"


MALFORMED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "half a header": lambda: packet()[:19],
    "length below the header": lambda: packet(length=19),
    "length zero": lambda: packet(length=0),
    "length beyond the datagram": lambda: packet((1, b"bob"), length=26),
    "length beyond 4096": lambda: packet(length=4097) + bytes(4077),
    "attribute of length 0": lambda: packet(length=22) + b"\x01\x00",
    "attribute of length 1": lambda: packet(length=22) + b"\x01\x01",
    "attribute that overruns": _attribute_that_overruns,
    "a stray octet": lambda: packet((1, b"bob"), length=26) + b"\x01",
    "201 attributes": lambda: packet(*[(1, b"")] * 201),
    "Message-Authenticator of 15": lambda: packet((80, bytes(15))),
    "Message-Authenticator of 17": lambda: packet((80, bytes(17))),
    "Message-Authenticator of 0": lambda: packet((80, b"")),
    "Message-Authenticator twice": lambda: packet((80, bytes(16)), (80, bytes(16))),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_packets_are_refused(name: str) -> None:
    """R-01, R-02, R-05."""
    with pytest.raises(Fault) as caught:
        codec.decode(MALFORMED[name]())
    assert caught.value.code is FaultCode.MALFORMED
    assert caught.value.rule.startswith("radius.malformed.")


def test_padding_behind_the_packet_is_no_part_of_it() -> None:
    read = codec.decode(packet((1, b"bob")) + b"padding")
    assert read.octets == packet((1, b"bob"))
    assert read.attributes == ((1, b"bob"),)


def test_200_attributes_and_4096_octets_are_allowed() -> None:
    assert len(codec.decode(packet(*[(1, b"")] * 200)).attributes) == 200
    largest = packet(*[(79, bytes(253))] * 15, (79, bytes(249)))
    assert len(largest) == 4096
    assert codec.decode(largest).octets == largest


def test_what_does_not_fit_is_refused_never_cut() -> None:
    """R-61."""
    asked = request()
    for attributes in ([(18, bytes(254))], [(79, bytes(253))] * 17):
        with pytest.raises(Fault) as caught:
            codec.encode_reply(asked, Code.ACCESS_ACCEPT, attributes, SECRET)
        assert caught.value.code is FaultCode.REJECTED


def test_vendor_attributes_of_another_form_are_passed_over() -> None:
    good = codec.vendor_attribute(9, 1, b"shell:priv-lvl=15")
    assert request(good).vendor(9, 1) == b"shell:priv-lvl=15"
    for value in (
        b"",
        b"\0\0\0\x09",
        b"\0\0\0\x09\x01",
        b"\0\0\0\x09\x01\x01",
        b"\0\0\0\x09\x01\x09a",
    ):
        assert request((26, value)).vendor(9, 1) is None
    both = (26, b"\0\0\0\x09" + b"\x01\x03a" + b"\x02\x03b")
    assert request(both).vendor(9, 2) == b"b"


def test_text_that_is_none_is_shown_and_never_fails() -> None:
    assert request((1, b"b\xffb")).text(1) == "b\\xffb"
    assert request().text(1) == ""
    assert request((5, b"\0\0")).number(5) is None
