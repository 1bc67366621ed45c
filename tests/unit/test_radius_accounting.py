"""Accounting-Requests: what of them is kept (R-50..R-56; RFC 2866, RFC 2869)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.network_sessions import NAS_SECRET, client
from tests.support import Clock, drive
from tests.unit.test_credentials import Notes
from tmad.errors import Fault, FaultCode
from tmad.network.sessions import Report, Sessions
from tmad.protocols.radius import codec
from tmad.protocols.radius.accounting import CAUSES, Accounting, report_of
from tmad.storage import radius_sessions as rows
from tmad.storage.database import Database

STATUS, DELAY, STAMP = 40, 41, 55


def packet(*attributes: tuple[int, bytes | int]) -> codec.Packet:
    """Return an Accounting-Request as it is received."""
    plain = [
        (kind, value.to_bytes(4) if isinstance(value, int) else value) for kind, value in attributes
    ]
    return codec.decode(codec.encode_request(codec.Code.ACCOUNTING_REQUEST, 1, plain, NAS_SECRET))


def report(*attributes: tuple[int, bytes | int]) -> Report:
    return report_of(packet((STATUS, 3), *attributes), client(), "192.0.2.1")


def test_r53_gigawords_count_the_upper_half() -> None:
    said = report((42, 5), (52, 3), (43, 0xFFFFFFFF), (53, 1))
    assert (said.octets_in, said.octets_out) == ((3 << 32) + 5, (1 << 32) + 0xFFFFFFFF)
    assert report((42, 7)).octets_in == 7


def test_texts_addresses_and_causes_are_read() -> None:
    said = report(
        (44, b"5F00-12"), (1, b"alice"), (30, b"02-00-00-00-00-FF:corp"),
        (31, b"02-00-00-00-00-AA"), (32, b"sw1"), (87, b"Gi1/0/7"), (8, b"\xc6\x33\x64\x07"),
        (46, 77), (49, 1), (25, b"class one"), (25, b"class two"), (STAMP, 1_700_000_000),
        (DELAY, 4),
    )  # fmt: skip
    assert (said.session_key, said.user_name, said.ssid) == ("5F00-12", "alice", "corp")
    assert (said.calling_station, said.calling_sent) == ("0200000000aa", "02-00-00-00-00-AA")
    assert (said.called_station, said.identifier, said.nas_port) == (
        "0200000000ff", "sw1", "Gi1/0/7",
    )  # fmt: skip
    assert (said.framed_address, said.seconds, said.cause) == ("198.51.100.7", 77, "user-request")
    assert said.classes == (b"class one", b"class two")
    assert said.at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert said.delay == 4
    assert said.data["Class"] == ["0x" + b"class one".hex(), "0x" + b"class two".hex()]


def test_causes_without_a_name_keep_their_number() -> None:
    assert report((49, 99)).cause == "99"
    assert report().cause == ""
    assert sorted(CAUSES) == list(range(1, 24))


def test_numbers_of_a_wrong_length_and_addresses_that_are_none_count_as_absent() -> None:
    said = report((42, b"\1"), (46, b""), (8, b"\1\2\3"), (STAMP, b"\1"), (49, b"x" * 8))
    assert (said.octets_in, said.seconds, said.framed_address, said.at, said.cause) == (
        0, 0, "", None, "",
    )  # fmt: skip


def test_what_changes_from_one_transmission_to_the_next_makes_no_other_record() -> None:
    first = report((44, b"1"), (DELAY, 0), (33, b"proxy one"))
    again = report((44, b"1"), (DELAY, 9), (33, b"proxy two"))
    assert first.content == again.content
    assert report((44, b"2")).content != first.content


def test_passwords_and_proxy_states_are_not_kept() -> None:
    said = report((2, b"x" * 16), (3, b"y" * 17), (33, b"z"), (79, b"\2\1\0\4"), (1, b"alice"))
    assert set(said.data) == {"Acct-Status-Type", "User-Name"}


@pytest.mark.parametrize("attributes", [(), ((STATUS, b"\1"),)])
def test_what_has_no_status_is_no_record(attributes: Any) -> None:
    with pytest.raises(Fault) as raised:
        report_of(packet(*attributes), client(), "192.0.2.1")
    assert raised.value.code is FaultCode.MALFORMED
    assert raised.value.rule == "radius.malformed.accounting"


class Door:
    def __init__(self) -> None:
        self.database = Database.in_memory(clock=Clock())
        self.accounting = Accounting(Sessions(self.database, Notes(), self.database.now))

    def respond(self, *attributes: tuple[int, bytes | int]) -> list[Any]:
        return drive(self.accounting.respond(packet(*attributes), client(), "192.0.2.1"))

    def records(self) -> int:
        return len(drive(self.database.read(rows.find_accounting, "default", None, 0, 100)))


def test_r51_a_record_is_stored_before_the_answer() -> None:
    door = Door()
    assert door.respond((STATUS, 1), (44, b"1")) == []
    assert door.records() == 1


def test_r52_other_kinds_are_answered_and_not_stored() -> None:
    door = Door()
    for status in (0, 4, 9, 15, 2**32 - 1):
        assert door.respond((STATUS, status), (44, b"1")) == []
    assert door.records() == 0


def test_r51_what_cannot_be_stored_is_not_acknowledged() -> None:
    door = Door()
    drive_closed = door.database.close()
    assert drive_closed is not None
    with pytest.raises(Fault) as raised:
        door.respond((STATUS, 1), (44, b"1"))
    assert raised.value.code is FaultCode.UNAVAILABLE
