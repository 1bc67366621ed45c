"""What an operator sees: log lines, counters, and the thread that ties them together.

A log event is constant text with its data in keywords. Metric labels are protocol, door and
outcome only, all from fixed sets: what strangers send never becomes a series (T-OBS-01).
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

# The id of the request that runs now; part of each log line and of refusals.
trace: ContextVar[str] = ContextVar("trace", default="")

LONGEST_LINE = 4_000
LINES_A_SECOND = 10
_REMEMBERED_KEYS = 1_024

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
# Line separators that some readers of logs obey.
_CONTROL |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def visible(text: str) -> str:
    """Return text in which control characters are escaped, so that it stays one line."""
    return text.translate(_CONTROL)


def clipped(text: str, length: int = LONGEST_LINE) -> str:
    """Return text that is no longer than a log line may be."""
    return text if len(text) <= length else text[: length - 1] + "…"


class Throttle:
    """Lets at most ten lines a second of each event through and counts the others."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, key: str) -> int | None:
        """Return how many lines of this key were left out before, or None to leave this one."""
        now = self._seconds()
        begin, count = self._windows.pop(key, (now, 0))
        left_out = 0
        if now - begin >= 1.0:
            left_out = max(0, count - LINES_A_SECOND)
            begin, count = now, 0
        self._windows[key] = (begin, count + 1)
        if len(self._windows) > _REMEMBERED_KEYS:
            self._windows.popitem(last=False)
        return left_out if count < LINES_A_SECOND else None


def _event_key(event: LogEvent) -> str:
    return f"{event.get('log_namespace', '')} {event.get('log_format') or event.get('format')}"


def _text(event: LogEvent) -> str:
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text += f" {failure.type.__name__}: {failure.getErrorMessage()}"
    return text


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    # No values of variables: they may be secrets.
    return str(failure.getTraceback(detail="brief", elideFrameworkCode=True))


def console_line(event: LogEvent) -> str:
    """Return one line for people."""
    at = datetime.fromtimestamp(event["log_time"], UTC)
    level = event.get("log_level", LogLevel.info).name
    mark = f" [{event['trace']}]" if event.get("trace") else ""
    text = _text(event)
    place = _traceback(event)
    if place:
        text += "\n" + place
    return clipped(f"{at:%H:%M:%S} {level:5} {visible(text)}{mark}")


def json_line(event: LogEvent) -> str:
    """Return one JSON object: time, level, event, and the event's own data."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event.get("log_level", LogLevel.info).name,
        "source": event.get("log_namespace", ""),
        "event": clipped(_text(event), 2_000),
    }
    if place := _traceback(event):
        line["traceback"] = clipped(place, 1_200)
    data = {
        key: value if isinstance(value, int | float | bool) else clipped(str(value), 300)
        for key, value in event.items()
        if not key.startswith("log_") and isinstance(value, str | int | float | bool)
    }
    line |= {key: value for key, value in data.items() if key not in line}
    text = json.dumps(line, ensure_ascii=True)
    if len(text) > LONGEST_LINE:
        kept = {key: line[key] for key in ("time", "level", "source", "event")}
        kept["event"] = clipped(kept["event"], 500)
        text = json.dumps(kept, ensure_ascii=True)
    return text


FORMATS: Mapping[str, Callable[[LogEvent], str]] = {"console": console_line, "json": json_line}

JOURNALD = "/run/systemd/journal/socket"
# Of syslog; a level that nobody knows is information.
_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
_NO_FIELD = re.compile("[^A-Z0-9_]")


def journald_fields(event: LogEvent) -> bytes:
    """Return an event in journald's native protocol, its data as fields TMAD_…."""
    fields = {
        "MESSAGE": clipped(visible(_text(event))),
        "PRIORITY": str(_PRIORITIES.get(event.get("log_level", LogLevel.info), 6)),
        "SYSLOG_IDENTIFIER": "tmad",
        "TMAD_SOURCE": str(event.get("log_namespace", "")),
    }
    if place := _traceback(event):
        fields["TMAD_TRACEBACK"] = clipped(place)
    for key, value in event.items():
        if not key.startswith("log_") and isinstance(value, str | int | float | bool):
            name = "TMAD_" + _NO_FIELD.sub("_", key.upper())[:50]
            fields.setdefault(name, clipped(visible(str(value)), 300))
    return b"".join(
        _field(name, value.encode("utf-8", "replace")) for name, value in fields.items()
    )


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


class Journald:
    """The socket of journald, which is asked anew when it has gone."""

    def __init__(self, path: str = JOURNALD) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, fields: bytes) -> bool:
        """Hand one entry over; False when journald is away or busy: never wait for it."""
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                )
                self._socket.connect(self._path)
            self._socket.send(fields)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@implementer(ILogObserver)
