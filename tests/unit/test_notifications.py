"""Notifications: which records they tell of, in which messages, and what becomes of these."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook as Receiver
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock as Timer

from tests.support import Clock, drive
from tests.unit.test_webhook import Wire, http
from tmad.errors import Fault, FaultCode
from tmad.events import Event, Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.delivery.mail import Submitted
from tmad.journal import Journal
from tmad.lifecycle import messages, notification, webhooks
from tmad.lifecycle.notification import NotificationDocument, Rule, matches
from tmad.lifecycle.notify import Notifications
from tmad.managed.objects import TENANT, Objects
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.deliveries import DeliveryRow
from tmad.storage.journal import Record

ADMIN = Actor("person:admin", (Grant("administrator", "*"),))


class Post:
    """A mail server, made small: keeps what it gets, or raises what it is told to."""

    patience = 30.0

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.pending: Deferred[Submitted] | None = None

    async def submit(
        self, to: Any, subject: str, text: str, *, name: str, waits: bool
    ) -> Submitted:
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append({"to": to, "subject": subject, "text": text, "name": name, "waits": waits})
        if self.pending is not None:
            return await self.pending
        return Submitted(f"<{name}@example.test>", ())


class World:
    """A node without sockets: two tenants, a mail server and a wire for webhooks."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timer = Timer()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Journal(self.database, "node1", self.clock)
        changes = Changes(self.database)
        self.objects = Objects(
            self.database, self.journal, changes, self.clock, (TENANT, notification.kind())
        )
        for tenant in ("default", "other"):
            drive(self.objects.put(ADMIN, "*", "tenant", tenant, {}))
        self.post = Post()
        self.wire = Wire()
        self.service = self.node(changes)

    def node(self, changes: Changes | None = None) -> Notifications:
        """Return what another process of the same database would have."""
        return Notifications(
            self.database,
            self.journal,
            changes or Changes(self.database),
            self.clock,
            node="node1",
            mail=self.post,  # type: ignore[arg-type]  # the part of it that is used
            webhooks=webhooks.WebhookSender(
                self.timer, Seal(b"k" * 32), self.clock, agent=lambda reactor, hook: self.wire
            ),
        )

    def want(self, name: str = "security", tenant: str = "default", **document: Any) -> None:
        given_: dict[str, Any] = {
            "when": {"events": ["certificate.*"]},
            "mail": {"to": ["ops@example.test"]},
        }
        if "webhook" in document:
            del given_["mail"]
        drive(self.objects.put(ADMIN, tenant, "notification", name, given_ | document))
        # A record of the same instant as the notification would count as later.
        self.clock.advance(seconds=1)

    def happen(self, number: int = 1, **fields: Any) -> None:
        values: dict[str, Any] = {
            "kind": "certificate.revoked",
            "tenant": "default",
            "actor": "person:alice",
            "object": "0A1B",
            "data": {"reason": "keyCompromise"},
        } | fields
        drive(self.journal.write(*(Event(**values) for _ in range(number))))

    def turn(self, **units: float) -> None:
        """Let time pass, then both jobs run once."""
        self.clock.advance(**units)
        drive(self.service.gather())
        drive(self.service.send_due())

    def rows(self, name: str = "security", tenant: str = "default") -> list[DeliveryRow]:
        """Return the messages of a notification, oldest first."""
        return [*drive(self.service.deliveries(ADMIN, tenant, name))][::-1]

    def states(self, name: str = "security") -> list[str]:
        return [row.state for row in self.rows(name)]

    def journaled(self, kind: str) -> list[Record]:
        return [
            record for record in drive(self.journal.tail(None, limit=500)) if record.kind == kind
        ]


@pytest.fixture
def world() -> World:
    return World()


