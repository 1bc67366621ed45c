"""Certification requests."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding

from tests import scep_client as client
from tests.unit.scep_core import rsa_key
from tmad.errors import Fault, FaultCode
from tmad.wire import csr, der
from tmad.wire.signatures import Age, Policy

NEW, LEGACY = Policy(), Policy(Age.LEGACY)
STRINGS = [(0x0C, "utf-8"), (0x13, "ascii"), (0x16, "ascii"), (0x14, "latin-1")]


def code_of(request: bytes, policy: Policy = NEW) -> FaultCode:
    with pytest.raises(Fault) as caught:
        csr.decode(request, policy)
    return caught.value.code


def openssl_request(folder: Path, *options: str, config: str = "") -> bytes:
    """Return a request as ``openssl req`` makes it."""
    (folder / "c").write_text(config or "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=x\n")
    subprocess.run(
        ["openssl", "req", "-new", "-config", "c", "-newkey", "rsa:2048", "-nodes", "-keyout",
         "k.pem", "-outform", "DER", "-out", "r.der", *options],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return (folder / "r.der").read_bytes()


def test_everything_that_a_request_says() -> None:
    usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    given = client.make_csr(
        rsa_key(), "r1", challenge="s3cret", dns=("a.example", "b.example"), extensions=(usage,)
    )
    request = csr.decode(given, NEW)
    assert request.subject == client.name("r1")
    assert request.public_key == rsa_key().public_key()
    assert request.names == (x509.DNSName("a.example"), x509.DNSName("b.example"))
    assert [extension.value for extension in request.wanted] == [usage]
    assert request.challenge is not None
    assert request.challenge.reveal() == b"s3cret"
    assert request.template == ""
    assert request.der == given


def test_strongswan_does_not_sort_its_attributes() -> None:
    """A strict DER parser refuses the request; the signature covers the order as received."""
    head, attributes = _cut()
    request = signed_info(der.sequence(head, der.explicit(0, *attributes[::-1])))
    with pytest.raises(ValueError, match="Ordering"):
        x509.load_der_x509_csr(request)
    read = csr.decode(request, NEW)
    assert read.names == (x509.DNSName("a.example"),)
    assert read.challenge is not None
    swapped = signed_info(der.sequence(head, der.explicit(0, *attributes)))
    assert code_of(request[:-256] + swapped[-256:]) is FaultCode.BAD_PROOF


def test_no_attributes_at_all() -> None:
    """Some clients leave out even the empty [0] that PKCS#10 wants."""
    body = der.read(client.make_csr(rsa_key()), 0x30).enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    assert csr.decode(signed_info(der.sequence(head)), NEW).subject == client.name("device")


def signed_info(info: bytes) -> bytes:
    """Sign a CertificationRequestInfo as it stands."""
    signature = rsa_key().sign(info, padding.PKCS1v15(), hashes.SHA256())
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)
    return der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + signature))


def _cut() -> tuple[bytes, list[bytes]]:
    """Return a CertificationRequestInfo before its attributes, and these."""
    info = der.read(client.make_csr(rsa_key(), challenge="s3cret", dns=("a.example",)), 0x30)
    body = info.enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    inside = body.enter(0xA0)
    return head, [inside.raw() for _ in inside.each()]


def _unsorted() -> bytes:
    head, attributes = _cut()
    return signed_info(der.sequence(head, der.explicit(0, *attributes[::-1])))


def _bare() -> bytes:
    body = der.read(client.make_csr(rsa_key()), 0x30).enter(der.SEQUENCE)
    return signed_info(der.sequence(body.raw() + body.raw() + body.raw()))


@pytest.mark.parametrize(
    "make",
    [lambda: client.make_csr(rsa_key()), _unsorted, _bare],
    ids=["usual", "unsorted", "without-attributes"],
)
def test_as_pem_it_is_what_was_received(make: Callable[[], bytes]) -> None:
    request = make()
    csr.decode(request, NEW)
    text = csr.pem(request)
    assert ssl.PEM_cert_to_DER_cert(text.replace(" REQUEST", "")) == request
    done = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-subject"],
        input=text.encode(), capture_output=True, check=True,
    )  # fmt: skip
    assert b"OK" in done.stdout + done.stderr


@pytest.mark.parametrize("data", [b"", b"csr", der.sequence(der.sequence(der.integer(0)))])
def test_what_is_no_request_has_no_pem(data: bytes) -> None:
    with pytest.raises(Fault) as caught:
        csr.pem(data)
    assert caught.value.code is FaultCode.MALFORMED


