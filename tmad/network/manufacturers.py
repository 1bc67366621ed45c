"""Devices with the certificate that their manufacturer gave them (802.1AR IDevID).

What a trust anchor vouches for, read and judged as at a login: its path, its CRLs (failing
closed), its period, what its key is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.network.facts import Blocked, Reader
from tmad.network.reasons import refusal
from tmad.storage.changes import Changes

if TYPE_CHECKING:
    from tmad.network.anchors import TrustAnchors


# Certificates between a device and its anchor that are looked at: each costs verifications with
# keys of a stranger's choice.
_MOST: Final = 4


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
    ) -> str:
        """Return which of the anchors a certificate comes from; Fault(UNAUTHENTICATED)."""
        await self._changes.catch_up()
        try:
            facts = self._reader.read(certificate)
        except Fault as fault:
            raise refusal(fault.rule, fault.detail, **fault.values) from fault
        found = await self._anchors.vouch(
            tenant, facts, (certificate, *chain[:_MOST]), at, enrolling=frozenset(anchors)
        )
        if found is None:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the certificate is of no manufacturer that this endpoint names",
                rule="manufacturer.unknown",
                values={
                    "issuer": certificate.issuer.rfc4514_string()[:255],
                    "accepted": ", ".join(anchors),
                },
            )
        values = {"trust-anchor": found.anchor, "subject": facts.subject[:255]}
        if not facts.not_before <= at <= facts.not_after:
            raise _refusal("manufacturer.expired", "the device's certificate is not valid", values)
        if not facts.purpose or not facts.signs:
            # 802.1AR allows any usage; one that is named must fit what was done with the key.
            raise _refusal("manufacturer.purpose", "the certificate is for something else", values)
        if facts.is_blocklisted:
            raise _refusal("manufacturer.key", "the device's key is publicly known", values)
        if found.doubts:
            raise found.doubts[0]
        return found.anchor


def _refusal(rule: str, detail: str, values: dict[str, str]) -> Fault:
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)
