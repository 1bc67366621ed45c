from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding

from tests.hierarchy_world import ADMIN, Killed, World, subject
from tests.support import drive
from tmad.ca import generation
from tmad.ca.authority import AuthorityDocument
from tmad.ca.status import Reason
from tmad.ca.trust import check_path
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import tables
from tmad.storage.issuers import IssuerState


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, code: FaultCode, name: str = "sub", **wanted: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        world.create(name, **wanted)
    assert caught.value.code is code
    return caught.value


def basic(certificate: x509.Certificate | None) -> x509.BasicConstraints:
    assert certificate is not None
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


class TestRoot:
    def test_a_root_is_a_recorded_certificate_like_any_other(self, world: World) -> None:
        root = world.create("root")
        assert root.state is IssuerState.ACTIVE
        assert root.is_self_signed
        assert root.certificate is not None
        assert world.count(tables.certificates, issuer_id=root.id, state="issued") == 1
        assert world.count(tables.private_keys, id=root.key_id) == 1
        assert world.events()[-4:] == [
            "issuer.prepared",
            "certificate.intended",
            "certificate.issued",
            "issuer.created",
        ]

    def test_a_root_says_nothing_of_where_its_own_status_is(self, world: World) -> None:
        root = world.create("root")
        assert root.certificate is not None
        oids = {extension.oid for extension in root.certificate.extensions}
        assert x509.CRLDistributionPoints.oid not in oids
        assert x509.AuthorityInformationAccess.oid not in oids

    @pytest.mark.parametrize(
        "algorithm", [a for a in KeyAlgorithm if not a.value.startswith("rsa")]
    )
    def test_every_algorithm_signs_a_root_and_a_sub_ca(
        self, world: World, algorithm: KeyAlgorithm
    ) -> None:
        world.create("root", algorithm=algorithm)
        sub = world.create("sub", parent="root", algorithm=algorithm)
        check_path(sub.chain, world.clock())

    def test_an_rsa_key_signs_with_pss_where_the_rules_say_so(self, world: World) -> None:
        rules = AuthorityDocument.model_validate({"signature": {"pss": True, "hash": "sha384"}})
        root = world.create("root", algorithm=KeyAlgorithm.RSA_2048, document=rules)
        assert root.certificate is not None
        parameters = root.certificate.signature_algorithm_parameters
        assert isinstance(parameters, padding.PSS)
        assert root.certificate.signature_hash_algorithm is not None
        assert root.certificate.signature_hash_algorithm.name == "sha384"

    def test_pss_is_refused_for_a_key_that_cannot(self, world: World) -> None:
        rules = AuthorityDocument.model_validate({"signature": {"pss": True}})
        fault = refused(world, FaultCode.REJECTED, "root", document=rules)
        assert fault.rule == "authority.signature.pss"
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 0

    def test_a_ca_has_a_subject(self, world: World) -> None:
        fault = refused(world, FaultCode.REJECTED, "root", subject=x509.Name([]))
        assert fault.rule == "authority.subject-empty"


