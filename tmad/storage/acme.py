"""Rows of ACME: accounts, orders, authorisations, and the nonces that were used (RFC 8555, 7.1)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.statement import Listing, Statement, is_integrity
from tmad.storage.tables import acme_accounts as accounts
from tmad.storage.tables import acme_authorizations as authorizations
from tmad.storage.tables import acme_nonces as nonces
from tmad.storage.tables import acme_orders as orders
from tmad.storage.tables import requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One client: ``key`` is its SubjectPublicKeyInfo, ``thumbprint`` RFC 7638's of the JWK."""

    id: str
    endpoint: str
    tenant: str
    state: str  # "valid", "deactivated", "revoked"
    thumbprint: bytes
    key: bytes = field(repr=False)
    contacts: str  # JSON
    secret_id: str | None = None
    binding: str | None = field(default=None, repr=False)
    agreed_at: datetime | None = None
    peer: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """What an account wants certified; ``identifiers`` are (type, value), as asked for."""

    id: str
    endpoint: str
    tenant: str
    account: str
    identifiers: tuple[tuple[str, str], ...]
    authorizations: tuple[str, ...]
    profile: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    replaces: str | None = None
    request_id: str | None = None
    error: str | None = None
    expires_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """That an account may have one identifier certified, or is about to show it."""

    id: str
    endpoint: str
    tenant: str
    account: str
    state: str  # "pending", "processing", "valid", "invalid", "deactivated"
    type: str
    value: str
    is_wildcard: bool
    challenges: tuple[str, ...]
    token: str
    challenge: str | None = None
    response: bytes | None = field(default=None, repr=False)
    attempts: int = 0
    due_at: datetime | None = None
    error: str | None = None
    record: str | None = None
    attested_key: bytes | None = None
    validated_at: datetime | None = None
    expires_at: datetime
    created_at: datetime


_ACCOUNT = tuple(Account.__dataclass_fields__)
_ORDER = tuple(OrderRow.__dataclass_fields__)
_AUTHORIZATION = tuple(Authorization.__dataclass_fields__)
_SELECT_ACCOUNT = sa.select(*(accounts.c[name] for name in _ACCOUNT))
_SELECT_ORDER = sa.select(*(orders.c[name] for name in _ORDER))
_SELECT_AUTHORIZATION = sa.select(*(authorizations.c[name] for name in _AUTHORIZATION))
_KEY: sa.BindParameter[Any] = sa.bindparam("key")
_DOOR: sa.BindParameter[Any] = sa.bindparam("door")
_WHOSE: sa.BindParameter[Any] = sa.bindparam("whose")

# -- nonces ---------------------------------------------------------------------------------------

_USE_NONCE = Statement(nonces.insert(), columns=("digest", "expires_at"))
_FORGET_NONCES = Statement(
    nonces.delete().where(
        nonces.c.digest.in_(
            sa.select(nonces.c.digest)
            .where(nonces.c.expires_at <= sa.bindparam("now"))
            .order_by(nonces.c.expires_at)
            .limit(sa.bindparam("most"))
        )
    )
)


def use_nonces(connection: sa.Connection, used: Iterable[tuple[bytes, datetime]]) -> None:
    """Note which nonces were used, and how long; Fault(BAD_INTEGRITY) when one had been before."""
    # Sorted: two transactions never wait for each other.
    values = [{"digest": digest, "expires_at": expires_at} for digest, expires_at in sorted(used)]
    try:
        _USE_NONCE.run_many(connection, values)
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "the nonce was used before",
            rule="acme.nonce",
            values={"problem": "badNonce"},
        ) from None


def forget_nonces(connection: sa.Connection, now: datetime, limit: int) -> int:
    """Forget some of those that are too old to be used in any case; return how many."""
    return _FORGET_NONCES.run(connection, {"now": now, "most": limit})


# -- accounts -------------------------------------------------------------------------------------

