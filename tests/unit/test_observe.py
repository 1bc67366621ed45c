"""Log lines, throttle, meters: bounded, on one line, without strangers' labels."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from tmad import observe


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(text: str = "it happened: {what}", **data: Any) -> dict[str, Any]:
    return {
        "log_time": 1_795_435_200.5,
        "log_level": LogLevel.info,
        "log_namespace": "tmad.test",
        "log_format": text,
        **data,
    }


def written(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("format_line", observe.FORMATS.values())
def test_g_os_6_control_characters_do_not_leave_the_line(format_line: Any) -> None:
    line = format_line(event(what="a\r\nforged line\x1b[31m\x00\u2028\x85b"))

    assert line.isprintable()
    assert "forged line" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("format_line", observe.FORMATS.values())
def test_g_os_6_a_line_is_at_most_4_kb(format_line: Any) -> None:
    data = {f"key{number}": "x" * 10_000 for number in range(50)}

    assert len(format_line(event(what="y" * 10_000, **data)).encode()) <= 4_096 * 2
    assert len(format_line(event(what="y" * 10_000, **data))) <= 4_000


def test_json_lines_have_the_events_data() -> None:
    line = json.loads(observe.json_line(event(what="x", serial="0a", number=3, other=object())))

    assert line["time"] == "2026-11-23T12:00:00.500+00:00"
    assert line["event"] == "it happened: x"
    assert (line["level"], line["source"]) == ("info", "tmad.test")
    assert (line["serial"], line["number"]) == ("0a", 3)
    assert "other" not in line


def test_a_failure_shows_its_place_but_no_variables() -> None:
    secret = "canary"  # noqa: F841  it must not be shown
    try:
        raise ValueError("the reason")
    except ValueError:
        shown = event(what="x", log_failure=Failure())
    for format_line in observe.FORMATS.values():
        line = format_line(shown)
        assert "ValueError" in line
        assert "the reason" in line
        assert "test_observe.py" in line
        assert "canary" not in line


def test_g_os_6_ten_lines_a_second_of_each_event_and_the_rest_is_counted() -> None:
    stream, seconds = io.StringIO(), Seconds()
    writer = observe.LogWriter(stream, observe.Throttle(seconds))
    writer.configure("info", "json")
    for number in range(50):
        writer(event(what=str(number)))
    writer(event("another"))
    assert len(written(stream)) == 11

    seconds.now += 1
    writer(event(what="later"))
    assert json.loads(written(stream)[-1])["left_out"] == 40


def test_t_obs_01_random_events_do_not_make_the_throttle_grow() -> None:
    throttle = observe.Throttle(Seconds())
    for number in range(5_000):
        throttle.admit(str(number))

    assert len(throttle._windows) <= 1_024


def test_levels_filter_and_twisteds_chatter_is_left_out() -> None:
    stream = io.StringIO()
    writer = observe.LogWriter(stream)
    writer.configure("info", "console")
    writer(event("quiet", log_level=LogLevel.debug))
    writer(event("starting factory", log_namespace="twisted.internet.tcp"))
    writer(event("shown"))
    assert [line.split()[-1] for line in written(stream)] == ["shown"]

    writer.configure("error", "console")
    writer(event("no longer", log_level=LogLevel.warn))
    assert len(written(stream)) == 1


def test_the_running_request_marks_its_lines() -> None:
    stream = io.StringIO()
    writer = observe.LogWriter(stream)
    token = observe.trace.set("abc-1")
    try:
        writer(event("inside"))
    finally:
        observe.trace.reset(token)
    writer(event("outside"))

    assert "[abc-1]" in written(stream)[0]
    assert "[abc-1]" not in written(stream)[1]


def test_a_reader_that_is_gone_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()

    observe.LogWriter(stream)(event("into the void"))


def test_the_access_line_leaves_the_query_to_the_caller_and_escapes_the_path() -> None:
    stream = io.StringIO()
    access = observe.AccessLog(observe.LogWriter(stream))
    access.add("192.0.2.1", "GET", b"/scep/x\x1b\n" + b"a" * 500, 200, 10, 0.0123, "abc-1")
    assert stream.getvalue() == ""
    access.flush()

    [line] = written(stream)
    assert "192.0.2.1 GET /scep/x\\x1b\\naaa" in line
    assert len(line) < 400
    assert line.endswith("10 octets 12.3 ms [abc-1]")

    access.configure("json")
    access.add("192.0.2.1", "GET", b"/x", 404, 0, 0.5, "")
    access.flush()
    assert json.loads(written(stream)[1])["status"] == 404


def test_doors_are_counted_and_timed() -> None:
    metrics = observe.Metrics()
    meter = metrics.door("scep", "/scep")
    meter.count(200)
    meter.count(200)
    meter.count(403)
    meter.time(0.002)
    meter.time(20.0)
    metrics.lag.set(0.25)
    text = metrics.exposition().decode()

    assert 'tmad_requests_total{door="/scep",outcome="200",protocol="scep"} 2.0' in text
    assert 'tmad_requests_total{door="/scep",outcome="403",protocol="scep"} 1.0' in text
    assert 'tmad_request_seconds_bucket{door="/scep",le="0.0025",protocol="scep"} 1.0' in text
    assert 'tmad_request_seconds_bucket{door="/scep",le="+Inf",protocol="scep"} 2.0' in text
    assert "tmad_reactor_lag_seconds 0.25" in text


def test_a_door_has_one_meter_however_often_it_is_asked_for() -> None:
    metrics = observe.Metrics()

    assert metrics.door("http", "none") is metrics.door("http", "none")


def test_journald_gets_an_events_data_as_fields(tmp_path: Path) -> None:
    path = str(tmp_path / "journald")
    writer = observe.LogWriter(io.StringIO())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        writer.configure("info", "console", "journald", path)
        poison = "a\nPRIORITY=0\x1b"
        writer(event("{what} happened", what=poison, port=7, päth="x"))
        fields = dict(line.split("=", 1) for line in server.recv(65_536).decode().splitlines())
        assert fields["MESSAGE"] == "a\\nPRIORITY=0\\x1b happened"
        assert (fields["PRIORITY"], fields["TMAD_PORT"], fields["TMAD_P_TH"]) == ("6", "7", "x")
        writer.line("one\ntwo")
        assert server.recv(65_536).startswith(b"MESSAGE=one\n")
        assert server.recv(65_536).startswith(b"MESSAGE=two\n")
        writer.configure("info", "console")


def test_without_journald_lines_go_where_they_went(tmp_path: Path) -> None:
    stream = io.StringIO()
    writer = observe.LogWriter(stream)
    writer.configure("info", "console", "journald", str(tmp_path / "nobody"))
    writer(event("into the void"))
    assert "into the void" in stream.getvalue()


def test_a_traceback_keeps_its_lines_in_journald() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        failure = Failure()
    octets = observe.journald_fields(event("failed", log_failure=failure))
    _, _, rest = octets.partition(b"TMAD_TRACEBACK\n")
    length = int.from_bytes(rest[:8], "little")
    assert b"\n" in rest[8 : 8 + length]
    assert rest[8 + length : 9 + length] == b"\n"
