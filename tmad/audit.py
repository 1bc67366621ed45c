"""What people may do with the journal: read it, have a refusal explained, verify, export."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.errors import Fault, FaultCode
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.keyring import Keyring
from tmad.storage.journal import Record
from tmad.wire.chain import Report


class Audit:
    """The journal behind permissions; ``tenant`` None means every tenant."""

    def __init__(self, journal: Journal, keyring: Keyring) -> None:
        self.journal = journal
        self._keyring = keyring

    @guarded("audit.read")
    async def tail(
        self,
        actor: Actor,
        tenant: str | None,
        *,
        after: tuple[datetime, str, int] | None = None,
        limit: int = 50,
    ) -> list[Record]:
        """Return records, oldest first: the newest, or those that follow ``after``."""
        return await self.journal.tail(tenant, after, limit)

    @guarded("audit.read")
    async def explain(self, actor: Actor, tenant: str | None, explain_id: str) -> list[Record]:
        """Return what was journaled under an explain id; raise Fault(NOT_FOUND)."""
        found = [
            record
            for record in await self.journal.explain(explain_id)
            if tenant is None or record.tenant == tenant
        ]
        if not found:
            raise Fault(FaultCode.NOT_FOUND, "nothing was journaled under this id")
        return found

    @guarded("audit.verify")
    async def verify(
        self, actor: Actor, tenant: str | None, trusted: Collection[bytes] | None = None
    ) -> Report:
        """Verify every chain and checkpoint; ``tenant`` must be None, as chains are shared.

        Checkpoints must be signed by a key of the keyring; with ``trusted`` (public keys as
        SubjectPublicKeyInfo) by one of those that somebody noted outside this machine.
        """
        _require_all(tenant)
        return await self.journal.verify(await self._public_keys(trusted))

    @guarded("audit.verify")
    async def export(
        self, actor: Actor, tenant: str | None, write: Callable[[bytes], object]
    ) -> int:
        """Write the whole journal as JSON lines; return how many lines those were."""
        _require_all(tenant)
        count = 0
        async for line in self.journal.export(await self._public_keys(None)):
            write(line)
            count += 1
        return count

    async def _public_keys(self, trusted: Collection[bytes] | None) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        for key_id in await self.journal.sealing_keys():
            try:
                key = await self._keyring.public_key(key_id)
            except Fault as fault:
                # The verifier says which checkpoint cannot be checked for want of it.
                if fault.code is not FaultCode.NOT_FOUND:
                    raise
                continue
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            if trusted is None or spki in trusted:
                keys[key_id] = key
        return keys


def _require_all(tenant: str | None) -> None:
    if tenant is not None:
        raise Fault(
            FaultCode.REJECTED,
            "a chain holds the records of all tenants; it is verified and exported as a whole",
            rule="audit.tenant",
            values={"tenant": tenant},
        )
