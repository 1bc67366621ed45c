"""Codes that work once: sent by SMS or mail for one login, or printed for an emergency.

Only a digest under the master key is stored. A code is used up by a conditional UPDATE in the
transaction that lets the person in; a wrong one is counted in that transaction, too, which is
why a refusal is a returned False there: an exception would roll the count back.
"""

from __future__ import annotations

import hmac
import re
import secrets as random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tmad.config import DeliverySection
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import new_id
from tmad.identity.delivery.outbox import Message, Outbox, masked
from tmad.identity.naming import mail_address, person_key, phone_number
from tmad.signer.seal import Seal
from tmad.storage import one_time_codes as rows
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.one_time_codes import CodeRow
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

Sent: TypeAlias = Literal["sms", "mail"]

EMERGENCY_CODES: Final = 10
_EMERGENCY_LENGTH: Final = 10
# Without I, L, O and U: they are copied by hand from paper. 10 characters are 50 bits.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD: Final = str.maketrans({"O": "0", "I": "1", "L": "1"})
_DIGITS: Final = re.compile(rb"[0-9]{6,8}")
_LETTERS: Final = re.compile(rb"[0-9A-Za-z]{10}")
_HOUR: Final = timedelta(hours=1)
_LIVE: Final = 20  # codes of one person and kind that one answer is compared with


