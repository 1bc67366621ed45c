"""Every kind of CA key, in software and in a token: enrolment, chain, OCSP and CRL.

The outside clients are strongSwan (enrolment) and openssl (all that comes after) as far as they
know the algorithm; the tests' own client and cryptography do the rest.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import SignatureAlgorithmOID

from tests.daemon import Daemon
from tests.interop.relying import RelyingParty, strongswan
from tests.softhsm import SoftToken, create_token
from tests.system.commands import Commands, commands_of
from tests.system.visitor import Visitor

pytestmark = pytest.mark.interop

# What signs certificates, CRLs and OCSP answers of a CA with such a key (X5-02, OCSP-24).
SIGNATURES = {
    "rsa-2048": SignatureAlgorithmOID.RSA_WITH_SHA256,
    "rsa-3072": SignatureAlgorithmOID.RSASSA_PSS,
    "p256": SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    "p384": SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    "p521": SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    "ed25519": SignatureAlgorithmOID.ED25519,
    "ed448": SignatureAlgorithmOID.ED448,
    "ml-dsa-44": x509.ObjectIdentifier("2.16.840.1.101.3.4.3.17"),
    "ml-dsa-65": x509.ObjectIdentifier("2.16.840.1.101.3.4.3.18"),
    "ml-dsa-87": x509.ObjectIdentifier("2.16.840.1.101.3.4.3.19"),
}
# strongSwan 5.9.8 needs a key kind that it can verify in the chain above the RA.
STRONGSWAN = {"rsa-2048", "rsa-3072", "p256", "p384", "p521"}


@dataclass(frozen=True)
class Case:
    """One authority, and the endpoint of the same name."""

    name: str
    algorithm: str
    parent: str = "root"
    settings: tuple[str, ...] = ()
    store: str = "soft"
    responder_store: str = "soft"
    ra_store: str = "soft"


SUBORDINATES = [
    Case(
        algorithm,
        algorithm,
        settings=("signature.pss=true",) if algorithm == "rsa-3072" else (),
    )
    for algorithm in SIGNATURES
]
ROOTS = [Case(f"root-{name}", name, parent="") for name in ("p256", "ed25519", "ml-dsa-65")]
IN_TOKEN = [
    Case("token-rsa", "rsa-2048", store="pkcs11", responder_store="pkcs11", ra_store="pkcs11"),
    Case("token-p256", "p256", store="pkcs11"),
    Case("token-ed25519", "ed25519", store="pkcs11", responder_store="pkcs11"),
]


@dataclass
class Node:
    """A running daemon with an authority and an endpoint for each case."""

    daemon: Daemon
    commands: Commands
    root: x509.Certificate
    token: SoftToken | None = None
    issuers: dict[str, int] = field(default_factory=dict)

    def furnish(self, cases: list[Case]) -> None:
        """Make the authorities one by one, and all endpoints with one file."""
        endpoints = ""
        for case in cases:
            options = [*("--algorithm", case.algorithm), *("--store", case.store)]
            if case.parent:
                options += ["--parent", case.parent]
            for setting in (*case.settings, f"ocsp.responder_store={case.responder_store}"):
                options += ["--set", setting]
            made = self.commands.json("ca", "create", case.name, *options)
            self.issuers[case.name] = made["id"]
            endpoints += (
                f"[tenant.default.endpoint.scep-{case.name}]\n"
                f'protocol = "scep"\nlabel = "{case.name}"\n'
                f'authority = "{case.name}"\nprofile = "device"\n'
                f'options = {{ ra_store = "{case.ra_store}" }}\n'
            )
        file = self.daemon.directory / "endpoints.toml"
        file.write_text(endpoints)
        self.commands.run("apply", str(file))

    def secret(self, label: str) -> str:
        """Return a fresh one-time challenge, good for the one device that the tests enrol."""
        answer = self.commands.json(
            "enroll-secret", "create", "--endpoint", f"scep/{label}",
            "--subject", f"CN={label}.example.test",
        )  # fmt: skip
        return str(answer["secret"])

    def keys_in_token(self) -> dict[str, str]:
        """Return the access flags of each private key in the token, by label."""
        assert self.token is not None
        shown = self._pkcs11_tool(
            "--list-objects", "--type", "privkey", "--login", "--pin", self.token.pin
        ).decode()
        found = re.findall(r"^  label: +(.+)$(?:\n  .*)*?\n  Access: +(.+)$", shown, re.MULTILINE)
        assert len(found) == shown.count("Private Key Object"), shown
        return dict(found)

    def public_key_in_token(self, label: str) -> bytes:
        """Return the SubjectPublicKeyInfo that the token holds under a label."""
        read = self._pkcs11_tool("--read-object", "--type", "pubkey", "--label", label)
        # OpenSC writes DER, but PEM of an Edwards key.
        return der_of(read) if read.startswith(b"-----BEGIN") else read

    def _pkcs11_tool(self, *arguments: str) -> bytes:
        assert self.token is not None
        return subprocess.run(
            ["pkcs11-tool", "--module", self.token.module, "--token-label", self.token.label,
             *arguments],
            env={**os.environ, **self.token.environment},
            capture_output=True, check=True, timeout=30,
        ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def clients(require_client: Callable[[str], str]) -> None:
    """The programs of others that these tests run."""
    for program in ("pki", "openssl", "softhsm2-util", "pkcs11-tool"):
        require_client(program)


def _serve(daemon: Daemon, cases: list[Case], token: SoftToken | None = None) -> Iterator[Node]:
    daemon.start()
    try:
        commands = commands_of(daemon)
        root = x509.load_pem_x509_certificate(daemon.pem("root").read_bytes())
        node = Node(daemon, commands, root, token)
        node.furnish(cases)
        yield node
    finally:
        daemon.kill()


@pytest.fixture(scope="module")
def software(clients: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One daemon for all software keys."""
    daemon = Daemon(tmp_path_factory.mktemp("node"))
    yield from _serve(daemon, [*SUBORDINATES, *ROOTS])