# -- which records -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("certificate.issued", "certificate.issued", True),
        ("certificate.issued", "certificate.issuedx", False),
        ("certificate.*", "certificate.issued", True),
        ("certificate.*", "certificat", False),
        ("*", "", True),
        ("*.failed", "notification.failed", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("", "x", False),
        ("[a-z]*", "a", False),
    ],
)
def test_patterns(pattern: str, text: str, fits: bool) -> None:
    assert matches(pattern, text) is fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_patterns_mean_what_a_regular_expression_would(pattern: str, text: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert matches(pattern, text) is expected


def record(**fields: Any) -> Record:
    values: dict[str, Any] = {
        "writer": "node1", "seq": 1, "at": Clock()(), "tenant": "default",
        "kind": "certificate.issued", "actor": "scep/routers", "object": "0A", "trace": "",
        "data": '{"profile":"tls-server","names":["dns:a.test","dns:b.test"],"days":90}',
        "previous": b"", "hash": b"",
    }  # fmt: skip
    return Record(**(values | fields))


def told(rule: Rule, record: Record) -> bool:
    return rule.hears(record.tenant, record.kind) and rule.wants(record)


def rule(**when: Any) -> Rule:
    given_: dict[str, Any] = {"events": ["certificate.*"]} | when
    document = NotificationDocument.model_validate(
        {"when": given_, "mail": {"to": ["a@example.test"]}}
    )
    return Rule("default", "one", document, Clock()())


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        ({}, True),
        ({"events": ["request.refused", "certificate.issued"]}, True),
        ({"events": ["request.*"]}, False),
        ({"unless": ["certificate.issued"]}, False),
        ({"actors": ["scep/*"]}, True),
        ({"actors": ["person:*"]}, False),
        ({"objects": ["0B", "0A"]}, True),
        ({"objects": ["0B"]}, False),
        ({"data": {"profile": "tls-*"}}, True),
        ({"data": {"profile": "tls-*", "names": "dns:b.test"}}, True),
        ({"data": {"days": "90"}}, True),
        ({"data": {"profile": "user"}}, False),
        ({"data": {"absent": "*"}}, False),
        ({"severity": "notice"}, False),
    ],
)
def test_everything_that_is_given_must_fit(when: dict[str, Any], wanted: bool) -> None:
    assert told(rule(**when), record()) is wanted


@pytest.mark.parametrize(
    ("kind", "data", "least", "wanted"),
    [
        ("certificate.revoked", "{}", "notice", True),
        ("certificate.revoked", "{}", "warning", False),
        ("request.refused", "{}", "warning", True),
        ("alarm.raised", '{"severity":"critical"}', "critical", True),
        ("alarm.raised", '{"severity":"warning"}', "error", False),
    ],
)
def test_what_is_not_grave_enough_is_not_told(
    kind: str, data: str, least: str, wanted: bool
) -> None:
    asked = rule(events=["*"], severity=least)
    assert told(asked, record(kind=kind, data=data)) is wanted


def test_another_tenant_hears_nothing() -> None:
    assert not told(rule(events=["*"]), record(tenant="other"))
    assert not told(rule(events=["*"]), record(tenant="*"))


def test_what_was_before_a_notification_is_not_told() -> None:
    earlier = record(at=Clock()() - timedelta(seconds=1))
    assert not told(rule(events=["*"]), earlier)


@pytest.mark.parametrize(
    ("events", "about", "wanted"),
    [
        (["*"], "notification/other", False),
        (["notification.*"], "notification/other", True),
        (["notification.failed"], "notification/other", True),
        (["notification.failed"], "notification/one", False),
    ],
)
def test_a_failure_is_told_to_who_asks_for_it_never_to_itself(
    events: list[str], about: str, wanted: bool
) -> None:
    failed = record(kind="notification.failed", object=about)
    assert told(rule(events=events), failed) is wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"mail": None},
        {"webhook": {"url": "https://hooks.example.test"}},
        {"mail": {"to": []}},
        {"mail": {"to": ["nobody"]}},
        {"mail": {"to": ["a@b.test\r\nBcc: x@y.test"]}},
        {"mail": {"to": ["a@b.test"], "subject": "{{code}}"}},
        {"mail": {"to": ["a@b.test"], "text": "{{ events.data }}"}},
        {"mail": {"to": ["a@b.test"], "subject": "two\nlines"}},
        {"when": {"events": []}},
        {"when": {"events": ["Certificate Issued"]}},
        {"when": {"events": ["*"], "event": ["*"]}},
        {"per_hour": 0},
        {"mail": None, "webhook": {"url": "http://hooks.example.test/"}},
        {"mail": None, "webhook": {"url": "http://127.0.0.1.example.test/"}},
        {"mail": None, "webhook": {"url": "https://user:pw@hooks.example.test/"}},
        {"mail": None, "webhook": {"url": "https://hooks.example.test/", "key": "plain text"}},
        {"mail": None, "webhook": {"url": "https://hooks.example.test/", "authorities": "x"}},
        {"mail": None, "webhook": {"url": "https://hooks.example.test/{{secret}}"}},
        {"mail": None, "webhook": {"url": "https://hooks.example.test/", "secret": "AAAA"}},
        {"mail": None, "webhook": {"url": "https://{{secret}}.test/", "secret": "AAAA"}},
        {"mail": None, "webhook": {"url": "https://hooks.example.test/{{key}}", "secret": "AAAA"}},
    ],
)
def test_a_document_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"when": {"events": ["*"]}, "mail": {"to": ["a@example.test"]}}
    NotificationDocument.model_validate(good)
    with pytest.raises(ValidationError):
        NotificationDocument.model_validate(good | wrong)


