"""Sessions, accounting and what must end, on both databases (R-50..R-56, R-80..R-87)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import Deferred, succeed

from tests.network_sessions import MAC, admitted, client, report, visit
from tests.support import Clock, drive
from tests.world import ADMIN, World
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant
from tmad.network.accounting import INTERIM, OFF, ON, START, STOP
from tmad.network.disconnects import Disconnects, Order, Outcome
from tmad.network.logins import Admitted
from tmad.network.sessions import Sessions
from tmad.storage import changes, tables
from tmad.storage import radius_sessions as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.radius_sessions import SessionRow
from tmad.storage.status import serial_octets

DONE = Outcome(word="acknowledged", is_done=True, is_over=True)
SILENT = Outcome(word="silent")


class Net:
    """Sessions and what ends them, beside a small appliance."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.clock = clock
        self.world = World(database, clock)
        self.database = database
        self.sessions = Sessions(database, self.world.journal, clock)
        self.client = client()
        self.orders: list[Order] = []
        self.outcome = DONE
        self.counted: list[str] = []
        self.revoked: set[tuple[str, str, bytes, int]] = set()
        self.disconnects = self.another()

    def another(self, **options: Any) -> Disconnects:
        """Return what ends sessions, as one more process would have it."""

        async def named(tenant: str, name: str) -> Any:
            return self.client

        async def is_revoked(tenant: str, anchor: str, issuer: bytes, serial: int) -> bool:
            return (tenant, anchor, issuer, serial) in self.revoked

        options.setdefault("ask", self._ask)
        return Disconnects(
            self.database, Changes(self.database), self.world.journal, self.sessions, self.clock,
            client=named, is_revoked=is_revoked, count=self.counted.append, **options,
        )  # fmt: skip

    def _ask(self, order: Order) -> Deferred[Outcome]:
        self.orders.append(order)
        return succeed(self.outcome)

    def login(self, method: str = "eap-tls", **changes: Any) -> str:
        said = {key: changes.pop(key) for key in list(changes) if key in _OF_VISIT}
        made = admitted(self.clock, **changes)
        drive(self.database.write(self.sessions.open_in, [(made, visit(**said), method)]))
        self.clock.advance(milliseconds=2)
        return made.session

    def account(self, status: int, **said: Any) -> bool:
        return drive(self.database.write(self.sessions.account_in, report(status, **said)))

    def row(self, session: str) -> SessionRow:
        found = drive(self.database.read(rows.by_id, session))
        assert found is not None
        return found

    def records(self) -> int:
        return len(drive(self.sessions.accounting(ADMIN, "default")))

    def live(self) -> tuple[str, ...]:
        return tuple(row.id for row in drive(self.sessions.list(ADMIN, "default")))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.world.events() if kind.startswith("network.")]

    def put(self, table: sa.Table, topic: str, key: str, **values: Any) -> None:
        def add(connection: sa.Connection) -> None:
            connection.execute(table.insert().values(**values))
            changes.record(connection, topic, key)

        drive(self.database.write(add))

    def change(self, table: sa.Table, topic: str, key: str, **values: Any) -> None:
        def update(connection: sa.Connection) -> None:
            connection.execute(table.update().values(**values))
            changes.record(connection, topic, key)

        drive(self.database.write(update))

    def person(self, name: str = "alice") -> None:
        now = self.clock()
        self.put(
            tables.people, "people", f"default/{name}", tenant="default", name=name, full_name="",
            mail="", phone="", groups="[]", source="local", created_at=now, updated_at=now,
        )  # fmt: skip

    def tick(self, disconnects: Disconnects | None = None) -> None:
        drive((disconnects or self.disconnects).tick())


_OF_VISIT = frozenset(visit().__slots__)


@pytest.fixture
def net(open_database: Callable[..., Database], clock: Clock) -> Net:
    return Net(open_database(reactor=None), clock)


