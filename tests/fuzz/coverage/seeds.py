"""Good messages of every kind for the fuzzer to begin with, made by clients and tools."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs7, pkcs12
from cryptography.x509 import ocsp

from tests import scep_client as client
from tests.eap_peer import Peer, write_avps
from tests.fuzz import test_fuzz_ldap, test_fuzz_smpp, test_fuzz_snmp, test_fuzz_tokenfiles
from tests.fuzz.coverage import keys
from tests.support import Clock, drive
from tests.unit import acme_world
from tests.unit import test_tokenfiles as files
from tests.unit.ca_bench import PRESETS
from tests.unit.scep_core import key_usage, make_certificate
from tests.unit.test_edge_http import SMUGGLING
from tests.unit.test_journal import Keys, event
from tmad.agent.store import State
from tmad.journal import Journal
from tmad.protocols.snmp import codec as snmp
from tmad.storage.database import Database
from tmad.wire import cms, der, envelopes, reports

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_DER = serialization.Encoding.DER
_PEM = serialization.Encoding.PEM
_PKCS8 = PrivateFormat.PKCS8
OUT = ("-outform", "DER")
_CONF = Path(__file__).parents[3] / "conf"
_CMP = Path(__file__).parents[2] / "vectors" / "cmp"
_CMC = _CMP.parent / "cmc"
_TSA = _CMP.parent / "tsa"
_WSTEP = _CMP.parent / "wstep"


def random(size: int) -> bytes:
    """Stand in for os.urandom, the same each time."""
    return hashlib.shake_128(b"random").digest(size)


def _ra() -> x509.Certificate:
    """Return a certificate of the RA key, whose key identifier is that of every such one."""
    key = keys.rsa_key("ra")
    usage = key_usage(digital_signature=True, key_encipherment=True)
    return make_certificate(Clock(), "ra", key.public_key(), key, None, usage=usage)


def _subject_alternative_name() -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            x509.DNSName("a.example.test"),
            x509.RFC822Name("a@example.test"),
            x509.UniformResourceIdentifier("https://example.test/a"),
            x509.OtherName(
                x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), der.tlv(0x0C, b"a@example.test")
            ),
            x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
            x509.DirectoryName(client.name("other")),
        ]
    )


def _requests() -> Iterator[bytes]:
    device = keys.ec_key("device")
    yield client.make_csr(device, challenge="secret", dns=("a.example.test", "*.example.test"))
    yield client.make_csr(
        device,
        challenge="secret".encode("utf-16-be"),
        challenge_tag=0x1E,
        extensions=(
            _subject_alternative_name(),
            x509.BasicConstraints(ca=True, path_length=0),
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
            key_usage(digital_signature=True),
            x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), der.tlv(0x1E, b"\0U\0s\0e\0r")
            ),
        ),
    )
    yield client.make_csr(keys.rsa_key("device"), challenge="secret")
    yield client.make_csr(keys.ed_key("device"), dns=("ed.example.test",))
    yield from _openssl_requests()


def _openssl_requests() -> Iterator[bytes]:
    """Requests as openssl writes them, with subjects and extensions of its own choice."""
    with tempfile.TemporaryDirectory() as folder:
        path, config = f"{folder}/key.pem", f"{folder}/openssl.cnf"
        key = keys.ec_key("device")
        Path(path).write_bytes(key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption()))
        for options in (
            ["-subj", "/C=NL/O=Müller/CN=a/emailAddress=a@example.test", "-utf8"],
            ["-subj", "/", "-addext", "subjectAltName=IP:192.0.2.1,IP:2001:db8::1,dirName:d"],
        ):
            Path(config).write_text("[req]\ndistinguished_name=n\n[n]\n[d]\nCN=inside\nC=NL\n")
            yield subprocess.run(
                ["openssl", "req", "-new", "-key", path, "-config", config, *OUT, *options],
                check=True,
                capture_output=True,
            ).stdout


def request_about(key: ec.EllipticCurvePrivateKey, subject: bytes, names: bytes = b"") -> bytes:
    """Return a signed request with this subject and this subjectAltName, both as they come."""
    spki = key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    attributes = b""
    if names:
        extension = der.sequence(der.oid("2.5.29.17"), der.octets(names))
        wanted = der.tlv(der.SET, der.sequence(extension))
        attributes = der.sequence(der.oid("1.2.840.113549.1.9.14"), wanted)
    info = der.sequence(der.integer(0), subject, spki, der.explicit(0, attributes))
    signature = key.sign(info, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    return der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + signature))


def der_seeds() -> Iterator[bytes]:
    """Yield DER of several shapes."""
    yield _ra().public_bytes(_DER)
    yield from _requests()
    for value in (datetime(2049, 1, 1), datetime(2051, 1, 1)):
        kind = 0x17 if value.year < 2050 else 0x18
        text = value.strftime("%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ")
        yield der.sequence(der.tlv(kind, text.encode()))
    yield der.sequence(der.integer(-1), der.tlv(0x1E, b"\0a"), der.tlv(0x1C, b"\0\0\0a"))


def ber_seeds() -> Iterator[bytes]:
    """Yield BER in every spelling: streaming writers, padded lengths, pieces."""
    yield bytes.fromhex("3080248004016104820001620000 a0800201000000 0000".replace(" ", ""))
    yield bytes.fromhex("308024820007 0401610402 6263 0000".replace(" ", ""))
    yield bytes.fromhex("3080238003020061 0303006263 0000 0000".replace(" ", ""))
    yield from _openssl_messages()
    yield from cms_seeds()


def _openssl_messages() -> Iterator[bytes]:
    """Messages as openssl cms writes them, streamed (BER) and not."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        Path(key).write_bytes(
            keys.rsa_key("ra").private_bytes(_PEM, _PKCS8, serialization.NoEncryption())
        )
        Path(certificate).write_bytes(_ra().public_bytes(_PEM))
        sign = ["-sign", "-signer", certificate, "-inkey", key, "-nodetach", "-binary"]
        encrypt, oaep = ["-encrypt"], ["-keyopt", "rsa_padding_mode:oaep"]
        for options in (
            sign,
            [*sign, "-stream"],
            [*sign, "-keyid", "-keyopt", "rsa_padding_mode:pss"],
            [*sign, "-noattr", "-nosmimecap"],
            [*encrypt, "-aes128", "-stream", certificate],
            [*encrypt, "-aes256", "-recip", certificate, "-keyid", *oaep],
        ):
            yield subprocess.run(
                ["openssl", "cms", *OUT, *options],
                input=b"content",
                check=True,
                capture_output=True,
            ).stdout


