"""Filters applied to entries: three-valued logic, matching rules, certificate assertions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from ldap3.operation.search import search_operation
from ldap3.protocol.rfc4511 import LDAPMessage, MessageID, ProtocolOp
from ldap3.utils.asn1 import encode

from tests.fuzz import mutations
from tmad.protocols.ldap import codec, evaluation, matching, schema
from tmad.protocols.ldap.filters import And, Equal, Filter, Not, Or, Present, Unknown
from tmad.protocols.ldap.strings import prepare
from tmad.protocols.ldap.tree import Entry

BOB = Entry(
    "uid=bob+sn=Jensen,ou=people,o=Acme Inc",
    {
        "objectClass": (b"top", b"person", b"organizationalPerson", b"inetOrgPerson"),
        "uid": (b"bob",),
        "cn": (b"Bob  Jensen", "Bob Jensén".encode()),
        "sn": (b"Jensen",),
        "mail": (b"Bob@Acme.example", b"b.jensen@acme.example"),
        "telephoneNumber": (b"+1 555-0100",),
        "createTimestamp": (b"20261123120000Z",),
        "hasSubordinates": (b"FALSE",),
        "entryUUID": (b"6ba7b810-9dad-11d1-80b4-00c04fd430c8",),
        "seeAlso": (b"CN=The Boss, O=Acme Inc",),
        "userPassword": (b"\x00\xff",),
        "userCertificate": (),
    },
)


def parse(text: str) -> Filter:
    """Return a filter that is written as text, through ldap3's writing and our reading."""
    request = search_operation(
        "o=acme", text, "SUBTREE", "ALWAYS", ["cn"], 0, 0, False, None, None, check_names=False
    )
    message = LDAPMessage()
    message["messageID"] = MessageID(1)
    message["protocolOp"] = ProtocolOp().setComponentByName("searchRequest", request)
    found = codec.decode(encode(message)).operation
    assert isinstance(found, codec.Search)
    return found.filter


def judge(text: str, entry: Entry = BOB) -> bool | None:
    return evaluation.tester(parse(text), schema)(entry)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(uid=BOB)", True),
        ("(userid=bob)", True),
        ("(0.9.2342.19200300.100.1.1=bob)", True),
        ("(uid=alice)", False),
        ("(cn= bob jensen )", True),
        ("(cn=bob jense\\cc\\81n)", True),
        ("(cn=BOB JENSE\\cc\\81N)", True),
        ("(cn=bob jens\\c3\\89n)", True),
        ("(cn=bob jense\\cc\\81n*)", True),
        ("(name=jensen)", True),
        ("(sn~=jensen)", True),
        ("(mail=bob@ACME.example)", True),
        ("(mail=*@acme.example)", True),
        ("(mail=b.*@*example)", True),
        ("(mail=*b*@*e*)", True),
        ("(mail=*z*)", False),
        ("(cn=bob*)", True),
        ("(cn=bob *jen*)", True),
        ("(cn=bob*bob*)", False),
        ("(cn=*jensen*n)", False),
        ("(cn=Bob Jensen*n)", False),
        ("(telephoneNumber=+15550100)", True),
        ("(telephoneNumber=*555 01*)", True),
        ("(createTimestamp>=20260101000000Z)", True),
        ("(createTimestamp<=20260101000000Z)", False),
        ("(createTimestamp=20261123130000+0100)", True),
        ("(createTimestamp=202611231200Z)", True),
        ("(createTimestamp>=yesterday)", None),
        ("(hasSubordinates=FALSE)", True),
        ("(hasSubordinates=no)", None),
        ("(entryUUID=6BA7B810-9DAD-11D1-80B4-00C04FD430C8)", True),
        ("(entryUUID=x)", None),
        ("(entryUUID>=00000000-0000-0000-0000-000000000000)", True),
        ("(seeAlso=cn=the boss,o=acme inc)", True),
        ("(seeAlso=2.5.4.3=The Boss, o=Acme Inc)", True),
        ("(seeAlso=nonsense)", None),
        ("(userPassword=\\00\\ff)", True),
        ("(userPassword>=\\00)", None),
        ("(cn>=a)", None),
        ("(objectClass=*)", True),
        ("(objectClass=person)", True),
        ("(objectClass=2.5.6.6)", True),
        ("(objectClass=PERSON)", True),
        ("(objectClass=device)", False),
        ("(objectClass=noSuchClass)", None),
        ("(objectClass=1.2.3.4)", False),
        ("(description=*)", False),
        ("(description=x)", False),
        ("(noSuch=*)", False),
        ("(noSuch=x)", None),
        ("(!(noSuch=x))", None),
        ("(!(noSuch=*))", True),
        ("(!(uid=alice))", True),
        ("(|(noSuch=x)(uid=bob))", True),
        ("(|(noSuch=x)(uid=alice))", None),
        ("(&(noSuch=x)(uid=bob))", None),
        ("(&(noSuch=x)(uid=alice))", False),
        ("(cn;binary=bob jensen)", True),
        ("(cn;lang-en=bob jensen)", False),
        ("(cn;lang-en=*)", False),
        ("(cn:caseExactMatch:=Bob Jensen)", True),
        ("(cn:caseExactMatch:=bob jensen)", False),
        ("(cn:2.5.13.5:=Bob Jensen)", True),
        ("(cn:integerMatch:=5)", None),
        ("(cn:noSuchMatch:=x)", None),
        ("(cn:caseIgnoreSubstringsMatch:=x)", None),
        ("(noSuch:caseExactMatch:=x)", None),
        ("(:caseIgnoreMatch:=jensen)", True),
        ("(:caseIgnoreMatch:=nobody)", False),
        ("(:caseIgnoreMatch:=acme inc)", False),
        ("(:dn:caseIgnoreMatch:=acme inc)", True),
        ("(o:dn:=acme inc)", True),
        ("(o:dn:caseExactMatch:=acme inc)", False),
        ("(ou:dn:=people)", True),
        ("(ou:=people)", False),
        ("(sn:dn:=jensen)", True),
        ("(createTimestamp:generalizedTimeOrderingMatch:=20270101000000Z)", True),
    ],
)
def test_l_20_filters(text: str, expected: bool | None) -> None:
    assert judge(text) is expected