@pytest.fixture
def session(net: Net) -> str:
    """A session by a certificate of ours, serial 7."""
    issuer = net.world.authority()
    net.world.issue(issuer, 7)
    net.tick()  # what was before is no news
    return net.login(certificate=(issuer.id, serial_octets(7)))


def revoke(net: Net, serial: int = 7) -> None:
    net.world.revoke(issuer_of(net), serial)


def issuer_of(net: Net) -> Any:
    return drive(net.world.hierarchy.by_id(1))


# -- accounting -------------------------------------------------------------------------------


def test_r52_a_session_opens_counts_and_closes(net: Net) -> None:
    session = net.login()
    assert net.row(session).state == "admitted"
    net.account(START, classes=(session.encode(),), framed_address="198.51.100.7")
    assert net.row(session).state == "open"
    net.clock.advance(seconds=60)
    net.account(INTERIM, seconds=60, octets_in=(3 << 32) + 5, octets_out=9)
    row = net.row(session)
    assert (row.octets_in, row.octets_out, row.seconds) == ((3 << 32) + 5, 9, 60)
    assert row.framed_address == "198.51.100.7"
    net.clock.advance(seconds=60)
    net.account(STOP, seconds=120, octets_in=(4 << 32), octets_out=10, cause="user-request")
    row = net.row(session)
    assert (row.state, row.cause, row.octets_in, row.seconds) == (
        "closed", "user-request", 4 << 32, 120,
    )  # fmt: skip
    assert net.live() == ()
    assert net.records() == 3


def test_r54_a_record_that_comes_again_with_another_delay_is_one(net: Net) -> None:
    net.login()
    assert net.account(START)
    net.clock.advance(seconds=5)
    assert not net.account(START, delay=5)
    net.clock.advance(seconds=7)
    assert not net.account(START, delay=11)  # a second is lost in rounding
    assert net.records() == 1
    # With Event-Timestamp however late.
    at = net.clock()
    assert net.account(INTERIM, seconds=10, at=at)
    net.clock.advance(hours=3)
    assert not net.account(INTERIM, seconds=10, at=at, delay=10_800)
    assert net.records() == 2
    # Another step of the same session is another record.
    assert net.account(INTERIM, seconds=20, at=net.clock())


def test_a_session_of_the_same_number_after_a_restart_is_another_one(net: Net) -> None:
    assert net.account(START)
    net.account(STOP, seconds=3)
    [first] = [row.id for row in drive(net.sessions.list(ADMIN, "default", everything=True))]
    net.clock.advance(hours=1)
    assert net.account(START)
    [second] = net.live()
    assert second != first
    assert net.row(first).state == "closed"


def test_a_late_interim_takes_nothing_back_and_opens_nothing(net: Net) -> None:
    session = net.login()
    net.account(START)
    net.account(INTERIM, seconds=100, octets_in=1000)
    net.account(INTERIM, seconds=50, octets_in=500, delay=60)
    assert net.row(session).octets_in == 1000
    net.account(STOP, seconds=110, octets_in=1100, cause="lost-carrier")
    net.clock.advance(seconds=30)
    net.account(INTERIM, seconds=105, octets_in=1050, delay=40)
    row = net.row(session)
    assert (row.state, row.octets_in) == ("closed", 1100)


@pytest.mark.parametrize("status", [ON, OFF])
def test_r52_on_and_off_close_all_sessions_of_that_nas(net: Net, status: int) -> None:
    here = net.login()
    also = net.login(session_key="A2", calling_station="0200000000bb", nas_port="2")
    there = net.login(address="192.0.2.9", nas_identifier="sw9", session_key="B1")
    other = net.login(client="wlan", nas_identifier="sw1")
    net.clock.advance(seconds=10)
    assert net.account(status, session_key="", calling_station="", user_name="")
    assert {net.row(one).state for one in (here, also)} == {"closed"}
    assert {net.row(one).state for one in (there, other)} == {"admitted"}
    # It comes again, and meanwhile somebody has logged in.
    fresh = net.login(session_key="A3")
    net.clock.advance(seconds=5)
    assert not net.account(status, session_key="", calling_station="", user_name="", delay=5)
    assert net.row(fresh).is_live
    assert net.kinds() == ["network.nas-on" if status == ON else "network.nas-off"]


