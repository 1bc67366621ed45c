"""``tmad radius-client``: what a person sees, and what nobody sees."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.system.commands import Commands, commands_of


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    return Daemon(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def tmad(node: Daemon) -> Commands:
    return commands_of(node)


def test_create_prints_the_secret_once_and_what_to_do_next(tmad: Commands, node: Daemon) -> None:
    done = tmad.run(
        "radius-client", "create", "hall-1", "--prefix", "192.0.2.0/28", "--vendor", "cisco",
        "--tag", "hall", "--method", "eap-tls", "--method", "pap", "--set", "coa.port=1700",
    )  # fmt: skip
    [secret] = re.findall(r"^secret +([A-Z2-7]{32})$", done.out, re.MULTILINE)
    assert "enter it at the client" in done.out
    shown = tmad.json("radius-client", "show", "hall-1")
    assert shown["prefixes"] == ["192.0.2.0/28"]
    assert (shown["vendor"], shown["tags"]) == ("cisco", ["hall"])
    assert shown["methods"] == ["eap-tls", "pap"]
    assert shown["coa"]["port"] == 1700
    for command in ("show hall-1", "state hall-1", "list", "history hall-1"):
        assert secret not in tmad.run("radius-client", *command.split(), "-o", "json").out
    assert secret not in tmad.run("audit", "tail", "-n", "200", "-o", "json").out
    assert secret not in tmad.run("export").out
    database = sqlite3.connect(node.directory / "tmad.db")
    assert secret not in "\n".join(database.iterdump())
    database.close()


def test_a_second_client_cannot_take_the_first_ones_place(tmad: Commands) -> None:
    done = tmad.run("radius-client", "create", "hall-2", "--prefix", "192.0.2.0/28", expect=2)
    assert "prefixes: 192.0.2.0/28 belongs to radius-client hall-1 already" in done.err
    done = tmad.run("radius-client", "create", "hall-1", "--prefix", "192.0.2.16/28", expect=2)
    assert "revision" in done.err
    done = tmad.run("radius-client", "create", "hall-3", expect=2)
    assert "prefixes" in done.err


def test_secrets_are_replaced_or_overlap(tmad: Commands, tmp_path: Path) -> None:
    first = tmad.json("radius-client", "secret", "hall-1")["secret"]
    second = tmad.json("radius-client", "rotate", "hall-1", "--overlap", "2h")["secret"]
    assert first != second
    state = tmad.json("radius-client", "state", "hall-1")
    assert state["seen_at"] == state["last_without_message_authenticator"] == "never"
    assert state["old_secret_until"].startswith("20")
    brought = tmp_path / "secret"
    brought.write_text("short-one\n")
    done = tmad.run("radius-client", "secret", "hall-1", "--secret-file", str(brought))
    assert "short-one" not in done.out + done.err
    assert "warning: a secret of fewer than 16 characters" in done.out
    assert tmad.json("radius-client", "state", "hall-1")["old_secret_until"] == "none"
    brought.write_text("has a space in it\n")
    tmad.run("radius-client", "secret", "hall-1", "--secret-file", str(brought), expect=2)


def test_a_dry_run_shows_no_secret_and_makes_nothing(tmad: Commands) -> None:
    done = tmad.run("radius-client", "create", "dry", "--prefix", "198.51.100.1", "--dry-run")
    assert "would be created" in done.out
    assert "secret" not in done.out
    tmad.run("radius-client", "show", "dry", expect=2)
    before = tmad.json("radius-client", "state", "hall-1")
    done = tmad.run("radius-client", "secret", "hall-1", "--dry-run")
    assert "(dry run)" in done.out
    assert tmad.json("radius-client", "state", "hall-1") == before


def test_settings_are_checked_in_words(tmad: Commands) -> None:
    for setting, words in (
        ("methods=['eap-md5']", "methods"),
        ("prefixes=['192.0.2.0/99']", "prefixes"),
        ("login.mode=nothing", "login.mode"),
        ("radsec.names=['*.example.test']", "radsec.names"),
        ("colour=blue", "colour"),
    ):
        done = tmad.run("radius-client", "set", "hall-1", setting, expect=2)
        assert words in done.err, setting
    tmad.run("radius-client", "set", "hall-1", "login.mode=password-otp", "fragment_size=800")


def test_learning_is_taken_back_by_hand_only(tmad: Commands) -> None:
    done = tmad.run("radius-client", "unlearn", "hall-1", expect=3)
    assert "not known to sign" in done.err


def test_a_radsec_client_needs_no_secret(tmad: Commands) -> None:
    done = tmad.run("radius-client", "create", "proxy", "--radsec-name", "Proxy.Example.Test")
    assert "secret" not in done.out
    assert "radsec must name an address" in done.out
    assert tmad.json("radius-client", "show", "proxy")["radsec"]["names"] == ["proxy.example.test"]


def test_who_may_not_may_not(tmad: Commands) -> None:
    tmad.run("grant", "create", "olga", "--subject", "person:olga", "--role", "operator")
    asked = ("radius-client", "secret", "hall-1", "--as", "person:olga")
    assert "radius-client.secret" in tmad.run(*asked, expect=2).err
    tmad.run("radius-client", "state", "hall-1", "--as", "person:olga")
    tmad.run("radius-client", "state", "hall-1", "--as", "person:nobody", expect=2)
    tmad.run("tenant", "create", "other")
    for verb in ("secret", "rotate", "state", "unlearn", "show", "delete"):
        done = tmad.run("radius-client", verb, "hall-1", "--tenant", "other", expect=2)
        assert "there is no radius-client" in done.err


def test_delete_takes_the_secret_along(tmad: Commands, node: Daemon) -> None:
    tmad.run("radius-client", "delete", "hall-1")
    database = sqlite3.connect(node.directory / "tmad.db")
    assert database.execute("SELECT count(*) FROM radius_secrets").fetchone() == (0,)
    database.close()
