"""Node settings: every mistake with its place, paths, defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from tmad.config import Address, NodeSettings, find
from tmad.errors import Fault


class Protocol(BaseModel):
    """A protocol's own section, as a plugin would bring it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    rate: float = 5


def load(tmp_path: Path, text: str, **models: type[BaseModel]) -> NodeSettings:
    path = tmp_path / "tmad.toml"
    path.write_text(text, encoding="utf-8")
    return NodeSettings.load(path, models)


def mistakes(tmp_path: Path, text: str, **models: type[BaseModel]) -> list[str]:
    with pytest.raises(Fault) as caught:
        load(tmp_path, text, **models)
    return caught.value.detail.replace(f"{tmp_path}/tmad.toml:", "").split("\n")


def test_an_empty_file_is_a_whole_configuration(tmp_path: Path) -> None:
    settings = load(tmp_path, "")

    assert settings.node.data == tmp_path / "data"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/tmad.db"
    assert settings.public_url == "http://localhost:8080"
    assert settings.master_file == tmp_path / "data" / "master.json"


def test_every_mistake_is_named_at_once_with_its_line_and_column(tmp_path: Path) -> None:
    text = (
        "[node]\n"
        'hots = "pki.example"\n'
        "\n"
        "[limits]\n"
        "  connections = -1\n"
        "[log]\n"
        'level = """\n'
        'loud"""\n'
        "[listne]\n"
    )

    assert mistakes(tmp_path, text) == [
        '2:1  node.hots: unknown key, did you mean "host"?',
        "5:17  limits.connections: Input should be greater than or equal to 1",
        "7:9  log.level: Input should be 'debug', 'info', 'warn' or 'error'",
        '9:1  listne: unknown key, did you mean "listen"?',
    ]


def test_a_protocols_own_section_is_checked_in_the_same_go(tmp_path: Path) -> None:
    text = "[protocols.scep]\nrtae = 1\n[protocols.skep]\n[workers]\ncount = 0\n"

    assert mistakes(tmp_path, text, scep=Protocol) == [
        '2:1  protocols.scep.rtae: unknown key, did you mean "rate"?',
        '3:1  protocols.skep: no such protocol, did you mean "scep"?',
        "5:9  workers.count: Input should be greater than or equal to 1",
    ]


def test_a_protocols_section_is_read_by_its_own_model(tmp_path: Path) -> None:
    settings = load(tmp_path, "[protocols.scep]\nrate = 2.5\n", scep=Protocol)

    assert settings.protocol("scep", Protocol).rate == 2.5
    assert settings.protocol("ocsp", Protocol).rate == 5


def test_broken_toml_is_named_with_its_place(tmp_path: Path) -> None:
    [line] = mistakes(tmp_path, "[node]\nhost = \n")

    assert line.startswith("2:8  ")


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="cannot be read"):
        NodeSettings.load(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file_that_says_them(tmp_path: Path) -> None:
    settings = load(tmp_path, '[node]\ndata = "../x"\n[keyring]\npassphrase_file = "secret/p"\n')

    assert settings.node.data == tmp_path.parent / "x"
    assert settings.keyring.passphrase_file == tmp_path / "secret" / "p"


def test_a_password_in_the_database_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    [line] = mistakes(tmp_path, '[database]\nurl = "postgresql://tmad:canary@db/tmad"\n')

    assert line.startswith("1:1  database: no password in url")
    assert "canary" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tmad@one,two/tmad",
        "postgresql://tmad@one:5432,two:5433/tmad",
        "postgresql://tmad@/tmad?host=one&host=two",
        "postgresql://tmad@/tmad?host=one,two",
        "postgresql://tmad@one/tmad?hostaddr=192.0.2.1,192.0.2.2",
        "postgresql://tmad@one/tmad?host=two",
    ],
)
def test_several_databases_are_refused(tmp_path: Path, url: str) -> None:
    [line] = mistakes(tmp_path, f'[database]\nurl = "{url}"\n')

    assert line.startswith("1:1  database: url names several hosts")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://tmad@db/tmad?password=canary", "no password in url"),
        ("postgresql://tmad@db:canary/tmad", "the port in url"),
        ("postgresql://tmad@db:99999/tmad", "the port in url"),
    ],
)
def test_other_mistakes_in_the_database_url(tmp_path: Path, url: str, why: str) -> None:
    [line] = mistakes(tmp_path, f'[database]\nurl = "{url}"\n')

    assert why in line
    assert "canary" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tmad@db.example.test/tmad",
        "postgresql://tmad@[2001:db8::1]:5433/tmad?sslmode=verify-full",
        "postgresql://tmad@/tmad?host=/run/postgresql&port=5433",
        "postgresql:///tmad",
    ],
)
def test_one_database_is_taken(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, f'[database]\nurl = "{url}"\n').database.url == url


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ('[keyring]\nstore = "pkcs11"\n', "[keyring.pkcs11] is missing"),
        ('[keyring]\nmaster = "hsm"\n', "[keyring.pkcs11] is missing"),
        ('[keyring.pkcs11]\nmodule = "m"\npin_file = "p"\n', "name the token"),
        ('[node]\npublic_url = "https://pki.example"\n', "public_url must be http"),
        ('[listen]\nhttp = ["8080"]\n', 'expected "HOST:PORT"'),
        ('[listen]\nhttp = ["pki.example:80"]\n', "listen on an IP address"),
        ('[listen]\nhttp = ["127.0.0.1:65536"]\n', 'expected "HOST:PORT"'),
        ('[limits]\nexempt = ["10.0.0.0/40"]\n', "does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, section: str, reason: str) -> None:
    assert reason in mistakes(tmp_path, section)[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("localhost:80", Address("127.0.0.1", 80)),
        ("[::1]:443", Address("::1", 443)),
        (":443", Address("", 443)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


def test_public_url_leaves_out_port_80(tmp_path: Path) -> None:
    settings = load(tmp_path, '[node]\nhost = "pki.example"\n[listen]\nhttp = [":80"]\n')

    assert settings.public_url == "http://pki.example"


def test_settings_are_found_by_option_then_variable_then_folder_then_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMAD_CONFIG", raising=False)
    assert find() == Path("/etc/tmad/tmad.toml")
    (tmp_path / "tmad.toml").touch()
    assert find() == Path("tmad.toml")
    monkeypatch.setenv("TMAD_CONFIG", "other.toml")
    assert find() == Path("other.toml")
    assert find("given.toml") == Path("given.toml")
