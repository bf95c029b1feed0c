"""One trial of the front by what a user prefers: a weighted sum of the objectives, each on the scale of the front."""

import math

from campaigns.errors import FieldError, InvalidInput, field_error, unknown_name
from campaigns.objectives import Objective
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


def preferred(front: list[Trial], objectives: tuple[Objective, ...], weights: dict[str, float]) -> Trial:
    """Return the trial of a non-empty `front` with the least weighted loss, the earliest of equals.

    Losses are those on the search items, scaled to [0, 1] over the front; an objective on which the whole front agrees
    decides nothing.
    """
    scores = [0.0] * len(front)
    for objective in objectives:
        losses = [objective.loss(_search_value(trial, objective)) for trial in front]
        best, span = min(losses), max(losses) - min(losses)
        for index, loss in enumerate(losses):
            scores[index] += weights.get(objective.name, 0.0) * ((loss - best) / span if span > 0 else 0.0)
    return front[scores.index(min(scores))]


def _search_value(trial: Trial, objective: Objective) -> float:
    value = trial.value(objective.name, "search")
    assert value is not None, "a trial of the front has all its search values"
    return value


def _weight(written: str) -> float | None:
    try:
        weight = float(written)
    except ValueError:
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None
