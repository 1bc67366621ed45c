"""${message}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Expand first, contract a release later: old processes still run on this schema."""
    ${upgrades if upgrades else "pass"}
