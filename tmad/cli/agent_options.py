"""Options of ``tmad agent enroll`` and ``adopt``, and the settings that they mean."""

from __future__ import annotations

import contextlib
import grp
import pwd
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tmad.cli.context import usage
from tmad.cli.times import Lifetime

if TYPE_CHECKING:
    from tmad.agent.settings import CertificateSettings
    from tmad.agent.store import Store

_FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
directory_option = click.option(
    "--dir", "directory", type=click.Path(file_okay=False, path_type=Path),
    help="Where the agent keeps its certificates; else $TMAD_AGENT_DIR, /var/lib/tmad-agent.",
)  # fmt: skip

SOURCE = (
    click.option("--est", metavar="URL", help="EST: https://HOST:8444/.well-known/est/LABEL"),
    click.option("--acme", metavar="URL", help="ACME: its directory, https://HOST/…/directory"),
    click.option("--scep", metavar="URL", help="SCEP: http://HOST/scep/LABEL"),
    click.option("--scep-legacy", is_flag=True, help="SCEP: take answers signed with SHA-1."),
    click.option("--trust", type=EXISTING, help="PEM file of the CA that the server is known by."),
    click.option("--fingerprint", metavar="SHA256", help="EST: fetch that CA, known by this."),
    click.option("--user", default="", help="EST: name for the first time; else NAME."),
    click.option("--secret-file", type=EXISTING, help="EST, SCEP: password for the first time."),
    click.option("--contact", multiple=True, metavar="MAIL", help="ACME: whom to write to."),
    click.option("--agree", is_flag=True, help="ACME: the server's terms are agreed to."),
    click.option("--acme-profile", default="", help="ACME: which of the server's profiles."),
    click.option("--eab-kid", default="", help="ACME: id of the external account."),
    click.option("--eab-key-file", type=EXISTING, help="ACME: its key in base64url."),
    click.option("--listen", default="", metavar="ADDR:PORT", help="ACME: answer http-01 here."),
    click.option("--webroot", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="ACME: answer http-01 by files of a web server."),
    click.option("--dns-hook", default="", metavar="COMMAND",
                 help="ACME: answer dns-01 by a program, called as lego's exec provider."),
    click.option("--dns-wait", type=float, default=0.0, metavar="SECONDS",
                 help="ACME: until a new record is seen everywhere."),
    click.option("--report", metavar="URL", help='https://HOST:8444/agent; "": none.'),
)  # fmt: skip
PLACES = (
    click.option("--link", type=_FILE, help="A link to a directory with all; changes at once."),
    click.option("--key-out", type=_FILE, help="Where the key goes."),
    click.option("--cert-out", type=_FILE, help="Where the certificate alone goes."),
    click.option("--chain-out", type=_FILE, help="Where the authorities go."),
    click.option("--fullchain-out", type=_FILE, help="Where certificate and authorities go."),
    click.option("--bundle-out", type=_FILE, help="Where key, certificate and authorities go."),
    click.option("--pkcs12-out", type=_FILE, help="Where all goes as PKCS#12."),
    click.option("--pkcs12-password-file", type=EXISTING, help="Its password."),
    click.option("--owner", default="", metavar="USER[:GROUP]", help="Whose the files are."),
    click.option("--key-mode", help="Mode of files with keys; else 0600, or as it was."),
    click.option("--reload", "reload_", default="", metavar="COMMAND",
                 help="What makes the service read them; words as a shell splits them."),
    click.option("--reload-seconds", type=float, default=30.0, show_default=True),
    click.option("--check", default="", metavar="HOST:PORT", help="Where the service shows it."),
)  # fmt: skip
RENEWAL = (
    click.option("--renew-before", type=Lifetime("mhdw"), help="Before the end; else a third."),
    click.option("--spread", type=Lifetime("mhdw"), help="Up to so much earlier, by chance."),
    click.option("--same-key", is_flag=True, help="Keep the key when renewing."),
    click.option("--if-revoked", type=click.Choice(["stop", "enroll"]), default="stop",
                 show_default=True, help="What to do when it was revoked."),
)  # fmt: skip


