"""Name and notes of a campaign, which may change while its spec stays as launched; an index of measured values."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema from 0003 to 0004."""
    op.add_column("campaigns", sa.Column("name", sa.String(100), nullable=False, server_default=""))
    op.add_column("campaigns", sa.Column("notes", sa.String(), nullable=False, server_default=""))
    campaigns = sa.table(
        "campaigns", sa.column("spec", sa.JSON()), sa.column("name", sa.String()), sa.column("notes", sa.String())
    )
    spec = campaigns.c.spec
    notes = sa.func.coalesce(spec["notes"].as_string(), "")
    values = ["trial_id", "split", "objective", "value", "estimate", "items"]
    op.create_index("ix_measurements_values", "measurements", values)
    op.execute(campaigns.update().values(name=spec["name"].as_string(), notes=notes))
