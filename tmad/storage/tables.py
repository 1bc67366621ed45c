"""The schema: every table, its keys and its indexes, for SQLite and PostgreSQL alike.

Instants are stored as microseconds since the epoch (one integer compares and indexes the same
on both databases), serial numbers as big-endian octets without leading zeros, documents as
canonical JSON text. Every table that holds somebody's data has a ``tenant`` column.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """Return an instant as it is stored."""
    return (at - _EPOCH) // _MICROSECOND


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# SQLite autoincrements only a column declared INTEGER PRIMARY KEY.
RowID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Managed objects: tenants, authorities, profiles, endpoints, grants.
objects = sa.Table(
    "objects",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("handle", sa.Text, unique=True),  # a name that must be unique across tenants
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

object_revisions = sa.Table(
    "object_revisions",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("document", sa.Text),  # NULL: this revision deleted the object
    sa.Column("difference", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
)

# Private keys: `material` is what the store needs to find or unseal the key, opaque here.
private_keys = sa.Table(
    "private_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("store", sa.Text, nullable=False),  # "soft" | "pkcs11"
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("public_key_der", sa.LargeBinary, nullable=False),  # SubjectPublicKeyInfo
    sa.Column("spki_sha256", sa.LargeBinary, nullable=False, index=True),
    sa.Column("material", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

# An issuer is one authority with one key: what a serial number, a CRL and a CertID refer to.
issuers = sa.Table(
    "issuers",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("authority", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    # storage/issuers.py: "creating", "pending" (waits for a certificate from outside), "next",
    # "active", "retired", "withdrawn", "anchor" (somebody else's: no key)
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("subject_der", sa.LargeBinary, nullable=False),
    sa.Column("certificate_der", sa.LargeBinary),
    sa.Column("chain_der", sa.LargeBinary, nullable=False),  # concatenated DER, issuer first
    sa.Column("parent_issuer_id", sa.BigInteger),  # NULL for a root or an outside parent
    sa.Column("not_before", Instant),
    sa.Column("not_after", Instant),
    sa.Column("compromised_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("tenant", "authority", "generation"),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("issuer_id", sa.BigInteger, nullable=False),
    sa.Column("serial", sa.LargeBinary, nullable=False),
    # "intent" (TBS committed, not yet signed), "issued", "void" (never delivered), "imported"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("via", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("profile_revision", sa.Integer, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("replaces_id", sa.BigInteger),  # the certificate that this one renewed
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),  # RFC 4514, for people
    sa.Column("not_before", Instant, nullable=False),
    sa.Column("not_after", Instant, nullable=False),
    sa.Column("spki_sha256", sa.LargeBinary, nullable=False),
    sa.Column("tbs_sha256", sa.LargeBinary, nullable=False),
    sa.Column("tbs_der", sa.LargeBinary),  # kept only while the state is "intent" or "void"
    sa.Column("certificate_der", sa.LargeBinary),  # NULL until signed
    sa.Column("sha256", sa.LargeBinary),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),  # when it took effect; NULL: not revoked
    sa.Column("reason", sa.SmallInteger),  # RFC 5280 CRLReason; 6 is a hold
    sa.Column("invalidity_date", Instant),
    sa.Column("changed_id", sa.BigInteger),  # the change (below) that set the status last
    sa.UniqueConstraint("issuer_id", "serial"),
    sa.Index("ix_certificates_tenant_id", "tenant", "id"),
    sa.Index("ix_certificates_spki_sha256", "spki_sha256"),
    # With the tenant, which SQLite would else look for by ix_certificates_tenant_id: all of it.
    sa.Index("ix_certificates_sha256_tenant", "sha256", "tenant"),
    sa.Index("ix_certificates_tenant_not_after", "tenant", "not_after", "id"),
    # What somebody holds today, whatever has ended before.
    sa.Index("ix_certificates_tenant_owner_not_after", "tenant", "owner", "not_after"),
    sa.Index("ix_certificates_request_id", "request_id"),
    sa.Index(
        # Covers what a CRL needs, so that a million entries are read without their rows.
        "ix_certificates_revoked",
        "issuer_id",
        "serial",
        "revoked_at",
        "reason",
        "invalidity_date",
        "not_after",
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    ),
    # What a delta CRL lists: whose status changed, and who left the complete one by expiring.
    sa.Index(
        "ix_certificates_changed",
        "issuer_id",
        "changed_id",
        sqlite_where=sa.text("changed_id IS NOT NULL"),
        postgresql_where=sa.text("changed_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_certificates_revoked_end",
        "issuer_id",
        "not_after",
        "serial",
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_certificates_intent",
        "created_at",
        sqlite_where=sa.text("state = 'intent'"),
        postgresql_where=sa.text("state = 'intent'"),
    ),
)

certificate_names = sa.Table(
    "certificate_names",
    metadata,
    sa.Column("certificate_id", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),  # "cn", "dns", "ip", "email", "uri", "upn"
    sa.Column("value", sa.Text, primary_key=True),  # normalised: lower case, A-labels
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Index("ix_certificate_names_value", "tenant", "value", "certificate_id"),
)

# One pending request serves SCEP PENDING, CMP waiting, EST 202, ACME processing.
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID: sorts by time
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),  # "scep/routers"
    sa.Column("via", sa.Text, nullable=False),
    sa.Column("transaction", sa.Text, nullable=False),
    sa.Column("spki_sha256", sa.LargeBinary, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),  # SHA-256 of the evidence
    # NULL once the idempotency window of the request is over
    sa.Column("idempotency", sa.LargeBinary, unique=True),
    # "issuing", "pending", "issued", "denied", "refused", "failed"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("applicant", sa.Text, nullable=False),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # the EnrollmentRequest as JSON, without secrets
    sa.Column("certificate_id", sa.BigInteger),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("decided_by", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_requests_endpoint_transaction", "endpoint", "transaction", "id"),
    sa.Index("ix_requests_tenant_state_id", "tenant", "state", "id"),
    sa.Index("ix_requests_endpoint_state_id", "endpoint", "state", "id"),  # limits of a door
    sa.Index(
        "ix_requests_pending",
        "expires_at",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
)

# Enrolment secrets (SCEP challenges, EST passwords): only a keyed digest is stored.
enroll_secrets = sa.Table(
    "enroll_secrets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.LargeBinary),  # only where the protocol needs the clear secret
    sa.Column("bound_to", sa.Text, nullable=False),  # JSON: subject and SAN patterns, profile
    sa.Column("uses_left", sa.Integer),  # NULL: static, unlimited
    sa.Column("claimed_by", sa.Text),  # the request that is using a one-time secret just now
    sa.Column("claimed_at", Instant),
    sa.Column("used_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("endpoint", "digest"),
    sa.Index("ix_enroll_secrets_tenant_id", "tenant", "id"),
)

# Certificates that tmad holds for itself: OCSP responders, SCEP RAs, TLS servers.
service_certificates = sa.Table(
    "service_certificates",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),  # "ocsp" | "scep-ra" | "tls"
    sa.Column("scope", sa.Text, nullable=False),  # issuer id, endpoint id or host name
    sa.Column("certificate_der", sa.LargeBinary, nullable=False),
    sa.Column("chain_der", sa.LargeBinary, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("not_before", Instant, nullable=False),
    sa.Column("not_after", Instant, nullable=False),
    sa.Column("renew_at", Instant, nullable=False),
    sa.Column("superseded_at", Instant),  # NULL: the one in use
    sa.Index("ix_service_certificates_purpose_scope", "purpose", "scope", "id"),
)

crls = sa.Table(
    "crls",
    metadata,
    sa.Column("issuer_id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("this_update", Instant, nullable=False),
    sa.Column("next_update", Instant, nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("change_id", sa.BigInteger, nullable=False),  # newest status change it includes
    sa.Column("crl_der", sa.LargeBinary),  # NULL: superseded and pruned
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    # The delta CRL that was published with it, under the same number; NULL: there is none.
    sa.Column("base_number", sa.BigInteger),  # the complete one that it begins at
    sa.Column("keeps_expired", sa.Boolean),  # whether expired certificates stay listed
    sa.Column("delta_next_update", Instant),
    sa.Column("delta_entries", sa.Integer),
    sa.Column("delta_der", sa.LargeBinary),  # NULL, too: superseded and pruned
    sa.Column("delta_sha256", sa.LargeBinary),
)

# What changed, in commit order: caches read it before each use (storage/changes.py).
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("topic", sa.Text, nullable=False),  # "status" | "objects" | "issuers" | "crls" …
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("writer", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("trace", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Index("ix_journal_at", "at", "writer", "seq"),
    sa.Index("ix_journal_trace", "trace"),
    sa.Index("ix_journal_tenant_at", "tenant", "at", "writer", "seq"),
)

journal_writers = sa.Table(
    "journal_writers",
    metadata,
    sa.Column("writer", sa.Text, primary_key=True),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),  # of the newest row
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

journal_checkpoints = sa.Table(
    "journal_checkpoints",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("heads", sa.Text, nullable=False),  # JSON: writer -> [seq, hash]
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)

journal_cursors = sa.Table(
    "journal_cursors",
    metadata,
    sa.Column("subscriber", sa.Text, primary_key=True),
    sa.Column("writer", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),  # rises with each holder: fencing
    sa.Column("expires_at", Instant, nullable=False),
)

# People who log in. ``name`` is what they type, normalised (identity/names: NFKC, case folded).
people = sa.Table(
    "people",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("full_name", sa.Text, nullable=False),
    sa.Column("mail", sa.Text, nullable=False),
    sa.Column("phone", sa.Text, nullable=False),  # E.164, or empty
    sa.Column("groups", sa.Text, nullable=False),  # JSON list, sorted
    sa.Column("source", sa.Text, nullable=False),  # "local", or the directory it came from
    sa.Column("password_hash", sa.Text),  # argon2id, PHC string; NULL: no password
    sa.Column("nt_hash", sa.LargeBinary),  # sealed; only where MSCHAPv2 was switched on
    sa.Column("password_at", Instant),
    sa.Column("disabled_at", Instant),  # NULL: enabled
    sa.Column("valid_until", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    # What the directory finds people by (storage/people.py): folded, empty in nobody's row.
    sa.Column("cn_key", sa.Text, nullable=False, server_default=""),
    sa.Column("sn_key", sa.Text, nullable=False, server_default=""),
    # With the name, by which pages are ordered; the class serves what begins with something.
    sa.Index(
        "ix_people_tenant_mail_name",
        "tenant",
        "mail",
        "name",
        postgresql_ops={"mail": "text_pattern_ops"},
    ),
    sa.Index(
        "ix_people_tenant_cn_key_name",
        "tenant",
        "cn_key",
        "name",
        postgresql_ops={"cn_key": "text_pattern_ops"},
    ),
    sa.Index(
        "ix_people_tenant_sn_key_name",
        "tenant",
        "sn_key",
        "name",
        postgresql_ops={"sn_key": "text_pattern_ops"},
    ),
)

# Things that hold certificates: blocked as a whole, whatever certificate they show.
devices = sa.Table(
    "devices",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),  # normalised like a DNS name
    sa.Column("mac", sa.Text),  # 12 lower-case hex digits
    sa.Column("serial_number", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),  # a person's name, or empty
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("blocked_at", Instant),  # NULL: not blocked
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("tenant", "mac"),
)

otp_tokens = sa.Table(
    "otp_tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("serial", sa.Text, nullable=False),  # upper case
    sa.Column("person", sa.Text),  # NULL: in stock
    sa.Column("kind", sa.Text, nullable=False),  # "hotp" | "totp"
    sa.Column("algorithm", sa.Text, nullable=False),  # "sha1" | "sha256" | "sha512"
    sa.Column("digits", sa.SmallInteger, nullable=False),
    sa.Column("period", sa.SmallInteger, nullable=False),  # seconds; 0 for HOTP
    sa.Column("seed", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("counter", sa.BigInteger, nullable=False),  # the lowest that is still accepted
    sa.Column("drift", sa.SmallInteger, nullable=False),  # TOTP: steps, learned
    sa.Column("pin_hash", sa.Text),  # argon2id; NULL: no PIN
    sa.Column("state", sa.Text, nullable=False),  # "new" | "active" | "disabled"
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("activated_at", Instant),
    sa.Column("used_at", Instant),
    sa.UniqueConstraint("tenant", "serial"),
    sa.Index("ix_otp_tokens_tenant_person", "tenant", "person"),
)

# Codes that work once: sent by SMS or mail, or printed for an emergency. Only a keyed digest.
one_time_codes = sa.Table(
    "one_time_codes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # "sms" | "mail" | "emergency"
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("tries_left", sa.SmallInteger, nullable=False),
    sa.Column("used_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_one_time_codes_tenant_person_kind", "tenant", "person", "kind", "id"),
)

# Failed logins, counted in transactions of their own, so that no rollback forgets them.
login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),  # "person:bob", "token:ID", "source:10.0.0.1"
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("since", Instant, nullable=False),
    sa.Column("locked_until", Instant),
    sa.Index("ix_login_failures_since", "since"),
)

# Shared secrets of RADIUS clients, sealed; an old one overlaps for a while.
radius_secrets = sa.Table(
    "radius_secrets",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),  # NULL: the one in use
    sa.Index("ix_radius_secrets_tenant_client", "tenant", "client", "id"),
)

# What RADIUS clients were seen to do; written now and then, never in the way of a login.
radius_client_states = sa.Table(
    "radius_client_states",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("seen_at", Instant),
    sa.Column("unsigned_at", Instant),  # last Access-Request without Message-Authenticator
    sa.Column("signed_since", Instant),  # require_message_authenticator = "auto" has learned
)

# One login that was admitted, and what became of it.
radius_sessions = sa.Table(
    "radius_sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID; the Class attribute
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    # "admitted" (no accounting yet), "open", "closed"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("nas_address", sa.Text, nullable=False),  # where the request came from
    sa.Column("nas_identifier", sa.Text, nullable=False),
    sa.Column("nas_port", sa.Text, nullable=False),
    sa.Column("session_key", sa.Text, nullable=False),  # Acct-Session-Id, or empty
    sa.Column("user_name", sa.Text, nullable=False),  # as Access-Accept named it
    sa.Column("person", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("issuer_id", sa.BigInteger),
    sa.Column("serial", sa.LargeBinary),
    sa.Column("anchor", sa.Text),  # the trust-anchor, where the certificate is not ours,
    sa.Column("anchor_issuer", sa.LargeBinary),  # which of its CAs (network/foreign.py), and
    sa.Column("anchor_serial", sa.LargeBinary),  # the serial number there
    sa.Column("method", sa.Text, nullable=False),  # empty: known from accounting alone
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("ssid", sa.Text, nullable=False),
    sa.Column("calling_station", sa.Text, nullable=False),  # 12 hex digits, or as it was sent
    sa.Column("calling_sent", sa.Text, nullable=False),  # as it was sent
    sa.Column("called_station", sa.Text, nullable=False),
    sa.Column("framed_address", sa.Text, nullable=False),
    sa.Column("octets_in", sa.BigInteger, nullable=False),
    sa.Column("octets_out", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.BigInteger, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),  # why it ended
    sa.Column("admitted_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("ends_at", Instant),  # when Session-Timeout ends it
    sa.Column("interim", sa.Integer, nullable=False),  # seconds between reports; 0: not asked
    sa.Column("stale_at", Instant, nullable=False),  # gone, unless it is heard of before
    sa.Column("closed_at", Instant),
    sa.Index("ix_radius_sessions_tenant_id", "tenant", "id"),
    # With the id, since the newest is asked for: else SQLite walks the index before this one.
    sa.Index("ix_radius_sessions_tenant_client_key", "tenant", "client", "session_key", "id"),
    sa.Index(
        "ix_radius_sessions_serial",
        "issuer_id",
        "serial",
        sqlite_where=sa.text("state <> 'closed'"),
        postgresql_where=sa.text("state <> 'closed'"),
    ),
    sa.Index(
        "ix_radius_sessions_person",
        "tenant",
        "person",
        sqlite_where=sa.text("state <> 'closed'"),
        postgresql_where=sa.text("state <> 'closed'"),
    ),
    sa.Index(
        "ix_radius_sessions_station",
        "tenant",
        "client",
        "calling_station",
        "id",
        sqlite_where=sa.text("state <> 'closed'"),
        postgresql_where=sa.text("state <> 'closed'"),
    ),
    sa.Index(
        "ix_radius_sessions_live",
        "stale_at",
        sqlite_where=sa.text("state <> 'closed'"),
        postgresql_where=sa.text("state <> 'closed'"),
    ),
)

# Accounting as it came in; the digest makes a record that is sent again the same record.
radius_accounting = sa.Table(
    "radius_accounting",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("session_id", sa.Text),  # ours, where it is known
    sa.Column("status", sa.SmallInteger, nullable=False),  # Acct-Status-Type
    sa.Column("at", Instant, nullable=False),  # of the event, as far as the client said
    sa.Column("data", sa.Text, nullable=False),  # JSON
    sa.Index("ix_radius_accounting_tenant_id", "tenant", "id"),
    sa.Index("ix_radius_accounting_tenant_session_id", "tenant", "session_id", "id"),
)

# Sessions that must end: kept until the NAS has confirmed it or time is up.
radius_disconnects = sa.Table(
    "radius_disconnects",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("attempts", sa.SmallInteger, nullable=False),
    sa.Column("due_at", Instant),  # NULL: done
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Index("ix_radius_disconnects_session_id", "session_id", "id"),
    # Nothing is asked for twice at a time.
    sa.Index(
        "ix_radius_disconnects_waiting",
        "session_id",
        unique=True,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_radius_disconnects_due_at",
        "due_at",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
)

# CRLs of other people's authorities whose certificates may log in here.
anchor_crls = sa.Table(
    "anchor_crls",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("anchor", sa.Text, primary_key=True),  # the trust-anchor's name
    sa.Column("issuer", sa.LargeBinary, primary_key=True),  # SHA-256 of the issuer's subject DER
    sa.Column("crl_der", sa.LargeBinary, nullable=False),
    sa.Column("this_update", Instant, nullable=False),
    sa.Column("next_update", Instant),
    sa.Column("fetched_at", Instant, nullable=False),
)

# The SNMP engine of a node: what managers hold against replays (RFC 3414, 2.2).
snmp_engines = sa.Table(
    "snmp_engines",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("engine_id", sa.LargeBinary, nullable=False),
    sa.Column("boots", sa.BigInteger, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
)
snmp_users = sa.Table(
    "snmp_users",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("authentication", sa.Text, nullable=False),  # "sha256", "sha384", "sha512", …
    sa.Column("privacy", sa.Text, nullable=False),  # "aes128", "aes256", …
    sa.Column("keys", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("view", sa.Text, nullable=False),  # subtrees, separated by spaces
    sa.Column("created_at", Instant, nullable=False),
)
snmp_communities = sa.Table(
    "snmp_communities",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("prefixes", sa.Text, nullable=False),  # separated by spaces
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

# What is wrong just now, or was lately: one row for each condition and what it is about.
alarms = sa.Table(
    "alarms",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # "crl-stale", "hsm-lost", …
    sa.Column("object", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", Instant, nullable=False),
    sa.Column("cleared_at", Instant),  # NULL: it is so now
    # What the journal was told last, and when it was told that something is wrong, or well.
    sa.Column("told", sa.Text, nullable=False),  # the severity, or "cleared"
    sa.Column("raised_told_at", Instant),
    sa.Column("cleared_told_at", Instant),
)

# Messages to people and services about what the journal holds (tmad/lifecycle/notify.py).
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", RowID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("notification", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),  # what receivers know it by
    sa.Column("state", sa.Text, nullable=False),  # "waiting", "delivered", "failed"
    sa.Column("events", sa.Integer, nullable=False),  # how many it tells of
    sa.Column("kinds", sa.Text, nullable=False),  # JSON: kind -> number
    sa.Column("records", sa.Text, nullable=False),  # JSON: the first ones' writer and seq
    sa.Column("attempts", sa.SmallInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("due_at", Instant),  # NULL: nothing more to do
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("done_at", Instant),
    sa.Index("ix_deliveries_tenant_notification", "tenant", "notification", "id"),
    sa.Index(
        "ix_deliveries_due_at",
        "due_at",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_deliveries_done_at",
        "done_at",
        sqlite_where=sa.text("done_at IS NOT NULL"),
        postgresql_where=sa.text("done_at IS NOT NULL"),
    ),
)

# Conversations of an enrolment protocol that take several messages (CMP, CMC): what the last
# one was answered, and which certificate still waits for its confirmation.
exchanges = sa.Table(
    "exchanges",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("transaction", sa.LargeBinary, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    # "challenged", "begun", "waiting", "unconfirmed", "withdrawing" (to be revoked), "closed"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("opening", sa.SmallInteger, nullable=False),  # the protocol's type of message
    sa.Column("holder", sa.LargeBinary, nullable=False),  # SHA-256 of the credential
    sa.Column("digest", sa.LargeBinary, nullable=False),  # SHA-256 of the last message
    sa.Column("nonce", sa.LargeBinary, nullable=False),  # our last one
    sa.Column("answer", sa.LargeBinary),  # to the last message; NULL: not yet, or no more
    sa.Column("number", sa.Integer, nullable=False),  # the protocol's own, of the request
    sa.Column("is_implicit", sa.Boolean, nullable=False),  # no confirmation is expected
    sa.Column("spki", sa.LargeBinary),  # of a request that waits
    sa.Column("certificate_id", sa.BigInteger),
    sa.Column("due_at", Instant, nullable=False),  # when something is to be done about it
    sa.Column("created_at", Instant, nullable=False),
    # what began it, encrypted under the answer to its challenge, until that has led to something
    sa.Column("request", sa.LargeBinary),
    sa.Index("ix_exchanges_due_at", "due_at"),
)

# What agents on other machines (tmad/agent) said last about the certificates that they keep.
agents = sa.Table(
    "agents",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),  # the agent's own choice: 16 hex digits
    sa.Column("certificate_id", sa.BigInteger, nullable=False),  # which it showed last
    sa.Column("subject", sa.Text, nullable=False),  # RFC 4514; stays for ever
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),  # what the agent calls the certificate
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # "est", "acme", "scep"
    sa.Column("state", sa.Text, nullable=False),  # "good", "waiting", "failing", "withdrawn"
    sa.Column("served", sa.Text, nullable=False),  # "same", "other", "unreachable", ""
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("renew_at", Instant),
    sa.Column("first_contact", Instant, nullable=False),
    sa.Column("last_contact", Instant, nullable=False),
    sa.Index("ix_agents_tenant_subject", "tenant", "subject"),
    sa.Index("ix_agents_tenant_last_contact", "tenant", "last_contact"),
)

# ACME (RFC 8555, 7.1.2 and 7.1.3). What state an order is in follows from its authorisations and
# from the pipeline's request for it; so nothing can disagree, whichever process ends when.
acme_accounts = sa.Table(
    "acme_accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # "valid", "deactivated", "revoked"
    sa.Column("thumbprint", sa.LargeBinary, nullable=False),  # RFC 7638, SHA-256
    sa.Column("key", sa.LargeBinary, nullable=False),  # SubjectPublicKeyInfo
    sa.Column("contacts", sa.Text, nullable=False),  # JSON
    sa.Column("secret_id", sa.Text),  # the enrolment secret that bound it to somebody
    sa.Column("binding", sa.Text),  # the JWS that the client bound it with (RFC 8555, 7.3.4)
    sa.Column("agreed_at", Instant),  # to the terms of service
    sa.Column("peer", sa.Text, nullable=False),  # who made it
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.UniqueConstraint("endpoint", "thumbprint"),
    sa.Index("ix_acme_accounts_tenant_id", "tenant", "id"),
    sa.Index("ix_acme_accounts_endpoint_peer", "endpoint", "peer", "created_at"),
)

acme_orders = sa.Table(
    "acme_orders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("identifiers", sa.Text, nullable=False),  # JSON: [[type, value], …]
    sa.Column("authorizations", sa.Text, nullable=False),  # JSON: ids
    sa.Column("profile", sa.Text, nullable=False),  # the name in the directory; "": none
    sa.Column("not_before", Instant),
    sa.Column("not_after", Instant),
    sa.Column("replaces", sa.Text),  # RFC 9773, 5: the identifier of a certificate
    sa.Column("request_id", sa.Text),  # the pipeline's request that used it
    sa.Column("error", sa.Text),  # JSON: the problem that ended it
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_acme_orders_account_id", "account", "id"),
    sa.Index("ix_acme_orders_tenant_id", "tenant", "id"),
    # Of those that came to nothing: they are forgotten.
    sa.Index(
        "ix_acme_orders_expires_at",
        "expires_at",
        sqlite_where=sa.text("request_id IS NULL"),
        postgresql_where=sa.text("request_id IS NULL"),
    ),
    sa.Index(
        "ix_acme_orders_replaces",
        "replaces",
        sqlite_where=sa.text("replaces IS NOT NULL"),
        postgresql_where=sa.text("replaces IS NOT NULL"),
    ),
)

# A challenge is no row: an authorisation has one token, and the challenge that its account chose.
acme_authorizations = sa.Table(
    "acme_authorizations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    # "pending", "processing" (a challenge is), "valid", "invalid", "deactivated"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),  # "dns", "ip", "permanent-identifier"
    sa.Column("value", sa.Text, nullable=False),  # without the "*." of a wildcard
    sa.Column("is_wildcard", sa.Boolean, nullable=False),
    sa.Column("challenges", sa.Text, nullable=False),  # JSON: the kinds offered
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("challenge", sa.Text),  # the kind that was chosen
    sa.Column("response", sa.LargeBinary),  # what came with it (device-attest-01)
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", Instant),  # of the next attempt, and of the one that is under way
    sa.Column("error", sa.Text),  # JSON: the problem of the last attempt
    sa.Column("record", sa.Text),  # JSON: how it was validated
    sa.Column("attested_key", sa.LargeBinary),  # SHA-256 of the SubjectPublicKeyInfo
    sa.Column("validated_at", Instant),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_acme_authorizations_account", "account", "value", "type", "id"),
    sa.Index("ix_acme_authorizations_expires_at", "expires_at"),
    sa.Index(
        "ix_acme_authorizations_due_at",
        "due_at",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
)

# Replay nonces that were used; who made one is in the nonce itself (RFC 8555, 6.5).
acme_nonces = sa.Table(
    "acme_nonces",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_acme_nonces_expires_at", "expires_at"),
)

# Links that hand a configuration profile to a device, once (tmad/ca/device_profiles).
device_links = sa.Table(
    "device_links",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # ULID
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),  # of the token
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("wish", sa.Text, nullable=False),  # JSON: for which subject, names, networks
    sa.Column("secret_id", sa.Text),  # NULL: the endpoint's protocol needs none
    sa.Column("sealed", sa.LargeBinary),  # the secret, until the link is opened
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("revoked_at", Instant),
    sa.Column("opened_at", Instant),
    sa.Column("opened_by", sa.Text),  # the peer's address
    sa.Index("ix_device_links_tenant_id", "tenant", "id"),
    sa.Index("ix_device_links_expires_at", "expires_at"),
)

# A number of 31 bits for a request that waits, for clients that have no room for its id.
request_numbers = sa.Table(
    "request_numbers",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.UniqueConstraint("endpoint", "number"),
    sa.Index("ix_request_numbers_created_at", "created_at"),
)
