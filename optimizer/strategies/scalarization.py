"""One number out of several losses, for strategies that climb only one."""

import math
from collections.abc import Iterable, Sequence

Losses = tuple[float, ...]

AUGMENTATION = 0.05  # rho of ParEGO (Knowles 2006, equation 2)


def weighted_mean(losses: Losses, weights: Sequence[float]) -> float:
    """Return the mean of the losses by `weights`, which are at least 0 with a positive sum."""
    return math.fsum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / math.fsum(weights)


class TchebycheffScale:
    """The best and the worst of each loss among what it was shown, and the augmented Tchebycheff distance by them.

    With s_i = (f_i - best_i) / (worst_i - best_i) and weights w that sum to 1: max w_i s_i + rho sum w_i s_i. An
    objective whose losses were all equal so far, or of weight 0, adds nothing.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self._weights = [weight / total for weight in weights]
        self._best = [math.inf] * len(weights)
        self._worst = [-math.inf] * len(weights)

    def widen(self, seen: Iterable[Losses]) -> None:
        """Take more losses into the range."""
        for losses in seen:
            self._best = [min(pair) for pair in zip(self._best, losses, strict=True)]
            self._worst = [max(pair) for pair in zip(self._worst, losses, strict=True)]

    def distance(self, losses: Losses) -> float:
        """Return how far `losses` are from the best of each; the range must have been shown some."""
        terms = [
            weight * (loss - best) / (worst - best)
            for weight, loss, best, worst in zip(self._weights, losses, self._best, self._worst, strict=True)
            if worst > best
        ]
        return max(terms, default=0.0) + AUGMENTATION * math.fsum(terms)
