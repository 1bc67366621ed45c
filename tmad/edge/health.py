"""The operators' listener: metrics, liveness, what still works, and what is wrong."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tmad import observe
from tmad.edge.http import Doors
from tmad.errors import Fault
from tmad.plugin import Limits
from tmad.signer.keyring import Keyring
from tmad.storage.alarms import AlarmRow
from tmad.storage.changes import Changes
from tmad.wire.http import Request, Response

_UNLIMITED = Limits(body=0, url=1_024, rate=0)
_READ_ONLY = ("GET", "HEAD")


class Health:
    """Answers /metrics, /healthz and /readyz; none of them says anything secret.

    ``about`` names the process; ``measure`` brings the metrics up to date; ``serving`` tells
    whether it has started and is not stopping, ``writing`` why the database takes no changes
    ("" if it does); ``waiting`` names what is not open yet; ``reading`` and ``changing`` name
    what protocols do with a database that can only be read, and what needs one that is written.
    ``alarms`` asks what is wrong, which makes no node less ready.
    """

    def __init__(
        self,
        changes: Changes,
        keyring: Keyring,
        metrics: observe.Metrics,
        *,
        about: Mapping[str, str | int],
        measure: Callable[[], None],
        serving: Callable[[], bool],
        writing: Callable[[], str],
        waiting: Callable[[], list[str]],
        reading: Sequence[str] = (),
        changing: Sequence[str] = (),
        alarms: Callable[[], Awaitable[Sequence[AlarmRow]]],
    ) -> None:
        self._changes = changes
        self._keyring = keyring
        self._metrics = metrics
        self._about = about
        self._measure = measure
        self._serving = serving
        self._writing = writing
        self._waiting = waiting
        self._reading = reading
        self._changing = changing
        self._alarms = alarms
        self.doors = Doors(metrics)
        for path, handler in (
            ("/metrics", self.exposition),
            ("/healthz", self.alive),
            ("/readyz", self.ready),
        ):
            self.doors.mount(
                "ops", path, handler, plain=True, limits=_UNLIMITED, methods=_READ_ONLY
            )

    async def exposition(self, request: Request) -> Response:
        """Return every metric in Prometheus' text format."""
        self._measure()
        # The gauges show the newest answer; what cannot be asked keeps its last one.
        with contextlib.suppress(Fault):
            await self._alarms()
        return Response(
            body=self._metrics.exposition(),
            content_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def alive(self, request: Request) -> Response:
        """Say that the reactor turns; nothing else is asked."""
        return Response(body=b"ok\n")

    async def ready(self, request: Request) -> Response:
        """Say part by part what works; 503 when the database or every key store does not."""
        parts = {"database": "ok"}
        try:
            # The question that every cached answer asks first.
            await self._changes.catch_up()
        except Fault as fault:
            parts["database"] = f"failed: {fault.detail}"
        has_database = parts["database"] == "ok"
        # A standby or a full disk: everything can be read and nothing can be changed.
        trouble = self._writing()
        is_writing = has_database and not trouble
        if has_database and trouble:
            parts["database.writes"] = trouble
        stores = await self._keyring.health()
        for store in stores:
            parts[f"keys.{store.store}"] = (
                store.state if store.state == "ok" else f"{store.state}: {store.reason}"
            )
        for listener in self._waiting():
            parts[listener] = "waits for a certificate"
        some_keys = any(store.state == "ok" for store in stores)
        all_keys = all(store.state == "ok" for store in stores)
        wrong = await self._wrong() if has_database else []
        is_ready = self._serving() and has_database and some_keys
        report = {
            "ready": is_ready,
            **self._about,
            "parts": parts,
            "works": {
                "enrolment": is_writing and all_keys,
                "enrolment with the keys that are there": is_writing and some_keys,
                "revocation": is_writing,
                "signed status and CRLs at hand": has_database,
                **dict.fromkeys(self._reading, has_database),
                **dict.fromkeys(self._changing, is_writing),
            },
            "alarms": wrong,
        }
        return Response(
            status=200 if is_ready else 503,
            body=(json.dumps(report, indent=1) + "\n").encode(),
            content_type="application/json",
        )

    async def _wrong(self) -> list[dict[str, str]]:
        try:
            found = await self._alarms()
        except Fault as fault:
            return [{"alarm": "unknown", "severity": "warning", "text": fault.detail}]
        return [
            {
                "alarm": row.name,
                "severity": row.severity,
                "object": row.object,
                "since": row.since.isoformat(timespec="seconds"),
                "text": row.text,
            }
            for row in found
        ]
