"""Distinguished names: what is one name in many spellings, and what is none (RFC 4514, L-22)."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import names


@pytest.mark.parametrize(
    "text",
    [
        # RFC 4514, 4: examples
        "UID=jsmith,DC=example,DC=net",
        "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        'CN=James \\"Jim\\" Smith\\, III,DC=example,DC=net',
        "CN=Before\\0dAfter,DC=example,DC=net",
        "1.3.6.1.4.1.1466.0=#04024869",
        "CN=Lu\\C4\\8Di\\C4\\87",
    ],
)
def test_the_examples_of_the_rfc_are_names(text: str) -> None:
    dn = names.parse(text)
    assert names.key(names.parse(names.text_of(dn))) == names.key(dn)


def test_what_the_examples_mean() -> None:
    assert names.parse('CN=James \\"Jim\\" Smith\\, III,DC=net')[0] == (
        ("CN", 'James "Jim" Smith, III'),
    )
    assert names.parse("CN=Lu\\C4\\8Di\\C4\\87") == ((("CN", "Lučić"),),)
    assert names.parse("1.3.6.1.4.1.1466.0=#04024869") == (
        (("1.3.6.1.4.1.1466.0", b"\x04\x02Hi"),),
    )
    assert names.parse("cn=#0c03426f62") == ((("cn", "Bob"),),)
    assert names.parse("") == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("uid=bob,ou=people,o=acme", "UID=BOB , OU=People, O=ACME"),
        ("cn=a  b", "CommonName=A B"),
        ("cn=bob", "2.5.4.3=bob"),
        ("cn=bob", "oid.2.5.4.3=bob"),
        ("cn=bob,o=acme", 'cn="bob";o=acme'),
        ("cn=a+sn=b,o=c", "sn=B+cn=A,o=c"),
        ("cn=\\20bob\\20", "cn=bob"),
        ("cn=Straße", "cn=STRASSE"),
        ("cn=#0c03426f62", "cn=bob"),
        ("cn=a\\,b", 'cn="a,b"'),
    ],
)
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert names.key_of_text(one) == names.key_of_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cn=bob", "sn=bob"),
        ("cn=a,o=b", "cn=a+o=b"),
        ("cn=a,cn=b", "cn=b,cn=a"),
        ("cn=bob", "cn=bob,o=acme"),
    ],
)
def test_names_that_are_not(one: str, other: str) -> None:
    assert names.key_of_text(one) != names.key_of_text(other)


@pytest.mark.parametrize(
    "text",
    [
        "bob",
        "cn",
        "=bob",
        "cn=bob,",
        ",cn=bob",
        "cn=bob+",
        "cn=a\\",
        "cn=a\\x",
        "cn=\\ff",
        'cn="bob',
        'cn="bob"x',
        "cn=a<b",
        "cn=a\0b",
        "cn=#0c,=",
        "1.=a",
        "cn=" + "a" * 5000,
        ",".join(["cn=a"] * 65),
        "+".join(["cn=a"] * 65),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Fault) as caught:
        names.parse(text)
    assert (caught.value.code, caught.value.rule) == (FaultCode.MALFORMED, "ldap.dn")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_value_survives_its_escaping(value: str) -> None:
    assert names.parse(f"cn={names.escape(value)},o=acme") == ((("cn", value),), (("o", "acme"),))


@given(st.text(alphabet='cn=,+;\\"# 0af<>\0é', max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        dn = names.parse(text)
    except Fault:
        return
    assert names.key(names.parse(names.text_of(dn))) == names.key(dn)


def test_a_certificates_name_is_compared_in_the_order_of_ldap() -> None:
    issuer = x509.Name.from_rfc4514_string("CN=Test CA,O=Acme")
    assert names.key_of(issuer) == names.key_of_text("cn=test ca, o=ACME")
