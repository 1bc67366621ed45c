"""Whatever is asked of whatever profile: a clean certificate or a Fault, and nothing unlisted."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ca_bench import PRESETS
from tests.unit.test_profile import ALGORITHM, ISSUER, NOW
from tmad import documents
from tmad.ca import keycheck, lint, names
from tmad.ca.extensions import NEVER_COPIED
from tmad.ca.profile import ProfileDocument
from tmad.ca.shape import Profile
from tmad.ca.x509 import tbs_certificate
from tmad.errors import Fault

PROFILES = {
    path.stem: Profile(
        path.stem, 1, documents.parse(ProfileDocument, tomllib.loads(path.read_text()))
    )
    for path in sorted(PRESETS.glob("*.toml"))
}
KEYS = [
    keycheck.describe(key.public_key())
    for key in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    )
]
CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
# Everything that the presets write; none of them copies anything.
WRITTEN = frozenset(
    {
        *("2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.31", "2.5.29.35"),
        *("2.5.29.37", "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.48.1.5", "1.3.6.1.4.1.311.20.2"),
    }
)


def outcome(function, *arguments, **options):
    """Return a result, or the Fault; any other exception fails the test."""
    try:
        return function(*arguments, **options)
    except Fault as fault:
        return fault


texts = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[a-z0-9.*@:/-]{0,40}", fullmatch=True),
    st.sampled_from(
        ["www.example.test", "*.example.test", "a@example.test", "NL", "\0", "192.0.2.1"]
    ),
)
attributes = st.tuples(
    st.sampled_from(
        [
            NameOID.COMMON_NAME,
            NameOID.COUNTRY_NAME,
            NameOID.ORGANIZATION_NAME,
            NameOID.EMAIL_ADDRESS,
            NameOID.SERIAL_NUMBER,
            NameOID.DOMAIN_COMPONENT,
            x509.ObjectIdentifier("1.2.3.4"),
        ]
    ),
    texts,
    st.sampled_from([_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.IA5String]),
)


@st.composite
def subjects(draw) -> x509.Name:
    found = []
    for oid, text, kind in draw(st.lists(attributes, max_size=5)):
        try:
            found.append(x509.NameAttribute(oid, text, _type=kind))
        except ValueError:
            continue
    return x509.Name(found)


@st.composite
def general_names(draw) -> x509.GeneralName:
    text = draw(texts)
    kind = draw(st.sampled_from(["dns", "email", "uri", "upn", "other", "ip", "oid", "dir"]))
    match kind:
        case "dns":
            return x509.DNSName._init_without_validation(text)
        case "email":
            return x509.RFC822Name._init_without_validation(text)
        case "uri":
            return x509.UniformResourceIdentifier._init_without_validation(text)
        case "upn":
            octets = text.encode("utf-8", "surrogatepass")[:100]
            return x509.OtherName(names.UPN, b"\x0c" + bytes([len(octets)]) + octets)
        case "other":
            return x509.OtherName(
                x509.ObjectIdentifier("1.2.3"), draw(st.binary(min_size=1, max_size=40))
            )
        case "ip":
            return x509.IPAddress(ip_address(draw(st.integers(0, 2**32 - 1))))
        case "oid":
            return x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    return x509.DirectoryName(draw(subjects()))


wishes = st.lists(
    st.tuples(
        st.sampled_from([*sorted(o.dotted_string for o in NEVER_COPIED), "1.2.3.4", "1.2.3.5"]),
        st.booleans(),
        st.binary(max_size=30),
    ),
    max_size=6,
)


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=60, deadline=timedelta(seconds=2))
@given(
    subject=subjects(),
    alternative=st.lists(general_names(), max_size=5),
    wanted=wishes,
    key=st.sampled_from(KEYS),
)
def test_gen_21_a_profile_yields_its_own_extensions_or_a_fault(
    profile, subject, alternative, wanted, key
):
    asked = [
        x509.Extension(
            x509.ObjectIdentifier(oid),
            critical,
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value),
        )
        for oid, critical, value in wanted
    ]
    template = outcome(
        PROFILES[profile].template,
        subject=subject,
        alternative_names=alternative,
        wanted=asked,
        key=key,
        issuer=ISSUER,
        now=NOW,
    )
    if isinstance(template, Fault):
        assert template.rule
        return
    tbs = tbs_certificate(
        template, serial=1 << 150, issuer_der=CA_NAME.public_bytes(), algorithm_der=ALGORITHM
    )
    certificate = lint.preview(tbs, ALGORITHM)
    found = {extension.oid.dotted_string for extension in certificate.extensions}
    assert found <= WRITTEN
    for oid, _, value in wanted:
        for extension in certificate.extensions:
            if extension.oid.dotted_string == oid and len(value) > 3:
                assert extension.value.public_bytes() != value
    assert certificate.subject == template.subject


@settings(max_examples=300, deadline=timedelta(seconds=1))
@given(name=general_names(), wildcard=st.booleans())
def test_normalising_is_a_value_or_a_fault_and_stays(name, wildcard):
    canonical = outcome(names.normalise, name, wildcard=wildcard)
    if isinstance(canonical, Fault):
        assert canonical.rule.startswith("name.")
        return
    assert names.normalise(canonical, wildcard=wildcard) == canonical
    assert names.text_of(canonical) == names.text_of(name)


documents_of_strangers = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [*ProfileDocument.model_fields, "attributes", "dns", "raw", "oid", "x"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=timedelta(seconds=1))
@given(
    document=st.dictionaries(
        st.sampled_from([*ProfileDocument.model_fields, "x"]), documents_of_strangers, max_size=5
    )
)
def test_any_document_is_a_profile_or_a_fault(document):
    parsed = outcome(documents.parse, ProfileDocument, document)
    if isinstance(parsed, Fault):
        assert parsed.rule == "document.invalid"
        return
    Profile("any", 1, parsed)
