"""The Pareto front of what was measured: who is on it, how much it covers, and which point to take."""

from collections.abc import Sequence

import numpy as np
from moocore import hv_approx  # pymoo's wrapper of it adds exact contributions, which take hours
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from campaigns.campaign import Recommendation
from campaigns.objectives import Objective, macro_average
from campaigns.trial import Trial

Losses = tuple[float, ...]

REFERENCE_MARGIN = 0.1
RANGE_FLOOR = 0.01
# Measured on one core, exact: 200 points take 0.01 s in 6 objectives and 8 s in 8; 60 points in 12 take 131 s.
MAX_EXACT_OBJECTIVES = 6
APPROXIMATION_SAMPLES = 2**16


def non_dominated(losses: Sequence[Losses]) -> list[int]:
    """Return the indices, ascending, of the points (n x m, minimised) that no other dominates.

    Of points with equal losses only the first counts.
    """
    if not losses:
        return []
    ranked = NonDominatedSorting().do(np.array(losses, dtype=float), only_non_dominated_front=True)
    first: dict[Losses, int] = {}
    for index in sorted(int(index) for index in ranked):
        first.setdefault(tuple(losses[index]), index)
    return sorted(first.values())


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
        return float(HV(ref_point=reference)(front))
    return float(hv_approx(front, ref=reference, nsamples=APPROXIMATION_SAMPLES, method="Rphi-FWE+"))


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


def recommend(
    objectives: tuple[Objective, ...], trials: Sequence[Trial], front: Sequence[Trial]
) -> Recommendation | None:
    """Return the trial of `front` with the highest macro-average on the search items, the first asked where two tie.

    The reason names its margin over the best parent and the best soup among `trials`. None for an empty front.
    """
    scored = [(score, trial) for trial in front if (score := _score(objectives, trial)) is not None]
    if not scored:
        return None
    score, chosen = max(scored, key=lambda pair: (pair[0], -pair[1].number))
    subject = f"highest macro-average on the search items of the {len(scored)} on the front: {score:.4g}"
    margins = [
        f"{score - other:+.4g} over {label} ({other:.4g})"
        for label, other, trial in _rivals(objectives, trials)
        if trial.id != chosen.id
    ]
    beaten = "; " + ", ".join(margins) if margins else ""
    itself = f"; it is the baseline {chosen.candidate.label!r} itself" if chosen.candidate.label else ""
    return Recommendation(trial_id=chosen.id, reason=subject + beaten + itself)


def _rivals(objectives: tuple[Objective, ...], trials: Sequence[Trial]) -> list[tuple[str, float, Trial]]:
    """Return (name, macro-average, trial) of the best parent and of the best soup, as far as they were measured."""
    rivals = []
    for kind, noun in (("parent", "the best parent"), ("soup", "the")):
        scored = [
            (score, t) for t in trials if t.candidate.kind == kind and (score := _score(objectives, t)) is not None
        ]
        if scored:
            score, trial = max(scored, key=lambda pair: (pair[0], -pair[1].number))
            rivals.append((f"{noun} {trial.candidate.label}", score, trial))
    return rivals


def _score(objectives: tuple[Objective, ...], trial: Trial) -> float | None:
    return macro_average(objectives, trial.measurements, "search")
