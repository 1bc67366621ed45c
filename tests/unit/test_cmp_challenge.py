"""CMP: possession shown by decrypting a challenge, popdecc and popdecr (RFC 9810, 5.2.8.3.3)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from tests.cmp_client import (
    CERTCONF,
    CR,
    ERROR,
    IP,
    IR,
    KUP,
    KUR,
    PKICONF,
    POLLREP,
    POPDECR,
    Client,
    name,
    solved,
)
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import KEYS, RSA, World, encrypting, new_key, refusal, self_signed
from tmad.errors import Fault, FaultCode
from tmad.wire import der

DEV = name("dev1")
DECRYPT = der.explicit(2, der.tlv(0x81, b"\1"))  # keyEncipherment: challengeResp
AGREE = der.explicit(3, der.tlv(0x81, b"\1"))
V2: dict[str, Any] = {"version": 2}
V3: dict[str, Any] = {"version": 3}
X25519 = x25519.X25519PrivateKey.generate()


def challenged(w: World, credential: Any = None, **fields: Any) -> tuple[Client, int]:
    """Return a client with a challenge, and what it decrypted."""
    asking = w.client(credential or w.shared())
    return asking, solved(asking.request(IR, X25519, DEV, proof=DECRYPT, how=V3, **fields), X25519)


def is_good(w: World, certificate: x509.Certificate, key: Any) -> bool:
    return w.status_of(certificate) == "good" and certificate.public_key() == key.public_key()


@pytest.mark.parametrize("proof", [DECRYPT, AGREE], ids=["decrypt", "agree"])
@pytest.mark.parametrize(("kind", "how"), [("rsa", V2), *((kind, V3) for kind in KEYS)])
def test_whoever_can_decrypt_gets_a_certificate(
    kind: str, how: dict[str, Any], proof: bytes
) -> None:
    w = encrypting()
    shared, key = w.shared(), KEYS[kind]()
    asking = w.client(shared)
    reply = asking.request(IR, key, DEV, proof=proof, number=7, how=how)
    reply.check(shared, w.ca)
    assert (w.issued(), reply.version) == (0, how["version"])
    reply = asking.answer(solved(reply, key, number=7), **how)
    reply.check(shared, w.ca)
    assert reply.body == IP, reply.text
    certificate = reply.certificate  # in clear
    assert asking.confirm(certificate, number=7, **how).body == PKICONF
    assert is_good(w, certificate, key)
    assert w.issued() == 1


def test_it_needs_no_option_and_may_be_confirmed_silently() -> None:
    w = encrypting(options={})
    asking, number = challenged(w, implicit=True)
    reply = asking.answer(number, **V3)
    assert "1.3.6.1.5.5.7.4.13" in reply.infos
    w.clock.advance(seconds=3600)
    drive(w.exchanges.attend())
    assert is_good(w, reply.certificate, X25519)


def test_an_update_gets_a_key_that_agrees() -> None:
    w = encrypting()
    holder = w.enroll()
    asking = w.client(holder)
    number = solved(asking.request(KUR, X25519, proof=AGREE, how=V3), X25519)
    reply = asking.answer(number, **V3)
    assert reply.body == KUP, reply.text
    assert asking.confirm(reply.certificate, **V3).body == PKICONF
    assert is_good(w, reply.certificate, X25519)


def test_a_person_may_decide_about_it_afterwards() -> None:
    w = encrypting(approval="manual")
    asking, number = challenged(w)
    assert asking.answer(number, **V3).status == 3
    assert asking.poll(**V3).body == POLLREP
    w.approve()
    reply = asking.poll(**V3)
    assert asking.confirm(reply.certificate, **V3).body == PKICONF
    assert is_good(w, reply.certificate, X25519)


def test_a_secret_of_the_request_is_used_with_the_answer() -> None:
    w = encrypting()
    asking, number = challenged(w)
    other = w.client(asking.credential)
    assert other.request(IR, new_key(), DEV).body == IP  # used up meanwhile
    refusal(asking.answer(number, **V3), IP, "badMessageCheck")
    assert w.issued() == 1


# -- what is no proof -----------------------------------------------------------------------


def test_another_number_is_the_last_word() -> None:
    w = encrypting()
    asking, number = challenged(w)
    reply = asking.answer(number ^ 1, **V3)
    assert "another number" in refusal(reply, IP, "badPOP")
    assert "cmp.challenge.answer" in str(w.explain(reply))
    assert asking.send_raw(asking.sent[-1]).der == reply.der
    refusal(asking.answer(number, **V3), ERROR, "badRequest")
    refusal(asking.send_raw(asking.sent[0]), ERROR, "transactionIdInUse")
    assert w.issued() == 0


@pytest.mark.parametrize("number", [0, -1, 2**127, 2**2048], ids=["0", "-1", "2^127", "2^2048"])
def test_no_number_is_guessed(number: int) -> None:
    w = encrypting()
    asking, _ = challenged(w)
    refusal(asking.answer(number, **V3), IP, "badPOP")
    assert w.issued() == 0


def test_each_challenge_is_another() -> None:
    w = encrypting()
    one, number = challenged(w)
    two, other = challenged(w)
    assert number != other
    refusal(two.answer(number, **V3), IP, "badPOP")
    assert one.answer(number, **V3).body == IP
    assert w.issued() == 1


def test_how_many_answers_there_are() -> None:
    w = encrypting()
    asking, number = challenged(w)
    nonce = asking.nonce
    for numbers in ((), (number, number)):
        asking.nonce = nonce
        refusal(asking.answer(*numbers, **V3), ERROR, "badRequest")
    assert asking.answer(number, recipient_nonce=nonce, **V3).body == IP


def test_an_answer_follows_the_challenge() -> None:
    w = encrypting()
    asking, number = challenged(w)
    nonce = asking.nonce
    reply = asking.answer(number, recipient_nonce=b"x" * 16, **V3)
    refusal(reply, ERROR, "badRecipientNonce")
    assert asking.answer(number, recipient_nonce=nonce, **V3).body == IP


def test_an_answer_to_nothing() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    refusal(asking.answer(1, recipient_nonce=b"x" * 16), ERROR, "badRequest")
    asking.begin()
    certificate = asking.request(IR, new_key(), DEV).certificate  # signed, so never challenged
    refusal(asking.answer(1), ERROR, "badRequest")
    assert w.status_of(certificate) == "good"


def test_a_challenge_confirms_nothing() -> None:
    w = encrypting()
    asking, number = challenged(w)
    nonce = asking.nonce
    refusal(asking.send(CERTCONF, der.sequence(), **V3), ERROR, "badRequest")
    refusal(asking.poll(recipient_nonce=nonce, **V3), ERROR, "badRequest")
    assert asking.answer(number, recipient_nonce=nonce, **V3).body == IP


def test_an_answer_in_time() -> None:
    w = encrypting(options={"confirm_seconds": 30})
    asking, number = challenged(w)
    w.clock.advance(seconds=30)
    assert "too late" in refusal(asking.answer(number, **V3), IP, "badPOP")
    asking, number = challenged(w)
    w.clock.advance(seconds=31)
    assert drive(w.exchanges.attend()) == 1
    refusal(asking.answer(number, **V3), ERROR, "badRequest")
    assert w.issued() == 0


# -- who answers ----------------------------------------------------------------------------


def test_only_who_began_answers() -> None:
    w = encrypting()
    asking, number = challenged(w)
    holder = w.enroll("other")
    nonce = asking.nonce
    for credential, bit in ((w.shared(), "wrongAuthority"), (holder, "wrongIntegrity")):
        reply = asking.answer(number, credential=credential, recipient_nonce=nonce, **V3)
        refusal(reply, ERROR, bit)
    assert w.issued() == 1
    assert asking.answer(number, recipient_nonce=nonce, **V3).body == IP


def test_a_signer_who_is_revoked_meanwhile_gets_nothing() -> None:
    w = encrypting()
    holder = w.enroll()
    asking = w.client(holder)
    number = solved(asking.request(KUR, X25519, proof=AGREE, how=V3), X25519)
    issuer = drive(w.hierarchy.active("default", "devices"))
    drive(w.revocation.revoke(ADMIN, "default", issuer.id, holder.certificate.serial_number, 1))
    refusal(asking.answer(number, **V3), ERROR, "certRevoked")
    assert w.issued() == 1


def test_another_endpoint_knows_nothing_of_it() -> None:
    w = encrypting()
    drive(w.open("cmp", "two", profile="encrypting", challenge={"recoverable": True}))
    asking, number = challenged(w)
    w.url = "/p/two"
    with_its_own = asking.answer(number, credential=w.shared(endpoint="cmp/two"), **V3)
    refusal(with_its_own, ERROR, "badRequest")
    assert w.issued() == 0


def test_a_one_time_secret_inside_the_request() -> None:
    """It is read again with the answer, and stands nowhere in clear meanwhile."""
    w = encrypting()
    _, secret = drive(w.secrets.create(ADMIN, "default", "cmp/iot"))
    token = der.tlv(der.UTF8_STRING, secret.reveal())
    controls = der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.5.1.1"), token))
    asking = w.client(self_signed(RSA))
    number = solved(asking.request(IR, RSA, DEV, proof=DECRYPT, controls=controls, how=V3), RSA)
    found = drive(w.exchanges.find("cmp/iot", asking.transaction))
    assert found is not None
    assert found.request
    assert secret.reveal() not in found.request
    reply = asking.answer(number, **V3)
    assert is_good(w, reply.certificate, RSA)


# -- copies, and processes that end in between ----------------------------------------------


def test_lost_answers_are_sent_again() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    first = asking.request(IR, X25519, DEV, proof=DECRYPT, how=V3)
    assert asking.send_raw(asking.sent[0]).der == first.der
    reply = asking.answer(solved(first, X25519), **V3)
    assert asking.send_raw(asking.sent[-1]).der == reply.der
    assert asking.confirm(reply.certificate, **V3).body == PKICONF
    # Neither what began it nor the answer does anything once more.
    refusal(asking.send_raw(asking.sent[0]), ERROR, "transactionIdInUse")
    refusal(asking.send_raw(asking.sent[2]), ERROR, "badRequest")
    assert w.issued() == 1


def test_what_ended_before_the_pipeline_goes_on_with_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    w = encrypting()
    asking, number = challenged(w)
    died = Fault(FaultCode.UNAVAILABLE, "the process ended", rule="test")

    async def die(*_: Any) -> None:
        raise died

    with monkeypatch.context() as patched:
        patched.setattr(w.authority, "enroll", die)
        refusal(asking.answer(number, **V3), ERROR, "systemUnavail")
    answered = asking.sent[-1]
    # Another answer than the one that was begun on is none, not even a right one.
    refusal(asking.answer(number, **V3), ERROR, "badRequest")
    reply = asking.send_raw(answered)
    assert asking.confirm(reply.certificate, **V3).body == PKICONF
    assert is_good(w, reply.certificate, X25519)
    assert w.issued() == 1


def test_what_nobody_goes_on_with_is_cleared_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that issued it ends before it answers, and the client is not heard of again."""
    w = encrypting()
    asking, number = challenged(w)
    died = Fault(FaultCode.UNAVAILABLE, "the process ended", rule="test")

    async def die(*_: Any, **__: Any) -> None:
        raise died

    with monkeypatch.context() as patched:
        patched.setattr(w.exchanges, "expect", die)
        refusal(asking.answer(number, **V3), ERROR, "systemUnavail")
    assert w.issued() == 1
    w.clock.advance(seconds=601)
    assert drive(w.exchanges.attend()) == 1
    assert len(w.events("certificate.unconfirmed")) == 1
    refusal(asking.send_raw(asking.sent[-1]), ERROR, "badRequest")