def test_a_webhook_on_this_machine_may_be_plain() -> None:
    for url in ("http://127.0.0.1:8000/x", "http://localhost", "http://[::1]:9/"):
        document = {"when": {"events": ["*"]}, "webhook": {"url": url}}
        assert NotificationDocument.model_validate(document).way == "webhook"


# -- which messages ------------------------------------------------------------------------------


def test_a_record_becomes_one_mail(world: World) -> None:
    world.want()
    world.happen()
    world.turn()
    [sent] = world.post.sent
    assert sent["to"] == ("ops@example.test",)
    assert sent["subject"] == "[tmad] certificate.revoked 0A1B by person:alice"
    assert "reason  keyCompromise" in sent["text"]
    [row] = world.rows()
    assert (row.state, row.attempts, row.outcome) == (
        "delivered",
        1,
        f"<{row.message}@example.test>",
    )
    assert world.service.counts == {("mail", "delivered"): 1}
    world.turn(hours=1)
    assert len(world.post.sent) == 1


def test_history_is_not_told_to_a_new_notification(world: World) -> None:
    world.happen(3)
    world.turn(seconds=1)
    world.happen(3)
    world.turn(minutes=2)
    world.want()
    world.turn()
    assert world.post.sent == []
    world.happen()
    world.turn()
    assert len(world.post.sent) == 1


def test_a_notification_that_is_made_again_does_not_hear_what_was_between(world: World) -> None:
    world.want()
    world.turn()
    drive(world.objects.delete(ADMIN, "default", "notification", "security"))
    world.happen()
    world.clock.advance(seconds=1)
    world.want()
    world.turn()
    assert world.post.sent == []


def test_two_processes_queue_a_record_once(world: World) -> None:
    world.want()
    other = world.node()
    world.happen()
    drive(other.gather())
    drive(world.service.gather())
    assert len(world.rows()) == 1
    drive(other.send_due())
    drive(world.service.send_due())
    assert len(world.post.sent) == 1


def test_many_records_at_once_are_one_digest(world: World) -> None:
    world.want()
    world.happen(60)
    world.happen(40, kind="certificate.issued")
    world.turn()
    [sent] = world.post.sent
    assert sent["subject"] == "[tmad] 100 events: 60 certificate.revoked, 40 certificate.issued"
    assert "and 50 more" in sent["text"]
    [row] = world.rows()
    assert (row.events, len(row.places)) == (100, 50)
    assert row.counts == {"certificate.revoked": 60, "certificate.issued": 40}


def test_a_few_records_at_once_are_mails_of_their_own(world: World) -> None:
    world.want()
    world.happen(5)
    for _ in range(5):
        world.turn(seconds=1)
    assert len(world.post.sent) == 5
    assert {sent["subject"] for sent in world.post.sent} == {
        "[tmad] certificate.revoked 0A1B by person:alice"
    }


def test_no_hour_has_more_messages_than_asked_for(world: World) -> None:
    world.want(per_hour=3)
    for _ in range(200):
        world.happen()
        world.turn(seconds=10)
    # 2000 seconds: the first three, and all others wait for one digest.
    assert len(world.post.sent) == 3
    assert world.rows()[-1].events == 197
    for _ in range(200):
        world.happen()
        world.turn(seconds=10)
    assert world.post.sent[3]["subject"].startswith("[tmad] 3")
    told = sum(row.events for row in world.rows())
    assert told == 400
    assert len(world.post.sent) <= 6


def test_a_digest_gathers_as_long_as_asked_for(world: World) -> None:
    world.want(digest_minutes=60)
    for _ in range(10):
        world.happen()
        world.turn(minutes=5)
    assert world.post.sent == []
    world.turn(minutes=16)
    [sent] = world.post.sent
    assert sent["subject"] == "[tmad] 10 × certificate.revoked"


