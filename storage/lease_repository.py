"""Leases: which worker may write to a campaign, and until when nobody may take it over."""

import secrets
from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from campaigns.errors import LeaseLost
from campaigns.states import CampaignState
from storage.campaign_repository import CampaignRepository
from storage.columns import now
from storage.event_repository import EventRepository
from storage.lease import Lease
from storage.rows import CampaignRow

WORKABLE = (CampaignState.QUEUED, CampaignState.RUNNING, CampaignState.STOPPING)


class LeaseRepository:
    """Takes, checks, prolongs and gives back leases within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = EventRepository(session)
        self._campaigns = CampaignRepository(session)

    def take_next(self, worker_id: str, seconds: float) -> Lease | None:
        """Take the oldest campaign that wants work and that nobody holds, or None when there is none.

        A paused campaign wants none until it is resumed. A campaign that another transaction is changing right now is
        passed over: it will be there at the next call.
        """
        at = now()
        free = or_(CampaignRow.lease_token.is_(None), CampaignRow.lease_expires_at <= at)
        query = select(CampaignRow).where(CampaignRow.state.in_(WORKABLE), free).order_by(CampaignRow.sequence).limit(1)
        row = self._session.scalar(query.with_for_update(skip_locked=True))
        if row is None:
            return None
        previous = row.worker_id
        row.worker_id = worker_id
        row.lease_token = secrets.token_hex(16)
        row.lease_expires_at = at + timedelta(seconds=seconds)
        row.updated_at = at
        self._events.record(row.id, "campaign.leased", at, worker_id=worker_id, taken_over_from=previous)
        return Lease(campaign_id=row.id, worker_id=worker_id, token=row.lease_token)

    def held(self, lease: Lease) -> CampaignRow:
        """Return the campaign's row, locked, after checking that `lease` is the current one; else `LeaseLost`.

        An expired lease that nobody has taken over is still the current one: the row's lock settles who was first.
        """
        row = self._campaigns.lock(lease.campaign_id)
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
