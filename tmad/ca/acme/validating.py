"""Challenges on their way: handed to the validator, tried again, settled (RFC 8555, 7.5.1 and 8.2).

What is to be tried stands in the database with the time from which it is due, and a worker that
takes an attempt moves that time ahead: of one that dies with it, another takes over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.logger import Logger

from tmad.ca.acme import identifiers
from tmad.ca.acme.faults import PROBLEM, refuse_all
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
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint, Endpoints

log = Logger()

ATTEMPTS: Final = 3
AGAIN: Final = timedelta(seconds=5)
# Longer than the validator takes for the challenge and CAA, 10 s each; then another may try.
LEASE: Final = timedelta(seconds=40)
CAA_KEPT: Final = timedelta(hours=8)
AT_ONCE: Final = 10  # of one worker; security 6.3

# What another attempt would not change.
_FINAL: Final = frozenset({Problem.CAA, Problem.MALFORMED, Problem.BAD_ATTESTATION})


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
        self._running = 0

    def wake(self) -> None:
        """Look for what is due, now."""
        self._later(self.run_due())

    async def run_due(self) -> int:
        """Begin the attempts that are due, as many as there is room for; return how many."""
        begun = 0
        while (room := AT_ONCE - self._running) > 0:
            due = await self._database.read(rows.find_due, self._now(), room)
            if not due:
                break
            for each in due:
                taken = await self._database.write(self._take, each)
                if taken is not None:
                    begun += 1
                    self._running += 1
                    self._later(self._attempt(taken))
        return begun

    def _take(self, connection: Connection, due: Authorization) -> Authorization | None:
        """Count an attempt and move its time ahead; None when another worker was faster."""
        now = self._now()
        if due.expires_at <= now:
            self._end(connection, due, {"problem": "malformed", "detail": "it has expired"})
            return None
        if due.attempts >= ATTEMPTS:
            # Whoever had the last attempt did not live to tell of it.
            self._end(connection, due, {"problem": "serverInternal", "detail": "not validated"})
            return None
        taken = replace(due, attempts=due.attempts + 1, due_at=now + LEASE)
        values = {"attempts": taken.attempts, "due_at": taken.due_at}
        return taken if rows.update_authorization(connection, due, values) else None

    async def _attempt(self, taken: Authorization) -> None:
        try:
            try:
                endpoint = await self._endpoints.by_id(EndpointID.parse(taken.endpoint))
                shown = await self._ask(taken, endpoint)
            except Fault as fault:
                if fault.code is FaultCode.UNAVAILABLE:
                    raise  # of ours: the lease ends, and it is tried again
                await self._fail(taken, fault)
            else:
                options = cast("ACMEOptions", endpoint.options)
                await self._database.write(
                    self._succeed, taken, shown, options.authorization_lifetime
                )
        finally:
            self._running -= 1
        if self._running == AT_ONCE - 1:
            await self.run_due()  # there may be more than there was room for

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

    def _succeed(
        self,
        connection: Connection,
        taken: Authorization,
        shown: Validated,
        lifetime: timedelta,
    ) -> None:
        now = self._now()
        done = rows.update_authorization(
            connection,
            taken,
            {
                "state": "valid",
                "due_at": None,
                "error": None,
                "record": json.dumps(shown.record, default=str),
                "attested_key": shown.key_sha256 or None,
                "validated_at": now,
                "expires_at": now.replace(microsecond=0) + lifetime,
            },
        )
        if done:
            self._note(connection, "acme.authorization-valid", taken, dict(shown.record))

    async def _fail(self, taken: Authorization, fault: Fault) -> None:
        problem = fault.values.get(PROBLEM, Problem.SERVER_INTERNAL.value)
        error: dict[str, JSON] = {"problem": problem, "detail": fault.detail}
        is_final = taken.attempts >= ATTEMPTS or problem in _FINAL
        if not is_final:
            values = {"error": json.dumps(error), "due_at": self._now() + AGAIN}
            await self._database.write(rows.update_authorization, taken, values)
            return
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
        await self._database.write(self._end, taken, error)

    def _end(self, connection: Connection, taken: Authorization, error: Mapping[str, JSON]) -> None:
        values = {"state": "invalid", "due_at": None, "error": json.dumps(error)}
        if rows.update_authorization(connection, taken, values):
            self._note(connection, "acme.authorization-invalid", taken, error)

    def _note(
        self,
        connection: Connection,
        kind: str,
        taken: Authorization,
        said: Mapping[str, JSON],
    ) -> None:
        self._journal.append(
            connection,
            Event(
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
            ),
        )
