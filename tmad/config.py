"""Node settings: tmad.toml becomes frozen models, or every mistake with file:line:column.

Only what one machine needs before it can open its database stands here; everything else is a
managed object. Secrets are never in it: a setting whose name ends in ``_file`` points to one.
``tmad check-config --reference`` prints docs/configuration.md.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tmad import documents
from tmad.documents import nearest
from tmad.errors import Fault, FaultCode

M = TypeVar("M", bound=BaseModel)

SYSTEM_SETTINGS = Path("/etc/tmad/tmad.toml")


def _absolute(path: Path, info: ValidationInfo) -> Path:
    # What a file says is meant relative to that file, wherever the daemon is started.
    base = (info.context or {}).get("base", Path.cwd())
    return Path(os.path.abspath(base / path.expanduser()))


FilePath = Annotated[Path, AfterValidator(_absolute)]


class Address(NamedTuple):
    """Where to listen; an empty host means every address, IPv6 included."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, ``[IPv6]:PORT`` or ``:PORT``."""
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]*)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65_535:
            raise ValueError('expected "HOST:PORT", "[IPv6]:PORT" or ":PORT"')
        host = match[1] or match[2]
        if host:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                if host != "localhost":
                    raise ValueError("listen on an IP address, localhost or nothing") from None
                host = "127.0.0.1"
        return cls(host, int(match[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(text: str) -> str:
    return str(Address.parse(text))


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


AddressText = Annotated[str, AfterValidator(_address)]
NetworkText = Annotated[str, AfterValidator(_network)]


class Section(BaseModel):
    """One table of tmad.toml; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Node(Section):
    """What this machine is called and where it keeps its files."""

    name: str = Field(
        default_factory=lambda: socket.gethostname().split(".")[0],
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of this node in logs, leases and journal; default: the host's name.",
    )
    host: str = Field(
        default="localhost",
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$",
        description="DNS name that clients use; the HTTPS certificate is made for it.",
    )
    public_url: str = Field(
        default="",
        description="Start of the CRL, OCSP and CA addresses that go into certificates;"
        " default: http://HOST and the port of the first HTTP listener.",
    )
    https_url: str = Field(
        default="",
        description="Start of the https addresses that clients are told, behind a proxy too;"
        " default: https://HOST and the port of the first HTTPS listener.",
    )
    data: FilePath = Field(
        default=Path("data"), description="Directory for the database and the master key."
    )
    user: str = Field(
        default="",
        description="Started as root, become this user once the sockets are open.",
    )
    key_blocklist: FilePath | None = Field(
        default=None,
        description="File of publicly known keys (Debian 2008, leaked ones) that are never"
        " certified: the blocklist.dat that badkeys distributes.",
    )

    @model_validator(mode="after")
    def _check_url(self) -> Node:
        if self.public_url:
            parts = urlsplit(self.public_url)
            if parts.scheme != "http" or not parts.netloc or parts.query or parts.fragment:
                # TLS in front of revocation information would be circular (RFC 5280, 8).
                raise ValueError("public_url must be http://HOST[:PORT][/PATH]")
        if self.https_url:
            parts = urlsplit(self.https_url)
            if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment:
                raise ValueError("https_url must be https://HOST[:PORT][/PATH]")
        return self


class DatabaseSection(Section):
    """Where the rows are: an SQLite file in the data directory, or PostgreSQL."""

    url: str = Field(
        default="",
        description="postgresql://USER@HOST/NAME or sqlite:///FILE; default: tmad.db in the"
        " data directory. A password belongs into password_file.",
    )
    password_file: FilePath | None = Field(
        default=None, description="File with the database password."
    )
    threads: int = Field(default=4, ge=1, le=64, description="Threads that talk to the database.")

    @model_validator(mode="after")
    def _check_url(self) -> DatabaseSection:
        if not self.url:
            return self
        parts = urlsplit(self.url)
        if parts.scheme not in ("sqlite", "postgresql", "postgresql+psycopg"):
            raise ValueError("url must begin with sqlite:/// or postgresql://")
        options = parse_qs(parts.query)
        if parts.password or "password" in options:
            raise ValueError("no password in url; point password_file to a file that holds it")
        _check_one_host(parts, options)
        return self


def _check_one_host(parts: SplitResult, options: Mapping[str, list[str]]) -> None:
    # Reads would go to whichever of several answers first. If that is a standby, what has been
    # committed is not there yet: a certificate revoked a moment ago would still be good.
    place = parts.netloc.rpartition("@")[2]
    hosts = [host for host in (place, *options.get("host", ())) if host]
    addresses = options.get("hostaddr", [])
    if len(hosts) > 1 or len(addresses) > 1 or "," in "".join(hosts + addresses):
        raise ValueError(
            "url names several hosts; name one that always leads to the primary (the address that"
            " your failover moves, or a proxy's)"
        )
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port in url is not one") from None


class PKCS11(Section):
    """A hardware token; leave the section out when there is none."""

    module: FilePath = Field(description="The vendor's PKCS#11 library.")
    token_label: str | None = Field(default=None, description="Label of the token to use.")
    token_serial: str | None = Field(default=None, description="Serial number of that token.")
    pin_file: FilePath = Field(description="File with the user PIN.")
    threads: int = Field(default=4, ge=1, le=8, description="Parallel sessions.")
    timeout_seconds: float = Field(
        default=2.0, gt=0, le=60, description="Patience with one operation."
    )
    queue: int = Field(default=128, ge=1, le=10_000, description="Operations that may wait.")

    @model_validator(mode="after")
    def _check_token(self) -> PKCS11:
        if not (self.token_label or self.token_serial):
            raise ValueError("name the token by token_label or token_serial")
        return self


class KeyringSection(Section):
    """Where private keys live, and what opens the master key."""

    store: Literal["soft", "pkcs11"] = Field(
        default="soft", description="Store for new keys unless a command names another."
    )
    threads: int = Field(default=2, ge=1, le=64, description="Threads for software RSA keys.")
    master: Literal["passphrase", "credential", "hsm"] = Field(
        default="passphrase", description="What protects the master key while nothing runs."
    )
    passphrase_file: FilePath = Field(
        default=Path("passphrase"),
        description='For master = "passphrase": the file, readable by its owner only.',
    )
    credential: str = Field(
        default="tmad-master",
        description='For master = "credential": its name in systemd (LoadCredential=).',
    )
    hsm_label: str = Field(
        default="tmad-master",
        description='For master = "hsm": the label of the key that tmad makes there.',
    )
    pkcs11: PKCS11 | None = Field(default=None, description="A hardware token.")

    @model_validator(mode="after")
    def _check_token(self) -> KeyringSection:
        if self.pkcs11 is None and "pkcs11" in (self.store, self.master.replace("hsm", "pkcs11")):
            raise ValueError("the section [keyring.pkcs11] is missing")
        return self


class Listen(Section):
    """Which sockets to open: lists of "HOST:PORT"; an empty list switches a listener off."""

    http: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:8080",), description="Plain HTTP: SCEP, OCSP, CRL, CA certificates."
    )
    https: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:8443",), description="HTTPS; never asks for a client certificate."
    )
    https_client: tuple[AddressText, ...] = Field(
        default=(), description="HTTPS that asks for a client certificate."
    )
    ops: tuple[AddressText, ...] = Field(
        default=("127.0.0.1:9464",),
        description="/metrics, /healthz, /readyz; worker N listens on PORT + N.",
    )


class Workers(Section):
    """Processes: each one serves everything."""

    count: int = Field(default=1, ge=1, le=256, description="Identical processes.")


class Log(Section):
    """What is written, and where; reloaded by SIGHUP."""

    level: Literal["debug", "info", "warn", "error"] = Field(
        default="info", description="The least important level that is written."
    )
    format: Literal["console", "json"] = Field(
        default="console", description="Lines for people, or one JSON object a line."
    )
    output: Literal["stderr", "stdout", "journald"] = Field(
        default="stderr",
        description="journald gets each event's data as fields; without it, lines on stderr.",
    )
    journald_socket: FilePath = Field(
        default=Path("/run/systemd/journal/socket"), description="Where journald listens."
    )
    access: bool = Field(default=True, description="One line for each HTTP request.")
    access_hot: bool = Field(
        default=False, description="Also for OCSP, CRL and CA certificates, which are counted."
    )


class LimitsSection(Section):
    """What strangers may use up; reloaded by SIGHUP."""

    connections: int = Field(default=10_000, ge=1, description="Open HTTP connections in all.")
    connections_per_source: int = Field(
        default=50, ge=1, description="From one address (IPv6: one /64)."
    )
    rate_scale: float = Field(
        default=1.0, ge=0, description="Multiplies every door's rate; 0: no rate limits."
    )
    exempt: tuple[NetworkText, ...] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Networks without rate and per-source limits: this machine, proxies.",
    )
    header_seconds: float = Field(
        default=10, gt=0, le=600, description="For the TLS handshake and the request's head."
    )
    body_seconds: float = Field(default=30, gt=0, le=600, description="For the request's body.")
    idle_seconds: float = Field(
        default=30, gt=0, le=600, description="Between two requests of one connection."
    )
    write_seconds: float = Field(
        default=30, gt=0, le=600, description="Until a peer that reads nothing is cut off."
    )
    header_octets: int = Field(
        default=24_576, ge=1_024, le=1 << 20, description="Request line and header fields."
    )
    stop_seconds: float = Field(
        default=20, ge=0, le=600, description="For running requests when the daemon stops."
    )


class PasswordSection(Section):
    """What a password of a person costs to try: argon2id, as OWASP advises (2026)."""

    memory_kib: int = Field(
        default=19_456, ge=8_192, le=1 << 20, description="Memory of one argon2id run, in KiB."
    )
    iterations: int = Field(default=2, ge=1, le=100, description="Passes over that memory.")
    lanes: int = Field(default=1, ge=1, le=16, description="Lanes of that memory.")
    threads: int = Field(
        default=2, ge=1, le=64, description="Passwords that are checked at the same time."
    )
    queue: int = Field(
        default=256, ge=1, le=10_000, description="Checks that may wait; more are not answered."
    )
    shortest: int = Field(default=8, ge=1, le=64, description="Characters of a new password.")


_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _placeholders(template: str, known: tuple[str, ...]) -> set[str]:
    """Return the names in a template; ValueError for one that nobody fills in."""
    found = set(_PLACEHOLDER.findall(template))
    for name in sorted(found - set(known)):
        raise ValueError(f"{{{{{name}}}}} is not known; {', '.join(known)} are")
    return found


class HTTPGateway(Section):
    """An SMS gateway that takes HTTP requests."""

    url: str = Field(
        description="Where to; may hold {{to}}, {{digits}}, {{text}}, {{secret}} after the host."
    )
    method: Literal["GET", "POST", "PUT"] = Field(default="POST", description="GET sends no body.")
    content_type: str = Field(
        default="application/json",
        pattern=r"^[a-z]+/[a-z0-9.+-]+(; ?charset=utf-8)?$",
        description="Of the body; what is filled in is escaped for it: JSON, form, XML, plain.",
    )
    body: str = Field(
        default='{"to": "{{to}}", "text": "{{text}}"}',
        description="The body; {{to}} is the number with its +, {{digits}} without.",
    )
    headers: Mapping[str, str] = Field(
        default={}, description='More header fields, for example { X-Key = "{{secret}}" }.'
    )
    user: str = Field(default="", description="For HTTP Basic authentication.")
    password_file: FilePath | None = Field(default=None, description="File with its password.")
    secret_file: FilePath | None = Field(
        default=None, description="File with the key that stands for {{secret}}."
    )
    status: tuple[int, ...] = Field(
        default=(200, 201, 202, 204), description="Statuses that mean accepted."
    )
    success_pattern: str = Field(
        default="", description="Regular expression that an answer meaning accepted must contain."
    )
    timeout_seconds: float = Field(default=10, gt=0, le=60, description="Patience with one answer.")
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of the authorities trusted for its TLS certificate."
    )
    plain_http: bool = Field(
        default=False, description="Allow http to another machine: codes cross the net readable."
    )

    @model_validator(mode="after")
    def _check(self) -> HTTPGateway:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError("url must be an http or https URL without fragment")
        if not re.fullmatch(r"[!-~]+", _PLACEHOLDER.sub("x", self.url)):
            raise ValueError("url must be ASCII without spaces; write others as %XX")
        if "{{" in parts.netloc or "@" in parts.netloc:
            raise ValueError("the host in url must be fixed, without user and password")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not self.plain_http:
            raise ValueError("codes would cross the net readable; use https or set plain_http")
        known = ("to", "digits", "text", "secret")
        texts = [self.url, *self.headers.values(), *([] if self.method == "GET" else [self.body])]
        names = set().union(*(_placeholders(text, known) for text in texts))
        if "text" not in names or not names & {"to", "digits"}:
            raise ValueError("{{text}} and {{to}} (or {{digits}}) must stand in url or body")
        if "secret" in names and self.secret_file is None:
            raise ValueError("{{secret}} needs secret_file")
        for name, value in self.headers.items():
            if not re.fullmatch(r"[A-Za-z0-9-]{1,60}", name) or not value.isprintable():
                raise ValueError(f"{name!r} is not a header field")
        if self.method != "GET" and self.content_type.startswith("application/json"):
            try:
                json.loads(_PLACEHOLDER.sub("x", self.body))
            except ValueError:
                raise ValueError("body is not JSON; placeholders stand inside quotes") from None
        try:
            re.compile(self.success_pattern)
        except re.error as error:
            raise ValueError(f"success_pattern: {error}") from None
        return self


class SMPPGateway(Section):
    """An SMS centre that speaks SMPP 3.4."""

    host: str = Field(description="Its name or address.")
    port: int = Field(default=2775, ge=1, le=65_535, description="3550 is usual with TLS.")
    tls: bool = Field(default=False, description="Speak TLS from the first octet.")
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of the authorities trusted for its TLS certificate."
    )
    system_id: str = Field(pattern=r"^[!-~]{1,15}$", description="Who we are there.")
    password_file: FilePath | None = Field(
        default=None, description="File with the password, at most 8 characters."
    )
    system_type: str = Field(
        default="", pattern=r"^[ -~]{0,12}$", description="If the operator asks for one."
    )
    bind: Literal["transceiver", "transmitter"] = Field(
        default="transceiver", description="How to bind; a transmitter gets no receipts."
    )
    source: str = Field(
        default="",
        pattern=r"^(\+?[0-9]{1,15}|[A-Za-z0-9 ._-]{1,11})?$",
        description="Sender: a number with +, a short number, or a name of 11 characters.",
    )
    alphabet: Literal["gsm", "ascii", "latin1"] = Field(
        default="gsm", description="What the centre takes data_coding 0 for."
    )
    window: int = Field(default=10, ge=1, le=100, description="Messages not yet acknowledged.")
    enquire_seconds: float = Field(
        default=30, ge=1, le=600, description="Between two enquire_link."
    )
    idle_seconds: float = Field(
        default=300, ge=1, le=86_400, description="Unbind after that long without a message."
    )
    timeout_seconds: float = Field(default=10, gt=0, le=60, description="Patience with one answer.")


class SpoolGateway(Section):
    """The spool directory of SMS Server Tools (smsd) on this machine."""

    outgoing: FilePath = Field(
        default=Path("/var/spool/sms/outgoing"), description="Where smsd takes messages from."
    )
    sent: FilePath | None = Field(
        default=None, description="Where smsd moves what it has sent; needed to wait for it."
    )
    failed: FilePath | None = Field(
        default=None, description="Where smsd moves what it could not send."
    )
    wait_seconds: float = Field(
        default=60, ge=0, le=300, description="For a file to reach sent or failed."
    )


class MailSubmission(Section):
    """A mail server that takes messages from us (RFC 6409)."""

    host: str = Field(
        pattern=r"^[A-Za-z0-9.:-]{1,253}$", description="Its name; in the certificate."
    )
    port: int = Field(default=587, ge=1, le=65_535, description="587 or 465.")
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="STARTTLS, TLS from the first octet (465), or none: on this machine only.",
    )
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of the authorities trusted for its TLS certificate."
    )
    user: str = Field(default="", description="For SMTP authentication.")
    password_file: FilePath | None = Field(default=None, description="File with its password.")
    sender: str = Field(
        pattern=r"^[!#-\x27*+./0-9=?A-Z^_`a-z{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}$",
        description="Address that the messages come from.",
    )
    subject: str = Field(
        default="Login code", pattern=r"^[^\r\n]{1,100}$", description="Of the messages."
    )
    timeout_seconds: float = Field(
        default=30, gt=0, le=300, description="Patience with one message."
    )

    @model_validator(mode="after")
    def _check(self) -> MailSubmission:
        if self.tls == "none" and self.host not in _LOOPBACK:
            raise ValueError('tls = "none" is for a mail server on this machine')
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file belong together")
        return self


class DeliverySection(Section):
    """How one-time codes reach people: by SMS, by mail."""

    sms: Literal["", "http", "smpp", "spool"] = Field(
        default="", description="What sends SMS; its section below must be there. Empty: nothing."
    )
    text: str = Field(
        default="{{code}} is your login code. It is good for {{minutes}} minutes.",
        max_length=160,
        description="The message; {{code}} and {{minutes}} are filled in.",
    )
    origin: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9.-]{1,253})?$",
        description="Host name for a last line @HOST #CODE, by which phones fill in the code.",
    )
    digits: int = Field(default=6, ge=6, le=8, description="Of a code.")
    lifetime_seconds: int = Field(default=300, ge=30, le=900, description="Of a code.")
    tries: int = Field(default=3, ge=1, le=10, description="Wrong ones before a code is void.")
    person_per_hour: int = Field(
        default=5, ge=1, le=100, description="Codes sent to one person in an hour."
    )
    all_per_hour: int = Field(
        default=300, ge=1, le=100_000, description="Codes sent in all in an hour (toll fraud)."
    )
    http: HTTPGateway | None = None
    smpp: SMPPGateway | None = None
    spool: SpoolGateway | None = None
    mail: MailSubmission | None = None

    @model_validator(mode="after")
    def _check(self) -> DeliverySection:
        if self.sms and getattr(self, self.sms) is None:
            raise ValueError(f"the section [delivery.{self.sms}] is missing")
        if "code" not in _placeholders(self.text, ("code", "minutes")):
            raise ValueError("text must hold {{code}}")
        if not self.text.replace("\n", "").isprintable():
            raise ValueError("text must be printable")
        return self


class NodeSettings(Section):
    """All of tmad.toml."""

    node: Node = Field(default=Node())
    database: DatabaseSection = Field(default=DatabaseSection())
    keyring: KeyringSection = Field(default=KeyringSection())
    listen: Listen = Field(default=Listen())
    workers: Workers = Field(default=Workers())
    log: Log = Field(default=Log())
    limits: LimitsSection = Field(default=LimitsSection())
    passwords: PasswordSection = Field(default=PasswordSection())
    delivery: DeliverySection = Field(default=DeliverySection())
    protocols: Mapping[str, Mapping[str, Any]] = Field(
        default={}, description="One section a protocol, for example [protocols.scep]."
    )

    _path: Path = PrivateAttr(default=Path("tmad.toml"))

    @classmethod
    def load(
        cls, path: Path, protocols: Mapping[str, type[BaseModel]] | None = None
    ) -> NodeSettings:
        """Read a settings file.

        ``protocols`` are the models of the protocol sections; with them these are checked
        too. Raise Fault(REJECTED) whose detail has one line for each mistake, as
        ``file:line:column  key: what is wrong``.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise _refusal([f"{path}: cannot be read: {reason}"]) from None
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _refusal([_syntax(path, text, str(error))]) from None
        context = {"base": path.absolute().parent}
        found: list[Mistake] = []
        settings: NodeSettings | None = None
        try:
            # Named, so that their relative default paths get the context too.
            settings = cls.model_validate({"node": {}, "keyring": {}} | tree, context=context)
        except ValidationError as error:
            found += _mistakes(cls, error)
        sections = tree.get("protocols", {})
        if protocols is not None and isinstance(sections, dict):
            for name, section in sections.items():
                if name not in protocols:
                    found.append(
                        Mistake(
                            ("protocols", name), "no such protocol" + nearest(name, [*protocols])
                        )
                    )
                elif isinstance(section, dict):
                    try:
                        protocols[name].model_validate(section, context=context)
                    except ValidationError as error:
                        found += _mistakes(protocols[name], error, ("protocols", name))
        if found or settings is None:
            raise _refusal(_located(path, text, found))
        settings._path = path.absolute()
        return settings

    @property
    def path(self) -> Path:
        """The file that these settings were read from."""
        return self._path

    def protocol(self, name: str, model: type[M]) -> M:
        """Return the section of one protocol as its own model; Fault(REJECTED)."""
        try:
            return model.model_validate(
                self.protocols.get(name, {}), context={"base": self._path.parent}
            )
        except ValidationError as error:
            lines = (
                f"{self._path}  {'.'.join(map(str, where))}: {what}"
                for where, what in _mistakes(model, error, ("protocols", name))
            )
            raise _refusal(list(lines)) from None

    @property
    def database_url(self) -> str:
        """The database's address without its password."""
        return self.database.url or f"sqlite:///{self.node.data / 'tmad.db'}"

    @property
    def public_url(self) -> str:
        """Where certificates point to, without a slash at the end."""
        if self.node.public_url:
            return self.node.public_url.rstrip("/")
        port = Address.parse(self.listen.http[0]).port if self.listen.http else 80
        return f"http://{self.node.host}" + ("" if port == 80 else f":{port}")

    @property
    def https_url(self) -> str:
        """Where clients reach the HTTPS doors; empty where there are none."""
        if self.node.https_url:
            return self.node.https_url.rstrip("/")
        return self._secure_url(self.listen.https)

    @property
    def https_client_url(self) -> str:
        """Where clients reach the HTTPS doors that ask for a certificate; empty without any."""
        return self._secure_url(self.listen.https_client)

    def _secure_url(self, listeners: tuple[str, ...]) -> str:
        if not listeners:
            return ""
        port = Address.parse(listeners[0]).port
        return f"https://{self.node.host}" + ("" if port == 443 else f":{port}")

    @property
    def master_file(self) -> Path:
        """The wrapped master key."""
        return self.node.data / "master.json"


class Mistake(NamedTuple):
    """A place in the document and what is wrong there."""

    where: tuple[int | str, ...]
    what: str


def find(given: str = "") -> Path:
    """Return the settings file in force: given, $TMAD_CONFIG, ./tmad.toml, the system's."""
    for path in (given, os.environ.get("TMAD_CONFIG", "")):
        if path:
            return Path(path)
    here = Path("tmad.toml")
    return here if here.exists() else SYSTEM_SETTINGS


def _mistakes(
    model: type[BaseModel], error: ValidationError, at: tuple[str, ...] = ()
) -> Iterator[Mistake]:
    for location, what in documents.mistakes(model, error):
        yield Mistake((*at, *location), what)


def _refusal(lines: list[str]) -> Fault:
    return Fault(FaultCode.REJECTED, "\n".join(lines), rule="settings.invalid")


def _syntax(path: Path, text: str, message: str) -> str:
    match = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", message)
    line, column = (match[1], match[2]) if match and match[1] else (str(text.count("\n") + 1), "1")
    return f"{path}:{line}:{column}  {message.partition(' (at ')[0].lower()}"


def _located(path: Path, text: str, mistakes: list[Mistake]) -> list[str]:
    places = dict(_places(text))
    lines = []
    for where, what in mistakes:
        known = where
        while known not in places and known:
            known = known[:-1]
        line, key, value = places.get(known, (1, 1, 1))
        # An unknown key is wrong where it stands, anything else where its value stands.
        column = key if what.startswith(("unknown", "no such")) or known != where else value
        name = ".".join(map(str, where)) or "settings"
        lines.append((line, column, f"{path}:{line}:{column}  {name}: {what}"))
    return [shown for _, _, shown in sorted(lines)]


_KEY = re.compile(r"""\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_.\s-])+=\s*""")


def _places(text: str) -> Iterator[tuple[tuple[int | str, ...], tuple[int, int, int]]]:
    """Yield the path of each key with its line, its column and the column of its value.

    The text is valid TOML. A statement ends with the line that makes it complete.
    """
    table: tuple[str, ...] = ()
    statement = ""
    begin = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not statement:
            begin = number
        statement += line + "\n"
        try:
            tree = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        first = statement.split("\n", 1)[0]
        statement = ""
        column = len(first) - len(first.lstrip()) + 1
        if first.lstrip().startswith("["):
            table = max((tuple(map(str, path)) for path in _paths(tree)), key=len)
            yield table, (begin, column, column)
            continue
        match = _KEY.match(first)
        value = match.end() + 1 if match else column
        for path in _paths(tree):
            yield (*table, *path), (begin, column, value)


def _paths(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*above, key)
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            yield from _paths(inner, (*above, key))
