from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.hierarchy_world import ADMIN, World
from tests.support import drive
from tmad.ca.scheme import STRENGTH, fitting_algorithm
from tmad.ca.service_tls import ServiceTLS
from tmad.ca.service_wishes import eap_scope
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import answers as cmc_answers
from tmad.protocols.cmp import answers as cmp_answers
from tmad.signer.algorithms import KeyAlgorithm, of
from tmad.storage import leases, tables


@pytest.fixture
def world() -> World:
    world = World()
    world.create("root")
    world.create("sub", parent="root")
    world.endpoint("routers", "sub")
    return world


def current(world: World, purpose: str, scope: str) -> Any:
    return drive(world.service_certificates.current(purpose, scope))  # type: ignore[arg-type]


def valid(world: World, purpose: str, scope: str) -> Any:
    return drive(world.service_certificates.valid(purpose, scope))  # type: ignore[arg-type]


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


class TestOCSP:
    def test_ocsp_23_a_responder_is_certified_by_the_key_it_answers_for(self, world: World) -> None:
        issuer = drive(world.hierarchy.active("default", "sub"))
        found = current(world, "ocsp", str(issuer.id))
        certificate = found.certificate
        assert issuer.certificate is not None
        certificate.verify_directly_issued_by(issuer.certificate)
        usage = extension(certificate, x509.ExtendedKeyUsage)
        assert list(usage.value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
        assert extension(certificate, x509.OCSPNoCheck).value.public_bytes() == b"\x05\x00"
        assert extension(certificate, x509.KeyUsage).value.digital_signature
        present = {e.oid for e in certificate.extensions}
        assert x509.CRLDistributionPoints.oid not in present
        assert certificate.not_valid_after_utc - world.clock() <= timedelta(days=30)
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)

    @pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
    def test_ocsp_24_the_fitting_responder_key_is_not_weaker(self, algorithm: KeyAlgorithm) -> None:
        assert STRENGTH[fitting_algorithm(algorithm)] >= STRENGTH[algorithm]

    def test_ocsp_24_a_weaker_responder_key_is_refused(self, world: World) -> None:
        root = world.create("strong", algorithm=KeyAlgorithm.P384)
        rules = {"ocsp": {"responder_algorithm": "p256"}}
        drive(world.objects.put(ADMIN, "default", "authority", "strong", rules))
        with pytest.raises(Fault) as caught:
            current(world, "ocsp", str(root.id))
        assert caught.value.rule == "ocsp.responder-algorithm"

    def test_ocsp_24_a_post_quantum_authority_has_a_post_quantum_responder(
        self, world: World
    ) -> None:
        root = world.create("pq", algorithm=KeyAlgorithm.ML_DSA_65)
        found = current(world, "ocsp", str(root.id))
        assert of(found.certificate.public_key()) is KeyAlgorithm.ML_DSA_65

    @pytest.mark.parametrize("scope", ["999", "x", "-1", ""])
    def test_there_is_none_for_an_issuer_that_does_not_exist(
        self, world: World, scope: str
    ) -> None:
        with pytest.raises(Fault) as caught:
            current(world, "ocsp", scope)
        assert caught.value.code is FaultCode.NOT_FOUND

    def test_a_withdrawn_authority_still_gets_a_responder(self, world: World) -> None:
        issuer = drive(world.hierarchy.active("default", "sub"))
        drive(world.ceremony.withdraw(ADMIN, "default", "sub", reason=Reason.SUPERSEDED))
        assert current(world, "ocsp", str(issuer.id)).issuer_id == issuer.id

    def test_another_wish_for_the_key_is_met_at_the_next_renewal(self, world: World) -> None:
        issuer = drive(world.hierarchy.active("default", "sub"))
        first = current(world, "ocsp", str(issuer.id))
        rules = {"ocsp": {"responder_algorithm": "p521", "responder_store": "pkcs11"}}
        drive(world.objects.put(ADMIN, "default", "authority", "sub", rules))
        assert current(world, "ocsp", str(issuer.id)).id == first.id
        assert drive(world.service_certificates.renew_due()) == 1
        found = current(world, "ocsp", str(issuer.id))
        handle = drive(world.keyring.handle(found.key_id))
        assert (handle.algorithm, handle.store) == (KeyAlgorithm.P521, "pkcs11")


