"""Metrics, alert rules and dashboard before Prometheus' own programs, on a running node.

promtool and the server come from Debian's package; Grafana's own types read the dashboard.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon import Daemon, free_ports

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
RULES = CONF / "prometheus" / "alerts.yml"
UNPACKED = Path(os.environ.get("TMAD_UNPACKED", Path.home() / ".cache" / "tmad-tests"))
# Metrics of Prometheus' own, and of Python's client.
OUTSIDE = re.compile(r"up|process_\w+")


def program(name: str) -> Path:
    path = UNPACKED / "prometheus" / "usr" / "bin" / name
    if not path.exists():
        if os.environ.get("TMAD_REQUIRE_CLIENTS"):
            pytest.fail(f"{path} is missing; tests/run unpacks it")
        pytest.skip(f"no {name}")
    return path


def promtool(*words: str | Path, text: str = "") -> str:
    done = subprocess.run(
        [str(program("promtool")), *map(str, words)],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text


def expressions() -> list[str]:
    """Return every question of the dashboard, its variables filled in."""
    dashboard = json.loads((CONF / "grafana" / "tmad.json").read_text("utf-8"))
    return [
        target["expr"].replace("$job", "tmad").replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def names(expression: str) -> set[str]:
    """Return the metrics that an expression asks for."""
    return set(re.findall(r"\b(?:tmad|process)_[a-z_]+|\bup\b", expression))


def test_promtool_takes_the_rules_and_the_server_its_settings() -> None:
    assert "25 rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", CONF / "prometheus" / "prometheus.yml")


def test_promtool_sees_the_rules_do_what_they_say(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "alerts_test.yml").read_text("utf-8")
    path = tmp_path / "alerts_test.yml"
    path.write_text(text.replace("RULES", str(RULES)))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
    assert len(alerts) == len(set(alerts)) == 25
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


def test_grafanas_own_types_read_the_dashboard() -> None:
    text = (CONF / "grafana" / "tmad.json").read_text("utf-8")
    written = json.loads(text)
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(text))))

    def lost(ours: Any, theirs: Any, path: str) -> Iterator[str]:
        """Yield what did not come back: fields that Grafana does not know."""
        if isinstance(ours, dict):
            for key, value in ours.items():
                if value is not None:
                    yield from lost(value, (theirs or {}).get(key), f"{path}.{key}")
        elif isinstance(ours, list):
            assert len(ours) == len(theirs or []), path
            for number, value in enumerate(ours):
                yield from lost(value, theirs[number], f"{path}[{number}]")
        elif ours != theirs:
            yield path

    assert list(lost(written, read, "")) == []
    ids = [panel["id"] for panel in written["panels"]]
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def scrape(daemon: Daemon) -> str:
    """Return what /metrics says once figures and a request are there."""
    get(f"{daemon.url}/scep/default?operation=GetCACaps")
    deadline = time.monotonic() + 30
    while "tmad_certificates_valid{" not in (text := get(f"{daemon.ops_url}/metrics")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return text


def test_promtool_finds_nothing_wrong_with_a_scrape(scrape: str) -> None:
    assert promtool("check", "metrics", text=scrape).strip() == ""


def test_what_rules_and_dashboard_ask_for_is_there(scrape: str) -> None:
    families = list(text_string_to_metric_families(scrape))
    present = {sample.name for family in families for sample in family.samples}
    # Without a sample until something was timed, refused or wrong.
    present |= {f.name + e for f in families for e in ("", "_total", "_bucket")}
    rules = re.sub(r"#.*|summary:.*|description:.*", "", RULES.read_text("utf-8"))
    asked = set().union(*map(names, [*expressions(), rules]))
    assert {name for name in asked if not OUTSIDE.fullmatch(name)} - present == set()
    assert len(asked) > 25


def test_a_prometheus_server_scrapes_evaluates_and_answers(
    daemon: Daemon, scrape: str, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    settings = (CONF / "prometheus" / "prometheus.yml").read_text("utf-8")
    assert "127.0.0.1:9464" in settings
    settings = settings.replace("127.0.0.1:9464", f"127.0.0.1:{daemon.ops_port}")
    (tmp_path / "prometheus.yml").write_text(settings.replace("15s", "1s"))
    (tmp_path / "alerts.yml").write_text(RULES.read_text("utf-8"))
    server = subprocess.Popen(
        [str(program("prometheus")), f"--config.file={tmp_path}/prometheus.yml",
         f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
         "--log.level=error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    api = f"http://127.0.0.1:{port}/api/v1"

    def ask(expression: str) -> list[Any]:
        answer = json.loads(get(f"{api}/query?query={urllib.parse.quote(expression)}"))
        assert answer["status"] == "success"
        found: list[Any] = answer["data"]["result"]
        return found

    def is_up() -> bool:
        try:
            return bool(ask('up{job="tmad"} == 1')) and len(ask("count_over_time(up[1m]) > 4")) > 0
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 60
        while not is_up():
            assert time.monotonic() < deadline
            time.sleep(0.3)
        empty = [expression for expression in expressions() if not ask(expression)]
        # No network login, no failing job, nothing refused.
        quiet = ("radius", "tmad_job_failures", "tmad_refusals", "request.refused", "outcome=~")
        assert [each for each in empty if not any(word in each for word in quiet)] == []
        groups = json.loads(get(f"{api}/rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == 25
        assert {rule["health"] for rule in rules} == {"ok"}
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        assert firing <= {"TmadDiskLow"}  # whatever machine this runs on
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_t_obs_01_what_strangers_send_makes_no_series(daemon: Daemon) -> None:
    def series() -> set[str]:
        text = get(f"{daemon.ops_url}/metrics")
        return {
            line.rpartition(" ")[0]
            for line in text.splitlines()
            if line.startswith("tmad_requests_total") and 'protocol="ops"' not in line
        }

    connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=30)

    def knock(number: int) -> int:
        word = random.randbytes(8).hex()
        path = f"/{random.choice(['', 'scep/', 'ocsp/', 'crl/', 'x/'])}{word}"
        method = random.choice(["GET", "POST", "PUT", f"X{number}"])
        connection.request(method, path, body=b"x" if method == "POST" else None)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status

    random.seed(11)
    for number in range(150):
        knock(number)
    before = series()
    statuses = {knock(number) for number in range(300)}
    assert statuses >= {404, 405}
    connection.close()
    assert series() - before == set()
