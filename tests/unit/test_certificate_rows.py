"""Rows of certificates and requests: conflicts, pages, and plans that scale."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.storage import certificates, intents, key_history, requests
from tmad.storage.database import Database
from tmad.storage.intents import Completed, Intent
from tmad.storage.requests import RequestRow

NOW = Clock()()
PAGE = {"after": 0, "limit": 10}


def intent(number: int, **changes) -> Intent:
    given = {
        "tenant": "default",
        "issuer_id": 1,
        "serial": (1 << 150) + number,
        "via": "scep",
        "endpoint": "scep/routers",
        "profile": "device",
        "profile_revision": 1,
        "request_id": None,
        "replaces_id": None,
        "owner": "nobody",
        "subject": f"CN=r{number}",
        "not_before": NOW,
        "not_after": NOW + timedelta(days=number % 400 + 1),
        "spki_sha256": number.to_bytes(32),
        "tbs_sha256": bytes(32),
        "tbs_der": b"tbs",
        "created_at": NOW,
        **changes,
    }
    return Intent(**given)


def asked(number: int, **changes) -> RequestRow:
    given = {
        "id": f"{number:026d}",
        "tenant": "default",
        "endpoint": "scep/routers",
        "via": "scep",
        "transaction": f"t{number}",
        "spki_sha256": bytes(32),
        "fingerprint": bytes(32),
        "idempotency": number.to_bytes(32),
        "state": "issuing",
        "applicant": "nobody",
        "peer": "",
        "subject": f"CN=r{number}",
        "body": "{}",
        "created_at": NOW,
        "updated_at": NOW,
        "expires_at": NOW + timedelta(days=14),
        **changes,
    }
    return RequestRow(**given)


def signed(row: int) -> Completed:
    return Completed(
        id=row, tenant="default", certificate_der=b"der", sha256=bytes(32), names=frozenset()
    )


@pytest.fixture(scope="module")
def full() -> Database:
    """Return a database with some thousands of rows, analysed."""
    database = Database.in_memory()

    def fill(connection):
        for number in range(3000):
            [row] = intents.insert(connection, [intent(number)])
            terms = frozenset({("cn", f"r{number}"), ("dns", f"r{number}.test")})
            if number % 100:
                one = replace(signed(row), sha256=number.to_bytes(32), names=terms)
                intents.complete(connection, [one])
            state = "pending" if number % 50 == 0 else "issuing"
            requests.insert(connection, [asked(number, state=state)])
        connection.execute(sa.text("ANALYZE"))

    drive(database.write(fill))
    return database


def read(database, function, *arguments, **options):
    return drive(database.read(lambda connection: function(connection, *arguments, **options)))


def test_g_loss_2_a_serial_number_is_used_once_per_issuer():
    database = Database.in_memory()
    write = database.write
    drive(write(intents.insert, [intent(1)]))
    with pytest.raises(Fault) as caught:
        drive(write(intents.insert, [intent(1)]))
    assert caught.value.code is FaultCode.CONFLICT
    assert drive(write(intents.insert, [intent(1, issuer_id=2)]))


def test_an_intent_is_completed_once_and_not_after_it_was_voided():
    database = Database.in_memory()
    [first] = drive(database.write(intents.insert, [intent(1)]))

    def complete(connection):
        intents.complete(connection, [signed(first)])

    drive(database.write(complete))
    row = read(database, certificates.by_id, "default", first)
    assert (row.state, row.certificate_der) == ("issued", b"der")
    assert not drive(database.write(certificates.void, row, NOW))
    with pytest.raises(Fault):
        drive(database.write(complete))


def test_many_are_added_completed_and_found_in_one_go():
    database = Database.in_memory()
    rows = drive(database.write(intents.insert, [intent(n) for n in range(5)]))
    assert len(set(rows)) == 5
    terms = [frozenset({("cn", f"r{n}")}) for n in range(5)]
    several = [replace(signed(row), names=terms[n]) for n, row in enumerate(rows)]
    drive(database.write(intents.complete, several))
    for number, row in enumerate(rows):
        found = read(database, certificates.by_serial, 1, (1 << 150) + number)
        assert (found.id, found.subject, found.state) == (row, f"CN=r{number}", "issued")
        [named] = read(database, certificates.find_by_name, "default", f"r{number}", **PAGE)
        assert named.id == row


def test_one_that_was_voided_keeps_the_others_from_being_completed():
    database = Database.in_memory()
    rows = drive(database.write(intents.insert, [intent(1), intent(2)]))
    voided = read(database, certificates.by_id, "default", rows[0])
    assert drive(database.write(certificates.void, voided, NOW))
    with pytest.raises(Fault) as caught:
        drive(database.write(intents.complete, [signed(row) for row in rows]))
    assert caught.value.rule == "certificate.void"
    assert read(database, certificates.by_id, "default", rows[1]).state == "intent"


def test_the_histories_of_many_keys_are_those_of_each():
    database = Database.in_memory()
    wanted = [("default", number.to_bytes(32)) for number in range(7)]
    later = NOW + timedelta(hours=1)
    drive(database.write(intents.insert, [intent(n) for n in (1, 3)]))
    copies = [intent(n, serial=(1 << 151) + n, spki_sha256=(5).to_bytes(32)) for n in range(60)]
    drive(database.write(intents.insert, copies))
    found = read(database, key_history.histories, wanted, later)
    each = [read(database, key_history.history, *key, later) for key in wanted]
    assert found == each
    assert [len(one.uses) for one in found] == [0, 1, 0, 1, 0, 50, 0]


def test_a_foreign_serial_of_any_size_comes_back():
    database = Database.in_memory()
    for serial in (0, 1, 255, 256, 1 << 2000):
        drive(database.write(intents.insert, [intent(1, serial=serial)]))
        assert read(database, certificates.by_serial, 1, serial).serial == serial


def test_another_tenants_certificate_is_not_there():
    database = Database.in_memory()
    [row] = drive(database.write(intents.insert, [intent(1)]))
    assert read(database, certificates.by_id, "default", row)
    assert read(database, certificates.by_id, "other", row) is None


def test_pages_are_whole_and_do_not_overlap(full):
    seen = []
    after = 0
    while page := read(full, certificates.find, "default", after=after, limit=700):
        seen += [row.id for row in page]
        after = seen[-1]
    assert len(seen) == len(set(seen)) == 3000
    ends = []
    place = (NOW, 0)
    until = NOW + timedelta(days=50)
    while page := read(
        full, certificates.find_expiring, "default", until=until, after=place, limit=100
    ):
        ends += [(row.not_after, row.id) for row in page]
        place = ends[-1]
    assert ends == sorted(set(ends))
    assert all(end <= until for end, _ in ends)
    assert len(ends) == sum(number % 400 + 1 <= 50 for number in range(3000))


def test_a_name_finds_its_certificates_once(full):
    for text in ("r17", "R17.test"):
        found = read(full, certificates.find_by_name, "default", text, after=0, limit=10)
        assert [row.subject for row in found] == ["CN=r17"]
    assert read(full, certificates.find_by_name, "other", "r17", after=0, limit=10) == ()


def test_a_copy_of_a_request_is_a_conflict_until_it_is_forgotten():
    database = Database.in_memory()
    drive(database.write(requests.insert, [asked(1)]))
    copy = asked(2, idempotency=asked(1).idempotency)
    with pytest.raises(Fault) as caught:
        drive(database.write(requests.insert, [copy]))
    assert caught.value.rule == "request.duplicate"
    later = NOW + timedelta(hours=1)
    drive(database.write(requests.forget_idempotency, [(copy.idempotency, later)]))
    drive(database.write(requests.insert, [copy]))


def test_a_pending_request_is_never_forgotten():
    database = Database.in_memory()
    drive(database.write(requests.insert, [asked(1, state="pending")]))
    later = NOW + timedelta(days=1)
    drive(database.write(requests.forget_idempotency, [(asked(1).idempotency, later)]))
    copy = asked(2)._replace(idempotency=asked(1).idempotency)
    with pytest.raises(Fault):
        drive(database.write(requests.insert, [copy]))


def test_counting_stops_at_the_limit(full):
    door = "scep/routers"
    assert read(full, requests.count, door, ("pending",), "", 1000) == 60
    assert read(full, requests.count, door, ("pending", "issuing"), "", 10) == 10
    since = f"{2990:026d}"
    assert read(full, requests.count, door, ("pending", "issuing"), since, 1000) == 10


QUESTIONS = {
    "by_id": (certificates.by_id, ("default", 17), {}),
    "by_serial": (certificates.by_serial, (1, (1 << 150) + 17), {}),
    "by_sha256": (certificates.by_sha256, ("default", bytes(32)), {}),
    "find": (certificates.find, ("default",), {"after": 10, "limit": 10}),
    "find_by_name": (certificates.find_by_name, ("default", "r1"), {"after": 0, "limit": 10}),
    "find_by_key": (certificates.find_by_key, (bytes(32), 0, 10), {}),
    "find_expiring": (
        certificates.find_expiring,
        ("default",),
        {"until": NOW + timedelta(days=9), "after": (NOW, 0), "limit": 10},
    ),
    "find_stale_intents": (certificates.find_stale_intents, (NOW,), {"limit": 10}),
    "key_history": (key_history.history, ("default", bytes(32), NOW), {}),
    "request": (requests.by_id, ("default", f"{17:026d}"), {}),
    "transaction": (requests.find_of_transaction, ("scep/routers", "t17", 5), {}),
    "pending": (requests.find, ("default",), {"state": "pending", "after": "", "limit": 10}),
    "expired": (requests.find_expired, (NOW,), {"limit": 10}),
    "count": (requests.count, ("scep/routers", ("pending",), "", 10), {}),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_uses_an_index(full, question):
    function, arguments, options = QUESTIONS[question]

    def plans(connection):
        asked_of = connection.connection.driver_connection
        statements: list[str] = []
        asked_of.set_trace_callback(statements.append)
        try:
            function(connection, *arguments, **options)
        finally:
            asked_of.set_trace_callback(None)
        return [
            line[3]
            for statement in statements
            if statement.lstrip().upper().startswith("SELECT")
            for line in asked_of.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        ]

    found = read(full, plans)
    assert found
    for line in found:
        # What is scanned may only be the few rows of a subquery.
        assert not line.startswith("SCAN") or "(subquery" in line or "anon" in line, found
        assert "USE TEMP B-TREE FOR ORDER BY" not in line, found
