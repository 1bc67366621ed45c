"""The journal: what happened, tamper-evident, and the queue that feeds every subscriber.

A service function appends its events in the transaction that makes the change: what cannot be
journaled does not happen. Cutting off records that no checkpoint has sealed yet can be noticed
only by a head that was published elsewhere (docs/operations.md).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import journal as rows
from tmad.storage.database import Database, after_commit
from tmad.storage.journal import Entry, Record
from tmad.wire import evidence
from tmad.wire.chain import (
    FIRST_CHECKPOINT,
    ChainVerifier,
    Checkpoint,
    CheckpointVerifier,
    Finding,
    Head,
    Report,
    canonical,
    checkpoint_hash,
    heads_text,
    missing_chains,
    signer_of,
)

T = TypeVar("T")

# Without I, L, O and U: nobody misreads an explain id over the telephone.
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": "", " ": ""})

# Every HSM has it, and it is small and fast.
_SEALING_ALGORITHM = KeyAlgorithm.P256
_OURS = "default"  # the tenant that tmad's own keys belong to

_PAGE = 2_000
_TEXT_LIMIT = 1_024  # characters of one text that a stranger may put into the journal


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class SigningKeys(Protocol):
    """What sealing needs of the keyring."""

    async def generate(self, algorithm: KeyAlgorithm, *, tenant: str, label: str) -> Any:
        """Make and keep a key."""

    async def use(self, key_id: str, operation: Callable[[Any], T]) -> T:
        """Run ``operation`` with the private key, where the key lives."""


class Journal:
    """Appends, seals, verifies and hands on what happened."""

    def __init__(self, database: Database, node: str, now: Clock) -> None:
        self._database = database
        self._node = node
        self._now = now
        # Committed records of this process by kind, for /metrics: kinds are the code's own words.
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # of this process by rule: a fixed set, too

    def append(self, connection: Connection, *events: Event) -> None:
        """Append events in the transaction that makes the change.

        Raises Fault(UNAVAILABLE) if that is not possible; the transaction is then rolled
        back even if somebody catches the fault.
        """
        at = self._now()
        entries = [
            Entry(
                at,
                _storable(event.tenant),
                event.kind,
                _storable(event.actor),
                _storable(event.object),
                event.trace,
                _encode(event.data),
            )
            for event in events
        ]
        if not entries:
            return
        rows.append(connection, self._node, entries)
        after_commit(connection, partial(self.counts.update, [entry.kind for entry in entries]))

    async def write(self, *events: Event) -> None:
        """Append events in a transaction of their own."""
        await self._database.write(self.append, *events)

    async def refuse(
        self,
        fault: Fault,
        *,
        tenant: str,
        actor: str,
        object: str,  # noqa: A002  the journal's own word, as in Event
        data: Mapping[str, JSON],
    ) -> str:
        """Journal a refusal, once; set and return the id by which it can be explained."""
        if not fault.explain_id:
            explain_id = make_explain_id()
            await self.write(
                Event(
                    kind="request.refused",
                    tenant=tenant,
                    actor=actor,
                    object=object,
                    trace=explain_id,
                    data={
                        **data,
                        "code": fault.code.value,
                        "detail": _short(fault.detail),
                        "private": _short(fault.private),
                        "rule": fault.rule,
                        "values": {name: _short(text) for name, text in fault.values.items()},
                    },
                )
            )
            fault.explain_id = explain_id
            self.refusals[fault.rule] += 1
        return fault.explain_id

    async def explain(self, explain_id: str) -> list[Record]:
        """Return the records of an explain id, however it was typed; raise Fault(NOT_FOUND)."""
        digits = explain_id.strip().upper().translate(_MISREAD)
        found = await self._database.read(rows.by_trace, f"{digits[:4]}-{digits[4:]}")
        if not found:
            raise Fault(FaultCode.NOT_FOUND, "nothing was journaled under this id")
        return found

    async def tail(
        self,
        tenant: str | None,
        after: tuple[datetime, str, int] | None = None,
        limit: int = 50,
    ) -> list[Record]:
        """Return records, oldest first: the newest ``limit``, or those that follow ``after``.

        ``after`` is (at, writer, seq) of the last record that the caller has; ``tenant`` None
        means every tenant.
        """
        if after is not None:
            return await self._database.read(rows.find, tenant, after, limit, False)
        found = await self._database.read(rows.find, tenant, None, limit, True)
        return found[::-1]

    async def seal(self, keyring: SigningKeys, key_id: str | None = None) -> Checkpoint | None:
        """Sign a checkpoint over the heads of all chains; None if there is nothing new.

        Without ``key_id`` the key of the last checkpoint signs; the first makes one. The
        caller holds a lease: of two sealers at once, one has signed in vain.
        """
        heads, last = await self._database.read(_heads_and_checkpoint)
        text = heads_text({head.writer: (head.seq, head.hash) for head in heads})
        if not heads or (last is not None and last.heads == text):
            return None
        if key_id is None and last is not None:
            key_id = last.key_id
        elif key_id is None:
            key = await keyring.generate(_SEALING_ALGORITHM, tenant=_OURS, label="journal")
            key_id = str(key.id)
        number = last.id + 1 if last else 1
        previous = last.hash if last else FIRST_CHECKPOINT
        at = rows.microseconds(self._now())
        digest = checkpoint_hash(number, at, text, key_id, previous)
        signature = await keyring.use(key_id, signer_of(digest))
        checkpoint = Checkpoint(number, at, text, previous, digest, key_id, signature)
        is_next = await self._database.write(rows.insert_checkpoint, checkpoint)
        return checkpoint if is_next else None

    async def sealing_keys(self) -> list[str]:
        """Return the ids of all keys that have signed checkpoints."""
        return await self._database.read(rows.find_sealing_keys)

    async def verify(self, public_keys: Mapping[str, Any]) -> Report:
        """Check every chain and every checkpoint; ``public_keys`` by the keyring's key id."""
        extent = await self._database.read(rows.extent)
        checkpoints = CheckpointVerifier(public_keys)
        async for page in self._checkpoints(extent.checkpoint):
            for checkpoint in page:
                checkpoints.check(checkpoint)
        findings = [] if checkpoints.finding is None else [checkpoints.finding]
        records = sealed = clock_steps = 0
        for head in extent.heads:
            verifier = ChainVerifier(head, checkpoints.seals.get(head.writer))
            low, high = extent.bounds[head.writer]
            after: int | None = min(low, 1) - 1
            while after is not None:
                after = await self._database.read(
                    rows.check_page, head.writer, after, high, _PAGE, verifier
                )
            found = verifier.finish()
            if found is not None:
                findings.append(found)
            records += verifier.records
            sealed += verifier.sealed
            clock_steps += verifier.clock_steps
        findings += missing_chains(checkpoints, {head.writer for head in extent.heads})
        findings += [
            Finding("inserted", writer, 0, "records of a chain that has no head")
            for writer in extent.strangers
        ]
        return Report(
            findings=tuple(findings),
            writers=len(extent.heads),
            records=records,
            sealed=sealed,
            checkpoints=checkpoints.count,
            clock_steps=clock_steps,
        )

    async def export(self, public_keys: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """Iterate over the lines of an export; tmad.wire.evidence verifies it offline."""
        whole = hashlib.sha256()
        async for line in self._export_lines(public_keys):
            whole.update(line)
            yield line
        yield evidence.end_line(whole.digest())

    async def _export_lines(self, public_keys: Mapping[str, Any]) -> AsyncIterator[bytes]:
        extent = await self._database.read(rows.extent)
        for line in evidence.header_lines(rows.microseconds(self._now()), public_keys):
            yield line
        async for page in self._checkpoints(extent.checkpoint):
            for checkpoint in page:
                yield evidence.checkpoint_line(checkpoint)
        for head in extent.heads:
            yield evidence.head_line(head)
        for head in extent.heads:
            after = 0
            while page_of_records := await self._database.read(
                rows.find_raw, head.writer, after, head.seq, _PAGE
            ):
                for row in page_of_records:
                    text = canonical(head.writer, row.seq, row.at, row)
                    yield evidence.record_line(text, row.hash)
                after = page_of_records[-1].seq

    async def _checkpoints(self, until: int) -> AsyncIterator[list[Checkpoint]]:
        """Iterate over pages of checkpoints, oldest first, up to the one with this id."""
        after = -(2**62)  # below any number that a forger may have chosen
        while page := await self._database.read(rows.find_checkpoints, after, _PAGE):
            yield [checkpoint for checkpoint in page if checkpoint.id <= until]
            after = page[-1].id

    async def transfer(
        self,
        subscriber: str,
        function: Callable[[Connection, list[Record]], object],
        limit: int = 500,
    ) -> int:
        """Give a subscriber what it has not had in the transaction that remembers that it has.

        What ``function`` writes to the database happens exactly once for each record. Returns
        how many records there were, ``limit`` of each chain at most: with fewer than that in all,
        there are no more.
        """
        if not await self._database.read(_is_behind, subscriber):
            return 0
        return await self._database.write(_transfer, subscriber, function, limit)

    async def skip(self, subscriber: str) -> None:
        """Let a subscriber have had everything that there is now."""
        if await self._database.read(_is_behind, subscriber):
            await self._database.write(_skip, subscriber)


def make_explain_id() -> str:
    """Return a new id of the form XXXX-XXXX, 40 random bits."""
    number = secrets.randbits(40)
    digits = "".join(_CROCKFORD[number >> shift & 31] for shift in range(35, -1, -5))
    return f"{digits[:4]}-{digits[4:]}"


def _heads_and_checkpoint(
    connection: Connection,
) -> tuple[list[Head], Checkpoint | None]:
    return rows.find_heads(connection), rows.newest_checkpoint(connection)


def _undelivered(connection: Connection, subscriber: str, limit: int) -> list[list[Record]]:
    cursors = rows.find_cursors(connection, subscriber)
    return [
        rows.find_after(connection, head.writer, cursors.get(head.writer, 0), limit)
        for head in rows.find_heads(connection)
        if head.seq > cursors.get(head.writer, 0)
    ]


def _is_behind(connection: Connection, subscriber: str) -> bool:
    cursors = rows.find_cursors(connection, subscriber)
    return any(head.seq > cursors.get(head.writer, 0) for head in rows.find_heads(connection))


def _transfer(
    connection: Connection,
    subscriber: str,
    function: Callable[[Connection, list[Record]], object],
    limit: int,
) -> int:
    rows.hold_cursors(connection, subscriber)
    pages = _undelivered(connection, subscriber, limit)
    records = list(heapq.merge(*pages, key=lambda record: record.at))
    if records:
        function(connection, records)
        # Each chain's own order is kept, so its last record here is the furthest.
        reached = {record.writer: record.seq for record in records}
        rows.move_cursors(connection, subscriber, reached)
    return len(records)


def _skip(connection: Connection, subscriber: str) -> None:
    reached = {head.writer: head.seq for head in rows.find_heads(connection)}
    rows.move_cursors(connection, subscriber, reached)


def _encode(data: Mapping[str, JSON]) -> str:
    return _ENCODER.encode(dict(data))


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"


def _storable(text: str) -> str:
    """Return a text that both databases can hold.

    Names come from strangers' certificates and requests: a NUL or half a surrogate pair must
    not be a way to be refused without a record.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
