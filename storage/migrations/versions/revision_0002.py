"""Races: what a value is expected to come to, and trials by their recipe, whichever campaign made them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema from 0001 to 0002."""
    op.add_column("measurements", sa.Column("estimate", sa.Double()))
    op.create_index("ix_trials_recipe", "trials", ["recipe_digest"])
