"""Who may ask the SNMP agent, as rows: users of SNMPv3, communities of the older versions.

They belong to the node's owner, not to a tenant: the agent shows the whole appliance. What is
kept of a passphrase is the key that RFC 3414 makes of it, sealed; it is localised where it is
used. An engine's boots are counted in the database before it answers anything.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import secrets as randomness
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from tmad import documents
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity import snmp_managers as managers
from tmad.identity.access import Records, guarded
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.identity.snmp_managers import (
    Community,
    EngineState,
    Passphrases,
    Table,
    User,
    parse_view,
)
from tmad.signer.seal import Seal
from tmad.storage import snmp as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import Kept
from tmad.wire import usm

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

# 80: an engine id of RFC 3411's own form; 8072: net-snmp's number, until tmad has one of its
# own; 5: octets that we choose (RFC 3411, 5, SnmpEngineID).
_ENGINE_PREFIX: Final = bytes.fromhex("80001f8805")
_ENGINE_OCTETS: Final = 8
# A node that can write nothing and never has counts from here.
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SHORTEST: Final = 8  # RFC 3414, 11.2
_LONGEST: Final = 255
_GENERATED: Final = 15  # octets: 120 bits as 24 letters and digits
_NAME: Final = re.compile(r"[!-~]{1,32}")  # SnmpAdminString, as people can type it


class SNMPAccess:
    """The users, communities and engines of one database."""

    def __init__(
        self,
        database: Database,
        journal: Records,
        changes: Changes,
        seal: Seal,
        now: Clock,
        *,
        node: str,
    ) -> None:
        self.journal = journal
        self._database = database
        self._changes = changes
        self._seal = seal
        self._now = now
        self._node = node
        self._table: Kept[Table] = Kept()
        changes.listen(rows.TOPIC, self._forget)

    # -- for actors -------------------------------------------------------------------------

    @guarded("snmp-user.write")
    async def add_user(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        authentication: str = "sha256",
        privacy: str = "aes128",
        view: str = "all",
        passphrases: Passphrases | None = None,
        dry_run: bool = False,
    ) -> Passphrases:
        """Let a user ask; return the passphrases, this one time. They are random unless given."""
        _check_tenant(tenant)
        _check_name(name)
        _check_algorithms(authentication, privacy)
        parse_view(view)
        given = passphrases or Passphrases(_random(), _random())
        keys = b"".join(
            usm.key_of(authentication, _checked(secret))
            for secret in (given.authentication, given.privacy)
        )
        row = rows.UserRow(
            name=name,
            authentication=authentication,
            privacy=privacy,
            keys=self._seal.seal(keys, about=_about_user(name)),
            view=view,
            created_at=self._now(),
        )
        await self._database.write(self._insert_user, actor, row, dry_run=dry_run)
        return given

    @guarded("snmp-user.delete")
    async def remove_user(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> None:
        """Refuse a user from now on; Fault(NOT_FOUND)."""
        _check_tenant(tenant)
        await self._database.write(self._delete, actor, "user", name, dry_run=dry_run)

    @guarded("snmp-user.read")
    async def users(self, actor: Actor, tenant: str) -> list[rows.UserRow]:
        """Return the users by name; their keys stay sealed."""
        _check_tenant(tenant)
        return await self._database.read(rows.every_user)

    @guarded("snmp-user.write")
    async def add_community(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        prefixes: Iterable[str],
        *,
        view: str = "all",
        secret: Secret | None = None,
        dry_run: bool = False,
    ) -> Secret:
        """Let addresses ask with a community; return it, this one time. It is random unless given.

        It crosses the network in clear; ``name`` is what it is called here.
        """
        _check_tenant(tenant)
        _check_name(name)
        found = managers.networks(prefixes)
        parse_view(view)
        clear = secret or _random()
        row = rows.CommunityRow(
            name=name,
            sealed=self._seal.seal(_checked(clear), about=_about_community(name)),
            prefixes=" ".join(map(str, found)),
            view=view,
            created_at=self._now(),
        )
        await self._database.write(self._insert_community, actor, row, dry_run=dry_run)
        return clear

    @guarded("snmp-user.delete")
    async def remove_community(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> None:
        """Refuse a community from now on; Fault(NOT_FOUND)."""
        _check_tenant(tenant)
        await self._database.write(self._delete, actor, "community", name, dry_run=dry_run)

    @guarded("snmp-user.read")
    async def communities(self, actor: Actor, tenant: str) -> list[rows.CommunityRow]:
        """Return the communities by name; what they are stays sealed."""
        _check_tenant(tenant)
        return await self._database.read(rows.every_community)

    @guarded("snmp-user.read")
    async def engine_state(self, actor: Actor, tenant: str) -> EngineState:
        """Return this node's engine as managers know it."""
        _check_tenant(tenant)
        return await self.engine()

    # -- for the protocol -------------------------------------------------------------------

    async def boot(self) -> EngineState:
        """Count one more start of this node's engine, durably, and return it.

        A database that takes no changes counts nothing: then the time since the last counted
        start goes on, so that it never runs backwards for a manager (RFC 3414, 2.2.2).
        """
        try:
            row = await self._database.write(self._boot)
        except Fault as fault:
            if fault.code is not FaultCode.UNAVAILABLE:
                raise
            log.info("the start of the SNMP engine was not counted: {why}", why=fault.detail)
            return await self.engine()
        return EngineState(engine_id=row.engine_id, boots=row.boots, age=0.0)

    async def engine(self) -> EngineState:
        """Return this node's engine without starting it anew: for whoever sends in its name."""
        row = await self._database.read(rows.engine, self._node)
        if row is None:
            row = rows.EngineRow(engine_id=self._own_engine_id(), boots=1, started_at=_EPOCH)
        age = max(0.0, (self._now() - row.started_at).total_seconds())
        return EngineState(engine_id=row.engine_id, boots=row.boots, age=age)

    async def current(self) -> Table:
        """Return everybody who may ask, as the database has it now."""
        await self._changes.catch_up()
        table = self._table.value
        if table is None:
            table = await self._table.fill(self._database.read(self._build))
        return table

    def ready(self) -> Table | None:
        """Return the same where nobody has to be asked for it: most of the questions of a walk."""
        return self._table.value if self._changes.is_current() else None

    @property
    def known(self) -> Table | None:
        """Everybody who might ask the last time, for while the database cannot be asked."""
        return self._table.value

    async def user(self, name: str) -> User:
        """Return a user, for whoever sends in its name; Fault(NOT_FOUND)."""
        found = (await self.current()).users.get(name.encode())
        if found is None:
            raise _absent("user", name)
        return found

    async def community(self, name: str) -> Community:
        """Return a community by its name, for whoever sends with it; Fault(NOT_FOUND)."""
        for each in (await self.current()).communities.values():
            for found in each:
                if found.name == name:
                    return found
        raise _absent("community", name)

    # -- cache ------------------------------------------------------------------------------

    def _build(self, connection: Connection) -> Table:
        users, communities = {}, dict[bytes, tuple[Community, ...]]()
        for row in rows.every_user(connection):
            keys = self._open(row.keys, _about_user(row.name))
            if keys is None:
                continue
            half = len(keys) // 2
            users[row.name.encode()] = User(
                name=row.name,
                authentication=row.authentication,
                privacy=row.privacy,
                view=parse_view(row.view),
                authentication_key=Secret(keys[:half]),
                privacy_key=Secret(keys[half:]),
            )
        for each in rows.every_community(connection):
            clear = self._open(each.sealed, _about_community(each.name))
            if clear is None:
                continue
            found = Community(
                name=each.name,
                community=Secret(clear),
                prefixes=tuple(map(ipaddress.ip_network, each.prefixes.split())),
                view=parse_view(each.view),
            )
            communities[clear] = (*communities.get(clear, ()), found)
        return Table(users, communities)

    def _open(self, sealed: bytes, about: str) -> bytes | None:
        try:
            return self._seal.open(sealed, about=about).reveal()
        except Fault as fault:
            # One damaged row must not keep everybody else from asking.
            log.error("{about}: {why}", about=about, why=fault.private or fault.detail)
            return None

    def _forget(self, key: str) -> None:
        self._table.forget()

    def _own_engine_id(self) -> bytes:
        """Return the id of a node that has none yet: random, yet the same if asked again."""
        digest = self._seal.digest("snmp engine", Secret(self._node))
        return _ENGINE_PREFIX + digest[:_ENGINE_OCTETS]

    # -- transactions -----------------------------------------------------------------------

    def _boot(self, connection: Connection) -> rows.EngineRow:
        row = rows.boot(connection, self._node, self._own_engine_id(), self._now())
        event = Event(
            kind="snmp-engine.started",
            tenant=EVERY_TENANT,
            actor="system",
            object=self._node,
            data={"engine_id": row.engine_id.hex(), "boots": row.boots},
        )
        self.journal.append(connection, event)
        return row

    def _insert_user(self, connection: Connection, actor: Actor, row: rows.UserRow) -> None:
        rows.insert_user(connection, row)
        data = {"authentication": row.authentication, "privacy": row.privacy, "view": row.view}
        self._note(connection, actor, "snmp-user.created", row.name, data)
        if row.authentication == "sha1":
            warning = {"warning": "SNMP user with SHA-1", "user": row.name}
            self._note(connection, actor, "warning.raised", row.name, warning)

    def _insert_community(
        self, connection: Connection, actor: Actor, row: rows.CommunityRow
    ) -> None:
        rows.insert_community(connection, row)
        data = {"prefixes": row.prefixes, "view": row.view}
        self._note(connection, actor, "snmp-community.created", row.name, data)
        warning = {"warning": "SNMP community, readable on the wire", "community": row.name}
        self._note(connection, actor, "warning.raised", row.name, warning)

    def _delete(self, connection: Connection, actor: Actor, noun: str, name: str) -> None:
        delete = rows.delete_user if noun == "user" else rows.delete_community
        if not delete(connection, name):
            raise _absent(noun, name)
        self._note(connection, actor, f"snmp-{noun}.deleted", name, {})

    def _note(
        self, connection: Connection, actor: Actor, kind: str, name: str, data: Mapping[str, str]
    ) -> None:
        event = Event(
            kind=kind, tenant=EVERY_TENANT, actor=actor.name, object=name, data=dict(data)
        )
        self.journal.append(connection, event)


