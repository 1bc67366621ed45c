"""tmad status: what it shows of a node that runs, that is ill, that does not run."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("node"), workers=2)
    yield daemon
    daemon.kill()


def database(node: Daemon) -> Path:
    [path] = node.directory.rglob("*.db")
    return path


def test_a_node_that_does_not_run_shows_what_its_database_says(node: Daemon) -> None:
    done = node.tmad("status", expect=5)
    assert "not running" in done.stdout
    assert re.search(r"issuing +default +active", done.stdout)
    assert "not reachable" in done.stderr
    said = json.loads(node.tmad("status", "-o", "json", expect=5).stdout)
    assert said["ready"] is False
    assert [worker["running"] for worker in said["workers"]] == [False]
    assert said["database"]["state"] == "ok"


def test_without_its_database_it_says_why(node: Daemon) -> None:
    path = database(node)
    away = path.with_suffix(".away")
    path.rename(away)
    try:
        done = node.tmad("status", expect=5)
    finally:
        away.rename(path)
    assert "the database could not be asked" in done.stdout + done.stderr


def test_every_worker_is_asked_and_the_figures_are_shown(node: Daemon) -> None:
    node.start()
    urllib.request.urlopen(f"{node.url}/scep/default?operation=GetCACaps", timeout=10).close()
    deadline = time.monotonic() + 40
    while True:
        said = node.json("status")
        doors = {door["protocol"]: door for door in said["doors"]}
        if len(said["workers"]) == 2 and "scep" in doors:
            break
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert said["ready"] is True
    assert [worker["ready"] for worker in said["workers"]] == [True, True]
    assert all(worker["works"]["mail and webhooks"] for worker in said["workers"])
    assert doors["scep"]["requests"] == 1
    assert {known["authority"] for known in said["authorities"]} == {"root", "issuing"}
    assert said["tenants"][0]["valid"] > 0
    shown = node.tmad("status", "--strict").stdout
    assert "ready, 2 workers" in shown
    assert re.search(r"^scep +/scep/ +1 +0 +0", shown, re.MULTILINE)


def test_an_alarm_is_shown_and_strict_ends_with_2(node: Daemon) -> None:
    now = int(time.time() * 1_000_000)
    with sqlite3.connect(database(node), timeout=20) as connection:
        # The daemon verifies its journal once it has started, and would take the alarm back.
        deadline = time.monotonic() + 40
        while not connection.execute("SELECT 1 FROM alarms WHERE name = 'audit-broken'").fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        connection.execute("DELETE FROM alarms WHERE name = 'audit-broken'")
        connection.execute(
            "INSERT INTO alarms (name, object, tenant, severity, text, since, told)"
            " VALUES ('audit-broken', 'journal', 'default', 'critical', 'changed', ?, 'critical')",
            (now,),
        )
    connection.close()
    done = node.tmad("status", "--strict", expect=2)
    assert re.search(r"critical +audit-broken +journal .* changed", done.stdout)
    assert node.tmad("status").returncode == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ops_port}/readyz", timeout=10) as ready:
        said = json.loads(ready.read())
    assert (said["ready"], said["alarms"][0]["alarm"]) == (True, "audit-broken")
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ops_port}/metrics", timeout=10) as answer:
        assert 'tmad_alarms{alarm="audit-broken",severity="critical"} 1.0' in answer.read().decode()


def test_the_pages_of_the_ops_listener_are_as_the_page_says(node: Daemon) -> None:
    urls = re.findall(r"curl -s (http://127\.0\.0\.1:9464\S+)", PAGE.read_text("utf-8"))
    assert len(urls) == 3
    for url in urls:
        with urllib.request.urlopen(url.replace("9464", str(node.ops_port)), timeout=10) as answer:
            assert answer.status == 200


def test_who_may_not_see_the_installation_is_refused(node: Daemon) -> None:
    node.tmad("status", "--as", "person:nobody", expect=2)
