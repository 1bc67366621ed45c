"""People: local accounts, with what policies and codes need to know of them.

Every change is journaled with its difference, never with a password, and announced in the
transaction that makes it: the next login sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity import differences, naming, passwords
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.passwords import Passwords
from tmad.identity.standing import Standing, standing
from tmad.signer.seal import Seal
from tmad.storage import login_failures, one_time_codes, otp_tokens
from tmad.storage import people as rows
from tmad.storage.database import Database
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LOCAL: Final = "local"
_SHOWN: Final = ("full_name", "mail", "phone", "groups", "valid_until", "disabled_at", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is known of a person beside the name; None leaves it as it is."""

    full_name: str | None = None
    mail: str | None = None
    phone: str | None = None
    groups: tuple[str, ...] | None = None

    def checked(self) -> Details:
        """Return the same in the spelling that is stored; Fault(REJECTED)."""
        return Details(
            full_name=None
            if self.full_name is None
            else naming.line(self.full_name, "a full name", rule="person.name"),
            mail=None if self.mail is None else naming.mail_address(self.mail),
            phone=None if self.phone is None else naming.phone_number(self.phone),
            groups=None if self.groups is None else _groups(self.groups),
        )

    def given(self) -> dict[str, Any]:
        """Return what is not left as it is."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None}


class People:
    """The people of one database."""

    def __init__(
        self, database: Database, journal: Records, checks: Passwords, seal: Seal, now: Clock
    ) -> None:
        self.journal = journal
        self._database = database
        self._passwords = checks
        self._seal = seal
        self._now = now

    # -- for actors -------------------------------------------------------------------------

    @guarded("person.write")
    async def create(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        details: Details = Details(),
        *,
        valid_until: datetime | None = None,
        dry_run: bool = False,
    ) -> PersonRow:
        """Add a person, who has no password yet; Fault(CONFLICT) when the name is taken."""
        now = self._now()
        person = replace(
            PersonRow(
                tenant=tenant,
                name=naming.person_name(name),
                valid_until=valid_until,
                created_at=now,
                updated_at=now,
            ),
            **details.checked().given(),
        )
        await self._database.write(self._insert, actor, person, dry_run=dry_run)
        return person

    @guarded("person.write")
    async def update(
        self, actor: Actor, tenant: str, name: str, details: Details, *, dry_run: bool = False
    ) -> PersonRow:
        """Change what is given of a person; Fault(NOT_FOUND)."""
        checked = details.checked()

        def apply(person: PersonRow) -> PersonRow:
            self._check_local(person)
            return replace(person, **checked.given())

        return await self._change(actor, tenant, name, apply, dry_run=dry_run)

    @guarded("person.write")
    async def change_groups(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        dry_run: bool = False,
    ) -> PersonRow:
        """Add a person to groups and take it out of others."""
        joined, left = set(_groups(add)), set(_groups(remove))

        def apply(person: PersonRow) -> PersonRow:
            self._check_local(person)
            return replace(person, groups=tuple(sorted((set(person.groups) | joined) - left)))

        return await self._change(actor, tenant, name, apply, dry_run=dry_run)

    @guarded("person.write")
    async def set_end(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        valid_until: datetime | None,
        *,
        dry_run: bool = False,
    ) -> PersonRow:
        """Say until when a person may log in; None: without end."""
        return await self._change(
            actor,
            tenant,
            name,
            lambda person: replace(person, valid_until=valid_until),
            dry_run=dry_run,
        )

    @guarded("person.write")
    async def disable(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> PersonRow:
        """Refuse every login of a person, by whatever proof, from the next one on."""
        now = self._now()
        return await self._change(
            actor,
            tenant,
            name,
            lambda person: replace(person, disabled_at=person.disabled_at or now),
            dry_run=dry_run,
            kind="person.disabled",
        )

    @guarded("person.write")
    async def enable(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> PersonRow:
        """Let a person log in again."""
        return await self._change(
            actor,
            tenant,
            name,
            lambda person: replace(person, disabled_at=None),
            dry_run=dry_run,
            kind="person.enabled",
        )

    @guarded("person.write")
    async def unlock(self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False) -> bool:
        """Forget the failed logins of a person; tell whether there were any."""
        return await self._database.write(
            self._unlock, actor, tenant, naming.person_key(name), dry_run=dry_run
        )

    @guarded("person.password")
    async def set_password(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        password: Secret | None = None,
        *,
        allow_mschap: bool = False,
        dry_run: bool = False,
    ) -> Secret:
        """Set a password, a random one if none is given, and return it, this one time.

        ``allow_mschap`` keeps its NT hash as well, sealed: whoever gets that needs no password
        to log in, so it is kept only where MSCHAPv2 has to be offered.
        """
        key = naming.person_key(name)
        if password is None:
            password = passwords.generate()
        else:
            person = await self._database.read(self._existing, tenant, key)
            self._passwords.check_new(password, person.name, person.mail, person.full_name)
        digest = await self._passwords.hash(about(tenant, key), password)
        sealed = None
        if allow_mschap:
            nt_hash = passwords.nt_hash(password).reveal()
            sealed = self._seal.seal(nt_hash, about=about_nt_hash(tenant, key))
        now = self._now()

        def apply(person: PersonRow) -> PersonRow:
            self._check_local(person)
            return replace(person, password_hash=digest, nt_hash=sealed, password_at=now)

        await self._change(actor, tenant, key, apply, dry_run=dry_run, kind="person.password-set")
        return password

    @guarded("person.password")
    async def remove_password(
        self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False
    ) -> PersonRow:
        """Leave a person without a password."""
        return await self._change(
            actor,
            tenant,
            name,
            lambda person: replace(person, password_hash=None, nt_hash=None, password_at=None),
            dry_run=dry_run,
            kind="person.password-removed",
        )

    @guarded("person.delete")
    async def delete(self, actor: Actor, tenant: str, name: str, *, dry_run: bool = False) -> int:
        """Remove a person; its tokens go back into stock, disabled. Return how many."""
        return await self._database.write(
            self._delete, actor, tenant, naming.person_key(name), dry_run=dry_run
        )

    @guarded("person.read")
    async def list(
        self, actor: Actor, tenant: str, *, after: str = "", limit: int = 100
    ) -> tuple[PersonRow, ...]:
        """Return a page of a tenant's people by name, beginning after the name ``after``."""
        return await self._database.read(rows.find, tenant, after, limit)

    @guarded("person.read")
    async def show(self, actor: Actor, tenant: str, name: str) -> Standing[PersonRow]:
        """Return one person and its failed logins; Fault(NOT_FOUND)."""
        return await self._database.read(self._standing, tenant, naming.person_key(name))

    # -- for logins and decisions -----------------------------------------------------------

    async def by_name(self, tenant: str, name: str) -> PersonRow | None:
        """Return the person that a name means, as of now, whatever its state."""
        return await self._database.lookup(rows.by_name, tenant, naming.person_key(name))

    # -- transactions -----------------------------------------------------------------------

    def _insert(self, connection: Connection, actor: Actor, person: PersonRow) -> None:
        rows.insert(connection, person)
        # Failures that strangers had collected under the name are not this person's.
        login_failures.reset(connection, person.tenant, subject(person.name))
        self._note(connection, "person.created", actor, person, difference(None, person))

    async def _change(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        apply: Callable[[PersonRow], PersonRow],
        *,
        dry_run: bool,
        kind: str = "person.changed",
    ) -> PersonRow:
        key = naming.person_key(name)
        return await self._database.write(
            self._apply, actor, tenant, key, apply, kind, dry_run=dry_run
        )

    def _apply(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        key: str,
        apply: Callable[[PersonRow], PersonRow],
        kind: str,
    ) -> PersonRow:
        old = rows.locked(connection, tenant, key)
        if old is None:
            raise absent(key)
        new = apply(old)
        if new == old:
            return old
        new = replace(new, updated_at=self._now())
        rows.update(connection, new)
        self._note(connection, kind, actor, new, difference(old, new))
        return new

    def _unlock(self, connection: Connection, actor: Actor, tenant: str, key: str) -> bool:
        person = self._existing(connection, tenant, key)
        if not login_failures.reset(connection, tenant, subject(key)):
            return False
        self._note(connection, "person.unlocked", actor, person, [])
        return True

    def _delete(self, connection: Connection, actor: Actor, tenant: str, key: str) -> int:
        person = rows.locked(connection, tenant, key)
        if person is None:
            raise absent(key)
        tokens = otp_tokens.release(connection, tenant, key)
        # Whoever gets the name next must not be met by codes on somebody else's paper.
        one_time_codes.void(connection, tenant, key, None, self._now())
        login_failures.reset(connection, tenant, subject(key))
        rows.delete(connection, tenant, key)
        self._note(connection, "person.deleted", actor, person, difference(person, None))
        return tokens

    def _existing(self, connection: Connection, tenant: str, key: str) -> PersonRow:
        person = rows.by_name(connection, tenant, key)
        if person is None:
            raise absent(key)
        return person

    def _standing(self, connection: Connection, tenant: str, key: str) -> Standing[PersonRow]:
        person = self._existing(connection, tenant, key)
        return standing(connection, person, tenant, subject(key), self._now())

    @staticmethod
    def _check_local(person: PersonRow) -> None:
        if person.source != _LOCAL:
            raise Fault(
                FaultCode.CONFLICT,
                f"{person.name} comes from {person.source}: it is changed there",
                rule="person.source",
                values={"source": person.source},
            )

    def _note(
        self,
        connection: Connection,
        kind: str,
        actor: Actor,
        person: PersonRow,
        lines: Sequence[str],
    ) -> None:
        self.journal.append(
            connection,
            Event(
                kind=kind,
                tenant=person.tenant,
                actor=actor.name,
                object=subject(person.name),
                data={"difference": list(lines)},
            ),
        )


def subject(name: str) -> str:
    """Return how journal and failure counters name a person."""
    return f"person:{name}"


def about(tenant: str, name: str) -> str:
    """Return what the hash of a person's password is bound to."""
    return f"password {tenant}/{name}"


def about_nt_hash(tenant: str, name: str) -> str:
    """Return what the NT hash of a person's password is sealed for."""
    return f"nt-hash {tenant}/{name}"


def absent(name: str) -> Fault:
    """Return the refusal for a person that is not there."""
    return Fault(FaultCode.NOT_FOUND, f"there is no person {name!r}", rule="person.absent")


def difference(old: PersonRow | None, new: PersonRow | None) -> list[str]:
    """Return the lines that turn one into the other; of a password only that it changed."""
    lines = differences.difference(old, new, _SHOWN)
    if old and new and old.password_hash != new.password_hash:
        kept = "" if new.nt_hash is None else ", with NT hash"
        lines.append("- password" if new.password_hash is None else f"~ password{kept}")
    return lines


def _groups(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({naming.group_name(name) for name in names}))
