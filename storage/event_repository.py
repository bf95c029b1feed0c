"""Events: what happened, in order, written in the transaction of the change itself."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from campaigns.campaign import Event
from storage.database import EVENT_ORDER_LOCK
from storage.rows import EventRow


class EventRepository:
    """Reads and writes events within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._holds_order = False

    def hold_order(self) -> None:
        """Make other writers of events wait until this transaction ends.

        PostgreSQL gives ids when rows are inserted, not when they are committed: without this, a reader that has seen
        event 8 could miss event 7, committed later. On SQLite writers are alone anyway.
        """
        if not self._holds_order and self._session.get_bind().dialect.name == "postgresql":
            self._session.execute(select(func.pg_advisory_xact_lock(EVENT_ORDER_LOCK)))
        self._holds_order = True

    def record(self, campaign_id: str, kind: str, at: datetime, trial_id: str | None = None, **data: object) -> None:
        """Write one event, leaving out `data` that is None.

        The campaign's row is locked before, never after, and what the event is about has been flushed.
        """
        self.hold_order()
        kept = {name: value for name, value in data.items() if value is not None}
        self._session.add(EventRow(campaign_id=campaign_id, kind=kind, trial_id=trial_id, data=kept, at=at))

    def page(self, campaign_id: str | None, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events with an id above `after`, by id; of all campaigns when `campaign_id` is None."""
        query = select(EventRow).where(EventRow.id > after).order_by(EventRow.id).limit(limit)
        if campaign_id is not None:
            query = query.where(EventRow.campaign_id == campaign_id)
        return [_event(row) for row in self._session.scalars(query)]

    def last_id(self) -> int:
        """Return the id of the last event, 0 before the first."""
        return self._session.scalar(select(func.max(EventRow.id))) or 0


def _event(row: EventRow) -> Event:
    return Event(id=row.id, campaign_id=row.campaign_id, kind=row.kind, trial_id=row.trial_id, data=row.data, at=row.at)