class TestRA:
    def test_scep_21_each_door_has_an_rsa_ra_of_its_own(self, world: World) -> None:
        world.endpoint("phones", "sub")
        one = current(world, "scep-ra", "scep/routers")
        other = current(world, "scep-ra", "scep/phones")
        assert one.key_id != other.key_id
        key = one.certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
        usage = extension(one.certificate, x509.KeyUsage)
        assert usage.critical
        assert usage.value.digital_signature
        assert usage.value.key_encipherment
        purposes = extension(one.certificate, x509.ExtendedKeyUsage).value
        assert [oid.dotted_string for oid in purposes] == ["1.3.6.1.4.1.311.20.2.1"]

    def test_scep_22_the_chain_is_ra_issuer_root(self, world: World) -> None:
        found = current(world, "scep-ra", "scep/routers")
        sub = drive(world.hierarchy.active("default", "sub"))
        assert found.chain == (found.certificate, *sub.chain)

    def test_scep_21_the_old_key_decrypts_for_30_days_and_is_then_destroyed(
        self, world: World
    ) -> None:
        old = current(world, "scep-ra", "scep/routers")
        world.clock.advance(days=20, hours=1)
        assert drive(world.service_certificates.renew_due()) == 1
        assert [c.id for c in valid(world, "scep-ra", "scep/routers")][1:] == [old.id]
        world.clock.advance(days=29)
        drive(world.service_certificates.renew_due())
        assert old.id in [c.id for c in valid(world, "scep-ra", "scep/routers")]
        drive(world.keyring.handle(old.key_id))
        world.clock.advance(days=2)
        assert old.id not in [c.id for c in valid(world, "scep-ra", "scep/routers")]
        drive(world.service_certificates.renew_due())
        assert world.count(tables.private_keys, id=old.key_id) == 0
        assert world.count(tables.service_certificates, id=old.id) == 0

    def test_another_authority_means_another_ra(self, world: World) -> None:
        old = current(world, "scep-ra", "scep/routers")
        document = {
            "protocol": "scep",
            "label": "routers",
            "authority": "root",
            "profile": "leaf",
        }
        drive(world.objects.put(ADMIN, "default", "endpoint", "scep-routers", document))
        new = current(world, "scep-ra", "scep/routers")
        root = drive(world.hierarchy.active("default", "root"))
        assert new.issuer_id == root.id
        assert [c.id for c in valid(world, "scep-ra", "scep/routers")] == [new.id, old.id]

    def test_a_new_ca_key_means_a_new_ra_only_when_it_issues(self, world: World) -> None:
        old = current(world, "scep-ra", "scep/routers")
        drive(world.ceremony.rekey(ADMIN, "default", "sub"))
        assert current(world, "scep-ra", "scep/routers").id == old.id
        staged = drive(world.ceremony.activate(ADMIN, "default", "sub"))
        assert current(world, "scep-ra", "scep/routers").issuer_id == staged.id

    def test_a_withdrawn_authority_leaves_the_ra_to_its_end(self, world: World) -> None:
        old = current(world, "scep-ra", "scep/routers")
        drive(world.ceremony.withdraw(ADMIN, "default", "sub", reason=Reason.SUPERSEDED))
        assert current(world, "scep-ra", "scep/routers").id == old.id
        world.clock.advance(days=31)
        with pytest.raises(Fault) as caught:
            current(world, "scep-ra", "scep/routers")
        assert caught.value.code is FaultCode.UNAVAILABLE

    @pytest.mark.parametrize("scope", ["scep/none", "nonsense"])
    def test_there_is_none_for_a_door_that_does_not_exist(self, world: World, scope: str) -> None:
        with pytest.raises(Fault) as caught:
            current(world, "scep-ra", scope)
        assert caught.value.code is FaultCode.NOT_FOUND

    def test_a_renewed_ca_shows_in_the_chain_of_the_ra(self, world: World) -> None:
        old = current(world, "scep-ra", "scep/routers")
        renewed = drive(world.ceremony.renew(ADMIN, "default", "sub"))
        found = current(world, "scep-ra", "scep/routers")
        assert found.id == old.id
        assert found.chain[1] == renewed.certificate


class TestTLS:
    @pytest.mark.parametrize(
        ("scope", "name"),
        [("pki.test", x509.DNSName), ("192.0.2.7", x509.IPAddress), ("::1", x509.IPAddress)],
    )
    def test_a_host_gets_a_certificate_with_its_name(
        self, world: World, scope: str, name: Any
    ) -> None:
        found = current(world, "tls", scope)
        names = extension(found.certificate, x509.SubjectAlternativeName).value
        assert [str(value) for value in names.get_values_for_type(name)] == [scope]
        assert drive(world.keyring.handle(found.key_id)).store == "soft"

    def test_the_first_authority_below_a_root_signs_it(self, world: World) -> None:
        sub = drive(world.hierarchy.active("default", "sub"))
        assert current(world, "tls", "pki.test").issuer_id == sub.id

    def test_without_any_authority_there_is_none_yet(self) -> None:
        with pytest.raises(Fault) as caught:
            current(World(), "tls", "pki.test")
        assert caught.value.code is FaultCode.UNAVAILABLE


