"""What a RADIUS client calls the user of a session."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Let a session keep the name by which its client finds it."""
    op.add_column(
        "radius_sessions", sa.Column("user_sent", sa.Text(), server_default="", nullable=False)
    )
