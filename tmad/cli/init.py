"""``tmad init``: the first set-up of a node, in one command that can be repeated."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, in_session, nothing_to_do, program, run, usage
from tmad.cli.files import write_private
from tmad.errors import Fault, FaultCode

if TYPE_CHECKING:
    from tmad.config import NodeSettings

ROOT = "root"
ISSUING = "issuing"
TENANT = "default"
LABEL = "default"
DEVICE_PROFILE = "device"
SERVER_PROFILE = "tls-server"
POLICY = "default"
CLIENT_PROFILES = ("wifi-client", "user", "device")

# What can be opened for enrolment, and what an endpoint of it says besides.
_ONE_TIME = "Devices with a one-time secret; they renew by their certificate."
_SHARED = {"challenge": {"recoverable": True}, "profile": DEVICE_PROFILE, "description": _ONE_TIME}
DOORS: Mapping[str, Mapping[str, Any]] = {
    "scep": {"profile": DEVICE_PROFILE, "description": _ONE_TIME},
    "est": {"profile": DEVICE_PROFILE, "description": _ONE_TIME},
    "cmp": _SHARED,
    "cmc": _SHARED,
    "acme": {
        "profile": SERVER_PROFILE,
        "authenticate": ["acme"],
        "challenge": {"recoverable": True},
        "description": "Servers that show control of their names.",
    },
}

_ROOT_YEARS = 20
_ISSUING_YEARS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line says about the node."""

    directory: Path
    name: str
    host: str
    database: str = ""
    public_url: str = ""
    store: str = "soft"
    module: str = ""
    token: str = ""
    pin_file: str = ""
    listen: tuple[tuple[str, str], ...] = ()  # ("http", "0.0.0.0:80")
    doors: tuple[tuple[str, str, str], ...] = ()  # ("radius", "auth", "127.0.0.1:1812")
    enroll: tuple[str, ...] = ("scep",)

    @property
    def settings(self) -> Path:
        return self.directory / "tmad.toml"


class Report:
    """Says each thing that is made, and remembers whether anything was."""

    def __init__(self) -> None:
        self.changed = False

    def made(self, text: str) -> None:
        self.changed = True
        output.say(f"  made   {text}")

    def wrote(self, path: Path, what: str) -> None:
        self.changed = True
        output.say(f"  wrote  {path}   {what}")


@click.command()
@click.option(
    "--dir", "directory", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Where settings, master key and SQLite database lie.",
)  # fmt: skip
@click.option("--name", required=True, help="The organisation, as the certificates say it.")
@click.option("--host", required=True, help="The host name under which clients reach this node.")
@click.option("--db", "database", default="", help="postgresql://…; else SQLite in the directory.")
@click.option("--public-url", default="", help="Base of the http URLs in certificates.")
@click.option("--keys", "store", type=click.Choice(["soft", "pkcs11"]), default="soft")
@click.option("--pkcs11-module", "module", default="", help="The token maker's library.")
@click.option("--pkcs11-token", "token", default="", help="The token's label.")
@click.option("--pin-file", default="", help="File with the token's user PIN, mode 0600.")
@click.option(
    "--enroll", multiple=True, type=click.Choice(tuple(DOORS)), default=("scep",),
    show_default=True, help="Open this protocol's endpoint \"default\"; may be repeated.",
)  # fmt: skip
@click.option("--http", metavar="[HOST:]PORT", help="Plain HTTP: SCEP, OCSP, CRL.")
@click.option("--https", metavar="[HOST:]PORT")
@click.option("--https-client", metavar="[HOST:]PORT", help="HTTPS with client certificates.")
@click.option("--ops", metavar="[HOST:]PORT", help="Metrics and health; on loopback.")
@click.option("--radius", metavar="[HOST:]PORT", help="RADIUS authentication; on loopback.")
@click.option("--radius-accounting", metavar="[HOST:]PORT", help="RADIUS accounting; on loopback.")
@click.option("--snmp", metavar="[HOST:]PORT", help="SNMP agent; on loopback.")
@click.option("--ldap", metavar="[HOST:]PORT", help="LDAP with StartTLS; on loopback.")
@click.option("--ldaps", metavar="[HOST:]PORT", help="LDAP over TLS; on loopback.")
def init(
    directory: Path,
    name: str,
    host: str,
    database: str,
    public_url: str,
    store: str,
    module: str,
    token: str,
    pin_file: str,
    enroll: tuple[str, ...],
    http: str | None,
    https: str | None,
    https_client: str | None,
    ops: str | None,
    radius: str | None,
    radius_accounting: str | None,
    snmp: str | None,
    ldap: str | None,
    ldaps: str | None,
) -> None:
    """Set up this node: settings, master key, database, root and issuing CA, endpoints.

    It never asks. Repeated, it makes only what is missing.
    """
    if store == "pkcs11" and not (module and token and pin_file):
        usage("--keys pkcs11 needs --pkcs11-module, --pkcs11-token and --pin-file")
    root = os.geteuid() == 0
    given = {
        "http": _listening(http or ("80" if root else "8080"), "0.0.0.0"),  # noqa: S104  a server
        "https": _listening(https or ("443" if root else "8443"), "0.0.0.0"),  # noqa: S104
        "https_client": _listening(https_client or "8444", "0.0.0.0"),  # noqa: S104
        "ops": _listening(ops or "9464", "127.0.0.1"),
    }
    doors = {
        ("radius", "auth"): radius,
        ("radius", "accounting"): radius_accounting,
        ("snmp", "listen"): snmp,
        ("ldap", "listen"): ldap,
        ("ldap", "tls"): ldaps,
    }
    plan = Plan(
        directory=directory.resolve(),
        name=name,
        host=host,
        database=database,
        public_url=public_url,
        store=store,
        module=module,
        token=token,
        pin_file=pin_file,
        listen=tuple(given.items()),
        doors=tuple(
            (protocol, key, _listening(text, "127.0.0.1"))
            for (protocol, key), text in doors.items()
            if text
        ),
        enroll=enroll,
    )
    output.say(f"tmad set-up of {plan.directory}")
    if not set_up(plan):
        nothing_to_do(f"{plan.directory} is set up")


