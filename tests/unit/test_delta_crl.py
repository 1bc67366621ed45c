"""Delta CRLs: what is on them, which base they begin at, when there is one (RFC 5280, 5.2.4)."""

from __future__ import annotations

import random
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.directory_world import DirectoryWorld
from tests.support import drive
from tests.unit.test_crl import Meanwhile, current, fetch, load, on, with_keyring
from tests.world import ADMIN, World
from tmad.ca import deltas
from tmad.ca.authority import AuthorityDocument, CRLPolicy
from tmad.ca.crl import CRL
from tmad.ca.hierarchy import Issuer
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.storage import certificates as certificate_rows
from tmad.storage import crls, tables

DELTAS = AuthorityDocument(crl=CRLPolicy(delta_hours=12))
NUMBER = x509.CRLNumber
HELD, REMOVED = Reason.CERTIFICATE_HOLD, Reason.REMOVE_FROM_CRL


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ca(world: World) -> Issuer:
    issuer = world.authority(document=DELTAS)
    world.issue_many(issuer, list(range(1, 21)))
    return issuer


def read(crl: CRL) -> x509.CertificateRevocationList:
    assert crl.delta is not None
    return x509.load_der_x509_crl(crl.delta.der)


def base_of(crl: CRL) -> int:
    indicator = read(crl).extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert indicator.critical
    assert crl.delta is not None
    assert indicator.value.crl_number == crl.delta.base_number
    return indicator.value.crl_number


def changed(crl: CRL) -> dict[int, Reason]:
    """Return the entries of the delta CRL; no serial number stands there twice."""
    found = {}
    for entry in read(crl):
        assert entry.serial_number not in found
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            found[entry.serial_number] = Reason.UNSPECIFIED
        else:
            found[entry.serial_number] = {
                "remove_from_crl": REMOVED,
                "key_compromise": Reason.KEY_COMPROMISE,
                "superseded": Reason.SUPERSEDED,
                "certificate_hold": HELD,
            }[reason.name]
    assert crl.delta is not None
    assert crl.delta.entries == len(found)
    return found


def combined(old: CRL, new: CRL) -> dict[int, Reason]:
    """Return what a client knows that has ``old`` and fetches the delta of ``new``."""
    assert base_of(new) <= old.number < new.number
    known = on(old) | changed(new)
    return {serial: reason for serial, reason in known.items() if reason is not REMOVED}


def change(world: World, issuer: Issuer, **rules: object) -> None:
    document = AuthorityDocument(crl=CRLPolicy.model_validate(rules))
    world.change_document(issuer, document)


def test_crl_07_off_by_default(world: World) -> None:
    issuer = world.authority()
    crl = current(world, issuer)
    assert crl.delta is None
    with pytest.raises(x509.ExtensionNotFound):
        load(crl).extensions.get_extension_for_class(x509.FreshestCRL)
    with pytest.raises(Fault) as caught:
        fetch(world, "/ca-delta.crl")
    assert (caught.value.code, caught.value.rule) == (FaultCode.NOT_FOUND, "crl.delta")


def test_crl_07_the_first_one_begins_at_the_crl_it_came_with(world: World, ca: Issuer) -> None:
    world.revoke(ca, 1, 1)
    crl = current(world, ca)
    delta = read(crl)
    assert (base_of(crl), changed(crl)) == (crl.number, {})
    assert delta.is_signature_valid(ca.public_key)
    assert delta.issuer.public_bytes() == ca.subject_der
    assert delta.extensions.get_extension_for_class(NUMBER).value.crl_number == crl.number
    assert delta.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier) == load(
        crl
    ).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert delta.last_update_utc == crl.this_update
    assert delta.next_update_utc == crl.this_update + timedelta(hours=12)
    with pytest.raises(x509.ExtensionNotFound):
        delta.extensions.get_extension_for_class(x509.FreshestCRL)
    freshest = load(crl).extensions.get_extension_for_class(x509.FreshestCRL)
    expected = x509.DistributionPoint(
        [x509.UniformResourceIdentifier("http://pki.test/crl/ca-delta.crl")], None, None, None
    )
    assert freshest == x509.Extension(x509.FreshestCRL.oid, False, x509.FreshestCRL([expected]))