def _check_tenant(tenant: str) -> None:
    """Refuse whoever may do this in one tenant only: the agent shows all of them."""
    if tenant != EVERY_TENANT:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the SNMP agent shows the whole appliance: this is for every tenant, or for nobody",
            rule="snmp.tenant",
            values={"tenant": tenant},
        )


def _absent(noun: str, name: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        f"there is no SNMP {noun} {name!r}",
        rule="snmp.absent",
        values={noun: name},
    )


def _about_user(name: str) -> str:
    return f"snmp-user {name}"


def _about_community(name: str) -> str:
    return f"snmp-community {name}"


def _random() -> Secret:
    return Secret(base64.b32encode(randomness.token_bytes(_GENERATED)))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise documents.rejection({"name": "1 to 32 visible ASCII characters without spaces"})


def _check_algorithms(authentication: str, privacy: str) -> None:
    mistakes = {}
    if authentication not in usm.AUTHENTICATIONS:
        mistakes["authentication"] = f"one of {', '.join(usm.AUTHENTICATIONS)}"
    if privacy not in usm.PRIVACIES:
        mistakes["privacy"] = f"one of {', '.join(usm.PRIVACIES)}"
    if mistakes:
        raise documents.rejection(mistakes)


def _checked(secret: Secret) -> bytes:
    octets = secret.reveal()
    if not (_SHORTEST <= len(octets) <= _LONGEST and all(0x20 <= octet < 0x7F for octet in octets)):
        raise documents.rejection(
            {"secret": f"{_SHORTEST} to {_LONGEST} visible ASCII characters (RFC 3414, 11.2)"}
        )
    return octets
