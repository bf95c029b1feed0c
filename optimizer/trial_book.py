"""What the loop knows of its trials: a copy of the database, kept up to date by every answer of the store."""

from collections.abc import Iterable

from campaigns.campaign import SearchSummary
from campaigns.methods import LinearMerge
from campaigns.objectives import macro_average
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import Point, Trial
from optimizer.greedy_soup import GreedySoup, Members, greedy_soup, is_greedy_soup
from optimizer.strategies import Observation
from optimizer.summary import search_losses, summarize


class TrialBook:
    """The trials of one campaign by id, and the questions that the loop asks about them."""

    def __init__(self, spec: CampaignSpec) -> None:
        self._spec = spec
        self._trials: dict[str, Trial] = {}
        self._recipes: set[str] = set()

    def __getitem__(self, trial_id: str) -> Trial:
        return self._trials[trial_id]

    def __len__(self) -> int:
        return len(self._trials)

    def write(self, trials: Iterable[Trial]) -> None:
        """Remember `trials` as they are now."""
        for trial in trials:
            self._trials[trial.id] = trial
            self._recipes.add(trial.candidate.recipe.digest)

    def in_state(self, state: TrialState) -> list[Trial]:
        """Return the trials in `state`, by number."""
        return sorted((t for t in self._trials.values() if t.state is state), key=lambda trial: trial.number)

    def has_recipe(self, digest: str) -> bool:
        """Whether a trial of this recipe exists, whatever became of it."""
        return digest in self._recipes

    @property
    def candidate_count(self) -> int:
        """How many trials the strategy proposed, whatever became of them."""
        return sum(trial.candidate.kind == "candidate" for trial in self._trials.values())

    @property
    def is_drained(self) -> bool:
        """Whether every trial is in a final state."""
        return all(trial.state.is_final for trial in self._trials.values())

    def greedy_soup(self) -> GreedySoup | None:
        """Return how far the greedy soup has come; None while a parent or an average of parents has no result yet."""
        soups: dict[Members, float | None] = {}
        for trial in self._baselines():
            if not trial.state.is_final:
                return None
            complete = trial.state is TrialState.COMPLETE
            score = macro_average(self._spec.objectives, trial.measurements, "search") if complete else None
            soups[_members(trial)] = score
        parents = [soups.get(frozenset([index])) for index in range(len(self._spec.pool.names))]
        return greedy_soup(parents, soups)

    def pending_points(self) -> list[Point]:
        """Return the points of the trials that have no result yet."""
        return [trial.candidate.point for trial in self._trials.values() if not trial.state.is_final]

    def observations(self) -> list[Observation]:
        """Return what a strategy has been told of this campaign's own trials, in that order."""
        told = [(trial.told, trial) for trial in self._trials.values() if trial.told is not None]
        return [self.observation(trial) for _, trial in sorted(told, key=lambda pair: pair[0])]

    def observation(self, trial: Trial) -> Observation:
        """Return the trial as a strategy sees it: infeasible and failed ones are points without losses."""
        if trial.state is not TrialState.COMPLETE:
            return Observation(trial.candidate.point, None)
        return Observation(trial.candidate.point, search_losses(self._spec.objectives, trial))

    def summary_with(self, trial: Trial) -> SearchSummary:
        """Return front, hypervolume and recommendation as they will be once `trial` is written."""
        return summarize(self._spec, list({**self._trials, trial.id: trial}.values()))

    def awaiting_holdout(self, front: Iterable[str]) -> list[Trial]:
        """Return the complete baselines and members of `front` that were not scored on the holdout items, by number.

        Of what the greedy soup tried only the end result is a baseline.
        """
        wanted = {*front, *(trial.id for trial in self._baselines() if not is_greedy_soup(trial.candidate))}
        soup = self.greedy_soup() if self._spec.baselines.greedy_soup else None
        if soup is not None and soup.next_members is None:
            wanted |= {trial.id for trial in self._baselines() if _members(trial) == soup.members}
        complete = self.in_state(TrialState.COMPLETE)
        return [trial for trial in complete if trial.id in wanted and "holdout" not in trial.timings]

    def _baselines(self) -> list[Trial]:
        return [trial for trial in self._trials.values() if trial.candidate.kind != "candidate"]


def _members(baseline: Trial) -> Members:
    """Return the checkpoints that a baseline, which is always a linear merge, averages."""
    method = baseline.candidate.recipe.method
    assert isinstance(method, LinearMerge)
    return frozenset(index for index, weight in enumerate(method.weights) if weight)
