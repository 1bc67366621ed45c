"""How a certificate revocation list is made: read, encoded, signed, published. RFC 5280, 5."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tmad.ca import crlcodec, deltas, signature
from tmad.ca.entries import Entries
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.trust import key_bits, subject_key_identifier
from tmad.events import JSON, Clock, Event
from tmad.journal import Journal
from tmad.signer.keyring import Keyring
from tmad.signer.workers import Reactor, Workers
from tmad.storage import crls, leases
from tmad.storage.database import Database
from tmad.storage.leases import Lease

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Delta:
    """The delta CRL that was published with a CRL, under its number and date."""

    der: bytes
    base_number: int
    next_update: datetime
    entries: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class CRL:
    """One published CRL; ``delta`` is None where its issuer makes none."""

    issuer_id: int
    der: bytes
    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    sha256: bytes
    delta: Delta | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A CRL with its delta, complete up to the change ``change_id``."""

    crl: CRL
    change_id: int
    keeps_expired: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a CRL and its delta CRL have in common."""

    key_identifier: bytes
    algorithm_der: bytes
    this_update: datetime
    number: int
    expired_since: datetime | None


class CRLMaker:
    """Makes the CRLs of all issuers of this process, each from what it knows of the last one."""

    def __init__(
        self,
        database: Database,
        hierarchy: Hierarchy,
        keyring: Keyring,
        journal: Journal,
        now: Clock,
        *,
        reactor: Reactor | None,
    ) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._keyring = keyring
        self._journal = journal
        self._now = now
        self._workers = Workers("the CRL builder", threads=1, queue=256, reactor=reactor)
        self._entries: dict[int, Entries] = {}

    async def sign(self, issuer: Issuer, last: crls.CRLRow | None) -> Signed:
        """Make the CRL that follows the ``last`` one, and its delta; nobody has seen them yet."""
        policy = issuer.document.crl
        keep_all = policy.expired_certs_on_crl
        this_update, number, drop_before = self._now().replace(microsecond=0), 1, None
        if last is not None:
            this_update = max(this_update, last.this_update)
            number = last.number + 1
            drop_before = None if keep_all else last.this_update
        assert issuer.certificate is not None
        identifier = subject_key_identifier(issuer.certificate)
        if identifier is None:
            bits = key_bits(issuer.public_key)
            identifier = hashlib.sha1(bits, usedforsecurity=False).digest()
        frame = _Frame(
            key_identifier=identifier,
            algorithm_der=signature.algorithm_der(issuer.public_key, issuer.scheme),
            this_update=this_update,
            number=number,
            expired_since=issuer.not_before if keep_all else None,
        )
        base = None
        if issuer.makes_deltas:
            base = await deltas.find_base(self._database, last, keep_all, this_update)
        entries, changed = await self._collect(issuer, base, drop_before, this_update)
        next_update = this_update + timedelta(hours=policy.period_hours + policy.overlap_hours)
        freshest = self._hierarchy.urls(issuer).delta
        encoded = [chunk.der for chunk in entries.chunks]
        crl_der, digest = await self._encode(
            issuer, frame, encoded, next_update=next_update, freshest=freshest
        )
        crl = CRL(issuer.id, crl_der, number, this_update, next_update, entries.count, digest)
        change_id = entries.change_id
        if policy.delta_hours is not None and issuer.makes_deltas:
            over = min(this_update + timedelta(hours=policy.delta_hours), next_update)
            base_number = number if base is None else base.number
            delta_der, digest = await self._encode(
                issuer, frame, changed.encoded, next_update=over, base_number=base_number
            )
            crl = replace(crl, delta=Delta(delta_der, base_number, over, changed.count, digest))
        return Signed(crl, change_id, keep_all)

    async def _collect(
        self,
        issuer: Issuer,
        base: crls.DeltaBase | None,
        drop_before: datetime | None,
        this_update: datetime,
    ) -> tuple[Entries, deltas.Changed]:
        """Read what the CRL and its delta list; both know the same (RFC 5280, 5.2.4)."""
        entries = self._entries.setdefault(issuer.id, Entries(issuer.id))
        changed = deltas.NOTHING
        for _ in range(_ATTEMPTS):
            await entries.refresh(
                self._database, compromised_at=issuer.compromised_at, last_update=drop_before
            )
            if base is None:
                break
            changed = await deltas.collect(
                self._database, self._workers, issuer.id, base, drop_before, this_update
            )
            news = await self._database.read(crls.find_status_changes, issuer.id, entries.change_id)
            if news.serials is not None and not news.serials:
                break
        return entries, changed

    async def _encode(
        self,
        issuer: Issuer,
        frame: _Frame,
        encoded: Sequence[bytes],
        *,
        next_update: datetime,
        freshest: str = "",
        base_number: int | None = None,
    ) -> tuple[bytes, bytes]:
        """Return a CRL with these entries, signed, and its SHA-256."""
        before, after = crlcodec.frame(
            issuer_der=issuer.subject_der,
            key_identifier=frame.key_identifier,
            algorithm_der=frame.algorithm_der,
            this_update=frame.this_update,
            next_update=next_update,
            number=frame.number,
            expired_since=frame.expired_since,
            entries_size=sum(map(len, encoded)),
            freshest=freshest,
            base_number=base_number,
        )
        pieces = [before, *encoded, after]
        signed = await self._sign_pieces(issuer, pieces)
        crl_der = await self._workers.run(
            lambda: crlcodec.finish(pieces, frame.algorithm_der, signed)
        )
        digest = await self._workers.run(lambda: hashlib.sha256(crl_der).digest())
        return crl_der, digest

    async def _sign_pieces(self, issuer: Issuer, pieces: list[bytes]) -> bytes:
        """Sign what the pieces make up, and check it before anybody sees it (CRL-12)."""
        scheme = issuer.scheme
        public_key = issuer.public_key
        if scheme.hash is None:
            data = await self._workers.run(lambda: b"".join(pieces))
            signed = await self._keyring.use(
                issuer.key_id, lambda key: signature.sign(key, scheme, data)
            )
        else:
            name = scheme.hash.name
            data = await self._workers.run(lambda: _digest(name, pieces))
            signed = await self._keyring.use(
                issuer.key_id, lambda key: signature.sign_digest(key, scheme, data)
            )
        await self._workers.run(
            lambda: signature.check(public_key, scheme, signed, data, digest=True)
        )
        return signed

    def publish(
        self,
        connection: Connection,
        issuer: Issuer,
        signed: Signed,
        lease: Lease | None,
        actor: str,
    ) -> None:
        """Let a CRL be the newest one; Fault(CONFLICT) when another one was faster."""
        if lease is not None:
            leases.assert_held(connection, lease, self._now())
        crl, delta = signed.crl, signed.crl.delta
        row = crls.CRLRow(
            issuer_id=issuer.id,
            number=crl.number,
            tenant=issuer.tenant,
            this_update=crl.this_update,
            next_update=crl.next_update,
            entries=crl.entries,
            change_id=signed.change_id,
            crl_der=crl.der,
            sha256=crl.sha256,
        )
        data: dict[str, JSON] = {
            "issuer_id": issuer.id,
            "number": crl.number,
            "entries": crl.entries,
            "next_update": crl.next_update.isoformat(),
            "sha256": crl.sha256.hex(),
        }
        if delta is not None:
            row = replace(
                row,
                base_number=delta.base_number,
                keeps_expired=signed.keeps_expired,
                delta_next_update=delta.next_update,
                delta_entries=delta.entries,
                delta_der=delta.der,
                delta_sha256=delta.sha256,
            )
            data |= {
                "delta_base": delta.base_number,
                "delta_entries": delta.entries,
                "delta_next_update": delta.next_update.isoformat(),
                "delta_sha256": delta.sha256.hex(),
            }
        crls.insert(connection, row)
        self._journal.append(
            connection,
            Event(
                kind="crl.published",
                tenant=issuer.tenant,
                actor=actor,
                object=issuer.slug,
                data=data,
            ),
        )


def _digest(name: str, pieces: list[bytes]) -> bytes:
    digest = hashlib.new(name)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def from_row(row: crls.CRLRow) -> CRL:
    assert row.crl_der is not None
    return CRL(
        row.issuer_id,
        row.crl_der,
        row.number,
        row.this_update,
        row.next_update,
        row.entries,
        row.sha256,
        _delta_from_row(row),
    )


def _delta_from_row(row: crls.CRLRow) -> Delta | None:
    if row.base_number is None:
        return None
    assert row.delta_der is not None
    assert row.delta_next_update is not None
    assert row.delta_entries is not None
    assert row.delta_sha256 is not None
    return Delta(
        row.delta_der,
        row.base_number,
        row.delta_next_update,
        row.delta_entries,
        row.delta_sha256,
    )
