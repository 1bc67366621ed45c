"""SCEP against everybody who must get nothing (security 2.1 and 5.3, pki-protocols 3.7).

Each refusal has its documented answer and one line in the journal that names the rule, leaves
nothing behind, and the next honest client is served. docs/errors.md is the same table for people.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import gmpy2  # type: ignore[import-untyped]  # ships no stubs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AttributeOID

from tests import scep_client as client
from tests.daemon import Daemon
from tests.scep_client import Identity, Message
from tests.support import Clock
from tests.system.desk import Desk, desk_of
from tests.system.visitor import Visitor, knock, new_key, spare_key
from tmad.events import utc_now

SETTINGS = """
[limits]
header_seconds = 2
body_seconds = 2
"""
BAD_ALGORITHM, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID = "0", "1", "2", "4"
_EXPLAIN_ID = re.compile(r"\[([0-9A-Z]{4}-[0-9A-Z]{4})\]$")


@dataclass
class World:
    """Two tenants with doors of the same kind, and devices with a past."""

    daemon: Daemon
    desk: Desk
    static: str = ""
    doors: dict[str, Visitor] = field(default_factory=dict)
    devices: dict[str, Identity] = field(default_factory=dict)

    def door(self, label: str = "routers") -> Visitor:
        """Return a visitor of an endpoint."""
        if label not in self.doors:
            self.doors[label] = Visitor(f"{self.daemon.url}/scep/{label}")
        return self.doors[label]

    def secret(self, label: str = "routers", **how: Any) -> str:
        return self.desk.secret(label, **how)

    def next_client_is_served(self) -> None:
        self.door().enroll(self.static)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node = Daemon(tmp_path_factory.mktemp("node"), settings=SETTINGS).start()
    try:
        with desk_of(node) as desk:
            yield _furnish(World(node, desk))
    finally:
        node.kill()


def _furnish(world: World) -> World:
    desk = world.desk
    desk.tenant("beta")
    desk.copy_profile("device", "phone")
    desk.endpoint("routers")
    desk.endpoint("switches")
    desk.endpoint("phones", profile="phone")
    desk.endpoint("manual", authenticate=["manual"])
    desk.endpoint("strict", challenge={})
    desk.endpoint("beta-routers", tenant="beta")
    world.static = world.secret(static=True)
    for name in ("good", "revoked", "held"):
        world.devices[name] = world.door().enroll(world.static, f"{name}.example.test")
    desk.revoke(world.devices["revoked"].certificate, 1)
    desk.revoke(world.devices["held"].certificate, 6)
    for label, tenant in (("phones", "default"), ("beta-routers", "beta")):
        secret = world.secret(label, tenant=tenant)
        world.devices[label] = world.door(label).enroll(secret, f"{label}.example.test")
    with desk_of(world.daemon, Clock(utc_now() - timedelta(days=400))) as earlier:
        earlier.authority("aged")
        key = new_key()
        old = earlier.issue(key.public_key(), client.name("old"), authority="aged", days=30)
        world.devices["expired"] = Identity(key, old)
    desk.endpoint("aged", authority="aged")
    return world


# -- refusals that a CertRep tells --------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One message, the failInfo that it gets, and the rule that the journal names for it."""

    name: str
    message: Callable[[World], Message]
    fail_info: str
    rule: str
    label: str = "routers"
    text: str = ""


def _bound(
    *names: x509.GeneralName, common_name: str = "r1.example.test", **binding: Any
) -> Callable[[World], Message]:
    """Return a message whose challenge was made for r1.example.test, or as ``binding`` says."""

    def make(world: World) -> Message:
        secret = world.secret(**(binding or {"subject": ("CN=r1.example.test",)}))
        csr = _csr(secret, common_name, names)
        return world.door().request(csr=csr, name=common_name)

    return make


def _csr(challenge: str, common_name: str, names: Sequence[x509.GeneralName]) -> bytes:
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(client.name(common_name))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    csr = builder.sign(spare_key(), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.DER)


def _elsewhere(label: str, tenant: str = "default") -> Callable[[World], Message]:
    return lambda world: world.door().request(world.secret(label, tenant=tenant))


