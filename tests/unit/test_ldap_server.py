"""LDAP connections: operations, limits, and what ends a connection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from ldaptor import ldapfilter
from ldaptor.protocols import pureber, pureldap
from twisted.internet.defer import Deferred

from tests.ldap_world import PEOPLE, SUFFIX, UUID, World
from tmad.protocols.ldap import codec

T0 = datetime(2026, 11, 1, tzinfo=UTC)

NOTICE = "1.3.6.1.4.1.1466.20036"


def search(
    text: str = "(objectClass=*)",
    base: str = SUFFIX,
    scope: int = 2,
    attributes: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    return pureldap.LDAPSearchRequest(
        baseObject=base,
        scope=scope,
        filter=ldapfilter.parseFilter(text),
        attributes=attributes,
        **options,
    )


def code(answer: Any) -> int:
    return int(answer.value.resultCode)


def attributes(answer: Any) -> dict[bytes, list[bytes]]:
    return dict(answer.value.attributes)


def is_notice(answer: Any) -> bool:
    return answer.id == 0 and answer.value.responseName == NOTICE.encode()


def paged(size: int, cookie: bytes = b"", *, critical: bool = True) -> Any:
    control = codec.encode_paged(size, cookie)
    return [(control.oid, critical, control.value)]


def cookie_of(answer: Any) -> bytes:
    [found] = [value for oid, _, value in answer.controls if oid == codec.PAGED.encode()]
    return codec.decode_paged(found)[1]


def sort_by(*keys: bytes, critical: bool = False) -> Any:
    return [(codec.SORT, critical, codec.sequence(*keys))]


def key(name: str, *, reverse: bool = False, rule: str = "") -> bytes:
    parts = [codec.tlv(4, name.encode())]
    if rule:
        parts.append(codec.tlv(0x80, rule.encode()))
    if reverse:
        parts.append(b"\x81\x01\xff")
    return codec.sequence(*parts)


# -- searches ---------------------------------------------------------------------------------


def test_a_search() -> None:
    client = World().connect()
    entry, done = client.ask(search("(mail=P0001@ACME.example)", attributes=("mail", "CN")), 5)
    assert (entry.id, done.id) == (5, 5)
    assert entry.value.objectName == f"uid=p0001,{PEOPLE}".encode()
    assert attributes(entry) == {b"mail": [b"p0001@acme.example"], b"cn": [b"Person 1"]}
    assert code(done) == 0
    assert client.world.tree.asked[-1][4] == {"mail", "cn"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), {"objectClass", "uid", "cn", "sn", "mail", "userCertificate;binary",
              "userSMIMECertificate"}),
        (("*",), {"objectClass", "uid", "cn", "sn", "mail", "userCertificate;binary",
                  "userSMIMECertificate"}),
        (("+",), {"entryUUID", "createTimestamp"}),
        (("1.1",), set()),
        (("1.1", "sn"), {"sn"}),
        (("usercertificate",), {"userCertificate;binary"}),
        (("userCertificate;binary",), {"userCertificate;binary"}),
        (("2.5.4.36",), {"userCertificate;binary"}),
        (("userSMIMECertificate;binary",), {"userSMIMECertificate;binary"}),
        (("name",), {"cn", "sn"}),
        (("*", "entryUUID"), {"objectClass", "uid", "cn", "sn", "mail",
                              "userCertificate;binary", "userSMIMECertificate", "entryUUID"}),
        (("noSuchThing", "cn;lang-en", "mail"), {"mail"}),
    ],
)  # fmt: skip
def test_l_04_attribute_selection(names: tuple[str, ...], expected: set[str]) -> None:
    entry, done = World().connect().ask(search("(uid=p0001)", attributes=names))
    assert {name.decode() for name in attributes(entry)} == expected
    assert code(done) == 0


def test_l_04_types_only() -> None:
    entry, _ = World().connect().ask(search("(uid=p0001)", attributes=("mail",), typesOnly=1))
    assert attributes(entry) == {b"mail": []}


def test_l_03_bare_names_for_old_clients() -> None:
    client = World(bare_names=True).connect()
    entry, _ = client.ask(search("(uid=p0001)", attributes=("usercertificate",)))
    assert set(attributes(entry)) == {b"userCertificate"}
    entry, _ = client.ask(search("(uid=p0001)", attributes=("userCertificate;binary",)))
    assert set(attributes(entry)) == {b"userCertificate;binary"}


def test_l_18_what_is_not_there() -> None:
    [done] = World().connect().ask(search(base="cn=x,o=acme", scope=0))
    assert code(done) == 32
    assert done.value.matchedDN == SUFFIX.encode()
    [done] = World().connect().ask(search(base="what is this", scope=0))
    assert code(done) == 34
    [done] = World().connect().ask(search(scope=3))
    assert code(done) == 2


def test_l_19_size_limits_of_the_client_and_the_server() -> None:
    client = World(people=60).connect()
    *entries, done = client.ask(search("(uid=*)", sizeLimit=4))
    assert (len(entries), code(done)) == (4, 4)
    *entries, done = client.ask(search("(uid=*)"))
    assert (len(entries), code(done)) == (50, 4)
    *entries, done = World(people=50).connect().ask(search("(uid=*)"))
    assert (len(entries), code(done)) == (50, 0)


def test_many_entries_come_in_turns_and_wait_for_the_reader() -> None:
    world = World(people=400, limits={"anonymous": 1_000})
    client = world.connect()
    client.send(pureldap.LDAPMessage(search("(uid=*)"), id=3).toWire())
    first = len(client.answers())
    assert first < 100
    client.connection.pauseProducing()
    for _ in range(10):
        world.reactor.advance(0)
    assert len(client.answers()) <= 50
    client.connection.resumeProducing()
    for _ in range(20):
        world.reactor.advance(0)
    assert code(client.answers()[-1]) == 0


def test_l_25_root_dse() -> None:
    client = World().connect()
    entry, done = client.ask(search(base="", scope=0, attributes=("*", "+")))
    found = attributes(entry)
    assert entry.value.objectName == b""
    assert found[b"namingContexts"] == [SUFFIX.encode()]
    assert found[b"supportedLDAPVersion"] == [b"3"]
    assert codec.PAGED.encode() in found[b"supportedControl"]
    assert codec.START_TLS.encode() in found[b"supportedExtension"]
    assert found[b"subschemaSubentry"] == [b"cn=Subschema"]
    assert b"supportedSASLMechanisms" not in found
    assert b"vendorName" not in found
    assert code(done) == 0
    entry, _ = client.ask(search(base="", scope=0))
    assert set(attributes(entry)) == {b"objectClass"}


def test_l_26_subschema() -> None:
    client = World().connect()
    for base in ("cn=Subschema", "CN = subschema"):
        entry, _ = client.ask(search("(objectClass=subschema)", base, 0, ("attributeTypes",)))
        assert any(b"userCertificate" in each for each in attributes(entry)[b"attributeTypes"])


def test_an_empty_base_means_every_directory() -> None:
    client = World().connect()
    entry, done = client.ask(search("(mail=p0001@acme.example)", base=""))
    assert (entry.value.objectName, code(done)) == (f"uid=p0001,{PEOPLE}".encode(), 0)
    entry, done = client.ask(search(base="", scope=1))
    assert (entry.value.objectName, code(done)) == (SUFFIX.encode(), 0)


# -- controls ---------------------------------------------------------------------------------


def test_l_15_controls_that_nobody_knows() -> None:
    client = World().connect()
    [done] = client.ask(search(), controls=[("1.2.3.4", True, None)])
    assert code(done) == 12
    *_, done = client.ask(search(), controls=[("1.2.3.4", False, b"x")])
    assert code(done) == 0
    *_, done = client.ask(search(), controls=[(codec.MANAGE_DSA_IT, True, None)])
    assert code(done) == 0
    [done] = client.ask(pureldap.LDAPDelRequest(entry=SUFFIX), controls=paged(5))
    assert code(done) == 12
    [done] = client.ask(search(), controls=paged(5) * 2)
    assert code(done) == 2
    [done] = client.ask(search(), controls=[(codec.PAGED, True, b"xx")])
    assert code(done) == 2


def bound(world: World, uid: str = "p0001") -> Any:
    client = world.connect(is_secure=True)
    request = pureldap.LDAPBindRequest(dn=f"uid={uid},{PEOPLE}", auth=uid[::-1].encode())
    [answer] = client.ask(request)
    assert code(answer) == 0
    return client


def test_l_17_pages() -> None:
    client = bound(World(people=230))
    cookie, counts = b"", []
    while True:
        *entries, done = client.ask(search("(uid=*)"), controls=paged(100, cookie))
        assert code(done) == 0
        counts.append(len(entries))
        cookie = cookie_of(done)
        if not cookie:
            break
    assert counts == [100, 100, 30]


def test_l_17_cookies_are_of_one_question_on_one_connection() -> None:
    world = World(people=20)
    client = bound(world)
    *_, done = client.ask(search("(uid=*)"), controls=paged(5))
    cookie = cookie_of(done)
    for other, asked in (
        (client, search("(cn=*)")),
        (client, search("(uid=*)", base=PEOPLE)),
        (client, search("(uid=*)", attributes=("cn",))),
        (bound(world), search("(uid=*)")),
        (bound(world, "p0002"), search("(uid=*)")),
    ):
        [done] = other.ask(asked, controls=paged(5, cookie))
        assert code(done) == 53
    for wrong in (b"x", b"x" * 300, cookie[:-1], cookie + b"x"):
        [done] = client.ask(search("(uid=*)"), controls=paged(5, wrong))
        assert code(done) == 53
    *entries, done = client.ask(search("(uid=*)"), controls=paged(5, cookie))
    assert len(entries) == 5


def test_l_17_size_0_gives_the_search_up() -> None:
    client = bound(World(people=20))
    *_, done = client.ask(search("(uid=*)"), controls=paged(5))
    [done] = client.ask(search("(uid=*)"), controls=paged(0, cookie_of(done)))
    assert (code(done), cookie_of(done)) == (0, b"")
    [done] = client.ask(search("(uid=*)"), controls=paged(0))
    assert (code(done), cookie_of(done)) == (0, b"")


def test_l_19_pages_of_nobody_end_where_one_answer_would() -> None:
    client = World(people=60, limits={"anonymous": 10}).connect()
    *entries, done = client.ask(search("(uid=*)"), controls=paged(6))
    assert len(entries) == 6
    *entries, done = client.ask(search("(uid=*)"), controls=paged(6, cookie_of(done)))
    assert (len(entries), code(done), cookie_of(done)) == (4, 4, b"")


def test_pages_with_a_size_limit_of_the_client() -> None:
    client = bound(World(people=60))
    *entries, done = client.ask(search("(uid=*)", sizeLimit=7), controls=paged(5))
    *entries, done = client.ask(search("(uid=*)", sizeLimit=7), controls=paged(5, cookie_of(done)))
    assert (len(entries), code(done), cookie_of(done)) == (2, 4, b"")


def _order(answers: list[Any]) -> list[str]:
    return [answer.value.objectName.decode()[4:9] for answer in answers]


def _sorted_control(answer: Any) -> bytes:
    [value] = [value for oid, _, value in answer.controls if oid == codec.SORTED.encode()]
    return bytes(value)


def test_rfc_2891_sorted() -> None:
    client = bound(World(people=10))
    *entries, done = client.ask(
        search("(uid=*)", attributes=("1.1",)),
        controls=sort_by(key("sn"), key("uid", reverse=True)),
    )
    assert code(done) == 0
    assert _sorted_control(done) == b"\x30\x03\x0a\x01\x00"
    assert _order(entries) == [f"p000{n}" for n in (7, 0, 8, 1, 9, 2, 3, 4, 5, 6)]
    *entries, done = client.ask(
        search("(uid=*)", sizeLimit=3), controls=sort_by(key("uid", reverse=True))
    )
    assert (_order(entries), code(done)) == (["p0009", "p0008", "p0007"], 4)


def test_rfc_2891_entries_without_the_attribute_come_last() -> None:
    world = World(people=3)
    del world.tree.entries[2].attributes["sn"]  # type: ignore[attr-defined]
    *entries, _ = bound(world).ask(search("(uid=*)"), controls=sort_by(key("sn")))
    assert _order(entries) == ["p0001", "p0002", "p0000"]


def test_rfc_2891_what_cannot_be_sorted() -> None:
    client = bound(World(people=10))
    *entries, done = client.ask(search("(uid=*)"), controls=sort_by(key("noSuch")))
    assert (len(entries), code(done)) == (10, 0)
    assert b"\x0a\x01\x10" in _sorted_control(done)
    *entries, done = client.ask(search("(uid=*)"), controls=sort_by(key("noSuch"), critical=True))
    assert (len(entries), code(done)) == (0, 12)
    *entries, done = client.ask(
        search("(uid=*)"), controls=sort_by(key("cn", rule="2.5.13.15"), critical=True)
    )
    assert (len(entries), code(done)) == (0, 12)
    *entries, done = client.ask(search("(uid=*)"), controls=sort_by(key("userSMIMECertificate")))
    assert (len(entries), code(done)) == (10, 0)


def test_rfc_2891_too_many_to_sort() -> None:
    client = bound(World(people=30, limits={"named": 20}))
    *entries, done = client.ask(search("(uid=*)"), controls=sort_by(key("uid")))
    assert (len(entries), code(done)) == (20, 4)
    assert _sorted_control(done) == b"\x30\x03\x0a\x01\x0b"


def test_sorted_pages_are_read_when_they_are_sent() -> None:
    world = World(people=25)
    client = bound(world)
    by = sort_by(key("uid", reverse=True))
    *entries, done = client.ask(search("(uid=*)"), controls=paged(10) + by)
    assert _order(entries)[0] == "p0024"
    # Two have gone meanwhile.
    del world.tree.entries[4:6]
    *more, done = client.ask(search("(uid=*)"), controls=paged(10, cookie_of(done)) + by)
    *rest, done = client.ask(search("(uid=*)"), controls=paged(10, cookie_of(done)) + by)
    assert cookie_of(done) == b""
    names = _order([*entries, *more, *rest])
    assert names == [f"p{n:04d}" for n in range(24, -1, -1) if n not in (2, 3)]


# -- compare, writes, extended operations -----------------------------------------------------


@pytest.mark.parametrize(
    ("dn", "name", "value", "expected"),
    [
        (f"uid=p0001,{PEOPLE}", "cn", b"PERSON  1", 6),
        (f"uid=p0001,{PEOPLE}", "cn", b"Person 2", 5),
        (f"uid=p0001,{PEOPLE}", "description", b"x", 16),
        (f"uid=p0001,{PEOPLE}", "noSuch", b"x", 17),
        (f"uid=p0001,{PEOPLE}", "userSMIMECertificate", b"x", 18),
        (f"uid=p0001,{PEOPLE}", "entryUUID", b"x", 21),
        (f"uid=p0001,{PEOPLE}", "entryUUID", UUID.upper(), 6),
        (f"uid=none,{PEOPLE}", "cn", b"x", 32),
    ],
)
def test_l_27_compare(dn: str, name: str, value: bytes, expected: int) -> None:
    request = pureldap.LDAPCompareRequest(
        entry=dn,
        ava=pureldap.LDAPAttributeValueAssertion(
            attributeDesc=pureber.BEROctetString(name),
            assertionValue=pureber.BEROctetString(value),
        ),
    )
    [answer] = World().connect().ask(request)
    assert code(answer) == expected


@pytest.mark.parametrize(
    "request_",
    [
        pureldap.LDAPModifyRequest(object=SUFFIX, modification=[]),
        pureldap.LDAPAddRequest(entry=SUFFIX, attributes=[]),
        pureldap.LDAPDelRequest(entry=SUFFIX),
        pureldap.LDAPModifyDNRequest(entry=SUFFIX, newrdn="o=x", deleteoldrdn=1),
    ],
)
def test_l_01_writes_are_refused(request_: Any) -> None:
    [answer] = World().connect().ask(request_)
    assert code(answer) == 53


def test_l_14_extended_operations() -> None:
    client = World().connect()
    [answer] = client.ask(pureldap.LDAPExtendedRequest(requestName="1.2.3.4"))
    assert code(answer) == 2
    [answer] = client.ask(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I))
    assert (code(answer), answer.value.response) == (0, b"")
    client = bound(client.world)
    [answer] = client.ask(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I))
    assert answer.value.response == f"dn:uid=p0001,{PEOPLE}".encode()


def test_l_24_start_tls_is_refused_where_it_makes_no_sense() -> None:
    world = World()
    [answer] = world.connect().ask(pureldap.LDAPStartTLSRequest())
    assert code(answer) == 52  # there is no certificate yet
    [answer] = world.connect(is_secure=True).ask(pureldap.LDAPStartTLSRequest())
    assert code(answer) == 1
    world.tree.wait = Deferred
    client = world.connect()
    assert client.ask(search(), 1) == []
    [answer] = client.ask(pureldap.LDAPStartTLSRequest(), 2)
    assert code(answer) == 1


# -- binds ------------------------------------------------------------------------------------


def bind(client: Any, dn: str = "", auth: Any = b"", **more: Any) -> int:
    [answer] = client.ask(pureldap.LDAPBindRequest(dn=dn, auth=auth, **more))
    return code(answer)


def whoami(client: Any) -> bytes:
    [answer] = client.ask(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I))
    return bytes(answer.value.response)


def test_l_23_binds() -> None:
    world = World()
    dn = f"uid=p0001,{PEOPLE}"
    assert bind(world.connect()) == 0
    assert bind(world.connect(), dn, b"1000p") == 13
    assert world.doorkeeper.asked == []
    client = world.connect(is_secure=True)
    assert bind(client, dn, b"1000p") == 0
    assert whoami(client) == f"dn:{dn}".encode()
    assert world.doorkeeper.asked[0]["via"] == "ldap"
    assert world.doorkeeper.asked[0]["source"] == "192.0.2.7"
    # A bind that fails leaves nobody behind.
    assert bind(client, dn, b"wrong") == 49
    assert whoami(client) == b""
    assert bind(client, dn, b"") == 53
    assert bind(client, dn, b"1000p", version=2) == 2
    assert bind(client, "what", b"x") == 34
    assert bind(client, "", (b"GSSAPI", b""), sasl=True) == 7


def test_l_23_a_name_of_nobody_is_judged_all_the_same() -> None:
    world = World()
    assert bind(world.connect(is_secure=True), "cn=admin,o=acme", b"x") == 49
    assert bind(world.connect(is_secure=True), "", b"x") == 49
    assert len(world.doorkeeper.asked) == 2
    # Even where the password of some account fits.
    assert bind(world.connect(is_secure=True), "cn=x", b"x=nc") == 49


def test_an_account_that_no_directory_publishes_does_not_get_in() -> None:
    world = World()
    world.tree.closed.add("person:p0001")
    assert bind(world.connect(is_secure=True), f"uid=p0001,{PEOPLE}", b"1000p") == 49


def test_l_23_external() -> None:
    world = World()

    class Shown:
        def to_cryptography(self) -> str:
            return "a certificate"

    client = world.connect(is_secure=True)
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 48
    client.transport.certificate = Shown()
    entry, _ = client.ask(search(base="", scope=0, attributes=("supportedSASLMechanisms",)))
    assert attributes(entry) == {b"supportedSASLMechanisms": [b"EXTERNAL"]}
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 0
    dn = f"dn:uid=p0001,{PEOPLE}".encode()
    assert whoami(client) == dn
    assert bind(client, "", (b"EXTERNAL", dn), sasl=True) == 0
    assert bind(client, "", (b"EXTERNAL", b"dn:o=acme"), sasl=True) == 49
    assert whoami(client) == b""
    world.tree.closed.add("person:p0001")
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 48


def test_a_certificate_that_cannot_be_read_is_none() -> None:
    class Shown:
        def to_cryptography(self) -> str:
            raise ValueError("a negative serial number")

    client = World().connect(is_secure=True)
    client.transport.certificate = Shown()
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 48


@pytest.mark.parametrize("how", ["revoked", "closed"])
def test_a_login_that_holds_no_longer_ends_its_connection(how: str) -> None:
    world = World()
    client = world.connect(is_secure=True)

    class Shown:
        def to_cryptography(self) -> str:
            return "a certificate"

    client.transport.certificate = Shown()
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 0
    if how == "revoked":
        world.inspector.is_revoked = True
    else:
        world.tree.closed.add("person:p0001")
    [answer] = client.ask(search())
    assert is_notice(answer)
    assert code(answer) == 8
    assert client.is_closed


def test_a_password_that_is_replaced_ends_the_connections_it_opened() -> None:
    world = World()
    world.doorkeeper.password_at = world.tree.passwords["p0001"] = T0
    client = world.connect(is_secure=True)
    assert bind(client, DN, b"1000p") == 0
    assert whoami(client) == f"dn:{DN}".encode()

    world.tree.passwords["p0001"] = T0 + timedelta(minutes=1)
    [answer] = client.ask(search())

    assert (is_notice(answer), code(answer), client.is_closed) == (True, 8, True)


def test_a_password_that_is_replaced_during_the_bind_ends_the_connection() -> None:
    world = World()
    world.doorkeeper.password_at = T0
    world.tree.passwords["p0001"] = T0 + timedelta(seconds=1)
    client = world.connect(is_secure=True)
    bind(client, DN, b"1000p")

    [answer] = client.ask(search())

    assert is_notice(answer)
    assert client.is_closed


def test_a_certificate_does_not_care_for_the_password() -> None:
    world = World()
    client = world.connect(is_secure=True)

    class Shown:
        def to_cryptography(self) -> str:
            return "a certificate"

    client.transport.certificate = Shown()
    assert bind(client, "", (b"EXTERNAL", b""), sasl=True) == 0
    world.tree.passwords["p0001"] = T0
    assert whoami(client) == f"dn:{DN}".encode()


def test_a_bind_waits_for_what_runs() -> None:
    world = World()
    waiting: list[Deferred[None]] = []

    def wait() -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    world.tree.wait = wait
    client = world.connect(is_secure=True)
    assert client.ask(search("(uid=p0001)"), 1) == []
    request = pureldap.LDAPBindRequest(dn=f"uid=p0001,{PEOPLE}", auth=b"1000p")
    assert client.ask(request, 2) == []
    # Nothing overtakes it.
    assert client.ask(pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I), 3) == []
    waiting[0].callback(None)
    client.world.reactor.advance(0)
    entry, done, answer, who = client.answers()
    assert [each.id for each in (entry, done, answer, who)] == [1, 1, 2, 3]
    assert who.value.response == f"dn:uid=p0001,{PEOPLE}".encode()


# -- who may do what --------------------------------------------------------------------------

DN = f"uid=p0001,{PEOPLE}"
# Each operation, with its answers to nobody, to nobody under TLS, and to a person; None is none.
ALLOWED: dict[type, tuple[Any, tuple[int | None, int | None, int | None]]] = {
    codec.Search: (search("(uid=p0001)"), (0, 0, 0)),
    codec.Compare: (
        pureldap.LDAPCompareRequest(
            entry=DN,
            ava=pureldap.LDAPAttributeValueAssertion(
                attributeDesc=pureber.BEROctetString("uid"),
                assertionValue=pureber.BEROctetString("p0001"),
            ),
        ),
        (6, 6, 6),
    ),
    codec.Bind: (pureldap.LDAPBindRequest(dn=DN, auth=b"1000p"), (13, 0, 0)),
    codec.Extended: (pureldap.LDAPExtendedRequest(requestName=codec.WHO_AM_I), (0, 0, 0)),
    codec.Write: (pureldap.LDAPDelRequest(entry=DN), (53, 53, 53)),
    codec.Abandon: (pureldap.LDAPAbandonRequest(id=77), (None, None, None)),
    codec.Unbind: (pureldap.LDAPUnbindRequest(), (None, None, None)),
}


def test_g_authz_1_every_operation_has_its_line() -> None:
    assert set(ALLOWED) == set(get_args(codec.Operation))


@pytest.mark.parametrize("kind", ALLOWED)
def test_g_authz_1_who_may_do_what(kind: type) -> None:
    request, expected = ALLOWED[kind]
    world = World()
    for client, wanted in zip(
        (world.connect(), world.connect(is_secure=True), bound(world)), expected, strict=True
    ):
        answers = client.ask(request)
        assert (code(answers[-1]) if answers else None) == wanted


# -- many at once, and the end ----------------------------------------------------------------


def held(world: World) -> list[Deferred[None]]:
    waiting: list[Deferred[None]] = []

    def wait() -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    world.tree.wait = wait
    return waiting


def test_l_13_abandon_is_never_answered() -> None:
    world = World()
    waiting = held(world)
    client = world.connect()
    assert client.ask(search(), 1) == []
    assert client.ask(pureldap.LDAPAbandonRequest(id=1), 2) == []
    assert client.ask(pureldap.LDAPAbandonRequest(id=99), 3) == []
    waiting[0].callback(None)
    assert client.answers() == []
    world.tree.wait = None
    assert len(client.ask(search("(uid=p0001)"), 4)) == 2


def test_rfc_3909_cancel() -> None:
    world = World()
    waiting = held(world)
    client = world.connect()
    assert client.ask(search(), 1) == []
    request = pureldap.LDAPExtendedRequest(
        requestName=codec.CANCEL, requestValue=b"\x30\x03\x02\x01\x01"
    )
    cancelled, answer = client.ask(request, 2)
    assert (cancelled.id, code(cancelled)) == (1, 118)
    assert (answer.id, code(answer)) == (2, 0)
    [answer] = client.ask(request, 3)
    assert code(answer) == 119
    waiting[0].callback(None)
    assert client.answers() == []
    [answer] = client.ask(pureldap.LDAPExtendedRequest(requestName=codec.CANCEL), 4)
    assert code(answer) == 2


def test_l_12_more_than_32_operations_wait_unread() -> None:
    world = World()
    waiting = held(world)
    client = world.connect()
    for number in range(1, 41):
        client.ask(search("(uid=p0001)"), number)
    assert len(waiting) == 32
    for each in list(waiting):
        each.callback(None)
    world.reactor.advance(0)
    world.reactor.advance(0)
    assert len(waiting) == 40


def test_l_12_a_number_in_use_ends_the_connection() -> None:
    world = World()
    held(world)
    client = world.connect()
    client.ask(search(), 1)
    [answer] = client.ask(search(), 1)
    assert is_notice(answer)
    assert client.is_closed


def test_l_19_the_time_limit() -> None:
    world = World()
    waiting = held(world)
    client = world.connect()
    assert client.ask(search(timeLimit=2), 1) == []
    assert client.ask(search(), 2) == []
    world.reactor.advance(3)
    client.connection.sweep(world.reactor.seconds())
    [answer] = client.answers()
    assert (answer.id, code(answer)) == (1, 3)
    world.reactor.advance(3)
    client.connection.sweep(world.reactor.seconds())
    [answer] = client.answers()
    assert (answer.id, code(answer)) == (2, 3)
    for each in waiting:
        each.callback(None)
    assert client.answers() == []


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x83\x05\x00\x00",
        b"\x30\x80",
        b"\x30\x05\x02\x01\x01\x7f\x00",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_l_10_what_is_no_ldap_is_told_so_and_cut_off(octets: bytes) -> None:
    client = World().connect()
    client.send(octets)
    [answer] = client.answers()
    assert is_notice(answer)
    assert code(answer) == 2
    assert client.is_closed


def test_l_10_a_message_has_to_be_complete_in_time() -> None:
    world = World()
    client = world.connect()
    whole = pureldap.LDAPMessage(search("(uid=p0001)"), id=1).toWire()
    client.send(whole)
    assert len(client.answers()) == 2
    for octet in whole[:20]:
        client.send(bytes((octet,)))
        world.reactor.advance(0.6)
        client.connection.sweep(world.reactor.seconds())
    [answer] = client.answers()
    assert is_notice(answer)
    assert client.is_closed


def test_l_10_a_silent_stranger_is_sent_away() -> None:
    world = World()
    client = world.connect()
    world.reactor.advance(11)
    client.connection.sweep(world.reactor.seconds())
    assert client.is_closed
    # Who has asked something may be silent: that is the edge's business.
    client = world.connect()
    client.ask(search("(uid=p0001)"))
    world.reactor.advance(60)
    client.connection.sweep(world.reactor.seconds())
    assert not client.is_closed


def test_one_octet_at_a_time_and_many_messages_at_once() -> None:
    world = World()
    client = world.connect()
    whole = pureldap.LDAPMessage(search("(uid=p0001)"), id=1).toWire()
    for octet in whole:
        client.send(bytes((octet,)))
    assert len(client.answers()) == 2
    client.send(whole * 50 + whole[:9])
    # After 32 of them it is the others' turn.
    assert len(client.answers()) == 64
    world.reactor.advance(0)
    assert len(client.answers()) == 36
    client.send(whole[9:])
    assert len(client.answers()) == 2


def test_who_reads_nothing_is_cut_off() -> None:
    world = World()
    client = world.connect()
    client.connection.pauseProducing()
    whole = pureldap.LDAPMessage(search("(uid=p0001)"), id=1).toWire()
    client.send(whole)
    assert client.answers() == []
    world.reactor.advance(31)
    client.connection.sweep(world.reactor.seconds())
    assert client.transport.aborted


def test_what_is_not_read_stays_at_the_client() -> None:
    world = World(message_octets=100_000, rate=0)
    client = world.connect()
    client.connection.pauseProducing()
    whole = pureldap.LDAPMessage(search("(uid=p0001)"), id=1).toWire()
    client.send(whole * 4_000)
    assert client.transport.producerState == "paused"
    client.connection.resumeProducing()
    world.reactor.advance(0)
    assert len(client.answers()) == 8_000
    assert client.transport.producerState == "producing"


def test_rates_of_strangers() -> None:
    world = World(rate=10.0, burst=3)
    client = world.connect()
    results = [code(client.ask(search("(uid=p0001)"))[-1]) for _ in range(5)]
    assert results == [0, 0, 0, 51, 51]
    world.reactor.advance(0.2)
    assert code(client.ask(search("(uid=p0001)"))[-1]) == 0
    near = world.connect(host="127.0.0.1")
    assert {code(near.ask(search("(uid=p0001)"))[-1]) for _ in range(5)} == {0}
    assert code(world.connect(host="192.0.2.8").ask(search("(uid=p0001)"))[-1]) == 0


def test_unbind_and_stop() -> None:
    world = World()
    client = world.connect()
    assert client.ask(pureldap.LDAPUnbindRequest()) == []
    assert client.is_closed
    client = world.connect()
    world.factory.stopFactory()
    [answer] = client.answers()
    assert is_notice(answer)
    assert code(answer) == 52


def test_what_fails_is_told_without_its_text() -> None:
    world = World()

    def fail() -> Deferred[None]:
        raise RuntimeError("a secret of ours")

    world.tree.wait = fail
    [answer] = world.connect().ask(search())
    assert code(answer) == 80
    assert b"secret" not in answer.value.errorMessage


def test_everything_is_counted_in_words_of_a_fixed_set() -> None:
    world = World()
    client = world.connect()
    client.ask(search("(uid=p0001)"))
    client.ask(search(base="o=none"))
    bind(client)
    client.send(b"what")
    assert world.meters.search.counts == {"success": 1, "no-such-object": 1}  # type: ignore[attr-defined]
    assert world.meters.bind.counts == {"success": 1}  # type: ignore[attr-defined]
    assert world.meters.other.counts == {"malformed": 1}  # type: ignore[attr-defined]
