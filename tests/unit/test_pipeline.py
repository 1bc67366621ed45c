"""The pipeline, step by step: who gets what, who does not, and what is recorded of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import drive
from tests.unit.ca_bench import ADMIN, ROUTERS, asked, bench, name
from tmad.ca.requests import (
    EndpointID,
    Intent,
    Issued,
    NoCredential,
    Pending,
    Proof,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.events import Secret


def refused(coroutine) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def test_a_challenge_gets_a_certificate():
    b = bench()
    request = asked(secret=drive(b.secret()))
    outcome = drive(b.authority.enroll(request))
    assert isinstance(outcome, Issued)
    certificate = outcome.certificate
    assert certificate.subject.public_bytes() == request.subject.public_bytes()
    issuer = drive(b.hierarchy.active("default", "devices"))
    certificate.verify_directly_issued_by(issuer.certificate)
    assert drive(b.status.of(outcome.issuer_id, certificate.serial_number)).state == "good"
    intended, issued = b.events("certificate.intended")[-1], b.events("certificate.issued")[-1]
    assert intended.object == issued.object == f"certificate/{outcome.certificate_id}"
