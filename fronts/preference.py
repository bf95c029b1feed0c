"""One trial of the front by a weighted sum of the objectives on the scale of the front: a preference, or the knee.

Losses are scaled to [0, 1] over the front, so that 0 is the best value on it and 1 the worst.
"""

import math
from collections.abc import Mapping, Sequence

from campaigns.errors import FieldError, InvalidInput, field_error, unknown_name
from campaigns.objectives import Objective, Split
from campaigns.trial import Trial

FIELD = "prefer"
FORM = "NAME:WEIGHT,NAME:WEIGHT with weights of at least 0, not all 0"


def parse_preference(text: str, objectives: tuple[Objective, ...]) -> dict[str, float]:
    """Return the weights that `text` gives to objectives by name; the others have 0.

    Raises `InvalidInput` for every name and weight that cannot be used.
    """
    known = [objective.name for objective in objectives]
    weights: dict[str, float] = {}
    errors: list[FieldError] = []
    for part in text.split(","):
        name, colon, written = part.strip().rpartition(":")
        weight = _weight(written)
        if not colon or weight is None:
            errors.append(field_error(FIELD, part, "not a name and a weight", FORM))
        elif name not in known:
            errors.append(unknown_name(FIELD, name, known, "objective of this campaign"))
        elif name in weights:
            errors.append(field_error(FIELD, name, "this objective is listed twice"))
        else:
            weights[name] = weight
    if not errors and not any(weights.values()):
        errors.append(field_error(FIELD, text, "at least one weight must be above 0", FORM))
    if errors:
        raise InvalidInput(errors)
    return weights


def preferred(
    front: Sequence[Trial], objectives: Sequence[Objective], weights: Mapping[str, float], split: Split = "search"
) -> Trial:
    """Return the trial of a non-empty `front` with the least weighted loss on `split`, the earliest of equals.

    An objective on which the whole front agrees decides nothing.
    """
    scores = [0.0] * len(front)
    for objective in objectives:
        losses = [objective.loss(_value(trial, objective, split)) for trial in front]
        best, span = min(losses), max(losses) - min(losses)
        for index, loss in enumerate(losses):
            scores[index] += weights.get(objective.name, 0.0) * ((loss - best) / span if span > 0 else 0.0)
    return front[scores.index(min(scores))]


def knee(front: Sequence[Trial], objectives: Sequence[Objective], split: Split = "search") -> Trial:
    """Return the knee of a non-empty `front` on `split`, the earliest of equals.

    The knee is the member farthest towards the ideal from the plane sum x = 1 of the scaled losses x, which passes
    through the points that are best in all objectives but one and worst in that: with two objectives, the line through
    the ends of the front (Das, "On characterizing the knee of the Pareto curve based on normal-boundary intersection",
    Structural Optimization 18, 1999). Its distance is (1 - sum x) / sqrt(m), so the least sum of scaled losses wins:
    all objectives count the same, whatever their weight in the macro-average.
    """
    return preferred(front, objectives, {objective.name: 1.0 for objective in objectives}, split)


def _value(trial: Trial, objective: Objective, split: Split) -> float:
    value = trial.value(objective.name, split)
    assert value is not None, f"trial {trial.id} has all its values on the {split} items"
    return value


def _weight(written: str) -> float | None:
    try:
        weight = float(written)
    except ValueError:
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None
