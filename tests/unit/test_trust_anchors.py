"""Somebody else's certificates: which anchor vouches for them, and what its CRLs say (E-40)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.hierarchy_world import ADMIN
from tests.network_world import NetworkWorld
from tests.pki import Authority
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.network import foreign
from tmad.storage import tables

URL = "http://crl.partner.test/ca.crl"


@pytest.fixture
def partner(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "partner", "Partner CA")


@pytest.fixture
def world() -> NetworkWorld:
    world = NetworkWorld().prepare()
    world.clock.time = datetime.now(UTC)
    world.policy()
    return world


def trusting(world: NetworkWorld, partner: Authority, **more: Any) -> None:
    world.anchor("partner", certificates=partner.path.read_text(), crl_urls=[URL], **more)


def publish(
    world: NetworkWorld, partner: Authority, revoked: Any = (), *, hours: float = 24
) -> None:
    """Put a CRL where it is fetched, and fetch it."""
    begins = world.clock()
    ends = begins + timedelta(hours=hours)
    world.documents[URL] = partner.crl(revoked, begins=begins, ends=ends)
    drive(world.anchors.refresh(ADMIN, "default", "partner"))


def test_a_foreign_certificate_with_a_fresh_crl_is_let_in(
    world: NetworkWorld, partner: Authority
) -> None:
    trusting(world, partner)
    publish(world, partner)
    admitted = world.login(partner.issue("guest.test").certificate)
    assert (admitted.anchor, admitted.certificate) == ("partner", None)
    assert admitted.user_name == "guest.test"
    assert world.last("network.admitted")["anchor"] == "partner"


@pytest.mark.parametrize(
    ("mode", "expected"), [("required", "network.crl-missing"), ("soft", None), ("off", None)]
)
def test_without_a_crl(
    world: NetworkWorld, partner: Authority, mode: str, expected: str | None
) -> None:
    trusting(world, partner, revocation=mode)
    certificate = partner.issue("guest.test").certificate
    if expected is not None:
        assert world.refused(certificate).rule == expected
    else:
        notes = world.login(certificate).monitored
        assert [note.partition(":")[0] for note in notes] == (
            ["network.crl-missing"] if mode == "soft" else []
        )


@pytest.mark.parametrize(("mode", "expected"), [("required", "network.crl-stale"), ("soft", None)])
def test_a_stale_crl(
    world: NetworkWorld, partner: Authority, mode: str, expected: str | None
) -> None:
    trusting(world, partner, revocation=mode)
    publish(world, partner, hours=1)
    certificate = partner.issue("guest.test").certificate
    world.login(certificate)
    world.later(hours=1)
    if expected is not None:
        assert world.refused(certificate).rule == expected
    else:
        assert world.login(certificate).monitored[0].startswith("network.crl-stale")


@pytest.mark.parametrize("mode", ["required", "soft"])
def test_a_revoked_one_is_refused_even_by_a_stale_crl(
    world: NetworkWorld, partner: Authority, mode: str
) -> None:
    trusting(world, partner, revocation=mode)
    device = partner.issue("guest.test").certificate
    publish(world, partner, [device.serial_number], hours=1)
    assert world.refused(device).rule == "network.revoked"
    world.later(hours=2)
    assert world.refused(device).rule == "network.revoked"


def test_a_hold_and_its_end(world: NetworkWorld, partner: Authority) -> None:
    trusting(world, partner)
    device = partner.issue("guest.test").certificate
    publish(world, partner, {device.serial_number: x509.ReasonFlags.certificate_hold})
    assert world.refused(device).rule == "network.held"
    world.later(minutes=5)
    publish(world, partner)
    world.login(device)


def test_another_process_sees_a_new_crl_at_once(world: NetworkWorld, partner: Authority) -> None:
    trusting(world, partner)
    publish(world, partner)
    device = partner.issue("guest.test").certificate
    another = NetworkWorld(world)
    another.login(device)
    world.later(minutes=5)
    publish(world, partner, [device.serial_number])
    assert another.refused(device).rule == "network.revoked"


def test_an_anchor_that_is_switched_off_or_gone_vouches_for_nobody(
    world: NetworkWorld, partner: Authority
) -> None:
    trusting(world, partner)
    publish(world, partner)
    device = partner.issue("guest.test").certificate
    world.login(device)
    pem = partner.path.read_text()
    world.anchor("partner", certificates=pem, crl_urls=[URL], enabled=False)
    assert world.refused(device).rule == "network.wrong-authority"
    trusting(world, partner)
    world.login(device)
    drive(world.objects.delete(ADMIN, "default", "trust-anchor", "partner"))
    assert world.refused(device).rule == "network.wrong-authority"
    assert world.count(tables.anchor_crls) == 0


def test_an_anchor_of_one_tenant_is_nothing_to_another(
    world: NetworkWorld, partner: Authority
) -> None:
    world.tenant("other")
    world.prepare("other")
    world.anchor("partner", tenant="other", certificates=partner.path.read_text(), revocation="off")
    device = partner.issue("guest.test").certificate
    assert world.refused(device).rule == "network.wrong-authority"


def test_names_of_others_are_ours_only_if_we_say_so(
    world: NetworkWorld, partner: Authority
) -> None:
    world.person("alice", groups=("engineering",))
    world.policy({"name": "staff", "when": {"groups": ["engineering"]}})
    trusting(world, partner, revocation="off")
    device = partner.issue("alice").certificate
    assert world.refused(device).rule == "network.policy"
    trusting(world, partner, revocation="off", names_people=True)
    assert world.login(device).person == "alice"


def test_a_disabled_person_is_refused_whoever_certified_the_name(
    world: NetworkWorld, partner: Authority
) -> None:
    world.person("alice", disabled_at=world.clock())
    trusting(world, partner, revocation="off")
    assert world.refused(partner.issue("alice").certificate).rule == "network.owner-disabled"


def test_an_anchor_that_has_expired(world: NetworkWorld, partner: Authority) -> None:
    trusting(world, partner, revocation="off")
    device = partner.issue("guest.test", ends=timedelta(days=1500)).certificate
    world.later(days=1001)
    fault = world.refused(device)
    assert (fault.rule, fault.values["broken"]) == ("network.anchor-path", "trust.validity")


def test_the_same_name_with_another_key_is_not_the_anchor(
    world: NetworkWorld, partner: Authority, tmp_path: Path
) -> None:
    trusting(world, partner, revocation="off")
    impostor = Authority(tmp_path / "impostor", "Partner CA")
    assert world.refused(impostor.issue("guest.test").certificate).rule == "network.wrong-authority"


def test_a_key_that_was_lost_elsewhere_is_lost_here(
    world: NetworkWorld, partner: Authority
) -> None:
    trusting(world, partner, revocation="off")
    device = partner.issue("guest.test")
    ours = world.issue(key=_Holding(device.certificate.public_key()))
    world.login(device.certificate)
    world.revoke(ours, 1)
    assert world.refused(device.certificate).rule == "network.compromised-key"


class _Holding:
    """Stands for a key pair of which only the public half is needed."""

    def __init__(self, public_key: Any) -> None:
        self._public_key = public_key

    def public_key(self) -> Any:
        return self._public_key


# -- intermediates ------------------------------------------------------------------------------


class Chain:
    """A root, a sub-CA and a device, with the keys at hand."""

    def __init__(self, now: datetime, *, path_length: int | None = None) -> None:
        self.now = now
        self.keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        self.root = self.certificate("Root", 0, 0, path_length=path_length)
        self.sub = self.certificate("Sub", 1, 0)
        self.leaf = self.certificate("guest.test", 2, 1)

    def certificate(
        self, name: str, key: int, signer: int, *, path_length: int | None = None
    ) -> x509.Certificate:
        names = ("Root", "Sub", "guest.test")
        is_ca = key < 2
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(names[signer]))
            .public_key(self.keys[key].public_key())
            .serial_number(1000 + key)
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + timedelta(days=30))
            .add_extension(
                x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None),
                critical=True,
            )
        )
        if not is_ca:
            client = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([client]), critical=False)
        return builder.sign(self.keys[signer], hashes.SHA256())

    def crl(self, signer: int, *serials: int) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(("Root", "Sub")[signer]))
            .last_update(self.now)
            .next_update(self.now + timedelta(days=1))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(self.now).build())
        return builder.sign(self.keys[signer], hashes.SHA256()).public_bytes(Encoding.DER)

    def pem(self, *certificates: x509.Certificate) -> str:
        return b"".join(each.public_bytes(Encoding.PEM) for each in certificates).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def give(world: NetworkWorld, *crls: bytes) -> None:
    for crl in crls:
        drive(world.anchors.refresh(ADMIN, "default", "partner", crl=crl))


def test_e36_every_ca_on_the_way_is_asked(world: NetworkWorld) -> None:
    chain = Chain(world.clock())
    world.anchor("partner", certificates=chain.pem(chain.root))
    give(world, chain.crl(0))
    # The sub-CA comes with the handshake, and nobody has a CRL of it.
    assert world.refused(chain.leaf, chain.sub).rule == "network.crl-missing"
    world.anchor("partner", certificates=chain.pem(chain.root, chain.sub))
    give(world, chain.crl(1))
    world.login(chain.leaf, chain.sub)
    world.login(chain.leaf)  # the anchor holds the sub-CA
    world.anchor("partner", certificates=chain.pem(chain.root), revocation="soft")
    world.later(minutes=1)
    chain.now = world.clock()
    give(world, chain.crl(0, chain.sub.serial_number))
    assert world.refused(chain.leaf, chain.sub).rule == "network.issuer-revoked"


def test_a_certificate_that_is_no_ca_makes_no_path(world: NetworkWorld) -> None:
    chain = Chain(world.clock())
    world.anchor("partner", certificates=chain.pem(chain.root), revocation="off")
    # The device's key signs a certificate of its own.
    forged = (
        x509.CertificateBuilder()
        .subject_name(_name("forged"))
        .issuer_name(chain.leaf.subject)
        .public_key(chain.keys[2].public_key())
        .serial_number(5)
        .not_valid_before(world.clock() - timedelta(days=1))
        .not_valid_after(world.clock() + timedelta(days=1))
        .sign(chain.keys[2], hashes.SHA256())
    )
    fault = world.refused(forged, chain.leaf, chain.sub)
    assert (fault.rule, fault.values["broken"]) == ("network.anchor-path", "trust.ca")


# -- what is taken as a CRL ---------------------------------------------------------------------


def test_the_job_fetches_what_is_due_and_tells_of_a_failure_once(
    world: NetworkWorld, partner: Authority
) -> None:
    trusting(world, partner)
    assert drive(world.anchors.refresh_due()) == 0
    world.later(minutes=1)
    assert drive(world.anchors.refresh_due()) == 0
    assert len(world.fetched) == 1  # not again so soon
    world.later(minutes=5)
    assert drive(world.anchors.refresh_due()) == 0
    assert world.events().count("trust-anchor.refresh-failed") == 1
    world.later(minutes=5)
    world.documents[URL] = partner.crl(begins=world.clock())
    assert drive(world.anchors.refresh_due()) == 1
    assert world.events().count("trust-anchor.crl-updated") == 1
    world.later(minutes=30)
    assert drive(world.anchors.refresh_due()) == 0
    assert len(world.fetched) == 3  # an hour is not over
    world.later(minutes=31)
    assert drive(world.anchors.refresh_due()) == 0  # the same one
    assert len(world.fetched) == 4
    assert world.events().count("trust-anchor.crl-updated") == 1


def test_an_older_crl_does_not_take_the_place_of_a_newer_one(
    world: NetworkWorld, partner: Authority
) -> None:
    trusting(world, partner)
    device = partner.issue("guest.test").certificate
    old = partner.crl(begins=world.clock())
    world.later(minutes=1)
    give(world, partner.crl([device.serial_number], begins=world.clock()))
    give(world, old)
    assert world.refused(device).rule == "network.revoked"


def bad_crls(world: NetworkWorld, partner: Authority, impostor: Authority) -> list[Any]:
    now = world.clock()
    good = partner.crl(begins=now)
    distribution = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://x.test/")],
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=True,
        only_contains_attribute_certs=False,
    )
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return [
        ("network.crl-malformed", b"<html>not found</html>"),
        ("network.crl-malformed", b""),
        ("network.crl-malformed", good[:-1]),
        ("network.crl-malformed", good + b"\0"),
        ("network.crl-size", b"\x30" * (foreign.LARGEST + 1)),
        ("network.crl-signature", impostor.crl(begins=now)),
        ("network.crl-signature", good[:-1] + bytes((good[-1] ^ 1,))),
        ("network.crl-time", partner.crl(begins=now + timedelta(hours=1))),
        ("network.crl-kind", partner.crl(begins=now, extensions=[x509.DeltaCRLIndicator(1)])),
        ("network.crl-kind", partner.crl(begins=now, extensions=[distribution])),
        ("network.crl-kind", partner.crl(begins=now, extensions=[unknown])),
    ]


def test_what_is_no_crl_of_the_anchor_is_refused_and_changes_nothing(
    world: NetworkWorld, partner: Authority, tmp_path: Path
) -> None:
    trusting(world, partner)
    impostor = Authority(tmp_path / "impostor", "Partner CA")
    other = Authority(tmp_path / "other", "Other CA")
    cases = bad_crls(world, partner, impostor)
    cases.append(("network.crl-issuer", other.crl(begins=world.clock())))
    for rule, crl in cases:
        with pytest.raises(Fault) as caught:
            give(world, crl)
        assert caught.value.rule == rule
        assert caught.value.code in (FaultCode.MALFORMED, FaultCode.REJECTED)
    assert world.count(tables.anchor_crls) == 0


def test_a_crl_in_pem_is_taken(world: NetworkWorld, partner: Authority) -> None:
    trusting(world, partner)
    crl = x509.load_der_x509_crl(partner.crl(begins=world.clock()))
    give(world, crl.public_bytes(Encoding.PEM))
    world.login(partner.issue("guest.test").certificate)


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"certificates": "nothing"}, "not PEM certificates"),
        ({"certificates": ""}, "not PEM certificates"),
        ({"crl_urls": ["ftp://x/"]}, "must be an http or https URL"),
        ({"crl_urls": ["http://user:x@host/"]}, "must be an http or https URL"),
        ({"crl_urls": ["http://host/#part"]}, "must be an http or https URL"),
        ({"crl_urls": ["http://host:99999/"]}, "the port"),
        ({"revocation": "maybe"}, "revocation"),
        ({"refresh_minutes": 0}, "refresh_minutes"),
    ],
)
def test_an_anchor_that_makes_no_sense_is_refused(
    world: NetworkWorld, partner: Authority, changes: dict[str, Any], mistake: str
) -> None:
    with pytest.raises(Fault) as caught:
        world.anchor("partner", **{"certificates": partner.path.read_text(), **changes})
    assert mistake in caught.value.detail


def test_a_device_certificate_is_no_anchor(world: NetworkWorld, partner: Authority) -> None:
    with pytest.raises(Fault) as caught:
        world.anchor("partner", certificates=partner.issue("guest.test").path.read_text())
    assert "is no CA" in caught.value.detail


def test_trust_names_our_authorities_and_the_anchors(
    world: NetworkWorld, partner: Authority
) -> None:
    before = drive(world.admission.trust("default"))
    assert {each.subject.rfc4514_string() for each in before.certificates} == {
        "CN=root,O=default",
        "CN=issuing,O=default",
    } or len(before.certificates) == 2
    assert drive(world.admission.trust("default")).version == before.version
    trusting(world, partner)
    after = drive(world.admission.trust("default"))
    assert after.version != before.version
    assert partner.certificate in after.certificates
    world.tenant("other")
    assert drive(world.admission.trust("other")).certificates == ()


def test_refreshing_an_anchor_of_nobody(world: NetworkWorld) -> None:
    with pytest.raises(Fault) as caught:
        drive(world.anchors.refresh(ADMIN, "default", "none"))
    assert caught.value.rule == "network.anchor-absent"
    with pytest.raises(Fault) as caught:
        drive(world.anchors.lists(ADMIN, "default", "none"))
    assert caught.value.rule == "network.anchor-absent"


def test_refreshing_without_an_address(world: NetworkWorld, partner: Authority) -> None:
    world.anchor("partner", certificates=partner.path.read_text())
    with pytest.raises(Fault) as caught:
        drive(world.anchors.refresh(ADMIN, "default", "partner"))
    assert caught.value.rule == "network.crl-urls"


def test_a_dry_run_keeps_no_crl(world: NetworkWorld, partner: Authority) -> None:
    trusting(world, partner)
    crl = partner.crl(begins=world.clock())
    [taken] = drive(world.anchors.refresh(ADMIN, "default", "partner", crl=crl, dry_run=True))
    assert taken.is_new
    assert world.count(tables.anchor_crls) == 0
