"""ACME orders and authorisations: asked for, looked at, given up (RFC 8555, 7.1.3, 7.4, 7.5)."""

from __future__ import annotations

import base64
import json
import secrets as randomness
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from tmad.ca.acme import identifiers, states
from tmad.ca.acme.control import Standing, ends_of, profile_of
from tmad.ca.acme.faults import absent, deny, for_each, unchangeable
from tmad.ca.acme.options import ACMEOptions
from tmad.ca.acme.periods import Periods
from tmad.ca.acme.renewal import Renewals
from tmad.ca.acme.states import Order
from tmad.ca.validation.contract import ChallengeKind, Identifier
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.credentials import new_id
from tmad.journal import Journal
from tmad.storage import acme as rows
from tmad.storage import certificates
from tmad.storage.acme import Authorization, OrderRow
from tmad.storage.batches import Batches
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint

PAGE: Final = 50  # orders of one list
_HOUR: Final = timedelta(hours=1)
_ORDER_WINDOW: Final = timedelta(hours=3)
_LOOKED_AT: Final = 20  # authorisations of one account for one name
# One that ends before the client can have made its request is not worth offering.
_WORTH: Final = timedelta(minutes=10)
_LEFT_OVER: Final = timedelta(days=30)
_BATCH: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """What a client asks for; ``identifiers`` are (type, value) as they came."""

    identifiers: tuple[tuple[str, str], ...]
    profile: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    replaces: str = ""


class _Wanted(NamedTuple):
    """An order that is to be written down, for whom, and by which rules."""

    order: OrderRow
    standing: Standing
    options: ACMEOptions


