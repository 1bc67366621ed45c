"""SCEP messages as values; what needs no core. RFC 8894, section 3."""

from __future__ import annotations

import base64
import time
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec

from tests import scep_client as client
from tests.unit.scep_core import rsa_key
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.scep import codec
from tmad.protocols.scep.codec import CertRep, FailInfo, Status
from tmad.wire import envelopes
from tmad.wire.signatures import Policy

NEW = Policy()


def message(**how: object) -> client.Message:
    own = client.self_signed(rsa_key())
    return client.make_message(client.make_envelope(b"x", own.certificate), own, **how)  # type: ignore[arg-type]


class TestQuery:
    def test_parameter_is_raw_and_the_first_one(self) -> None:
        query = b"operation=PKIOperation&message=a%2Bb+c&message=d"
        assert codec.query_parameter(query, b"message") == b"a%2Bb+c"
        assert codec.query_parameter(query, b"other") is None
        assert codec.query_parameter(b"message", b"message") is None

    @pytest.mark.parametrize(
        ("escape"),
        [
            lambda text: text,
            lambda text: urllib.parse.quote(text, safe=""),
            lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
            lambda text: text.replace("+", " "),
            lambda text: text.replace("+", "%20"),
            lambda text: text.replace("+", "%2B"),
            lambda text: text.replace("=", "%3d"),
            lambda text: text.rstrip("="),
            lambda text: "%0A".join(text[i : i + 64] for i in range(0, len(text), 64)),
            lambda text: "%0D%0A".join(text[i : i + 64] for i in range(0, len(text), 64)),
            lambda text: text[:10] + "\n\t" + text[10:],
        ],
    )
    def test_scep_05_every_escaping(self, escape) -> None:  # type: ignore[no-untyped-def]
        for size in (1, 2, 3, 500):
            data = (b"\xfb\xef\xbe\xff\xff\xfe" * size)[: size + 5]
            text = base64.b64encode(data).decode()
            query = f"operation=PKIOperation&message={escape(text)}&x=y".encode()
            assert codec.decode_get_message(query) == data

    @pytest.mark.parametrize(
        "query", [b"", b"message=", b"message=%", b"message=abc*", b"message=a", b"message=%25%25"]
    )
    def test_scep_05_what_is_not_base64(self, query: bytes) -> None:
        with pytest.raises(Fault) as caught:
            codec.decode_get_message(query)
        assert caught.value.code is FaultCode.MALFORMED


class TestCapabilities:
    def test_scep_11_no_empty_line_in_any_list(self) -> None:
        for legacy in (False, True):
            for next_ca in (False, True):
                body = codec.capabilities(legacy=legacy, next_ca=next_ca)
                lines = body.decode("ascii").split("\n")
                assert lines.pop() == ""
                assert all(lines)
                assert ("SHA-1" in lines) == ("DES3" in lines) == legacy
                assert ("GetNextCACert" in lines) == next_ca


class TestFaults:
    def test_table_is_total(self) -> None:
        assert set(codec.FAULTS) == set(FaultCode)

    def test_only_what_the_client_should_repeat_has_no_fail_info(self) -> None:
        bare = {code for code, told in codec.FAULTS.items() if told.fail_info is None}
        assert bare == {FaultCode.RATE_LIMITED, FaultCode.UNAVAILABLE, FaultCode.INTERNAL}

    def test_fail_info_text_has_the_explain_id(self) -> None:
        fault = Fault(FaultCode.REJECTED, "the key is too short", private="the secret reason")
        fault.explain_id = "ABCD-EFGH"
        reply = codec.failure(fault)
        assert reply == CertRep(
            status=Status.FAILURE,
            fail_info=FailInfo.BAD_REQUEST,
            text="the key is too short [ABCD-EFGH]",
        )


