"""Tells people and services what the journal holds, by mail and by webhook.

Two jobs, each in one process of all. The first reads the journal and writes, in the transaction
that moves its cursor, which message tells of which records. The second sends what is due: a
message is claimed, handed over, and either done with or due again after a pause. A record is so
never forgotten and never queued twice; a message may arrive twice, when a node dies between the
receiver's answer and our note of it, and has the same name then.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event, Secret
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.delivery.mail import MailDelivery
from tmad.journal import Journal
from tmad.lifecycle import gathering, messages
from tmad.lifecycle.messages import Telling
from tmad.lifecycle.notification import FAILED, KIND, Mail, NotificationDocument, Rule
from tmad.lifecycle.webhooks import WebhookSender
from tmad.managed.catalogue import absent
from tmad.storage import deliveries as rows
from tmad.storage import objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.deliveries import DeliveryRow
from tmad.storage.journal import Record
from tmad.storage.kept import Kept

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from twisted.python.failure import Failure

log = Logger()

SUBSCRIBER: Final = "notifications"
WAYS: Final = ("mail", "webhook")
OUTCOMES: Final = ("delivered", "retried", "failed")

_PAGE: Final = 500
_MOST_PAGES: Final = 20  # of records, in one turn
_SKIP_EVERY: Final = timedelta(minutes=1)
_AT_ONCE: Final = 16  # messages on their way
_GRACE: Final = timedelta(seconds=20)  # beyond the patience with a receiver
# Before the next try: a day in all, then it is given up.
_PAUSES: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800)
)
_PATIENT_TRIES: Final = 4  # how often one mailbox may hold up the others
_KEPT: Final = timedelta(days=90)
_FINAL: Final = frozenset(
    {"notification.gone", "notification.off", "otp.delivery.recipient", "otp.delivery.address"}
)

Rules = Mapping[tuple[str, str], Rule]


class Notifications:
    """Every tenant's notifications: what they wait for, and what became of their messages."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        changes: Changes,
        now: Clock,
        *,
        node: str,
        mail: MailDelivery | None,
        webhooks: WebhookSender,
    ) -> None:
        """``mail`` is None where the settings name no mail server."""
        self.journal = journal
        self._database = database
        self._changes = changes
        self._now = now
        self._node = node
        self._mail = mail
        self._webhooks = webhooks
        self._rules: Kept[Rules] = Kept()
        self._skipped_at: datetime | None = None
        self._under_way: dict[tuple[str, str], Deferred[None]] = {}
        # (way, outcome) -> messages of this process, for /metrics
        self.counts: Counter[tuple[str, str]] = Counter()
        changes.listen("objects", self._forget)

    @property
    def has_mail(self) -> bool:
        """Whether mail can leave this node."""
        return self._mail is not None

    # -- jobs, each in one process of all -----------------------------------------------------

    async def gather(self) -> None:
        """Write down who is to be told of what has been journaled since the last time."""
        rules = [rule for rule in (await self._load()).values() if rule.document.enabled]
        if not rules:
            await self._skip()
            return
        take = functools.partial(self._take, rules)
        for _ in range(_MOST_PAGES):
            if await self.journal.transfer(SUBSCRIBER, take, _PAGE) < _PAGE:
                return

    async def send_due(self) -> None:
        """Begin to send what is due, one message of each notification at a time."""
        room = _AT_ONCE - len(self._under_way)
        if room <= 0:
            return
        now = self._now()
        found = await self._database.read(rows.due, now, room + len(self._under_way))
        waiting = [(key, each) for *key, each in found if tuple(key) not in self._under_way]
        rules = await self._load()
        for (tenant, name), each in waiting[:room]:
            until = now + self._patience(rules.get((tenant, name))) + _GRACE
            row = await self._database.write(rows.claim, each, now, until)
            if row is not None:
                self._begin((tenant, name), row)

    async def prune(self) -> None:
        """Delete what has been done with long ago."""
        await self._database.write(rows.prune, self._now() - _KEPT, _PAGE)

    async def close(self) -> None:
        """Give up what is on its way; it is due again later."""
        waiting = list(self._under_way.values())
        for task in waiting:
            task.cancel()
        await DeferredList(waiting)

    # -- for actors ---------------------------------------------------------------------------

    @guarded("notification.read")
    async def deliveries(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[DeliveryRow]:
        """Return a page of a notification's messages, newest first; it may be deleted by now."""
        return await self._database.read(rows.find, tenant, name, before, limit)

    @guarded("notification.write")
    async def redeliver(
        self, actor: Actor, tenant: str, number: int, *, dry_run: bool = False
    ) -> DeliveryRow:
        """Send a message once more that was delivered or given up; Fault(CONFLICT) if it waits."""
        return await self._database.write(self._send_again, actor, tenant, number, dry_run=dry_run)

    @guarded("notification.write")
    async def test(self, actor: Actor, tenant: str, name: str) -> str:
        """Send a made-up record now; return what the receiver answered, or raise its Fault."""
        document = await self._document(tenant, name)
        now = self._now()
        record = Record(
            "test", 1, now, tenant, "notification.test", actor.name, f"{KIND}/{name}", "",
            '{"text":"This is a test of the notification."}', b"", b"",
        )  # fmt: skip
        telling = Telling(
            node=self._node,
            tenant=tenant,
            notification=name,
            kinds={record.kind: 1},
            records=[record],
        )
        outcome = "failed"
        try:
            outcome = await self._hand_over(document, telling, gathering.name_message(), last=True)
        finally:
            await self.journal.write(
                Event(
                    kind="notification.tested",
                    tenant=tenant,
                    actor=actor.name,
                    object=f"{KIND}/{name}",
                    data={"way": document.way, "outcome": outcome},
                )
            )
        return outcome

    def seal_key(self, tenant: str, name: str, key: Secret) -> str:
        """Return what a notification's document may hold of the key that signs."""
        return self._webhooks.seal_key(f"{tenant}/{name}", key)

    def seal_url_secret(self, tenant: str, name: str, secret: Secret) -> str:
        """Return what a notification's document may hold of the secret in its URL."""
        return self._webhooks.seal_url_secret(f"{tenant}/{name}", secret)

    # -- what is known of notifications -------------------------------------------------------

    async def _load(self) -> Rules:
        await self._changes.catch_up()
        rules = self._rules.value
        if rules is None:
            rules = await self._rules.fill(self._database.read(gathering.find_rules))
        return rules

    def _forget(self, key: str) -> None:
        if key == "*" or f"/{KIND}/" in key or key.startswith("*/tenant/"):
            self._rules.forget()

    async def _document(self, tenant: str, name: str) -> NotificationDocument:
        row = await self._database.read(objects.by_name, tenant, KIND, name)
        if row is None:
            raise absent(tenant, KIND, name)
        return NotificationDocument.model_validate_json(row.document)

    # -- gathering ----------------------------------------------------------------------------

    async def _skip(self) -> None:
        """Leave behind what nobody wants to hear of, so that the first one need not read it."""
        now = self._now()
        if self._skipped_at is None or now - self._skipped_at >= _SKIP_EVERY:
            await self.journal.skip(SUBSCRIBER)
            self._skipped_at = now

    def _take(
        self, rules: Sequence[Rule], connection: Connection, records: Sequence[Record]
    ) -> None:
        hearing: dict[tuple[str, str], list[Rule]] = {}
        wanted: dict[tuple[str, str], tuple[Rule, list[Record]]] = {}
        for record in records:
            key = (record.tenant, record.kind)
            if key not in hearing:
                hearing[key] = [rule for rule in rules if rule.hears(*key)]
            for rule in hearing[key]:
                if rule.wants(record):
                    wanted.setdefault((rule.tenant, rule.name), (rule, []))[1].append(record)
        for rule, told in wanted.values():
            gathering.queue(connection, rule, told, self._now())

    # -- sending ------------------------------------------------------------------------------

    def _patience(self, rule: Rule | None) -> timedelta:
        """Return how long sending may take: as long, a message is not due for anybody else."""
        hook = None if rule is None else rule.document.webhook
        if hook is not None:
            return timedelta(seconds=hook.timeout_seconds)
        return timedelta(seconds=0 if self._mail is None else self._mail.patience)

    def _begin(self, key: tuple[str, str], row: DeliveryRow) -> None:
        task = ensureDeferred(self._deliver(row))
        self._under_way[key] = task

        def over(failure: Failure | None) -> None:
            self._under_way.pop(key, None)
            if failure is not None and not failure.check(CancelledError):  # type: ignore[no-untyped-call]  # Twisted's class
                # The database is away: the claim ends by itself, and it is due again.
                log.failure("a notification was left undone", failure=failure)

        task.addBoth(over)

    async def _deliver(self, row: DeliveryRow) -> None:
        way = "mail"
        try:
            document = self._sendable((await self._load()).get((row.tenant, row.notification)))
            way = document.way
            records = await self._database.read(rows.find_records, row.places)
            telling = Telling(
                node=self._node,
                tenant=row.tenant,
                notification=row.notification,
                kinds=row.counts,
                records=records,
            )
            last = row.attempts >= _PATIENT_TRIES
            outcome = await self._hand_over(document, telling, row.message, last=last)
        except Fault as fault:
            if fault.code is FaultCode.UNAVAILABLE or fault.rule not in _FINAL:
                await self._try_later(row, way, fault)
            else:
                await self._give_up(row, way, fault)
        except Exception as error:
            if isinstance(error, CancelledError):
                raise
            log.failure("sending a notification is broken")
            broken = Fault(FaultCode.INTERNAL, "a mistake of ours; the log shows it")
            await self._try_later(row, way, broken)
        else:
            self.counts[way, "delivered"] += 1
            done = functools.partial(rows.finish, done_at=self._now())
            await self._database.write(done, row, "delivered", outcome[:500])

    @staticmethod
    def _sendable(rule: Rule | None) -> NotificationDocument:
        if rule is None or not rule.document.enabled:
            raise Fault(
                FaultCode.REJECTED,
                "the notification is switched off or deleted",
                rule="notification.off",
            )
        return rule.document

    async def _hand_over(
        self, document: NotificationDocument, telling: Telling, message: str, *, last: bool
    ) -> str:
        if document.mail is not None:
            return await self._mail_out(document.mail, telling, message, waits=not last)
        hook = document.webhook
        assert hook is not None  # the document's own check
        body = messages.chat(telling) if hook.format == "chat" else messages.payload(telling)
        owner = f"{telling.tenant}/{telling.notification}"
        return await self._webhooks.send(hook, owner, message, body)

    async def _mail_out(self, mail: Mail, telling: Telling, message: str, *, waits: bool) -> str:
        if self._mail is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "nothing sends mail here; the settings have no [delivery.mail]",
                rule="notification.mail-off",
            )
        submitted = await self._mail.submit(
            mail.to,
            messages.subject(mail.subject, telling),
            messages.text(mail.text, telling),
            name=message,
            waits=waits,
        )
        refused = ", ".join(submitted.refused)
        return submitted.message_id + (f", but not for {refused}" if refused else "")

    async def _try_later(self, row: DeliveryRow, way: str, fault: Fault) -> None:
        if row.attempts > len(_PAUSES):
            await self._give_up(row, way, fault)
            return
        self.counts[way, "retried"] += 1
        due_at = self._now() + _PAUSES[row.attempts - 1]
        later = functools.partial(rows.finish, due_at=due_at)
        await self._database.write(later, row, "waiting", _why(fault))

    async def _give_up(self, row: DeliveryRow, way: str, fault: Fault) -> None:
        self.counts[way, "failed"] += 1
        await self._database.write(self._note_failure, row, way, fault)

    def _note_failure(
        self, connection: Connection, row: DeliveryRow, way: str, fault: Fault
    ) -> None:
        now = self._now()
        is_ours = rows.finish(connection, row, "failed", _why(fault), done_at=now)
        # What tells of failures only says nothing of its own: two could go on for ever.
        if is_ours and set(row.counts) != {FAILED}:
            self.journal.append(
                connection,
                Event(
                    kind=FAILED,
                    tenant=row.tenant,
                    actor="system",
                    object=f"{KIND}/{row.notification}",
                    data={
                        "delivery": row.id,
                        "way": way,
                        "events": row.events,
                        "attempts": row.attempts,
                        "why": _why(fault),
                    },
                ),
            )

    def _send_again(
        self, connection: Connection, actor: Actor, tenant: str, number: int
    ) -> DeliveryRow:
        row = rows.by_id(connection, tenant, number)
        if row is None:
            raise Fault(
                FaultCode.NOT_FOUND, f"there is no delivery {number}", rule="notification.delivery"
            )
        if objects.by_name(connection, tenant, KIND, row.notification) is None:
            raise absent(tenant, KIND, row.notification)
        if not rows.send_again(connection, tenant, number, gathering.name_message(), self._now()):
            raise Fault(
                FaultCode.CONFLICT,
                f"delivery {number} waits to be sent already",
                rule="notification.waiting",
                values={"attempts": str(row.attempts), "due": str(row.due_at)},
            )
        self.journal.append(
            connection,
            Event(
                kind="notification.redelivered",
                tenant=tenant,
                actor=actor.name,
                object=f"{KIND}/{row.notification}",
                data={"delivery": number, "was": row.state},
            ),
        )
        again = rows.by_id(connection, tenant, number)
        assert again is not None
        return again


def _why(fault: Fault) -> str:
    return (fault.private or fault.detail)[:500]
