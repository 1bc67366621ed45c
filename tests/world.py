"""A small appliance in memory: one or more issuers, their keys, certificates and status.

Everything in it is the real thing on an inline database; only the service certificates are
made here, since the pipeline that issues them is a world of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import Clock, drive
from tmad.ca.authority import AuthorityDocument
from tmad.ca.crl import CRLs
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.revocation import Revocation
from tmad.ca.scheme import scheme_for
from tmad.ca.status import StatusSource
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore
from tmad.storage import changes as change_rows
from tmad.storage import issuers, tables
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState
from tmad.storage.private_keys import KeyRow
from tmad.storage.private_keys import insert as insert_key
from tmad.storage.status import serial_octets

ADMIN = Actor.administrator("local:test")


def certificate(
    name: str,
    key: Any,
    *,
    issuer: str | None = None,
    signer: Any = None,
    policy: Any = None,
    start: datetime = datetime(2026, 1, 1),
    end: datetime = datetime(2036, 1, 1),
) -> x509.Certificate:
    """Return a certificate without extensions, self-signed unless a signer is given."""
    signer = signer or key
    scheme = scheme_for(signer.public_key(), policy or AuthorityDocument().signature)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(name))
        .issuer_name(x509.Name.from_rfc4514_string(issuer or name))
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    return builder.sign(signer, scheme.hash, rsa_padding=scheme.padding)


class Shelf:
    """A KeyShelf in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyHandle] = {}

    async def load(self, key_id: str) -> KeyHandle:
        try:
            return self.rows[key_id]
        except KeyError:
            raise Fault(FaultCode.NOT_FOUND, "no such key") from None

    async def save(self, handle: KeyHandle) -> None:
        self.rows[handle.id] = handle

    async def remove(self, key_id: str) -> None:
        del self.rows[key_id]


@dataclass(frozen=True, slots=True)
class Responder:
    """What ServiceCertificates.current returns, as far as OCSP needs it."""

    certificate: x509.Certificate
    key_id: str


