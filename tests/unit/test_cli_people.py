"""``tmad user``, ``tmad otp`` and ``tmad device``: what they print, ask and refuse."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.login_world import CHEAP, LoginWorld
from tests.support import Clock, drive
from tmad.cli import context, main
from tmad.identity import otp
from tmad.identity.tokenseed import decode_base32
from tmad.journal import Journal
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database

Tmad = Callable[..., tuple[int, str, str]]


class SmallCore(LoginWorld):
    """What these commands reach of the core."""

    def __init__(self) -> None:
        clock = Clock(datetime.now(UTC))
        database = Database.in_memory(clock=clock)
        journal = Journal(database, "test", clock)
        super().__init__(database, clock=clock, journal=journal, settings=CHEAP)
        self.services = SimpleNamespace(journal=journal)
        self.objects = Objects(database, journal, Changes(database), clock, (TENANT, GRANT))

    async def close(self) -> None:
        """Nothing to close in memory."""


@pytest.fixture
def core() -> SmallCore:
    return SmallCore()


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


def read(tmad: Tmad, *arguments: str) -> Any:
    code, out, err = tmad(*arguments, "-o", "json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def bob(tmad: Tmad) -> Tmad:
    read(tmad, "user", "create", "Bob", "--mail", "bob@example.test", "--group", "staff")
    return tmad


def test_a_user_with_a_random_password(tmad: Tmad, core: SmallCore) -> None:
    made = read(tmad, "user", "create", "Bob", "--full-name", "Bob B.", "--generate")
    assert (made["name"], made["state"]) == ("bob", "good")
    core.allowed(core.login(made["password"], mode="password"))
    code, out, _ = tmad("user", "show", "bob")
    assert code == 0
    assert made["password"] not in out
    assert "argon2" not in out


def test_a_password_comes_from_a_file_and_never_from_an_argument(
    bob: Tmad, core: SmallCore, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse battery\n")
    code, out, err = bob("user", "set-password", "bob", "--password-file", str(file))
    assert code == 0
    assert "correct" not in out + err
    core.allowed(core.login("correct horse battery", mode="password"))
    code, _, err = bob("user", "set-password", "bob")
    assert code == context.USAGE
    assert "--password-file" in err
    file.write_text("short")
    code, _, err = bob("user", "set-password", "bob", "--password-file", str(file))
    assert code == context.REFUSED
    assert "at least 8" in err


def test_a_user_is_changed_listed_and_deleted(bob: Tmad) -> None:
    read(bob, "user", "update", "bob", "--phone", "+49 351 12345", "--join", "vpn")
    shown = read(bob, "user", "show", "BOB")
    assert shown["groups"] == ["staff", "vpn"]
    assert shown["phone"] == "+4935112345"
    assert bob("user", "update", "bob", "--join", "vpn")[0] == context.NOTHING
    assert read(bob, "user", "update", "bob", "--leave", "vpn")["groups"] == ["staff"]
    assert bob("user", "update", "bob", "--phone", "12345")[0] == context.REFUSED
    assert bob("user", "list", "-o", "name")[1] == "bob\n"
    code, out, _ = bob("user", "delete", "bob", "--dry-run")
    assert (code, "would be deleted" in out) == (0, True)
    assert bob("user", "delete", "bob")[0] == 0
    assert bob("user", "show", "bob")[0] == context.REFUSED


def test_a_user_is_disabled_enabled_ended_and_unlocked(bob: Tmad, core: SmallCore) -> None:
    assert bob("user", "disable", "bob")[0] == 0
    assert bob("user", "disable", "bob")[0] == context.NOTHING
    assert read(bob, "user", "show", "bob")["state"] == "disabled"
    assert bob("user", "enable", "bob")[0] == 0
    assert bob("user", "enable", "bob")[0] == context.NOTHING
    assert read(bob, "user", "set-end", "bob", "2020-01-01")["state"] == "ended"
    assert read(bob, "user", "set-end", "bob", "--never")["state"] == "good"
    assert bob("user", "set-end", "bob")[0] == context.USAGE
    for _ in range(10):
        core.refused(core.login("wrong", mode="password"))
    shown = read(bob, "user", "show", "bob")
    assert shown["failures"] == 10
    assert shown["locked_until"]
    assert bob("user", "unlock", "bob")[0] == 0
    assert bob("user", "unlock", "bob")[0] == context.NOTHING


def test_a_soft_token_with_pictures_that_only_its_owner_may_read(
    bob: Tmad, core: SmallCore, tmp_path: Path
) -> None:
    png, svg = tmp_path / "qr.png", tmp_path / "qr.svg"
    made = read(bob, "otp", "create", "bob", "--png", str(png), "--svg", str(svg))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (png, svg)} == {0o600}
    seed = decode_base32(parse_qs(urlsplit(made["uri"]).query)["secret"][0])
    step = otp.step_at(core.clock(), 30)
    serial = made["serial"]
    assert bob("otp", "activate", serial, "000000")[0] == context.REFUSED
    assert bob("otp", "activate", serial, otp.hotp(seed, step))[0] == 0
    assert "uri" not in read(bob, "otp", "show", serial)
    first, second = otp.hotp(seed, step + 20), otp.hotp(seed, step + 21)
    code, out, _ = bob("otp", "resync", serial, first, second)
    assert (code, "21 steps off" in out) == (0, True)
    assert bob("otp", "resync", serial, first, second)[0] == context.REFUSED


def test_a_token_through_its_life(bob: Tmad, tmp_path: Path) -> None:
    serial = read(bob, "otp", "create", "bob", "--kind", "hotp", "--digits", "8")["serial"]
    pin = tmp_path / "pin"
    pin.write_text("4711\n")
    assert bob("otp", "set-pin", serial, "--pin-file", str(pin))[0] == 0
    assert read(bob, "otp", "show", serial)["has_pin"]
    assert bob("otp", "remove-pin", serial)[0] == 0
    for verb, state in (("disable", "disabled"), ("enable", "new"), ("unassign", "disabled")):
        assert bob("otp", verb, serial)[0] == 0
        assert read(bob, "otp", "show", serial)["state"] == state
    assert bob("otp", "list", "--in-stock", "-o", "name")[1].strip() == serial
    assert read(bob, "otp", "assign", serial, "bob", "--needs-code")["state"] == "new"
    assert bob("otp", "unlock", serial)[0] == context.NOTHING
    assert bob("otp", "assign", serial, "bob")[0] == context.REFUSED
    assert bob("otp", "delete", serial)[0] == 0
    assert bob("otp", "show", serial)[0] == context.REFUSED


def test_a_device_through_its_life(bob: Tmad) -> None:
    made = read(bob, "device", "create", "Laptop-1", "--mac", "AA-BB-CC-00-11-22", "--owner", "bob")
    assert (made["name"], made["mac"], made["state"]) == ("laptop-1", "aa:bb:cc:00:11:22", "good")
    assert bob("device", "block", "laptop-1")[0] == 0
    assert bob("device", "block", "laptop-1")[0] == context.NOTHING
    assert read(bob, "device", "show", "laptop-1")["state"] == "blocked"
    assert bob("device", "unblock", "laptop-1")[0] == 0
    assert bob("device", "unblock", "laptop-1")[0] == context.NOTHING
    assert read(bob, "device", "update", "laptop-1", "--description", "grey")["description"]
    assert bob("device", "update", "laptop-1", "--description", "grey")[0] == context.NOTHING
    assert bob("device", "update", "laptop-1", "--mac", "zz")[0] == context.REFUSED
    assert bob("device", "list", "-o", "name")[1] == "laptop-1\n"
    assert bob("device", "delete", "laptop-1")[0] == 0
    assert bob("device", "show", "laptop-1")[0] == context.REFUSED
