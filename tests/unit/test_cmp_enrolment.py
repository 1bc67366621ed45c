"""CMP on a whole core: what is granted, waited for, confirmed, lost and found again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pyasn1.codec.der import encoder

from tests import cmp_client as client
from tests.cmp_client import (
    CERTCONF,
    CP,
    CR,
    ERROR,
    IP,
    IR,
    KUP,
    KUR,
    P10CR,
    PKICONF,
    POLLREP,
    RP,
    Holder,
    name,
)  # fmt: skip
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import (
    new_key,
    old_cert_id,
    refusal,
    self_signed,
    world,
)
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import der

DEV = name("dev1")


# -- what is granted -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pbm", "pbmac1"])
def test_ir_confirmed_explicitly(kind: str) -> None:
    w, key = world(), new_key()
    shared = w.shared(kind)
    asking = w.client(shared)
    reply = asking.request(IR, key, DEV, names=[x509.DNSName("dev1.example.test")])
    reply.check(shared, w.ca)
    assert (reply.body, reply.status, reply.fail) == (IP, 0, ())
    assert reply.certificate.public_key() == key.public_key()
    assert reply.ca_pubs == [w.ca]
    assert [str(info) for info in reply.infos] == ["1.3.6.1.5.5.7.4.14"]
    assert w.status_of(reply.certificate) == "good"
    done = asking.confirm(reply.certificate)
    done.check(shared, w.ca)
    assert done.body == PKICONF
    assert [e.object for e in w.events("certificate.confirmed")] == ["certificate/2"]
    assert w.issued() == 1


def test_ir_confirmed_implicitly() -> None:
    w = world()
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV, implicit=True)
    assert list(reply.infos) == ["1.3.6.1.5.5.7.4.13"]
    refusal(asking.confirm(reply.certificate), ERROR, "certConfirmed")
    w = world(options={"implicit_confirm": False})
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV, implicit=True)
    assert list(reply.infos) == ["1.3.6.1.5.5.7.4.14"]
    assert asking.confirm(reply.certificate).body == PKICONF


def test_headers_of_answers() -> None:
    w = world()
    shared = w.shared()
    asking = w.client(shared)
    reply = asking.request(IR, new_key(), DEV, how={"nonce": b"N" * 20, "version": 3})
    header = reply.header
    assert reply.version == 3
    assert bytes(header["transactionID"]) == asking.transaction
    assert bytes(header["recipNonce"]) == b"N" * 20
    assert len(reply.nonce) == 16
    assert not reply.extra  # the CA is a root, which nobody is sent
    follow = asking.confirm(reply.certificate)
    assert follow.nonce != reply.nonce
    # The sender is the same name under a MAC and under a signature.
    signed = w.client(w.enroll()).ask((17, b""))
    assert bytes(encoder.encode(signed.header["sender"])) == bytes(encoder.encode(header["sender"]))


def test_cr_kur_and_rr_of_a_holder() -> None:
    w = world()
    first = w.enroll()
    asking = w.client(first)
    key = new_key()
    reply = asking.request(CR, key, DEV)
    reply.check(first, w.ca)
    assert (reply.body, reply.status) == (CP, 0)
    assert asking.confirm(reply.certificate).body == PKICONF
    second = Holder(reply.certificate, key)
    asking = w.client(second)
    reply = asking.request(KUR, new_key(), DEV, controls=old_cert_id(second.certificate))
    assert (reply.body, reply.status) == (KUP, 0)
    assert not reply.asn1["body"]["kup"]["caPubs"].hasValue()
    assert asking.confirm(reply.certificate).body == PKICONF
    assert w.status_of(second.certificate) == "good"
    asking.begin()
    reply = asking.revoke(second.certificate, 4)
    reply.check(second, w.ca)
    assert (reply.body, reply.status) == (RP, 0)
    assert w.status_of(second.certificate) == "revoked"
    asking.begin()
    refusal(asking.revoke(second.certificate), ERROR, "certRevoked")


def test_kur_takes_names_from_the_old_certificate() -> None:
    w = world()
    names = [x509.DNSName("dev1.example.test")]
    holder = w.enroll(names=names)
    asking = w.client(holder)
    reply = asking.request(KUR, new_key(), implicit=True)
    assert reply.status in (0, 1), reply.text
    found = reply.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(found.value) == names
    assert reply.certificate.subject == holder.certificate.subject


def test_kur_revokes_the_old_one_where_that_is_wanted() -> None:
    w = world(options={"revoke_updated": True})
    holder = w.enroll()
    asking = w.client(holder)
    reply = asking.request(KUR, new_key(), DEV)
    assert w.status_of(holder.certificate) == "good"
    assert asking.confirm(reply.certificate).body == PKICONF
    assert w.status_of(holder.certificate) == "revoked"
    assert w.status_of(reply.certificate) == "good"


def test_p10cr_is_number_minus_one() -> None:
    w = world()
    key = new_key()
    csr = x509.CertificateSigningRequestBuilder().subject_name(DEV).sign(key, hashes.SHA256())
    for number in (-1, 0):
        asking = w.client(w.shared())
        reply = asking.send(P10CR, csr.public_bytes(Encoding.DER))
        assert (reply.body, int(reply.response["certReqId"])) == (CP, -1)
        assert asking.confirm(reply.certificate, number=number).body == PKICONF
    strict = world(options={"strict": True})
    shared = strict.shared()
    sender = client.directory_name(name(shared.reference))
    asking = strict.client(shared)
    reply = asking.send(P10CR, csr.public_bytes(Encoding.DER), sender=sender)
    assert reply.body == CP
    refusal(asking.confirm(reply.certificate, number=0, sender=sender), ERROR, "badRequest")


@pytest.mark.parametrize(
    "algorithm",
    [
        KeyAlgorithm.RSA_2048, KeyAlgorithm.P384, KeyAlgorithm.ED25519, KeyAlgorithm.ED448,
        KeyAlgorithm.ML_DSA_65,
    ],
)  # fmt: skip
def test_authorities_of_every_kind(algorithm: KeyAlgorithm) -> None:
    w = world(algorithm=algorithm)
    holder = w.enroll()
    asking = w.client(holder)
    reply = asking.request(KUR, new_key(), DEV)
    reply.check(holder, w.ca)
    assert asking.confirm(reply.certificate).body == PKICONF


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        mldsa.MLDSA44PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519", "ml-dsa-44"],
)
def test_clients_with_every_kind_of_key(key: Any) -> None:
    w = world()
    holder = w.enroll(key=key)
    asking = w.client(holder)
    reply = asking.request(KUR, key, DEV)
    assert reply.status == 0, reply.text
    assert asking.confirm(reply.certificate).body == PKICONF


def test_hash_algorithm_of_confirmations() -> None:
    sha512 = der.explicit(0, der.sequence(der.oid("2.16.840.1.101.3.4.2.3")))
    w = world()
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV, how={"version": 3})
    digest = reply.certificate.fingerprint(hashes.SHA512())
    refusal(asking.confirm(reply.certificate, digest=digest, algorithm=sha512), ERROR, "badRequest")
    asking.nonce = reply.nonce
    done = asking.confirm(reply.certificate, digest=digest, algorithm=sha512, version=3)
    assert done.body == PKICONF, done.text


def test_mods_are_told() -> None:
    w = world()
    validity = der.explicit(1, der.tlv(der.GENERALIZED_TIME, b"20300101000000Z"))
    reply = w.client(w.shared()).request(IR, new_key(), DEV, validity=validity)
    assert reply.status == 1
    assert reply.certificate.not_valid_after_utc < datetime(2030, 1, 1, tzinfo=UTC)


def test_one_time_tokens_in_a_self_signed_message() -> None:
    """regToken (RFC 4211, 6.1): a key of the device's own making and a secret that it was told."""
    w = world()
    key = new_key()
    own = self_signed(key)
    shared = w.shared()
    token = der.sequence(
        der.sequence(der.oid("1.3.6.1.5.5.7.5.1.1"), der.tlv(12, shared.secret.encode()))
    )
    asking = w.client(own)
    reply = asking.request(IR, key, DEV, controls=token)
    assert reply.status == 0, reply.text
    assert asking.confirm(reply.certificate).body == PKICONF
    asking.begin()
    refusal(asking.request(IR, key, DEV, controls=token), IP, "badMessageCheck")
    asking.begin()
    refusal(asking.request(IR, new_key(), DEV), IP, "signerNotTrusted")
    asking.begin()
    refusal(asking.ask((17, b"")), ERROR, "signerNotTrusted")


