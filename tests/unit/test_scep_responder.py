"""SCEP operations against the core made small; RFC 8894 and spec section 3."""

from __future__ import annotations

import base64
import subprocess
import urllib.parse
from datetime import timedelta

import pytest
from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from tests import scep_client as client
from tests.scep_client import FAILURE, PENDING, SUCCESS
from tests.unit.scep_core import Authority, SmallCore, make_certificate, rsa_key
from tmad.ca.requests import Challenge, Intent, NoCredential, Proof, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.scep.responder import EndpointOptions
from tmad.wire.http import Request

BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID = "0", "1", "2", "3", "4"


@pytest.fixture
def core_() -> SmallCore:
    return SmallCore()


def enrol(core_: SmallCore, **how: object) -> client.Message:
    """Return a PKCSReq of an RSA device with the right challenge."""
    key = rsa_key()
    identity = client.self_signed(key)
    envelope = client.make_envelope(client.make_csr(key, challenge="secret"), core_.ra)
    return client.make_message(envelope, identity, **how)  # type: ignore[arg-type]


def send(core_: SmallCore, message: client.Message) -> client.Reply:
    """Post a message; return its CertRep."""
    answer = core_.post(message.der)
    assert answer.status == 200, answer.body
    assert answer.content_type == "application/x-pki-message"
    return client.read_reply(answer.body, message, core_.ra)


