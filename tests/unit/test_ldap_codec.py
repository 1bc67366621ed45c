"""The LDAP codec against ldaptor's and ldap3's writing and reading of the same messages."""

from __future__ import annotations

from typing import Any

import pytest
from ldap3 import Connection, Server
from ldap3.operation.bind import bind_operation
from ldap3.protocol.rfc4511 import LDAPMessage, MessageID, ProtocolOp
from ldap3.strategy.sync import SyncStrategy
from ldap3.utils.asn1 import decode_message_fast, encode
from ldaptor import ldapfilter
from ldaptor.protocols import pureber, pureldap

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import codec
from tmad.protocols.ldap.codec import Result
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
    Unknown,
)

FILTERS: dict[str, Filter] = {
    "(mail=a@b)": Equal("mail", b"a@b"),
    "(cn=\\2a\\28\\00)": Equal("cn", b"*(\0"),
    "(cn=*)": Present("cn"),
    "(cn>=5)": AtLeast("cn", b"5"),
    "(cn<=5)": AtMost("cn", b"5"),
    "(cn~=5)": Approx("cn", b"5"),
    "(cn=a*)": Substrings("cn", b"a", (), None),
    "(cn=*a)": Substrings("cn", None, (), b"a"),
    "(cn=*a*b*)": Substrings("cn", None, (b"a", b"b"), None),
    "(cn=a*b*c*d)": Substrings("cn", b"a", (b"b", b"c"), b"d"),
    "(cn:caseExactMatch:=Fred)": Extensible("caseExactMatch", "cn", b"Fred", False),
    "(sn:dn:2.4.6.8:=x)": Extensible("2.4.6.8", "sn", b"x", True),
    "(o:dn:=Ace)": Extensible("", "o", b"Ace", True),
    "(:1.2.3:=w)": Extensible("1.2.3", "", b"w", False),
    "(&(a=1)(b=2))": And((Equal("a", b"1"), Equal("b", b"2"))),
    "(|(a=1)(!(b=2)))": Or((Equal("a", b"1"), Not(Equal("b", b"2")))),
    "(&(|(a=1)(b=2))(!(&(c=3)(d=4)))(e=5))": And(
        (
            Or((Equal("a", b"1"), Equal("b", b"2"))),
            Not(And((Equal("c", b"3"), Equal("d", b"4")))),
            Equal("e", b"5"),
        )
    ),
}  # fmt: skip


def wire(operation: Any, number: int = 7) -> bytes:
    """Return what ldaptor sends for an operation."""
    octets: bytes = pureldap.LDAPMessage(operation, id=number).toWire()
    return octets


def search(wanted: bytes, *, base: bytes = b"", scope: int = 0, attributes: bytes = b"") -> bytes:
    """Return a search request around an encoded filter."""
    content = (
        codec.tlv(4, base)
        + bytes((0x0A, 1, scope))
        + b"\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00"
        + wanted
        + codec.tlv(0x30, attributes)
    )
    return codec.message(1, codec.tlv(0x63, content))


def read(octets: bytes) -> Any:
    """Return what ldaptor reads."""
    context = pureldap.LDAPBERDecoderContext_TopLevel(
        inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
            fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
            inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        )
    )
    found, used = pureber.berDecodeObject(context, octets)
    assert used == len(octets)
    return found


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FILTERS)
def test_l_20_reads_the_filters_that_ldaptor_writes(text: str) -> None:
    request = pureldap.LDAPSearchRequest(
        baseObject="ou=people,o=acme",
        scope=2,
        derefAliases=3,
        sizeLimit=9,
        timeLimit=300,
        typesOnly=1,
        filter=ldapfilter.parseFilter(text),
        attributes=["mail", "userCertificate;binary"],
    )
    found = codec.decode(wire(request))
    assert found == codec.Message(
        7,
        codec.Search(
            "ou=people,o=acme", 2, 9, 300, True, FILTERS[text], ("mail", "userCertificate;binary")
        ),
        (),
    )


@pytest.mark.parametrize("text", FILTERS)
def test_l_20_reads_the_filters_that_ldap3_writes(text: str) -> None:
    from ldap3.operation.search import search_operation

    request = search_operation(
        "o=acme", text, "SUBTREE", "ALWAYS", ["cn"], 0, 0, False, None, None, check_names=False
    )
    message = LDAPMessage()
    message["messageID"] = MessageID(300)
    message["protocolOp"] = ProtocolOp().setComponentByName("searchRequest", request)
    found = codec.decode(encode(message))
    assert found.id == 300
    assert isinstance(found.operation, codec.Search)
    assert found.operation.filter == FILTERS[text]


