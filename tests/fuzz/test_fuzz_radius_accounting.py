"""Whatever a NAS sends in accounting is stored or refused, and never anything else (X-03)."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tests.network_sessions import NAS_SECRET, client
from tests.support import Clock, drive
from tests.unit.test_credentials import Notes
from tmad.errors import Fault, FaultCode
from tmad.network.sessions import Sessions
from tmad.protocols.radius import codec
from tmad.protocols.radius.accounting import Accounting
from tmad.storage import radius_sessions as rows
from tmad.storage.database import Database

# The attributes that are read, and any other.
KNOWN = (1, 4, 5, 8, 25, 26, 30, 31, 32, 33, 40, 41, 42, 43, 44, 46, 49, 52, 53, 55, 61, 80, 87)
KINDS = st.sampled_from(KNOWN) | st.integers(0, 255)
VALUES = (
    st.binary(max_size=40)
    | st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4))
    | st.sampled_from([b"", b"\0", b"\xff" * 253, b"02-00-00-00-00-AA", b"A1", b"\xed\xa0\x80"])
)
STATUS = st.sampled_from([1, 2, 3, 7, 8]).map(lambda number: [(40, number.to_bytes(4))])
RECORD = st.tuples(STATUS, st.lists(st.tuples(KINDS, VALUES), max_size=25)).map(
    lambda parts: parts[0] + [each for each in parts[1] if each[0] != 80]
)


@given(st.lists(RECORD, min_size=1, max_size=4))
def test_a_conversation_of_any_records_is_stored(records: list[list[tuple[int, bytes]]]) -> None:
    clock = Clock()
    database = Database.in_memory(clock=clock)
    accounting = Accounting(Sessions(database, Notes(), clock))
    for number, record in enumerate(records):
        octets = codec.encode_request(codec.Code.ACCOUNTING_REQUEST, number, record, NAS_SECRET)
        begin = time.thread_time()
        drive(accounting.respond(codec.decode(octets), client(), "192.0.2.1"))
        # The first one has its statements compiled.
        assert time.thread_time() - begin < 1.0
        clock.advance(seconds=7)
        drive(accounting.respond(codec.decode(octets), client(), "192.0.2.1"))
    stored = drive(database.read(rows.find_accounting, "default", None, 0, 100))
    assert 1 <= len(stored) <= len(records)
    for row in drive(database.read(lambda connection: rows.find(connection, "default"))):
        assert row.octets_in >= 0
        assert row.seconds < 2**32


@given(st.binary(max_size=200))
def test_any_body_is_a_record_or_malformed(body: bytes) -> None:
    clock = Clock()
    accounting = Accounting(Sessions(Database.in_memory(clock=clock), Notes(), clock))
    octets = b"\x04\x01" + (20 + len(body)).to_bytes(2) + bytes(16) + body
    refused = None
    try:
        drive(accounting.respond(codec.decode(octets), client(), "192.0.2.1"))
    except Fault as fault:
        refused = fault.code
    assert refused in (None, FaultCode.MALFORMED)
