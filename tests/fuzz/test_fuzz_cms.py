"""CMS decoders and verification; a mutated message never verifies as something else."""

from __future__ import annotations

import os

from asn1crypto import cms as acms
from hypothesis import given
from hypothesis import strategies as st

from tests import scep_client as client
from tests.fuzz.mutations import judge, mutated
from tests.unit.scep_core import rsa_key
from tmad.errors import Fault, FaultCode
from tmad.wire import ber, cms, envelopes
from tmad.wire.signatures import Age, Policy

OWN = client.self_signed(rsa_key(), ski=True)
POLICY = Policy(Age.LEGACY)
SIGNED = [
    client.make_message(b"content", OWN).der,
    client.make_message(b"content", OWN, signature_algorithm="rsassa_pss").der,
    client.make_message(b"content", OWN, digest="sha1", signers=2).der,
    cms.degenerate((OWN.der, OWN.der)),
]
ENVELOPED = [
    client.make_envelope(b"content", OWN.certificate),
    client.make_envelope(b"content", OWN.certificate, transport="oaep-sha256", by_ski=True),
    client.make_envelope(b"content", OWN.certificate, cipher="3des", constructed=True),
    envelopes.seal_with_password(
        b"content", b"secret", cipher=envelopes.AES256, random=os.urandom, rounds=10
    ),
]


def normalised(data: bytes) -> bytes:
    return ber.normalise(data, elements=1_500, depth=32)


def verified(data: bytes) -> bytes | None:
    """Return the content of a message whose first signer's signature is good."""
    signed = cms.decode_signed_data(normalised(data))
    if not signed.signers:
        return None
    cms.verify(signed, signed.signers[0], OWN.certificate.public_key(), POLICY)
    return signed.content


def opened(data: bytes) -> bytes:
    enveloped = envelopes.decode(normalised(data))
    if not enveloped.recipients:
        raise envelopes.cannot_open()
    return envelopes.open_envelope(
        OWN.key, enveloped, enveloped.recipients[0], policy=POLICY, random=os.urandom
    )


@given(st.binary(max_size=300) | mutated(st.sampled_from(SIGNED + ENVELOPED)))
def test_signed_data_is_a_value_or_a_fault(data: bytes) -> None:
    result = judge(lambda: cms.decode_signed_data(normalised(data)))
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


@given(mutated(st.sampled_from(SIGNED[:3]), most=2))
def test_nothing_but_what_was_signed_verifies(data: bytes) -> None:
    result = judge(verified, data)
    assert isinstance(result, Fault) or result in (None, b"content")


@given(mutated(st.sampled_from(SIGNED), most=2))
def test_what_is_accepted_reads_the_same_in_asn1crypto(data: bytes) -> None:
    try:
        der = normalised(data)
        ours = cms.decode_signed_data(der)
    except Fault:
        return
    try:
        theirs = acms.ContentInfo.load(der)["content"]
        content = theirs["encap_content_info"]["content"].native
        serials = [info["signature"].native for info in theirs["signer_infos"]]
    except (ValueError, TypeError, AttributeError, KeyError):
        return  # they look deeper, into certificates and algorithms
    assert serials == [signer.signature for signer in ours.signers]
    if isinstance(content, bytes):
        assert content == ours.content


@given(st.binary(max_size=300) | mutated(st.sampled_from(ENVELOPED)))
def test_envelopes_are_a_value_or_a_fault(data: bytes) -> None:
    result = judge(lambda: envelopes.decode(normalised(data)))
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


@given(mutated(st.sampled_from(ENVELOPED), most=2))
def test_opening_is_a_value_or_a_fault(data: bytes) -> None:
    result = judge(opened, data)
    if isinstance(result, Fault):
        assert result.code in (
            FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM, FaultCode.BAD_INTEGRITY,
        )  # fmt: skip
