"""The bootstrap over items: all trials see the same resampled items, so what they have in common stays in common.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993); paired over candidates as in Koehn, "Statistical
significance tests for machine translation evaluation" (EMNLP 2004).
"""

import zlib
from collections.abc import Iterator

import numpy as np

from fronts.items import Floats, ItemTable

SEED = 0
MAX_DRAWN = 2**20  # item draws held at a time: some 30 MB


def resampled_means(table: ItemTable, resamples: int, seed: int = SEED) -> list[Floats | None]:
    """Return, per objective, the mean outcomes (resamples x trials); None for an objective without outcomes.

    A resample draws each task's items with replacement, as many as there are, independently of other tasks; objectives
    of one task share the draw. The draws depend on the seed, the task's name and the number of items alone, so that a
    pair of trials gets the same numbers whatever else is in the table.
    """
    means: list[Floats | None] = [None] * len(table.columns)
    for task in {column.objective.task for column in table.columns}:
        own = {
            index: column.outcomes
            for index, column in enumerate(table.columns)
            if column.objective.task == task and column.outcomes is not None
        }
        if not own:
            continue
        stacked = np.concatenate(list(own.values()))
        items = stacked.shape[1]
        parts = [counts @ stacked.T for counts in _item_counts(task, items, resamples, seed)]
        split = np.split(np.concatenate(parts) / items, len(own), axis=1)
        for index, found in zip(own, split, strict=True):
            means[index] = found
    return means


def resampled_values(table: ItemTable, means: list[Floats | None]) -> Floats:
    """Return the metrics (resamples x trials x objectives) at resampled means; without outcomes, as measured."""
    resamples = max((len(found) for found in means if found is not None), default=1)
    values = np.empty((resamples, len(table.trials), len(table.columns)))
    for index, (column, found) in enumerate(zip(table.columns, means, strict=True)):
        values[:, :, index] = column.values if found is None else column.values_at(found)
    return values


def macro_averages(table: ItemTable, values: Floats) -> Floats:
    """Return the weighted means (resamples x trials) over the objectives of `values`, higher is better."""
    weights = np.array([column.sign * column.objective.weight for column in table.columns])
    averages: Floats = values @ weights / np.abs(weights).sum()
    return averages


def _item_counts(task: str, items: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each item was drawn (some resamples x items), `resamples` rows in all."""
    generator = np.random.default_rng((seed, zlib.crc32(task.encode()), items))
    most = max(1, MAX_DRAWN // items)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = generator.integers(0, items, (rows, items)) + items * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(float)
