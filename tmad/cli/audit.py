"""``tmad audit``: the journal: read it, verify it, take it away."""

from __future__ import annotations

from typing import BinaryIO

import click
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from tmad.audit import Audit
from tmad.cli import output
from tmad.cli.context import REFUSED, Ended, Session, usage, with_core
from tmad.storage.journal import Record
from tmad.wire import parsing
from tmad.wire.chain import Report
from tmad.wire.evidence import verify_export

_COLUMNS = ("at", "kind", "actor", "object", "trace", "data")


@click.group()
def audit() -> None:
    """The journal: read, verify, export."""


def audit_of(core: Session) -> Audit:
    """Return the journal's people side."""
    return Audit(core.services.journal, core.services.keyring)


def shown(record: Record) -> dict[str, object]:
    """Return a record as it is printed."""
    return {
        "at": record.at,
        "tenant": record.tenant,
        "kind": record.kind,
        "actor": record.actor,
        "object": record.object,
        "trace": record.trace,
        "data": record.data,
        "writer": record.writer,
        "seq": record.seq,
        "hash": record.hash,
    }


@audit.command("tail")
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, help="How many.")
@click.option("--all-tenants", is_flag=True, help="Of every tenant, not of --tenant only.")
@with_core
async def tail(core: Session, limit: int, all_tenants: bool) -> None:
    """Show the newest records, oldest first."""
    tenant = None if all_tenants else core.tenant
    found = await audit_of(core).tail(core.actor, tenant, limit=limit)
    output.rows([shown(record) for record in found], columns=_COLUMNS, name="seq")


@audit.command("verify")
@click.argument("file", type=click.File("rb"), required=False)
@click.option(
    "--key",
    "keys",
    type=click.File("rb"),
    multiple=True,
    help="Public key (PEM, DER) that you noted elsewhere; only such keys are then believed.",
)
def verify(file: BinaryIO | None, keys: tuple[BinaryIO, ...]) -> None:
    """Verify the journal, or offline the FILE that `tmad audit export` wrote.

    Names the first record of each chain that was altered, removed, reordered or cut off, and
    ends with exit code 2. Records after the newest checkpoint could be cut off unseen.
    """
    trusted = _trusted(keys)
    if file is not None:
        _answer(verify_export(file, trusted=trusted), pinned=trusted is not None)
        return

    @with_core
    async def in_database(core: Session) -> None:
        report = await audit_of(core).verify(core.actor, None, trusted)
        _answer(report, pinned=trusted is not None)

    in_database()


@audit.command("export")
@click.option("--out", type=click.File("wb"), default="-", help="Where to; default: here.")
@with_core
async def export(core: Session, out: BinaryIO) -> None:
    """Write the whole journal as JSON lines, with checkpoints and public keys."""
    count = await audit_of(core).export(core.actor, None, out.write)
    out.flush()
    click.echo(f"{count} lines; check them anywhere: tmad audit verify FILE", err=True)


def _trusted(files: tuple[BinaryIO, ...]) -> set[bytes] | None:
    if not files:
        return None
    found = set()
    for file in files:
        data = file.read()
        try:
            key = parsing.public_key(data)
        except ValueError:
            usage(f"{file.name} holds no public key")
        found.add(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return found


def _answer(report: Report, *, pinned: bool) -> None:
    output.record(
        {
            "intact": report.is_intact,
            "records": report.records,
            "sealed": report.sealed,
            "chains": report.writers,
            "checkpoints": report.checkpoints,
            "clock_steps": report.clock_steps,
            "findings": [str(finding) for finding in report.findings],
        },
        name="intact",
    )
    if not report.is_intact:
        raise Ended(REFUSED, f"the journal is not as it was written: {report.findings[0]}")
    if report.sealed < report.records:
        output.say(f"{report.records - report.sealed} records wait for the next checkpoint")
    if report.checkpoints and not pinned:
        output.say("the keys came from the same place; --key FILE proves who sealed it")
