"""Tokens for one-time passwords: soft ones made here, hardware ones taken over.

Seeds are sealed and leave once, in the otpauth URI of a new soft token. A code is used up by a
compare-and-set of the token's counter (storage/otp_tokens.py): whatever the door, the spelling
or the worker, one login succeeds by it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event, Secret
from tmad.identity import naming, otp, otpauth, passwords
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import new_id
from tmad.identity.otp import Match, Position, Shape, Windows
from tmad.identity.passwords import Passwords
from tmad.identity.people import absent as no_such_person
from tmad.identity.standing import Standing, standing
from tmad.identity.tokenseed import Algorithm, Kind, TokenSeed, token_seed
from tmad.signer.seal import Seal
from tmad.storage import login_failures, people
from tmad.storage import otp_tokens as rows
from tmad.storage.database import Database
from tmad.storage.otp_tokens import TokenRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST: Final = 10  # tokens of one person
_CHUNK: Final = 500  # tokens that are imported in one transaction
_SEED: Final = {"sha1": 20, "sha256": 32, "sha512": 64}  # octets; RFC 4226, 4 R6; RFC 6238, 3


class Import(NamedTuple):
    """What became of the tokens of a file: serial numbers, and why some were refused."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]  # serial, why


class Hit(NamedTuple):
    """A token that has the presented code somewhere in its window."""

    token: TokenRow
    match: Match


