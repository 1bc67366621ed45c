"""Revoke, hold and release certificates: RFC 5280, 5.3.1 and 5.3.2.

What may become what:

* good, or void → any reason; → hold
* hold → any reason, keeping the date of the hold; → good (release)
* revoked → keyCompromise, whose date may lie further back; nothing else ever again

Asking for what is already so changes nothing and is not an error (``Effect.has_changed``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from tmad.ca import holding
from tmad.ca.status import GOOD, Reason, Status
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.storage import status
from tmad.storage.database import Database

if TYPE_CHECKING:
    from cryptography import x509
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint
    from tmad.storage.certificates import CertificateRow

# What says since when a key was in wrong hands may lie in the past.
COMPROMISES = frozenset({Reason.KEY_COMPROMISE, Reason.CA_COMPROMISE, Reason.AA_COMPROMISE})

# A CA's own troubles; and a hold is ended by whoever looked into it, not by the holder.
_NOT_FOR_HOLDERS = frozenset({Reason.CA_COMPROMISE, Reason.AA_COMPROMISE, Reason.CERTIFICATE_HOLD})
_NEVER_A_STATUS = frozenset({Reason.REMOVE_FROM_CRL})
# One transaction of a bulk revocation: long enough to be quick, short enough to let others in.
_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a call did to one certificate, or would do (``dry_run``)."""

    certificate_id: int
    issuer_id: int
    serial: int
    subject: str
    before: Status
    after: Status
    invalidity_date: datetime | None = None

    @property
    def has_changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Effects:
    """What a bulk call did; a refused certificate does not keep the others from it."""

    effects: tuple[Effect, ...]
    refused: tuple[tuple[int, Fault], ...]  # certificate id and why


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants a certificate's status to be; reason None means good."""

    reason: int | None
    at: datetime | None = None
    invalidity_date: datetime | None = None


_Find: TypeAlias = "Callable[[Connection], status.RevocableRow | None]"