class TestLife:
    def test_what_exists_is_not_made_again(self, world: World) -> None:
        first = current(world, "tls", "pki.test")
        issued = world.count(tables.certificates)
        beside = World(world, holder="two")
        again = current(world, "tls", "pki.test")
        assert again.id == first.id
        # From now on without a question to the database.
        assert current(world, "tls", "pki.test") is again
        assert current(beside, "tls", "pki.test").id == first.id
        assert world.count(tables.certificates) == issued

    def test_it_is_renewed_at_two_thirds_without_a_gap(self, world: World) -> None:
        first = current(world, "tls", "pki.test")
        world.clock.advance(days=19)
        assert drive(world.service_certificates.renew_due()) == 0
        world.clock.advance(days=1, hours=1)
        # Due is not late: until somebody has renewed it, the present one serves.
        assert current(world, "tls", "pki.test").id == first.id
        assert drive(world.service_certificates.renew_due()) == 1
        second = current(world, "tls", "pki.test")
        assert second.id != first.id
        assert second.certificate.not_valid_before_utc < first.not_after
        assert drive(world.service_certificates.renew_due()) == 0

    def test_an_expired_one_is_replaced_by_whoever_asks(self, world: World) -> None:
        first = current(world, "tls", "pki.test")
        world.clock.advance(days=31)
        assert current(world, "tls", "pki.test").id != first.id

    def test_another_process_sees_the_new_one_at_once(self, world: World) -> None:
        beside = World(world, holder="two")
        first = current(beside, "tls", "pki.test")
        world.clock.advance(days=21)
        drive(world.service_certificates.renew_due())
        assert current(beside, "tls", "pki.test").id != first.id

    def test_one_that_cannot_be_renewed_does_not_keep_the_others_from_it(
        self, world: World
    ) -> None:
        world.create("second", parent="root")
        world.endpoint("phones", "second")
        current(world, "scep-ra", "scep/routers")
        old = current(world, "scep-ra", "scep/phones")
        issuer = drive(world.hierarchy.active("default", "sub"))
        world.clock.advance(days=21)
        drive(
            world.database.write(
                leases.acquire, "service:scep-ra/scep/routers", "elsewhere", 60, world.clock()
            )
        )
        with pytest.raises(Fault):
            drive(world.service_certificates.renew_due())
        assert current(world, "scep-ra", "scep/phones").id != old.id
        assert current(world, "scep-ra", "scep/routers").issuer_id == issuer.id

    def test_while_another_process_makes_it_nobody_makes_a_second_one(self, world: World) -> None:
        issued = world.count(tables.certificates)
        drive(
            world.database.write(
                leases.acquire, "service:tls/pki.test", "elsewhere", 60, world.clock()
            )
        )
        with pytest.raises(Fault) as caught:
            current(world, "tls", "pki.test")
        assert caught.value.code is FaultCode.UNAVAILABLE
        assert caught.value.retry_after
        assert world.count(tables.certificates) == issued

    def test_whoever_waits_gets_what_the_other_process_made(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beside = World(world, holder="two")
        lease = drive(
            world.database.write(
                leases.acquire, "service:tls/pki.test", "elsewhere", 60, world.clock()
            )
        )
        made: list[Any] = []

        async def pause(seconds: float) -> None:
            await world.database.write(leases.release, lease, world.clock())
            made.append(await beside.service_certificates.current("tls", "pki.test"))

        monkeypatch.setattr(world.service_certificates, "_pause", pause)
        found = current(world, "tls", "pki.test")
        assert [found.id] == [c.id for c in made]

    def test_a_refused_signature_leaves_no_key(self, world: World) -> None:
        keys = world.count(tables.private_keys)
        drive(world.objects.delete(ADMIN, "default", "profile", "tls-self"))
        with pytest.raises(Fault):
            current(world, "tls", "pki.test")
        assert world.count(tables.private_keys) == keys

    def test_each_one_is_in_the_journal(self, world: World) -> None:
        current(world, "tls", "pki.test")
        assert world.events()[-1] == "service-certificate.made"


class TestEAP:
    def test_supplicants_find_the_host_name_and_the_purpose(self, world: World) -> None:
        found = current(world, "eap", eap_scope("default", "radius.test"))
        certificate = found.certificate
        assert found.tenant == "default"
        names = extension(certificate, x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["radius.test"]
        purposes = extension(certificate, x509.ExtendedKeyUsage).value
        assert ExtendedKeyUsageOID.SERVER_AUTH in purposes
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        # Apple's clients refuse more, and whoever is asked for each new one soon says yes.
        lifetime = certificate.not_valid_after_utc - world.clock()
        assert timedelta(days=300) < lifetime <= timedelta(days=825)
        sub = drive(world.hierarchy.active("default", "sub"))
        assert found.chain == (certificate, *sub.chain)

    def test_an_rsa_key_is_there_for_old_supplicants_beside_the_other(self, world: World) -> None:
        elliptic = current(world, "eap", eap_scope("default", "radius.test"))
        scope = eap_scope("default", "radius.test", KeyAlgorithm.RSA_2048)
        found = current(world, "eap", scope)
        assert found.id != elliptic.id
        assert of(found.certificate.public_key()) is KeyAlgorithm.RSA_2048
        assert drive(world.keyring.handle(found.key_id)).store == "soft"

    def test_each_tenant_is_certified_by_its_own_authority(self, world: World) -> None:
        world.tenant("other")
        with pytest.raises(Fault) as caught:
            current(world, "eap", eap_scope("other", "radius.test"))
        assert caught.value.rule == "service.tls-authority"
        world.create("theirs", tenant="other")
        found = current(world, "eap", eap_scope("other", "radius.test"))
        assert found.tenant == "other"
        theirs = drive(world.hierarchy.active("other", "theirs"))
        assert found.issuer_id == theirs.id

    def test_it_is_renewed_at_two_thirds_of_its_life(self, world: World) -> None:
        scope = eap_scope("default", "radius.test")
        first = current(world, "eap", scope)
        world.clock.advance(days=200)
        assert drive(world.service_certificates.renew_due()) == 0
        world.clock.advance(days=45)
        assert drive(world.service_certificates.renew_due()) == 1
        assert current(world, "eap", scope).id != first.id

    @pytest.mark.parametrize(
        "scope", ["", "default", "default/", "/radius.test", "default/radius.test/md5"]
    )
    def test_a_scope_that_says_nothing_is_refused(self, world: World, scope: str) -> None:
        with pytest.raises(Fault) as caught:
            current(world, "eap", scope)
        assert (caught.value.code, caught.value.rule) == (FaultCode.NOT_FOUND, "service.scope")


def test_tls_shows_the_chain_of_today(world: World) -> None:
    tls = ServiceTLS(world.service_certificates, world.keyring, "pki.test", lambda context: None)
    assert drive(tls.refresh()) is not None
    assert drive(tls.refresh()) is None
    drive(world.ceremony.renew(ADMIN, "default", "sub"))
    assert drive(tls.refresh()) is not None
    assert drive(tls.refresh()) is None


SCOPES = {
    "ocsp": "2",
    "scep-ra": "scep/routers",
    "cmp": "scep/routers",
    "tls": "pki.test",
    "eap": eap_scope("default", "aaa.test"),
}


@pytest.mark.parametrize("purpose", SCOPES)
def test_one_that_is_revoked_is_followed_by_another_at_once(world: World, purpose: str) -> None:
    def change(found: Any, reason: Reason) -> None:
        serial = found.certificate.serial_number
        drive(world.revocation.revoke(ADMIN, "default", found.issuer_id, serial, reason))

    scope = SCOPES[purpose]
    first = current(world, purpose, scope)
    change(first, Reason.CERTIFICATE_HOLD)
    assert current(world, purpose, scope).id == first.id  # it may be good again
    change(first, Reason.KEY_COMPROMISE)
    second = current(world, purpose, scope)
    assert second.id != first.id
    assert not second.is_revoked
    assert current(world, purpose, scope).id == second.id
    beside = World(world, holder="two")
    assert drive(beside.service_certificates.current(purpose, scope)).id == second.id  # type: ignore[arg-type]
    change(second, Reason.SUPERSEDED)
    third = drive(beside.service_certificates.current(purpose, scope))  # type: ignore[arg-type]
    assert third.id != second.id


def test_an_authority_whose_key_is_lost_signs_no_responder_after_the_other(world: World) -> None:
    first = current(world, "ocsp", "2")
    drive(world.ceremony.compromise(ADMIN, "default", "sub"))
    assert [current(world, "ocsp", "2").id for _ in range(3)] == [first.id] * 3


@pytest.mark.parametrize("purpose", ["cmp", "cmc"])
def test_the_chain_of_an_answer_is_that_of_today(world: World, purpose: str) -> None:
    services: Any = SimpleNamespace(
        service_certificates=world.service_certificates, now=world.clock
    )
    visit: Any = SimpleNamespace(door="scep/routers")
    senders: Any = None

    def chain() -> tuple[bytes, ...]:
        if purpose == "cmp":
            return drive(by_cmp.signer(visit)).chain
        return drive(by_cmc._signer(visit)).chain

    by_cmp = cmp_answers.Answers(services, senders, lambda size: bytes(size))
    by_cmc = cmc_answers.Answers(services)
    chain()  # what makes a certificate is not what is kept of it
    before = chain()
    assert chain() is before
    renewed = drive(world.ceremony.renew(ADMIN, "default", "sub"))
    after = chain()
    assert after[0] == before[0]
    assert renewed.certificate is not None
    assert after[1] == renewed.certificate.public_bytes(Encoding.DER)
