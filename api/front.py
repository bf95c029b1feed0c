"""Routes of what a campaign has found: the front beside its baselines, the best trial, the hypervolume."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query

from api.problems import documented
from api.service import Service, ServiceOf
from api.trials import TrialView, known_limits, trial_view
from campaigns.campaign import Campaign, Recommendation
from campaigns.constraints import limits
from campaigns.errors import InvalidInput, NotFound, field_error
from campaigns.noun import Noun
from campaigns.objectives import Objective, Split, macro_average, macro_standard_error
from campaigns.trial import Trial
from fronts.preference import parse_preference
from fronts.recommendation import By, choose, recommend, split_to_judge_by


class MacroAverage(Noun):
    """The weighted mean over the objectives, higher is better."""

    value: float
    standard_error: float | None


class MacroAverages(Noun):
    """One trial's macro-averages; None on a split that it was not scored on."""

    search: MacroAverage | None
    holdout: MacroAverage | None


class Front(Noun):
    """The non-dominated trials on the search items beside the baselines. `macro` is by trial id."""

    objectives: tuple[Objective, ...]
    front: tuple[TrialView, ...]
    baselines: tuple[TrialView, ...]
    recommendation: Recommendation | None
    macro: dict[str, MacroAverages]


class HypervolumeEntry(Noun):
    """The hypervolume once a trial had been told, `seconds` after the campaign's start."""

    told: int
    trial_id: str
    number: int
    seconds: float
    hypervolume: float | None


class Hypervolume(Noun):
    """The hypervolume's history; both are None until the baselines are told."""

    reference_point: tuple[float, ...] | None
    history: tuple[HypervolumeEntry, ...]


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/campaigns/{campaign_id}", tags=["front"])

    @routes.get("/front", responses=documented(404))
    def front(campaign_id: str, service: ServiceOf) -> Front:
        """Return the Pareto front, the baselines and their macro-averages."""
        campaign = service.store.campaign(campaign_id)
        objectives = campaign.spec.objectives
        trials, baselines = _front_trials(service, campaign), service.store.baselines(campaign_id)
        known = limits(campaign.spec.constraints, objectives, baselines)
        return Front(
            objectives=objectives,
            front=tuple(trial_view(trial, known) for trial in trials),
            baselines=tuple(trial_view(trial, known) for trial in baselines),
            recommendation=_recommendation(campaign, trials, baselines),
            macro={trial.id: macro_averages(objectives, trial) for trial in (*trials, *baselines)},
        )

    @routes.get("/best", responses=documented(404, 422))
    def best(
        campaign_id: str,
        service: ServiceOf,
        prefer: Annotated[str | None, Query(examples=["gsm8k/exact_match:2,arc_easy/acc:1"])] = None,
        by: By | None = None,
    ) -> TrialView:
        """Return the front's best: by macro-average, its knee, or by a weighted sum of the objectives in `prefer`.

        Judged on the holdout items once the whole front has been scored there, else on the search items.
        """
        campaign = service.store.campaign(campaign_id)
        if prefer is not None and by is not None:
            raise InvalidInput(
                [field_error("by", by, "weights in `prefer` choose by themselves: leave one of them out")]
            )
        weights = None if prefer is None else parse_preference(prefer, campaign.spec.objectives)
        chosen_id = best_trial_id(service, campaign, by, weights)
        return trial_view(service.store.trial(chosen_id), known_limits(service, campaign))

    @routes.get("/hypervolume", responses=documented(404))
    def hypervolume(campaign_id: str, service: ServiceOf) -> Hypervolume:
        """Return how the front's hypervolume grew, against a reference point that was frozen after the baselines."""
        campaign = service.store.campaign(campaign_id)
        start = campaign.started_at or campaign.created_at
        history = tuple(
            HypervolumeEntry(
                told=point.told,
                trial_id=point.trial_id,
                number=point.number,
                seconds=(point.told_at - start).total_seconds(),
                hypervolume=point.hypervolume,
            )
            for point in service.store.hypervolumes(campaign_id)
        )
        return Hypervolume(reference_point=campaign.summary.reference_point, history=history)

    return routes


def best_trial_id(
    service: Service, campaign: Campaign, by: By | None = None, weights: Mapping[str, float] | None = None
) -> str:
    """Return the front's best: the recommended trial, the knee, or the best under `weights` by objective name.

    Raises `NotFound` while there is none.
    """
    objectives, trials = campaign.spec.objectives, _front_trials(service, campaign)
    recommendation = _recommendation(campaign, trials, [])
    if weights is None and by != "knee":
        chosen_id = None if recommendation is None else recommendation.trial_id
    else:
        chosen = choose(objectives, trials, split_to_judge_by(objectives, trials), by or "macro", weights)
        chosen_id = None if chosen is None else chosen.id
    if chosen_id is None:
        nothing = f"campaign {campaign.id!r} has found nothing yet"
        raise NotFound(nothing if recommendation is None else recommendation.reason)
    return chosen_id


def macro_averages(objectives: tuple[Objective, ...], trial: Trial) -> MacroAverages:
    """Return the trial's macro-average on each split."""
    return MacroAverages(search=_macro(objectives, trial, "search"), holdout=_macro(objectives, trial, "holdout"))


def _macro(objectives: tuple[Objective, ...], trial: Trial, split: Split) -> MacroAverage | None:
    value = macro_average(objectives, trial.measurements, split)
    if value is None:
        return None
    error = macro_standard_error(objectives, trial.measurements, split)
    return MacroAverage(value=value, standard_error=error)


def _recommendation(campaign: Campaign, front: list[Trial], baselines: list[Trial]) -> Recommendation | None:
    """Return the search's recommendation, until the whole front has been scored on the holdout items: then theirs."""
    if split_to_judge_by(campaign.spec.objectives, front) == "search":
        return campaign.summary.recommendation
    return recommend(campaign.spec.objectives, baselines, front)


def _front_trials(service: Service, campaign: Campaign) -> list[Trial]:
    return service.store.trials_with_ids(campaign.summary.front)