class TestOperations:
    def test_scep_10_11_12_13_capabilities(self, core_: SmallCore) -> None:
        answer = core_.get("operation=GetCACaps&message=x")
        assert answer.content_type == "text/plain"
        assert answer.body == (
            b"AES\nPOSTPKIOperation\nRenewal\nSCEPStandard\nSHA-256\nSHA-384\nSHA-512\n"
        )

    def test_scep_13_legacy_and_next_ca_are_listed_when_they_exist(self) -> None:
        core_ = SmallCore(options=EndpointOptions(legacy=True))
        core_.next_ca = core_.ca
        words = core_.get("operation=GetCACaps").body.split(b"\n")
        assert words[-1] == b""
        assert {b"DES3", b"SHA-1", b"GetNextCACert"} <= set(words)
        assert b"" not in words[:-1]

    @pytest.mark.parametrize("operation", ["GetCACaps", "getcacaps", "GETCACAPS"])
    def test_scep_02_operation_ignores_case(self, core_: SmallCore, operation: str) -> None:
        assert core_.get(f"operation={operation}").status == 200

    @pytest.mark.parametrize(
        "tail", [b"routers", b"routers/", b"routers/pkiclient.exe", b"routers/any/thing"]
    )
    def test_scep_01_further_tail_is_ignored(self, core_: SmallCore, tail: bytes) -> None:
        assert core_.get("operation=GetCACaps", tail).status == 200

    def test_scep_01_built_in_paths_mean_the_default_endpoint(self, core_: SmallCore) -> None:
        from tests.support import drive

        request = Request(
            method="GET", path=b"/cgi-bin/pkiclient.exe", query=b"operation=GetCACaps"
        )
        assert drive(core_.responder.respond_default(request)).status == 200

    def test_scep_22_ca_cert_is_ra_then_chain_in_order(self, core_: SmallCore) -> None:
        answer = core_.get("operation=GetCACert&message=0")
        assert answer.content_type == "application/x-x509-ca-ra-cert"
        assert in_set(answer.body) == [core_.ra, *core_.ca.chain]

    def test_scep_22_root_can_be_left_out(self) -> None:
        core_ = SmallCore(options=EndpointOptions(include_root=False))
        answer = core_.get("operation=GetCACert")
        assert in_set(answer.body) == [core_.ra, core_.ca.certificate]

    def test_scep_23_single_is_the_ca_certificate_itself(self) -> None:
        core_ = SmallCore(options=EndpointOptions(getcacert="single"), rsa_ca=True)
        answer = core_.get("operation=GetCACert")
        assert answer.content_type == "application/x-x509-ca-cert"
        assert x509.load_der_x509_certificate(answer.body) == core_.ca.certificate

    def test_scep_23_single_needs_an_rsa_authority(self) -> None:
        core_ = SmallCore(options=EndpointOptions(getcacert="single"))
        assert core_.get("operation=GetCACert").status == 500

    def test_next_ca_is_signed_by_the_present_one(self, core_: SmallCore, tmp_path) -> None:  # type: ignore[no-untyped-def]
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_certificate(core_.now, "next", key.public_key(), key, None, ca=True)
        core_.next_ca = Authority(key, certificate, (certificate,), id=2)
        answer = core_.get("operation=GetNextCACert")
        assert answer.content_type == "application/x-x509-next-ca-cert"
        (tmp_path / "next.p7").write_bytes(answer.body)
        (tmp_path / "root.pem").write_bytes(pem(core_.ca.chain[-1]))
        done = subprocess.run(
            ["openssl", "cms", "-verify", "-inform", "DER", "-in", "next.p7", "-CAfile",
             "root.pem", "-purpose", "any", "-no_check_time", "-binary", "-out", "inner.p7"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert in_set((tmp_path / "inner.p7").read_bytes()) == [certificate]
        uses = len(core_.uses)
        assert core_.get("operation=GetNextCACert").body == answer.body
        assert len(core_.uses) == uses, "asked again, the CA key is not used again"

    def test_no_next_ca_is_404(self, core_: SmallCore) -> None:
        assert core_.get("operation=GetNextCACert").status == 404


class TestOutcomes:
    """The table of spec 3.7."""

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("operation=Nonsense", 400),
            ("", 400),
            ("operation=PKIOperation", 400),
            ("operation=PKIOperation&message=", 400),
            ("operation=PKIOperation&message=***", 400),
            ("operation=PKIOperation&message=MAA%3D", 400),
        ],
    )
    def test_scep_3_7_what_no_certrep_can_answer(
        self, core_: SmallCore, query: str, status: int
    ) -> None:
        answer = core_.get(query)
        assert (answer.status, answer.content_type) == (status, "text/plain; charset=utf-8")

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
    def test_scep_3_7_other_methods_405(self, core_: SmallCore, method: str) -> None:
        assert core_.get("operation=GetCACaps", method=method).status == 405

    def test_scep_3_7_unknown_endpoint_404(self, core_: SmallCore) -> None:
        assert core_.get("operation=GetCACaps", b"nobody").status == 404
        assert core_.get("operation=GetCACaps", b"\xff\xfe").status == 404

    @pytest.mark.parametrize("what", ["transaction", "nonce", "signer", "cms"])
    def test_scep_3_7_no_id_no_nonce_no_signer_400(self, core_: SmallCore, what: str) -> None:
        if what == "transaction":
            body = enrol(core_, transaction=None).der
        elif what == "nonce":
            body = enrol(core_, nonce=b"").der
        elif what == "signer":
            body = enrol(core_, signers=0).der
        else:
            body = b"garbage"
        answer = core_.post(body)
        assert answer.status == 400
        assert core_.requests == []
        assert core_.journal_rows == [], "strangers cannot fill the journal with garbage"

    @pytest.mark.parametrize("how", [{"spoil_signature": True}, {"spoil_digest": True}])
    def test_scep_3_7_bad_signature_or_digest(self, core_: SmallCore, how: dict) -> None:  # type: ignore[type-arg]
        reply = send(core_, enrol(core_, **how))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_MESSAGE_CHECK)
        assert core_.requests == []

    def test_scep_31_two_signers(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_, signers=2))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)

    def test_scep_31_signer_certificate_missing(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_, with_certificate=False))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)

    @pytest.mark.parametrize("digest", ["md5", "sha1"])
    def test_scep_34_old_digest(self, core_: SmallCore, digest: str) -> None:
        reply = send(core_, enrol(core_, digest=digest))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_ALG)
        assert reply.digest == "sha256"
        assert "SHA-256" in reply.text
        assert digest.upper().replace("SHA1", "SHA-1") in reply.text

    @pytest.mark.parametrize("cipher", ["des", "3des"])
    def test_scep_34_old_cipher(self, core_: SmallCore, cipher: str) -> None:
        key = rsa_key()
        envelope = client.make_envelope(b"x", core_.ra, cipher=cipher)
        reply = send(core_, client.make_message(envelope, client.self_signed(key)))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_ALG)
        assert "DES" in reply.text

    @pytest.mark.parametrize(("digest", "cipher"), [("md5", "aes128"), ("sha256", "des")])
    def test_scep_34_md5_and_des_not_even_in_legacy(self, digest: str, cipher: str) -> None:
        core_ = SmallCore(options=EndpointOptions(legacy=True))
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, cipher=cipher
        )
        message = client.make_message(envelope, client.self_signed(key), digest=digest)
        assert send(core_, message).fail_info == BAD_ALG
        assert core_.requests == []

    @pytest.mark.parametrize(("digest", "cipher"), [("md5", "aes128"), ("sha256", "des")])
    def test_scep_34_md5_and_des_where_a_label_allows_are_journaled(
        self, digest: str, cipher: str
    ) -> None:
        core_ = SmallCore(options=EndpointOptions(legacy_insecure=True))
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, cipher=cipher
        )
        message = client.make_message(envelope, client.self_signed(key), digest=digest)
        reply = send(core_, message)
        assert (reply.status, reply.digest) == (SUCCESS, digest)
        assert reply.cipher.startswith(cipher)
        (event,) = core_.events
        assert event.kind == "request.insecure"
        assert {"md5": "MD5", "sha256": "DES-CBC"}[digest] in str(event.data["algorithms"])

    def test_t_scep_01_only_five_message_types_are_served(self, core_: SmallCore) -> None:
        """Every other text is refused before the envelope is opened."""
        texts = [str(number) for number in range(256)] + ["", "3x", " 19", "19 ", "٣", "019"]
        texts += ["+19", "1٩", "19\0", None]
        key = rsa_key()
        identity = client.self_signed(key)
        envelope = client.make_envelope(client.make_csr(key), core_.ra)
        enrolled = []
        for text in texts:
            message = client.make_message(envelope, identity, message_type=text)
            before = len(core_.uses)
            reply = send(core_, message)
            assert reply.status == FAILURE
            if text not in ("17", "19", "20", "21", "22"):
                assert reply.fail_info == BAD_REQUEST
                assert len(core_.uses) == before + 1, "only the answer was signed"
            if core_.requests:
                enrolled.append(text)
                core_.requests.clear()
        # 17 is refused sooner: its signer is self-signed.
        assert enrolled == ["19"]
        assert core_.issued == {}

    def test_scep_3_7_wrong_recipient_and_garbage_are_the_same(self, core_: SmallCore) -> None:
        """T-SCEP-05: nothing tells what went wrong behind the private key."""
        key = rsa_key()
        identity = client.self_signed(key)
        stranger = client.self_signed(rsa_key(2), "stranger").certificate
        request = client.make_csr(key, challenge="secret")
        zeros = (1).to_bytes(256)
        envelopes = {
            "wrong recipient": client.make_envelope(request, stranger),
            "good padding, wrong content": client.make_envelope(b"nonsense", core_.ra),
            "good padding, half a request": client.make_envelope(request[:-9], core_.ra),
            "bad RSA padding": client.make_envelope(request, core_.ra, encrypted_key=zeros),
            "short RSA block": client.make_envelope(request, core_.ra, encrypted_key=b"x"),
            "long RSA block": client.make_envelope(request, core_.ra, encrypted_key=b"x" * 300),
            "another key": client.make_envelope(
                request,
                core_.ra,
                encrypted_key=core_.ra.public_key().encrypt(bytes(32), padding_v15()),
            ),
            "key of wrong length": client.make_envelope(
                request,
                core_.ra,
                encrypted_key=core_.ra.public_key().encrypt(bytes(16), padding_v15()),
            ),
            "bad CBC padding": client.make_envelope(bytes(32), core_.ra, pad=False),
            "no envelope": request,
            "nothing": None,
        }
        answers = set()
        for content in envelopes.values():
            reply = send(core_, client.make_message(content, identity, transaction="T"))
            row = core_.journal_rows.pop()
            answers.add((reply.status, reply.fail_info, reply.text, row["fault"].rule))
            assert reply.fail_info == BAD_MESSAGE_CHECK
            if content is envelopes["wrong recipient"]:
                assert f"{core_.ra.serial_number:x}" in reply.text
        assert len(answers) == 1
        assert core_.requests == []

    def test_scep_3_7_signing_time(self) -> None:
        core_ = SmallCore(options=EndpointOptions(signing_time_window=300))
        late = core_.now() - timedelta(minutes=6)
        reply = send(core_, enrol(core_, signing_time=late))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_TIME)
        near = core_.now() - timedelta(minutes=4)
        assert send(core_, enrol(core_, signing_time=near)).status == SUCCESS

    def test_scep_3_7_signing_time_is_ignored_by_default(self, core_: SmallCore) -> None:
        old = core_.now() - timedelta(days=4000)
        assert send(core_, enrol(core_, signing_time=old)).status == SUCCESS

    @pytest.mark.parametrize(
        ("code", "fail_info"),
        [
            (FaultCode.UNAUTHENTICATED, BAD_REQUEST),
            (FaultCode.FORBIDDEN, BAD_REQUEST),
            (FaultCode.REJECTED, BAD_REQUEST),
            (FaultCode.BAD_PROOF, BAD_REQUEST),
            (FaultCode.CONFLICT, BAD_REQUEST),
            (FaultCode.BAD_ALGORITHM, BAD_ALG),
        ],
    )
    def test_scep_3_7_refusals_of_the_pipeline(
        self, core_: SmallCore, code: FaultCode, fail_info: str
    ) -> None:
        core_.fault = Fault(code, "no", private="because of the profile")
        core_.fault.explain_id = "ABCD-EFGH"
        reply = send(core_, enrol(core_))
        assert (reply.status, reply.fail_info) == (FAILURE, fail_info)
        assert reply.text == "no [ABCD-EFGH]"
        assert core_.journal_rows == [], "the pipeline has written it down already"

    def test_refusal_of_the_responder_is_journaled_once(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_, spoil_signature=True))
        (row,) = core_.journal_rows
        assert row["tenant"] == "default"
        assert row["actor"] == "scep/routers"
        assert row["object"]
        assert reply.text.endswith("[TEST-0000]")

    @pytest.mark.parametrize("retry_after", [None, 2.3])
    def test_scep_3_7_unavailable_is_503(self, core_: SmallCore, retry_after: float | None) -> None:
        core_.fault = Fault(FaultCode.UNAVAILABLE, "come again", retry_after=retry_after)
        answer = core_.post(enrol(core_).der)
        assert answer.status == 503
        assert dict(answer.headers)["Retry-After"] == ("3" if retry_after else "10")
        assert answer.content_type.startswith("text/plain")

    def test_scep_3_7_hsm_down_is_503(self, core_: SmallCore) -> None:
        core_.fault = Fault(FaultCode.UNAVAILABLE, "the token is gone", rule="keyring")
        assert core_.post(enrol(core_).der).status == 503

    def test_rate_limit_is_429(self, core_: SmallCore) -> None:
        core_.fault = Fault(FaultCode.RATE_LIMITED, "slower", retry_after=60)
        answer = core_.post(enrol(core_).der)
        assert (answer.status, dict(answer.headers)["Retry-After"]) == (429, "60")


