"""Enrolment conversations of several messages, and certificates that wait for a confirmation.

RFC 9810, 5.1.1 and 5.3.18; RFC 9483, 3.5 and 4.1. A conversation is written down before anything
is done for it, so that a copy of a message finds what was answered, and a certificate that
nobody confirmed is found by :meth:`Exchanges.attend`, whichever process issued it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from tmad.ca.revocation import Wish
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.storage import certificates, requests
from tmad.storage import exchanges as rows
from tmad.storage.batches import Batches
from tmad.storage.database import Database
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.revocation import Revocation

# How long an answer is kept for a client that did not hear it, and its transaction after that,
# so that no copy of an old message is served anew.
ANSWER_KEPT: Final = timedelta(minutes=10)
REMEMBERED: Final = timedelta(days=7)
# A conversation that was begun this long ago has lost the process that served it.
PATIENCE: Final = timedelta(minutes=10)
# A little longer than a request may wait for a person.
LONGEST_WAIT: Final = timedelta(days=15)

_LATER: Final = timedelta(minutes=1)
_PAGE: Final = 100


class Challenge(NamedTuple):
    """What a client has to answer before anything is done for it."""

    answer: bytes  # the message that asks for it
    nonce: bytes
    request: bytes  # what began the conversation
    due_at: datetime


class _Step(NamedTuple):
    """A conversation that begins, or goes on from what it was."""

    new: Exchange
    old: Exchange | None = None
    event: Event | None = None
    status: Wish | None = None  # what its certificate's becomes with it


class Exchanges:
    """The conversations of one database."""

    def __init__(
        self, database: Database, journal: Journal, revocation: Revocation, now: Clock
    ) -> None:
        self._database = database
        self._journal = journal
        self._revocation = revocation
        self._now = now
        self._present = 0  # messages that are being served
        self._steps = Batches(database, self._step_in, company=lambda: self._present)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Count a message as long as it is served: what so many write may share a commit."""
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def find(self, endpoint: str, transaction: bytes) -> Exchange | None:
        """Return a conversation, if the endpoint has it."""
        return await self._database.lookup(rows.by_transaction, endpoint, transaction)

    async def begin(
        self,
        *,
        endpoint: str,
        tenant: str,
        transaction: bytes,
        opening: int,
        number: int,
        holder: bytes,
        digest: bytes,
        is_implicit: bool,
        challenge: Challenge | None = None,
    ) -> Exchange:
        """Write down that a conversation begins; Fault(CONFLICT) when it has begun before."""
        now = self._now()
        exchange = Exchange(
            endpoint=endpoint,
            tenant=tenant,
            transaction=transaction,
            state="begun",
            opening=opening,
            number=number,
            holder=holder,
            digest=digest,
            is_implicit=is_implicit,
            due_at=now + PATIENCE,
            created_at=now,
        )
        if challenge is not None:
            exchange = exchange._replace(state="challenged", **challenge._asdict())
        await self._steps.add(_Step(new=exchange))
        return exchange

    async def resume(self, exchange: Exchange, *, digest: bytes) -> Exchange:
        """Go on with what a challenge was about; Fault(CONFLICT) when it was answered before."""
        resumed = exchange._replace(
            state="begun", digest=digest, answer=None, due_at=self._now() + PATIENCE
        )
        await self._change(exchange, resumed)
        return resumed

    async def forget(self, exchange: Exchange) -> None:
        """Let a conversation begin anew: what failed may work at the next attempt."""
        await self._database.write(rows.delete, exchange)

    async def wait(
        self, exchange: Exchange, *, digest: bytes, answer: bytes, nonce: bytes, spki: bytes
    ) -> None:
        """Note that a request waits for a person."""
        await self._change(
            exchange,
            exchange._replace(
                state="waiting",
                digest=digest,
                answer=answer,
                nonce=nonce,
                spki=spki,
                request=None,
                due_at=exchange.created_at + LONGEST_WAIT,
            ),
        )

    async def expect(
        self,
        exchange: Exchange,
        *,
        digest: bytes,
        answer: bytes,
        nonce: bytes,
        certificate_id: int,
        until: datetime,
        is_held: bool = False,
    ) -> None:
        """Note that a certificate was sent, and until when it must be confirmed.

        With ``is_held`` it is on hold as long as that: nobody is to see it before.
        """
        await self._change(
            exchange,
            exchange._replace(
                state="unconfirmed",
                digest=digest,
                answer=answer,
                nonce=nonce,
                certificate_id=certificate_id,
                request=None,
                due_at=until,
            ),
            status=Wish(reason=Reason.CERTIFICATE_HOLD) if is_held else None,
        )

    async def close(
        self,
        exchange: Exchange,
        *,
        digest: bytes,
        answer: bytes,
        nonce: bytes,
        certificate_id: int | None = None,
    ) -> None:
        """Note the last answer of a conversation."""
        await self._change(
            exchange,
            self._closed(exchange, digest=digest, answer=answer, nonce=nonce,
                         certificate_id=certificate_id or exchange.certificate_id),
        )  # fmt: skip

    async def confirm(
        self,
        exchange: Exchange,
        *,
        digest: bytes,
        answer: bytes,
        nonce: bytes,
        is_held: bool = False,
    ) -> None:
        """Believe the client that it has its certificate; Fault(CONFLICT) when it is too late."""
        closed = self._closed(exchange, digest=digest, answer=answer, nonce=nonce)
        await self._change(
            exchange,
            closed,
            self._event("certificate.confirmed", exchange),
            status=Wish(reason=None) if is_held else None,
        )

    async def reject(
        self, exchange: Exchange, why: str, *, digest: bytes, answer: bytes, nonce: bytes
    ) -> None:
        """Take back a certificate that the client does not want; it is revoked at the end."""
        withdrawing = exchange._replace(
            state="withdrawing",
            digest=digest,
            answer=answer,
            nonce=nonce,
            due_at=self._now(),
        )
        await self._change(
            exchange, withdrawing, self._event("certificate.rejected", exchange, why=why[:300])
        )
        await self._withdraw(withdrawing)

    async def supersede(self, exchange: Exchange, sha256: bytes) -> None:
        """Revoke the certificate that was followed by the one of this conversation."""
        await self._database.write(self._supersede, exchange, sha256)

    def _supersede(self, connection: Connection, exchange: Exchange, sha256: bytes) -> None:
        row = certificates.by_sha256(connection, exchange.tenant, sha256)
        if row is not None and row.id != exchange.certificate_id:
            actor = Actor(exchange.endpoint)
            wish = Wish(reason=Reason.SUPERSEDED)
            self._revocation.change_in(connection, actor, exchange.tenant, row.id, wish)

    # -- what happens by itself ---------------------------------------------------------------

    async def attend(self) -> int:
        """Revoke what nobody confirmed in time, forget what is old; return how many there were.

        One that cannot be attended to does not keep the others from it: it is tried again
        later, and its Fault is raised when all are done.
        """
        total = 0
        first: Fault | None = None
        while due := await self._database.read(_find_due, self._now()):
            for exchange in due:
                try:
                    await self._attend(exchange)
                except Fault as fault:
                    first = first or fault
                    later = exchange._replace(due_at=self._now() + _LATER)
                    await self._database.write(self._update, exchange, later, None)
            total += len(due)
        if first is not None:
            raise first
        return total

    async def _attend(self, exchange: Exchange) -> None:
        match exchange.state:
            case "unconfirmed":
                withdrawing = exchange._replace(state="withdrawing")
                event = self._event("certificate.unconfirmed", exchange)
                if await self._database.write(self._update, exchange, withdrawing, event):
                    await self._withdraw(withdrawing)
            case "begun":
                await self._abandon(exchange)
            case "withdrawing":
                await self._withdraw(exchange)
            case "closed" if exchange.answer is not None:
                emptied = exchange._replace(answer=None, due_at=exchange.created_at + REMEMBERED)
                await self._database.write(self._update, exchange, emptied, None)
            case _:
                await self._database.write(rows.delete, exchange)

    async def _abandon(self, exchange: Exchange) -> None:
        """Clear up after a process that ended between its promise and its answer.

        What it may have issued has not been heard of by anybody: a client that asks again gets
        it, and takes the conversation with it.
        """
        issued = await self._database.read(_issued_in, exchange)
        withdrawing = exchange._replace(state="withdrawing", certificate_id=issued, request=None)
        event = self._event("certificate.unconfirmed", withdrawing) if issued else None
        if await self._database.write(self._update, exchange, withdrawing, event):
            await self._withdraw(withdrawing)

    async def _withdraw(self, exchange: Exchange) -> None:
        if exchange.certificate_id is not None:
            try:
                await self._revocation.revoke_by_id(
                    Actor.system(),
                    exchange.tenant,
                    exchange.certificate_id,
                    Reason.CESSATION_OF_OPERATION,
                )
            except Fault as fault:
                # Revoked already for another reason: it is not good, which is what matters.
                if fault.code is not FaultCode.CONFLICT:
                    raise
        closed = exchange._replace(state="closed", due_at=self._now() + ANSWER_KEPT)
        await self._database.write(self._update, exchange, closed, None)

    # -- steps --------------------------------------------------------------------------------

    def _closed(
        self,
        exchange: Exchange,
        *,
        digest: bytes,
        answer: bytes,
        nonce: bytes,
        certificate_id: int | None = None,
    ) -> Exchange:
        return exchange._replace(
            state="closed",
            digest=digest,
            answer=answer,
            nonce=nonce,
            certificate_id=certificate_id or exchange.certificate_id,
            request=None,
            due_at=self._now() + ANSWER_KEPT,
        )

    async def _change(
        self,
        old: Exchange,
        new: Exchange,
        event: Event | None = None,
        *,
        status: Wish | None = None,
    ) -> None:
        await self._steps.add(_Step(old=old, new=new, event=event, status=status))

    def _step_in(self, connection: Connection, steps: Sequence[_Step]) -> list[None]:
        """Take steps of several conversations; who finds that another was faster spoils it."""
        rows.insert(connection, [step.new for step in steps if step.old is None])
        changes = [(step.old, step.new) for step in steps if step.old is not None]
        if changes and not rows.update(connection, changes):
            old, _ = changes[0]  # alone, when anybody hears of it
            raise Fault(
                FaultCode.CONFLICT,
                "another message of this transaction was faster",
                rule="exchange.changed",
                values={"endpoint": old.endpoint, "transaction": old.transaction.hex()},
            )
        for step in steps:
            if step.status is not None:
                self._set_status(connection, step.new, step.status)
        self._journal.append(connection, *(step.event for step in steps if step.event is not None))
        return [None] * len(steps)

    def _set_status(self, connection: Connection, exchange: Exchange, wish: Wish) -> None:
        assert exchange.certificate_id is not None, "it is about a certificate"
        actor = Actor(exchange.endpoint)
        self._revocation.change_in(
            connection, actor, exchange.tenant, exchange.certificate_id, wish
        )

    def _update(
        self, connection: Connection, old: Exchange, new: Exchange, event: Event | None
    ) -> bool:
        if not rows.update(connection, [(old, new)]):
            return False
        if event is not None:
            self._journal.append(connection, event)
        return True

    @staticmethod
    def _event(kind: str, exchange: Exchange, **data: str) -> Event:
        return Event(
            kind=kind,
            tenant=exchange.tenant,
            actor=exchange.endpoint,
            object=f"certificate/{exchange.certificate_id}",
            data={"transaction": exchange.transaction.hex(), **data},
        )


def _find_due(connection: Connection, now: datetime) -> tuple[Exchange, ...]:
    return rows.find_due(connection, now, limit=_PAGE)


def _issued_in(connection: Connection, exchange: Exchange) -> int | None:
    """Return the certificate that was issued in a conversation that has not got to its answer."""
    found = requests.find_of_transaction(
        connection, exchange.endpoint, exchange.transaction.hex(), 1
    )
    return found[0].certificate_id if found and found[0].state == "issued" else None
