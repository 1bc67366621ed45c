"""Authorities in memory with everything they need: pipeline, profiles, keyring, journal."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict

from tests.support import Clock, drive
from tmad.ca.adoption import Adoption
from tmad.ca.authority import AUTHORITY
from tmad.ca.ceremony import Ceremony
from tmad.ca.endpoint import Endpoints
from tmad.ca.endpoint import kind as endpoint_kind
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.importing import CertificateImport
from tmad.ca.pipeline import Authority
from tmad.ca.profile import PROFILE
from tmad.ca.requests import Proof
from tmad.ca.revocation import Revocation
from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.status import StatusSource
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore
from tmad.storage import private_keys, tables
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")

_SHIPPED = Path(__file__).parent.parent / "conf" / "profiles"
PROFILES: dict[str, dict[str, Any]] = {
    name: tomllib.loads((_SHIPPED / f"{name}.toml").read_text())
    for name in (
        "root-ca",
        "sub-ca",
        "ocsp-responder",
        "scep-ra",
        "cmp-signer",
        "tsa-signer",
        "tls-self",
        "eap-self",
        "tls-client-self",
    )
}
PROFILES["leaf"] = {
    "via": ["operator"],
    "subject": {"attributes": {"*": {"max": 10}}},
    "names": {"dns": {}},
    "extensions": {"extended_key_usage": ["server_auth"]},
}
PROFILES["client"] = {
    "via": ["operator"],
    "subject": {"attributes": {"*": {"max": 10}}},
    "extensions": {"extended_key_usage": ["client_auth"]},
}


class Killed(BaseException):
    """The process dies here: nothing that follows is run."""


class NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Shelf:
    """The keyring's shelf on the database, as the composition root makes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, key_id: str) -> KeyHandle:
        row = await self._database.lookup(private_keys.by_id, key_id)
        if row is None:
            raise Fault(FaultCode.NOT_FOUND, "there is no such key")
        return KeyHandle(
            id=row.id,
            tenant=row.tenant,
            store=row.store,
            algorithm=KeyAlgorithm(row.algorithm),
            label=row.label,
            public_key_der=row.public_key_der,
            material=row.material,
            created_at=row.created_at,
        )

    async def save(self, handle: KeyHandle) -> None:
        raise AssertionError("keys are stored in the transaction that needs them")

    async def remove(self, key_id: str) -> None:
        await self._database.write(private_keys.delete, key_id)


class World:
    """One process on its own database, or one more on another world's."""

    def __init__(
        self,
        beside: World | None = None,
        *,
        holder: str = "one",
        database: Database | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or (beside.clock if beside else Clock())
        self.database = (
            database or (beside and beside.database) or Database.in_memory(clock=self.clock)
        )
        self.changes = Changes(self.database)
        self.journal = Journal(self.database, holder, self.clock)
        seal = Seal(b"m" * 32)
        self.keyring = Keyring(
            Shelf(self.database),
            {"soft": SoftStore(seal), "pkcs11": SoftStore(seal)},
            default="soft",
            now=self.clock,
        )
        models = {"scep": NoOptions}
        self.objects = Objects(
            self.database,
            self.journal,
            self.changes,
            self.clock,
            [TENANT, AUTHORITY, PROFILE, endpoint_kind(models), GRANT],
        )
        self.hierarchy = Hierarchy(self.database, self.changes, base_url="http://pki.test")
        self.endpoints = Endpoints(self.objects, models)
        self.status = StatusSource(self.database)
        self.revocation = Revocation(self.database, self.journal, self.clock)
        self.authority = Authority(
            database=self.database,
            journal=self.journal,
            keyring=self.keyring,
            objects=self.objects,
            endpoints=self.endpoints,
            hierarchy=self.hierarchy,
            secrets=EnrollSecrets(
                self.database, self.journal, seal, self.clock, self.endpoints.door
            ),
            now=self.clock,
        )
        self.ceremony = Ceremony(
            self.database,
            self.journal,
            self.objects,
            self.keyring,
            self.hierarchy,
            self.authority,
            self.revocation,
            self.clock,
            holder=holder,
        )
        self.adoption = Adoption(
            self.database,
            self.journal,
            self.objects,
            self.keyring,
            self.hierarchy,
            self.authority,
            self.clock,
            holder=holder,
        )
        self.importing = CertificateImport(self.database, self.journal, self.hierarchy, self.clock)
        self.service_certificates = ServiceCertificates(
            self.database,
            self.changes,
            self.journal,
            self.keyring,
            self.hierarchy,
            self.endpoints,
            self.authority,
            self.clock,
            holder=holder,
        )
        if beside is None:
            self.tenant("default")

    def tenant(self, name: str) -> None:
        """Add a tenant with the profiles that authorities need."""
        drive(self.objects.put(ADMIN, "*", "tenant", name, {}))
        for profile, document in PROFILES.items():
            drive(self.objects.put(ADMIN, name, "profile", profile, document))

    def create(self, name: str, *, tenant: str = "default", **wanted: Any) -> Issuer:
        """Make an authority; by default a P-256 root."""
        wanted.setdefault("algorithm", KeyAlgorithm.P256)
        wanted.setdefault("subject", subject(f"CN={name},O={tenant}"))
        return drive(self.ceremony.create(ADMIN, tenant, name, **wanted))

    def endpoint(self, label: str, authority: str, *, tenant: str = "default") -> None:
        """Open a SCEP door."""
        document = {
            "protocol": "scep",
            "label": label,
            "authority": authority,
            "profile": "leaf",
        }
        drive(self.objects.put(ADMIN, tenant, "endpoint", f"scep-{label}", document))

    def leaf(self, authority: str, *, tenant: str = "default", host: str = "www.test") -> Any:
        """Issue a certificate for a fresh P-256 key."""
        return drive(
            self.authority.issue(
                ADMIN,
                tenant,
                authority=authority,
                profile="leaf",
                subject=subject(f"CN={host}"),
                names=(x509.DNSName(host),),
                public_key=algorithms.generate(KeyAlgorithm.P256).public_key(),
                proof=Proof.CSR_SIGNATURE,
            )
        )

    def count(self, table: sa.Table, **equal: Any) -> int:
        """Return how many rows have these values."""

        def read(connection: sa.Connection) -> int:
            wanted = [table.c[name] == value for name, value in equal.items()]
            return int(
                connection.execute(
                    sa.select(sa.func.count()).select_from(table).where(*wanted)
                ).scalar_one()
            )

        return drive(self.database.read(read))

    def events(self) -> list[str]:
        """Return the kinds of all journal rows."""

        def read(connection: sa.Connection) -> list[str]:
            rows = connection.execute(
                sa.select(tables.journal.c.kind).order_by(tables.journal.c.seq)
            )
            return list(rows.scalars())

        return drive(self.database.read(read))


def subject(text: str) -> x509.Name:
    """Return a name from its RFC 4514 text."""
    return x509.Name.from_rfc4514_string(text)


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as PEM."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)
