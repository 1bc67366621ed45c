"""Node settings: what one machine needs before it can open its database (tmad.toml).

Everything else is a managed object in the database. No secret stands in the file: settings
whose names end in ``_file`` point to one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad import documents
from tmad.errors import Fault, FaultCode


class Section(BaseModel):
    """One table of the settings file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(Section):
    """Who this machine is."""

    name: str = Field(default="tmad", description="Name of this node in journal and logs.")
    host: str = Field(default="localhost", description="Host name in URLs and certificates.")
    data: Path = Field(default=Path("."), description="Directory of database and master key.")
    public_url: str = Field(
        default="",
        description="Base of the plain HTTP URLs in certificates; default: host and HTTP port.",
    )
    user: str = Field(default="", description="Unix user to become after the ports are open.")

    @field_validator("public_url")
    @classmethod
    def _is_plain_http(cls, url: str) -> str:
        parts = urlsplit(url)
        # GEN-09: an https URL in a certificate makes its validation circular.
        if url and (parts.scheme != "http" or not parts.hostname or parts.query):
            raise ValueError("must look like http://pki.example.test")
        return url.rstrip("/")


class Storage(Section):
    """Which database."""

    url: str = Field(
        default="",
        description='SQLAlchemy URL; default: SQLite "tmad.db" in the data directory.',
    )
    threads: int = Field(default=4, ge=1, le=64, description="Threads for database calls.")


class PKCS11(Section):
    """One token of one PKCS#11 module."""

    module: Path = Field(description="The maker's shared library.")
    token_label: str | None = Field(default=None, description="Which token, by its label,")
    token_serial: str | None = Field(default=None, description="or by its serial number.")
    pin_file: Path = Field(description="File that holds the user PIN, mode 0600.")
    threads: int = Field(default=2, ge=1, le=8, description="Sessions that sign in parallel.")
    timeout_seconds: float = Field(
        default=2.0, gt=0, le=60, description="After this long a call counts as hung."
    )
    queue: int = Field(default=128, ge=1, description="Calls that may wait; more are refused.")

    @model_validator(mode="after")
    def _names_a_token(self) -> Self:
        if not (self.token_label or self.token_serial):
            raise ValueError("token_label or token_serial must say which token")
        return self


class Keys(Section):
    """Where private keys live, and what protects the master key that seals software keys."""

    store: Literal["soft", "pkcs11"] = Field(
        default="soft", description="Where new keys are made unless a command says otherwise."
    )
    master: Literal["passphrase", "credential", "hsm"] = Field(
        default="passphrase", description="What protects the master key while nothing runs."
    )
    passphrase_file: Path = Field(
        default=Path("master.passphrase"), description="With master = passphrase."
    )
    credential: str = Field(
        default="tmad-master", description="With master = credential: its systemd name."
    )
    hsm_label: str = Field(default="tmad-master", description="With master = hsm: the key's label.")
    threads: int = Field(default=2, ge=1, le=16, description="Threads for slow software keys.")
    pkcs11: PKCS11 | None = Field(default=None, description="The token, if there is one.")

    @model_validator(mode="after")
    def _has_its_token(self) -> Self:
        if self.pkcs11 is None and "pkcs11" in (self.store, self.master.replace("hsm", "pkcs11")):
            raise ValueError("keys in an HSM need a [keyring.pkcs11] table")
        return self


Address = str
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/]+):([0-9]{1,5})")


def address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT"; raise ValueError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > 65_535:
        raise ValueError('must look like "127.0.0.1:8080" or "[::1]:8080"')
    return match[1].strip("[]"), int(match[2])


class Listen(Section):
    """Where it listens; an empty list switches a door off."""

    http: tuple[Address, ...] = Field(
        default=("127.0.0.1:8080",), description="Plain HTTP: SCEP, OCSP, CRL, CA certificates."
    )
    https: tuple[Address, ...] = Field(default=("127.0.0.1:8443",), description="HTTPS.")
    https_client: tuple[Address, ...] = Field(
        default=("127.0.0.1:8444",), description="HTTPS that asks for a client certificate."
    )
    ops: tuple[Address, ...] = Field(
        default=("127.0.0.1:9464",), description="Metrics and health, plain HTTP."
    )

    @field_validator("*")
    @classmethod
    def _are_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for text in addresses:
            address(text)
        return addresses


class Workers(Section):
    """Processes that share the listening sockets."""

    count: int = Field(default=1, ge=1, le=64, description="Identical processes.")
    stop_seconds: float = Field(
        default=10.0, gt=0, description="Time to finish requests when it is told to stop."
    )


class Log(Section):
    """What goes to standard error."""

    format: Literal["console", "json"] = Field(default="console", description="For people or not.")
    level: Literal["debug", "info", "warn", "error"] = Field(default="info", description="From.")
    access: bool = Field(default=True, description="One line a request, hot doors excepted.")


