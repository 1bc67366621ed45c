"""Certification requests: value or Fault; nothing but what was signed is accepted."""

from __future__ import annotations

import asn1crypto.csr
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests import scep_client as client
from tests.fuzz.mutations import judge, mutated
from tests.unit.scep_core import rsa_key
from tmad.errors import Fault, FaultCode
from tmad.wire import csr, der
from tmad.wire.signatures import Age, Policy

POLICY = Policy(Age.LEGACY)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SEEDS = [
    client.make_csr(rsa_key(), challenge="secret", dns=("a.example", "b.example")),
    client.make_csr(
        EC_KEY,
        challenge="AB".encode("utf-16-be"),
        challenge_tag=0x1E,
        extensions=(x509.BasicConstraints(ca=True, path_length=0),),
    ),
]


@given(st.binary(max_size=300) | mutated(st.sampled_from(SEEDS)))
def test_value_or_fault(data: bytes) -> None:
    result = judge(csr.decode, data, POLICY)
    if isinstance(result, Fault):
        assert result.code in (
            FaultCode.MALFORMED,
            FaultCode.UNSUPPORTED,
            FaultCode.BAD_ALGORITHM,
            FaultCode.BAD_PROOF,
        )
    else:
        # The signature was good, so what it covers is that of a seed.
        assert signed_part(data) in [signed_part(seed) for seed in SEEDS]


def signed_part(request: bytes) -> bytes:
    return der.read(request, der.SEQUENCE).raw()


@st.composite
def resigned(draw: st.DrawFn) -> bytes:
    """A mutated request with a good signature: what only the content's rules can refuse."""
    info = draw(mutated(st.sampled_from([signed_part(seed) for seed in SEEDS[1:]]), most=2))
    signature = EC_KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    return der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + signature))


@given(resigned())
def test_signed_nonsense_is_a_value_or_a_fault(data: bytes) -> None:
    result = judge(csr.decode, data, POLICY)
    if not isinstance(result, Fault):
        theirs = asn1crypto.csr.CertificationRequest.load(data)
        subject = theirs["certification_request_info"]["subject"].dump()
        assert result.subject.public_bytes() == subject