def test_r12_a_session_is_found_by_class_then_by_number_then_by_station(net: Net) -> None:
    session = net.login(session_key="")
    net.account(START, classes=(b"not ours", session.encode()), session_key="N1")
    assert net.row(session).session_key == "N1"
    net.account(INTERIM, session_key="N1", calling_station="", seconds=1)
    assert net.row(session).seconds == 1
    bare = net.login(session_key="", calling_station="0200000000cc", nas_port="7")
    net.account(START, session_key="N2", calling_station="0200000000cc")
    assert net.row(bare).session_key == "N2"
    assert len(net.live()) == 2


def test_another_tenants_class_is_nobodys(net: Net) -> None:
    session = net.login()
    net.account(
        STOP, tenant="other", classes=(session.encode(),), session_key="", calling_station=""
    )
    net.account(
        STOP, client="wlan", classes=(session.encode(),), session_key="", calling_station=""
    )
    assert net.row(session).is_live


def test_r56_what_accounting_alone_tells_of_stands_on_nothing(net: Net) -> None:
    net.account(START, user_name="root", session_key="Z9", calling_station="0200000000dd")
    [row] = drive(net.sessions.list(ADMIN, "default"))
    assert (row.user_name, row.method, row.person, row.issuer_id) == ("root", "", None, None)


def test_r55_what_is_not_heard_of_is_closed_and_opens_again_when_it_speaks(net: Net) -> None:
    quiet = net.login()
    heard = net.login(
        session_key="A2", calling_station="0200000000bb", nas_port="2",
        attributes=(("Acct-Interim-Interval", 600),),
    )  # fmt: skip
    net.account(START, session_key="A2", calling_station="0200000000bb")
    net.account(INTERIM, session_key="A2", calling_station="0200000000bb", seconds=600)
    net.clock.advance(seconds=1270)
    assert drive(net.sessions.expire()) == 1
    assert (net.row(heard).state, net.row(heard).cause) == ("closed", "stale")
    net.account(INTERIM, session_key="A2", calling_station="0200000000bb", seconds=1870)
    assert net.row(heard).state == "open"
    net.clock.advance(hours=23, minutes=45)
    assert drive(net.sessions.expire()) == 2
    assert not net.row(quiet).is_live


def test_a_session_with_a_timeout_is_over_soon_after_it(net: Net) -> None:
    session = net.login(session_timeout=3600)
    net.clock.advance(seconds=3600)
    assert drive(net.sessions.expire()) == 0
    net.clock.advance(seconds=301)
    assert drive(net.sessions.expire()) == 1
    assert net.row(session).cause == "stale"


def test_logins_that_share_a_transaction_end_one_another_in_their_order(net: Net) -> None:
    before = net.login(calling_station="020000000002", nas_port="2")
    made = [admitted(net.clock) for _ in range(5)]
    stations = ["020000000001", "020000000002", "020000000001", "203.0.113.5", "203.0.113.5"]
    visits = [visit(calling_station=each, nas_port="2") for each in stations]
    logins = [(each, said, "eap-tls") for each, said in zip(made, visits, strict=True)]
    drive(net.database.write(net.sessions.open_in, logins))
    live = {each.session for each in made[1:]}
    assert set(net.live()) == live
    assert {net.row(each).cause for each in (before, made[0].session)} == {"superseded"}


