"""Key ceremonies: authorities that are made, renewed, given new keys, withdrawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from tmad import documents
from tmad.ca import generation
from tmad.ca.authority import AuthorityDocument
from tmad.ca.charter import Charter
from tmad.ca.founding import Founding, Signed, find_certificates
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.pipeline import Authority
from tmad.ca.revocation import Revocation
from tmad.ca.status import Reason
from tmad.ca.trust import spki_sha256
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.objects import Objects
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import Keyring
from tmad.storage import changes, issuers, leases
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState
from tmad.storage.leases import Lease


class Ceremony:
    """Changes to authorities whose certificates are signed here."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        objects: Objects,
        keyring: Keyring,
        hierarchy: Hierarchy,
        authority: Authority,
        revocation: Revocation,
        now: Clock,
        *,
        holder: str,
    ) -> None:
        """``holder`` names this process in leases."""
        self.journal = journal
        self._database = database
        self._keyring = keyring
        self._hierarchy = hierarchy
        self._revocation = revocation
        self._now = now
        self._holder = holder
        self._founding = Founding(
            database, journal, objects, keyring, hierarchy, authority, now, holder=holder
        )

    @guarded("authority.create")
    async def create(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        subject: x509.Name,
        algorithm: KeyAlgorithm,
        store: str | None = None,
        parent: str | None = None,
        external: bool = False,
        lifetime: timedelta | None = None,
        path_length: int | None = None,
        name_constraints: x509.NameConstraints | None = None,
        document: AuthorityDocument | Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Issuer:
        """Make an authority with a new key.

        ``parent`` is "NAME" or "TENANT/NAME"; without one it is a root or, if ``external``,
        waits in state "pending" for a certificate from outside. Without a document, the one
        that exists, or the default, applies. Faults: CONFLICT when the name or the subject is
        taken, NOT_FOUND for a parent that does not exist or does not serve this tenant,
        REJECTED for what the parent or the rules do not allow.
        """
        if external and parent is not None:
            raise Fault(FaultCode.REJECTED, "either a parent here or one outside, not both")
        if not list(subject):
            # RFC 5280, 4.1.2.6: a CA's subject is its certificates' issuer.
            raise Fault(FaultCode.REJECTED, "a CA needs a subject", rule="authority.subject-empty")
        rules = None if document is None else documents.parse(AuthorityDocument, document)
        above = None if parent is None else await self._parent(tenant, parent)
        charter = self._fit(
            Charter(
                subject=subject,
                lifetime=lifetime,
                path_length=path_length,
                name_constraints=name_constraints,
            ),
            above,
        )
        async with generation.alone(
            self._database, self._now, generation.lease_name(tenant, name), self._holder
        ) as lease:
            await self._founding.settle(tenant, name)
            return await self._founding.begin(
                actor,
                lease,
                self._new_row(tenant, name, 1, subject.public_bytes(), above, external=external),
                charter,
                above,
                algorithm=algorithm,
                store=store,
                rules=rules,
                target=IssuerState.ACTIVE,
                dry_run=dry_run,
            )

    @guarded("authority.rekey")
    async def rekey(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        algorithm: KeyAlgorithm | None = None,
        store: str | None = None,
        lifetime: timedelta | None = None,
        dry_run: bool = False,
    ) -> Issuer:
        """Stage a new key and certificate under the same name; ``activate`` switches to it.

        Algorithm and store are those of the present key unless given. For an authority that
        is certified outside, the new generation is pending until its certificate is installed.
        """
        old = await self._hierarchy.active(tenant, name)
        assert old.certificate is not None
        for issuer in await self._hierarchy.generations(tenant, name):
            if issuer.state in (IssuerState.NEXT, IssuerState.PENDING):
                raise Fault(
                    FaultCode.CONFLICT,
                    f"generation {issuer.generation} is {issuer.state} already",
                    rule="authority.next-exists",
                )
        above, external = await self._signer_of(old)
        charter = self._fit(Charter.of(old.certificate, lifetime), above)
        present = await self._keyring.handle(old.key_id)
        async with generation.alone(
            self._database, self._now, generation.lease_name(tenant, name), self._holder
        ) as lease:
            await self._founding.settle(tenant, name)
            number = (await self._hierarchy.generations(tenant, name))[-1].generation + 1
            return await self._founding.begin(
                actor,
                lease,
                self._new_row(tenant, name, number, old.subject_der, above, external=external),
                charter,
                above,
                algorithm=algorithm or present.algorithm,
                store=store or present.store,
                rules=None,
                target=IssuerState.NEXT,
                dry_run=dry_run,
            )

    @guarded("authority.rekey")
    async def activate(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> Issuer:
        """Let the staged generation issue from now on; the one before signs its CRLs only."""
        staged = await self._hierarchy.next(tenant, name)
        if staged is None:
            raise Fault(
                FaultCode.NOT_FOUND, f"authority {name} has no next key", rule="authority.no-next"
            )
        await self._database.write(self._activate, actor, staged, dry_run=dry_run)
        return staged if dry_run else await self._hierarchy.by_id(staged.id)

    @guarded("authority.renew")
    async def renew(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        number: int | None = None,
        lifetime: timedelta | None = None,
        dry_run: bool = False,
    ) -> Issuer:
        """Get a new certificate for the same key: the active one's, or generation ``number``'s.

        Raise UNSUPPORTED for an authority that is certified outside: make a CSR and install.
        """
        issuer = await self._generation(tenant, name, number)
        if issuer.certificate is None or issuer.state not in generation.LIVING:
            raise Fault(
                FaultCode.CONFLICT,
                f"generation {issuer.generation} is {issuer.state}",
                rule="authority.state",
            )
        above, external = await self._signer_of(issuer)
        if external:
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"{name} is certified outside: send its CSR there and install the certificate",
                rule="authority.external",
            )
        charter = self._fit(Charter.of(issuer.certificate, lifetime), above)
        async with generation.alone(
            self._database, self._now, generation.lease_name(tenant, name), self._holder
        ) as lease:
            signed = await self._founding.sign(actor, issuer, charter, above, dry_run=dry_run)
            if dry_run:
                return issuer
            await self._database.write(self._replace, actor, lease, issuer.id, signed)
        return await self._hierarchy.by_id(issuer.id)

    @guarded("authority.withdraw")
    async def withdraw(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        reason: Reason,
        revoke: bool = False,
        dry_run: bool = False,
    ) -> tuple[Issuer, ...]:
        """Let an authority issue no more; its CRLs and OCSP answers go on.

        Returns the generations that are left: one that never got a certificate is removed
        with its key. ``revoke`` also revokes the certificates at the parents that live here.
        """
        left = []
        for issuer in await self._hierarchy.generations(tenant, name):
            if issuer.certificate is None:
                if not dry_run:
                    await self._founding.remove(actor.name, issuer.id, issuer.key_id)
                continue
            await self._database.write(
                self._withdraw, actor, issuer.id, reason, None, dry_run=dry_run
            )
            if revoke:
                await self._revoke_above(actor, issuer, reason, dry_run=dry_run)
            left.append(await self._hierarchy.by_id(issuer.id))
        return tuple(left)

    @guarded("authority.withdraw")
    async def compromise(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        number: int | None = None,
        since: datetime | None = None,
        dry_run: bool = False,
    ) -> Issuer:
        """Record that the key of generation ``number``, or the newest, is in wrong hands.

        It issues no more, everything it ever signed is answered as revoked (RFC 6960, 2.7),
        and its certificates are revoked at the parents that live here.
        """
        if number is None:
            # A key can be lost long after its authority stopped to issue.
            number = (await self._hierarchy.generations(tenant, name))[-1].generation
        issuer = await self._generation(tenant, name, number)
        at = since or self._now()
        if at > self._now():
            raise Fault(FaultCode.BAD_TIME, "the compromise lies in the future")
        await self._database.write(
            self._withdraw, actor, issuer.id, Reason.CA_COMPROMISE, at, dry_run=dry_run
        )
        await self._revoke_above(actor, issuer, Reason.CA_COMPROMISE, dry_run=dry_run)
        return issuer if dry_run else await self._hierarchy.by_id(issuer.id)

    async def recover(self) -> int:
        """Complete or remove what a crash left half made; return how many there were."""
        return await self._founding.recover()

    # -- steps --------------------------------------------------------------------------------

    def _new_row(
        self,
        tenant: str,
        name: str,
        number: int,
        subject_der: bytes,
        above: Issuer | None,
        *,
        external: bool,
    ) -> IssuerRow:
        """Return a generation that has neither key nor certificate yet."""
        return IssuerRow(
            tenant=tenant,
            authority=name,
            generation=number,
            state=IssuerState.PENDING if external else IssuerState.CREATING,
            key_id="",
            subject_der=subject_der,
            certificate_der=None,
            chain_der=b"",
            parent_issuer_id=None if above is None else above.id,
            not_before=None,
            not_after=None,
            created_at=self._now(),
        )

    async def _parent(self, tenant: str, parent: str) -> Issuer:
        """Return the issuer that is to sign; it must be able and willing to."""
        owner, separator, name = parent.rpartition("/")
        owner = owner if separator else tenant
        unknown = Fault(
            FaultCode.NOT_FOUND, f"there is no authority {parent!r}", rule="authority.parent"
        )
        try:
            found = await self._hierarchy.generations(owner, name)
        except Fault:
            raise unknown from None
        if owner != tenant and tenant not in found[0].document.serves_tenants:
            # As if it did not exist: tenants do not see each other.
            raise unknown
        return await self._hierarchy.active(owner, name)

    async def _signer_of(self, issuer: Issuer) -> tuple[Issuer | None, bool]:
        """Return who renews this issuer: an issuer here, itself (None), or someone outside."""
        if issuer.is_self_signed:
            return None, False
        if issuer.parent_issuer_id is None:
            return None, True
        above = await self._hierarchy.by_id(issuer.parent_issuer_id)
        if not above.signs:
            return None, True
        return await self._parent(issuer.tenant, f"{above.tenant}/{above.authority}"), False

    async def _generation(self, tenant: str, name: str, number: int | None) -> Issuer:
        if number is None:
            return await self._hierarchy.active(tenant, name)
        for issuer in await self._hierarchy.generations(tenant, name):
            if issuer.generation == number:
                return issuer
        raise Fault(FaultCode.NOT_FOUND, f"authority {name} has no generation {number}")

    def _fit(self, charter: Charter, above: Issuer | None) -> Charter:
        return charter.for_root() if above is None else charter.below(above, self._now())

    # -- transactions -------------------------------------------------------------------------

    def _replace(
        self,
        connection: sa.Connection,
        actor: Actor,
        lease: Lease,
        issuer_id: int,
        signed: Signed,
    ) -> None:
        leases.assert_held(connection, lease, self._now())
        issuers.in_turn(connection)
        row = issuers.by_id(connection, issuer_id)
        if row is None or row.state not in generation.LIVING:
            raise Fault(FaultCode.CONFLICT, "the authority was withdrawn meanwhile")
        row = generation.sign(connection, row, signed.path, row.state, signed.parent_id)
        self.journal.append(
            connection,
            generation.event(
                "renewed", actor.name, row, **generation.certificate_data(signed.path[0])
            ),
        )

    def _activate(self, connection: sa.Connection, actor: Actor, staged: Issuer) -> None:
        issuers.in_turn(connection)
        rows = issuers.find_of_authority(connection, staged.tenant, staged.authority)
        wanted = next((row for row in rows if row.id == staged.id), None)
        if wanted is None or wanted.state is not IssuerState.NEXT:
            raise Fault(FaultCode.CONFLICT, "the next key was activated or removed meanwhile")
        generation.activate(connection, rows, wanted)
        self.journal.append(connection, generation.event("activated", actor.name, wanted))

    def _withdraw(
        self,
        connection: sa.Connection,
        actor: Actor,
        issuer_id: int,
        reason: Reason,
        compromised_at: datetime | None,
    ) -> None:
        issuers.in_turn(connection)
        row = issuers.by_id(connection, issuer_id)
        if row is None:
            raise Fault(FaultCode.NOT_FOUND, "the authority was removed meanwhile")
        changed = replace(row, state=IssuerState.WITHDRAWN)
        if compromised_at is not None:
            # The earlier time stays: more becomes untrusted, never less.
            known = row.compromised_at or compromised_at
            changed = replace(changed, compromised_at=min(known, compromised_at))
            changes.record(connection, "status", f"{row.id}:*")
        if changed == row:
            return
        issuers.update(connection, changed)
        at = changed.compromised_at
        self.journal.append(
            connection,
            generation.event(
                "withdrawn" if compromised_at is None else "compromised",
                actor.name,
                row,
                reason=reason.name.lower(),
                since=None if at is None else at.isoformat(),
            ),
        )

    async def _revoke_above(
        self, actor: Actor, issuer: Issuer, reason: Reason, *, dry_run: bool
    ) -> None:
        """Revoke every certificate of this key at the authorities here that signed one."""
        after = 0
        key = spki_sha256(issuer.public_key)
        while page := await self._database.read(find_certificates, key, after):
            for row in page:
                after = row.id
                # A root's own certificate is not revoked by itself (RFC 5280, 6.1).
                if row.issuer_id == issuer.id or row.revoked_at is not None:
                    continue
                await self._revocation.revoke_by_id(
                    generation.on_behalf(actor), row.tenant, row.id, reason, dry_run=dry_run
                )
