"""One RADIUS client: a switch, an access point, a gateway or a proxy (RFC 2865, RFC 6614)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tmad.events import Clock, Secret
from tmad.identity.login_rules import LoginRules

# "eap-ttls" and "peap" stand for all that they may hold inside.
Method: TypeAlias = Literal[
    "eap-tls", "eap-ttls", "eap-ttls-pap", "eap-ttls-mschapv2", "eap-ttls-eap-gtc",
    "eap-ttls-eap-mschapv2", "peap", "peap-tls", "peap-gtc", "peap-mschapv2", "eap-gtc", "pap",
    "mac",
]  # fmt: skip
METHODS: Final[tuple[str, ...]] = get_args(Method)
PLAIN: Final = frozenset({"pap", "mac"})  # those that are none of EAP
Vendor: TypeAlias = Literal[
    "generic", "airespace", "aruba", "checkpoint", "cisco", "citrix", "extreme", "f5", "fortinet",
    "hp", "juniper", "meraki", "mikrotik", "paloalto", "ruckus", "sonicwall",
]  # fmt: skip

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


def _prefix(text: str) -> str:
    network = ipaddress.ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None:
        raise ValueError("write it as an IPv4 network")
    return str(network)


def _name(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    name = text.lower().rstrip(".")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
        raise ValueError("a DNS name or an IP address, as the certificate has it")
    return name


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError("a SHA-256 fingerprint: 64 hexadecimal digits")
    return digits


Prefix = Annotated[str, AfterValidator(_prefix)]


class CoAOptions(BaseModel):
    """How sessions at this client are ended (RFC 5176)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="Send it Disconnect-Requests.")
    address: str = Field(
        default="", description="Where to send them; default: where the login came from."
    )
    port: int = Field(default=3799, ge=1, le=65_535, description="Old Cisco devices: 1700.")
    via: Literal["udp", "radsec"] = Field(
        default="udp",
        description="radsec: down the connections that it has made, as for a NAS behind NAT that"
        " takes them there (Cisco IOS XE 17.6, Aruba Instant, FreeRADIUS 3.2).",
    )
    how: Literal["disconnect", "reauthenticate", "bounce-port"] = Field(
        default="disconnect",
        description="What is asked of it; the latter two are Cisco's CoA commands.",
    )

    @model_validator(mode="after")
    def _check_address(self) -> CoAOptions:
        if self.address:
            ipaddress.ip_address(self.address)
        return self


class RadSecOptions(BaseModel):
    """By what a client is known that comes over TLS (RFC 6614); nothing: it may not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[Annotated[str, AfterValidator(_name)], ...] = Field(
        default=(), description="DNS names or addresses in its certificate, one of our CAs'."
    )
    fingerprints: tuple[Annotated[str, AfterValidator(_fingerprint)], ...] = Field(
        default=(), description="SHA-256 of its certificate, which one of our CAs issued."
    )


class RadiusClientDocument(BaseModel):
    """One RADIUS client, or one network of alike ones behind one secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefixes: tuple[Prefix, ...] = Field(
        default=(), description="Addresses it sends from; the longest match of all clients wins."
    )
    description: str = Field(default="", max_length=500)
    tags: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], ...] = Field(
        default=(), description="Words that policies can ask for: a site, a floor, a kind."
    )
    vendor: Vendor = Field(default="generic", description="Whose attributes and quirks it has.")
    require_message_authenticator: Literal["yes", "auto", "no"] = Field(
        default="yes",
        description="Whether an Access-Request without Message-Authenticator is dropped"
        " (CVE-2024-3596); auto: from the first one on that had it.",
    )
    limit_proxy_state: bool = Field(
        default=True,
        description="Drop a request that has Proxy-State and no Message-Authenticator.",
    )
    methods: tuple[Method, ...] = Field(
        default=("eap-tls",), description="How its people and devices may log in, first is offered."
    )
    fragment_size: int = Field(
        default=1_300, ge=200, le=1_400, description="Octets of TLS in one EAP message."
    )
    latin1: bool = Field(default=False, description="Read passwords that are not UTF-8 as Latin-1.")
    login: LoginRules = Field(
        default=LoginRules(), description="What people must present who log in by password."
    )
    coa: CoAOptions = CoAOptions()
    radsec: RadSecOptions = RadSecOptions()

    @model_validator(mode="after")
    def _check_known(self) -> RadiusClientDocument:
        if self.coa.via == "radsec" and not (self.radsec.names or self.radsec.fingerprints):
            raise ValueError("coa.via=radsec is for clients with radsec.names or fingerprints")
        if not (self.prefixes or self.radsec.names or self.radsec.fingerprints):
            raise ValueError("give prefixes, radsec.names or radsec.fingerprints")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method stands twice")
        return self


@dataclass(frozen=True, slots=True)
class Shared:
    """One shared secret and until when it is good."""

    secret: Secret
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client as a request finds it; ``shared`` are its secrets, newest first."""

    tenant: str
    name: str
    document: RadiusClientDocument
    shared: tuple[Shared, ...]
    signed_since: datetime | None

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Its secrets, newest first."""
        return tuple([each.secret for each in self.shared])

    @property
    def coa(self) -> CoAOptions:
        """How its sessions are ended."""
        return self.document.coa

    @property
    def vendor(self) -> Vendor:
        """Whose quirks it has."""
        return self.document.vendor

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other."""
        return self.tenant, self.name

    @property
    def must_sign(self) -> bool:
        """Whether an Access-Request without Message-Authenticator is dropped (R-08)."""
        setting = self.document.require_message_authenticator
        return setting == "yes" or (setting == "auto" and self.signed_since is not None)

    @property
    def is_learning(self) -> bool:
        """Whether its first signed request decides that all must be signed (R-08, auto)."""
        return self.document.require_message_authenticator == "auto" and self.signed_since is None

    def good_secrets(self, now: Clock) -> Sequence[Secret]:
        """Return the secrets that are good now, newest first."""
        if len(self.shared) == 1 and self.shared[0].expires_at is None:
            return (self.shared[0].secret,)
        at = now()
        return [
            each.secret for each in self.shared if each.expires_at is None or at < each.expires_at
        ]
