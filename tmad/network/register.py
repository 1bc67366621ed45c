"""How logins are written down: sessions and records of who was let in, records of who was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.journal import Journal, make_explain_id
from tmad.network import cases, reasons
from tmad.network.cases import Case
from tmad.network.flood import Flood
from tmad.network.logins import Admitted
from tmad.network.visit import Visit
from tmad.storage import network as rows
from tmad.storage.batches import Batches
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

# Logins by certificate that wait for one another in a crowd: five packets take longer than this.
# With sixteen in a transaction each takes a twentieth less CPU than with twelve, and those with
# six took a twentieth more.
_LINGER_SECONDS: Final = 0.020
_ENOUGH: Final = 16


@dataclass(slots=True)
class Entry:
    """An admitted login on its way into the database."""

    admitted: Admitted
    case: Case
    event: Event


class Register:
    """Writes each decision down.

    ``open_sessions`` adds the sessions in the transaction that journals them. ``when_unwritable``
    says what happens while nothing can be written, as on a standby: "degrade" decides all the
    same and logs, "stop" answers nobody.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        now: Clock,
        open_sessions: Callable[[Connection, Sequence[tuple[Admitted, Visit, str]]], None],
    ) -> None:
        self.when_unwritable: Literal["degrade", "stop"] = "degrade"
        self._database = database
        self._journal = journal
        self._open_sessions = open_sessions
        self._flood = Flood(now)
        self._records = Batches(database, self.write_in)
        self._certificate_records = Batches(
            database, self.write_in, linger=_LINGER_SECONDS, enough=_ENOUGH
        )

    async def record(self, admitted: Admitted, case: Case, about: Mapping[str, JSON]) -> bool:
        """Write an admitted login down; False when what it was decided on has changed."""
        degrades = self.when_unwritable == "degrade"
        event = event_of(admitted, case, about)
        if degrades and not self._database.is_writing:
            # A standby answers at once; the timers notice when it can write again.
            return await self._only_log(case, event, self._database.why_not_writing)
        try:
            records = self._records if case.facts is None else self._certificate_records
            return await records.add(Entry(admitted, case, event))
        except Fault as fault:
            if fault.code is not FaultCode.UNAVAILABLE or not degrades:
                raise
            return await self._only_log(case, event, str(fault))

    async def _only_log(self, case: Case, event: Event, trouble: str) -> bool:
        """Let in whom no transaction has looked at; False when there is something against it."""
        if case.is_remembered and case.facts is not None:
            tenant, sha256 = case.question.visit.tenant, case.facts.sha256
            if await self._database.lookup(rows.by_sha256, tenant, sha256) != case.standing:
                return False
        _log_event(event, trouble)
        return True

    def write_in(self, connection: Connection, entries: Sequence[Entry]) -> list[bool]:
        """Write admitted logins down; tell of each whether what it was decided on still holds."""
        digests = [entry.case.facts.sha256 for entry in entries if entry.case.facts]
        standings = rows.standings(connection, digests)
        # Revoked between the question and now: a session that began after the revocation is
        # one that nobody would end.
        outcomes = [entry.case.holds(standings) for entry in entries]
        admitted = [entry for entry, holds in zip(entries, outcomes, strict=True) if holds]
        self._open_sessions(
            connection,
            [
                (entry.admitted, entry.case.question.visit, entry.case.question.method)
                for entry in admitted
            ],
        )
        self._journal.append(connection, *[entry.event for entry in admitted])
        return outcomes

    async def _write_or_log(self, event: Event, fault: Fault) -> None:
        """Journal a refusal; a refusal that cannot be journaled is one all the same."""
        if not self._database.is_writing:
            fault.explain_id = ""
            _log_event(event, self._database.why_not_writing)
            return
        try:
            await self._journal.write(event)
        except Fault as trouble:
            fault.explain_id = ""
            _log_event(event, str(trouble))

    async def refuse(
        self,
        visit: Visit,
        fault: Fault,
        *,
        method: str,
        data: Mapping[str, JSON] = MappingProxyType({}),
    ) -> str:
        """Journal a refusal, once; set and return the id by which it can be explained.

        A station that is refused again and again shares the last id after a while, and how
        often is written down with the next one. The id is empty when nothing can be written.
        """
        if fault.explain_id or fault.code is FaultCode.UNAVAILABLE:
            return fault.explain_id
        key = (visit.tenant, visit.client, visit.calling_station)
        left_out = self._flood.admit(key)
        if left_out is None:
            fault.explain_id = self._flood.last(key)
            return fault.explain_id
        reason, advice = reasons.describe(fault)
        fault.explain_id = make_explain_id()
        self._flood.note(key, fault.explain_id)
        event = Event(
            kind="network.refused",
            tenant=visit.tenant,
            actor=f"radius/{visit.client}",
            object=visit.calling_station,
            trace=fault.explain_id,
            data={
                **cases.visit_data(visit, method),
                **data,
                "reason": reason,
                "detail": fault.detail,
                "rule": fault.rule,
                "values": dict(fault.values),
                "advice": advice,
                "repeated": left_out,
            },
        )
        await self._write_or_log(event, fault)
        return fault.explain_id


def event_of(admitted: Admitted, case: Case, about: Mapping[str, JSON]) -> Event:
    """Return what the journal tells of a login that was let in."""
    question = case.question
    return Event(
        kind="network.admitted",
        tenant=question.visit.tenant,
        actor=f"radius/{question.visit.client}",
        object=admitted.session,
        data={
            **cases.visit_data(question.visit, question.method),
            **about,
            **(case.facts.data if case.facts else {}),
            "authority": question.authority,
            "anchor": question.anchor,
            "profile": question.profile,
            "user_name": admitted.user_name,
            "person": admitted.person,
            "device": admitted.device,
            "policy": admitted.policy,
            "rule": admitted.rule,
            "attributes": [[name, value] for name, value in admitted.attributes],
            "session_timeout": admitted.session_timeout,
            "monitored": list(admitted.monitored),
        },
    )


def _log_event(event: Event, trouble: str) -> None:
    log.error(
        "{kind} could not be journaled: {trouble}; {data}",
        kind=event.kind,
        trouble=trouble,
        data=dict(event.data),
    )
