"""The administrator's desk, beside a running daemon: what ``tmad`` does, without its start time.

Every call opens no process: it is the same core on the same database, with a connection of its
own, as a second node would have it. The daemon has to notice by itself what was changed here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tests.daemon import Daemon
from tests.support import Clock, drive
from tmad import service
from tmad.audit import Audit
from tmad.ca.requests import Proof
from tmad.config import NodeSettings
from tmad.errors import Fault
from tmad.events import utc_now
from tmad.identity.actors import Actor
from tmad.identity.binding import Binding
from tmad.service import Core, open_core
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage.journal import Record

ROOT = Actor.administrator("local:desk")


class Desk:
    """What an administrator does, in milliseconds."""

    def __init__(self, daemon: Daemon, clock: Clock | None = None) -> None:
        settings = NodeSettings.load(daemon.config)
        self._file = settings.node.data / "tmad.db"
        with mock.patch.object(service, "utc_now", clock or utc_now):
            self.core: Core = drive(open_core(settings, None))

    def close(self) -> None:
        """Let go of the database."""
        drive(self.core.close())

    # -- set up ---------------------------------------------------------------------------------

    def put(self, kind: str, name: str, document: dict[str, Any], tenant: str = "default") -> None:
        """Create or replace a managed object."""
        drive(self.core.objects.put(ROOT, tenant, kind, name, document))

    def copy_profile(self, name: str, new: str, tenant: str = "default", **changes: Any) -> None:
        """Store a profile of the default tenant under another name or in another tenant."""
        found = drive(self.core.objects.get(ROOT, "default", "profile", name))
        document = found.document.model_dump(mode="json", exclude_defaults=True) | changes
        self.put("profile", new, document, tenant)

    def tenant(self, name: str) -> None:
        """Make a tenant that has what the default one has, under the same names."""
        self.put("tenant", name, {}, "*")
        for profile in ("root-ca", "sub-ca", "ocsp-responder", "scep-ra", "device"):
            self.copy_profile(profile, profile, name)
        self.authority("root", name, lifetime=timedelta(days=3650))
        self.authority("issuing", name, parent="root", lifetime=timedelta(days=1825))

    def authority(
        self,
        name: str,
        tenant: str = "default",
        *,
        parent: str | None = None,
        lifetime: timedelta = timedelta(days=3650),
    ) -> None:
        """Make an authority, a root unless it has a parent."""
        subject = x509.Name.from_rfc4514_string(f"CN={name} of {tenant}")
        drive(
            self.core.ceremony.create(
                ROOT,
                tenant,
                name,
                subject=subject,
                algorithm=KeyAlgorithm.P256,
                parent=parent,
                lifetime=lifetime,
            )
        )

    def endpoint(self, label: str, *, tenant: str = "default", **document: Any) -> None:
        """Open a SCEP door that lets a test present as many wrong challenges as it likes."""
        defaults: dict[str, Any] = {
            "protocol": "scep",
            "label": label,
            "authority": "issuing",
            "profile": "device",
            "challenge": {"failures_per_minute": 6000, "static": True},
        }
        self.put("endpoint", f"scep-{label}", defaults | document, tenant)

    def secret(
        self,
        label: str,
        *,
        tenant: str = "default",
        lifetime: timedelta | None = None,
        static: bool = False,
        revoked: bool = False,
        **binding: Any,
    ) -> str:
        """Return a new challenge of an endpoint."""
        row, secret = drive(
            self.core.secrets.create(
                ROOT,
                tenant,
                f"scep/{label}",
                uses=None if static else 1,
                lifetime=lifetime,
                bound_to=Binding(**binding),
            )
        )
        if revoked:
            drive(self.core.secrets.revoke(ROOT, tenant, row.id))
        return secret.reveal().decode()

    def issue(
        self, key: CertificatePublicKeyTypes, name: x509.Name, *, authority: str, days: int
    ) -> x509.Certificate:
        """Issue by hand, at the desk's time."""
        issued = drive(
            self.core.services.authority.issue(
                ROOT,
                "default",
                authority=authority,
                profile="device",
                subject=name,
                names=(),
                public_key=key,
                proof=Proof.CSR_SIGNATURE,
                validity=timedelta(days=days),
            )
        )
        return issued.certificate

    def revoke(self, certificate: x509.Certificate, reason: int, tenant: str = "default") -> None:
        """Revoke a certificate; reason 6 holds it."""
        issuers = drive(self.core.services.hierarchy.by_subject(certificate.issuer.public_bytes()))
        drive(
            self.core.services.revocation.revoke(
                ROOT, tenant, issuers[0].id, certificate.serial_number, reason
            )
        )

    def deny(self, transaction: str, comment: str, tenant: str = "default") -> None:
        """Refuse the request that waits under a transaction id."""
        waiting = drive(self.core.requests.list(ROOT, tenant))
        (row,) = [row for row in waiting if row.transaction == transaction]
        drive(self.core.requests.deny(ROOT, tenant, row.id, comment=comment))

    # -- look -----------------------------------------------------------------------------------

    def refusals(self, text: str, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return what was journaled as refused and mentions ``text``, oldest first."""
        found = []
        for record in drive(self.core.services.journal.tail(tenant, limit=10_000)):
            if record.kind == "request.refused" and text in f"{record.object} {record.data}":
                found.append({"id": record.trace, "tenant": record.tenant, **_data(record)})
        return found

    def explain(self, explain_id: str, tenant: str = "default") -> list[dict[str, Any]]:
        """Return what ``tmad explain ID`` shows."""
        audit = Audit(self.core.services.journal, self.core.services.keyring)
        try:
            records = drive(audit.explain(ROOT, tenant, explain_id))
        except Fault:
            return []
        return [_data(record) for record in records]

    def issued(self, endpoint: str = "scep/%") -> int:
        """Count the certificates, intents too, that came through enrolment doors.

        Read beside the product, as its own counting could be what is wrong.
        """
        return self._number("SELECT count(*) FROM certificates WHERE endpoint LIKE ?", endpoint)

    def unfinished(self) -> int:
        """Count requests and intents that are under way, and secrets that they hold."""
        return (
            self._number("SELECT count(*) FROM requests WHERE state = 'issuing'")
            + self._number("SELECT count(*) FROM certificates WHERE state = 'intent'")
            + self._number(
                "SELECT count(*) FROM enroll_secrets WHERE claimed_by IS NOT NULL"
                " AND used_at IS NULL AND claimed_by NOT IN"
                " (SELECT id FROM requests WHERE state = 'pending')"
            )
        )

    def _number(self, query: str, *values: str) -> int:
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            (number,) = connection.execute(query, values).fetchone()
        return int(number)


def _data(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.data)
    return found


@contextmanager
def desk_of(daemon: Daemon, clock: Clock | None = None) -> Iterator[Desk]:
    """Open a desk, and close it afterwards; ``clock`` puts everything done there at its time."""
    desk = Desk(daemon, clock)
    try:
        yield desk
    finally:
        desk.close()
