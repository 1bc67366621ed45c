"""``tmad session``: who is on the network, since when, and how to end it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core

if TYPE_CHECKING:
    from tmad.storage.radius_sessions import AccountingRow, SessionRow

_STATUS = {1: "start", 2: "stop", 3: "interim", 7: "on", 8: "off"}  # RFC 2866, 5.1
_LIMIT = click.IntRange(1, 10_000)


@click.group()
def session() -> None:
    """Sessions on the network: who is on, end one."""


@session.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over, too.")
@click.option("--client", default="", help="At this RADIUS client.")
@click.option("--person", default="", help="Of this person.")
@click.option("--device", default="", help="Of this device.")
@click.option("--station", default="", metavar="MAC", help="From this station, in any spelling.")
@click.option("--user-name", default="", help="Under this name, as the NAS knows it.")
@click.option("--before", default="", metavar="ID", help="Go on before this id.")
@click.option("--limit", default=100, show_default=True, type=_LIMIT)
@with_core
async def list_(
    core: Session,
    everything: bool,
    client: str,
    person: str,
    device: str,
    station: str,
    user_name: str,
    before: str,
    limit: int,
) -> None:
    """List the sessions that are open now, newest first."""
    from tmad.network import visit

    found = await core.sessions.list(
        core.actor,
        core.tenant,
        everything=everything,
        client=client,
        person=person,
        device=device,
        station=visit.station(station),
        user_name=user_name,
        before=before,
        limit=limit,
    )
    columns = ["id", "user_name", "client", "calling_station", "method", "admitted_at"]
    output.rows(
        [_summary(row) for row in found],
        columns=[*columns, "state", "cause"] if everything else [*columns, "state"],
        name="id",
    )
    if len(found) == limit:
        output.say(f"there may be more: --before {found[-1].id}")


@session.command("show")
@click.argument("session_id", metavar="ID")
@with_core
async def show(core: Session, session_id: str) -> None:
    """Show one session, and what was tried to end it."""
    details = await core.sessions.show(core.actor, core.tenant, session_id)
    tried = [
        {
            "reason": each.reason,
            "actor": each.actor,
            "attempts": each.attempts,
            "outcome": each.outcome or "waits",
            "asked_at": each.created_at,
            "due_at": each.due_at,
        }
        for each in details.disconnects
    ]
    output.record({**_details(details.session), "disconnects": tried}, name="id")


@session.command("disconnect")
@click.argument("session_id", metavar="ID")
@with_core
async def disconnect(core: Session, session_id: str) -> None:
    """Put a session off the network; the daemon tells its NAS (RFC 5176).

    Whoever may still log in comes back at once: revoke or hold the certificate, disable the
    person or block the device to keep him off. That ends the session as well.
    """
    asked = await core.sessions.disconnect(
        core.actor, core.tenant, session_id, dry_run=core.dry_run
    )
    if not asked:
        nothing_to_do(f"the session {session_id} is being ended")
    output.say(f"the session {session_id} {'would be' if core.dry_run else 'is being'} ended")
    if not core.dry_run:
        output.next_step(f"tmad session show {session_id}   tells what came of it")


@session.command("accounting")
@click.argument("session_id", metavar="[ID]", required=False)
@click.option("--before", default=0, metavar="N", help="Go on before this record.")
@click.option("--limit", default=100, show_default=True, type=_LIMIT)
@with_core
async def accounting(core: Session, session_id: str | None, before: int, limit: int) -> None:
    """List accounting records as they came in, newest first: of one session, or all."""
    found = await core.sessions.accounting(
        core.actor, core.tenant, session_id, before=before, limit=limit
    )
    output.rows(
        [_record(row) for row in found],
        columns=("id", "at", "client", "status", "session", "user_name", "session_time"),
        name="id",
    )
    if len(found) == limit:
        output.say(f"there may be more: --before {found[-1].id}")


def _summary(row: SessionRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "user_name": row.user_name,
        "client": row.client,
        "calling_station": row.calling_station,
        "ssid": row.ssid,
        "method": row.method or "(not ours)",
        "state": row.state,
        "cause": row.cause,
        "admitted_at": row.admitted_at,
        "seen_at": row.seen_at,
        "closed_at": row.closed_at,
        "person": row.person,
        "device": row.device,
        "octets_in": row.octets_in,
        "octets_out": row.octets_out,
        "seconds": row.seconds,
    }


def _details(row: SessionRow) -> dict[str, Any]:
    return {
        **_summary(row),
        "serial": None if row.serial is None else f"{int.from_bytes(row.serial):x}",
        "anchor": row.anchor,
        "policy": row.policy,
        "nas_address": row.nas_address,
        "nas_identifier": row.nas_identifier,
        "nas_port": row.nas_port,
        "called_station": row.called_station,
        "framed_address": row.framed_address,
        "session_key": row.session_key,
        "ends_at": row.ends_at,
    }


def _record(row: AccountingRow) -> dict[str, Any]:
    data = json.loads(row.data)
    return {
        "id": row.id,
        "at": row.at,
        "client": row.client,
        "status": _STATUS.get(row.status, str(row.status)),
        "session": row.session_id,
        "user_name": data.get("User-Name"),
        "session_time": data.get("Acct-Session-Time"),
        "attributes": data,
    }