def test_what_is_switched_off_neither_gathers_nor_sends(world: World) -> None:
    world.want(digest_minutes=1)
    world.happen()
    world.turn()
    world.want(enabled=False, digest_minutes=1)
    world.happen()
    world.turn(minutes=2)
    assert world.post.sent == []
    [row] = world.rows()
    assert (row.state, row.events) == ("failed", 1)
    assert "switched off" in row.outcome


def test_with_a_notification_goes_what_it_has_not_sent(world: World) -> None:
    world.want(digest_minutes=5)
    world.happen()
    world.turn()
    drive(world.objects.delete(ADMIN, "default", "notification", "security"))
    world.turn(minutes=10)
    assert world.post.sent == []
    assert [(row.state, row.outcome) for row in world.rows()] == [
        ("failed", "the notification was deleted")
    ]


# -- what becomes of them ------------------------------------------------------------------------


def away() -> Fault:
    return Fault(FaultCode.UNAVAILABLE, "the mail server cannot be reached")


def test_what_could_not_be_sent_is_tried_again_under_the_same_name(world: World) -> None:
    world.want()
    world.post.faults = [away(), away()]
    world.happen()
    world.turn()
    assert world.states() == ["waiting"]
    world.turn(seconds=4)
    assert len(world.post.faults) == 1
    world.turn(seconds=1)
    world.turn(seconds=30)
    [row] = world.rows()
    assert (row.state, row.attempts) == ("delivered", 3)
    assert world.post.sent[0]["name"] == row.message
    assert world.service.counts == {("mail", "retried"): 2, ("mail", "delivered"): 1}


def test_after_a_day_it_is_given_up_and_journaled_once(world: World) -> None:
    world.want()
    world.want("watch", when={"events": ["notification.failed"]})
    world.post.faults = [away() for _ in range(11)]
    world.happen()
    begin = world.clock()
    world.turn()
    while world.states() == ["waiting"]:
        world.turn(minutes=10)
    assert timedelta(hours=20) < world.clock() - begin < timedelta(hours=30)
    [failed] = world.journaled("notification.failed")
    data = json.loads(failed.data)
    assert (failed.object, data["attempts"], data["why"]) == (
        "notification/security",
        11,
        "the mail server cannot be reached",
    )
    world.turn(seconds=1)
    assert world.post.sent[0]["subject"].startswith("[tmad] notification.failed")


def test_failures_of_who_tells_of_failures_end_there(world: World) -> None:
    world.want("one", when={"events": ["notification.failed"]})
    world.want("two", when={"events": ["notification.failed"]})
    world.post.faults = [
        Fault(FaultCode.REJECTED, "no", rule="otp.delivery.recipient") for _ in range(2)
    ]
    world.want()
    world.happen()
    world.turn()
    for _ in range(5):
        world.turn(seconds=1)
    assert len(world.journaled("notification.failed")) == 1


@pytest.mark.parametrize("final", ["otp.delivery.recipient", "otp.delivery.address"])
def test_what_no_patience_helps_with_is_given_up_at_once(world: World, final: str) -> None:
    world.want()
    world.post.faults = [Fault(FaultCode.REJECTED, "status 550", rule=final)]
    world.happen()
    world.turn()
    assert [(row.state, row.attempts, row.outcome) for row in world.rows()] == [
        ("failed", 1, "status 550")
    ]


def test_a_wrong_password_is_waited_for(world: World) -> None:
    world.want()
    world.post.faults = [Fault(FaultCode.REJECTED, "status 535", rule="otp.delivery.refused")]
    world.happen()
    world.turn()
    assert world.states() == ["waiting"]


def test_without_a_mail_server_it_waits_for_one(world: World) -> None:
    world.want()
    world.service._mail = None
    world.happen()
    world.turn()
    [row] = world.rows()
    assert (row.state, "[delivery.mail]" in row.outcome) == ("waiting", True)


def test_a_mistake_of_ours_is_tried_again(world: World) -> None:
    world.want()
    world.post.pending = succeed(None)  # type: ignore[arg-type]  # not what it promises
    world.happen()
    world.turn()
    [row] = world.rows()
    assert (row.state, row.outcome) == ("waiting", "a mistake of ours; the log shows it")


def test_a_slow_receiver_holds_up_nobody_else(world: World) -> None:
    world.want()
    world.want("other", when={"events": ["request.*"]})
    world.post.pending = Deferred()
    world.happen()
    world.turn()
    world.post.pending = None
    world.happen()
    world.happen(kind="request.refused")
    world.turn(seconds=1)
    assert [row.state for row in world.rows()] == ["waiting", "waiting"]
    assert world.states("other") == ["delivered"]


