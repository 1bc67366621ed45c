"""Whatever a record holds, its message is one line within its limit that reads back."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.syslog_grammar import parse
from tmad.protocols.syslog.formats import Formatter, Layout, Origin, Style, journal_fields
from tmad.storage.journal import Record

_TEXT = st.text(max_size=400)
_LEAF = st.one_of(st.none(), st.booleans(), st.integers(), _TEXT)
_DATA = st.dictionaries(
    st.text(max_size=40),
    st.one_of(_LEAF, st.lists(_LEAF, max_size=3), st.dictionaries(_TEXT, _LEAF, max_size=3)),
    max_size=8,
)
_RECORDS = st.builds(
    Record,
    writer=st.from_regex(r"[a-z0-9.-]{1,30}(/[0-9]{1,4})?", fullmatch=True),
    seq=st.integers(1, 2**63),
    at=st.datetimes(
        min_value=datetime(1970, 1, 2),
        max_value=datetime(2200, 1, 1),
        timezones=st.just(UTC),
    ),
    tenant=_TEXT,
    kind=st.one_of(st.just("certificate.issued"), _TEXT),
    actor=_TEXT,
    object=_TEXT,
    trace=_TEXT,
    data=st.one_of(_DATA.map(json.dumps), _TEXT),
    previous=st.just(b""),
    hash=st.binary(min_size=32, max_size=32),
)
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ORIGIN = Origin(host="node.example.test", version="1.0|x", process="1", zone=UTC)


@given(
    _RECORDS,
    st.sampled_from(["rfc5424", "rfc3164", "cef", "leef", "json"]),
    st.sampled_from([1_024, 1_180, 2_048, 8_192]),
    st.integers(1, 2**33),
)
@settings(max_examples=400, deadline=None)
def test_a_message_is_one_line_and_reads_back(
    record: Record, style: Style, limit: int, number: int
) -> None:
    formatter = Formatter(Layout(style=style, limit=limit), _ORIGIN)
    before = time.thread_time()
    octets = formatter.message(record, number)
    assert time.thread_time() - before < 0.05
    assert len(octets) <= limit
    assert _BAD.search(octets.decode("utf-8")) is None
    entry = journal_fields(record, "audit")
    assert len(entry) <= 65_536
    for line in entry.decode().split("\n")[:-1]:
        name, equals, _ = line.partition("=")
        # systemd.journal-fields(7): what is named otherwise is dropped.
        assert equals
        assert re.fullmatch("[A-Z][A-Z0-9_]*", name)
    if style in ("rfc5424", "json"):
        parsed = parse(octets)
        if style == "json":
            said = json.loads(parsed.text.removeprefix("@cee: "))
        else:
            said = parsed.elements["tmad@8072.9999.9999"]
        assert (said["writer"], int(said["seq"])) == (record.writer, record.seq)
