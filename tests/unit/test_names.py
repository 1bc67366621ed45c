"""Names: what may enter a certificate, how it is spelt, and what constraints leave."""

from __future__ import annotations

import warnings
from ipaddress import ip_address, ip_network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.support import Clock
from tmad.ca import constraints, names
from tmad.errors import Fault, FaultCode


def dns(text):
    return x509.DNSName._init_without_validation(text)


def upn(text: str, tag: int = 0x0C) -> x509.OtherName:
    octets = text.encode()
    return x509.OtherName(names.UPN, bytes((tag, len(octets))) + octets)


def refused(name, **options) -> str:
    with pytest.raises(Fault) as caught:
        names.normalise(name, **options)
    assert caught.value.code is FaultCode.REJECTED
    return caught.value.rule


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("R1.Example.Test", "r1.example.test"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.example.test", "1.example.test"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
    ],
)
def test_dns_names_have_one_spelling(given, wanted):
    assert names.normalise(dns(given)).value == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a..b",
        ".a",
        "a.",
        "-a.test",
        "a-.test",
        "a_b.test",
        "a b.test",
        "a\0.test",
        "a" * 64 + ".test",
        ".".join(["a" * 60] * 5),
        "ab--c.test",
        "xn--.test",
        "xn--a-.test",
        "192.0.2.1",
        "1.2.3.4.5",
        "bücher.test",
        "a.test\n",
        "*",
    ],
)
def test_10_3_what_is_no_host_name_is_refused(text):
    assert refused(dns(text)).startswith("name.dns")


@pytest.mark.parametrize("text", ["*.test", "*", "a.*.test", "*a.example.test", "**.example.test"])
def test_10_3_wildcards_stand_alone_and_leftmost_and_not_above_a_domain(text):
    assert refused(dns(text), wildcard=True).startswith("name.dns")


def test_10_3_a_wildcard_is_allowed_where_the_profile_says_so():
    name = dns("*.Example.test")
    assert refused(name) == "name.dns.wildcard"
    assert names.normalise(name, wildcard=True).value == "*.example.test"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@b.test",
        "a@",
        "a@b@c.test",
        "a b@c.test",
        "a@-b.test",
        ".a@b.test",
        "a@192.0.2.1",
        "x" * 65 + "@b.test",
        "a\0@b.test",
    ],
)
def test_10_3_what_is_no_mail_address_is_refused(text):
    assert refused(x509.RFC822Name._init_without_validation(text)).startswith(("name.e", "name.d"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/relative",
        "no-scheme",
        "http://",
        "http:// a",
        "ht tp://a",
        "http://a\0b",
        "urn:",
        "http://[::1",
        "tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-500",
    ],
)
def test_10_3_what_is_no_absolute_uri_is_refused(text):
    name = x509.UniformResourceIdentifier._init_without_validation(text)
    assert refused(name).startswith("name.uri")


@pytest.mark.parametrize("text", ["urn:uuid:f81d4fae-7dec", "https://a.test/x?y=1", "sip:a@b.test"])
def test_absolute_uris_are_taken(text):
    assert names.normalise(x509.UniformResourceIdentifier(text)).value == text


@pytest.mark.parametrize(
    "name",
    [
        upn("alice"),
        upn("@example.test"),
        upn("alice@"),
        upn("a@b@c"),
        upn("a b@c.test"),
        upn("a\0@c.test"),
        upn("a\u202e@c.test"),
        upn("a@c.test", tag=0x13),
        x509.OtherName(names.UPN, b"\x0c\x05abc"),
        x509.OtherName(names.UPN, b"\x0c\x02\xff\xfe"),
        x509.OtherName(names.UPN, b"\x0c\x81\x05a@b.c"),
        x509.OtherName(names.UPN, b""),
        upn("e\u0301@c.test"),
    ],
)
def test_10_3_a_upn_is_user_at_domain_in_clean_utf_8(name):
    assert refused(name).startswith(("name.upn", "name.other"))