class TestEnrolment:
    def test_scep_50_51_52_success(self, core_: SmallCore) -> None:
        message = enrol(core_)
        reply = send(core_, message)
        assert reply.status == SUCCESS
        assert [c.public_key() for c in reply.certificates] == [rsa_key().public_key()]
        assert reply.certificates[0].issuer == core_.ca.certificate.subject
        assert reply.cipher == "aes256_cbc"
        (request,) = core_.requests
        assert request.credential == Challenge(request.credential.secret)  # type: ignore[union-attr]
        assert request.credential.secret.reveal() == b"secret"  # type: ignore[union-attr]
        assert request.proof is Proof.CSR_SIGNATURE
        assert request.intent is Intent.ENROLL
        assert request.transaction == message.transaction
        assert request.via == "scep"

    def test_scep_35_signature_algorithm_is_plain_rsa(self, core_: SmallCore) -> None:
        assert send(core_, enrol(core_)).signature_algorithm == "1.2.840.113549.1.1.1"

    def test_scep_52_failure_has_no_content(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_, message_type="18"))
        assert reply.content is None

    def test_scep_54_envelope_is_primitive(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_))
        assert reply.content is not None
        info = cms.ContentInfo.load(reply.content)["content"]["encrypted_content_info"]
        assert info["encrypted_content"].dump()[0] == 0x80

    @pytest.mark.parametrize("digest", ["sha224", "sha256", "sha384", "sha512"])
    @pytest.mark.parametrize("cipher", ["aes128", "aes192", "aes256"])
    def test_scep_53_digest_and_cipher_are_mirrored(
        self, core_: SmallCore, digest: str, cipher: str
    ) -> None:
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, cipher=cipher
        )
        reply = send(core_, client.make_message(envelope, client.self_signed(key), digest=digest))
        assert (reply.status, reply.digest) == (SUCCESS, digest)
        assert reply.cipher.startswith(cipher)

    def test_scep_53_sha1_and_3des_are_mirrored_in_legacy(self) -> None:
        core_ = SmallCore(options=EndpointOptions(legacy=True))
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, cipher="3des"
        )
        reply = send(core_, client.make_message(envelope, client.self_signed(key), digest="sha1"))
        assert (reply.status, reply.digest, reply.cipher) == (SUCCESS, "sha1", "tripledes_3key")

    @pytest.mark.parametrize("kind", [core.PrintableString, core.UTF8String, core.IA5String])
    def test_scep_32_transaction_id_is_echoed_with_its_type(
        self, core_: SmallCore, kind: type
    ) -> None:
        message = enrol(core_, transaction="Tx-1", transaction_type=kind)
        assert send(core_, message).status == SUCCESS

    @pytest.mark.parametrize("size", [1, 16, 64])
    def test_scep_32_nonce_is_copied(self, core_: SmallCore, size: int) -> None:
        assert send(core_, enrol(core_, nonce=bytes(range(size)))).status == SUCCESS

    @pytest.mark.parametrize("transport", ["oaep-sha1", "oaep-sha256"])
    def test_scep_34_oaep(self, core_: SmallCore, transport: str) -> None:
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, transport=transport
        )
        message = client.make_message(envelope, client.self_signed(key))
        assert send(core_, message).status == SUCCESS

    def test_scep_24_recipient_by_key_identifier(self, core_: SmallCore) -> None:
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, by_ski=True
        )
        message = client.make_message(envelope, client.self_signed(key))
        assert send(core_, message).status == SUCCESS

    def test_scep_24_envelope_to_the_ca_that_may_decrypt(self) -> None:
        core_ = SmallCore(rsa_ca=True)
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ca.certificate
        )
        message = client.make_message(envelope, client.self_signed(key))
        assert send(core_, message).status == SUCCESS
        assert core_.uses == ["ca", "ra0"]

    def test_scep_21_envelope_to_an_earlier_ra(self, core_: SmallCore) -> None:
        message = enrol(core_)
        core_.renew_ra()
        assert send(core_, message).status == SUCCESS
        assert core_.uses == ["ra0", "ra1"]

    def test_scep_23_ca_mode_enrols(self) -> None:
        core_ = SmallCore(options=EndpointOptions(getcacert="single"), rsa_ca=True)
        key = rsa_key()
        ca = core_.ca.certificate
        envelope = client.make_envelope(client.make_csr(key, challenge="secret"), ca)
        message = client.make_message(envelope, client.self_signed(key))
        reply = client.read_reply(core_.post(message.der).body, message, ca)
        assert reply.status == SUCCESS

    def test_micromdm_constructed_encrypted_content(self, core_: SmallCore) -> None:
        key = rsa_key()
        envelope = client.make_envelope(
            client.make_csr(key, challenge="secret"), core_.ra, constructed=True
        )
        message = client.make_message(envelope, client.self_signed(key))
        assert send(core_, message).status == SUCCESS

    def test_gen_12_ber_of_openssl_stream(self, core_: SmallCore, tmp_path) -> None:  # type: ignore[no-untyped-def]
        """The envelope is made by ``openssl cms -encrypt -stream``, indefinite lengths and all."""
        key = rsa_key()
        (tmp_path / "ra.pem").write_bytes(pem(core_.ra))
        subprocess.run(
            ["openssl", "cms", "-encrypt", "-binary", "-stream", "-outform", "DER",
             "-aes-128-cbc", "-out", "e.ber", "ra.pem"],
            cwd=tmp_path, check=True, input=client.make_csr(key, challenge="secret"),
        )  # fmt: skip
        envelope = (tmp_path / "e.ber").read_bytes()
        assert envelope[1] == 0x80, "indefinite length"
        reply = send(core_, client.make_message(envelope, client.self_signed(key)))
        assert reply.status == SUCCESS

    @pytest.mark.parametrize("how", ["plain", "quoted", "twice", "lines", "apple", "unpadded"])
    def test_scep_05_get_in_every_escaping(self, core_: SmallCore, how: str) -> None:
        message = enrol(core_)
        text = base64.b64encode(message.der).decode()
        lines = base64.encodebytes(message.der).decode()
        quoted = {
            "plain": text,
            "quoted": urllib.parse.quote(text, safe=""),
            "twice": urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
            "lines": urllib.parse.quote(lines, safe="+/="),
            "apple": text.replace("=", "%3D"),
            "unpadded": text.rstrip("="),
        }[how]
        answer = core_.get(f"operation=PKIOperation&message={quoted}&x=1")
        assert client.read_reply(answer.body, message, core_.ra).status == SUCCESS

    def test_scep_03_post_without_operation(self, core_: SmallCore) -> None:
        message = enrol(core_)
        answer = core_.post(message.der, query=b"")
        assert client.read_reply(answer.body, message, core_.ra).status == SUCCESS

    def test_scep_41_no_challenge_is_no_credential(self, core_: SmallCore) -> None:
        key = rsa_key()
        for challenge in (None, ""):
            envelope = client.make_envelope(client.make_csr(key, challenge=challenge), core_.ra)
            send(core_, client.make_message(envelope, client.self_signed(key)))
            assert core_.requests.pop().credential == NoCredential()

    def test_wrong_challenge_says_nothing_more(self, core_: SmallCore) -> None:
        key = rsa_key()
        envelope = client.make_envelope(client.make_csr(key, challenge="guess"), core_.ra)
        reply = send(core_, client.make_message(envelope, client.self_signed(key)))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)
        assert reply.text == "the challenge was not accepted [TEST-0000]"

    def test_scep_45_retransmission_has_the_same_certificate(self, core_: SmallCore) -> None:
        message = enrol(core_)
        first, second = send(core_, message), send(core_, message)
        assert first.certificates == second.certificates
        assert len(core_.issued) == 1

    def test_scep_43_self_signed_signer_with_another_key(self, core_: SmallCore) -> None:
        envelope = client.make_envelope(client.make_csr(rsa_key(1), challenge="secret"), core_.ra)
        reply = send(core_, client.make_message(envelope, client.self_signed(rsa_key())))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)
        assert core_.requests == []

    def test_scep_40_broken_csr_signature(self, core_: SmallCore) -> None:
        request = bytearray(client.make_csr(rsa_key(), challenge="secret"))
        request[-1] ^= 1
        envelope = client.make_envelope(bytes(request), core_.ra)
        reply = send(core_, client.make_message(envelope, client.self_signed(rsa_key())))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)
        assert core_.requests == []


