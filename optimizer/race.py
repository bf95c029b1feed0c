"""The race over items: in which parts a candidate's items are scored, and whether it goes on after each.

After a rung, three things say what the candidate's scores on all items would be: its own outcomes so far with a model
of how items go together (`fronts.item_model`), the scores of trials at other points (`optimizer.score_surrogate`), and,
for objectives of the weights, the measured value itself. From their joint belief follows how much hypervolume the
candidate can be expected to add. It stops where that is less than its share of what racing may cost: hypervolume is
submodular, so what all stopped candidates together take from the front is at most the sum of what each was expected to
add. This is racing (Maron and Moore, NIPS 1993) with the hypervolume as the score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from campaigns.constraints import Limits, limits
from campaigns.objectives import Items, Measurement, Objective
from campaigns.spec import CampaignSpec
from campaigns.trial import Trial
from fronts.item_model import MIN_TRIALS, Belief, ItemModel
from fronts.items import Column, Floats, column_of
from fronts.pareto import Losses, search_losses
from optimizer.score_surrogate import ScoreSurrogate
from optimizer.strategies.hypervolume_scalarization import directions, expected_improvement, lengths

MAX_KNOWN = 150  # trials that the model of items is made of: the latest ones
RAYS = 1024  # with 256, gains in three objectives are off by up to a tenth
ONE_DEVIATION = (0.159, 0.841)  # quantiles of a normal distribution
EXACT = 1e-9  # the deviation, in units of the front's extent, of what is known exactly
KEPT = 1e-8  # a bound that is met exactly is kept


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate stops, and why; its measurements with estimates, or without where it cannot be judged."""

    stops: bool
    measurements: tuple[Measurement, ...]
    reason: str