_INSERT_ACCOUNT = Statement(accounts.insert(), columns=_ACCOUNT)
# In their order, so that two transactions never wait for each other. Not FOR UPDATE: an order
# refers to its account, and whoever adds one need not wait for this.
_HELD = Listing(
    lambda listed: (
        sa.select(accounts.c.id)
        .where(accounts.c.id.in_(listed))
        .order_by(accounts.c.id)
        .with_for_update(key_share=True)
    )
)
_PEER_LOCK = 0x746D6170  # "tmap" as a number: the class of the advisory locks of peers
_HOLD_PEER = sa.text("SELECT pg_advisory_xact_lock(:class, hashtext(:peer))")
_ACCOUNT_BY_ID = Statement(
    _SELECT_ACCOUNT.where(accounts.c.id == _KEY, accounts.c.endpoint == _DOOR)
)
_ACCOUNT_BY_KEY = Statement(
    _SELECT_ACCOUNT.where(accounts.c.endpoint == _DOOR, accounts.c.thumbprint == _KEY)
)


def insert_account(connection: sa.Connection, account: Account) -> None:
    """Add one; Fault(CONFLICT) when the endpoint has one with this key."""
    try:
        _INSERT_ACCOUNT.run(connection, {name: getattr(account, name) for name in _ACCOUNT})
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise _key_in_use(account.endpoint) from None


def account_by_id(connection: sa.Connection, endpoint: str, account_id: str) -> Account | None:
    """Return one account of an endpoint."""
    return _account(_ACCOUNT_BY_ID.rows(connection, {"key": account_id, "door": endpoint}))


def account_by_key(connection: sa.Connection, endpoint: str, thumbprint: bytes) -> Account | None:
    """Return the account of an endpoint that has this key."""
    return _account(_ACCOUNT_BY_KEY.rows(connection, {"key": thumbprint, "door": endpoint}))


def account_of_tenant(connection: sa.Connection, tenant: str, account_id: str) -> Account | None:
    """Return one account of a tenant, for people."""
    query = _SELECT_ACCOUNT.where(accounts.c.id == account_id, accounts.c.tenant == tenant)
    row = connection.execute(query).one_or_none()
    return None if row is None else Account(**row._mapping)


def find_accounts(
    connection: sa.Connection, tenant: str, endpoint: str | None, after: str, limit: int
) -> tuple[Account, ...]:
    """Return a page of a tenant's accounts, oldest first."""
    query = _SELECT_ACCOUNT.where(accounts.c.tenant == tenant, accounts.c.id > after)
    if endpoint is not None:
        query = query.where(accounts.c.endpoint == endpoint)
    rows = connection.execute(query.order_by(accounts.c.id).limit(limit))
    return tuple([Account(**row._mapping) for row in rows])


def hold_accounts(connection: sa.Connection, ids: Collection[str]) -> None:
    """Let nobody else count what these accounts have before this transaction ends.

    SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        _HELD.rows(connection, sorted(ids))


def hold_peer(connection: sa.Connection, endpoint: str, peer: str) -> None:
    """Let nobody else count the accounts of this peer before this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(_HOLD_PEER, {"class": _PEER_LOCK, "peer": f"{endpoint} {peer}"})


def count_accounts(
    connection: sa.Connection, endpoint: str, peer: str, since: datetime, most: int
) -> int:
    """Return how many accounts a peer has made since then, counting to ``most``."""
    counted = (
        sa.select(sa.literal(1))
        .where(
            accounts.c.endpoint == endpoint,
            accounts.c.peer == peer,
            accounts.c.created_at > since,
        )
        .limit(most)
        .subquery()
    )
    return int(connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one())


def update_account(
    connection: sa.Connection, account: Account, now: datetime, **values: Any
) -> bool:
    """Change an account that is still as ``account`` says; tell whether it was."""
    try:
        done = connection.execute(
            accounts.update()
            .where(
                accounts.c.id == account.id,
                accounts.c.state == account.state,
                accounts.c.thumbprint == account.thumbprint,
            )
            .values(updated_at=now, **values)
        )
    except sa.exc.IntegrityError:
        raise _key_in_use(account.endpoint) from None
    return done.rowcount == 1


def _key_in_use(endpoint: str) -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        "another account has this key",
        rule="acme.account.key-in-use",
        values={"endpoint": endpoint},
    )


