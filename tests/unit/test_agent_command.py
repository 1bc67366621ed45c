"""``tmad agent`` as it is typed: settings from options, mistakes, units, what is shown."""

from __future__ import annotations

import configparser
import os
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.agent_server import Bench
from tmad.agent import agent as agents
from tmad.agent import settings as agent_settings
from tmad.agent import store as stores
from tmad.agent import units
from tmad.agent.keeper import Keeper
from tmad.agent.settings import CertificateSettings
from tmad.cli.context import Ended
from tmad.cli.main import cli
from tmad.errors import Fault


def tmad(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli, ["agent", *arguments], env={"TMAD_AGENT_DIR": str(directory)}, prog_name="tmad"
    )


def refused(directory: Path, *arguments: str) -> str:
    """Return what a command that makes no sense is told."""
    result = tmad(directory, *arguments)
    assert isinstance(result.exception, Ended | Fault), result.output
    return str(result.exception)


ACME = ("enroll", "web.example.test", "--acme", "https://acme.example.test/directory")


def test_options_become_settings(tmp_path: Path) -> None:
    result = tmad(
        tmp_path, *ACME, "--listen", "0.0.0.0:80", "--contact", "a@example.test", "--link",
        str(tmp_path / "live"), "--reload", "sh -c 'reload now'", "--check", "127.0.0.1:443",
        "--owner", "www-data:ssl", "--renew-before", "12h", "--spread", "30m", "--same-key",
        "--if-revoked", "enroll", "--dry-run", "-o", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = CertificateSettings.model_validate_json(result.output)
    assert found.names == ("dns:web.example.test",)
    assert found.acme is not None
    assert found.acme.contact == ("mailto:a@example.test",)
    assert found.reload.command == ("sh", "-c", "reload now")
    assert (found.place.user, found.place.group) == ("www-data", "ssl")
    assert (found.renewal.before_days, found.renewal.spread_hours) == (0.5, 0.5)
    assert (found.renewal.new_key, found.renewal.revoked) == (False, "enroll")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("enroll", "x"), "a certificate comes from one of est, acme and scep"),
        ((*ACME, "--est", "https://a.example.test/"), "one of est, acme and scep"),
        (("enroll", "x", "--est", "http://a.example.test/est"), "begins with https://"),
        ((*ACME, "--listen", "0.0.0.0:80", "--webroot", "/tmp"), "by listen or by webroot"),
        ((*ACME, "--eab-kid", "k"), "an eab_kid and an eab_key_file"),
        ((*ACME, "--san", "tel:112"), "ACME certifies dns: and ip: names"),
        ((*ACME, "--san", "ip:300.1.1.1"), "is no name: dns:HOST"),
        ((*ACME, "--key", "dsa"), "key: Input should be"),
        ((*ACME, "--key-out", "/a", "--cert-out", "/a"), "two of the places are the same"),
        ((*ACME, "--pkcs12-out", "/a"), "pkcs12 needs a pkcs12_password_file"),
        ((*ACME, "--reload", "a 'b"), "No closing quotation"),
        ((*ACME, "--report", "http://x/agent"), "report: String should match"),
        (("enroll", "UPPER", "--est", "https://a.example.test/"), "is no name: lower-case"),
        (("enroll", "../x", "--est", "https://a.example.test/"), "is no name: lower-case"),
        (("once", "absent"), "there is no certificate 'absent'"),
        (("remove", "../.."), "there is no certificate '../..'"),
        (("status", "absent"), "there is no certificate 'absent'"),
        (("once",), "there are no certificates in"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(tmp_path, *arguments)


def test_a_mistake_of_the_editor_is_named_with_its_place(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = bench.store.directory / "settings.toml"
    for text, words in (
        ("[reload]\ncomand = []\n", 'reload.comand: unknown key, did you mean "command"?'),
        ("= 7\n", "not TOML"),
    ):
        path.write_text(path.read_text().partition("[reload]")[0] + text)
        (result,) = agents.run_once(tmp_path / "agent")
        assert result.fault is not None
        assert words in result.fault.detail


def test_one_broken_certificate_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "aaa").mkdir()
    (tmp_path / "aaa/settings.toml").write_text("?")
    (tmp_path / "bbb").mkdir()
    (tmp_path / "bbb/settings.toml").write_text(
        'subject = "CN=b"\n[est]\nurl = "https://127.0.0.1:1"\n'
    )
    rules = [result.fault.rule for result in agents.run_once(tmp_path) if result.fault]
    assert rules == ["document.toml", "agent.unreachable"]
    shown = tmad(tmp_path, "status", "-o", "json").output
    assert '"broken"' in shown
    assert '"failing"' in shown


def test_what_never_came_may_be_told_anew_what_came_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    arguments = ("enroll", "web", "--est", "https://127.0.0.1:1", "--subject", "CN=other")
    tmad(tmp_path / "agent", *arguments)
    assert agent_settings.load(bench.store.directory).subject == "CN=other"
    bench.change(subject="CN=web")
    bench.run()
    assert "there is a certificate 'web' already" in refused(tmp_path / "agent", *arguments)


def test_removing_leaves_the_places(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    assert tmad(tmp_path / "agent", "remove", "web", "--dry-run").exit_code == 0
    assert bench.store.directory.exists()
    assert tmad(tmp_path / "agent", "remove", "web").exit_code == 0
    assert not bench.store.directory.exists()
    bench.placed()


def test_no_key_is_shown_and_all_files_are_private(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    result = tmad(tmp_path / "agent", "status", "web", "-o", "json")
    assert "PRIVATE" not in result.output
    for path in bench.store.directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert "key" not in repr(bench.store.identity(1)).lower()


def test_the_units_are_what_systemd_reads(tmp_path: Path) -> None:
    paths = units.write("/usr/bin/tmad", Path("/var/lib/tmad-agent"), tmp_path)
    assert sorted(path.name for path in paths) == [units.ONCE, units.TIMER, units.SERVICE]
    for path in paths:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(path)
        assert path.stat().st_mode & 0o777 == 0o644
        if path.suffix == ".service":
            assert parser["Service"]["ExecStart"].startswith("/usr/bin/tmad agent ")
            assert parser["Service"]["Environment"] == "TMAD_AGENT_DIR=/var/lib/tmad-agent"
        else:
            assert parser["Timer"]["Persistent"] == "yes"
    result = tmad(tmp_path, "install", "--dry-run")
    assert "agent run" in result.output


def test_adopted_files_stay_as_they_are(tmp_path: Path) -> None:
    """One file with everything, as haproxy reads it; its mode and its owner stay."""
    bench = Bench(tmp_path / "old", place={"bundle": str(tmp_path / "site.pem")})
    bench.run()
    path = tmp_path / "site.pem"
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 65534, -1)
    before, status = path.read_bytes(), path.stat()
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    result = tmad(
        tmp_path / "agent", "adopt", str(link), "--key", str(link), "--name", "site", "--est",
        "https://127.0.0.1:1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = agent_settings.load(tmp_path / "agent/site")
    assert found.place.bundle == str(path)
    assert found.place.key_mode == "0640"
    server = bench.server
    server.now += timedelta(days=61)
    store = stores.open_one(tmp_path / "agent", "site")
    renewed = Keeper(store, found, now=server.clock, source_of=lambda *_: server).run()
    assert renewed.fault is None
    assert path.read_bytes() != before
    assert link.is_symlink()
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )


def test_settings_are_written_as_a_person_would(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found = tomllib.loads((bench.store.directory / "settings.toml").read_text())
    assert set(found) == {"subject", "names", "est", "place"}
    assert agent_settings.load(bench.store.directory) == bench.settings
