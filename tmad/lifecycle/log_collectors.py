"""Log collectors: who is told what the journal records, and how far each has been told.

The journal is the queue: a collector that is away costs a cursor that does not move, and nobody
waits for it. What is sent over which socket is the syslog protocol's business.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.journal import Journal
from tmad.lifecycle.severity import Severity, severity_in
from tmad.managed.catalogue import Kind
from tmad.storage import journal as records
from tmad.storage import log_collectors as rows
from tmad.storage import objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.journal import Record
from tmad.storage.kept import Kept
from tmad.storage.log_collectors import Waiting
from tmad.wire import parsing

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.storage.objects import ObjectRow

KIND: Final = rows.KIND

UNREACHABLE: Final = "log-collector.unreachable"
REACHED: Final = "log-collector.reached"

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9_.-]{1,253})):(?P<port>[0-9]{1,5})"
)
_PATTERN: Final = re.compile(r"[a-z0-9*.-]{1,64}")
_MOST_OCTETS: Final = 262_144  # of CA certificates
_LOCAL: Final = ("journald", "stdout")


class CollectorTLS(BaseModel):
    """How a collector proves itself, and we ourselves to it (RFC 5425, 4.2 and 5)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: str = Field(
        default="",
        max_length=_MOST_OCTETS,
        description="CA certificates, as PEM, that the collector's certificate must come from; "
        "empty: those of tls.authority, and without one those this machine trusts.",
    )
    authority: str = Field(
        default="",
        max_length=63,
        description="An authority of this tenant that the collector's certificate comes from.",
    )
    name: str = Field(
        default="",
        max_length=253,
        description="Name or address in the collector's certificate; default: where it is.",
    )
    fingerprint: str = Field(
        default="",
        description="SHA-256 of the collector's certificate, in hex: instead of a CA and a name.",
    )
    client: Literal["none", "own", "file"] = Field(
        default="none",
        description="The certificate that we show: none, one that our CA issues for this node and "
        "renews, or the one of protocols.syslog.client_certificate_file.",
    )

    @field_validator("ca")
    @classmethod
    def _ca_is_pem(cls, pem: str) -> str:
        if pem:
            try:
                parsing.certificates(pem.encode())
            except ValueError as error:
                raise ValueError(f"not PEM certificates: {error}") from None
        return pem

    @field_validator("fingerprint")
    @classmethod
    def _fingerprint_is_sha_256(cls, text: str) -> str:
        digits = text.replace(":", "").lower()
        if digits and not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise ValueError("expected the 64 hex digits of a SHA-256")
        return digits


