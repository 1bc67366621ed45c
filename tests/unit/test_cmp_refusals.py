"""CMP on a whole core: what is refused, and by which bit of failInfo."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests import cmp_client as client
from tests.cmp_client import (
    CP,
    CR,
    ERROR,
    GENP,
    IP,
    IR,
    KUP,
    KUR,
    PKICONF,
    Holder,
    Reply,
    Shared,
    name,
)  # fmt: skip
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import (
    issued_by,
    new_key,
    old_cert_id,
    refusal,
    self_signed,
    world,
)
from tmad.identity.binding import Binding
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import der

DEV = name("dev1")


# -- header and protection -----------------------------------------------------------------

HEADERS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"version": 1}, ("unsupportedVersion",)),
    ({"version": 4}, ("unsupportedVersion",)),
    ({"transaction": None}, ("badDataFormat",)),
    ({"transaction": b""}, ("badDataFormat",)),
    ({"transaction": b"t" * 129}, ("badDataFormat",)),
    ({"nonce": None}, ("badSenderNonce",)),
    ({"nonce": b"n" * 15}, ("badSenderNonce",)),
    ({"recipient_nonce": b"r" * 16}, ("badRecipientNonce",)),
    ({"algorithm": None}, ("badMessageCheck",)),
    ({"value": b""}, ("badMessageCheck",)),
    ({"infos": (client.IMPLICIT[:-2] + b"\x01\x01\xff",)}, ()),
    ({"infos": (der.sequence(der.oid("1.3.6.1.5.5.7.4.13"), der.integer(1)),)}, ("badRequest",)),
    ({"infos": (client.IMPLICIT, der.sequence(der.oid("1.3.6.1.5.5.7.4.14"),
        der.tlv(der.GENERALIZED_TIME, b"20300101000000Z")))}, ("badRequest",)),
    ({"infos": (der.sequence(der.oid("1.3.6.1.5.5.7.4.21"),
        der.sequence(der.tlv(12, b"nosuch"))),)}, ("badRequest",)),
]  # fmt: skip


@pytest.mark.parametrize(("how", "bits"), HEADERS)
def test_faults_of_the_header(how: dict[str, Any], bits: tuple[str, ...]) -> None:
    w = world()
    shared = w.shared()
    wanted = client.template(subject=DEV, public_key=client.spki(KEY.public_key()))
    content = der.sequence(client.crmf(wanted, KEY))
    options = {"transaction": os.urandom(16), **how}
    answer = w.post(client.message(IR, content, shared, **options))
    if not bits:
        assert answer.status == 400
        return
    refusal(client.read(answer.body), ERROR, *bits)
    assert w.issued() == 0


KEY = new_key()


def test_pvno_of_a_refusal_is_the_nearest_that_we_speak() -> None:
    w = world()
    for asked, answered in ((1, 2), (0, 2), (4, 3), (2**31, 3)):
        asking = w.client(w.shared())
        assert asking.ask((17, b""), version=asked).version == answered


def test_unknown_pieces_of_general_info_are_ignored() -> None:
    w = world()
    asking = w.client(w.shared())
    unknown = der.sequence(der.oid("1.2.3.4.5"), der.octets(b"?"))
    assert asking.request(IR, new_key(), DEV, how={}).status == 0
    asking.begin()
    content = der.sequence(
        client.crmf(client.template(subject=DEV, public_key=client.spki(KEY.public_key())), KEY)
    )
    asking.credential = w.shared()
    assert asking.send(IR, content, infos=(unknown,)).status == 0


@pytest.mark.parametrize(
    "spoil",
    ["secret", "reference", "none", "revoked", "other endpoint", "used", "expired", "digest only"],
)
def test_wrong_secrets(spoil: str) -> None:
    w = world()
    shared = w.shared()
    if spoil == "secret":
        shared = replace(shared, secret="A" * 32)
    elif spoil == "reference":
        shared = replace(shared, reference="01ARZ3NDEKTSV4RRFFQ69G5FAV")
    elif spoil == "none":
        shared = replace(shared, reference="")
    elif spoil == "revoked":
        drive(w.secrets.revoke(ADMIN, "default", shared.reference))
    elif spoil == "other endpoint":
        drive(w.open("cmp", "other", challenge={"recoverable": True}))
        shared = w.shared(endpoint="cmp/other")
    elif spoil == "used":
        w.enroll(shared=shared)
    elif spoil == "expired":
        w.clock.advance(seconds=25 * 3600)
    else:
        row, secret = drive(w.secrets.create(ADMIN, "default", "cmp/iot"))
        shared = Shared(row.id, secret.reveal().decode())
    before = w.issued()
    reply = w.client(shared).request(IR, new_key(), DEV)
    known = spoil in ("used", "expired")
    refusal(reply, IP if known else ERROR, "badMessageCheck")
    # Who is not known gets a signed refusal, who is known one under the secret.
    reply.check(shared if known else None, w.ca)
    assert w.issued() == before
    if not known and spoil != "none":
        assert "the challenge was not accepted" in reply.text  # whatever is wrong with it


def test_guessing_is_slowed_down() -> None:
    w = world()
    asking = w.client(replace(w.shared(), secret="B" * 32))
    for _ in range(10):
        asking.begin()
        refusal(asking.ask((17, b"")), ERROR, "badMessageCheck")
    asking.begin()
    refusal(asking.ask((17, b"")), ERROR, "systemUnavail")
    assert len(w.events("secret.guessing-limited")) == 1


def test_t_cmp_02_rounds_of_a_stranger() -> None:
    w = world()
    for kind, rounds in (("pbm", 10_001), ("pbm", 99), ("pbmac1", 200_001), ("pbmac1", 999)):
        shared = replace(w.shared(kind), rounds=rounds)
        value = b"x" * 20  # the client's own work is spared, too
        reply = w.client(shared).ask((17, b""), value=value)
        refusal(reply, ERROR, "badAlg")


def salt_of(reply: Reply) -> bytes:
    parameters = der.read(bytes(reply.header["protectionAlg"]["parameters"]), der.SEQUENCE)
    return parameters.content(der.OCTET_STRING)


def test_t_cmp_01_salts_never_repeat() -> None:
    w = world()
    shared = w.shared()
    salts = set()
    for _ in range(200):
        asking = w.client(shared)
        reply = asking.ask((16, b""))
        salts.add(salt_of(reply))
    assert len(salts) == 200
    assert {len(salt) for salt in salts} == {16}


def test_t_cmp_01_a_short_salt_is_not_gone_on_with() -> None:
    w = world()
    for shared in (w.shared(), w.shared("pbmac1")):
        reply = w.client(replace(shared, salt=b"s" * 15)).request(IR, new_key(), DEV)
        assert reply.body == IP
        if shared.kind == "pbm":
            assert len(salt_of(reply)) == 16


def test_cmp_24_a_transaction_goes_on_with_a_salt_that_is_long_and_new() -> None:
    # RFC 9810, 5.1.3.1: the parameters should not change within a transaction.
    w = world()
    shared = w.shared()
    client = w.client(shared)
    first = client.request(IR, new_key(), DEV)
    assert salt_of(first) == shared.salt
    # What `openssl cmp` does: each message has a salt of its own.
    client.credential = replace(shared, salt=b"t" * 16)
    assert salt_of(client.confirm(first.certificate)) == shared.salt
    assert salt_of(w.client(replace(w.shared(), salt=shared.salt)).ask((16, b""))) != shared.salt


def test_a_kept_key_is_nobody_elses() -> None:
    w = world()
    shared = w.shared()
    client = w.client(shared)
    first = client.request(IR, new_key(), DEV)
    nonce = client.nonce
    client.credential = replace(shared, secret="guessed")
    refusal(client.confirm(first.certificate), ERROR, "badMessageCheck")
    client.credential, client.nonce = shared, nonce
    assert client.confirm(first.certificate).body == PKICONF


def test_cmp_24_a_transaction_has_one_salt_of_ours_and_another_secret_another_one() -> None:
    w = world()
    client = w.client(w.shared())
    first = client.request(IR, new_key(), DEV)
    last = client.confirm(first.certificate)
    assert salt_of(first) == salt_of(last)
    stranger = w.client(w.shared())
    stranger.transaction = client.transaction
    assert salt_of(stranger.ask((16, b""))) not in (b"", salt_of(first))


def test_endpoints_without_shared_secrets() -> None:
    w = world(challenge={"recoverable": False})
    reply = w.client(Shared("x" * 26, "secret")).request(IR, new_key(), DEV)
    refusal(reply, ERROR, "badMessageCheck")


def test_unprotected_messages_are_refused_by_a_signed_error() -> None:
    w = world()
    reply = w.client(None).request(IR, new_key(), DEV)
    refusal(reply, ERROR, "badMessageCheck")
    reply.check(None, w.ca)


def test_faults_of_signatures() -> None:
    w = world()
    holder = w.enroll()
    asking = w.client(holder)
    spoilt: list[tuple[dict[str, Any], str]] = [
        ({"value": b"0" * 70}, "badMessageCheck"),
        ({"extra": ()}, "badMessageCheck"),
        ({"extra": (w.ca.public_bytes(Encoding.DER),)}, "badMessageCheck"),
        ({"extra": (b"0\0",)}, "badMessageCheck"),
        ({"extra": (holder.certificate.public_bytes(Encoding.DER),) * 21}, "badMessageCheck"),
        ({"sender": client.directory_name(name("somebody"))}, "badMessageCheck"),
        ({"kid": b"another key"}, "badMessageCheck"),
        ({"algorithm": der.sequence(der.oid("1.2.840.10045.4.1"))}, "badAlg"),  # SHA-1
        ({"algorithm": der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)}, "badAlg"),
        ({"algorithm": der.sequence(der.oid("1.2.3.4"))}, "badAlg"),
        ({"algorithm": der.sequence(der.oid("1.2.840.113533.7.66.30"), der.sequence())}, "badAlg"),
    ]
    for how, bits in spoilt:
        asking.begin()
        reply = asking.ask((17, b""), **how)
        refusal(reply, ERROR, bits)
        reply.check(holder, w.ca)
    # Packaged clients leave senderKID out, or call themselves nobody.
    for how in ({"kid": None}, {"sender": client.directory_name(x509.Name([]))}):
        asking.begin()
        assert asking.ask((17, b""), **how).body == GENP
    # The order of extraCerts does not matter.
    asking.begin()
    both = [each.public_bytes(Encoding.DER) for each in (w.ca, holder.certificate)]
    assert asking.ask((17, b""), extra=both).body == GENP


def test_signers_that_are_not_good_here() -> None:
    w = world()
    stranger = self_signed(new_key())
    forged = issued_by(stranger, "forged", new_key())
    refusal(w.client(forged).request(CR, new_key(), DEV), ERROR, "signerNotTrusted")
    # A certificate of another authority of the same appliance (T-EST-02).
    drive(w.objects.put(ADMIN, "default", "authority", "other", {}))
    drive(w.root("other", KeyAlgorithm.P256))
    drive(w.open("cmp", "elsewhere", authority="other", challenge={"recoverable": True}))
    w.url = "/p/elsewhere"
    elsewhere = w.enroll(shared=w.shared(endpoint="cmp/elsewhere"))
    w.url = "/p/iot"
    for body in (CR, KUR):
        refusal(w.client(elsewhere).request(body, new_key(), DEV), ERROR, "notAuthorized")
    refusal(w.client(elsewhere).revoke(elsewhere.certificate), ERROR, "notAuthorized")
    refusal(w.client(elsewhere).ask((17, b"")), ERROR, "notAuthorized")
    # Revoked, in the very next second (T-EST-01).
    holder = w.enroll()
    asking = w.client(holder)
    issuer = drive(w.hierarchy.active("default", "devices"))
    drive(w.revocation.revoke(ADMIN, "default", issuer.id, holder.certificate.serial_number, 1))
    for body in (CR, KUR):
        asking.begin()
        refusal(asking.request(body, new_key(), DEV), ERROR, "certRevoked")
    # Expired.
    holder = w.enroll()
    w.clock.time = holder.certificate.not_valid_after_utc + timedelta(seconds=1)
    refusal(w.client(holder).request(KUR, new_key(), DEV), ERROR, "signerNotTrusted")


def test_cmp_21_a_transaction_stays_with_its_credential() -> None:
    w = world()
    holder = w.enroll()
    shared = w.shared()
    asking = w.client(shared)
    reply = asking.request(IR, new_key(), DEV)
    changes: list[tuple[client.Credential, str]] = [
        (holder, "wrongIntegrity"),
        (replace(shared, kind="pbmac1", rounds=2000), "badMessageCheck"),
        (w.shared(), "wrongAuthority"),
        (None, "badMessageCheck"),
    ]
    for credential, bit in changes:
        asking.nonce = reply.nonce
        refusal(asking.confirm(reply.certificate, credential=credential), ERROR, bit)
    asking.nonce = reply.nonce
    assert asking.confirm(reply.certificate).body == PKICONF
    # Signed with the new certificate instead of the old one.
    asking = w.client(holder)
    key = new_key()
    reply = asking.request(KUR, key, DEV)
    new = Holder(reply.certificate, key)
    refusal(asking.confirm(reply.certificate, credential=new), ERROR, "wrongAuthority")


def test_nonces_of_continuing_messages() -> None:
    w = world()
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV)
    for wrong in (None, b"", b"x" * 16):
        asking.nonce = wrong
        refusal(asking.confirm(reply.certificate), ERROR, "badRecipientNonce")
    asking.nonce = reply.nonce
    assert asking.confirm(reply.certificate).body == PKICONF


def test_clocks_where_they_are_checked() -> None:
    w = world(options={"clock_window": 300})
    asking = w.client(w.shared())
    refusal(asking.ask((17, b""), time=w.clock() - timedelta(seconds=301)), ERROR, "badTime")
    asking.begin()
    assert asking.ask((17, b""), time=w.clock()).body == GENP


# -- what is asked for ---------------------------------------------------------------------


def test_bodies_that_are_not_served() -> None:
    w = world()
    for body in (1, 3, 5, 6, 8, 9, 10, 12, 13, 14, 19, 22, 26, 27, 30):
        asking = w.client(w.shared())
        refusal(asking.send(body, der.sequence()), ERROR, "badRequest")
    for body in (15, 16, 17, 18):  # announcements: RFC 9811, 3.6
        octets = client.message(body, der.sequence(), w.shared(), transaction=b"t" * 16)
        assert w.post(octets).status == 403
    assert w.issued() == 0


def test_one_request_a_message() -> None:
    w = world()
    wanted = client.template(subject=DEV, public_key=client.spki(KEY.public_key()))
    two = der.sequence(client.crmf(wanted, KEY), client.crmf(wanted, KEY, number=1))
    refusal(w.client(w.shared()).send(IR, two), IP, "badRequest")
    refusal(w.client(w.shared()).send(IR, der.sequence()), IP, "badDataFormat")
    refusal(w.client(w.shared()).request(IR, KEY, DEV, number=-1), IP, "badRequest")
    refusal(w.client(w.shared()).request(IR, KEY, DEV, number=2**31), IP, "badRequest")
    reply = w.client(w.shared()).request(IR, KEY, DEV, number=7)
    assert int(reply.response["certReqId"]) == 7


@pytest.mark.parametrize(
    ("fields", "bit"),
    [
        ({}, "badCertTemplate"),
        ({"subject": x509.Name([])}, "badCertTemplate"),
        ({"subject": DEV, "issuer": name("another CA")}, "badCertTemplate"),
        ({"subject": DEV, "extensions": der.sequence(der.sequence())}, "badDataFormat"),
        ({"subject": DEV, "names": [x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\0")]},
         "badCertTemplate"),
    ],
)  # fmt: skip
def test_templates_that_are_refused(fields: dict[str, Any], bit: str) -> None:
    w = world()
    reply = w.client(w.shared()).request(IR, new_key(), **fields)
    refusal(reply, IP, bit)
    assert w.explain(reply)


def test_the_issuer_may_be_named() -> None:
    w = world()
    reply = w.client(w.shared()).request(IR, new_key(), DEV, issuer=w.ca.subject)
    assert reply.status == 0


def test_proofs() -> None:
    w = world()
    key = new_key()
    other = der.explicit(2, der.tlv(0x81, b"\0"))  # keyEncipherment, subsequentMessage
    for proof in (b"", b"\x80\0", other, der.explicit(3, der.tlv(0x81, b"\2"))):
        refusal(w.client(w.shared()).request(IR, key, DEV, proof=proof), IP, "badPOP")
    # Signed with another key.
    wanted = client.template(subject=DEV, public_key=client.spki(key.public_key()))
    refusal(
        w.client(w.shared()).send(IR, der.sequence(client.crmf(wanted, new_key()))), IP, "badPOP"
    )
    # A signature over something else.
    bits = der.tlv(der.BIT_STRING, b"\0", client.sign(key, b"something else"))
    proof = der.explicit(1, client.algorithm_of(key), bits)
    refusal(w.client(w.shared()).request(IR, key, DEV, proof=proof), IP, "badPOP")
    # raVerified by somebody who is no registration authority.
    holder = w.enroll()
    refusal(w.client(holder).request(CR, key, DEV, proof=b"\x80\0"), CP, "badPOP")
    assert w.issued() == 1


def test_weak_keys_and_old_signatures() -> None:
    w = world()
    refusal(w.client(w.shared()).request(IR, WEAK, DEV), IP, "badAlg")
    sha1 = der.sequence(der.oid("1.2.840.10045.4.1"))
    bits = der.tlv(der.BIT_STRING, b"\0", b"0\0")
    proof = der.explicit(1, sha1, bits)
    refusal(w.client(w.shared()).request(IR, KEY, DEV, proof=proof), IP, "badAlg")


WEAK = rsa.generate_private_key(65537, 1024)


def test_updates_of_something_else() -> None:
    w = world()
    refusal(w.client(w.shared()).request(KUR, new_key(), DEV), ERROR, "wrongIntegrity")
    holder, other = w.enroll(), w.enroll("dev2")
    asking = w.client(holder)
    refusal(
        asking.request(KUR, new_key(), DEV, controls=old_cert_id(other.certificate)),
        KUP,
        "badCertId",
    )
    asking.begin()
    reply = asking.request(KUR, new_key(), name("dev2"))
    assert (reply.body, reply.status) == (KUP, 2)
    assert w.issued() == 2


def test_secrets_are_bound() -> None:
    """VU#971035: a secret for one device does not enrol another."""
    w = world()
    shared = w.shared(bound_to=Binding(subject=("CN=dev1",)))
    reply = w.client(shared).request(IR, new_key(), name("dev2"))
    refusal(reply, IP, "badMessageCheck")
    assert w.client(shared).request(IR, new_key(), DEV).status == 0
