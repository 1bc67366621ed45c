"""``tmad explain``: which rule refused a request, and what it compared."""

from __future__ import annotations

import json

import click

from tmad.cli import output
from tmad.cli.audit import audit_of
from tmad.cli.context import Session, with_core


@click.command("explain")
@click.argument("explain_id", metavar="ID")
@with_core
async def explain(core: Session, explain_id: str) -> None:
    """Show why the request with this id was refused."""
    for record in await audit_of(core).explain(core.actor, core.tenant, explain_id):
        output.record(
            {
                "id": record.trace,
                "at": record.at,
                "tenant": record.tenant,
                "actor": record.actor,
                "object": record.object,
                "kind": record.kind,
                **json.loads(record.data),
                "journal": f"{record.writer}:{record.seq}",
            },
            name="id",
        )