class TestLevels:
    def test_x5_pathlen_falls_with_each_level_and_the_chain_is_in_order(self, world: World) -> None:
        world.create("root", path_length=2)
        middle = world.create("middle", parent="root")
        lowest = world.create("lowest", parent="middle", path_length=0)
        assert basic(middle.certificate).path_length == 1
        assert basic(lowest.certificate).path_length == 0
        assert [c.subject for c in lowest.chain] == [
            subject(f"CN={name},O=default") for name in ("lowest", "middle", "root")
        ]
        check_path(lowest.chain, world.clock())

    def test_nothing_stands_below_pathlen_0(self, world: World) -> None:
        world.create("root", path_length=0)
        fault = refused(world, FaultCode.REJECTED, parent="root")
        assert fault.rule == "authority.path-length"

    def test_pathlen_must_be_below_the_parents(self, world: World) -> None:
        world.create("root", path_length=1)
        fault = refused(world, FaultCode.REJECTED, parent="root", path_length=1)
        assert fault.values == {"wanted": "1", "parent": "1"}

    def test_nothing_outlives_its_parent(self, world: World) -> None:
        world.create("root", lifetime=timedelta(days=100))
        fault = refused(world, FaultCode.REJECTED, parent="root", lifetime=timedelta(days=101))
        assert fault.rule == "authority.lifetime"

    def test_without_a_wish_it_lives_as_long_as_its_parent_allows(self, world: World) -> None:
        root = world.create("root", lifetime=timedelta(days=100))
        sub = world.create("sub", parent="root")
        assert root.not_after is not None
        assert sub.not_after is not None
        assert timedelta(0) <= root.not_after - sub.not_after < timedelta(minutes=10)

    def test_name_constraints_are_critical_and_obeyed(self, world: World) -> None:
        world.create("root")
        constraints = x509.NameConstraints([x509.DNSName("example.test")], None)
        sub = world.create("sub", parent="root", name_constraints=constraints)
        assert sub.certificate is not None
        found = sub.certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert found.critical
        assert found.value == constraints
        with pytest.raises(Fault):
            world.leaf("sub", host="www.elsewhere.test")
        assert world.leaf("sub", host="www.example.test").certificate is not None

    def test_an_unknown_parent_is_not_found(self, world: World) -> None:
        refused(world, FaultCode.NOT_FOUND, parent="nobody")

    def test_a_parent_here_and_one_outside_exclude_each_other(self, world: World) -> None:
        world.create("root")
        refused(world, FaultCode.REJECTED, parent="root", external=True)

    def test_a_name_or_a_subject_is_taken_once(self, world: World) -> None:
        world.create("root")
        assert refused(world, FaultCode.CONFLICT, "root").rule == "authority.exists"
        fault = refused(world, FaultCode.CONFLICT, "two", subject=subject("CN=root,O=default"))
        assert fault.rule == "authority.subject"
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 1

    def test_a_dry_run_checks_everything_and_leaves_nothing(self, world: World) -> None:
        world.create("root", path_length=1)
        before = world.events()
        shown = world.create("sub", parent="root", dry_run=True)
        assert shown.authority == "sub"
        refused(world, FaultCode.REJECTED, parent="root", path_length=3, dry_run=True)
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 1
        assert world.events() == before
        assert world.create("sub", parent="root").state is IssuerState.ACTIVE


class TestTenants:
    @pytest.fixture
    def world(self) -> World:
        world = World()
        world.tenant("other")
        return world

    def test_the_parent_of_another_tenant_does_not_exist(self, world: World) -> None:
        world.create("root")
        fault = refused(world, FaultCode.NOT_FOUND, tenant="other", parent="default/root")
        unknown = refused(world, FaultCode.NOT_FOUND, tenant="other", parent="default/none")
        assert fault.detail.replace("root", "none") == unknown.detail

    def test_a_parent_that_serves_the_tenant_signs(self, world: World) -> None:
        world.create("root", document=AuthorityDocument(serves_tenants=("other",)))
        sub = world.create("sub", tenant="other", parent="default/root")
        assert sub.slug == "other.sub"
        check_path(sub.chain, world.clock())

    def test_a_subject_of_another_tenant_is_taken_without_saying_whose(self, world: World) -> None:
        world.create("root")
        fault = refused(
            world,
            FaultCode.CONFLICT,
            "mine",
            tenant="other",
            subject=subject("CN=root,O=default"),
        )
        assert "default" not in fault.detail
        assert fault.values == {}

    def test_the_same_name_in_two_tenants_is_two_authorities(self, world: World) -> None:
        one, two = world.create("root"), world.create("root", tenant="other")
        assert (one.slug, two.slug) == ("root", "other.root")
        assert drive(world.hierarchy.by_slug("other.root")).id == two.id
        assert [i.id for i in drive(world.hierarchy.list(ADMIN, "other"))] == [two.id]

    def test_whoever_has_nothing_in_a_tenant_learns_nothing(self, world: World) -> None:
        world.create("root")
        stranger = Actor("person:eve", (Grant("administrator", "other"),))
        for call in (
            world.hierarchy.show(stranger, "default", "root"),
            world.ceremony.renew(stranger, "default", "root"),
            world.ceremony.withdraw(stranger, "default", "root", reason=Reason.UNSPECIFIED),
            world.adoption.csr(stranger, "default", "root"),
        ):
            with pytest.raises(Fault) as caught:
                drive(call)
            assert caught.value.code is FaultCode.NOT_FOUND

    def test_an_operator_makes_no_authorities(self, world: World) -> None:
        operator = Actor("person:olga", (Grant("operator", "default"),))
        with pytest.raises(Fault) as caught:
            drive(
                world.ceremony.create(
                    operator,
                    "default",
                    "root",
                    subject=subject("CN=root"),
                    algorithm=KeyAlgorithm.P256,
                )
            )
        assert caught.value.code is FaultCode.FORBIDDEN


