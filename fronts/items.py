"""Per-item outcomes of several trials side by side: the same items, in the same order, for all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from campaigns.objectives import Measurement, Objective, Split
from campaigns.trial import Trial

Floats = NDArray[np.float64]
Tested = Literal["value", "log_value", "item_mean", "macro_average"]

EQUAL = 1e-9


@dataclass(frozen=True)
class Column:
    """One objective of the table. `outcomes` is trials x items, by item id; None where the metric has none (BLEU).

    What the mean of a trial's outcomes is depends on the metric, and `tested` says it:
    "value": the metric itself (accuracies and other means); "log_value": its natural logarithm (a perplexity over
    documents); "item_mean": neither. The last holds for ratios of sums, such as bits per byte and word perplexity: an
    outcome is a document's own bits per byte or nats per word, their mean counts every document once, and the metric
    counts it by its length. It also holds for F1 and MCC, whose outcomes say which labels were right.
    """

    objective: Objective
    values: Floats
    outcomes: Floats | None
    tested: Tested

    @property
    def sign(self) -> float:
        """1 where more is better, else -1; outcomes and metric agree in this."""
        return -1.0 if self.objective.direction == "minimize" else 1.0

    def values_at(self, means: Floats) -> Floats:
        """Return the metric (... x trials) at other means (... x trials) of the outcomes, such as resampled ones.

        Exact where the mean determines the metric. Where it does not, the metric as measured is moved by as much as the
        mean has moved, on the scale of the outcomes: that of logarithms for perplexities.
        """
        if self.tested == "value":
            return means
        if self.tested == "log_value":
            return np.exp(means)
        assert self.outcomes is not None
        moved: Floats = means - self.outcomes.mean(axis=1)
        if self.objective.metric.endswith("perplexity"):
            return self.values * np.exp(moved)
        return self.values + moved


@dataclass(frozen=True)
class ItemTable:
    """Trials with all objectives measured on `split` under one protocol each, one column per objective.

    `left_out` has the reason for each trial, by id, that could not be put beside the others.
    """

    split: Split
    trials: tuple[Trial, ...]
    columns: tuple[Column, ...]
    left_out: dict[str, str]

    def row(self, trial_id: str) -> int | None:
        """Return the index of the trial, None if it was left out."""
        return next((index for index, trial in enumerate(self.trials) if trial.id == trial_id), None)

    def of(self, trials: Sequence[Trial]) -> "ItemTable":
        """Return the table of those of `trials` that are in this one, on the same items."""
        rows = [row for trial in trials if (row := self.row(trial.id)) is not None]
        columns = tuple(
            replace(c, values=c.values[rows], outcomes=None if c.outcomes is None else c.outcomes[rows])
            for c in self.columns
        )
        return ItemTable(self.split, tuple(self.trials[row] for row in rows), columns, self.left_out)


def item_table(objectives: Sequence[Objective], trials: Sequence[Trial], split: Split) -> ItemTable:
    """Put `trials`, loaded with their outcomes, side by side.

    Only equal protocols compare: of several, the one that most trials have stays, of equals the earliest. Outcomes are
    aligned by item id, over the items that every trial has; the objectives of one task share them.
    """
    found = {trial.id: _measured(objectives, trial, split) for trial in trials}
    protocols = Counter(tuple(m.protocol for m in measured) for measured in found.values() if measured)
    usual = max(protocols, key=lambda key: protocols[key], default=())
    kept, left_out = [], {}
    for trial in trials:
        measured = found[trial.id]
        if not measured:
            left_out[trial.id] = f"not scored on the {split} items of every objective"
        elif tuple(m.protocol for m in measured) != usual:
            left_out[trial.id] = f"scored under another protocol than the others on the {split} items"
        else:
            kept.append(trial)
    rows = [found[trial.id] for trial in kept]
    return ItemTable(split, tuple(kept), _columns(objectives, rows), left_out)


def _measured(objectives: Sequence[Objective], trial: Trial, split: Split) -> list[Measurement]:
    by_name = {m.objective: m for m in trial.measurements if m.split == split}
    return [by_name[o.name] for o in objectives] if all(o.name in by_name for o in objectives) else []


def _columns(objectives: Sequence[Objective], rows: list[list[Measurement]]) -> tuple[Column, ...]:
    if not rows:
        return ()
    by_objective = [list(column) for column in zip(*rows, strict=True)]
    items = _shared_items(objectives, by_objective)
    columns = []
    for objective, measurements in zip(objectives, by_objective, strict=True):
        values = np.array([m.value for m in measurements], dtype=float)
        shared = items.get(objective.task) if _have_outcomes(measurements) else None
        outcomes = None if not shared else np.array([_outcomes(m, shared) for m in measurements], dtype=float)
        columns.append(column_of(objective, values, outcomes))
    return tuple(columns)


def column_of(objective: Objective, values: Floats, outcomes: Floats | None) -> Column:
    """Return the column of values (trials) and outcomes (trials x items), which say together what is `tested`."""
    return Column(objective, values, outcomes, _tested(values, outcomes))


def _have_outcomes(measurements: list[Measurement]) -> bool:
    return all(m.outcomes and len(m.outcomes) == len(m.item_ids) for m in measurements)


def _shared_items(objectives: Sequence[Objective], columns: list[list[Measurement]]) -> dict[str, list[int]]:
    shared: dict[str, set[int]] = {}
    for objective, measurements in zip(objectives, columns, strict=True):
        if _have_outcomes(measurements):
            for measurement in measurements:
                ids = set(measurement.item_ids)
                shared[objective.task] = shared.get(objective.task, ids) & ids
    return {task: sorted(ids) for task, ids in shared.items()}


def _outcomes(measurement: Measurement, items: list[int]) -> list[float]:
    by_item = dict(zip(measurement.item_ids, measurement.outcomes, strict=True))
    return [by_item[item] for item in items]


def _tested(values: Floats, outcomes: Floats | None) -> Tested:
    if outcomes is None:
        return "item_mean"
    means = outcomes.mean(axis=1)
    if np.allclose(means, values, rtol=EQUAL, atol=EQUAL):
        return "value"
    if np.all(values > 0) and np.allclose(means, np.log(values), rtol=EQUAL, atol=EQUAL):
        return "log_value"
    return "item_mean"
