"""``tmad cert``: issue, find, revoke, renew, export and import certificates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, usage, with_core
from tmad.cli.files import write_private
from tmad.cli.times import Lifetime

if TYPE_CHECKING:
    from cryptography import x509

    from tmad.ca.inventory import Found
    from tmad.ca.requests import Issued
    from tmad.ca.revocation import Effect
    from tmad.storage.certificates import CertificateRow

REASONS = {
    "unspecified": 0,
    "key-compromise": 1,
    "ca-compromise": 2,
    "affiliation-changed": 3,
    "superseded": 4,
    "cessation-of-operation": 5,
    "privilege-withdrawn": 9,
    "aa-compromise": 10,
}
_SPELLINGS = {name.replace("-", ""): name for name in REASONS}
_FORMS = click.Choice(["pem", "der", "chain", "p7b"])
_KEYS = ("p256", "p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519")
_CSR_OCTETS = 1_000_000

_authority = click.option("--ca", "authority", default="", help="Whose serial number it is.")


class Reason(click.ParamType[str]):
    """A reason of RFC 5280, in any of its usual spellings: keyCompromise, key-compromise."""

    name = "reason"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = _SPELLINGS.get(str(value).lower().replace("-", "").replace("_", ""))
        if known is None:
            self.fail(f"{value!r} is none of {', '.join(REASONS)}", param, ctx)
        return known


@click.group()
def cert() -> None:
    """Certificates: issue, find, revoke, export."""


@cert.command("issue")
@click.argument("name")
@click.option("--ca", "authority", default="issuing", show_default=True, help="Who issues.")
@click.option("--profile", default="tls-server", show_default=True, help="What is issued.")
@click.option("--subject", metavar="DN", help='"CN=…,O=…"; else CN=NAME.')
@click.option("--san", "names", multiple=True, metavar="KIND:NAME", help="dns:, ip:, email:, uri:")
@click.option("--csr", type=click.File("rb"), help="A request for a key that exists already.")
@click.option("--algorithm", type=click.Choice(_KEYS), default="p256", show_default=True)
@click.option("--lifetime", type=Lifetime("dwy"), help="Shorter than the profile says: 30d.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Directory for NAME.key, NAME.crt and NAME.chain.pem.",
)
@with_core
async def issue(
    core: Session,
    name: str,
    authority: str,
    profile: str,
    subject: str | None,
    names: tuple[str, ...],
    csr: BinaryIO | None,
    algorithm: str,
    lifetime: timedelta | None,
    out: Path,
) -> None:
    """Issue a certificate by hand.

    Without --csr the key is made here and never sent; without --san, a NAME that looks like a
    host name becomes one.
    """
    from cryptography import x509

    from tmad.ca.requests import Proof

    if csr is not None:
        request = _read_csr(csr)
        public_key, proof, evidence = request.public_key, Proof.CSR_SIGNATURE, request.der
        asked = [_general_name(text) for text in names] or list(request.names)
        wished = request.subject
        key = None
    else:
        key = _make_key(algorithm)
        public_key, proof, evidence = key.public_key(), Proof.GENERATED_HERE, b""
        asked = [_general_name(text) for text in names]
        if not asked and "." in name:
            asked = [x509.DNSName(name)]
        wished = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    if subject:
        try:
            wished = x509.Name.from_rfc4514_string(subject)
        except ValueError as error:
            usage(f"{subject!r} is not a distinguished name: {error}", 'write it as "CN=…,O=…"')
    _check_free(out, name, key is not None)
    issued = await core.services.authority.issue(
        core.actor,
        core.tenant,
        authority=authority,
        profile=profile,
        subject=wished,
        names=asked,
        public_key=public_key,
        proof=proof,
        evidence=evidence,
        validity=lifetime,
        dry_run=core.dry_run,
    )
    await _hand_out(core, issued, name, key, out)


@cert.command("renew")
@click.argument("serial")
@_authority
@click.option("--csr", type=click.File("rb"), help="A request for the new key.")
@click.option("--algorithm", type=click.Choice(_KEYS), default="p256", show_default=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Directory for the files.",
)
@with_core
async def renew(
    core: Session, serial: str, authority: str, csr: BinaryIO | None, algorithm: str, out: Path
) -> None:
    """Issue a successor: same names, same profile, a new key."""
    from cryptography import x509

    from tmad.ca.requests import Proof

    found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
    old = found.certificate
    issuer = await core.services.hierarchy.by_id(found.row.issuer_id)
    if csr is not None:
        request = _read_csr(csr)
        public_key, proof, evidence, key = (
            request.public_key, Proof.CSR_SIGNATURE, request.der, None,
        )  # fmt: skip
    else:
        key = _make_key(algorithm)
        public_key, proof, evidence = key.public_key(), Proof.GENERATED_HERE, b""
    try:
        extension = old.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = list(extension.value)
    except x509.ExtensionNotFound:
        names = []
    file = f"{found.row.serial:x}"
    _check_free(out, file, key is not None)
    issued = await core.services.authority.issue(
        core.actor,
        core.tenant,
        authority=issuer.authority,
        profile=found.row.profile,
        subject=old.subject,
        names=names,
        public_key=public_key,
        proof=proof,
        evidence=evidence,
        replaces=found.renewed,
        dry_run=core.dry_run,
    )
    await _hand_out(core, issued, file, key, out)


@cert.command("list")
@click.option("--name", default="", help="Those that hold exactly this name.")
@click.option("--state", type=click.Choice(["issued", "imported", "void", "intent"]))
@click.option("--expires-within", type=Lifetime("dwy"), help="Those that end soon: 30d.")
@click.option("--after", type=int, default=0, metavar="ID", help="Go on after this id.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@with_core
async def list_(
    core: Session,
    name: str,
    state: str | None,
    expires_within: timedelta | None,
    after: int,
    limit: int,
) -> None:
    """List certificates, oldest first; those that end soon, soonest first."""
    if expires_within is not None:
        rows = await core.inventory.expiring(
            core.actor, core.tenant, within=expires_within, limit=limit
        )
    else:
        rows = await core.inventory.list(
            core.actor, core.tenant, name=name, state=state, after=after, limit=limit
        )
    columns = ("id", "serial", "subject", "profile", "status", "not_after")
    output.rows([_summary(row) for row in rows], columns=columns, name="serial")
    if len(rows) == limit and expires_within is None:
        output.say(f"there may be more: --after {rows[-1].id}")


@cert.command("show")
@click.argument("serial")
@_authority
@with_core
async def show(core: Session, serial: str, authority: str) -> None:
    """Show one certificate, by serial number or SHA-256 fingerprint."""
    found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
    status = await core.services.status.of(found.row.issuer_id, found.row.serial)
    issuer = await core.services.hierarchy.by_id(found.row.issuer_id)
    output.record(
        {
            **_summary(found.row),
            "status": status.state,
            "authority": issuer.authority,
            "issuer": issuer.certificate.subject.rfc4514_string() if issuer.certificate else "",
        },
        name="serial",
    )


@cert.command("export")
@click.argument("serial")
@_authority
@click.option("--form", type=_FORMS, default="pem", show_default=True)
@click.option("--out", type=click.File("wb"), help="Where to; default: here.")
@with_core
async def export(
    core: Session, serial: str, authority: str, form: str, out: BinaryIO | None
) -> None:
    """Write a certificate as PEM, DER, PEM with its chain, or PKCS#7."""
    found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
    data = _encoded(found, form)
    if out is None:
        click.echo(data, nl=False)
    else:
        out.write(data)