class TestLookUps:
    def test_another_process_sees_each_change_at_its_next_question(self, world: World) -> None:
        beside = World(world, holder="two")
        with pytest.raises(Fault):
            drive(beside.hierarchy.active("default", "root"))
        root = world.create("root")
        assert drive(beside.hierarchy.active("default", "root")).id == root.id
        rules = AuthorityDocument(description="new rules")
        drive(world.objects.put(ADMIN, "default", "authority", "root", rules))
        found = drive(beside.hierarchy.by_id(root.id))
        assert (found.document.description, found.revision) == ("new rules", 2)

    def test_an_issuer_is_found_by_name_and_key(self, world: World) -> None:
        root = world.create("root")
        digest = x509.SubjectKeyIdentifier.from_public_key(root.public_key).key_identifier
        import hashlib

        from tmad.ca.trust import key_bits

        bits = key_bits(root.public_key)
        assert hashlib.sha1(bits).digest() == digest
        found = drive(world.hierarchy.by_name_and_key(root.subject_der, bits))
        assert found is not None
        assert found.id == root.id
        assert drive(world.hierarchy.by_name_and_key(root.subject_der, bits[1:])) is None
        assert drive(world.hierarchy.by_name_and_key(b"0\x00", bits)) is None

    def test_addresses_follow_the_rules(self, world: World) -> None:
        root = world.create("root")
        urls = world.hierarchy.urls(root)
        assert urls.crl == "http://pki.test/crl/root.crl"
        assert urls.ocsp == "http://pki.test/ocsp/root"
        assert urls.ca_issuers == "http://pki.test/aia/root.cer"
        rules = {"urls": {"base": "http://other.test/pki", "ocsp": False}}
        drive(world.objects.put(ADMIN, "default", "authority", "root", rules))
        urls = world.hierarchy.urls(drive(world.hierarchy.by_id(root.id)))
        assert (urls.crl, urls.ocsp) == ("http://other.test/pki/crl/root.crl", "")

    @pytest.mark.parametrize("base", ["https://x.test", "http://x.test/", "ftp://x", "http://a b"])
    def test_an_address_that_clients_cannot_use_is_refused(self, world: World, base: str) -> None:
        # CRL and OCSP over TLS would need themselves to be checked (RFC 5280, 8).
        with pytest.raises(Fault) as caught:
            drive(world.objects.put(ADMIN, "default", "authority", "x", {"urls": {"base": base}}))
        assert "urls.base" in caught.value.values

    def test_the_rules_of_an_authority_with_keys_are_never_deleted(self, world: World) -> None:
        world.create("root")
        with pytest.raises(Fault) as caught:
            drive(world.objects.delete(ADMIN, "default", "authority", "root"))
        assert caught.value.rule == "authority.in-use"


