"""``tmad ca``: authorities, their keys and their certificates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, nothing_to_do, usage, with_core
from tmad.cli.times import Lifetime

if TYPE_CHECKING:
    from cryptography import x509

    from tmad.ca.hierarchy import Issuer

_DAYS = {"d": 1, "w": 7, "y": 365}
_ALGORITHMS = (
    "rsa-2048",
    "rsa-3072",
    "rsa-4096",
    "p256",
    "p384",
    "p521",
    "ed25519",
    "ed448",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
)
_REASONS = (
    "unspecified",
    "ca-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
)


@click.group()
def ca() -> None:
    """Authorities: roots and sub-CAs, their keys and certificates."""


# Verbs of every managed object; list and show are our own, below.
objects.attach(ca, "authority", columns=("description",))

_algorithm = click.option("--algorithm", type=click.Choice(_ALGORITHMS), help="Of the key.")
_store = click.option("--store", type=click.Choice(["soft", "pkcs11"]), help="Where the key lives.")
_lifetime = click.option("--lifetime", type=Lifetime("dwy"), help="90d, 12w, 10y.")
_generation = click.option(
    "--generation", type=click.IntRange(1), help="Which key; else the active one."
)
_permit = click.option(
    "--permit",
    multiple=True,
    metavar="KIND:NAME",
    help="Name constraint: dns:, email:, uri:, ip:NETWORK or dn:; may be repeated.",
)
_exclude = click.option(
    "--exclude", multiple=True, metavar="KIND:NAME", help="The same, for what is forbidden."
)
_path_length = click.option(
    "--path-length", type=click.IntRange(0, 10), help="How many levels of CAs below it."
)


@ca.command("create")
@click.argument("name")
@click.option("--subject", default="", metavar="DN", help='"CN=…,O=…"; else CN=NAME.')
@click.option("--parent", metavar="[TENANT/]NAME", help="Who signs it; without, it is a root.")
@click.option("--external", is_flag=True, help="A CA outside signs it: tmad ca csr, install.")
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), default="p384", show_default=True)
@_store
@_lifetime
@_path_length
@_permit
@_exclude
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any rule of its own.")
@with_core
async def create(
    core: Session,
    name: str,
    subject: str,
    parent: str | None,
    external: bool,
    algorithm: str,
    store: str | None,
    lifetime: timedelta | None,
    path_length: int | None,
    permit: tuple[str, ...],
    exclude: tuple[str, ...],
    settings: tuple[str, ...],
) -> None:
    """Make an authority with a new key."""
    from tmad.signer.algorithms import KeyAlgorithm

    document: dict[str, Any] = {}
    for setting in settings:
        objects.assign(document, setting)
    issuer = await core.ceremony.create(
        core.actor,
        core.tenant,
        name,
        subject=_subject(subject or f"CN={name}"),
        algorithm=KeyAlgorithm(algorithm),
        store=store,
        parent=parent,
        external=external,
        lifetime=lifetime,
        path_length=path_length,
        name_constraints=_constraints(permit, exclude),
        document=document if settings else None,
        dry_run=core.dry_run,
    )
    _changed(core, issuer, "created")
    if core.dry_run:
        return
    if external:
        output.next_step(
            f"tmad ca csr {name} --out {name}.csr   and have it signed",
            f"tmad ca install {name} FILE…   with the certificate and its chain",
        )
    else:
        output.next_step(
            f"tmad ca export {name}   for those who shall trust it",
            f"tmad endpoint create scep LABEL --ca {name} --profile …",
        )


@ca.command("list")
@with_core
async def list_(core: Session) -> None:
    """List every key of every authority."""
    found = await core.services.hierarchy.list(core.actor, core.tenant)
    output.rows(
        [_summary(issuer) for issuer in found],
        columns=("name", "generation", "state", "algorithm", "subject", "issuer", "not_after"),
    )


@ca.command("show")
@click.argument("name")
@with_core
async def show(core: Session, name: str) -> None:
    """Show an authority's rules, and its keys with fingerprints."""
    found = await core.services.hierarchy.show(core.actor, core.tenant, name)
    output.record(
        {
            "name": name,
            "revision": found[-1].revision,
            "keys": {str(issuer.generation): await _details(core, issuer) for issuer in found},
            "rules": found[-1].document.model_dump(mode="json"),
        }
    )