def test_a_station_that_logs_in_again_has_one_session(net: Net) -> None:
    first = net.login()
    second = net.login()
    assert net.live() == (second,)
    assert net.row(first).cause == "superseded"
    # What the switch still says under the old Class belongs to the new one.
    net.account(START, classes=(first.encode(),))
    assert net.row(second).state == "open"
    # A VPN client's address may have many.
    one = net.login(calling_station="203.0.113.5", session_key="V1", nas_port="")
    two = net.login(calling_station="203.0.113.5", session_key="V2", nas_port="")
    assert {one, two} < set(net.live())


def test_simultaneous_use_counts_other_stations_that_are_confirmed_or_fresh(net: Net) -> None:
    def count(station: str) -> int:
        return drive(net.database.read(rows.count_live, "default", "alice", station, net.clock()))

    net.login(person="alice")
    assert (count(MAC), count("0200000000bb")) == (0, 1)
    net.clock.advance(minutes=6)
    assert count("0200000000bb") == 0
    net.account(START)
    assert count("0200000000bb") == 1


def test_raw_records_and_old_sessions_are_pruned(net: Net) -> None:
    old = net.login()
    net.account(START)
    net.account(STOP, seconds=1)
    net.clock.advance(days=100)
    young = net.login(session_key="A2")
    net.account(START, session_key="A2")
    assert (
        drive(net.sessions.prune(accounting=timedelta(days=90), sessions=timedelta(days=90))) == 3
    )
    assert drive(net.database.read(rows.by_id, old)) is None
    assert net.row(young).state == "open"
    assert net.records() == 1


def test_a_zero_octet_in_a_name_is_stored_on_both_databases(net: Net) -> None:
    session = net.login(ssid="a\0b")
    assert net.account(START, user_name="x\0y", session_key="A1", data={"User-Name": "x\0y"})
    assert net.row(session).ssid == "a\N{REPLACEMENT CHARACTER}b"


def test_another_tenant_sees_and_ends_nothing(net: Net) -> None:
    session = net.login()
    net.account(START)
    stranger = Actor("local:other", (Grant("administrator", "other"),))
    for call in (
        net.sessions.show(stranger, "other", session),
        net.sessions.disconnect(stranger, "other", session),
        net.sessions.accounting(stranger, "other", session),
        net.sessions.show(stranger, "default", session),
        net.sessions.disconnect(stranger, "default", session),
    ):
        with pytest.raises(Fault) as raised:
            drive(call)
        assert raised.value.code is FaultCode.NOT_FOUND
    assert drive(net.sessions.list(stranger, "other")) == ()
    assert drive(net.sessions.accounting(stranger, "other")) == ()


def test_pages_of_sessions_follow_each_other(net: Net) -> None:
    made = [
        net.login(session_key=f"K{n}", calling_station=f"02000000{n:04x}", nas_port=str(n))
        for n in range(5)
    ]
    first = drive(net.sessions.list(ADMIN, "default", limit=3))
    rest = drive(net.sessions.list(ADMIN, "default", limit=3, before=first[-1].id))
    assert [row.id for row in (*first, *rest)] == made[::-1]


# -- what must end ----------------------------------------------------------------------------


def test_r85_a_revoked_certificate_ends_its_session(net: Net, session: str) -> None:
    net.tick()
    assert net.orders == []
    revoke(net)
    net.tick()
    [order] = net.orders
    assert (order.session.id, order.attempt, order.is_alone) == (session, 0, True)
    assert net.row(session).cause == "disconnected"
    assert net.kinds() == ["network.disconnect-requested", "network.disconnected"]
    [job] = drive(net.sessions.show(ADMIN, "default", session)).disconnects
    assert (job.reason, job.outcome, job.due_at) == ("certificate-revoked", "acknowledged", None)
    # Nothing is asked twice.
    for _ in range(3):
        net.clock.advance(seconds=30)
        net.tick()
        drive(net.disconnects.scan())
    assert len(net.orders) == 1
    assert net.counted == ["acknowledged"]