class TestRekey:
    def test_the_next_key_is_announced_before_it_issues(self, world: World) -> None:
        world.create("root")
        old = world.create("sub", parent="root")
        staged = drive(world.ceremony.rekey(ADMIN, "default", "sub"))
        assert staged.state is IssuerState.NEXT
        assert (staged.generation, staged.slug) == (2, "sub_2")
        assert staged.subject_der == old.subject_der
        assert staged.public_key != old.public_key
        found = drive(world.hierarchy.next("default", "sub"))
        assert found is not None
        assert found.id == staged.id
        assert world.leaf("sub").issuer_id == old.id

    def test_crl_10_ocsp_29_after_the_switch_the_old_key_still_signs_its_status(
        self, world: World
    ) -> None:
        world.create("root")
        old = world.create("sub", parent="root")
        drive(world.ceremony.rekey(ADMIN, "default", "sub"))
        new = drive(world.ceremony.activate(ADMIN, "default", "sub"))
        assert new.state is IssuerState.ACTIVE
        old = drive(world.hierarchy.by_id(old.id))
        assert old.state is IssuerState.RETIRED
        assert old.signs
        assert not old.is_able
        assert world.leaf("sub").issuer_id == new.id
        responder = drive(world.service_certificates.current("ocsp", str(old.id)))
        assert responder.issuer_id == old.id
        assert old.certificate is not None
        responder.certificate.verify_directly_issued_by(old.certificate)

    def test_a_root_gets_a_new_key_that_signs_itself(self, world: World) -> None:
        old = world.create("root")
        new = drive(world.ceremony.rekey(ADMIN, "default", "root", algorithm=KeyAlgorithm.ED25519))
        assert new.is_self_signed
        assert new.id != old.id
        check_path(new.chain, world.clock())
        assert world.count(tables.certificates, issuer_id=new.id) == 1

    def test_there_is_one_next_key_at_a_time(self, world: World) -> None:
        world.create("root")
        drive(world.ceremony.rekey(ADMIN, "default", "root"))
        with pytest.raises(Fault) as caught:
            drive(world.ceremony.rekey(ADMIN, "default", "root"))
        assert caught.value.rule == "authority.next-exists"

    def test_there_is_nothing_to_activate_without_a_next_key(self, world: World) -> None:
        world.create("root")
        with pytest.raises(Fault) as caught:
            drive(world.ceremony.activate(ADMIN, "default", "root"))
        assert caught.value.code is FaultCode.NOT_FOUND

    def test_children_of_the_old_key_keep_their_chain(self, world: World) -> None:
        world.create("root")
        sub = world.create("sub", parent="root")
        drive(world.ceremony.rekey(ADMIN, "default", "root"))
        drive(world.ceremony.activate(ADMIN, "default", "root"))
        check_path(drive(world.hierarchy.by_id(sub.id)).chain, world.clock())
        # Its renewal is signed by the new key of the same parent.
        renewed = drive(world.ceremony.renew(ADMIN, "default", "sub"))
        check_path(renewed.chain, world.clock())
        assert renewed.parent_issuer_id != sub.parent_issuer_id


class TestRenew:
    def test_the_key_and_the_issuer_stay(self, world: World) -> None:
        world.create("root")
        old = world.create("sub", parent="root", path_length=0)
        world.clock.advance(days=365)
        new = drive(world.ceremony.renew(ADMIN, "default", "sub"))
        assert (new.id, new.key_id, new.state) == (old.id, old.key_id, IssuerState.ACTIVE)
        assert new.certificate != old.certificate
        assert basic(new.certificate).path_length == 0
        assert new.not_after is not None
        assert old.not_after is not None
        assert new.not_after > old.not_after

    def test_below_a_renewed_parent_every_chain_is_the_new_one(self, world: World) -> None:
        world.create("root")
        world.create("middle", parent="root")
        low = world.create("low", parent="middle")
        world.clock.advance(days=30)
        root = drive(world.ceremony.renew(ADMIN, "default", "root"))
        chain = drive(world.hierarchy.by_id(low.id)).chain
        assert chain[2] == root.certificate
        check_path(chain, world.clock())

    def test_t_crl_02_two_certificates_of_one_key_are_revoked_one_by_one(
        self, world: World
    ) -> None:
        root = world.create("root")
        old = world.create("sub", parent="root")
        new = drive(world.ceremony.renew(ADMIN, "default", "sub"))
        assert old.certificate is not None
        assert new.certificate is not None
        assert old.certificate.subject == new.certificate.subject
        drive(
            world.revocation.revoke(
                ADMIN, "default", root.id, old.certificate.serial_number, Reason.SUPERSEDED
            )
        )
        status = world.status
        assert drive(status.of(root.id, old.certificate.serial_number)).state == "revoked"
        assert drive(status.of(root.id, new.certificate.serial_number)).state == "good"
        assert drive(world.hierarchy.active("default", "sub")).certificate == new.certificate
        assert world.leaf("sub").issuer_id == new.id


