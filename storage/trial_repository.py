"""Trials: every step that a trial takes, and its measurements."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, selectinload

from campaigns.campaign import SearchSummary
from campaigns.errors import Conflict, IllegalTransition, NotFound
from campaigns.states import TrialState, TrialStep, move_trial
from campaigns.trial import BASELINES, Candidate, Evaluated, Trial
from storage.columns import now
from storage.event_repository import EventRepository
from storage.measurements import check_measurements, measurement_rows, objective_names
from storage.rows import CampaignRow, MeasurementRow, TrialRow
from storage.trial_nouns import trial_noun


class HypervolumePoint(NamedTuple):
    """The hypervolume of the search front once a trial had been told."""

    told: int
    trial_id: str
    number: int
    told_at: datetime
    hypervolume: float | None


class ImportedResult(NamedTuple):
    """Another campaign's result: that of the queued trial `trial_id`, or of a new one, which is to get this id."""

    trial_id: str
    candidate: Candidate
    evaluated: Evaluated


class TrialRepository:
    """Reads and writes trials within one transaction. Writers have locked the campaign's row before."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = EventRepository(session)

    def add(self, campaign: CampaignRow, candidates: Sequence[Candidate]) -> list[TrialRow]:
        """Write queued trials, numbered on from the campaign's last."""
        campaign.updated_at = now()
        rows = [_new(campaign, candidate) for candidate in candidates]
        self._session.add_all(rows)
        self._session.flush()
        for row, candidate in zip(rows, candidates, strict=True):
            self._record(row, row.created_at, trial_kind=candidate.kind, label=candidate.label)
        return rows

    def start(self, campaign: CampaignRow, trial_id: str, actor: str) -> TrialRow:
        """Note that `actor` evaluates the trial: one more attempt."""
        row = self._row(campaign, trial_id)
        at = self._move(campaign, row, TrialStep.START, None)
        row.attempts += 1
        row.actor = actor
        row.started_at = at
        self._record(row, at, actor=actor, attempt=row.attempts)
        return row

    def retry(self, campaign: CampaignRow, trial_id: str, reason: str) -> TrialRow:
        """Put a running trial back in the queue, after a fault."""
        row = self._row(campaign, trial_id)
        at = self._move(campaign, row, TrialStep.RETRY, reason)
        row.actor = row.started_at = None
        self._record(row, at, reason=reason, attempt=row.attempts)
        return row

    def fail(self, campaign: CampaignRow, trial_id: str, reason: str) -> TrialRow:
        """End a running trial by a fault that outlived its retries. It is never told: it says nothing of its point."""
        row = self._row(campaign, trial_id)
        at = self._move(campaign, row, TrialStep.FAIL, reason)
        self._record(row, at, reason=reason)
        return row

    def reject(self, campaign: CampaignRow, trial_id: str, reason: str, summary: SearchSummary) -> TrialRow:
        """End a running trial whose point cannot be scored."""
        row = self._row(campaign, trial_id)
        at = self._move(campaign, row, TrialStep.REJECT, reason)
        self._tell(campaign, row, summary)
        self._record(row, at, reason=reason, told=row.told)
        return row

    def complete(self, campaign: CampaignRow, trial_id: str, evaluated: Evaluated, summary: SearchSummary) -> TrialRow:
        """End a running trial with its measurements of the search split."""
        row = self._row(campaign, trial_id)
        at = self._move(campaign, row, TrialStep.COMPLETE, None)
        check_measurements(objective_names(campaign), evaluated, "search")
        self._measure(row, evaluated, "search")
        self._tell(campaign, row, summary)
        values = {m.objective: m.value for m in evaluated.measurements}
        self._record(row, at, told=row.told, values=values, hypervolume=row.hypervolume)
        return row

    def take_over(
        self, campaign: CampaignRow, imported: Sequence[ImportedResult], summary: SearchSummary
    ) -> list[TrialRow]:
        """End queued trials, and new ones, with measurements that another campaign made: no attempt is counted."""
        query = self._query().where(TrialRow.campaign_id == campaign.id, TrialRow.state == TrialState.QUEUED)
        queued = {row.id: row for row in self._session.scalars(query)}
        asked = objective_names(campaign)
        campaign.updated_at = now()
        rows = []
        for trial_id, candidate, evaluated in imported:
            check_measurements(asked, evaluated, "search")
            row = queued.pop(trial_id, None) or _new(campaign, candidate)
            if row.id != trial_id:
                raise Conflict(f"trial {trial_id} is not queued, and the next one is {row.id}")
            row.candidate = candidate.model_dump(mode="json")
            row.timings = {}
            self._move(campaign, row, TrialStep.IMPORT, None)
            self._measure(row, evaluated, "search")
            self._tell(campaign, row, summary)
            rows.append(row)
        self._session.add_all(rows)
        self._session.flush()
        for row, each in zip(rows, imported, strict=True):
            values = {m.objective: m.value for m in each.evaluated.measurements}
            source = each.candidate.imported_from
            self._record(row, campaign.updated_at, told=row.told, values=values, imported_from=source)
        return rows

    def add_holdout(self, campaign: CampaignRow, trial_id: str, evaluated: Evaluated) -> TrialRow:
        """Add the measurements of the holdout split to a complete trial, once."""
        row = self._row(campaign, trial_id)
        if row.state != TrialState.COMPLETE:
            raise IllegalTransition(f"trial {row.id} is {row.state}; only a complete trial is scored on holdout items")
        if "holdout" in row.timings:
            raise Conflict(f"trial {row.id} was scored on holdout items before")
        check_measurements(objective_names(campaign), evaluated, "holdout")
        self._measure(row, evaluated, "holdout")
        campaign.updated_at = now()
        values = {m.objective: m.value for m in evaluated.measurements}
        self._events.record(campaign.id, "trial.holdout", campaign.updated_at, row.id, number=row.number, values=values)
        return row

    def cancel_open(self, campaign: CampaignRow, reason: str) -> None:
        """Cancel every trial that is queued or running."""
        states = [state for state in TrialState if not state.is_final]
        query = self._query().where(TrialRow.campaign_id == campaign.id, TrialRow.state.in_(states))
        for row in self._session.scalars(query.order_by(TrialRow.number)).all():
            self._record(row, self._move(campaign, row, TrialStep.CANCEL, reason), reason=reason)

    def get(self, trial_id: str) -> Trial:
        """Return the trial, outcomes included. Raises `NotFound`."""
        row = self._session.scalar(self._query(with_outcomes=True).where(TrialRow.id == trial_id))
        if row is None:
            raise NotFound(f"no trial {trial_id!r}")
        return trial_noun(row, with_outcomes=True)

    def page(self, campaign_id: str, after: int, limit: int | None, with_outcomes: bool) -> list[Trial]:
        """Return up to `limit` trials with a number above `after`, by number."""
        query = self._query(with_outcomes).where(TrialRow.campaign_id == campaign_id, TrialRow.number > after)
        rows = self._session.scalars(query.order_by(TrialRow.number).limit(limit))
        return [trial_noun(row, with_outcomes) for row in rows]

    def with_ids(self, trial_ids: Sequence[str], with_outcomes: bool = False) -> list[Trial]:
        """Return those of `trial_ids` that exist, by number."""
        query = self._query(with_outcomes).where(TrialRow.id.in_(trial_ids))
        return [trial_noun(row, with_outcomes) for row in self._session.scalars(query.order_by(TrialRow.number))]

    def baselines(self, campaign_id: str) -> list[Trial]:
        """Return the known merges that were scored first, by number."""
        is_baseline = TrialRow.candidate["kind"].as_string().in_(BASELINES)
        query = self._query().where(TrialRow.campaign_id == campaign_id, is_baseline).order_by(TrialRow.number)
        return [trial_noun(row) for row in self._session.scalars(query)]

    def hypervolumes(self, campaign_id: str) -> list[HypervolumePoint]:
        """Return the hypervolume after each tell, in the order of telling."""
        columns = (TrialRow.told, TrialRow.id, TrialRow.number, TrialRow.finished_at, TrialRow.hypervolume)
        query = select(*columns).where(TrialRow.campaign_id == campaign_id, TrialRow.told.is_not(None))
        rows: Iterable[Any] = self._session.execute(query.order_by(TrialRow.told))
        return [HypervolumePoint(*row) for row in rows]

    def search_seconds(self, campaign_ids: Sequence[str]) -> dict[str, float]:
        """Return how many seconds actors spent on the search split, by campaign; imported results took none here."""
        seconds = func.sum(TrialRow.timings["search"]["total_seconds"].as_float())
        query = select(TrialRow.campaign_id, seconds).where(TrialRow.campaign_id.in_(campaign_ids))
        query = query.where(TrialRow.attempts > 0)
        found = {row[0]: row[1] for row in self._session.execute(query.group_by(TrialRow.campaign_id))}
        return {campaign_id: found.get(campaign_id) or 0.0 for campaign_id in campaign_ids}

    @staticmethod
    def _query(with_outcomes: bool = False) -> Select[TrialRow]:
        measurements = selectinload(TrialRow.measurements)
        if with_outcomes:
            measurements = measurements.undefer(MeasurementRow.item_ids).undefer(MeasurementRow.outcomes)
        return select(TrialRow).options(measurements)

    def _row(self, campaign: CampaignRow, trial_id: str) -> TrialRow:
        row = self._session.scalar(self._query().where(TrialRow.id == trial_id, TrialRow.campaign_id == campaign.id))
        if row is None:
            raise NotFound(f"campaign {campaign.id} has no trial {trial_id!r}")
        return row

    def _move(self, campaign: CampaignRow, row: TrialRow, step: TrialStep, reason: str | None) -> datetime:
        at = now()
        try:
            row.state = move_trial(TrialState(row.state), step)
        except IllegalTransition as error:
            raise IllegalTransition(f"trial {row.id}: {error}") from None
        row.reason = reason
        campaign.updated_at = at
        if TrialState(row.state).is_final:
            row.finished_at = at
        return at

    def _tell(self, campaign: CampaignRow, row: TrialRow, summary: SearchSummary) -> None:
        row.told = campaign.trials_told
        row.hypervolume = summary.hypervolume
        campaign.trials_told = row.told + 1

    def _measure(self, row: TrialRow, evaluated: Evaluated, split: str) -> None:
        row.measurements.extend(measurement_rows(row.id, evaluated))
        row.timings = {**row.timings, split: evaluated.timing.model_dump(mode="json")}

    def _record(self, row: TrialRow, at: datetime, **data: object) -> None:
        self._events.record(row.campaign_id, f"trial.{row.state}", at, row.id, number=row.number, **data)


def _new(campaign: CampaignRow, candidate: Candidate) -> TrialRow:
    number = campaign.trials_asked
    campaign.trials_asked = number + 1
    return TrialRow(
        id=f"{campaign.id}-{number}",
        campaign_id=campaign.id,
        number=number,
        recipe_digest=candidate.recipe.digest,
        candidate=candidate.model_dump(mode="json"),
        state=TrialState.QUEUED,
        created_at=campaign.updated_at,
        measurements=[],
    )
