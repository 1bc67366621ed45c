"""The engine's messages: who is believed, what is reported, and what is not answered at all."""

from __future__ import annotations

from typing import Any

import pytest
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import api, rfc1902
from pysnmp.proto.mpmod.rfc3412 import ScopedPDU, SNMPv3Message

from tests.snmp_world import (
    AUTH_PRIV,
    ENGINE_ID,
    SYSTEM,
    World,
    make_community,
    make_user,
    question,
)
from tmad.errors import Fault, FaultCode
from tmad.identity.snmp_managers import EngineState, Table
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import (
    AUTHENTICATED,
    ENCRYPTED,
    FAULTS,
    REPORTABLE,
    V1,
    V2C,
    Kind,
    SecureMessage,
    Status,
)
from tmad.protocols.snmp.engine import OUTCOMES, REPORTED
from tmad.protocols.snmp.usm import MOST_BOOTS, Keys, LocalEngine, Salts
from tmad.protocols.snmp.values import Octets, decode_oid, encode_oid

GET = question(Kind.GET, (*SYSTEM, 1, 0))
HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512")
CIPHERS = ("aes128", "aes192", "aes256", "aes192c", "aes256c")


@pytest.fixture
def world() -> World:
    return World()


def report(world: World, octets: bytes | None) -> tuple[str, SecureMessage]:
    """Return what is reported."""
    assert octets is not None
    message, pdu = world.open(octets)
    assert pdu.kind == Kind.REPORT
    [binding] = pdu.bindings
    [name] = [each for each, oid in REPORTED.items() if oid == decode_oid(binding.name)]
    assert binding.value.value == world.engine.counters[name]
    return name, message


# -- messages --------------------------------------------------------------------------------------


def test_every_fault_has_a_status() -> None:
    assert set(FAULTS) == set(FaultCode)


@pytest.mark.parametrize("version", [V1, V2C])
def test_pysnmp_and_we_read_each_other(world: World, version: int) -> None:
    module = api.PROTOCOL_MODULES[api.SNMP_VERSION_1 if version == V1 else api.SNMP_VERSION_2C]
    pdu = module.GetRequestPDU()
    module.apiPDU.set_defaults(pdu)
    module.apiPDU.set_varbinds(pdu, [((*SYSTEM, 1, 0), module.Null(""))])
    asked = module.Message()
    module.apiMessage.set_defaults(asked)
    module.apiMessage.set_community(asked, b"a-community")
    module.apiMessage.set_pdu(asked, pdu)
    reply = world.answer(encoder.encode(asked))
    assert reply.octets is not None
    answer, rest = decoder.decode(reply.octets, asn1Spec=module.Message())
    assert not rest
    found = module.apiMessage.get_pdu(answer)
    assert module.apiPDU.get_request_id(found) == module.apiPDU.get_request_id(pdu)
    [(name, value)] = module.apiPDU.get_varbinds(found)
    assert (tuple(name), bytes(value)) == ((*SYSTEM, 1, 0), b"a description")
    # And what we write ourselves is what they write.
    assert encoder.encode(answer) == reply.octets


def test_lengths_in_long_form_are_read(world: World) -> None:
    """Some managers always write three octets of length."""
    inner = codec.pdu_octets(GET)
    padded = inner[:1] + b"\x82\x00" + inner[1:]
    body = b"\x02\x01\x01\x04\x0ba-community" + padded
    reply = world.answer(b"\x30\x82" + len(body).to_bytes(2) + body)
    assert reply.outcome == "answered"


