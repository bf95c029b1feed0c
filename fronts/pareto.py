"""The Pareto front of what was measured: who is on it, and how much it covers."""

from collections.abc import Sequence

import moocore
import numpy as np

from campaigns.objectives import Objective
from campaigns.trial import Trial

Losses = tuple[float, ...]

REFERENCE_MARGIN = 0.1
RANGE_FLOOR = 0.01
# Measured on one core, exact: 200 points take 0.01 s in 6 objectives and 8 s in 8; 60 points in 12 take 131 s.
MAX_EXACT_OBJECTIVES = 6
APPROXIMATION_SAMPLES = 2**16


def search_losses(objectives: tuple[Objective, ...], trial: Trial) -> Losses:
    """Return the trial's losses on the search items, one per objective; those of a pruned trial are estimates.

    Raises ValueError when an objective was not measured: a complete or pruned trial has them all.
    """
    losses = []
    for objective in objectives:
        value = trial.expected(objective.name)
        if value is None:
            raise ValueError(f"trial {trial.id} has no search measurement of {objective.name}")
        losses.append(objective.loss(value))
    return tuple(losses)


def non_dominated(losses: Sequence[Losses]) -> list[int]:
    """Return the indices, ascending, of the points (n x m, minimised) that no other dominates.

    Of points with equal losses only the first counts.
    """
    if not losses:
        return []
    return [int(index) for index in np.flatnonzero(moocore.is_nondominated(np.array(losses, dtype=float)))]


def hypervolume(losses: Sequence[Losses], reference_point: Losses) -> float:
    """Return the volume between the points (n x m, minimised) and the reference point, at least 0.

    Points that do not dominate the reference point add nothing. Exact up to 6 objectives; beyond, a deterministic
    quasi-Monte-Carlo estimate (moocore's Rphi-FWE+) that never falls when a point is added.
    """
    inside = [point for point in losses if all(x < r for x, r in zip(point, reference_point, strict=True))]
    if not inside:
        return 0.0
    front = np.array([inside[index] for index in non_dominated(inside)], dtype=float)
    reference = np.array(reference_point, dtype=float)
    if len(reference_point) <= MAX_EXACT_OBJECTIVES:
        return float(moocore.hypervolume(front, ref=reference))
    return float(moocore.hv_approx(front, ref=reference, nsamples=APPROXIMATION_SAMPLES, method="Rphi-FWE+"))


def frozen_reference_point(losses: Sequence[Losses]) -> Losses:
    """Return the reference point that the baselines' losses (n x m, n >= 1) give.

    Per objective: the worst loss plus a tenth of the baselines' range, so that every baseline itself covers some
    volume. Where the baselines (nearly) agree, the range counts as at least 1% of the worst loss's size, or 0.01 where
    that is 0.
    """
    if not losses:
        raise ValueError("a reference point needs the losses of at least one baseline, got none")
    return tuple(_beyond_the_worst(column) for column in zip(*losses, strict=True))


def _beyond_the_worst(column: Sequence[float]) -> float:
    worst = max(column)
    spread = max(worst - min(column), RANGE_FLOOR * (abs(worst) or 1.0))
    return worst + REFERENCE_MARGIN * spread