def equipped(*decorators: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """Give a command these options, in their order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed([each for group in decorators for each in group]):
            function = decorator(function)
        return function

    return decorate


FILES = {
    "key_out": "key", "cert_out": "certificate", "chain_out": "chain",
    "fullchain_out": "fullchain", "bundle_out": "bundle", "pkcs12_out": "pkcs12",
}  # fmt: skip


def document_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the options say, as the file would hold them."""
    document: dict[str, Any] = {"trust": _path(given["trust"])}
    if given["est"]:
        document["est"] = {
            "url": given["est"], "user": given["user"] or name,
            "secret_file": _path(given["secret_file"]),
        }  # fmt: skip
    if given["acme"]:
        document["acme"] = {
            "directory": given["acme"], "contact": [_mail(each) for each in given["contact"]],
            "agrees": given["agree"], "profile": given["acme_profile"],
            "eab_kid": given["eab_kid"], "eab_key_file": _path(given["eab_key_file"]),
            "listen": given["listen"], "webroot": _path(given["webroot"]),
            "dns_hook": _words("--dns-hook", given["dns_hook"]),
            "dns_wait_seconds": given["dns_wait"],
        }  # fmt: skip
    if given["scep"]:
        document["scep"] = {
            "url": given["scep"], "legacy": given["scep_legacy"],
            "secret_file": _path(given["secret_file"]),
        }  # fmt: skip
    document["report"] = given["report"] or ""
    user, _, group = given["owner"].partition(":")
    place = {kind: _path(given[option]) for option, kind in FILES.items() if given[option]}
    if given["link"]:
        place["directory"] = _path(given["link"])
    if given["pkcs12_password_file"]:
        place["pkcs12_password_file"] = _path(given["pkcs12_password_file"])
    document["place"] = {**place, "user": user, "group": group}
    if given["key_mode"]:
        document["place"]["key_mode"] = given["key_mode"]
    command = _words("--reload", given["reload_"])
    document["reload"] = {"command": command, "seconds": given["reload_seconds"]}
    document["check"] = {"address": given["check"]}
    document["renewal"] = {"new_key": not given["same_key"], "revoked": given["if_revoked"]}
    if given["renew_before"]:
        document["renewal"]["before_days"] = given["renew_before"] / timedelta(days=1)
    if given["spread"] is not None:
        document["renewal"]["spread_hours"] = given["spread"] / timedelta(hours=1)
    return document


def checked(document: dict[str, Any]) -> CertificateSettings:
    """Return the settings; end with exit code 1 and every mistake."""
    from tmad import documents
    from tmad.agent import identity as identities
    from tmad.agent.settings import CertificateSettings
    from tmad.errors import Fault

    try:
        settings = documents.parse(CertificateSettings, document)
        for each in settings.names:
            identities.general_name(each)
    except Fault as fault:
        usage(fault.detail, "tmad agent enroll --help says what each option means")
    return settings


def with_anchor(
    store: Store, settings: CertificateSettings, given: dict[str, Any]
) -> CertificateSettings:
    """Fetch the CA that the fingerprint names, if there is one."""
    if not given["fingerprint"]:
        return settings
    from tmad.agent import est, files

    digits = given["fingerprint"].replace(":", "").replace(" ", "")
    if settings.est is None or settings.trust:
        usage("--fingerprint is for EST, and instead of --trust")
    if len(digits) != 64 or set(digits.lower()) - set("0123456789abcdef"):
        usage("--fingerprint is a SHA-256: 64 hexadecimal digits")
    path = store.directory / "trust.pem"
    files.write(path, est.anchor(settings.est.url, digits), mode=0o644)
    return settings.model_copy(update={"trust": str(path.absolute())})


def own_name(document: dict[str, Any], name: str) -> list[str]:
    """Return the name itself as a host name, where only that can be meant."""
    return [f"dns:{name}"] if "." in name and document.get("acme") else []


def same_places(
    place: dict[str, Any], certificate: Path, key: Path, chain: Path | None, is_full: bool
) -> None:
    """Let the files that were adopted be the places, with the owners and modes that they have.

    Links are followed, not replaced.
    """
    if certificate.resolve() == key.resolve():
        place["bundle"] = str(key.resolve())
    else:
        place["fullchain" if is_full else "certificate"] = str(certificate.resolve())
        place["key"] = str(key.resolve())
    if chain is not None:
        place["chain"] = str(chain.resolve())
    status = key.stat()
    place.setdefault("key_mode", f"{status.st_mode & 0o777:04o}")
    place.setdefault("mode", f"{certificate.stat().st_mode & 0o777:04o}")
    if not (place["user"] or place["group"]):
        with contextlib.suppress(KeyError):  # whose name nobody knows stays a number
            place["user"] = pwd.getpwuid(status.st_uid).pw_name
            place["group"] = grp.getgrgid(status.st_gid).gr_name


def _path(given: Path | None) -> str:
    return "" if given is None else str(given.absolute())


def _mail(text: str) -> str:
    return text if ":" in text else f"mailto:{text}"


def _words(option: str, text: str) -> list[str]:
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        usage(f"{option}: {error}")
