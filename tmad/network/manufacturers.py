"""Devices with the certificate that their manufacturer gave them (802.1AR IDevID).

What a trust anchor vouches for, read and judged as at a login: its path, its CRLs (failing
closed), its period, what its key is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.network.facts import Blocked, Reader
from tmad.network.reasons import refusal
from tmad.storage.changes import Changes

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.network.anchor import Path, Vouched
    from tmad.network.anchors import TrustAnchors


# Certificates between a device and its anchor that are looked at: each costs verifications with
# keys of a stranger's choice.
_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a manufacturer's anchor vouched for (ca.manufacturers.Vouching)."""

    tenant: str
    anchor: str
    path: Path
    anchors: TrustAnchors

    def check(self, connection: Connection, at: datetime) -> None:
        """Raise Fault(UNAUTHENTICATED) unless it still does, as this transaction sees it."""
        found = self.anchors.vouch_in(connection, self.tenant, self.anchor, self.path, at)
        if found is None:
            raise _unknown(self.path[0], [self.anchor])
        _check(found, at)


class DeviceMakers:
    """Says which manufacturer a device comes from."""

    def __init__(self, anchors: TrustAnchors, changes: Changes, blocklist: Blocked = ()) -> None:
        self._anchors = anchors
        self._changes = changes
        self._reader = Reader(blocklist)

    async def vouch(
        self,
        tenant: str,
        anchors: Sequence[str],
        certificate: x509.Certificate,
        chain: Sequence[x509.Certificate],
        at: datetime,
    ) -> Device:
        """Return the device of a certificate that is from one of them; Fault(UNAUTHENTICATED)."""
        await self._changes.catch_up()
        try:
            facts = self._reader.read(certificate)
        except Fault as fault:
            raise refusal(fault.rule, fault.detail, **fault.values) from fault
        found = await self._anchors.vouch(
            tenant, facts, (certificate, *chain[:_MOST]), at, enrolling=frozenset(anchors)
        )
        if found is None:
            raise _unknown(certificate, anchors)
        values = _values(found)
        if not facts.purpose or not facts.signs:
            # 802.1AR allows any usage; one that is named must fit what was done with the key.
            raise _refusal("manufacturer.purpose", "the certificate is for something else", values)
        if facts.is_blocklisted:
            raise _refusal("manufacturer.key", "the device's key is publicly known", values)
        _check(found, at)
        return Device(tenant, found.anchor, found.path, self._anchors)


def _check(found: Vouched, at: datetime) -> None:
    """Raise Fault(UNAUTHENTICATED) for what a later day may say otherwise."""
    certificate = found.path[0]
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        detail = "the device's certificate is not valid"
        raise _refusal("manufacturer.expired", detail, _values(found))
    if found.doubts:
        raise found.doubts[0]


def _values(found: Vouched) -> dict[str, str]:
    return {"trust-anchor": found.anchor, "subject": found.path[0].subject.rfc4514_string()[:255]}


def _unknown(certificate: x509.Certificate, anchors: Sequence[str]) -> Fault:
    return _refusal(
        "manufacturer.unknown",
        "the certificate is of no manufacturer that this endpoint names",
        {
            "issuer": certificate.issuer.rfc4514_string()[:255],
            "accepted": ", ".join(anchors),
        },
    )


def _refusal(rule: str, detail: str, values: dict[str, str]) -> Fault:
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)