class Orders:
    """The orders and authorisations of every account."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        renewals: Renewals,
        periods: Periods,
        now: Clock,
    ) -> None:
        self._database = database
        self._journal = journal
        self._renewals = renewals
        self._periods = periods
        self._now = now
        self._new: Batches[_Wanted, Order | Fault] = Batches(database, self._insert)

    # -- orders -------------------------------------------------------------------------------

    async def create(self, endpoint: Endpoint, standing: Standing, new: NewOrder) -> Order:
        """Write an order down, with an authorisation for each of its identifiers."""
        options = cast("ACMEOptions", endpoint.options)
        wanted = _unique(new.identifiers)
        chosen = new.profile or options.default_profile
        profile = profile_of(endpoint, chosen)
        standing.check(wanted, profile)
        if new.replaces:
            await self._renewals.check_replaces(endpoint, standing.account, new.replaces, wanted)
        now = self._now()
        order = OrderRow(
            id=new_id(now),
            endpoint=str(endpoint.id),
            tenant=endpoint.tenant,
            account=standing.account.id,
            identifiers=tuple((each.type, each.value) for each in wanted),
            authorizations=(),
            profile=chosen,
            not_before=new.not_before,
            not_after=new.not_after,
            replaces=new.replaces or None,
            expires_at=(now + options.order_lifetime).replace(microsecond=0),
            created_at=now,
        )
        ends = ends_of(order)
        if ends is not None:
            # RFC 8555, 7.4: what cannot be granted exactly is refused.
            await self._periods.check(endpoint, profile, ends)
        outcome = await self._new.add(_Wanted(order, standing, options))
        if isinstance(outcome, Fault):
            raise outcome
        return outcome

    def _insert(self, connection: Connection, wanted: Sequence[_Wanted]) -> list[Order | Fault]:
        """Refuse, for each by itself, what cannot be had; then write the others down."""
        ahead: Counter[str] = Counter()  # orders of an account that stand before in this list
        made: list[Authorization] = []
        outcomes: list[Order | Fault] = []
        rows.hold_accounts(connection, {each.order.account for each in wanted})
        for each in wanted:
            try:
                done, new = self._prepare(connection, each, ahead[each.order.account])
            except Fault as fault:
                outcomes.append(fault)
            else:
                outcomes.append(done)
                made += new
                ahead[each.order.account] += 1
        orders = [each.row for each in outcomes if isinstance(each, Order)]
        rows.insert_authorizations(connection, made)
        rows.insert_orders(connection, orders)
        self._journal.append(connection, *map(_created, orders))
        return outcomes

    def _prepare(
        self, connection: Connection, wanted: _Wanted, ahead: int
    ) -> tuple[Order, list[Authorization]]:
        """Return an order and those of its authorisations that are new."""
        order, standing, options = wanted
        now = order.created_at
        self._check_rate(connection, order.account, options.new_orders_per_3_hours, now, ahead)
        if order.replaces and rows.is_replaced(connection, order.tenant, order.replaces):
            raise deny(
                FaultCode.CONFLICT,
                "alreadyReplaced",
                "another order has replaced this certificate already",
                "acme.order.replaced",
                replaces=order.replaces,
            )
        made: list[Authorization] = []

        def authorization(name: tuple[str, str]) -> Authorization:
            wanted = Identifier(*name)
            known = self._reusable(connection, order.account, wanted, options, now)
            if known is None:
                known = self._authorization(wanted, order, standing, options)
                made.append(known)
            return known

        found = for_each(order.identifiers, authorization)
        order = replace(
            order,
            authorizations=tuple(each.id for each in found),
            # RFC 8555, 7.1.3: an order lasts no longer than what it stands on.
            expires_at=min([order.expires_at, *(each.expires_at for each in found)]),
        )
        return states.judge(order, found, None, now), made

    def _check_rate(
        self, connection: Connection, account: str, limit: int, now: datetime, ahead: int
    ) -> None:
        if not limit:
            return
        # Ids begin with the time.
        since = new_id(now - _ORDER_WINDOW)[:10]
        used = ahead + rows.count_orders(connection, account, since, limit)
        if used >= limit:
            raise _limited("orders", limit, _ORDER_WINDOW, account=account)

    def _reusable(
        self,
        connection: Connection,
        account: str,
        wanted: Identifier,
        options: ACMEOptions,
        now: datetime,
    ) -> Authorization | None:
        """Return a good authorisation that the account has; Fault after too many failures."""
        bare, is_wildcard = identifiers.split(wanted)
        failures = 0
        for each in rows.find_authorizations(connection, account, *bare, _LOOKED_AT):
            if (
                each.state == "valid"
                and each.is_wildcard == is_wildcard
                and each.expires_at > now + _WORTH
                # A device attests one key, for one certificate.
                and each.attested_key is None
            ):
                return each
            failures += each.state == "invalid" and each.created_at > now - _HOUR
        limit = options.failed_validations_per_hour
        if limit and failures >= limit:
            raise _limited("validations", limit, _HOUR, account=account, name=bare.value)
        return None

    def _authorization(
        self,
        wanted: Identifier,
        order: OrderRow,
        standing: Standing,
        options: ACMEOptions,
    ) -> Authorization:
        bare, is_wildcard = identifiers.split(wanted)
        kinds = options.kinds(bare.type, is_wildcard=is_wildcard)
        now = order.created_at
        fresh = Authorization(
            id=new_id(now),
            endpoint=order.endpoint,
            tenant=order.tenant,
            account=order.account,
            state="pending",
            type=bare.type,
            value=bare.value,
            is_wildcard=is_wildcard,
            challenges=tuple(each.value for each in kinds),
            token=base64.urlsafe_b64encode(randomness.token_bytes(24)).decode(),
            expires_at=order.expires_at,
            created_at=now,
        )
        if options.mode == "eab-preauthorized" and standing.binding.names_of(bare.type):
            # ACME-47. The binding covers it, or the order would have been refused. Clients
            # stumble over an authorisation without any challenge.
            shown = ChallengeKind.DNS_01 if is_wildcard else ChallengeKind.HTTP_01
            return replace(
                fresh,
                state="valid",
                challenges=(shown.value,),
                challenge=shown.value,
                validated_at=now,
                record=json.dumps({"by": "external account binding"}),
                expires_at=now.replace(microsecond=0) + options.authorization_lifetime,
            )
        if not kinds:
            raise deny(
                FaultCode.REJECTED,
                "rejectedIdentifier",
                "no challenge of this endpoint can show control of this",
                "acme.identifier.challenges",
                identifier=f"{wanted.type}:{wanted.value}",
                offered=", ".join(options.challenges),
            )
        return fresh

    async def find(self, endpoint: Endpoint, account_id: str, order_id: str) -> Order:
        """Return an order of an account as it is now; Fault(NOT_FOUND) for anything else."""
        found = await self._database.lookup(
            states.find, str(endpoint.id), account_id, order_id, self._now()
        )
        if found is None:
            raise absent("order")
        return found

    async def certificate(self, order: Order) -> tuple[bytes, int]:
        """Return the DER of what was issued for an order, and its issuer's id."""
        row = await self._database.lookup(
            certificates.by_id, order.row.tenant, order.certificate_id or 0
        )
        if row is None or row.certificate_der is None:
            raise absent("certificate")
        return row.certificate_der, row.issuer_id

    async def of_account(self, account_id: str, before: str) -> tuple[OrderRow, ...]:
        """Return a page of an account's orders, newest first; "" begins."""
        return await self._database.read(
            rows.orders_of_account, account_id, before or "~", PAGE + 1
        )

    # -- authorisations -----------------------------------------------------------------------

    async def authorization(
        self, endpoint: Endpoint, account_id: str, authorization_id: str
    ) -> Authorization:
        """Return one of an account's authorisations, its state as it is now."""
        found = await self._database.lookup(
            rows.authorization_by_id, str(endpoint.id), account_id, authorization_id
        )
        if found is None:
            raise absent("authorization")
        return states.as_now(found, self._now())

    async def preauthorize(
        self, endpoint: Endpoint, standing: Standing, kind: str, value: str
    ) -> Authorization:
        """Let an account show control before it orders (RFC 8555, 7.4.1)."""
        options = cast("ACMEOptions", endpoint.options)
        wanted = identifiers.parse(kind, value)
        if identifiers.split(wanted)[1]:
            # RFC 8555, 7.4.1: not for wildcards.
            raise deny(
                FaultCode.MALFORMED,
                "malformed",
                "a wildcard cannot be authorised before it is ordered",
                "acme.identifier.value",
                value=value,
            )
        standing.check((wanted,), profile_of(endpoint, options.default_profile))
        now = self._now()
        asked = OrderRow(
            id="",
            endpoint=str(endpoint.id),
            tenant=endpoint.tenant,
            account=standing.account.id,
            identifiers=((wanted.type, wanted.value),),
            authorizations=(),
            profile="",
            expires_at=(now + options.order_lifetime).replace(microsecond=0),
            created_at=now,
        )
        return await self._database.write(self._preauthorize, asked, standing, options)

    def _preauthorize(
        self,
        connection: Connection,
        asked: OrderRow,
        standing: Standing,
        options: ACMEOptions,
    ) -> Authorization:
        now = asked.created_at
        wanted = Identifier(*asked.identifiers[0])
        self._check_pending(connection, asked.account, wanted, options, now)
        found = self._reusable(connection, asked.account, wanted, options, now)
        if found is None:
            found = self._authorization(wanted, asked, standing, options)
            rows.insert_authorizations(connection, (found,))
        return found

    def _check_pending(
        self,
        connection: Connection,
        account: str,
        wanted: Identifier,
        options: ACMEOptions,
        now: datetime,
    ) -> None:
        """Bound what an account can leave lying about without an order."""
        recent = [
            each
            for each in rows.find_authorizations(connection, account, *wanted, _LOOKED_AT)
            if each.state == "pending" and each.created_at > now - _HOUR
        ]
        if options.new_orders_per_3_hours and len(recent) >= _LOOKED_AT:
            raise _limited("orders", _LOOKED_AT, _HOUR, account=account)

    async def deactivate(self, found: Authorization) -> Authorization:
        """Give an authorisation up (RFC 8555, 7.5.2)."""
        if found.state not in ("pending", "processing", "valid"):
            raise unchangeable(found.id, found.state)
        await self._database.write(self._deactivate, found)
        return replace(found, state="deactivated")

    def _deactivate(self, connection: Connection, found: Authorization) -> None:
        values = {"state": "deactivated", "due_at": None}
        if not rows.update_authorization(connection, found, values):
            raise unchangeable(found.id, found.state)
        self._journal.append(
            connection,
            Event(
                kind="acme.authorization-deactivated",
                tenant=found.tenant,
                actor=found.endpoint,
                object=f"acme-authorization/{found.id}",
                data={"account": found.account, "name": f"{found.type}:{found.value}"},
            ),
        )

    # -- housekeeping -------------------------------------------------------------------------

    async def forget(self) -> int:
        """Delete what has been over for a month and came to nothing; return how much."""
        before = self._now() - _LEFT_OVER
        total = 0
        for forget in (rows.forget_orders, rows.forget_authorizations):
            while gone := await self._database.write(forget, before, _BATCH):
                total += gone
        return total


def _created(order: OrderRow) -> Event:
    return Event(
        kind="acme.order-created",
        tenant=order.tenant,
        actor=order.endpoint,
        object=f"acme-order/{order.id}",
        data={
            "account": order.account,
            "names": [f"{kind}:{value}" for kind, value in order.identifiers],
            "profile": order.profile,
            "replaces": order.replaces or "",
        },
    )


def _unique(asked: tuple[tuple[str, str], ...]) -> tuple[Identifier, ...]:
    """Return the identifiers of an order, each once, sorted; Fault for one that is none."""
    if not 1 <= len(asked) <= identifiers.MOST:
        raise deny(
            FaultCode.MALFORMED,
            "malformed",
            f"an order has 1 to {identifiers.MOST} identifiers",
            "acme.order.size",
            identifiers=str(len(asked)),
        )
    return tuple(sorted(set(for_each(asked, lambda each: identifiers.parse(*each)))))


def _limited(what: str, limit: int, window: timedelta, **values: str) -> Fault:
    fault = deny(
        FaultCode.RATE_LIMITED,
        "rateLimited",
        f"too many {what} in {window}",
        "acme.limit",
        what=what,
        limit=str(limit),
        **values,
    )
    fault.retry_after = window.total_seconds() / 4
    return fault
