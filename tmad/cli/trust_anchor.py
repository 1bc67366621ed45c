"""``tmad trust-anchor``: other people's authorities whose certificates may log in here."""

from __future__ import annotations

from typing import Any, BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core

_CRL_OCTETS = 20 * 1024 * 1024 + 1
_CERTIFICATE_OCTETS = 262_144


@click.group("trust-anchor")
def trust_anchor() -> None:
    """Trust anchors: other CAs whose certificates may join the network."""


@trust_anchor.command("add")
@click.argument("name")
@click.argument("certificates", nargs=-1, required=True, type=click.File("rb"), metavar="PEM...")
@click.option("--crl-url", "urls", multiple=True, help="Where its CRLs are; may be repeated.")
@click.option(
    "--revocation",
    type=click.Choice(["required", "soft", "off"]),
    default="required",
    show_default=True,
    help="What happens without a good CRL: refuse, note it, or never ask.",
)
@click.option(
    "--for",
    "uses",
    multiple=True,
    type=click.Choice(["network", "enrollment"]),
    help="network: RADIUS logins (default); enrollment: a manufacturer whose devices enrol.",
)
@click.option("--names-people", is_flag=True, help="Take its names for our people and devices.")
@with_core
async def add(
    core: Session,
    name: str,
    certificates: tuple[BinaryIO, ...],
    urls: tuple[str, ...],
    revocation: str,
    uses: tuple[str, ...],
    names_people: bool,
) -> None:
    """Let certificates of somebody else's CA log in, or enrol devices, where that is allowed.

    PEM holds the CA's certificate and those of its sub-CAs; each of them is trusted.
    """
    pem = b"\n".join(file.read(_CERTIFICATE_OCTETS) for file in certificates)
    document: dict[str, Any] = {
        "certificates": pem.decode("ascii", "replace"),
        "revocation": revocation,
        "crl_urls": list(urls),
        "names_people": names_people,
    }
    if uses:
        document["uses"] = list(dict.fromkeys(uses))
    change = await core.objects.put(
        core.actor, core.tenant, "trust-anchor", name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    steps = []
    if "network" in change.stored.document.uses:
        steps.append(f"tmad radius-policy create NAME --anchor {name}   accepts its certificates")
    if "enrollment" in change.stored.document.uses:
        steps.append(f"tmad endpoint create est LABEL … --manufacturer {name}   enrols its devices")
    if revocation != "off":
        how = "" if urls else " --crl FILE"
        steps.insert(0, f"tmad trust-anchor refresh {name}{how}   fetches its CRLs now")
    output.next_step(*steps)


@trust_anchor.command("refresh")
@click.argument("name")
@click.option("--crl", type=click.File("rb"), help="Take this CRL instead of fetching.")
@with_core
async def refresh(core: Session, name: str, crl: BinaryIO | None) -> None:
    """Fetch the CRLs of a trust anchor now; the daemon does it by itself."""
    taken = await core.services.anchors.refresh(
        core.actor,
        core.tenant,
        name,
        crl=None if crl is None else crl.read(_CRL_OCTETS),
        dry_run=core.dry_run,
    )
    output.rows(
        [
            {
                "issuer": each.issuer,
                "this_update": each.this_update,
                "next_update": each.next_update,
                "is": "new" if each.is_new else "known already",
                "url": each.url,
            }
            for each in taken
        ],
        name="issuer",
    )


@trust_anchor.command("crls")
@click.argument("name")
@with_core
async def crls(core: Session, name: str) -> None:
    """Show which CRLs of a trust anchor are there, and how old they are."""
    output.rows(
        [
            {
                "issuer": row.issuer.hex(),
                "this_update": row.this_update,
                "next_update": row.next_update,
                "fetched_at": row.fetched_at,
                "octets": row.octets,
            }
            for row in await core.services.anchors.lists(core.actor, core.tenant, name)
        ],
        name="issuer",
    )


objects.attach(
    trust_anchor, "trust-anchor", columns=("enabled", "revocation", "crl_urls", "names_people")
)
