"""``tmad crl``: make revocation lists now, and look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, usage, with_core

if TYPE_CHECKING:
    from tmad.ca.crlmaking import CRL
    from tmad.storage.crls import CRLRow


@click.group()
def crl() -> None:
    """Certificate revocation lists."""


@crl.command("build")
@click.argument("ca")
@with_core
async def build(core: Session, ca: str) -> None:
    """Make and publish a new CRL for every key of an authority.

    Nobody has to do this: a CRL is made upon each revocation and on schedule.
    """
    built = await core.services.crls.build(core.actor, core.tenant, ca, dry_run=core.dry_run)
    if core.dry_run:
        output.say(f"{len(built)} CRL would be published")
    output.rows([_summary(one) for one in built], name="number")


@crl.command("show")
@click.argument("ca")
@click.option("--generation", type=int, metavar="N", help="Which key's; else the active one's.")
@click.option("--form", type=click.Choice(["pem", "der"]), default="pem")
@click.option("--out", type=click.File("wb"), help="Also write the newest one to this file.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, help="How many to list.")
@click.option("--before", type=int, metavar="NUMBER", help="Go on below this number.")
@click.option("--delta", is_flag=True, help="The delta CRLs that were published with them.")
@with_core
async def show(
    core: Session,
    ca: str,
    generation: int | None,
    form: str,
    out: BinaryIO | None,
    limit: int,
    before: int | None,
    delta: bool,
) -> None:
    """List an authority's CRLs, newest first; --out writes the one in force.

    A delta CRL lists what has changed since the CRL whose number is its base; the authority's
    rule crl.delta_hours switches them on.
    """
    found = await core.services.crls.show(
        core.actor, core.tenant, ca, generation=generation, before=before, limit=limit
    )
    if out is not None:
        if not found:
            usage("there is no CRL yet", f"tmad crl build {ca} makes one")
        issuer_id = found[0].issuer_id
        if delta:
            _, newest = await core.services.crls.current_with_delta(issuer_id)
            out.write(_encoded(newest.der, form))
        else:
            out.write(_encoded((await core.services.crls.current(issuer_id)).der, form))
    if delta:
        rows = [_delta_summary(one) for one in found if one.base_number is not None]
    else:
        rows = [_summary(one) for one in found]
    output.rows(rows, name="number")


def _summary(one: CRL | CRLRow) -> dict[str, Any]:
    return {
        "number": one.number,
        "entries": one.entries,
        "this_update": one.this_update,
        "next_update": one.next_update,
        "issuer_id": one.issuer_id,
        "sha256": one.sha256,
    }


def _delta_summary(one: CRLRow) -> dict[str, Any]:
    return {
        "number": one.number,
        "base": one.base_number,
        "entries": one.delta_entries,
        "this_update": one.this_update,
        "next_update": one.delta_next_update,
        "issuer_id": one.issuer_id,
        "sha256": one.delta_sha256,
    }


def _encoded(crl_der: bytes, form: str) -> bytes:
    if form == "der":
        return crl_der
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_crl(crl_der).public_bytes(Encoding.PEM)
