"""Gathers what one device must know, and writes it in its platform's format."""

from __future__ import annotations

import ipaddress
import secrets as randomness
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from tmad.ca.device_profiles.description import (
    Description,
    Door,
    Identity,
    Network,
    der,
    need_network,
    unable,
)
from tmad.ca.device_profiles.platforms import Platform
from tmad.ca.device_profiles.rules import WiFi
from tmad.ca.device_profiles.wish import Wish
from tmad.ca.keymaking import check_allowed, choose
from tmad.ca.profile import ATTRIBUTES
from tmad.ca.requests import Challenge, EnrollmentRequest, Issued, KeyWish, Proof
from tmad.ca.service_wishes import eap_scope
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.binding import UPN
from tmad.signer.keyring import Keyring
from tmad.wire import cms, generalnames
from tmad.wire import der as asn1
from tmad.wire.signatures import SHA256

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.pipeline import Authority
    from tmad.ca.profile import ProfileDocument
    from tmad.ca.service_certificates import ServiceCertificates
    from tmad.ca.service_records import ServiceCertificate
    from tmad.ca.status import StatusSource
    from tmad.managed.objects import Objects

_PASSWORD_OCTETS: Final = 15
_LONGEST_RENEWAL: Final = 90  # days before the end
_UTF8_STRING: Final = 0x0C
_UTC_TIME: Final = 0x17
_OIDS: Final = {name.upper(): oid for name, oid in ATTRIBUTES.items()} | {
    "EMAIL": NameOID.EMAIL_ADDRESS
}
# Where a person decides, and where the computer's own account in the domain tells who it is.
_WITHOUT_SECRET: Final = {"scep": "manual", "wstep": "kerberos"}
_PATHS: Final = {
    "scep": "/scep/{label}",
    "est": "/.well-known/est/{label}",
    "acme": "/acme/{label}/directory",
    "wstep": "/xcep/{label}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorURLs:
    """Where the outside reaches this node; empty for what it does not listen on."""

    host: str
    http: str
    https: str
    https_client: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """An enrolment secret, and its id."""

    reference: str
    secret: Secret


class ProfileMaker:
    """Writes profiles; decides nothing about who may have one."""

    def __init__(
        self,
        *,
        objects: Objects,
        hierarchy: Hierarchy,
        service_certificates: ServiceCertificates,
        keyring: Keyring,
        authority: Authority,
        status: StatusSource,
        urls: DoorURLs,
        now: Clock,
    ) -> None:
        self._objects = objects
        self._hierarchy = hierarchy
        self._service_certificates = service_certificates
        self._keyring = keyring
        self._authority = authority
        self._status = status
        self._now = now
        self.urls = urls

    async def check(self, endpoint: Endpoint, platform: Platform, wish: Wish) -> Description:
        """Return the description without secrets; Fault for what can never be written."""
        document = endpoint.document
        if platform.protocols and document.protocol not in platform.protocols:
            raise unable(
                platform.name,
                f"it enrols over {' and '.join(platform.protocols).upper()}, and "
                f"{endpoint.id} is {document.protocol.upper()}",
                endpoint=str(endpoint.id),
            )
        if takes_secret(endpoint, platform) and "challenge" not in document.authenticate:
            raise unable(
                platform.name,
                f"{endpoint.id} accepts no enrolment secrets; see authenticate",
                endpoint=str(endpoint.id),
            )
        if platform.holds_identity:
            check_allowed(endpoint)
        description = await self._describe(endpoint, platform, wish)
        if platform.holds_identity:
            need_network(description, platform.name)
        else:
            platform.write(description)
        return description

    async def write(
        self,
        endpoint: Endpoint,
        platform: Platform,
        description: Description,
        *,
        credential: Credential | None,
        expires_at: datetime | None,
        peer: str,
        transaction: str,
    ) -> Secret:
        """Return the finished file; Fault as the pipeline's where a certificate is made for it."""
        description = replace(description, expires_at=expires_at)
        if platform.holds_identity:
            assert credential is not None, "check() asked for one"
            identity = await self._identity(
                endpoint, description, credential, peer=peer, transaction=transaction
            )
            description = replace(description, identity=identity)
        elif credential is not None:
            door = replace(description.door, user=credential.reference, secret=credential.secret)
            description = replace(description, door=door)
        content = platform.write(description)
        if platform.is_signed:
            content = await self._sign(endpoint, content)
        return Secret(content)

    # -- what a device must know ----------------------------------------------------------------

    async def _describe(self, endpoint: Endpoint, platform: Platform, wish: Wish) -> Description:
        document = endpoint.document
        issuer = await self._hierarchy.active(endpoint.tenant, document.authority)
        stored = await self._objects.load(endpoint.tenant, "profile", document.profile)
        profile: ProfileDocument = stored.document
        organisation = document.devices.organisation or _organisation(issuer.chain[0])
        label = f"{document.protocol}-{document.label}"
        return Description(
            identifier=".".join([*_reversed(self.urls.host), label]),
            title=f"{organisation}: {document.label}",
            # Windows may know a template by another name than its profile has.
            profile=getattr(endpoint.options, "template", "") or document.profile,
            organisation=organisation,
            subject=wish.attributes,
            names=wish.alternatives,
            key=choose(KeyWish(platform.keys_over(document.protocol)), profile.keys),
            issuers=issuer.chain,
            networks=tuple(
                [await self._network(endpoint, each) for each in wish.wifi or document.devices.wifi]
            ),
            door=await self._door(endpoint),
            directory=wish.directory or f"/etc/tmad-device/{label}",
            renew_days=_renew_days(endpoint, profile),
        )

    async def _network(self, endpoint: Endpoint, rules: WiFi) -> Network:
        if rules.authorities:
            above = [
                (await self._hierarchy.active(endpoint.tenant, name)).chain[-1]
                for name in rules.authorities
            ]
        else:
            scope = eap_scope(endpoint.tenant, self.urls.host)
            above = [(await self._service_certificates.current("eap", scope)).chain[-1]]
        servers = rules.servers or _own_name(self.urls.host)
        if not servers:
            # Whoever has any certificate below the root could play the server.
            raise Fault(
                FaultCode.REJECTED,
                f"this node's host {self.urls.host} is no DNS name that a device could compare "
                "with a RADIUS server's certificate; set devices.wifi.servers",
                rule="device-profile.wifi.servers",
                values={"ssid": rules.ssid, "host": self.urls.host},
            )
        return Network(
            ssid=rules.ssid,
            hidden=rules.hidden,
            security=rules.security,
            servers=servers,
            roots=tuple(dict.fromkeys(above)),
            passpoint=rules.passpoint,
        )

    async def _door(self, endpoint: Endpoint) -> Door:
        protocol = endpoint.id.protocol
        path = _PATHS.get(protocol, "").format(label=endpoint.id.label)
        own = await self._service_certificates.current("tls", self.urls.host)
        # SCEP protects its messages itself, and a device knows no root before it has the profile.
        base = self.urls.http if protocol == "scep" else self.urls.https
        return Door(
            protocol=protocol,
            url=f"{base}{path}",
            renewal_url=f"{self.urls.https_client}{path}",
            roots=(own.chain[-1],),
        )

    # -- certificate and key ----------------------------------------------------------------------

    async def _identity(
        self,
        endpoint: Endpoint,
        description: Description,
        credential: Credential,
        *,
        peer: str,
        transaction: str,
    ) -> Identity:
        """Enrol for the device, by its secret and through the pipeline like everybody."""
        outcome = await self._authority.enroll(
            EnrollmentRequest(
                via=endpoint.id.protocol,
                endpoint=endpoint.id,
                public_key=KeyWish((description.key,)),
                subject=_subject(description),
                names=tuple([_general_name(kind, text) for kind, text in description.names]),
                proof=Proof.GENERATED_HERE,
                credential=Challenge(credential.secret),
                transaction=transaction,
                peer=peer,
            )
        )
        assert isinstance(outcome, Issued), "a key that waits for a person is refused"
        assert outcome.private_key is not None
        password = Secret(randomness.token_urlsafe(_PASSWORD_OCTETS))
        pack = partial(
            _pkcs12,
            outcome.private_key.pkcs8(),
            outcome.certificate,
            (await self._hierarchy.by_id(outcome.issuer_id)).chain,
            description.common_name,
        )
        return Identity(
            certificate=outcome.certificate,
            sealed=pack(_compatible(password)),
            plain=pack(NoEncryption()),
            password=password,
        )

    # -- signature --------------------------------------------------------------------------------

    async def _sign(self, endpoint: Endpoint, content: bytes) -> bytes:
        signer = await self._signer(endpoint)
        # The root is in the profile itself; in a signature it would prove nothing.
        chain = [der(each) for each in signer.chain if each.issuer != each.subject]
        own = der(signer.certificate)
        instant = asn1.tlv(_UTC_TIME, f"{self._now():%y%m%d%H%M%SZ}".encode())

        def sign(key: Any) -> bytes:
            return cms.sign(
                key,
                own,
                content,
                digest=SHA256,
                attributes=[(cms.SIGNING_TIME, instant)],
                certificates=chain,
            )

        return await self._keyring.use(signer.key_id, sign)

    async def _signer(self, endpoint: Endpoint) -> ServiceCertificate:
        """Return the certificate in use; one that is revoked is followed by another."""
        found = await self._service_certificates.current("profile", str(endpoint.id))
        status = await self._status.of(found.issuer_id, found.certificate.serial_number)
        if status.state == "good":
            return found
        return await self._service_certificates.replace(found)


def takes_secret(endpoint: Endpoint, platform: Platform) -> bool:
    """Tell whether the device needs an enrolment secret.

    A profile that has the certificate in it does in any case: it is made for the secret.
    """
    protocol = endpoint.id.protocol
    if platform.holds_identity:
        return True
    if not platform.protocols or protocol == "acme":
        return False
    accepted = endpoint.document.authenticate
    return "challenge" in accepted or _WITHOUT_SECRET.get(protocol) not in accepted


def _renew_days(endpoint: Endpoint, profile: ProfileDocument) -> int:
    """Return how many days before the end a device renews: a third of the life, when it may."""
    windows = (endpoint.document.renewal.window_days, profile.renewal.window.days)
    third = profile.validity.default.days // 3
    return max(1, min(third, _LONGEST_RENEWAL, *(days for days in windows if days)))


def _organisation(certificate: x509.Certificate) -> str:
    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        for attribute in certificate.subject.get_attributes_for_oid(oid):
            return str(attribute.value)
    return "tmad"


def _own_name(host: str) -> tuple[str, ...]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return (host,)
    return ()


def _reversed(host: str) -> list[str]:
    """Return the labels of a host as identifiers have them; an address has no order to turn."""
    return list(reversed(host.split("."))) if _own_name(host) else [host.replace(":", "-")]


def _subject(description: Description) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(_OIDS[name], value) for name, value in description.subject]
    )


def _general_name(kind: str, text: str) -> x509.GeneralName:
    found = generalnames.of_kind(kind, text)
    if found is None:
        found = x509.OtherName(UPN, asn1.tlv(_UTF8_STRING, text.encode()))
    return found


def _compatible(password: Secret) -> KeySerializationEncryption:
    """Return what all versions of Android open; the password lies beside it in any case."""
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(20_000)
        .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())  # noqa: S303  as above
        .build(password.reveal())
    )


def _pkcs12(
    pkcs8: Secret,
    certificate: x509.Certificate,
    above: tuple[x509.Certificate, ...],
    name: str,
    encryption: KeySerializationEncryption,
) -> Secret:
    key: Any = load_der_private_key(pkcs8.reveal(), None)
    packed = pkcs12.serialize_key_and_certificates(
        name.encode(), key, certificate, above, encryption
    )
    return Secret(packed)
