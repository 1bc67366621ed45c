"""What one certificate's keeping is told: a document beside its state, written by ``enroll``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tmad import documents
from tmad.agent import files
from tmad.errors import Fault, FaultCode

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
KEYS: Final = ("p256", "p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519")
_FILE: Final = "settings.toml"


def _https(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("must be an address that begins with https://")
    return value.rstrip("/")


def _web(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address that begins with http:// or https://")
    return value


def _absolute(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return value


HTTPS = Annotated[str, AfterValidator(_https)]
Web = Annotated[str, AfterValidator(_web)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Mode = Annotated[str, Field(pattern=r"^0?[0-7]{3}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ESTSource(_Part):
    """An EST server (RFC 7030)."""

    url: HTTPS = Field(
        description="Up to and without the operation: https://HOST:8444/.well-known/est/LABEL."
    )
    user: str = Field(default="", max_length=200, description="Name for the first enrolment.")
    secret_file: AbsolutePath = Field(
        default="", description="File with the password for the first enrolment."
    )


class ACMESource(_Part):
    """An ACME server (RFC 8555)."""

    directory: HTTPS
    contact: tuple[str, ...] = Field(default=(), max_length=10, description="mailto: addresses.")
    agrees: bool = Field(default=False, description="The server's terms are agreed to.")
    profile: str = Field(default="", max_length=100, description="One of the server's profiles.")
    eab_kid: str = Field(default="", max_length=200, description="External account: its id.")
    eab_key_file: AbsolutePath = Field(
        default="", description="External account: file with its key in base64url."
    )
    listen: str = Field(
        default="", description="Answer http-01 here by ourselves: 0.0.0.0:80, [::]:80."
    )
    webroot: AbsolutePath = Field(
        default="", description="Answer http-01 by files that a web server shows."
    )
    dns_hook: tuple[str, ...] = Field(
        default=(), max_length=50, description="Answer dns-01: program and arguments, without a "
        "shell; called with present NAME. VALUE, later with cleanup NAME. VALUE, as lego's exec.",
    )  # fmt: skip
    dns_hook_seconds: float = Field(
        default=120.0, gt=0, le=3600, description="How long one call may take."
    )
    dns_wait_seconds: float = Field(
        default=0.0, ge=0, le=3600, description="Until the whole world sees a new record."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> ACMESource:
        if self.listen and self.webroot:
            raise ValueError("http-01 is answered by listen or by webroot, not by both")
        if bool(self.eab_kid) != bool(self.eab_key_file):
            raise ValueError("an external account has an eab_kid and an eab_key_file")
        return self


class SCEPSource(_Part):
    """A SCEP server (RFC 8894)."""

    url: Web
    secret_file: AbsolutePath = Field(
        default="", description="File with the challenge for the first enrolment."
    )
    legacy: bool = Field(
        default=False, description="Take answers signed with SHA-1, as old servers sign them."
    )


class Places(_Part):
    """Where key and certificates go; each file is replaced at once."""

    directory: AbsolutePath = Field(
        default="",
        description="A symbolic link that the agent owns, to a directory with all of key.pem, "
        "certificate.pem, chain.pem, fullchain.pem and bundle.pem: all change in one moment.",
    )
    key: AbsolutePath = Field(default="", description="The private key, PKCS#8.")
    certificate: AbsolutePath = Field(default="", description="The certificate alone.")
    chain: AbsolutePath = Field(default="", description="The authorities, without the root.")
    fullchain: AbsolutePath = Field(default="", description="Certificate and authorities.")
    bundle: AbsolutePath = Field(default="", description="Key, certificate and authorities.")
    pkcs12: AbsolutePath = Field(default="", description="All of it as PKCS#12.")
    pkcs12_password_file: AbsolutePath = ""
    pkcs12_form: Literal["modern", "compatible"] = Field(
        default="modern", description="compatible: 3DES and SHA-1, for old readers."
    )
    user: str = Field(default="", max_length=64, description="Owner of the files.")
    group: str = Field(default="", max_length=64, description="Group of the files.")
    mode: Mode = Field(default="0644", description="Of files without the key.")
    key_mode: Mode = Field(default="0600", description="Of files with the key.")

    @model_validator(mode="after")
    def _are_apart(self) -> Places:
        found = [path for _, path in self.files()]
        if self.pkcs12:
            if not self.pkcs12_password_file:
                raise ValueError("pkcs12 needs a pkcs12_password_file")
            found.append(self.pkcs12)
        if self.directory:
            found.append(self.directory)
        if len(found) != len(set(found)):
            raise ValueError("two of the places are the same")
        return self

    def files(self) -> list[tuple[str, str]]:
        """Return the kinds of PEM file that are wanted, and where: the key first."""
        kinds = ("key", "bundle", "chain", "fullchain", "certificate")
        return [(kind, path) for kind in kinds if (path := getattr(self, kind))]


class Reload(_Part):
    """What makes the service use the new certificate."""

    command: tuple[str, ...] = Field(
        default=(), max_length=50, description='Program and arguments, without a shell: ["nginx", '
        '"-s", "reload"]. When it fails, the old files come back.'
    )  # fmt: skip
    seconds: float = Field(default=30.0, gt=0, le=3600, description="How long it may take.")


class Check(_Part):
    """Where the service shows the certificate, to see that it does."""

    address: str = Field(
        default="", pattern=r"^$|^.+:[0-9]{1,5}$", description="HOST:PORT of its TLS port."
    )
    server_name: str = Field(default="", max_length=253, description="SNI; else the first name.")
    seconds: float = Field(
        default=10.0, gt=0, le=600, description="How long the service may take to change."
    )


class Renewal(_Part):
    """When the next certificate is fetched, where the server does not say it."""

    before_days: float | None = Field(
        default=None, gt=0, description="So long before the end; else a third of its life."
    )
    spread_hours: float | None = Field(
        default=None, ge=0, le=720,
        description="And up to so much earlier, so that a fleet does not come at once; else a "
        "tenth of that.",
    )  # fmt: skip
    new_key: bool = Field(default=True, description="A new key for each certificate.")
    revoked: Literal["stop", "enroll"] = Field(
        default="stop",
        description="When the certificate was revoked: stop, or enroll as at the beginning.",
    )


class CertificateSettings(_Part):
    """How one certificate is obtained, kept and put in place."""

    subject: str = Field(default="", max_length=1000, description="A distinguished name: CN=….")
    names: tuple[str, ...] = Field(
        default=(), max_length=100, description="Alternative names: dns:…, ip:…, email:…, uri:…"
    )
    key: Literal["p256", "p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"] = "p256"
    trust: AbsolutePath = Field(
        default="",
        description="PEM file of the CAs that the server is known by; else the system's.",
    )
    est: ESTSource | None = None
    acme: ACMESource | None = None
    scep: SCEPSource | None = None
    place: Places = Places()
    reload: Reload = Reload()
    check: Check = Check()
    renewal: Renewal = Renewal()
    report: str = Field(
        default="",
        pattern=r"^$|^https://",
        description="https://HOST:8444/agent, to say how it is.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> CertificateSettings:
        if [self.est, self.acme, self.scep].count(None) != 2:
            raise ValueError("a certificate comes from one of est, acme and scep")
        if self.acme is not None and not any(n.startswith(("dns:", "ip:")) for n in self.names):
            raise ValueError("names: ACME certifies dns: and ip: names")
        if self.scep is not None and not self.key.startswith("rsa-"):
            raise ValueError("key: SCEP answers are sealed to the key, which must be RSA")
        if not self.subject and not self.names:
            raise ValueError("a certificate has a subject or names")
        return self

    @property
    def source(self) -> str:
        """Return the protocol that is spoken."""
        return "est" if self.est else "acme" if self.acme else "scep"

    @property
    def secret_file(self) -> str:
        """Return the file with the secret for the first time, an empty text where there is none."""
        source = self.est or self.scep
        return source.secret_file if source else ""


def load(directory: Path) -> CertificateSettings:
    """Read the settings of one certificate; Fault with every mistake."""
    path = directory / _FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Fault(
            FaultCode.NOT_FOUND,
            f"{path} cannot be read: {error.strerror}",
            rule="agent.settings",
        ) from None
    return documents.parse(CertificateSettings, documents.from_toml(text), at=str(path))


def save(directory: Path, settings: CertificateSettings) -> None:
    """Write the settings of one certificate, without the defaults."""
    text = documents.to_toml(documents.plain(settings))
    files.write(directory / _FILE, text.encode(), mode=0o600)


def default_directory() -> Path:
    """Return where an agent's certificates live: TMAD_AGENT_DIR or the system's place."""
    return Path(os.environ.get("TMAD_AGENT_DIR") or "/var/lib/tmad-agent")
