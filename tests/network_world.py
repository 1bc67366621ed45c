"""A network in memory: authorities, people, devices, policies, and the decision about logins."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from tests.hierarchy_world import ADMIN, World, subject
from tests.support import drive
from tmad.ca import directory
from tmad.ca.authority import AUTHORITY
from tmad.ca.endpoint import kind as endpoint_kind
from tmad.ca.profile import PROFILE
from tmad.ca.requests import Proof
from tmad.errors import Fault, FaultCode
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.network import anchors, policy
from tmad.network.anchors import TrustAnchors
from tmad.network.clients import RADIUS_CLIENT
from tmad.network.decision import Admission
from tmad.network.logins import Admitted, TLSLogin
from tmad.network.sessions import Sessions
from tmad.network.visit import Visit
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import certificates, devices, people, tables
from tmad.storage.devices import DeviceRow
from tmad.storage.people import PersonRow
from tmad.storage.status import serial_octets

_SHIPPED = Path(__file__).parent.parent / "conf" / "profiles"
MAC = "020000000001"


class NetworkWorld(World):
    """One process that decides about logins, on its own database or on another world's."""

    def __init__(self, beside: World | None = None, **options: Any) -> None:
        super().__init__(beside, **options)
        self.objects = Objects(
            self.database,
            self.journal,
            self.changes,
            self.clock,
            [
                TENANT,
                AUTHORITY,
                PROFILE,
                endpoint_kind({}),
                GRANT,
                RADIUS_CLIENT,
                anchors.kind(),
                policy.kind(),
                directory.kind(),
            ],
        )
        self.documents: dict[str, bytes | Fault] = {}  # what the fetcher finds at a URL
        self.fetched: list[str] = []
        self.sessions = Sessions(self.database, self.journal, self.clock)
        self.anchors = TrustAnchors(
            self.database, self.journal, self.changes, self.clock, self._fetch
        )
        self.admission = Admission(
            database=self.database,
            changes=self.changes,
            journal=self.journal,
            hierarchy=self.hierarchy,
            anchors=self.anchors,
            now=self.clock,
            open_sessions=self.sessions.open_in,
        )

    async def _fetch(self, url: str, largest: int) -> bytes:
        self.fetched.append(url)
        found = self.documents.get(url)
        if isinstance(found, bytes) and len(found) <= largest:
            return found
        raise Fault(FaultCode.UNAVAILABLE, "nothing is there", rule="network.fetch")

    def prepare(self, tenant: str = "default") -> NetworkWorld:
        """Make a root, an issuing CA, the shipped profiles and a RADIUS client."""
        for name in ("wifi-client", "device", "user", "tls-server", "tls-client"):
            document = tomllib.loads((_SHIPPED / f"{name}.toml").read_text())
            drive(self.objects.put(ADMIN, tenant, "profile", name, document))
        self.create("root", tenant=tenant)
        self.create("issuing", tenant=tenant, parent="root")
        prefix = "192.0.2.0/24" if tenant == "default" else "198.51.100.0/24"
        self.client("ap-1", tenant=tenant, prefixes=[prefix], tags=["campus"], vendor="cisco")
        return self

    def client(self, name: str, *, tenant: str = "default", **document: Any) -> None:
        drive(self.objects.put(ADMIN, tenant, "radius-client", name, document))

    def policy(
        self, *rules: Mapping[str, Any], name: str = "staff", tenant: str = "default", **more: Any
    ) -> None:
        """Put a policy; by default one rule that accepts everybody."""
        listed = [dict(rule) for rule in rules] or [{"name": "all"}]
        drive(self.objects.put(ADMIN, tenant, "radius-policy", name, {"rules": listed, **more}))

    def anchor(self, name: str, *, tenant: str = "default", **document: Any) -> None:
        drive(self.objects.put(ADMIN, tenant, "trust-anchor", name, document))

    def issue(
        self,
        name: str = "laptop-7",
        *,
        tenant: str = "default",
        authority: str = "issuing",
        profile: str = "wifi-client",
        names: tuple[x509.GeneralName, ...] | None = None,
        dn: str = "",
        owner: str = "",
        key: Any = None,
    ) -> x509.Certificate:
        """Issue a client certificate, as an operator does."""
        if names is None:
            names = (x509.DNSName(f"{name}.example.test"),)
        public_key = (key or algorithms.generate(KeyAlgorithm.P256)).public_key()
        issued = drive(
            self.authority.issue(
                ADMIN,
                tenant,
                authority=authority,
                profile=profile,
                subject=subject(dn or f"CN={name}"),
                names=names,
                public_key=public_key,
                proof=Proof.CSR_SIGNATURE,
            )
        )
        if owner:
            self.own(issued.certificate, owner)
        found: x509.Certificate = issued.certificate
        return found

    def own(self, certificate: x509.Certificate, owner: str) -> None:
        """Say whose certificate it is."""
        self.change(tables.certificates, certificate, owner=owner)

    def change(self, table: sa.Table, certificate: x509.Certificate, **values: Any) -> None:
        """Write into a certificate's row."""
        serial = serial_octets(certificate.serial_number)
        drive(
            self.database.write(
                lambda connection: connection.execute(
                    table.update().where(table.c.serial == serial).values(**values)
                )
            )
        )

    def person(self, name: str, *, tenant: str = "default", **values: Any) -> None:
        row = PersonRow(
            tenant=tenant, name=name, created_at=self.clock(), updated_at=self.clock(), **values
        )
        drive(self.database.write(people.insert, row))

    def change_person(self, name: str, *, tenant: str = "default", **values: Any) -> None:
        def change(connection: sa.Connection) -> None:
            row = people.by_name(connection, tenant, name)
            assert row is not None
            people.update(connection, replace(row, **values))

        drive(self.database.write(change))

    def device(self, name: str, *, tenant: str = "default", **values: Any) -> None:
        row = DeviceRow(
            tenant=tenant, name=name, created_at=self.clock(), updated_at=self.clock(), **values
        )
        drive(self.database.write(devices.insert, row))

    def change_device(self, name: str, *, tenant: str = "default", **values: Any) -> None:
        def change(connection: sa.Connection) -> None:
            row = devices.by_name(connection, tenant, name)
            assert row is not None
            devices.update(connection, replace(row, **values))

        drive(self.database.write(change))

    def revoke(self, certificate: x509.Certificate, reason: int = 0) -> None:
        drive(
            self.revocation.revoke(
                ADMIN, "default", self._issuer_of(certificate), certificate.serial_number, reason
            )
        )

    def hold(self, certificate: x509.Certificate) -> None:
        drive(
            self.revocation.hold(
                ADMIN, "default", self._issuer_of(certificate), certificate.serial_number
            )
        )

    def release(self, certificate: x509.Certificate) -> None:
        drive(
            self.revocation.release(
                ADMIN, "default", self._issuer_of(certificate), certificate.serial_number
            )
        )

    def _issuer_of(self, certificate: x509.Certificate) -> int:
        found = drive(self.hierarchy.by_subject(certificate.issuer.public_bytes()))
        for issuer in found:
            row = drive(
                self.database.lookup(certificates.by_serial, issuer.id, certificate.serial_number)
            )
            if row is not None:
                return issuer.id
        raise AssertionError("nobody here issued it")

    def login(self, *chain: x509.Certificate, visit: Visit | None = None, **tls: Any) -> Admitted:
        """Log in with a certificate."""
        login = TLSLogin(
            method=tls.pop("method", "eap-tls"),
            version="TLSv1.3",
            cipher="TLS_AES_256_GCM_SHA384",
            resumed=tls.pop("resumed", False),
            outer_identity=tls.pop("outer_identity", "anonymous@elsewhere.test"),
        )
        assert not tls
        return drive(self.admission.certificate(visit or a_visit(), chain, login))

    def refused(self, *chain: x509.Certificate, **login: Any) -> Fault:
        """Log in with a certificate that must be refused; return the refusal."""
        try:
            admitted = self.login(*chain, **login)
        except Fault as fault:
            return fault
        raise AssertionError(f"it was let in: {admitted}")

    def record(self, explain_id: str) -> dict[str, Any]:
        """Return what `tmad explain` shows of a refusal."""
        [record] = drive(self.journal.explain(explain_id))
        found: dict[str, Any] = json.loads(record.data)
        return {"kind": record.kind, "actor": record.actor, "object": record.object, **found}

    def last(self, kind: str) -> dict[str, Any]:
        """Return the data of the newest journal record of a kind."""
        records = [record for record in drive(self.journal.tail(None)) if record.kind == kind]
        found: dict[str, Any] = json.loads(records[-1].data)
        return found

    def later(self, **units: float) -> None:
        self.clock.time += timedelta(**units)


def a_visit(**values: Any) -> Visit:
    """Return a visit of a laptop to an access point, with some of it changed."""
    said: dict[str, Any] = {
        "tenant": "default",
        "client": "ap-1",
        "tags": ("campus",),
        "address": "192.0.2.9",
        "nas_identifier": "ap-1.example.test",
        "nas_port": "1",
        "nas_port_type": 19,
        "ssid": "staff",
        "called_station": "0a0000000001",
        "calling_station": MAC,
        "service_type": 2,
        "user_name": "mallory@outside.test",
    }
    return Visit(**(said | values))
