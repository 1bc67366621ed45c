"""The dearest messages that strangers can send: under 50 ms and 8 MB each (security.md, G-BAD-3).

Measured is the whole handling, the RA's private key operations included, which the daemon does
outside of its reactor.
"""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import gmpy2  # type: ignore[import-untyped]  # ships no stubs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests import scep_client as client
from tests.fuzz.coverage import keys
from tests.support import drive
from tests.unit import ca_bench
from tests.unit.scep_core import key_usage, make_certificate
from tests.unit.test_edge_http import Edge
from tests.unit.test_ocsp_responder import cert_id
from tests.world import World
from tmad.ca import keycheck
from tmad.ca.importing import read_bundle
from tmad.errors import Fault
from tmad.protocols.ocsp.responder import OCSPResponder
from tmad.protocols.scep.responder import EndpointOptions, SCEPResponder
from tmad.wire import der
from tmad.wire.http import Request

SLOWEST = 0.050  # seconds of processor time
MOST_MEMORY = 8_000_000  # octets
LONGEST = 65_536  # octets of a SCEP message
RUNS = 5

# Makes the message of one run: the same request twice would be answered from memory.
Make = Callable[[int], bytes]


def check_cost(run: Callable[[int], object]) -> None:
    """Call with the number of the run; the best of a few tells, on a machine that is busy."""
    best = 1.0
    for number in range(RUNS):
        begin = time.process_time()
        run(number)
        best = min(best, time.process_time() - begin)
    tracemalloc.start()
    try:
        run(RUNS)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert best < SLOWEST, f"{best * 1000:.0f} ms"
    assert memory < MOST_MEMORY, f"{memory} octets"


# -- SCEP -----------------------------------------------------------------------------------


class Door:
    """One endpoint of the real pipeline, where strangers come past the challenge."""

    def __init__(self) -> None:
        bench = ca_bench.bench(authenticate=["challenge", "manual"])
        self.bench = bench
        key = keys.rsa_key("ra")
        self.keys = {"ra": key}
        usage = key_usage(digital_signature=True, key_encipherment=True)
        self.ra = make_certificate(bench.clock, "ra", key.public_key(), key, None, usage=usage)
        services: Any = SimpleNamespace(
            now=bench.clock,
            database=bench.database,
            journal=bench.journal,
            endpoints=SimpleNamespace(by_id=self._endpoint),
            hierarchy=bench.hierarchy,
            authority=bench.authority,
            service_certificates=SimpleNamespace(valid=self._valid),
            keyring=SimpleNamespace(use=self._use),
        )
        self.responder = SCEPResponder(services)

    async def _endpoint(self, about: Any) -> Any:
        found = await self.bench.endpoints.by_id(about)
        options = EndpointOptions(legacy=True, signing_time_window=600)
        return SimpleNamespace(
            id=found.id, tenant=found.tenant, document=found.document, options=options
        )

    async def _valid(self, purpose: str, scope: str) -> Any:
        return (SimpleNamespace(certificate=self.ra, key_id="ra"),)

    async def _use(self, key_id: str, operation: Any) -> Any:
        return operation(self.keys[key_id])

    def post(self, body: bytes) -> int:
        assert len(body) <= LONGEST, len(body)
        request = Request(method="POST", path=b"/scep/routers", tail=b"routers", body=body)
        return drive(self.responder.respond_below(request)).status

    def get(self, query: bytes) -> int:
        request = Request(method="GET", path=b"/scep/routers", tail=b"routers", query=query)
        return drive(self.responder.respond_below(request)).status

    def sealed(self, content: bytes, signer: Any = None) -> Make:
        """Make messages around this content, each with a transaction of its own."""
        made = []
        for number in range(RUNS + 1):
            message = client.make_message(
                client.make_envelope(content, self.ra, by_ski=True),
                client.self_signed(signer or keys.rsa_key("device")),
                transaction=f"{hash(content)}-{number}",
                signing_time=self.bench.clock(),
            )
            made.append(message.der)
        return made.__getitem__


@pytest.fixture(scope="module")
def door() -> Door:
    return Door()


def always(body: bytes) -> Make:
    return lambda number: body


def signed_data(*, certificates: bytes = b"", signers: bytes) -> bytes:
    data = der.oid("1.2.840.113549.1.7.1")
    return der.sequence(
        der.oid("1.2.840.113549.1.7.2"),
        der.explicit(
            0,
            der.sequence(
                der.integer(1),
                der.tlv(der.SET),
                der.sequence(data, der.explicit(0, der.octets(b"content"))),
                der.explicit(0, certificates) if certificates else b"",
                der.tlv(der.SET, signers),
            ),
        ),
    )


SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
TRANSACTION = der.oid("2.16.840.1.113733.1.9.7")
NONCE = der.oid("2.16.840.1.113733.1.9.5")


def attribute(oid: bytes, *values: bytes) -> bytes:
    return der.sequence(oid, der.tlv(der.SET, *values))


def signer_info(
    *attributes: bytes, identifier: bytes = b"\x80\x01a", signature: bytes = b""
) -> bytes:
    named = (
        attribute(TRANSACTION, der.tlv(der.PRINTABLE_STRING, b"t")),
        attribute(NONCE, der.octets(b"n")),
    )
    return der.sequence(
        der.integer(3),
        identifier,
        SHA256,
        der.explicit(0, *named, *attributes),
        der.sequence(der.oid("1.2.840.113549.1.1.1")),
        der.octets(signature),
    )


def certificate_with(*, spki: bytes = b"", extensions: bytes = b"") -> bytes:
    """Return an X.509 certificate as short as the parser takes it."""
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    time_der = der.tlv(der.UTC_TIME, b"260101000000Z")
    if not spki:
        spki = (
            keys.ed_key("device")
            .public_key()
            .public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    tbs = der.sequence(
        der.explicit(0, der.integer(2)),
        der.integer(1),
        algorithm,
        der.sequence(),
        der.sequence(time_der, time_der),
        der.sequence(),
        spki,
        der.explicit(3, der.sequence(extensions)) if extensions else b"",
    )
    return der.sequence(tbs, algorithm, b"\x03\x01\x00")


def extension(oid: str, value: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.octets(value))


def rsa_spki(modulus: int, exponent: int) -> bytes:
    bits = b"\0" + der.sequence(der.integer(modulus), der.integer(exponent))
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL_DER)
    return der.sequence(algorithm, der.tlv(der.BIT_STRING, bits))


def finite_spki(oid: str, parameters: bytes, key: bytes) -> bytes:
    algorithm = der.sequence(der.oid(oid), parameters)
    return der.sequence(algorithm, der.tlv(der.BIT_STRING, b"\0" + key))


def huge(bits: int) -> int:
    return (1 << bits) - 1


