"""Counts over the whole database, for whoever watches the service."""

from typing import NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from campaigns.states import CampaignState, TrialState
from storage.columns import now
from storage.event_repository import EventRepository
from storage.lease_repository import WORKABLE
from storage.rows import CampaignRow, TrialRow
from storage.worker_repository import WorkerRepository


class StoreStatistics(NamedTuple):
    """How much there is. States that do not occur count 0.

    `waiting` counts the campaigns that want work and that no worker holds; `events` is the id of the last event, which
    grows by at least one with each.
    """

    campaigns: dict[CampaignState, int]
    trials: dict[TrialState, int]
    waiting: int
    workers: int
    events: int


def count_all(session: Session, worker_seen_seconds: float) -> StoreStatistics:
    """Return the counts of one moment; a worker counts if it was heard of within `worker_seen_seconds`."""
    campaigns = dict.fromkeys(CampaignState, 0)
    there = select(CampaignRow.state, func.count()).where(CampaignRow.deleted_at.is_(None))
    for state, count in session.execute(there.group_by(CampaignRow.state)):
        campaigns[CampaignState(state)] = count
    trials = dict.fromkeys(TrialState, 0)
    for state, count in session.execute(select(TrialRow.state, func.count()).group_by(TrialRow.state)):
        trials[TrialState(state)] = count
    free = or_(CampaignRow.lease_token.is_(None), CampaignRow.lease_expires_at <= now())
    waiting = select(func.count()).select_from(CampaignRow).where(CampaignRow.state.in_(WORKABLE), free)
    return StoreStatistics(
        campaigns=campaigns,
        trials=trials,
        waiting=session.scalar(waiting) or 0,
        workers=len(WorkerRepository(session).ids(worker_seen_seconds)),
        events=EventRepository(session).last_id(),
    )
