"""Profiles in the hands of what devices have: openssl, strongSwan, nmcli, curl, wpa_supplicant."""

from __future__ import annotations

import base64
import email
import json
import os
import plistlib
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import tree_sitter
import tree_sitter_powershell
from cryptography import x509

from tests.daemon import Daemon
from tests.system.commands import Commands, commands_of

pytestmark = pytest.mark.interop

UNPACKED = Path(os.environ.get("TMAD_UNPACKED", Path.home() / ".cache" / "tmad-tests"))
WIFI = ("--ssid", "Corp Wi-Fi")


@pytest.fixture(scope="module")
def node(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Two workers under a name, with est/phones, and a RADIUS client on loopback."""
    for program in ("openssl", "curl", "pki", "eapol_test", "shellcheck"):
        require_client(program)
    daemon = Daemon(
        tmp_path_factory.mktemp("node"),
        "--host",
        "localhost",
        workers=2,
        settings="\n[protocols.enroll]\nrate = 0\n[protocols.est]\nrate = 0\n",
    )
    daemon.endpoint(
        "phones", "--set", "server_keys=true", "--authenticate", "challenge",
        "--authenticate", "certificate", protocol="est",
    )  # fmt: skip
    daemon.start()
    yield daemon
    daemon.kill()


@pytest.fixture(scope="module")
def tmad(node: Daemon) -> Commands:
    return commands_of(node)


@pytest.fixture(scope="module")
def radius(tmad: Commands) -> str:
    """The secret that this machine shares with the RADIUS server."""
    made = tmad.json("radius-client", "create", "lo", "--prefix", "127.0.0.1/32",
                     "--method", "eap-tls")  # fmt: skip
    return str(made["secret"])


def run(
    folder: Path, *command: str, expect: int | None = 0, data: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command, cwd=folder, input=data, capture_output=True, timeout=90, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert expect is None or done.returncode == expect, (done.stdout + done.stderr).decode()
    return done


def profile(tmad: Commands, folder: Path, endpoint: str, platform: str, *options: str) -> Path:
    """Make a profile by the command line; return the file."""
    path = folder / f"{platform}.profile"
    path.unlink(missing_ok=True)
    if "--subject" not in options:
        options = ("--subject", "CN=alice-phone", *options)
    tmad.run("endpoint", "profile", endpoint, "--platform", platform, "--out", str(path), *options)
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def log_in(node: Daemon, secret: str, folder: Path, block: str) -> None:
    """Log in to the network as wpa_supplicant would, with a network block as it stands."""
    (folder / "wpa.conf").write_text(block)
    done = run(folder, "eapol_test", "-c", "wpa.conf", "-a", "127.0.0.1",
               "-p", str(node.radius_port), "-s", secret, "-t", "20", expect=None)  # fmt: skip
    assert done.stdout.endswith(b"SUCCESS\n"), done.stdout[-3000:].decode(errors="replace")


# -- Apple ----------------------------------------------------------------------------------------


def test_an_apple_profile_is_signed_and_its_scep_payload_enrols(
    node: Daemon, tmad: Commands, tmp_path: Path
) -> None:
    path = profile(tmad, tmp_path, "scep/default", "apple", *WIFI)
    (tmp_path / "root.pem").write_text(node.pem("root").read_text())
    for command in ("cms", "smime"):
        run(tmp_path, "openssl", command, "-verify", "-in", str(path), "-inform", "DER",
            "-CAfile", "root.pem", "-out", "profile.plist")  # fmt: skip
    content = plistlib.loads((tmp_path / "profile.plist").read_bytes())
    altered = path.read_bytes().replace(b"alice-phone", b"alice-phony")
    run(tmp_path, "openssl", "cms", "-verify", "-inform", "DER", "-CAfile", "root.pem",
        data=altered, expect=4)  # fmt: skip
    [payload] = [
        each["PayloadContent"]
        for each in content["PayloadContent"]
        if each["PayloadType"] == "com.apple.security.scep"
    ]
    url = payload["URL"]
    subject = ", ".join(f"{name}={value}" for [[name, value]] in payload["Subject"])
    run(tmp_path, "openssl", "genrsa", "-traditional", "-out", "key.pem", str(payload["Keysize"]))
    run(tmp_path, "pki", "--scepca", "--url", url, "--caout", "ca", "--raout", "ra",
        "--outform", "pem")  # fmt: skip
    (tmp_path / "issuing.pem").write_text(node.pem("issuing").read_text())
    done = run(
        tmp_path, "pki", "--scep", "--url", url, "--in", "key.pem", "--dn", subject,
        "--password", payload["Challenge"], "--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem",
        "--cacert", "issuing.pem", "--cacert", "root.pem", "--outform", "pem",
    )  # fmt: skip
    certificate = x509.load_pem_x509_certificate(done.stdout)
    assert certificate.subject.rfc4514_string() == "CN=alice-phone"


# -- Linux ----------------------------------------------------------------------------------------


def script_of(tmad: Commands, folder: Path, name: str) -> tuple[Path, Path]:
    """Return a script for a device of a name, and the directory of its certificate."""
    place = folder / "etc" / "device"
    place.parent.mkdir(exist_ok=True)
    path = profile(tmad, folder, "est/phones", "shell", "--subject", f"CN={name}", *WIFI,
                   "--name", f"dns:{name}.example.test", "--directory", str(place))  # fmt: skip
    return path, place


def serial(place: Path) -> int:
    found = x509.load_pem_x509_certificate((place / "certificate.pem").read_bytes())
    return found.serial_number


def test_a_script_from_a_link_enrols_joins_and_renews(
    node: Daemon, tmad: Commands, radius: str, tmp_path: Path
) -> None:
    connections, units = tmp_path / "connections", tmp_path / "units"
    for folder in (connections, units, tmp_path / "etc"):
        folder.mkdir()
    place = tmp_path / "etc" / "device"
    options = ("--subject", "CN=laptop-1", "--directory", str(place), *WIFI)
    made = tmad.json("endpoint", "profile", "est/phones", "--platform", "shell", "--link", *options)
    (tmp_path / "root.pem").write_text(node.pem("root").read_text())
    fetch = ("curl", "--silent", "--cacert", "root.pem", "--fail")
    page = run(tmp_path, *fetch, made["link"]).stdout
    assert b"laptop-1" in page
    run(tmp_path, *fetch, "--output", "enroll.sh", f"{made['link']}/file")
    run(tmp_path, *fetch, f"{made['link']}/file", expect=22)
    run(tmp_path, "shellcheck", "--shell=sh", "enroll.sh")
    where = {"TMAD_CONNECTIONS": str(connections), "TMAD_UNITS": str(units)}
    run(tmp_path, "sh", "enroll.sh", **where)
    first = serial(place)
    # What is left on the machine: no secret, and a key that nobody else reads.
    unit = (units / "tmad-localhost.est-phones.service").read_text()
    copy = Path(re.findall(r"^ExecStart=/bin/sh (\S+) renew$", unit, re.MULTILINE)[0])
    assert "secret=''\n" in copy.read_text()
    assert (place / "key.pem").stat().st_mode & 0o777 == 0o600
    [connection] = connections.iterdir()
    assert "ssid=Corp Wi-Fi" in nmcli(connection.read_bytes())
    wpa = profile(tmad, tmp_path, "est/phones", "wpa", *options).read_text()
    log_in(node, radius, tmp_path, wpa)
    # It is not time yet; then it is.
    run(tmp_path, "sh", str(copy), "renew", **where)
    assert serial(place) == first
    run(tmp_path, "sh", str(copy), "renew", "--force", **where)
    assert serial(place) != first
    log_in(node, radius, tmp_path, wpa)
    assert b"already" in run(tmp_path, "sh", "enroll.sh", expect=1, **where).stderr


def test_a_script_works_on_one_device_only(tmad: Commands, tmp_path: Path) -> None:
    script, place = script_of(tmad, tmp_path, "laptop-2")
    run(tmp_path, "sh", str(script), "enroll", "--no-service", TMAD_CONNECTIONS="/nowhere")
    stolen = tmp_path / "stolen.sh"
    stolen.write_bytes(script.read_bytes().replace(str(place).encode(), str(place).encode() + b"2"))
    done = run(tmp_path, "sh", str(stolen), "--no-service", expect=1, TMAD_CONNECTIONS="/nowhere")
    assert b"refused with status 401" in done.stderr
    assert not Path(f"{place}2").exists()


def test_a_script_believes_no_other_authority(tmad: Commands, tmp_path: Path) -> None:
    script, place = script_of(tmad, tmp_path, "laptop-3")
    run(tmp_path, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=other", "-keyout", "other.key",
        "-out", "other.pem")  # fmt: skip
    other = (tmp_path / "other.pem").read_bytes()
    text = script.read_bytes()
    for name, why in (("issuers", b"not from the authority"), ("server_anchors", b"be reached")):
        altered = re.sub(
            rb"(?s)\n%s='.*?'\n" % name.encode(), b"\n%s='%s'\n" % (name.encode(), other), text
        )
        (tmp_path / "altered.sh").write_bytes(altered)
        done = run(tmp_path, "sh", "altered.sh", "--no-service", expect=1, TMAD_CONNECTIONS="/no")
        assert why in done.stderr
        assert not place.exists()


# Ends the script, as a power cut would, at the n-th call of one of these programs.
SHIM = """#!/bin/sh
count=$(($(cat {count}) - 1))
echo $count >{count}
if [ $count -lt 0 ]; then kill -9 $PPID; exit 1; fi
exec {program} "$@"
"""


def test_a_script_that_is_killed_anywhere_ends_what_it_began(
    require_client: Any, tmad: Commands, tmp_path: Path
) -> None:
    shims = tmp_path / "shims"
    shims.mkdir()
    for program in ("openssl", "curl", "mv", "ln", "rm"):
        shim = shims / program
        shim.write_text(SHIM.format(count=tmp_path / "count", program=require_client(program)))
        shim.chmod(0o755)
    script, place = script_of(tmad, tmp_path, "laptop-4")
    killed = 0
    # One secret: each attempt gets one step further than the one before it.
    for step in range(40):
        (tmp_path / "count").write_text(str(step))
        done = run(tmp_path, "sh", str(script), "--no-service", expect=None,
                   TMAD_CONNECTIONS="/nowhere", PATH=f"{shims}:{os.environ['PATH']}")  # fmt: skip
        killed += done.returncode == -9
        if (place / "certificate.pem").exists():
            break
    assert killed >= 6
    run(tmp_path, "sh", str(script), "renew", TMAD_CONNECTIONS="/nowhere")
    certificate = x509.load_pem_x509_certificate((place / "certificate.pem").read_bytes())
    key = run(tmp_path, "openssl", "pkey", "-in", str(place / "key.pem"), "-pubout").stdout
    shown = run(tmp_path, "openssl", "x509", "-in", str(place / "certificate.pem"), "-pubkey",
                "-noout").stdout  # fmt: skip
    assert key == shown
    found = tmad.json("cert", "list", "--name", "laptop-4")
    assert [each["serial"] for each in found] == [f"{certificate.serial_number:x}"]


def nmcli(keyfile: bytes, expect: int = 0) -> str:
    """Return a keyfile as NetworkManager reads and writes it, without a daemon."""
    tree = UNPACKED / "network-manager"
    program = tree / "usr" / "bin" / "nmcli"
    if not program.exists() and not os.environ.get("TMAD_REQUIRE_CLIENTS"):
        pytest.skip("nmcli is missing; tests/run unpacks it")
    done = run(
        tree, str(program), "--offline", "connection", "modify", "connection.autoconnect", "yes",
        data=keyfile, expect=None,
    )  # fmt: skip
    assert (done.returncode == 0) is (expect == 0), done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("ssid", "options", "lines"),
    [
        ("Corp", (), ("ssid=Corp", "key-mgmt=wpa-eap", "eap=tls;", "domain-match=localhost")),
        ("Büro; [1]", ("--hidden",), ("hidden=true",)),
        ("Corp", ("--security", "wpa3"), ("pmf=3", "key-mgmt=wpa-eap")),
        ("Corp", ("--security", "wpa3-192"), ("key-mgmt=wpa-eap-suite-b-192",)),
    ],
)
def test_networkmanager_reads_every_keyfile(
    tmad: Commands, tmp_path: Path, ssid: str, options: tuple[str, ...], lines: tuple[str, ...]
) -> None:
    path = profile(tmad, tmp_path, "est/phones", "networkmanager", "--ssid", ssid, *options)
    keyfile = path.read_bytes()
    shown = nmcli(keyfile).splitlines()
    assert {*lines, "type=wifi", "private-key-password-flags=4"} <= set(shown)
    # It judges: a keyfile without a key is none.
    nmcli(re.sub(rb"private-key=.*\n", b"", keyfile), expect=1)


# -- Android --------------------------------------------------------------------------------------


def test_an_android_profile_holds_what_joins_the_network(
    node: Daemon, tmad: Commands, radius: str, tmp_path: Path
) -> None:
    path = profile(tmad, tmp_path, "est/phones", "android", "--subject", "CN=pixel", *WIFI)
    root = ET.fromstring(path.read_bytes())
    text = {each.tag: each.text or "" for each in root.iter()}
    (tmp_path / "id.p12").write_bytes(base64.b64decode(text["ClientCertificate"]))
    run(tmp_path, "openssl", "pkcs12", "-legacy", "-in", "id.p12", "-nodes", "-out", "id.pem",
        "-passin", f"pass:{text['Passphrase']}")  # fmt: skip
    (tmp_path / "ca.der").write_bytes(base64.b64decode(text["CA"]))
    run(tmp_path, "openssl", "x509", "-inform", "DER", "-in", "ca.der", "-out", "ca.pem")
    log_in(node, radius, tmp_path, f"""network={{
        key_mgmt=IEEE8021X
        eapol_flags=0
        eap=TLS
        identity="{text["OuterIdentity"]}"
        ca_cert="ca.pem"
        client_cert="id.pem"
        private_key="id.pem"
        domain_match="{text["ServerID"]}"
    }}
    """)  # fmt: skip


def test_a_passpoint_profile_holds_a_key_that_opens_without_a_password(
    tmad: Commands, tmp_path: Path
) -> None:
    path = profile(tmad, tmp_path, "est/phones", "passpoint", *WIFI, "--passpoint", "example.test")
    message = email.message_from_bytes(base64.b64decode(path.read_bytes()))
    parts: Any = message.get_payload()
    (tmp_path / "id.p12").write_bytes(parts[2].get_payload(decode=True))
    shown = run(tmp_path, "openssl", "pkcs12", "-in", "id.p12", "-nodes", "-passin", "pass:").stdout
    assert b"BEGIN PRIVATE KEY" in shown
    assert shown.count(b"BEGIN CERTIFICATE") == 3


# -- Windows --------------------------------------------------------------------------------------


def test_a_powershell_script_has_no_syntax_error(tmad: Commands, tmp_path: Path) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    text = profile(
        tmad, tmp_path, "est/phones", "powershell", "--subject", "CN=O\u2019Neil's PC",
        "--subject", "O=A; {B} (C)", *WIFI,
    ).read_bytes()  # fmt: skip
    assert not parser.parse(text).root_node.has_error
    # It judges: one quote less is an error.
    assert parser.parse(text.replace(b"$Way = 'est'", b"$Way = 'est")).root_node.has_error


# -- links ----------------------------------------------------------------------------------------


def test_of_many_who_open_a_link_at_two_workers_one_gets_the_profile(
    node: Daemon, tmad: Commands, tmp_path: Path
) -> None:
    made = tmad.json("endpoint", "profile", "scep/default", "--platform", "apple",
                     "--subject", "CN=race", "--link")  # fmt: skip
    (tmp_path / "root.pem").write_text(node.pem("root").read_text())

    def fetch(number: int) -> str:
        done = run(tmp_path, "curl", "--silent", "--cacert", "root.pem", "--output", str(number),
                   "--write-out", "%{http_code}", f"{made['link']}/file")  # fmt: skip
        return done.stdout.decode()

    with ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(fetch, range(8)))
    assert codes == ["200"] + ["404"] * 7
    # Killed the moment after: it is used up all the same.
    node.kill()
    node.start()
    assert fetch(9) == "404"
    [link] = [each for each in tmad.json("endpoint", "links") if each["id"] == made["id"]]
    assert (link["state"], link["opened_by"]) == ("opened", "127.0.0.1")
    assert json.loads(link["wish"]) == {"subject": ["CN=race"]}
    token = made["link"].rpartition("/")[2]
    assert token not in node.log.read_text()
