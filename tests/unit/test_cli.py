"""The command line: formats, exit codes, refusals, and the nouns of managed objects."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from tests.support import Clock, drive
from tmad.ca import endpoint as endpoints
from tmad.ca.authority import AUTHORITY, AuthorityDocument
from tmad.ca.endpoint import Endpoints
from tmad.ca.profile import PROFILE
from tmad.cli import context, main, output, shipped
from tmad.cli.options import Options
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.identity.webhook import Webhooks
from tmad.journal import Journal
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")


class SmallCore:
    """The core without keys: everything that these commands reach."""

    def __init__(self, clock: Clock) -> None:
        self.database = Database.in_memory(clock=clock)
        journal = Journal(self.database, "test", clock)
        changes = Changes(self.database)
        options = {"scep": None}
        kinds = (TENANT, GRANT, AUTHORITY, PROFILE, endpoints.kind(options))
        self.objects = Objects(self.database, journal, changes, clock, kinds)
        seal = Seal(b"k" * 32)
        door = Endpoints(self.objects, options).door
        self.secrets = EnrollSecrets(self.database, journal, seal, clock, door)
        self.webhooks = Webhooks(None, seal, clock)  # type: ignore[arg-type]  # asks nothing here
        self.services = SimpleNamespace(journal=journal)
        drive(self.objects.put(ADMIN, EVERY_TENANT, "tenant", "default", {}))
        drive(self.objects.put(ADMIN, "default", "authority", "issuing", AuthorityDocument()))

    async def close(self) -> None:
        """Nothing to close in memory."""


Tmad = Callable[..., tuple[int, str, str]]


@pytest.fixture
def core() -> SmallCore:
    return SmallCore(Clock(datetime.now(UTC)))


@pytest.fixture
def tmad(
    core: SmallCore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tmad:
    """Return a function that runs a command on the small core, without a reactor."""

    async def open_core(settings: object, reactor: object) -> SmallCore:
        return core

    monkeypatch.setattr(context, "load_settings", lambda: None)
    monkeypatch.setattr(context, "run", lambda function: drive(function(None)))
    monkeypatch.setitem(sys.modules, "tmad.service", SimpleNamespace(open_core=open_core))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.exit_code(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def filled(tmad: Tmad) -> Tmad:
    assert tmad("profile", "preset", "device", "tls-server")[0] == 0
    code, *_ = tmad(
        "endpoint", "create", "scep", "routers", "--ca", "issuing", "--profile", "device"
    )
    assert code == 0
    return tmad


# -- the frame ------------------------------------------------------------------------------


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom tmad.cli.main import main\n"
        "try:\n main(['--help'])\n"
        "finally:\n print({'twisted', 'sqlalchemy', 'pydantic'} & set(sys.modules))\n"
    )
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n")
    assert done.returncode == 0
    # 0.1 s on a quiet machine; the tests run beside others.
    assert time.monotonic() - before < 2


def test_every_noun_of_the_overview_loads_with_help_for_every_verb() -> None:
    root = click.Context(main.cli)

    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        if isinstance(command, click.Group):
            for name, verb in command.commands.items():
                walk(verb, f"{path} {name}")
        else:
            options = {text for parameter in command.params for text in parameter.opts}
            assert {"-o", "--config", "--tenant", "--dry-run"} <= options, path

    for noun in main.NOUNS:
        command = main.cli.get_command(root, noun)
        assert command is not None
        walk(command, noun)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tenat", "list"], "did you mean 'tenant'"),
        (["tenant", "lst"], "No such command"),
        (["tenant", "create"], "Missing argument"),
        (["-o", "xml", "tenant", "list"], "Invalid value"),
        (["tenant", "list", "--frob"], "No such option"),
        (["enroll-secret", "create", "--endpoint", "x", "--lifetime", "1y"], "24h"),
    ],
)
def test_a_mistake_on_the_command_line_ends_with_1(
    tmad: Tmad, arguments: list[str], message: str
) -> None:
    code, out, err = tmad(*arguments)
    assert code == context.USAGE
    assert message in err
    assert out == ""


def test_a_missing_settings_file_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main.exit_code(["--config", str(tmp_path / "none.toml"), "tenant", "list"])
    assert code == context.USAGE
    assert "there is no settings file" in capsys.readouterr().err


def test_settings_come_from_the_option_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("option", "environment"):
        (tmp_path / name).write_text(f'[node]\nname = "{name}"\n')
    monkeypatch.setenv("TMAD_CONFIG", str(tmp_path / "environment"))
    with click.Context(main.cli, obj=Options()):
        assert context.load_settings().node.name == "environment"
    with click.Context(main.cli, obj=Options(config=str(tmp_path / "option"))):
        assert context.load_settings().node.name == "option"


def test_wrong_settings_end_with_1_and_name_every_mistake(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tmad.toml"
    path.write_text('[node]\nnam = "x"\n[listen]\nhttp = ["nonsense"]\n')
    assert main.exit_code(["--config", str(path), "tenant", "list"]) == context.USAGE
    error = capsys.readouterr().err
    assert f"{path}:2:1" in error
    assert f"{path}:4:1" in error


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (Fault(FaultCode.REJECTED, "no"), context.REFUSED, "refused: no"),
        (Fault(FaultCode.NOT_FOUND, "none"), context.REFUSED, "refused: none"),
        (
            Fault(FaultCode.UNAVAILABLE, "gone", retry_after=3),
            context.UNREACHABLE,
            "not reachable: gone",
        ),
    ],
)
def test_a_fault_is_one_line_and_an_exit_code(
    tmad: Tmad, core: SmallCore, monkeypatch: pytest.MonkeyPatch, fault: Fault, code: int, line: str
) -> None:
    async def fail(*arguments: Any, **named: Any) -> None:
        raise fault

    monkeypatch.setattr(core.objects, "list", fail)
    ended, out, err = tmad("profile", "list")
    assert ended == code
    assert err.splitlines()[0].startswith(line)
    assert "Traceback" not in err + out


def test_a_refusal_has_an_explain_id_that_the_journal_knows(tmad: Tmad, core: SmallCore) -> None:
    tmad("grant", "create", "alice", "--subject", "person:alice", "--role", "auditor")
    code, _, err = tmad("--as", "person:alice", "tenant", "create", "acme")
    assert code == context.REFUSED
    first, hint = err.splitlines()
    explain_id = first.rpartition("[")[2].rstrip("]")
    assert hint.endswith(f"tmad explain {explain_id}")
    assert drive(core.services.journal.explain(explain_id))


def test_an_unexpected_error_shows_no_traceback(
    tmad: Tmad, core: SmallCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMAD_DEBUG", raising=False)

    async def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(core.objects, "list", fail)
    code, out, err = tmad("profile", "list")
    assert code == context.REFUSED
    assert "secret detail" not in out + err
    assert "Traceback" not in out + err


# -- formats --------------------------------------------------------------------------------


def rendered(
    capsys: pytest.CaptureFixture[str], form: str, records: list[dict[str, Any]], **options: Any
) -> str:
    with click.Context(main.cli, obj=Options(format=form)):
        output.rows(records, **options)
    return capsys.readouterr().out


RECORDS: list[dict[str, Any]] = [
    {"name": "a", "at": datetime(2026, 1, 2, tzinfo=UTC), "list": [1, "x"], "deep": {"k": None}},
    {"name": "b: #c", "at": None, "list": [], "deep": {}},
]


def test_json_and_yaml_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    as_json = json.loads(rendered(capsys, "json", RECORDS))
    assert as_json[0] == {
        "name": "a",
        "at": "2026-01-02T00:00:00Z",
        "list": [1, "x"],
        "deep": {"k": None},
    }
    assert rendered(capsys, "yaml", RECORDS) == (
        '- "name": "a"\n  "at": "2026-01-02T00:00:00Z"\n  "list":\n    - 1\n    - "x"\n'
        '  "deep":\n    "k": null\n- "name": "b: #c"\n  "at": null\n  "list": []\n  "deep": {}\n'
    )


def test_csv_cannot_become_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    text = rendered(capsys, "csv", [{"name": "=1+1", "note": 'a "b", c'}])
    assert list(csv.DictReader(io.StringIO(text))) == [{"name": "'=1+1", "note": 'a "b", c'}]


def test_names_are_bare_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert rendered(capsys, "name", RECORDS) == "a\nb: #c\n"


def test_a_strangers_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = rendered(capsys, "table", [{"name": "\x1b[2Jevil\r\u202e\n"}])
    assert text.splitlines()[1] == r"\x1b[2Jevil\r\u202e\n"
    assert "\x1b" not in rendered(capsys, "name", [{"name": "\x1b[2J"}])


def test_an_empty_list_is_empty_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert rendered(capsys, "json", []) == "[]\n"
    assert rendered(capsys, "yaml", []) == "[]\n"
    assert rendered(capsys, "name", []) == ""


# -- nouns ------------------------------------------------------------------------------------


def test_the_common_options_stand_before_the_noun_or_after_the_verb(filled: Tmad) -> None:
    before = filled("-o", "name", "profile", "list")
    after = filled("profile", "list", "-o", "name")
    assert before == after == (0, "device\ntls-server\n", "")


def test_presets_are_found_and_each_is_a_valid_profile() -> None:
    names = shipped.profiles()
    assert {"device", "root-ca", "sub-ca", "tls-server"} <= set(names)


def test_preset_all_twice_has_nothing_to_do(tmad: Tmad) -> None:
    assert tmad("profile", "preset", "--all")[0] == context.DONE
    assert tmad("profile", "preset", "--all")[0] == context.NOTHING
    code, _, err = tmad("profile", "preset", "tls-servr")
    assert code == context.USAGE
    assert 'did you mean "tls-server"' in err


def test_a_tenant_is_made_listed_and_deleted(tmad: Tmad) -> None:
    assert tmad("tenant", "create", "acme", "--description", "Acme")[0] == 0
    assert tmad("tenant", "create", "acme")[0] == context.REFUSED
    assert tmad("tenant", "list", "-o", "name")[1] == "acme\ndefault\n"
    assert tmad("tenant", "delete", "acme", "--dry-run")[0] == 0
    assert tmad("tenant", "delete", "acme")[0] == 0
    assert tmad("tenant", "list", "-o", "name")[1] == "default\n"


def test_dry_run_of_a_create_changes_nothing(tmad: Tmad) -> None:
    code, out, _ = tmad("tenant", "create", "acme", "--dry-run")
    assert code == 0
    assert "would be created" in out
    assert tmad("tenant", "show", "acme")[0] == context.REFUSED


def test_set_changes_by_dotted_key_and_history_tells_it(filled: Tmad) -> None:
    code, out, _ = filled(
        "endpoint", "set", "scep/routers", "renewal.window_days=30", "description=Two words"
    )
    assert code == 0
    assert "+ renewal.window_days = 30" in out
    shown = json.loads(filled("endpoint", "show", "scep/routers", "-o", "json")[1])
    assert shown["renewal"]["window_days"] == 30
    assert shown["description"] == "Two words"
    again = filled("endpoint", "set", "scep-routers", "renewal.window_days=30")
    assert again[0] == context.NOTHING
    assert filled("endpoint", "set", "scep/routers", "renewal.window_days=")[0] == 0
    history = json.loads(filled("endpoint", "history", "scep/routers", "-o", "json")[1])
    assert [entry["revision"] for entry in history] == [3, 2, 1]


def test_a_misspelt_setting_is_refused_with_a_guess(filled: Tmad) -> None:
    code, _, err = filled("endpoint", "set", "scep/routers", "renewal.windowdays=30")
    assert code == context.REFUSED
    assert 'renewal.windowdays: unknown key, did you mean "window_days"?' in err


def test_an_endpoint_names_what_exists(tmad: Tmad) -> None:
    code, _, err = tmad("endpoint", "create", "scep", "x", "--ca", "nope", "--profile", "none")
    assert code == context.REFUSED
    assert "there is no authority 'nope'" in err
    code, _, err = tmad("endpoint", "create", "skep", "x", "--ca", "issuing", "--profile", "none")
    assert code == context.REFUSED


def test_disable_and_enable(filled: Tmad) -> None:
    assert filled("endpoint", "disable", "scep/routers")[0] == 0
    assert filled("endpoint", "disable", "scep/routers")[0] == context.NOTHING
    code, _, err = filled("enroll-secret", "create", "--endpoint", "scep/routers")
    assert (code, "no such endpoint" in err) == (context.REFUSED, True)
    assert filled("endpoint", "enable", "scep/routers")[0] == 0


def test_a_secret_is_printed_once_and_never_again(filled: Tmad) -> None:
    create = ("enroll-secret", "create", "--endpoint", "scep/routers", "--subject", "CN=r1")
    code, out, err = filled(*create, "-o", "json")
    made = json.loads(out)
    assert code == 0
    assert len(made["secret"]) == 32
    assert made["secret"] not in err
    assert len(filled(*create, "-o", "name")[1].strip()) == 32
    assert filled(*create, "-o", "name", "--grouped")[1].count("-") == 7
    listed = filled("enroll-secret", "list", "-o", "json")[1]
    assert made["id"] in listed
    assert made["secret"] not in listed
    assert filled("enroll-secret", "revoke", made["id"])[0] == 0
    assert filled("enroll-secret", "revoke", made["id"])[0] == context.NOTHING


def test_scep_06_a_static_secret_needs_the_policy_and_warns(
    filled: Tmad, core: SmallCore, tmp_path: Path
) -> None:
    create = ("enroll-secret", "create", "--endpoint", "scep/routers", "--static")
    code, _, err = filled(*create)
    assert code == context.REFUSED
    assert "allows no static secrets" in err
    code, out, _ = filled("endpoint", "set", "scep/routers", "challenge.static=true")
    assert code == 0
    assert "warning: scep-routers allows static secrets" in out
    file = tmp_path / "secret"
    file.write_text("CANARY-static-secret\n")
    code, out, err = filled(*create, "--secret-file", str(file))
    assert code == 0
    assert "warning: a static secret" in out
    assert "CANARY" not in out + err
    kinds = [row.kind for row in drive(core.services.journal.tail("default", limit=100))]
    assert "warning.raised" in kinds


def test_a_webhook_key_is_printed_once_and_stored_sealed(filled: Tmad) -> None:
    assert filled("endpoint", "webhook-key", "scep/routers")[0] == context.USAGE
    filled("endpoint", "set", "scep/routers", "webhook.url=https://mdm.example.test/x")
    code, out, _ = filled("endpoint", "webhook-key", "scep/routers", "-o", "json")
    assert code == 0
    key = json.loads(out)["key"]
    assert key not in filled("export")[1]
    assert json.loads(filled("endpoint", "show", "scep/routers", "-o", "json")[1])["webhook"]["key"]


def test_export_and_apply_round_trip(filled: Tmad, tmp_path: Path) -> None:
    text = filled("export")[1]
    tree = tomllib.loads(text)
    assert tree["tenant"]["default"]["endpoint"]["scep-routers"]["profile"] == "device"
    file = tmp_path / "all.toml"
    file.write_text(text)
    assert filled("apply", str(file), "--prune")[0] == context.NOTHING
    file.write_text(text.replace('label = "routers"', 'label = "routers"\nenabled = false'))
    code, out, _ = filled("apply", str(file), "--dry-run")
    assert code == 0
    assert "~ enabled = true -> false" in out
    assert "nothing was changed" in out
    assert filled("apply", str(file))[0] == 0
    assert filled("apply", str(file))[0] == context.NOTHING


def test_apply_names_every_mistake(filled: Tmad, tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(
        "[tenant.default.profile.device]\nvaliditi = 1\n[tenant.default.endpoint.x]\nlabel = 3\n"
    )
    code, _, err = filled("apply", str(file))
    assert code == context.REFUSED
    assert "tenant.default.profile.device.validiti" in err
    assert "tenant.default.endpoint.x.label" in err
    assert "tenant.default.endpoint.x.authority" in err


def test_a_file_that_is_no_toml_is_refused_in_one_line(filled: Tmad, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    for content in (b"[tenant", b"\xff\xfe", b"a = nan\x00"):
        file.write_bytes(content)
        code, _, err = filled("apply", str(file))
        assert code == context.REFUSED
        assert err.startswith("refused: not TOML")


def test_grants_are_checked_for_whoever_acts(filled: Tmad) -> None:
    filled("grant", "create", "bob", "--subject", "person:bob", "--role", "operator")
    assert "certificate.revoke" in filled("grant", "check", "person:bob")[1]
    bob = ("--as", "person:bob")
    assert filled(*bob, "enroll-secret", "create", "--endpoint", "scep/routers")[0] == 0
    assert filled(*bob, "profile", "delete", "tls-server")[0] == context.REFUSED
    assert filled(*bob, "export")[0] == context.REFUSED
    assert filled("--as", "person:nobody", "profile", "list")[0] == context.REFUSED
