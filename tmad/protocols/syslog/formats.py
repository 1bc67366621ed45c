"""A record of the journal as one message: RFC 5424, RFC 3164, CEF, LEEF, JSON; pure.

Names in records come from strangers' requests. Whatever they hold, a message stays one line
without control characters and never longer than its limit: collectors turn a raw line feed and
what exceeds their own limit into records of their own, which is to say forged ones (Y-03, Y-04).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from tmad.lifecycle.severity import Severity, outcome_of, severity_in

if TYPE_CHECKING:
    from tmad.storage.journal import Record

Style: TypeAlias = Literal["rfc5424", "rfc3164", "cef", "leef", "json"]

FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)  # fmt: skip

APPLICATION: Final = "tmad"
_LAST_NUMBER: Final = 2_147_483_647  # RFC 5424, 7.3.1
_LONGEST_VALUE: Final = 1_024  # characters
_LONGEST_ENTRY: Final = 65_536  # octets of one for journald: half of what a datagram may have
_LONGEST_NAME: Final = 32  # SD-NAME, RFC 5424, 6
_SAID_ELSEWHERE: Final = frozenset({"serial", "subject", "authority", "peer", "address"})
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun",
                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # fmt: skip
# CEF counts from 0 to 10 upwards, LEEF from 1.
_CEF_SEVERITY: Final = (10, 10, 9, 7, 6, 4, 2, 0)

# C0, DEL, C1, separators that some readers obey, and what turns the direction of writing.
_CONTROLS: Final = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
)
_SHORT: Final = {0x0A: "n", 0x0D: "r", 0x09: "t"}


def _table(backslash: str, own: Mapping[str, str] | None = None) -> dict[int, str]:
    """Return a translation that shows control characters, and escapes what a format needs.

    ``backslash`` is how the format writes one.
    """
    table = {}
    for code in _CONTROLS:
        shown = _SHORT.get(code) or (f"x{code:02x}" if code < 0x100 else f"u{code:04x}")
        table[code] = backslash + shown
    return table | {ord(key): text for key, text in (own or {}).items()}


_PLAIN: Final = _table("\\")
_PARAMETER: Final = _table(r"\\", {'"': r"\"", "\\": r"\\", "]": r"\]"})  # RFC 5424, 6.3.3
_CEF_HEADER: Final = _table(r"\\", {"\\": r"\\", "|": r"\|"})
_CEF_VALUE: Final = _table(r"\\", {"\\": r"\\", "=": r"\=", "\n": r"\n", "\r": r"\r"})
_LEEF_VALUE: Final = _table("\\", {"^": r"\x5e"})
# ASCII already, but for the one control character that JSON lets stand.
_JSON: Final = {0x7F: r"\u007f"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What every message says of the daemon that sends it.

    ``enterprise`` is the private enterprise number of the structured data, with sub-numbers
    if need be; ``zone`` is what RFC 3164's local time is told in.
    """

    host: str
    version: str
    process: str
    address: str = ""
    enterprise: str = "8072.9999.9999"
    zone: tzinfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a collector wants its messages; ``limit`` is in octets."""

    style: Style = "rfc5424"
    facility: str = "authpriv"
    limit: int = 8_192
    bom: bool = False
    digest: bool = True


class Formatter:
    """Makes messages for one collector; ``is_synced`` says whether the clock is kept right."""

    def __init__(self, layout: Layout, origin: Origin) -> None:
        self.is_synced = False
        self._layout = layout
        self._origin = origin
        self._host = _word(origin.host, 255)
        self._priority = FACILITIES.index(layout.facility) * 8
        self._sd_id = f"{APPLICATION}@{origin.enterprise}"
        self._styles: dict[str, Callable[[Record, int], str]] = {
            "rfc5424": self._rfc5424,
            "rfc3164": self._rfc3164,
            "cef": self._cef,
            "leef": self._leef,
            "json": self._json,
        }

    def message(self, record: Record, number: int) -> bytes:
        """Return a message; ``number`` counts what this sender has sent (RFC 5424, 7.3.1)."""
        text = self._styles[self._layout.style](record, (number - 1) % _LAST_NUMBER + 1)
        return shortened(_octets(text), self._layout.limit)

    # -- styles -------------------------------------------------------------------------------

    def _rfc5424(self, record: Record, number: int) -> str:
        head = self._head(record)
        tail = self._about_us(number)
        text = summary(record).translate(_PLAIN)
        # The message itself may be cut; the structured data stay whole (Y-04).
        room = self._layout.limit - len(head) - len(tail) - min(len(_octets(text)), 256) - 64
        element = self._element(record, room)
        bom = "\ufeff" if self._layout.bom else ""
        return f"{head} {element}{tail} {bom}{text}"

    def _head(self, record: Record) -> str:
        return (
            f"<{self._priority + _severity(record)}>1 {_instant(record)} {self._host}"
            f" {APPLICATION} {_word(self._origin.process, 128)} {_word(record.kind, 32)}"
        )

    def _about_us(self, number: int) -> str:
        origin = self._origin
        address = f' ip="{origin.address}"' if origin.address else ""
        version = origin.version.translate(_PARAMETER)
        return (
            f'[origin{address} enterpriseId="{origin.enterprise}" software="{APPLICATION}"'
            f' swVersion="{version}"][meta sequenceId="{number}"]'
            f'[timeQuality tzKnown="1" isSynced="{int(self.is_synced)}"]'
        )

    def _element(self, record: Record, room: int) -> str:
        """Return the element of a record; what finds no room is counted in ``omitted``."""
        return f"[{self._sd_id}{self._parameters(record, room - len(self._sd_id))}]"

    def _parameters(self, record: Record, room: int) -> str:
        parts: list[str] = []
        omitted = 0
        left = room - 24
        for name, value in facts(record, digest=self._layout.digest):
            part = f' {name}="{value[:_LONGEST_VALUE].translate(_PARAMETER)}"'
            octets = len(_octets(part))
            if octets > left:
                omitted += 1
                continue
            left -= octets
            parts.append(part)
        if omitted:
            parts.append(f' omitted="{omitted}"')
        return "".join(parts)

    def _rfc3164(self, record: Record, number: int) -> str:
        text = f"{record.kind} {summary(record)}".translate(_PLAIN)
        head = f"{self._old_head(record)} {APPLICATION}[{_word(self._origin.process, 20)}]: {text}"
        return head + self._parameters(record, self._layout.limit - len(_octets(head)))

    def _old_head(self, record: Record) -> str:
        at = record.at.astimezone(self._origin.zone)
        # RFC 3164, 4.1.2: a day below 10 has a space before it; the host has no domain.
        host = self._host if _is_address(self._host) else self._host.partition(".")[0]
        return (
            f"<{self._priority + _severity(record)}>{_MONTHS[at.month - 1]} {at.day:2d}"
            f" {at:%H:%M:%S} {host}"
        )

    def _cef(self, record: Record, number: int) -> str:
        about = dict(facts(record, digest=self._layout.digest))
        name = record.kind.replace(".", " ").replace("-", " ")
        grade = _CEF_SEVERITY[_severity(record)]
        fields = {
            "rt": str(_milliseconds(record)),
            "dvchost": self._host,
            "externalId": f"{record.writer}/{record.seq}",
            "outcome": about["result"],
            "suser": record.actor,
            **_sources(about.get("src", "")),
            **({"duser": about["user_name"]} if about.get("user_name") else {}),
            "msg": summary(record),
        }
        labelled = (
            ("tenant", record.tenant),
            ("certificateSubject", about.get("subject", "")),
            ("certificateSerial", about.get("serial", "")),
            ("authority", about.get("ca", "")),
            ("explainId", record.trace),
            ("data", record.data),
        )
        for index, (label, value) in enumerate(labelled, 1):
            if value:
                fields |= {f"cs{index}Label": label, f"cs{index}": value}
        head = "|".join(
            text.translate(_CEF_HEADER)
            for text in (APPLICATION, APPLICATION, self._origin.version, record.kind, name)
        )
        start = f"{self._old_head(record)} CEF:0|{head}|{grade}|"
        return self._fitting(start, fields, " ", _CEF_VALUE)

    def _leef(self, record: Record, number: int) -> str:
        about = dict(facts(record, digest=self._layout.digest))
        fields = {
            "devTime": str(_milliseconds(record)),
            "sev": str(max(1, _CEF_SEVERITY[_severity(record)])),
            "cat": record.kind.partition(".")[0],
            "usrName": record.actor,
            **_sources(about.pop("src", "")),
            **{name: value for name, value in about.items() if name != "actor"},
            "msg": summary(record),
        }
        version = self._origin.version.translate(_PLAIN).replace("|", "/")
        start = (
            f"{self._old_head(record)} LEEF:2.0|{APPLICATION}|{APPLICATION}|{version}"
            f"|{_word(record.kind, 64)}|^|"
        )
        return self._fitting(start, fields, "^", _LEEF_VALUE)

    def _fitting(
        self, start: str, fields: Mapping[str, str], between: str, table: dict[int, str]
    ) -> str:
        """Return fields one behind the other, those left out for which there is no room."""
        left = self._layout.limit - len(_octets(start))
        parts = []
        for name, value in fields.items():
            part = f"{name}={value[:_LONGEST_VALUE].translate(table)}"
            octets = len(_octets(part)) + 1
            if octets <= left:
                left -= octets
                parts.append(part)
        return start + between.join(parts)

    def _json(self, record: Record, number: int) -> str:
        head = f"{self._head(record)} {self._about_us(number)} @cee: "
        return head + json_text(record, self._layout.limit - len(head), digest=self._layout.digest)


def json_text(record: Record, limit: int, *, digest: bool = True) -> str:
    """Return a record as JSON in ASCII, within a limit: without its data if need be."""
    whole: dict[str, Any] = {
        "time": _instant(record),
        "kind": record.kind,
        "severity": _severity(record).name.lower(),
        "outcome": outcome_of(record.kind),
        "writer": record.writer,
        "seq": record.seq,
        "tenant": record.tenant,
        "actor": record.actor,
        "object": record.object,
        "trace": record.trace,
        **({"hash": record.hash.hex()} if digest else {}),
        "message": summary(record),
        "data": _data(record),
    }
    text = json.dumps(whole, separators=(",", ":")).translate(_JSON)
    if len(text) <= limit:
        return text
    del whole["data"]
    whole["cut"] = True
    for longest in (256, 64, 16, 4, 0):
        # What strangers can make long; the rest names the record.
        for key in ("message", "object", "actor", "trace"):
            whole[key] = whole[key][:longest]
        text = json.dumps(whole, separators=(",", ":")).translate(_JSON)
        if len(text) <= limit:
            break
    return text


def journal_fields(record: Record, facility: str, *, digest: bool = True) -> bytes:
    """Return a record in journald's native protocol, its facts as fields TMAD_…."""
    fields = {
        "MESSAGE": summary(record),
        "PRIORITY": str(int(_severity(record))),
        "SYSLOG_FACILITY": str(FACILITIES.index(facility)),
        "SYSLOG_IDENTIFIER": APPLICATION,
        "SYSLOG_TIMESTAMP": _instant(record),
        "TMAD_KIND": record.kind,
    }
    for name, value in facts(record, digest=digest):
        fields[f"TMAD_{name.upper().replace('-', '_')}"] = value
    entry = bytearray()
    for name, value in fields.items():
        # Without a line feed in it, a value needs no length.
        field = _octets(f"{name}={value[:_LONGEST_VALUE].translate(_PLAIN)}\n")
        if len(entry) + len(field) <= _LONGEST_ENTRY:
            entry += field
    return bytes(entry)


