"""Agents on other machines: what they say of the certificates that they keep, and what we say.

Who shows a certificate may speak of that one alone: nothing is issued or revoked here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.ca import renewing
from tmad.ca.requests import EndpointID
from tmad.ca.standing import is_usable
from tmad.ca.trust import Trust
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.storage import agents as rows
from tmad.storage import certificates
from tmad.storage.agents import AgentRow
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database
from tmad.wire import parsing
from tmad.wire.reports import Advice, Condition, Report

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoints
    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.status import StatusSource
    from tmad.managed.objects import Objects

_MOST_OF_ONE: Final = 64  # agents that say they keep a certificate with one subject
_OWNERS: Final = ("person:", "device:")
_HOLD: Final = 6  # RFC 5280, 5.3.1


class Agents:
    """The agents of one database."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Records,
        hierarchy: Hierarchy,
        status: StatusSource,
        endpoints: Endpoints,
        objects: Objects,
        now: Clock,
    ) -> None:
        self.journal = journal
        self._database = database
        self._trust = Trust(hierarchy)
        self._status = status
        self._endpoints = endpoints
        self._objects = objects
        self._now = now

    async def report(self, certificate_der: bytes, report: Report) -> Advice:
        """Keep what the holder of a certificate says, and tell it how the certificate is.

        The caller has seen that it holds the key. Fault(UNAUTHENTICATED) for a certificate that
        was not issued here; Fault(CONFLICT) for an id that is somebody else's. What is not good
        any more is told so, and nothing of it is kept.
        """
        row = await self._row(certificate_der)
        condition = await self._condition(row)
        if condition != "good":
            return Advice(status=condition, window=None)
        try:
            await self._database.write(self._keep, row, report, self._now())
        except Fault as fault:
            if fault.code is FaultCode.CONFLICT:
                await self.journal.refuse(
                    fault,
                    tenant=row.tenant,
                    actor=f"certificate:{row.id}",
                    object=f"agent:{report.id}",
                    data={"via": "agent"},
                )
            raise
        return Advice(status="good", window=await self._window(row))

    @guarded("agent.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        *,
        state: str | None = None,
        silent_for: timedelta | None = None,
        after: str = "",
        limit: int = 100,
    ) -> tuple[AgentRow, ...]:
        """Return a page of a tenant's agents by id."""
        since = None if silent_for is None else self._now() - silent_for

        def find(connection: Connection) -> tuple[AgentRow, ...]:
            return rows.find(
                connection, tenant, state=state, silent_since=since, after=after, limit=limit
            )

        return await self._database.read(find)

    @guarded("agent.read")
    async def show(self, actor: Actor, tenant: str, id: str) -> AgentRow:  # noqa: A002
        """Return what one agent said last; Fault(NOT_FOUND)."""
        found = await self._database.read(rows.by_id, tenant, id)
        if found is None:
            raise _absent(id)
        return found

    @guarded("agent.delete")
    async def forget(
        self,
        actor: Actor,
        tenant: str,
        id: str,  # noqa: A002
        *,
        dry_run: bool = False,
    ) -> None:
        """Forget an agent, until it reports again; Fault(NOT_FOUND)."""
        await self._database.write(self._forget, actor, tenant, id, dry_run=dry_run)

    # -- who shows what

    async def _row(self, certificate_der: bytes) -> CertificateRow:
        try:
            certificate = parsing.certificate(certificate_der)
            issuer = await self._trust.issuer_of(certificate)
            serial = certificate.serial_number
        except ValueError as error:
            raise _stranger(str(error)) from None
        if issuer is None or serial <= 0:
            raise _stranger("not issued here")
        row = await self._database.lookup(certificates.by_serial, issuer.id, serial)
        if row is None or row.certificate_der != certificate_der:
            raise _stranger("unknown")
        return row

    async def _condition(self, row: CertificateRow) -> Condition:
        status = await self._status.of(row.issuer_id, row.serial)
        if status.state != "good":
            return "hold" if status.reason == _HOLD else "revoked"
        if not row.not_before <= self._now() <= row.not_after:
            return "expired"
        if row.owner.startswith(_OWNERS) and not await self._database.lookup(
            is_usable, row.tenant, row.owner, self._now()
        ):
            return "withdrawn"
        return "good"

    async def _window(self, row: CertificateRow) -> tuple[datetime, datetime]:
        """Return when to renew, as endpoint and profile allow it."""
        days = None
        try:
            endpoint = await self._endpoints.by_id(EndpointID.parse(row.endpoint))
            days = endpoint.document.renewal.window_days
        except (Fault, ValueError):
            pass  # issued by hand, or by an endpoint that is gone
        return await renewing.window(self._objects, row, days)

    # -- transactions

    def _keep(
        self, connection: Connection, row: CertificateRow, report: Report, now: datetime
    ) -> None:
        old = rows.locked(connection, row.tenant, report.id)
        new = AgentRow(
            tenant=row.tenant,
            id=report.id,
            certificate_id=row.id,
            subject=row.subject,
            owner=row.owner,
            host=report.host,
            label=report.label,
            version=report.version,
            source=report.source,
            state=report.state,
            served=report.served,
            error=report.error,
            renew_at=report.renew_at,
            first_contact=now if old is None else old.first_contact,
            last_contact=now,
        )
        if old is None:
            if rows.count_of_subject(connection, row.tenant, row.subject) >= _MOST_OF_ONE:
                raise Fault(
                    FaultCode.CONFLICT,
                    f"{_MOST_OF_ONE} agents keep a certificate with this subject already;"
                    " tmad agent forget removes one",
                    rule="agent.many",
                    values={"subject": row.subject[:255]},
                )
            rows.insert(connection, new)
            self._note(connection, "agent.registered", new)
            return
        if (old.subject, _lasting(old.owner)) != (row.subject, _lasting(row.owner)):
            raise Fault(
                FaultCode.CONFLICT,
                "an agent with another subject has this id",
                rule="agent.other",
                values={"id": report.id, "subject": row.subject[:255]},
            )
        rows.update(connection, new)
        if new.state != old.state:
            self._note(connection, "agent.changed", new, was=old.state)

    def _forget(self, connection: Connection, actor: Actor, tenant: str, id: str) -> None:  # noqa: A002
        row = rows.locked(connection, tenant, id)
        if row is None:
            raise _absent(id)
        rows.delete(connection, tenant, id)
        self._note(connection, "agent.forgotten", row, actor=actor.name)

    def _note(
        self, connection: Connection, kind: str, row: AgentRow, *, actor: str = "", was: str = ""
    ) -> None:
        self.journal.append(
            connection,
            Event(
                kind=kind,
                tenant=row.tenant,
                actor=actor or f"certificate:{row.certificate_id}",
                object=f"agent:{row.id}",
                data={
                    "host": row.host,
                    "label": row.label,
                    "subject": row.subject,
                    "state": row.state,
                    "error": row.error,
                    **({"was": was} if was else {}),
                },
            ),
        )


def _lasting(owner: str) -> str:
    """Return an owner that the successors of a certificate have, too.

    Who enrolled with a secret owns the next one by the certificate before it.
    """
    return owner if owner.startswith(_OWNERS) else ""


def _stranger(why: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client certificate was not issued here",
        private=why,
        rule="agent.certificate",
    )


def _absent(id: str) -> Fault:  # noqa: A002
    return Fault(FaultCode.NOT_FOUND, f"there is no agent {id!r}", rule="agent.unknown")
