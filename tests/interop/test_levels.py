"""Several levels of CAs, several tenants, and a CA outside that signs one of ours.

openssl decides what a path length and a name constraint mean; strongSwan enrols at the bottom.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests import scep_client as client
from tests.daemon import Daemon
from tests.interop.device import run
from tests.interop.relying import RelyingParty, crl_url, download, strongswan, write_pem
from tests.system.commands import Commands, commands_of
from tests.system.visitor import Visitor, spare_key

pytestmark = pytest.mark.interop

REFUSED = 2


@dataclass(frozen=True)
class Desk:
    """A warm command line beside the running daemon."""

    daemon: Daemon
    commands: Commands

    def door(self, label: str, authority: str, tenant: str = "default") -> str:
        """Open a SCEP endpoint; return its URL."""
        self.commands.run(
            "endpoint", "create", "scep", label, "--ca", authority, "--profile", "device",
            "--tenant", tenant,
        )  # fmt: skip
        return f"{self.daemon.url}/scep/{label}"

    def secret(self, label: str, tenant: str = "default") -> str:
        made = self.commands.json(
            "enroll-secret", "create", "--endpoint", f"scep/{label}", "--tenant", tenant
        )
        return str(made["secret"])

    def create(self, name: str, *options: str, expect: int = 0) -> str:
        """Make an authority; return what the command said."""
        done = self.commands.run("ca", "create", name, *options, expect=expect)
        return done.out + done.err

    def certificate(self, name: str, tenant: str = "default") -> x509.Certificate:
        shown = self.commands.run("ca", "export", name, "--tenant", tenant).out
        return x509.load_pem_x509_certificate(shown.encode())

    def revoke(self, leaf: x509.Certificate, tenant: str = "default", expect: int = 0) -> None:
        self.commands.run(
            "cert", "revoke", f"{leaf.serial_number:x}", "--reason", "superseded",
            "--tenant", tenant, expect=expect,
        )  # fmt: skip

    def live(
        self, folder: Path, label: str, device: str, tenant: str = "default"
    ) -> tuple[RelyingParty, x509.Certificate]:
        """Enrol with strongSwan and judge the certificate; leave it good."""
        url = f"{self.daemon.url}/scep/{label}"
        party = RelyingParty(folder / label, Visitor(url).chain)
        leaf = strongswan(folder, url, device, party, "--password", self.secret(label, tenant))
        party.check_chain(leaf)
        assert party.status(leaf) == "good"
        assert not party.is_on_crl(leaf)
        return party, leaf


@pytest.fixture(scope="module")
def desk(daemon: Daemon, require_client: Callable[[str], str]) -> Desk:
    for program in ("pki", "openssl"):
        require_client(program)
    commands = commands_of(daemon)
    return Desk(daemon, commands)


# -- levels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(desk: Desk) -> Desk:
    """Three levels: top (two more below), policy (names of one domain), line (devices)."""
    desk.create("top", "--path-length", "2", "--algorithm", "p521")
    desk.create(
        "policy", "--parent", "top", "--path-length", "1", "--algorithm", "rsa-3072",
        "--permit", "dns:good.test", "--exclude", "dns:secret.good.test",
    )  # fmt: skip
    desk.create("line", "--parent", "policy", "--algorithm", "p256")
    desk.door("line", "line")
    return desk


def constraint(certificate: x509.Certificate) -> int | None:
    found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return found.path_length


def test_three_levels_of_authorities(tree: Desk, tmp_path: Path) -> None:
    party, leaf = tree.live(tmp_path, "line", "r1.good.test")
    assert [constraint(ca) for ca in party.chain] == [0, 1, 2]
    assert party.root == tree.certificate("top")
    # Each level answers for the one below it, by OCSP and CRL.
    line, policy, top = party.chain
    for certificate, above in ((line, (policy, top)), (policy, (top,))):
        judge = RelyingParty(tmp_path / "above", above)
        assert judge.status(certificate) == "good"
        assert not judge.is_on_crl(certificate)
    tree.revoke(leaf)
    assert party.status(leaf) == "revoked"
    assert party.is_on_crl(leaf)


def test_crl_11_a_revoked_level_takes_down_all_below_it(tree: Desk, tmp_path: Path) -> None:
    tree.create("middle", "--parent", "top")
    tree.create("bottom", "--parent", "middle")
    tree.door("bottom", "bottom")
    party, leaf = tree.live(tmp_path, "bottom", "r1.example.test")

    def check_all() -> str:
        lists = b""
        for certificate in (leaf, *party.chain[:-1]):
            found = x509.load_der_x509_crl(download(crl_url(certificate)))
            lists += found.public_bytes(Encoding.PEM)
        (tmp_path / "crls.pem").write_bytes(lists)
        done = run(
            "openssl", "verify", "-x509_strict", "-crl_check_all",
            "-CRLfile", tmp_path / "crls.pem",
            "-CAfile", write_pem(tmp_path / "root.pem", party.root),
            "-untrusted", write_pem(tmp_path / "upper.pem", *party.chain[:-1]),
            write_pem(tmp_path / "leaf.pem", leaf), expect=None,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()

    assert check_all().strip() == f"{tmp_path / 'leaf.pem'}: OK"
    tree.commands.run("ca", "withdraw", "middle", "--reason", "cessation-of-operation", "--revoke")
    middle = party.chain[1]
    assert RelyingParty(tmp_path / "top", [party.root]).status(middle) == "revoked"
    assert "error 23 at 2 depth lookup: certificate revoked" in check_all()
    # The leaf itself is not: its own issuer still says so, and its CRL is still served.
    assert party.status(leaf) == "good"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("r1.bad.test", "name.constraints.permitted"),
        ("r1.secret.good.test", "name.constraints.excluded"),
    ],
)
def test_what_its_own_constraints_forbid_is_never_issued(tree: Desk, name: str, rule: str) -> None:
    visitor = Visitor(f"{tree.daemon.url}/scep/line")
    secret = tree.secret("line")
    # Clients take a common name for a host, whether it stands among the names or not.
    for names in ((), (name,)):
        csr = client.make_csr(spare_key(), name, challenge=secret, dns=names)
        reply = visitor.send(visitor.request(name=name, csr=csr))
        assert (reply.status, reply.fail_info) == (client.FAILURE, "2")
        [explain_id] = re.findall(r"\[(\w{4}-\w{4})\]", reply.text)
        assert rule in tree.commands.run("explain", explain_id).out
    # The challenge was not used up by that.
    reply = visitor.send(visitor.request(secret, name="allowed.good.test"))
    assert reply.status == client.SUCCESS, reply.text


def test_an_authority_for_one_directory_can_still_answer_for_itself(
    desk: Desk, tmp_path: Path
) -> None:
    """Its RA and its OCSP responder have subjects inside the subtree, too."""
    desk.create("dutch", "--parent", "root", "--permit", "dn:C=NL")
    desk.door("dutch", "dutch")
    party, leaf = desk.live(tmp_path, "dutch", "r1.dutch.test")
    party.check_chain(Visitor(f"{desk.daemon.url}/scep/dutch").ra)
    responder = party.ask_ocsp(leaf).response.certificates[0]
    assert party.verdict(responder) == "OK"


def test_a_path_length_that_would_be_exceeded_is_refused(tree: Desk) -> None:
    assert "may not have authorities below" in tree.create(
        "too-deep", "--parent", "line", expect=REFUSED
    )
    assert "path length" in tree.create(
        "too-long", "--parent", "policy", "--path-length", "1", expect=REFUSED
    )


# -- what openssl makes of our constraints ------------------------------------------------------


class Foreign:
    """A CA whose key openssl holds, below our "policy": it issues whatever it likes."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.folder = folder
        self._make_key("foreign")
        desk.commands.run(
            "ca", "cross-sign", "policy", "--csr", str(folder / "foreign.csr"),
            "--path-length", "0", "--out", str(folder / "foreign.pem"),
        )  # fmt: skip
        above = (desk.certificate("policy"), desk.certificate("top"))
        self.chain = (self.read("foreign"), *above)

    def issue(self, name: str, by: str = "foreign", *, extensions: str) -> x509.Certificate:
        """Sign a certificate that says what ``extensions`` say."""
        self._make_key(name)
        settings = self.folder / f"{name}.ext"
        settings.write_text(
            f"subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n{extensions}\n"
        )
        run(
            "openssl", "x509", "-req", "-in", self.folder / f"{name}.csr", "-days", "30",
            "-CA", self.folder / f"{by}.pem", "-CAkey", self.folder / f"{by}.key",
            "-extfile", settings, "-out", self.folder / f"{name}.pem",
        )  # fmt: skip
        return self.read(name)

    def read(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())

    def _make_key(self, name: str) -> None:
        run(
            "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", self.folder / f"{name}.key", "-subj", f"/CN={name}",
            "-out", self.folder / f"{name}.csr",
        )  # fmt: skip


CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign"


def test_openssl_enforces_our_constraints(tree: Desk, tmp_path: Path) -> None:
    foreign = Foreign(tree, tmp_path)
    party = RelyingParty(tmp_path / "party", foreign.chain)
    for name, verdict in (
        ("www.good.test", "OK"),
        ("www.bad.test", "permitted subtree violation"),
        ("www.secret.good.test", "excluded subtree violation"),
    ):
        leaf = foreign.issue(name, extensions=f"subjectAltName=DNS:{name}")
        assert verdict in party.verdict(leaf), name

    deeper = foreign.issue("deeper", extensions=CA)
    leaf = foreign.issue("api.good.test", "deeper", extensions="subjectAltName=DNS:api.good.test")
    verdict = RelyingParty(tmp_path / "deeper", (deeper, *foreign.chain)).verdict(leaf)
    assert "path length constraint exceeded" in verdict


# -- tenants ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branch(desk: Desk) -> Desk:
    """A second tenant, with its own profiles."""
    desk.commands.run("tenant", "create", "branch")
    desk.commands.run("profile", "preset", "--all", "--tenant", "branch")
    return desk


def test_a_tenant_with_a_root_of_its_own(branch: Desk, tmp_path: Path) -> None:
    tenant = ("--tenant", "branch")
    # The very names that the default tenant uses.
    branch.create("root", *tenant, "--subject", "CN=Branch Root,O=Branch")
    branch.create("issuing", *tenant, "--subject", "CN=Branch CA,O=Branch", "--parent", "root")
    branch.door("branch-line", "issuing", "branch")
    party, leaf = branch.live(tmp_path, "branch-line", "r1.branch.test", "branch")
    assert party.root == branch.certificate("root", "branch")
    assert party.root != branch.certificate("root")
    assert "/crl/branch.issuing.crl" in crl_url(leaf)
    # Those who trust the default tenant's root do not believe it.
    others = [branch.certificate("issuing"), branch.certificate("root")]
    verdict = RelyingParty(tmp_path / "others", others).verdict(leaf)
    assert "unable to get local issuer certificate" in verdict
    # Nobody from the default tenant can revoke it.
    branch.revoke(leaf, expect=REFUSED)
    assert party.status(leaf) == "good"
    branch.revoke(leaf, "branch")
    assert party.status(leaf) == "revoked"
    assert party.is_on_crl(leaf)


