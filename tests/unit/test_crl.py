"""CRLs: what is on them, when they are made, and how they are published and served."""

from __future__ import annotations

import copy
import hashlib
import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtensionOID
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock as Timers

from tests.support import drive
from tests.world import ADMIN, World
from tmad.ca import crlcodec, entries, signature
from tmad.ca.authority import AuthorityDocument, CRLPolicy
from tmad.ca.crl import CRL, CRLs
from tmad.ca.hierarchy import Issuer
from tmad.ca.scheme import SignaturePolicy
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant
from tmad.protocols.crl.responder import Repository
from tmad.signer.algorithms import KeyAlgorithm, generate
from tmad.storage import crls, leases, tables
from tmad.storage.changes import prune
from tmad.storage.status import serial_octets
from tmad.wire.http import Request, Response

REASONS = [reason for reason in Reason if reason is not Reason.REMOVE_FROM_CRL]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ca(world: World) -> Issuer:
    issuer = world.authority()
    world.issue_many(issuer, list(range(1, 21)))
    return issuer


def current(world: World, issuer: Issuer, source: CRLs | None = None) -> CRL:
    return drive((source or world.crls).current(issuer.id))


def load(crl: CRL) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(crl.der)


def on(crl: CRL) -> dict[int, Reason]:
    names = {reason.name.lower(): reason for reason in Reason}
    found = {}
    for entry in load(crl):
        try:
            extension = entry.extensions.get_extension_for_class(x509.CRLReason)
        except x509.ExtensionNotFound:
            found[entry.serial_number] = Reason.UNSPECIFIED
        else:
            found[entry.serial_number] = names[extension.value.reason.name]
    return found


def test_crl_01_and_03_an_empty_list(world: World, ca: Issuer) -> None:
    crl = current(world, ca)
    read = load(crl)
    assert read.is_signature_valid(ca.public_key)
    assert read.issuer.public_bytes() == ca.subject_der
    assert list(read) == []
    assert read.last_update_utc == world.clock()
    assert read.next_update_utc == world.clock() + timedelta(hours=24 + 24 * 6)
    assert read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1
    assert read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert crl.sha256 == hashlib.sha256(crl.der).digest()
    # The field is absent, not an empty SEQUENCE: the extensions follow the times at once.
    assert b"Z\xa0" in read.tbs_certlist_bytes
    # What cryptography's builder makes of the same facts has the same octets.
    assert read.tbs_certlist_bytes == by_builder(world, ca, read, []).tbs_certlist_bytes


def by_builder(world, issuer, read, revoked) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder(None, None, None, [], revoked)
        .issuer_name(issuer.certificate.subject)
        .last_update(read.last_update_utc)
        .next_update(read.next_update_utc)
    )
    for extension in read.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    scheme = issuer.scheme
    return drive(
        world.keyring.use(
            issuer.key_id,
            lambda key: builder.sign(key, scheme.hash, rsa_padding=scheme.padding),
        )
    )


def test_crl_03_entries_are_what_the_builder_writes(world: World, ca: Issuer) -> None:
    chance = random.Random(7)
    world.clock.advance(days=10)
    serials = [127, 128, 255, 256, 2**159 - 1, *(chance.getrandbits(128) for _ in range(40))]
    world.issue_many(ca, serials)
    expected = []
    for serial in serials:
        world.clock.advance(seconds=chance.randrange(100_000))
        reason = chance.choice(REASONS)
        at = None
        if reason in (1, 2, 10):
            at = world.clock() - timedelta(seconds=chance.randrange(3600))
        world.revoke(ca, serial, reason, at=at, invalidity_date=at)
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(at or world.clock())
        )
        if reason:
            flag = getattr(x509.ReasonFlags, {10: "aa_compromise"}.get(reason, reason.name.lower()))
            entry = entry.add_extension(x509.CRLReason(flag), False)
        if at:
            entry = entry.add_extension(x509.InvalidityDate(at.replace(tzinfo=None)), False)
        expected.append((serial_octets(serial), entry.build()))
    read = load(current(world, ca))
    expected.sort(key=lambda pair: pair[0])
    builder = by_builder(world, ca, read, [entry for _, entry in expected])
    assert read.tbs_certlist_bytes == builder.tbs_certlist_bytes
    assert read.is_signature_valid(ca.public_key)