def test_a_station_leaves_when_its_address_is_blocked_or_nobodys(net: Net) -> None:
    for name, mac in (("printer", "0200000000aa"), ("camera", "0200000000bb")):
        net.put(
            tables.devices, "devices", f"default/{name}", tenant="default", name=name, mac=mac,
            serial_number="", owner="", description="", created_at=net.clock(),
            updated_at=net.clock(),
        )  # fmt: skip
    printer = net.login("mac", device="printer", calling_station="0200000000aa")
    camera = net.login(
        "mac", device="camera", calling_station="0200000000bb", nas_port="2", session_key="A2"
    )
    # By certificate, at the address of the camera: that a device has another one is no matter.
    laptop = net.login(
        device="laptop", calling_station="0200000000bb", nas_port="3", session_key="A3"
    )
    net.tick()
    assert net.orders == []
    drive(net.database.write(lambda c: c.execute(
        tables.devices.update().where(tables.devices.c.name == "printer").values(mac=None)
    )))  # fmt: skip
    drive(net.disconnects.scan())
    net.tick()
    assert [order.session.id for order in net.orders] == [printer]
    net.change(tables.devices, "devices", "default/camera", blocked_at=net.clock())
    net.tick()
    assert {order.session.id for order in net.orders} == {printer, camera, laptop}
    reasons = [
        drive(net.sessions.show(ADMIN, "default", one)).disconnects[0].reason
        for one in (printer, camera, laptop)
    ]
    assert reasons == ["device-gone", "device-blocked", "device-blocked"]


def test_the_nas_is_told_the_name_that_it_reported_last(net: Net) -> None:
    session = net.login(user_name="anonymous@example.test")
    assert net.row(session).user_sent == "anonymous@example.test"
    net.account(1, classes=(session.encode(),), user_name="laptop.example.com")
    assert net.row(session).user_sent == "laptop.example.com"
    net.account(3, classes=(session.encode(),), user_name="", seconds=5)
    assert net.row(session).user_sent == "laptop.example.com"


def test_r85_a_hold_a_disabled_person_and_a_blocked_device_end_it_too(
    net: Net, session: str
) -> None:
    net.world.hold(issuer_of(net), 7)
    net.person()
    net.put(
        tables.devices, "devices", "default/pc", tenant="default", name="pc", mac=None,
        serial_number="", owner="", description="", created_at=net.clock(),
        updated_at=net.clock(),
    )  # fmt: skip
    other = {"calling_station": "0200000000bb", "nas_port": "2", "session_key": "A2"}
    by_person = net.login(person="alice", **other)
    by_device = net.login(
        device="pc", calling_station="0200000000cc", nas_port="3", session_key="A3"
    )
    net.tick()
    assert [order.session.id for order in net.orders] == [session]
    net.change(tables.people, "people", "default/alice", disabled_at=net.clock())
    net.tick()
    net.change(tables.devices, "devices", "default/pc", blocked_at=net.clock())
    net.tick()
    assert [order.session.id for order in net.orders] == [session, by_person, by_device]
    reasons = [
        drive(net.sessions.show(ADMIN, "default", one)).disconnects[0].reason
        for one in (session, by_person, by_device)
    ]
    assert reasons == ["certificate-held", "person-disabled", "device-blocked"]


def test_a_person_who_is_deleted_or_whose_time_is_over_is_put_off(net: Net) -> None:
    net.person()
    net.login(person="alice")
    ghost = net.login(person="ghost", calling_station="0200000000bb", nas_port="2", session_key="")
    net.tick()
    net.change(
        tables.people, "people", "default/alice", valid_until=net.clock() + timedelta(hours=1)
    )
    net.clock.advance(hours=1, seconds=1)
    assert drive(net.disconnects.scan()) == 2
    [job] = drive(net.sessions.show(ADMIN, "default", ghost)).disconnects
    assert job.reason == "person-gone"


def test_a_compromised_authority_ends_all_its_sessions(net: Net, session: str) -> None:
    net.world.compromise(issuer_of(net))
    net.world.announce("status", f"{issuer_of(net).id}:*")
    net.tick()
    assert [order.session.id for order in net.orders] == [session]