@pytest.mark.parametrize(
    ("octets", "outcome", "counter"),
    [
        (b"", "malformed", "snmpInASNParseErrs"),
        (b"\x30\x80\x02\x01\x01\0\0", "malformed", "snmpInASNParseErrs"),
        (b"\x30\x03\x02\x01\x02", "version", "snmpInBadVersions"),
        (b"\x30\x06\x02\x04\x7f\xff\xff\xff", "version", "snmpInBadVersions"),
        (codec.encode_community(V2C, b"a-community", b"\xa7\0"), "malformed", "snmpInASNParseErrs"),
        (codec.encode_community(V2C, b"a-community", b"\xa4\0"), "malformed", "snmpInASNParseErrs"),
        (codec.encode_community(V2C, b"other", b"rubbish"), "community", "snmpInBadCommunityNames"),
        (
            codec.encode_community(V1, b"a-community", codec.pdu_octets(question(Kind.GETBULK))),
            "no-question",
            "snmpUnknownPDUHandlers",
        ),
        (
            codec.encode_community(V2C, b"a-community", codec.pdu_octets(question(Kind.RESPONSE))),
            "no-question",
            "snmpUnknownPDUHandlers",
        ),
    ],
)
def test_what_is_no_question_gets_no_answer(
    world: World, octets: bytes, outcome: str, counter: str
) -> None:
    assert world.answer(octets) == (None, outcome)
    assert outcome in OUTCOMES
    assert world.engine.counters[counter] == 1
    assert (world.engine.counters["snmpInPkts"], world.engine.counters["snmpOutPkts"]) == (1, 0)


def test_a_question_has_so_many_variables_at_most() -> None:
    name = encode_oid((1, 3, 6))
    piece = codec.encode_binding(name, b"\x05\0")
    assert len(codec.decode_pdu(codec.encode_pdu(Kind.GET, 1, 0, 0, [piece] * 512)).bindings) == 512
    with pytest.raises(Fault, match="512 variables"):
        codec.decode_pdu(codec.encode_pdu(Kind.GET, 1, 0, 0, [piece] * 513))


# -- SNMPv3: the whole conversation ----------------------------------------------------------------


@pytest.mark.parametrize("authentication", HASHES)
@pytest.mark.parametrize("privacy", CIPHERS)
def test_every_algorithm(authentication: str, privacy: str) -> None:
    world = World(make_user(authentication=authentication, privacy=privacy), sha1=True)
    message, answer = world.ask_v3(GET)
    assert answer.bindings[0].value == Octets(b"a description")
    assert (message.message_id, message.flags) == (4711, AUTH_PRIV)
    assert (message.boots, message.time) == (3, 500)


def test_discovery_and_time(world: World) -> None:
    """RFC 3414, 4."""
    empty = codec.encode_scoped(b"", b"", codec.pdu_octets(question(Kind.GET)))
    hello = world.message(b"", flags=REPORTABLE, engine_id=b"", boots=0, time=0, user=b"")
    reply = world.answer(codec.encode_secure(hello._replace(data=empty)))
    name, message = report(world, reply.octets)
    assert (name, message.flags, message.engine_id) == ("usmStatsUnknownEngineIDs", 0, ENGINE_ID)
    early = world.seal(world.message(codec.pdu_octets(GET), boots=0, time=0))
    name, message = report(world, world.answer(early).octets)
    assert (name, message.flags) == ("usmStatsNotInTimeWindows", AUTHENTICATED)
    assert (message.boots, message.time) == (3, 500)


@pytest.mark.parametrize(
    ("boots", "time", "is_timely"),
    [(3, 0, True), (3, 150, True), (3, -150, True), (3, 151, False), (3, -151, False),
     (2, 0, False), (4, 0, False)],
)  # fmt: skip
def test_t_snmp_05_the_time_window(world: World, boots: int, time: int, is_timely: bool) -> None:
    octets = world.seal(world.message(codec.pdu_octets(GET), boots=boots, time=500 + time))
    reply = world.answer(octets)
    assert reply.outcome == ("answered" if is_timely else "reported")


def test_t_snmp_05_a_replay_works_for_150_seconds_and_not_after_a_restart(world: World) -> None:
    octets = world.seal(world.message(codec.pdu_octets(GET)))
    world.seconds.now += 150
    assert world.answer(octets).outcome == "answered"
    world.seconds.now += 1
    assert world.answer(octets).outcome == "reported"
    assert World(world.user, boots=4).answer(octets).outcome == "reported"


def test_an_engine_that_has_booted_too_often_is_never_in_time() -> None:
    world = World(boots=MOST_BOOTS)
    assert world.answer(world.seal(world.message(codec.pdu_octets(GET)))).outcome == "reported"


