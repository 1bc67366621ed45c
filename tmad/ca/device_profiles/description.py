"""What a configuration profile is written from, whatever the platform."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.signer.algorithms import KeyAlgorithm

# Names of the certificates and profiles of one endpoint stay the same from one to the next.
_NAMESPACE = uuid.UUID("9d6b4f0a-9c0e-5f0e-8f5c-6f2a1c7b3e21")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A wireless network; ``roots`` are above the certificates of its RADIUS servers."""

    ssid: str
    hidden: bool
    security: str  # "wpa2" | "wpa3" | "wpa3-192"
    servers: tuple[str, ...]
    roots: tuple[x509.Certificate, ...]
    passpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where and with what the device enrols; ``roots`` are above the HTTPS certificate.

    ``renewal_url`` is the door that asks for a client certificate. ``user`` is sent with the
    secret where a protocol wants a name.
    """

    protocol: str
    url: str
    renewal_url: str
    roots: tuple[x509.Certificate, ...]
    user: str = ""
    secret: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate with its key, which was made here: PKCS#12 under a password."""

    certificate: x509.Certificate
    sealed: Secret  # the PKCS#12
    plain: Secret  # the same without a password, for what knows no other
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One device, one endpoint, and the networks that it shall join.

    ``issuers`` are the certificates of the authorities, the issuing one first, root last.
    ``subject`` are pairs such as ("CN", "r1"), ``names`` such as ("dns", "r1.example.test").
    ``directory`` is where files lie on devices that have some. ``renew_days`` before the end
    of a certificate the device asks for the next one.
    """

    identifier: str  # "test.example.ca.scep.phones"
    title: str
    profile: str  # what Windows calls the template
    organisation: str
    subject: tuple[tuple[str, str], ...]
    names: tuple[tuple[str, str], ...]
    key: KeyAlgorithm
    issuers: tuple[x509.Certificate, ...]
    networks: tuple[Network, ...]
    door: Door
    directory: str
    renew_days: int
    expires_at: datetime | None = None
    identity: Identity | None = None

    @property
    def common_name(self) -> str:
        """Return the subject's CN, else its last value."""
        values = dict(self.subject)
        return values.get("CN", self.subject[-1][1])

    @property
    def login(self) -> str:
        """Return the outer identity of an EAP login: a name of the certificate."""
        for kind in ("upn", "email", "dns"):
            for its_kind, value in self.names:
                if its_kind == kind:
                    return value
        return self.common_name

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """Return every certificate that the device has to know, each once."""
        found = [*self.issuers, *self.door.roots]
        for network in self.networks:
            found += network.roots
        return tuple(dict.fromkeys(found))

    def uuid(self, part: str = "") -> str:
        """Return the UUID of a part; a later profile of the same kind takes its place."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.identifier}/{part}")).upper()

    def uuid_of(self, certificate: x509.Certificate) -> str:
        """Return the UUID of the payload that holds a certificate."""
        return self.uuid(hashlib.sha256(der(certificate)).hexdigest())


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def pem(certificates: tuple[x509.Certificate, ...]) -> str:
    """Return certificates as PEM, one after the other."""
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)


def unable(platform: str, why: str, **values: str) -> Fault:
    """Return the refusal of a platform that cannot do what an endpoint needs."""
    return Fault(
        FaultCode.REJECTED,
        f"no profile for {platform}: {why}",
        rule="device-profile.platform",
        values={"platform": platform, **values},
    )


def need_network(description: Description, platform: str) -> tuple[Network, ...]:
    """Return the networks; Fault(REJECTED) where there is none to join."""
    if not description.networks:
        raise unable(platform, "the endpoint names no Wi-Fi; see devices.wifi, or give --ssid")
    return description.networks


def need_identity(description: Description, platform: str) -> Identity:
    """Return certificate and key that the profile carries."""
    assert description.identity is not None, platform
    return description.identity