def outer() -> Iterator[tuple[str, bytes]]:
    """Yield messages that are dear before any signature is checked."""
    yield "small elements", der.sequence(der.NULL_DER * 32_000)
    yield "elements at the cap", der.sequence(*[der.sequence(der.NULL_DER * 11)] * 124)
    yield (
        "elements at the cap, then BER",
        der.sequence(*[der.sequence(der.NULL_DER * 11)] * 124, b"\x30\x80\0\0"),
    )
    yield "deep, indefinite", b"\x30\x80" * 32_000
    nested = b""
    for _ in range(16_000):
        nested = der.sequence(nested)
        if len(nested) > 60_000:
            break
    yield "deep, definite", nested
    yield (
        "pieces of pieces",
        (b"\x24\x80" * 31 + b"\x04\x82\xf0\x00" + bytes(0xF000) + b"\0\0" * 31),
    )
    yield "small pieces", der.sequence(b"\x24\x80" + b"\x04\x01a" * 1_490 + b"\0\0")
    yield "a length of 4 GB", b"\x30\x84\xff\xff\xff\xff" + bytes(60_000)
    yield "signers", signed_data(signers=signer_info() * 60)
    yield (
        "attributes",
        signed_data(
            signers=signer_info(*[attribute(der.oid(f"1.2.{n}"), der.NULL_DER) for n in range(350)])
        ),
    )
    yield (
        "values of an attribute",
        signed_data(signers=signer_info(attribute(der.oid("1.2.3"), der.NULL_DER * 1_400))),
    )
    long = der.tlv(der.OBJECT_IDENTIFIER, b"\x81" * 30_000 + b"\x01")
    yield "long OIDs", signed_data(signers=signer_info(attribute(long), attribute(long)))
    one = certificate_with(extensions=extension("1.2.3", b""))
    yield "certificates", signed_data(certificates=one * 50, signers=signer_info())
    yield (
        "certificates, only a few elements",
        signed_data(
            certificates=certificate_with() * 2 + b"\x30\x00" * 1_400, signers=signer_info()
        ),
    )
    for name, oid, element in (
        ("empty names", "2.5.29.17", b"\x82\x00"),
        ("directory names", "2.5.29.17", b"\xa4\x02\x30\x00"),
        ("usages", "2.5.29.37", b"\x06\x01\x2a"),
        ("policies", "2.5.29.32", b"\x30\x03\x06\x01\x2a"),
        ("TLS features", "1.3.6.1.5.5.7.1.24", b"\x02\x01\x05"),
        ("distribution points", "2.5.29.31", b"\x30\x00"),
    ):
        value = der.sequence(element * (60_000 // len(element)))
        body = signed_data(
            certificates=certificate_with(extensions=extension(oid, value)),
            signers=signer_info(),
        )
        yield f"a certificate's {name}", body
    attribute_der = bytes.fromhex("3109300706012a0c026161")
    name_der = der.explicit(4, der.sequence(attribute_der * 5_000))
    yield (
        "a certificate's directory name",
        signed_data(
            certificates=certificate_with(
                extensions=extension("2.5.29.17", der.sequence(name_der))
            ),
            signers=signer_info(),
        ),
    )
    signer = der.sequence(der.sequence(), der.integer(1))
    for name, spki in (
        ("RSA modulus of 400 000 bits", rsa_spki(huge(400_000), 65_537)),
        ("RSA exponent of 400 000 bits", rsa_spki(huge(16_384), huge(400_000))),
        ("RSA of 16 384 bits, both", rsa_spki(huge(16_384), huge(16_383))),
        ("RSA of 3 072 bits, both", rsa_spki(huge(3_072), huge(3_071))),
        ("RSA of 16 384 bits", rsa_spki(huge(16_384), 65_537)),
        ("RSA of 16 384 bits, long exponent", rsa_spki(huge(16_384), huge(64))),
        (
            "DSA",
            finite_spki(
                "1.2.840.10040.4.1",
                der.sequence(*[der.integer(huge(120_000))] * 3),
                der.integer(huge(119_999)),
            ),
        ),
        (
            "DH",
            finite_spki(
                "1.2.840.113549.1.3.1",
                der.sequence(der.integer(huge(240_000)), der.integer(2)),
                der.integer(huge(239_999)),
            ),
        ),
    ):
        body = signed_data(
            certificates=certificate_with(spki=spki),
            signers=signer_info(
                identifier=signer, signature=b"\1" * (2_048 if "16" in name else 384)
            ),
        )
        yield f"signer with {name}", body


OUTER = dict(outer())


@pytest.mark.parametrize("name", OUTER)
def test_g_bad_3_scep_messages_that_nobody_signed(door: Door, name: str) -> None:
    check_cost(lambda number: door.post(OUTER[name]))


def request_with(
    *extensions: bytes,
    spki: bytes = b"",
    signature: bytes = b"",
    attributes: bytes = b"",
    subject: bytes = b"",
) -> bytes:
    """Return a request with whatever is given; it is rightly signed unless a signature is."""
    key = keys.rsa_key("device")
    spki = spki or key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if extensions:
        wanted = attribute(der.oid("1.2.840.113549.1.9.14"), der.sequence(*extensions))
        attributes = wanted + attributes
    subject = subject or client.name("device").public_bytes()
    info = der.sequence(der.integer(0), subject, spki, der.explicit(0, attributes))
    signature = signature or key.sign(info, padding.PKCS1v15(), hashes.SHA256())
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)
    return der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + signature))


SAN = "2.5.29.17"