def _used(world: World) -> Message:
    secret = world.secret()
    world.door().enroll(secret)
    return world.door().request(secret)


def _expired(world: World) -> Message:
    secret = world.secret(lifetime=timedelta(milliseconds=1))
    time.sleep(0.01)
    return world.door().request(secret)


def _same_transaction(world: World) -> Message:
    secret = world.secret()
    first = world.door().request(secret, key=new_key())
    assert world.door().send(first).status == client.SUCCESS
    return world.door().request(secret, transaction=first.transaction)


def _renewal(device: str, label: str = "routers", **how: Any) -> Callable[[World], Message]:
    return lambda world: world.door(label).renewal(world.devices[device], **how)


def _other_name(world: World) -> Message:
    return world.door().request(
        name="vpn.example.test", signer=world.devices["good"], message_type=client.RENEWAL_REQ
    )


def _thief(world: World) -> Message:
    """The real certificate, signed with another key."""
    return world.door().renewal(Identity(new_key(), world.devices["good"].certificate))


def _look_alike(world: World) -> Message:
    """A certificate of one's own with the names and the number of a real one."""
    real = world.devices["good"].certificate
    key = spare_key()
    fake = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(key.public_key())
        .serial_number(real.serial_number)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    return world.door().renewal(Identity(key, fake))


def _crafted(change: Callable[[bytes], bytes]) -> Callable[[World], Message]:
    """Return a message whose CSR was changed after it was signed."""

    def make(world: World) -> Message:
        good = client.make_csr(spare_key(), "crafted.example.test", challenge=world.static)
        changed = change(good)
        assert changed != good
        return world.door().request(csr=changed)

    return make


def _named(*names: x509.GeneralName) -> Callable[[World], Message]:
    return lambda world: world.door().request(csr=_csr(world.secret(), "names", names))


def _titled(world: World) -> Message:
    title = x509.NameAttribute(x509.NameOID.TITLE, "King")
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([*client.name("names"), title]))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, world.secret().encode())
    )
    csr = builder.sign(spare_key(), hashes.SHA256())
    return world.door().request(csr=csr.public_bytes(serialization.Encoding.DER))


def _close_primes() -> rsa.RSAPrivateKey:
    """Return a key that Fermat's method factors at once (CVE-2022-26320)."""
    p = int(gmpy2.next_prime((3 << 1022) + int.from_bytes(os.urandom(120))))
    q = int(gmpy2.next_prime(p + 2))
    d = int(gmpy2.invert(65537, (p - 1) * (q - 1)))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), int(gmpy2.invert(q, p)), public
    ).private_key()


def _signed(**how: Any) -> Callable[[World], Message]:
    """Return a message that is honest but for the way in which it is signed or sealed."""
    return lambda world: world.door().request(world.secret(), **how)


def _recipient(world: World) -> Message:
    stranger = client.self_signed(new_key()).certificate
    return world.door().request(world.secret(), recipient=stranger)


def _content(content: bytes) -> Callable[[World], Message]:
    return lambda world: world.door().request(csr=content)


def _sealed(**how: Any) -> Callable[[World], Message]:
    def make(world: World) -> Message:
        door = world.door()
        csr = client.make_csr(spare_key(), "sealed", challenge=world.secret())
        return client.make_message(
            client.make_envelope(csr, door.ra, **how),
            client.self_signed(spare_key()),
            transaction=os.urandom(16).hex(),
        )

    return make


def _not_sealed(world: World) -> Message:
    csr = client.make_csr(spare_key(), "open", challenge=world.secret())
    return client.make_message(
        csr, client.self_signed(spare_key()), transaction=os.urandom(16).hex()
    )


def _query(kind: str, device: str, who: str = "", serial: int = 0) -> Callable[[World], Message]:
    def make(world: World) -> Message:
        owner = world.devices[device]
        asking = world.devices[who] if who else owner
        return world.door().query(kind, owner.certificate, asking, serial)

    return make


def _unknown_poll(world: World) -> Message:
    return world.door().poll(world.door().request(), transaction="nobody-asked-this")


