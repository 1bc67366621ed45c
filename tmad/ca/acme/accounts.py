"""ACME accounts: made, bound to somebody, changed and closed (RFC 8555, 7.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

from tmad.ca.acme import control
from tmad.ca.acme.control import Standing
from tmad.ca.acme.faults import absent, deny
from tmad.ca.acme.options import ACMEOptions
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event, Secret
from tmad.identity.credentials import EnrollSecrets, new_id
from tmad.journal import Journal
from tmad.storage import acme as rows
from tmad.storage.acme import Account
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import EnrollSecret

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKey:
    """The key of an account: its SubjectPublicKeyInfo and RFC 7638's thumbprint."""

    spki_der: bytes
    thumbprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalBinding:
    """A client's word that somebody gave it an enrolment secret (RFC 8555, 7.3.4).

    ``reference`` is the id of the secret; ``verify`` tells whether the MAC was made with it.
    ``text`` is the whole JWS, kept for whoever asks later.
    """

    reference: str
    verify: Callable[[Secret], bool]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """What a client wants an account to be."""

    key: AccountKey
    contacts: tuple[str, ...]
    agrees: bool
    only_existing: bool
    binding: ExternalBinding | None
    peer: str


class Accounts:
    """The accounts of every endpoint."""

    def __init__(
        self, database: Database, journal: Journal, secrets: EnrollSecrets, now: Clock
    ) -> None:
        self._database = database
        self._journal = journal
        self._secrets = secrets
        self._now = now

    async def of_key(self, endpoint: Endpoint, thumbprint: bytes) -> Account | None:
        """Return the account with this key, in whatever state."""
        return await self._database.lookup(rows.account_by_key, str(endpoint.id), thumbprint)

    async def find(self, endpoint: Endpoint, account_id: str) -> Account:
        """Return an account, in whatever state: its key is still needed to hear it."""
        account = await self._database.lookup(rows.account_by_id, str(endpoint.id), account_id)
        if account is None:
            raise deny(
                FaultCode.UNAUTHENTICATED,
                "accountDoesNotExist",
                "there is no such account",
                "acme.account.absent",
                account=account_id[:40],
            )
        return account

    async def stand(self, account: Account) -> Standing:
        """Return what stands behind an account; Fault(UNAUTHENTICATED) where it may not act."""
        return await self._database.lookup(control.standing_of, account, self._now())

    async def register(self, endpoint: Endpoint, new: NewAccount) -> tuple[Account, bool]:
        """Return the account with a key, and whether it was made now (RFC 8555, 7.3)."""
        found = await self.of_key(endpoint, new.key.thumbprint)
        if found is not None:
            await self.stand(found)
            return found, False
        if new.only_existing:
            raise deny(
                FaultCode.REJECTED,
                "accountDoesNotExist",
                "there is no account with this key",
                "acme.account.absent",
            )
        options = cast("ACMEOptions", endpoint.options)
        if options.terms_of_service and not new.agrees:
            raise deny(
                FaultCode.FORBIDDEN,
                "userActionRequired",
                "the terms of service must be agreed to",
                "acme.account.terms",
                terms=options.terms_of_service,
            )
        secret = await self._bound_by(endpoint, options, new)
        now = self._now()
        account = Account(
            id=new_id(now),
            endpoint=str(endpoint.id),
            tenant=endpoint.tenant,
            state="valid",
            thumbprint=new.key.thumbprint,
            key=new.key.spki_der,
            contacts=json.dumps(new.contacts),
            secret_id=None if secret is None else secret.id,
            binding=None if new.binding is None or secret is None else new.binding.text,
            agreed_at=now if options.terms_of_service else None,
            peer=new.peer,
            created_at=now,
            updated_at=now,
        )
        try:
            await self._database.write(self._insert, account, options.new_accounts_per_hour)
        except Fault as fault:
            if fault.rule != "acme.account.key-in-use":
                raise
            # The same message at two workers: it is one account.
            found = await self.of_key(endpoint, new.key.thumbprint)
            if found is None:
                raise
            return found, False
        return account, True

    async def _bound_by(
        self, endpoint: Endpoint, options: ACMEOptions, new: NewAccount
    ) -> EnrollSecret | None:
        """Return the enrolment secret that a client has shown to know."""
        if new.binding is None:
            if options.needs_binding:
                raise deny(
                    FaultCode.FORBIDDEN,
                    "externalAccountRequired",
                    "an account needs an external account binding here",
                    "acme.binding.required",
                )
            return None
        door, policy = str(endpoint.id), endpoint.document.challenge
        self._secrets.admit(door, new.peer, policy)
        try:
            found = await self._database.lookup(
                self._secrets.shared, endpoint.tenant, door, new.binding.reference
            )
            # An unknown reference takes as long as a wrong secret.
            secret = Secret(bytes(32)) if found is None else found[1]
            if not new.binding.verify(secret) or found is None:
                raise _unbound("secret.wrong", new.binding.reference)
            try:
                self._secrets.check_usable(found[0])
            except Fault as fault:
                raise _unbound(fault.rule, found[0].id) from fault
        except Fault as fault:
            if fault.code is FaultCode.FORBIDDEN:
                await self._secrets.note_failure(door, endpoint.tenant, new.peer, policy)
            raise
        return found[0]

    def _insert(self, connection: Connection, account: Account, per_hour: int) -> None:
        now = account.created_at
        if per_hour:
            rows.hold_peer(connection, account.endpoint, account.peer)
            made = rows.count_accounts(
                connection, account.endpoint, account.peer, now - _HOUR, per_hour
            )
            if made >= per_hour:
                fault = deny(
                    FaultCode.RATE_LIMITED,
                    "rateLimited",
                    "too many accounts were made from this address",
                    "acme.limit",
                    limit=str(per_hour),
                    peer=account.peer,
                )
                fault.retry_after = _HOUR.total_seconds()
                raise fault
        rows.insert_account(connection, account)
        if account.secret_id is not None:
            try:
                self._secrets.claim(connection, [(account.secret_id, account.id)], now)
                self._secrets.consume(connection, [(account.secret_id, account.id)], now)
            except Fault as fault:
                raise _unbound(fault.rule, account.secret_id) from fault
            control.standing_of(connection, account, now)  # its person must be there
        self._note(
            connection,
            "acme.account-created",
            account,
            peer=account.peer,
            thumbprint=account.thumbprint.hex(),
            secret=account.secret_id,
            contacts=cast("JSON", json.loads(account.contacts)),
        )

    # -- changes ------------------------------------------------------------------------------

    async def update(self, account: Account, contacts: Sequence[str]) -> Account:
        """Replace the contacts."""
        changed = replace(account, contacts=json.dumps(list(contacts)))
        if changed.contacts != account.contacts:
            await self._database.write(self._update, account, changed, "acme.account-changed")
        return changed

    async def deactivate(self, account: Account, actor: str = "") -> Account:
        """Close an account for good; what it was authorised for goes with it."""
        changed = replace(account, state="deactivated")
        await self._database.write(
            self._update, account, changed, "acme.account-deactivated", actor
        )
        return changed

    async def change_key(self, endpoint: Endpoint, account: Account, key: AccountKey) -> Account:
        """Give an account another key; Fault(CONFLICT) when another account has it.

        What was shown with the old key counts no more (T-ACME-08).
        """
        changed = replace(account, thumbprint=key.thumbprint, key=key.spki_der)
        await self._database.write(self._update, account, changed, "acme.account-key-changed")
        return changed

    def _update(
        self, connection: Connection, old: Account, new: Account, kind: str, actor: str = ""
    ) -> None:
        now = self._now()
        done = rows.update_account(
            connection,
            old,
            now,
            contacts=new.contacts,
            state=new.state,
            thumbprint=new.thumbprint,
            key=new.key,
        )
        if not done:
            raise deny(
                FaultCode.CONFLICT,
                "malformed",
                "the account was changed at the same time",
                "acme.account.changed",
                account=old.id,
            )
        if kind != "acme.account-changed":
            rows.end_authorizations(connection, old.id)
        self._note(
            connection, kind, new, actor=actor, thumbprint=new.thumbprint.hex(), state=new.state
        )

    def deactivate_in(
        self, connection: Connection, tenant: str, account_id: str, actor: str
    ) -> bool:
        """Close an account for an operator; tell whether it was open. Fault(NOT_FOUND)."""
        account = rows.account_of_tenant(connection, tenant, account_id)
        if account is None:
            raise absent("account")
        if account.state != "valid":
            return False
        self._update(
            connection, account, replace(account, state="revoked"), "acme.account-revoked", actor
        )
        return True

    def _note(
        self, connection: Connection, kind: str, account: Account, *, actor: str = "", **data: JSON
    ) -> None:
        self._journal.append(
            connection,
            Event(
                kind=kind,
                tenant=account.tenant,
                actor=actor or account.endpoint,
                object=f"acme-account/{account.id}",
                data={name: value for name, value in data.items() if value is not None},
            ),
        )


def _unbound(limit: str, reference: str) -> Fault:
    return deny(
        FaultCode.FORBIDDEN,
        "unauthorized",
        "the external account binding was not accepted",
        "acme.binding.wrong",
        limit=limit,
        reference=reference[:40],
    )
