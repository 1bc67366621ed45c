"""One trust anchor: what it is, and what it says of a certificate (RFC 5280, 6).

What somebody else has revoked is known only as well as the newest CRL says. Where that is
"required", a missing or stale one refuses (fail closed); "soft" lets in and writes it down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tmad.ca.trust import MAXIMUM_DEPTH, check_ca, check_path, is_signed_by
from tmad.errors import Fault
from tmad.network import fetch, foreign
from tmad.network.foreign import RevocationList
from tmad.network.reasons import refusal
from tmad.wire import parsing
from tmad.wire.parsing import NO_EXTENSION

_MOST_CERTIFICATES: Final = 16
_MOST_OCTETS: Final = 262_144  # of one anchor's certificates
_MOST_URLS: Final = 8
_HOLD: Final = 6  # RFC 5280, 5.3.1: certificateHold

Path = tuple[x509.Certificate, ...]  # the holder's certificate first, the anchor's last


class TrustAnchorDocument(BaseModel):
    """Somebody else's CA, as far as its certificates may log in here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", max_length=500)
    enabled: bool = True
    certificates: str = Field(
        max_length=_MOST_OCTETS,
        description="The CA's certificate and those of its sub-CAs, as PEM.",
    )
    uses: tuple[Literal["network", "enrollment"], ...] = Field(
        default=("network",),
        min_length=1,
        description="network: its certificates may log in over RADIUS, as far as policies let "
        "them. enrollment: endpoints that name it enrol its devices.",
    )
    revocation: Literal["required", "soft", "off"] = Field(
        default="required",
        description="Without a CRL that is good now: required refuses, soft lets in and notes it, "
        "off never asks.",
    )
    crl_urls: tuple[str, ...] = Field(
        default=(), max_length=_MOST_URLS, description="Where its CRLs are, http or https."
    )
    refresh_minutes: int = Field(
        default=60, ge=5, le=10_080, description="How often they are fetched."
    )
    names_people: bool = Field(
        default=False,
        description="Take the names in its certificates for our people and devices, with their "
        "groups: only for a CA that certifies our names and nobody else's.",
    )

    @field_validator("certificates")
    @classmethod
    def _certificates_are_authorities(cls, pem: str) -> str:
        try:
            found = parsing.certificates(pem.encode())
        except ValueError as error:
            raise ValueError(f"not PEM certificates: {error}") from None
        if len(found) > _MOST_CERTIFICATES:
            raise ValueError(f"more than {_MOST_CERTIFICATES} certificates")
        for certificate in found:
            if not _is_authority(certificate):
                raise ValueError(f"{certificate.subject.rfc4514_string()} is no CA")
        return pem

    @field_validator("crl_urls")
    @classmethod
    def _urls_can_be_fetched(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if (mistake := fetch.mistake(url)) is not None:
                raise ValueError(f"{url}: {mistake}")
        return urls

    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates."""
        return parsing.certificates(self.certificates.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """A certificate that an anchor vouches for.

    ``issuer`` is which CA signed it (foreign.authority_key). ``doubts`` are reasons to refuse it,
    ``notes`` what is only written down.
    """

    anchor: str
    path: Path
    issuer: bytes
    names_people: bool
    doubts: tuple[Fault, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Anchor:
    """An anchor that is switched on, with what its CRLs say, by their issuer."""

    name: str
    document: TrustAnchorDocument
    certificates: tuple[x509.Certificate, ...]
    lists: Mapping[bytes, RevocationList]

    def path_of(self, leaf: x509.Certificate, shown: Sequence[x509.Certificate]) -> Path | None:
        """Return the way from a certificate to this anchor, every signature verified, or None."""
        return _build(leaf, self.certificates, shown)

    def vouch(self, path: Path, at: datetime) -> Vouched:
        """Return what there is to say of the certificate at the beginning of a path.

        Raise Fault(UNAUTHENTICATED) when the path does not hold.
        """
        _check_path(path, at)
        doubts: list[Fault] = []
        notes: list[str] = []
        if self.document.revocation != "off":
            for place in range(len(path) - 1):
                doubts += _of_lists(self, path, place, at)
        if self.document.revocation == "soft":
            unknown = [d for d in doubts if d.rule in ("network.crl-missing", "network.crl-stale")]
            notes = [f"{doubt.rule}: {doubt.detail}" for doubt in unknown]
            doubts = [doubt for doubt in doubts if doubt not in unknown]
        return Vouched(
            anchor=self.name,
            path=path,
            issuer=foreign.authority_key(path[1]),
            names_people=self.document.names_people,
            doubts=tuple(doubts),
            notes=tuple(notes),
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except NO_EXTENSION:
        return False


def _build(
    leaf: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    shown: Sequence[x509.Certificate],
) -> tuple[x509.Certificate, ...] | None:
    """Return the way from a certificate to one of the anchors, or None."""
    path = [leaf]
    left = list(shown[:MAXIMUM_DEPTH])
    while len(path) <= MAXIMUM_DEPTH:
        for anchor in anchors:
            if is_signed_by(path[-1], anchor):
                return (*path, anchor)
        above = next((each for each in left if is_signed_by(path[-1], each)), None)
        if above is None:
            return None
        path.append(above)
        left.remove(above)
    return None


def _check_path(path: tuple[x509.Certificate, ...], at: datetime) -> None:
    """Raise Fault(UNAUTHENTICATED) unless the CA certificates of a path hold now."""
    try:
        check_ca(path[-1], at)
        if len(path) > 2:  # the leaf, what is between, the anchor
            check_path(path[1:-1], at, anchors=(path[-1],))
    except Fault as fault:
        raise refusal("network.anchor-path", fault.detail, broken=fault.rule) from fault


def _of_lists(
    anchor: Anchor, path: tuple[x509.Certificate, ...], place: int, at: datetime
) -> Iterator[Fault]:
    """Yield what the CRLs say against one certificate of a path."""
    certificate, issuer = path[place], path[place + 1]
    values = {
        "trust-anchor": anchor.name,
        "issuer": issuer.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
    }
    found = anchor.lists.get(foreign.authority_key(issuer))
    if found is None or (place > 0 and not found.covers_authorities):
        yield refusal("network.crl-missing", "there is no CRL of the CA that issued it", **values)
        return
    entry = found.revoked.get(certificate.serial_number)
    if entry is not None:
        since, reason = entry
        values |= {"since": since.isoformat(), "reason": str(reason)}
        if place > 0:
            raise refusal(
                "network.issuer-revoked", "the certificate of the CA that issued it is revoked",
                **values,
            )  # fmt: skip
        if reason == _HOLD:
            yield refusal("network.held", "the certificate is on hold", **values)
        else:
            yield refusal("network.revoked", "the certificate is revoked", **values)
    if found.next_update <= at:
        values |= {"next_update": found.next_update.isoformat(), "now": at.isoformat()}
        yield refusal("network.crl-stale", "the CRL of the CA that issued it is stale", **values)