def _account(rows: list[tuple[Any, ...]]) -> Account | None:
    return Account(**dict(zip(_ACCOUNT, rows[0], strict=True))) if rows else None


# -- orders ---------------------------------------------------------------------------------------

_INSERT_ORDER = Statement(orders.insert(), columns=_ORDER)
_ORDER_BY_ID = Statement(
    _SELECT_ORDER.where(orders.c.id == _KEY, orders.c.endpoint == _DOOR, orders.c.account == _WHOSE)
)
_ORDERS_OF = Statement(
    _SELECT_ORDER.where(orders.c.account == _WHOSE, orders.c.id < sa.bindparam("before"))
    .order_by(orders.c.id.desc())
    .limit(sa.bindparam("most"))
)
_COUNTED_ORDERS = (
    sa.select(sa.literal(1))
    .where(orders.c.account == _WHOSE, orders.c.id >= sa.bindparam("since"))
    .limit(sa.bindparam("most"))
    .subquery()
)
_COUNT_ORDERS = Statement(sa.select(sa.func.count()).select_from(_COUNTED_ORDERS))
_CLAIM = Statement(
    orders.update()
    .where(orders.c.id == _KEY, orders.c.request_id.is_(None))
    .values(request_id=sa.bindparam("request"))
)
_ORDERS_BY_ID = Listing(lambda listed: _SELECT_ORDER.where(orders.c.id.in_(listed)))
_RELEASE = Statement(
    orders.update()
    .where(orders.c.id == _KEY, orders.c.request_id == sa.bindparam("request"))
    .values(request_id=None)
)


def insert_orders(connection: sa.Connection, new: Iterable[OrderRow]) -> None:
    """Add some."""
    _INSERT_ORDER.run_many(
        connection,
        [
            {
                **{name: getattr(order, name) for name in _ORDER},
                "identifiers": json.dumps(order.identifiers, separators=(",", ":")),
                "authorizations": json.dumps(order.authorizations, separators=(",", ":")),
            }
            for order in new
        ],
    )


def orders_by_id(connection: sa.Connection, order_ids: Sequence[str]) -> dict[str, OrderRow]:
    """Return those of these orders that there are, whosever they are."""
    found = [_order(row) for row in _ORDERS_BY_ID.rows(connection, order_ids)]
    return {each.id: each for each in found}


def order_by_id(
    connection: sa.Connection, endpoint: str, account: str, order_id: str
) -> OrderRow | None:
    """Return one order of an account."""
    values = {"key": order_id, "door": endpoint, "whose": account}
    rows = _ORDER_BY_ID.rows(connection, values)
    return _order(rows[0]) if rows else None


def order_of_request(connection: sa.Connection, endpoint: str, order_id: str) -> OrderRow | None:
    """Return an order of an endpoint that the pipeline has recorded a request of."""
    row = connection.execute(
        _SELECT_ORDER.where(orders.c.id == order_id, orders.c.endpoint == endpoint)
    ).one_or_none()
    return None if row is None else _order(tuple(row))


def order_of_certificate(
    connection: sa.Connection, request_id: str, account: str
) -> OrderRow | None:
    """Return the order of an account that the pipeline served with this request."""
    row = connection.execute(
        _SELECT_ORDER.join(requests, requests.c.transaction == orders.c.id).where(
            requests.c.id == request_id,
            requests.c.endpoint == orders.c.endpoint,
            orders.c.request_id == request_id,
            orders.c.account == account,
        )
    ).one_or_none()
    return None if row is None else _order(tuple(row))


def orders_of_account(
    connection: sa.Connection, account: str, before: str, limit: int
) -> tuple[OrderRow, ...]:
    """Return a page of an account's orders, newest first; ``before`` "~" begins."""
    values = {"whose": account, "before": before, "most": limit}
    return tuple([_order(row) for row in _ORDERS_OF.rows(connection, values)])


def find_orders(
    connection: sa.Connection, tenant: str, account: str | None, after: str, limit: int
) -> tuple[OrderRow, ...]:
    """Return a page of a tenant's orders, oldest first, for people."""
    query = _SELECT_ORDER.where(orders.c.tenant == tenant, orders.c.id > after)
    if account is not None:
        query = query.where(orders.c.account == account)
    rows = connection.execute(query.order_by(orders.c.id).limit(limit))
    return tuple([_order(tuple(row)) for row in rows])


