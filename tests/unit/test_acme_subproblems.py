"""ACME: each name that something is wrong with is told with its reason (RFC 8555, 6.7.1)."""

from __future__ import annotations

import json
from typing import Any

from tests.support import drive
from tests.unit.acme_world import Client, World, fixtures, ready
from tmad.ca.validation.contract import Problem

world, client, shared = fixtures()


def subproblems(body: Any) -> dict[str, str]:
    """Return which problem each name has."""
    assert "identifier" not in body
    prefix = "urn:ietf:params:acme:error:"
    return {
        f"{each['identifier']['type']}:{each['identifier']['value']}": each["type"].removeprefix(
            prefix
        )
        for each in body["subproblems"]
    }


def test_each_name_that_cannot_be_ordered_is_told(shared: Client) -> None:
    mixed = [
        {"type": "dns", "value": "good.test"},
        {"type": "dns", "value": "a_b.test"},
        {"type": "email", "value": "a@b.test"},
        {"type": "ip", "value": "192.0.2.01"},
    ]
    answer = shared.post("new-order", {"identifiers": mixed})
    assert (answer.status, answer.problem) == (400, "compound")
    assert subproblems(answer.body) == {
        "dns:a_b.test": "rejectedIdentifier",
        "email:a@b.test": "unsupportedIdentifier",
        "ip:192.0.2.01": "malformed",
    }
    assert "a_b.test: a host name has no underscore" in answer.body["detail"]
    explain_id = answer.body["detail"].split("[")[1].rstrip("]")
    (record,) = drive(shared.world.bench.journal.explain(explain_id))
    data = json.loads(record.data)
    assert data["rule"] == "acme.identifiers"
    assert "email:a@b.test" in data["values"]["identifiers"]


def test_one_of_several_names_is_told_with_its_own_reason(shared: Client) -> None:
    answer = shared.order("good.test", "a_b.test")
    assert answer.problem == "rejectedIdentifier"
    assert subproblems(answer.body) == {"dns:a_b.test": "rejectedIdentifier"}


def test_one_name_alone_has_no_subproblems(shared: Client) -> None:
    answer = shared.order("a_b.test")
    assert answer.problem == "rejectedIdentifier"
    assert "subproblems" not in answer.body


def test_many_names_are_told_in_few_words(shared: Client) -> None:
    answer = shared.order("good.test", *(f"a_{n}.test" for n in range(5)))
    assert len(answer.body["subproblems"]) == 5
    assert "; and 2 more [" in answer.body["detail"]


def test_names_outside_of_a_binding_are_told(world: World) -> None:
    client = Client(world).register(world.secret(names=("dns:*.inside.test",)))
    answer = client.order("a.inside.test", "b.outside.test", "c.outside.test")
    assert answer.problem == "rejectedIdentifier"
    assert subproblems(answer.body) == {
        "dns:b.outside.test": "rejectedIdentifier",
        "dns:c.outside.test": "rejectedIdentifier",
    }


def test_names_that_were_tried_too_often_are_told(world: World, client: Client) -> None:
    world.change(options={"failed_validations_per_hour": 1})
    world.judge.good = set()
    failed = client.order("a.example.test")
    client.prove(failed)
    world.work(3)
    answer = client.order("a.example.test", "b.example.test")
    assert (answer.status, answer.problem) == (429, "rateLimited")
    assert int(answer.headers["Retry-After"]) > 0
    assert subproblems(answer.body) == {"dns:a.example.test": "rateLimited"}
    assert client.order("b.example.test").status == 201


def test_an_order_tells_what_was_wrong_with_each_name(world: World, client: Client) -> None:
    world.judge.good = {"good.example.test"}
    world.judge.problem = Problem.INCORRECT_RESPONSE
    order = client.order("good.example.test", "a.example.test", "*.b.example.test")
    client.prove(order, "dns-01")
    world.work(3)
    found = client.post(order.headers["Location"]).body
    assert found["status"] == "invalid"
    assert found["error"]["type"].endswith(":incorrectResponse")
    assert subproblems(found["error"]) == {
        "dns:a.example.test": "incorrectResponse",
        "dns:*.b.example.test": "incorrectResponse",
    }


def test_an_order_tells_which_authorisation_was_given_up(client: Client) -> None:
    order = ready(client, "a.example.test", "b.example.test")
    client.post(order.body["authorizations"][1], {"status": "deactivated"})
    found = client.post(order.headers["Location"]).body["error"]
    assert subproblems(found) == {"dns:b.example.test": "unauthorized"}
    assert "deactivated" in found["detail"]


def test_caa_records_that_changed_are_told_for_each_name(world: World, client: Client) -> None:
    world.change(options={"validation": {"caa_identities": ["ca.test"]}})
    order = ready(client, "a.example.test", "b.example.test", "c.example.test")
    world.bench.clock.advance(hours=9)
    world.judge.forbidden = {"a.example.test", "c.example.test"}
    answer = client.finalize(order)
    assert (answer.status, answer.problem) == (403, "caa")
    assert subproblems(answer.body) == {"dns:a.example.test": "caa", "dns:c.example.test": "caa"}