class LogWriter:
    """Writes events as lines, throttled; level and format may change while running."""

    def __init__(self, stream: TextIO, throttle: Throttle | None = None) -> None:
        self._stream = stream
        self._throttle = throttle or Throttle()
        self._predicate = LogLevelFilterPredicate(LogLevel.info)
        self._format: Callable[[LogEvent], str] = console_line
        self._journald: Journald | None = None
        # Any function of an event is an observer; the interface cannot say so to mypy.
        observer = cast("ILogObserver", self._write)
        self._filtered = FilteringLogObserver(observer, [self._predicate])

    def configure(
        self,
        level: str,
        format: str,  # noqa: A002  the setting's name
        output: str = "",
        journald: str = JOURNALD,
    ) -> None:
        """Take over the settings of [log]; without ``output`` the stream stays."""
        self._predicate.clearLogLevels()
        for namespace in ("", "log_legacy", "twisted.internet", "twisted.protocols"):
            chosen = LogLevel.levelWithName(level)
            # Twisted announces each factory and connection; that is noise unless debugging.
            quiet = namespace and chosen is LogLevel.info
            self._predicate.setLogLevelForNamespace(namespace, LogLevel.warn if quiet else chosen)
        self._format = FORMATS[format]
        if self._journald is not None:
            self._journald.close()
        self._journald = Journald(journald) if output == "journald" else None
        # What journald does not take goes where the service manager looks, too.
        self._stream = {"stdout": sys.stdout, "stderr": sys.stderr}.get(output, self._stream)

    def __call__(self, event: LogEvent) -> None:
        self._filtered(event)

    def _write(self, event: LogEvent) -> None:
        left_out = self._throttle.admit(_event_key(event))
        if left_out is None:
            return
        if left_out:
            event = {**event, "left_out": left_out}
        if running := trace.get():
            event = {"trace": running, **event}
        if self._journald is None or not self._journald.send(journald_fields(event)):
            self._print(self._format(event))

    def line(self, text: str) -> None:
        """Write lines that are formatted already."""
        if self._journald is None:
            self._print(text)
            return
        for line in text.splitlines():
            entry = _field("MESSAGE", line.encode("utf-8", "replace"))
            entry += b"PRIORITY=6\nSYSLOG_IDENTIFIER=tmad\nTMAD_SOURCE=access\n"
            if not self._journald.send(entry):
                self._print(line)

    def _print(self, text: str) -> None:
        """Write one line; a reader that is gone must not stop the daemon."""
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return


class AccessLog:
    """One line a request, collected and written about once a second."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._lines: list[str] = []
        self._json = False
        self._second, self._clock = 0, ""  # the time of day of the last line, made once

    def configure(self, format: str) -> None:  # noqa: A002  the setting's name
        """Take over the settings of [log]."""
        self._json = format == "json"

    def add(
        self,
        peer: str,
        method: str,
        path: bytes,
        status: int,
        octets: int,
        seconds: float,
        mark: str,
    ) -> None:
        """Add one request; the query is left out, since it may hold a secret."""
        shown = clipped(path.decode("latin-1"), 200)
        now = time.time()
        if self._json:
            text = json.dumps(
                {
                    "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
                    "level": "info",
                    "source": "access",
                    "event": "request",
                    "peer": peer,
                    "method": method,
                    "path": shown,
                    "status": status,
                    "octets": octets,
                    "milliseconds": round(seconds * 1000, 1),
                    "trace": mark,
                }
            )
        else:
            if int(now) != self._second:
                self._second = int(now)
                self._clock = f"{datetime.fromtimestamp(now, UTC):%H:%M:%S}"
            text = (
                f"{self._clock} {status}   {peer} {method} {visible(shown)}"
                f" {octets} octets {seconds * 1000:.1f} ms [{mark}]"
            )
        self._lines.append(text)
        if len(self._lines) >= 1_000:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._writer.line("\n".join(lines))


def begin(stream: TextIO = sys.stderr) -> LogWriter:
    """Make our writer the only log observer of this process, and return it."""
    writer = LogWriter(stream)
    globalLogBeginner.beginLoggingTo([writer], redirectStandardIO=False, discardBuffer=False)
    return writer


# Upper bounds of what DoorMeter.time counts, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class DoorMeter:
    """Counts the requests of one door: plain integers, read when somebody asks."""

    def __init__(self, protocol: str, door: str) -> None:
        self.protocol = protocol
        self.door = door
        self.outcomes: dict[int | str, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, outcome: int | str) -> None:
        """Count one request by its HTTP status, or by a word of a protocol's fixed set."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def time(self, seconds: float) -> None:
        """Add how long a request took."""
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics(Collector):
    """Every number that the daemon shows, in a registry of its own."""

    def __init__(self) -> None:
        self._doors: dict[tuple[str, str], DoorMeter] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.lag = Gauge(
            "tmad_reactor_lag_seconds",
            "How late the reactor was in the last second; above 0.05 something blocks it.",
            registry=self.registry,
        )
        self.connections = Gauge(
            "tmad_http_connections", "Open HTTP connections.", registry=self.registry
        )
        self.cut_off = Gauge(
            "tmad_http_cut_off", "HTTP connections that were cut off.", registry=self.registry
        )

    def door(self, protocol: str, door: str) -> DoorMeter:
        """Return the meter of a door; call it when a door is mounted, never for a request."""
        return self._doors.setdefault((protocol, door), DoorMeter(protocol, door))

    @property
    def doors(self) -> tuple[DoorMeter, ...]:
        """The meters of every door of this process."""
        return tuple(self._doors.values())

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Yield the doors' numbers, as prometheus_client asks for them."""
        requests = CounterMetricFamily(
            "tmad_requests",
            "Requests by door and outcome: an HTTP status or the protocol's own word.",
            labels=("protocol", "door", "outcome"),
        )
        times = HistogramMetricFamily(
            "tmad_request_seconds",
            "Time from the request's end to the answer; hot doors are not timed.",
            labels=("protocol", "door"),
        )
        for meter in self._doors.values():
            for outcome, number in sorted(meter.outcomes.items(), key=str):
                requests.add_metric((meter.protocol, meter.door, str(outcome)), number)
            total, cumulated = 0, []
            for bound, number in zip((*map(str, BUCKETS), "+Inf"), meter.buckets, strict=True):
                total += number
                cumulated.append((bound, total))
            if total:
                times.add_metric((meter.protocol, meter.door), cumulated, meter.seconds)
        yield requests
        yield times

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
