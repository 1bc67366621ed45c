"""ACME's part of the core, and what people may do with accounts and orders."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tmad.ca.acme import states
from tmad.ca.acme.accounts import Accounts
from tmad.ca.acme.faults import absent
from tmad.ca.acme.nonces import Nonces
from tmad.ca.acme.orders import Orders
from tmad.ca.acme.periods import Periods
from tmad.ca.acme.renewal import Renewals
from tmad.ca.acme.revoking import Revoking
from tmad.ca.acme.states import Order
from tmad.ca.acme.validating import Validations
from tmad.ca.revocation import Revocation
from tmad.ca.status import StatusSource
from tmad.ca.validation.contract import Validator
from tmad.events import Clock
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.managed.objects import Objects
from tmad.signer.seal import Seal
from tmad.storage import acme as rows
from tmad.storage.acme import Account
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoints
    from tmad.ca.hierarchy import Hierarchy


class ACME:
    """The accounts, orders and nonces of one database.

    ``base_url`` is where clients reach the HTTPS listener, without a slash at the end.
    """

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        endpoints: Endpoints,
        objects: Objects,
        hierarchy: Hierarchy,
        status: StatusSource,
        revocation: Revocation,
        secrets: EnrollSecrets,
        seal: Seal,
        validator: Validator,
        now: Clock,
        later: Callable[[Coroutine[Any, Any, object]], object],
        base_url: str,
    ) -> None:
        self.journal = journal
        self.base_url = base_url
        self._database = database
        self._now = now
        self.nonces = Nonces(database, seal, now)
        self.accounts = Accounts(database, journal, secrets, now)
        self.renewals = Renewals(database, hierarchy, status, objects, now)
        periods = Periods(hierarchy, objects, now)
        self.orders = Orders(database, journal, self.renewals, periods, now)
        self.revoking = Revoking(database, journal, revocation, now)
        self.validations = Validations(
            database=database,
            journal=journal,
            endpoints=endpoints,
            validator=validator,
            now=now,
            later=later,
            account_url=self.account_url,
        )

    def account_url(self, endpoint: str, account_id: str) -> str:
        """Return what clients call an account of "acme/LABEL"."""
        return f"{self.base_url}/{endpoint}/account/{account_id}"

    async def forget(self) -> int:
        """Forget nonces and orders that nobody can use any more; return how many."""
        return await self.nonces.forget() + await self.orders.forget()

    # -- for people ---------------------------------------------------------------------------

    @guarded("acme.read")
    async def list_accounts(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> tuple[Account, ...]:
        """Return a page of a tenant's accounts, oldest first."""
        return await self._database.read(rows.find_accounts, tenant, endpoint, after, limit)

    @guarded("acme.read")
    async def show_account(self, actor: Actor, tenant: str, account_id: str) -> Account:
        """Return one account; Fault(NOT_FOUND)."""
        found = await self._database.read(rows.account_of_tenant, tenant, account_id)
        if found is None:
            raise absent("account")
        return found

    @guarded("acme.write")
    async def deactivate_account(
        self, actor: Actor, tenant: str, account_id: str, *, dry_run: bool = False
    ) -> bool:
        """Close an account for good; tell whether it was open. Fault(NOT_FOUND)."""
        return await self._database.write(
            self.accounts.deactivate_in, tenant, account_id, actor.name, dry_run=dry_run
        )

    @guarded("acme.read")
    async def list_orders(
        self,
        actor: Actor,
        tenant: str,
        account: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> tuple[Order, ...]:
        """Return a page of a tenant's orders as they are now, oldest first."""
        return await self._database.read(self._find_orders, tenant, account, after, limit)

    def _find_orders(
        self, connection: Connection, tenant: str, account: str | None, after: str, limit: int
    ) -> tuple[Order, ...]:
        now = self._now()
        found = rows.find_orders(connection, tenant, account, after, limit)
        return tuple([states.look_up(connection, row, now) for row in found])

    @guarded("acme.read")
    async def show_order(
        self, actor: Actor, tenant: str, order_id: str
    ) -> tuple[Order, tuple[rows.Authorization, ...]]:
        """Return one order with its authorisations as they are now; Fault(NOT_FOUND)."""
        found = await self._database.read(self._show_order, tenant, order_id)
        if found is None:
            raise absent("order")
        return found

    def _show_order(
        self, connection: Connection, tenant: str, order_id: str
    ) -> tuple[Order, tuple[rows.Authorization, ...]] | None:
        row = rows.order_of_tenant(connection, tenant, order_id)
        if row is None:
            return None
        now = self._now()
        found = rows.authorizations_of_order(connection, row)
        return states.look_up(connection, row, now), tuple(
            [states.as_now(each, now) for each in found if each is not None]
        )