def test_g_secret_1_challenge_is_not_in_the_repr() -> None:
    request = csr.decode(client.make_csr(rsa_key(), challenge="s3cret"), NEW)
    assert "s3cret" not in repr(request)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        ed448.Ed448PrivateKey.generate,
        mldsa.MLDSA44PrivateKey.generate,
    ],
)
def test_other_kinds_of_key(make) -> None:  # type: ignore[no-untyped-def]
    key = make()
    assert csr.decode(client.make_csr(key), NEW).public_key == key.public_key()


@pytest.mark.parametrize("tag", [0x0C, 0x13, 0x16, 0x14, 0x1E, 0x1C])
def test_scep_41_challenge_of_any_string_type(tag: int) -> None:
    encoding = {0x1E: "utf-16-be", 0x1C: "utf-32-be"}.get(tag, "ascii")
    request = client.make_csr(rsa_key(), challenge="AB-12".encode(encoding), challenge_tag=tag)
    challenge = csr.decode(request, NEW).challenge
    assert challenge is not None
    assert challenge.reveal() == b"AB-12"


def test_scep_41_long_challenge() -> None:
    """Intune's is a signed blob of a kilobyte or two."""
    challenge = csr.decode(client.make_csr(rsa_key(), challenge="x" * 4_000), NEW).challenge
    assert challenge is not None
    assert len(challenge.reveal()) == 4_000


@pytest.mark.parametrize("challenge", [None, ""])
def test_scep_41_empty_is_absent(challenge: str | None) -> None:
    assert csr.decode(client.make_csr(rsa_key(), challenge=challenge), NEW).challenge is None


def test_scep_49_template_name() -> None:
    value = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"),
        der.tlv(der.BMP_STRING, "Router".encode("utf-16-be")),
    )
    request = csr.decode(client.make_csr(rsa_key(), extensions=(value,)), NEW)
    assert request.template == "Router"


def test_microsofts_extension_attribute(tmp_path: Path) -> None:
    """Extensions under 1.3.6.1.4.1.311.2.1.14 are read like those under extensionRequest."""
    body = der.read(client.make_csr(rsa_key(), dns=("a.example",)), 0x30).enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    attribute = body.enter(0xA0).enter(der.SEQUENCE)
    attribute.raw(der.OBJECT_IDENTIFIER)
    moved = der.sequence(der.oid("1.3.6.1.4.1.311.2.1.14"), attribute.rest())
    signed = signed_info(der.sequence(head, der.explicit(0, moved)))
    assert csr.decode(signed, NEW).names == (x509.DNSName("a.example"),)


def test_names_of_several_kinds() -> None:
    names = x509.SubjectAlternativeName(
        [x509.DNSName("a.example"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    )
    request = csr.decode(client.make_csr(rsa_key(), extensions=(names,)), NEW)
    assert request.names == tuple(names)


def test_scep_40_broken_signature() -> None:
    request = bytearray(client.make_csr(rsa_key()))
    request[-1] ^= 1
    assert code_of(bytes(request)) is FaultCode.BAD_PROOF


def test_changed_content_breaks_the_signature() -> None:
    request = client.make_csr(rsa_key(), "device").replace(b"device", b"devise")
    assert code_of(request) is FaultCode.BAD_PROOF
    assert code_of(request, LEGACY) is FaultCode.BAD_PROOF


def test_sha1_signature_only_in_legacy_and_still_checked(tmp_path: Path) -> None:
    request = openssl_request(tmp_path, "-sha1")
    assert code_of(request) is FaultCode.BAD_ALGORITHM
    assert csr.decode(request, LEGACY).subject.rfc4514_string() == "CN=x"
    broken = request[:-1] + bytes([request[-1] ^ 1])
    assert code_of(broken, LEGACY) is FaultCode.BAD_PROOF


@pytest.mark.parametrize("policy", [NEW, LEGACY])
def test_md5_signature_not_even_in_legacy(tmp_path: Path, policy: Policy) -> None:
    assert code_of(openssl_request(tmp_path, "-md5"), policy) is FaultCode.BAD_ALGORITHM


@pytest.mark.parametrize(
    "request_der", [b"", b"x", b"\x30\x00", der.sequence(der.NULL_DER), b"\x30\x80\0\0"]
)
def test_no_request_at_all(request_der: bytes) -> None:
    assert code_of(request_der) is FaultCode.MALFORMED


def test_gen_14_bytes_behind() -> None:
    assert code_of(client.make_csr(rsa_key()) + b"\0") is FaultCode.MALFORMED


def test_gen_17_other_version_is_named() -> None:
    request = client.make_csr(rsa_key())
    at = request.index(der.integer(0))
    spoiled = request[: at + 2] + b"\x03" + request[at + 3 :]
    with pytest.raises(Fault, match="version") as caught:
        csr.decode(spoiled, NEW)
    assert caught.value.code is FaultCode.UNSUPPORTED


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_ruby_and_old_certbots_write_is_read(version: int) -> None:
    """The signature is checked over what was received, the version in it."""
    key = rsa_key()
    request = client.make_csr(key)
    info = der.read(request, der.SEQUENCE).raw(der.SEQUENCE)
    changed = info.replace(der.integer(0), der.integer(version), 1)
    mark = key.sign(changed, padding.PKCS1v15(), hashes.SHA256())
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)
    again = der.sequence(changed, algorithm, der.tlv(der.BIT_STRING, b"\0" + mark))
    found = csr.decode(again, NEW)
    assert (found.subject, found.der) == (csr.decode(request, NEW).subject, again)
    forged = der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + mark))
    assert code_of(forged) is FaultCode.BAD_PROOF