def inner() -> Iterator[tuple[str, bytes]]:
    """Yield requests that are dear although sender and envelope are in order."""
    yield "plain", request_with()
    names = [der.tlv(0x82, f"n{number}.example.test".encode()) for number in range(1_400)]
    yield "as many names as are read", request_with(extension(SAN, der.sequence(*names)))
    yield "more names than that", request_with(extension(SAN, der.sequence(*names * 2)[:40_000]))
    yield "empty names", request_with(extension(SAN, der.sequence(b"\x82\x00" * 22_000)))
    yield (
        "names of an odd kind",
        request_with(
            extension(SAN, der.sequence(*[bytes.fromhex("a00806022a03a002") + b"\x0c\x00"] * 350))
        ),
    )
    common = bytes.fromhex("310a30080603550403" + "0c0161")
    directory = der.explicit(4, der.sequence(common * 280))
    yield "a long directory name", request_with(extension(SAN, der.sequence(directory)))
    yield (
        "a longer directory name",
        request_with(extension(SAN, der.sequence(der.explicit(4, der.sequence(common * 3_500))))),
    )
    yield "a long subject", request_with(subject=der.sequence(common * 280))
    label = ".".join(["xn--" + "a" * 59] * 3)
    yield (
        "long labels",
        request_with(extension(SAN, der.sequence(*[der.tlv(0x82, label.encode())] * 200))),
    )
    uri = der.tlv(0x86, b"http://" + b"a" * 2_000)
    yield "long URIs", request_with(extension(SAN, der.sequence(uri * 20)))
    mail = der.tlv(0x81, b"a" + b".a" * 2_000 + b"!@")
    yield "long mail addresses", request_with(extension(SAN, der.sequence(mail * 10)))
    yield "usages", request_with(extension("2.5.29.37", der.sequence(b"\x06\x01\x2a" * 14_000)))
    yield (
        "policies",
        request_with(extension("2.5.29.32", der.sequence(b"\x30\x03\x06\x01\x2a" * 9_000))),
    )
    yield "extensions", request_with(*[extension(f"1.2.{n}", der.NULL_DER) for n in range(350)])
    yield "an extension that is not DER", request_with(extension(SAN, b"\x30\x80" * 20_000))
    yield (
        "attributes",
        request_with(
            attributes=b"".join(attribute(der.oid(f"1.2.{n}"), der.NULL_DER) for n in range(350))
        ),
    )
    yield (
        "a long challenge",
        request_with(
            attributes=attribute(
                der.oid("1.2.840.113549.1.9.7"), der.tlv(der.UTF8_STRING, b"a" * 40_000)
            )
        ),
    )
    long = der.tlv(der.OBJECT_IDENTIFIER, b"\x81" * 20_000 + b"\x01")
    yield "a long OID", request_with(der.sequence(long, der.octets(b"")))
    # As long as the modulus, or it is refused before anything is computed.
    for name, spki, length in (
        ("RSA modulus of 200 000 bits", rsa_spki(huge(200_000), 65_537), 25_000),
        ("RSA exponent of 300 000 bits", rsa_spki(huge(16_384), huge(300_000)), 2_048),
        ("RSA of 3 072 bits, both", rsa_spki(huge(3_072), huge(3_071)), 384),
        ("RSA of 16 384 bits", rsa_spki(huge(16_384), huge(64)), 2_048),
    ):
        yield name, request_with(spki=spki, signature=b"\1" * length)


INNER = dict(inner())


@pytest.mark.parametrize("name", INNER)
def test_g_bad_3_scep_requests_in_good_envelopes(door: Door, name: str) -> None:
    make = door.sealed(INNER[name])
    check_cost(lambda number: door.post(make(number)))


def _post_one(door: Door, bodies: list[bytes], number: int) -> None:
    door.post(bodies[number])


def _get(door: Door, query: bytes, number: int) -> None:
    door.get(query)


def test_g_bad_3_scep_envelopes(door: Door) -> None:
    """Recipients that are not ours, and a password with 2^31 rounds, which nobody derives."""
    ours = client.make_envelope(request_with(), door.ra, by_ski=True)
    reader = der.read(ours, der.SEQUENCE)
    oid = reader.raw()
    enveloped = reader.enter(0xA0).enter(der.SEQUENCE)
    version, infos, content = enveloped.raw(), enveloped.enter(der.SET), enveloped.raw()
    own = infos.raw()
    other = own.replace(
        x509.SubjectKeyIdentifier.from_public_key(door.ra.public_key()).digest, bytes(20)
    )
    rounds = der.sequence(der.octets(bytes(16)), der.integer(1 << 31))
    password = der.explicit(
        3,
        der.integer(0),
        der.explicit(0, der.oid("1.2.840.113549.1.5.12"), rounds),
        SHA256,
        der.octets(bytes(40)),
    )
    for recipients in (other * 120, other * 120 + own, password * 100, password * 100 + own):
        envelope = der.sequence(
            oid,
            der.explicit(0, der.sequence(version, der.tlv(der.SET, recipients), content)),
        )
        bodies = [
            client.make_message(
                envelope,
                client.self_signed(keys.rsa_key("device")),
                transaction=f"{len(envelope)}-{number}",
            ).der
            for number in range(RUNS + 1)
        ]
        assert door.post(bodies[0]) == 200
        check_cost(partial(_post_one, door, bodies))


