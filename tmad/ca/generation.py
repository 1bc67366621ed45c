"""What happens to one generation of an authority, inside a transaction.

creating → next | active       signed here
pending → next | active        signed outside
next → active, active → retired
any but anchor → withdrawn
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from secrets import token_hex

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tmad.ca.authority import load_key
from tmad.ca.trust import MAXIMUM_DEPTH, chain_der, chain_from_der, names_der, spki_sha256
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.storage import issuers, leases, private_keys
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState
from tmad.storage.leases import Lease
from tmad.storage.private_keys import KeyRow

# Longer than any HSM needs for a key and a signature; after a crash, others wait as long.
LEASE_SECONDS = 120.0

LIVING = frozenset({IssuerState.ACTIVE, IssuerState.NEXT, IssuerState.RETIRED})


@asynccontextmanager
async def alone(database: Database, now: Clock, name: str, holder: str) -> AsyncIterator[Lease]:
    """Keep every other task and process from the same work; Fault(CONFLICT) if one is at it."""
    lease = await database.write(
        leases.acquire, name, f"{holder}:{token_hex(8)}", LEASE_SECONDS, now()
    )
    if lease is None:
        raise Fault(
            FaultCode.CONFLICT,
            "somebody else is doing this just now",
            private=f"lease {name}",
            retry_after=5,
            rule="lease.held",
        )
    try:
        yield lease
    finally:
        # A lease that cannot be given back ends by itself.
        with suppress(Fault):
            await database.write(leases.release, lease, now())


def lease_name(tenant: str, authority: str) -> str:
    """Return the lease that each ceremony of this authority holds."""
    return f"authority:{tenant}/{authority}"


def on_behalf(actor: Actor) -> Actor:
    """Return the appliance, acting for somebody whose permission has been checked."""
    return Actor(actor.name, Actor.system().grants)


async def destroy_key(keyring: Keyring, key_id: str) -> None:
    """Destroy a key where it lives; its row stays for the transaction that forgets it."""
    try:
        handle = await keyring.handle(key_id)
    except Fault as fault:
        if fault.code is not FaultCode.NOT_FOUND:
            raise
    else:
        await keyring.discard(handle)


def key_row(handle: KeyHandle) -> KeyRow:
    """Return a new key as the row that keeps it."""
    public_key = load_key(handle.public_key_der)
    return KeyRow(
        id=handle.id,
        tenant=handle.tenant,
        store=handle.store,
        algorithm=handle.algorithm.value,
        label=handle.label,
        public_key_der=handle.public_key_der,
        spki_sha256=spki_sha256(public_key),
        material=handle.material,
        created_at=handle.created_at,
    )


def check_subject_free(connection: sa.Connection, row: IssuerRow) -> None:
    """Raise Fault(CONFLICT) when another authority of the installation has this name.

    Relying parties find an issuer by its name: two authorities with one name would answer for
    each other. Whose it is stays private, since tenants do not see each other.
    """
    for other in issuers.find_by_subject(connection, row.subject_der, limit=1000):
        if IssuerState.ANCHOR in (row.state, other.state):
            continue  # somebody else's CA, which each tenant may know for itself
        if (other.tenant, other.authority) != (row.tenant, row.authority):
            raise Fault(
                FaultCode.CONFLICT,
                "another authority of this installation has this subject",
                private=f"{other.tenant}/{other.authority}",
                rule="authority.subject",
            )


def insert(connection: sa.Connection, key: KeyRow | None, row: IssuerRow) -> IssuerRow:
    """Add a generation with its key; Fault(CONFLICT) for a subject that is taken."""
    if key is not None:
        private_keys.insert(connection, key)
    row = replace(row, id=issuers.insert(connection, row))
    # After the insert, whose change record makes writers of issuers wait for each other.
    check_subject_free(connection, row)
    return row


def sign(
    connection: sa.Connection,
    row: IssuerRow,
    path: Sequence[x509.Certificate],
    state: IssuerState,
    parent_issuer_id: int | None,
) -> IssuerRow:
    """Give a generation its certificate, and every generation below its new chain.

    ``path`` is the certificate first, root last.
    """
    _, subject_der = names_der(path[0])
    row = replace(
        row,
        state=state,
        subject_der=subject_der,
        certificate_der=path[0].public_bytes(serialization.Encoding.DER),
        chain_der=chain_der(path),
        parent_issuer_id=parent_issuer_id,
        not_before=path[0].not_valid_before_utc,
        not_after=path[0].not_valid_after_utc,
    )
    issuers.update(connection, row)
    _rebuild_below(connection, row, depth=MAXIMUM_DEPTH)
    return row


def activate(connection: sa.Connection, rows: Sequence[IssuerRow], wanted: IssuerRow) -> None:
    """Let one generation issue from now on; the one before goes on signing its CRLs."""
    for row in rows:
        if row.state is IssuerState.ACTIVE and row.id != wanted.id:
            issuers.update(connection, replace(row, state=IssuerState.RETIRED))
    issuers.update(connection, replace(wanted, state=IssuerState.ACTIVE))


def event(kind: str, actor: str, row: IssuerRow, **data: JSON) -> Event:
    """Return what the journal keeps of a change to one generation."""
    return Event(
        kind=f"issuer.{kind}",
        tenant=row.tenant,
        actor=actor,
        object=f"issuer/{row.id}",
        data={"authority": row.authority, "generation": row.generation, **data},
    )


def certificate_data(certificate: x509.Certificate) -> dict[str, JSON]:
    """Return what the journal says of a CA certificate."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "spki_sha256": spki_sha256(certificate.public_key()).hex(),
    }


def remove(connection: sa.Connection, journal: Journal, actor: str, row: IssuerRow) -> None:
    """Forget a generation that has no certificate, and its key."""
    if row.certificate_der is not None:
        raise Fault(FaultCode.CONFLICT, "an authority that has signed is never forgotten")
    issuers.delete(connection, row)
    private_keys.delete(connection, row.key_id)
    journal.append(connection, event("removed", actor, row))


def _rebuild_below(connection: sa.Connection, row: IssuerRow, *, depth: int) -> None:
    if depth == 0:
        return
    for child in issuers.find_children(connection, row.id):
        own = chain_from_der(child.chain_der)
        if child.id != row.id and own:
            child = replace(child, chain_der=chain_der(own[:1]) + row.chain_der)
            issuers.update(connection, child)
            _rebuild_below(connection, child, depth=depth - 1)
