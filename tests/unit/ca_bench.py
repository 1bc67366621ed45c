"""A whole certificate authority in memory: every part is the real one, nothing listens."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import BaseModel

from tests.login_world import LoginWorld
from tests.support import Clock, drive
from tmad.ca import endpoint as endpoints
from tmad.ca.accounts import ACTIVE_DIRECTORY, Accounts
from tmad.ca.acme.options import ACMEOptions
from tmad.ca.authority import AUTHORITY
from tmad.ca.hierarchy import Hierarchy
from tmad.ca.pipeline import Authority
from tmad.ca.profile import PROFILE
from tmad.ca.requests import Challenge, EndpointID, EnrollmentRequest, NoCredential, Proof
from tmad.ca.revocation import Revocation
from tmad.ca.status import StatusSource
from tmad.events import Secret
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.identity.credentials import Door, EnrollSecrets
from tmad.journal import Journal
from tmad.managed.catalogue import GRANT, TENANT
from tmad.managed.objects import Objects
from tmad.network import anchors
from tmad.network.anchors import TrustAnchors
from tmad.network.manufacturers import DeviceMakers
from tmad.protocols.cmc.visit import EndpointOptions as CMCOptions
from tmad.protocols.cmp.visit import EndpointOptions as CMPOptions
from tmad.protocols.est.responder import EndpointOptions as ESTOptions
from tmad.protocols.tsa.responder import EndpointOptions as TSAOptions
from tmad.protocols.wstep.visit import EndpointOptions as WSTEPOptions
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore
from tmad.storage import issuers, private_keys
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState

PRESETS = Path(__file__).parents[2] / "conf" / "profiles"
ADMIN = Actor.administrator("local:test")
ROUTERS = EndpointID("scep", "routers")
BASE_URL = "http://ca.example.test"


class Options(BaseModel):
    """The options of a protocol that has none."""


PROTOCOLS: dict[str, type[BaseModel] | None] = {
    "scep": Options,
    "est": ESTOptions,
    "cmp": CMPOptions,
    "cmc": CMCOptions,
    "tsa": TSAOptions,
    "acme": ACMEOptions,
    "wstep": WSTEPOptions,
}


class Shelf:
    """Key handles in memory."""

    def __init__(self) -> None:
        self.handles: dict[str, KeyHandle] = {}

    async def load(self, key_id: str) -> KeyHandle:
        return self.handles[key_id]

    async def save(self, handle: KeyHandle) -> None:
        self.handles[handle.id] = handle

    async def remove(self, key_id: str) -> None:
        del self.handles[key_id]


def name(common: str, **others: str) -> x509.Name:
    """Return a subject, its common name last."""
    oids = {"c": NameOID.COUNTRY_NAME, "o": NameOID.ORGANIZATION_NAME}
    attributes = [x509.NameAttribute(oids[key], value) for key, value in others.items()]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Bench:
    """One tenant with one active root, the shipped profiles and the endpoint scep/routers."""

    def __init__(
        self,
        *,
        algorithm: KeyAlgorithm = KeyAlgorithm.P256,
        database: Database | None = None,
        clock: Clock | None = None,
        keyring: Any = None,
        directories: Any = None,
        **endpoint: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.database = database or Database.in_memory(clock=self.clock)
        self.changes = Changes(self.database)
        self.journal = Journal(self.database, "test", self.clock)
        self.shelf = Shelf()
        self.keyring = keyring or Keyring(
            self.shelf,
            {"soft": SoftStore(Seal(bytes(32)))},
            default="soft",
            now=self.clock,
        )
        self.objects = Objects(
            self.database,
            self.journal,
            self.changes,
            self.clock,
            (
                TENANT,
                GRANT,
                PROFILE,
                AUTHORITY,
                endpoints.kind(PROTOCOLS),
                anchors.kind(),
                ACTIVE_DIRECTORY,
            ),
        )
        self.endpoints = endpoints.Endpoints(self.objects, PROTOCOLS)
        self.hierarchy = Hierarchy(self.database, self.changes, base_url=BASE_URL)
        self.secrets = EnrollSecrets(
            self.database, self.journal, Seal(bytes(32)), self.clock, self._door
        )
        self.status = StatusSource(self.database)
        self.documents: dict[str, bytes] = {}  # what the fetcher of CRLs finds at a URL
        self.anchors = TrustAnchors(
            self.database, self.journal, self.changes, self.clock, self._fetch
        )
        self.accounts = LoginWorld(self.database, clock=self.clock, journal=self.journal)
        self.revocation = Revocation(self.database, self.journal, self.clock)
        self.authority = Authority(
            database=self.database,
            journal=self.journal,
            keyring=self.keyring,
            objects=self.objects,
            endpoints=self.endpoints,
            hierarchy=self.hierarchy,
            secrets=self.secrets,
            now=self.clock,
            logins=self.accounts.logins,
            manufacturers=DeviceMakers(self.anchors, self.changes),
            accounts=None if directories is None else Accounts(self.objects, directories),
        )
        self._algorithm = algorithm
        self._endpoint = endpoint

    async def prepare(self) -> Bench:
        """Fill the database; a coroutine, for benches that run under a reactor."""
        put = self.objects.put
        await put(ADMIN, EVERY_TENANT, "tenant", "default", {})
        for path in sorted(PRESETS.glob("*.toml")):
            document = tomllib.loads(path.read_text())
            await put(ADMIN, "default", "profile", path.stem, document)
        await put(ADMIN, "default", "authority", "devices", {})
        await self.root("devices", self._algorithm)
        document = {
            "protocol": "scep",
            "label": "routers",
            "authority": "devices",
            "profile": "device",
            **self._endpoint,
        }
        await put(ADMIN, "default", "endpoint", "scep-routers", document)
        return self

    async def open(self, protocol: str, label: str, **document: Any) -> EndpointID:
        """Open one endpoint more."""
        found = {
            "protocol": protocol,
            "label": label,
            "authority": "devices",
            "profile": "device",
            **document,
        }
        await self.objects.put(ADMIN, "default", "endpoint", f"{protocol}-{label}", found)
        return EndpointID(protocol, label)

    async def _fetch(self, url: str, largest: int) -> bytes:
        return self.documents[url][:largest]

    async def _door(self, endpoint: str) -> Door:
        found = await self.endpoints.by_id(EndpointID.parse(endpoint))
        return Door(tenant=found.tenant, policy=found.document.challenge)

    async def root(
        self,
        authority: str,
        algorithm: KeyAlgorithm,
        *,
        generation: int = 1,
        state: IssuerState = IssuerState.ACTIVE,
    ) -> int:
        """Make an active root by the pipeline itself; return its issuer id."""
        handle = await self.keyring.generate(algorithm, tenant="default", label=authority)
        subject = name(f"{authority} root", o="Example")
        public_key = await self.keyring.public_key(handle.id)
        row = IssuerRow(
            tenant="default",
            authority=authority,
            generation=generation,
            state=IssuerState.CREATING,
            key_id=handle.id,
            subject_der=subject.public_bytes(),
            certificate_der=None,
            chain_der=b"",
            parent_issuer_id=None,
            not_before=None,
            not_after=None,
            created_at=self.clock(),
        )
        issuer_id = await self.database.write(_insert_issuer, row, handle)
        issued = await self.authority.issue(
            Actor.system(),
            "default",
            authority=authority,
            issuer_id=issuer_id,
            profile="root-ca",
            subject=subject,
            names=(),
            public_key=public_key,
            proof=Proof.GENERATED_HERE,
        )
        certificate = issued.certificate
        der = certificate.public_bytes(Encoding.DER)
        await self.database.write(
            issuers.update,
            replace(
                row,
                id=issuer_id,
                state=state,
                certificate_der=der,
                chain_der=der,
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
            ),
        )
        return issuer_id

    async def secret(self, **options: Any) -> Secret:
        """Return a fresh one-time secret for scep/routers."""
        _, secret = await self.secrets.create(ADMIN, "default", str(ROUTERS), **options)
        return secret

    def events(self, kind: str = "") -> list[Any]:
        """Return the journal's records, or those of one kind."""
        records = drive(self.journal.tail(None, limit=1000))
        return [r for r in records if not kind or r.kind == kind]