class Tokens:
    """The tokens of one database."""

    def __init__(
        self, database: Database, journal: Records, checks: Passwords, seal: Seal, now: Clock
    ) -> None:
        self.journal = journal
        self._database = database
        self._passwords = checks
        self._seal = seal
        self._now = now
        self.nobodys = self._sealed_row(
            "", token_seed(serial="NOBODYS", kind="totp", seed=secrets.token_bytes(20))
        )

    # -- for actors -------------------------------------------------------------------------

    @guarded("token.write")
    async def create(
        self,
        actor: Actor,
        tenant: str,
        person: str,
        *,
        kind: Kind = "totp",
        algorithm: Algorithm = "sha1",
        digits: int = 6,
        period: int = 30,
        serial: str = "",
        description: str = "",
        issuer: str = "tmad",
        dry_run: bool = False,
    ) -> tuple[TokenRow, Secret]:
        """Make a soft token; return it with its otpauth URI, this one time.

        It is "new" until ``activate`` or a login has seen one valid code.
        """
        key = naming.person_key(person)
        try:
            made = token_seed(
                serial=serial or f"TM{secrets.token_hex(5)}",
                kind=kind,
                seed=secrets.token_bytes(_SEED[algorithm]),
                algorithm=algorithm,
                digits=digits,
                period=period,
                person=key,
            )
        except ValueError as error:
            raise Fault(FaultCode.REJECTED, str(error), rule="otp.parameter") from None
        uri = otpauth.uri(
            kind=made.kind,
            issuer=issuer,
            account=key,
            seed=made.seed,
            algorithm=made.algorithm,
            digits=made.digits,
            period=made.period,
        )
        token = replace(
            self._sealed_row(tenant, made),
            description=naming.line(description, "a description", rule="otp.parameter"),
        )
        await self._database.write(self._insert, actor, token, dry_run=dry_run)
        return token, uri

    @guarded("token.import")
    async def import_(
        self, actor: Actor, tenant: str, seeds: Iterable[TokenSeed], *, dry_run: bool = False
    ) -> Import:
        """Take over tokens that were made elsewhere, into stock or for the person they name.

        Those whose serial number is known already stay as they are.
        """
        every = list(seeds)
        parts = [
            await self._database.write(
                self._import, actor, tenant, every[at : at + _CHUNK], dry_run=dry_run
            )
            for at in range(0, len(every), _CHUNK)
        ]
        return Import(
            tuple(serial for part in parts for serial in part.added),
            tuple(serial for part in parts for serial in part.present),
            tuple(refused for part in parts for refused in part.refused),
        )

    @guarded("token.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        *,
        person: str | None = None,
        state: str | None = None,
        in_stock: bool = False,
        after: str = "",
        limit: int = 100,
    ) -> tuple[TokenRow, ...]:
        """Return a page of tokens by serial number, beginning after ``after``."""
        holder = None if person is None else naming.person_key(person)

        def find(connection: Connection) -> tuple[TokenRow, ...]:
            return rows.find(
                connection,
                tenant,
                person=holder,
                state=state,
                in_stock=in_stock,
                after=after,
                limit=limit,
            )

        return await self._database.read(find)

    @guarded("token.read")
    async def show(self, actor: Actor, tenant: str, serial: str) -> Standing[TokenRow]:
        """Return one token and its failures; Fault(NOT_FOUND)."""
        return await self._database.read(self._standing, tenant, _serial(serial))

    @guarded("token.write")
    async def assign(
        self,
        actor: Actor,
        tenant: str,
        serial: str,
        person: str,
        *,
        needs_code: bool = False,
        dry_run: bool = False,
    ) -> TokenRow:
        """Give a token from the stock to a person.

        With ``needs_code`` it counts as new until one valid code was seen.
        """
        key = naming.person_key(person)
        now = self._now()

        def apply(connection: Connection, token: TokenRow) -> TokenRow:
            if token.person is not None:
                raise Fault(
                    FaultCode.CONFLICT,
                    f"the token {token.serial} belongs to {token.person}",
                    rule="otp.assigned",
                    values={"serial": token.serial, "person": token.person},
                )
            self._check_person(connection, tenant, key)
            login_failures.reset(connection, tenant, subject(token))
            return replace(
                token,
                person=key,
                state="new" if needs_code else "active",
                activated_at=None if needs_code else now,
            )

        return await self._change(actor, tenant, serial, apply, "token.assigned", dry_run)

    @guarded("token.write")
    async def unassign(
        self, actor: Actor, tenant: str, serial: str, *, dry_run: bool = False
    ) -> TokenRow:
        """Put a token back into stock, without its PIN."""
        return await self._change(
            actor,
            tenant,
            serial,
            lambda _, token: replace(
                token, person=None, pin_hash=None, state="disabled", activated_at=None
            ),
            "token.unassigned",
            dry_run,
        )

    @guarded("token.write")
    async def activate(
        self, actor: Actor, tenant: str, serial: str, code: Secret, *, dry_run: bool = False
    ) -> TokenRow:
        """Make a new token usable by one valid code, which is used up."""
        now = self._now()

        def apply(_: Connection, token: TokenRow) -> TokenRow:
            digits = _digits(code)
            match = self._find(token, digits, Windows(steps=2), now)
            if match is None or match.is_replay:
                raise _wrong_code(token)
            return replace(
                token,
                counter=match.moment + 1,
                drift=match.drift,
                state="active",
                activated_at=token.activated_at or now,
                used_at=now,
            )

        return await self._change(actor, tenant, serial, apply, "token.activated", dry_run)

    @guarded("token.reset")
    async def resync(
        self,
        actor: Actor,
        tenant: str,
        serial: str,
        first: Secret,
        second: Secret,
        *,
        dry_run: bool = False,
    ) -> TokenRow:
        """Find a token that has run away, by two consecutive codes (RFC 4226, 7.4)."""
        now = self._now()

        def apply(_: Connection, token: TokenRow) -> TokenRow:
            match = otp.find_two(
                self._seed(token).reveal(),
                _shape(token),
                Position(token.counter, token.drift),
                _digits(first),
                _digits(second),
                now,
            )
            if match is None:
                raise _wrong_code(token)
            return replace(token, counter=match.moment + 1, drift=match.drift, used_at=now)

        return await self._change(actor, tenant, serial, apply, "token.resynchronised", dry_run)

    @guarded("token.write")
    async def set_pin(
        self,
        actor: Actor,
        tenant: str,
        serial: str,
        pin: Secret | None,
        *,
        dry_run: bool = False,
    ) -> TokenRow:
        """Set the PIN that stands in front of a token's codes, or take it away."""
        token = await self._database.read(self._existing, tenant, _serial(serial))
        digest = None
        if pin is not None:
            passwords.check_new_pin(pin)
            digest = await self._passwords.hash(about_pin(token), pin)
        return await self._change(
            actor,
            tenant,
            serial,
            lambda _, token: replace(token, pin_hash=digest),
            "token.pin-set" if pin else "token.pin-removed",
            dry_run,
        )

    @guarded("token.write")
    async def disable(
        self, actor: Actor, tenant: str, serial: str, *, dry_run: bool = False
    ) -> TokenRow:
        """Accept no code of a token any more."""
        return await self._change(
            actor,
            tenant,
            serial,
            lambda _, token: replace(token, state="disabled"),
            "token.disabled",
            dry_run,
        )

    @guarded("token.write")
    async def enable(
        self, actor: Actor, tenant: str, serial: str, *, dry_run: bool = False
    ) -> TokenRow:
        """Accept the codes of a disabled token again."""
        return await self._change(
            actor,
            tenant,
            serial,
            lambda _, token: replace(token, state="active" if token.activated_at else "new"),
            "token.enabled",
            dry_run,
        )

    @guarded("token.reset")
    async def unlock(
        self, actor: Actor, tenant: str, serial: str, *, dry_run: bool = False
    ) -> bool:
        """Forget the failures of a token; tell whether there were any."""
        return await self._database.write(
            self._unlock, actor, tenant, _serial(serial), dry_run=dry_run
        )

    @guarded("token.delete")
    async def delete(
        self, actor: Actor, tenant: str, serial: str, *, dry_run: bool = False
    ) -> None:
        """Remove a token and its seed; Fault(NOT_FOUND)."""
        await self._database.write(self._delete, actor, tenant, _serial(serial), dry_run=dry_run)

    # -- for logins -------------------------------------------------------------------------

    def find_hit(
        self, tokens: Sequence[TokenRow], code: bytes, windows: Windows, now: datetime
    ) -> Hit | None:
        """Return the token whose code this is; one that can be used, before a replay.

        Every token is tried, whatever matches. Changes nothing: ``use`` decides.
        """
        digits = otp.typed_code(code) or ""
        hits = []
        for token in tokens:
            match = self._find(token, digits, windows, now)
            if match is not None:
                hits.append(Hit(token, match))
        return min(hits, key=lambda hit: hit.match.is_replay, default=None)

    def _find(self, token: TokenRow, digits: str, windows: Windows, now: datetime) -> Match | None:
        return otp.find(
            self._seed(token).reveal(),
            _shape(token),
            Position(token.counter, token.drift),
            digits,
            windows,
            now,
        )

    # -- transactions -----------------------------------------------------------------------

    def _insert(self, connection: Connection, actor: Actor, token: TokenRow) -> None:
        self._check_person(connection, token.tenant, token.person or "")
        rows.insert(connection, token)
        self._note(connection, "token.created", actor, token)

    def _import(
        self, connection: Connection, actor: Actor, tenant: str, seeds: Sequence[TokenSeed]
    ) -> Import:
        added: list[str] = []
        present: list[str] = []
        refused: list[tuple[str, str]] = []
        now = self._now()
        for seed in seeds:
            if rows.by_serial(connection, tenant, seed.serial) is not None:
                present.append(seed.serial)
                continue
            token = self._sealed_row(tenant, seed)
            if token.person is not None:
                try:
                    self._check_person(connection, tenant, token.person)
                except Fault as fault:
                    refused.append((seed.serial, fault.detail))
                    continue
                token = replace(token, state="active", activated_at=now)
            rows.insert(connection, token)
            added.append(seed.serial)
        if added:
            self.journal.append(
                connection,
                Event(
                    kind="token.imported",
                    tenant=tenant,
                    actor=actor.name,
                    data={"count": len(added), "serials": list(added)},
                ),
            )
        return Import(tuple(added), tuple(present), tuple(refused))

    async def _change(
        self,
        actor: Actor,
        tenant: str,
        serial: str,
        apply: Callable[[Connection, TokenRow], TokenRow],
        kind: str,
        dry_run: bool,
    ) -> TokenRow:
        return await self._database.write(
            self._apply, actor, tenant, _serial(serial), apply, kind, dry_run=dry_run
        )

    def _apply(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        serial: str,
        apply: Callable[[Connection, TokenRow], TokenRow],
        kind: str,
    ) -> TokenRow:
        old = rows.locked(connection, tenant, serial)
        if old is None:
            raise _absent(serial)
        new = apply(connection, old)
        if new == old:
            return old
        rows.update(connection, new)
        self._note(connection, kind, actor, new, was=old.person)
        return new

    def _unlock(self, connection: Connection, actor: Actor, tenant: str, serial: str) -> bool:
        token = self._existing(connection, tenant, serial)
        if not login_failures.reset(connection, tenant, subject(token)):
            return False
        self._note(connection, "token.unlocked", actor, token)
        return True

    def _delete(self, connection: Connection, actor: Actor, tenant: str, serial: str) -> None:
        token = rows.locked(connection, tenant, serial)
        if token is None:
            raise _absent(serial)
        rows.delete(connection, token.id)
        login_failures.reset(connection, tenant, subject(token))
        self._note(connection, "token.deleted", actor, token)

    @staticmethod
    def _existing(connection: Connection, tenant: str, serial: str) -> TokenRow:
        token = rows.by_serial(connection, tenant, serial)
        if token is None:
            raise _absent(serial)
        return token

    def _standing(self, connection: Connection, tenant: str, serial: str) -> Standing[TokenRow]:
        token = self._existing(connection, tenant, serial)
        return standing(connection, token, tenant, subject(token), self._now())

    @staticmethod
    def _check_person(connection: Connection, tenant: str, person: str) -> None:
        if people.locked(connection, tenant, person) is None:
            raise no_such_person(person)
        if len(rows.find_by_person(connection, tenant, person, MOST)) >= MOST:
            raise Fault(
                FaultCode.CONFLICT,
                f"{person} has {MOST} tokens, which is the most",
                rule="otp.too-many",
                values={"person": person, "most": str(MOST)},
            )

    def _sealed_row(self, tenant: str, seed: TokenSeed) -> TokenRow:
        now = self._now()
        token_id = new_id(now)
        return TokenRow(
            id=token_id,
            tenant=tenant,
            serial=seed.serial,
            person=None if seed.person is None else naming.person_key(seed.person),
            kind=seed.kind,
            algorithm=seed.algorithm,
            digits=seed.digits,
            period=seed.period,
            seed=self._seal.seal(seed.seed.reveal(), about=_about_seed(token_id)),
            counter=seed.counter,
            created_at=now,
        )

    def _seed(self, token: TokenRow) -> Secret:
        return self._seal.open(token.seed, about=_about_seed(token.id))

    def _note(
        self,
        connection: Connection,
        kind: str,
        actor: Actor,
        token: TokenRow,
        *,
        was: str | None = None,
    ) -> None:
        data: dict[str, JSON] = {
            "serial": token.serial,
            "person": token.person or was or "",
            "state": token.state,
        }
        self.journal.append(
            connection,
            Event(
                kind=kind,
                tenant=token.tenant,
                actor=actor.name,
                object=subject(token),
                data=data,
            ),
        )


