"""``tmad quickstart``: a whole CA on this machine in one command, and a demonstration of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import click

from tmad.cli import init, output, tour
from tmad.cli.context import REFUSED, UNREACHABLE, Ended, program
from tmad.events import Secret

PORTS = {
    "http": 8080,
    "https": 8443,
    "https_client": 8444,
    "ops": 9464,
    "radius": 1812,
    "radius_accounting": 1813,
    "snmp": 1161,
    "ldap": 3389,
    "ldaps": 6636,
}
_HOST = "127.0.0.1"
_CLIENT = "quickstart"
_DIRECTORY = "quickstart"

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


@click.command()
@click.option(
    "--dir", "directory", default="quickstart-data", show_default=True,
    type=click.Path(file_okay=False, path_type=Path), help="Where everything is kept.",
)  # fmt: skip
@click.option("--demo", is_flag=True, help="Enrol a device, check, revoke, check again, end.")
def quickstart(directory: Path, demo: bool) -> None:
    """Try everything on this machine: loopback, unprivileged ports, SQLite, software keys.

    Keeps running until Ctrl-C; a second run continues with the same CA.
    """
    directory = directory.resolve()
    settings = directory / "tmad.toml"
    if not _is_set_up(settings):
        _set_up(directory, settings)
    urls = _urls(settings)
    shared = _radius_secret(settings)
    _publish(settings)
    if demo:
        demonstrate(settings, directory, urls, shared)
        return
    tour.show(
        tour.Node(
            config=f"{program()} --config {settings}",
            directory=directory,
            urls=urls,
            radius_secret=shared,
            snmp=_snmp_user(settings),
        ),
        secrets={name: _secret(settings, name, device) for name, device in tour.DEVICES.items()},
    )
    # The daemon takes this process over: Ctrl-C reaches it and nothing else.
    sys.stdout.flush()
    os.execv(sys.executable, _command(settings, "run"))  # noqa: S606  our own program


def demonstrate(settings: Path, directory: Path, urls: Mapping[str, str], shared: Secret) -> None:
    """Show one certificate's life through the real doors; Fault or Ended when a step fails."""
    from tmad.cli import supplicant
    from tmad.cli.demo import Device
    from tmad.errors import Fault, FaultCode

    name = f"demo-{int(time.time()):x}"
    with _daemon(settings, directory, urls):
        door = f"{urls['http']}/scep/{init.LABEL}"
        secret = Secret(
            _tmad(
                settings,
                "enroll-secret",
                "create",
                *("--endpoint", f"scep/{init.LABEL}", "--subject", f"CN={name}", "-o", "name"),
            ).strip()
        )
        output.say(f"  secret  one-time, good for CN={name}")
        device = Device(door, name)
        certificate = device.enroll(secret)
        serial = f"{certificate.serial_number:x}"
        output.say(f"  SCEP    enrolled at {door}: serial {serial}")
        try:
            Device(door, name).enroll(secret)
        except Fault as fault:
            output.say(f"  SCEP    the same secret again is refused: {fault.detail}")
        else:
            raise Fault(FaultCode.INTERNAL, "a one-time secret worked twice")
        asked = {"OCSP": device.ask_ocsp, "CRL": device.ask_crl}
        for expected in ("good", "revoked"):
            for how, ask in asked.items():
                status = ask(certificate)
                since = f" since {status.since:%H:%M:%S} UTC" if status.since else ""
                output.say(f"  {how:6}  {status.state}{since}")
                if status.state != expected:
                    raise Fault(FaultCode.INTERNAL, f"{how} should say {expected}")
            if not supplicant.is_here():
                say = "not shown" if expected == "good" else "not shown either"
                output.say(f"  RADIUS  {say}: eapol_test is not installed (Debian: eapoltest)")
            else:
                joins = supplicant.log_in(
                    urls["radius"], shared, name=name, certificate=certificate, key=device.key,
                    authority=directory / f"{init.ROOT}.pem",
                )  # fmt: skip
                said = "accepted" if joins else "refused"
                output.say(f"  RADIUS  EAP-TLS login at {urls['radius']}: {said}")
                if joins is not (expected == "good"):
                    raise Fault(FaultCode.INTERNAL, "the login should have ended otherwise")
            if expected == "good":
                _tmad(settings, "cert", "revoke", serial, "--reason", "key-compromise")
                output.say("  revoke  tmad cert revoke: key compromise")
    output.say("done: the very next OCSP answer, CRL and login refused the revoked certificate")
    output.next_step("./quickstart" if Path("quickstart").is_file() else "tmad quickstart")


def _urls(settings: Path) -> dict[str, str]:
    from tmad.config import NodeSettings

    loaded = NodeSettings.load(settings)
    listen = loaded.listen
    radius = loaded.protocols.get("radius", {})
    ldap = loaded.protocols.get("ldap", {})
    snmp = loaded.protocols.get("snmp", {})
    return {
        "snmp": str(snmp.get("listen", [f"{_HOST}:{PORTS['snmp']}"])[0]),
        "radius": str(radius.get("auth", [f"{_HOST}:{PORTS['radius']}"])[0]),
        "ldap": "ldap://" + str(ldap.get("listen", [f"{_HOST}:{PORTS['ldap']}"])[0]),
        "http": f"http://{listen.http[0]}",
        "https": f"https://{listen.https[0]}",
        "https_client": f"https://{listen.https_client[0]}",
        "ops": f"http://{listen.ops[0]}",
    }


