"""What others see and hear of tmad, and the enrolment protocols besides SCEP."""

from __future__ import annotations

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# SQLite autoincrements only a column declared INTEGER PRIMARY KEY.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables and indexes of the outside view and of enrolment."""
    op.create_table(
        "alarms",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("cleared_at", sa.BigInteger(), nullable=True),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("raised_told_at", sa.BigInteger(), nullable=True),
        sa.Column("cleared_told_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", "object", name=op.f("pk_alarms")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("notification", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("kinds", sa.Text(), nullable=False),
        sa.Column("records", sa.Text(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(
        "ix_deliveries_done_at",
        "deliveries",
        ["done_at"],
        unique=False,
        sqlite_where=sa.text("done_at IS NOT NULL"),
        postgresql_where=sa.text("done_at IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_due_at",
        "deliveries",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_tenant_notification",
        "deliveries",
        ["tenant", "notification", "id"],
        unique=False,
    )
    op.create_table(
        "exchanges",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("transaction", sa.LargeBinary(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opening", sa.SmallInteger(), nullable=False),
        sa.Column("holder", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("is_implicit", sa.Boolean(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "transaction", name=op.f("pk_exchanges")),
    )
    op.create_index("ix_exchanges_due_at", "exchanges", ["due_at"], unique=False)
    op.create_table(
        "snmp_communities",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("prefixes", sa.Text(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_snmp_communities")),
    )
    op.create_table(
        "snmp_engines",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("engine_id", sa.LargeBinary(), nullable=False),
        sa.Column("boots", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_snmp_engines")),
    )
    op.create_table(
        "snmp_users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("authentication", sa.Text(), nullable=False),
        sa.Column("privacy", sa.Text(), nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_snmp_users")),
    )
    op.add_column("certificates", sa.Column("changed_id", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_certificates_changed",
        "certificates",
        ["issuer_id", "changed_id"],
        unique=False,
        sqlite_where=sa.text("changed_id IS NOT NULL"),
        postgresql_where=sa.text("changed_id IS NOT NULL"),
    )
    op.create_index(
        "ix_certificates_revoked_end",
        "certificates",
        ["issuer_id", "not_after", "serial"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )
    op.create_index(
        "ix_certificates_tenant_owner_not_after",
        "certificates",
        ["tenant", "owner", "not_after"],
        unique=False,
    )
    op.add_column("crls", sa.Column("base_number", sa.BigInteger(), nullable=True))
    op.add_column("crls", sa.Column("keeps_expired", sa.Boolean(), nullable=True))
    op.add_column("crls", sa.Column("delta_next_update", sa.BigInteger(), nullable=True))
    op.add_column("crls", sa.Column("delta_entries", sa.Integer(), nullable=True))
    op.add_column("crls", sa.Column("delta_der", sa.LargeBinary(), nullable=True))
    op.add_column("crls", sa.Column("delta_sha256", sa.LargeBinary(), nullable=True))
    op.add_column("people", sa.Column("cn_key", sa.Text(), server_default="", nullable=False))
    op.add_column("people", sa.Column("sn_key", sa.Text(), server_default="", nullable=False))
    op.drop_index(op.f("ix_people_tenant_mail"), table_name="people")
    op.create_index(
        "ix_people_tenant_cn_key_name",
        "people",
        ["tenant", "cn_key", "name"],
        unique=False,
        postgresql_ops={"cn_key": "text_pattern_ops"},
    )
    op.create_index(
        "ix_people_tenant_mail_name",
        "people",
        ["tenant", "mail", "name"],
        unique=False,
        postgresql_ops={"mail": "text_pattern_ops"},
    )
    op.create_index(
        "ix_people_tenant_sn_key_name",
        "people",
        ["tenant", "sn_key", "name"],
        unique=False,
        postgresql_ops={"sn_key": "text_pattern_ops"},
    )

    people = sa.table(
        "people", *[sa.column(c) for c in ("tenant", "name", "full_name", "cn_key", "sn_key")]
    )
    key = (people.c.tenant == sa.bindparam("its_tenant"), people.c.name == sa.bindparam("its_name"))
    fill = people.update().where(*key).values(cn_key=sa.bindparam("cn"), sn_key=sa.bindparam("sn"))
    connection = op.get_bind()
    found = connection.execute(sa.select(people.c.tenant, people.c.name, people.c.full_name)).all()
    for tenant, name, full_name in found:
        cn = _folded(full_name or name)
        sn = cn.rpartition(" ")[2]
        connection.execute(fill, {"its_tenant": tenant, "its_name": name, "cn": cn, "sn": sn})


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
