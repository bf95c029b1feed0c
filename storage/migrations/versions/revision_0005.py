"""A campaign's life: pauses, the budget that was spent, queued points, forks, deletion; an index to delete by."""

import sqlalchemy as sa
from alembic import op

from storage.columns import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema from 0004 to 0005."""
    op.add_column("campaigns", sa.Column("paused_at", UtcDateTime()))
    op.add_column("campaigns", sa.Column("paused_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("campaigns", sa.Column("budget_spent", sa.String(32)))
    op.add_column("campaigns", sa.Column("points_queued", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("campaigns", sa.Column("forked_from", sa.String(8)))
    op.add_column("campaigns", sa.Column("deleted_at", UtcDateTime()))
    op.create_index("ix_events_trial", "events", ["trial_id"])