class TestDecode:
    def test_what_is_in_it(self) -> None:
        sent = message()
        read = codec.decode(sent.der)
        assert (read.type, read.transaction, read.sender_nonce) == (
            "19", sent.transaction, sent.nonce,
        )  # fmt: skip
        sender = codec.verify(read, NEW)
        assert sender.certificate == sent.identity.certificate
        assert sender.is_self_signed
        assert codec.request_type(read) is codec.RequestType.ENROLL

    def test_signer_of_another_issuer_is_not_self_signed(self) -> None:
        own = client.self_signed(rsa_key(), issuer="ca")
        read = codec.decode(client.make_message(b"x", own).der)
        assert not codec.verify(read, NEW).is_self_signed

    @pytest.mark.parametrize(
        "how",
        [
            {"transaction": None},
            {"transaction": "x" * 256},
            {"nonce": b""},
            {"nonce": bytes(65)},
            {"signers": 0},
        ],
        ids=str,
    )
    def test_scep_3_7_without_id_or_nonce_there_is_no_answer(self, how: dict) -> None:  # type: ignore[type-arg]
        with pytest.raises(Fault) as caught:
            codec.decode(message(**how).der)
        assert caught.value.code is FaultCode.MALFORMED

    @pytest.mark.parametrize("kind", [core.PrintableString, core.UTF8String, core.IA5String])
    def test_scep_32_transaction_of_any_string_type(self, kind: type) -> None:
        sent = message(transaction="x" * 255, transaction_type=kind)
        read = codec.decode(sent.der)
        assert read.transaction == "x" * 255
        assert read.transaction_der == kind("x" * 255).dump()

    @pytest.mark.parametrize("kind", ["19", None, "", "18", "٣"])
    def test_message_type_as_text(self, kind: str | None) -> None:
        read = codec.decode(message(message_type=kind).der)
        if kind == "19":
            assert codec.request_type(read) is codec.RequestType.ENROLL
        else:
            with pytest.raises(Fault) as caught:
                codec.request_type(read)
            assert caught.value.code is FaultCode.UNSUPPORTED

    def test_cap_on_elements(self) -> None:
        """A message may be large, but not made of very many elements."""
        own = client.self_signed(rsa_key())
        many = b"\x30\x82\x0f\xa0" + b"\x05\x00" * 2_000
        inside = client.make_message(many, own)
        with pytest.raises(Fault):
            codec.decode_poll(many)
        assert codec.decode(inside.der).signed.content == many
        with pytest.raises(Fault, match="envelope"):
            codec.envelope(codec.decode(inside.der))
        with pytest.raises(Fault, match="many"):
            codec.decode(many)

    def test_performance_decoding_takes_less_than_a_millisecond(self) -> None:
        """All of the ASN.1 of an enrolment; the best of many, since the machine is shared."""
        sent = message()
        request = client.make_csr(rsa_key(), challenge="secret", dns=("a.example",))

        def once() -> float:
            started = time.perf_counter()
            read = codec.decode(sent.der)
            codec.envelope(read)
            codec.decode_request(request, NEW)  # one RSA-2048 verification, 20 µs, is in here
            return time.perf_counter() - started

        assert min(once() for _ in range(100)) < 0.001


class TestTime:
    NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

    @pytest.mark.parametrize("offset", [-301, 301])
    def test_outside(self, offset: int) -> None:
        read = codec.decode(message(signing_time=self.NOW + timedelta(seconds=offset)).der)
        with pytest.raises(Fault) as caught:
            codec.check_time(read, self.NOW, timedelta(seconds=300))
        assert caught.value.code is FaultCode.BAD_TIME

    @pytest.mark.parametrize("offset", [-300, 0, 300, None])
    def test_inside_or_absent(self, offset: int | None) -> None:
        signed_at = None if offset is None else self.NOW + timedelta(seconds=offset)
        read = codec.decode(message(signing_time=signed_at).der)
        codec.check_time(read, self.NOW, timedelta(seconds=300))


class TestContents:
    def test_issuer_and_subject(self) -> None:
        issuer, subject = client.name("ca"), client.name("device")
        read = codec.decode_poll(client.issuer_and_subject(issuer, subject))
        assert read == (issuer.public_bytes(), subject.public_bytes())

    def test_issuer_and_serial(self) -> None:
        certificate = client.self_signed(rsa_key(), issuer="ca").certificate
        read = codec.decode_query(client.issuer_and_serial(certificate))
        assert read.serial == certificate.serial_number
        assert read.issuer == client.name("ca").public_bytes()

    @pytest.mark.parametrize(
        "function",
        [codec.decode_poll, codec.decode_query, lambda c: codec.decode_request(c, NEW)],
    )
    @pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x00", b"\x05\x00", bytes(99)])
    def test_gen_26_garbage_is_answered_like_a_closed_envelope(self, function, content) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(Fault) as caught:
            function(content)
        expected = envelopes.cannot_open()
        assert (caught.value.code, caught.value.detail, caught.value.rule) == (
            expected.code, expected.detail, expected.rule,
        )  # fmt: skip


class TestReceiver:
    def test_scep_55_who_can_get_an_answer(self) -> None:
        elliptic = client.self_signed(ec.generate_private_key(ec.SECP256R1()))
        rsa_sender, ec_sender = (
            codec.verify(codec.decode(client.make_message(b"x", own).der), NEW)
            for own in (client.self_signed(rsa_key()), elliptic)
        )
        codec.check_receiver(rsa_sender, None)
        codec.check_receiver(ec_sender, Secret(b"secret"))
        with pytest.raises(Fault) as caught:
            codec.check_receiver(ec_sender, None)
        assert caught.value.code is FaultCode.BAD_ALGORITHM
