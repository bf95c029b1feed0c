"""The tables. JSON columns hold dumps of the nouns; what is searched, counted or ordered by has a column of its own."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from storage.columns import PlainText, UtcDateTime


class Row(DeclarativeBase):
    """The base of every table."""

    type_annotation_map = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[int]: JSON(),
        list[float]: JSON(),
        float: Double(),
    }


class CampaignRow(Row):
    """One campaign, its lease and its strategy's state. `sequence` orders campaigns by creation.

    `spec` is as it was launched; `name` and `notes` take the place of its own, since they may be edited. Of a campaign
    that was deleted only id, idempotency key, state and times are left, so that its id is never given again.
    """

    __tablename__ = "campaigns"

    sequence: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(PlainText(8), unique=True)
    idempotency_key: Mapped[str | None] = mapped_column(PlainText(255), unique=True)
    spec: Mapped[dict[str, Any]]
    name: Mapped[str] = mapped_column(PlainText(100), server_default="")
    notes: Mapped[str] = mapped_column(PlainText(), server_default="")
    pool: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(PlainText(16), index=True)
    reason: Mapped[str | None] = mapped_column(PlainText())
    summary: Mapped[dict[str, Any]]
    strategy_state: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    trials_asked: Mapped[int] = mapped_column(default=0)
    trials_told: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    search_finished_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker_id: Mapped[str | None] = mapped_column(PlainText(255))
    lease_token: Mapped[str | None] = mapped_column(PlainText(32))
    lease_expires_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    budget_spent: Mapped[str | None] = mapped_column(PlainText(32))
    points_queued: Mapped[int] = mapped_column(default=0, server_default="0")
    forked_from: Mapped[str | None] = mapped_column(PlainText(8))
    deleted_at: Mapped[datetime | None]


class TrialRow(Row):
    """One trial. `told` is its place in the order in which results arrived."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("campaign_id", "number"),
        UniqueConstraint("campaign_id", "told"),
        Index("ix_trials_campaign_state", "campaign_id", "state"),
        Index("ix_trials_campaign_recipe", "campaign_id", "recipe_digest"),
        Index("ix_trials_recipe", "recipe_digest"),
    )

    id: Mapped[str] = mapped_column(PlainText(32), primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    number: Mapped[int]
    recipe_digest: Mapped[str] = mapped_column(PlainText(64))
    candidate: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(PlainText(16))
    attempts: Mapped[int] = mapped_column(default=0)
    actor: Mapped[str | None] = mapped_column(PlainText(255))
    reason: Mapped[str | None] = mapped_column(PlainText())
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    told: Mapped[int | None]
    hypervolume: Mapped[float | None]
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    measurements: Mapped[list["MeasurementRow"]] = relationship(
        lazy="raise", order_by="MeasurementRow.split.desc(), MeasurementRow.position"
    )


class MeasurementRow(Row):
    """One objective of one trial on one split. Item ids and outcomes are only loaded where asked for."""

    __tablename__ = "measurements"
    __table_args__ = (
        # What lists are sorted by and progress counts: without it, each look goes through a row's long outcomes.
        Index("ix_measurements_values", "trial_id", "split", "objective", "value", "estimate", "items"),
    )

    trial_id: Mapped[str] = mapped_column(ForeignKey("trials.id"), primary_key=True)
    split: Mapped[str] = mapped_column(PlainText(16), primary_key=True)
    objective: Mapped[str] = mapped_column(PlainText(255), primary_key=True)
    position: Mapped[int]
    value: Mapped[float]
    estimate: Mapped[float | None]
    standard_error: Mapped[float | None]
    items: Mapped[int]
    truncation_rate: Mapped[float | None]
    output_tokens: Mapped[float | None]
    protocol: Mapped[str] = mapped_column(PlainText(255))
    item_ids: Mapped[list[int]] = mapped_column(deferred=True, deferred_raiseload=True)
    outcomes: Mapped[list[float]] = mapped_column(deferred=True, deferred_raiseload=True)


class EventRow(Row):
    """One change. AUTOINCREMENT keeps SQLite from ever giving an id twice."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_campaign", "campaign_id", "id"),
        Index("ix_events_trial", "trial_id"),  # without it, deleting a trial looks through all events for its own
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    kind: Mapped[str] = mapped_column(PlainText(64))
    trial_id: Mapped[str | None] = mapped_column(ForeignKey("trials.id"))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class WorkerRow(Row):
    """One worker process and what it can do."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(PlainText(255), primary_key=True)
    host: Mapped[str] = mapped_column(PlainText(255))
    inventory: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class TokenRow(Row):
    """One bearer token: the sha256 (hex) of its secret, never the secret."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    digest: Mapped[str] = mapped_column(PlainText(64), unique=True)
    scope: Mapped[str] = mapped_column(PlainText(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
