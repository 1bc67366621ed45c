"""The figures of the installation as Prometheus metrics.

Labels are words of the code, or names that administrators gave (tenants, authorities, collectors),
never what strangers send; of authorities and tenants the first thousand are shown.
"""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from tmad.lifecycle.figures import AuthorityFigures, Figures, TenantFigures
from tmad.lifecycle.notify import OUTCOMES, WAYS
from tmad.storage.alarms import AlarmRow
from tmad.storage.figures import CRLHead

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily

_MOST: Final = 1_000  # authorities, tenants


_CRL: Final[tuple[tuple[str, str, Callable[[CRLHead], float]], ...]] = (
    ("crl_number", "Number of the newest CRL.", lambda crl: crl.number),
    ("crl_entries", "Certificates on the newest CRL.", lambda crl: crl.entries),
    ("crl_size_bytes", "Size of the newest CRL.", lambda crl: crl.size),
    (
        "crl_this_update_timestamp_seconds",
        "When the newest CRL was made.",
        lambda crl: crl.this_update.timestamp(),
    ),
    (
        "crl_next_update_timestamp_seconds",
        "When the newest CRL ends: clients refuse it from then on.",
        lambda crl: crl.next_update.timestamp(),
    ),
)


class Gauges(Collector):
    """Shows the newest sample, and what this process has counted besides requests."""

    def __init__(
        self,
        figures: Callable[[], Figures | None],
        alarms: Callable[[], Sequence[AlarmRow]],
        *,
        events: Counter[str],
        refusals: Counter[str],
        messages: Counter[tuple[str, str]],
        jobs: Callable[[], Mapping[str, int]],
        is_leader: Callable[[], bool],
    ) -> None:
        """``events`` are journaled ones by kind, ``refusals`` those of requests by rule,
        ``messages`` tries of notifications by way and outcome; ``jobs`` tells how often each job
        has failed in a row.
        """
        self._figures = figures
        self._alarms = alarms
        self._events = events
        self._refusals = refusals
        self._messages = messages
        self._jobs = jobs
        self._is_leader = is_leader

    def collect(self) -> Iterator[Family]:
        """Yield every metric, as prometheus_client asks for them."""
        yield InfoMetricFamily(
            "tmad_build",
            "What runs here.",
            {"version": metadata.version("tmad"), "python": platform.python_version()},
        )
        yield from self._process()
        figures = self._figures()
        if figures is not None:
            yield from _node(figures)
            yield from _authorities(figures.authorities[:_MOST])
            yield from _tenants(figures.tenants[:_MOST])
            left_out = len(figures.authorities[_MOST:]) + len(figures.tenants[_MOST:])
            yield _gauge("left_out", "Authorities and tenants that are not shown.", left_out)

    def describe(self) -> Iterable[Family]:
        """Name nothing in advance: registering must not ask for figures."""
        return ()

    def _process(self) -> Iterator[Family]:
        yield _counters(
            "events",
            "Journal records that this process has committed, by kind.",
            ("kind",),
            (((kind,), number) for kind, number in sorted(self._events.items())),
        )
        yield _counters(
            "refusals",
            "Requests that this process has refused, by the rule that said no (docs/errors.md).",
            ("rule",),
            (((rule,), number) for rule, number in sorted(self._refusals.items())[:_MOST]),
        )
        yield _counters(
            "notifications",
            "Messages of notifications by way, and what became of each try.",
            ("way", "outcome"),
            ((key, self._messages[key]) for key in itertools.product(WAYS, OUTCOMES)),
        )
        yield _gauge(
            "leader",
            "Whether this process runs what only one of all runs; the sum over all must be 1.",
            int(self._is_leader()),
        )
        yield _gauges(
            "job_failures",
            "How often a repeated job has failed in a row; 0 after a success.",
            # Not "job", which is Prometheus' own label.
            ("name",),
            (((name,), number) for name, number in sorted(self._jobs().items())),
        )
        found = Counter((row.name, row.severity) for row in self._alarms())
        yield _gauges("alarms", "What is wrong now.", ("alarm", "severity"), sorted(found.items()))