def _poll_of(*, label: str = "manual", identity: Identity | None = None) -> Any:
    """Return a poll for a request that waits, from another door or with another key."""

    def make(world: World) -> Message:
        waiting = world.door("manual").request(key=new_key())
        assert world.door("manual").send(waiting).status == client.PENDING
        return world.door(label).poll(waiting, **({"identity": identity} if identity else {}))

    return make


NEUTRAL = "the challenge was not accepted"
CASES = (
    # Challenges. Whatever is wrong with one, the client hears the same (SCEP 3.7).
    Case("no-challenge", lambda w: w.door().request(), "2", "credential.none"),
    Case("empty-challenge", lambda w: w.door().request(""), "2", "credential.none"),
    Case("wrong-challenge", lambda w: w.door().request("guess"), "2", "secret.wrong", text=NEUTRAL),
    Case("wrong-endpoint", _elsewhere("switches"), "2", "secret.wrong", text=NEUTRAL),
    Case("wrong-tenant", _elsewhere("beta-routers", "beta"), "2", "secret.wrong", text=NEUTRAL),
    Case("used-challenge", _used, "2", "secret.used", text=NEUTRAL),
    Case("expired-challenge", _expired, "2", "secret.expired", text=NEUTRAL),
    Case(
        "revoked-challenge",
        lambda w: w.door().request(w.secret(revoked=True)),
        "2",
        "secret.revoked",
        text=NEUTRAL,
    ),
    # A challenge is good for whom it was made for (VU#971035), by every kind of name.
    *(
        Case(f"bound-{name}", message, "2", f"secret.binding.{what}", text=NEUTRAL)
        for name, what, message in (
            ("subject", "subject", _bound(common_name="r2.example.test")),
            ("dns", "names", _bound(x509.DNSName("r2.example.test"))),
            ("dns-beside", "names", _bound(*map(x509.DNSName, ("r1.example.test", "vpn.test")))),
            ("ip", "names", _bound(x509.IPAddress(IPv4Address("192.0.2.1")))),
            ("email", "names", _bound(x509.RFC822Name("ceo@example.test"))),
            ("uri", "names", _bound(x509.UniformResourceIdentifier("https://vpn.test/"))),
            ("names-only", "subject", _bound(common_name="vpn.test", names=("dns:r1.test",))),
            ("profile", "profile", _bound(profile="phone")),
        )
    ),
    Case("same-transaction-other-request", _same_transaction, "2", "secret.used", text=NEUTRAL),
    # Renewals (T-SCEP-07).
    Case("renewal-expired", _renewal("expired", "aged"), "2", "renewal.expired", "aged"),
    Case("renewal-revoked", _renewal("revoked"), "2", "renewal.revoked"),
    Case("renewal-held", _renewal("held"), "2", "renewal.revoked"),
    Case("renewal-wrong-tenant", _renewal("beta-routers"), "2", "renewal.foreign"),
    Case("renewal-wrong-profile", _renewal("phones"), "2", "renewal.profile"),
    Case("renewal-wrong-authority", _renewal("expired"), "2", "renewal.authority"),
    Case("renewal-other-name", _other_name, "2", "renewal.names"),
    Case("renewal-look-alike", _look_alike, "2", "renewal.foreign"),
    Case("renewal-stolen-certificate", _thief, "1", "wire.signature"),
    Case(
        "renewal-self-signed",
        lambda w: w.door().request(w.secret(), message_type=client.RENEWAL_REQ),
        "2",
        "scep.renewal.self-signed",
    ),
    Case(
        "enrolment-by-revoked-signer",
        _renewal("revoked", message_type=client.PKCS_REQ),
        "2",
        "renewal.revoked",
    ),
    # Keys and their proof.
    Case(
        "rsa-1024",
        lambda w: w.door().request(w.secret(), key=rsa.generate_private_key(65537, 1024)),
        "0",
        "key.rsa.size",
    ),
    Case(
        "rsa-exponent-3",
        lambda w: w.door().request(w.secret(), key=rsa.generate_private_key(3, 2048)),
        "0",
        "key.rsa.exponent",
    ),
    Case(
        "rsa-even-exponent",
        _crafted(lambda csr: csr.replace(b"\x02\x03\x01\x00\x01", b"\x02\x03\x01\x00\x00")),
        "0",
        "wire.csr.key",
    ),
    Case(
        "rsa-close-primes",
        lambda w: w.door().request(w.secret(), key=_close_primes()),
        "2",
        "key.rsa.fermat",
    ),
    Case(
        "unknown-curve",
        lambda w: w.door().request(w.secret(), key=ec.generate_private_key(ec.SECP224R1())),
        "0",
        "key.curve",
    ),
    Case(
        "csr-signature",
        _crafted(lambda csr: csr[:-1] + bytes([csr[-1] ^ 1])),
        "2",
        "wire.csr.signature",
    ),
    Case(
        "signer-has-another-key",
        lambda w: w.door().request(w.secret(), signer=client.self_signed(new_key())),
        "2",
        "scep.signer.key",
    ),
    # Names.
    Case("title", _titled, "2", "profile.subject.attribute"),
    Case(
        "user-principal-name",
        _named(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")),
        "2",
        "profile.names.upn",
    ),
    Case("wildcard", _named(x509.DNSName("*.example.test")), "2", "name.dns.wildcard"),
    Case("too-many-names", _named(*[x509.DNSName(f"a{n}.test") for n in range(11)]), "2",
         "profile.names.dns.count"),
    # The message.
    Case("broken-signature", _signed(spoil_signature=True), "1", "wire.signature"),
    Case("broken-digest", _signed(spoil_digest=True), "1", "wire.signature"),
    Case("two-signers", _signed(signers=2), "2", "scep.signer"),
    Case("no-certificate", _signed(with_certificate=False), "2", "scep.signer"),
    Case("md5", _signed(digest="md5"), "0", "wire.algorithm"),
    Case("sha1", _signed(digest="sha1"), "0", "wire.algorithm"),
    Case("des", _sealed(cipher="des"), "0", "wire.algorithm"),
    Case("3des", _sealed(cipher="3des"), "0", "wire.algorithm"),
    Case("wrong-recipient", _recipient, "1", "wire.envelope"),
    Case("wrong-content-key", _sealed(encrypted_key=bytes(256)), "1", "wire.envelope"),
    Case("no-envelope", _not_sealed, "1", "wire.envelope"),
    Case("sealed-garbage", _content(b"garbage"), "1", "wire.envelope"),
    Case("sealed-nothing", _content(b""), "1", "wire.envelope"),
    # Questions about what is not theirs.
    Case("getcert-unknown", _query("21", "good", serial=4711), "4", "scep.unknown-serial"),
    Case("getcert-of-another", _query("21", "good", "phones"), "4", "scep.get-cert.holder"),
    Case("getcert-wrong-tenant", _query("21", "beta-routers"), "4", "scep.unknown-serial"),
    Case("getcrl-wrong-tenant", _query("22", "beta-routers"), "4", "scep.unknown-serial"),
    Case("poll-unknown", _unknown_poll, "4", "request.absent"),
    Case("poll-other-door", _poll_of(label="routers"), "4", "request.absent"),
    Case(
        "poll-other-key",
        _poll_of(identity=client.self_signed(rsa.generate_private_key(65537, 2048))),
        "4",
        "request.absent",
        "manual",
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scep_37_a_refusal_is_documented_journaled_and_harmless(case: Case, world: World) -> None:
    message = case.message(world)
    before = world.desk.issued()
    reply = world.door(case.label).send(message)
    assert (reply.status, reply.fail_info) == (client.FAILURE, case.fail_info), reply.text
    assert reply.content is None
    _is_explained(world, message, reply.text, case.rule)
    if case.text:
        assert reply.text.rpartition(" [")[0] == case.text
    assert world.desk.issued() == before
    assert world.desk.unfinished() == 0
    world.next_client_is_served()


def _is_explained(world: World, message: Message, text: str, rule: str) -> None:
    found = _EXPLAIN_ID.search(text)
    assert found is not None, text
    (refusal,) = world.desk.refusals(message.transaction)
    assert (refusal["id"], refusal["rule"]) == (found[1], rule)
    assert refusal["tenant"] == "default"
    assert refusal["peer"] == "127.0.0.1"
    (explained,) = world.desk.explain(found[1])
    assert (explained["rule"], explained["values"]) == (rule, refusal["values"])
    # What happened in one tenant is not explained to another.
    assert world.desk.explain(found[1], "beta") == []


# -- messageType (T-SCEP-01, CVE-2026-30836) ----------------------------------------------------


def _refused(world: World, message: Message, *expected: tuple[str, str]) -> None:
    """Send a message; the answer is one of ``expected`` failInfos and rules, journaled once."""
    reply = world.door().send(message)
    assert reply.status == client.FAILURE
    (refusal,) = world.desk.refusals(message.transaction)
    assert (reply.fail_info, refusal["rule"]) in expected


def test_t_scep_01_every_message_type_without_a_credential(world: World) -> None:
    """Exactly 17 and 19 enrol, and only with a credential; the others are not even decrypted."""
    before = world.desk.issued()
    no_type = (BAD_REQUEST, "scep.message-type")
    served = {
        "17": (BAD_REQUEST, "scep.renewal.self-signed"),
        "19": (BAD_REQUEST, "credential.none"),
        # The content is not what these types carry.
        "20": (BAD_MESSAGE_CHECK, "wire.envelope"),
        "21": (BAD_MESSAGE_CHECK, "wire.envelope"),
        "22": (BAD_MESSAGE_CHECK, "wire.envelope"),
    }
    csr = client.make_csr(spare_key(), "types")
    identity = client.self_signed(spare_key())
    envelope = client.make_envelope(csr, world.door().ra)
    odd = ["", "3x", " 19", "19 ", "+19", "019", "0x13", "1_9", "19\0", "-1", "\u0661\u0669", "٣"]
    messages = {
        kind: client.make_message(
            envelope, identity, message_type=kind, transaction=os.urandom(16).hex()
        )
        for kind in [str(number) for number in range(256)] + odd
    }
    answers = {kind: world.door().send(message) for kind, message in messages.items()}
    refusals: dict[str, list[str]] = {}
    for refusal in world.desk.refusals("messageType", "default"):
        refusals.setdefault(refusal["rule"], []).append(refusal["messageType"])
    for kind, reply in answers.items():
        assert reply.status == client.FAILURE, kind
        assert reply.fail_info == served.get(kind, no_type)[0], kind
    # Each one is journaled once, under the type that was sent as far as it can be read.
    unserved = [kind for kind in answers if kind not in served]
    readable = [kind for kind in unserved if kind.isascii() and "\0" not in kind]
    assert set(readable) <= set(refusals["scep.message-type"])
    for kind, message in messages.items():
        if kind in ("17", "18", "19", "20", "21", "22"):
            (refusal,) = world.desk.refusals(message.transaction)
            assert refusal["rule"] == served.get(kind, no_type)[1]
    assert len(refusals["scep.message-type"]) == len(unserved)
    assert world.desk.issued() == before
    world.next_client_is_served()


@pytest.mark.parametrize("kind", ["18", "3", "", " 19"])
def test_t_scep_01_a_good_challenge_does_not_make_a_type_served(kind: str, world: World) -> None:
    secret = world.secret()
    before = world.desk.issued()
    message = world.door().request(secret, message_type=kind)
    _refused(world, message, (BAD_REQUEST, "scep.message-type"))
    absent = world.door().request(secret, message_type=None)
    _refused(world, absent, (BAD_REQUEST, "scep.message-type"))
    assert world.desk.issued() == before
    # Nor is the challenge used up by it.
    world.door().enroll(secret)


# -- many at once, and again --------------------------------------------------------------------


def test_t_scep_02_of_twenty_with_one_challenge_one_is_served(world: World) -> None:
    secret = world.secret()
    keys = [new_key() for _ in range(20)]
    before = world.desk.issued()
    messages = [world.door().request(secret, key=key) for key in keys]
    replies = world.door().send_all(messages)
    assert sorted(reply.status for reply in replies) == [client.SUCCESS] + [client.FAILURE] * 19
    assert world.desk.issued() == before + 1
    for message, reply in zip(messages, replies, strict=True):
        refusals = world.desk.refusals(message.transaction)
        if reply.status == client.SUCCESS:
            assert refusals == []
        else:
            assert [refusal["rule"] for refusal in refusals] == ["secret.used"]
            assert reply.fail_info == BAD_REQUEST
    assert world.desk.unfinished() == 0
    world.next_client_is_served()


def test_scep_45_a_replayed_message_gets_the_same_certificate_and_makes_nothing(
    world: World,
) -> None:
    message = world.door().request(world.secret(), key=new_key())
    before = world.desk.issued()
    first, *others = world.door().send_all([message] * 20)
    assert first.status == client.SUCCESS
    (certificate,) = first.certificates
    assert [other.certificates for other in others] == [[certificate]] * 19
    assert world.door().send(message).certificates == [certificate]
    assert world.desk.issued() == before + 1
    assert world.desk.refusals(message.transaction) == []
    world.next_client_is_served()


def test_scep_45_a_replay_by_somebody_else_is_sealed_to_the_first(world: World) -> None:
    """Who only copies a message off the wire gets an answer that he cannot open."""
    message = world.door().request(world.secret(), key=new_key())
    assert world.door().send(message).status == client.SUCCESS
    body = world.door().post(message.der)[2]
    copied = Message(message.der, message.transaction, message.nonce, Identity(
        new_key(), message.identity.certificate
    ))  # fmt: skip
    with pytest.raises((ValueError, KeyError, IndexError)):
        client.read_reply(body, copied, world.door().ra)


def test_scep_45_the_same_transaction_with_a_challenge_of_its_own_is_a_new_request(
    world: World,
) -> None:
    first = world.door().request(world.secret(), key=new_key())
    second = world.door().request(world.secret(), key=new_key(), transaction=first.transaction)
    (one,), (other,) = (world.door().send(each).certificates for each in (first, second))
    assert one.public_key() != other.public_key()


def test_scep_46_a_denied_request_stays_denied(world: World) -> None:
    door = world.door("manual")
    message = door.request(key=new_key())
    before = world.desk.issued()
    assert door.send(message).status == client.PENDING
    assert door.send(door.poll(message)).status == client.PENDING
    world.desk.deny(message.transaction, "not in the list of devices")
    for again in (door.poll(message), door.poll(message), message):
        reply = door.send(again)
        assert (reply.status, reply.fail_info) == (client.FAILURE, BAD_REQUEST)
        assert "not in the list of devices" in reply.text
        assert _EXPLAIN_ID.search(reply.text)
    rules = [refusal["rule"] for refusal in world.desk.refusals(message.transaction)]
    assert rules == ["request.denied"] * 3
    assert world.desk.issued() == before
    world.next_client_is_served()


def test_scep_37_who_guesses_challenges_has_to_wait(world: World) -> None:
    door = world.door("strict")
    for _ in range(10):
        reply = door.send(door.request("guess"))
        assert (reply.status, reply.fail_info) == (client.FAILURE, BAD_REQUEST)
    good = door.request(world.secret("strict"))
    status, headers, body = door.post(good.der)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 60
    (refusal,) = world.desk.refusals(good.transaction)
    assert refusal["rule"] == "secret.guessing"
    assert f"[{refusal['id']}]" in body.decode()
    world.next_client_is_served()


def test_the_command_line_explains_a_refusal(world: World) -> None:
    message = _renewal("revoked")(world)
    found = _EXPLAIN_ID.search(world.door().send(message).text)
    assert found is not None
    explained = world.daemon.json("explain", found[1])
    assert (explained["rule"], explained["values"]) == ("renewal.revoked", {"status": "revoked"})
    # The CRL that the revocation asks for may come in between.
    newest = world.daemon.json("audit", "tail", "-n", "5")
    assert ("request.refused", found[1]) in [(each["kind"], each["trace"]) for each in newest]


def test_t_scep_02_two_workers_give_one_certificate_for_one_challenge(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node", workers=2).start()
    try:
        with desk_of(node) as desk:
            desk.endpoint("routers")
            door = Visitor(f"{node.url}/scep/routers")
            secret, before = desk.secret("routers"), desk.issued()
            messages = [door.request(secret, key=new_key()) for _ in range(12)]
            states = sorted(reply.status for reply in door.send_all(messages))
            assert states == [client.SUCCESS] + [client.FAILURE] * 11
            assert (desk.issued(), desk.unfinished()) == (before + 1, 0)
    finally:
        node.kill()


def test_gen_24_a_copy_at_another_worker_gets_the_same_answer(tmp_path: Path) -> None:
    """Whatever the first one changed meanwhile must not be held against the second."""
    node = Daemon(tmp_path / "node", workers=2).start()
    try:
        with desk_of(node) as desk:
            desk.copy_profile("device", "once", duplicate_keys="refuse")
            desk.endpoint("routers")
            desk.endpoint("once", profile="once")
            desk.endpoint("manual", authenticate=["manual"], limits={"pending": 3})
            for label in ("routers", "once", "manual") * 3:
                _race_copies(desk, Visitor(f"{node.url}/scep/{label}"), label)
    finally:
        node.kill()


def _race_copies(desk: Desk, door: Visitor, label: str) -> None:
    is_manual, before = label == "manual", desk.issued()
    copied = door.request(None if is_manual else desk.secret(label), key=new_key())
    replies = door.send_all([copied] * 12)
    # A copy that comes while the other worker is at it has to wait.
    allowed = {client.PENDING} if is_manual else {client.SUCCESS, client.PENDING}
    assert {reply.status for reply in replies} <= allowed
    assert desk.refusals(copied.transaction) == []
    again = [door.send(door.poll(copied)) for _ in range(4)]
    given = [r.certificates for r in replies + again if r.status == client.SUCCESS]
    assert all(certificates == given[0] for certificates in given)
    assert len(given) >= (0 if is_manual else 4)
    assert (desk.issued(), desk.unfinished()) == (before + (not is_manual), 0)


# -- what only the transport can refuse ---------------------------------------------------------

_PKI = "/scep/routers?operation=PKIOperation"


def _unsigned(world: World) -> bytes:
    return world.door().request(world.static, signers=0).der


def _half(world: World) -> bytes:
    whole = world.door().request(world.static).der
    return whole[: len(whole) // 2]


def _without(**how: Any) -> Callable[[World], bytes]:
    return lambda world: world.door().request(world.static, **how).der


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("POST", _PKI, b"", 400),
        ("POST", _PKI, b"garbage", 400),
        ("POST", _PKI, os.urandom(5_000), 400),
        ("POST", _PKI, b"\x30\x80" * 5_000, 400),
        ("POST", _PKI, b"\x30\x84\xff\xff\xff\xff", 400),
        ("POST", _PKI, _half, 400),
        ("POST", _PKI, _unsigned, 400),
        ("POST", _PKI, _without(transaction=None), 400),
        ("POST", _PKI, _without(transaction="x" * 256), 400),
        ("POST", _PKI, _without(nonce=b""), 400),
        ("POST", _PKI, _without(nonce=bytes(65)), 400),
        ("POST", _PKI, bytes(65_537), 413),
        ("POST", _PKI, bytes(1_000_000), 413),
        ("POST", "/scep/routers?operation=Enroll", b"x", 400),
        ("GET", _PKI, None, 400),
        ("GET", f"{_PKI}&message=", None, 400),
        ("GET", f"{_PKI}&message=%3f%3f", None, 400),
        ("GET", f"{_PKI}&message={'A' * 16_000}", None, 400),
        ("GET", f"{_PKI}&message={'A' * 16_384}", None, 414),
        ("GET", f"{_PKI}&message={'A' * 30_000}", None, 414),
        ("GET", "/scep/routers", None, 400),
        ("GET", "/scep/routers?operation=", None, 400),
        ("GET", "/scep/routers?operation=GetNextCACert", None, 404),
        ("PUT", _PKI, b"x", 405),
        ("DELETE", _PKI, None, 405),
        ("PATCH", _PKI, b"x", 405),
        ("GET", "/scep/nobody?operation=GetCACaps", None, 404),
        ("GET", "/scep/Routers?operation=GetCACaps", None, 404),
        ("GET", "/scep/..%2frouters?operation=GetCACaps", None, 404),
        ("GET", "/nothing", None, 404),
    ],
)
def test_scep_37_what_is_no_message_gets_a_status(
    method: str,
    target: str,
    body: bytes | Callable[[World], bytes] | None,
    status: int,
    world: World,
) -> None:
    octets = body(world) if callable(body) else body
    before = world.desk.issued(), len(world.desk.refusals(""))
    answer, headers, text = knock(world.daemon.url, method, target, octets)
    assert answer == status, text
    assert headers["content-type"].startswith("text/plain")
    assert len(text) < 200
    assert b"Traceback" not in text
    if status == 405:
        assert "POST" in headers["allow"]
    # Anybody can send such things as fast as he likes: they are counted, not journaled.
    assert (world.desk.issued(), len(world.desk.refusals(""))) == before
    world.next_client_is_served()


def test_a_wrong_message_cannot_be_told_from_another_by_its_status(world: World) -> None:
    """GEN-26: behind the private key every failure looks the same, but for id and nonce."""
    door = world.door()
    shapes = set()
    for message in (
        _recipient(world),
        _sealed(encrypted_key=bytes(256))(world),
        _content(b"garbage")(world),
        _not_sealed(world),
    ):
        status, _, body = door.post(message.der)
        text = client.read_reply(body, message, door.ra).text
        shapes.add((status, len(body), text.rpartition(" [")[0]))
    assert len(shapes) == 1


# -- slow clients -------------------------------------------------------------------------------


def _drip(world: World, head: bytes, rest: bytes) -> tuple[float, bytes]:
    """Send ``rest`` one octet at a time; return after how many seconds the door said what."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", world.daemon.http_port), timeout=0.1) as slow:
        slow.sendall(head)
        for octet in rest:
            try:
                slow.sendall(bytes([octet]))
                answer = slow.recv(4_096)
            except TimeoutError:
                continue
            except OSError:
                answer = b""
            return time.monotonic() - begin, answer
    raise AssertionError("the slow client was never cut off")


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"", b"POST /scep/routers?operation=PKIOperation HTTP/1.1\r\n" + b"X: y\r\n" * 99),
        (b"POST /scep/routers HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n", bytes(3_000)),
    ],
    ids=["head", "body"],
)
def test_a_slow_client_is_cut_off_and_keeps_nobody_out(
    head: bytes, rest: bytes, world: World
) -> None:
    """One octet at a time does not extend the deadline (header_seconds, body_seconds: 2)."""
    silent = [
        socket.create_connection(("127.0.0.1", world.daemon.http_port)) for _ in range(40)
    ]  # say nothing at all
    try:
        world.next_client_is_served()
        seconds, answer = _drip(world, head, rest)
        assert 1.5 <= seconds <= 6
        assert answer.startswith(b"HTTP/1.1 408 ")
        world.next_client_is_served()
        for each in silent:
            each.settimeout(6)
            assert each.recv(1) == b""
    finally:
        for each in silent:
            each.close()


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(world: World) -> None:
    message = world.door().request(world.secret(), key=new_key())
    head = f"POST {_PKI} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(message.der)}\r\n\r\n"
    before = world.desk.issued()
    with socket.create_connection(("127.0.0.1", world.daemon.http_port)) as leaving:
        leaving.sendall(head.encode() + message.der[:-1])
    world.next_client_is_served()
    assert world.desk.issued() == before + 1
    # Nor does one that does not wait for the answer: sent again, it is the same certificate.
    with socket.create_connection(("127.0.0.1", world.daemon.http_port)) as leaving:
        leaving.sendall(head.encode() + message.der)
    assert world.door().send(message).status == client.SUCCESS
    assert world.desk.issued() == before + 2


def test_nothing_of_all_this_is_an_error_of_ours(world: World) -> None:
    """Runs last: no traceback, nothing at level error, and the journal is whole."""
    log = world.daemon.log.read_text()
    assert "Traceback" not in log
    assert " error " not in log
    assert world.daemon.json("audit", "verify")["intact"] is True
