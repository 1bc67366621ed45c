"""Challenges on their way: handed to the validator, tried again, settled (RFC 8555, 7.5.1 and 8.2).

What is to be tried stands in the database with the time from which it is due, and a worker that
takes an attempt moves that time ahead: of one that dies with it, another takes over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from twisted.logger import Logger

from tmad.ca.acme import identifiers
from tmad.ca.acme.faults import PROBLEM, absent, refuse_all, unchangeable
from tmad.ca.acme.options import ACMEOptions
from tmad.ca.requests import EndpointID
from tmad.ca.validation.contract import (
    ChallengeKind,
    Identifier,
    Problem,
    Question,
    Validated,
    Validator,
)
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.journal import Journal
from tmad.storage import acme as rows
from tmad.storage.acme import Authorization, OrderRow
from tmad.storage.batches import Batches
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint, Endpoints

log = Logger()

ATTEMPTS: Final = 3
AGAIN: Final = timedelta(seconds=5)
# Longer than the validator takes for the challenge and CAA, 10 s each; then another may try.
LEASE: Final = timedelta(seconds=30)
CAA_KEPT: Final = timedelta(hours=8)
AT_ONCE: Final = 10  # of one worker; security 6.3

# What another attempt would not change.
_FINAL: Final = frozenset({Problem.CAA, Problem.MALFORMED, Problem.BAD_ATTESTATION})


class _Change(NamedTuple):
    """New values of one authorisation, and what the journal says of it."""

    old: Authorization
    values: Mapping[str, object]
    event: Event | None = None


class Validations:
    """Has the challenges tried that are due.

    ``later`` runs a coroutine that nobody waits for. ``account_url`` names an account of an
    endpoint as clients know it (RFC 8657, 3).
    """

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        endpoints: Endpoints,
        validator: Validator,
        now: Clock,
        later: Callable[[Coroutine[Any, Any, object]], object],
        account_url: Callable[[str, str], str],
    ) -> None:
        self._database = database
        self._journal = journal
        self._endpoints = endpoints
        self._validator = validator
        self._now = now
        self._later = later
        self._account_url = account_url
        self._changes: Batches[_Change, bool] = Batches(database, self._write)
        self._running = 0  # attempts under way, and those that are just being written down
        self._is_looking = False
        self._is_more = False  # something may be due that nobody has looked for

    async def begin(self, found: Authorization, kind: str, payload: bytes) -> Authorization:
        """Note that a client is ready for a challenge, and try it (RFC 8555, 7.5.1).

        Whoever asks for the same challenge again changes nothing.
        """
        if kind not in found.challenges:
            raise absent("challenge")
        if found.state != "pending":
            if found.challenge == kind:
                return found
            raise unchangeable(found.id, found.state)
        begun = replace(
            found, state="processing", challenge=kind, response=payload, due_at=self._now()
        )
        has_room = self._running < AT_ONCE
        if has_room:
            begun = self._leased(begun)
        values = {
            name: getattr(begun, name)
            for name in ("state", "challenge", "response", "attempts", "due_at")
        }
        self._running += has_room
        is_begun = False
        try:
            is_begun = await self._changes.add(_Change(found, values))
        finally:
            if not is_begun:
                self._running -= has_room
        if not is_begun:
            raise unchangeable(found.id, found.state)
        self._is_more |= not has_room
        self._later(self._attempt(begun) if has_room else self.run_due())
        return begun

    async def run_due(self) -> int:
        """Begin the attempts that are due, as many as there is room for; return how many."""
        if self._is_looking:
            # Two who look at the same time would find the same ones, and one of them in vain.
            self._is_more = True
            return 0
        self._is_looking = True
        begun = 0
        try:
            while (room := AT_ONCE - self._running) > 0:
                self._is_more = False
                due = await self._database.read(rows.find_due, self._now(), room)
                begun += await self._take(due)
                self._is_more |= len(due) == room
                if not self._is_more:
                    break
        finally:
            self._is_looking = False
        return begun

    async def _take(self, due: Sequence[Authorization]) -> int:
        """Begin those of these attempts that no other worker has begun; return how many."""
        if not due:
            return 0
        ended = [self._overdue(each) for each in due]
        taken = [self._leased(each) for each in due]
        changes = [
            end or _Change(old, {"attempts": new.attempts, "due_at": new.due_at})
            for old, new, end in zip(due, taken, ended, strict=True)
        ]
        self._running += len(due)
        ours: list[Authorization] = []
        try:
            done = await self._database.write(self._write, changes)
            ours = [
                new
                for new, end, is_done in zip(taken, ended, done, strict=True)
                if is_done and end is None
            ]
        finally:
            self._running -= len(due) - len(ours)
        for each in ours:
            self._later(self._attempt(each))
        return len(ours)

    def _leased(self, due: Authorization) -> Authorization:
        """Return what stands there while an attempt is made."""
        return replace(due, attempts=due.attempts + 1, due_at=self._now() + LEASE)

    def _overdue(self, due: Authorization) -> _Change | None:
        """Return the end of what is not to be tried any more."""
        if due.expires_at <= self._now():
            return self._end(due, {"problem": "malformed", "detail": "it has expired"})
        if due.attempts >= ATTEMPTS:
            # Whoever had the last attempt did not live to tell of it.
            return self._end(due, {"problem": "serverInternal", "detail": "not validated"})
        return None

    async def _attempt(self, taken: Authorization) -> None:
        try:
            try:
                endpoint = await self._endpoints.by_id(EndpointID.parse(taken.endpoint))
                shown = await self._ask(taken, endpoint)
            except Fault as fault:
                if fault.code is FaultCode.UNAVAILABLE:
                    raise  # of ours: the lease ends, and it is tried again
                change = await self._failure(taken, fault)
            else:
                options = cast("ACMEOptions", endpoint.options)
                change = self._success(taken, shown, options.authorization_lifetime)
            await self._changes.add(change)
        finally:
            self._running -= 1
        if self._is_more:
            await self.run_due()

    async def check_again(self, endpoint: Endpoint, order: OrderRow) -> None:
        """Refuse an order for a name whose CAA records have changed since it was shown.

        RFC 8659, 3: they are looked at when a certificate is made; 8 hours old is new enough.
        """
        options = cast("ACMEOptions", endpoint.options)
        if not options.validation.caa_identities or options.mode != "validate":
            return
        before = self._now() - CAA_KEPT
        found = await self._database.read(rows.authorizations_of_order, order)
        failed = []
        for each in found:
            if each is None or each.validated_at is None or each.validated_at >= before:
                continue
            try:
                await self._validator.check_caa(await self._question(each, endpoint))
            except Fault as fault:
                name = (each.type, identifiers.join(each.value, each.is_wildcard))
                failed.append((name, fault))
        refuse_all(failed, of=len(found))

    async def _ask(self, taken: Authorization, endpoint: Endpoint) -> Validated:
        return await self._validator.validate(await self._question(taken, endpoint))

    async def _question(self, taken: Authorization, endpoint: Endpoint) -> Question:
        account = await self._database.lookup(rows.account_by_id, taken.endpoint, taken.account)
        if account is None or account.state != "valid" or taken.challenge is None:
            raise Fault(
                FaultCode.REJECTED,
                "the account is closed",
                rule="acme.account.state",
                values={PROBLEM: "unauthorized", "account": taken.account},
            )
        thumbprint = base64.urlsafe_b64encode(account.thumbprint).rstrip(b"=").decode()
        return Question(
            kind=ChallengeKind(taken.challenge),
            identifier=Identifier(taken.type, taken.value),
            token=taken.token,
            key_authorization=f"{taken.token}.{thumbprint}",
            account_url=self._account_url(taken.endpoint, account.id),
            is_wildcard=taken.is_wildcard,
            payload=taken.response or b"{}",
            rules=cast("ACMEOptions", endpoint.options).validation,
        )

    def _success(self, taken: Authorization, shown: Validated, lifetime: timedelta) -> _Change:
        now = self._now()
        values = {
            "state": "valid",
            "due_at": None,
            "error": None,
            "record": json.dumps(shown.record, default=str),
            "attested_key": shown.key_sha256 or None,
            "validated_at": now,
            "expires_at": now.replace(microsecond=0) + lifetime,
        }
        event = _event("acme.authorization-valid", taken, shown.record)
        return _Change(taken, values, event)

    async def _failure(self, taken: Authorization, fault: Fault) -> _Change:
        problem = fault.values.get(PROBLEM, Problem.SERVER_INTERNAL.value)
        error: dict[str, JSON] = {"problem": problem, "detail": fault.detail}
        is_final = taken.attempts >= ATTEMPTS or problem in _FINAL
        if not is_final:
            return _Change(taken, {"error": json.dumps(error), "due_at": self._now() + AGAIN})
        await self._journal.refuse(
            fault,
            tenant=taken.tenant,
            actor=taken.endpoint,
            object=f"acme-authorization/{taken.id}",
            data={
                "via": "acme",
                "account": taken.account,
                "name": f"{taken.type}:{taken.value}",
                "challenge": taken.challenge,
                "attempts": taken.attempts,
            },
        )
        if fault.explain_id:
            error["detail"] = f"{fault.detail} [{fault.explain_id}]"
        return self._end(taken, error)

    @staticmethod
    def _end(taken: Authorization, error: Mapping[str, JSON]) -> _Change:
        values = {"state": "invalid", "due_at": None, "error": json.dumps(error)}
        return _Change(taken, values, _event("acme.authorization-invalid", taken, error))

    def _write(self, connection: Connection, changes: Sequence[_Change]) -> list[bool]:
        """Make changes that nothing has overtaken; tell for each whether it was made."""
        done = rows.update_authorizations(connection, [(each.old, each.values) for each in changes])
        made = zip(changes, done, strict=True)
        told = [each.event for each, is_done in made if is_done and each.event is not None]
        self._journal.append(connection, *told)
        return done


def _event(kind: str, taken: Authorization, said: Mapping[str, JSON]) -> Event:
    return Event(
        kind=kind,
        tenant=taken.tenant,
        actor=taken.endpoint,
        object=f"acme-authorization/{taken.id}",
        data={
            "account": taken.account,
            "name": f"{taken.type}:{'*.' if taken.is_wildcard else ''}{taken.value}",
            "challenge": taken.challenge,
            "said": json.loads(json.dumps(said, default=str)),
        },
    )
