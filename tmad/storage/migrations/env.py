"""Runs the steps on the connection, and in the transaction, of ``schema.migrate``."""

from __future__ import annotations

from alembic import context

from tmad.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
