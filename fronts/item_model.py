"""What the outcomes on some items say of the mean over all: a factor model of items, learnt from trials that saw all.

Merges of one pool fail on much the same items, so a few outcomes say far more than their own mean does. An item's
outcome is y_i = m_i + u_i' z + e_i: its mean m_i over the known trials, what it shares with other items through the
trial's unknown factors z ~ N(0, I), and a part of its own, e_i ~ N(0, d_i). The shared covariance is that of the known
trials, drawn towards its diagonal (Schaefer and Strimmer, Statistical Applications in Genetics and Molecular Biology 4,
2005), and one factor more lets a trial be better or worse than all of them. A trial that fits in badly is known less
well, the more so the fewer trials are known, as under a multivariate t distribution. Item-response models of benchmarks
(tinyBenchmarks, arXiv 2402.14992; MERGE3, arXiv 2502.10436) have fewer factors and a logistic link.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fronts.items import Floats

MIN_TRIALS = 4
SHRINKAGE = 0.3
ABILITY = 0.5  # variance of the common factor, in units of the variance between the known trials' means
LEAST_SHARE = 0.1  # an item's own variance is at least this share of the mean item's: no outcome is certain
TINY = 1e-12


@dataclass(frozen=True)
class Belief:
    """A number that is known up to a normal error: its mean and its standard deviation (at least 0)."""

    mean: float
    deviation: float

    def joined(self, other: "Belief") -> "Belief":
        """Return what both say together, their errors taken as independent."""
        if self.deviation == 0.0 or other.deviation == 0.0:
            return self if self.deviation == 0.0 else other
        own, others = self.deviation**-2, other.deviation**-2
        return Belief((own * self.mean + others * other.mean) / (own + others), float((own + others) ** -0.5))


class ItemModel:
    """Made of the outcomes (trials x items) of one objective; raises ValueError for fewer than `MIN_TRIALS` trials."""

    def __init__(self, outcomes: Floats) -> None:
        if len(outcomes) < MIN_TRIALS:
            raise ValueError(f"a model of items needs {MIN_TRIALS} trials or more, got {len(outcomes)}")
        trials, items = outcomes.shape
        self._freedom = trials - 1
        self._means = outcomes.mean(axis=0)
        deviations = (outcomes - self._means) / np.sqrt(trials - 1)
        variances = np.square(deviations).sum(axis=0)
        ability = np.sqrt(ABILITY * outcomes.mean(axis=1).var(ddof=1))
        self._factors = np.vstack([np.sqrt(1 - SHRINKAGE) * deviations, np.full(items, ability)]).T
        self._own = np.maximum(SHRINKAGE * variances, LEAST_SHARE * variances.mean() + TINY)

    def mean_of_all(self, observed: Sequence[int], outcomes: Floats) -> Belief:
        """Return what is believed of a trial's mean outcome over all items, given those on the items `observed`."""
        seen = np.asarray(observed, dtype=int)
        weighted = self._factors[seen] / self._own[seen, None]
        precision = np.eye(self._factors.shape[1]) + weighted.T @ self._factors[seen]
        rest = np.ones(len(self._own), dtype=bool)
        rest[seen] = False
        loading = self._factors[rest].sum(axis=0)
        residuals = outcomes - self._means[seen]
        evidence = weighted.T @ residuals
        factors, spread = np.linalg.solve(precision, np.stack([evidence, loading], axis=1)).T
        total = outcomes.sum() + self._means[rest].sum() + loading @ factors
        variance = loading @ spread + self._own[rest].sum()
        misfit = np.square(residuals).dot(1 / self._own[seen]) - evidence @ factors
        stretch = max(1.0, (self._freedom + misfit) / (self._freedom + len(seen)))
        return Belief(float(total / len(rest)), float(np.sqrt(max(variance, 0.0) * stretch) / len(rest)))

    def most_telling(self, count: int) -> list[int]:
        """Return `count` items, each the one whose outcome, after those before it, narrows the mean of all the most.

        Greedy: an item's gain is the square of its covariance with the sum over all items, over its own variance.
        """
        chosen: list[int] = []
        spread = np.eye(self._factors.shape[1])
        loading, own = self._factors.sum(axis=0), self._own.copy()
        for _ in range(min(count, len(own))):
            reached = self._factors @ spread
            variances = (reached * self._factors).sum(axis=1) + self._own
            gains = np.square(reached @ loading + own) / variances
            gains[chosen] = -1.0
            item = int(np.argmax(gains))
            chosen.append(item)
            spread = spread - np.outer(reached[item], reached[item]) / variances[item]
            loading, own[item] = loading - self._factors[item], 0.0
        return chosen
