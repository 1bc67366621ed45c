"""What is shown at a login by certificate, and what becomes of a login."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from cryptography import x509

from tmad.errors import Fault
from tmad.network.cases import CertificateID
from tmad.network.matching import Question


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class TLSLogin:
    """How a certificate was presented: what the handshake says of itself."""

    method: str  # "eap-tls", "peap-tls", "eap-ttls" …
    version: str  # "TLSv1.3"
    cipher: str
    resumed: bool
    outer_identity: str


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Admitted:
    """A login that is let in: what an Access-Accept is made of.

    ``session`` (a ULID) goes into Class and is the key of the session's row. ``user_name`` is
    canonical: it comes from the certificate or the person, never from the outer identity.
    ``attributes`` are names of the dictionary with values, RADIUS encodes them; User-Name, Class
    and Session-Timeout are not among them. ``certificate`` is one of ours, ``anchor`` the trust
    anchor that somebody else's came from. ``person`` is who is responsible: the person, or the
    owner of the device. ``session_timeout`` is in seconds and never outlives certificate and
    account. ``monitored`` says what would have been refused if its rule did not only monitor.
    ``as_of`` is the newest change that had been heard of before it was decided.
    """

    session: str
    user_name: str
    policy: str
    rule: str
    attributes: tuple[tuple[str, str | int], ...]
    session_timeout: int | None
    certificate: CertificateID | None
    person: str | None
    device: str | None
    anchor: str | None = None  # the trust-anchor that a foreign certificate came from,
    foreign: tuple[bytes, int] | None = None  # which of its CAs, and the serial number there
    monitored: tuple[str, ...] = ()
    as_of: int = 0


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a client's certificate may come from, each an anchor of its own.

    ``version`` is another one whenever the certificates are. Revoked authorities are among
    them, so that the decision and not the handshake refuses, and says why.
    """

    certificates: tuple[x509.Certificate, ...]
    version: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What would become of a login: one of ``admitted`` and ``fault``, and how each rule fared."""

    admitted: Admitted | None
    fault: Fault | None
    question: Question | None
    rules: tuple[tuple[str, str], ...]  # rule, what became of it