def test_rfc_4526_empty_and_and_or() -> None:
    assert codec.decode(search(b"\xa0\x00")).operation.filter == And(())  # type: ignore[union-attr]
    assert codec.decode(search(b"\xa1\x00")).operation.filter == Or(())  # type: ignore[union-attr]


def test_a_filter_that_nobody_has_defined_is_kept_as_undefined() -> None:
    found = codec.decode(search(b"\xaa\x00")).operation
    assert isinstance(found, codec.Search)
    assert found.filter == Unknown(0xAA)


def test_binds() -> None:
    found = codec.decode(wire(pureldap.LDAPBindRequest(dn="uid=bob,o=acme", auth=b"pw")))
    bind = found.operation
    assert isinstance(bind, codec.Bind)
    assert (bind.version, bind.name, bind.mechanism) == (3, "uid=bob,o=acme", "")
    assert bind.secret is not None
    assert bind.secret.reveal() == b"pw"
    assert "pw" not in repr(found)
    sasl = pureldap.LDAPBindRequest(dn="", auth=(b"EXTERNAL", b""), sasl=True)
    bind = codec.decode(wire(sasl)).operation
    assert isinstance(bind, codec.Bind)
    assert bind.mechanism == "EXTERNAL"
    request = bind_operation(3, "SIMPLE", "cn=x", "secret word")
    message = LDAPMessage()
    message["messageID"] = MessageID(1)
    message["protocolOp"] = ProtocolOp().setComponentByName("bindRequest", request)
    bind = codec.decode(encode(message)).operation
    assert isinstance(bind, codec.Bind)
    assert bind.secret is not None
    assert bind.secret.reveal() == b"secret word"


def test_a_bind_of_an_unknown_kind_is_answered_not_torn_apart() -> None:
    octets = codec.message(1, codec.tlv(0x60, b"\x02\x01\x03\x04\x00\xaa\x02hi"))
    bind = codec.decode(octets).operation
    assert isinstance(bind, codec.Bind)
    assert bind.mechanism == "[10]"
    assert bind.secret is None


def test_the_other_operations() -> None:
    assert codec.decode(wire(pureldap.LDAPUnbindRequest())).operation == codec.Unbind()
    assert codec.decode(wire(pureldap.LDAPAbandonRequest(id=5))).operation == codec.Abandon(5)
    start_tls = codec.decode(wire(pureldap.LDAPStartTLSRequest())).operation
    assert start_tls == codec.Extended(codec.START_TLS, None)
    compare = pureldap.LDAPCompareRequest(
        entry="cn=x",
        ava=pureldap.LDAPAttributeValueAssertion(
            attributeDesc=pureber.BEROctetString("sn"), assertionValue=pureber.BEROctetString("v")
        ),
    )
    assert codec.decode(wire(compare)).operation == codec.Compare("cn=x", "sn", b"v")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (pureldap.LDAPModifyRequest(object="cn=x", modification=[]), 0x67),
        (pureldap.LDAPAddRequest(entry="cn=x", attributes=[]), 0x69),
        (pureldap.LDAPDelRequest(entry="cn=x"), 0x6B),
        (pureldap.LDAPModifyDNRequest(entry="cn=x", newrdn="cn=y", deleteoldrdn=1), 0x6D),
    ],
)
def test_l_01_writes_are_known_for_what_they_are(request_: Any, answer: int) -> None:
    assert codec.decode(wire(request_)).operation == codec.Write(answer)


def test_controls() -> None:
    message = pureldap.LDAPMessage(
        pureldap.LDAPUnbindRequest(),
        controls=[("1.2.3", True, b"value"), ("1.2.4", False, None), ("1.2.5", None, b"")],
        id=1,
    )
    assert codec.decode(message.toWire()).controls == (
        codec.Control("1.2.3", True, b"value"),
        codec.Control("1.2.4", False, None),
        codec.Control("1.2.5", False, b""),
    )


def test_windows_pads_lengths() -> None:
    octets = b"\x30\x84\x00\x00\x00\x05\x02\x01\x01\x42\x00"
    assert codec.length_of(octets) == len(octets)
    assert codec.decode(octets) == codec.Message(1, codec.Unbind(), ())


def test_l_10_the_length_is_known_from_the_header() -> None:
    octets = codec.message(1, b"\x42\x00")
    assert codec.length_of(b"") == 0
    assert codec.length_of(octets[:1]) == 0
    assert codec.length_of(octets) == len(octets)
    assert codec.length_of(b"\x30\x84\xff\xff\xff\xff") == 2**32 + 5
    assert codec.length_of(b"\x30\x82\x01") == 0
    assert codec.length_of(b"xx" + octets, 2) == len(octets)