def _radius_secret(settings: Path) -> Secret:
    """Let this machine ask over RADIUS; return a fresh shared secret, the old one goes on."""
    present = _tmad(settings, "radius-client", "list", "-o", "name").split()
    command = ["rotate", _CLIENT]
    if _CLIENT not in present:
        methods = ("--method", "eap-tls", "--method", "pap")
        command = ["create", _CLIENT, "--prefix", f"{_HOST}/32", *methods]
    answer = json.loads(_tmad(settings, "radius-client", *command, "-o", "json"))
    return Secret(answer["secret"])


def _snmp_user(settings: Path) -> dict[str, str]:
    """Let somebody ask over SNMPv3; return the user with its passphrases, fresh ones."""
    if _CLIENT in _tmad(settings, "snmp", "user", "list", "-o", "name").split():
        _tmad(settings, "snmp", "user", "remove", _CLIENT)
    answer: dict[str, str] = json.loads(
        _tmad(settings, "snmp", "user", "add", _CLIENT, "-o", "json")
    )
    return answer


def _is_set_up(settings: Path) -> bool:
    """Tell whether there is a node with every endpoint; earlier quickstarts had fewer."""
    if not settings.exists():
        return False
    doors = {f"{each}-{init.LABEL}" for each in init.DOORS}
    return doors <= set(_tmad(settings, "endpoint", "list", "-o", "name").split())


def _set_up(directory: Path, settings: Path) -> None:
    ports = _free_ports()
    _tmad(
        None,
        "init",
        *("--dir", str(directory), "--name", "Quickstart", "--host", "localhost"),
        *("--public-url", f"http://{_HOST}:{ports['http']}"),
        *(word for each in init.DOORS for word in ("--enroll", each)),
        *(f"--{name.replace('_', '-')}={_HOST}:{port}" for name, port in ports.items()),
        shown=True,
    )
    # By itself ACME asks nobody on loopback or inside, and here there is nobody else.
    _tmad(
        settings,
        *("endpoint", "set", f"acme/{init.LABEL}"),
        f'options.validation.allowed_networks=["{_HOST}/32"]',
        f"options.validation.http_port={tour.VALIDATION_PORT}",
    )


def _secret(settings: Path, protocol: str, device: str) -> tuple[str, Secret]:
    """Return a fresh one-time secret for a device, and its reference."""
    words = ["--endpoint", f"{protocol}/{init.LABEL}", "--subject", f"CN={device}"]
    if protocol == "cmp":
        words.append("--recoverable")
    made = json.loads(_tmad(settings, "enroll-secret", "create", *words, "-o", "json"))
    return made["id"], Secret(made["secret"])


def _publish(settings: Path) -> None:
    """Let mail programs find people's certificates by their addresses."""
    if _DIRECTORY not in _tmad(settings, "directory", "list", "-o", "name").split():
        _tmad(settings, "directory", "create", _DIRECTORY, tour.SUFFIX, "--anonymous", "by-mail")


def _free_ports() -> dict[str, int]:
    """Return the usual ports, or others for those that are taken."""
    found: dict[str, int] = {}
    for name, usual in PORTS.items():
        port = next(p for p in range(usual, 65_536) if p not in found.values() and _is_free(p))
        if port != usual:
            output.say(f"  port {usual} is taken; {name.replace('_', ' ')} is at {port}")
        found[name] = port
    return found


def _is_free(port: int) -> bool:
    """Tell whether nobody listens there, neither by TCP nor by UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                # Not for UDP: there it lets two have the same address.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                return False
    return True


def _command(settings: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tmad.cli.main", "--config", str(settings), *arguments]


def _tmad(settings: Path | None, *arguments: str, shown: bool = False) -> str:
    """Run another tmad command and return what it printed; end as it ended when it failed.

    In a fork: the start of a process of its own takes longer than most commands do.
    """
    import tmad.service  # noqa: F401  what takes long is imported before the first fork

    config = [] if settings is None else ["--config", str(settings)]
    sys.stdout.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _become(None if shown else (out.fileno(), err.fileno()), [*config, *arguments])
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    if code := os.waitstatus_to_exitcode(status):
        raise Ended(code, texts[1].strip() or f"tmad {arguments[0]} failed")
    return texts[0]


def _become(outputs: tuple[int, int] | None, arguments: list[str]) -> NoReturn:
    """Run a command in this process, a fork, and end it."""
    from tmad.cli.main import exit_code

    code = REFUSED
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, descriptor in enumerate(outputs or (), 1):
            os.dup2(descriptor, number)
        code = exit_code(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # What the parent would do at its end is not this one's to do.
        os._exit(code)


@contextmanager
def _daemon(settings: Path, directory: Path, urls: Mapping[str, str]) -> Iterator[None]:
    """Run the daemon as a child, its log beside the data, until the block ends."""
    log_path = directory / "demo.log"
    with log_path.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(  # noqa: S603  our own program
            _command(settings, "run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _wait_until_ready(child, urls["http"], log_path)
            output.say(f"  daemon  runs as process {child.pid}, log in {log_path}")
            yield
        finally:
            _stop(child, log)


def _stop(child: subprocess.Popen[bytes], log: IO[str]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        log.write("killed: it did not stop when told to\n")


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-3:])
    raise Ended(UNREACHABLE, f"the daemon did not start:\n{tail}", f"the whole log: {log}")
