"""RADIUS clients: switches, access points, gateways and proxies, and their shared secrets.

A client is a managed object; its secrets are sealed rows beside it, an old one overlaps for a
while. ``find`` answers from memory, behind storage/changes.py (R-30, R-31; RFC 2865, 3).
"""

from __future__ import annotations

import base64
import ipaddress
import secrets as randomness
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.logger import Logger

from tmad import documents
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.managed.catalogue import Kind
from tmad.network.client import Client, RadiusClientDocument, Shared
from tmad.signer.seal import Seal
from tmad.storage import objects as object_rows
from tmad.storage import radius_clients as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import Kept
from tmad.wire.parsing import NO_EXTENSION

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()


SHORT: Final = 16  # characters; a shorter secret can be guessed from one packet
_LONGEST: Final = 128
_GENERATED_OCTETS: Final = 20
_FLUSH_PATIENCE: Final = 20_000  # clients whose news may wait for the next flush
# RFC 6614, 2.3: on TLS the secret is this word; the certificates prove who is who.
RADSEC_SECRET: Final = b"radsec"


def _check_unique(
    connection: Connection, tenant: str, name: str, document: RadiusClientDocument
) -> None:
    """Refuse a client that another one, of whatever tenant, could be taken for."""
    wanted: Mapping[str, tuple[str, ...]] = {
        "prefixes": document.prefixes,
        "radsec.names": document.radsec.names,
        "radsec.fingerprints": document.radsec.fingerprints,
    }
    for place, texts in wanted.items():
        for text in texts:
            for row in rows.containing(connection, text):
                if (row.tenant, row.name) == (tenant, name):
                    continue
                other = RadiusClientDocument.model_validate_json(row.document)
                if text in (other.prefixes + other.radsec.names + other.radsec.fingerprints):
                    # The other tenant's client is none of this one's business.
                    whose = f"radius-client {row.name}" if row.tenant == tenant else "another one"
                    raise Fault(
                        FaultCode.CONFLICT,
                        f"{place}: {text} belongs to {whose} already",
                        rule="radius.client.taken",
                        values={"place": place, "value": text},
                    )


def _forget(connection: Connection, tenant: str, name: str, document: object) -> None:
    # A client of the same name must not inherit the secret.
    rows.forget(connection, tenant, name)


