"""What every source of certificates answers: EST, ACME and SCEP look the same from above."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509

from tmad.agent.identity import Identity, PrivateKey
from tmad.errors import Fault, FaultCode


@dataclass(frozen=True, slots=True)
class Wait:
    """The server wants to be asked again, in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Certificates:
    """What came: the certificate, and what else the server sent with it, in any order."""

    certificate: x509.Certificate
    others: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """When the server would like a certificate to be renewed (RFC 9773), and until when it says so.

    ``status`` is "good", or why the certificate is not: "revoked".
    """

    start: datetime | None
    end: datetime | None
    seconds: float  # after which to ask again
    status: str = "good"


class Source(Protocol):
    """Where the certificates of one name come from."""

    def first(self, key: PrivateKey, request_der: bytes) -> Certificates | Wait:
        """Ask for a certificate with what was given for the beginning; idempotent."""

    def next(self, key: PrivateKey, request_der: bytes, old: Identity) -> Certificates | Wait:
        """Ask for the successor of a certificate that is in our hands; idempotent."""

    def window(self, old: Identity) -> Window | None:
        """Ask when to renew; None where the protocol does not say."""


def refused(what: str, status: int, text: str) -> Fault:
    """Return the Fault for an HTTP answer that is none of the good ones."""
    if status in (429, 500, 502, 503, 504):
        return Fault(
            FaultCode.UNAVAILABLE, f"{what}: the server is busy ({status}) {text}",
            rule="agent.busy-server",
        )  # fmt: skip
    code = FaultCode.UNAUTHENTICATED if status == 401 else FaultCode.FORBIDDEN
    return Fault(code, f"{what} was refused ({status}): {text}", rule="agent.refused")