def advance_of(hit: Hit, now: datetime) -> rows.Advance:
    """Return what uses a code up, in the transaction that makes the login.

    Of many logins by one code, one is made.
    """
    match = hit.match
    return rows.Advance(hit.token.id, hit.token.person, match.moment, match.drift, now)


def subject(token: TokenRow) -> str:
    """Return how journal and failure counters name a token."""
    return f"token:{token.id}"


def about_pin(token: TokenRow) -> str:
    """Return what the hash of a token's PIN is bound to."""
    return f"otp-pin {token.id}"


def _about_seed(token_id: str) -> str:
    return f"otp-seed {token_id}"


def _shape(token: TokenRow) -> Shape:
    return Shape(token.algorithm, token.digits, token.period)


def _serial(text: str) -> str:
    return text.strip().upper()


def _digits(code: Secret) -> str:
    digits = otp.typed_code(code.reveal())
    if digits is None:
        raise Fault(FaultCode.REJECTED, "a code has 6 to 8 digits", rule="otp.code")
    return digits


def _wrong_code(token: TokenRow) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        f"the token {token.serial} does not show that, or showed it before",
        rule="otp.code",
        values={"serial": token.serial},
    )


def _absent(serial: str) -> Fault:
    return Fault(FaultCode.NOT_FOUND, f"there is no token {serial!r}", rule="otp.absent")
