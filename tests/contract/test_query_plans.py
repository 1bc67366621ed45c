"""No hot statement reads more of a table than it returns, on both databases.

Every statement that a storage function really sends, SQLAlchemy's and the driver's alike, is
caught on its way and run once more under a meter, with some thousand rows in the tables, so that
the planner has a choice (G-LOAD-7): on SQLite the instructions of its virtual machine are counted,
on PostgreSQL the rows that EXPLAIN ANALYZE says were looked at.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tests.postgres import Cluster
from tests.support import Clock
from tmad.storage import (
    acme,
    agents,
    alarms,
    certificates,
    changes,
    conditions,
    crls,
    deliveries,
    device_links,
    devices,
    directory,
    disconnects,
    enroll_secrets,
    exchanges,
    figures,
    holdings,
    issuers,
    journal,
    key_history,
    log_collectors,
    login_failures,
    objects,
    otp_tokens,
    people,
    private_keys,
    radius_sessions,
    request_numbers,
    requests,
    service_certificates,
    status,
)
from tmad.storage.exchanges import Exchange
from tmad.storage.tables import metadata

ROWS = 4_000
REVOKED = 40
PAGE = 20
# Statements look at the rows that they return, and at a few besides: never at a table.
FEW = 12 * PAGE
INSTRUCTIONS = ROWS

clock = Clock()


@dataclass
class Sent:
    """The statements that reached the driver, with what each was given."""

    statements: list[tuple[Any, Any]] = field(default_factory=list)


class SQLiteCursor(sqlite3.Cursor):
    """Notes what it executes."""

    def execute(self, sql: str, parameters: Any = ()) -> SQLiteCursor:
        self.connection.sent.statements.append((sql, parameters))  # type: ignore[attr-defined]
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Any) -> SQLiteCursor:
        for each in parameters:
            self.connection.sent.statements.append((sql, each))  # type: ignore[attr-defined]
        super().executemany(sql, parameters)
        return self


class SQLiteConnection(sqlite3.Connection):
    """Notes what it executes, by itself and by its cursors."""

    sent: Sent

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(SQLiteCursor)

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        return self.cursor().execute(sql, parameters)


class Explained:
    """A connection whose storage functions are run and then explained."""

    def __init__(self, connection: sa.Connection, sent: Sent) -> None:
        self.connection = connection
        self.sent = sent
        self.driver: Any = connection.connection.driver_connection
        connection.info["tmad.now"] = clock

    def explain(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
        """Run a storage function; return what is wrong with its statements' plans."""
        self.sent.statements.clear()
        with self.connection.begin_nested() as undone:
            function(self.connection, *args, **kwargs)
            statements = list(self.sent.statements)
            undone.rollback()
        checked = [
            (sql, values)
            for sql, values in statements
            if str(sql).lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH"))
            and "advisory" not in str(sql)
        ]
        assert checked, f"{function} sent no statement"
        judge = (
            self._on_sqlite if isinstance(self.driver, sqlite3.Connection) else self._on_postgres
        )
        return [
            f"{function.__module__}.{function.__name__}: {problem}\n  {sql}"
            for sql, values in checked
            for problem in judge(sql, values)
        ]

    def _on_sqlite(self, sql: str, values: Any) -> list[str]:
        """Count the virtual machine's instructions: a table of so many rows takes more."""
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        self.driver.execute("SAVEPOINT counted")
        self.driver.set_progress_handler(step, 1)
        try:
            sqlite3.Connection.execute(self.driver, sql, values).fetchall()
        finally:
            self.driver.set_progress_handler(None, 0)
            self.driver.execute("ROLLBACK TO counted")
            self.driver.execute("RELEASE counted")
        if count < INSTRUCTIONS:
            return []
        plan = sqlite3.Connection.execute(self.driver, f"EXPLAIN QUERY PLAN {sql}", values)
        return [f"{count} instructions: {'; '.join(row[3] for row in plan)}"]

    def _on_postgres(self, sql: Any, values: Any) -> list[str]:
        # Rolled back: the function's own update must not have happened twice.
        with self.connection.begin_nested() as undone:
            cursor = psycopg.Cursor(self.driver)
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}".encode(), values)
            row = cursor.fetchone()
            undone.rollback()
        assert row is not None
        plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
        return list(_problems(plan[0]["Plan"]))


def _problems(node: dict[str, Any]) -> Iterator[str]:
    kind = node["Node Type"]
    if "Scan" in kind and "Relation Name" in node:
        looked = node["Actual Loops"] * (
            node["Actual Rows"]
            + node.get("Rows Removed by Filter", 0)
            + node.get("Rows Removed by Index Recheck", 0)
        )
        if looked > FEW:
            yield f"{kind} of {node['Relation Name']} looks at {looked} rows"
    for child in node.get("Plans", ()):
        yield from _problems(child)


