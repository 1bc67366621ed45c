from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12

from tests.hierarchy_world import ADMIN, World, pem
from tests.support import drive
from tmad.ca import importing
from tmad.ca.importing import read_bundle
from tmad.errors import Fault, FaultCode
from tmad.storage import tables
from tmad.wire import der

DER = serialization.Encoding.DER
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()
NOW = datetime(2026, 11, 23, tzinfo=UTC)
CA_KEY, KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def make(
    name: str, key: Any, *, ca: bool, serial: int | None = None, signer: Any = CA_KEY
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(f"CN={name}"))
        .issuer_name(x509.Name.from_rfc4514_string("CN=foreign"))
        .serial_number(serial or x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=100))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.test")]), False)
        .sign(signer, hashes.SHA256())
    )


CA = make("foreign", CA_KEY, ca=True)
LEAF = make("leaf", KEY, ca=False)
KEY_PEM = KEY.private_bytes(PEM, PKCS8, PLAIN)


def p12(password: bytes | None, *, key: Any = KEY) -> bytes:
    encryption: Any = PLAIN
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return pkcs12.serialize_key_and_certificates(b"x", key, LEAF, [CA], encryption)


class TestFiles:
    @pytest.mark.parametrize(
        "data",
        [
            pem(LEAF, CA),
            b"Bag Attributes\n  friendlyName: x\n" + pem(LEAF) + b"text\n" + pem(CA),
            pem(LEAF, CA).replace(b"\n", b"\r\n"),
            pkcs7.serialize_certificates([LEAF, CA], DER),
            pkcs7.serialize_certificates([LEAF, CA], PEM),
        ],
        ids=["pem", "bag", "crlf", "p7-der", "p7-pem"],
    )
    def test_certificates_are_read_from_every_form(self, data: bytes) -> None:
        assert set(read_bundle(data).certificates) == {LEAF, CA}

    def test_a_lone_certificate_is_der(self) -> None:
        assert read_bundle(LEAF.public_bytes(DER)).certificates == (LEAF,)

    @pytest.mark.parametrize(
        ("data", "password"),
        [
            (KEY_PEM, None),
            (KEY.private_bytes(DER, PKCS8, PLAIN), None),
            (
                KEY.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN),
                None,
            ),
            (
                KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"pw")),
                b"pw",
            ),
            (
                KEY.private_bytes(DER, PKCS8, serialization.BestAvailableEncryption(b"pw")),
                b"pw",
            ),
        ],
    )
    def test_a_key_is_read_from_every_form(self, data: bytes, password: bytes | None) -> None:
        found = read_bundle(data, password).private_key
        assert found is not None
        assert found.public_key() == KEY.public_key()

    @pytest.mark.parametrize("password", [b"secret", None])
    def test_pkcs12_gives_the_key_and_its_certificate_first(self, password: bytes | None) -> None:
        found = read_bundle(p12(password), password)
        assert found.certificates == (LEAF, CA)
        assert found.private_key is not None

    def test_p_03_pkcs12_without_a_mac_is_refused(self) -> None:
        pfx = der.read(p12(b"secret"), der.SEQUENCE)
        without = der.sequence(pfx.raw(der.INTEGER), pfx.raw(der.SEQUENCE))
        with pytest.raises(Fault) as caught:
            read_bundle(without, b"secret")
        assert caught.value.rule == "import.mac"

    def test_a_wrong_password_says_so_and_no_more(self) -> None:
        for data in (
            p12(b"secret"),
            KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")),
        ):
            with pytest.raises(Fault) as caught:
                read_bundle(data, b"wrong")
            assert "wrong" not in str(caught.value)
            with pytest.raises(Fault):
                read_bundle(data)

    def test_rounds_of_key_derivation_are_bounded_before_they_are_made(self) -> None:
        data = p12(b"secret")
        salt = der.octets(b"saltsalt")
        for rounds in (importing._MAXIMUM_ROUNDS + 1, 2**63):
            hostile = der.sequence(
                der.integer(3),
                der.sequence(der.oid("1.2.840.113549.1.7.1"), der.explicit(0, der.octets(b"0"))),
                der.sequence(der.sequence(), salt, der.integer(rounds)),
            )
            with pytest.raises(Fault) as caught:
                read_bundle(hostile, b"secret")
            assert caught.value.rule == "import.limit"
        assert read_bundle(data, b"secret").certificates

    def test_rounds_inside_octets_are_seen_too(self) -> None:
        inner = der.sequence(der.octets(b"saltsalt"), der.integer(2**40))
        hostile = der.sequence(
            der.integer(3), der.sequence(der.oid("1.2.3"), der.explicit(0, der.octets(inner)))
        )
        with pytest.raises(Fault) as caught:
            read_bundle(hostile, b"x")
        assert caught.value.rule == "import.limit"

    def test_certificates_that_nobody_can_read_are_counted(self) -> None:
        broken = pem(LEAF).replace(b"MII", b"AAA", 1)
        found = read_bundle(broken + pem(CA))
        assert (found.certificates, found.unreadable) == ((CA,), 1)

    def test_two_keys_in_one_file_are_ambiguous(self) -> None:
        with pytest.raises(Fault):
            read_bundle(KEY_PEM + KEY_PEM)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"hello",
            b"\x30",
            b"\x30\x80\x00\x00",
            b"\x30\x03\x02\x01\x03",
            b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n",
            LEAF.public_bytes(DER)[:-1],
            p12(b"secret")[:-1],
        ],
    )
    def test_anything_else_is_a_fault(self, data: bytes) -> None:
        with pytest.raises(Fault):
            read_bundle(data, b"secret")

    def test_a_file_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importing, "MAXIMUM_CERTIFICATES", 2)
        with pytest.raises(Fault):
            read_bundle(pem(LEAF, CA, LEAF))
        monkeypatch.setattr(importing, "MAXIMUM_OCTETS", 100)
        with pytest.raises(Fault):
            read_bundle(pem(LEAF))


