"""Campaigns, trials, measurements, events and workers."""

import sqlalchemy as sa
from alembic import op

from storage.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    _campaigns()
    _trials()
    _measurements()
    _events()
    _workers()


def _campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("sequence", sa.Integer(), autoincrement=True, primary_key=True),
        sa.Column("id", sa.String(8), nullable=False, unique=True),
        sa.Column("idempotency_key", sa.String(255), unique=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("pool", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("strategy_state", sa.JSON()),
        sa.Column("trials_asked", sa.Integer(), nullable=False),
        sa.Column("trials_told", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("search_finished_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("worker_id", sa.String(255)),
        sa.Column("lease_token", sa.String(32)),
        sa.Column("lease_expires_at", UtcDateTime()),
    )
    op.create_index("ix_campaigns_state", "campaigns", ["state"])


def _trials() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("campaign_id", sa.String(8), sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("candidate", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(255)),
        sa.Column("reason", sa.String()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("told", sa.Integer()),
        sa.Column("hypervolume", sa.Double()),
        sa.Column("timings", sa.JSON(), nullable=False),
        sa.UniqueConstraint("campaign_id", "number"),
        sa.UniqueConstraint("campaign_id", "told"),
    )
    op.create_index("ix_trials_campaign_state", "trials", ["campaign_id", "state"])
    op.create_index("ix_trials_campaign_recipe", "trials", ["campaign_id", "recipe_digest"])


def _measurements() -> None:
    op.create_table(
        "measurements",
        sa.Column("trial_id", sa.String(32), sa.ForeignKey("trials.id"), primary_key=True),
        sa.Column("split", sa.String(16), primary_key=True),
        sa.Column("objective", sa.String(255), primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("standard_error", sa.Double()),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("truncation_rate", sa.Double()),
        sa.Column("output_tokens", sa.Double()),
        sa.Column("protocol", sa.String(255), nullable=False),
        sa.Column("item_ids", sa.JSON(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, primary_key=True),
        sa.Column("campaign_id", sa.String(8), sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("trial_id", sa.String(32), sa.ForeignKey("trials.id")),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_campaign", "events", ["campaign_id", "id"])


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("inventory", sa.JSON(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
    )
