"""Profiles: mistakes at load, and what the compiled profile makes of a request."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from tests.unit.ca_bench import PRESETS
from tmad import documents
from tmad.ca import keycheck, lint
from tmad.ca.extensions import MS_SID, NEVER_COPIED
from tmad.ca.profile import ProfileDocument
from tmad.ca.shape import Profile
from tmad.ca.validity import Ends
from tmad.ca.writing import Constraints, IssuerFacts
from tmad.ca.x509 import tbs_certificate
from tmad.errors import Fault, FaultCode

NOW = datetime(2026, 11, 23, 12, 0, 0, 500, tzinfo=UTC)
ISSUER = IssuerFacts(
    not_before=NOW - timedelta(days=100),
    not_after=(NOW + timedelta(days=3000)).replace(microsecond=0),
    key_identifier=b"k" * 20,
    path_length=None,
    crl_url="http://ca.test/crl/x.crl",
    ocsp_url="http://ca.test/ocsp/x",
    ca_issuers_url="http://ca.test/aia/x.cer",
)
KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048).public_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()).public_key(),
    "ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "x25519": x25519.X25519PrivateKey.generate().public_key(),
    "ml-kem": mlkem.MLKEM768PrivateKey.generate().public_key(),
}
ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")


def parsed(**document) -> ProfileDocument:
    return documents.parse(ProfileDocument, document)


def mistake(**document) -> str:
    with pytest.raises(Fault) as caught:
        parsed(**document)
    assert caught.value.code is FaultCode.REJECTED
    return caught.value.detail


def subject(*pairs) -> x509.Name:
    oids = {
        "CN": NameOID.COMMON_NAME,
        "O": NameOID.ORGANIZATION_NAME,
        "C": NameOID.COUNTRY_NAME,
        "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    }
    return x509.Name([x509.NameAttribute(oids[kind], text) for kind, text in pairs])


def shape(document, *, who=None, names=(), wanted=(), key="p256", **options):
    """Return the certificate that a profile makes, unsigned."""
    profile = Profile("test", 3, parsed(**document))
    template = profile.template(
        subject=who if who is not None else subject(("CN", "www.example.test")),
        alternative_names=names,
        wanted=wanted,
        key=keycheck.describe(KEYS[key]),
        issuer=options.pop("issuer", ISSUER),
        now=NOW,
        **options,
    )
    tbs = tbs_certificate(
        template,
        serial=1 << 150,
        issuer_der=subject(("CN", "CA")).public_bytes(),
        algorithm_der=ALGORITHM,
    )
    return lint.preview(tbs, ALGORITHM)


def refused(document, **options) -> Fault:
    with pytest.raises(Fault) as caught:
        shape(document, **options)
    return caught.value


ANY = {"subject": {"attributes": {"CN": {}, "O": {}}}}
DNS = {**ANY, "names": {"dns": {}}}
WWW = x509.DNSName("www.example.test")


# -- mistakes at load -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"validty": {}}, 'did you mean "validity"'),
        ({"validity": {"default": "9 days"}}, "not a duration"),
        ({"validity": {"default": "2y", "max": "1y"}}, "default must be"),
        ({"keys": {"algorithms": ["rsa", "dsa"]}}, "dsa"),
        ({"keys": {"rsa_min": 1024}}, "2048"),
        ({"keys": {"rsa_min": 4096, "rsa_max": 3072}}, "rsa_min"),
        ({"subject": {"attributes": {"XX": {}}}}, "unknown attribute"),
        ({"subject": {"attributes": {"C": {"fixed": "NLD"}}}}, "fixed value"),
        ({"subject": {"attributes": {"*": {"fixed": "x"}}}}, "fixed value"),
        ({"names": {"ip": {"patterns": ["10.0.0.0/33"]}}}, "10.0.0.0/33"),
        ({"names": {"ip": {"wildcard": True}}}, "only DNS names"),
        ({"extensions": {"extended_key_usage": ["server"]}}, "unknown usage"),
        ({"extensions": {"extended_key_usage": ["2.5.29.37.0"]}}, "no restriction"),
        ({"extensions": {"extended_key_usage": ["time_stamping", "server_auth"]}}, "alone"),
        ({"extensions": {"ca": True}}, "key_cert_sign"),
        ({"extensions": {"key_usage": ["key_cert_sign"]}}, "key_cert_sign"),
        ({"extensions": {"path_length": 1}}, "path_length"),
        ({"extensions": {"permitted": {"dns": ["a.test"]}}}, "name constraints"),
        ({"extensions": {"no_rev_avail": True}}, "no_rev_avail"),
        ({"extensions": {"raw": [{"oid": "2.5.29.17", "der_hex": "3000"}]}}, "field of its own"),
        ({"extensions": {"raw": [{"oid": "1.2.3", "der_hex": "3"}]}}, "der_hex"),
        ({"extensions": {"raw": [{"oid": "1.2.3", "der_hex": "0500"}] * 2}}, "twice"),
        ({"extensions": {"policies": [{"oid": "x"}]}}, "object identifier"),
        ({"via": []}, "via"),
    ],
)
def test_mistakes_are_found_when_the_profile_is_stored(document, words):
    assert words in mistake(**document)


@pytest.mark.parametrize("oid", sorted(o.dotted_string for o in NEVER_COPIED))
def test_gen_21_the_never_list_cannot_be_copied(oid):
    assert "never taken from a request" in mistake(extensions={"copy_from_request": [oid]})


def test_every_mistake_is_named_at_once():
    text = mistake(via=[], validity={"default": "x"}, keys={"rsa_min": 5})
    assert all(path in text for path in ("via", "validity.default", "keys.rsa_min"))


def test_a_document_survives_its_own_text():
    for path in PRESETS.glob("*.toml"):
        document = documents.parse(ProfileDocument, tomllib.loads(path.read_text()))
        again = ProfileDocument.model_validate_json(documents.canonical(document))
        assert again == document
        plain = documents.parse(ProfileDocument, documents.plain(document))
        assert plain == document


# -- validity ---------------------------------------------------------------------------------


def test_x5_04_both_ends_belong_to_the_validity():
    certificate = shape({**ANY, "validity": {"default": "90d"}})
    start = datetime(2026, 11, 23, 11, 55, tzinfo=UTC)
    assert certificate.not_valid_before_utc == start
    end = start + timedelta(days=90) - timedelta(seconds=1)
    assert certificate.not_valid_after_utc == end


def test_x5_04_nothing_outlives_its_issuer():
    short = IssuerFacts(
        not_before=NOW - timedelta(minutes=1),
        not_after=(NOW + timedelta(days=5)).replace(microsecond=0),
        key_identifier=b"k" * 20,
        path_length=None,
    )
    certificate = shape(ANY, issuer=short)
    assert certificate.not_valid_after_utc == short.not_after
    assert certificate.not_valid_before_utc >= short.not_before.replace(microsecond=0)
    fault = refused({**ANY, "validity": {"past_issuer": "refuse"}}, issuer=short)
    assert fault.rule == "profile.validity.issuer"


def test_an_expired_issuer_is_unavailable():
    past = IssuerFacts(
        not_before=NOW - timedelta(days=9),
        not_after=NOW - timedelta(days=1),
        key_identifier=b"k" * 20,
        path_length=None,
    )
    fault = refused(ANY, issuer=past)
    assert (fault.code, fault.rule) == (FaultCode.UNAVAILABLE, "issuer.expired")


def test_a_wish_for_too_long_a_time_is_refused():
    fault = refused({**ANY, "validity": {"max": "400d"}}, validity=timedelta(days=401))
    assert fault.rule == "profile.validity.max"
    assert fault.values["profile"] == "test revision 3"


FROM, MONTH = datetime(2026, 11, 23, 12, tzinfo=UTC), timedelta(days=30)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (None, FROM + MONTH),
        (FROM, FROM + MONTH),
        (FROM - timedelta(minutes=5), FROM + MONTH),
        (FROM + MONTH, FROM + 2 * MONTH),  # later, and still over within the longest
        (None, FROM + timedelta(days=89, hours=23)),  # what we date back does not count
        (None, FROM + timedelta(minutes=1)),
    ],
)
def test_ends_that_are_asked_for_are_granted_exactly(begin, end):
    ends = Ends(not_before=begin, not_after=end, asked_at=NOW)
    certificate = shape({**ANY, "validity": {"default": "20d", "max": "90d"}}, validity=ends)
    assert certificate.not_valid_after_utc == end
    if begin is None:
        begin = max(FROM - timedelta(minutes=5), end - timedelta(days=90, seconds=-1))
    assert certificate.not_valid_before_utc == begin


def test_a_beginning_alone_is_followed_by_the_usual_time():
    ends = Ends(not_before=FROM + MONTH, asked_at=NOW)
    certificate = shape({**ANY, "validity": {"default": "20d", "max": "90d"}}, validity=ends)
    assert certificate.not_valid_before_utc == FROM + MONTH
    assert certificate.not_valid_after_utc == FROM + MONTH + timedelta(days=20, seconds=-1)


def test_a_request_that_waited_may_begin_when_it_was_made():
    rules = {**ANY, "validity": {"default": "20d", "max": "90d"}}
    begin = FROM - timedelta(days=5)
    waited = Ends(not_before=begin, asked_at=NOW - timedelta(days=5))
    assert shape(rules, validity=waited).not_valid_before_utc == begin
    assert refused(rules, validity=replace(waited, asked_at=NOW)).rule == "profile.validity.begin"


@pytest.mark.parametrize(
    ("begin", "end", "rule"),
    [
        (FROM - timedelta(minutes=6), None, "begin"),
        (None, FROM - MONTH, "end"),
        (FROM - timedelta(minutes=5), FROM - timedelta(minutes=1), "end"),
        (FROM + MONTH, FROM + MONTH, "max"),
        (FROM + MONTH, FROM, "end"),
        (FROM, FROM + timedelta(days=90), "max"),
        (None, FROM + timedelta(days=90), "max"),
        (FROM + MONTH, FROM + timedelta(days=90), "max"),  # beyond what may be had today
        (None, ISSUER.not_after + timedelta(seconds=1), "max"),
    ],
)
def test_ends_that_cannot_be_granted_are_refused(begin, end, rule):
    ends = Ends(not_before=begin, not_after=end, asked_at=NOW)
    fault = refused({**ANY, "validity": {"default": "20d", "max": "90d"}}, validity=ends)
    assert fault.rule == f"profile.validity.{rule}"


def test_an_end_that_is_asked_for_is_never_shortened():
    issuer = replace(ISSUER, not_after=FROM + MONTH)
    late = Ends(not_after=FROM + MONTH + timedelta(seconds=1), asked_at=NOW)
    assert refused(ANY, validity=late, issuer=issuer).rule == "profile.validity.issuer"
    early = Ends(not_before=FROM, asked_at=NOW)
    assert shape(ANY, validity=early, issuer=issuer).not_valid_after_utc == FROM + MONTH


# -- subject ----------------------------------------------------------------------------------


def test_an_attribute_without_a_rule_is_refused_or_dropped():
    who = subject(("CN", "a"), ("OU", "x"))
    assert refused(ANY, who=who).rule == "profile.subject.attribute"
    drop = {"subject": {"attributes": {"CN": {}}, "unknown": "drop"}}
    assert shape(drop, who=who).subject == subject(("CN", "a"))


def test_fixed_attributes_are_the_profiles():
    document = {"subject": {"attributes": {"CN": {}, "O": {"fixed": "Example"}}}}
    wanted = subject(("CN", "a"), ("O", "Example"))
    for who in (subject(("CN", "a")), subject(("CN", "a"), ("O", "Evil")), wanted):
        assert shape(document, who=who).subject == wanted


def test_required_patterns_and_counts():
    document = {
        "subject": {
            "attributes": {
                "CN": {"required": True, "patterns": ["r[0-9]*"], "max": 2},
                "O": {},
            }
        }
    }
    assert refused(document, who=subject(("O", "x"))).rule == "profile.subject.required"
    assert refused(document, who=subject(("CN", "x1"))).rule == "profile.subject.pattern"
    three = subject(("CN", "r1"), ("CN", "r2"), ("CN", "r3"))
    assert refused(document, who=three).rule == "profile.subject.count"
    assert shape(document, who=subject(("CN", "r1"))).subject == subject(("CN", "r1"))


def test_the_order_can_be_the_profiles():
    document = {"subject": {"attributes": {"CN": {}, "O": {}}, "order": ["O", "CN"]}}
    certificate = shape(document, who=subject(("CN", "a"), ("O", "x")))
    assert certificate.subject == subject(("O", "x"), ("CN", "a"))


def test_multi_valued_rdns_are_refused():
    both = [
        x509.NameAttribute(NameOID.COMMON_NAME, "a"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "b"),
    ]
    who = x509.Name([x509.RelativeDistinguishedName(both)])
    assert refused(ANY, who=who).rule == "profile.subject.multi-valued"


def test_an_empty_subject_needs_leave_and_a_name_which_is_then_critical():
    empty = x509.Name([])
    assert refused(DNS, who=empty, names=(WWW,)).rule == "profile.subject.empty"
    document = {**DNS, "subject": {"allow_empty": True}}
    assert refused(document, who=empty).rule == "profile.subject.empty"
    san = shape(document, who=empty, names=(WWW,)).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert san.critical


# -- names ------------------------------------------------------------------------------------


def san_of(certificate) -> list[x509.GeneralName]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not found.critical
    return list(found.value)


def test_names_are_taken_by_kind_only():
    mail = x509.RFC822Name("a@example.test")
    assert refused(DNS, names=(WWW, mail)).rule == "profile.names.email"
    drop = {**ANY, "names": {"dns": {}, "unknown": "drop"}}
    assert san_of(shape(drop, names=(WWW, mail))) == [WWW]


def test_names_are_canonical_and_once():
    given = (x509.DNSName("WWW.example.test"), WWW)
    assert san_of(shape(DNS, names=given)) == [WWW]


@pytest.mark.parametrize(
    ("kind", "rule", "good", "bad"),
    [
        ("dns", {"patterns": ["*.example.test"]}, "www.example.test", "www.other.test"),
        ("email", {"patterns": ["*@example.test"]}, "a@example.test", "a@other.test"),
        ("uri", {"patterns": ["urn:x:*"]}, "urn:x:1", "urn:y:1"),
    ],
)
def test_names_match_a_pattern(kind, rule, good, bad):
    make = {"dns": x509.DNSName, "email": x509.RFC822Name, "uri": x509.UniformResourceIdentifier}
    document = {**ANY, "names": {kind: rule}}
    assert san_of(shape(document, names=(make[kind](good),)))
    fault = refused(document, names=(make[kind](bad),))
    assert fault.rule == f"profile.names.{kind}.pattern"


def test_addresses_match_a_network():
    from ipaddress import ip_address

    document = {**ANY, "names": {"ip": {"patterns": ["10.0.0.0/8", "2001:db8::/32"]}}}
    for good in ("10.1.2.3", "2001:db8::1"):
        assert san_of(shape(document, names=(x509.IPAddress(ip_address(good)),)))
    bad = x509.IPAddress(ip_address("192.0.2.1"))
    assert refused(document, names=(bad,)).rule == "profile.names.ip.pattern"


def test_counts_and_required_names():
    document = {**ANY, "names": {"dns": {"max": 1, "required": True}, "uri": {}}}
    two = (WWW, x509.DNSName("b.example.test"))
    assert refused(document, names=two).rule == "profile.names.dns.count"
    assert refused(document).rule == "profile.names.dns.required"
    some = {**ANY, "names": {"dns": {}, "required": True}}
    assert refused(some).rule == "profile.names.required"


def test_a_common_name_may_have_to_be_among_the_names():
    document = {
        "subject": {"attributes": {"CN": {}}, "common_name_in_names": True},
        "names": {"dns": {}},
    }
    assert shape(document, names=(WWW,))
    other = (x509.DNSName("b.example.test"),)
    assert refused(document, names=other).rule == "profile.subject.common-name"


def test_a_host_in_the_common_name_may_become_a_name():
    document = {
        "subject": {"attributes": {"CN": {}}, "name_from_common_name": True},
        "names": {"dns": {"patterns": ["*.example.test"]}},
    }
    assert san_of(shape(document)) == [WWW]
    evil = subject(("CN", "www.evil.test"))
    assert refused(document, who=evil).rule == "profile.names.dns.pattern"


# -- extensions -------------------------------------------------------------------------------


def wish(oid: str, critical: bool = False) -> x509.Extension:
    found = x509.ObjectIdentifier(oid)
    return x509.Extension(found, critical, x509.UnrecognizedExtension(found, b"\x05\x00"))


def oids(certificate) -> set[str]:
    return {extension.oid.dotted_string for extension in certificate.extensions}


def test_gen_21_only_listed_wishes_are_copied_and_never_critical():
    document = {**ANY, "extensions": {"copy_from_request": ["1.2.3.4"]}}
    certificate = shape(document, wanted=(wish("1.2.3.4", True), wish("1.2.3.5")))
    copied = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.3.4"))
    assert not copied.critical
    assert "1.2.3.5" not in oids(certificate)


def test_cve_2024_49019_dangerous_wishes_leave_no_trace():
    plain = oids(shape(ANY))
    wishes = tuple(wish(oid.dotted_string) for oid in NEVER_COPIED)
    assert oids(shape(ANY, wanted=wishes)) == plain


@pytest.mark.parametrize(
    ("key", "usages", "wanted"),
    [
        (
            "rsa",
            ["digital_signature", "key_encipherment"],
            {"digital_signature", "key_encipherment"},
        ),
        ("p256", ["digital_signature", "key_encipherment"], {"digital_signature"}),
        ("ed25519", ["digital_signature", "key_agreement"], {"digital_signature"}),
        ("p256", ["key_encipherment", "key_agreement"], {"key_agreement"}),
        ("x25519", ["key_encipherment", "key_agreement"], {"key_agreement"}),
        ("ml-kem", ["key_encipherment", "key_agreement"], {"key_encipherment"}),
    ],
)
def test_10_2_key_usage_fits_the_key(key, usages, wanted):
    certificate = shape({**ANY, "extensions": {"key_usage": usages}}, key=key)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    names = ("digital_signature", "key_encipherment", "key_agreement", "content_commitment")
    assert {name for name in names if getattr(usage.value, name)} == wanted


def test_a_key_that_cannot_do_what_the_profile_is_for_is_refused():
    fault = refused({**ANY, "extensions": {"key_usage": ["key_encipherment"]}}, key="ed25519")
    assert (fault.code, fault.rule) == (FaultCode.BAD_ALGORITHM, "profile.key.usage")


def test_addresses_come_from_the_issuer_and_can_be_left_out():
    full = shape(ANY)
    aia = full.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert {a.access_location.value for a in aia} == {ISSUER.ocsp_url, ISSUER.ca_issuers_url}
    off = {"aia_ocsp": False, "aia_ca_issuers": False, "crl": False}
    bare = oids(shape({**ANY, "extensions": off}))
    assert ExtensionOID.AUTHORITY_INFORMATION_ACCESS.dotted_string not in bare
    assert ExtensionOID.CRL_DISTRIBUTION_POINTS.dotted_string not in bare


def test_time_stamping_is_critical_and_other_usages_are_not():
    for usage, critical in (("time_stamping", True), ("server_auth", False)):
        certificate = shape({**ANY, "extensions": {"extended_key_usage": [usage]}})
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert found.critical is critical


def test_the_fixed_extensions():
    certificate = shape(
        {
            **ANY,
            "extensions": {
                "must_staple": True,
                "ocsp_no_check": True,
                "policies": [{"oid": "2.23.140.1.2.1", "cps": "https://ca.test/cps"}],
                "ms_template_v1": "DomainController",
                "ms_template_v2": {"oid": "1.3.6.1.4.1.311.21.8.1", "major": 100, "minor": 3},
                "raw": [{"oid": "1.2.3.4", "der_hex": "0500", "critical": True}],
            },
        }
    )
    raw = {e.oid.dotted_string: e for e in certificate.extensions}
    assert raw["1.3.6.1.5.5.7.1.24"].value.public_bytes().hex() == "3003020105"
    assert raw["1.3.6.1.5.5.7.48.1.5"].value.public_bytes() == b"\x05\x00"
    text = "DomainController".encode("utf-16-be")
    assert raw["1.3.6.1.4.1.311.20.2"].value.value == b"\x1e" + bytes([len(text)]) + text
    assert raw["1.3.6.1.4.1.311.21.7"].value.minor_version == 3
    assert raw["1.2.3.4"].critical
    assert raw["2.5.29.32"].value[0].policy_qualifiers == ["https://ca.test/cps"]


def test_rfc_9608_no_rev_avail():
    document = {"no_rev_avail": True, "crl": False, "aia_ocsp": False}
    certificate = shape({**ANY, "extensions": document})
    assert "2.5.29.56" in oids(certificate)
    assert "2.5.29.31" not in oids(certificate)


def test_kb5014754_the_sid_comes_from_the_directory_as_text():
    document = {**ANY, "extensions": {"sid": "required"}}
    assert refused(document).rule == "profile.sid"
    certificate = shape(document, sid="S-1-5-21-1-2-3-1104")
    value = certificate.extensions.get_extension_for_oid(MS_SID).value.value
    assert value.endswith(b"\xa0\x15\x04\x13S-1-5-21-1-2-3-1104")
    assert refused(document, sid="S-1-5-21; rm").rule == "profile.sid"
    optional = {**ANY, "extensions": {"sid": "optional"}}
    assert MS_SID.dotted_string not in oids(shape(optional))
    assert MS_SID.dotted_string not in oids(shape(ANY, sid="S-1-5-21-1-2-3-1104"))


CA = {**ANY, "extensions": {"ca": True, "key_usage": ["key_cert_sign", "crl_sign"]}}


@pytest.mark.parametrize(
    ("issuer", "profile", "own", "wanted"),
    [(None, None, None, None), (2, None, None, 1), (2, 0, None, 0), (None, 3, 1, 1), (3, 9, 9, 2)],
)
def test_a_path_length_is_the_smallest_of_all(issuer, profile, own, wanted):
    facts = IssuerFacts(
        not_before=ISSUER.not_before,
        not_after=ISSUER.not_after,
        key_identifier=b"k" * 20,
        path_length=issuer,
    )
    extensions = {**CA["extensions"], "path_length": profile}
    certificate = shape(
        {**CA, "extensions": extensions}, issuer=facts, constraints=Constraints(path_length=own)
    )
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, wanted)


def test_an_issuer_with_path_length_0_certifies_no_authority():
    facts = IssuerFacts(
        not_before=ISSUER.not_before,
        not_after=ISSUER.not_after,
        key_identifier=b"k" * 20,
        path_length=0,
    )
    assert refused(CA, issuer=facts).rule == "profile.ca.path-length"


def test_name_constraints_of_profile_and_ceremony_add_up():
    extensions = {
        **CA["extensions"],
        "permitted": {"dns": ["example.test"]},
        "excluded": {"ip": ["0.0.0.0/0"]},
    }
    own = Constraints(permitted=(x509.DNSName("other.test"),))
    certificate = shape({**CA, "extensions": extensions}, constraints=own)
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert [n.value for n in found.value.permitted_subtrees] == ["example.test", "other.test"]
    assert str(found.value.excluded_subtrees[0].value) == "0.0.0.0/0"


def test_every_preset_loads_and_says_what_it_is_for():
    wanted = {
        "tls-server": {ExtendedKeyUsageOID.SERVER_AUTH},
        "tls-client": {ExtendedKeyUsageOID.CLIENT_AUTH},
        "ocsp-responder": {ExtendedKeyUsageOID.OCSP_SIGNING},
        "timestamping": {ExtendedKeyUsageOID.TIME_STAMPING},
        "tsa-signer": {ExtendedKeyUsageOID.TIME_STAMPING},
    }
    from tmad.ca.extensions import usage_oid

    names = {path.stem for path in PRESETS.glob("*.toml")}
    assert len(names) == 26
    for path in PRESETS.glob("*.toml"):
        document = documents.parse(ProfileDocument, tomllib.loads(path.read_text()))
        assert document.description
        if path.stem in wanted:
            usages = {usage_oid(u) for u in document.extensions.extended_key_usage}
            assert usages == wanted[path.stem]