class Revocation:
    """The only way to change a certificate's status."""

    def __init__(self, database: Database, journal: Journal, now: Clock) -> None:
        self._database = database
        self.journal = journal
        self._now = now

    @guarded("certificate.revoke")
    async def revoke(
        self,
        actor: Actor,
        tenant: str,
        issuer_id: int,
        serial: int,
        reason: int,
        *,
        invalidity_date: datetime | None = None,
        at: datetime | None = None,
        dry_run: bool = False,
    ) -> Effect:
        """Revoke for good, unless the reason is a hold.

        ``at`` is when it takes effect (now, if None) and ``invalidity_date`` since when the
        key is suspected; both may lie in the past, and only for a compromise. Raise
        Fault(NOT_FOUND) when this tenant has no such certificate, CONFLICT when it is revoked
        already for another reason, REJECTED for a reason or date that is not allowed.
        """
        wish = Wish(reason=reason, at=at, invalidity_date=invalidity_date)
        return await self._change(
            actor, tenant, _by_serial(tenant, issuer_id, serial), wish, dry_run
        )

    @guarded("certificate.revoke")
    async def revoke_by_id(
        self,
        actor: Actor,
        tenant: str,
        certificate_id: int,
        reason: int,
        *,
        invalidity_date: datetime | None = None,
        at: datetime | None = None,
        dry_run: bool = False,
    ) -> Effect:
        """Revoke the certificate with this id; otherwise as ``revoke``."""
        wish = Wish(reason=reason, at=at, invalidity_date=invalidity_date)
        return await self._change(actor, tenant, _by_id(tenant, certificate_id), wish, dry_run)

    @guarded("certificate.revoke")
    async def revoke_many(
        self,
        actor: Actor,
        tenant: str,
        certificate_ids: Sequence[int],
        reason: int,
        *,
        at: datetime | None = None,
        dry_run: bool = False,
    ) -> Effects:
        """Revoke many certificates, a few hundred in each transaction."""
        wish = Wish(reason=reason, at=at)
        effects: list[Effect] = []
        refused: list[tuple[int, Fault]] = []
        for start in range(0, len(certificate_ids), _BATCH):
            batch = certificate_ids[start : start + _BATCH]
            done, faults = await self._database.write(
                self._change_batch, actor, tenant, batch, wish, dry_run=dry_run
            )
            effects += done
            refused += faults
        if not dry_run:
            for certificate_id, fault in refused:
                await self._journal_refusal(fault, actor, tenant, str(certificate_id))
        return Effects(tuple(effects), tuple(refused))

    @guarded("certificate.hold")
    async def hold(
        self, actor: Actor, tenant: str, issuer_id: int, serial: int, *, dry_run: bool = False
    ) -> Effect:
        """Suspend a good certificate until it is released or revoked."""
        return await self._change(
            actor,
            tenant,
            _by_serial(tenant, issuer_id, serial),
            Wish(reason=Reason.CERTIFICATE_HOLD),
            dry_run,
        )

    @guarded("certificate.release")
    async def release(
        self, actor: Actor, tenant: str, issuer_id: int, serial: int, *, dry_run: bool = False
    ) -> Effect:
        """Make a certificate on hold good again; CONFLICT when it is revoked for good."""
        return await self._change(
            actor, tenant, _by_serial(tenant, issuer_id, serial), Wish(reason=None), dry_run
        )

    async def revoke_by_holder(
        self,
        endpoint: Endpoint,
        signer: x509.Certificate,
        issuer_der: bytes,
        serial: int,
        reason: int,
        *,
        invalidity_date: datetime | None = None,
    ) -> Effect:
        """Revoke a certificate for whoever has shown to hold ``signer`` (RFC 9810, 5.3.9).

        The holder of a good certificate revokes those of its own key; a registration authority
        what its endpoint issued. ``issuer_der`` is the issuer's name. Fault(UNAUTHENTICATED) for
        a signer that is not good here, NOT_FOUND also for what belongs to others, and REJECTED
        for reasons that only the CA may give.
        """
        now = self._now()
        wish = Wish(reason=reason, invalidity_date=invalidity_date)
        return await self._by_holder(
            endpoint,
            serial,
            wish,
            lambda connection: holding.find(connection, endpoint, signer, issuer_der, serial, now),
        )

    async def revoke_by_secret(
        self,
        endpoint: Endpoint,
        digest: bytes,
        issuer_der: bytes,
        serial: int,
        reason: int,
        *,
        invalidity_date: datetime | None = None,
    ) -> Effect:
        """Revoke a certificate for whoever knows the one-time secret it was enrolled with.

        ``digest`` is the secret's (RFC 10002, 6.11: the passphrase). Otherwise as
        ``revoke_by_holder``.
        """
        wish = Wish(reason=reason, invalidity_date=invalidity_date)
        return await self._by_holder(
            endpoint,
            serial,
            wish,
            lambda connection: holding.find_by_secret(
                connection, endpoint, digest, issuer_der, serial
            ),
        )

    async def _by_holder(
        self,
        endpoint: Endpoint,
        serial: int,
        wish: Wish,
        find: Callable[[Connection], CertificateRow],
    ) -> Effect:
        actor = Actor(str(endpoint.id))
        try:
            return await self._database.write(self._for_holder, actor, endpoint, wish, find)
        except Fault as fault:
            if fault.rule:
                await self._journal_refusal(fault, actor, endpoint.tenant, f"{serial:x}")
            raise

    def _for_holder(
        self,
        connection: Connection,
        actor: Actor,
        endpoint: Endpoint,
        wish: Wish,
        find: Callable[[Connection], CertificateRow],
    ) -> Effect:
        found = find(connection)
        if wish.reason in _NOT_FOR_HOLDERS:
            raise Fault(
                FaultCode.REJECTED,
                "only the CA itself may revoke for this reason",
                rule="revocation.reason",
                values={"reason": str(wish.reason)},
            )
        return self._apply(connection, actor, endpoint.tenant, _by_id(found.tenant, found.id), wish)

    def change_in(
        self, connection: Connection, actor: Actor, tenant: str, certificate_id: int, wish: Wish
    ) -> Effect:
        """Change one status inside the caller's transaction, whose actor he has checked."""
        return self._apply(connection, actor, tenant, _by_id(tenant, certificate_id), wish)

    async def _change(
        self, actor: Actor, tenant: str, find: _Find, wish: Wish, dry_run: bool
    ) -> Effect:
        try:
            return await self._database.write(
                self._apply, actor, tenant, find, wish, dry_run=dry_run
            )
        except Fault as fault:
            if fault.rule and not dry_run:
                await self._journal_refusal(fault, actor, tenant, fault.values.get("object", ""))
            raise

    async def _journal_refusal(
        self, fault: Fault, actor: Actor, tenant: str, certificate: str
    ) -> None:
        await self.journal.refuse(
            fault,
            tenant=tenant,
            actor=actor.name,
            object=certificate,
            data={"operation": "revocation"},
        )

    def _change_batch(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        certificate_ids: Sequence[int],
        wish: Wish,
    ) -> tuple[list[Effect], list[tuple[int, Fault]]]:
        effects, refused = [], []
        for certificate_id in certificate_ids:
            try:
                effects.append(self.change_in(connection, actor, tenant, certificate_id, wish))
            except Fault as fault:
                if not fault.rule:
                    raise
                refused.append((certificate_id, fault))
        return effects, refused

    def _apply(
        self, connection: Connection, actor: Actor, tenant: str, find: _Find, wish: Wish
    ) -> Effect:
        row = find(connection)
        if row is None or row.state == "intent":
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such certificate",
                rule="revocation.certificate",
                values={"tenant": tenant},
            )
        before = _status_of(row)
        invalidity_date = wish.invalidity_date or row.invalidity_date
        after = decide(row, wish, self._now())
        if after == GOOD:
            invalidity_date = None
        effect = Effect(
            certificate_id=row.id,
            issuer_id=row.issuer_id,
            serial=int.from_bytes(row.serial, "big"),
            subject=row.subject,
            before=before,
            after=after,
            invalidity_date=invalidity_date,
        )
        if not effect.has_changed and invalidity_date == row.invalidity_date:
            return effect
        status.update(
            connection,
            row,
            revoked_at=after.revoked_at,
            reason=after.reason,
            invalidity_date=invalidity_date,
        )
        self.journal.append(connection, _event(actor, tenant, effect))
        return effect