def test_rfc_4526_and_what_nobody_has_defined() -> None:
    assert evaluation.tester(And(()), schema)(BOB) is True
    assert evaluation.tester(Or(()), schema)(BOB) is False
    assert evaluation.tester(Unknown(0xAA), schema)(BOB) is None
    assert evaluation.tester(Not(Unknown(0xAA)), schema)(BOB) is None


def test_octets_that_are_no_text_are_undefined_not_an_error() -> None:
    for name in ("cn", "mail", "telephoneNumber", "seeAlso", "objectClass", "createTimestamp"):
        assert evaluation.tester(Equal(name, b"\xff\xfe"), schema)(BOB) is None


# -- three-valued logic, against a table written the other way round --------------------------

_LEAVES = {
    True: Present("uid"),
    False: Equal("uid", b"alice"),
    None: Equal("noSuch", b"x"),
}
_trees = st.recursive(
    st.sampled_from([True, False, None]),
    lambda inner: (
        st.tuples(st.sampled_from("&|"), st.lists(inner, max_size=3))
        | st.tuples(st.just("!"), inner)
    ),
    max_leaves=12,
)


def _build(tree: object) -> tuple[Filter, bool | None]:
    """Return a filter and what it must say: Kleene's logic as minimum and maximum."""
    if not isinstance(tree, tuple):
        assert tree is None or isinstance(tree, bool)
        return _LEAVES[tree], tree
    rank = {False: 0, None: 1, True: 2}
    back = {value: key for key, value in rank.items()}
    kind, below = tree
    if kind == "!":
        inner, said = _build(below)
        return Not(inner), back[2 - rank[said]]
    parts = [_build(each) for each in below]
    ranks = [rank[said] for _, said in parts]
    filters = tuple(each for each, _ in parts)
    if kind == "&":
        return And(filters), back[min(ranks, default=2)]
    return Or(filters), back[max(ranks, default=0)]


@given(_trees)
def test_l_20_three_values(tree: object) -> None:
    wanted, expected = _build(tree)
    assert evaluation.tester(wanted, schema)(BOB) is expected


# -- certificates -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def holder() -> tuple[Entry, int]:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name.from_rfc4514_string("CN=Test CA,O=Acme \\, Inc,C=DE")
    now = datetime(2026, 11, 23, tzinfo=UTC)
    builder = x509.CertificateBuilder().issuer_name(issuer).public_key(key.public_key())
    certificate = (
        builder.subject_name(x509.Name([]))
        .serial_number(9415)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(Encoding.DER)
    return (
        Entry(
            "uid=x",
            {
                "userCertificate": (b"not a certificate", der),
                "certificateRevocationList": (crl.public_bytes(Encoding.DER),),
            },
        ),
        9415,
    )


NAME = "cn=test ca, O=ACME \\5c, Inc,c=de"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'(userCertificate={{ serialNumber 9415, issuer rdnSequence:"{NAME}" }})', True),
        (f'(userCertificate={{serialNumber 9415,issuer rdnSequence:"{NAME}"}})', True),
        (f'(userCertificate={{ issuer rdnSequence:"{NAME}", serialNumber 9415 }})', True),
        (f'(userCertificate={{ serialNumber 9415, issuer "{NAME}" }})', True),
        (f"(userCertificate={{ serialNumber '24C7'H, issuer rdnSequence:\"{NAME}\" }})", True),
        (f'(userCertificate={{ serialNumber 0x24c7, issuer rdnSequence:"{NAME}" }})', True),
        (f'(userCertificate:certificateExactMatch:={{ serialNumber 9415, issuer "{NAME}" }})',
         True),
        (f'(userCertificate:2.5.13.34:={{ serialNumber 9415, issuer "{NAME}" }})', True),
        (f"(userCertificate;binary=9415${NAME})", True),
        (f"(userCertificate=9415$ {NAME} )", True),
        (f"(userCertificate=9416${NAME})", False),
        ("(userCertificate=9415$CN=Another CA)", False),
        ("(userCertificate=9415$CN)", None),
        ("(userCertificate=9415)", None),
        ("(userCertificate=)", None),
        ("(userCertificate={ serialNumber 9415 })", None),
        (f'(userCertificate={{ serialNumber -, issuer "{NAME}" }})', None),
        (f'(userCertificate={{ serialNumber {"9" * 300}, issuer "{NAME}" }})', None),
        (f'(cACertificate={{ serialNumber 9415, issuer "{NAME}" }})', False),
        (f'(certificateRevocationList={{ issuer "{NAME}", thisUpdate "20261123000000Z" }})', True),
        (f'(certificateRevocationList={{ issuer rdnSequence:"{NAME}", '
         'thisUpdate utcTime:"261123000000Z" })', True),
        (f"(certificateRevocationList={NAME}$20261123000000Z)", True),
        (f"(certificateRevocationList={NAME}$20261124000000Z)", False),
        (f"(certificateRevocationList={NAME}$yesterday)", None),
    ],
)  # fmt: skip
def test_l_21_exact_matches(holder: tuple[Entry, int], text: str, expected: bool | None) -> None:
    assert judge(text, holder[0]) is expected