@cert.command("import")
@click.argument("files", nargs=-1, required=True, type=click.File("rb"), metavar="FILE...")
@click.option("--password-file", type=click.File("rb"), help="Of a PKCS#12 file.")
@click.option("--owner", default="", help="Whose they are.")
@with_core
async def import_(
    core: Session, files: tuple[BinaryIO, ...], password_file: BinaryIO | None, owner: str
) -> None:
    """Take in certificates that were issued elsewhere (PEM, DER, PKCS#7, PKCS#12).

    Their CA must be known here: `tmad ca import`.
    """
    from tmad.ca.importing import MAXIMUM_OCTETS, read_bundle

    password = password_file.read().rstrip(b"\r\n") if password_file else None
    certificates: list[x509.Certificate] = []
    for file in files:
        certificates += read_bundle(file.read(MAXIMUM_OCTETS + 1), password).certificates
    imports = await core.imports.import_(
        core.actor, core.tenant, certificates, owner=owner, dry_run=core.dry_run
    )
    for refusal in imports.refused:
        output.say(f"refused  {output.visible(refusal.subject)}: {refusal.fault.detail}")
    output.say(
        f"{len(imports.imported)} imported, {len(imports.present)} known already,"
        f" {len(imports.refused)} refused"
    )
    if imports.refused:
        raise imports.refused[0].fault
    if not imports.imported:
        nothing_to_do("all of them were known")


@cert.command("revoke")
@click.argument("serials", nargs=-1, required=True, metavar="SERIAL...")
@_authority
@click.option("--reason", type=Reason(), default="unspecified", show_default=True)
@click.option("--invalid-since", type=click.DateTime(), help="UTC; since when not to believe it.")
@with_core
async def revoke(
    core: Session,
    serials: tuple[str, ...],
    authority: str,
    reason: str,
    invalid_since: Any,
) -> None:
    """Revoke for ever; the next OCSP answer and CRL say so. See also: hold."""
    from datetime import UTC

    since = invalid_since.replace(tzinfo=UTC) if invalid_since else None
    effects = []
    for serial in serials:
        found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
        effects.append(
            await core.services.revocation.revoke(
                core.actor,
                core.tenant,
                found.row.issuer_id,
                found.row.serial,
                REASONS[reason],
                invalidity_date=since,
                dry_run=core.dry_run,
            )
        )
    _show_effects(core, effects)


