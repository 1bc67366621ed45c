"""Time-stamp requests and answers, octet by octet."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asn1crypto import tsp
from pyasn1.codec.der import decoder
from pyasn1_modules import rfc3161

from tmad.errors import Fault, FaultCode
from tmad.protocols.tsa import codec
from tmad.protocols.tsa.codec import FailInfo
from tmad.wire import der

VECTORS = Path(__file__).parents[1] / "vectors" / "tsa"
SHA256 = der.oid("2.16.840.1.101.3.4.2.1")
POLICY = der.oid("1.2.3.4.1")


def imprint(oid: bytes = SHA256, digest: bytes = bytes(32), parameters: bytes = b"") -> bytes:
    return der.sequence(der.sequence(oid, parameters), der.octets(digest))


def query(*rest: bytes, version: bytes = b"\x02\x01\x01", what: bytes | None = None) -> bytes:
    return der.sequence(version, imprint() if what is None else what, *rest)


EXTENSION = der.sequence(der.oid("1.2.3"), der.octets(b"x"))


def test_tsa_02_a_request_with_everything() -> None:
    nonce = der.integer(-(2**64))
    asked = codec.decode(query(POLICY, nonce, b"\x01\x01\xff", der.explicit(0, EXTENSION)))
    assert asked.policy_der == POLICY
    assert asked.nonce_der == nonce  # negative ones, too (TSA-09)
    assert asked.wants_certificate
    assert asked.has_extensions
    assert asked.hash == codec.Hash("sha256", 32)
    assert asked.imprint_der == imprint()


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.tsq")), ids=lambda path: path.stem)
def test_tsa_02_what_openssl_asks(path: Path) -> None:
    asked = codec.decode(path.read_bytes())
    name = {"plain": "sha256", "policy": "sha256"}.get(path.stem, path.stem)
    digest = hashlib.new(name.replace("sha3-", "sha3_"), b"what is stamped", usedforsecurity=False)
    assert asked.digest == digest.digest()
    assert (None if asked.hash is None else asked.hash.name) == (None if name == "md5" else name)
    assert asked.wants_certificate is (path.stem != "plain")
    assert (asked.nonce_der is None) is (path.stem == "plain")
    wanted = der.oid("1.3.6.1.4.1.32473.1") if path.stem == "policy" else None
    assert asked.policy_der == wanted
    assert not asked.has_extensions


def test_tsa_02_the_shortest_request() -> None:
    asked = codec.decode(query())
    assert (asked.policy_der, asked.nonce_der) == (None, None)
    assert not asked.wants_certificate
    assert not asked.has_extensions
    assert not codec.decode(query(b"\x01\x01\x00")).wants_certificate


@pytest.mark.parametrize("oid", codec.HASHES)
@pytest.mark.parametrize("parameters", [b"", der.NULL_DER])
def test_tsa_03_each_hash_has_its_length(oid: bytes, parameters: bytes) -> None:
    known = codec.HASHES[oid]
    asked = codec.decode(query(what=imprint(oid, bytes(known.octets), parameters)))
    assert asked.hash is known
    for length in (0, known.octets - 1, known.octets + 1):
        with pytest.raises(Fault, match="octets"):
            codec.decode(query(what=imprint(oid, bytes(length))))


def test_tsa_03_an_unknown_hash_is_for_the_responder_to_refuse() -> None:
    asked = codec.decode(query(what=imprint(der.oid("1.2.840.113549.2.5"), bytes(16))))
    assert asked.hash is None
    assert asked.algorithm == "1.2.840.113549.2.5"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        query() + b"\x00",
        query(version=b"\x02\x01\x02"),
        query(version=b"\x02\x02\x00\x01"),
        query(version=b""),
        query(what=b"\x30\x00"),
        query(what=imprint(b"\x06\x00")),
        query(what=imprint(b"\x06\x02\x2a\x86")),
        query(what=imprint(b"\x06\x03\x2a\x80\x01")),
        query(what=imprint(parameters=b"\x30\x00")),
        query(what=imprint() + b"\x05\x00"),
        query(b"\x02\x00"),
        query(b"\x02\x02\x00\x01"),
        query(b"\x02\x02\xff\xff"),
        query(der.integer(2**520)),
        query(der.integer(1), POLICY),
        query(der.integer(1), der.integer(1)),
        query(b"\x01\x01\x01"),
        query(b"\x01\x00"),
        query(der.explicit(0)),
        query(der.explicit(0, b"\x30\x00")),
        query(der.explicit(1, EXTENSION)),
        query(der.explicit(0, EXTENSION), b"\x01\x01\xff"),
        b"\x30\x80" + query()[2:] + b"\x00\x00",
        query(der.explicit(0, EXTENSION * 300)),
        bytes(codec.LONGEST_REQUEST + 1),
    ],
)
def test_tsa_03_what_is_not_a_request(data: bytes) -> None:
    with pytest.raises(Fault) as caught:
        codec.decode(data)
    assert caught.value.code is FaultCode.MALFORMED
    assert codec.FAULTS[caught.value.code] is FailInfo.BAD_DATA_FORMAT


def test_every_fault_has_its_fail_info() -> None:
    assert set(codec.FAULTS) == set(FaultCode)


@pytest.mark.parametrize("failure", FailInfo)
def test_tsa_04_rejections_say_why(failure: FailInfo) -> None:
    body = codec.rejection(failure, "because ü")
    # An independent reader, which knows all the bits.
    other, rest = decoder.decode(body, asn1Spec=rfc3161.TimeStampResp())
    assert not rest
    assert int(other["status"]["status"]) == 2  # rejection
    assert [str(text) for text in other["status"]["statusString"]] == ["because ü"]
    assert not other["timeStampToken"].isValue
    bits = other["status"]["failInfo"]
    assert [number for number, bit in enumerate(bits) if bit] == [failure.value]
    assert len(bits) == failure.value + 1


@pytest.mark.parametrize(
    ("micro", "digits", "text"),
    [
        (0, 3, b"20261123120000Z"),
        (120_000, 3, b"20261123120000.12Z"),
        (123_999, 3, b"20261123120000.123Z"),
        (999_999, 0, b"20261123120000Z"),
        (400, 3, b"20261123120000Z"),
        (400, 6, b"20261123120000.0004Z"),
    ],
)
def test_tsa_05_time_ends_with_no_zero(micro: int, digits: int, text: bytes) -> None:
    instant = datetime(2026, 11, 23, 12, 0, 0, micro, tzinfo=UTC)
    assert codec.generalized_time(instant, digits) == der.tlv(0x18, text)


@pytest.mark.parametrize("milliseconds", [1, 127, 128, 999, 1000, 1500, 3_600_000])
def test_tsa_05_accuracy(milliseconds: int) -> None:
    found = tsp.Accuracy.load(codec.accuracy(milliseconds), strict=True).native
    assert (found["seconds"] or 0) * 1000 + (found["millis"] or 0) == milliseconds


def test_tsa_05_the_token_repeats_what_was_asked() -> None:
    nonce = der.integer(-5)
    asked = codec.decode(query(nonce))
    content = codec.tst_info(
        asked,
        policy_der=POLICY,
        serial=2**159 - 1,
        time_der=codec.generalized_time(datetime(2026, 1, 1, tzinfo=UTC), 3),
        accuracy_der=codec.accuracy(1500),
        name_der=b"",
    )
    found = tsp.TSTInfo.load(content, strict=True)
    assert found["version"].native == "v1"
    assert found["policy"].native == "1.2.3.4.1"
    assert found["message_imprint"].dump() == asked.imprint_der
    assert found["serial_number"].native == 2**159 - 1
    assert found["nonce"].native == -5
    assert found["ordering"].native is False
    assert b"\x01\x01\x00" not in content  # DER: a default is not written
