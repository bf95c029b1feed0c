"""Campaigns: creating, reading, stepping from state to state."""

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from campaigns.budgets import SpentBudget
from campaigns.campaign import Campaign, ImportReport, SearchSummary
from campaigns.errors import ChangedMeanwhile, Conflict, Gone, IllegalTransition, NotFound
from campaigns.noun import canonical_digest
from campaigns.objectives import Objective
from campaigns.pools import Pool
from campaigns.spec import CampaignSpec
from campaigns.states import CampaignState, CampaignStep, TrialState, move_campaign
from storage.columns import now
from storage.event_repository import EventRepository
from storage.rows import CampaignRow, TrialRow

TAKES_POINTS = (CampaignState.QUEUED, CampaignState.RUNNING, CampaignState.PAUSED)
MAX_QUEUED_POINTS = 10_000
VERSION_DIGITS = 32
FORKED = "campaign.forked"
IDENTIFIER_BYTES = 5  # 40 bits: 8 characters of base32


class Patch(NamedTuple):
    """What a fork changes: the names of the fields, at the top of the spec, and a digest of the whole patch."""

    fields: list[str]
    digest: str


class CampaignFilter(NamedTuple):
    """Which campaigns are wanted: in one of `states`, `name` in theirs whatever the case, made in between."""

    states: tuple[CampaignState, ...] = ()
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


ALL_CAMPAIGNS = CampaignFilter()


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
            name=spec.name,
            notes=spec.notes,
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
        """Return the campaign that was created with this idempotency key. Raises `Conflict` if it was deleted."""
        row = self._session.scalar(select(CampaignRow).where(CampaignRow.idempotency_key == key))
        if row is not None and row.deleted_at is not None:
            raise Conflict(f"idempotency key {key!r} was used before, for campaign {row.id}, which has been deleted")
        return row

    def fork(
        self, forked: CampaignRow, spec: CampaignSpec, pool: Pool, idempotency_key: str | None, patch: Patch
    ) -> CampaignRow:
        """Write a queued campaign that a patch made of `forked`, or find the one that the same key and patch made.

        Raises `Conflict` when the key was used for anything else.
        """
        self._events.hold_order()
        if idempotency_key is not None and (found := self.fork_with_key(forked.id, idempotency_key, patch)) is not None:
            return found
        row = self.add(spec, pool, idempotency_key)
        row.forked_from = forked.id
        data: dict[str, Any] = {"forked_from": forked.id, "forked_into": row.id, "fields": patch.fields}
        for campaign_id in (forked.id, row.id):
            self._events.record(campaign_id, FORKED, row.created_at, **data, patch_digest=patch.digest)
        return row

    def fork_with_key(self, forked_id: str, key: str, patch: Patch) -> CampaignRow | None:
        """Return the fork that was made with this idempotency key; `Conflict` when it was used for anything else."""
        row = self.with_key(key)
        if row is None:
            return None
        forks = (event.data for event in self._events.page(row.id, after=0, limit=2) if event.kind == FORKED)
        wanted = {"forked_from": forked_id, "forked_into": row.id, "patch_digest": patch.digest}
        if not any(wanted.items() <= data.items() for data in forks):
            raise Conflict(f"idempotency key {key!r} was used before, for something else")
        return row

    def get(self, campaign_id: str) -> CampaignRow:
        """Return the row. Raises `NotFound`, `Gone` for a campaign that was deleted."""
        return self._there(self._one(campaign_id, lock=False))

    def lock(self, campaign_id: str, even_deleted: bool = False) -> CampaignRow:
        """Return the row, held for this transaction alone. Raises `NotFound`, `Gone` unless `even_deleted`."""
        row = self._one(campaign_id, lock=True)
        return row if even_deleted else self._there(row)

    def _one(self, campaign_id: str, lock: bool) -> CampaignRow:
        query = select(CampaignRow).where(CampaignRow.id == campaign_id)
        row = self._session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(f"no campaign {campaign_id!r}")
        return row

    @staticmethod
    def _there(row: CampaignRow) -> CampaignRow:
        if row.deleted_at is not None:
            raise Gone(f"campaign {row.id} was deleted at {row.deleted_at:%Y-%m-%d %H:%M:%S} UTC")
        return row

    def page(self, limit: int, before: str | None, wanted: CampaignFilter) -> list[CampaignRow]:
        """Return up to `limit` campaigns, the newest first, those made before campaign `before` if that is given."""
        query = select(CampaignRow).order_by(CampaignRow.sequence.desc()).limit(limit)
        query = query.where(CampaignRow.deleted_at.is_(None))
        if before is not None:
            query = query.where(CampaignRow.sequence < self._one(before, lock=False).sequence)
        if wanted.states:
            query = query.where(CampaignRow.state.in_(wanted.states))
        if wanted.name is not None:
            query = query.where(CampaignRow.name.icontains(wanted.name, autoescape=True))
        if wanted.created_after is not None:
            query = query.where(CampaignRow.created_at > wanted.created_after)
        if wanted.created_before is not None:
            query = query.where(CampaignRow.created_at < wanted.created_before)
        return list(self._session.scalars(query))

    def check_unchanged(self, row: CampaignRow, expected: Collection[str] | None) -> None:
        """Raise `ChangedMeanwhile` unless the version of a locked campaign is among `expected`; None: any will do."""
        if expected is not None and version(self.noun(row)) not in expected:
            raise ChangedMeanwhile(f"campaign {row.id} has changed since it was read")

    def edit(self, row: CampaignRow, changes: Mapping[str, str]) -> None:
        """Change name and notes of a locked campaign; what is so already is no change."""
        changed = {field: {"from": getattr(row, field), "to": value} for field, value in changes.items()}
        changed = {field: values for field, values in changed.items() if values["from"] != values["to"]}
        if not changed:
            return
        for field, values in changed.items():
            setattr(row, field, values["to"])
        row.updated_at = now()
        self._events.record(row.id, "campaign.edited", row.updated_at, changed=changed)

    def step(self, row: CampaignRow, step: CampaignStep, reason: str | None) -> None:
        """Move a locked campaign. Raises `IllegalTransition`."""
        at = now()
        row.state = move_campaign(CampaignState(row.state), step)
        row.reason = reason
        row.updated_at = at
        if row.paused_at is not None:
            if row.started_at is not None:
                row.paused_seconds += (at - row.paused_at).total_seconds()
            row.paused_at = None
        if row.state == CampaignState.PAUSED:
            row.paused_at = at
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

    def note_budget_spent(self, row: CampaignRow, spent: SpentBudget) -> None:
        """Note which budget ended the search; a second call changes nothing."""
        if row.budget_spent is None:
            row.budget_spent = spent.budget
            row.updated_at = now()
            self._events.record(row.id, "campaign.budget_spent", row.updated_at, **dict(spent))

    def note_points(self, row: CampaignRow, created: Sequence[TrialRow]) -> None:
        """Note that the user queued points, each a trial by now."""
        row.points_queued += len(created)
        numbers = [trial.number for trial in created]
        self._events.record(row.id, "campaign.points_queued", row.updated_at, numbers=numbers)

    def delete(self, row: CampaignRow) -> None:
        """Forget all that a locked campaign, whose trials and events are gone, was; keep that there was one."""
        name, row.name, row.notes, row.reason = row.name, "", "", None
        row.spec, row.pool, row.summary, row.strategy_state = {}, {}, {}, None
        row.worker_id = row.lease_token = row.lease_expires_at = None
        row.deleted_at = row.updated_at = now()
        self._events.record(row.id, "campaign.deleted", row.updated_at, name=name, trials=row.trials_asked)

    def note_import(self, row: CampaignRow, report: ImportReport | None) -> None:
        """Note what became of the results of other campaigns."""
        row.updated_at = now()
        self._events.record(row.id, "campaign.imported", row.updated_at, **({} if report is None else dict(report)))

    def objectives(self, campaign_ids: Sequence[str]) -> dict[str, list[Objective]]:
        """Return the objectives of those of the campaigns that exist."""
        query = select(CampaignRow.id, CampaignRow.spec["objectives"])
        query = query.where(CampaignRow.id.in_(campaign_ids), CampaignRow.deleted_at.is_(None))
        return {row[0]: [Objective.model_validate(each) for each in row[1]] for row in self._session.execute(query)}

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