# -- conversations -------------------------------------------------------------------------


def test_cmp_49_a_lost_answer_is_sent_again() -> None:
    w = world()
    asking = w.client(w.shared())
    first = asking.request(IR, new_key(), DEV)
    again = asking.send_raw(asking.sent[0])
    assert again.der == first.der
    assert asking.confirm(first.certificate).body == PKICONF
    assert asking.send_raw(asking.sent[-1]).der == client.read(w.exchange(asking.sent[-1])).der
    assert w.issued() == 1
    # After a while the answer is gone, and the message is a replay.
    w.clock.advance(seconds=11 * 60)
    drive(w.exchanges.attend())
    refusal(asking.send_raw(asking.sent[0]), ERROR, "transactionIdInUse")
    assert w.issued() == 1


def test_a_transaction_id_is_used_once() -> None:
    w = world()
    holder = w.enroll()
    asking = w.client(holder)
    asking.request(CR, new_key(), DEV)
    asking.nonce = None
    refusal(asking.request(CR, new_key(), DEV), ERROR, "transactionIdInUse")
    # Not even by somebody else, who learns nothing but that.
    other = w.client(w.shared())
    other.transaction = asking.transaction
    refusal(other.request(IR, new_key(), DEV), ERROR, "transactionIdInUse")
    refusal(asking.ask((17, b""), recipient_nonce=b"x" * 16), ERROR, "badRecipientNonce")