def test_what_a_dead_node_had_claimed_is_sent_by_another(world: World) -> None:
    world.want()
    world.post.pending = Deferred()
    world.happen()
    world.turn()
    [claimed] = world.rows()
    world.post.pending = None
    heir = world.node()
    world.clock.advance(seconds=49)
    drive(heir.send_due())
    assert len(world.post.sent) == 1
    world.clock.advance(seconds=2)
    drive(heir.send_due())
    assert len(world.post.sent) == 2
    assert world.post.sent[0]["name"] == world.post.sent[1]["name"] == claimed.message
    assert world.states() == ["delivered"]


def test_what_is_under_way_when_a_node_stops_is_due_again(world: World) -> None:
    world.want()
    world.post.pending = Deferred()
    world.happen()
    world.turn()
    drive(world.service.close())
    assert world.states() == ["waiting"]


def test_redelivery_is_a_new_message(world: World) -> None:
    world.want()
    world.happen()
    world.turn()
    [row] = world.rows()
    again = drive(world.service.redeliver(ADMIN, "default", row.id, dry_run=True))
    assert (again.state, world.states()) == ("waiting", ["delivered"])
    drive(world.service.redeliver(ADMIN, "default", row.id))
    with pytest.raises(Fault) as caught:
        drive(world.service.redeliver(ADMIN, "default", row.id))
    assert caught.value.rule == "notification.waiting"
    world.turn()
    first, second = world.post.sent
    assert first["name"] != second["name"]
    assert first["text"] == second["text"]
    assert len(world.journaled("notification.redelivered")) == 1


def test_a_delivery_of_another_tenant_is_not_there(world: World) -> None:
    world.want()
    world.happen()
    world.turn()
    [row] = world.rows()
    with pytest.raises(Fault) as caught:
        drive(world.service.redeliver(ADMIN, "other", row.id))
    assert caught.value.rule == "notification.delivery"
    assert world.rows(tenant="other") == []


def test_old_deliveries_are_pruned(world: World) -> None:
    world.want()
    world.happen()
    world.turn()
    world.clock.advance(days=89)
    drive(world.service.prune())
    assert len(world.rows()) == 1
    world.clock.advance(days=2)
    drive(world.service.prune())
    assert world.rows() == []


# -- webhooks ------------------------------------------------------------------------------------


def hooked(world: World, key: Secret, **hook: Any) -> None:
    sealed = world.service.seal_key("default", "security", key)
    world.want(webhook={"url": "https://hooks.example.test/check", "key": sealed} | hook)


def test_a_webhook_is_signed_as_its_scheme_says(world: World) -> None:
    key = Secret(b"k" * 32)
    hooked(world, key)
    world.happen(trace="7F3K-22AB")
    world.turn()
    headers, body = world.wire.sent
    text = {name.decode(): value.decode() for name, value in headers.items()}
    # The scheme's own library looks at the clock of this machine.
    receiver = Receiver(webhooks.shown(key))
    signed = receiver.sign(text["webhook-id"], world.clock(), body.decode())
    assert text["webhook-signature"] == signed
    said = json.loads(body)
    assert (said["type"], said["data"]["count"]) == ("certificate.revoked", 1)
    [event] = said["data"]["events"]
    assert event["explain"] == "7F3K-22AB"
    assert event["data"] == {"reason": "keyCompromise"}
    world.wire.answer(http("204 No Content", ""))
    assert [(row.state, row.outcome) for row in world.rows()] == [("delivered", "HTTP status 204")]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("200 OK", "delivered"),
        ("302 Found", "waiting"),
        ("401 Unauthorized", "waiting"),
        ("404 Not Found", "waiting"),
        ("410 Gone", "failed"),
        ("503 Busy", "waiting"),
    ],
)
def test_what_an_answer_means(world: World, status: str, state: str) -> None:
    hooked(world, Secret(b"k" * 32))
    world.happen()
    world.turn()
    world.wire.answer(http(status, "", "Location: https://evil.test/"))
    assert world.states() == [state]


def test_a_receiver_that_never_answers_is_given_up(world: World) -> None:
    hooked(world, Secret(b"k" * 32), timeout_seconds=3)
    world.happen()
    world.turn()
    world.timer.advance(3.1)
    [row] = world.rows()
    assert (row.state, "no whole answer in 3 s" in row.outcome) == ("waiting", True)