class LogCollectorDocument(BaseModel):
    """A collector of log messages, and which records of the journal it gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", max_length=500)
    enabled: bool = Field(
        default=True, description="Off, it gets nothing, and later everything since."
    )
    transport: Literal["udp", "tcp", "tls", "journald", "stdout"] = Field(
        default="tls",
        description="journald and stdout are those of the node that delivers just then.",
    )
    address: str = Field(default="", description='Where it listens: "HOST:PORT", "[IPv6]:PORT".')
    format: Literal["rfc5424", "rfc3164", "cef", "leef", "json"] = Field(
        default="rfc5424", description="How a message looks; json: in the text after @cee:."
    )
    framing: Literal["octet-counting", "lf", "nul"] = Field(
        default="octet-counting", description="Where a message ends on TCP and TLS."
    )
    facility: Literal[
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2",
        "local3", "local4", "local5", "local6", "local7",
    ] = "authpriv"  # fmt: skip
    severity: Literal[
        "emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"
    ] = Field(default="debug", description="The least grave that it gets.")
    events: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description='Kinds of events that it gets, with * ("certificate.*"); none: all.',
    )
    unless: tuple[str, ...] = Field(
        default=(), max_length=64, description="Kinds of events that it does not get, with *."
    )
    tenants: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Whose events: \"*\" for everybody's; default: its own tenant's. Others' need "
        "protocols.syslog.operator_tenant.",
    )
    start: Literal["now", "beginning"] = Field(
        default="now", description="What it gets first: what happens next, or the whole journal."
    )
    limit: int | None = Field(
        default=None,
        ge=1_024,
        le=65_000,
        description="Octets of a message; default: 8192, over UDP 2048.",
    )
    rate: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Messages a second at most; 0: over UDP 500, else what the collector takes.",
    )
    settle_seconds: float = Field(
        default=5.0,
        ge=0.5,
        le=3_600,
        description="What was sent so long before a connection broke is sent again.",
    )
    bom: bool = Field(default=False, description="Put a byte order mark before RFC 5424's text.")
    digest: bool = Field(
        default=True, description="Send the journal's hash chain, which makes it a witness."
    )
    tls: CollectorTLS = CollectorTLS()

    @field_validator("address")
    @classmethod
    def _address_has_a_port(cls, text: str) -> str:
        if text:
            match = _ADDRESS.fullmatch(text)
            if match is None or not 0 < int(match["port"]) < 65_536:
                raise ValueError('expected "HOST:PORT" or "[IPv6]:PORT"')
        return text

    @field_validator("events", "unless")
    @classmethod
    def _kinds_are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is no kind of event: a-z, 0-9, '-', '.' and '*'")
        return patterns

    @model_validator(mode="after")
    def _parts_fit(self) -> LogCollectorDocument:
        if not self.address and self.transport not in _LOCAL:
            raise ValueError(f"transport {self.transport} needs an address")
        if self.tls.fingerprint and (self.tls.ca or self.tls.authority):
            raise ValueError("tls.fingerprint stands instead of tls.ca and tls.authority")
        return self

    @property
    def host(self) -> str:
        """Where it listens, without the port."""
        match = _ADDRESS.fullmatch(self.address)
        return "" if match is None else match["literal"] or match["host"]

    @property
    def port(self) -> int:
        """The port on which it listens."""
        match = _ADDRESS.fullmatch(self.address)
        return 0 if match is None else int(match["port"])


def _check(connection: Connection, tenant: str, name: str, document: Any) -> None:
    if document.start == "now":
        rows.begin_now(connection, tenant, name)


def _check_delete(connection: Connection, tenant: str, name: str, document: Any) -> None:
    rows.forget(connection, tenant, name)


def _references(document: Any) -> list[tuple[str, str]]:
    return [("authority", document.tls.authority)] if document.tls.authority else []


LOG_COLLECTOR: Final = Kind(
    name=KIND,
    model=LogCollectorDocument,
    references=_references,
    check=_check,
    check_delete=_check_delete,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """One collector as it is configured now."""

    tenant: str
    name: str
    revision: int
    document: LogCollectorDocument

    def wants(self, record: Record, *, operator: bool) -> bool:
        """Tell whether it gets a record; ``operator``: it may have other tenants' too."""
        document = self.document
        tenants = document.tenants if operator and document.tenants else (self.tenant,)
        if record.tenant not in tenants and EVERY_TENANT not in tenants:
            return False
        if severity_in(record.kind, record.data) > Severity[document.severity.upper()]:
            return False
        if not _is_wanted(record.kind, document.events, document.unless):
            return False
        # What cannot be sent is not news for whom it could not be sent to (Y-12).
        is_own = record.tenant == self.tenant and record.object == self.name
        return not (is_own and record.kind in (UNREACHABLE, REACHED))


@lru_cache(maxsize=4_096)
def _is_wanted(kind: str, events: tuple[str, ...], unless: tuple[str, ...]) -> bool:
    if events and not any(_pattern(text).fullmatch(kind) for text in events):
        return False
    return not any(_pattern(text).fullmatch(kind) for text in unless)


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")))