class TestEnd:
    def test_a_withdrawn_authority_issues_no_more_and_goes_on_answering(self, world: World) -> None:
        root = world.create("root")
        sub = world.create("sub", parent="root")
        [gone] = drive(
            world.ceremony.withdraw(
                ADMIN, "default", "sub", reason=Reason.CESSATION_OF_OPERATION, revoke=True
            )
        )
        assert gone.state is IssuerState.WITHDRAWN
        assert gone.signs
        with pytest.raises(Fault) as caught:
            world.leaf("sub")
        assert caught.value.code is FaultCode.UNAVAILABLE
        assert sub.certificate is not None
        status = drive(world.status.of(root.id, sub.certificate.serial_number))
        assert (status.state, status.reason) == ("revoked", Reason.CESSATION_OF_OPERATION)

    def test_without_the_wish_nothing_is_revoked(self, world: World) -> None:
        root = world.create("root")
        sub = world.create("sub", parent="root")
        drive(world.ceremony.withdraw(ADMIN, "default", "sub", reason=Reason.SUPERSEDED))
        assert sub.certificate is not None
        assert drive(world.status.of(root.id, sub.certificate.serial_number)).state == "good"

    def test_everything_that_a_compromised_key_signed_is_revoked(self, world: World) -> None:
        root = world.create("root")
        sub = world.create("sub", parent="root")
        leaf = world.leaf("sub")
        serial = leaf.certificate.serial_number
        assert drive(world.status.of(sub.id, serial)).state == "good"
        found = drive(world.ceremony.compromise(ADMIN, "default", "sub"))
        assert found.compromised_at == world.clock()
        assert drive(world.status.of(sub.id, serial)).reason is Reason.CA_COMPROMISE
        assert sub.certificate is not None
        assert drive(world.status.of(root.id, sub.certificate.serial_number)).state == "revoked"
        with pytest.raises(Fault):
            world.leaf("sub")

    def test_an_earlier_compromise_is_never_moved_to_a_later_time(self, world: World) -> None:
        world.create("root")
        early = world.clock() - timedelta(days=3)
        drive(world.ceremony.compromise(ADMIN, "default", "root", since=early))
        found = drive(world.ceremony.compromise(ADMIN, "default", "root", number=1))
        assert found.compromised_at == early

    def test_a_compromise_does_not_lie_in_the_future(self, world: World) -> None:
        world.create("root")
        with pytest.raises(Fault) as caught:
            drive(
                world.ceremony.compromise(
                    ADMIN, "default", "root", since=world.clock() + timedelta(days=1)
                )
            )
        assert caught.value.code is FaultCode.BAD_TIME

    def test_a_withdrawn_parent_signs_no_new_authority(self, world: World) -> None:
        world.create("root")
        drive(world.ceremony.withdraw(ADMIN, "default", "root", reason=Reason.SUPERSEDED))
        refused(world, FaultCode.UNAVAILABLE, parent="root")

    def test_one_that_never_got_a_certificate_is_removed_with_its_key(self, world: World) -> None:
        world.create("sub", external=True)
        left = drive(world.ceremony.withdraw(ADMIN, "default", "sub", reason=Reason.SUPERSEDED))
        assert left == ()
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 0


