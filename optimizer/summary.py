"""The state of the search after each tell: front, frozen reference point, hypervolume, recommendation."""

from campaigns.campaign import SearchSummary
from campaigns.objectives import Objective
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import Trial
from optimizer.front import frozen_reference_point, hypervolume, non_dominated, recommend
from optimizer.greedy_soup import is_greedy_soup

FIRST_TRIALS = 8  # what the reference point is made of in a campaign without baselines


def summarize(spec: CampaignSpec, trials: list[Trial]) -> SearchSummary:
    """Return the summary over the complete ones of `trials`; losses are those of the search items."""
    objectives = spec.objectives
    complete = sorted((t for t in trials if t.state is TrialState.COMPLETE), key=lambda trial: trial.number)
    if not complete:
        return SearchSummary()
    losses = [search_losses(objectives, trial) for trial in complete]
    members = non_dominated(losses)
    reference_point = _reference_point(spec, trials)
    volume = None if reference_point is None else hypervolume([losses[index] for index in members], reference_point)
    return SearchSummary(
        front=tuple(complete[index].id for index in members),
        reference_point=reference_point,
        hypervolume=volume,
        recommendation=recommend(objectives, trials, [complete[index] for index in members]),
    )


def _reference_point(spec: CampaignSpec, trials: list[Trial]) -> tuple[float, ...] | None:
    """Frozen by construction: it depends on the first trials alone, and waits until they are all there and final."""
    first = [t for t in trials if t.candidate.kind != "candidate" and not is_greedy_soup(t.candidate)]
    if not first:
        first = [trial for trial in trials if trial.number < FIRST_TRIALS]
        if len(first) < min(FIRST_TRIALS, spec.budget.evaluations):
            return None
    scored = [search_losses(spec.objectives, trial) for trial in first if trial.state is TrialState.COMPLETE]
    if not scored or not all(trial.state.is_final for trial in first):
        return None
    return frozen_reference_point(scored)


def search_losses(objectives: tuple[Objective, ...], trial: Trial) -> tuple[float, ...]:
    """Return the trial's losses on the search items, one per objective.

    Raises ValueError when an objective was not measured: a complete trial has them all.
    """
    losses = []
    for objective in objectives:
        value = trial.value(objective.name, "search")
        if value is None:
            raise ValueError(f"trial {trial.id} has no search measurement of {objective.name}")
        losses.append(objective.loss(value))
    return tuple(losses)
