"""Configuration profiles on a whole core in memory, and one description to write from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from cryptography.x509.oid import NameOID

from tests.support import drive
from tests.unit import cmp_world
from tmad.ca.device_profiles.description import Description, Door, Identity, Network
from tmad.ca.device_profiles.maker import DoorURLs, ProfileMaker
from tmad.ca.device_profiles.profiles import DeviceProfiles
from tmad.ca.device_profiles.wish import Wish
from tmad.events import Secret
from tmad.protocols.enroll.responder import EnrollResponder
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.seal import Seal
from tmad.wire.http import Request, Response

HOST = "ca.example.test"
WIFI: dict[str, Any] = {"wifi": [{"ssid": "Corp", "servers": ["radius.example.test"]}]}


class World(cmp_world.World):
    """The bench with scep/phones and est/phones, whose devices join a Wi-Fi."""

    async def prepare(self) -> World:
        await super().prepare()
        await self.open("scep", "phones", devices=WIFI)
        await self.open("est", "phones", devices=WIFI, server_keys=True)
        self.profiles = self.furnished(HOST)
        self.links = EnrollResponder(SimpleNamespace(device_profiles=self.profiles))  # type: ignore[arg-type]  # all it uses
        return self

    def furnished(self, host: str, *, https: str = f"https://{HOST}") -> DeviceProfiles:
        maker = ProfileMaker(
            objects=self.objects,
            hierarchy=self.hierarchy,
            service_certificates=self.service_certificates,
            keyring=self.keyring,
            authority=self.authority,
            status=self.status,
            urls=DoorURLs(
                host=host, http=f"http://{host}", https=https, https_client=f"{https}:8444"
            ),
            now=self.clock,
        )
        return DeviceProfiles(
            database=self.database,
            journal=self.journal,
            seal=Seal(bytes(32)),
            endpoints=self.endpoints,
            enroll_secrets=self.secrets,
            maker=maker,
            now=self.clock,
        )

    def get(self, address: str, **how: Any) -> Response:
        """Ask for an address of a link."""
        tail = address.removeprefix(f"https://{HOST}/enroll")
        return drive(
            self.links.respond(
                Request(**{
                    "method": "GET", "path": b"/enroll" + tail.encode(), "tail": tail.encode(),
                    "peer": "192.0.2.9", "secure": True, **how,
                })
            )
        )  # fmt: skip


def world(**options: Any) -> World:
    made: World = drive(World(**options).prepare())
    return made


def wish(common: str = "alice-phone", **others: Any) -> Wish:
    return Wish(subject=(f"CN={common}",), **others)


def certificate(common: str, issuer: str = "") -> tuple[x509.Certificate, Any]:
    """Return a certificate of no authority of ours, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer or common))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    return made, key


ROOT, _ = certificate("Root")
ISSUING, _ = certificate("Issuing", "Root")
DEVICE, DEVICE_KEY = certificate("alice-phone", "Issuing")


def described(**others: Any) -> Description:
    """Return a description with a secret and an identity, and what is told otherwise."""
    network = Network(
        ssid=others.pop("ssid", "Corp"),
        hidden=others.pop("hidden", False),
        security=others.pop("security", "wpa2"),
        servers=("radius1.example.test", "radius2.example.test"),
        roots=(ROOT,),
        passpoint="example.test",
    )
    protocol = others.pop("protocol", "est")
    packed = pkcs12.serialize_key_and_certificates(
        b"x", DEVICE_KEY, DEVICE, (ISSUING,), BestAvailableEncryption(b"word")
    )
    values: dict[str, Any] = {
        "identifier": "test.example.ca.est-phones",
        "title": "Example: phones",
        "profile": "device",
        "organisation": "Example",
        "subject": (("O", "Example"), ("CN", "alice-phone")),
        "names": (("dns", "alice.example.test"), ("upn", "alice@example.test")),
        "key": KeyAlgorithm.P256,
        "issuers": (ISSUING, ROOT),
        "networks": (network,),
        "door": Door(
            protocol=protocol,
            url=f"https://{HOST}/{protocol}",
            renewal_url=f"https://{HOST}:8444/{protocol}",
            roots=(ROOT,),
            user="01ABC",
            secret=Secret("THESECRET"),
        ),
        "directory": "/etc/tmad-device/est-phones",
        "renew_days": 30,
        "expires_at": datetime(2026, 11, 24, tzinfo=UTC),
        "identity": Identity(
            certificate=DEVICE,
            sealed=Secret(packed),
            plain=Secret(packed),
            password=Secret("word"),
        ),
    }
    return Description(**{**values, **others})
