"""A courier: what a collector gets, when a record is settled, and what a lost connection costs."""

from __future__ import annotations

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.logger import capturedLogs

from tests.support import drive
from tests.syslog_world import ADMIN, World
from tmad.errors import Fault, FaultCode
from tmad.protocols.syslog.couriers import Couriers


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_collector_gets_what_happens_next(world: World) -> None:
    world.happen("before")
    world.put()
    courier = world.courier()
    world.happen("a", "b")
    world.turn(courier, 2)
    world.happen("c")
    world.turn(courier)
    assert world.sent() == ["a", "b", "c"]
    # Its own creation is the first news, and the numbers have no hole.
    assert [number for _, _, number in world.received] == [1, 2, 3, 4]
    assert world.received[0][0] == "log-collector.created"


def test_from_the_beginning_it_gets_the_whole_journal(world: World) -> None:
    world.happen("before")
    world.put(start="beginning")
    world.turn(world.courier(), 2)
    assert world.sent() == ["before"]


def test_y_06_a_record_is_settled_when_the_connection_has_outlived_it(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.happen("a")
    begin = world.settled()
    world.turn(courier, 10)
    assert world.sent() == ["a"]
    assert world.settled() == begin
    world.turn(courier, 15)
    assert world.settled() == begin + 2


def test_y_06_what_nobody_acknowledged_is_not_settled(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.acknowledges = False
    world.happen("a")
    begin = world.settled()
    world.turn(courier, 50)
    assert (world.sent(), world.settled()) == (["a"], begin)
    world.wires[0].unacknowledged = 0
    world.turn(courier, 2)
    assert world.settled() > begin


def test_y_06_after_a_loss_the_unsettled_is_sent_again_in_order(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.happen("a")
    world.turn(courier, 25)
    world.happen("b", "c")
    world.turn(courier)
    world.wires[0].break_()
    world.happen("d")
    world.turn(courier, 10)
    assert world.sent() == ["a", "b", "c", "b", "c", "d"]


def test_y_06_a_loss_in_the_middle_of_a_page(world: World) -> None:
    world.put()
    courier = world.courier()
    world.happen("a", "b", "c")
    world.breaks_at = 3  # its own creation, a, and b
    world.turn(courier, 10)
    assert world.sent() == ["a", "b", "a", "b", "c"]


def test_who_takes_over_goes_on_from_the_settled(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.happen("a")
    world.turn(courier, 25)
    world.happen("b")
    world.turn(courier)
    courier.drop()
    world.turn(world.courier(), 2)
    assert world.sent() == ["a", "b", "b"]


def test_an_orderly_end_settles_what_was_acknowledged(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.happen("a")
    world.turn(courier, 2)
    drive(courier.close())
    assert not world.wires[0].is_open
    world.turn(world.courier(), 2)
    assert world.sent() == ["a"]


def test_an_orderly_end_settles_nothing_that_is_under_way(world: World) -> None:
    world.put()
    world.acknowledges = False
    courier = world.courier()
    world.happen("a")
    world.turn(courier, 2)
    drive(courier.close())
    world.turn(world.courier(), 2)
    assert world.sent() == ["a", "a"]


def test_y_08_a_full_connection_gets_nothing_more(world: World) -> None:
    world.put()
    courier = world.courier()
    world.turn(courier, 2)
    world.wires[0].is_full = True
    before = world.reactor.seconds()
    world.happen(*range(300))
    world.turn(courier, pause=0)
    assert world.sent() == []
    assert world.reactor.seconds() - before < 0.5
    world.wires[0].is_full = False
    world.turn(courier)
    assert world.sent() == [str(n) for n in range(300)]


def test_a_rate_is_kept(world: World) -> None:
    world.put(rate=100)
    courier = world.courier()
    world.turn(courier, 2)
    world.happen(*range(400))
    before = world.reactor.seconds()
    while len(world.sent()) < 400:
        world.turn(courier)
    assert 3.0 < world.reactor.seconds() - before < 6.0


def test_a_record_that_cannot_be_shown_keeps_nobody(world: World) -> None:
    world.put()
    courier = world.courier()
    world.unshowable = "bad"
    world.happen("a", "bad", "c")
    with capturedLogs() as logs:
        world.turn(courier, 2)
    assert world.sent() == ["a", "c"]
    [shown] = [each for each in logs if "log_failure" in each]
    assert shown["seq"] > 0
    assert world.meter.outcomes["unshown"] == 1


def test_filters_by_kind_severity_and_tenant(world: World) -> None:
    world.put(events=["certificate.*", "*.refused"], unless=["*.held"], severity="notice")
    courier = world.courier()
    world.happen(1, kind="certificate.issued")  # information
    world.happen(2, kind="certificate.revoked")
    world.happen(3, kind="certificate.held")
    world.happen(4, kind="network.refused")
    world.happen(5, kind="person.created")
    world.happen(6, kind="certificate.revoked", tenant="acme")
    world.turn(courier, 2)
    assert [name for _, name, _ in world.received] == ["2", "4"]


def test_what_is_filtered_out_moves_the_cursor_too(world: World) -> None:
    world.put(events=["never.happens"])
    courier = world.courier()
    world.happen(*range(10))
    world.turn(courier, 6)
    assert world.received == []
    assert world.settled() == drive(world.collectors.heads())["node1"]


@pytest.mark.parametrize(
    ("tenants", "operator", "expected"),
    [
        ([], False, ["own"]),
        (["*"], False, ["own"]),
        (["acme"], False, ["own"]),
        ([], True, ["own"]),
        (["*"], True, ["own", "other"]),
        (["acme"], True, ["other"]),
    ],
)
def test_other_tenants_events_are_the_operators_alone(
    world: World, tenants: list[str], operator: bool, expected: list[str]
) -> None:
    world.put(tenants=tenants)
    world.happen("own")
    world.happen("other", tenant="acme")
    world.turn(world.courier(operator=operator), 2)
    assert world.sent() == expected


def test_y_12_an_outage_is_journaled_once_and_not_told_to_whom_it_befell(world: World) -> None:
    world.put(settle_seconds=5)
    world.put("other")
    courier, other = world.courier(), world.courier(world.collector("other"))
    world.is_down = True
    world.turn(courier, 40)
    world.is_down = False
    world.turn(courier, 200)
    [lost] = world.journaled("log-collector.unreachable")
    [back] = world.journaled("log-collector.reached")
    assert (lost.object, back.object) == ("siem", "siem")
    assert '"detail":"it is down"' in lost.data
    assert world.sent("log-collector.unreachable") == []
    world.turn(other, 2)
    assert world.sent("log-collector.unreachable") == ["siem"]
    assert world.sent("log-collector.reached") == ["siem"]


def test_a_flapping_collector_fills_no_journal(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    for _ in range(300):
        world.turn(courier)
        if courier.is_open:
            world.wires[-1].break_("certificate required")
    assert len(world.journaled("log-collector.unreachable")) == 1
    assert world.journaled("log-collector.reached") == []
    # The pauses grow: 1, 2, 4, … seconds.
    assert len(world.wires) < 10


def test_pauses_begin_anew_after_a_connection_that_lived(world: World) -> None:
    world.put(settle_seconds=5)
    courier = world.courier()
    world.is_down = True
    world.turn(courier, 100)
    world.is_down = False
    world.turn(courier, 400)
    opened = len(world.wires)
    world.wires[-1].break_()
    world.turn(courier, 6)
    assert len(world.wires) == opened + 1


def test_a_deleted_collector_leaves_no_cursor(world: World) -> None:
    world.put()
    courier = world.courier()
    world.happen("a")
    world.turn(courier, 2)
    drive(world.objects.delete(ADMIN, "default", "log-collector", "siem"))
    drive(courier.close())
    world.happen("while it was gone")
    world.put()
    world.turn(world.courier(), 2)
    assert world.sent() == ["a"]


def test_a_disabled_collector_gets_later_what_it_missed(world: World) -> None:
    world.put()
    world.change(enabled=False)
    assert drive(world.collectors.all()) == ()
    world.happen("a")
    world.put(enabled=True)
    world.turn(world.courier(), 2)
    assert world.sent() == ["a"]


def test_what_waits(world: World) -> None:
    world.put()
    begin = world.clock()
    world.happen("a", "b")
    found = drive(world.collectors.waiting(ADMIN, "default", "siem"))
    assert (found.records, found.since) == (3, begin)
    with pytest.raises(Fault) as refused:
        drive(world.collectors.waiting(ADMIN, "default", "nobody"))
    assert refused.value.code is FaultCode.NOT_FOUND


def test_documents_that_make_no_sense(world: World) -> None:
    for document in (
        {"address": ""},
        {"address": "no-port"},
        {"address": "h:0"},
        {"address": "h:65536"},
        {"events": ["Certificate Issued"]},
        {"facility": "local8"},
        {"limit": 500},
        {"tls": {"fingerprint": "ab"}},
        {"tls": {"ca": "no PEM"}},
        {"tls": {"authority": "nobody"}},
        {"tls": {"authority": "x", "fingerprint": "ab" * 32}},
    ):
        assert world.refusal(**document), document
    found = world.put(address="[2001:db8::1]:6514", transport="tls")
    assert (found.document.host, found.document.port) == ("2001:db8::1", 6514)
    colons = ":".join(["AB"] * 32)
    assert world.put(tls={"fingerprint": colons}).document.tls.fingerprint == "ab" * 32


# -- all couriers of a process ----------------------------------------------------------------


def couriers(world: World) -> Couriers:
    return Couriers(world.collectors, world.courier, world.reactor)


def turn(world: World, own: Couriers, times: int = 1) -> None:
    for _ in range(times):
        done: list[object] = []
        ensureDeferred(own.turn()).addBoth(done.append)
        while not done:
            world.reactor.advance(0.01)
        assert done == [None]
        world.reactor.advance(0.25)


def test_there_is_one_courier_for_each_collector(world: World) -> None:
    own = couriers(world)
    turn(world, own)
    world.put("one")
    world.put("two", tenant="acme")
    turn(world, own, 2)
    assert len(world.wires) == 2
    world.put("one", severity="error")
    turn(world, own, 2)
    # Changed, it is connected to anew, and nothing is sent twice.
    assert [wire.is_open for wire in world.wires] == [True, False, True]
    assert world.sent("log-collector.created") == ["log-collector/two", "log-collector/one"]
    drive(world.objects.delete(ADMIN, "acme", "log-collector", "two"))
    turn(world, own)
    assert [wire.is_open for wire in world.wires] == [False, False, True]


def test_a_dead_collector_costs_the_others_nothing(world: World) -> None:
    own = couriers(world)
    world.put("one")
    world.put("two")
    turn(world, own, 2)
    world.wires[0].is_full = True
    world.happen("a")
    turn(world, own)
    assert world.sent() == ["a"]


def test_without_the_lease_a_process_lets_go(world: World) -> None:
    own = couriers(world)
    world.put()
    turn(world, own, 2)
    assert [wire.is_open for wire in world.wires] == [True]
    world.reactor.advance(5)
    assert [wire.is_open for wire in world.wires] == [False]
    turn(world, own, 2)
    assert world.wires[1].is_open


def test_a_stop_settles_and_sends_nothing_more(world: World) -> None:
    own = couriers(world)
    world.put()
    turn(world, own, 2)
    world.happen("a")
    turn(world, own)
    drive(own.stop())
    assert not world.wires[0].is_open
    assert world.settled() == drive(world.collectors.heads())["node1"]
    world.happen("b")
    turn(world, own)
    assert world.sent() == ["a"]
    assert world.reactor.getDelayedCalls() == []


def test_a_database_that_fails_keeps_nobody_from_the_next_turn(world: World) -> None:
    own = couriers(world)
    world.put()
    turn(world, own, 2)
    real = world.collectors.heads

    async def broken() -> dict[str, int]:
        raise Fault(FaultCode.UNAVAILABLE, "the database cannot be reached")

    world.collectors.heads = broken  # type: ignore[method-assign]  # a database that is away
    turn(world, own, 2)
    world.collectors.heads = real  # type: ignore[method-assign]
    world.happen("a")
    turn(world, own)
    assert world.sent() == ["a"]
