"""Revoke, hold, release: what may become what, who may, and what is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support import drive
from tests.world import ADMIN, World
from tmad.ca.revocation import COMPROMISES, Wish
from tmad.ca.status import GOOD, UNKNOWN, Reason, Status
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant

REASONS = [reason for reason in Reason if reason is not Reason.REMOVE_FROM_CRL]
FINAL = [reason for reason in REASONS if reason is not Reason.CERTIFICATE_HOLD]
OPERATOR = Actor("person:olga", (Grant("operator", "default"),))


@pytest.fixture
def world() -> World:
    world = World()
    world.ca = world.authority()  # type: ignore[attr-defined]  # the only one of most tests
    for serial in (1, 2, 3):
        world.issue(world.ca, serial)  # type: ignore[attr-defined]
    return world


def status(world: World, serial: int) -> Status:
    return drive(world.status.of(world.ca.id, serial))


def refusal(world: World, serial: int, reason: int, **more) -> Fault:
    with pytest.raises(Fault) as caught:
        world.revoke(world.ca, serial, reason, **more)
    return caught.value


@pytest.mark.parametrize("reason", REASONS)
def test_crl_04_every_reason_revokes_at_once(world: World, reason: Reason) -> None:
    assert status(world, 1) == GOOD
    effect = world.revoke(world.ca, 1, reason)
    assert effect.has_changed
    assert status(world, 1) == effect.after == Status("revoked", world.clock(), reason)
    assert status(world, 2) == GOOD
    kind = "certificate.held" if reason is Reason.CERTIFICATE_HOLD else "certificate.revoked"
    assert world.events() == [(kind, str(effect.certificate_id))]


@pytest.mark.parametrize("reason", [-1, 7, 8, 11, 255])
def test_crl_04_refuses_what_is_no_reason(world: World, reason: int) -> None:
    fault = refusal(world, 1, reason)
    assert (fault.code, fault.rule) == (FaultCode.REJECTED, "revocation.reason")
    assert fault.values["reason"] == str(reason)
    assert fault.explain_id
    assert status(world, 1) == GOOD


@pytest.mark.parametrize("first", FINAL)
@pytest.mark.parametrize("second", FINAL)
def test_crl_04_only_key_compromise_may_follow(world: World, first: Reason, second: Reason) -> None:
    before = world.revoke(world.ca, 1, first).after
    world.clock.advance(hours=1)
    if second == first:
        assert not world.revoke(world.ca, 1, second).has_changed
        assert status(world, 1) == before
    elif second is Reason.KEY_COMPROMISE:
        after = world.revoke(world.ca, 1, second).after
        assert after == Status("revoked", before.revoked_at, second)
    else:
        fault = refusal(world, 1, second)
        assert (fault.code, fault.rule) == (FaultCode.CONFLICT, "revocation.final")
        assert fault.values["reason"] == first.name
        assert status(world, 1) == before


def test_crl_04_a_hold_ends_by_release_or_for_good(world: World) -> None:
    held_at = world.clock()
    world.hold(world.ca, 1)
    assert not world.hold(world.ca, 1).has_changed
    world.clock.advance(days=1)
    assert world.release(world.ca, 1).after == GOOD
    assert status(world, 1) == GOOD
    assert not world.release(world.ca, 1).has_changed
    world.hold(world.ca, 2)
    second_hold = world.clock()
    world.clock.advance(days=1)
    final = world.revoke(world.ca, 2, Reason.SUPERSEDED).after
    assert final == Status("revoked", second_hold, Reason.SUPERSEDED)
    assert held_at < second_hold


@pytest.mark.parametrize("reason", FINAL)
def test_crl_04_nothing_final_is_released_or_held(world: World, reason: Reason) -> None:
    world.revoke(world.ca, 1, reason)
    for change in (world.release, world.hold):
        with pytest.raises(Fault) as caught:
            change(world.ca, 1)
        assert caught.value.code is FaultCode.CONFLICT
    assert status(world, 1).reason is reason


@pytest.mark.parametrize("reason", FINAL)
def test_crl_04_only_a_compromise_is_dated_back(world: World, reason: Reason) -> None:
    world.clock.advance(days=30)
    since = world.clock() - timedelta(days=10)
    if reason in COMPROMISES:
        effect = world.revoke(world.ca, 1, reason, at=since, invalidity_date=since)
        assert effect.after.revoked_at == since
        assert effect.invalidity_date == since
    else:
        fault = refusal(world, 1, reason, at=since)
        assert (fault.code, fault.rule) == (FaultCode.REJECTED, "revocation.date.past")
        fault = refusal(world, 1, reason, invalidity_date=since)
        assert fault.rule == "revocation.date.past"


def test_crl_04_a_compromise_moves_back_but_never_forth(world: World) -> None:
    world.clock.advance(days=30)
    first = world.revoke(world.ca, 1, 1).after.revoked_at
    earlier = first - timedelta(days=5)
    assert world.revoke(world.ca, 1, 1, at=earlier).after.revoked_at == earlier
    assert not world.revoke(world.ca, 1, 1, at=first).has_changed
    assert status(world, 1).revoked_at == earlier


@pytest.mark.parametrize("name", ["at", "invalidity_date"])
def test_crl_04_refuses_dates_that_cannot_be(world: World, name: str) -> None:
    now = world.clock()
    fault = refusal(world, 1, 1, **{name: now + timedelta(seconds=1)})
    assert fault.rule == "revocation.date.future"
    fault = refusal(world, 1, 1, **{name: now - timedelta(days=3)})
    assert fault.rule == "revocation.date.before-certificate"


def test_crl_04_a_dry_run_changes_and_journals_nothing(world: World) -> None:
    effect = world.revoke(world.ca, 1, 1, dry_run=True)
    assert effect.has_changed
    assert status(world, 1) == GOOD
    assert world.events() == []
    world.revoke(world.ca, 2, 4)
    with pytest.raises(Fault):
        world.revoke(world.ca, 2, 5, dry_run=True)
    assert len(world.events()) == 1


def test_a_stranger_sees_no_certificate_of_another_tenant(world: World) -> None:
    other = world.authority("theirs", tenant="other")
    world.issue(other, 9)
    # Through his own tenant he cannot reach it, and of the other he hears nothing.
    with pytest.raises(Fault) as own:
        drive(world.revocation.revoke(OPERATOR, "default", other.id, 9, 1))
    with pytest.raises(Fault) as absent:
        drive(world.revocation.revoke(OPERATOR, "default", other.id, 10, 1))
    assert (own.value.code, own.value.detail) == (absent.value.code, absent.value.detail)
    with pytest.raises(Fault) as foreign:
        drive(world.revocation.revoke(OPERATOR, "other", other.id, 9, 1))
    assert foreign.value.code is FaultCode.NOT_FOUND
    assert drive(world.status.of(other.id, 9)) == GOOD


@pytest.mark.parametrize("role", ["auditor", "approver"])
def test_who_may_not_revoke_is_refused(world: World, role: str) -> None:
    actor = Actor("person:ann", (Grant(role, "default"),))
    calls = world.revocation
    for call in (
        calls.revoke(actor, "default", world.ca.id, 1, 1),
        calls.revoke_by_id(actor, "default", 1, 1),
        calls.revoke_many(actor, "default", [1], 1),
        calls.hold(actor, "default", world.ca.id, 1),
        calls.release(actor, "default", world.ca.id, 1),
    ):
        with pytest.raises(Fault) as caught:
            drive(call)
        assert caught.value.code is FaultCode.FORBIDDEN
    assert status(world, 1) == GOOD


def test_an_intent_cannot_be_revoked_and_a_void_one_can(world: World) -> None:
    world.issue(world.ca, 50, state="intent")
    world.issue(world.ca, 51, state="void")
    assert refusal(world, 50, 1).code is FaultCode.NOT_FOUND
    assert world.revoke(world.ca, 51, 1).after.reason is Reason.KEY_COMPROMISE


def test_revoke_many_goes_on_after_a_refusal(world: World) -> None:
    ids = [*world.issue_many(world.ca, list(range(1000, 1500)))]
    world.revoke(world.ca, 1200, Reason.SUPERSEDED)
    result = drive(
        world.revocation.revoke_many(ADMIN, "default", [*ids, 999_999], Reason.AA_COMPROMISE)
    )
    assert sum(effect.has_changed for effect in result.effects) == 499
    assert [number for number, _ in result.refused] == [ids[200], 999_999]
    assert status(world, 1200).reason is Reason.SUPERSEDED
    assert status(world, 1499).reason is Reason.AA_COMPROMISE


def test_change_in_belongs_to_the_callers_transaction(world: World) -> None:
    certificate_id = world.issue(world.ca, 60)

    def change_then_fail(connection) -> None:
        world.revocation.change_in(connection, ADMIN, "default", certificate_id, Wish(reason=4))
        raise Fault(FaultCode.INTERNAL, "the caller fails")

    with pytest.raises(Fault, match="the caller fails"):
        world.write(change_then_fail)
    assert status(world, 60) == GOOD
    assert world.events() == []


def test_t_crl_02_a_certificate_with_the_same_key_and_name_stays_good(world: World) -> None:
    # Two CA certificates for one key: revoking one of them must not touch the other.
    world.issue(world.ca, 70)
    world.issue(world.ca, 71)
    world.revoke(world.ca, 70, Reason.CESSATION_OF_OPERATION)
    assert status(world, 71) == GOOD


def test_ocsp_20_status_of_what_was_never_issued(world: World) -> None:
    world.issue(world.ca, 80, state="intent")
    world.issue(world.ca, 81, state="void")
    world.issue(world.ca, 2**159 - 1, state="imported")
    world.issue(world.ca, 2**600 + 7, state="imported")
    assert status(world, 80) == UNKNOWN
    assert status(world, 81).state == "revoked"
    assert status(world, 2**159 - 1) == GOOD
    assert status(world, 2**600 + 7) == GOOD
    for serial in (0, -1, -(2**80), 4, 2**159, 2**8000):
        assert status(world, serial) == UNKNOWN
    assert drive(world.status.of(999, 1)) == UNKNOWN


def test_ocsp_20_a_compromised_issuer_has_no_good_certificate(world: World) -> None:
    other = world.authority("other")
    world.issue(other, 1)
    earlier = world.revoke(world.ca, 2, Reason.SUPERSEDED).after
    world.clock.advance(hours=1)
    world.compromise(world.ca)
    for serial in (1, 5555, -1, 2**200):
        assert status(world, serial) == Status("revoked", world.clock(), Reason.CA_COMPROMISE)
    assert status(world, 2) == earlier
    assert drive(world.status.of(other.id, 1)) == GOOD


def test_status_fails_when_nobody_can_know(world: World) -> None:
    world.database.close()
    with pytest.raises(Fault) as caught:
        drive(world.status.of(world.ca.id, 1))
    assert caught.value.code is FaultCode.UNAVAILABLE
