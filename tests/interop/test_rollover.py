"""A CA gets a new key: announced, vouched for by the old one, then both serve side by side.

RFC 8894, 4.7 (GetNextCACert); RFC 6960, 4.2.2.2 and RFC 5280, 5 (each key answers for what it
signed). Everything is checked by openssl, strongSwan renews; where ML-DSA signs, cryptography and
the tests' own client take over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from asn1crypto import cms  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests import scep_client as client
from tests.daemon import Daemon
from tests.interop.device import run
from tests.interop.relying import RelyingParty, crl_url, ocsp_url, strongswan, write_pem
from tests.scep_client import Identity
from tests.system.commands import Commands, commands_of
from tests.system.visitor import Visitor, new_key

pytestmark = pytest.mark.interop

KEPT = "kept.example.test"


@dataclass(frozen=True)
class Case:
    """From which kind of key to which; a root rolls over by itself."""

    name: str
    old: str
    new: str
    parent: str = "root"


CASES = [
    Case("classical", "rsa-2048", "p384"),
    Case("quantum", "p256", "ml-dsa-65"),
    Case("own-root", "p384", "p256", parent=""),
]


@dataclass(frozen=True)
class Glance:
    """What the endpoint told anybody who asked at one moment."""

    capabilities: list[str]
    next_status: int
    next_type: str
    next_ca: bytes


@dataclass(frozen=True)
class Rollover:
    """A finished rollover, with what was seen and issued on the way."""

    case: Case
    daemon: Daemon
    commands: Commands
    folder: Path
    url: str
    before: Glance
    staged: Glance
    after: Glance
    early: Visitor  # it asked for the certificates long ago
    late: Visitor
    old: RelyingParty
    new: RelyingParty
    kept: Identity  # these three by the old key
    doomed: Identity
    between: x509.Certificate  # issued while the next key was staged
    fresh: x509.Certificate

    def revoke(self, certificate: x509.Certificate) -> None:
        self.commands.run(
            "cert", "revoke", f"{certificate.serial_number:x}", "--reason", "superseded"
        )


def glance(url: str) -> Glance:
    """Ask for the capabilities and the next CA."""
    _, _, capabilities = client.fetch(url, "GetCACaps")
    status, headers, body = client.fetch(url, "GetNextCACert")
    return Glance(capabilities.decode().splitlines(), status, headers["content-type"], body)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: str(case.name))
def rollover(
    request: pytest.FixtureRequest,
    daemon: Daemon,
    tmp_path_factory: pytest.TempPathFactory,
    require_client: Callable[[str], str],
) -> Rollover:
    """Live through a whole rollover of one authority."""
    for program in ("pki", "openssl"):
        require_client(program)
    case: Case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    url = f"{daemon.url}/scep/{case.name}"
    commands = commands_of(daemon)

    def secret() -> str:
        made = commands.json("enroll-secret", "create", "--endpoint", f"scep/{case.name}")
        return str(made["secret"])

    parent = ("--parent", case.parent) if case.parent else ()
    commands.run("ca", "create", case.name, "--algorithm", case.old, *parent)
    commands.run("endpoint", "create", "scep", case.name, "--ca", case.name,
                 "--profile", "device")  # fmt: skip
    before = glance(url)
    early = Visitor(url)
    old = RelyingParty(folder / "old", early.chain)
    certificate = strongswan(folder, url, KEPT, old, "--password", secret())
    key = load_pem_private_key((folder / f"{KEPT}.key").read_bytes(), None)
    doomed = early.enroll(secret(), "doomed.example.test")

    commands.run("ca", "rekey", case.name, "--algorithm", case.new)
    staged = glance(url)
    between = Visitor(url).enroll(secret(), "between.example.test").certificate

    commands.run("ca", "activate", case.name)
    late = Visitor(url)
    return Rollover(
        case=case,
        daemon=daemon,
        commands=commands,
        folder=folder,
        url=url,
        before=before,
        staged=staged,
        after=glance(url),
        early=early,
        late=late,
        old=old,
        new=RelyingParty(folder / "new", late.chain),
        kept=Identity(key, certificate),
        doomed=doomed,
        between=between,
        fresh=late.enroll(secret(), "fresh.example.test").certificate,
    )


def test_scep_13_the_next_ca_is_announced_while_it_is_staged(rollover: Rollover) -> None:
    assert "GetNextCACert" in rollover.staged.capabilities
    assert rollover.staged.next_status == 200
    assert rollover.staged.next_type == "application/x-x509-next-ca-cert"
    for other in (rollover.before, rollover.after):
        assert "GetNextCACert" not in other.capabilities
        assert other.next_status == 404
    without = [line for line in rollover.staged.capabilities if line != "GetNextCACert"]
    assert without == rollover.before.capabilities == rollover.after.capabilities


@pytest.mark.parametrize("command", ["cms", "smime"])
def test_scep_01_openssl_verifies_the_next_ca_by_the_present_one(
    rollover: Rollover, command: str
) -> None:
    answer, content = rollover.folder / "next.p7", rollover.folder / "next-content.der"
    answer.write_bytes(rollover.staged.next_ca)
    signer = write_pem(rollover.folder / "signer.pem", rollover.old.ca)
    trusted = write_pem(rollover.folder / "trusted.pem", rollover.old.root)
    # The signer is looked up in what we know, not in what the message brings along.
    verify = ("openssl", command, "-verify", "-inform", "DER", "-in", answer, "-binary",
              "-nointern", "-purpose", "any")  # fmt: skip
    run(*verify, "-certfile", signer, "-CAfile", trusted, "-out", content)
    inner = cms.ContentInfo.load(content.read_bytes(), strict=True)["content"]
    assert len(inner["signer_infos"]) == 0
    announced = [
        x509.load_der_x509_certificate(each.chosen.dump()) for each in inner["certificates"]
    ]
    # It held exactly what was in force later.
    assert announced == list(rollover.new.chain)
    assert announced[0].public_key() != rollover.old.ca.public_key()
    # Nobody else's word is taken for it.
    stranger = rollover.daemon.pem("issuing")
    refused = run(*verify, "-certfile", stranger, "-CAfile", trusted, expect=None)
    assert refused.returncode != 0


def test_the_next_key_issues_nothing_before_it_is_activated(rollover: Rollover) -> None:
    rollover.old.check_chain(rollover.between)
    assert rollover.old.status(rollover.between) == "good"


def test_new_certificates_come_from_the_new_key_alone(rollover: Rollover) -> None:
    assert rollover.new.ca.subject.public_bytes() == rollover.old.ca.subject.public_bytes()
    rollover.new.check_chain(rollover.fresh)
    rollover.old.check_chain(rollover.kept.certificate)
    assert "unable to get local issuer certificate" in rollover.old.verdict(rollover.fresh)
    kept = rollover.kept.certificate
    if rollover.new.has_openssl:
        assert "unable to get local issuer certificate" in rollover.new.verdict(kept)
    else:
        with pytest.raises(ValueError, match="does not match issuer key type"):
            rollover.new.check_chain(kept)


def test_ocsp_29_both_keys_are_answered_for_by_their_own_responders(rollover: Rollover) -> None:
    kept, fresh = rollover.kept.certificate, rollover.fresh
    # RelyingParty checks that the CA key in question certified the responder.
    old, new = rollover.old.ask_ocsp(kept), rollover.new.ask_ocsp(fresh)
    assert (old.state, new.state) == ("good", "good")
    assert old.response.certificates[0] != new.response.certificates[0]
    assert old.response.issuer_key_hash != new.response.issuer_key_hash
    # Each key has an address of its own.
    assert ocsp_url(kept) != ocsp_url(fresh)


def test_ocsp_29_a_message_about_both_keys_is_answered_under_the_first(
    rollover: Rollover,
) -> None:
    """One response has one signer, and no responder speaks for the other key."""
    folder = rollover.folder
    kept = write_pem(folder / "kept.pem", rollover.kept.certificate)
    fresh = write_pem(folder / "fresh.pem", rollover.fresh)
    old_ca = write_pem(folder / "old-ca.pem", rollover.old.ca)
    new_ca = write_pem(folder / "new-ca.pem", rollover.new.ca)
    about_old = ("-issuer", old_ca, "-cert", kept)
    about_new = ("-issuer", new_ca, "-cert", fresh)
    orders = [(rollover.old, about_old + about_new, kept, fresh)]
    if rollover.new.has_openssl:
        orders.append((rollover.new, about_new + about_old, fresh, kept))
    for party, question, first, second in orders:
        responder = party.ask_ocsp(rollover.kept.certificate if first == kept else rollover.fresh)
        # openssl believes no delegated responder about two issuers, unless it is told to.
        trusted = write_pem(folder / "responder.pem", responder.response.certificates[0])
        done = run(
            "openssl", "ocsp", "-url", f"{rollover.daemon.url}/ocsp", *question,
            "-VAfile", trusted,
        )  # fmt: skip
        shown = done.stdout.decode() + done.stderr.decode()
        assert "Response verify OK" in shown
        assert f"{first}: good" in shown
        assert f"{second}: unknown" in shown


def test_crl_10_each_key_lists_what_it_signed(rollover: Rollover) -> None:
    doomed, fresh = rollover.doomed, rollover.fresh
    assert crl_url(doomed.certificate) != crl_url(fresh)
    assert not rollover.old.is_on_crl(doomed.certificate)
    rollover.revoke(doomed.certificate)
    answer = rollover.old.ask_ocsp(doomed.certificate)
    assert answer.state == "revoked"
    assert answer.response.revocation_reason is x509.ReasonFlags.superseded
    assert rollover.old.is_on_crl(doomed.certificate)
    assert not rollover.new.is_on_crl(fresh)
    old, new = rollover.old.crl(doomed.certificate), rollover.new.crl(fresh)
    assert new.get_revoked_certificate_by_serial_number(doomed.certificate.serial_number) is None
    identifiers = [
        crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        for crl in (old, new)
    ]
    assert identifiers == [
        party.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        for party in (rollover.old, rollover.new)
    ]
    # SCEP-42: who was revoked under the old key gets nothing from the new one.
    reply = rollover.late.send(rollover.late.renewal(doomed, new_key()))
    assert (reply.status, reply.fail_info) == (client.FAILURE, "2")


def test_scep_42_an_old_certificate_renews_under_the_new_key(rollover: Rollover) -> None:
    kept, folder = rollover.kept, rollover.folder
    if rollover.new.has_openssl:
        held = write_pem(folder / "held.pem", kept.certificate)
        # strongswan() makes NAME.key unless it exists: the old one steps aside.
        old_key = (folder / f"{KEPT}.key").rename(folder / "held.key")
        renewed = strongswan(
            folder, rollover.url, KEPT, rollover.new, "--cert", str(held), "--key", str(old_key)
        )
    else:
        reply = rollover.late.send(rollover.late.renewal(kept, new_key()))
        assert reply.status == client.SUCCESS, reply.text
        [renewed] = reply.certificates
    rollover.new.check_chain(renewed)
    assert renewed.subject == kept.certificate.subject
    for certificate in (renewed, kept.certificate):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert list(names.value) == [x509.DNSName(KEPT)]
    assert renewed.public_key() != kept.certificate.public_key()
    assert rollover.new.status(renewed) == "good"
    # The predecessor is not revoked by that.
    assert rollover.old.status(kept.certificate) == "good"


def test_scep_21_a_client_that_remembers_the_old_ra_is_understood(rollover: Rollover) -> None:
    assert rollover.early.ra != rollover.late.ra
    made = rollover.commands.json(
        "enroll-secret", "create", "--endpoint", f"scep/{rollover.case.name}"
    )
    message = rollover.early.request(made["secret"], name="slow.example.test", key=new_key())
    status, _, body = rollover.early.post(message.der)
    assert status == 200
    reply = client.read_reply(body, message, rollover.late.ra)
    assert reply.status == client.SUCCESS, reply.text
    rollover.new.check_chain(reply.certificates[0])