class TestRenewal:
    def old(self, core_: SmallCore) -> client.Identity:
        return client.Identity(rsa_key(), send(core_, enrol(core_)).certificates[0])

    @pytest.mark.parametrize(
        ("message_type", "intent"), [("17", Intent.RENEW), ("19", Intent.ENROLL)]
    )
    def test_scep_42_signed_by_the_old_certificate(
        self, core_: SmallCore, message_type: str, intent: Intent
    ) -> None:
        old = self.old(core_)
        new_key = rsa_key(1)
        envelope = client.make_envelope(client.make_csr(new_key), core_.ra)
        reply = send(core_, client.make_message(envelope, old, message_type=message_type))
        assert reply.status == SUCCESS
        assert reply.certificates[0].public_key() == new_key.public_key()
        request = core_.requests[-1]
        assert request.credential == SignedBy(old.certificate, None)
        assert request.intent is intent

    def test_scep_42_renewal_by_a_self_signed_certificate(self, core_: SmallCore) -> None:
        reply = send(core_, enrol(core_, message_type="17"))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)
        assert core_.requests == []

    def test_foreign_signer_is_left_to_the_pipeline_with_its_challenge(
        self, core_: SmallCore
    ) -> None:
        foreign = client.self_signed(rsa_key(), issuer="another CA")
        envelope = client.make_envelope(client.make_csr(rsa_key(), challenge="secret"), core_.ra)
        send(core_, client.make_message(envelope, foreign))
        credential = core_.requests[-1].credential
        assert isinstance(credential, SignedBy)
        assert isinstance(credential.challenge, Secret)
        assert credential.challenge.reveal() == b"secret"