def test_two_workers_get_the_same_messages() -> None:
    """Each finds what the other has done, whoever is first."""
    w = encrypting()
    asking, number = challenged(w)
    two = Client(w.exchange, asking.credential, w.ca, asking.transaction, asking.nonce)
    assert two.answer(number, **V3).body == IP
    refusal(asking.answer(number, **V3), ERROR, "badRequest")
    assert asking.send_raw(two.sent[-1]).body == IP
    assert w.issued() == 1


# -- what cannot be -------------------------------------------------------------------------


def test_a_key_that_only_signs_is_not_challenged() -> None:
    w = encrypting()
    key = ed25519.Ed25519PrivateKey.generate()
    refusal(w.client(w.shared()).request(IR, key, DEV, proof=DECRYPT, how=V3), IP, "badAlg")


def test_other_keys_than_rsa_need_the_newer_messages() -> None:
    w = encrypting()
    reply = w.client(w.shared()).request(IR, X25519, DEV, proof=DECRYPT, how=V2)
    refusal(reply, ERROR, "unsupportedVersion")


def test_the_profile_says_which_keys() -> None:
    w = encrypting(profile="device")
    asking = w.client(w.shared())
    reply = asking.request(IR, X25519, DEV, proof=DECRYPT, how=V3)
    refusal(asking.answer(solved(reply, X25519), **V3), IP, "badAlg")
    assert w.issued() == 0


def test_what_the_message_itself_should_prove() -> None:
    w = encrypting()
    proof = der.explicit(2, der.tlv(0x81, b"\2"))
    refusal(w.client(w.shared()).request(CR, RSA, DEV, proof=proof, how=V3), 3, "badPOP")


def test_a_wrong_answer_body() -> None:
    w = encrypting()
    asking, number = challenged(w)
    nonce = asking.nonce
    refusal(asking.send(POPDECR, der.octets(b"1"), **V3), ERROR, "badDataFormat")
    assert asking.answer(number, recipient_nonce=nonce, **V3).body == IP