@ca.command("csr")
@click.argument("name")
@_generation
@click.option("--out", type=click.File("wb"), help="Write it here, not to standard output.")
@with_core
async def csr(core: Session, name: str, generation: int | None, out: BinaryIO | None) -> None:
    """Print a certificate request (PKCS#10) for a CA outside."""
    from cryptography.hazmat.primitives.serialization import Encoding

    request = await core.adoption.csr(core.actor, core.tenant, name, number=generation)
    _write(request.public_bytes(Encoding.PEM), out)
    output.next_step(f"tmad ca install {name} FILE…   with what the CA outside made of it")


@ca.command("install")
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.File("rb"), metavar="FILE...")
@with_core
async def install(core: Session, name: str, files: tuple[BinaryIO, ...]) -> None:
    """Take the certificate that a CA outside made, and its chain (PEM, DER, PKCS#7)."""
    certificates, _ = _read(files, None)
    issuer = await core.adoption.install(
        core.actor, core.tenant, name, certificates, dry_run=core.dry_run
    )
    _changed(core, issuer, "installed")
    if issuer.state == "next" and not core.dry_run:
        output.next_step(f"tmad ca activate {name}   lets the new key issue")


@ca.command("import")
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.File("rb"), metavar="FILE...")
@click.option("--password-file", type=click.File("rb"), help="Of the key or the PKCS#12 file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any rule of its own.")
@with_core
async def import_(
    core: Session,
    name: str,
    files: tuple[BinaryIO, ...],
    password_file: BinaryIO | None,
    settings: tuple[str, ...],
) -> None:
    """Take in an existing CA: certificates, and its key if there is one.

    With its key (PKCS#8, PKCS#12) it goes on issuing here; without, it is known as a trust
    anchor, whose certificates can be imported.
    """
    password = password_file.read().rstrip(b"\r\n") if password_file else None
    certificates, private_key = _read(files, password)
    document: dict[str, Any] = {}
    for setting in settings:
        objects.assign(document, setting)
    issuer = await core.adoption.import_(
        core.actor,
        core.tenant,
        name,
        certificates=certificates,
        private_key=private_key,
        document=document if settings else None,
        dry_run=core.dry_run,
    )
    _changed(core, issuer, "imported")
    if private_key is not None and not core.dry_run:
        output.next_step(
            "tmad cert import FILE…   what it issued so far, before its next CRL is published"
        )


@ca.command("renew")
@click.argument("name")
@_generation
@_lifetime
@with_core
async def renew(
    core: Session, name: str, generation: int | None, lifetime: timedelta | None
) -> None:
    """Get a new certificate for the same key."""
    issuer = await core.ceremony.renew(
        core.actor,
        core.tenant,
        name,
        number=generation,
        lifetime=lifetime,
        dry_run=core.dry_run,
    )
    _changed(core, issuer, "renewed")


@ca.command("rekey")
@click.argument("name")
@_algorithm
@_store
@_lifetime
@with_core
async def rekey(
    core: Session,
    name: str,
    algorithm: str | None,
    store: str | None,
    lifetime: timedelta | None,
) -> None:
    """Make a new key and stage it; clients can fetch it before it issues."""
    from tmad.signer.algorithms import KeyAlgorithm

    issuer = await core.ceremony.rekey(
        core.actor,
        core.tenant,
        name,
        algorithm=KeyAlgorithm(algorithm) if algorithm else None,
        store=store,
        lifetime=lifetime,
        dry_run=core.dry_run,
    )
    _changed(core, issuer, "staged")
    if core.dry_run:
        return
    if issuer.state == "pending":
        output.next_step(f"tmad ca csr {name} --out {name}.csr   and have it signed")
    else:
        output.next_step(f"tmad ca activate {name}   lets the new key issue")


@ca.command("activate")
@click.argument("name")
@with_core
async def activate(core: Session, name: str) -> None:
    """Let the staged key issue; the old one goes on signing its CRL and OCSP answers."""
    issuer = await core.ceremony.activate(core.actor, core.tenant, name, dry_run=core.dry_run)
    _changed(core, issuer, "activated")