class TestPolling:
    def poll(self, core_: SmallCore, identity: client.Identity, **how: str) -> client.Message:
        content = client.issuer_and_subject(
            core_.ca.certificate.subject, identity.certificate.subject
        )
        envelope = client.make_envelope(content, core_.ra)
        return client.make_message(envelope, identity, message_type="20", **how)  # type: ignore[arg-type]

    def test_scep_46_pending_poll_approve_poll(self) -> None:
        core_ = SmallCore(manual=True)
        message = enrol(core_)
        reply = send(core_, message)
        assert (reply.status, reply.content) == (PENDING, None)
        assert send(core_, self.poll(core_, message.identity)).status == PENDING
        core_.approve(message.transaction)
        reply = send(core_, self.poll(core_, message.identity))
        assert reply.status == SUCCESS
        assert reply.certificates[0].public_key() == rsa_key().public_key()

    def test_scep_46_unknown_transaction(self, core_: SmallCore) -> None:
        reply = send(core_, self.poll(core_, client.self_signed(rsa_key()), transaction="X"))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_CERT_ID)

    def test_scep_46_another_key(self) -> None:
        core_ = SmallCore(manual=True)
        message = enrol(core_)
        send(core_, message)
        thief = client.self_signed(rsa_key(1))
        reply = send(core_, self.poll(core_, thief, transaction=message.transaction))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_CERT_ID)

    def test_scep_46_denied(self) -> None:
        core_ = SmallCore(manual=True)
        message = enrol(core_)
        send(core_, message)
        core_.denied.add(message.transaction)
        reply = send(core_, self.poll(core_, message.identity))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_REQUEST)
        assert reply.text.startswith("the request was denied")