def test_gen_17_t61_subject_with_eight_bits(tmp_path: Path) -> None:
    config = "[req]\ndistinguished_name=dn\nprompt=no\nstring_mask=MASK:4\nutf8=yes\n[dn]\nCN=Zoë\n"
    request = openssl_request(tmp_path, config=config)
    assert b"\x14\x03Zo\xeb" in request, "openssl wrote no T61String"
    with pytest.raises(Fault, match="cannot be read") as caught:
        csr.decode(request, NEW)
    assert caught.value.code is FaultCode.UNSUPPORTED


def test_cve_2022_0778_explicit_curve_parameters(tmp_path: Path) -> None:
    subprocess.run(
        "openssl ecparam -name prime256v1 -genkey -param_enc explicit -out e.pem",
        shell=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    (tmp_path / "c").write_text("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=x\n")
    subprocess.run(
        "openssl req -new -config c -key e.pem -outform DER -out r.der",
        shell=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert code_of((tmp_path / "r.der").read_bytes()) is FaultCode.BAD_ALGORITHM


def test_several_challenges() -> None:
    body = der.read(client.make_csr(rsa_key()), 0x30).enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    values = der.tlv(der.SET, der.tlv(der.UTF8_STRING, b"one"), der.tlv(der.UTF8_STRING, b"two"))
    attribute = der.sequence(der.oid("1.2.840.113549.1.9.7"), values)
    request = signed_info(der.sequence(head, der.explicit(0, attribute)))
    assert code_of(request) is FaultCode.UNSUPPORTED


def asking(oids: tuple[str, ...], names: int) -> bytes:
    """Return a request with its names in attributes of these types."""
    body = der.read(client.make_csr(rsa_key()), 0x30).enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    san = der.sequence(*[der.tlv(0x82, b"a.test")] * names)
    extensions = der.sequence(der.sequence(der.oid("2.5.29.17"), der.octets(san)))
    attributes = [der.sequence(der.oid(oid), der.tlv(der.SET, extensions)) for oid in oids]
    return signed_info(der.sequence(head, der.explicit(0, *sorted(attributes))))


def test_microsofts_attribute_has_the_same_bounds() -> None:
    """Seven thousand names would be read before anybody had counted them."""
    for oid in ("1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14"):
        assert len(csr.decode(asking((oid,), 20), NEW).names) == 20
        assert code_of(asking((oid,), 7_000)) is FaultCode.UNSUPPORTED


def test_key_06_extensions_are_asked_for_once() -> None:
    both = ("1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14")
    assert code_of(asking(both, 1)) is FaultCode.UNSUPPORTED


def test_tls_features_that_have_no_name() -> None:
    """The library has a KeyError for them (RFC 7633 names no feature 0)."""
    body = der.read(client.make_csr(rsa_key()), 0x30).enter(der.SEQUENCE)
    head = body.raw() + body.raw() + body.raw()
    features = der.sequence(der.oid("1.3.6.1.5.5.7.1.24"), der.octets(der.sequence(der.integer(0))))
    extensions = der.tlv(der.SET, der.sequence(features))
    attribute = der.sequence(der.oid("1.2.840.113549.1.9.14"), extensions)
    request = signed_info(der.sequence(head, der.explicit(0, attribute)))
    assert code_of(request) is FaultCode.UNSUPPORTED
