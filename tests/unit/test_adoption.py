from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.hierarchy_world import ADMIN, World, subject
from tests.support import drive
from tmad.ca.hierarchy import Issuer
from tmad.ca.status import Reason
from tmad.ca.trust import Trust, check_path
from tmad.errors import Fault, FaultCode
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import tables
from tmad.storage.issuers import IssuerState

OUTSIDE = ec.generate_private_key(ec.SECP256R1())


class Outside:
    """A CA that is not ours."""

    def __init__(self, world: World, name: str = "outside") -> None:
        self.world = world
        self.name = x509.Name.from_rfc4514_string(f"CN={name}")
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.sign(self.name, self.key.public_key())

    def sign(
        self,
        name: x509.Name,
        key: Any,
        *,
        ca: bool = True,
        days: int = 3650,
        identifier: bool = True,
    ) -> x509.Certificate:
        now = self.world.clock()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .serial_number(x509.random_serial_number())
            .public_key(key)
            .not_valid_before(now - timedelta(days=20))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if identifier:
            own = x509.SubjectKeyIdentifier.from_public_key(key)
            builder = builder.add_extension(own, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def answer(self, request: x509.CertificateSigningRequest, **other: Any) -> x509.Certificate:
        return self.sign(request.subject, request.public_key(), **other)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def outside(world: World) -> Outside:
    return Outside(world)


def csr(world: World, name: str = "sub", **wanted: Any) -> x509.CertificateSigningRequest:
    return drive(world.adoption.csr(ADMIN, "default", name, **wanted))


def install(world: World, *found: x509.Certificate, name: str = "sub") -> Issuer:
    return drive(world.adoption.install(ADMIN, "default", name, found))


def refused(world: World, *found: x509.Certificate) -> str:
    with pytest.raises(Fault) as caught:
        install(world, *found)
    assert caught.value.code in (FaultCode.REJECTED, FaultCode.CONFLICT)
    return caught.value.rule


class TestExternal:
    def test_a_csr_goes_out_and_a_certificate_comes_in(
        self, world: World, outside: Outside
    ) -> None:
        waiting = world.create("sub", external=True)
        assert (waiting.state, waiting.certificate) == (IssuerState.PENDING, None)
        with pytest.raises(Fault):
            world.leaf("sub")
        request = csr(world)
        assert request.is_signature_valid
        assert request.subject == subject("CN=sub,O=default")
        basic = request.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.value.ca
        done = install(world, outside.root, outside.answer(request))
        assert done.state is IssuerState.ACTIVE
        assert done.chain[-1] == outside.root
        leaf = world.leaf("sub")
        assert leaf.issuer_id == done.id
        check_path(done.chain, world.clock())

    @pytest.mark.parametrize(
        "algorithm", [KeyAlgorithm.RSA_2048, KeyAlgorithm.ED448, KeyAlgorithm.ML_DSA_44]
    )
    def test_a_csr_of_every_family_proves_possession(
        self, world: World, algorithm: KeyAlgorithm
    ) -> None:
        world.create("sub", external=True, algorithm=algorithm)
        assert csr(world).is_signature_valid

    def test_a_pending_authority_is_not_settled_away(self, world: World) -> None:
        world.create("sub", external=True)
        assert drive(world.ceremony.recover()) == 0
        assert world.count(tables.issuers, state="pending") == 1

    def test_what_does_not_fit_is_refused(self, world: World, outside: Outside) -> None:
        world.create("sub", external=True)
        request = csr(world)
        good = outside.answer(request)
        other_key = outside.sign(request.subject, OUTSIDE.public_key())
        other_name = outside.sign(subject("CN=someone else"), request.public_key())
        no_ca = outside.answer(request, ca=False)
        expired = outside.answer(request, days=-1)
        nameless = outside.answer(request, identifier=False)
        assert refused(world, nameless, outside.root) == "authority.key-identifier"
        assert refused(world, other_key, outside.root) == "authority.install.key"
        assert refused(world, other_name, outside.root) == "authority.install.subject"
        assert refused(world, no_ca, outside.root) == "trust.ca"
        assert refused(world, expired, outside.root) == "trust.validity"
        assert refused(world, good) == "trust.anchor"
        assert refused(world, good, Outside(world).root) == "trust.anchor"
        assert install(world, good, outside.root).state is IssuerState.ACTIVE

    def test_a_known_anchor_completes_the_chain(self, world: World, outside: Outside) -> None:
        drive(world.adoption.import_(ADMIN, "default", "upstairs", certificates=[outside.root]))
        world.create("sub", external=True)
        done = install(world, outside.answer(csr(world)))
        assert done.chain[-1] == outside.root
        with pytest.raises(Fault) as caught:
            drive(world.ceremony.renew(ADMIN, "default", "sub"))
        assert caught.value.rule == "authority.external"

    def test_a_renewal_comes_in_the_same_way(self, world: World, outside: Outside) -> None:
        world.create("sub", external=True)
        first = install(world, outside.answer(csr(world)), outside.root)
        second = install(world, outside.answer(csr(world)), outside.root)
        assert (second.id, second.state) == (first.id, IssuerState.ACTIVE)
        assert second.certificate != first.certificate

    def test_a_new_key_is_certified_outside_and_then_staged(
        self, world: World, outside: Outside
    ) -> None:
        world.create("sub", external=True)
        old = install(world, outside.answer(csr(world)), outside.root)
        pending = drive(world.ceremony.rekey(ADMIN, "default", "sub"))
        assert pending.state is IssuerState.PENDING
        assert world.leaf("sub").issuer_id == old.id
        staged = install(world, outside.answer(csr(world)), outside.root)
        assert (staged.id, staged.state) == (pending.id, IssuerState.NEXT)
        assert drive(world.ceremony.activate(ADMIN, "default", "sub")).id == pending.id

    def test_a_dry_run_installs_nothing(self, world: World, outside: Outside) -> None:
        world.create("sub", external=True)
        answer = outside.answer(csr(world))
        drive(world.adoption.install(ADMIN, "default", "sub", [answer, outside.root], dry_run=True))
        assert world.count(tables.issuers, state="pending") == 1

    def test_a_withdrawn_authority_takes_no_certificate(
        self, world: World, outside: Outside
    ) -> None:
        world.create("sub", external=True)
        answer = outside.answer(csr(world))
        install(world, answer, outside.root)
        drive(world.ceremony.withdraw(ADMIN, "default", "sub", reason=Reason.SUPERSEDED))
        assert refused(world, answer, outside.root) == "authority.state"


class TestImport:
    def take(self, world: World, name: str = "old", **wanted: Any) -> Issuer:
        return drive(world.adoption.import_(ADMIN, "default", name, **wanted))

    def test_a_ca_with_its_key_goes_on_issuing(self, world: World, outside: Outside) -> None:
        found = self.take(world, certificates=[outside.root], private_key=outside.key)
        assert found.state is IssuerState.ACTIVE
        leaf = world.leaf("old").certificate
        leaf.verify_directly_issued_by(outside.root)

    def test_the_key_chooses_its_certificate(self, world: World, outside: Outside) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        below = outside.sign(subject("CN=below"), key.public_key())
        found = self.take(world, certificates=[outside.root, below], private_key=key)
        assert found.certificate == below
        assert found.chain == (below, outside.root)

    def test_a_key_of_another_certificate_is_refused(self, world: World, outside: Outside) -> None:
        with pytest.raises(Fault) as caught:
            self.take(world, certificates=[outside.root], private_key=OUTSIDE)
        assert caught.value.rule == "authority.import.match"

    def test_a_key_that_is_here_is_not_taken_twice(self, world: World, outside: Outside) -> None:
        self.take(world, certificates=[outside.root], private_key=outside.key)
        with pytest.raises(Fault) as caught:
            self.take(world, "again", certificates=[outside.root], private_key=outside.key)
        assert caught.value.code is FaultCode.CONFLICT
        assert world.count(tables.private_keys) == 1

    def test_without_a_key_it_is_known_and_cannot_issue(
        self, world: World, outside: Outside
    ) -> None:
        found = self.take(world, certificates=[outside.root])
        assert (found.state, found.signs) == (IssuerState.ANCHOR, False)
        with pytest.raises(Fault):
            world.leaf("old")
        with pytest.raises(Fault):
            csr(world, "old")

    def test_each_tenant_may_know_the_same_anchor(self, world: World, outside: Outside) -> None:
        self.take(world, certificates=[outside.root])
        world.tenant("other")
        drive(world.adoption.import_(ADMIN, "other", "old", certificates=[outside.root]))
        assert world.count(tables.issuers, state="anchor") == 2

    def test_what_another_tenant_knows_never_stands_in_for_our_own_ca(self, world: World) -> None:
        root = world.create("root")
        assert root.certificate is not None
        leaf = world.leaf("root").certificate
        world.tenant("other")
        drive(world.adoption.import_(ADMIN, "other", "theirs", certificates=[root.certificate]))
        trust = Trust(world.hierarchy)
        own = drive(trust.issuer_of(leaf))
        theirs = drive(trust.issuer_of(leaf, tenant="other"))
        assert own is not None
        assert theirs is not None
        assert (own.id, theirs.authority) == (root.id, "theirs")
        with pytest.raises(Fault) as caught:
            self.take(world, "copy", certificates=[root.certificate])
        assert caught.value.rule == "authority.import.known"

    def test_an_end_entity_is_no_ca(self, world: World, outside: Outside) -> None:
        leaf = outside.sign(subject("CN=leaf"), OUTSIDE.public_key(), ca=False)
        with pytest.raises(Fault) as caught:
            self.take(world, certificates=[leaf, outside.root])
        assert caught.value.rule == "trust.ca"

    def test_the_name_must_be_free(self, world: World, outside: Outside) -> None:
        world.create("old")
        with pytest.raises(Fault) as caught:
            self.take(world, certificates=[outside.root])
        assert caught.value.rule == "authority.exists"

    def test_a_dry_run_takes_nothing(self, world: World, outside: Outside) -> None:
        self.take(world, certificates=[outside.root], private_key=outside.key, dry_run=True)
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 0


class TestCrossSign:
    def cross(self, world: World, other: Any, **wanted: Any) -> Any:
        return drive(world.adoption.cross_sign(ADMIN, "default", "root", other=other, **wanted))

    def test_another_authority_here_gets_a_second_way_up(self, world: World) -> None:
        root = world.create("root")
        other = world.create("other")
        made = self.cross(world, "other", path_length=1)
        assert made.issuer_id == root.id
        assert root.certificate is not None
        assert other.certificate is not None
        assert made.certificate.subject == other.certificate.subject
        check_path([made.certificate, root.certificate], world.clock())
        leaf = world.leaf("other").certificate
        leaf.verify_directly_issued_by(made.certificate)
        # Its own certificate and its state are as they were.
        assert drive(world.hierarchy.active("default", "other")) == other

    def test_t_crl_02_revoking_the_cross_certificate_touches_nothing_else(
        self, world: World
    ) -> None:
        root = world.create("root")
        other = world.create("other", parent="root")
        made = self.cross(world, "other")
        assert other.certificate is not None
        drive(
            world.revocation.revoke_by_id(ADMIN, "default", made.certificate_id, Reason.SUPERSEDED)
        )
        assert drive(world.status.of(root.id, other.certificate.serial_number)).state == "good"
        assert drive(world.hierarchy.active("default", "other")).certificate == other.certificate

    def test_a_ca_outside_proves_its_key_by_a_csr(self, world: World) -> None:
        world.create("root")
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject("CN=partner"))
            .sign(OUTSIDE, hashes.SHA256())
        )
        constraints = x509.NameConstraints([x509.DNSName("partner.test")], None)
        made = self.cross(world, request, name_constraints=constraints)
        found = made.certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert found.value == constraints

    def test_or_by_its_self_signed_certificate_and_by_no_other(
        self, world: World, outside: Outside
    ) -> None:
        world.create("root")
        assert self.cross(world, outside.root).certificate.subject == outside.name
        below = outside.sign(subject("CN=below"), OUTSIDE.public_key())
        with pytest.raises(Fault) as caught:
            self.cross(world, below)
        assert caught.value.code is FaultCode.BAD_PROOF

    def test_a_csr_with_a_wrong_signature_proves_nothing(self, world: World) -> None:
        world.create("root")
        key = algorithms.generate(KeyAlgorithm.P256)
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject("CN=partner"))
            .sign(key, hashes.SHA256())  # type: ignore[arg-type]  # a P-256 key
        )
        from cryptography.hazmat.primitives.serialization import Encoding

        octets = bytearray(request.public_bytes(Encoding.DER))
        octets[-1] ^= 1
        with pytest.raises(Fault) as caught:
            self.cross(world, x509.load_der_x509_csr(bytes(octets)))
        assert caught.value.code is FaultCode.BAD_PROOF

    def test_its_own_key_is_not_cross_signed(self, world: World) -> None:
        world.create("root")
        with pytest.raises(Fault) as caught:
            self.cross(world, "root")
        assert caught.value.rule == "authority.cross-own"

    def test_a_dry_run_makes_nothing(self, world: World) -> None:
        world.create("root")
        world.create("other")
        issued = world.count(tables.certificates)
        self.cross(world, "other", dry_run=True)
        assert world.count(tables.certificates) == issued