@pytest.mark.parametrize(
    "octets", [b"G", b"GET / HTTP", b"\x30\x80", b"\x30\x85\x00\x00\x00\x00\x01", b"\x30\xff"]
)
def test_l_10_what_is_no_message_is_refused_at_once(octets: bytes) -> None:
    with pytest.raises(Fault) as caught:
        codec.length_of(octets)
    assert caught.value.code is FaultCode.MALFORMED


def _nested(depth: int, tag: int = 0xA2) -> bytes:
    octets = b"\x87\x02cn"
    for _ in range(depth):
        octets = codec.tlv(tag, octets)
    return octets


def test_l_11_depth_and_size_of_filters() -> None:
    assert codec.decode(search(_nested(32)))
    with pytest.raises(Fault, match="nested"):
        codec.decode(search(_nested(33)))
    with pytest.raises(Fault, match="nested"):
        codec.decode(search(_nested(20_000)))
    assert codec.decode(search(codec.tlv(0xA0, b"\x87\x02cn" * 255)))
    with pytest.raises(Fault, match="too many"):
        codec.decode(search(codec.tlv(0xA0, b"\x87\x02cn" * 256)))
    pieces = codec.tlv(4, b"cn") + codec.tlv(0x30, b"\x81\x01a" * 300)
    with pytest.raises(Fault, match="too many"):
        codec.decode(search(codec.tlv(0xA4, pieces)))


SUBSTRINGS = codec.tlv(4, b"cn")
MALFORMED = {
    "nothing": b"",
    "no operation": codec.message(1, b""),
    "unknown operation": codec.message(1, b"\x7f\x00"),
    "a response": codec.message(1, codec.result(codec.SEARCH_DONE, 0)),
    "number 0": codec.message(0, b"\x42\x00"),
    "number too big": b"\x30\x09\x02\x05\x00\x80\x00\x00\x00\x42\x00",
    "negative number": b"\x30\x05\x02\x01\xff\x42\x00",
    "empty number": b"\x30\x04\x02\x00\x42\x00",
    "rest": codec.message(1, b"\x42\x00") + b"\x00",
    "after the controls": codec.message(1, b"\x42\x00\xa0\x00\x00"),
    "unbind with content": codec.message(1, b"\x42\x01\x00"),
    "controls of another tag": codec.message(1, b"\x42\x00\xa1\x00"),
    "17 controls": codec.message(1, b"\x42\x00", [codec.Control("1.2", False, None)] * 17),
    "control with too much": codec.message(
        1, b"\x42\x00\xa0\x09\x30\x07\x04\x01\x31\x04\x00\x04\x00"
    ),
    "boolean of two octets": codec.message(
        1, b"\x42\x00\xa0\x09\x30\x07\x04\x01\x31\x01\x02\x00\x00"
    ),
    "indefinite length inside": codec.message(1, b"\x63\x80\x00\x00"),
    "not UTF-8": search(b"\x87\x02\xff\xff"),
    "a not of none": search(b"\xa2\x00"),
    "a not of two": search(b"\xa2\x08\x87\x02cn\x87\x02sn"),
    "universal tag": search(b"\x30\x00"),
    "equality of one": search(codec.tlv(0xA3, SUBSTRINGS)),
    "equality of three": search(codec.tlv(0xA3, SUBSTRINGS * 3)),
    "no pieces": search(codec.tlv(0xA4, SUBSTRINGS + b"\x30\x00")),
    "two initial pieces": search(codec.tlv(0xA4, SUBSTRINGS + b"\x30\x06\x80\x01a\x80\x01b")),
    "two final pieces": search(codec.tlv(0xA4, SUBSTRINGS + b"\x30\x06\x82\x01a\x82\x01b")),
    "a strange piece": search(codec.tlv(0xA4, SUBSTRINGS + b"\x30\x03\x83\x01a")),
    "extensible out of order": search(codec.tlv(0xA9, b"\x82\x01a\x81\x01b\x83\x01c")),
    "extensible without value": search(codec.tlv(0xA9, b"\x81\x01a\x82\x01b")),
    "extensible without rule and name": search(codec.tlv(0xA9, b"\x83\x01a")),
    "SASL without mechanism": codec.message(
        1, codec.tlv(0x60, b"\x02\x01\x03\x04\x00\xa3\x02\x04\x00")
    ),
    "bind with too much": codec.message(
        1, codec.tlv(0x60, b"\x02\x01\x03\x04\x00\x80\x00\x80\x00")
    ),
    "extended with too much": codec.message(1, codec.tlv(0x77, b"\x80\x01a\x81\x00\x81\x00")),
    "dereferencing 4": codec.message(
        1, codec.tlv(0x63, b"\x04\x00\x0a\x01\x00\x0a\x01\x04\x02\x01\x00\x02\x01\x00\x01\x01\x00")
    ),
    "search with too much": search(b"\x87\x02cn\x30\x00"),
    "too many attributes": search(b"\x87\x02cn", attributes=b"\x04\x01a" * 513),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_ldap_is_malformed(name: str) -> None:
    with pytest.raises(Fault) as caught:
        codec.decode(MALFORMED[name])
    assert caught.value.code is FaultCode.MALFORMED
    assert caught.value.rule == "ldap.malformed"


# -- writing ----------------------------------------------------------------------------------


def test_ldaptor_reads_what_we_write() -> None:
    value = bytes(range(256)) * 300
    octets = codec.message(
        1000,
        codec.entry(
            "uid=bob,o=acme",
            [
                codec.attribute(codec.described("userCertificate;binary"), (value, b"")),
                codec.attribute(codec.described("mail"), ()),
            ],
        ),
    )
    found = read(octets)
    assert found.id == 1000
    assert found.value.objectName == b"uid=bob,o=acme"
    assert found.value.attributes == [(b"userCertificate;binary", [value, b""]), (b"mail", [])]
    done = read(codec.message(128, codec.result(codec.SEARCH_DONE, 32, "o=acme", "no such ü")))
    assert done.id == 128
    assert (done.value.resultCode, done.value.matchedDN) == (32, b"o=acme")
    assert done.value.errorMessage == "no such ü".encode()


def _decode_with_ldap3(message: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = SyncStrategy(Connection(Server("none"))).decode_response_fast(message)
    return decoded


def test_ldap3_reads_what_we_write() -> None:
    paged = codec.encode_paged(300, b"cookie")
    octets = codec.message(
        5, codec.result(codec.SEARCH_DONE, 4), [paged, codec.encode_sorted(Result.SUCCESS)]
    )
    found = _decode_with_ldap3(decode_message_fast(octets))
    assert (found["type"], found["description"]) == ("searchResDone", "sizeLimitExceeded")
    assert found["controls"][codec.PAGED]["value"] == {"size": 300, "cookie": b"cookie"}
    octets = codec.message(9, codec.extended(Result.SUCCESS, value=b"dn:uid=bob"))
    found = _decode_with_ldap3(decode_message_fast(octets))
    assert (found["type"], found["responseValue"]) == ("extendedResp", b"dn:uid=bob")


def test_l_10_the_notice_of_disconnection() -> None:
    notice = read(codec.disconnection(Result.PROTOCOL_ERROR, "not LDAP"))
    assert notice.id == 0
    assert notice.value.responseName == b"1.3.6.1.4.1.1466.20036"
    assert notice.value.resultCode == 2


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 20])
def test_lengths_are_der(size: int) -> None:
    octets = codec.tlv(4, bytes(size))
    assert codec.length_of(b"\x30" + octets[1:]) == len(octets)
    assert octets.endswith(bytes(size))
    shortest = 1 if size < 128 else 1 + (size.bit_length() + 7) // 8
    # Above 64 KiB the length is written in four octets, which BER allows.
    assert len(octets) - size - 1 == (shortest if size < 65_536 else 5)


