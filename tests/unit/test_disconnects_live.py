"""From the decision to the order: what lets somebody in is what puts him off again (R-85)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.hierarchy_world import ADMIN
from tests.network_world import NetworkWorld, a_visit
from tests.pki import Authority
from tests.support import drive
from tests.unit.test_trust_anchors import publish, trusting
from tmad.network.clients import Client
from tmad.network.disconnects import Disconnects, Order, Outcome


class Ended:
    """Disconnects beside a decision; every NAS obeys."""

    def __init__(self, world: NetworkWorld) -> None:
        self.orders: list[Order] = []

        async def named(tenant: str, name: str) -> Client:
            from tests.network_sessions import client

            return client()

        def ask(order: Order) -> Deferred[Outcome]:
            self.orders.append(order)
            return succeed(Outcome(word="acknowledged", is_done=True, is_over=True))

        self._disconnects = Disconnects(
            world.database, world.changes, world.journal, world.sessions, world.clock,
            client=named, is_revoked=world.anchors.is_revoked, ask=ask, count=lambda word: None,
        )  # fmt: skip

    def now(self) -> list[str]:
        """Return the sessions that are ended by now."""
        drive(self._disconnects.tick())
        return [order.session.id for order in self.orders]


@pytest.fixture
def world() -> NetworkWorld:
    world = NetworkWorld().prepare()
    world.policy()
    return world


@pytest.fixture
def ended(world: NetworkWorld) -> Ended:
    ended = Ended(world)
    ended.now()
    return ended


def test_r87_who_is_put_off_does_not_come_back(world: NetworkWorld, ended: Ended) -> None:
    certificate = world.issue("laptop")
    admitted = world.login(certificate)
    other = world.issue("other")
    world.login(other, visit=a_visit(calling_station="0200000000bb", nas_port="9"))
    assert ended.now() == []
    world.revoke(certificate)
    assert ended.now() == [admitted.session]
    assert world.refused(certificate, resumed=True).rule == "network.revoked"


def test_a_foreign_certificate_in_a_newer_crl_is_put_off(
    world: NetworkWorld, ended: Ended, tmp_path: Path
) -> None:
    world.clock.time = datetime.now(UTC)  # the partner's certificates are of today
    partner = Authority(tmp_path / "partner", "Partner CA")
    trusting(world, partner)
    publish(world, partner)
    guest = partner.issue("guest.test").certificate
    admitted = world.login(guest)
    assert ended.now() == []
    world.later(hours=1)
    publish(world, partner, [guest.serial_number])
    assert ended.now() == [admitted.session]


def test_an_anchor_that_is_switched_off_puts_its_guests_off(
    world: NetworkWorld, ended: Ended, tmp_path: Path
) -> None:
    world.clock.time = datetime.now(UTC)  # the partner's certificates are of today
    partner = Authority(tmp_path / "partner", "Partner CA")
    trusting(world, partner)
    publish(world, partner)
    admitted = world.login(partner.issue("guest.test").certificate)
    drive(world.objects.delete(ADMIN, "default", "trust-anchor", "partner"))
    assert ended.now() == [admitted.session]
    assert world.refused(partner.issue("guest2.test").certificate).rule == "network.wrong-authority"


def test_a_disabled_person_and_a_blocked_device_are_put_off(
    world: NetworkWorld, ended: Ended
) -> None:
    world.person("alice")
    certificate = world.issue("alice-laptop")
    world.own(certificate, "person:alice")
    admitted = world.login(certificate)
    assert admitted.person == "alice"
    world.change_person("alice", disabled_at=world.clock())
    assert ended.now() == [admitted.session]