def _digest(number: int) -> bytes:
    return number.to_bytes(4) * 8


def _fill(connection: sa.Connection) -> None:
    """Put some thousand rows, in two tenants and two issuers, into every table that grows."""
    now = clock()
    day = timedelta(days=1)
    tables = metadata.tables
    tenants = ("default", "other")

    def insert(name: str, rows: list[dict[str, Any]]) -> None:
        connection.execute(tables[name].insert(), rows)

    numbers = range(1, ROWS + 1)
    insert(
        "issuers",
        [
            {"id": n, "tenant": tenants[n % 2], "authority": f"ca-{n}", "generation": 1,
             "state": "active", "key_id": f"key-{n}", "subject_der": _digest(n),
             "chain_der": b"", "parent_issuer_id": n // 2 or None, "created_at": now}
            for n in range(1, 201)
        ],
    )  # fmt: skip
    insert(
        "certificates",
        [
            {"id": n, "tenant": tenants[n % 2], "issuer_id": 1 + n % 2, "serial": _digest(n),
             "state": "intent" if n % 500 == 0 else "issued", "via": "scep",
             "endpoint": "scep/default", "profile": "device", "profile_revision": 1,
             "request_id": f"R{n:06}", "owner": f"person:p-{n:06}", "subject": f"CN={n}",
             "not_before": now,
             "not_after": now + day * (1 + n % 400), "spki_sha256": _digest(n),
             "tbs_sha256": _digest(n), "certificate_der": b"x" * 100, "sha256": _digest(n),
             "created_at": now, "revoked_at": now if n % (ROWS // REVOKED) == 0 else None,
             "reason": 4 if n % (ROWS // REVOKED) == 0 else None,
             "changed_id": n if n % (ROWS // REVOKED) == 0 else None}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "certificate_names",
        [
            {"certificate_id": n, "kind": "dns", "value": f"host-{n}.test",
             "tenant": tenants[n % 2]}
            for n in numbers
        ],
    )  # fmt: skip
    states = ("issued", "issued", "issued", "denied")
    insert(
        "requests",
        [
            {"id": f"R{n:06}", "tenant": tenants[n % 2], "endpoint": f"scep/door-{n % 2}",
             "via": "scep", "transaction": f"t-{n}", "spki_sha256": _digest(n),
             "fingerprint": _digest(n), "idempotency": _digest(n),
             "state": "pending" if n % 200 == 0 else states[n % 4], "applicant": "", "peer": "",
             "subject": "", "body": "{}", "comment": "", "decided_by": "", "created_at": now,
             "updated_at": now, "expires_at": now + day}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "enroll_secrets",
        [
            {"id": f"S{n:06}", "tenant": tenants[n % 2], "endpoint": f"scep/door-{n % 2}",
             "digest": _digest(n), "bound_to": "{}", "uses_left": 1, "created_by": "",
             "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "changes",
        [{"id": n, "topic": "status", "key": f"1:{n:08x}", "at": now} for n in numbers],
    )
    insert(
        "journal",
        [
            {"writer": f"node/{n % 3}", "seq": 1 + n // 3, "at": now, "tenant": tenants[n % 2],
             "kind": "certificate.issued", "actor": "", "object": f"certificate/{n}",
             "trace": f"T{n // 2}", "data": "{}", "previous": b"", "hash": b""}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "journal_writers",
        [{"writer": f"node/{n}", "node": "node", "started_at": now, "seq": ROWS // 3, "hash": b""}
         for n in range(3)],
    )  # fmt: skip
    insert(
        "objects",
        [
            {"tenant": tenants[n % 2], "kind": "endpoint", "name": f"e-{n}",
             "handle": f"scep/e-{n}", "revision": 1, "document": "{}", "updated_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "private_keys",
        [
            {"id": f"key-{n}", "tenant": tenants[n % 2], "store": "soft", "algorithm": "p256",
             "label": "", "public_key_der": b"", "spki_sha256": _digest(ROWS + n),
             "material": b"", "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "service_certificates",
        [
            {"tenant": tenants[n % 2], "purpose": "ocsp", "scope": str(n % 500),
             "certificate_der": b"", "chain_der": b"", "key_id": "", "not_before": now,
             "not_after": now + day, "renew_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "crls",
        [
            {"issuer_id": 1 + n % 2, "number": n, "tenant": "default", "this_update": now,
             "next_update": now + day, "entries": 0, "change_id": 0, "sha256": b""}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "people",
        [
            {"tenant": tenants[n % 2], "name": f"p-{n:06}", "full_name": "",
             "mail": f"p-{n}@example.test", "phone": "", "groups": "[]", "source": "local",
             "cn_key": f"person {n}", "sn_key": str(n), "created_at": now, "updated_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "devices",
        [
            {"tenant": tenants[n % 2], "name": f"d-{n:06}", "mac": f"{n:012x}",
             "serial_number": "", "owner": "", "description": "", "created_at": now,
             "updated_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "otp_tokens",
        [
            {"id": f"O{n:06}", "tenant": tenants[n % 2], "serial": f"T-{n:06}",
             "person": f"p-{n:06}", "kind": "hotp", "algorithm": "sha1", "digits": 6,
             "period": 0, "seed": b"", "counter": 0, "drift": 0, "state": "active",
             "description": "", "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "radius_sessions",
        [
            {"id": f"N{n:06}", "tenant": tenants[n % 2], "client": f"nas-{n % 40}",
             # One of ten is live.
             "state": "closed" if n % 10 else "open", "nas_address": "192.0.2.1",
             "nas_identifier": "", "nas_port": str(n), "session_key": f"K{n}",
             "user_name": "", "person": f"p-{n:06}", "device": f"d-{n:06}", "issuer_id": 1,
             "serial": _digest(n), "method": "eap-tls", "policy": "", "ssid": "",
             "calling_station": f"{n:012x}", "calling_sent": "", "called_station": "",
             "framed_address": "", "octets_in": 0, "octets_out": 0, "seconds": 0, "cause": "",
             "admitted_at": now, "seen_at": now, "interim": 0, "stale_at": now + n * day,
             "closed_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "radius_accounting",
        [
            {"tenant": tenants[n % 2], "client": "nas", "digest": _digest(n),
             "session_id": f"N{n:06}", "status": 1, "at": now + n * day, "data": "{}"}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "radius_disconnects",
        [
            {"tenant": tenants[n % 2], "session_id": f"N{n:06}", "reason": "", "actor": "",
             "attempts": 0, "due_at": now if n < 10 else None, "outcome": "", "created_at": now,
             "finished_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "deliveries",
        [
            {"tenant": tenants[n % 2], "notification": "security", "message": f"msg_{n}",
             # Ten wait, five of them are due.
             "state": "delivered" if n < ROWS - 10 else "waiting", "events": 1, "kinds": "{}",
             "records": "[]", "attempts": 1, "outcome": "",
             "due_at": None if n < ROWS - 10 else now + (n - ROWS + 5) * day,
             "created_at": now, "done_at": now + n * day if n < ROWS - 10 else None}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "exchanges",
        [
            {"endpoint": "cmp/iot", "transaction": _digest(n)[:16], "tenant": tenants[n % 2],
             "state": "closed", "opening": 0, "holder": _digest(n), "digest": _digest(n),
             "nonce": b"n", "answer": None, "number": 0, "is_implicit": False, "spki": None,
             "certificate_id": n, "due_at": now + n * day, "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "acme_nonces",
        [{"digest": _digest(n), "expires_at": now + n * day} for n in numbers],
    )
    insert(
        "acme_accounts",
        [
            {"id": f"A{n:06}", "endpoint": "acme/a", "tenant": tenants[n % 2], "state": "valid",
             "thumbprint": _digest(n), "key": b"k", "contacts": "[]", "secret_id": None,
             "binding": None, "agreed_at": None, "peer": f"192.0.2.{n % 250}",
             "created_at": now - n * day, "updated_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "acme_orders",
        [
            {"id": f"R{n:06}", "endpoint": "acme/a", "tenant": tenants[n % 2],
             "account": f"A{n:06}", "identifiers": "[]", "authorizations": "[]", "profile": "",
             "not_before": None, "not_after": None, "replaces": f"aki.{n}" if n % 9 == 0 else None,
             # Most were used long ago.
             "request_id": f"R{n:06}" if n < ROWS - 20 else None, "error": None,
             "expires_at": now - n * day, "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "acme_authorizations",
        [
            {"id": f"Z{n:06}", "endpoint": "acme/a", "tenant": tenants[n % 2],
             "account": f"A{n:06}", "state": "valid", "type": "dns", "value": f"n{n}.test",
             "is_wildcard": False, "challenges": "[]", "token": "t", "challenge": None,
             "response": None, "attempts": 0,
             "due_at": None if n < ROWS - 10 else now + (n - ROWS + 5) * day, "error": None,
             "record": None, "attested_key": None, "validated_at": None,
             "expires_at": now + n * day, "created_at": now}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "agents",
        [
            {"tenant": tenants[n % 2], "id": f"{n:016x}", "certificate_id": n,
             "subject": f"CN=web-{n:06}", "owner": "", "host": "h", "label": "l", "version": "1",
             "source": "est", "state": "good", "served": "", "error": "", "renew_at": None,
             "first_contact": now, "last_contact": now + n * day}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "request_numbers",
        [
            {"request_id": f"Q{n:06}", "endpoint": "wstep/users", "number": n, "created_at": now}
            for n in numbers
        ],
    )
    insert(
        "device_links",
        [
            {"id": f"K{n:06}", "tenant": tenants[n % 2], "endpoint": "scep/door-0",
             "digest": _digest(n), "platform": "apple", "wish": "{}", "secret_id": None,
             "sealed": b"s", "created_by": "x", "created_at": now, "expires_at": now + n * day,
             "revoked_at": None, "opened_at": None, "opened_by": None}
            for n in numbers
        ],
    )  # fmt: skip
    insert(
        "login_failures",
        [
            {"tenant": tenants[n % 2], "subject": f"person:p-{n:06}", "failures": 1,
             "since": now}
            for n in numbers
        ],
    )  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def explained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Explained]:
    sent = Sent()
    if request.param == "sqlite":
        path = str(tmp_path_factory.mktemp("plans") / "tmad.db")

        def open_sqlite() -> sqlite3.Connection:
            opened = sqlite3.connect(path, factory=SQLiteConnection, isolation_level=None)
            opened.sent = sent
            return opened

        engine = sa.create_engine("sqlite://", creator=open_sqlite, poolclass=sa.pool.NullPool)
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = sa.make_url(cluster.database()).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)

        class PostgreSQLCursor(psycopg.Cursor[Any]):
            def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
                sent.statements.extend((query, each) for each in params_seq)
                super().executemany(query, params_seq, **options)

            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                sent.statements.append((query, params))
                return super().execute(query, params, **options)

    with engine.connect() as connection:
        if request.param == "sqlite":
            connection.exec_driver_sql("BEGIN")
            metadata.create_all(connection)
        _fill(connection)
        connection.commit()
        # SQLite goes without statistics, as it does in service: nobody runs ANALYZE there.
        if request.param == "postgresql":
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
            driver: Any = connection.connection.driver_connection
            driver.cursor_factory = PostgreSQLCursor
        else:
            connection.exec_driver_sql("BEGIN")
        yield Explained(connection, sent)
        connection.rollback()
    engine.dispose()


NOW = clock()
LATER = NOW + timedelta(days=1)
MIDDLE = ROWS // 2
DEEP = {"after": MIDDLE, "limit": PAGE}
AGENT = agents.AgentRow(
    tenant="default", id=f"{MIDDLE:016x}", certificate_id=MIDDLE, subject=f"CN=web-{MIDDLE:06}",
    owner="", host="h", label="l", version="1", source="est", state="good", served="", error="",
    renew_at=None, first_contact=NOW, last_contact=NOW,
)  # fmt: skip
ACCOUNT = acme.Account(
    id=f"A{MIDDLE:06}", endpoint="acme/a", tenant="default", state="valid",
    thumbprint=_digest(MIDDLE), key=b"k", contacts="[]", peer="192.0.2.1", created_at=NOW,
    updated_at=NOW,
)  # fmt: skip
EXCHANGE = Exchange(
    endpoint="cmp/iot",
    transaction=_digest(MIDDLE)[:16],
    tenant="default",
    state="closed",
    opening=0,
    holder=_digest(MIDDLE),
    digest=_digest(MIDDLE),
    due_at=NOW,
    created_at=NOW,
)

SESSION = radius_sessions.SessionRow(
    id=f"N{MIDDLE:06}", tenant="default", client=f"nas-{MIDDLE % 40}", state="open",
    nas_address="192.0.2.1", nas_identifier="", nas_port="", session_key=f"K{MIDDLE}",
    user_name="", person=None, device=None, issuer_id=None, serial=None, anchor=None,
    anchor_issuer=None, anchor_serial=None, method="", policy="", ssid="",
    calling_station=f"{MIDDLE:012x}", calling_sent="", called_station="", framed_address="",
    octets_in=0, octets_out=0, seconds=0, cause="", admitted_at=NOW, seen_at=NOW, ends_at=None,
    interim=0, stale_at=LATER, closed_at=None,
)  # fmt: skip

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _advance(number: int) -> otp_tokens.Advance:
    return otp_tokens.Advance(f"O{number:06}", f"p-{number:06}", 0, 0, NOW)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return function, args, kwargs


HOT: dict[str, Call] = {
    # OCSP and every check of a certificate
    "status": call(status.by_serial, 1, _digest(MIDDLE)),
    "status, never issued": call(status.by_serial, 1, b"\x01"),
    "revocable": call(status.by_issuer_and_serial, "default", 1, _digest(MIDDLE)),
    "certificate by serial": call(certificates.by_serial, 1, 7),
    "certificate by digest": call(certificates.by_sha256, "default", _digest(MIDDLE)),
    "certificate by id": call(certificates.by_id, "default", MIDDLE),
    # lists
    "certificates, first page": call(certificates.find, "default", after=0, limit=PAGE),
    "certificates, deep page": call(certificates.find, "default", **DEEP),
    "certificates by name": call(
        certificates.find_by_name, "default", f"host-{MIDDLE}.test", after=0, limit=PAGE
    ),
    "certificates by key": call(certificates.find_by_key, _digest(MIDDLE), 0, PAGE),
    "certificates that expire": call(
        certificates.find_expiring, "default", until=LATER, after=(NOW, 0), limit=PAGE
    ),
    "key history": call(key_history.history, "default", _digest(MIDDLE), NOW),
    "key histories": call(
        key_history.histories, [("default", _digest(MIDDLE + n)) for n in range(6)], NOW
    ),
    "stale intents": call(certificates.find_stale_intents, LATER, limit=PAGE),
    # CRL
    "revoked, a page": call(crls.find_revoked, 1, _digest(MIDDLE), None, None, PAGE),
    "newest CRL": call(crls.newest, 1),
    "list of CRLs": call(crls.find_heads, 1, None, PAGE),
    "base of a delta CRL": call(crls.delta_base, 1, 5, NOW),
    "statuses that changed": call(crls.find_changed, 1, ROWS - 50, PAGE),
    "revoked, and expired since": call(
        crls.find_dropped, 1, crls.DeltaBase(2, 0, 0, NOW), LATER, None, PAGE
    ),
    "status changes": call(crls.find_status_changes, 1, ROWS - 5),
    # caches
    "changes": call(changes.since, ROWS - 5),
    "changes, all seen": call(changes.since, ROWS),
    "changes, pruned": call(changes.since, ROWS * 2),
    # enrolment
    "requests of a transaction": call(
        requests.find_of_transaction, f"scep/door-{MIDDLE % 2}", f"t-{MIDDLE}", PAGE
    ),
    "request": call(requests.by_id, "default", f"R{MIDDLE:06}"),
    "pending requests": call(requests.find, "default", state="pending", after="", limit=PAGE),
    "issued requests, deep": call(
        requests.find, "default", state="issued", after=f"R{MIDDLE:06}", limit=PAGE
    ),
    "expired requests": call(requests.find_expired, NOW, limit=PAGE),
    "requests of today": call(
        requests.count, "scep/door-0", ("issued", "pending"), f"R{ROWS - 10:06}", PAGE
    ),
    "idempotency": call(requests.forget_idempotency, [(_digest(MIDDLE), NOW)]),
    "secret": call(enroll_secrets.by_digest, "scep/door-0", _digest(MIDDLE)),
    "secret of a reference": call(enroll_secrets.sealed, "default", "scep/door-0", f"S{MIDDLE:06}"),
    "secrets, deep page": call(enroll_secrets.find, "default", None, f"S{MIDDLE:06}", PAGE),
    "secret, claim": call(enroll_secrets.claim, [(f"S{MIDDLE:06}", "R1")], NOW),
    "secret, consume": call(enroll_secrets.consume, [(f"S{MIDDLE:06}", "R1")], NOW),
    # journal
    "journal by trace": call(journal.by_trace, f"T{MIDDLE // 2}"),
    "journal, first page": call(journal.find, None, None, PAGE),
    "journal, newest first": call(journal.find, None, None, PAGE, True),
    "journal, deep page": call(journal.find, None, (NOW, "node/1", ROWS // 6), PAGE),
    "journal of a tenant": call(journal.find, "default", (NOW, "node/1", ROWS // 6), PAGE),
    "journal of a small tenant": call(journal.find, "small", None, PAGE),
    "journal of a writer": call(journal.find_raw, "node/1", ROWS // 6, ROWS, PAGE),
    "journal bounds": call(journal.bounds, "node/1"),
    "log collector, position": call(log_collectors.position, "default", "siem"),
    "log collector, next": call(log_collectors.find_after, {"node/1": ROWS // 6}, PAGE),
    "log collector, waiting": call(log_collectors.waiting, "default", "siem"),
    "log collector, forget": call(log_collectors.forget, "default", "siem"),
    "journal strangers": call(journal.find_strangers, ["node/0", "node/1", "node/2"]),
    # what the node is made of
    "object": call(objects.by_name, "default", "endpoint", f"e-{MIDDLE}"),
    "object by handle": call(objects.by_handle, "endpoint", f"scep/e-{MIDDLE}"),
    "objects, deep page": call(objects.find, "default", "endpoint", f"e-{MIDDLE}", PAGE),
    "issuer": call(issuers.by_id, 7),
    "issuers of an authority": call(issuers.find_of_authority, "default", "ca-8"),
    "issuers, a page": call(issuers.find, after=20, limit=PAGE),
    "private key": call(private_keys.by_id, f"key-{MIDDLE}"),
    # logins
    "person": call(people.by_name, "default", f"p-{MIDDLE:06}"),
    "person by address": call(people.by_mail, "default", f"p-{MIDDLE}@example.test"),
    # LDAP searches
    **{
        f"people {how}": call(directory.find, "people", "default", what, NOW, "", PAGE, 5 * PAGE)
        for how, what in {
            "by mail": conditions.Same("mail", f"p-{MIDDLE}@example.test"),
            "by name": conditions.Same("name", f"p-{MIDDLE:06}"),
            "by full name": conditions.Same("cn_key", f"person {MIDDLE}"),
            "by surname": conditions.Same("sn_key", str(MIDDLE)),
            "by the beginning of a name": conditions.Like("cn_key", "person 199", (), ""),
            "by one of several": conditions.Either(
                (
                    conditions.Same("mail", f"p-{MIDDLE}@example.test"),
                    conditions.Like("mail", "p-199", (), "test"),
                    conditions.Same("name", f"p-{MIDDLE + 2:06}"),
                )
            ),
            "by mail and more": conditions.Both(
                (
                    conditions.Like("cn_key", "", ("person",), ""),
                    conditions.Same("mail", f"p-{MIDDLE}@example.test"),
                )
            ),
            "as they come": conditions.EVERYTHING,
            "who hold something": conditions.Holds(),
            "by what no index has": conditions.Like("cn_key", "", ("nobody",), ""),
        }.items()
    },
    "a device by name": call(
        directory.find,
        "devices",
        "default",
        conditions.Same("name", f"d-{MIDDLE:06}"),
        NOW,
        "",
        PAGE,
        5 * PAGE,
    ),
    "what one person holds": call(
        holdings.held_by, "default", [f"person:p-{MIDDLE:06}"], [f"p-{MIDDLE}@example.test"], NOW
    ),
    "what several hold": call(
        holdings.held_by,
        "default",
        [f"person:p-{MIDDLE + n:06}" for n in range(PAGE)],
        [f"p-{MIDDLE + n}@example.test" for n in range(PAGE)],
        NOW,
    ),
    "whose a serial number is": call(
        holdings.named_by, "default", 1, int.from_bytes(_digest(MIDDLE)), NOW
    ),
    "people, deep page": call(people.find, "default", f"p-{MIDDLE:06}", PAGE),
    "device": call(devices.by_name, "default", f"d-{MIDDLE:06}"),
    "device by address": call(devices.by_mac, "default", f"{MIDDLE:012x}"),
    "devices, deep page": call(devices.find, "default", f"d-{MIDDLE:06}", PAGE),
    "tokens of a person": call(otp_tokens.find_by_person, "default", f"p-{MIDDLE:06}", 10),
    "token": call(otp_tokens.by_serial, "default", f"T-{MIDDLE:06}"),
    "tokens, deep page": call(otp_tokens.find, "default", after=f"T-{MIDDLE:06}", limit=PAGE),
    "code, use": call(otp_tokens.advance_all, [_advance(MIDDLE)]),
    "codes, use": call(otp_tokens.advance_all, [_advance(MIDDLE + n) for n in range(4)]),
    "failures": call(
        login_failures.find_listed, "default", (f"person:p-{MIDDLE:06}", "token:x", "source:x")
    ),
    "standings of people": call(
        people.standings, "default", [f"p-{MIDDLE + n:06}" for n in range(4)]
    ),
    "failures, reset": call(login_failures.reset, "default", f"person:p-{MIDDLE:06}"),
    "failures, prune": call(login_failures.prune, "source:", NOW - timedelta(days=1)),
    # sessions
    "session": call(radius_sessions.by_id, f"N{MIDDLE:06}"),
    "session by number": call(
        radius_sessions.by_key, "default", f"nas-{MIDDLE % 40}", "", f"K{MIDDLE}"
    ),
    "session by station": call(
        radius_sessions.by_station, "default", f"nas-{MIDDLE % 40}", "", f"{MIDDLE:012x}", ""
    ),
    "session, supersede": call(radius_sessions.supersede, [SESSION, SESSION]),
    "session, write back": call(radius_sessions.update, SESSION),
    "session, heir": call(radius_sessions.has_heir, SESSION),
    "session, end": call(radius_sessions.end, f"N{MIDDLE:06}", NOW),
    "sessions of a person": call(radius_sessions.count_live, "default", f"p-{MIDDLE:06}", "x", NOW),
    "sessions, stale": call(radius_sessions.close_stale, NOW, PAGE),
    "sessions, page of all": call(
        radius_sessions.find, "default", live=False, before=f"N{MIDDLE:06}", limit=PAGE
    ),
    "sessions, live page": call(radius_sessions.find, "default", limit=PAGE // 2),
    "sessions of a certificate": call(radius_sessions.bad_certificates, PAGE, 1, _digest(MIDDLE)),
    "sessions of somebody": call(
        radius_sessions.bad_people, NOW, PAGE, "default", f"p-{MIDDLE:06}"
    ),
    "sessions, prune": call(radius_sessions.prune, NOW - timedelta(days=9000), PAGE),
    "accounting, again": call(
        radius_sessions.has_accounting, (_digest(MIDDLE), _digest(1), _digest(2))
    ),
    "accounting of a session": call(
        radius_sessions.find_accounting, "default", f"N{MIDDLE:06}", 0, PAGE
    ),
    "accounting, deep page": call(radius_sessions.find_accounting, "default", None, MIDDLE, PAGE),
    "accounting, prune": call(radius_sessions.prune_accounting, NOW + 7 * timedelta(days=1), PAGE),
    "disconnect, next": call(disconnects.next_due),
    "disconnects, claim": call(disconnects.claim, NOW, LATER, PAGE),
    "disconnects of a session": call(disconnects.find_of_session, f"N{MIDDLE:06}"),
    "disconnects, unreached": call(disconnects.unreached),
    "disconnects, unreached of a client": call(
        disconnects.claim_unreached, "default", "switch", LATER, PAGE
    ),
    # notifications
    "deliveries, due": call(deliveries.due, NOW, PAGE),
    "delivery, newest": call(deliveries.newest, "default", "security", 5),
    "deliveries, deep page": call(deliveries.find, "default", "security", MIDDLE, PAGE),
    "delivery": call(deliveries.by_id, "default", MIDDLE),
    "delivery, claim": call(deliveries.claim, ROWS - 5, NOW, LATER),
    "deliveries, prune": call(deliveries.prune, NOW - timedelta(days=9000), PAGE),
    "record of a delivery": call(deliveries.find_records, [("node/1", ROWS // 6)]),
    "notification, since": call(deliveries.exists_since, "default", "endpoint", f"e-{MIDDLE}"),
    "service certificate": call(service_certificates.find_of_scope, "ocsp", "7"),
    # conversations
    "exchange": call(exchanges.by_transaction, "cmp/iot", _digest(MIDDLE)[:16]),
    "exchange, change": call(
        exchanges.update, [(EXCHANGE, EXCHANGE._replace(state="withdrawing"))]
    ),
    "exchange, forget": call(exchanges.delete, EXCHANGE),
    "exchanges, due": call(exchanges.find_due, NOW + 5 * timedelta(days=1), limit=PAGE),
    # ACME
    "nonces, forget": call(acme.forget_nonces, NOW + timedelta(days=5), PAGE),
    "account": call(acme.account_by_id, "acme/a", f"A{MIDDLE:06}"),
    "account by key": call(acme.account_by_key, "acme/a", _digest(MIDDLE)),
    "account of a tenant": call(acme.account_of_tenant, "default", f"A{MIDDLE:06}"),
    "accounts, deep page": call(acme.find_accounts, "default", None, f"A{MIDDLE:06}", PAGE),
    "accounts of an address": call(acme.count_accounts, "acme/a", "192.0.2.7", NOW, PAGE),
    "account, change": call(acme.update_account, ACCOUNT, NOW, contacts="[]"),
    "order": call(acme.order_by_id, "acme/a", f"A{MIDDLE:06}", f"R{MIDDLE:06}"),
    "orders, some": call(acme.orders_by_id, [f"R{MIDDLE:06}", f"R{MIDDLE + 1:06}", "none"]),
    "orders of an account": call(acme.orders_of_account, f"A{MIDDLE:06}", "~", PAGE),
    "orders of an account, counted": call(acme.count_orders, f"A{MIDDLE:06}", "", PAGE),
    "orders, deep page": call(acme.find_orders, "default", None, f"R{MIDDLE:06}", PAGE),
    "order of a certificate": call(acme.order_of_certificate, f"R{MIDDLE:06}", f"A{MIDDLE:06}"),
    "order that replaces": call(acme.is_replaced, "default", f"aki.{MIDDLE}"),
    "order, claim": call(acme.claim_orders, [(f"R{MIDDLE:06}", "Q")]),
    "orders, forget": call(acme.forget_orders, NOW + timedelta(days=5), PAGE),
    "authorisations, some": call(acme.authorizations_by_id, [f"Z{MIDDLE:06}", "none"]),
    "authorisation": call(acme.authorization_by_id, "acme/a", f"A{MIDDLE:06}", f"Z{MIDDLE:06}"),
    "authorisations of a name": call(
        acme.find_authorizations, f"A{MIDDLE:06}", "dns", f"n{MIDDLE}.test", PAGE
    ),
    "challenges, due": call(acme.find_due, NOW + timedelta(days=5), PAGE),
    "authorisations, end": call(acme.end_authorizations, f"A{MIDDLE:06}"),
    "authorisations, forget": call(acme.forget_authorizations, NOW + timedelta(days=5), PAGE),
    # agents
    "agent": call(agents.by_id, "default", f"{MIDDLE:016x}"),
    "agent, lock": call(agents.locked, "default", f"{MIDDLE:016x}"),
    "agent, change": call(agents.update, AGENT),
    "agent, forget": call(agents.delete, "default", f"{MIDDLE:016x}"),
    "agents of a subject": call(agents.count_of_subject, "default", f"CN=web-{MIDDLE:06}"),
    "agents, deep page": call(agents.find, "default", after=f"{MIDDLE:016x}", limit=PAGE),
    # links to profiles
    "request number": call(request_numbers.of_request, "wstep/users", f"Q{MIDDLE:06}"),
    "request of a number": call(request_numbers.by_number, "wstep/users", MIDDLE),
    "request numbers, forget": call(request_numbers.forget, NOW),
    "link": call(device_links.by_digest, _digest(MIDDLE)),
    "links, deep page": call(device_links.find, "default", None, f"K{MIDDLE:06}", PAGE),
    "link, open": call(device_links.open_once, f"K{MIDDLE:06}", "192.0.2.1", NOW),
    "link, revoke": call(device_links.revoke, f"K{MIDDLE:06}", NOW),
    "links, forget": call(device_links.forget, NOW, NOW - timedelta(days=90), PAGE),
    "certificates that end and were not renewed": call(alarms.ending, "default", NOW, LATER, PAGE),
    # figures
    "alarms": call(alarms.find),
    "heads of CRLs": call(figures.find_crl_heads, [1, 2, 3]),
    "what waits": call(figures.waiting, ["default", "other"]),
    "how far the journal is": call(figures.journal_state),
}


@pytest.mark.parametrize("name", HOT)
def test_g_load_7_no_hot_statement_reads_a_whole_table(explained: Explained, name: str) -> None:
    function, args, kwargs = HOT[name]
    assert explained.explain(function, *args, **kwargs) == []


def test_the_check_itself_sees_a_table_that_is_read_whole(explained: Explained) -> None:
    def careless(connection: sa.Connection) -> None:
        connection.execute(
            sa.text("SELECT id FROM certificates WHERE subject = :subject"), {"subject": "CN=7"}
        ).all()

    assert explained.explain(careless)


def test_certificates_are_counted_in_indexes_alone(explained: Explained) -> None:
    """A count walks what it counts, but never the rows, which hold whole certificates."""
    if not isinstance(explained.driver, sqlite3.Connection):
        pytest.skip("PostgreSQL chooses by its statistics, and by what was vacuumed")
    plans = []
    for function, arguments in (
        (figures.signed, (1, NOW, [LATER])),
        (figures.ending, ("default", NOW, [LATER])),
    ):
        explained.sent.statements.clear()
        function(explained.connection, *arguments)
        for sql, values in list(explained.sent.statements):
            rows = sqlite3.Connection.execute(
                explained.driver, f"EXPLAIN QUERY PLAN {sql}", values
            ).fetchall()
            plans += [row[3] for row in rows]
    assert len(plans) >= 4
    assert all("COVERING INDEX" in plan for plan in plans), plans