@pytest.fixture(scope="module")
def hardware(clients: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon that has a token beside its software keys."""
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    daemon = Daemon(
        tmp_path_factory.mktemp("node"), settings=token.toml, environment=token.environment
    )
    yield from _serve(daemon, IN_TOKEN, token)


def live(node: Node, case: Case, folder: Path) -> RelyingParty:
    """Enrol, find it good, revoke, and find it revoked at the very next query."""
    url = f"{node.daemon.url}/scep/{case.name}"
    secret = node.secret(case.name)
    device = f"{case.name}.example.test"
    visitor = Visitor(url)
    # Trust comes out of band: the root of the node, or the new root's own exported certificate.
    if case.parent:
        assert visitor.chain[-1] == node.root
    else:
        exported = node.commands.run("ca", "export", case.name).out.encode()
        assert visitor.chain == [x509.load_pem_x509_certificate(exported)]
    party = RelyingParty(folder, visitor.chain)
    assert party.has_openssl is not case.algorithm.startswith("ml-dsa")

    if case.algorithm in STRONGSWAN:
        leaf = strongswan(folder / "swan", url, device, party, "--password", secret)
    else:
        leaf = visitor.enroll(secret, device).certificate
    party.check_chain(leaf)
    assert not party.is_on_crl(leaf)
    answer = party.ask_ocsp(leaf)
    assert answer.state == "good"

    signature = SIGNATURES[case.algorithm]
    assert leaf.signature_algorithm_oid == signature
    assert answer.response.signature_algorithm_oid == signature
    assert answer.response.certificates[0].signature_algorithm_oid == signature
    if signature == SignatureAlgorithmOID.RSASSA_PSS:
        scheme = leaf.signature_algorithm_parameters
        assert isinstance(scheme, padding.PSS)
        assert scheme._salt_length == 32

    node.commands.run("cert", "revoke", f"{leaf.serial_number:x}", "--reason", "key-compromise")
    answer = party.ask_ocsp(leaf)
    assert answer.state == "revoked"
    assert answer.response.revocation_reason is x509.ReasonFlags.key_compromise
    assert party.is_on_crl(leaf)
    assert party.crl(leaf).signature_algorithm_oid == signature
    return party


def der_of(pem: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo without its armour."""
    return load_pem_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", SUBORDINATES, ids=by_name)
def test_scep_21_a_subordinate_with_each_kind_of_key(
    software: Node, case: Case, tmp_path: Path
) -> None:
    party = live(software, case, tmp_path)
    assert party.ca.issuer == software.root.subject


@pytest.mark.parametrize("case", ROOTS, ids=by_name)
def test_scep_21_a_root_that_issues_itself(software: Node, case: Case, tmp_path: Path) -> None:
    party = live(software, case, tmp_path)
    assert party.ca.signature_algorithm_oid == SIGNATURES[case.algorithm]


@pytest.mark.parametrize("case", IN_TOKEN, ids=by_name)
def test_keys_in_a_token_serve_and_never_leave_it(
    hardware: Node, case: Case, tmp_path: Path
) -> None:
    party = live(hardware, case, tmp_path)
    found = hardware.keys_in_token()
    responder, ra = f"ocsp {hardware.issuers[case.name]}", f"scep-ra scep/{case.name}"
    assert case.name in found
    assert (responder in found) is (case.responder_store == "pkcs11")
    assert (ra in found) is (case.ra_store == "pkcs11")
    for label in {case.name, responder, ra} & found.keys():
        flags = {flag.strip() for flag in found[label].split(",")}
        assert {"sensitive", "always sensitive", "never extractable", "local"} <= flags, label
    # The key that signs is the one in there.
    own = party.ca.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hardware.public_key_in_token(case.name) == own