def _node(figures: Figures) -> Iterator[Family]:
    database, journal, disk = figures.database, figures.journal, figures.disk
    yield _gauge("sampled_timestamp_seconds", "When the figures are from.", figures.sampled_at)
    yield _gauge("database_up", "Whether it answers.", int(database.state != "failed"))
    yield _gauge("database_writable", "Whether it takes changes.", int(database.state == "ok"))
    yield _gauge("database_sample_seconds", "What the sample's questions took.", database.seconds)
    yield _gauges(
        "key_store_up",
        "Whether a key store signs.",
        ("store",),
        (((store.store,), int(store.state == "ok")) for store in figures.stores),
    )
    yield _gauge("disk_size_bytes", "The data directory's disk.", disk.size)
    yield _gauge("disk_free_bytes", "What is free of it.", disk.free)
    yield _gauge("workers", "Processes of this node that are alive.", len(figures.workers))
    yield _gauges(
        "queue_length",
        "What waits: requests for people, messages for receivers, jobs for threads.",
        ("queue",),
        (((name,), number) for name, number in sorted(figures.queues.items())),
    )
    if journal is not None:
        yield _gauge("journal_records", "Records of the journal.", journal.records)
        yield _gauge(
            "journal_sealed_timestamp_seconds",
            "When the journal was sealed last; 0: never.",
            journal.sealed_at or 0,
        )
        yield _gauges(
            "journal_behind",
            "Records that a subscriber of the journal has not had yet.",
            ("subscriber",),
            (((name,), number) for name, number in sorted(journal.behind.items())[:_MOST]),
        )


def _authorities(authorities: Sequence[AuthorityFigures]) -> Iterator[Family]:
    names = ("tenant", "authority")
    labels = {known.id: (known.tenant, known.slug) for known in authorities}
    yield _gauges(
        "authority_info",
        "Authorities: state is active, next, retired, …; key tells whether it is here.",
        (*names, "state", "key"),
        ((((*labels[k.id], k.state, "here" if k.has_key else "none")), 1) for k in authorities),
    )
    yield _gauges(
        "authority_not_after_timestamp_seconds",
        "When the certificate of an authority ends.",
        names,
        ((labels[k.id], k.not_after.timestamp()) for k in authorities if k.not_after is not None),
    )
    made = [(labels[k.id], k.crl) for k in authorities if k.crl is not None]
    for name, text, value in _CRL:
        yield _gauges(name, text, names, ((label, value(crl)) for label, crl in made))
    yield _gauges(
        "crl_state",
        "Always 1; state is current, overdue, expired, missing or none (it signs no CRL here).",
        (*names, "state"),
        (((*labels[k.id], k.crl_state), 1) for k in authorities),
    )
    signed = [(labels[k.id], k.signed) for k in authorities if k.signed is not None]
    yield _gauges(
        "authority_issued_certificates",
        "Certificates that an authority has issued.",
        names,
        ((label, of.issued) for label, of in signed),
    )
    yield _gauges(
        "authority_revoked_certificates",
        "Certificates that an authority has revoked.",
        names,
        ((label, of.revoked) for label, of in signed),
    )


def _tenants(tenants: Sequence[TenantFigures]) -> Iterator[Family]:
    yield _gauges(
        "requests_pending",
        "Requests that wait for a person.",
        ("tenant",),
        (((known.tenant,), known.pending) for known in tenants),
    )
    yield _gauges(
        "certificates_valid",
        "Certificates that are neither expired nor revoked.",
        ("tenant",),
        (((known.tenant,), known.valid) for known in tenants if known.valid is not None),
    )
    yield _gauges(
        "certificates_expiring",
        "Valid certificates that end within so many days.",
        ("tenant", "days"),
        (
            ((known.tenant, str(days)), number)
            for known in tenants
            for days, number in (known.expiring or {}).items()
        ),
    )


def _gauge(name: str, text: str, value: float | datetime) -> GaugeMetricFamily:
    number = value.timestamp() if isinstance(value, datetime) else value
    return GaugeMetricFamily(f"tmad_{name}", text, value=number)


def _gauges(
    name: str,
    text: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], float]],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"tmad_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _counters(
    name: str,
    text: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], float]],
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"tmad_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family
