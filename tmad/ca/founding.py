"""The making of an authority's key: kept, certified, and settled after a crash.

A key and its issuer row (state "creating") are committed before anything is signed. What a
crash leaves behind is completed when the certificate exists, and removed when it does not;
``recover`` does so at start, and the next ceremony of the same authority does so first.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import sqlalchemy as sa
from cryptography import x509

from tmad.ca import generation
from tmad.ca.authority import KIND, AuthorityDocument, load_key, slug_of
from tmad.ca.charter import ROOT_PROFILE, SUB_PROFILE, Charter
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.pipeline import Authority
from tmad.ca.requests import Proof
from tmad.ca.scheme import check_policy
from tmad.ca.trust import check_path, spki_sha256
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.objects import Objects
from tmad.signer.algorithms import KeyAlgorithm, of
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.storage import certificates, issuers, leases
from tmad.storage import objects as object_rows
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState
from tmad.storage.leases import Lease
from tmad.storage.private_keys import KeyRow

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Signed:
    """A new CA certificate with its chain to the root, and who signed it (None: itself)."""

    path: tuple[x509.Certificate, ...]
    parent_id: int | None

    @classmethod
    def by(cls, above: Issuer | None, certificate: x509.Certificate) -> Signed:
        """Return what ``above`` signed."""
        if above is None:
            return cls((certificate,), None)
        return cls((certificate, *above.chain), above.id)


class Founding:
    """Makes new generations of authorities whose certificates are signed here."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        objects: Objects,
        keyring: Keyring,
        hierarchy: Hierarchy,
        authority: Authority,
        now: Clock,
        *,
        holder: str,
    ) -> None:
        """``holder`` names this process in leases."""
        self._journal = journal
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._hierarchy = hierarchy
        self._authority = authority
        self._now = now
        self._holder = holder

    async def begin(
        self,
        actor: Actor,
        lease: Lease,
        row: IssuerRow,
        charter: Charter,
        above: Issuer | None,
        *,
        algorithm: KeyAlgorithm,
        store: str | None,
        rules: AuthorityDocument | None,
        target: IssuerState,
        dry_run: bool,
    ) -> Issuer:
        """Make the key, commit it with its row, and have it certified."""
        handle = await self._keyring.generate(
            algorithm,
            tenant=row.tenant,
            label=slug_of(row.tenant, row.authority, row.generation),
            store=store,
            save=False,
        )
        row = replace(row, key_id=handle.id)
        try:
            row, issuer = await self._database.write(
                self._prepare, actor, lease, handle, row, rules, dry_run=dry_run
            )
        except BaseException:
            await self._keyring.discard(handle)
            raise
        if dry_run:
            await self._keyring.discard(handle)
            if above is not None:
                await self.sign(actor, issuer, charter, above, dry_run=True)
            return issuer
        if row.state is IssuerState.PENDING:
            return await self._hierarchy.by_id(row.id)
        try:
            signed = await self.sign(actor, issuer, charter, above)
            await self._database.write(self._complete, actor.name, lease, row.id, signed, target)
        except Exception:
            # What cannot be settled now, recover() settles later.
            with suppress(Fault):
                await self._settle(row.id)
            raise
        return await self._hierarchy.by_id(row.id)

    async def sign(
        self,
        actor: Actor,
        issuer: Issuer,
        charter: Charter,
        above: Issuer | None,
        *,
        dry_run: bool = False,
    ) -> Signed:
        """Have the pipeline issue a CA certificate for this issuer's key."""
        signer = above or issuer
        issued = await self._authority.issue(
            generation.on_behalf(actor),
            signer.tenant,
            authority=signer.authority,
            # A root signs itself, active or not; a parent signs with whatever key is active.
            issuer_id=issuer.id if above is None else None,
            profile=ROOT_PROFILE if above is None else SUB_PROFILE,
            subject=charter.subject,
            names=(),
            public_key=issuer.public_key,
            constraints=charter.constraints,
            proof=Proof.GENERATED_HERE,
            validity=charter.lifetime,
            dry_run=dry_run,
        )
        if above is not None:
            above = await self._hierarchy.by_id(issued.issuer_id)
        signed = Signed.by(above, issued.certificate)
        if not dry_run:
            check_path(signed.path, self._now())
        return signed

    async def recover(self) -> int:
        """Complete or remove what a crash left half made; return how many there were."""
        settled = after = 0
        while page := await self._database.read(_creating, after):
            after = page[-1].id
            for row in page:
                try:
                    async with generation.alone(
                        self._database,
                        self._now,
                        generation.lease_name(row.tenant, row.authority),
                        self._holder,
                    ):
                        settled += await self._settle(row.id)
                except Fault as fault:
                    # Another process is making it: nothing was left behind.
                    if fault.rule != "lease.held":
                        raise
        return settled

    async def settle(self, tenant: str, name: str) -> None:
        """Complete or remove what a crash left half made of one authority."""
        for row in await self._database.read(issuers.find_of_authority, tenant, name):
            if row.state is IssuerState.CREATING:
                await self._settle(row.id)

    async def _settle(self, issuer_id: int) -> int:
        """Complete a generation whose certificate exists, remove any other."""
        issuer = await self._hierarchy.by_id(issuer_id)
        if issuer.state is not IssuerState.CREATING:
            return 0
        above_id = issuer.parent_issuer_id
        above = None if above_id is None else await self._hierarchy.by_id(above_id)
        certificate = await self._database.read(
            _certificate_of, (above or issuer).id, spki_sha256(issuer.public_key)
        )
        if certificate is None:
            await self.remove("system", issuer.id, issuer.key_id)
        else:
            target = IssuerState.ACTIVE if issuer.generation == 1 else IssuerState.NEXT
            await self._database.write(
                self._complete,
                "system",
                None,
                issuer.id,
                Signed.by(above, certificate),
                target,
            )
        return 1

    async def remove(self, actor: str, issuer_id: int, key_id: str) -> None:
        """Remove a generation that has no certificate, and its key."""
        # The key first: done twice, this does no harm; left out, it would stay in the HSM.
        await generation.destroy_key(self._keyring, key_id)
        await self._database.write(self._forget, actor, issuer_id)

    def _prepare(
        self,
        connection: sa.Connection,
        actor: Actor,
        lease: Lease,
        handle: KeyHandle,
        row: IssuerRow,
        rules: AuthorityDocument | None,
    ) -> tuple[IssuerRow, Issuer]:
        leases.assert_held(connection, lease, self._now())
        if row.generation == 1 and issuers.find_of_authority(connection, row.tenant, row.authority):
            raise Fault(
                FaultCode.CONFLICT,
                f"authority {row.authority} exists",
                rule="authority.exists",
            )
        present = object_rows.by_name(connection, row.tenant, KIND, row.authority)
        if rules is not None or present is None:
            stored = self._objects.put_in(
                connection, actor, row.tenant, KIND, row.authority, rules or AuthorityDocument()
            )
            document, revision = stored.document, stored.revision
        else:
            document = AuthorityDocument.model_validate_json(present.document)
            revision = present.revision
        key: KeyRow = generation.key_row(handle)
        public_key = load_key(key.public_key_der)
        check_policy(public_key, document.signature)
        row = generation.insert(connection, key, row)
        self._journal.append(
            connection,
            generation.event(
                "prepared",
                actor.name,
                row,
                state=row.state.value,
                store=handle.store,
                algorithm=of(public_key).value,
                spki_sha256=key.spki_sha256.hex(),
            ),
        )
        return row, Issuer.load(connection, row, document, revision)

    def _complete(
        self,
        connection: sa.Connection,
        actor: str,
        lease: Lease | None,
        issuer_id: int,
        signed: Signed,
        state: IssuerState,
    ) -> None:
        if lease is not None:
            leases.assert_held(connection, lease, self._now())
        issuers.in_turn(connection)
        row = issuers.by_id(connection, issuer_id)
        if row is None or row.state is not IssuerState.CREATING:
            raise Fault(FaultCode.CONFLICT, "the authority was finished or removed meanwhile")
        row = generation.sign(connection, row, signed.path, state, signed.parent_id)
        generation.check_subject_free(connection, row)
        kind = "created" if state is IssuerState.ACTIVE else "staged"
        self._journal.append(
            connection,
            generation.event(kind, actor, row, **generation.certificate_data(signed.path[0])),
        )

    def _forget(self, connection: sa.Connection, actor: str, issuer_id: int) -> None:
        issuers.in_turn(connection)
        row = issuers.by_id(connection, issuer_id)
        if row is not None:
            generation.remove(connection, self._journal, actor, row)


def _creating(connection: sa.Connection, after: int) -> list[IssuerRow]:
    return issuers.find_in_state(connection, IssuerState.CREATING, after=after, limit=_PAGE)


def find_certificates(
    connection: sa.Connection, spki_sha256: bytes, after: int
) -> list[certificates.CertificateRow]:
    """Return a page of all that were issued for a key."""
    return certificates.find_by_key(connection, spki_sha256, after, _PAGE)


def _certificate_of(
    connection: sa.Connection, issuer_id: int, spki_sha256: bytes
) -> x509.Certificate | None:
    """Return the certificate that this issuer signed for this key."""
    after = 0
    while page := find_certificates(connection, spki_sha256, after):
        after = page[-1].id
        for row in page:
            if row.issuer_id == issuer_id and row.certificate_der and row.revoked_at is None:
                return x509.load_der_x509_certificate(row.certificate_der)
    return None