def order_of_tenant(connection: sa.Connection, tenant: str, order_id: str) -> OrderRow | None:
    """Return one order of a tenant, for people."""
    row = connection.execute(
        _SELECT_ORDER.where(orders.c.id == order_id, orders.c.tenant == tenant)
    ).one_or_none()
    return None if row is None else _order(tuple(row))


def count_orders(connection: sa.Connection, account: str, since: str, most: int) -> int:
    """Return how many orders an account has made from the id ``since`` on, up to ``most``."""
    rows = _COUNT_ORDERS.rows(connection, {"whose": account, "since": since, "most": most})
    return int(rows[0][0])


def is_replaced(connection: sa.Connection, tenant: str, replaces: str) -> bool:
    """Tell whether an order that was used already names this certificate as its predecessor."""
    query = (
        sa.select(orders.c.id)
        .where(
            orders.c.replaces == replaces,
            orders.c.replaces.is_not(None),
            orders.c.tenant == tenant,
            orders.c.request_id.is_not(None),
        )
        .limit(1)
    )
    return connection.execute(query).one_or_none() is not None


def claim_orders(connection: sa.Connection, wanted: Iterable[tuple[str, str]]) -> int:
    """Use each of these orders for a request; return how many could be: of two at once, one."""
    # In one order, so that two transactions never wait for each other.
    values = [{"key": order, "request": request} for order, request in sorted(wanted)]
    return _CLAIM.run_many(connection, values)


def release_order(connection: sa.Connection, order_id: str, request_id: str) -> None:
    """Give an order back: its request has failed, and not for anything in it."""
    _RELEASE.run(connection, {"key": order_id, "request": request_id})