def test_cve_2022_26923_a_sid_never_comes_from_a_request():
    assert refused(x509.OtherName(names.NTDS_SECURITY, b"\x04\x01S")) == "name.other.sid"


def test_an_ip_name_is_an_address():
    assert names.normalise(x509.IPAddress(ip_address("192.0.2.1")))
    assert refused(x509.IPAddress(ip_network("192.0.2.0/24"))) == "name.ip.address"


def test_10_3_names_that_differ_in_case_only_are_one():
    given = [dns("a.test"), dns("A.test"), upn("Alice@x.test"), upn("alice@X.test"), dns("b.test")]
    assert names.unique(given) == (given[0], given[2], given[4])
    assert names.same(given, [dns("B.test"), upn("alice@x.test"), dns("a.test")])
    assert not names.same([dns("a.test")], [dns("a.test"), dns("b.test")])


def subject(*attributes) -> x509.Name:
    with warnings.catch_warnings():
        # cryptography warns where it would refuse if it were not a test.
        warnings.simplefilter("ignore")
        return x509.Name(
            [
                x509.NameAttribute(oid, value, _type=kind[0] if kind else None, _validate=False)
                for oid, value, *kind in attributes
            ]
        )


@pytest.mark.parametrize(
    ("attribute", "rule"),
    [
        ((NameOID.COMMON_NAME, "x" * 65), "length"),
        ((NameOID.LOCALITY_NAME, "x" * 129), "length"),
        ((NameOID.COUNTRY_NAME, "NLD"), "country"),
        ((NameOID.COUNTRY_NAME, "N1"), "country"),
        ((NameOID.COMMON_NAME, "a\0b"), "value"),
        ((NameOID.COMMON_NAME, "a\u202eb"), "value"),
        ((NameOID.COMMON_NAME, "  "), "value"),
        ((NameOID.COMMON_NAME, "a", _ASN1Type.T61String), "string-type"),
        ((NameOID.COMMON_NAME, "a", _ASN1Type.BMPString), "string-type"),
        ((NameOID.COUNTRY_NAME, "NL", _ASN1Type.UTF8String), "string-type"),
        ((NameOID.SERIAL_NUMBER, "1", _ASN1Type.UTF8String), "string-type"),
        ((NameOID.EMAIL_ADDRESS, "a@b.test", _ASN1Type.UTF8String), "string-type"),
        ((NameOID.COMMON_NAME, "a@b", _ASN1Type.PrintableString), "characters"),
    ],
)
def test_x5_03_subjects_keep_to_types_and_lengths(attribute, rule):
    with pytest.raises(Fault) as caught:
        names.check_subject(subject(attribute))
    assert caught.value.rule == f"name.subject.{rule}"


def test_x5_03_the_usual_subjects_pass():
    names.check_subject(
        subject(
            (NameOID.COUNTRY_NAME, "NL"),
            (NameOID.DOMAIN_COMPONENT, "example"),
            (NameOID.COMMON_NAME, "Jürgen"),
            (NameOID.COMMON_NAME, "r1", _ASN1Type.PrintableString),
            (names.UNSTRUCTURED_NAME, "r1.example.test", _ASN1Type.IA5String),
            (NameOID.EMAIL_ADDRESS, "a@example.test"),
        )
    )


# -- constraints ------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())


def ca(permitted=None, excluded=None) -> x509.Certificate:
    now = Clock()()
    me = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    return (
        x509.CertificateBuilder()
        .subject_name(me)
        .issuer_name(me)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now.replace(year=2030))
        .add_extension(x509.NameConstraints(permitted, excluded), True)
        .sign(KEY, hashes.SHA256())
    )


def host(text):
    return x509.DNSName(text)


def mail(text):
    return x509.RFC822Name(text)


def uri(text):
    return x509.UniformResourceIdentifier(text)


def ip(text):
    return x509.IPAddress(ip_network(text) if "/" in text else ip_address(text))


def directory(organisation, common=None):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)]
    if common:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common))
    return x509.DirectoryName(x509.Name(attributes))


