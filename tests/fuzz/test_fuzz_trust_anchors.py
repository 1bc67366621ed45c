"""CRLs and certificates of strangers, and the documents of anchors and policies.

A value or a Fault, in bounded time; and nothing that was changed is believed.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tests.pki import Authority
from tmad import documents
from tmad.errors import Fault, FaultCode
from tmad.network import foreign
from tmad.network.anchor import TrustAnchorDocument
from tmad.network.facts import Facts, read
from tmad.network.foreign import RevocationList
from tmad.network.matching import compile_rules
from tmad.network.policy import RadiusPolicyDocument
from tmad.network.reasons import alert_name, describe, peer_alert
from tmad.network.visit import ssid_of, station

NOW = datetime.now(UTC)
PARTNER = Authority(Path(tempfile.mkdtemp(prefix="fuzz-anchor-")), "Partner CA")
DEVICE = PARTNER.issue("guest.test").certificate.public_bytes(Encoding.DER)
CRLS = [
    PARTNER.crl(begins=NOW),
    PARTNER.crl({7: x509.ReasonFlags.key_compromise, 1 << 150: x509.ReasonFlags.superseded}),
    PARTNER.crl([1, 2, 3], extensions=[x509.CRLNumber(5)]),
]


def believe(data: bytes) -> RevocationList:
    crl = foreign.load(data)
    foreign.signer(crl, [PARTNER.certificate], NOW + timedelta(minutes=1))
    return foreign.entries(crl)


@given(st.binary(max_size=600))
def test_any_octets_are_no_crl(data: bytes) -> None:
    assert isinstance(judge(believe, data), Fault)


@settings(max_examples=1000)
@given(mutated(st.sampled_from(CRLS)))
def test_a_changed_crl_is_not_believed(changed: bytes) -> None:
    found = judge(believe, changed)
    if changed in CRLS:
        assert isinstance(found, RevocationList)
        return
    assert isinstance(found, Fault), changed.hex()
    assert found.code in (FaultCode.MALFORMED, FaultCode.REJECTED)


@given(st.binary(max_size=200), st.sampled_from(CRLS))
def test_armour_around_anything(text: bytes, crl: bytes) -> None:
    pem = b"-----BEGIN X509 CRL-----\n" + text + b"\n-----END X509 CRL-----\n"
    assert isinstance(judge(believe, pem), Fault)
    assert isinstance(judge(believe, text + crl), Fault | RevocationList)


@settings(max_examples=1000)
@given(mutated(st.just(DEVICE)))
def test_a_strangers_certificate_has_facts_or_none(changed: bytes) -> None:
    try:
        certificate = x509.load_der_x509_certificate(changed)
    except (ValueError, x509.InvalidVersion):
        return  # OpenSSL does not get past the handshake with it, either
    found = judge(read, certificate, b"digest")
    assert isinstance(found, Facts) or found.rule == "network.malformed-certificate"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 100_000) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
WHEN = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("ssids", "names", "subject", "hours", "timezone"), JSON)
)
REPLY = st.fixed_dictionaries(
    {},
    optional={
        "vlan": JSON,
        "acl": st.text(max_size=40),
        "attributes": st.dictionaries(st.sampled_from(["Filter-Id", "Cisco-AVPair", "X"]), JSON),
    },
)
POLICY = st.fixed_dictionaries(
    {"rules": st.lists(st.fixed_dictionaries({"name": st.just("r"), "when": WHEN, "reply": REPLY}))}
)


@given(POLICY | st.dictionaries(st.text(max_size=10), JSON, max_size=3))
def test_any_policy_compiles_or_is_refused_in_words(document: dict[str, Any]) -> None:
    found = judge(documents.parse, RadiusPolicyDocument, document)
    if isinstance(found, Fault):
        assert found.detail
        return
    assert len(compile_rules([("p", found)])) == len(found.rules)


@given(
    st.fixed_dictionaries(
        {"certificates": st.text(max_size=60) | st.just(PARTNER.path.read_text())},
        optional=dict.fromkeys(("crl_urls", "revocation", "refresh_minutes", "x"), JSON),
    )
)
def test_any_anchor_is_one_or_is_refused_in_words(document: dict[str, Any]) -> None:
    found = judge(documents.parse, TrustAnchorDocument, document)
    if isinstance(found, Fault):
        assert found.detail
        return
    assert found.authorities() == (PARTNER.certificate,)


@given(st.text(max_size=300))
def test_any_station_is_an_address_or_stays_what_it_is(text: str) -> None:
    found = station(text)
    assert found == text or (len(found) == 12 and int(found, 16) >= 0)
    address, ssid = ssid_of(text)
    assert text.endswith(ssid)
    assert station(address) == address


@given(st.text(max_size=60) | st.integers(0, 255))
def test_any_alert_is_explained(alert: str | int) -> None:
    reason, advice = describe(peer_alert(alert))
    assert alert_name(alert) in reason
    assert advice
