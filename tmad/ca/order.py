"""One certificate to be made: what was decided about it, and what is about to be signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from tmad.ca.applicant import Applicant
from tmad.ca.keycheck import Key
from tmad.ca.shape import Profile
from tmad.ca.signers import Signer
from tmad.ca.x509 import Template
from tmad.storage.requests import RequestRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One certificate to be made: everything that was decided about it."""

    tenant: str
    via: str
    endpoint: str
    actor: str
    applicant: Applicant
    profile: Profile
    signer: Signer
    template: Template
    key: Key
    is_internal: bool  # for the appliance itself: its own keys are what it is about
    request: RequestRow | None
    was_pending: bool = False
    idempotency_window: timedelta = timedelta(0)
    proof: str = ""
    pending_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Exactly the octets that will be signed for an order."""

    order: Order
    serial: int
    tbs_der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A draft that was signed; ``id`` is the certificate's."""

    draft: Draft
    id: int
    certificate_der: bytes