def facts(record: Record, *, digest: bool = True) -> Iterator[tuple[str, str]]:
    """Yield what a record says as names and texts, the most telling first.

    ``writer`` and ``seq`` name a record for ever: two messages that agree in both are one
    record, sent twice. ``hash`` is the journal's chain up to it (docs/operations.md).
    """
    data = _data(record)
    yield "seq", str(record.seq)
    yield "writer", record.writer
    yield "result", outcome_of(record.kind)
    own = (
        ("tenant", record.tenant),
        ("actor", record.actor),
        ("object", record.object),
        ("reqid", record.trace),
        ("serial", _text(data.get("serial"))),
        ("subject", _text(data.get("subject"))),
        ("ca", _text(data.get("authority"))),
        ("src", _text(data.get("peer") or data.get("address"))),
    )
    said = {"seq", "writer", "result", "hash", "omitted", *_SAID_ELSEWHERE}
    for name, value in own:
        said.add(name)
        if value:
            yield name, value
    if digest:
        yield "hash", record.hash.hex()
    for key, value in data.items():
        name = key[:_LONGEST_NAME]
        # RFC 5424, 6.3.3: a name stands once in an element; and only ours can stand here.
        if name not in said and name.isascii() and name.replace("-", "_").isidentifier():
            said.add(name)
            if text := _text(value):
                yield name, text