@pytest.mark.parametrize("year", [2049, 2050])
def test_crl_01_times_change_their_type_in_2050(year: int) -> None:
    clock = int(datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())
    body = crlcodec.encode_entries([(b"\x05", clock * 1_000_000, None, None, 0)])
    text = b"491231235958Z" if year == 2049 else b"20501231235958Z"
    tag = b"\x17" if year == 2049 else b"\x18"
    time = tag + bytes((len(text),)) + text
    assert body == bytes((0x30, 3 + len(time))) + b"\x02\x01\x05" + time


ALGORITHMS = [a for a in KeyAlgorithm if a not in (KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_crl_12_every_kind_of_key(world: World, algorithm: KeyAlgorithm) -> None:
    check_key(world, world.authority(algorithm=algorithm))


def test_crl_12_pss(world: World) -> None:
    document = AuthorityDocument(signature=SignaturePolicy(pss=True, hash="sha512"))
    check_key(world, world.authority(algorithm=KeyAlgorithm.RSA_2048, document=document))


def check_key(world: World, issuer: Issuer) -> None:
    world.issue(issuer, 1)
    world.revoke(issuer, 1, 1)
    read = load(current(world, issuer))
    assert [entry.serial_number for entry in read] == [1]
    signature.check(
        issuer.public_key, issuer.scheme, read.signature, read.tbs_certlist_bytes, digest=False
    )


@pytest.mark.parametrize("reason", REASONS)
def test_crl_11_a_revocation_is_on_the_very_next_crl(world, ca, reason) -> None:
    first = current(world, ca)
    assert current(world, ca) is first
    world.revoke(ca, 7, reason)
    second = current(world, ca)
    assert on(second) == {7: reason}
    assert second.number == first.number + 1
    assert current(world, ca) is second


def test_crl_05_a_released_certificate_is_gone_from_the_next(world, ca) -> None:
    world.hold(ca, 7)
    world.revoke(ca, 8, 4)
    assert on(current(world, ca)) == {7: Reason.CERTIFICATE_HOLD, 8: Reason.SUPERSEDED}
    world.release(ca, 7)
    assert on(current(world, ca)) == {8: Reason.SUPERSEDED}


def test_crl_02_another_process_goes_on_with_the_number(world, ca) -> None:
    other = world.another_process("two")
    assert current(world, ca).number == 1
    assert current(world, ca, other).number == 1
    world.revoke(ca, 1, 1)
    assert current(world, ca, other).number == 2
    assert current(world, ca).number == 2
    assert current(world, ca).der == current(world, ca, other).der
    world.revoke(ca, 2, 1)
    assert (current(world, ca).number, len(on(current(world, ca, other)))) == (3, 2)


def test_crl_02_whoever_is_overtaken_publishes_nothing(world, ca) -> None:
    current(world, ca)
    row = drive(world.database.read(crls.newest, ca.id))
    for change in (
        {"number": row.number},
        {"number": row.number + 2},
        {"number": row.number + 1, "this_update": row.this_update - timedelta(seconds=1)},
        {"number": row.number + 1, "change_id": row.change_id - 1},
    ):
        values = {name: getattr(row, name) for name in row.__slots__} | change
        with pytest.raises(Fault) as caught:
            world.write(crls.insert, crls.CRLRow(**values))
        assert caught.value.code is FaultCode.CONFLICT
    assert drive(world.database.read(crls.newest, ca.id)) == row


class Meanwhile:
    """The keyring, doing something else before each signature."""

    def __init__(self, keyring, *actions) -> None:
        self._keyring = keyring
        self.actions = list(actions)

    async def use(self, key_id, operation):
        if self.actions:
            self.actions.pop(0)()
        return await self._keyring.use(key_id, operation)


def with_keyring(world: World, keyring, **more) -> CRLs:
    return CRLs(
        world.database,
        world.changes,
        world.hierarchy,
        keyring,
        world.journal,
        world.clock,
        holder="slow",
        **more,
    )


def test_crl_02_a_builder_that_is_overtaken_starts_again(world, ca) -> None:
    def overtake() -> None:
        # The lease of the slow one has run out; the other one revokes and publishes.
        world.clock.advance(seconds=120)
        world.revoke(ca, 3, 1)
        drive(world.crls.build(ADMIN, "default", "ca"))

    slow = with_keyring(world, Meanwhile(world.keyring, overtake))
    world.revoke(ca, 2, 1)
    crl = current(world, ca, slow)
    assert set(on(crl)) == {2, 3}
    assert crl.number == 2
    numbers = [row.number for row in drive(world.database.read(crls.find_heads, ca.id, None, 9))]
    assert numbers == [2, 1]


def test_crl_11_a_change_during_the_signature_makes_another_crl(world, ca) -> None:
    slow = with_keyring(world, Meanwhile(world.keyring, lambda: world.revoke(ca, 3, 1)))
    assert on(current(world, ca, slow)) == {}
    assert set(on(current(world, ca, slow))) == {3}


class Slow:
    """The keyring, while a token takes its time for each signature."""

    def __init__(self, keyring) -> None:
        self._keyring = keyring
        self.pending: list[Deferred[None]] = []

    async def use(self, key_id, operation):
        done: Deferred[None] = Deferred()
        self.pending.append(done)
        await done
        return await self._keyring.use(key_id, operation)


def test_crl_11_who_comes_while_it_is_made_never_gets_the_one_before(world, ca) -> None:
    keyring = Slow(world.keyring)
    source = with_keyring(world, keyring)
    got: list[CRL] = []
    ensureDeferred(source.current(ca.id)).addCallback(got.append)
    keyring.pending.pop().callback(None)
    assert on(got.pop()) == {}
    world.revoke(ca, 3, 1)
    for _ in range(2):
        ensureDeferred(source.current(ca.id)).addCallback(got.append)
    assert not got
    keyring.pending.pop().callback(None)
    assert [set(on(crl)) for crl in got] == [{3}, {3}]
    assert not keyring.pending


def test_crl_11_an_authority_that_falls_while_its_list_is_made_asks_for_another(world, ca) -> None:
    keyring = Slow(world.keyring)
    source = with_keyring(world, keyring)
    got: list[CRL] = []
    ensureDeferred(source.current(ca.id)).addCallback(got.append)
    world.compromise(ca)
    drive(world.changes.catch_up())
    keyring.pending.pop().callback(None)
    assert on(got.pop()) == {}
    ensureDeferred(source.current(ca.id)).addCallback(got.append)
    keyring.pending.pop().callback(None)
    assert len(on(got.pop())) == 20


def test_crl_11_a_process_waits_for_another_that_makes_it(world, ca) -> None:
    timers = Timers()
    timers.callFromThread = lambda function, *values: function(*values)  # type: ignore[attr-defined]
    waiting = with_keyring(world, world.keyring, reactor=timers)
    waiting._maker = world.crls._maker  # no threads in a unit test
    world.write(leases.acquire, f"crl/{ca.id}", "another", 60, world.clock())
    results: list[CRL] = []
    ensureDeferred(waiting.current(ca.id)).addCallback(results.append)
    timers.pump([0.05] * 50)
    assert not results
    # It never comes back: after a while the number decides, not the lease.
    timers.pump([0.05] * 60)
    assert results[0].number == 1


def test_crl_04_this_update_never_falls(world, ca) -> None:
    first = current(world, ca)
    world.clock.advance(hours=-3)
    world.revoke(ca, 1, 1)
    second = current(world, ca)
    assert second.this_update == first.this_update
    assert second.number == first.number + 1


def test_crl_12_the_last_good_one_is_served_while_the_signer_is_away(world, ca) -> None:
    first = current(world, ca)

    def fail() -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    away = with_keyring(world, Meanwhile(world.keyring, fail, fail, fail))
    world.revoke(ca, 1, 1)
    assert current(world, ca, away).number == first.number
    world.clock.advance(seconds=6)
    assert current(world, ca, away).number == first.number
    world.clock.advance(days=8)
    with pytest.raises(Fault, match="token is gone"):
        current(world, ca, away)  # it is over, and nothing is better than that
    assert set(on(current(world, ca, away))) == {1}


def test_crl_12_a_wrong_signature_is_never_published(world, ca) -> None:
    class Faulty:
        async def use(self, key_id, operation):
            return operation(generate(KeyAlgorithm.P256))

    with pytest.raises(Fault) as caught:
        current(world, ca, with_keyring(world, Faulty()))
    assert (caught.value.code, caught.value.rule) == (FaultCode.INTERNAL, "signature.check")
    assert drive(world.database.read(crls.newest, ca.id)) is None


def test_crl_06_an_expired_entry_leaves_after_one_more_crl(world, ca) -> None:
    world.issue(ca, 100, days=1)
    world.revoke(ca, 100, 1)
    world.revoke(ca, 1, 1)
    assert set(on(current(world, ca))) == {1, 100}
    world.clock.advance(days=1, seconds=1)
    (after_end,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert set(on(after_end)) == {1, 100}
    world.clock.advance(seconds=1)
    (later,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert set(on(later)) == {1}
    # A process that starts now reads the same from the database.
    (fresh,) = drive(world.another_process().build(ADMIN, "default", "ca"))
    assert set(on(fresh)) == {1}


def test_crl_06_revoked_after_its_end_it_is_on_one_crl(world, ca) -> None:
    world.issue(ca, 100, days=1)
    current(world, ca)
    world.clock.advance(days=5)
    drive(world.crls.build(ADMIN, "default", "ca"))
    world.clock.advance(days=1)
    world.revoke(ca, 100, 4)
    assert set(on(current(world, ca))) == {100}


def test_crl_06_expired_certs_on_crl_keeps_all(world, ca) -> None:
    world.issue(ca, 100, days=1)
    world.revoke(ca, 100, 1)
    for _ in range(3):
        world.clock.advance(days=1)
        drive(world.crls.build(ADMIN, "default", "ca"))
    assert on(current(world, ca)) == {}
    world.change_document(ca, AuthorityDocument(crl=CRLPolicy(expired_certs_on_crl=True)))
    (crl,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert set(on(crl)) == {100}
    extension = load(crl).extensions.get_extension_for_oid(x509.ObjectIdentifier("2.5.29.60"))
    assert extension.value.value[2:] == ca.not_before.strftime("%Y%m%d%H%M%SZ").encode()


def test_crl_10_each_key_signs_its_own(world, ca) -> None:
    newer = world.authority(generation=2, subject="CN=ca")
    world.issue(newer, 1)
    world.revoke(ca, 1, 1)
    old, new = current(world, ca), current(world, newer)
    assert (set(on(old)), set(on(new))) == ({1}, set())
    identifiers = {
        load(crl).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        for crl in (old, new)
    }
    assert len(identifiers) == 2
    assert [crl.issuer_id for crl in drive(world.crls.build(ADMIN, "default", "ca"))] == [
        ca.id,
        newer.id,
    ]


def test_crl_11_on_schedule_only(world) -> None:
    document = AuthorityDocument(crl=CRLPolicy(rebuild="scheduled", period_hours=10))
    issuer = world.authority(document=document)
    world.issue(issuer, 1)
    assert drive(world.crls.rebuild_due()) == 1
    world.revoke(issuer, 1, 1)
    assert on(current(world, issuer)) == {}
    assert drive(world.crls.rebuild_due()) == 0
    world.clock.advance(hours=10)
    assert drive(world.crls.rebuild_due()) == 1
    assert set(on(current(world, issuer))) == {1}


def test_crl_11_rebuild_due_makes_what_a_revocation_asks_for(world, ca) -> None:
    other = world.authority("other")
    assert drive(world.crls.rebuild_due()) == 2
    assert drive(world.crls.rebuild_due()) == 0
    world.revoke(ca, 1, 1)
    assert drive(world.crls.rebuild_due()) == 1
    assert current(world, other).number == 1
    assert current(world, ca).number == 2


def test_crl_11_a_delay_gathers_revocations(world) -> None:
    issuer = world.authority(document=AuthorityDocument(crl=CRLPolicy(delay_seconds=60)))
    world.issue_many(issuer, [1, 2])
    current(world, issuer)
    world.clock.advance(seconds=30)
    for serial in (1, 2):
        world.revoke(issuer, serial, 1)
        assert current(world, issuer).number == 1
    world.clock.advance(seconds=31)
    assert set(on(current(world, issuer))) == {1, 2}


def test_crl_11_a_crl_that_is_due_is_made_at_the_download(world, ca) -> None:
    current(world, ca)
    world.clock.advance(hours=25)
    assert current(world, ca).number == 2


def test_crl_11_rebuild_due_goes_on_after_a_failure(world, ca) -> None:
    world.authority("other")

    def fail() -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    assert drive(with_keyring(world, Meanwhile(world.keyring, fail)).rebuild_due()) == 1


def test_crl_10_after_its_end_an_issuer_signs_no_more(world, ca) -> None:
    last = current(world, ca)
    world.clock.advance(days=365 * 20)
    assert current(world, ca).number == last.number
    with pytest.raises(Fault) as caught:
        drive(world.crls.build(ADMIN, "default", "ca"))
    assert caught.value.rule == "crl.signer"


def test_crl_a_compromised_issuer_lists_everything(world, ca) -> None:
    world.revoke(ca, 5, 4)
    current(world, ca)
    world.clock.advance(hours=1)
    world.issue(ca, 21, state="intent")
    world.compromise(ca)
    (crl,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert on(crl) == {
        serial: Reason.SUPERSEDED if serial == 5 else Reason.CA_COMPROMISE
        for serial in range(1, 21)
    }


def test_crl_15_only_what_changed_is_encoded_anew(world, ca, monkeypatch) -> None:
    monkeypatch.setattr(entries, "CHUNK", 50)
    serials = list(range(1000, 2000))
    ids = world.issue_many(ca, serials)
    drive(world.revocation.revoke_many(ADMIN, "default", ids[::2], 4))
    assert set(on(current(world, ca))) == set(serials[::2])
    encoded: list[int] = []
    original = crlcodec.encode_entries

    def count(rows):
        encoded.append(len(rows))
        return original(rows)

    monkeypatch.setattr(crlcodec, "encode_entries", count)
    world.revoke(ca, 1001, 1)
    assert set(on(current(world, ca))) == {1001, *serials[::2]}
    assert sum(encoded) <= 100


def test_crl_15_a_random_history_in_chunks_equals_one_read(world, ca, monkeypatch) -> None:
    monkeypatch.setattr(entries, "CHUNK", 5)
    chance = random.Random(3)
    serials = [chance.getrandbits(64) for _ in range(80)]
    world.issue_many(ca, serials)
    truth: dict[int, Reason] = {}
    for _ in range(60):
        world.clock.advance(seconds=chance.randrange(3))
        for _ in range(chance.randrange(4)):
            serial = chance.choice(serials)
            if truth.get(serial) is Reason.CERTIFICATE_HOLD and chance.random() < 0.7:
                world.release(ca, serial)
                del truth[serial]
            elif serial not in truth:
                reason = chance.choice([Reason.CERTIFICATE_HOLD, Reason.SUPERSEDED])
                world.revoke(ca, serial, reason)
                truth[serial] = reason
        assert on(current(world, ca)) == truth
    # Nothing is lost when the list of changes is gone.
    world.clock.advance(days=2)
    serial = next(one for one in serials if one not in truth)
    world.revoke(ca, serial, 1)
    world.write(prune, world.clock() + timedelta(days=1))
    assert on(current(world, ca)) == truth | {serial: Reason.KEY_COMPROMISE}
    assert on(current(world, ca, world.another_process())) == on(current(world, ca))


def test_t_ocsp_04_crl_and_database_agree_after_a_random_history(world, ca) -> None:
    chance = random.Random(11)
    serials = list(range(100, 300))
    world.issue_many(ca, serials)
    for _ in range(400):
        serial = chance.choice(serials)
        try:
            chance.choice(
                (
                    lambda s: world.revoke(ca, s, chance.choice(REASONS)),
                    lambda s: world.hold(ca, s),
                    lambda s: world.release(ca, s),
                )
            )(serial)
        except Fault as fault:
            if fault.code is not FaultCode.CONFLICT:
                raise
    listed = on(current(world, ca))
    for serial in serials:
        status = drive(world.status.of(ca.id, serial))
        assert (status.state == "revoked") == (serial in listed)
        if status.state == "revoked":
            assert listed[serial] is status.reason


def test_crl_build_and_show_ask_for_permission(world, ca) -> None:
    auditor = Actor("person:ann", (Grant("auditor", "default"),))
    stranger = Actor("person:sam", (Grant("administrator", "other"),))
    with pytest.raises(Fault) as caught:
        drive(world.crls.build(auditor, "default", "ca"))
    assert caught.value.code is FaultCode.FORBIDDEN
    for call in (
        world.crls.build(stranger, "default", "ca"),
        world.crls.show(stranger, "default", "ca"),
        world.crls.show(ADMIN, "default", "nothing"),
    ):
        with pytest.raises(Fault) as caught:
            drive(call)
        assert caught.value.code is FaultCode.NOT_FOUND
    drive(world.crls.build(ADMIN, "default", "ca"))
    assert [row.number for row in drive(world.crls.show(auditor, "default", "ca"))] == [1]


def test_crl_build_is_journaled_and_a_dry_run_is_not(world, ca) -> None:
    (crl,) = drive(world.crls.build(ADMIN, "default", "ca", dry_run=True))
    assert crl.number == 1
    assert world.events() == []
    drive(world.crls.build(ADMIN, "default", "ca"))
    assert world.events() == [("crl.published", "ca")]


def test_crl_superseded_octets_are_not_kept(world, ca) -> None:
    for serial in (1, 2, 3):
        world.revoke(ca, serial, 1)
        current(world, ca)

    def sizes(connection) -> list[int | None]:
        column = sa.func.length(tables.crls.c.crl_der)
        return list(connection.execute(sa.select(column).order_by(tables.crls.c.number)).scalars())

    first, second, third = drive(world.database.read(sizes))
    assert (first, second) == (None, None)
    assert third == len(current(world, ca).der)


# Over HTTP.


def fetch(world: World, tail: str, headers: dict[str, str] | None = None) -> Response:
    repository = Repository(world, max_age_seconds=3600)
    call = repository.crl if tail.endswith((".crl", ".pem")) else repository.aia
    request = Request(
        method="GET", path=b"/crl" + tail.encode(), tail=tail.encode(), headers=headers or {}
    )
    return drive(call(request))


def test_crl_13_der_and_its_headers(world, ca) -> None:
    world.revoke(ca, 1, 1)
    response = fetch(world, "/ca.crl")
    crl = current(world, ca)
    headers = dict(response.headers)
    assert (response.status, response.content_type) == (200, "application/pkix-crl")
    assert response.body == crl.der
    assert headers["ETag"] == f'"{crl.sha256.hex()}"'
    assert parsedate_to_datetime(headers["Last-Modified"]) == crl.this_update
    assert headers["Cache-Control"] == "max-age=3600, public, no-transform"
    assert parsedate_to_datetime(headers["Expires"]) == world.clock() + timedelta(hours=1)


def test_crl_13_max_age_ends_with_next_update(world) -> None:
    rules = CRLPolicy(rebuild="scheduled", period_hours=24, overlap_hours=1)
    issuer = world.authority("ca", document=AuthorityDocument(crl=rules))
    crl = current(world, issuer)
    world.clock.time = crl.next_update - timedelta(minutes=10)

    def fail() -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    services = copy.copy(world)
    services.crls = with_keyring(world, Meanwhile(world.keyring, fail))
    headers = dict(fetch(services, "/ca.crl").headers)
    assert headers["Cache-Control"].startswith("max-age=600,")
    assert parsedate_to_datetime(headers["Expires"]) == crl.next_update


def test_crl_13_pem(world, ca) -> None:
    response = fetch(world, "/ca.pem")
    read = x509.load_pem_x509_crl(response.body)
    assert read.public_bytes(Encoding.DER) == current(world, ca).der
    assert fetch(world, "/ca.pem").headers == response.headers
    assert dict(response.headers)["ETag"] != dict(fetch(world, "/ca.crl").headers)["ETag"]


def test_crl_13_ca_certificate_and_chain(world, ca) -> None:
    response = fetch(world, "/ca.cer")
    assert response.content_type == "application/pkix-cert"
    assert x509.load_der_x509_certificate(response.body) == ca.certificate
    response = fetch(world, "/ca.p7c")
    assert response.content_type == "application/pkcs7-mime"
    assert pkcs7.load_der_pkcs7_certificates(response.body) == list(ca.chain)


def test_crl_10_generations_have_addresses_of_their_own(world, ca) -> None:
    newer = world.authority(generation=2, subject="CN=ca")
    assert fetch(world, "/ca.crl").body == current(world, ca).der
    assert fetch(world, "/ca_2.crl").body == current(world, newer).der


@pytest.mark.parametrize(
    "tail",
    ["/nothing.crl", "/ca.exe.crl", "/../ca.crl", "/CA.crl", "/ca.crl/", "ca.crl", "/.crl"],
)
def test_crl_13_no_such_file(tail: str, world, ca) -> None:
    with pytest.raises(Fault) as caught:
        fetch(world, tail)
    assert caught.value.code is FaultCode.NOT_FOUND


def test_crl_13_a_kind_belongs_to_its_folder(world, ca) -> None:
    repository = Repository(world, max_age_seconds=60)
    for call, tail in ((repository.crl, b"/ca.cer"), (repository.aia, b"/ca.crl")):
        with pytest.raises(Fault) as caught:
            drive(call(Request(method="GET", path=tail, tail=tail)))
        assert caught.value.code is FaultCode.NOT_FOUND


def test_crl_13_a_client_that_has_it_already(world, ca) -> None:
    headers = dict(fetch(world, "/ca.crl").headers)
    again = fetch(world, "/ca.crl", {"if-none-match": headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    again = fetch(world, "/ca.crl", {"if-modified-since": headers["Last-Modified"]})
    assert again.status == 304
    world.clock.advance(seconds=1)
    world.revoke(ca, 1, 1)
    assert fetch(world, "/ca.crl", {"if-none-match": headers["ETag"]}).status == 200
    modified = {"if-modified-since": headers["Last-Modified"]}
    assert fetch(world, "/ca.crl", modified).status == 200


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=0-99999", 0, None),
    ],
)
def test_crl_13_a_range(asked: str, start: int, stop: int | None, world, ca) -> None:
    whole = fetch(world, "/ca.crl").body
    part = fetch(world, "/ca.crl", {"range": asked})
    assert part.status == 206
    assert part.body == whole[start:stop]
    first = start % len(whole)
    last = first + len(part.body) - 1
    assert dict(part.headers)["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"range": "bytes=99999-"}, 416),
        ({"range": "bytes=-0"}, 416),
        ({"range": "bytes=0-1,3-4"}, 200),
        ({"range": "bytes=5-2"}, 200),
        ({"range": "bytes=-"}, 200),
        ({"range": "lines=0-1"}, 200),
        ({"range": "bytes=0-1", "if-range": '"another"'}, 200),
    ],
)
def test_crl_13_ranges_that_are_not_served(headers, status, world, ca) -> None:
    response = fetch(world, "/ca.crl", headers)
    assert response.status == status
    if status == 200:
        assert response.body == current(world, ca).der


def test_t_crl_01_a_reader_sees_whole_crls_whose_numbers_never_fall(world, ca) -> None:
    last_number, last_update = 0, datetime(1970, 1, 1, tzinfo=UTC)
    readers = [world.crls, world.another_process("two"), world.another_process("three")]
    chance = random.Random(5)
    ids = world.issue_many(ca, list(range(5000, 5100)))
    for _ in range(100):
        world.clock.advance(seconds=chance.choice((-1, 0, 1)))
        drive(world.revocation.revoke_by_id(ADMIN, "default", ids.pop(), 4))
        read = load(current(world, ca, chance.choice(readers)))
        assert read.is_signature_valid(ca.public_key)
        number = read.extensions.get_extension_for_oid(ExtensionOID.CRL_NUMBER).value.crl_number
        assert number > last_number
        assert read.last_update_utc >= last_update
        assert len(read) == 100 - len(ids)
        last_number, last_update = number, read.last_update_utc


def test_an_issuer_without_a_key_signs_no_crl(world, ca) -> None:
    with pytest.raises(Fault) as caught:
        drive(world.crls.current(999))
    assert caught.value.code is FaultCode.NOT_FOUND