def test_an_anchor_that_is_gone_ends_its_sessions(net: Net) -> None:
    net.put(
        tables.objects, "objects", "default/trust-anchor/partner", tenant="default",
        kind="trust-anchor", name="partner", handle=None, revision=1, document="{}",
        updated_at=net.clock(),
    )  # fmt: skip
    session = net.login(anchor="partner")
    net.tick()
    assert net.orders == []

    def remove(connection: sa.Connection) -> None:
        connection.execute(tables.objects.delete().where(tables.objects.c.name == "partner"))
        changes.record(connection, "objects", "default/trust-anchor/partner")

    drive(net.database.write(remove))
    net.tick()
    assert [order.session.id for order in net.orders] == [session]


def test_a_foreign_certificate_that_stands_in_a_new_crl_ends_its_session(net: Net) -> None:
    net.put(
        tables.objects, "objects", "default/trust-anchor/partner", tenant="default",
        kind="trust-anchor", name="partner", handle=None, revision=1, document="{}",
        updated_at=net.clock(),
    )  # fmt: skip
    session = net.login(anchor="partner", foreign=(b"their CA", 300))
    net.login(
        anchor="partner", foreign=(b"their CA", 301), calling_station="0200000000bb",
        nas_port="2", session_key="A2",
    )  # fmt: skip
    net.tick()
    net.revoked.add(("default", "partner", b"their CA", 300))
    net.world.announce("anchors", "default/partner")
    net.tick()
    assert [order.session.id for order in net.orders] == [session]
    assert drive(net.disconnects.scan()) == 0


def test_a_lockout_ends_sessions_only_where_that_was_chosen(net: Net) -> None:
    net.person()
    session = net.login(person="alice")
    net.put(
        tables.login_failures, "people", "default/alice", tenant="default",
        subject="person:alice", failures=10, since=net.clock(),
        locked_until=net.clock() + timedelta(minutes=15),
    )  # fmt: skip
    assert drive(net.disconnects.scan()) == 0
    assert drive(net.another(locked=True).scan()) == 1
    [job] = drive(net.sessions.show(ADMIN, "default", session)).disconnects
    assert job.reason == "locked-out"


def test_a_login_that_was_decided_before_and_written_after_is_found(net: Net) -> None:
    issuer = net.world.authority()
    net.world.issue(issuer, 7)
    net.tick()
    net.world.revoke(issuer, 7)
    net.tick()
    late = net.login(certificate=(issuer.id, serial_octets(7)))
    net.tick()
    assert net.orders == []
    net.clock.advance(seconds=6)
    net.tick()
    assert [order.session.id for order in net.orders] == [late]


def test_a_crash_between_revocation_and_consequence_loses_nothing(net: Net, session: str) -> None:
    revoke(net)
    # The process that has heard of it dies; the next one begins with a comparison.
    fresh = net.another()
    assert drive(fresh.scan()) == 1
    net.tick(fresh)
    assert [order.session.id for order in net.orders] == [session]


def test_a_crash_between_claim_and_answer_is_tried_again(net: Net, session: str) -> None:
    never: Deferred[Outcome] = Deferred()
    revoke(net)
    net.tick(net.another(ask=lambda order: never))
    net.tick()
    assert net.orders == []  # it is the other's
    net.clock.advance(seconds=61)
    net.tick()
    assert [order.attempt for order in net.orders] == [1]
    assert not net.row(session).is_live
    # The dead come back and find that it is done.
    never.callback(DONE)
    assert net.kinds().count("network.disconnected") == 1


def test_two_processes_ask_once(net: Net, session: str) -> None:
    other = net.another()
    revoke(net)
    for _ in range(4):
        net.tick()
        net.tick(other)
    assert len(net.orders) == 1
    assert net.kinds().count("network.disconnect-requested") == 1


