"""Campaigns: creating, reading, stepping from state to state."""

import base64
import secrets
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from campaigns.campaign import Campaign, ImportReport, SearchSummary
from campaigns.errors import Conflict, IllegalTransition, NotFound
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep, TrialState, move_campaign
from storage.columns import now
from storage.event_repository import EventRepository
from storage.rows import CampaignRow, TrialRow

IDENTIFIER_BYTES = 5  # 40 bits: 8 characters of base32


class CampaignRepository:
    """Reads and writes campaigns within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = EventRepository(session)

    def add(self, spec: CampaignSpec, pool: Pool, idempotency_key: str | None) -> CampaignRow:
        """Write a queued campaign, or find the one that the same key and spec made before.

        Raises `Conflict` when the key was used with another spec.
        """
        self._events.hold_order()  # also makes two requests with one key take turns
        dump = spec.model_dump(mode="json")
        found = self.with_key(idempotency_key) if idempotency_key is not None else None
        if found is not None:
            if CampaignSpec.model_validate(found.spec) != spec:
                raise Conflict(f"idempotency key {idempotency_key!r} was used before, with another spec")
            return found
        at = now()
        row = CampaignRow(
            id=base64.b32encode(secrets.token_bytes(IDENTIFIER_BYTES)).decode().lower(),
            idempotency_key=idempotency_key,
            spec=dump,
            pool=pool.model_dump(mode="json"),
            state=CampaignState.QUEUED,
            summary=SearchSummary().model_dump(mode="json"),
            created_at=at,
            updated_at=at,
        )
        self._session.add(row)
        self._session.flush()
        self._events.record(row.id, "campaign.created", at, name=spec.name)
        return row

    def with_key(self, key: str) -> CampaignRow | None:
        """Return the campaign that was created with this idempotency key."""
        return self._session.scalar(select(CampaignRow).where(CampaignRow.idempotency_key == key))

    def get(self, campaign_id: str) -> CampaignRow:
        """Return the row. Raises `NotFound`."""
        return self._one(campaign_id, lock=False)

    def lock(self, campaign_id: str) -> CampaignRow:
        """Return the row, held for this transaction alone. Raises `NotFound`."""
        return self._one(campaign_id, lock=True)

    def _one(self, campaign_id: str, lock: bool) -> CampaignRow:
        query = select(CampaignRow).where(CampaignRow.id == campaign_id)
        row = self._session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(f"no campaign {campaign_id!r}")
        return row

    def page(self, limit: int, before: str | None) -> list[CampaignRow]:
        """Return up to `limit` campaigns, the newest first, those made before campaign `before` if that is given."""
        query = select(CampaignRow).order_by(CampaignRow.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(CampaignRow.sequence < self.get(before).sequence)
        return list(self._session.scalars(query))

    def step(self, row: CampaignRow, step: CampaignStep, reason: str | None) -> None:
        """Move a locked campaign. Raises `IllegalTransition`."""
        at = now()
        row.state = move_campaign(CampaignState(row.state), step)
        row.reason = reason
        row.updated_at = at
        if row.state == CampaignState.RUNNING and row.started_at is None:
            row.started_at = at
        if CampaignState(row.state).is_final:
            row.finished_at = at
        self._events.record(row.id, f"campaign.{row.state}", at, step=step, reason=reason)

    def finish_search(self, row: CampaignRow) -> None:
        """Note when the search ended; a second call changes nothing."""
        if row.search_finished_at is None:
            row.search_finished_at = row.updated_at = now()
            self._events.record(row.id, "campaign.search_finished", row.updated_at)

    def note_import(self, row: CampaignRow, report: ImportReport | None) -> None:
        """Note what became of the results of other campaigns."""
        row.updated_at = now()
        self._events.record(row.id, "campaign.imported", row.updated_at, **({} if report is None else dict(report)))

    def nouns(self, rows: Sequence[CampaignRow]) -> list[Campaign]:
        """Return the campaigns of `rows`, with their trials counted in one query."""
        ids = [row.id for row in rows]
        query = select(TrialRow.campaign_id, TrialRow.state, func.count()).where(TrialRow.campaign_id.in_(ids))
        counts: dict[str, dict[TrialState, int]] = {campaign_id: {} for campaign_id in ids}
        for campaign_id, state, count in self._session.execute(query.group_by(TrialRow.campaign_id, TrialRow.state)):
            counts[campaign_id][TrialState(state)] = count
        return [_campaign(row, counts[row.id]) for row in rows]

    def noun(self, row: CampaignRow) -> Campaign:
        """Return the campaign of `row`, pending changes included."""
        self._session.flush()
        return self.nouns([row])[0]


def refuse_if_final(row: CampaignRow) -> None:
    """Raise `IllegalTransition` when the campaign is over and takes no more trials."""
    if CampaignState(row.state).is_final:
        raise IllegalTransition(f"a {row.state} campaign takes no more trials")


def _campaign(row: CampaignRow, trial_counts: dict[TrialState, int]) -> Campaign:
    return Campaign(
        id=row.id,
        spec=CampaignSpec.model_validate(row.spec),
        pool=Pool.model_validate(row.pool),
        state=CampaignState(row.state),
        reason=row.reason,
        summary=SearchSummary.model_validate(row.summary),
        trial_counts=trial_counts,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        search_finished_at=row.search_finished_at,
        finished_at=row.finished_at,
        worker_id=row.worker_id,
    )