def test_salts_never_repeat() -> None:
    salts = Salts(2**64 - 2)
    assert [salts.take().hex() for _ in range(3)] == ["f" * 15 + "e", "f" * 16, "0" * 16]
    world = World()
    seen = {world.ask_v3(GET)[0].salt for _ in range(20)}
    assert len(seen) == 20


@pytest.mark.parametrize("authentication", HASHES)
def test_t_snmp_02_a_digest_in_part_is_no_digest(authentication: str) -> None:
    """CVE-2008-0960."""
    world = World(make_user(authentication=authentication), sha1=True)
    good = codec.decode(world.seal(world.message(codec.pdu_octets(GET), flags=5)))
    assert isinstance(good, SecureMessage)
    size = world.keys.digest_octets
    for length in (*range(size), size + 1, 48 if size != 48 else 64):
        digest = (good.digest * 3)[:length]
        octets = codec.encode_secure(good._replace(digest=digest))
        name, _ = report(world, world.answer(octets).octets)
        assert name == "usmStatsWrongDigests"
    assert world.engine.counters["usmStatsWrongDigests"] == size + 2


def test_every_bit_is_signed(world: World) -> None:
    octets = world.seal(world.message(codec.pdu_octets(GET)))
    for position in range(len(octets)):
        altered = bytearray(octets)
        altered[position] ^= 1
        assert world.answer(bytes(altered), f"192.0.2.{position % 250}").outcome != "answered"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"engine_id": ENGINE_ID[:-1] + b"?"}, "usmStatsUnknownEngineIDs"),
        ({"user": b"nobody"}, "usmStatsUnknownUserNames"),
        ({"user": b""}, "usmStatsUnknownUserNames"),
    ],
)
def test_strangers_are_told_why(world: World, changes: dict[str, Any], name: str) -> None:
    reply = world.answer(world.seal(world.message(codec.pdu_octets(GET), **changes)))
    found, message = report(world, reply.octets)
    assert (found, message.flags) == (name, 0)
    silent = world.message(codec.pdu_octets(GET), flags=AUTH_PRIV, **changes)
    assert world.answer(world.seal(silent)) == (None, "not-reportable")


def test_another_passphrase_is_told_which(world: World) -> None:
    other = World(make_user())
    keys = Keys.of(make_user(), ENGINE_ID)
    wrong = Keys(world.user, keys.privacy, keys.privacy)
    octets = wrong.sealed(other.message(codec.pdu_octets(GET)), Salts(0))
    assert report(world, world.answer(octets).octets)[0] == "usmStatsWrongDigests"
    wrong = Keys(world.user, keys.authentication, type(keys.privacy)(bytes(16)))
    octets = wrong.sealed(other.message(codec.pdu_octets(GET)), Salts(0))
    name, message = report(world, world.answer(octets).octets)
    assert (name, message.flags) == ("usmStatsDecryptionErrors", AUTHENTICATED)


@pytest.mark.parametrize("level", [0, AUTHENTICATED])
def test_below_authpriv_nothing_is_shown(world: World, level: int) -> None:
    message, answer = world.ask_v3(GET, flags=level | REPORTABLE)
    assert (answer.kind, answer.status) == (Kind.RESPONSE, Status.AUTHORIZATION_ERROR)
    assert answer.bindings == GET.bindings
    assert message.flags == level


def test_privacy_without_authentication_is_no_message(world: World) -> None:
    octets = world.seal(world.message(codec.pdu_octets(GET), flags=ENCRYPTED | REPORTABLE))
    assert world.answer(octets) == (None, "malformed")
    assert world.engine.counters["snmpInvalidMsgs"] == 1


def test_sha_1_needs_a_switch() -> None:
    world = World(make_user(authentication="sha1"))
    octets = world.seal(world.message(codec.pdu_octets(GET)))
    assert report(world, world.answer(octets).octets)[0] == "usmStatsUnsupportedSecLevels"