INSIDE = [
    (host("example.test"), host("example.test")),
    (host("example.test"), host("a.b.example.test")),
    (host(".example.test"), host("a.example.test")),
    (host("example.test"), host("*.example.test")),
    (host("EXAMPLE.test"), host("a.example.test")),
    (mail("example.test"), mail("a@example.test")),
    (mail(".example.test"), mail("a@b.example.test")),
    (mail("a@example.test"), mail("A@example.test")),
    (uri("example.test"), uri("http://example.test:80/x")),
    (uri(".example.test"), uri("http://a.example.test/")),
    (ip("192.0.2.0/24"), ip("192.0.2.7")),
    (ip("2001:db8::/32"), ip("2001:db8::1")),
    (directory("Example"), directory("EXAMPLE", "alice")),
]
OUTSIDE = [
    (host("example.test"), host("badexample.test")),
    (host("example.test"), host("test")),
    (host(".example.test"), host("example.test")),
    (mail("example.test"), mail("a@b.example.test")),
    (mail(".example.test"), mail("a@example.test")),
    (mail("b@example.test"), mail("a@example.test")),
    (uri("example.test"), uri("http://a.example.test/")),
    (uri("example.test"), uri("urn:uuid:1")),
    (ip("192.0.2.0/24"), ip("192.0.3.7")),
    (ip("192.0.2.0/24"), ip("2001:db8::1")),
    (directory("Example"), directory("Other", "alice")),
]
NOBODY = x509.Name([])


@pytest.mark.parametrize(("subtree", "name"), INSIDE, ids=str)
def test_10_4_names_inside_a_permitted_subtree_pass(subtree, name):
    constraints.check([ca(permitted=[subtree])], NOBODY, [name])


@pytest.mark.parametrize(("subtree", "name"), OUTSIDE, ids=str)
def test_10_4_names_outside_every_permitted_subtree_are_refused(subtree, name):
    with pytest.raises(Fault) as caught:
        constraints.check([ca(permitted=[subtree])], NOBODY, [name])
    assert caught.value.rule == "name.constraints.permitted"


@pytest.mark.parametrize(("subtree", "name"), INSIDE, ids=str)
def test_10_4_names_inside_an_excluded_subtree_are_refused(subtree, name):
    with pytest.raises(Fault) as caught:
        constraints.check([ca(excluded=[subtree])], NOBODY, [name])
    assert caught.value.rule == "name.constraints.excluded"


def test_10_4_excluded_beats_permitted():
    both = ca(permitted=[host("example.test")], excluded=[host("secret.example.test")])
    constraints.check([both], NOBODY, [host("www.example.test")])
    for bad in ("secret.example.test", "a.secret.example.test", "*.example.test"):
        with pytest.raises(Fault):
            constraints.check([both], NOBODY, [host(bad)])


def test_10_4_a_list_of_one_type_says_nothing_about_others():
    constraints.check([ca(permitted=[host("example.test")])], NOBODY, [mail("a@other.test")])


def test_10_4_every_certificate_of_the_chain_counts():
    chain = [ca(permitted=[host("a.example.test")]), ca(permitted=[host("example.test")])]
    constraints.check(chain, NOBODY, [host("x.a.example.test")])
    with pytest.raises(Fault):
        constraints.check(chain[::-1], NOBODY, [host("x.b.example.test")])


@pytest.mark.parametrize(
    "name",
    [
        subject((NameOID.COMMON_NAME, "www.other.test")),
        subject((NameOID.EMAIL_ADDRESS, "a@other.test")),
        subject((NameOID.ORGANIZATION_NAME, "Other")),
    ],
)
def test_10_4_the_subject_is_bound_too(name):
    issuer = ca(permitted=[host("example.test"), mail("example.test"), directory("Example")])
    with pytest.raises(Fault):
        constraints.check([issuer], name, [])


def test_10_4_a_constraint_that_cannot_be_evaluated_admits_nothing():
    subtree = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    with pytest.raises(Fault):
        constraints.check([ca(permitted=[subtree])], NOBODY, [subtree])
    with pytest.raises(Fault):
        constraints.check([ca(excluded=[subtree])], NOBODY, [subtree])