def cms_seeds() -> Iterator[bytes]:
    """Yield signed, enveloped and degenerate messages."""
    own = client.Identity(keys.rsa_key("ra"), _ra())
    device = client.self_signed(keys.ec_key("device"), ski=True)
    yield client.make_message(b"content", own).der
    yield client.make_message(b"content", own, signature_algorithm="rsassa_pss").der
    yield client.make_message(b"content", device, digest="sha384", signers=2).der
    yield cms.degenerate((own.der, device.der))
    yield client.make_envelope(b"content", _ra(), by_ski=True)
    yield client.make_envelope(b"content", _ra(), transport="oaep-sha256")
    yield client.make_envelope(b"content", _ra(), cipher="3des", constructed=True)
    yield envelopes.seal_with_password(
        b"content", b"secret", cipher=envelopes.AES256, random=random, rounds=10
    )
    yield from _openssl_messages()


def cmc_seeds() -> Iterator[bytes]:
    """Yield messages and PKIData that pyasn1 has written."""
    for path in sorted(_CMC.glob("*.der")):
        yield path.read_bytes()


def cmp_seeds() -> Iterator[bytes]:
    """Yield what `openssl cmp` and its mock server have sent, and the requests in it."""
    for path in sorted(_CMP.glob("*.der")):
        yield path.read_bytes()


def agent_certificate() -> bytes:
    """Return a certificate in PEM, always the same."""
    return _ra().public_bytes(serialization.Encoding.PEM)


def agent_seeds() -> Iterator[bytes]:
    """Yield what servers and agents say to each other, and what an agent remembers."""
    at = datetime(2027, 1, 1, tzinfo=UTC)
    yield reports.encode_report(
        reports.Report(
            id="0" * 16, host="h", label="l", version="1", source="est", state="failing",
            served="same", error="no", renew_at=at,
        )
    )  # fmt: skip
    window = (at, at.replace(month=2))
    yield reports.encode_advice(reports.Advice(status="good", window=window))
    own_der = _ra().public_bytes(serialization.Encoding.DER)
    yield own_der
    yield cms.degenerate((own_der, own_der))
    yield base64.encodebytes(cms.degenerate((own_der,)))
    yield agent_certificate() * 2
    yield State(id="0" * 16, retry_at=at).model_dump_json().encode()
    yield b'{"suggestedWindow":{"start":"2027-01-01T00:00:00Z","end":"2027-01-02T00:00:00Z"}}'