@ca.command("cross-sign")
@click.argument("name")
@click.option("--csr", "request", type=click.File("rb"), help="A PKCS#10 of the other CA.")
@click.option("--certificate", type=click.File("rb"), help="The other CA's own self-signed one.")
@click.option("--ca", "other", metavar="NAME", help="Another authority here.")
@_lifetime
@_path_length
@_permit
@_exclude
@click.option("--out", type=click.File("wb"), help="Write it here, not to standard output.")
@with_core
async def cross_sign(
    core: Session,
    name: str,
    request: BinaryIO | None,
    certificate: BinaryIO | None,
    other: str | None,
    lifetime: timedelta | None,
    path_length: int | None,
    permit: tuple[str, ...],
    exclude: tuple[str, ...],
    out: BinaryIO | None,
) -> None:
    """Certify another CA's name and key; prints the cross-certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding

    given = [source for source in (request, certificate, other) if source]
    if len(given) != 1:
        usage("one of --csr, --certificate and --ca says whom to sign")
    wanted: Any = other
    if request is not None:
        wanted = _read_request(request)
    elif certificate is not None:
        found, _ = _read((certificate,), None)
        wanted = found[0]
    issued = await core.adoption.cross_sign(
        core.actor,
        core.tenant,
        name,
        other=wanted,
        lifetime=lifetime,
        path_length=path_length,
        name_constraints=_constraints(permit, exclude),
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say("the cross-certificate would be made")
        return
    _write(issued.certificate.public_bytes(Encoding.PEM), out)
    output.next_step(f"tmad cert revoke {issued.certificate_id}   takes it back")


@ca.command("withdraw")
@click.argument("name")
@click.option("--reason", type=click.Choice(_REASONS), required=True)
@click.option("--revoke", is_flag=True, help="Also revoke it at its parents here.")
@with_core
async def withdraw(core: Session, name: str, reason: str, revoke: bool) -> None:
    """Let an authority issue no more; its CRL and OCSP answers go on."""
    from tmad.ca.status import Reason

    left = await core.ceremony.withdraw(
        core.actor,
        core.tenant,
        name,
        reason=Reason[reason.replace("-", "_").upper()],
        revoke=revoke,
        dry_run=core.dry_run,
    )
    for issuer in left:
        _changed(core, issuer, "withdrawn")
    if not left:
        output.say(f"authority {name} had no certificate yet: its key is removed")


@ca.command("compromise")
@click.argument("name")
@click.option("--generation", type=click.IntRange(1), help="Which key; else the newest.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Since when, in UTC; else now.",
)
@with_core
async def compromise(core: Session, name: str, generation: int | None, since: Any) -> None:
    """Record that a key is in wrong hands: all that it ever signed is revoked."""
    from datetime import UTC

    issuer = await core.ceremony.compromise(
        core.actor,
        core.tenant,
        name,
        number=generation,
        since=since and since.replace(tzinfo=UTC),
        dry_run=core.dry_run,
    )
    _changed(core, issuer, "marked as compromised")
    output.next_step(f"tmad ca rekey {name}   if it shall live on with another key")


@ca.command("export")
@click.argument("name")
@_generation
@click.option("--chain", is_flag=True, help="Also the CAs above it.")
@click.option("--no-root", is_flag=True, help="The chain without the root.")
@click.option("--form", type=click.Choice(["pem", "der", "p7b"]), default="pem")
@click.option("--out", type=click.File("wb"), help="Write it here, not to standard output.")
@with_core
async def export(
    core: Session,
    name: str,
    generation: int | None,
    chain: bool,
    no_root: bool,
    form: str,
    out: BinaryIO | None,
) -> None:
    """Print an authority's certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    from tmad.ca import trust

    issuer = _chosen(await core.services.hierarchy.show(core.actor, core.tenant, name), generation)
    if issuer.certificate is None:
        nothing_to_do(f"{name} waits for its certificate")
    found = trust.chain(issuer, include_root=not no_root) if chain else (issuer.certificate,)
    if form == "der" and len(found) > 1:
        usage("DER holds one certificate", "--form p7b holds a chain")
    if form == "p7b":
        _write(pkcs7.serialize_certificates(list(found), Encoding.DER), out)
    else:
        encoding = Encoding.PEM if form == "pem" else Encoding.DER
        _write(b"".join(certificate.public_bytes(encoding) for certificate in found), out)


def _chosen(found: tuple[Issuer, ...], generation: int | None) -> Issuer:
    for issuer in found:
        if issuer.generation == generation or (generation is None and issuer.state == "active"):
            return issuer
    if generation is not None:
        usage(f"there is no generation {generation}")
    return found[-1]


