"""What a notification says: the text of a mail, the JSON of a webhook."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tmad.identity.delivery.templates import fill
from tmad.observe import clipped, visible
from tmad.storage.journal import Record

_LONGEST_VALUE: Final = 300  # characters of one value in a text
_MOST_VALUES: Final = 30
_LONGEST_SUBJECT: Final = 200
_LARGEST_BODY: Final = 262_144  # octets of a webhook's events


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one message tells of: how many records of each kind, and the first of them."""

    node: str
    tenant: str
    notification: str
    kinds: Mapping[str, int]
    records: Sequence[Record]

    @property
    def count(self) -> int:
        """Return how many records it tells of."""
        return sum(self.kinds.values())

    @property
    def is_single(self) -> bool:
        """Whether it is about one record."""
        return self.count == 1 and len(self.records) == 1

    @property
    def kind(self) -> str:
        """Return the kind of the records, "digest" where there are several."""
        return next(iter(self.kinds)) if len(self.kinds) == 1 else "digest"


def subject(template: str, telling: Telling) -> str:
    """Return the subject of a mail: one line."""
    return clipped(visible(fill(template, values(telling), str)), _LONGEST_SUBJECT)


def text(template: str, telling: Telling) -> str:
    """Return the text of a mail."""
    return fill(template, values(telling), str)


def values(telling: Telling) -> dict[str, str]:
    """Return what stands for each name of a template."""
    only = telling.records[0] if telling.is_single else None
    return {
        "summary": summary(telling),
        "events": _events(telling),
        "count": str(telling.count),
        "kind": telling.kind,
        "object": "" if only is None else _value(only.object),
        "actor": "" if only is None else _value(only.actor),
        "explain": "" if only is None else only.trace,
        "at": "" if only is None else _time(only.at),
        "tenant": telling.tenant,
        "node": telling.node,
        "notification": telling.notification,
    }


def summary(telling: Telling) -> str:
    """Return one line that says what happened."""
    if telling.is_single:
        [record] = telling.records
        data = _data(record)
        if isinstance(said := data.get("text"), str) and said:
            return _value(said)
        return f"{record.kind} {_value(_about(record))} by {_value(record.actor)}"
    if len(telling.kinds) == 1:
        return f"{telling.count} × {telling.kind}"
    most = sorted(telling.kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{number} {kind}" for kind, number in most[:3])
    more = f" and {len(most) - 3} kinds more" if len(most) > 3 else ""
    return f"{telling.count} events: {shown}{more}"


def payload(telling: Telling) -> bytes:
    """Return the body of a webhook: JSON that says everything."""
    events: list[dict[str, Any]] = []
    size = 0
    for record in telling.records:
        event = _event(record)
        size += len(json.dumps(event))
        if size > _LARGEST_BODY:
            break
        events.append(event)
    first = telling.records[0].at if telling.records else None
    return json.dumps(
        {
            "type": telling.kind,
            "timestamp": None if first is None else first.isoformat(),
            "data": {
                "node": telling.node,
                "tenant": telling.tenant,
                "notification": telling.notification,
                "summary": summary(telling),
                "count": telling.count,
                "kinds": dict(telling.kinds),
                "events": events,
                "left_out": telling.count - len(events),
            },
        },
        separators=(",", ":"),
    ).encode()


def chat(telling: Telling) -> bytes:
    """Return the body of a webhook of a chat service."""
    lines = [f"tmad on {telling.node}: {summary(telling)}"]
    if not telling.is_single:
        lines += [f"{_time(r.at)}  {r.kind} {_value(_about(r))}" for r in telling.records[:20]]
        lines += _more(telling.count - min(20, len(telling.records)))
    # Slack's three signs that would begin a link or a mention.
    said = "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": said}).encode()


def _events(telling: Telling) -> str:
    blocks = ["\n".join(_block(record)) for record in telling.records]
    return "\n\n".join([*blocks, *_more(telling.count - len(telling.records))])


def _more(number: int) -> list[str]:
    return [f"and {number} more: tmad audit tail shows them"] if number > 0 else []


def _block(record: Record) -> Iterable[str]:
    yield f"{_time(record.at)}  {record.kind}"
    about = {"object": record.object, "actor": record.actor, "explain": record.trace}
    data = _data(record)
    shown = {key: value for key, value in about.items() if value} | data
    width = max((len(key) for key in list(shown)[:_MOST_VALUES]), default=0)
    for key, value in list(shown.items())[:_MOST_VALUES]:
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"  {visible(key):{min(width, 24)}}  {_value(said)}"


def _event(record: Record) -> dict[str, Any]:
    return {
        "id": f"{record.writer}:{record.seq}",
        "at": record.at.isoformat(),
        "tenant": record.tenant,
        "kind": record.kind,
        "actor": record.actor,
        "object": record.object,
        "explain": record.trace,
        "data": _data(record),
    }


def _about(record: Record) -> str:
    """Return what a person calls what it happened to."""
    subject = _data(record).get("subject")
    return subject if isinstance(subject, str) and subject else record.object


def _data(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.data)
    return found


def _value(text: str) -> str:
    return clipped(visible(text), _LONGEST_VALUE)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
