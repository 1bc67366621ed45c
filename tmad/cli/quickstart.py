"""``tmad quickstart``: a whole CA on this machine in one command, and a demonstration of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from tmad.cli import init, output
from tmad.cli.context import UNREACHABLE, Ended, program
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
_SUFFIX = "o=quickstart"
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
    if not settings.exists():
        ports = _free_ports()
        _tmad(
            None,
            "init",
            *("--dir", str(directory), "--name", "Quickstart", "--host", "localhost"),
            *("--public-url", f"http://{_HOST}:{ports['http']}"),
            *(f"--{name.replace('_', '-')}={_HOST}:{port}" for name, port in ports.items()),
            shown=True,
        )
    urls = _urls(settings)
    shared = _radius_secret(settings)
    _publish(settings)
    if demo:
        demonstrate(settings, directory, urls, shared)
        return
    _explain(settings, directory, urls, shared, _snmp_user(settings))
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


def _publish(settings: Path) -> None:
    """Let mail programs find people's certificates by their addresses."""
    if _DIRECTORY not in _tmad(settings, "directory", "list", "-o", "name").split():
        _tmad(settings, "directory", "create", _DIRECTORY, _SUFFIX, "--anonymous", "by-mail")


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


def _command(settings: Path | None, *arguments: str) -> list[str]:
    config = [] if settings is None else ["--config", str(settings)]
    return [sys.executable, "-m", "tmad.cli.main", *config, *arguments]


def _tmad(settings: Path | None, *arguments: str, shown: bool = False) -> str:
    """Run another tmad command and return what it printed; end as it ended when it failed."""
    sys.stdout.flush()
    done = subprocess.run(  # noqa: S603  our own program
        _command(settings, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=None if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or "").strip() or f"tmad {arguments[0]} failed"
        raise Ended(done.returncode, said)
    return done.stdout or ""


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


def _explain(
    settings: Path,
    directory: Path,
    urls: Mapping[str, str],
    shared: Secret,
    snmp: Mapping[str, str],
) -> None:
    """Print where everything is, and one line for a client of each protocol."""
    http = urls["http"]
    secret = _tmad(
        settings,
        "enroll-secret",
        "create",
        *("--endpoint", f"scep/{init.LABEL}", "--subject", "CN=device-1", "-o", "name"),
    ).strip()
    radius, word = urls["radius"], shared.reveal().decode()
    port = radius.rpartition(":")[2]
    chain, issuing = directory / "root.pem", directory / "issuing.pem"
    output.say(
        f"""
  SCEP       {http}/scep/{init.LABEL}
  OCSP       {http}/ocsp
  CRL        {http}/crl/{init.ISSUING}.crl   {http}/crl/{init.ROOT}.crl
  CA         {http}/aia/{init.ISSUING}.cer
  HTTPS      {urls["https"]}
  RADIUS     {radius}   shared secret {word}
  SNMP       {urls["snmp"]}   user {snmp["user"]}
  metrics    {urls["ops"]}/metrics

  Try it in another terminal:

  # SCEP: a certificate for a device (strongSwan's pki)
  openssl genrsa -traditional -out device.key 2048
  pki --scepca --url {http}/scep/{init.LABEL} --caout ca --raout ra --outform pem
  pki --scep --url {http}/scep/{init.LABEL} --in device.key --dn "CN=device-1" \\
      --password {secret} --cacert-enc ra.pem --cacert-sig ra.pem --cacert {issuing} \\
      --cacert {chain} --outform pem > device.pem

  # OCSP: is it good?
  openssl ocsp -issuer {issuing} -CAfile {chain} -cert device.pem -url {http}/ocsp

  # CRL
  curl -s {http}/crl/{init.ISSUING}.crl | openssl crl -inform DER -noout -text

  # RADIUS: join the network with it (wpa_supplicant's eapol_test)
  printf 'network={{\n key_mgmt=IEEE8021X\n eap=TLS\n identity="device-1"\n' > device.conf
  printf ' ca_cert="%s"\n client_cert="%s"\n private_key="%s"\n}}\n' \\
      {chain} device.pem device.key >> device.conf
  eapol_test -c device.conf -p {port} -s {word}

  # RADIUS: a person with a password (radtest of freeradius-utils)
  {program()} --config {settings} user create alice --generate
  {program()} --config {settings} radius-policy rule {init.POLICY} people --method pap --person "*"
  radtest alice PASSWORD {radius} 0 {word}

  # SNMP: how is it? (snmpwalk of the package snmp)
  snmpwalk -v3 -l authPriv -u {snmp["user"]} -a SHA-256 -A {snmp["authentication_passphrase"]} \\
      -x AES -X {snmp["privacy_passphrase"]} {urls["snmp"]} 1.3.6.1.2.1.1

  # LDAP: whose certificate is for this address? (ldapsearch of ldap-utils)
  {program()} --config {settings} user create carol --mail carol@example.test
  {program()} --config {settings} cert issue carol --profile user --san email:carol@example.test
  ldapsearch -x -LLL -H {urls["ldap"]} -b {_SUFFIX} mail=carol@example.test

  # revoke it, then ask again
  {program()} --config {settings} cert list
  {program()} --config {settings} cert revoke SERIAL

  Ctrl-C stops the daemon.
"""
    )