class LogCollectors:
    """The collectors of every tenant, and what each has had."""

    def __init__(self, database: Database, changes: Changes, journal: Journal, now: Clock) -> None:
        self.journal = journal
        self._now = now
        self._database = database
        self._changes = changes
        self._kept: Kept[tuple[Collector, ...]] = Kept()
        changes.listen("objects", self._forget)

    # -- for actors ---------------------------------------------------------------------------

    @guarded("log-collector.read")
    async def waiting(self, actor: Actor, tenant: str, name: str) -> Waiting:
        """Return what a collector has not had yet; Fault(NOT_FOUND)."""
        await self._row(tenant, name)
        return await self._database.read(rows.waiting, tenant, name)

    @guarded("log-collector.test")
    async def testing(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> tuple[Collector, Record]:
        """Journal that a collector is tested; return it and a record to send to it."""
        row = await self._row(tenant, name)
        event = Event(kind="log-collector.tested", tenant=tenant, actor=actor.name, object=name)
        if not dry_run:
            await self.journal.write(event)
        record = Record(
            writer="test", seq=0, at=self._now(), tenant=tenant, kind=event.kind, actor=actor.name,
            object=name, trace="", data="{}", previous=b"", hash=bytes(32),
        )  # fmt: skip
        return _collector(row), record

    async def _row(self, tenant: str, name: str) -> ObjectRow:
        row = await self._database.read(objects.by_name, tenant, KIND, name)
        if row is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                f"there is no log-collector {name!r}",
                rule="syslog.collector",
                values={"tenant": tenant, "name": name},
            )
        return row

    # -- for who delivers ---------------------------------------------------------------------

    async def all(self) -> tuple[Collector, ...]:
        """Return the collectors of every tenant that are switched on, as of the last change."""
        await self._changes.catch_up()
        found = self._kept.value
        if found is None:
            found = await self._kept.fill(self._read())
        return found

    async def heads(self) -> dict[str, int]:
        """Return the newest record's number in each chain of the journal."""
        heads = await self._database.lookup(records.find_heads)
        return {head.writer: head.seq for head in heads}

    async def position(self, collector: Collector) -> dict[str, int]:
        """Return how far a collector has been served for good, in each chain."""
        return await self._database.read(rows.position, collector.tenant, collector.name)

    async def after(self, position: Mapping[str, int], limit: int) -> list[Record]:
        """Return the next records behind a position, by time; each chain's in its order."""
        pages = await self._database.read(rows.find_after, position, limit)
        return _merged(pages, limit)

    async def settle(self, collector: Collector, reached: Mapping[str, int]) -> None:
        """Remember how far a collector has been served for good."""
        await self._database.write(rows.settle, collector.tenant, collector.name, dict(reached))

    async def tell(self, collector: Collector, kind: str, **data: str | int) -> None:
        """Journal that a collector cannot be reached, or can again."""
        await self.journal.write(
            Event(
                kind=kind,
                tenant=collector.tenant,
                actor="system",
                object=collector.name,
                data={"collector": collector.document.address, **data},
            )
        )

    async def _read(self) -> tuple[Collector, ...]:
        every = [_collector(row) for row in await self._database.read(rows.find_all)]
        return tuple(each for each in every if each.document.enabled)

    def _forget(self, key: str) -> None:
        if key == "*" or f"/{KIND}/" in key or key.startswith("*/tenant/"):
            self._kept.forget()


def _collector(row: ObjectRow) -> Collector:
    return Collector(
        tenant=row.tenant,
        name=row.name,
        revision=row.revision,
        document=LogCollectorDocument.model_validate_json(row.document),
    )


def _merged(pages: list[list[Record]], limit: int) -> list[Record]:
    """Merge pages by time, as far as no page that was cut could hold something earlier."""
    merged = list(heapq.merge(*pages, key=lambda record: record.at))
    full = [page[-1].at for page in pages if len(page) == limit]
    if not full:
        return merged
    end = min(full)
    # A clock that was set back must not be a way to stop here for ever.
    return list(takewhile(lambda record: record.at <= end, merged)) or merged