ABSENT = Outcome(word="not-sent", may_be_elsewhere=True)
SWITCH = frozenset({("default", "switch")})


def outcome_of(net: Net, session: str) -> str:
    [found] = drive(net.sessions.show(ADMIN, "default", session)).disconnects
    return found.outcome


def test_what_does_not_reach_a_nas_goes_to_whoever_is_connected(net: Net, session: str) -> None:
    """A NAS that is asked down a connection of its own making has made it to another node."""
    holder = net.another(connected=lambda: SWITCH)
    leader = net.another(ask=lambda order: succeed(ABSENT))
    drive(holder.take())
    revoke(net)
    net.tick(leader)
    assert outcome_of(net, session) == "handed-over"
    assert net.kinds() == ["network.disconnect-requested"]
    net.tick(leader)  # it leaves it to the others for a moment
    drive(holder.take())
    assert [(order.session.id, order.attempt) for order in net.orders] == [(session, 0)]
    assert outcome_of(net, session) == "acknowledged"
    assert not net.row(session).is_live
    net.clock.advance(seconds=30)
    net.tick(leader)
    assert net.kinds() == ["network.disconnect-requested", "network.disconnected"]


def test_what_is_handed_over_is_announced(net: Net, session: str) -> None:
    heard: list[str] = []
    changes_there = Changes(net.database)
    drive(changes_there.catch_up())
    changes_there.listen("disconnects", heard.append)
    revoke(net)
    net.tick(net.another(ask=lambda order: succeed(ABSENT)))
    drive(changes_there.catch_up())
    assert heard == ["default/switch"]


def test_whom_nobody_reaches_is_told_of_and_asked_once_he_is_back(net: Net, session: str) -> None:
    there: set[tuple[str, str]] = set()
    holder = net.another(connected=lambda: there)
    leader = net.another(ask=lambda order: succeed(ABSENT))
    revoke(net)
    net.tick(leader)
    drive(holder.take())
    net.clock.advance(seconds=4)
    net.tick(leader)
    assert outcome_of(net, session) == "not-sent"
    assert net.kinds() == ["network.disconnect-requested", "network.disconnect-failed"]
    # It is not due yet, but there it is.
    there.add(("default", "switch"))
    drive(holder.take())
    assert [order.attempt for order in net.orders] == [1]
    assert outcome_of(net, session) == "acknowledged"


def test_whom_nobody_reaches_is_given_up_after_ten_minutes(net: Net, session: str) -> None:
    leader = net.another(ask=lambda order: succeed(ABSENT))
    revoke(net)
    for _ in range(900):
        net.tick(leader)
        net.clock.advance(seconds=1)
    assert net.kinds() == ["network.disconnect-requested", *["network.disconnect-failed"] * 2]
    drive(net.another(connected=lambda: SWITCH).take())
    assert net.orders == []


def test_only_one_of_those_who_are_connected_asks(net: Net, session: str) -> None:
    never: Deferred[Outcome] = Deferred()
    asked: list[Order] = []

    def slow(order: Order) -> Deferred[Outcome]:
        asked.append(order)
        return never

    revoke(net)
    net.tick(net.another(ask=lambda order: succeed(ABSENT)))
    drive(net.another(ask=slow, connected=lambda: SWITCH).take())
    drive(net.another(connected=lambda: SWITCH).take())
    net.tick()
    assert (len(asked), net.orders) == (1, [])
    # It dies on the way; whoever is connected hears of it again from the one that looks.
    net.clock.advance(seconds=61)
    net.tick(net.another(ask=lambda order: succeed(ABSENT)))
    drive(net.another(connected=lambda: SWITCH).take())
    assert len(net.orders) == 1
    never.callback(DONE)
    assert net.kinds().count("network.disconnected") == 1