def test_a_root_that_serves_another_tenant(branch: Desk, tmp_path: Path) -> None:
    tenant = ("--tenant", "branch")
    # The root of the default tenant was not told to.
    said = branch.create("guest", *tenant, "--parent", "default/root", expect=REFUSED)
    assert "no authority 'default/root'" in said
    branch.create("shared", "--set", 'serves_tenants=["branch"]')
    branch.create("guest", *tenant, "--parent", "default/shared")
    branch.door("guest", "guest", "branch")
    party, _ = branch.live(tmp_path, "guest", "r1.guest.test", "branch")
    assert party.root == branch.certificate("shared")
    # The root's owner can take it back.
    branch.revoke(party.ca)
    above = RelyingParty(tmp_path / "above", [party.root])
    assert above.status(party.ca) == "revoked"


# -- a CA outside -------------------------------------------------------------------------------


def test_an_authority_that_an_openssl_ca_signed(desk: Desk, tmp_path: Path) -> None:
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384",
        "-nodes", "-keyout", tmp_path / "outer.key", "-out", tmp_path / "outer.pem",
        "-subj", "/O=Elsewhere/CN=Outer Root", "-days", "3650",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    said = desk.create("hosted", "--external", "--subject", "CN=Hosted CA,O=Elsewhere")
    assert "tmad ca csr hosted" in said
    desk.door("hosted", "hosted")
    # Nothing is served or issued before the certificate is here.
    status, _, _ = client.fetch(f"{desk.daemon.url}/scep/hosted", "GetCACert")
    assert status == 503
    csr = tmp_path / "hosted.csr"
    desk.commands.run("ca", "csr", "hosted", "--out", str(csr))
    (tmp_path / "ca.ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\n"
        "keyUsage=critical,keyCertSign,cRLSign,digitalSignature\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    run(
        "openssl", "x509", "-req", "-in", csr, "-CA", tmp_path / "outer.pem",
        "-CAkey", tmp_path / "outer.key", "-days", "1825", "-extfile", tmp_path / "ca.ext",
        "-out", tmp_path / "hosted.pem",
    )  # fmt: skip
    # Without the chain there is no way to know whom it leads to; with it, it serves at once.
    outer = (tmp_path / "outer.pem").read_bytes()
    (tmp_path / "chain.pem").write_bytes((tmp_path / "hosted.pem").read_bytes() + outer)
    desk.commands.run("ca", "install", "hosted", str(tmp_path / "chain.pem"))
    party, leaf = desk.live(tmp_path, "hosted", "r1.hosted.test")
    assert party.root == x509.load_pem_x509_certificate(outer)
    assert party.ca.subject.rfc4514_string() == "CN=Hosted CA,O=Elsewhere"
    desk.revoke(leaf)
    assert party.status(leaf) == "revoked"
    assert party.is_on_crl(leaf)
    # What the CA outside decides about ours is not ours to say.
    access = party.ca.extensions
    with pytest.raises(x509.ExtensionNotFound):
        access.get_extension_for_class(x509.AuthorityInformationAccess)
