"""A stand-in for the tiny zoo: smooth functions of the merge weights, fitted to recorded evaluations.

    python benchmarks/search_surrogate.py

prints the cross-validated error of each objective. The table, `data/zoo_evaluations.csv.gz`, is made by
`record_zoo.py`: points of the demo's space with their losses on one set of items. Linear merges depend on a point by
its weights alone, w = x / sum(x), so the functions are of w: a thin-plate spline (scipy's RBFInterpolator) of the
standardized losses, smoothed a little, as neighbouring merges differ by a few items.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import RBFInterpolator

TABLE = Path(__file__).parent / "data" / "zoo_evaluations.csv.gz"
OBJECTIVES = ("max", "most", "sort", "reverse", "text")
"""Losses: accuracies with the sign turned, and the bits per byte of `text`."""

ACCURACIES = frozenset(OBJECTIVES) - {"text"}
CHECKPOINTS = 8
SMOOTHING = 0.001
"""In units of the standardized losses; the cross-validated error differs little from 0.0001 to 0.01."""

FOLDS = 10


@dataclass(frozen=True)
class Recorded:
    """Recorded evaluations: `weights` are n x 8, rows summing to 1; losses and errors n x m, ordered as OBJECTIVES."""

    kinds: np.ndarray
    weights: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    items: int


def read_table(file=TABLE):
    """Return the recorded evaluations; of points with equal weights, the first."""
    table = np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8")
    points = np.stack([table[f"w{index}"] for index in range(CHECKPOINTS)], axis=1).astype(float)
    weights = points / points.sum(axis=1, keepdims=True)
    _, kept = np.unique(weights.round(6), axis=0, return_index=True)
    kept = np.sort(kept)
    return Recorded(
        kinds=table["kind"][kept],
        weights=weights[kept],
        losses=np.stack([table[name] for name in OBJECTIVES], axis=1)[kept],
        standard_errors=np.stack([table[f"{name}_error"] for name in OBJECTIVES], axis=1)[kept],
        items=int(table["items"][0]),
    )


class ZooSurrogate:
    """Losses as functions of the merge weights. Accuracies stay within [0, 1]."""

    def __init__(self, recorded, smoothing=SMOOTHING):
        self._mean, self._scale = recorded.losses.mean(axis=0), recorded.losses.std(axis=0)
        standardized = (recorded.losses - self._mean) / self._scale
        self._spline = RBFInterpolator(_coordinates(recorded.weights), standardized, smoothing=smoothing)
        accuracy = np.array([name in ACCURACIES for name in OBJECTIVES])
        self._low, self._high = np.where(accuracy, -1.0, 0.0), np.where(accuracy, 0.0, np.inf)

    def losses(self, weights):
        """Return the losses (n x m) at merge weights (n x 8)."""
        found = self._mean + self._scale * self._spline(_coordinates(np.asarray(weights, dtype=float)))
        return np.clip(found, self._low, self._high)


def _coordinates(weights):
    """Drop the last weight, which the others determine: the spline's linear part would be singular."""
    return weights[:, :-1]


def cross_validated(recorded, smoothing=SMOOTHING, folds=FOLDS):
    """Return predictions (n x m) for every recorded point, from the points of the other folds."""
    fold = np.random.default_rng(0).permutation(len(recorded.weights)) % folds
    predicted = np.empty_like(recorded.losses)
    for index in range(folds):
        kept = fold != index
        part = Recorded(
            recorded.kinds[kept],
            recorded.weights[kept],
            recorded.losses[kept],
            recorded.standard_errors[kept],
            recorded.items,
        )
        predicted[~kept] = ZooSurrogate(part, smoothing).losses(recorded.weights[~kept])
    return predicted


def error_table(recorded, predicted):
    """Return Markdown lines: for each objective its spread, its standard error by items, and the surrogate's error.

    "good half": over the points whose mean accuracy is above the median, where searches go.
    """
    error = predicted - recorded.losses
    accuracies = [index for index, name in enumerate(OBJECTIVES) if name in ACCURACIES]
    score = recorded.losses[:, accuracies].mean(axis=1)
    good = score <= np.median(score)
    lines = [
        f"| objective | spread | error by {recorded.items} items | surrogate's error | in the good half | R2 |",
        "|---|---|---|---|---|---|",
    ]
    for index, name in enumerate(OBJECTIVES):
        root_mean_square = np.sqrt((error[:, index] ** 2).mean())
        in_good = np.sqrt((error[good, index] ** 2).mean())
        spread = recorded.losses[:, index].std()
        figures = [spread, recorded.standard_errors[:, index].mean(), root_mean_square, in_good]
        cells = [f"{figure:.4f}" for figure in figures] + [f"{1 - (root_mean_square / spread) ** 2:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description="The surrogate's cross-validated error.")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--smoothing", type=float, default=SMOOTHING)
    arguments = parser.parse_args()
    recorded = read_table(arguments.table)
    print(f"{len(recorded.weights)} evaluations on {recorded.items} items, {FOLDS}-fold cross-validation")
    print("\n".join(error_table(recorded, cross_validated(recorded, arguments.smoothing))))


if __name__ == "__main__":
    main()
