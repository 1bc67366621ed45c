"""Whether one of our own authorities still stands, up to its root (E-36; RFC 5280, 6.1)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from tmad.ca.trust import MAXIMUM_DEPTH
from tmad.errors import Fault, FaultCode
from tmad.network.reasons import refusal
from tmad.storage import status
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import TOPIC, IssuerState
from tmad.storage.kept import KeptByKey

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Hierarchy, Issuer

_UNSIGNED: Final = frozenset({IssuerState.CREATING, IssuerState.PENDING, IssuerState.ANCHOR})


class _Verdict(NamedTuple):
    refusal: tuple[str, str, dict[str, str]] | None  # rule, detail, values
    not_after: datetime | None  # the earliest end of a certificate below the root


class Standings:
    """What is known against authorities, as of the last ``changes.catch_up()``.

    A sub-CA's certificate has a status like any other; it is read when something about
    authorities or about just these certificates has changed.
    """

    def __init__(self, database: Database, changes: Changes, hierarchy: Hierarchy) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._kept: KeptByKey[int, _Verdict] = KeptByKey()
        self._watched: set[str] = set()
        changes.listen(status.TOPIC, self._on_status)
        changes.listen(TOPIC, self._on_issuer)

    async def check(self, issuer_id: int, at: datetime) -> None:
        """Raise Fault(UNAUTHENTICATED) unless an authority and all above it still stand.

        The caller has caught up with the changes.
        """
        verdict = self._kept.get(issuer_id)
        if verdict is None:
            verdict = await self._kept.fill(issuer_id, self._judge(issuer_id))
        if verdict.refusal is not None:
            rule, detail, values = verdict.refusal
            raise Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)
        if verdict.not_after is not None and verdict.not_after < at:
            raise refusal(
                "network.issuer-expired",
                "the certificate of the authority that issued it has expired",
                not_after=verdict.not_after.isoformat(),
            )

    async def _judge(self, issuer_id: int) -> _Verdict:
        issuer = await self._hierarchy.by_id(issuer_id)
        not_after: datetime | None = None
        for _ in range(MAXIMUM_DEPTH):
            if (found := _against(issuer)) is not None:
                return _Verdict(found, None)
            parent, certificate = issuer.parent_issuer_id, issuer.certificate
            if certificate is None or issuer.is_self_signed:
                break
            end = certificate.not_valid_after_utc
            not_after = end if not_after is None else min(not_after, end)
            if parent is None:
                break
            serial = status.serial_octets(certificate.serial_number)
            self._watched |= {status.change_key(parent, serial), f"{parent}:*"}
            row = await self._database.lookup(status.by_serial, parent, serial)
            if row is not None and (row.revoked_at or row.compromised_at):
                return _Verdict(_revoked(issuer, row), None)
            issuer = await self._hierarchy.by_id(parent)
        return _Verdict(None, not_after)

    def _on_status(self, key: str) -> None:
        if key == "*" or key in self._watched:
            self._kept.forget_all()

    def _on_issuer(self, key: str) -> None:
        self._kept.forget_all()


def may_have_signed(issuer: Issuer) -> bool:
    """Tell whether a client's certificate can be from this issuer's key."""
    return issuer.certificate is not None and issuer.state not in _UNSIGNED


def _against(issuer: Issuer) -> tuple[str, str, dict[str, str]] | None:
    # One that was withdrawn issues no more; what it issued has the status that OCSP tells.
    if issuer.compromised_at is None:
        return None
    values = {
        "authority": issuer.authority,
        "generation": str(issuer.generation),
        "since": issuer.compromised_at.isoformat(),
    }
    return "network.issuer-compromised", "the authority's key is in wrong hands", values


def _revoked(issuer: Issuer, row: status.StatusRow) -> tuple[str, str, dict[str, str]]:
    since = row.revoked_at or row.compromised_at
    assert since is not None  # the caller has looked
    word = "on hold" if row.reason == 6 else "revoked"  # RFC 5280, 5.3.1: certificateHold
    values = {
        "authority": issuer.authority,
        "generation": str(issuer.generation),
        "since": since.isoformat(),
        "reason": str(row.reason or 0),
    }
    detail = f"the certificate of the authority that issued it is {word}"
    return "network.issuer-revoked", detail, values
