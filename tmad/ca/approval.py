"""Step 4 of the pipeline, the person's half: requests that wait, and what is decided of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tmad.ca import record
from tmad.ca.pipeline import Authority
from tmad.ca.requests import Outcome
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.storage import requests
from tmad.storage.database import Database
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.requests import EnrollmentRequest

_PAGE = 100
_LONGEST_COMMENT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request as a person sees it, with what was asked for."""

    row: RequestRow
    request: EnrollmentRequest
    method: str


class Requests:
    """Lists requests and decides about those that wait."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        authority: Authority,
        secrets: EnrollSecrets,
        now: Clock,
    ) -> None:
        self.journal = journal
        self._database = database
        self._authority = authority
        self._secrets = secrets
        self._now = now

    @guarded("request.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        *,
        state: str = "pending",
        after: str = "",
        limit: int = 100,
    ) -> tuple[RequestRow, ...]:
        """Return a page of the requests in one state, oldest first."""
        return await self._database.read(_find, tenant, state, after, limit)

    @guarded("request.read")
    async def show(self, actor: Actor, tenant: str, request_id: str) -> Waiting:
        """Return one request; Fault(NOT_FOUND)."""
        row = await self._row(tenant, request_id)
        request, standing = record.restore(row)
        return Waiting(row=row, request=request, method=standing.method)

    @guarded("request.comment")
    async def comment(self, actor: Actor, tenant: str, request_id: str, comment: str) -> RequestRow:
        """Write a remark on a request, which the applicant may get to see."""
        _check_comment(comment)
        await self._row(tenant, request_id)
        await self._database.write(self._comment, actor, tenant, request_id, comment)
        return await self._row(tenant, request_id)

    @guarded("request.approve")
    async def approve(
        self, actor: Actor, tenant: str, request_id: str, *, dry_run: bool = False
    ) -> Outcome:
        """Issue what a request asks for, by the profile as it is today.

        Raise CONFLICT for a request that does not wait, FORBIDDEN for one's own, and whatever
        the profile refuses; the request then goes on waiting.
        """
        row = await self._open(actor, tenant, request_id)
        try:
            return await self._authority.issue_pending(actor, row, dry_run=dry_run)
        except Fault as fault:
            await self._refused(fault, actor, row)
            raise

    @guarded("request.deny")
    async def deny(
        self,
        actor: Actor,
        tenant: str,
        request_id: str,
        *,
        comment: str = "",
        dry_run: bool = False,
    ) -> RequestRow:
        """Refuse a request for good; its applicant is told the comment when he polls."""
        _check_comment(comment)
        row = await self._open(actor, tenant, request_id)
        await self._database.write(self._deny, actor.name, row, comment, dry_run=dry_run)
        return await self._row(tenant, request_id)

    async def expire_due(self) -> int:
        """Deny requests that nobody decided about in time; return how many there were."""
        total = 0
        while count := await self._database.write(self._expire_page):
            total += count
        return total

    # -- steps --------------------------------------------------------------------------------

    async def _row(self, tenant: str, request_id: str) -> RequestRow:
        row = await self._database.read(requests.by_id, tenant, request_id)
        if row is None:
            raise Fault(
                FaultCode.NOT_FOUND, f"there is no request {request_id}", rule="request.absent"
            )
        return row

    async def _open(self, actor: Actor, tenant: str, request_id: str) -> RequestRow:
        row = await self._row(tenant, request_id)
        if actor.name == row.applicant:
            fault = Fault(
                FaultCode.FORBIDDEN,
                "somebody else must decide about one's own request",
                rule="request.self-approval",
                values={"actor": actor.name, "request": row.id},
            )
            await self._refused(fault, actor, row)
            raise fault
        if row.state != "pending" or row.expires_at <= self._now():
            raise Fault(
                FaultCode.CONFLICT,
                f"the request does not wait: it is {row.state}",
                rule="request.state",
                values={"state": row.state, "expires_at": row.expires_at.isoformat()},
            )
        return row

    async def _refused(self, fault: Fault, actor: Actor, row: RequestRow) -> None:
        await self.journal.refuse(
            fault,
            tenant=row.tenant,
            actor=actor.name,
            object=f"request/{row.id}",
            data={"subject": row.subject, "endpoint": row.endpoint},
        )

    def _comment(
        self, connection: Connection, actor: Actor, tenant: str, request_id: str, comment: str
    ) -> None:
        row = requests.by_id(connection, tenant, request_id)
        assert row is not None, "requests are never deleted"
        requests.update_comment(connection, request_id, comment, self._now())
        self.journal.append(
            connection, self._event("request.commented", actor, row, comment=comment)
        )

    def _deny(self, connection: Connection, who: str, row: RequestRow, comment: str) -> None:
        requests.update_state(
            connection, row, "denied", self._now(), decided_by=who, comment=comment
        )
        if secret_id := record.secret_of(row):
            # The applicant may be asked to correct his request and to come again.
            self._secrets.release(connection, secret_id, row.id)
        self.journal.append(
            connection,
            Event(
                kind="request.denied",
                tenant=row.tenant,
                actor=who,
                object=f"request/{row.id}",
                data={"endpoint": row.endpoint, "subject": row.subject, "comment": comment},
            ),
        )

    def _expire_page(self, connection: Connection) -> int:
        due = requests.find_expired(connection, self._now(), limit=_PAGE)
        for row in due:
            self._deny(connection, "system", row, "nobody decided about it in time")
        return len(due)

    @staticmethod
    def _event(kind: str, actor: Actor, row: RequestRow, **data: JSON) -> Event:
        return Event(
            kind=kind,
            tenant=row.tenant,
            actor=actor.name,
            object=f"request/{row.id}",
            data={"endpoint": row.endpoint, "subject": row.subject, **data},
        )


def _find(
    connection: Connection, tenant: str, state: str, after: str, limit: int
) -> tuple[RequestRow, ...]:
    return requests.find(connection, tenant, state=state, after=after, limit=limit)


def _check_comment(comment: str) -> None:
    if len(comment) > _LONGEST_COMMENT:
        raise Fault(
            FaultCode.REJECTED,
            f"a comment has at most {_LONGEST_COMMENT} characters",
            rule="request.comment",
        )