def test_another_context_and_another_engine_are_not_here(world: World) -> None:
    pdu = codec.pdu_octets(GET)
    for data, name in (
        (codec.encode_scoped(ENGINE_ID, b"bridge1", pdu), "snmpUnknownContexts"),
        (codec.encode_scoped(b"12345", b"", pdu), "snmpUnknownPDUHandlers"),
        (
            codec.encode_scoped(ENGINE_ID, b"", codec.pdu_octets(question(Kind.INFORM))),
            "snmpUnknownPDUHandlers",
        ),
    ):
        found, message = report(
            world, world.answer(world.seal(world.message(b"", data=data))).octets
        )
        assert (found, message.flags) == (name, AUTH_PRIV)
    trap = codec.encode_scoped(ENGINE_ID, b"", codec.pdu_octets(question(Kind.TRAP)))
    octets = world.seal(world.message(b"", data=trap))
    assert world.answer(octets) == (None, "not-reportable")


def test_another_security_model_is_not_ours(world: World) -> None:
    octets = codec.encode_secure(world.message(codec.pdu_octets(GET), flags=0))
    other = octets.replace(b"\x04\x01\x00\x02\x01\x03", b"\x04\x01\x00\x02\x01\x02", 1)
    assert other != octets
    assert world.answer(other) == (None, "version")
    assert world.engine.counters["snmpUnknownSecurityModels"] == 1


def test_s_08_strangers_are_answered_so_often(world: World) -> None:
    world = World(rate=20.0, burst=30)
    hello = codec.encode_secure(
        world.message(codec.pdu_octets(GET), flags=REPORTABLE, engine_id=b"")
    )
    outcomes = [world.answer(hello).outcome for _ in range(50)]
    assert outcomes == ["reported"] * 30 + ["limited"] * 20
    assert world.answer(hello, "192.0.2.2").outcome == "reported"
    # Who proves himself is answered nonetheless.
    assert world.answer(world.seal(world.message(codec.pdu_octets(GET)))).outcome == "answered"
    world.seconds.now += 0.1
    assert [world.answer(hello).outcome for _ in range(3)] == ["reported", "reported", "limited"]


def test_a_report_is_not_much_longer_than_what_it_answers(world: World) -> None:
    hello = codec.encode_secure(
        world.message(b"\xa0\x0b\x02\x01\0\x02\x01\0\x02\x01\0\x30\0", flags=REPORTABLE,
                      engine_id=b"", user=b"")
    )  # fmt: skip
    reply = world.answer(hello)
    assert reply.octets is not None
    assert len(reply.octets) < 2 * len(hello)


def test_a_removed_user_is_unknown_at_the_next_question(world: World) -> None:
    octets = world.seal(world.message(codec.pdu_octets(GET)))
    assert world.answer(octets).outcome == "answered"
    world.table = Table({}, {})
    assert report(world, world.answer(octets).octets)[0] == "usmStatsUnknownUserNames"
    # One of that name with other passphrases is somebody else.
    other = make_user(authentication="sha512")
    world.table = Table({b"noc": other}, {})
    assert report(world, world.answer(octets).octets)[0] == "usmStatsWrongDigests"


def test_a_user_sees_its_view() -> None:
    world = World(make_user(view="tmad"), community=make_community("all"))
    answer = world.ask_v3(question(Kind.GETNEXT, (1, 3, 6, 1, 2, 1, 2)))[1]
    assert answer.bindings[0].value.TAG == 0x82
    assert world.ask(question(Kind.GETNEXT, (1, 3, 6, 1, 2, 1, 2))).bindings[0].value.TAG == 0x42


def test_an_engine_counts_evenly() -> None:
    now = 5.0

    def seconds() -> float:
        return now

    local = LocalEngine(EngineState(engine_id=ENGINE_ID, boots=1, age=2.5), seconds)
    assert local.time() == 2
    now = 8.0
    assert local.time() == 5


def test_pysnmp_reads_a_signed_and_encrypted_answer(world: World) -> None:
    """Its scoped PDU, from octets that we decrypted: the layout of RFC 3412, 6."""
    message, _ = world.ask_v3(GET)
    clear = world.keys.decrypt(message)
    assert clear is not None
    scoped, rest = decoder.decode(clear, asn1Spec=ScopedPDU())
    assert not rest
    assert bytes(scoped[0]) == ENGINE_ID
    whole, rest = decoder.decode(message.octets, asn1Spec=SNMPv3Message())
    assert not rest
    assert encoder.encode(whole) == message.octets
    assert rfc1902.OctetString(whole[1][2]) == bytes((AUTH_PRIV,))