def parse_reason(reason: int) -> Reason:
    """Return a reason that a status may have; Fault(REJECTED) for 7, 8 and what is none."""
    try:
        parsed = Reason(reason)
    except ValueError:
        parsed = Reason.REMOVE_FROM_CRL
    if parsed in _NEVER_A_STATUS:
        raise Fault(
            FaultCode.REJECTED,
            f"{reason} is not a reason for revoking a certificate",
            rule="revocation.reason",
            values={"reason": str(int(reason))},
        )
    return parsed


def decide(row: status.RevocableRow, wish: Wish, now: datetime) -> Status:
    """Return the status that ``wish`` leads to, or raise the Fault that says why not."""
    before = _status_of(row)
    if wish.reason is None:
        if before.state == "good" or before.reason == Reason.CERTIFICATE_HOLD:
            return GOOD
        raise _conflict(row, before, "only a certificate on hold can be released")
    reason = parse_reason(wish.reason)
    _check_dates(row, wish, reason, now)
    # Whole seconds, as CRL and OCSP write them: all sources then say the same instant.
    at = (wish.at or now).replace(microsecond=0)
    after = Status("revoked", at, reason)
    if before.state == "good":
        return after
    assert before.revoked_at is not None
    since = min(at, before.revoked_at)
    if before.reason == reason:
        # The same again: only the start of a compromise may still move, and only back.
        return replace(before, revoked_at=since) if wish.at is not None else before
    if before.reason == Reason.CERTIFICATE_HOLD or reason == Reason.KEY_COMPROMISE:
        # Nobody may believe that the certificate was good in between.
        return replace(after, revoked_at=since)
    raise _conflict(row, before, "the certificate is revoked already, for another reason")


def _check_dates(row: status.RevocableRow, wish: Wish, reason: Reason, now: datetime) -> None:
    for name, date in (("at", wish.at), ("invalidity_date", wish.invalidity_date)):
        if date is None:
            continue
        values = {
            "object": str(row.id),
            name: date.isoformat(),
            "now": now.isoformat(),
            "not_before": row.not_before.isoformat(),
        }
        if date > now:
            raise Fault(
                FaultCode.REJECTED,
                "a revocation cannot be dated in the future",
                rule="revocation.date.future",
                values=values,
            )
        if date < row.not_before - timedelta(days=1):
            raise Fault(
                FaultCode.REJECTED,
                "a revocation cannot be dated before the certificate existed",
                rule="revocation.date.before-certificate",
                values=values,
            )
        if date < now - timedelta(minutes=1) and reason not in COMPROMISES:
            raise Fault(
                FaultCode.REJECTED,
                "only a compromise can be dated in the past",
                rule="revocation.date.past",
                values=values,
            )


def _conflict(row: status.RevocableRow, before: Status, detail: str) -> Fault:
    values = {"object": str(row.id), "state": before.state}
    if before.reason is not None and before.revoked_at is not None:
        values |= {"reason": before.reason.name, "revoked_at": before.revoked_at.isoformat()}
    return Fault(FaultCode.CONFLICT, detail, rule="revocation.final", values=values)


def _status_of(row: status.RevocableRow) -> Status:
    if row.revoked_at is None:
        return GOOD
    return Status("revoked", row.revoked_at, Reason(row.reason or 0))


def _event(actor: Actor, tenant: str, effect: Effect) -> Event:
    after = effect.after
    data: dict[str, JSON] = {
        "issuer_id": effect.issuer_id,
        "serial": f"{effect.serial:x}",
        "subject": effect.subject,
    }
    if after.reason is None or after.revoked_at is None:
        kind = "certificate.released"
    else:
        held = after.reason == Reason.CERTIFICATE_HOLD
        kind = "certificate.held" if held else "certificate.revoked"
        data |= {"reason": after.reason.value, "at": after.revoked_at.isoformat()}
    if effect.before.reason is not None:
        data["before"] = effect.before.reason.value
    if effect.invalidity_date is not None:
        data["invalidity_date"] = effect.invalidity_date.isoformat()
    return Event(
        kind=kind,
        tenant=tenant,
        actor=actor.name,
        object=str(effect.certificate_id),
        data=data,
    )


def _by_serial(tenant: str, issuer_id: int, serial: int) -> _Find:
    octets = status.serial_octets(serial) if serial >= 0 else b""
    return lambda connection: status.by_issuer_and_serial(connection, tenant, issuer_id, octets)


def _by_id(tenant: str, certificate_id: int) -> _Find:
    return lambda connection: status.by_id(connection, tenant, certificate_id)