def wstep_seeds() -> Iterator[bytes]:
    """Yield what cepces sends, and a request without much around it."""
    for path in sorted(_WSTEP.glob("*.xml")):
        yield path.read_bytes()
    yield (
        b'<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://www.w3.org/'
        b'2005/08/addressing"><Header><a:Action>x</a:Action></Header><Body><x/></Body></Envelope>'
    )


def directory_seeds() -> Iterator[bytes]:
    """Yield answers of a directory: an entry, ends of operations, a reference with padding."""
    values = der.sequence(der.octets(b"cn"), der.tlv(der.SET, der.octets(b"bob")))
    entry = der.tlv(0x64, der.octets(b"CN=bob"), der.sequence(values))
    yield der.sequence(der.integer(1), entry)
    for tag, code in ((0x61, b"\x31"), (0x65, b"\x00"), (0x78, b"\x34")):
        done = der.tlv(tag, der.tlv(0x0A, code), der.octets(b""), der.octets(b"why"))
        yield der.sequence(der.integer(2), done)
    yield b"\x30\x84\x00\x00\x00\x09\x02\x01\x01\x73\x84\x00\x00\x00\x00"


def tsa_seeds() -> Iterator[bytes]:
    """Yield what `openssl ts -query` writes, and a request with an extension."""
    for path in sorted(_TSA.glob("*.tsq")):
        yield path.read_bytes()
    reader = der.read((_TSA / "policy.tsq").read_bytes(), der.SEQUENCE)
    extension = der.sequence(der.oid("1.2.3"), b"\x01\x01\xff", der.octets(b"value"))
    yield der.sequence(reader.rest(), der.explicit(0, extension))