def test_crl_07_what_changed_since_the_base(world: World, ca: Issuer) -> None:
    world.revoke(ca, 1, 4)
    world.hold(ca, 2)
    first = current(world, ca)
    world.revoke(ca, 3, 1)
    world.release(ca, 2)
    second = current(world, ca)
    assert base_of(second) == first.number
    assert changed(second) == {3: Reason.KEY_COMPROMISE, 2: REMOVED}
    assert combined(first, second) == on(second)
    world.revoke(ca, 1, 1)  # another reason
    third = current(world, ca)
    assert base_of(third) == first.number
    assert combined(first, third) == combined(second, third) == on(third)


def test_crl_05_a_hold_between_two_crls_is_taken_off_again(world: World, ca: Issuer) -> None:
    first = current(world, ca)
    world.hold(ca, 2)
    second = current(world, ca)
    world.release(ca, 2)
    third = current(world, ca)
    # It was not on the base, yet whoever has the second one must hear of it (RFC 5280, 5.2.4).
    assert base_of(third) == first.number
    assert changed(third) == {2: REMOVED}
    assert combined(first, third) == combined(second, third) == {}


def test_crl_07_what_was_given_up_is_on_it(world: World, ca: Issuer) -> None:
    row_id = world.issue(ca, 300, state="intent")
    first = current(world, ca)
    row = drive(world.database.read(certificate_rows.by_id, "default", row_id))
    assert world.write(certificate_rows.void, row, world.clock())
    second = current(world, ca)
    assert combined(first, second) == on(second) == {300: Reason.UNSPECIFIED}


def test_crl_06_expired_entries_are_taken_off(world: World, ca: Issuer) -> None:
    world.issue(ca, 100, days=1)
    world.revoke(ca, 100, 1)
    world.revoke(ca, 1, 4)
    first = current(world, ca)
    world.clock.advance(days=1, seconds=1)
    second = current(world, ca)
    assert combined(first, second) == on(second)
    assert 100 in on(second)
    world.clock.advance(hours=12)
    third = current(world, ca)
    assert base_of(third) == first.number
    assert changed(third) == {100: REMOVED}
    assert combined(first, third) == combined(second, third) == on(third)
    assert 100 not in on(third)


def test_crl_06_revoked_and_expired_since_the_base(world: World, ca: Issuer) -> None:
    world.issue(ca, 100, days=1)
    first = current(world, ca)
    world.revoke(ca, 100, 1)
    history = [first, current(world, ca)]
    for _ in range(4):
        world.clock.advance(hours=12, seconds=1)
        history.append(current(world, ca))
        for old in history[:-1]:
            assert combined(old, history[-1]) == on(history[-1])
    assert changed(history[-1]) == {100: REMOVED}


