"""What comes from, or goes to, certification authorities outside.

An authority here whose certificate is signed elsewhere (CSR out, certificate in), a whole CA
that moves in with its key, somebody else's CA that is only known (a trust anchor), and another
CA's key that is certified here (RFC 5280, 3.2: a cross-certificate). Requests are PKCS#10
(RFC 2986).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from tmad import documents
from tmad.ca import generation
from tmad.ca.authority import KIND, AuthorityDocument, slug_of
from tmad.ca.charter import SUB_PROFILE, Charter
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.pipeline import Authority
from tmad.ca.requests import Issued, Proof
from tmad.ca.scheme import check_policy, scheme_for
from tmad.ca.trust import (
    Trust,
    chain_from_der,
    check_path,
    is_signed_by,
    name_from_der,
    names_der,
    order_path,
    spki_der,
    subject_key_identifier,
)
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.objects import Objects
from tmad.signer.algorithms import PrivateKey, of
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.storage import issuers, private_keys
from tmad.storage import objects as object_rows
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState
from tmad.wire.parsing import UNREADABLE


class Adoption:
    """Changes to authorities in which a CA outside takes part."""

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
        self.journal = journal
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._hierarchy = hierarchy
        self._authority = authority
        self._now = now
        self._holder = holder

    @guarded("authority.install")
    async def csr(
        self, actor: Actor, tenant: str, name: str, *, number: int | None = None
    ) -> x509.CertificateSigningRequest:
        """Return a signed request for a certificate from outside.

        It is for the generation that waits for one, else for the active one's renewal, or for
        generation ``number``.
        """
        issuer = await self._waiting(tenant, name, number)
        subject = (
            name_from_der(issuer.subject_der, issuer.public_key)
            if issuer.certificate is None
            else issuer.certificate.subject
        )
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(issuer.public_key), critical=False
            )
        )
        scheme = scheme_for(issuer.public_key, issuer.document.signature)
        request = await self._keyring.use(
            issuer.key_id,
            lambda key: builder.sign(key, scheme.hash, rsa_padding=scheme.padding),
        )
        await self.journal.write(
            Event(
                kind="issuer.requested",
                tenant=tenant,
                actor=actor.name,
                object=f"issuer/{issuer.id}",
                data={"authority": name, "generation": issuer.generation},
            )
        )
        return request

    @guarded("authority.install")
    async def install(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        certificates: Sequence[x509.Certificate],
        *,
        dry_run: bool = False,
    ) -> Issuer:
        """Take the certificate that a CA outside made for one of this authority's keys.

        ``certificates`` holds it and its chain up to a root, in any order; what this
        installation knows already may be missing. A pending generation becomes active, or
        next while another one is active; for a living one it is a renewal. Raise
        Fault(REJECTED) for a certificate that does not fit, with the rule that says why.
        """
        issuer, certificate = await self._match(tenant, name, certificates)
        _check_identifier(certificate)
        path, above = await self._path(tenant, certificate, certificates)
        async with generation.alone(
            self._database, self._now, generation.lease_name(tenant, name), self._holder
        ):
            await self._database.write(
                self._install, actor, issuer.id, path, above, dry_run=dry_run
            )
        return issuer if dry_run else await self._hierarchy.by_id(issuer.id)

    @guarded("authority.import")
    async def import_(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        certificates: Sequence[x509.Certificate],
        private_key: PrivateKey | None = None,
        document: AuthorityDocument | Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Issuer:
        """Take in an existing CA: with its key it goes on issuing here, without it is known.

        The key goes into the software store. With a key, the certificate is the one that has
        it; without, the first one.
        """
        if not certificates:
            raise Fault(FaultCode.REJECTED, "there is no certificate to import")
        rules = None if document is None else documents.parse(AuthorityDocument, document)
        certificate = certificates[0]
        handle: KeyHandle | None = None
        if private_key is not None:
            of(private_key.public_key())  # a kind of key that can be held here
            certificate = _with_key(certificates, spki_der(private_key.public_key()))
            _check_identifier(certificate)
        path, above = await self._path(tenant, certificate, certificates)
        _, subject_der = names_der(certificate)
        row = IssuerRow(
            tenant=tenant,
            authority=name,
            generation=1,
            state=IssuerState.ANCHOR if private_key is None else IssuerState.ACTIVE,
            key_id="",
            subject_der=subject_der,
            certificate_der=None,
            chain_der=b"",
            parent_issuer_id=None,
            not_before=None,
            not_after=None,
            created_at=self._now(),
        )
        async with generation.alone(
            self._database, self._now, generation.lease_name(tenant, name), self._holder
        ):
            if private_key is not None:
                handle = await self._keyring.adopt(
                    private_key, tenant=tenant, label=slug_of(tenant, name), save=False
                )
                row = replace(row, key_id=handle.id)
            issuer = await self._database.write(
                self._import, actor, row, handle, path, above, rules, dry_run=dry_run
            )
        return issuer if dry_run else await self._hierarchy.by_id(issuer.id)

    @guarded("authority.create")
    async def cross_sign(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        other: x509.Certificate | x509.CertificateSigningRequest | str,
        lifetime: timedelta | None = None,
        path_length: int | None = None,
        name_constraints: x509.NameConstraints | None = None,
        dry_run: bool = False,
    ) -> Issued:
        """Certify the name and key of another CA with the active key of ``name``.

        ``other`` is a CSR or a self-signed certificate, which prove that somebody has the key,
        or the name of an authority of this tenant. The new certificate stands beside the
        other CA's own; revoking either leaves the other one as it is.
        """
        signer = await self._hierarchy.active(tenant, name)
        assert signer.certificate is not None
        subject, public_key, proof, evidence = await self._foreign(tenant, other)
        if spki_der(public_key) == spki_der(signer.public_key):
            raise Fault(
                FaultCode.REJECTED,
                "that is this authority's own key; renew it instead",
                rule="authority.cross-own",
            )
        charter = Charter(
            subject=subject,
            lifetime=lifetime,
            path_length=path_length,
            name_constraints=name_constraints,
        ).below(signer, self._now())
        issued = await self._authority.issue(
            generation.on_behalf(actor),
            tenant,
            authority=name,
            profile=SUB_PROFILE,
            subject=subject,
            names=(),
            public_key=public_key,
            constraints=charter.constraints,
            proof=proof,
            evidence=evidence,
            validity=charter.lifetime,
            dry_run=dry_run,
        )
        if not dry_run:
            await self.journal.write(
                Event(
                    kind="issuer.cross-signed",
                    tenant=tenant,
                    actor=actor.name,
                    object=f"issuer/{signer.id}",
                    data={
                        "authority": name,
                        "certificate": issued.certificate_id,
                        **generation.certificate_data(issued.certificate),
                    },
                )
            )
        return issued

    # -- steps --------------------------------------------------------------------------------

    async def _waiting(self, tenant: str, name: str, number: int | None) -> Issuer:
        found = await self._hierarchy.generations(tenant, name)
        for issuer in reversed(found):
            if issuer.generation == number or (
                number is None and issuer.state is IssuerState.PENDING
            ):
                break
        else:
            if number is not None:
                raise Fault(FaultCode.NOT_FOUND, f"authority {name} has no generation {number}")
            issuer = await self._hierarchy.active(tenant, name)
        if not issuer.key_id:
            raise Fault(FaultCode.UNSUPPORTED, f"the key of {name} is not here")
        return issuer

    async def _match(
        self, tenant: str, name: str, certificates: Sequence[x509.Certificate]
    ) -> tuple[Issuer, x509.Certificate]:
        """Return the generation that one of the certificates is for."""
        waiting = {
            spki_der(issuer.public_key): issuer
            for issuer in await self._hierarchy.generations(tenant, name)
            if issuer.key_id and issuer.state is not IssuerState.CREATING
        }
        for certificate in certificates:
            issuer = waiting.get(spki_der(certificate.public_key()))
            if issuer is not None:
                break
        else:
            raise Fault(
                FaultCode.REJECTED,
                f"no certificate is for a key of {name}",
                rule="authority.install.key",
            )
        if issuer.state is IssuerState.WITHDRAWN:
            raise Fault(FaultCode.CONFLICT, f"{name} is withdrawn", rule="authority.state")
        _, subject_der = names_der(certificate)
        if issuer.certificate is None:
            # Nothing bears the name yet, so another spelling of it (string types) will do.
            fits = certificate.subject == name_from_der(issuer.subject_der, issuer.public_key)
        else:
            fits = subject_der == issuer.subject_der
        if not fits:
            raise Fault(
                FaultCode.REJECTED,
                "the certificate is for another subject",
                rule="authority.install.subject",
                values={"subject": certificate.subject.rfc4514_string()},
            )
        return issuer, certificate

    async def _path(
        self,
        tenant: str,
        certificate: x509.Certificate,
        others: Sequence[x509.Certificate],
    ) -> tuple[tuple[x509.Certificate, ...], Issuer | None]:
        """Return a checked chain to a root, and the issuer if this tenant has it."""
        path = order_path(certificate, (c for c in others if c != certificate))
        trust = Trust(self._hierarchy)
        if not is_signed_by(path[-1], path[-1]):
            above = await trust.issuer_of(path[-1], tenant=tenant)
            if above is not None:
                path = (*path, *above.chain)
        check_path(path, self._now())
        is_root = len(path) == 1
        return path, None if is_root else await trust.issuer_of(certificate, tenant=tenant)

    async def _foreign(
        self, tenant: str, other: x509.Certificate | x509.CertificateSigningRequest | str
    ) -> tuple[x509.Name, Any, Proof, bytes]:
        if isinstance(other, str):
            own = await self._hierarchy.active(tenant, other)
            assert own.certificate is not None
            return own.certificate.subject, own.public_key, Proof.GENERATED_HERE, b""
        evidence = other.public_bytes(serialization.Encoding.DER)
        if isinstance(other, x509.Certificate):
            if not is_signed_by(other, other):
                raise Fault(
                    FaultCode.BAD_PROOF,
                    "only a self-signed certificate proves that somebody has its key; "
                    "ask for a CSR",
                    rule="authority.cross-proof",
                )
            return other.subject, other.public_key(), Proof.POP_SIGNATURE, evidence
        try:
            valid = other.is_signature_valid
        except (InvalidSignature, *UNREADABLE):
            valid = False
        if not valid:
            raise Fault(
                FaultCode.BAD_PROOF, "the CSR's signature is wrong", rule="authority.cross-proof"
            )
        return other.subject, other.public_key(), Proof.CSR_SIGNATURE, evidence

    # -- transactions -------------------------------------------------------------------------

    def _install(
        self,
        connection: sa.Connection,
        actor: Actor,
        issuer_id: int,
        path: tuple[x509.Certificate, ...],
        above: Issuer | None,
    ) -> None:
        issuers.in_turn(connection)
        row = issuers.by_id(connection, issuer_id)
        if row is None:
            raise Fault(FaultCode.NOT_FOUND, "the authority was removed meanwhile")
        state = row.state
        if state is IssuerState.PENDING:
            rows = issuers.find_of_authority(connection, row.tenant, row.authority)
            is_first = not any(other.state is IssuerState.ACTIVE for other in rows)
            state = IssuerState.ACTIVE if is_first else IssuerState.NEXT
        row = generation.sign(connection, row, path, state, above.id if above else None)
        generation.check_subject_free(connection, row)
        self.journal.append(
            connection,
            generation.event(
                "installed",
                actor.name,
                row,
                state=state.value,
                **generation.certificate_data(path[0]),
            ),
        )

    def _import(
        self,
        connection: sa.Connection,
        actor: Actor,
        row: IssuerRow,
        handle: KeyHandle | None,
        path: tuple[x509.Certificate, ...],
        above: Issuer | None,
        rules: AuthorityDocument | None,
    ) -> Issuer:
        if issuers.find_of_authority(connection, row.tenant, row.authority):
            raise Fault(
                FaultCode.CONFLICT, f"authority {row.authority} exists", rule="authority.exists"
            )
        key = None
        if handle is not None:
            key = generation.key_row(handle)
            if private_keys.by_public_key(connection, key.spki_sha256) is not None:
                raise Fault(
                    FaultCode.CONFLICT, "this key is here already", rule="authority.import.key"
                )
        _check_unknown(connection, row, path[0])
        present = object_rows.by_name(connection, row.tenant, KIND, row.authority)
        if rules is None and present is not None:
            rules = AuthorityDocument.model_validate_json(present.document)
        stored = self._objects.put_in(
            connection, actor, row.tenant, KIND, row.authority, rules or AuthorityDocument()
        )
        check_policy(path[0].public_key(), stored.document.signature)
        state = row.state
        row = generation.insert(connection, key, row)
        row = generation.sign(connection, row, path, state, above.id if above else None)
        self.journal.append(
            connection,
            generation.event(
                "imported",
                actor.name,
                row,
                state=state.value,
                **generation.certificate_data(path[0]),
            ),
        )
        return Issuer.load(connection, row, stored.document, stored.revision)


def _check_unknown(
    connection: sa.Connection, row: IssuerRow, certificate: x509.Certificate
) -> None:
    """Refuse a second issuer with the same name and key in one tenant."""
    for other in issuers.find_by_subject(connection, row.subject_der, limit=1000):
        known = chain_from_der(other.chain_der)
        if (
            other.tenant == row.tenant
            and known
            and (spki_der(known[0].public_key()) == spki_der(certificate.public_key()))
        ):
            raise Fault(
                FaultCode.CONFLICT,
                f"it is here already, as {other.authority}",
                rule="authority.import.known",
                values={"authority": other.authority},
            )


def _check_identifier(certificate: x509.Certificate) -> None:
    # RFC 5280, 4.2.1.2: whatever is issued below repeats it to name its issuer's key.
    if subject_key_identifier(certificate) is None:
        raise Fault(
            FaultCode.REJECTED,
            "the CA certificate has no subject key identifier",
            rule="authority.key-identifier",
        )


def _with_key(certificates: Sequence[x509.Certificate], key_der: bytes) -> x509.Certificate:
    for certificate in certificates:
        if spki_der(certificate.public_key()) == key_der:
            return certificate
    raise Fault(
        FaultCode.REJECTED, "no certificate belongs to the key", rule="authority.import.match"
    )