def test_control_values_go_there_and_back() -> None:
    control = codec.encode_paged(2**31 - 1, b"x" * 200)
    assert codec.decode_paged(control.value) == (2**31 - 1, b"x" * 200)
    for wrong in (None, b"", b"\x30\x00", b"\x30\x03\x02\x01\x01", b"\x30\x05\x02\x01\xff\x04\x00",
                  b"\x30\x05\x02\x01\x01\x04\x00\x00"):  # fmt: skip
        with pytest.raises(Fault):
            codec.decode_paged(wrong)


def test_sort_keys() -> None:
    # As ldapsearch -E sss=cn/-sn:2.5.13.3 sends them.
    keys = codec.sequence(
        codec.sequence(codec.tlv(4, b"cn")),
        codec.sequence(codec.tlv(4, b"sn"), codec.tlv(0x80, b"2.5.13.3"), b"\x81\x01\xff"),
    )
    assert codec.decode_sort(keys) == (
        codec.SortKey("cn", "", False),
        codec.SortKey("sn", "2.5.13.3", True),
    )
    one = codec.sequence(codec.tlv(4, b"cn"))
    too_much = codec.sequence(codec.tlv(4, b"cn"), b"\x81\x01\xff\x00")
    many, rest = codec.sequence(*[one] * 11), codec.sequence(one) + b"\x00"
    for wrong in (None, b"\x30\x00", many, rest, codec.sequence(too_much)):
        with pytest.raises(Fault):
            codec.decode_sort(wrong)


def test_rfc_3909_cancel() -> None:
    assert codec.decode_cancel(b"\x30\x03\x02\x01\x05") == 5
    for wrong in (None, b"\x30\x00", b"\x30\x03\x02\x01\x05\x00"):
        with pytest.raises(Fault):
            codec.decode_cancel(wrong)


def test_every_fault_has_a_result() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
