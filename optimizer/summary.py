"""The state of the search after each tell: front, frozen reference point, hypervolume, recommendation."""

from collections.abc import Collection

from campaigns.campaign import ImportReport, Recommendation, RungReport, SearchSummary
from campaigns.spec import CampaignSpec
from campaigns.states import TrialState
from campaigns.trial import Trial
from fronts.pareto import Losses, frozen_reference_point, hypervolume, search_losses
from fronts.recommendation import recommend
from optimizer.archive import ParetoArchive
from optimizer.greedy_soup import is_greedy_soup

FIRST_TRIALS = 8  # what the reference point is made of in a campaign without a baseline that could be scored
UNSCORED = (TrialState.INFEASIBLE, TrialState.FAILED)


class RunningSummary:
    """The summary over trials as they come. What one trial costs grows with the front, not with their number.

    `imports` and `racing` are told by the loop, and handed on in the summary. The reference point is made of the
    baselines with one of `first_recipes`, of all when it is None: a point that is queued later must not move it.
    """

    def __init__(self, spec: CampaignSpec, first_recipes: Collection[str] | None = None) -> None:
        self._spec = spec
        self._first_recipes = first_recipes
        self._archive = ParetoArchive(spec)
        self._baselines: dict[str, Trial] = {}
        self._earliest: dict[str, Trial] = {}
        self._reference_point: Losses | None = None
        self.imports: ImportReport | None = None
        self.racing: tuple[RungReport, ...] = ()
        self._summary: SearchSummary | None = None

    def add(self, trial: Trial) -> None:
        """Take in a trial, or an earlier one as it is now."""
        if trial.candidate.is_baseline:
            self._baselines[trial.id] = trial
        if trial.number < FIRST_TRIALS:
            self._earliest[trial.id] = trial
        changes_front = trial.state is TrialState.COMPLETE and self._archive.add(trial)
        if changes_front or trial.candidate.is_baseline or trial.number < FIRST_TRIALS:
            self._summary = None

    @property
    def front_losses(self) -> list[Losses]:
        """The losses on the search items of the trials on the front, in no particular order."""
        return self._archive.losses

    def summary(self) -> SearchSummary:
        """Return front, hypervolume and recommendation of the complete trials, by their values on search items."""
        if self._summary is None:
            self._summary = self._made()
        reports = {"imports": self.imports, "racing": self.racing}
        if any(getattr(self._summary, name) != report for name, report in reports.items()):
            self._summary = self._summary.replace(**reports)
        return self._summary

    def _made(self) -> SearchSummary:
        if not len(self._archive):
            return SearchSummary()
        self._reference_point = self._reference_point or self._found_reference_point()
        volume = None if self._reference_point is None else hypervolume(self._archive.losses, self._reference_point)
        front = self._archive.front
        return SearchSummary(
            front=tuple(trial.id for trial in front),
            reference_point=self._reference_point,
            hypervolume=volume,
            recommendation=self._recommendation(front),
        )

    def _found_reference_point(self) -> Losses | None:
        """Return what depends on the first trials alone; None until they are all there and final."""
        first = [t for t in self._baselines.values() if t.state not in UNSCORED and self._is_first(t)]
        if not first:
            first = list(self._earliest.values())
            if len(first) < min(FIRST_TRIALS, self._spec.budget.evaluations):
                return None
        scored = [search_losses(self._spec.objectives, trial) for trial in first if trial.state is TrialState.COMPLETE]
        if not scored or not all(trial.state.is_final for trial in first):
            return None
        return frozen_reference_point(scored)

    def _is_first(self, baseline: Trial) -> bool:
        is_of_spec = self._first_recipes is None or baseline.candidate.recipe.digest in self._first_recipes
        return is_of_spec and not is_greedy_soup(baseline.candidate)

    def _recommendation(self, front: list[Trial]) -> Recommendation | None:
        if front:
            return recommend(self._spec.objectives, list(self._baselines.values()), front)
        least = self._archive.least_violating
        if least is None:
            return None
        pairs = zip(self._spec.constraints, least.broken_by, strict=True)
        broken = ", ".join(constraint.in_words(g) for constraint, g in pairs if g > 0)
        reason = f"no trial keeps all constraints; trial {least.trial.id} breaks them least: {broken}"
        return Recommendation(trial_id=None, reason=reason)
