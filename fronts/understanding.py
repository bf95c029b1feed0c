"""What a search has learnt: which parameters matter, and what each checkpoint gives to the front, as estimates."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from campaigns.noun import Noun
from campaigns.objectives import Objective
from campaigns.trial import Trial
from fronts.gaps import MACRO
from fronts.items import Floats
from fronts.pareto import Losses, hypervolume
from fronts.surrogate import Surrogate, cross_validate

LEAST_TRIALS = 20
MOST_TRIALS = 400
SUM_TOLERANCE = 1e-6


class Contribution(Noun):
    """What the front would lose without a checkpoint, by the surrogate.

    `hypervolume_loss` is the share of the front's hypervolume, at most 1; below 0 the surrogate expects a gain.
    `members` of the front had a weight on the checkpoint; `lost_members` consisted of nothing else.
    """

    hypervolume_loss: float
    members: int
    lost_members: int


class Understanding(Noun):
    """Estimates by a quadratic surrogate over `trials` complete trials; None where there are too few of them.

    `r_squared` is the surrogate's, by ten-fold cross-validation, per objective and of the "macro_average": 1 predicts
    perfectly, 0 no better than the mean, and what follows is worth as much. None where all values are equal.
    `importance`, by objective and parameter, is by how much the surrogate's error grows, in units of the variance, when
    the parameter is permuted over the trials. `contributions` are by checkpoint; None without a reference point.
    """

    trials: int
    r_squared: dict[str, float | None] | None
    importance: dict[str, dict[str, float]] | None
    contributions: dict[str, Contribution] | None


def understand(
    objectives: tuple[Objective, ...],
    checkpoints: Sequence[str],
    trials: Sequence[Trial],
    front: Sequence[str],
    reference_point: Losses | None,
) -> Understanding:
    """Learn from complete `trials`, by number, on their search items; `front` has ids, `checkpoints` the pool's names.

    One surrogate describes one kind of merge: the method and parameters that most trials have. Of more than 400 such
    trials the front and the latest others are taken, 400 in all.
    """
    described = _described(trials, set(front))
    if len(described) < LEAST_TRIALS:
        return Understanding(trials=len(described), r_squared=None, importance=None, contributions=None)
    names = _varying_parameters(described)
    parameters, losses = _parameters(described, names), _losses(objectives, described)
    weights = np.array([objective.weight for objective in objectives])
    targets = np.column_stack([losses, losses @ weights / weights.sum()])
    found = cross_validate(parameters, targets)
    labels = [*(objective.name for objective in objectives), MACRO]
    return Understanding(
        trials=len(described),
        r_squared={name: _finite(value) for name, value in zip(labels, found.r_squared.tolist(), strict=True)},
        importance={
            label: {name: value for name, value in zip(names, row, strict=True) if math.isfinite(value)}
            for label, row in zip(labels, found.importance.tolist(), strict=True)
        },
        contributions=_contributions(checkpoints, names, described, losses, front, reference_point),
    )


def _described(trials: Sequence[Trial], front: set[str]) -> list[Trial]:
    kinds = [(t.candidate.recipe.method.kind, *sorted(t.candidate.parameters)) for t in trials]
    usual = max(Counter(kinds).items(), key=lambda item: item[1], default=((), 0))[0]
    same = [trial for trial, kind in zip(trials, kinds, strict=True) if kind == usual]
    members = [trial for trial in same if trial.id in front]
    others = [trial for trial in same if trial.id not in front]
    return sorted([*others, *members][-MOST_TRIALS:], key=lambda trial: trial.number)


def _varying_parameters(trials: Sequence[Trial]) -> list[str]:
    return [
        name
        for name in trials[0].candidate.parameters
        if len({trial.candidate.parameters[name] for trial in trials}) > 1
    ]


def _parameters(trials: Sequence[Trial], names: Sequence[str]) -> Floats:
    return np.array([[trial.candidate.parameters[name] for name in names] for trial in trials], dtype=float)


def _losses(objectives: Sequence[Objective], trials: Sequence[Trial]) -> Floats:
    rows = []
    for trial in trials:
        values = [(objective, trial.value(objective.name, "search")) for objective in objectives]
        rows.append([objective.loss(value) for objective, value in values if value is not None])
    return np.array(rows, dtype=float)


def _contributions(  # noqa: PLR0913  what `understand` hands on
    checkpoints: Sequence[str],
    names: Sequence[str],
    trials: Sequence[Trial],
    losses: Floats,
    front: Sequence[str],
    reference_point: Losses | None,
) -> dict[str, Contribution] | None:
    """Set a checkpoint's weights to 0 in every member: it moves by as much as the surrogate's prediction does."""
    rows = [index for index, trial in enumerate(trials) if trial.id in set(front)]
    if reference_point is None or not rows:
        return None
    measured = losses[rows]
    whole = hypervolume([tuple(row) for row in measured.tolist()], reference_point)
    if whole == 0.0:
        return None
    parameters = _parameters(trials, names)
    surrogate = Surrogate.fit(parameters, losses)
    groups = _weight_groups(checkpoints, names)
    found = {}
    for checkpoint in checkpoints:
        changed, remains = _without(checkpoint, parameters, groups)
        moved = measured + surrogate.predict(changed[rows]) - surrogate.predict(parameters[rows])
        kept = [tuple(row) for row, remain in zip(moved.tolist(), remains[rows].tolist(), strict=True) if remain]
        own = [columns[checkpoint] for columns in groups if checkpoint in columns]
        found[checkpoint] = Contribution(
            hypervolume_loss=1 - hypervolume(kept, reference_point) / whole,
            members=int((parameters[rows][:, own] != 0).any(axis=1).sum()),
            lost_members=int((~remains[rows]).sum()),
        )
    return found


def _weight_groups(checkpoints: Sequence[str], names: Sequence[str]) -> list[dict[str, int]]:
    """Return, per group of tensors with weights of their own, the column of each checkpoint's weight."""
    groups: dict[str, dict[str, int]] = {}
    for checkpoint in checkpoints:
        own = f"weight.{checkpoint}"
        for column, name in enumerate(names):
            if name == own or name.startswith(f"{own}@"):
                groups.setdefault(name.removeprefix(own), {})[checkpoint] = column
    return list(groups.values())


def _without(
    checkpoint: str, parameters: Floats, groups: Sequence[Mapping[str, int]]
) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Return the parameters with the checkpoint's weights at 0, and which rows still have another weight.

    Where the weights of a group sum to one in every trial, those that are left are scaled to do so again.
    """
    changed, remains = parameters.copy(), np.ones(len(parameters), dtype=bool)
    for columns in groups:
        if checkpoint not in columns:
            continue
        everybody = list(columns.values())
        shares = bool(np.all(np.abs(parameters[:, everybody].sum(axis=1) - 1) <= SUM_TOLERANCE))
        changed[:, columns[checkpoint]] = 0.0
        left = changed[:, everybody].sum(axis=1)
        if shares:
            remains &= np.abs(left) > SUM_TOLERANCE
            changed[:, everybody] /= np.where(np.abs(left) > SUM_TOLERANCE, left, 1.0)[:, None]
    return changed, remains


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
