from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.hierarchy_world import World
from tests.support import drive
from tmad.ca import trust
from tmad.ca.trust import Trust, check_ca, check_path, order_path
from tmad.errors import Fault
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
ROOT, MIDDLE, LOW, OTHER = KEYS


def usage(**true: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})


def make(
    name: str,
    key: Any,
    issuer: str,
    signer: Any,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    usages: x509.KeyUsage | None = None,
    days: tuple[int, int] = (-1, 100),
    critical: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(f"CN={name}"))
        .issuer_name(x509.Name.from_rfc4514_string(f"CN={issuer}"))
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    if ca is not None:
        basic = x509.BasicConstraints(ca, path_length if ca else None)
        builder = builder.add_extension(basic, critical=True)
    if usages is not None:
        builder = builder.add_extension(usages, critical=True)
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.9.9.9"), b"\0")
        builder = builder.add_extension(unknown, critical=True)
    return builder.sign(signer, hashes.SHA256())


def chain(**of_middle: Any) -> list[x509.Certificate]:
    return [
        make("low", LOW, "middle", MIDDLE),
        make("middle", MIDDLE, "root", ROOT, **of_middle),
        make("root", ROOT, "root", ROOT),
    ]


def broken(path: list[x509.Certificate]) -> str:
    with pytest.raises(Fault) as caught:
        check_path(path, NOW)
    return caught.value.rule


class TestPath:
    def test_a_good_chain_passes(self) -> None:
        check_path(chain(), NOW)
        check_path(chain(path_length=1, usages=usage(key_cert_sign=True)), NOW)

    @pytest.mark.parametrize(
        ("of_middle", "rule"),
        [
            ({"ca": False}, "trust.ca"),
            ({"ca": None}, "trust.ca"),
            ({"usages": usage(crl_sign=True)}, "trust.key-usage"),
            ({"days": (-10, -1)}, "trust.validity"),
            ({"days": (1, 10)}, "trust.validity"),
            ({"path_length": 0}, "trust.path-length"),
            ({"critical": True}, "trust.critical"),
        ],
    )
    def test_each_rule_is_checked(self, of_middle: dict[str, Any], rule: str) -> None:
        assert broken(chain(**of_middle)) == rule

    def test_a_right_name_with_a_wrong_key_is_no_issuer(self) -> None:
        path = chain()
        path[2] = make("root", OTHER, "root", OTHER)
        assert broken(path) == "trust.signature"

    def test_a_chain_ends_at_a_root_or_an_anchor(self) -> None:
        path = chain()
        assert broken(path[:2]) == "trust.anchor"
        check_path(path[:2], NOW, anchors=[path[2]])
        assert broken([]) == "trust.empty"

    def test_a_chain_is_bounded(self) -> None:
        root = make("root", ROOT, "root", ROOT)
        assert broken([root] * (trust.MAXIMUM_DEPTH + 1)) == "trust.depth"

    def test_self_issued_certificates_do_not_count_as_levels(self) -> None:
        # RFC 5280, 4.2.1.9
        path = [
            make("root", MIDDLE, "root", ROOT),
            make("root", ROOT, "root", ROOT, path_length=0),
        ]
        check_path(path, NOW)

    def test_the_times_are_named(self) -> None:
        with pytest.raises(Fault) as caught:
            check_ca(make("x", ROOT, "x", ROOT, days=(-9, -8)), NOW)
        assert set(caught.value.values) == {"not_before", "not_after", "now"}


class TestOrder:
    def test_certificates_are_put_in_order(self) -> None:
        path = chain()
        stray = make("stray", OTHER, "stray", OTHER)
        assert list(order_path(path[0], [stray, path[2], path[1]])) == path

    def test_what_is_missing_ends_the_path(self) -> None:
        path = chain()
        assert list(order_path(path[0], [path[2]])) == path[:1]

    def test_two_that_signed_each_other_do_not_go_round_for_ever(self) -> None:
        one = make("one", ROOT, "two", MIDDLE)
        two = make("two", MIDDLE, "one", ROOT)
        assert len(order_path(one, [two, one])) <= trust.MAXIMUM_DEPTH


class TestEncodings:
    def test_names_are_taken_as_they_are_encoded(self) -> None:
        certificate = chain()[0]
        issuer, subject = trust.names_der(certificate)
        assert issuer == certificate.issuer.public_bytes()
        assert subject == certificate.subject.public_bytes()

    def test_a_name_survives_its_encoding(self) -> None:
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ä & Söhne"),
                x509.NameAttribute(NameOID.COMMON_NAME, "CA"),
            ]
        )
        found = trust.name_from_der(name.public_bytes(), ROOT.public_key())
        assert found == name
        assert found.public_bytes() == name.public_bytes()

    @pytest.mark.parametrize(
        "algorithm", [KeyAlgorithm.P521, KeyAlgorithm.ED25519, KeyAlgorithm.ML_DSA_44]
    )
    def test_key_bits_are_what_a_key_identifier_hashes(self, algorithm: KeyAlgorithm) -> None:
        key = algorithms.generate(algorithm).public_key()
        expected = x509.SubjectKeyIdentifier.from_public_key(key).digest
        assert hashlib.sha1(trust.key_bits(key)).digest() == expected

    def test_chains_survive_the_database(self) -> None:
        path = tuple(chain())
        assert trust.chain_from_der(trust.chain_der(path)) == path
        assert trust.chain_from_der(b"") == ()


class TestIssuer:
    @pytest.fixture
    def world(self) -> World:
        return World()

    def test_the_issuer_is_found_by_name_and_signature(self, world: World) -> None:
        world.create("root")
        sub = world.create("sub", parent="root")
        leaf = world.leaf("sub").certificate
        found = drive(Trust(world.hierarchy).issuer_of(leaf))
        assert found is not None
        assert found.id == sub.id

    def test_the_right_generation_of_one_name_is_found(self, world: World) -> None:
        from tests.hierarchy_world import ADMIN

        old = world.create("root")
        before = world.leaf("root").certificate
        drive(world.ceremony.rekey(ADMIN, "default", "root"))
        drive(world.ceremony.activate(ADMIN, "default", "root"))
        after = world.leaf("root").certificate
        finder = Trust(world.hierarchy)
        first, second = drive(finder.issuer_of(before)), drive(finder.issuer_of(after))
        assert first is not None
        assert second is not None
        assert (first.id, second.generation) == (old.id, 2)

    def test_a_forged_certificate_in_our_name_has_no_issuer(self, world: World) -> None:
        root = world.create("root", subject=x509.Name.from_rfc4514_string("CN=root"))
        assert root.certificate is not None
        forged = make("device", LOW, "root", OTHER)
        assert forged.issuer == root.certificate.subject
        assert drive(Trust(world.hierarchy).issuer_of(forged)) is None

    def test_a_chain_comes_with_or_without_its_root(self, world: World) -> None:
        root = world.create("root")
        sub = world.create("sub", parent="root")
        assert trust.chain(sub, include_root=True) == sub.chain
        assert trust.chain(sub, include_root=False) == sub.chain[:1]
        assert trust.chain(root, include_root=False) == root.chain