class TestQueries:
    def query(
        self, core_: SmallCore, message_type: str, identity: client.Identity, content: bytes
    ) -> client.Reply:
        envelope = client.make_envelope(content, core_.ra)
        return send(core_, client.make_message(envelope, identity, message_type=message_type))

    def test_scep_48_get_cert_for_its_holder(self, core_: SmallCore) -> None:
        issued = send(core_, enrol(core_)).certificates[0]
        reply = self.query(
            core_, "21", client.self_signed(rsa_key()), client.issuer_and_serial(issued)
        )
        assert reply.certificates == [issued]

    def test_scep_48_get_cert_for_others(self, core_: SmallCore) -> None:
        issued = send(core_, enrol(core_)).certificates[0]
        stranger = client.self_signed(rsa_key(1))
        reply = self.query(core_, "21", stranger, client.issuer_and_serial(issued))
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_CERT_ID)
        core_.options = EndpointOptions(open_getcert=True)
        reply = self.query(core_, "21", stranger, client.issuer_and_serial(issued))
        assert reply.certificates == [issued]

    @pytest.mark.parametrize("message_type", ["21", "22"])
    def test_scep_48_unknown_serial_or_issuer(self, core_: SmallCore, message_type: str) -> None:
        identity = client.self_signed(rsa_key())
        for content in (
            client.issuer_and_serial(core_.ra, 1),
            client.issuer_and_serial(core_.ra, 0),
            client.issuer_and_serial(core_.ra, -5),
            client.issuer_and_serial(core_.ra, 2**400),
            client.issuer_and_serial(identity.certificate),
        ):
            reply = self.query(core_, message_type, identity, content)
            assert (reply.status, reply.fail_info) == (FAILURE, BAD_CERT_ID)

    @pytest.mark.parametrize("message_type", ["21", "22"])
    def test_certificate_of_another_tenant_does_not_exist(
        self, core_: SmallCore, message_type: str
    ) -> None:
        issued = send(core_, enrol(core_)).certificates[0]
        core_.owner = "other"
        reply = self.query(
            core_, message_type, client.self_signed(rsa_key()), client.issuer_and_serial(issued)
        )
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_CERT_ID)

    def test_scep_48_get_crl(self, core_: SmallCore) -> None:
        issued = send(core_, enrol(core_)).certificates[0]
        reply = self.query(
            core_, "22", client.self_signed(rsa_key()), client.issuer_and_serial(issued)
        )
        assert reply.status == SUCCESS
        assert reply.certificates == []
        assert reply.crls[0].is_signature_valid(core_.ca.key.public_key())