class TestImport:
    @pytest.fixture
    def world(self) -> World:
        world = World()
        drive(world.adoption.import_(ADMIN, "default", "foreign", certificates=[CA]))
        return world

    def take(self, world: World, *found: x509.Certificate, tenant: str = "default") -> Any:
        return drive(world.importing.import_(ADMIN, tenant, found))

    def test_certificates_of_a_known_ca_are_taken_once(self, world: World) -> None:
        first = self.take(world, LEAF, CA)
        assert len(first.imported) == 2
        again = self.take(world, LEAF, CA)
        assert (again.imported, again.present) == ((), first.imported)
        assert world.count(tables.certificates, state="imported") == 2
        assert world.count(tables.certificate_names, kind="dns", value="leaf.test") == 1
        assert world.events().count("certificate.imported") == 2

    def test_an_imported_certificate_has_a_status(self, world: World) -> None:
        issuer = drive(world.hierarchy.show(ADMIN, "default", "foreign"))[0]
        assert drive(world.status.of(issuer.id, LEAF.serial_number)).state == "unknown"
        self.take(world, LEAF)
        assert drive(world.status.of(issuer.id, LEAF.serial_number)).state == "good"

    def test_one_of_an_unknown_ca_is_refused_and_the_others_are_taken(self, world: World) -> None:
        stray = make("stray", KEY, ca=False, signer=KEY)
        outcome = self.take(world, stray, LEAF)
        assert len(outcome.imported) == 1
        [refused] = outcome.refused
        assert (refused.subject, refused.fault.rule) == ("CN=stray", "import.issuer")

    def test_the_cas_of_another_tenant_are_not_known(self, world: World) -> None:
        world.tenant("other")
        outcome = self.take(world, LEAF, tenant="other")
        assert [r.fault.code for r in outcome.refused] == [FaultCode.NOT_FOUND]

    def test_a_serial_number_stands_for_one_certificate(self, world: World) -> None:
        one, two = (make(name, KEY, ca=False, serial=77) for name in ("one", "two"))
        assert len(self.take(world, one).imported) == 1
        [refused] = self.take(world, two).refused
        assert refused.fault.rule == "import.serial-taken"

    def test_our_own_certificates_are_here_already(self, world: World) -> None:
        world.create("root")
        leaf = world.leaf("root")
        assert self.take(world, leaf.certificate).present == (leaf.certificate_id,)

    def test_a_dry_run_leaves_nothing(self, world: World) -> None:
        drive(world.importing.import_(ADMIN, "default", [LEAF], dry_run=True))
        assert world.count(tables.certificates) == 0
