"""What orders and authorisations are just now, from all that they depend on (RFC 8555, 7.1.6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tmad.ca.acme import identifiers
from tmad.events import JSON
from tmad.storage import acme as rows
from tmad.storage import requests
from tmad.storage.acme import Authorization, OrderRow
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

# What became of the pipeline's request, as the order's state (RFC 8555, 7.1.6).
_STATES: Final = {"issued": "valid", "denied": "invalid", "refused": "invalid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as it is now; ``state`` is RFC 8555's."""

    row: OrderRow
    state: str
    error: dict[str, JSON] | None = None
    certificate_id: int | None = None
    request_id: str | None = None


def as_now(found: Authorization, now: datetime) -> Authorization:
    """Return an authorisation with the state that it has by now: time ends it, too."""
    if found.state in ("pending", "processing", "valid") and found.expires_at <= now:
        return replace(found, state="expired")
    return found


def look_up(connection: Connection, row: OrderRow, now: datetime) -> Order:
    """Return what an order is now, from everything that it depends on."""
    if row.request_id is not None:
        request = requests.by_id(connection, row.tenant, row.request_id)
        if request is not None:
            return judge(row, (), request, now)
    return judge(row, rows.authorizations_of_order(connection, row), None, now)


def find(
    connection: Connection, endpoint: str, account: str, order_id: str, now: datetime
) -> Order | None:
    """Return one order of an account as it is now."""
    row = rows.order_by_id(connection, endpoint, account, order_id)
    return None if row is None else look_up(connection, row, now)


def judge(
    row: OrderRow,
    found: Sequence[Authorization | None],
    request: RequestRow | None,
    now: datetime,
) -> Order:
    """Return an order with its state (RFC 8555, 7.1.6): once it has a request, that one's."""
    if request is not None:
        state = _STATES.get(request.state, "processing")
        error = None
        if state == "invalid":
            error = _problem("unauthorized", request.comment or "the request was denied")
        return Order(
            row=row,
            state=state,
            error=error,
            certificate_id=request.certificate_id,
            request_id=request.id,
        )
    if row.error is not None:
        return Order(row=row, state="invalid", error=json.loads(row.error))
    states = {"absent" if each is None else as_now(each, now).state for each in found}
    if row.expires_at <= now:
        return Order(row=row, state="invalid", error=_problem("malformed", "it has expired"))
    if states <= {"valid"}:
        return Order(row=row, state="ready")
    if states <= {"valid", "pending", "processing"}:
        return Order(row=row, state="pending")
    return Order(row=row, state="invalid", error=_why(found, now))


def _why(found: Sequence[Authorization | None], now: datetime) -> dict[str, JSON]:
    """Return why an order came to nothing, for each of its names (RFC 8555, 6.7.1)."""
    reasons = [
        (each, _reason(each, now))
        for each in found
        if each is not None and as_now(each, now).state not in ("valid", "pending", "processing")
    ]
    if not reasons:
        return _problem("unauthorized", "a name of the order is not authorised any more")
    if len(found) == 1:
        return reasons[0][1]
    problems = {reason["problem"] for _, reason in reasons}
    told = "; ".join(f"{each.value}: {reason['detail']}" for each, reason in reasons)
    error = _problem(str(problems.pop()) if len(problems) == 1 else "compound", told[:1_000])
    error["subproblems"] = [
        {**reason, "type": each.type, "value": identifiers.join(each.value, each.is_wildcard)}
        for each, reason in reasons
    ]
    return error


def _reason(found: Authorization, now: datetime) -> dict[str, JSON]:
    if found.state == "invalid" and found.error:
        error: dict[str, JSON] = json.loads(found.error)
        return error
    return _problem("unauthorized", f"its authorization is {as_now(found, now).state}")


def _problem(problem: str, detail: str) -> dict[str, JSON]:
    return {"problem": problem, "detail": detail}