def set_up(plan: Plan) -> bool:
    """Make what is missing of a plan, print it, and tell whether anything was."""
    from tmad.config import NodeSettings

    report = Report()
    _write_settings(plan, report)
    settings = NodeSettings.load(plan.settings)
    _make_master_key(settings, report)
    _migrate(settings, report)
    run(functools.partial(in_session, settings, functools.partial(_fill, plan, report)))
    return report.changed


def _listening(text: str, host: str) -> str:
    return text if ":" in text else f"{host}:{text}"


def _write_settings(plan: Plan, report: Report) -> None:
    if plan.settings.exists():
        return
    from tmad import documents

    tree: dict[str, Any] = {
        "node": {"host": plan.host, "data": "."},
        "listen": {name: [address] for name, address in plan.listen},
    }
    if plan.public_url:
        tree["node"]["public_url"] = plan.public_url
    if plan.database:
        tree["database"] = {"url": plan.database}
    for protocol, key, address in plan.doors:
        tree.setdefault("protocols", {}).setdefault(protocol, {})[key] = [address]
    if plan.store == "pkcs11":
        tree["keyring"] = {
            "store": "pkcs11",
            "pkcs11": {
                "module": str(Path(plan.module).resolve()),
                "token_label": plan.token,
                "pin_file": str(Path(plan.pin_file).resolve()),
            },
        }
    head = (
        "# Settings of this node. Every other one has a default: docs/configuration.md\n"
        "# `tmad check-config` names every mistake. No secret stands here.\n\n"
    )
    plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(plan.settings, (head + documents.to_toml(tree)).encode())
    report.wrote(plan.settings, "settings of this node")


def _make_master_key(settings: NodeSettings, report: Report) -> None:
    from tmad.service import master_source
    from tmad.signer.seal import PassphraseFile, Seal

    if settings.master_file.exists():
        return
    source = master_source(settings)
    path = settings.keyring.passphrase_file
    if isinstance(source, PassphraseFile) and not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode() + b"\n")
        report.wrote(path, "opens the master key: keep a copy apart from the database")
        # What a person writes there needs slow stretching; 256 random bits need none, and each
        # command and worker would wait for it (50 ms with 1 << 14).
        source = PassphraseFile(path, work=1 << 10)
    settings.node.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    Seal.create(settings.master_file, source)
    report.wrote(settings.master_file, "master key, sealed")


def _migrate(settings: NodeSettings, report: Report) -> None:
    from tmad.service import database_url
    from tmad.storage.database import migrate

    before, after = migrate(database_url(settings))
    if before != after:
        report.made(f"database schema {after}")


async def _fill(plan: Plan, report: Report, core: Session) -> None:
    """Make the tenant, the profiles, the authorities and the endpoint that are missing."""
    await _make_tenant(plan, report, core)
    await _make_profiles(report, core)
    await _make_authorities(plan, report, core)
    for protocol in plan.enroll:
        await _make_endpoint(report, core, protocol)
    await _make_policy(report, core)
    if report.changed:
        await _tell_what_next(plan, core)


