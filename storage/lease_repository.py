"""Leases: which worker may write to a campaign, and until when nobody may take it over."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from campaigns.errors import LeaseLost
from campaigns.spec import DEFAULT_PRIORITY, Resources
from campaigns.states import CampaignState
from storage.campaign_repository import CampaignRepository
from storage.columns import now
from storage.event_repository import EventRepository
from storage.lease import Claim, Lease
from storage.rows import CampaignRow, WorkerRow

WORKABLE = (CampaignState.QUEUED, CampaignState.RUNNING, CampaignState.STOPPING)
PRIORITY = func.coalesce(CampaignRow.spec["priority"].as_integer(), DEFAULT_PRIORITY)  # old specs have none
CLAIM = (CampaignRow.id, CampaignRow.sequence, PRIORITY, CampaignRow.spec["resources"])

Fits = Callable[[Claim, Sequence[Claim]], bool]
"""Says of a campaign's claim whether there is room for it beside the claims of those that are held."""


def anything_fits(claim: Claim, held: Sequence[Claim]) -> bool:
    """Say yes."""
    return True


class LeaseRepository:
    """Takes, checks, prolongs and gives back leases within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = EventRepository(session)
        self._campaigns = CampaignRepository(session)

    def take_next(self, worker_id: str, seconds: float, fits: Fits) -> Lease | None:
        """Take the first campaign that wants work, that nobody holds and that fits; None when there is none.

        The highest priority goes first, then the oldest. A paused campaign wants no work until it is resumed. A
        campaign that another transaction is changing right now is passed over: it will be there at the next call.
        """
        at = now()
        is_free = (
            CampaignRow.state.in_(WORKABLE),
            or_(CampaignRow.lease_token.is_(None), CampaignRow.lease_expires_at <= at),
        )
        query = select(*CLAIM).where(*is_free).order_by(PRIORITY.desc(), CampaignRow.sequence)
        waiting = _claims(self._session.execute(query))
        if not waiting:
            return None
        self._events.hold_order()  # workers that look for room take turns
        held = self.claims(worker_id)
        for claim in waiting:
            if not fits(claim, held):
                continue
            query_row = select(CampaignRow).where(CampaignRow.id == claim.campaign_id, *is_free)
            row = self._session.scalar(query_row.with_for_update(skip_locked=True))
            if row is not None:
                return self._take(row, worker_id, at, seconds)
        return None

    def _take(self, row: CampaignRow, worker_id: str, at: datetime, seconds: float) -> Lease:
        previous = row.worker_id
        row.worker_id = worker_id
        row.lease_token = secrets.token_hex(16)
        row.lease_expires_at = at + timedelta(seconds=seconds)
        row.updated_at = at
        self._events.record(row.id, "campaign.leased", at, worker_id=worker_id, taken_over_from=previous)
        return Lease(campaign_id=row.id, worker_id=worker_id, token=row.lease_token)

    def claims(self, worker_id: str) -> list[Claim]:
        """Return the claims of the campaigns that this worker, or another one on its cluster, holds; the oldest first.

        Those whose lease has expired are not among them: whoever held them is gone, and its actors with it.
        """
        cluster = WorkerRow.inventory["cluster"].as_string()
        mine = select(cluster).where(WorkerRow.id == worker_id).scalar_subquery()
        neighbours = select(WorkerRow.id).where(cluster == mine, cluster != "")
        is_near = or_(CampaignRow.worker_id == worker_id, CampaignRow.worker_id.in_(neighbours))
        is_held = (CampaignRow.lease_expires_at > now(), CampaignRow.deleted_at.is_(None))
        query = select(*CLAIM).where(is_near, *is_held).order_by(CampaignRow.sequence)
        return _claims(self._session.execute(query))

    def held(self, lease: Lease) -> CampaignRow:
        """Return the campaign's row, locked, after checking that `lease` is the current one; else `LeaseLost`.

        An expired lease that nobody has taken over is still the current one: the row's lock settles who was first.
        """
        row = self._campaigns.lock(lease.campaign_id, even_deleted=True)
        if row.lease_token != lease.token:
            holder = f"worker {row.worker_id!r} holds it" if row.worker_id else "it was given back"
            raise LeaseLost(f"worker {lease.worker_id!r} no longer holds campaign {row.id}: {holder}")
        return row

    def renew(self, lease: Lease, seconds: float) -> None:
        """Let the lease end `seconds` from now. Raises `LeaseLost`. Writes no event: this happens all the time."""
        self.held(lease).lease_expires_at = now() + timedelta(seconds=seconds)

    def prolong(self, row: CampaignRow, duration: timedelta) -> None:
        """Let the lease of a campaign that is held end `duration` later."""
        if row.lease_expires_at is not None:
            row.lease_expires_at += duration

    def release(self, lease: Lease) -> None:
        """Give the campaign back. Raises `LeaseLost`."""
        row = self.held(lease)
        row.worker_id = row.lease_token = row.lease_expires_at = None
        row.updated_at = now()
        self._events.record(row.id, "campaign.released", row.updated_at, worker_id=lease.worker_id)


def _claims(rows: Iterable[Row[str, int, int, Any]]) -> list[Claim]:
    return [Claim(row[0], row[1], row[2], Resources.model_validate(row[3])) for row in rows]
