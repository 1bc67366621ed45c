"""ACME: the period that an order asks for (RFC 8555, 7.4)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509

from tests.support import drive
from tests.unit.acme_world import Client, World, approvals, fixtures
from tests.unit.ca_bench import ADMIN

world, client, shared = fixtures()


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-12-01t02:30:00.000+02:30", "2026-12-01T00:00:00Z"),
    ],
)
def test_a_period_is_granted_exactly(world: World, client: Client, asked: str, kept: str) -> None:
    """RFC 8555, 7.4: notBefore and notAfter as asked for, in the order and in the certificate."""
    end = "2026-12-11T00:00:00Z"
    order = client.order("a.example.test", notBefore=asked, notAfter=end)
    assert (order.body["notBefore"], order.body["notAfter"]) == (kept, end)
    client.prove(order)
    world.bench.clock.advance(days=2)
    done = client.finalize(order)
    leaf = x509.load_pem_x509_certificates(client.post(done.body["certificate"]).raw)[0]
    assert leaf.not_valid_before_utc == datetime.fromisoformat(kept)
    assert leaf.not_valid_after_utc == datetime.fromisoformat(end)


def test_an_order_without_a_period_says_none(client: Client) -> None:
    assert not {"notBefore", "notAfter"} & client.order("a.example.test").body.keys()


def test_a_period_waits_for_approval_too(world: World, client: Client) -> None:
    world.change(approval="manual")
    end = "2026-12-11T00:00:00Z"
    order = client.order("a.example.test", notAfter=end)
    client.prove(order)
    client.finalize(order)
    desk = approvals(world)
    (request,) = drive(desk.list(ADMIN, "default", state="pending"))
    drive(desk.approve(ADMIN, "default", request.id))
    done = client.post(order.headers["Location"])
    leaf = x509.load_pem_x509_certificates(client.post(done.body["certificate"]).raw)[0]
    assert leaf.not_valid_after_utc == datetime.fromisoformat(end)


def test_a_period_that_is_over_when_it_is_to_be_issued(world: World, client: Client) -> None:
    order = client.order("a.example.test", notAfter="2026-11-25T00:00:00Z")
    client.prove(order)
    world.bench.clock.advance(days=3)
    answer = client.finalize(order)
    assert (answer.status, answer.problem) == (403, "malformed")
    explain_id = answer.body["detail"].split("[")[1].rstrip("]")
    (record,) = drive(world.bench.journal.explain(explain_id))
    assert json.loads(record.data)["rule"] == "profile.validity.end"


def test_what_is_too_long_is_told_with_the_reason(shared: Client) -> None:
    answer = shared.order("a.example.test", notAfter="2029-12-24T00:00:00Z")
    assert (answer.status, answer.problem) == (403, "malformed")
    assert "the profile does not allow this period [" in answer.body["detail"]


@pytest.mark.parametrize(
    "period",
    [
        {"notBefore": "2026-11-21T00:00:00Z"},
        {"notAfter": "2029-12-24T00:00:00Z"},
        {"notBefore": "2026-12-24T00:00:00Z", "notAfter": "2026-12-23T00:00:00Z"},
        {"notAfter": "2026-12-24T00:00:00.5Z"},  # certificates know whole seconds
        {"notAfter": "2026-12-24T00:00:00"},
        {"notAfter": "2026-12-24T00:00:00+25:00"},
        {"notAfter": "0001-01-01T00:00:00+09:00"},
        {"notAfter": "2026-13-40T00:00:00Z"},
        {"notAfter": "tomorrow"},
        {"notAfter": 1_800_000_000},
    ],
)
def test_periods_that_cannot_be(shared: Client, period: dict[str, Any]) -> None:
    assert shared.order("a.example.test", **period).problem == "malformed"
