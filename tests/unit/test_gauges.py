"""Metrics of the installation: all of them parse, none of them grows with what strangers send."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support import Clock
from tmad import observe
from tmad.edge.gauges import Gauges
from tmad.lifecycle.figures import (
    AuthorityFigures,
    DatabaseFigures,
    DiskFigures,
    Figures,
    JournalFigures,
    TenantFigures,
)
from tmad.signer.keyring import StoreHealth
from tmad.storage.alarms import AlarmRow
from tmad.storage.figures import CRLHead, Signed

NOW = Clock()()
AUTHORITY = AuthorityFigures(
    id=1,
    tenant="default",
    authority="issuing",
    slug="issuing",
    generation=1,
    state="active",
    not_after=NOW + timedelta(days=100),
    is_compromised=False,
    has_key=True,
    crl=CRLHead(
        issuer_id=1,
        number=7,
        this_update=NOW,
        next_update=NOW + timedelta(days=7),
        entries=3,
        size=400,
    ),
    crl_state="current",
    signed=Signed(issued=20, revoked=3, revoked_unexpired=2, revoked_until=(0, 0, 1, 2)),
)
FIGURES = Figures(
    sampled_at=NOW,
    counted_at=NOW,
    node="node1",
    authorities=(AUTHORITY,),
    tenants=(
        TenantFigures(tenant="default", pending=4, valid=18, expiring={1: 0, 7: 2, 30: 5, 90: 9}),
    ),
    stores=(StoreHealth(store="soft", state="ok"), StoreHealth(store="pkcs11", state="degraded")),
    database=DatabaseFigures(dialect="sqlite", state="read-only", trouble="a full disk"),
    journal=JournalFigures(
        records=100, writers=1, checkpoint=3, sealed_at=NOW, behind={"notifications": 2}
    ),
    disk=DiskFigures(size=1_000, free=100),
    queues={"requests": 4},
)
ALARM = AlarmRow(
    name="crl-stale",
    object="authority/issuing",
    tenant="default",
    severity="error",
    text="late",
    since=NOW,
)


def samples(figures: Figures | None, **more: Any) -> dict[str, float]:
    """Return what a scrape of a registry with these figures says, as Prometheus reads it."""
    metrics = observe.Metrics()
    given: dict[str, Any] = {
        "events": Counter({"certificate.issued": 5}),
        "refusals": Counter({"secret.wrong": 2}),
        "messages": Counter({("mail", "delivered"): 3}),
        "jobs": lambda: {"seal": 0, "renew": 2},
        "is_leader": lambda: True,
    }
    metrics.registry.register(Gauges(lambda: figures, lambda: [ALARM, ALARM], **(given | more)))
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found, "a scrape with the same series twice is refused as a whole"
            found[name] = sample.value
    return found


def test_everything_that_is_known_is_shown() -> None:
    found = samples(FIGURES)
    expected = {
        "tmad_database_up": 1,
        "tmad_database_writable": 0,
        "tmad_key_store_up{store=soft}": 1,
        "tmad_key_store_up{store=pkcs11}": 0,
        "tmad_disk_free_bytes": 100,
        "tmad_journal_behind{subscriber=notifications}": 2,
        "tmad_crl_number{authority=issuing,tenant=default}": 7,
        "tmad_crl_next_update_timestamp_seconds{authority=issuing,tenant=default}": (
            NOW + timedelta(days=7)
        ).timestamp(),
        "tmad_crl_state{authority=issuing,state=current,tenant=default}": 1,
        "tmad_authority_info{authority=issuing,key=here,state=active,tenant=default}": 1,
        "tmad_authority_issued_certificates{authority=issuing,tenant=default}": 20,
        "tmad_certificates_expiring{days=30,tenant=default}": 5,
        "tmad_certificates_valid{tenant=default}": 18,
        "tmad_requests_pending{tenant=default}": 4,
        "tmad_queue_length{queue=requests}": 4,
        "tmad_events_total{kind=certificate.issued}": 5,
        "tmad_refusals_total{rule=secret.wrong}": 2,
        "tmad_notifications_total{outcome=delivered,way=mail}": 3,
        "tmad_notifications_total{outcome=failed,way=webhook}": 0,
        "tmad_job_failures{name=renew}": 2,
        "tmad_alarms{alarm=crl-stale,severity=error}": 2,
        "tmad_leader": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_before_the_first_sample_the_process_is_shown() -> None:
    found = samples(None)
    assert found["tmad_leader"] == 1
    assert "tmad_database_up" not in found


def test_what_was_not_counted_yet_is_not_shown_as_zero() -> None:
    fresh = replace(
        FIGURES,
        authorities=(replace(AUTHORITY, signed=None, crl=None, crl_state="missing"),),
        tenants=(TenantFigures(tenant="default", pending=0),),
        journal=replace(FIGURES.journal, sealed_at=None),  # type: ignore[type-var]  # is not None
    )
    found = samples(fresh)
    assert not [name for name in found if "certificates_valid" in name or "crl_number" in name]
    assert found["tmad_journal_sealed_timestamp_seconds"] == 0
    assert found["tmad_crl_state{authority=issuing,state=missing,tenant=default}"] == 1


def test_t_obs_01_many_tenants_and_authorities_do_not_make_a_scrape_grow_without_bound() -> None:
    many = replace(
        FIGURES,
        authorities=tuple(replace(AUTHORITY, id=n, slug=f"ca-{n}") for n in range(1_500)),
        tenants=tuple(TenantFigures(tenant=f"t{n}", pending=0) for n in range(1_200)),
    )
    found = samples(many)
    assert found["tmad_left_out"] == 700
    assert sum("tmad_crl_number" in name for name in found) == 1_000