def test_t_cmp_04_what_nobody_confirms_is_revoked() -> None:
    w = world(options={"confirm_seconds": 60})
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV)
    w.clock.advance(seconds=59)
    assert drive(w.exchanges.attend()) == 0
    assert w.status_of(reply.certificate) == "good"
    w.clock.advance(seconds=2)
    assert drive(w.exchanges.attend()) == 1
    assert w.status_of(reply.certificate) == "revoked"
    assert len(w.events("certificate.unconfirmed")) == 1
    refusal(asking.confirm(reply.certificate), ERROR, "certConfirmed")
    assert drive(w.exchanges.attend()) == 0


def test_t_cmp_04_a_wrong_hash_confirms_nothing() -> None:
    w = world()
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV)
    refusal(asking.confirm(reply.certificate, digest=b"\0" * 32), ERROR, "badCertId")
    asking.nonce = reply.nonce
    assert asking.confirm(reply.certificate).body == PKICONF


@pytest.mark.parametrize("how", ["rejected", "empty", "error"])
def test_what_a_client_rejects_is_revoked(how: str) -> None:
    w = world()
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV)
    if how == "rejected":
        done = asking.confirm(reply.certificate, status=client.status_info(2, 7))
    elif how == "empty":
        done = asking.send(CERTCONF, der.sequence())
    else:
        done = asking.send(ERROR, der.sequence(client.status_info(2, 25)))
    assert done.body == PKICONF
    assert w.status_of(reply.certificate) == "revoked"
    assert len(w.events("certificate.rejected")) == 1


def test_waiting_polling_and_approval() -> None:
    w = world(approval="manual", options={"check_after": 7})
    shared = w.shared()
    asking = w.client(shared)
    reply = asking.request(IR, new_key(), DEV)
    reply.check(shared, w.ca)
    assert (reply.body, reply.status) == (IP, 3)
    polled = asking.poll()
    polled.check(shared, w.ca)
    assert polled.body == POLLREP
    assert int(polled.asn1["body"]["pollRep"][0]["checkAfter"]) == 7
    refusal(asking.confirm(w.ca), ERROR, "badRequest")
    asking.nonce = polled.nonce
    refusal(asking.poll(1), ERROR, "badRequest")
    asking.nonce = polled.nonce
    w.approve()
    reply = asking.poll()
    assert (reply.body, reply.status) == (IP, 0), reply.text
    assert asking.confirm(reply.certificate).body == PKICONF
    refusal(asking.poll(), ERROR, "badRequest")
    assert w.issued() == 1


def test_a_denied_request_is_refused_at_the_next_poll() -> None:
    w = world(approval="manual")
    asking = w.client(w.shared())
    asking.request(IR, new_key(), DEV)
    (row,) = drive(w.requests.list(ADMIN, "default"))
    drive(w.requests.deny(ADMIN, "default", row.id, comment="not this one"))
    assert "not this one" in refusal(asking.poll(), IP, "notAuthorized")
    refusal(asking.poll(), ERROR, "badRequest")


def test_a_request_that_died_with_its_process_begins_anew() -> None:
    w = world(approval="manual")
    asking = w.client(w.shared())
    asking.request(IR, new_key(), DEV)

    async def poll(*_: object) -> Any:
        raise Fault(FaultCode.NOT_FOUND, "there is no such request", rule="request.absent")

    w.authority.poll = poll  # type: ignore[method-assign,assignment]
    assert "begin anew" in refusal(asking.poll(), ERROR, "systemFailure")
    assert drive(w.exchanges.find("cmp/iot", asking.transaction)) is None


def test_a_crash_between_issue_and_answer_loses_nothing() -> None:
    w = world()
    asking = w.client(w.shared())
    key = new_key()
    real, w.exchanges.expect = w.exchanges.expect, die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        asking.request(IR, key, DEV)
    w.exchanges.expect = real  # type: ignore[method-assign]
    assert w.issued() == 1
    reply = asking.send_raw(asking.sent[0])
    assert (reply.status, w.issued()) == (0, 1), reply.text
    assert asking.confirm(reply.certificate).body == PKICONF


async def die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_a_crash_left_behind_is_revoked_when_nobody_comes_back() -> None:
    w = world()
    asking = w.client(w.shared())
    w.exchanges.expect = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        asking.request(IR, new_key(), DEV, implicit=False)
    w.clock.advance(seconds=601)
    assert drive(w.exchanges.attend()) >= 1
    (event,) = w.events("certificate.unconfirmed")
    assert event.object == "certificate/2"
    assert len(w.events("certificate.revoked")) == 1


def test_old_conversations_are_forgotten() -> None:
    w = world()
    asking = w.client(w.shared())
    asking.request(IR, new_key(), DEV, implicit=True)
    assert drive(w.exchanges.find("cmp/iot", asking.transaction)) is not None
    w.clock.advance(seconds=8 * 86_400)
    assert drive(w.exchanges.attend()) == 2
    assert drive(w.exchanges.find("cmp/iot", asking.transaction)) is None