class Codes:
    """The one-time codes of one database."""

    def __init__(
        self,
        database: Database,
        journal: Records,
        seal: Seal,
        now: Clock,
        outbox: Outbox,
        settings: DeliverySection,
    ) -> None:
        self.journal = journal
        self._database = database
        self._seal = seal
        self._now = now
        self._outbox = outbox
        self._settings = settings

    # -- for logins -------------------------------------------------------------------------

    def can_send(self, kind: Sent) -> bool:
        """Tell whether this node has a way to send such codes."""
        return self._outbox.has(kind)

    async def send_login_code(self, person: PersonRow, kind: Sent) -> str:
        """Make a code and begin to send it; return its id without waiting for the gateway.

        Fault(RATE_LIMITED) when the person, or everybody together, got too many in an hour;
        Fault(REJECTED) when the person has no number or address; Fault(UNAVAILABLE) when
        nothing can be sent.
        """
        to = _address(person, kind)
        self._outbox.require(kind)
        now = self._now()
        code = Secret(f"{random.randbelow(10**self._settings.digits):0{self._settings.digits}}")
        code_id = new_id(now)
        row = CodeRow(
            id=code_id,
            tenant=person.tenant,
            person=person.name,
            kind=kind,
            digest=self._digest(person.tenant, person.name, kind, code),
            tries_left=self._settings.tries,
            expires_at=now + timedelta(seconds=self._settings.lifetime_seconds),
            created_at=now,
        )
        await self._database.write(self._insert_sent, row, masked(to))
        self._outbox.post(
            Message(
                tenant=person.tenant,
                person=person.name,
                kind=kind,
                to=to,
                text=self._text(code),
                about=code_id,
                lifetime=timedelta(seconds=self._settings.lifetime_seconds),
            )
        )
        return code_id

    def verify_in(
        self,
        connection: Connection,
        tenant: str,
        person: str,
        kind: Literal["sms", "mail", "emergency"],
        code: Secret,
        now: datetime,
    ) -> bool:
        """Use up the code and return True, or count a wrong one and return False.

        The caller commits either way. Spaces and dashes make no difference; a code that is
        right makes the others of its kind void, but for emergency codes.
        """
        typed = _canonical(code, kind)
        # An answer that is no code at all is looked up like any other: it takes as long.
        digest = self._digest(tenant, person, kind, typed)
        live = rows.find_live(connection, tenant, person, kind, now, _LIVE)
        matching = [row for row in live if hmac.compare_digest(row.digest, digest)]
        if typed and matching and rows.use(connection, matching[0].id, now):
            if kind != "emergency":
                rows.void(connection, tenant, person, kind, now)
            else:
                self.journal.append(
                    connection,
                    Event(
                        kind="code.emergency-used",
                        tenant=tenant,
                        actor=f"person:{person}",
                        object=matching[0].id,
                        data={"left": len(live) - 1},
                    ),
                )
            return True
        if kind != "emergency":
            # An emergency code is long enough; the person's own counter bounds the guessing.
            rows.miss(connection, tenant, person, kind, now)
        return False

    # -- for actors -------------------------------------------------------------------------

    @guarded("token.write")
    async def make_emergency(
        self, actor: Actor, tenant: str, person: str, *, dry_run: bool = False
    ) -> tuple[Secret, ...]:
        """Make ten emergency codes and return them, this one time; earlier ones become void."""
        name = person_key(person)
        now = self._now()
        codes = tuple(Secret(_emergency_code()) for _ in range(EMERGENCY_CODES))
        made = [
            CodeRow(
                id=new_id(now),
                tenant=tenant,
                person=name,
                kind="emergency",
                digest=self._digest(tenant, name, "emergency", code),
                tries_left=1,
                expires_at=None,
                created_at=now,
            )
            for code in codes
        ]
        await self._database.write(self._replace, actor, tenant, name, made, dry_run=dry_run)
        return codes

    @guarded("token.read")
    async def count_emergency(self, actor: Actor, tenant: str, person: str) -> int:
        """Return how many emergency codes a person has left; Fault(NOT_FOUND)."""
        return await self._database.read(self._count, tenant, person_key(person))

    @guarded("token.delete")
    async def revoke_emergency(
        self, actor: Actor, tenant: str, person: str, *, dry_run: bool = False
    ) -> int:
        """Make a person's emergency codes void; return how many there were."""
        return await self._database.write(
            self._replace, actor, tenant, person_key(person), [], dry_run=dry_run
        )

    @guarded("configuration.apply")
    async def test_delivery(self, actor: Actor, tenant: str, kind: Sent, to: str) -> str:
        """Send a message without a code and wait; return what the gateway calls it."""
        address = phone_number(to) if kind == "sms" else mail_address(to)
        if not address:
            raise _no_address(kind)
        event = Event(
            kind="delivery.tested",
            tenant=tenant,
            actor=actor.name,
            data={"kind": kind, "to": masked(address)},
        )
        await self.journal.write(event)
        return await self._outbox.send_now(
            kind, address, Secret("This is a test of code delivery.")
        )

    # -- upkeep -----------------------------------------------------------------------------

    async def prune(self) -> int:
        """Delete codes that ended a day ago; return how many."""
        return await self._database.write(rows.prune, self._now() - timedelta(days=1), 1_000)

    async def close(self) -> None:
        """Give up what is on its way."""
        await self._outbox.close()

    # -- transactions -----------------------------------------------------------------------

    def _insert_sent(self, connection: Connection, row: CodeRow, to: str) -> None:
        rows.lock_sending(connection)
        # Ids begin with the time, so that the primary key finds the last hour.
        since = new_id(row.created_at - _HOUR)
        person, everybody = self._settings.person_per_hour, self._settings.all_per_hour
        sent = rows.count_sent(connection, since, person, tenant=row.tenant, person=row.person)
        if sent >= person:
            raise _too_many("otp.code.limit-person", person)
        if rows.count_sent(connection, since, everybody) >= everybody:
            raise _too_many("otp.code.limit-all", everybody)
        rows.insert(connection, [row])
        self.journal.append(
            connection,
            Event(
                kind="code.requested",
                tenant=row.tenant,
                actor=f"person:{row.person}",
                object=row.id,
                data={"kind": row.kind, "to": to},
            ),
        )

    def _replace(
        self, connection: Connection, actor: Actor, tenant: str, person: str, made: list[CodeRow]
    ) -> int:
        _require_person(connection, tenant, person)
        before = rows.void(connection, tenant, person, "emergency", self._now())
        if made:
            rows.insert(connection, made)
        self.journal.append(
            connection,
            Event(
                kind="code.emergency-made" if made else "code.emergency-revoked",
                tenant=tenant,
                actor=actor.name,
                object=person,
                data={"codes": len(made), "voided": before},
            ),
        )
        return before

    def _count(self, connection: Connection, tenant: str, person: str) -> int:
        _require_person(connection, tenant, person)
        live = rows.find_live(connection, tenant, person, "emergency", self._now(), EMERGENCY_CODES)
        return len(live)

    def _digest(self, tenant: str, person: str, kind: str, code: Secret) -> bytes:
        return self._seal.digest(f"one-time-code {kind} {tenant}/{person}", code)

    def _text(self, code: Secret) -> Secret:
        shown = code.reveal().decode()
        minutes = str(max(1, self._settings.lifetime_seconds // 60))
        text = re.sub(r"\{\{\s*code\s*\}\}", shown, self._settings.text)
        text = re.sub(r"\{\{\s*minutes\s*\}\}", minutes, text)
        if self._settings.origin:
            text = f"{text}\n\n@{self._settings.origin} #{shown}"
        return Secret(text)


def grouped(code: Secret) -> str:
    """Return an emergency code for paper: two groups of five."""
    text = code.reveal().decode()
    return f"{text[:5]}-{text[5:]}"


def _emergency_code() -> str:
    return "".join(random.choice(_ALPHABET) for _ in range(_EMERGENCY_LENGTH))


def _canonical(code: Secret, kind: str) -> Secret:
    """Return a code as it was made, or an empty one for what cannot be a code."""
    plain = code.reveal().replace(b" ", b"").replace(b"-", b"")
    if kind != "emergency":
        return Secret(plain if _DIGITS.fullmatch(plain) else b"")
    if not _LETTERS.fullmatch(plain):
        return Secret(b"")
    return Secret(plain.decode("ascii").upper().translate(_MISREAD))


def _address(person: PersonRow, kind: Sent) -> str:
    to = person.phone if kind == "sms" else person.mail
    if not to:
        raise _no_address(kind)
    return to


def _no_address(kind: Sent) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        f"there is no {'telephone number' if kind == 'sms' else 'mail address'} to send a code to",
        rule="otp.code.address",
        values={"kind": kind},
    )


def _too_many(rule: str, limit: int) -> Fault:
    return Fault(
        FaultCode.RATE_LIMITED,
        f"more than {limit} codes in an hour",
        retry_after=600,
        rule=rule,
        values={"limit": str(limit)},
    )


def _require_person(connection: Connection, tenant: str, person: str) -> None:
    if people.by_name(connection, tenant, person) is None:
        raise Fault(
            FaultCode.NOT_FOUND,
            f"there is no person {person!r}",
            rule="person.absent",
            values={"person": person},
        )
