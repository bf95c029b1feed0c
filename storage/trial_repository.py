"""Trials: every step that a trial takes, and its measurements."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session, selectinload

from campaigns.campaign import SearchSummary
from campaigns.errors import Conflict, IllegalTransition, NotFound
from campaigns.objectives import Objective
from campaigns.states import TrialState, TrialStep, move_trial
from campaigns.trial import BASELINES, Candidate, Evaluated, Trial
from storage.columns import now
from storage.event_repository import EventRepository
from storage.measurements import check_measurements, measurement_rows, objective_names
from storage.rows import CampaignRow, EventRow, MeasurementRow, TrialRow
from storage.trial_listing import ListedTrial, TrialListing, places
from storage.trial_nouns import trial_noun

MAX_OF_RECIPE = 20
DIGESTS_AT_ONCE = 1000


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

    def add_points(
        self, campaign: CampaignRow, candidates: Sequence[Candidate]
    ) -> tuple[list[TrialRow], list[TrialRow]]:
        """Queue points whose recipes are new to the campaign; return the trial of every candidate, and the new ones.

        Labels are numbered on from the points of the spec and those queued before.
        """
        digests = [candidate.recipe.digest for candidate in candidates]
        known: dict[str, TrialRow] = {}
        for start in range(0, len(digests), DIGESTS_AT_ONCE):
            some = digests[start : start + DIGESTS_AT_ONCE]
            query = self._query().where(TrialRow.campaign_id == campaign.id, TrialRow.recipe_digest.in_(some))
            for row in self._session.scalars(query.order_by(TrialRow.number)):
                known.setdefault(row.recipe_digest, row)
        number = len(campaign.spec.get("warm_start", {}).get("points", ())) + campaign.points_queued
        new: dict[str, Candidate] = {}
        for digest, candidate in zip(digests, candidates, strict=True):
            if digest not in known and digest not in new:
                number += 1
                new[digest] = candidate.replace(kind="point", label=f"point {number}")
        created = self.add(campaign, list(new.values())) if new else []
        known |= dict(zip(new, created, strict=True))
        return [known[digest] for digest in digests], created

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

    def prune(
        self, campaign: CampaignRow, trial_id: str, evaluated: Evaluated, reason: str, summary: SearchSummary
    ) -> TrialRow:
        """End a running trial that a race stopped, with its measurements of a part of the search items."""
        row = self._row(campaign, trial_id)
        if row.candidate["kind"] in BASELINES:
            raise Conflict(f"trial {row.id} is a baseline ({row.candidate['kind']}); only candidates are pruned")
        at = self._move(campaign, row, TrialStep.PRUNE, reason)
        check_measurements(objective_names(campaign), evaluated, "search", is_pruned=True)
        self._measure(row, evaluated, "search")
        self._tell(campaign, row, summary)
        told = {
            "values": {m.objective: m.value for m in evaluated.measurements},
            "estimates": {m.objective: m.estimate for m in evaluated.measurements if m.estimate is not None},
            "items": {m.objective: m.items for m in evaluated.measurements},
        }
        self._record(row, at, told=row.told, **told, reason=reason, hypervolume=row.hypervolume)
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

    def queued(self, campaign_id: str) -> list[Trial]:
        """Return the trials that wait to be run, by number."""
        query = self._query().where(TrialRow.campaign_id == campaign_id, TrialRow.state == TrialState.QUEUED)
        return [trial_noun(row) for row in self._session.scalars(query.order_by(TrialRow.number))]

    def delete_all(self, campaign: CampaignRow) -> None:
        """Delete the campaign's trials with their measurements, and all that happened to it and them."""
        trials = select(TrialRow.id).where(TrialRow.campaign_id == campaign.id)
        for statement in (
            delete(MeasurementRow).where(MeasurementRow.trial_id.in_(trials)),
            delete(EventRow).where(EventRow.campaign_id == campaign.id),
            delete(TrialRow).where(TrialRow.campaign_id == campaign.id),
        ):
            self._session.execute(statement, execution_options={"synchronize_session": False})

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

    def listed(
        self, campaign_id: str, objectives: Sequence[Objective], listing: TrialListing, limit: int
    ) -> list[ListedTrial]:
        """Return up to `limit` trials as `listing` says, each with its place."""
        found = places(self._session, campaign_id, objectives, listing, limit)
        trials = {trial.id: trial for trial in self.with_ids([trial_id for trial_id, _ in found])}
        return [ListedTrial(trials[trial_id], place) for trial_id, place in found]

    def of_recipe(self, recipe_digest: str, but_not_campaign: str) -> list[Trial]:
        """Return complete trials of other campaigns with this recipe, outcomes included, the first to finish first."""
        query = self._query(with_outcomes=True).where(
            TrialRow.recipe_digest == recipe_digest,
            TrialRow.campaign_id != but_not_campaign,
            TrialRow.state == TrialState.COMPLETE,
        )
        rows = self._session.scalars(query.order_by(TrialRow.finished_at, TrialRow.id).limit(MAX_OF_RECIPE))
        return [trial_noun(row, with_outcomes=True) for row in rows]

    def with_recipe(self, campaign_id: str, digest_prefix: str) -> Trial:
        """Return the campaign's first trial whose recipe's digest begins like this. Raises `NotFound`."""
        begins = TrialRow.recipe_digest.startswith(digest_prefix, autoescape=True)
        query = self._query(with_outcomes=True).where(TrialRow.campaign_id == campaign_id, begins)
        row = self._session.scalar(query.order_by(TrialRow.number).limit(1))
        if row is None:
            raise NotFound(f"campaign {campaign_id} has no trial of recipe {digest_prefix!r}...")
        return trial_noun(row, with_outcomes=True)

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

    def item_evaluations(self, objectives: Mapping[str, Sequence[Objective]]) -> dict[str, int]:
        """Return how many items of tasks were scored on the search split, by campaign, of whose `objectives` they are.

        The objectives of one task share its items, so that the one with the most counts for all.
        """
        items = func.sum(MeasurementRow.items)
        query = select(TrialRow.campaign_id, MeasurementRow.objective, items).join(TrialRow.measurements)
        query = query.where(TrialRow.campaign_id.in_(objectives), TrialRow.attempts > 0)
        query = query.where(MeasurementRow.split == "search").group_by(TrialRow.campaign_id, MeasurementRow.objective)
        found = {(row[0], row[1]): int(row[2]) for row in self._session.execute(query)}
        return {
            campaign_id: sum(_items_by_task(campaign_id, campaign, found).values())
            for campaign_id, campaign in objectives.items()
        }

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


def _items_by_task(
    campaign_id: str, objectives: Sequence[Objective], found: Mapping[tuple[str, str], int]
) -> dict[str, int]:
    items: dict[str, int] = {}
    for objective in objectives:
        if not objective.is_of_weights:
            counted = found.get((campaign_id, objective.name), 0)
            items[objective.task] = max(items.get(objective.task, 0), counted)
    return items


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