def test_g_bad_3_scep_by_get(door: Door) -> None:
    start = b"operation=PKIOperation&message="
    for query in (
        start + b"%41" * 5_400,
        start + b"%2525" * 3_200,
        start + quote(base64.b64encode(b"\x30\x80" * 6_000)).encode()[:16_000],
        b"a=b&" * 4_000,
        b"&" * 16_000,
    ):
        assert door.get(query) == 400
        check_cost(partial(_get, door, query))


@pytest.mark.parametrize("bits", [2_048, 3_072, 4_096])
def test_g_bad_3_the_dearest_rsa_moduli(bits: int) -> None:
    """A prime passes every test but the last; default profiles allow up to 4 096 bits."""
    prime = int(gmpy2.next_prime(huge(bits) - (1 << (bits - 10))))
    good = keys.rsa_key("good", bits).public_key().public_numbers().n
    for modulus in (prime, good):
        for exponent in (65_537, (1 << 255) + 1):
            key = rsa.RSAPublicNumbers(exponent, modulus).public_key()

            def run(number: int, key: rsa.RSAPublicKey = key) -> None:
                with suppress(Fault):
                    keycheck.check(key, keycheck.KeyRules())

            check_cost(run)
    with pytest.raises(Fault) as caught:
        keycheck.check(rsa.RSAPublicNumbers(65_537, prime).public_key(), keycheck.KeyRules())
    assert caught.value.rule == "key.rsa.prime"


# -- OCSP -----------------------------------------------------------------------------------


def asking(entries: bytes, extensions: bytes = b"") -> bytes:
    tail = der.explicit(2, der.sequence(extensions)) if extensions else b""
    return der.sequence(der.sequence(der.sequence(entries), tail))


def ocsp_requests(world: World) -> Iterator[tuple[str, Make]]:
    issuer = world.authority()
    world.issue_many(issuer, list(range(1, 101)))

    def entries(number: int, count: int, more: bytes = b"") -> bytes:
        # Another order each time, or the answer would come from memory.
        serials = [(number * 7 + at) % 100 + 1 for at in range(count)]
        return asking(b"".join(der.sequence(cert_id(issuer, serial), more) for serial in serials))

    yield "100 serials", lambda number: entries(number, 100)
    empty = der.sequence(
        der.sequence(der.oid("1.2")), der.octets(b""), der.octets(b""), der.integer(1)
    )
    ours = [der.sequence(cert_id(issuer, serial)) for serial in range(1, 20)]
    yield "99 unknown issuers", lambda number: asking(der.sequence(empty) * 99 + ours[number % 19])
    yield "too many", always(asking(der.sequence(empty) * 300))
    locator = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.7"), der.octets(der.sequence()))
    yield (
        "an extension each",
        lambda number: entries(number, 80, der.explicit(0, der.sequence(locator))),
    )
    extensions = b"".join(
        der.sequence(der.oid(f"1.2.{n}"), der.octets(bytes(180))) for n in range(32)
    )
    yield "extensions", always(asking(ours[0], extensions))
    wished = der.sequence(*[der.sequence(der.sequence(der.oid("1.2.3")))] * 900)
    preferred = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.8"), der.octets(wished))
    yield "wishes", always(asking(ours[0], preferred))
    long = der.tlv(der.INTEGER, b"\1" * 8_000)
    hashed = der.sequence(der.oid("1.2")) + der.octets(b"") * 2
    yield "a long serial number", always(asking(der.sequence(der.sequence(hashed, long))))
    yield "deep", always(b"\x30\x82\x1f\xfc" * 2_000)
    yield "small elements", always(der.sequence(der.NULL_DER * 4_000))


OCSP_WORLD = World()
OCSP = dict(ocsp_requests(OCSP_WORLD))


@pytest.mark.parametrize("name", OCSP)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_g_bad_3_ocsp_requests(name: str, method: str) -> None:
    services: Any = OCSP_WORLD
    responder = OCSPResponder(services, cache_octets=1 << 20)
    drive(responder.respond(Request(method="POST", path=b"/ocsp", body=OCSP[name](99))))

    def ask(number: int) -> None:
        data = OCSP[name](number)
        tail = b"/" + quote(base64.b64encode(data), safe="").encode()
        if method == "POST":
            request = Request(method="POST", path=b"/ocsp", body=data)
        else:
            request = Request(method="GET", path=b"/ocsp" + tail, tail=tail)
        assert drive(responder.respond(request)).status == 200

    check_cost(ask)


