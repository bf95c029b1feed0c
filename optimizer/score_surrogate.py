"""What the scores of earlier trials say of a new one's before any item is scored: a Gaussian process per loss.

Scores are smooth in the weights of a merge, and trials share their items, so that with some tens of trials on all items
the prediction for a new one is as exact as scoring it on a good part of them. Kernels are those of `gp_hypervolume`.
"""

import math

import numpy as np

from campaigns.trial import Point
from fronts.item_model import Belief
from optimizer.strategies.gp_hypervolume import MAX_FITTED, REFIT_GROWTH, Kernels, fit_kernels
from optimizer.strategies.matern import Array, MaternProcess

MIN_TRIALS = 12
MAX_TRIALS = 300  # trials that are conditioned on: the latest ones
FAR = 5.0  # times the way from median to upper quartile above the median: losses beyond are drawn in


class ScoreSurrogate:
    """Learns losses (m) at points (n); a function of what was learnt, in that order."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._losses: list[tuple[float, ...]] = []
        self._fitted: tuple[int, Kernels] | None = None

    def learn(self, point: Point, losses: tuple[float, ...]) -> None:
        """Take in the losses of a trial that was scored on all items."""
        self._points.append(point)
        self._losses.append(losses)

    def believe(self, point: Point) -> list[Belief] | None:
        """Return what is believed of each loss at `point`, noise included; None while too little was learnt."""
        if len(self._points) < MIN_TRIALS:
            return None
        kernels = self._kernels()
        points, losses = np.array(self._points[-MAX_TRIALS:]), np.array(self._losses[-MAX_TRIALS:])
        values, centre, spread = _standardized(losses)
        inputs, here = kernels.inputs(points), kernels.inputs(np.array([point]))
        beliefs = []
        for index, hyper in enumerate(kernels.hyper):
            mean, deviation = MaternProcess(hyper, inputs, values[:, index]).posterior(here)
            error = math.sqrt(float(deviation[0]) ** 2 + math.exp(hyper.noise))
            beliefs.append(Belief(float(centre[index] + spread[index] * mean[0]), float(spread[index]) * error))
        return beliefs

    def _kernels(self) -> Kernels:
        """Return kernels that were fitted to the first trials, as many as have not grown by a fifth since."""
        size = MIN_TRIALS
        while (larger := int(REFIT_GROWTH * size)) <= min(len(self._points), MAX_FITTED):
            size = larger
        if self._fitted is None or self._fitted[0] != size:
            values, _, _ = _standardized(np.array(self._losses[:size]))
            self._fitted = size, fit_kernels(np.array(self._points[:size]), values)
        return self._fitted[1]


def _standardized(losses: Array) -> tuple[Array, Array, Array]:
    """Return losses (N x m) with mean 0 and variance 1, the means, and the standard deviations."""
    losses = np.clip(losses, -1e100, 1e100)
    middle, high = np.quantile(losses, [0.5, 0.75], axis=0)
    reach = np.where(high > middle, high - middle, np.inf)
    kept = np.minimum(losses, middle + FAR * reach)
    centre, spread = kept.mean(axis=0), kept.std(axis=0)
    spread = np.where(spread > 0.0, spread, 1.0)
    return (kept - centre) / spread, centre, spread
