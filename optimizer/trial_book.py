"""What the loop knows of its trials: a copy of the database, kept up to date by every answer of the store."""

from collections.abc import Collection, Iterable

from campaigns.campaign import ImportReport, RungReport, SearchSummary
from campaigns.constraints import Limits, limits
from campaigns.methods import LinearMerge
from campaigns.objectives import macro_average
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import Point, Trial
from fronts.pareto import Losses, search_losses
from optimizer.greedy_soup import GreedySoup, Members, greedy_soup, is_greedy_soup
from optimizer.strategies import Observation
from optimizer.summary import RunningSummary

AVERAGES = ("parent", "soup")
SCORED = (TrialState.COMPLETE, TrialState.PRUNED)


class TrialBook:
    """The trials of one campaign by id, and the questions that the loop asks about them.

    What an answer costs depends on the trials that it is about, not on how many there are. `first_recipes` has the
    digests of what the search began with: the reference point is made of those baselines, and of all when it is None.
    """

    def __init__(self, spec: CampaignSpec, first_recipes: Collection[str] | None = None) -> None:
        self._spec = spec
        self._trials: dict[str, Trial] = {}
        self._in_state: dict[TrialState, dict[str, Trial]] = {state: {} for state in TrialState}
        self._baselines: dict[str, Trial] = {}
        self._recipes: dict[str, str] = {}
        self._candidates = 0
        self._summary = RunningSummary(spec, first_recipes)
        self._tasks = {o.name: o.task for o in spec.objectives if not o.is_of_weights}
        self._item_evaluations = 0
        self._search_seconds = 0.0

    def __getitem__(self, trial_id: str) -> Trial:
        return self._trials[trial_id]

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._trials

    def __len__(self) -> int:
        return len(self._trials)

    def write(self, trials: Iterable[Trial]) -> None:
        """Remember `trials` as they are now."""
        for trial in trials:
            known = self._trials.get(trial.id)
            if known is None:
                self._candidates += trial.candidate.kind == "candidate"
                self._recipes.setdefault(trial.candidate.recipe.digest, trial.id)
            else:
                del self._in_state[known.state][trial.id]
            self._spend(known, trial)
            self._trials[trial.id] = self._in_state[trial.state][trial.id] = trial
            if trial.candidate.is_baseline:
                self._baselines[trial.id] = trial
            self._summary.add(trial)

    def in_state(self, state: TrialState) -> list[Trial]:
        """Return the trials in `state`, by number."""
        return _by_number(self._in_state[state].values())

    def of_recipe(self, digest: str) -> Trial | None:
        """Return the first trial of this recipe, whatever became of it."""
        return self._trials.get(self._recipes.get(digest, ""))

    @property
    def candidate_count(self) -> int:
        """How many trials the strategy proposed, whatever became of them."""
        return self._candidates

    @property
    def item_evaluations(self) -> int:
        """How many search items of tasks trials were scored on here; the metrics of a task share its items."""
        return self._item_evaluations

    @property
    def search_seconds(self) -> float:
        """How many seconds actors spent on search items, of the trials that have a result."""
        return self._search_seconds

    def _spend(self, known: Trial | None, trial: Trial) -> None:
        self._item_evaluations += self._items(trial) - (0 if known is None else self._items(known))
        self._search_seconds += _seconds(trial) - (0.0 if known is None else _seconds(known))

    def _items(self, trial: Trial) -> int:
        if not trial.attempts:
            return 0
        items: dict[str, int] = {}
        for measurement in trial.measurements:
            if measurement.split == "search" and measurement.objective in self._tasks:
                task = self._tasks[measurement.objective]
                items[task] = max(items.get(task, 0), measurement.items)
        return sum(items.values())

    @property
    def is_drained(self) -> bool:
        """Whether every trial is in a final state."""
        return not any(trials for state, trials in self._in_state.items() if not state.is_final)

    @property
    def first_complete(self) -> Trial | None:
        """The first trial that was evaluated here and has all its measurements."""
        return next((t for t in self._in_state[TrialState.COMPLETE].values() if not t.candidate.imported_from), None)

    def greedy_soup(self) -> GreedySoup | None:
        """Return how far the greedy soup has come; None while a parent or an average of parents has no result yet."""
        soups: dict[Members, float | None] = {}
        for trial in self._averages():
            if not trial.state.is_final:
                return None
            complete = trial.state is TrialState.COMPLETE
            score = macro_average(self._spec.objectives, trial.measurements, "search") if complete else None
            soups[_members(trial)] = score
        parents = [soups.get(frozenset([index])) for index in range(len(self._spec.pool.names))]
        return greedy_soup(parents, soups)

    def pending_points(self) -> list[Point]:
        """Return the points of the trials that have no result yet, by number."""
        states = [trials for state, trials in self._in_state.items() if not state.is_final]
        return [trial.candidate.point for trial in _by_number(t for trials in states for t in trials.values())]

    def observations(self) -> list[Observation]:
        """Return what the strategy has been told, in that order: of parents, each knew those told before it."""
        known = limits(self._spec.constraints, self._spec.objectives)
        told = [(trial.told, trial) for trial in self._trials.values() if trial.told is not None]
        return [self._observed(trial, known) for _, trial in sorted(told, key=lambda pair: pair[0])]

    def observation(self, trial: Trial) -> Observation:
        """Return the trial, not yet written, as a strategy sees it after all that are.

        Without losses if it is infeasible; with those that are expected on all items if a race stopped it.
        """
        return self._observed(trial, limits(self._spec.constraints, self._spec.objectives, self._baselines.values()))

    def _observed(self, trial: Trial, known: Limits) -> Observation:
        if trial.state not in SCORED:
            return Observation(trial.candidate.point, None)
        known.learn(trial)
        return Observation(trial.candidate.point, search_losses(self._spec.objectives, trial), known.of(trial))

    @property
    def front_losses(self) -> list[Losses]:
        """The losses on the search items of the trials on the front, in no particular order."""
        return self._summary.front_losses

    def summary(self) -> SearchSummary:
        """Return front, hypervolume and recommendation."""
        return self._summary.summary()

    @property
    def imports(self) -> ImportReport | None:
        """What was imported; None until then."""
        return self._summary.imports

    @imports.setter
    def imports(self, report: ImportReport | None) -> None:
        self._summary.imports = report

    @property
    def racing(self) -> tuple[RungReport, ...]:
        """What racing has done so far, by rung."""
        return self._summary.racing

    @racing.setter
    def racing(self, reports: tuple[RungReport, ...]) -> None:
        self._summary.racing = reports

    def awaiting_holdout(self, front: Iterable[str]) -> list[Trial]:
        """Return the complete baselines and members of `front` that were not scored on the holdout items, by number.

        Of what the greedy soup tried only the end result is a baseline.
        """
        wanted = {*front, *(t.id for t in self._baselines.values() if not is_greedy_soup(t.candidate))}
        soup = self.greedy_soup() if self._spec.baselines.greedy_soup else None
        if soup is not None and soup.next_members is None:
            wanted |= {trial.id for trial in self._averages() if _members(trial) == soup.members}
        complete = self._in_state[TrialState.COMPLETE]
        found = [complete[trial_id] for trial_id in wanted if trial_id in complete]
        return _by_number(trial for trial in found if "holdout" not in trial.timings)

    def _averages(self) -> list[Trial]:
        return [trial for trial in self._baselines.values() if trial.candidate.kind in AVERAGES]


def _seconds(trial: Trial) -> float:
    """Return what the trial's evaluation took here; what was imported took nothing."""
    return trial.timings["search"].total_seconds if trial.attempts and "search" in trial.timings else 0.0


def _by_number(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.number)


def _members(average: Trial) -> Members:
    """Return the checkpoints that a parent or a soup, which is always a linear merge, averages."""
    method = average.candidate.recipe.method
    assert isinstance(method, LinearMerge)
    return frozenset(index for index, weight in enumerate(method.weights) if weight)