def version(campaign: Campaign) -> str:
    """Return what stands for a campaign as it is: it changes with every change of it, and not with time."""
    return canonical_digest(campaign)[:VERSION_DIGITS]


def refuse_if_final(row: CampaignRow) -> None:
    """Raise `IllegalTransition` when the campaign is over and takes no more trials."""
    if CampaignState(row.state).is_final:
        raise IllegalTransition(f"a {row.state} campaign takes no more trials")


def refuse_points(row: CampaignRow, points: int) -> None:
    """Raise `Conflict` when the campaign does not take so many more points of the user's."""
    if row.state not in TAKES_POINTS:
        raise Conflict(f"a {row.state} campaign takes no more points; allowed: {', '.join(TAKES_POINTS)}")
    if row.points_queued + points > MAX_QUEUED_POINTS:
        left = MAX_QUEUED_POINTS - row.points_queued
        raise Conflict(f"a campaign takes up to {MAX_QUEUED_POINTS} points after its launch: {left} more")


def _campaign(row: CampaignRow, trial_counts: dict[TrialState, int]) -> Campaign:
    return Campaign(
        id=row.id,
        spec=CampaignSpec.model_validate({**row.spec, "name": row.name, "notes": row.notes}),
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
        paused_seconds=row.paused_seconds,
        budget_spent=row.budget_spent,
        points_queued=row.points_queued,
        forked_from=row.forked_from,
    )