def test_l_21_a_whole_certificate_describes_itself(holder: tuple[Entry, int]) -> None:
    entry = holder[0]
    der = entry.attributes["userCertificate"][1]
    assert evaluation.tester(Equal("userCertificate", der), schema)(entry) is True
    assert evaluation.tester(Equal("userCertificate", der[:-1]), schema)(entry) is None


@pytest.mark.parametrize(
    "value",
    [
        b"{" * 8000,
        b"{ serialNumber 1," + b" " * 8000,
        b'{ serialNumber 1, issuer "' + b'""' * 4000,
        b'{ issuer "' + b"a" * 100 + b'"' + b" " * 8000 + b"x }",
        b"1" * 8000,
        b"1$" + b"CN=" * 2700,
        b"$" * 8000,
        b"1" + b" " * 8000 + b"$x",
        b"CN=x$" + b"1" * 8000,
    ],
)
def test_t_ldap_01_long_assertions_are_cheap(value: bytes) -> None:
    for name in ("certificateExactMatch", "certificateListExactMatch"):
        rule = matching.rule_of(name)
        assert rule is not None
        assert mutations.judge(rule.assertion, value) is None
        assert mutations.judge(rule.assertion, value * 40) is None


# -- rules ------------------------------------------------------------------------------------


def test_every_rule_that_the_schema_names_is_here() -> None:
    for kind in schema.ATTRIBUTES:
        for name in (kind.equality, kind.ordering, kind.substring):
            assert not name or matching.rule_of(name) is not None, kind.name
    known = {(rule.oid, rule.name) for rule in matching.RULES.values()}
    assert {(oid, name) for oid, name, _ in schema.RULES} == known


@pytest.mark.parametrize(
    ("text", "fold", "expected"),
    [
        ("  A\tb \n c ", True, "a b c"),
        ("A B", False, "A B"),
        ("stra\u00dfe", True, "strasse"),
        ("soft\u00adhyphen\u200b", True, "softhyphen"),
        ("\ufb01ne", True, "fine"),
        ("\u2126", True, "\u03c9"),
        ("a\u00a0b", True, "a b"),
        ("x\x00y\x7fz", True, "xyz"),
    ],
)
def test_rfc_4518_strings(text: str, fold: bool, expected: str) -> None:
    assert prepare(text, fold=fold) == expected


@given(st.text(max_size=40), st.booleans())
def test_rfc_4518_preparing_twice_changes_nothing(text: str, fold: bool) -> None:
    once = prepare(text, fold=fold)
    assert prepare(once, fold=fold) == once


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"20261123120000Z", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        (b"2026112312Z", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        (b"2026112312.5Z", datetime(2026, 11, 23, 12, 30, tzinfo=UTC)),
        (b"202611231200,5Z", datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)),
        (b"20261123120000-0130", datetime(2026, 11, 23, 13, 30, tzinfo=UTC)),
        (b"20261123120000+01", datetime(2026, 11, 23, 11, tzinfo=UTC)),
        (b"20261231235960Z", datetime(2027, 1, 1, tzinfo=UTC)),
        (b"20261123120000", None),
        (b"20261323120000Z", None),
        (b"20261123250000Z", None),
        (b"20261123120099Z", None),
        (b"20261123120000+9900", None),
        (b"00000101000000Z", None),
        (b"99991231235959-1200", None),
        (b"", None),
    ],
)
def test_rfc_4517_generalized_time(value: bytes, expected: datetime | None) -> None:
    rule = matching.rule_of("generalizedTimeMatch")
    assert rule is not None
    assert rule.value(value) == expected


@pytest.mark.parametrize("rule", sorted({rule.name for rule in matching.RULES.values()}))
@given(value=st.binary(max_size=60))
def test_t_ldap_01_any_octets_are_a_value_or_none(rule: str, value: bytes) -> None:
    found = matching.rule_of(rule)
    assert found is not None
    for read in (found.value, found.assertion):
        known = read(value)
        assert known is None or known == read(value)