def acme_seeds() -> Iterator[bytes]:
    """Yield signed messages of each kind of key, with what each operation is asked."""
    key = ec.derive_private_key(0x1234567, ec.SECP256R1())
    keys = (key, ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    payloads: tuple[Any, ...] = (
        "",
        {"contact": ["mailto:a@example.test"], "termsOfServiceAgreed": True},
        {"identifiers": [{"type": "dns", "value": "a.test"}], "replaces": "AQ.AQ"},
        {"csr": acme_world.make_csr("a.test", key=key).hex()},
        {"status": "deactivated", "reason": 1, "certificate": "MAA"},
    )
    for each in keys:
        header = {
            "alg": acme_world.algorithm(each),
            "nonce": "bm9uY2U",
            "url": "https://ca.test/acme/a/new-order",
            "jwk": acme_world.jwk(each),
        }
        for payload in payloads:
            yield acme_world.sign(each, header, payload)
            yield json.dumps(payload).encode()
        yield json.dumps(header).encode()
        inner = json.loads(acme_world.sign(each, header, {"account": "x"}))
        yield acme_world.sign(each, header, {"externalAccountBinding": inner, **inner})
        yield json.dumps({"externalAccountBinding": inner, **inner}).encode()


def csr_seeds() -> Iterator[bytes]:
    """Yield requests, and what their signatures cover."""
    for request in _requests():
        yield request
        yield der.read(request, der.SEQUENCE).raw()


def _scep_contents() -> Iterator[tuple[str, bytes]]:
    for request in _requests():
        yield "19", request
    yield "17", client.make_csr(keys.ec_key("device"), challenge="secret")
    yield "20", client.issuer_and_subject(client.name("root"), client.name("device"))
    yield "21", client.issuer_and_serial(_ra())
    yield "22", client.issuer_and_serial(_ra())


def scep_seeds() -> Iterator[bytes]:
    """Yield pkiMessages of each type, and the queries of GET."""
    ra = _ra()
    signers = [client.self_signed(key("device")) for key in (keys.rsa_key, keys.ec_key)]
    for number, (kind, content) in enumerate(_scep_contents()):
        body = client.make_message(
            client.make_envelope(content, ra, by_ski=True, constructed=number == 3),
            signers[number % 2],
            message_type=kind,
            signing_time=NOW,
        ).der
        yield body
    text = base64.b64encode(body).decode()
    for escaped in (text, urllib.parse.quote(text, safe=""), urllib.parse.quote(text)):
        yield b"operation=PKIOperation&message=" + escaped.encode()
    yield b"operation=GetCACaps&message=routers"
    yield b"operation=GetNextCACert"


def scep_content_seeds() -> Iterator[bytes]:
    """Yield the content of messages, the number of their kind first."""
    kinds = ("17", "19", "20", "21", "22")
    for kind, content in _scep_contents():
        yield bytes((kinds.index(kind),)) + content
    yield b"\x80" + client.make_envelope(b"content", _ra(), by_ski=True)


def ldap_seeds() -> Iterator[bytes]:
    """Yield messages as ldaptor writes them, and names as people do."""
    yield from test_fuzz_ldap.SEEDS
    yield b'uid=a+sn=\\2cb,ou="c, d",o=#0c0161'


def snmp_seeds() -> Iterator[bytes]:
    """Yield messages of every version, and the PDUs in them."""
    yield from test_fuzz_snmp.V1V2
    yield from test_fuzz_snmp.V3
    yield from (snmp.pdu_octets(pdu) for pdu in test_fuzz_snmp.QUESTIONS)


def ocsp_seeds() -> Iterator[bytes]:
    """Yield requests as clients write them, and the paths of GET."""
    ra = _ra()
    for algorithm in (hashes.SHA1(), hashes.SHA256(), hashes.SHA512()):
        builder = ocsp.OCSPRequestBuilder().add_certificate(ra, ra, algorithm)
        plain = builder.build().public_bytes(_DER)
        yield plain
        yield builder.add_extension(x509.OCSPNonce(bytes(32)), False).build().public_bytes(_DER)
        yield b"/" + urllib.parse.quote(base64.b64encode(plain), safe="").encode()
        yield b"/" + base64.b64encode(plain)
    cert_id = der.read(plain, der.SEQUENCE).enter(der.SEQUENCE).enter(der.SEQUENCE)
    entry = cert_id.raw()
    locator = der.sequence(
        der.sequence(der.oid("1.3.6.1.5.5.7.48.1.7"), der.octets(der.sequence()))
    )
    with_extensions = der.sequence(der.content(entry, der.SEQUENCE), der.explicit(0, locator))
    preferred = der.sequence(
        der.oid("1.3.6.1.5.5.7.48.1.8"),
        der.octets(der.sequence(der.sequence(der.sequence(der.oid("1.2.840.10045.4.3.2"))))),
    )
    yield der.sequence(
        der.sequence(
            b"\xa0\x03\x02\x01\x00",
            der.explicit(1, der.explicit(4, client.name("requestor").public_bytes())),
            der.sequence(entry, with_extensions),
            der.explicit(2, der.sequence(preferred)),
        ),
        der.explicit(0, der.sequence(der.sequence(der.oid("1.3.101.112")), b"\x03\x01\x00")),
    )


def http_seeds() -> Iterator[bytes]:
    """Yield requests, good ones and what smugglers try."""
    yield b"GET /x/a%2Fb?c=d HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n" * 2
    yield b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /hot HTTP/1.0\r\n\r\n"
    yield (
        b"POST /hot HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0002\r\nde\r\n0\r\n\r\nHEAD /x HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    yield b"5\r\nhello\r\n00000\r\n\r\n"
    yield b"1\r\nx\r\n" * 50 + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    yield b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1"
    yield b"GET http://a/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield from SMUGGLING.values()


def names_seeds() -> Iterator[bytes]:
    """Yield names of each kind, the number of the kind first."""
    for kind, texts in enumerate(
        (
            ("a.example.test", "*.example.test", "xn--mller-kva.example.test", "192.0.2.1"),
            ("a.b+c@example.test", "é@example.test"),
            ("https://user@example.test:443/a?b#c", "urn:uuid:1", "http://[2001:db8::1]/"),
            ("user@example.test", "jürgen@example.test"),
        )
    ):
        for text in texts:
            yield bytes((kind,)) + text.encode()
    yield b"\x04" + der.tlv(0x0C, b"a@example.test")
    yield b"\x05" + client.name("device").public_bytes()
    yield b"\x06" + _subject_alternative_name().public_bytes()


def import_seeds() -> Iterator[bytes]:
    """Yield files of every format that is read."""
    own, key = _ra(), keys.rsa_key("ra")
    device = client.self_signed(keys.ec_key("device")).certificate
    cheap = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(10)
    old = cheap.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
    yield own.public_bytes(_DER)
    yield own.public_bytes(_PEM) + device.public_bytes(_PEM)
    yield pkcs7.serialize_certificates([own, device], _DER)
    yield pkcs7.serialize_certificates([own, device], _PEM)
    for encryption in (cheap.build(b"secret"), old.build(b"secret")):
        yield pkcs12.serialize_key_and_certificates(b"x", key, own, [device], encryption)
    plain = serialization.NoEncryption()
    small: Any = keys.ec_key("device")
    yield pkcs12.serialize_key_and_certificates(None, small, device, None, plain)
    for encoding in (_DER, _PEM):
        yield small.private_bytes(encoding, _PKCS8, plain)
        yield small.private_bytes(encoding, PrivateFormat.TraditionalOpenSSL, plain)
    yield small.private_bytes(_PEM, PrivateFormat.OpenSSH, plain)
    yield keys.ed_key("device").private_bytes(_PEM, _PKCS8, plain)
    yield from _openssl_keys(small)


def _openssl_keys(key: ec.EllipticCurvePrivateKey) -> Iterator[bytes]:
    """Encrypted keys as openssl writes them: PBES2 with PBKDF2 and scrypt, PBES1, PKCS#12."""
    pem = key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption())
    for options in (
        ["-iter", "10"],
        ["-scrypt", "-scrypt_N", "16", "-scrypt_r", "1", "-scrypt_p", "1"],
        ["-v1", "PBE-SHA1-3DES", "-iter", "10"],
    ):
        yield subprocess.run(
            ["openssl", "pkcs8", "-topk8", *OUT, "-passout", "pass:secret", *options],
            input=pem,
            check=True,
            capture_output=True,
        ).stdout


def config_seeds() -> Iterator[bytes]:
    """Yield the shipped settings, with what is commented out switched on, in pieces."""
    text = (_CONF / "tmad.toml").read_text()
    yield "\n".join(line.partition(" #")[0] for line in text.splitlines()).encode()
    told = [line.removeprefix("# ").partition("  #")[0] for line in text.splitlines()[6:]]
    sections = "\n".join(told).split("\n\n")
    yield from (section.encode() for section in sections if section.strip())
    yield b'[node]\nname = "a"\n[protocols.scep]\ndefault_label = "x"\nrate = 1.5\n'


def documents_seeds() -> Iterator[bytes]:
    """Yield the shipped profiles, and an endpoint and an authority."""
    for path in sorted(PRESETS.glob("*.toml")):
        yield path.read_bytes()
    yield (
        b'protocol = "scep"\nlabel = "routers"\nauthority = "issuing"\nprofile = "device"\n'
        b'authenticate = ["challenge", "webhook"]\n[renewal]\nwindow_days = 30\n'
        b'[webhook]\nurl = "https://example.test/a"\n[limits]\nper_day = 5\n[options]\na = 1\n'
    )
    yield b'[crl]\nperiod_hours = 24\n[ocsp]\nsigner = "ca"\n[signature]\nhash = "sha256"\n'


def export_seeds() -> Iterator[bytes]:
    """Yield a journal's export."""
    clock = Clock()
    journal = Journal(Database.in_memory(clock=clock), "node1", clock)
    held: Any = Keys(audit=keys.ed_key("audit"))
    for number in range(1, 9):
        clock.advance(seconds=1)
        drive(journal.write(event(number)))
        if number in (3, 6):
            drive(journal.seal(held, "audit"))

    async def lines() -> list[bytes]:
        return [line async for line in journal.export(held.public)]

    whole = drive(lines())
    yield b"".join(whole)
    yield b"".join([*whole[:-1], whole[-2], whole[-1]])


def token_file_seeds() -> Iterator[bytes]:
    """Yield token files of every form; the vectors of RFC 6030 among them."""
    yield from test_fuzz_tokenfiles.SEEDS
    package = files.key(secret=files.encrypted(files.SEED, bytes(range(16)), bytes(range(16))))
    yield files.container(files.NAMED, files.mac_method(), package)
    policy = "<Policy><StartDate>2020-01-01T00:00:00</StartDate><KeyUsage>OTP</KeyUsage></Policy>"
    yield files.container(files.key(policy=policy, inside="<UserId>uid=a</UserId>"))


def smpp_seeds() -> Iterator[bytes]:
    """Yield what an SMS centre sends."""
    yield from test_fuzz_smpp.SEEDS


def eap_seeds() -> Iterator[bytes]:
    """Yield what each decoder of EAP reads; the first octet says which one it is for."""
    response = bytes((49,)) + bytes(16 + 8 + 24 + 1) + b"alice"
    tlvs = bytes.fromhex("800300020001 000c003800000001") + bytes(52)
    for number, octets in enumerate(
        (
            Peer.respond(7, 1, b"alice@example.test"),
            b"alice\x00networkid=lab",
            b"\xc0\x00\x00\x10\x00" + bytes(40),
            write_avps((0, 1, b"alice"), (0, 2, b"secret"), (311, 25, bytes(50))),
            tlvs,
            b"\x02\x07" + (4 + len(response)).to_bytes(2) + response,
            bytes(50),
        )
    ):
        yield bytes((number,)) + octets