def _changed(core: Session, issuer: Issuer, what: str) -> None:
    would = "would be " if core.dry_run else ""
    output.say(f"authority {issuer.authority}, key {issuer.generation}, {would}{what}")
    if not core.dry_run:
        output.record(_summary(issuer))


def _summary(issuer: Issuer) -> dict[str, Any]:
    from tmad.ca.trust import name_from_der
    from tmad.signer import algorithms

    certificate = issuer.certificate
    subject = name_from_der(issuer.subject_der, issuer.public_key)
    return {
        "name": issuer.authority,
        "generation": issuer.generation,
        "state": issuer.state.value,
        "algorithm": algorithms.of(issuer.public_key).value if issuer.key_id else None,
        "subject": subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string() if certificate else None,
        "serial": f"{certificate.serial_number:x}" if certificate else None,
        "not_after": issuer.not_after,
        "compromised_at": issuer.compromised_at,
        "id": issuer.id,
    }


async def _details(core: Session, issuer: Issuer) -> dict[str, Any]:
    from cryptography.hazmat.primitives import hashes

    details = _summary(issuer)
    details["not_before"] = issuer.not_before
    details["slug"] = issuer.slug
    if issuer.key_id:
        handle = await core.services.keyring.handle(issuer.key_id)
        details["store"] = handle.store
        details["key_label"] = handle.label
    urls = core.services.hierarchy.urls(issuer)
    details["urls"] = {"crl": urls.crl, "ocsp": urls.ocsp, "ca_issuers": urls.ca_issuers}
    if urls.delta:
        details["urls"]["delta_crl"] = urls.delta
    if issuer.certificate is not None:
        # SCEP-25: what operators compare by eye, in the digests that devices show.
        details["fingerprints"] = {
            "sha256": issuer.certificate.fingerprint(hashes.SHA256()).hex(),
            "sha1": issuer.certificate.fingerprint(hashes.SHA1()).hex(),  # noqa: S303
            "md5": issuer.certificate.fingerprint(hashes.MD5()).hex(),  # noqa: S303
        }
        details["chain"] = [c.subject.rfc4514_string() for c in issuer.chain]
    return details


def _subject(text: str) -> x509.Name:
    from cryptography import x509

    try:
        return x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        usage(f"{text!r} is not a distinguished name: {error}", 'write it as "CN=…,O=…"')


def _constraints(permit: tuple[str, ...], exclude: tuple[str, ...]) -> x509.NameConstraints | None:
    from cryptography import x509

    if not (permit or exclude):
        return None
    return x509.NameConstraints(
        [_subtree(text) for text in permit] or None, [_subtree(text) for text in exclude] or None
    )


def _subtree(text: str) -> x509.GeneralName:
    import ipaddress

    from cryptography import x509

    kind, _, name = text.partition(":")
    try:
        match kind:
            case "dns":
                return x509.DNSName(name)
            case "email":
                return x509.RFC822Name(name)
            case "uri":
                return x509.UniformResourceIdentifier(name)
            case "ip":
                return x509.IPAddress(ipaddress.ip_network(name))
            case "dn":
                return x509.DirectoryName(x509.Name.from_rfc4514_string(name))
            case _:
                usage(f"{text!r} is no name constraint", "dns:, email:, uri:, ip: or dn: first")
    except ValueError as error:
        usage(f"{text!r} is no name constraint: {error}")


def _read(
    files: tuple[BinaryIO, ...], password: bytes | None
) -> tuple[list[x509.Certificate], Any]:
    from tmad.ca.importing import MAXIMUM_OCTETS, read_bundle

    certificates: list[x509.Certificate] = []
    keys: list[Any] = []
    for file in files:
        bundle = read_bundle(file.read(MAXIMUM_OCTETS + 1), password)
        certificates += bundle.certificates
        if bundle.private_key is not None:
            keys.append(bundle.private_key)
    if len(keys) > 1:
        usage("there is more than one private key")
    return certificates, keys[0] if keys else None


def _read_request(file: BinaryIO) -> x509.CertificateSigningRequest:
    from tmad.wire import parsing

    data = file.read(1_000_000)
    try:
        return parsing.request(data)
    except ValueError as error:
        usage(f"not a certificate request: {error}")


def _write(data: bytes, out: BinaryIO | None) -> None:
    if out is None:
        click.echo(data, nl=False)
    else:
        out.write(data)