def bench(**options: Any) -> Bench:
    """Return a prepared bench; ``options`` beside Bench's own are of the endpoint."""
    return drive(Bench(**options).prepare())


def asked(
    *,
    key: Any = None,
    common: str = "r1.example.test",
    secret: Secret | None = None,
    **options: Any,
) -> EnrollmentRequest:
    """Return a first enrolment at scep/routers, with evidence that no other request has."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    given: dict[str, Any] = {
        "via": "scep",
        "endpoint": ROUTERS,
        "public_key": key.public_key(),
        "subject": name(common),
        "names": (x509.DNSName("r1.example.test"),),
        "proof": Proof.CSR_SIGNATURE,
        "credential": NoCredential() if secret is None else Challenge(secret),
        "transaction": "tx-1",
        "peer": "192.0.2.1",
    }
    given.update(options)
    return EnrollmentRequest(**given)


def _insert_issuer(connection: Any, row: IssuerRow, handle: KeyHandle) -> int:
    issuer_id = issuers.insert(connection, row)
    private_keys.insert(
        connection,
        private_keys.KeyRow(
            id=handle.id,
            tenant=handle.tenant,
            store=handle.store,
            algorithm=handle.algorithm.value,
            label=handle.label,
            public_key_der=handle.public_key_der,
            spki_sha256=hashlib.sha256(handle.public_key_der).digest(),
            material=handle.material,
            created_at=handle.created_at,
        ),
    )
    return issuer_id
