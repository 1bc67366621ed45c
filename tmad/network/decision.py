"""Who may join the network: the one place that decides it, live, at each login (E-40..E-45)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509

CertificateID: TypeAlias = tuple[int, bytes]  # issuer id, serial as the database stores it


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSLogin:
    """How a certificate was presented: what the handshake says of itself."""

    method: str  # "eap-tls", "peap-tls", "eap-ttls" …
    version: str  # "TLSv1.3"
    cipher: str
    resumed: bool
    outer_identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A login that is let in: what an Access-Accept is made of.

    ``session`` (a ULID) goes into Class and is the key of the session's row. ``user_name`` is
    canonical: it comes from the certificate or the person, never from the outer identity.
    ``attributes`` are names of the dictionary with values, RADIUS encodes them; User-Name, Class
    and Session-Timeout are not among them. ``certificate`` is one of ours, ``anchor`` the trust
    anchor that somebody else's came from.
    ``session_timeout`` is in seconds and never outlives the certificate. ``monitored`` says
    what would have been refused if its rule did not only monitor.
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
    anchor: str | None = None  # the trust-anchor that a foreign certificate came from
    monitored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a client's certificate may come from, each an anchor of its own.

    ``version`` is another one whenever the certificates are.
    """

    certificates: tuple[x509.Certificate, ...]
    version: Hashable