# -- HTTP -----------------------------------------------------------------------------------

READ = 65_536  # octets that Twisted hands over at once
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
STREAMS = {
    "fields": HEAD + b"a: b\r\n" * 10_000 + b"\r\n",
    "fields, as many as are taken": HEAD + b"a: b\r\n" * 99 + b"\r\n",
    "long fields": HEAD + (b"a: " + b"b" * 230 + b"\r\n") * 99 + b"\r\n",
    "an endless name": HEAD + b"a" * 60_000,
    "spaces": HEAD + b"a:" + b" \t" * 12_000 + b"\0\r\n\r\n",
    "a long address": b"GET /" + b"a" * 60_000,
    "empty lines": b"\r\n" * 32_000,
    "pipelined": b"GET /x HTTP/1.1\r\nHost:\r\n\r\n" * 2_400,
    "pipelined, all different": b"".join(
        b"GET /x?%d HTTP/1.1\r\nHost:\r\n\r\n" % number for number in range(2_000)
    ),
    "pipelined, nobody's": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 1_500,
    "pipelined bodies": (HEAD + b"Content-Length: 1\r\n\r\na") * 1_000,
    "chunks of one octet": CHUNKED + b"1\r\nx\r\n" * 10_000,
    "chunks, long sizes": CHUNKED + b"00000001\r\nx\r\n" * 5_000,
    "one chunk": CHUNKED + b"F000\r\n" + bytes(0xF000) + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("is_hot", [True, False], ids=["hot", "general"])
@pytest.mark.parametrize("name", STREAMS)
def test_g_bad_3_http_turns(name: str, is_hot: bool) -> None:
    """What one turn of the reactor does with what was read, and every turn that follows."""
    edge = Edge()
    edge.mount("/x", hot=is_hot)
    site = edge.site()

    def longest_turn() -> float:
        channel, _ = edge.connect(site)
        longest = 0.0
        turns = [partial(channel.dataReceived, STREAMS[name][:READ])]
        # Whoever pipelines gets a few answers in each turn.
        for turn in turns + [partial(edge.clock.advance, 0)] * 50:
            begin = time.process_time()
            turn()
            longest = max(longest, time.process_time() - begin)
        channel.connectionLost()
        edge.seen.clear()
        return longest

    best = min(longest_turn() for _ in range(RUNS))
    assert best < SLOWEST, f"{best * 1000:.0f} ms"
    tracemalloc.start()
    try:
        longest_turn()
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 7])
def test_g_bad_3_http_octets_that_trickle_in(size: int) -> None:
    """A head and a body in the smallest pieces: no octet is looked at again and again."""
    edge = Edge()
    edge.mount("/x")
    site = edge.site()
    stream = HEAD + b"a: b\r\n" * 90 + b"Transfer-Encoding: chunked\r\n\r\n"
    stream += b"1\r\nx\r\n" * 300 + b"0\r\n\r\n"

    def serve(number: int) -> None:
        channel, transport = edge.connect(site)
        for at in range(0, len(stream), size):
            channel.dataReceived(stream[at : at + size])
        answer: bytes = transport.value()  # type: ignore[no-untyped-call]  # Twisted's
        assert answer.endswith(b"x" * 300)
        channel.connectionLost()
        edge.seen.clear()

    check_cost(serve)


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work", [(1 << 20, 8, 1), (1 << 14, 8, 64), (16, 1 << 29, 1), (2, 2, 1 << 40)]
)
def test_g_bad_3_an_imported_key_cannot_ask_for_gigabytes(work: tuple[int, int, int]) -> None:
    """scrypt takes 128 octets times N times r (RFC 7914): 1 GiB for the first of these."""
    salted = der.sequence(der.octets(bytes(8)), *map(der.integer, work))
    derivation = der.sequence(der.oid("1.3.6.1.4.1.11591.4.11"), salted)
    cipher = der.sequence(der.oid("2.16.840.1.101.3.4.1.42"), der.octets(bytes(16)))
    scheme = der.sequence(der.oid("1.2.840.113549.1.5.13"), der.sequence(derivation, cipher))
    file = der.sequence(scheme, der.octets(bytes(64)))

    def read(number: int) -> Fault:
        with pytest.raises(Fault) as caught:
            read_bundle(file, b"secret")
        return caught.value

    check_cost(read)
    assert read(0).rule == "import.limit"