class Limits(Section):
    """What strangers may take; every door has its own sizes and rates besides."""

    connections: int = Field(default=4_000, ge=10, description="TCP connections of one listener.")
    connections_per_source: int = Field(default=500, ge=1, description="Of one address.")
    rate_scale: float = Field(
        default=1.0, ge=0, description="Factor on every rate per source; 0 switches them off."
    )
    trusted_sources: tuple[str, ...] = Field(
        default=("127.0.0.0/8", "::1/128"), description="Networks that no rate is applied to."
    )
    header_seconds: float = Field(default=10.0, gt=0, description="For a request's header.")
    body_seconds: float = Field(default=30.0, gt=0, description="For a request's body.")
    idle_seconds: float = Field(default=60.0, gt=0, description="Between two requests.")


class NodeSettings(Section):
    """The whole file."""

    node: Node = Field(default_factory=Node)
    database: Storage = Field(default_factory=Storage)
    keyring: Keys = Field(default_factory=Keys)
    listen: Listen = Field(default_factory=Listen)
    workers: Workers = Field(default_factory=Workers)
    log: Log = Field(default_factory=Log)
    limits: Limits = Field(default_factory=Limits)
    protocols: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="A table for each protocol; see below."
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a settings file; relative paths in it are relative to it.

        Raise Fault(REJECTED) whose ``values`` name every mistake by "file:line:column  key".
        """
        text = _read(path)
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Fault(
                FaultCode.REJECTED, f"{path}: not TOML: {error}", rule="config.toml"
            ) from None
        try:
            settings = documents.parse(cls, tree)
        except Fault as fault:
            raise located(fault, path, text) from None
        return settings._from(path.resolve().parent)

    def _from(self, base: Path) -> Self:
        data = base / self.node.data
        pkcs11 = self.keyring.pkcs11
        if pkcs11 is not None:
            pkcs11 = pkcs11.model_copy(
                update={"module": base / pkcs11.module, "pin_file": base / pkcs11.pin_file}
            )
        return self.model_copy(
            update={
                "node": self.node.model_copy(update={"data": data}),
                "keyring": self.keyring.model_copy(
                    update={
                        "passphrase_file": base / self.keyring.passphrase_file,
                        "pkcs11": pkcs11,
                    }
                ),
            }
        )

    @property
    def database_url(self) -> str:
        """The database in force."""
        return self.database.url or f"sqlite:///{self.node.data / 'tmad.db'}"

    @property
    def public_url(self) -> str:
        """The base of the plain HTTP URLs in certificates."""
        if self.node.public_url:
            return self.node.public_url
        port = address(self.listen.http[0])[1] if self.listen.http else 80
        return f"http://{self.node.host}" + ("" if port == 80 else f":{port}")

    @property
    def master_file(self) -> Path:
        """Where the wrapped master key lies."""
        return self.node.data / "master.json"


def located(fault: Fault, path: Path, text: str) -> Fault:
    """Return the fault with each mistake's place in the file before its dotted path."""
    places = dict(_places(text))
    mistakes = {}
    for key, mistake in fault.values.items():
        known = key
        while known not in places and "." in known:
            known = known.rpartition(".")[0]
        line, column = places.get(known, (1, 1))
        mistakes[f"{path}:{line}:{column}  {key}"] = mistake
    return documents.rejection(mistakes)


_TABLE = re.compile(r"\s*\[\[?\s*([^\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"(\s*)((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")


def _places(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield dotted keys with line and column; TOML's own parser does not tell them."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _dotted(header[1])
            yield table, (number, line.index("[") + 1)
        elif key := _KEY.match(line):
            name = _dotted(key[2])
            yield f"{table}.{name}" if table else name, (number, len(key[1]) + 1)


def _dotted(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Fault(
            FaultCode.REJECTED, f"{path}: cannot be read: {reason}", rule="config.file"
        ) from None


def reference(sections: Mapping[str, type[BaseModel]]) -> str:
    """Return docs/configuration.md: every setting of the node and of the given protocols."""
    lines = [
        "# Settings of a node: `tmad.toml`",
        "",
        "Made from the models by `tmad check-config --reference`. Every setting has a default;",
        "paths are relative to the file; secrets stand in files of their own.",
    ]
    for name, field in NodeSettings.model_fields.items():
        if name != "protocols":
            assert isinstance(field.default_factory, type)
            lines += _table(name, field.default_factory)
    lines += _table("keyring.pkcs11", PKCS11)
    for name, model in sections.items():
        lines += _table(f"protocols.{name}", model)
    return "\n".join(lines) + "\n"


def _table(name: str, model: type[BaseModel]) -> list[str]:
    lines = ["", f"## `[{name}]`", "", (model.__doc__ or "").split("\n")[0], ""]
    lines += ["| Key | Default | What it does |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = f"`{_toml(value)}`" if value is not None else ""
        lines.append(f"| `{key}` | {default} | {field.description or ''} |")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'