def test_what_others_clients_were_not_told_is_left_alone(net: Net, session: str) -> None:
    revoke(net)
    net.tick(net.another(ask=lambda order: succeed(ABSENT)))
    others = frozenset({("other", "switch"), ("default", "gate")})
    drive(net.another(connected=lambda: others).take())
    assert net.orders == []
    assert outcome_of(net, session) == "handed-over"


def test_r82_a_silent_nas_is_asked_for_ten_minutes_then_the_alarm_says_so(
    net: Net, session: str
) -> None:
    net.outcome = SILENT
    revoke(net)
    for _ in range(700):
        net.tick()
        net.clock.advance(seconds=1)
    assert 6 <= len(net.orders) <= 9
    assert [order.attempt for order in net.orders] == list(range(len(net.orders)))
    assert net.kinds() == ["network.disconnect-requested", *["network.disconnect-failed"] * 2]
    assert net.row(session).is_live
    for _ in range(3):
        net.clock.advance(minutes=5)
        drive(net.disconnects.scan())
        net.tick()
    given_up = len(net.orders)
    # It turns out to be on still: it is asked again.
    net.outcome = DONE
    net.account(INTERIM, seconds=2000)
    drive(net.disconnects.scan())
    net.tick()
    assert len(net.orders) == given_up + 1
    assert not net.row(session).is_live


def test_a_session_that_ends_by_itself_meanwhile_is_left_alone(net: Net, session: str) -> None:
    net.outcome = SILENT
    revoke(net)
    net.tick()
    net.account(STOP, seconds=5, cause="lost-carrier")
    net.clock.advance(seconds=10)
    net.tick()
    assert len(net.orders) == 1
    assert net.row(session).cause == "lost-carrier"
    [job] = drive(net.sessions.show(ADMIN, "default", session)).disconnects
    assert (job.outcome, job.due_at) == ("over-already", None)


@pytest.mark.parametrize(("document", "word"), [({"enabled": False}, "switched-off")])
def test_a_nas_that_takes_no_orders_is_an_alarm_at_once(
    net: Net, session: str, document: dict[str, Any], word: str
) -> None:
    net.client = client(coa=document)
    revoke(net)
    net.tick()
    assert net.orders == []
    assert net.counted == [word]
    assert net.kinds()[-1] == "network.disconnect-failed"


def test_the_answer_to_reauthenticate_does_not_close_the_session(net: Net, session: str) -> None:
    net.outcome = replace(DONE, is_over=False)
    revoke(net)
    net.tick()
    assert net.row(session).is_live
    drive(net.disconnects.scan())
    net.tick()
    assert len(net.orders) == 1


def test_an_administrator_ends_a_session_once(net: Net) -> None:
    session = net.login()
    assert drive(net.sessions.disconnect(ADMIN, "default", session, dry_run=True))
    assert net.kinds() == []
    assert drive(net.sessions.disconnect(ADMIN, "default", session))
    assert not drive(net.sessions.disconnect(ADMIN, "default", session))
    net.tick()
    assert not net.row(session).is_live
    with pytest.raises(Fault) as raised:
        drive(net.sessions.disconnect(ADMIN, "default", session))
    assert raised.value.rule == "network.session-closed"


def test_many_revocations_are_one_comparison(net: Net) -> None:
    issuer = net.world.authority()
    net.world.issue_many(issuer, list(range(100, 450)))
    logins = [
        net.login(
            certificate=(issuer.id, serial_octets(number)), nas_port=str(number),
            calling_station=f"02000000{number:04x}", session_key=f"S{number}",
        )
        for number in range(100, 450)
    ]  # fmt: skip
    for number in range(100, 450):
        net.world.revoke(issuer, number)
    for _ in range(4):
        net.tick()
        net.clock.advance(seconds=6)
    assert sorted(order.session.id for order in net.orders) == sorted(logins)


def test_admitted_says_what_a_session_stands_on() -> None:
    # Whoever adds something that a login stands on has to say here how its end is noticed.
    assert {"certificate", "person", "device", "anchor"} <= set(Admitted.__slots__)
