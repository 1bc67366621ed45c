"""One certificate of every shipped profile before judges that nobody here wrote.

OpenSSL's strict verification, GnuTLS and pkilint read what the pipeline made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import Clock, drive
from tests.unit.ca_bench import ADMIN, PRESETS, Bench, bench, name
from tmad.ca.names import UPN
from tmad.ca.requests import Proof
from tmad.ca.writing import Constraints
from tmad.identity.actors import Actor

pytestmark = pytest.mark.interop

PROFILES = sorted(path.stem for path in PRESETS.glob("*.toml"))
UPN_NAME = x509.OtherName(UPN, b"\x0c\x12alice@example.test")
NAMES = {
    # Without a wildcard, which RFC 5280 leaves to others (RFC 9525) and pkilint refuses.
    "tls-server": (x509.DNSName("www.example.test"), x509.IPAddress(IPv4Address("192.0.2.7"))),
    "tls-self": (x509.DNSName("ca.example.test"),),
    "tls-client-self": (x509.DNSName("node.example.test"),),
    "eap-self": (x509.DNSName("eap.example.test"),),
    "device": (x509.DNSName("r1.example.test"),),
    "wifi-client": (UPN_NAME,),
    "radius-server": (x509.DNSName("radius.example.test"),),
    "ipsec": (x509.DNSName("vpn.example.test"),),
    "smime-sign": (x509.RFC822Name("alice@example.test"),),
    "smime-encrypt": (x509.RFC822Name("alice@example.test"),),
    "user": (x509.RFC822Name("alice@example.test"),),
    "smartcard-logon": (UPN_NAME,),
    "domain-controller": (x509.DNSName("dc1.example.test"),),
    "windows-machine": (x509.DNSName("pc1.example.test"),),
    "windows-user": (UPN_NAME,),
}
COMMON = {
    "tls-server": "www.example.test",
    "radius-server": "radius.example.test",
    "ipsec": "vpn.example.test",
    "domain-controller": "dc1.example.test",
}


@pytest.fixture(scope="module")
def authority() -> Bench:
    # GnuTLS cannot be told another time than that of the machine.
    return bench(clock=Clock(datetime.now(UTC)))


def _make(b: Bench, profile: str) -> x509.Certificate:
    issuer = drive(b.hierarchy.active("default", "devices"))
    if profile == "root-ca":
        return issuer.certificate
    key = (
        rsa.generate_private_key(65537, 3072)
        if profile in ("scep-ra", "profile-signer", "code-signing", "device")
        else ec.generate_private_key(ec.SECP256R1())
    )
    document = drive(b.objects.load("default", "profile", profile)).document
    internal = document.via == ("system",) or document.approval == "manual"
    options = {}
    if document.extensions.ca:
        constraint = x509.DNSName("example.test")
        options["constraints"] = Constraints(path_length=0, permitted=(constraint,))
    changes: dict[str, object] = {}
    if document.approval == "manual":
        changes["via"] = (*document.via, "system")
    if document.extensions.sid == "required":
        # Only a login at the directory brings a SID; Windows' enrolment is tested with it.
        changes["extensions"] = document.extensions.model_copy(update={"sid": "optional"})
    if changes:
        changed = document.model_copy(update=changes)
        drive(b.objects.put(ADMIN, "default", "profile", profile, changed))
    issued = drive(
        b.authority.issue(
            Actor.system() if internal else ADMIN,
            "default",
            authority="devices",
            profile=profile,
            subject=name(COMMON.get(profile, f"A {profile}"), o="Example", c="NL"),
            names=NAMES.get(profile, ()),
            public_key=key.public_key(),
            proof=Proof.CSR_SIGNATURE,
            validity=timedelta(days=30),
            **options,
        )
    )
    return issued.certificate


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(authority: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("certificates")
    for profile in PROFILES:
        pem = _make(authority, profile).public_bytes(Encoding.PEM)
        (place / f"{profile}.pem").write_bytes(pem)
    return place


def _tool(tool: str) -> str:
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool) or tool


@pytest.mark.parametrize("profile", PROFILES)
def test_openssl_verifies_strictly(folder: Path, profile: str):
    root = folder / "root-ca.pem"
    _run(
        *("openssl", "verify", "-x509_strict", "-policy_check", "-check_ss_sig"),
        *("-CAfile", root, folder / f"{profile}.pem"),
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_gnutls_verifies(folder: Path, profile: str):
    out = _run(
        *("certtool", "--verify", "--load-ca-certificate"),
        *(folder / "root-ca.pem", "--infile", folder / f"{profile}.pem"),
    )
    assert "Verified. The certificate is trusted" in out


@pytest.mark.parametrize("profile", PROFILES)
def test_pkilint_finds_nothing_above_a_notice(folder: Path, profile: str):
    command = [_tool("lint_pkix_cert"), "lint", "-s", "WARNING", str(folder / f"{profile}.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # Its exit code counts notices as well.
    assert done.stdout.strip() + done.stderr == ""
