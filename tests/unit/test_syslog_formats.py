"""Messages for log collectors: each format to the letter, whatever a record holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.syslog_grammar import parse
from tmad.lifecycle.severity import Severity, outcome_of, severity_in, severity_of
from tmad.protocols.syslog.formats import (
    FACILITIES,
    Formatter,
    Layout,
    Origin,
    json_text,
    shortened,
)
from tmad.protocols.syslog.framing import frame
from tmad.storage.journal import Record

ORIGIN = Origin(
    host="tmad.example.test",
    version="1.2",
    process="4711",
    address="192.0.2.1",
    zone=timezone(timedelta(hours=1)),
)
SD = "tmad@8072.9999.9999"


def record(kind: str = "certificate.issued", **fields: Any) -> Record:
    data = fields.pop("data", {"serial": "0a", "subject": "CN=pump", "peer": "198.51.100.7"})
    values: dict[str, Any] = {
        "writer": "node1",
        "seq": 42,
        "at": datetime(2026, 11, 3, 9, 5, 7, 1200, tzinfo=UTC),
        "tenant": "default",
        "kind": kind,
        "actor": "person:alice",
        "object": "12",
        "trace": "",
        "data": json.dumps(data),
        "previous": b"\0" * 32,
        "hash": b"\xab" * 32,
    }
    return Record(**values | fields)


def message(style: Any, of: Record | None = None, **layout: Any) -> str:
    formatter = Formatter(Layout(style=style, **layout), ORIGIN)
    return formatter.message(of or record(), 7).decode()


def test_y_01_rfc_5424_has_every_part() -> None:
    parsed = parse(message("rfc5424").encode())
    assert (FACILITIES[parsed.facility], Severity(parsed.severity)) == ("authpriv", Severity.INFO)
    # The record's own time, not that of sending.
    assert parsed.time == "2026-11-03T09:05:07.001200Z"
    assert (parsed.host, parsed.application, parsed.process) == (ORIGIN.host, "tmad", "4711")
    assert parsed.id == "certificate.issued"
    assert parsed.elements[SD] == {
        "seq": "42",
        "writer": "node1",
        "result": "success",
        "tenant": "default",
        "actor": "person:alice",
        "object": "12",
        "serial": "0a",
        "subject": "CN=pump",
        "src": "198.51.100.7",
        "hash": "ab" * 32,
    }
    assert parsed.elements["origin"] == {
        "ip": "192.0.2.1",
        "enterpriseId": "8072.9999.9999",
        "software": "tmad",
        "swVersion": "1.2",
    }
    assert parsed.elements["meta"] == {"sequenceId": "7"}
    assert parsed.elements["timeQuality"] == {"tzKnown": "1", "isSynced": "0"}
    assert parsed.text == "certificate issued 12 by person:alice from 198.51.100.7: CN=pump"


def test_y_01_the_clock_is_called_synchronised_only_when_it_is() -> None:
    formatter = Formatter(Layout(), ORIGIN)
    formatter.is_synced = True
    assert parse(formatter.message(record(), 1)).elements["timeQuality"]["isSynced"] == "1"


def test_y_01_the_sequence_begins_anew_after_its_last_number() -> None:
    formatter = Formatter(Layout(), ORIGIN)
    numbers = [
        parse(formatter.message(record(), n)).elements["meta"]["sequenceId"]
        for n in (2**31 - 1, 2**31)
    ]
    assert numbers == ["2147483647", "1"]


@pytest.mark.parametrize("facility", FACILITIES)
def test_y_01_priority_is_facility_and_severity(facility: str) -> None:
    parsed = parse(message("rfc5424", record("request.refused"), facility=facility).encode())
    assert parsed.facility == FACILITIES.index(facility)
    assert parsed.severity == Severity.WARNING


def test_y_02_a_byte_order_mark_stands_only_if_asked_for() -> None:
    assert "\ufeff" not in message("rfc5424")
    assert parse(message("rfc5424", bom=True).encode()).text.startswith("\ufeffcertificate")


@pytest.mark.parametrize("style", ["rfc5424", "rfc3164", "cef", "leef", "json"])
def test_y_03_nothing_can_end_a_line_or_turn_it(style: str) -> None:
    poison = "a\nb\rc\td\x00e\x1b[31mf\x7fg\x85h\u2028i\u2029j\u202ek\u2066l\ufeffm\ud800n"
    octets = message(
        style,
        record(
            actor=poison, object=poison, data={"subject": poison, "detail": poison, "x": poison}
        ),
    ).encode()
    text = octets.decode()
    bad = re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800]", text)
    assert bad is None


def test_a_y2_a_forged_line_stays_inside_its_value() -> None:
    forged = 'x"] done\n<13>1 2026-01-01T00:00:00Z h a - - - forged \\'
    parsed = parse(message("rfc5424", record(data={"subject": forged})).encode())
    assert parsed.elements[SD]["subject"] == forged.replace("\n", "\\n")
    assert len(parsed.elements) == 4


def test_a_y2_a_long_subject_is_cut_and_its_record_is_named() -> None:
    subject = "CN=" + "\N{GRINNING FACE}" * 5_000
    for limit in (1_024, 1_180, 2_048, 8_192):
        text = message("rfc5424", record(data={"subject": subject, "detail": subject}), limit=limit)
        assert len(text.encode()) <= limit
        parsed = parse(text.encode())
        assert (parsed.elements[SD]["writer"], parsed.elements[SD]["seq"]) == ("node1", "42")
        assert re.search(r"…\[cut [0-9]+\]$", parsed.text)
    assert parsed.elements[SD]["subject"] == subject[:1_024]


def test_y_04_what_has_no_room_is_counted() -> None:
    data = {f"k{n}": "v" * 300 for n in range(20)}
    parsed = parse(message("rfc5424", record(data=data), limit=2_048).encode())
    shown = [key for key in parsed.elements[SD] if key.startswith("k")]
    assert int(parsed.elements[SD]["omitted"]) == 20 - len(shown) > 0


def test_y_04_a_cut_falls_between_two_characters() -> None:
    whole = ("é" * 100).encode()
    for limit in range(20, 200):
        cut = shortened(whole, limit)
        assert len(cut) <= limit
        kept, _, mark = cut.decode().partition("…[cut ")
        assert len(kept.encode()) + int(mark[:-1]) == len(whole)
    assert shortened(whole, 200) == whole


def test_data_never_takes_the_place_of_what_we_say() -> None:
    data = {"seq": "1", "hash": "no", "actor": "mallory", 'a"]': "x", "spa ce": "y", "n": [1, {}]}
    parameters = parse(message("rfc5424", record(data=data)).encode()).elements[SD]
    assert parameters["seq"] == "42"
    assert parameters["actor"] == "person:alice"
    assert parameters["hash"] == "ab" * 32
    assert parameters["n"] == "[1,{}]"
    assert set(parameters) == {"seq", "writer", "result", "tenant", "actor", "object", "hash", "n"}


def test_the_hash_is_left_out_on_request() -> None:
    assert "hash=" not in message("rfc5424", digest=False)
    assert "hash" not in json.loads(json_text(record(), 4_096, digest=False))


def test_y_10_rfc_3164_tells_local_time_and_the_short_host() -> None:
    text = message("rfc3164")
    assert text.startswith(
        "<86>Nov  3 10:05:07 tmad tmad[4711]: certificate.issued certificate issued 12 by"
    )
    assert ' serial="0a"' in text
    assert ' seq="42" writer="node1"' in text


def test_y_10_cef_after_a_3164_header() -> None:
    text = message("cef", record(data={"subject": "CN=a=b|c\\d\ne", "peer": "[2001:db8::1]:99"}))
    head, extension = text.split("|info|", 1) if "|info|" in text else text.rsplit("|2|", 1)
    assert head == (
        "<86>Nov  3 10:05:07 tmad CEF:0|tmad|tmad|1.2|certificate.issued|certificate issued"
    )
    fields = dict(re.findall(r"(\w+)=((?:[^=\\]|\\.)*?)(?= \w+=|$)", extension))
    assert fields["rt"] == "1793696707001"
    assert fields["src"] == "2001:db8::1"
    assert fields["externalId"] == "node1/42"
    assert (fields["cs2Label"], fields["cs2"]) == (
        "certificateSubject",
        r"CN\=a\=b|c\\d\ne",
    )
    assert fields["outcome"] == "success"


def test_y_10_cef_header_escapes_its_bar() -> None:
    assert r"|odd\|kind\\x|" in message("cef", record("odd|kind\\x"))


def test_y_10_leef_has_a_delimiter_that_no_value_holds() -> None:
    text = message("leef", record(data={"subject": "CN=a^b", "peer": "somewhere"}))
    fields = dict(part.split("=", 1) for part in text.split("|^|", 1)[1].split("^"))
    assert fields["subject"] == r"CN=a\x5eb"
    assert fields["shost"] == "somewhere"
    assert fields["usrName"] == "person:alice"
    assert "LEEF:2.0|tmad|tmad|1.2|certificate.issued|^|" in text


def test_y_10_json_follows_the_cookie() -> None:
    parsed = parse(message("json").encode())
    cookie, _, text = parsed.text.partition(" ")
    assert cookie == "@cee:"
    said = json.loads(text)
    assert (said["kind"], said["seq"], said["data"]["serial"]) == ("certificate.issued", 42, "0a")
    assert said["time"] == "2026-11-03T09:05:07.001200Z"


def test_y_04_json_that_is_too_long_is_still_json() -> None:
    long = "\N{GRINNING FACE}" * 1_000
    poor = record(actor=long, object=long, data={"subject": long})
    for limit in (1_024, 2_048):
        parsed = parse(message("json", poor, limit=limit).encode())
        said = json.loads(parsed.text.removeprefix("@cee: "))
        assert said["cut"] is True
        assert (said["writer"], said["seq"]) == ("node1", 42)


def test_data_that_is_no_json_is_sent_as_it_is() -> None:
    assert 'data="{broken"' in message("rfc5424", replace(record(), data="{broken"))


def test_severities_and_outcomes() -> None:
    assert severity_of("request.refused") is Severity.WARNING
    assert severity_of("code.delivery-failed") is Severity.WARNING
    assert severity_of("certificate.revoked") is Severity.NOTICE
    assert severity_of("hsm.lost") is Severity.CRITICAL
    assert severity_of("something.new") is Severity.INFO
    assert severity_in("alarm.raised", '{"severity": "critical"}') is Severity.CRITICAL
    for strange in ("", "[]", '{"severity": 3}', '{"severity": "grim"}', "{"):
        assert severity_in("alarm.raised", strange) is Severity.WARNING
    assert severity_in("alarm.cleared", '{"severity": "critical"}') is Severity.NOTICE
    assert outcome_of("network.refused") == "failure"
    assert outcome_of("network.admitted") == "success"


def test_y_05_framing() -> None:
    assert frame(b"<1>1 \xc3\xa9", "octet-counting") == b"7 <1>1 \xc3\xa9"
    assert frame(b"x", "lf") == b"x\n"
    assert frame(b"x", "nul") == b"x\0"