def test_a_chat_service_gets_one_text(world: World) -> None:
    hooked(world, Secret(b"k" * 32), format="chat")
    world.happen(object="<!channel> & co")
    world.turn()
    _, body = world.wire.sent
    assert json.loads(body) == {
        "text": "tmad on node1: certificate.revoked &lt;!channel&gt; &amp; co by person:alice"
    }


def test_a_key_of_another_notification_signs_nothing(world: World) -> None:
    sealed = world.service.seal_key("default", "another", Secret(b"k" * 32))
    world.want(webhook={"url": "https://hooks.example.test/check", "key": sealed})
    world.happen()
    world.turn()
    assert world.wire.transport.value() == b""
    assert world.states() == ["waiting"]


def test_secret_1_a_key_shows_nowhere(world: World) -> None:
    key = Secret(b"CANARY" * 5)
    hooked(world, key)
    stored = drive(world.objects.get(ADMIN, "default", "notification", "security"))
    records = drive(world.journal.tail(None, limit=100))
    seen = repr([stored, key, records])
    for shape in ("CANARY", webhooks.shown(key)[6:20]):
        assert shape not in seen


def test_a_secret_in_a_url_is_sealed_and_shows_nowhere(world: World) -> None:
    asked: list[bytes] = []
    request = world.wire.request

    def note(method: bytes, uri: bytes, *rest: Any, **more: Any) -> Any:
        asked.append(uri)
        return request(method, uri, *rest, **more)

    world.wire.request = note  # type: ignore[method-assign]  # to see the URL
    sealed = world.service.seal_url_secret("default", "security", Secret("T0/B0/CANARY"))
    url = "https://hooks.example.test/services/{{secret}}"
    world.want(webhook={"url": url, "secret": sealed, "format": "chat"})
    world.happen()
    world.turn()
    assert asked == [b"https://hooks.example.test/services/T0/B0/CANARY"]
    world.wire.refuses = True
    world.turn(seconds=20)
    records = drive(world.journal.tail(None, limit=100))
    stored = drive(world.objects.get(ADMIN, "default", "notification", "security"))
    assert "CANARY" not in repr([records, stored, world.rows()])
    for wrong in ("", "a b", "x\r\nHost: y", "{{x}}"):
        with pytest.raises(Fault):
            world.service.seal_url_secret("default", "security", Secret(wrong))


def test_keys_are_read_as_they_are_shown() -> None:
    key = Secret(b"k" * 32)
    assert webhooks.read_key(f"{webhooks.shown(key)}\n").reveal() == key.reveal()
    assert b64decode(webhooks.shown(key).removeprefix("whsec_")) == key.reveal()
    for wrong in ("whsec_", "whsec_AAAA", "a passphrase", "whsec_" + "A" * 120):
        with pytest.raises(ValueError, match="a key"):
            webhooks.read_key(wrong)


# -- texts ---------------------------------------------------------------------------------------


def telling(*records: Record, **kinds: int) -> messages.Telling:
    counts = kinds or {"certificate.issued": len(records)}
    return messages.Telling(
        node="node1", tenant="default", notification="one", kinds=counts, records=records
    )


def test_what_strangers_wrote_stays_on_its_line() -> None:
    evil = record(object="x\r\nBcc: y@z.test\x1b[31m", data='{"name":"a\\nb"}')
    subject = messages.subject("[tmad] {{summary}}", telling(evil))
    assert subject.isprintable()
    text = messages.text("{{events}}", telling(evil))
    assert "\nBcc" not in text
    assert "a\\nb" in text


def test_an_alarm_speaks_for_itself() -> None:
    alarm = record(kind="alarm.raised", data='{"text":"the CRL of issuing is overdue"}')
    assert (
        messages.summary(telling(alarm, **{"alarm.raised": 1})) == "the CRL of issuing is overdue"
    )


def test_long_values_are_cut() -> None:
    long = record(data=json.dumps({"difference": "x" * 10_000}))
    assert len(messages.text("{{events}}", telling(long))) < 600


def test_a_large_body_is_bounded() -> None:
    large = [record(seq=n, data=json.dumps({"x": "y" * 30_000})) for n in range(20)]
    said = json.loads(messages.payload(telling(*large)))
    assert len(json.dumps(said)) < 300_000
    assert said["data"]["left_out"] == 20 - len(said["data"]["events"]) > 0


def test_every_name_of_a_template_is_filled_in() -> None:
    values = messages.values(telling(record()))
    assert set(values) == set(notification.NAMES)
