"""What ACME's validators read from servers and devices that nobody trusts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress

from tests import attestation as made
from tests.fuzz.coverage import keys
from tests.unit.validation_world import KEY_AUTHORIZATION, TOKEN, question
from tmad.ca.validation import attestation, caa
from tmad.errors import Fault
from tmad.wire import cbor, dns, tpm
from tmad.wire.answer import Answer

_KEY = keys.ec_key("attested")
_MAKER = made.Maker()
_FORMATS = ["apple", "tpm", "step"]


def prepare() -> Callable[[bytes], object]:
    """Return what reads octets as each of the formats, which share nothing but this."""
    asked = question("device-attest-01", "device", "permanent-identifier",
                     attestation_formats=_FORMATS, attestation_roots=[_MAKER.root_pem])  # fmt: skip

    def run(data: bytes) -> None:
        for decode in (_message, _answer, cbor.decode, tpm.public, tpm.certified, caa.parse):
            with suppress(Fault):
                decode(data)
        with suppress(Fault):
            tpm.verify(_KEY.public_key(), data, b"what was signed")
        posted = {"attObj": base64.urlsafe_b64encode(data).rstrip(b"=").decode()}
        object.__setattr__(asked, "payload", json.dumps(posted).encode())
        with suppress(Fault):
            attestation.validate(asked, made.NOW)

    return run


def _message(data: bytes) -> None:
    for record in dns.decode(data).records:
        assert len(record.name) <= 254


def _answer(data: bytes) -> None:
    answer = Answer(64)
    answer.receive(data)
    answer.end()
    assert len(answer.body) <= 65


def seeds() -> Iterator[bytes]:
    """Yield an answer of DNS and of HTTP, a CAA value, and a statement of each format."""
    yield dns.query(7, "www.example.test", dns.Kind.TXT, edns=False).replace(b"\1\0", b"\x81\0", 1)
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    yield b"ca.test; accounturi=https://ca.test/1; validationmethods=dns-01"
    yield made.public_area(_KEY)
    yield made.certify_info(made.public_area(_KEY), bytes(32))
    for kind, statement in (
        ("apple", made.apple(_MAKER, _KEY, TOKEN, serial="device")),
        ("tpm", made.tpm(_MAKER, _KEY, KEY_AUTHORIZATION, device="device")),
        ("step", made.yubikey(_MAKER, _KEY, KEY_AUTHORIZATION)),
    ):
        yield made.cbor({"fmt": kind, "attStmt": statement})