class ServiceCertificates:
    """Makes a responder certificate for each issuer, and a new one when told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.algorithm: KeyAlgorithm | None = None
        self.made: dict[str, Responder] = {}
        self.days = 30

    async def current(self, purpose: str, scope: str) -> Responder:
        assert purpose == "ocsp"
        if scope not in self.made:
            world = self._world
            issuer = await world.hierarchy.by_id(int(scope))
            ca = await world.keyring.handle(issuer.key_id)
            handle = await world.keyring.generate(
                self.algorithm or ca.algorithm, tenant=issuer.tenant, label="ocsp"
            )

            def make(key: Any) -> x509.Certificate:
                own = world.private_key(handle)
                return certificate(
                    "CN=responder",
                    own,
                    issuer="CN=irrelevant here",
                    signer=key,
                    policy=issuer.document.signature,
                    end=(world.clock() + timedelta(days=self.days)).replace(tzinfo=None),
                )

            made = await world.keyring.use(issuer.key_id, make)
            self.made[scope] = Responder(made, handle.id)
        return self.made[scope]

    def renew(self, scope: str) -> None:
        """Forget the present one and announce that."""
        del self.made[scope]
        self._world.announce("service_certificates", f"ocsp/{scope}")


class World:
    """The services that status, OCSP and CRL need; one tenant "default" and what tests add."""

    def __init__(self, database: Database | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.now = self.clock
        self.database = database or Database.in_memory(clock=self.clock)
        self.changes = Changes(self.database)
        self.journal = Journal(self.database, "test", self.clock)
        self.hierarchy = Hierarchy(self.database, self.changes, base_url="http://pki.test")
        self.soft = SoftStore(Seal(b"m" * 32))
        self.shelf = Shelf()
        self.keyring = Keyring(self.shelf, {"soft": self.soft}, default="soft", now=self.clock)
        self.service_certificates = ServiceCertificates(self)
        self.status = StatusSource(self.database)
        self.revocation = Revocation(self.database, self.journal, self.clock)
        self.crls = self.another_process()

    def another_process(self, holder: str = "one") -> CRLs:
        """Return CRLs as a second worker on the same database would have them."""
        return CRLs(
            self.database,
            Changes(self.database),
            self.hierarchy,
            self.keyring,
            self.journal,
            self.clock,
            holder=holder,
        )

    def private_key(self, handle: KeyHandle) -> Any:
        kept: list[Any] = []
        drive(self.keyring.use(handle.id, kept.append))
        return kept[0]

    def write(self, function: Any, *arguments: Any) -> Any:
        return drive(self.database.write(function, *arguments))

    def announce(self, topic: str, key: str) -> None:
        self.write(change_rows.record, topic, key)

    def authority(
        self,
        name: str = "ca",
        *,
        algorithm: KeyAlgorithm = KeyAlgorithm.P256,
        tenant: str = "default",
        generation: int = 1,
        document: AuthorityDocument | None = None,
        subject: str | None = None,
    ) -> Issuer:
        """Add an issuer with a key of its own."""
        rules = document or AuthorityDocument()
        handle = drive(self.keyring.generate(algorithm, tenant=tenant, label=name))
        key = self.private_key(handle)
        made = certificate(subject or f"CN={name}", key, policy=rules.signature)
        made_der = made.public_bytes(Encoding.DER)

        def add(connection: sa.Connection) -> int:
            if generation == 1:
                self._add_document(connection, tenant, name, rules)
            insert_key(
                connection,
                KeyRow(
                    id=handle.id,
                    tenant=tenant,
                    store="soft",
                    algorithm=algorithm.value,
                    label=name,
                    public_key_der=handle.public_key_der,
                    spki_sha256=hashlib.sha256(handle.public_key_der).digest(),
                    material=handle.material,
                    created_at=self.clock(),
                ),
            )
            return issuers.insert(
                connection,
                IssuerRow(
                    tenant=tenant,
                    authority=name,
                    generation=generation,
                    state=IssuerState.ACTIVE,
                    key_id=handle.id,
                    subject_der=made.subject.public_bytes(),
                    certificate_der=made_der,
                    chain_der=made_der,
                    parent_issuer_id=None,
                    not_before=made.not_valid_before_utc,
                    not_after=made.not_valid_after_utc,
                    created_at=self.clock(),
                ),
            )

        return drive(self.hierarchy.by_id(self.write(add)))

    def _add_document(
        self, connection: sa.Connection, tenant: str, name: str, document: AuthorityDocument
    ) -> None:
        connection.execute(
            tables.objects.insert().values(
                tenant=tenant,
                kind="authority",
                name=name,
                handle=f"{tenant}.{name}",
                revision=1,
                document=document.model_dump_json(),
                updated_at=self.clock(),
            )
        )

    def change_document(self, issuer: Issuer, document: AuthorityDocument) -> None:
        """Replace an authority's rules."""

        def change(connection: sa.Connection) -> None:
            connection.execute(
                tables.objects.update()
                .where(
                    tables.objects.c.tenant == issuer.tenant,
                    tables.objects.c.name == issuer.authority,
                )
                .values(document=document.model_dump_json())
            )
            key = f"{issuer.tenant}/authority/{issuer.authority}"
            change_rows.record(connection, "objects", key)

        self.write(change)

    def compromise(self, issuer: Issuer) -> None:
        """Make the issuer's key known as compromised, now."""

        def change(connection: sa.Connection) -> None:
            row = issuers.by_id(connection, issuer.id)
            assert row is not None
            issuers.update(connection, replace(row, compromised_at=self.clock()))
            change_rows.record(connection, "status", f"{issuer.id}:*")

        self.write(change)

    def issue(
        self,
        issuer: Issuer,
        serial: int,
        *,
        state: str = "issued",
        days: float = 365,
        tenant: str | None = None,
    ) -> int:
        """Add a certificate row and return its id."""
        return int(self.write(self._insert, issuer, [serial], state, days, tenant)[0])

    def issue_many(self, issuer: Issuer, serials: list[int]) -> list[int]:
        """Add many certificate rows and return their ids."""
        ids: list[int] = self.write(self._insert, issuer, serials, "issued", 365, None)
        return ids

    def _insert(
        self,
        connection: sa.Connection,
        issuer: Issuer,
        serials: list[int],
        state: str,
        days: float,
        tenant: str | None,
    ) -> list[int]:
        now = self.clock()
        table = tables.certificates
        connection.execute(
            table.insert(),
            [
                {
                    "tenant": tenant or issuer.tenant,
                    "issuer_id": issuer.id,
                    "serial": serial_octets(serial),
                    "state": state,
                    "via": "test",
                    "endpoint": "",
                    "profile": "test",
                    "profile_revision": 1,
                    "owner": "",
                    "subject": f"CN={serial}",
                    "not_before": now,
                    "not_after": now + timedelta(days=days),
                    "spki_sha256": b"",
                    "tbs_sha256": b"",
                    "created_at": now,
                }
                for serial in serials
            ],
        )
        found = connection.execute(
            sa.select(table.c.id).where(table.c.issuer_id == issuer.id).order_by(table.c.id)
        ).scalars()
        return list(found)[-len(serials) :]

    def revoke(self, issuer: Issuer, serial: int, reason: int = 0, **more: Any) -> Any:
        return drive(
            self.revocation.revoke(ADMIN, issuer.tenant, issuer.id, serial, reason, **more)
        )

    def hold(self, issuer: Issuer, serial: int) -> Any:
        return drive(self.revocation.hold(ADMIN, issuer.tenant, issuer.id, serial))

    def release(self, issuer: Issuer, serial: int) -> Any:
        return drive(self.revocation.release(ADMIN, issuer.tenant, issuer.id, serial))

    def events(self) -> list[tuple[str, str]]:
        """Return kind and object of every journal row."""

        def read(connection: sa.Connection) -> list[tuple[str, str]]:
            rows = connection.execute(
                sa.select(tables.journal.c.kind, tables.journal.c.object).order_by(
                    tables.journal.c.seq
                )
            )
            return [(kind, object_) for kind, object_ in rows]

        found: list[tuple[str, str]] = drive(self.database.read(read))
        return found