def test_crl_06_where_expired_ones_stay_nothing_is_taken_off(world: World) -> None:
    document = AuthorityDocument(crl=CRLPolicy(delta_hours=24, expired_certs_on_crl=True))
    issuer = world.authority(document=document)
    world.issue(issuer, 1, days=1)
    world.revoke(issuer, 1, 1)
    first = current(world, issuer)
    world.clock.advance(days=3)
    second = current(world, issuer)
    assert combined(first, second) == on(second) == {1: Reason.KEY_COMPROMISE}
    oid = x509.ObjectIdentifier("2.5.29.60")
    assert read(second).extensions.get_extension_for_oid(oid)
    # Another rule is another scope: nobody can get there by a delta.
    change(world, issuer, delta_hours=24)
    (third,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert base_of(third) == third.number


def test_crl_07_the_base_is_the_oldest_that_is_still_good(world: World) -> None:
    rules = CRLPolicy(delta_hours=4, period_hours=6, overlap_hours=2)
    issuer = world.authority(document=AuthorityDocument(crl=rules))
    world.issue_many(issuer, list(range(1, 40)))
    history = [current(world, issuer)]
    for serial in range(1, 30):
        world.clock.advance(minutes=50)
        world.revoke(issuer, serial, 4)
        crl = current(world, issuer)
        good = [old for old in history if old.next_update > world.clock()]
        assert base_of(crl) == good[0].number
        for old in good:
            assert combined(old, crl) == on(crl)
        assert len(changed(crl)) < 11
        history.append(crl)


def test_crl_07_after_a_long_rest_it_begins_anew(world: World, ca: Issuer) -> None:
    current(world, ca)
    world.clock.advance(days=30)
    crl = current(world, ca)
    assert (base_of(crl), crl.number, changed(crl)) == (2, 2, {})


def test_crl_07_switched_on_and_off_it_is_so_at_once(world: World) -> None:
    issuer = world.authority()
    world.issue_many(issuer, [1, 2, 3])
    world.revoke(issuer, 1, 4)
    assert current(world, issuer).delta is None
    change(world, issuer, delta_hours=2)
    on_now = current(world, issuer)
    assert base_of(on_now) == on_now.number == 2
    assert fetch(world, "/ca-delta.crl").status == 200
    change(world, issuer)
    off = current(world, issuer, world.another_process("two"))
    assert (off.delta, off.number) == (None, 3)
    with pytest.raises(Fault):
        fetch(world, "/ca-delta.crl")
    # What changed meanwhile is on no delta that goes back behind the gap.
    world.revoke(issuer, 2, 4)
    change(world, issuer, delta_hours=2)
    again = current(world, issuer)
    assert base_of(again) == again.number
    world.revoke(issuer, 3, 4)
    last = current(world, issuer)
    assert combined(again, last) == on(last)


def test_crl_07_both_are_made_when_half_of_the_deltas_time_is_over(
    world: World, ca: Issuer
) -> None:
    assert drive(world.crls.rebuild_due()) == 1
    world.clock.advance(hours=5, minutes=59)
    assert drive(world.crls.rebuild_due()) == 0
    world.clock.advance(minutes=1)
    assert drive(world.crls.rebuild_due()) == 1
    assert current(world, ca).number == 2


def test_crl_07_on_schedule_too(world: World) -> None:
    rules = CRLPolicy(rebuild="scheduled", period_hours=24, delta_hours=2)
    issuer = world.authority(document=AuthorityDocument(crl=rules))
    world.issue(issuer, 1)
    first = current(world, issuer)
    world.revoke(issuer, 1, 4)
    assert current(world, issuer) is first
    world.clock.advance(hours=1)
    second = current(world, issuer)
    assert changed(second) == {1: Reason.SUPERSEDED}


def test_crl_07_never_longer_than_the_complete_one(world: World) -> None:
    rules = CRLPolicy(period_hours=1, overlap_hours=1, delta_hours=24)
    crl = current(world, world.authority(document=AuthorityDocument(crl=rules)))
    assert crl.delta is not None
    assert crl.delta.next_update == crl.next_update


def test_crl_07_without_an_address_nothing_points_at_it(world: World) -> None:
    document = AuthorityDocument.model_validate(
        {"urls": {"crl": False}, "crl": {"delta_hours": 12}}
    )
    crl = current(world, world.authority(document=document))
    assert crl.delta is not None
    with pytest.raises(x509.ExtensionNotFound):
        load(crl).extensions.get_extension_for_class(x509.FreshestCRL)


def test_crl_07_a_compromised_key_has_none(world: World, ca: Issuer) -> None:
    current(world, ca)
    world.compromise(ca)
    crl = current(world, ca)
    assert (crl.delta, crl.entries) == (None, 20)


def test_crl_07_a_second_process_shows_the_same(world: World, ca: Issuer) -> None:
    other = world.another_process("two")
    first = current(world, ca)
    assert current(world, ca, other) == first
    for serial in (1, 2, 3):
        world.revoke(ca, serial, 4)
        made = current(world, ca, other)
        assert current(world, ca) == made
        assert combined(first, made) == on(made)


def test_crl_07_both_are_published_together_or_not_at_all(world: World, ca: Issuer) -> None:
    first = current(world, ca)

    def nothing() -> None:
        pass

    def fail() -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    world.revoke(ca, 1, 4)
    # The complete CRL is signed, and then the delta is not.
    away = with_keyring(world, Meanwhile(world.keyring, nothing, fail))
    assert current(world, ca, away) == first
    assert drive(world.database.read(crls.newest_head, ca.id)).number == first.number
    second = current(world, ca)
    assert combined(first, second) == on(second) == {1: Reason.SUPERSEDED}


def test_crl_07_one_that_is_over_is_not_served(world: World, ca: Issuer) -> None:
    world.crls = with_keyring(world, world.keyring)
    crl = current(world, ca)

    def fail() -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone")

    world.crls = with_keyring(world, Meanwhile(world.keyring, fail, fail, fail, fail))
    world.clock.advance(hours=11)
    headers = dict(fetch(world, "/ca-delta.crl").headers)
    assert headers["Cache-Control"].startswith("max-age=3600,")
    world.clock.advance(minutes=50)
    headers = dict(fetch(world, "/ca-delta.crl").headers)
    assert headers["Cache-Control"].startswith("max-age=600,")
    world.clock.advance(minutes=10)
    assert fetch(world, "/ca.crl").body == crl.der
    with pytest.raises(Fault) as caught:
        fetch(world, "/ca-delta.crl")
    assert (caught.value.code, caught.value.rule) == (FaultCode.UNAVAILABLE, "crl.delta-over")


def test_crl_07_a_change_while_it_is_read_is_on_both_or_on_none(
    world: World, ca: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = current(world, ca)
    original = deltas.collect
    meanwhile = [(2, 4), (3, 1)]

    async def collect(*arguments):
        if meanwhile:
            serial, reason = meanwhile.pop()
            world.revoke(ca, serial, reason)
        return await original(*arguments)

    monkeypatch.setattr(deltas, "collect", collect)
    world.revoke(ca, 1, 4)
    second = current(world, ca)
    assert combined(first, second) == on(second)
    assert set(on(current(world, ca))) == {1, 2, 3}


def test_crl_15_a_random_history_by_deltas_equals_the_complete_ones(
    world: World, ca: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "CHUNK", 3)
    change(world, ca, delta_hours=10, period_hours=20, overlap_hours=20)
    chance = random.Random(11)
    serials = list(range(1000, 1100))
    for serial in serials:
        world.issue(ca, serial, days=chance.random() * 4)
    processes = [world.crls, world.another_process("two")]
    truth: dict[int, Reason] = {}
    history: list[CRL] = []
    for _ in range(70):
        world.clock.advance(minutes=chance.randrange(180))
        for _ in range(chance.randrange(4)):
            serial = chance.choice(serials)
            if truth.get(serial) is HELD and chance.random() < 0.8:
                world.release(ca, serial)
                del truth[serial]
            elif serial not in truth:
                truth[serial] = chance.choice([HELD, Reason.SUPERSEDED])
                world.revoke(ca, serial, truth[serial])
        crl = current(world, ca, chance.choice(processes))
        if history and crl.number == history[-1].number:
            continue
        usable = [old for old in history if old.next_update > world.clock()]
        for old in usable:
            assert combined(old, crl) == on(crl)
        history.append(crl)
    assert any(REMOVED in changed(crl).values() for crl in history)
    assert len(history) > 30


def test_crl_13_der_pem_and_headers(world: World, ca: Issuer) -> None:
    current(world, ca)
    world.revoke(ca, 1, 1)
    crl = current(world, ca)
    assert crl.delta is not None
    response = fetch(world, "/ca-delta.crl")
    headers = dict(response.headers)
    assert (response.status, response.content_type) == (200, "application/pkix-crl")
    assert response.body == crl.delta.der
    assert headers["ETag"] == f'"{crl.delta.sha256.hex()}"'
    assert parsedate_to_datetime(headers["Last-Modified"]) == crl.this_update
    assert headers["Cache-Control"] == "max-age=3600, public, no-transform"
    pem = x509.load_pem_x509_crl(fetch(world, "/ca-delta.pem").body)
    assert pem.public_bytes(Encoding.DER) == crl.delta.der
    complete = x509.load_pem_x509_crl(fetch(world, "/ca.pem").body)
    assert complete.public_bytes(Encoding.DER) == crl.der
    again = fetch(world, "/ca-delta.crl", {"if-none-match": headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    newer = world.authority(generation=2, subject="CN=ca", document=DELTAS)
    assert fetch(world, "/ca_2-delta.crl").body == read(current(world, newer)).public_bytes(
        Encoding.DER
    )


@pytest.mark.parametrize("tail", ["/-delta.crl", "/nobody-delta.crl", "/ca-delta-delta.crl"])
def test_crl_13_no_such_delta(tail: str, world: World, ca: Issuer) -> None:
    with pytest.raises(Fault) as caught:
        fetch(world, tail)
    assert caught.value.code is FaultCode.NOT_FOUND


def test_only_the_newest_is_kept(world: World, ca: Issuer) -> None:
    for serial in (1, 2, 3):
        world.revoke(ca, serial, 1)
        current(world, ca)

    def kept(connection: sa.Connection) -> list[int]:
        table = tables.crls
        query = sa.select(table.c.number).where(table.c.delta_der.is_not(None))
        return list(connection.execute(query).scalars())

    assert drive(world.database.read(kept)) == [3]


def test_a_dry_run_publishes_none(world: World, ca: Issuer) -> None:
    first = current(world, ca)
    (crl,) = drive(world.crls.build(ADMIN, "default", "ca", dry_run=True))
    assert crl.delta is not None
    assert current(world, ca) == first


def test_the_journal_tells_of_it(world: World, ca: Issuer) -> None:
    crl = current(world, ca)
    assert crl.delta is not None

    def data(connection: sa.Connection) -> str:
        table = tables.journal
        query = sa.select(table.c.data).where(table.c.kind == "crl.published")
        return str(connection.execute(query).scalar_one())

    text = drive(world.database.read(data))
    assert crl.delta.sha256.hex() in text
    assert '"delta_base"' in text


def test_two_authorities_never_share_an_address() -> None:
    world = DirectoryWorld()
    rules = {"crl": {"delta_hours": 12}}
    put = world.objects.put
    drive(put(ADMIN, "default", "authority", "one", rules))
    drive(put(ADMIN, "default", "authority", "two-delta", {}))
    for name, document in (("one-delta", {}), ("two", rules)):
        with pytest.raises(Fault) as caught:
            drive(put(ADMIN, "default", "authority", name, document))
        assert caught.value.code is FaultCode.CONFLICT
        assert caught.value.rule == "authority.delta-address"
    drive(put(ADMIN, "default", "authority", "two", {}))


def test_an_authority_whose_name_ends_so_keeps_its_own(world: World, ca: Issuer) -> None:
    # As it may be in a database from before; its certificates name this address.
    other = world.authority("ca-delta")
    assert fetch(world, "/ca-delta.crl").body == current(world, other).der


def test_crl_06_revoked_after_its_end_in_the_second_of_a_crl(world: World, ca: Issuer) -> None:
    """It stays on the next one, too, which then is the base."""
    change(world, ca, delta_hours=10, period_hours=1, overlap_hours=1)
    world.issue(ca, 100, days=1)
    current(world, ca)
    world.clock.advance(days=2)
    world.revoke(ca, 100, 4)
    history = [current(world, ca)]
    for _ in range(4):
        world.clock.advance(minutes=40)
        history += drive(world.crls.build(ADMIN, "default", "ca"))
        for old in history[-3:-1]:
            assert combined(old, history[-1]) == on(history[-1])
    assert [100 in on(crl) for crl in history] == [True, True, False, False, False]


def test_crl_07_what_changes_between_two_pages_stands_there_once(
    world: World, ca: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "CHUNK", 2)
    first = current(world, ca)
    for serial in range(1, 7):
        world.hold(ca, serial)
    original = world.database.read
    todo = [1, 2, 3, 4, 5, 6]

    async def read(function, *arguments):
        found = await original(function, *arguments)
        if function is deltas._changed and todo:
            world.release(ca, todo.pop(0))  # once it was read, it is not so any more
        return found

    monkeypatch.setattr(world.database, "read", read)
    changed(current(world, ca))  # which fails for a number that stands there twice
    monkeypatch.undo()
    world.clock.advance(seconds=1)
    (last,) = drive(world.crls.build(ADMIN, "default", "ca"))
    assert combined(first, last) == on(last)
    assert set(on(last)) == set(todo)
    assert len(todo) < 6