class Race:
    """Judges the candidates of one campaign by its trials that are complete.

    Everything follows from the trials learnt, in the order of telling, so that a loop that starts again judges alike.
    """

    def __init__(self, spec: CampaignSpec) -> None:
        assert spec.evaluation.racing is not None
        self._racing = spec.evaluation.racing
        self._spec = spec
        self._least = self._racing.tolerance / spec.budget.evaluations
        self._known: list[Trial] = []
        self._parents: list[Trial] = []
        self._limits: Limits = limits(spec.constraints, spec.objectives)
        self._surrogate = ScoreSurrogate()
        self._models: dict[str, tuple[ItemModel, Column]] = {}
        self._rays = directions(len(spec.objectives), RAYS, np.random.default_rng(spec.seed))
        self._rungs: tuple[Items, ...] = ()

    def learn(self, trial: Trial) -> None:
        """Take in a complete trial with its outcomes; trials come in the order of telling."""
        self._known = [*self._known[1 - MAX_KNOWN :], trial]
        if trial.candidate.kind == "parent":
            self._parents.append(trial)
        self._limits.learn(trial)
        self._surrogate.learn(trial.candidate.point, search_losses(self._spec.objectives, trial))
        self._models.clear()

    def rungs(self) -> tuple[Items, ...]:
        """Return the parts of the search items in the order of scoring; nothing while too few trials are known.

        To be asked for once all baselines are told, and the same from then on.
        """
        if not self._rungs and len(self._known) >= MIN_TRIALS:
            self._rungs = self._cut()
        return self._rungs

    def verdict(self, trial: Trial, measurements: Sequence[Measurement], front: list[Losses], worst: Losses) -> Verdict:
        """Judge a candidate by its measurements so far; `front` (k x m losses) is to grow, `worst` its reference point.

        A candidate goes on where an objective cannot be judged yet, and where no trial keeps all constraints.
        """
        predicted = self._surrogate.believe(trial.candidate.point)
        priors: Sequence[Belief | None] = predicted or [None] * len(measurements)
        beliefs: list[Belief] = []
        for objective, measurement, prior in zip(self._spec.objectives, measurements, priors, strict=True):
            found = self._believed(objective, measurement, prior)
            if found is None:
                return Verdict(False, tuple(measurements), f"{objective.name} cannot be judged yet")
            beliefs.append(found)
        estimated = self._estimated(trial, measurements, beliefs)
        if not front:
            return Verdict(False, estimated.measurements, "no trial is on the front yet")
        gain = self._expected_gain(beliefs, front, worst) * self._chance_of_keeping(estimated, beliefs)
        reason = f"expected to add {gain:.2%} to the front's hypervolume; racing stops below {self._least:.2%}"
        return Verdict(gain < self._least, estimated.measurements, reason)

    def _estimated(self, trial: Trial, measurements: Sequence[Measurement], beliefs: Sequence[Belief]) -> Trial:
        """Return the trial with its measurements so far and what is expected of them on all items."""
        found = zip(self._spec.objectives, measurements, beliefs, strict=True)
        estimated = tuple(m if self._is_whole(o, m) else m.replace(estimate=o.loss(b.mean)) for o, m, b in found)
        return trial.replace(measurements=estimated)

    def _cut(self) -> tuple[Items, ...]:
        """Return the rungs; a task with few items may have none in some of them."""
        orders = {m.objective: m.item_ids for m in self._known[0].measurements if m.split == "search" and m.item_ids}
        rungs: list[Items] = [{} for _ in range(len(self._racing.rungs) + 1)]
        for position, objective in enumerate(self._spec.objectives):
            if objective.name not in orders or any(objective.task in rung for rung in rungs):
                continue
            items = orders[objective.name]
            order = self._order(objective, position, len(items))
            cuts = [0, *(max(1, round(share * len(items))) for share in self._racing.rungs), len(items)]
            for rung, (start, stop) in zip(rungs, pairwise(cuts), strict=True):
                if start < stop:
                    rung[objective.task] = tuple(sorted(items[place] for place in order[start:stop]))
        return tuple(rung for rung in rungs if rung)

    def _order(self, objective: Objective, position: int, items: int) -> list[int]:
        """Return the places of a task's items in the order of scoring: anchors first, the others at random."""
        drawn: list[int] = np.random.default_rng([self._spec.seed, position]).permutation(items).tolist()
        if not self._racing.anchors:
            return drawn
        outcomes = _outcomes(objective, self._parents)
        if outcomes is None or len(self._parents) < MIN_TRIALS:
            return drawn
        telling = ItemModel(outcomes).most_telling(round(self._racing.rungs[-1] * items))
        chosen = set(telling)
        return telling + [item for item in drawn if item not in chosen]

    def _believed(self, objective: Objective, measurement: Measurement, prior: Belief | None) -> Belief | None:
        """Return what is believed of the loss on all items; None where too little is known, or no bound is finite."""
        found = self._by_items(objective, measurement)
        if found is None:
            return prior
        if not math.isfinite(found.deviation):
            return None
        return found if prior is None else found.joined(prior)

    def _by_items(self, objective: Objective, measurement: Measurement) -> Belief | None:
        """Return what the measured items say of the loss on all items; None where outcomes say nothing.

        Where the mean outcome does not determine the metric (a ratio of sums counts items by their length), the metric
        lies as far from it as those of the known trials do on all items: on some items it may lie far from that.
        """
        if self._is_whole(objective, measurement):
            return Belief(objective.loss(measurement.value), 0.0)
        known = self._model(objective)
        if known is None or not measurement.outcomes:
            return None
        model, column = known
        places = {item: place for place, item in enumerate(_measured(objective, self._known[-1]).item_ids)}
        belief = model.mean_of_all([places[item] for item in measurement.item_ids], np.array(measurement.outcomes))
        steps = np.array([[-1.0], [0.0], [1.0]]) * belief.deviation * np.ones(len(column.values))
        with np.errstate(over="ignore", invalid="ignore"):  # the exponential of a perplexity
            values = column.values_at(belief.mean + steps)
            low, middle, high = np.median(values, axis=1).tolist()
            least, most = np.quantile(values[1], ONE_DEVIATION).tolist()
        return Belief(objective.loss(middle), math.hypot(high - low, most - least) / 2)

    def _model(self, objective: Objective) -> tuple[ItemModel, Column] | None:
        """Return the model of the items, and the known trials' values and outcomes that it is made of."""
        if objective.name not in self._models:
            outcomes = _outcomes(objective, self._known)
            if outcomes is None or len(outcomes) < MIN_TRIALS:
                return None
            values = np.array([_measured(objective, trial).value for trial in self._known])
            self._models[objective.name] = ItemModel(outcomes), column_of(objective, values, outcomes)
        return self._models[objective.name]

    def _is_whole(self, objective: Objective, measurement: Measurement) -> bool:
        """Return whether nothing was left out: the value is that on all items."""
        return objective.is_of_weights or measurement.items == _measured(objective, self._known[-1]).items

    def _expected_gain(self, beliefs: Sequence[Belief], front: list[Losses], worst: Losses) -> float:
        """Return the expected growth of the hypervolume over what it is, whatever the constraints."""
        known, reference = np.array(front), np.array(worst)
        ideal = known.min(axis=0)
        extent = np.where(reference > ideal, reference - ideal, 1.0)
        covered = lengths((known - reference) / extent + 1.0, self._rays)
        means = (np.array([belief.mean for belief in beliefs]) - reference) / extent + 1.0
        deviations = np.maximum(np.array([belief.deviation for belief in beliefs]) / extent, EXACT)
        gain = float(expected_improvement(means[None, :], deviations[None, :], covered, self._rays)[0])
        volume = float((covered ** len(reference)).mean())
        return gain / volume if volume > 0.0 else math.inf

    def _chance_of_keeping(self, estimated: Trial, beliefs: Sequence[Belief]) -> float:
        """Return the probability that all constraints are kept on all items."""
        by_name = {objective.name: belief for objective, belief in zip(self._spec.objectives, beliefs, strict=True)}
        broken_by = zip(self._spec.constraints, self._limits.of(estimated), strict=True)
        deviations = [(g, max(by_name[constraint.objective].deviation, EXACT)) for constraint, g in broken_by]
        return math.prod(float(ndtr((KEPT - g) / deviation)) for g, deviation in deviations)


def _measured(objective: Objective, trial: Trial) -> Measurement:
    return next(m for m in trial.measurements if m.objective == objective.name and m.split == "search")


def _outcomes(objective: Objective, trials: Sequence[Trial]) -> Floats | None:
    """Return the outcomes of trials on all items (trials x items); None where a metric has none."""
    rows = [_measured(objective, trial).outcomes for trial in trials]
    return np.array(rows) if rows and all(rows) else None