def summary(record: Record) -> str:
    """Return a record in words: what it happened to, who did it, from where, and why."""
    data = _data(record)
    text = f"{record.kind.replace('.', ' ', 1)}"
    if record.object:
        text += f" {record.object}"
    if record.actor:
        text += f" by {record.actor}"
    if source := _text(data.get("peer") or data.get("address")):
        text += f" from {source}"
    if why := _text(data.get("detail") or data.get("subject")):
        text += f": {why}"
    return f"{text} [{record.trace}]" if record.trace else text


def shortened(octets: bytes, limit: int) -> bytes:
    """Return a message of at most ``limit`` octets, cut between two characters."""
    if len(octets) <= limit:
        return octets
    # As long as the mark can get.
    end = limit - len(f"…[cut {len(octets)}]".encode())
    while octets[end] & 0xC0 == 0x80:
        end -= 1
    return octets[:end] + f"…[cut {len(octets) - end}]".encode()


def _severity(record: Record) -> Severity:
    return severity_in(record.kind, record.data)


def _data(record: Record) -> Mapping[str, Any]:
    return _parsed(record.data)


@lru_cache(maxsize=16)  # a record is asked for it several times
def _parsed(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        # Altered in the database; that is for the audit to say.
        return {"data": text}
    return data if isinstance(data, dict) else {"data": text}


def _text(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _sources(text: str) -> dict[str, str]:
    """Return where it came from as the old formats want it: an address, or else a name."""
    if not text:
        return {}
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return {"src": host} if _is_address(host) else {"shost": text}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _word(text: str, longest: int) -> str:
    """Return printable ASCII without a space (RFC 5424, 6), or the nil value."""
    return "".join(c for c in text if "!" <= c <= "~")[:longest] or "-"


def _octets(text: str) -> bytes:
    # Half of a surrogate pair can stand in JSON, but not in UTF-8.
    return text.encode("utf-8", "replace")


def _instant(record: Record) -> str:
    return record.at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _milliseconds(record: Record) -> int:
    return int(record.at.timestamp() * 1_000)
