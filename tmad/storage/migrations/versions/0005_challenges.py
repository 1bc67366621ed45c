"""Proofs by challenge and response in CMP."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Let a conversation keep the request that began it."""
    op.add_column("exchanges", sa.Column("request", sa.LargeBinary(), nullable=True))
