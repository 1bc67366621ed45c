"""``tmad status``: how this node does, as its workers and its database say; running or not."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import REFUSED, UNREACHABLE, Ended, Session, in_session, with_settings
from tmad.cli.options import options
from tmad.errors import Fault, FaultCode

if TYPE_CHECKING:
    from tmad.config import NodeSettings
    from tmad.lifecycle.figures import AuthorityFigures, Figures
    from tmad.storage.alarms import AlarmRow

_PATIENCE = 5.0
_LARGEST = 262_144  # octets of an answer
_WINDOWS = (1, 7, 30, 90)


@click.command()
@click.option("--strict", is_flag=True, help="End with exit code 2 while anything is wrong.")
@with_settings
async def status(settings: NodeSettings, strict: bool) -> None:
    """Show how this node is: what works, what is wrong, what is due.

    Without a running daemon it shows what the database says. Exit code 0: ready; 5: not.
    """
    from twisted.internet import reactor

    figures, alarms, trouble = await _look(settings, reactor)
    workers = list(_ask_workers(settings, figures))
    report = _report(settings, workers, figures, alarms)
    if options().format == "table":
        _show(report)
    else:
        output.record(report, name="node")
    if trouble:
        output.say(f"the database could not be asked: {trouble}")
    if not any(worker["running"] for worker in workers):
        raise Ended(UNREACHABLE, "not reachable: the daemon does not run", "tmad run")
    if not report["ready"]:
        raise Ended(UNREACHABLE, "the node is not ready")
    if strict and report["alarms"]:
        raise Ended(REFUSED, "something is wrong; the alarms say what")


async def _look(
    settings: NodeSettings, reactor: Any
) -> tuple[Figures | None, Sequence[AlarmRow], str]:
    """Return what the database says, or why it does not."""
    try:
        figures, alarms = await in_session(settings, _sample, reactor)
    except Fault as fault:
        if fault.code is not FaultCode.UNAVAILABLE:
            raise
        return None, (), fault.detail
    failed = figures.database.state == "failed"
    return figures, alarms, figures.database.trouble if failed else ""


async def _sample(core: Session) -> tuple[Figures, Sequence[AlarmRow]]:
    from tmad.identity.access import require

    require(core.actor, "status.read", "*")
    figures = await core.services.figures.sample()
    if figures.database.state == "failed":
        return figures, ()
    return figures, await core.services.alarms.current()


# -- the workers ---------------------------------------------------------------------------------


def _ask_workers(settings: NodeSettings, figures: Figures | None) -> Iterator[dict[str, Any]]:
    """Yield what each worker says of itself; the first one also when nobody does."""
    known = {} if figures is None else {worker.index: worker for worker in figures.workers}
    for index in sorted({*range(settings.workers.count), *known}):
        said = _ready(settings, index)
        worker = known.get(index)
        entry: dict[str, Any] = {"worker": index, "running": said is not None or worker is not None}
        if said is not None:
            entry["ready"] = said["ready"]
            entry["parts"] = said["parts"]
            entry["works"] = said["works"]
        if worker is not None and figures is not None:
            entry["up"] = _span(figures.sampled_at - worker.started_at)
            entry["lag_seconds"] = round(worker.lag, 3)
            entry["connections"] = worker.connections
        yield entry


def _ready(settings: NodeSettings, index: int) -> dict[str, Any] | None:
    """Return what /readyz of a worker says; None when it cannot be asked."""
    from tmad.config import Address

    if not settings.listen.ops:
        return None
    host, port = Address.parse(settings.listen.ops[0])
    connection = http.client.HTTPConnection(host or "127.0.0.1", port + index, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read(_LARGEST))
        return answer if answer.get("node") == settings.node.name else None
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
    finally:
        connection.close()


# -- the report ----------------------------------------------------------------------------------


def _report(
    settings: NodeSettings,
    workers: Sequence[Mapping[str, Any]],
    figures: Figures | None,
    alarms: Sequence[AlarmRow],
) -> dict[str, Any]:
    from importlib.metadata import version

    asked = [worker for worker in workers if "ready" in worker]
    report: dict[str, Any] = {
        "node": settings.node.name,
        "version": version("tmad"),
        "ready": bool(asked) and all(worker["ready"] for worker in asked),
        "workers": [dict(worker) for worker in workers],
        "alarms": [_alarm(row) for row in alarms],
    }
    if figures is not None:
        report |= _figures(figures)
    return report


def _alarm(row: AlarmRow) -> dict[str, Any]:
    return {
        "alarm": row.name,
        "severity": row.severity,
        "object": row.object,
        "since": row.since,
        "text": row.text,
    }


def _figures(figures: Figures) -> dict[str, Any]:
    from tmad.observe import BUCKETS

    database, disk, journal = figures.database, figures.disk, figures.journal
    found: dict[str, Any] = {
        "database": {
            "kind": database.dialect, "state": database.state, "trouble": database.trouble,
        },
        "keys": {store.store: store.reason or store.state for store in figures.stores},
        "disk": {"size": disk.size, "free": disk.free},
        "authorities": [_authority(known) for known in figures.authorities],
        "tenants": [
            {
                "tenant": known.tenant,
                "valid": known.valid,
                "expiring": {str(d): (known.expiring or {}).get(d) for d in _WINDOWS},
                "pending": known.pending,
            }
            for known in figures.tenants
        ],
        "doors": [
            {
                "protocol": door.protocol,
                "door": door.door,
                "requests": door.requests,
                "refused": door.refusals,
                "failed": door.failures,
                "p95_seconds": _finite(door.percentile(0.95, BUCKETS)),
            }
            for door in figures.doors
            if door.requests
        ],
        "queues": dict(figures.queues),
    }  # fmt: skip
    if journal is not None:
        found["journal"] = {
            "records": journal.records,
            "sealed_at": journal.sealed_at,
            "behind": dict(journal.behind),
        }
    return found


def _authority(known: AuthorityFigures) -> dict[str, Any]:
    return {
        "authority": known.slug,
        "tenant": known.tenant,
        "state": "compromised" if known.is_compromised else known.state,
        "key": known.has_key,
        "not_after": known.not_after,
        "crl_state": known.crl_state,
        "crl_number": None if known.crl is None else known.crl.number,
        "next_update": None if known.crl is None else known.crl.next_update,
        "issued": None if known.signed is None else known.signed.issued,
        "revoked": None if known.signed is None else known.signed.revoked,
    }


# -- for people ----------------------------------------------------------------------------------


def _show(report: Mapping[str, Any]) -> None:
    running = [worker for worker in report["workers"] if worker["running"]]
    state = "ready" if report["ready"] else "not ready" if running else "not running"
    up = f", up {running[0]['up']}" if running and "up" in running[0] else ""
    many = f", {len(running)} workers" if len(running) > 1 else ""
    output.say(f"tmad {report['version']} on {report['node']}: {state}{many}{up}")
    for line in (*_parts(report), *_stands_still(running)):
        output.say(f"  {output.visible(line)}")
    for title, columns, rows in _tables(report):
        if rows:
            output.say("")
            output.rows(rows, columns=columns, name=title)


def _parts(report: Mapping[str, Any]) -> Iterator[str]:
    if (database := report.get("database")) is not None:
        trouble = f": {database['trouble']}" if database["trouble"] else ""
        yield f"database  {database['state']} ({database['kind']}){trouble}"
    for store, state in report.get("keys", {}).items():
        yield f"keys      {store}: {state}"
    if (disk := report.get("disk")) is not None and disk["size"]:
        yield f"disk      {disk['free'] / disk['size']:.0%} free"
    if (journal := report.get("journal")) is not None:
        sealed = output.plain(journal["sealed_at"]) or "never"
        behind = [f"{name} {number}" for name, number in journal["behind"].items() if number]
        waits = f", behind: {', '.join(behind)}" if behind else ""
        yield f"journal   {journal['records']} records, sealed {sealed}{waits}"
    if queues := [
        f"{name} {number}" for name, number in report.get("queues", {}).items() if number
    ]:
        yield f"waiting   {', '.join(queues)}"


def _stands_still(workers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what does not work, of whatever worker."""
    stopped = dict.fromkeys(
        name for worker in workers for name, works in worker.get("works", {}).items() if not works
    )
    for name in stopped:
        yield f"stopped   {name}"


def _tables(
    report: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[str, ...], list[dict[str, Any]]]]:
    authorities = [dict(known) for known in report.get("authorities", ())]
    for known in authorities:
        known["ends"] = known["not_after"]
        known["crl"] = known["crl_state"]
    yield (
        "authority",
        ("authority", "tenant", "state", "ends", "crl", "next_update", "issued", "revoked"),
        authorities,
    )
    tenants = [
        {
            "tenant": known["tenant"],
            "valid": known["valid"],
            **{f"within_{days}_d": known["expiring"][str(days)] for days in _WINDOWS},
            "pending": known["pending"],
        }
        for known in report.get("tenants", ())
    ]
    within = tuple(f"within_{days}_d" for days in _WINDOWS)
    yield "tenant", ("tenant", "valid", *within, "pending"), tenants
    yield (
        "door",
        ("protocol", "door", "requests", "refused", "failed", "p95_seconds"),
        list(report.get("doors", ())),
    )
    yield "alarm", ("severity", "alarm", "object", "since", "text"), list(report["alarms"])


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or seconds == float("inf") else seconds


def _span(length: timedelta) -> str:
    minutes = max(0, int(length.total_seconds())) // 60
    days, minutes = divmod(minutes, 1_440)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    )