class TestOtherKeys:
    KEYS = (
        lambda: ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate,
        mldsa.MLDSA65PrivateKey.generate,
    )

    @pytest.mark.parametrize("make", KEYS)
    def test_scep_55_answer_under_the_challenge(self, core_: SmallCore, make, tmp_path) -> None:  # type: ignore[no-untyped-def]
        """A key that cannot decrypt gets its answer in a PasswordRecipientInfo."""
        key = make()
        digest = "sha256" if isinstance(key, ec.EllipticCurvePrivateKey) else "sha512"
        envelope = client.make_envelope(client.make_csr(key, challenge="secret"), core_.ra)
        message = client.make_message(envelope, client.self_signed(key), digest=digest)
        reply = send(core_, message)
        assert reply.status == SUCCESS, reply.text
        assert reply.content is not None
        (tmp_path / "envelope").write_bytes(reply.content)
        done = subprocess.run(
            ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", "envelope", "-binary",
             "-pwri_password", "secret", "-out", "inner"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        client.read_degenerate(reply, (tmp_path / "inner").read_bytes())
        assert reply.certificates[0].public_key() == key.public_key()

    @pytest.mark.parametrize("make", KEYS)
    def test_scep_55_without_a_challenge_nothing_is_issued(self, make) -> None:  # type: ignore[no-untyped-def]
        core_ = SmallCore(manual=True)
        key = make()
        envelope = client.make_envelope(client.make_csr(key), core_.ra)
        message = client.make_message(envelope, client.self_signed(key), digest="sha512")
        reply = send(core_, message)
        assert (reply.status, reply.fail_info) == (FAILURE, BAD_ALG)
        assert core_.requests == []


def padding_v15():  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PKCS1v15()


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def in_set(der: bytes) -> list[x509.Certificate]:
    """Return the certificates of a certificates-only message, in its order."""
    content = cms.ContentInfo.load(der)["content"]
    return [x509.load_der_x509_certificate(c.chosen.dump()) for c in content["certificates"]]