async def _make_tenant(plan: Plan, report: Report, core: Session) -> None:
    from tmad.identity.actors import EVERY_TENANT

    if TENANT not in {tenant.name for tenant in await core.objects.visible_tenants(core.actor)}:
        await core.objects.put(
            core.actor, EVERY_TENANT, "tenant", TENANT, {"description": plan.name}, expect=0
        )
        report.made(f"tenant {TENANT}")


async def _make_profiles(report: Report, core: Session) -> None:
    from tmad.cli import shipped

    present = {
        stored.name for stored in await core.objects.list(core.actor, TENANT, "profile", limit=500)
    }
    missing = {name: path for name, path in shipped.profiles().items() if name not in present}
    for name, path in missing.items():
        await core.objects.put(
            core.actor, TENANT, "profile", name, shipped.document(path), expect=0
        )
    if missing:
        report.made(f"{len(missing)} profiles: {', '.join(missing)}")


async def _make_authorities(plan: Plan, report: Report, core: Session) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    from tmad.signer.algorithms import KeyAlgorithm

    for name, text, algorithm, parent, years in (
        (ROOT, "Root R1", KeyAlgorithm.P384, None, _ROOT_YEARS),
        (ISSUING, "Issuing CA 1", KeyAlgorithm.P256, ROOT, _ISSUING_YEARS),
    ):
        if await _is_there(core, name):
            continue
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, plan.name),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{plan.name} {text}"),
            ]
        )
        issuer = await core.ceremony.create(
            core.actor,
            TENANT,
            name,
            subject=subject,
            algorithm=algorithm,
            parent=parent,
            lifetime=timedelta(days=365 * years),
        )
        until = issuer.certificate.not_valid_after_utc
        signed = f"signed by {parent}" if parent else "self-signed"
        kind = f"{algorithm.value} key ({plan.store})"
        report.made(f"authority {name}   {kind}, {signed}, until {until:%Y-%m-%d}")
        await core.services.crls.build(core.actor, TENANT, name)
        await core.services.service_certificates.current("ocsp", str(issuer.id))
        report.made(f"the first CRL and the OCSP signer of {name}")
        path = plan.directory / f"{name}.pem"
        path.write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
        report.wrote(path, "certificate, for clients to trust")


async def _is_there(core: Session, authority: str) -> bool:
    try:
        await core.services.hierarchy.active(TENANT, authority)
    except Fault as fault:
        if fault.code is FaultCode.NOT_FOUND:
            return False
        raise
    return True


async def _make_endpoint(report: Report, core: Session, protocol: str) -> None:
    name = f"{protocol}/{LABEL}"
    if await core.objects.load_by_handle("endpoint", name) is not None:
        return
    document = {"protocol": protocol, "label": LABEL, "authority": ISSUING, **DOORS[protocol]}
    await core.objects.put(
        core.actor, TENANT, "endpoint", f"{protocol}-{LABEL}", document, expect=0
    )
    if protocol == "scep":
        await core.services.service_certificates.current("scep-ra", name)
    report.made(f"endpoint {name}   {document['description']}")


async def _make_policy(report: Report, core: Session) -> None:
    """Let the certificates of clients join the network, where no policy says who may."""
    if await core.objects.list(core.actor, TENANT, "radius-policy", limit=1):
        return
    await core.objects.put(
        core.actor,
        TENANT,
        "radius-policy",
        POLICY,
        {
            "description": "Good certificates of clients may join, without a VLAN.",
            "rules": [{"name": "clients", "when": {"profiles": list(CLIENT_PROFILES)}}],
        },
        expect=0,
    )
    report.made(f"radius-policy {POLICY}   certificates of {', '.join(CLIENT_PROFILES)} may join")


async def _tell_what_next(plan: Plan, core: Session) -> None:
    from cryptography.hazmat.primitives import hashes

    issuer = await core.services.hierarchy.active(TENANT, ROOT)
    digest = issuer.certificate.fingerprint(hashes.SHA256()).hex(" ").upper()
    output.say("")
    output.say(f"  Root SHA-256   {digest}")
    output.say("")
    config = f"--config {plan.settings}"
    output.next_step(
        f"{program()} {config} run",
        *(
            f"{program()} {config} enroll-secret create --endpoint {each}/{LABEL} --subject CN=NAME"
            for each in plan.enroll[:1]
            if each != "acme"
        ),
        f"{program()} {config} status",
    )
    if plan.store == "soft":
        output.say(
            "advice  the keys lie on this machine: keep copies of the passphrase and the database,"
            " not in one place"
        )