RADIUS_CLIENT = Kind(
    name="radius-client",
    model=RadiusClientDocument,
    check=_check_unique,
    check_delete=_forget,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """What an operator sees of a client beside its document."""

    seen_at: datetime | None
    unsigned_at: datetime | None
    signed_since: datetime | None
    secret_since: datetime | None
    old_secret_until: datetime | None


class RadiusClients:
    """The RADIUS clients of one database."""

    def __init__(
        self, database: Database, journal: Records, changes: Changes, seal: Seal, now: Clock
    ) -> None:
        self.journal = journal
        self._database = database
        self._changes = changes
        self._seal = seal
        self._now = now
        self._table: Kept[_Table] = Kept()
        self._seen: dict[tuple[str, str], datetime] = {}
        self._unsigned: dict[tuple[str, str], datetime] = {}
        changes.listen("objects", self._objects_changed)
        changes.listen(rows.TOPIC, self._forget)

    # -- for actors -----------------------------------------------------------------------

    @guarded("radius-client.secret")
    async def set_secret(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        secret: Secret | None = None,
        *,
        overlap: timedelta | None = None,
        dry_run: bool = False,
    ) -> Secret:
        """Give a client a new secret and return it, this one time.

        Without ``secret`` it is random. With ``overlap`` the old one works that much longer.
        """
        clear = _random() if secret is None else _checked(secret)
        await self._database.write(
            self._replace, actor, tenant, name, clear, overlap, dry_run=dry_run
        )
        return clear

    @guarded("radius-client.write")
    async def unlearn(self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False) -> bool:
        """Forget that a client signs its requests, for "auto"; tell whether it was known."""
        return await self._database.write(self._unlearn, actor, tenant, name, dry_run=dry_run)

    @guarded("radius-client.read")
    async def state(self, actor: Actor, tenant: str, name: str) -> ClientState:
        """Return when a client was seen and which secrets it has; Fault(NOT_FOUND)."""
        return await self._database.read(self._state, tenant, name)

    # -- for the protocol -----------------------------------------------------------------

    async def find(self, address: str) -> Client | None:
        """Return the client that an address belongs to, by the longest prefix of all tenants."""
        return (await self._current()).by_address(address)

    def known(self, address: str) -> Client | None:
        """Return the same as ``find`` at once, None also where that has to be read first."""
        table = self._table.value
        if table is None or not self._changes.is_current():
            return None
        return table.by_address(address)

    async def find_radsec(self, certificate: x509.Certificate) -> Client | None:
        """Return the client that a certificate names; whether it is good is not asked here."""
        return (await self._current()).by_certificate(certificate)

    async def named(self, tenant: str, name: str) -> Client | None:
        """Return one client."""
        return (await self._current()).by_key.get((tenant, name))

    async def tenants(self) -> tuple[str, ...]:
        """Return the tenants that have clients."""
        return tuple(sorted({tenant for tenant, _ in (await self._current()).by_key}))

    def note_seen(self, client: Client, *, is_unsigned: bool = False) -> None:
        """Remember that a client sent something; ``flush`` stores it."""
        now = self._now()
        if len(self._seen) < _FLUSH_PATIENCE:
            self._seen[client.key] = now
        if is_unsigned and len(self._unsigned) < _FLUSH_PATIENCE:
            self._unsigned[client.key] = now

    async def learn(self, client: Client) -> None:
        """Note for good that a client signs its requests (R-08, auto)."""
        try:
            if await self._database.write(rows.learn, *client.key, self._now()):
                log.info("the RADIUS client {name} signs its requests", name=client.name)
        except Fault as fault:
            # A standby cannot write: the primary will learn it.
            log.debug("not learned: {why}", why=fault.detail)

    async def flush(self) -> None:
        """Store what was seen since the last time."""
        seen, self._seen = self._seen, {}
        unsigned, self._unsigned = self._unsigned, {}
        if not seen:
            return
        news = [(*key, at, unsigned.get(key)) for key, at in seen.items()]
        try:
            await self._database.write(rows.note, news)
        except Fault as fault:
            # A standby cannot write, and what was seen there is worth no line a minute.
            log.debug("not stored: {why}", why=fault.detail)
            self._seen = seen | self._seen
            self._unsigned = unsigned | self._unsigned

    async def forget_expired(self) -> None:
        """Delete the secrets whose overlap is over."""
        await self._database.write(rows.delete_expired, self._now())

    # -- cache ----------------------------------------------------------------------------

    async def _current(self) -> _Table:
        await self._changes.catch_up()
        table = self._table.value
        if table is None:
            table = await self._table.fill(self._database.read(self._build))
        return table

    def _build(self, connection: Connection) -> _Table:
        secrets: dict[tuple[str, str], list[Shared]] = {}
        for row in rows.every_secret(connection, self._now()):
            key = (row.tenant, row.client)
            try:
                opened = self._seal.open(row.sealed, about=_about(*key))
            except Fault as fault:
                # One damaged row must not keep every other client from logging in.
                log.error("the secret of {name}: {why}", name=row.client, why=fault.private)
                continue
            secrets.setdefault(key, []).append(Shared(opened, row.expires_at))
        states = {(s.tenant, s.client): s for s in rows.every_state(connection)}
        found = []
        for each in rows.every(connection):
            key = (each.tenant, each.name)
            state = states.get(key)
            found.append(
                Client(
                    tenant=each.tenant,
                    name=each.name,
                    document=RadiusClientDocument.model_validate_json(each.document),
                    shared=tuple(secrets.get(key, ())),
                    signed_since=None if state is None else state.signed_since,
                )
            )
        return _Table(found)

    def _objects_changed(self, key: str) -> None:
        if key == "*" or key.split("/")[1:2] == [rows.KIND]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._table.forget()

    # -- transactions ---------------------------------------------------------------------

    def _replace(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        name: str,
        secret: Secret,
        overlap: timedelta | None,
    ) -> None:
        _require(connection, tenant, name)
        now = self._now()
        until = None if overlap is None else now + overlap
        sealed = self._seal.seal(secret.reveal(), about=_about(tenant, name))
        rows.replace_secret(connection, tenant, name, sealed, now=now, old_until=until)
        self.journal.append(
            connection,
            Event(
                kind="radius-client.secret-changed",
                tenant=tenant,
                actor=actor.name,
                object=name,
                data={
                    "old_until": None if until is None else until.isoformat(),
                    "is_short": len(secret.reveal()) < SHORT,
                },
            ),
        )

    def _unlearn(self, connection: Connection, actor: Actor, tenant: str, name: str) -> bool:
        _require(connection, tenant, name)
        if not rows.unlearn(connection, tenant, name):
            return False
        self.journal.append(
            connection,
            Event(kind="radius-client.unlearned", tenant=tenant, actor=actor.name, object=name),
        )
        return True

    def _state(self, connection: Connection, tenant: str, name: str) -> ClientState:
        _require(connection, tenant, name)
        state = rows.state_of(connection, tenant, name)
        secrets = rows.find_secrets(connection, tenant, name)
        current = next((row for row in secrets if row.expires_at is None), None)
        old = next((row for row in secrets if row.expires_at is not None), None)
        is_old_good = (
            old is not None and old.expires_at is not None and old.expires_at > self._now()
        )
        return ClientState(
            seen_at=None if state is None else state.seen_at,
            unsigned_at=None if state is None else state.unsigned_at,
            signed_since=None if state is None else state.signed_since,
            secret_since=None if current is None else current.created_at,
            old_secret_until=old.expires_at if old is not None and is_old_good else None,
        )


class _Table:
    """Every client, by what it is found by."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self.by_key = {client.key: client for client in clients}
        self._prefixes: dict[tuple[int, int], dict[int, Client]] = {}
        self._names: dict[str, Client] = {}
        self._fingerprints: dict[str, Client] = {}
        for client in self.by_key.values():
            for text in client.document.prefixes:
                network = ipaddress.ip_network(text)
                size = network.max_prefixlen - network.prefixlen
                of_length = self._prefixes.setdefault((network.version, size), {})
                of_length[int(network.network_address) >> size] = client
            self._names |= dict.fromkeys(client.document.radsec.names, client)
            self._fingerprints |= dict.fromkeys(client.document.radsec.fingerprints, client)
        # Longest prefix first: the fewest bits of an address are left to the host.
        self._sizes = {
            version: sorted(size for other, size in self._prefixes if other == version)
            for version in (4, 6)
        }
        self._found: dict[str, Client | None] = {}

    def by_address(self, text: str) -> Client | None:
        try:
            return self._found[text]
        except KeyError:
            found = self._by_address(text)
        # A flood from forged addresses must not fill the memory.
        if found is not None or len(self._found) < 65_536:
            self._found[text] = found
        return found

    def _by_address(self, text: str) -> Client | None:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return None
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
        number = int(address)
        for size in self._sizes[address.version]:
            found = self._prefixes[address.version, size].get(number >> size)
            if found is not None:
                return found
        return None

    def by_certificate(self, certificate: x509.Certificate) -> Client | None:
        if self._fingerprints:
            digest = certificate.fingerprint(hashes.SHA256()).hex()
            if (found := self._fingerprints.get(digest)) is not None:
                return found
        if not self._names:
            return None
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except NO_EXTENSION:
            # RFC 6614 allowed the common name; its successor forbids it, and so do we.
            return None
        for name in names.value:
            if isinstance(name, x509.DNSName):
                found = self._names.get(name.value.lower().rstrip("."))
            elif isinstance(name, x509.IPAddress):
                found = self._names.get(str(name.value))
            else:
                continue
            if found is not None:
                return found
        return None


def _require(connection: Connection, tenant: str, name: str) -> None:
    if object_rows.by_name(connection, tenant, rows.KIND, name) is None:
        raise Fault(
            FaultCode.NOT_FOUND,
            f"there is no radius-client {name!r}",
            rule="radius.client.absent",
            values={"tenant": tenant, "name": name},
        )


def _about(tenant: str, name: str) -> str:
    return f"radius-secret {tenant}/{name}"


def _random() -> Secret:
    return Secret(base64.b32encode(randomness.token_bytes(_GENERATED_OCTETS)))


def _checked(secret: Secret) -> Secret:
    octets = secret.reveal()
    if not (1 <= len(octets) <= _LONGEST and all(0x20 < octet < 0x7F for octet in octets)):
        # What is no visible ASCII cannot be typed the same way into every switch.
        raise documents.rejection(
            {"secret": f"1 to {_LONGEST} visible ASCII characters without spaces"}
        )
    return secret