class TestCrash:
    """What a process that dies in the middle leaves behind is completed or removed."""

    def kill_at(self, world: World, monkeypatch: pytest.MonkeyPatch, *, signed: bool) -> None:
        issue = world.authority.issue

        async def die(*arguments: Any, **named: Any) -> Any:
            if signed:
                await issue(*arguments, **named)
            raise Killed

        monkeypatch.setattr(world.authority, "issue", die)
        # A process that is killed gives no lease back.
        monkeypatch.setattr(generation.leases, "release", lambda *arguments: None)

    def half_made(
        self, world: World, monkeypatch: pytest.MonkeyPatch, *, signed: bool, **wanted: Any
    ) -> None:
        with monkeypatch.context() as patch:
            self.kill_at(world, patch, signed=signed)
            with pytest.raises(Killed):
                world.create("sub", **wanted)
        assert world.count(tables.issuers, state="creating") == 1
        # Whether it is dead is certain only when its lease has ended.
        assert drive(World(world, holder="two").ceremony.recover()) == 0
        assert refused(world, FaultCode.CONFLICT, **wanted).rule == "lease.held"
        world.clock.advance(seconds=generation.LEASE_SECONDS + 1)

    @pytest.mark.parametrize("parent", [None, "root"])
    def test_before_the_signature_it_is_removed(
        self, world: World, monkeypatch: pytest.MonkeyPatch, parent: str | None
    ) -> None:
        world.create("root")
        self.half_made(world, monkeypatch, signed=False, parent=parent)
        assert drive(World(world, holder="two").ceremony.recover()) == 1
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 1
        assert "issuer.removed" in world.events()
        assert world.create("sub", parent=parent).state is IssuerState.ACTIVE

    @pytest.mark.parametrize("parent", [None, "root"])
    def test_after_the_signature_it_is_completed(
        self, world: World, monkeypatch: pytest.MonkeyPatch, parent: str | None
    ) -> None:
        world.create("root")
        self.half_made(world, monkeypatch, signed=True, parent=parent)
        issued = world.count(tables.certificates)
        assert drive(World(world, holder="two").ceremony.recover()) == 1
        sub = drive(world.hierarchy.active("default", "sub"))
        check_path(sub.chain, world.clock())
        assert world.count(tables.certificates) == issued
        assert drive(world.ceremony.recover()) == 0

    def test_the_next_attempt_settles_it_first(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.create("root")
        self.half_made(world, monkeypatch, signed=False, parent="root")
        assert world.create("sub", parent="root").state is IssuerState.ACTIVE
        assert world.count(tables.issuers) == 2

    def test_a_half_made_rekey_leaves_the_old_key_at_work(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = world.create("sub")
        with monkeypatch.context() as patch:
            self.kill_at(world, patch, signed=False)
            with pytest.raises(Killed):
                drive(world.ceremony.rekey(ADMIN, "default", "sub"))
        assert world.leaf("sub").issuer_id == old.id
        world.clock.advance(seconds=generation.LEASE_SECONDS + 1)
        assert drive(world.ceremony.recover()) == 1
        assert [i.id for i in drive(world.hierarchy.generations("default", "sub"))] == [old.id]

    def test_what_another_process_is_making_is_left_alone(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beside = World(world, holder="two")
        settled: list[int] = []

        async def look(*arguments: Any, **named: Any) -> Any:
            settled.append(await beside.ceremony.recover())
            return await issue(*arguments, **named)

        issue = world.authority.issue
        monkeypatch.setattr(world.authority, "issue", look)
        assert world.create("sub").state is IssuerState.ACTIVE
        assert settled == [0]

    def test_a_refused_signature_leaves_nothing(self, world: World) -> None:
        world.create("root", document=AuthorityDocument(profiles=("leaf",)))
        refused(world, FaultCode.FORBIDDEN, parent="root")
        assert world.count(tables.issuers) == world.count(tables.private_keys) == 1