def forget_orders(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete old orders that came to nothing."""
    old = (
        sa.select(orders.c.id)
        .where(orders.c.expires_at < before, orders.c.request_id.is_(None))
        .order_by(orders.c.expires_at)
        .limit(limit)
    )
    # First looked up: PostgreSQL would read the whole table for them.
    gone = connection.execute(old).scalars().all()
    connection.execute(orders.delete().where(orders.c.id.in_(gone)))
    return len(gone)


def _order(row: Sequence[Any]) -> OrderRow:
    values = dict(zip(_ORDER, row, strict=True))
    values["identifiers"] = tuple((each[0], each[1]) for each in json.loads(values["identifiers"]))
    values["authorizations"] = tuple(json.loads(values["authorizations"]))
    return OrderRow(**values)


# -- authorisations -------------------------------------------------------------------------------

_INSERT_AUTHORIZATION = Statement(authorizations.insert(), columns=_AUTHORIZATION)
_AUTHORIZATION_BY_ID = Statement(
    _SELECT_AUTHORIZATION.where(
        authorizations.c.id == _KEY,
        authorizations.c.endpoint == _DOOR,
        authorizations.c.account == _WHOSE,
    )
)
_AUTHORIZATIONS_BY_ID = Listing(
    lambda listed: _SELECT_AUTHORIZATION.where(authorizations.c.id.in_(listed))
)
_AUTHORIZATIONS_OF = Statement(
    _SELECT_AUTHORIZATION.where(
        authorizations.c.account == _WHOSE,
        authorizations.c.value == sa.bindparam("named"),
        authorizations.c.type == sa.bindparam("kind"),
    )
    .order_by(authorizations.c.id.desc())
    .limit(sa.bindparam("most"))
)
_DUE = Statement(
    _SELECT_AUTHORIZATION.where(
        authorizations.c.due_at <= sa.bindparam("now"), authorizations.c.due_at.is_not(None)
    )
    .order_by(authorizations.c.due_at)
    .limit(sa.bindparam("most"))
)


def insert_authorizations(connection: sa.Connection, new: Iterable[Authorization]) -> None:
    """Add some."""
    _INSERT_AUTHORIZATION.run_many(
        connection,
        [
            {
                **{name: getattr(each, name) for name in _AUTHORIZATION},
                "challenges": json.dumps(each.challenges),
            }
            for each in new
        ],
    )


def authorization_by_id(
    connection: sa.Connection, endpoint: str, account: str, authorization_id: str
) -> Authorization | None:
    """Return one authorisation of an account."""
    values = {"key": authorization_id, "door": endpoint, "whose": account}
    rows = _AUTHORIZATION_BY_ID.rows(connection, values)
    return _authorization(rows[0]) if rows else None


def authorizations_of_order(
    connection: sa.Connection, order: OrderRow
) -> tuple[Authorization | None, ...]:
    """Return every authorisation of an order, each at its place; None for one that is gone."""
    return tuple(
        [
            authorization_by_id(connection, order.endpoint, order.account, each)
            for each in order.authorizations
        ]
    )


def authorizations_by_id(
    connection: sa.Connection, authorization_ids: Sequence[str]
) -> dict[str, Authorization]:
    """Return those of these authorisations that there are, whosever they are."""
    found = [
        _authorization(row) for row in _AUTHORIZATIONS_BY_ID.rows(connection, authorization_ids)
    ]
    return {each.id: each for each in found}


def find_authorizations(
    connection: sa.Connection, account: str, kind: str, value: str, limit: int
) -> tuple[Authorization, ...]:
    """Return an account's authorisations for an identifier, newest first."""
    values = {"whose": account, "named": value, "kind": kind, "most": limit}
    return tuple([_authorization(row) for row in _AUTHORIZATIONS_OF.rows(connection, values)])


def find_due(connection: sa.Connection, now: datetime, limit: int) -> tuple[Authorization, ...]:
    """Return those with a challenge that is to be tried now."""
    return tuple(
        [_authorization(row) for row in _DUE.rows(connection, {"now": now, "most": limit})]
    )


def update_authorization(
    connection: sa.Connection, old: Authorization, values: Mapping[str, Any]
) -> bool:
    """Change one that is still in the state and at the attempt of ``old``; tell whether."""
    given = {f"new_{name}": value for name, value in values.items()}
    given |= {"row": old.id, "old_state": old.state, "old_due": old.due_at}
    return (
        _changing(tuple(sorted(values)), is_due=old.due_at is not None).run(connection, given) == 1
    )


def update_authorizations(
    connection: sa.Connection, changes: Sequence[tuple[Authorization, Mapping[str, Any]]]
) -> list[bool]:
    """Change several, as ``update_authorization`` does each of them."""
    done = [False] * len(changes)
    # In one order, so that two transactions never wait for each other.
    for place in sorted(range(len(changes)), key=lambda place: changes[place][0].id):
        done[place] = update_authorization(connection, *changes[place])
    return done


@cache
def _changing(names: tuple[str, ...], *, is_due: bool) -> Statement:
    """Return the statement that changes these columns of an authorisation."""
    due_at = authorizations.c.due_at
    return Statement(
        authorizations.update()
        .where(
            authorizations.c.id == sa.bindparam("row"),
            authorizations.c.state == sa.bindparam("old_state"),
            due_at == sa.bindparam("old_due") if is_due else due_at.is_(None),
        )
        .values({name: sa.bindparam(f"new_{name}") for name in names})
    )


def end_authorizations(connection: sa.Connection, account: str) -> None:
    """Let nothing count any more that an account has shown."""
    connection.execute(
        authorizations.update()
        .where(authorizations.c.account == account, authorizations.c.state == "valid")
        .values(state="deactivated")
    )


def forget_authorizations(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete old ones."""
    old = (
        sa.select(authorizations.c.id)
        .where(authorizations.c.expires_at < before)
        .order_by(authorizations.c.expires_at)
        .limit(limit)
    )
    gone = connection.execute(old).scalars().all()
    connection.execute(authorizations.delete().where(authorizations.c.id.in_(gone)))
    return len(gone)


def _authorization(row: Sequence[Any]) -> Authorization:
    values = dict(zip(_AUTHORIZATION, row, strict=True))
    values["challenges"] = tuple(json.loads(values["challenges"]))
    return Authorization(**values)