@cert.command("hold")
@click.argument("serial")
@_authority
@with_core
async def hold(core: Session, serial: str, authority: str) -> None:
    """Revoke until further notice; `tmad cert release` takes it back."""
    found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
    effect = await core.services.revocation.hold(
        core.actor, core.tenant, found.row.issuer_id, found.row.serial, dry_run=core.dry_run
    )
    _show_effects(core, [effect])
    if not core.dry_run:
        output.next_step(f"tmad cert release {effect.serial:x}")


@cert.command("release")
@click.argument("serial")
@_authority
@with_core
async def release(core: Session, serial: str, authority: str) -> None:
    """Take a hold back; any other revocation is for ever."""
    found = await core.inventory.find(core.actor, core.tenant, serial, authority=authority)
    effect = await core.services.revocation.release(
        core.actor, core.tenant, found.row.issuer_id, found.row.serial, dry_run=core.dry_run
    )
    _show_effects(core, [effect])


def _show_effects(core: Session, effects: list[Effect]) -> None:
    changed = [effect for effect in effects if effect.has_changed]
    if not changed:
        nothing_to_do("it is so already")
    output.rows(
        [
            {
                "serial": f"{effect.serial:x}",
                "subject": effect.subject,
                "was": effect.before.state,
                "would be" if core.dry_run else "is": effect.after.state,
                "reason": effect.after.reason.name.lower() if effect.after.reason else "",
            }
            for effect in changed
        ],
        name="serial",
    )


def _summary(row: CertificateRow) -> dict[str, Any]:
    if row.revoked_at is not None:
        status = "hold" if row.reason == 6 else "revoked"  # RFC 5280, 5.3.1: certificateHold
    else:
        status = row.state if row.state in ("void", "intent") else "good"
    return {
        "id": row.id,
        "serial": f"{row.serial:x}",
        "subject": row.subject,
        "status": status,
        "state": row.state,
        "profile": row.profile,
        "profile_revision": row.profile_revision,
        "endpoint": row.endpoint,
        "via": row.via,
        "owner": row.owner,
        "not_before": row.not_before,
        "not_after": row.not_after,
        "revoked_at": row.revoked_at,
        "reason": row.reason,
        "sha256": row.sha256.hex() if row.sha256 else None,
        "request": row.request_id,
    }


def _encoded(found: Found, form: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    certificate = found.certificate
    match form:
        case "der":
            return certificate.public_bytes(Encoding.DER)
        case "chain":
            everything = (certificate, *found.chain)
            return b"".join(one.public_bytes(Encoding.PEM) for one in everything)
        case "p7b":
            return pkcs7.serialize_certificates([certificate, *found.chain], Encoding.PEM)
        case _:
            return certificate.public_bytes(Encoding.PEM)


def _read_csr(file: BinaryIO) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    from tmad.wire import csr, parsing, signatures

    data = file.read(_CSR_OCTETS)
    if b"-----BEGIN " in data:
        try:
            data = parsing.request(data).public_bytes(Encoding.DER)
        except ValueError as error:
            usage(f"not a certificate request: {error}")
    return csr.decode(data, signatures.Policy())


def _make_key(algorithm: str) -> Any:
    from tmad.signer import algorithms

    return algorithms.generate(algorithms.KeyAlgorithm(algorithm))


def _general_name(text: str) -> x509.GeneralName:
    from tmad.wire import generalnames

    kind, separator, name = text.partition(":")
    if not separator:
        kind, name = "dns", text
    try:
        found = generalnames.of_kind(kind, name)
    except ValueError as error:
        usage(f"{text!r} is no name: {error}")
    if found is None:
        usage(f"{text!r} is no name", "dns:, ip:, email: or uri: first")
    return found


def _check_free(out: Path, name: str, with_key: bool) -> None:
    suffixes = ("key", "crt", "chain.pem") if with_key else ("crt", "chain.pem")
    for suffix in suffixes:
        if (out / f"{name}.{suffix}").exists():
            usage(f"{out / name}.{suffix} exists", "--out names another directory")


async def _hand_out(core: Session, issued: Issued, name: str, key: Any, out: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    certificate = issued.certificate
    ends = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if core.dry_run:
        output.say(f"would issue {certificate.subject.rfc4514_string()} until {ends}")
        return
    issuer = await core.services.hierarchy.by_id(issued.issuer_id)
    own = certificate.public_bytes(Encoding.PEM)
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in issuer.chain)
    key_pem = (
        b"" if key is None else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    _write_files(out, name, key_pem, own, own + chain)
    output.say(f"  cert    {out / name}.crt    chain: {out / name}.chain.pem")
    output.record(
        {
            "serial": f"{certificate.serial_number:x}",
            "subject": certificate.subject.rfc4514_string(),
            "authority": issuer.authority,
            "not_after": certificate.not_valid_after_utc,
        },
        name="serial",
    )
    output.next_step(f"tmad cert revoke {certificate.serial_number:x}   when it is not needed")


def _write_files(out: Path, name: str, key_pem: bytes, own: bytes, chain: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if key_pem:
        write_private(out / f"{name}.key", key_pem)
        output.say(f"  key     {out / name}.key    made here, never sent")
    (out / f"{name}.crt").write_bytes(own)
    (out / f"{name}.chain.pem").write_bytes(chain)
