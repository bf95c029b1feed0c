"""Which documents of a task a campaign scores on: search and holdout items, disjoint, drawn once by the seed."""

import hashlib
from collections.abc import Sequence

import numpy as np

from campaigns.errors import FieldError, field_error
from campaigns.objectives import Objective, Split
from campaigns.spec import Evaluation

SplitItems = dict[Split, tuple[int, ...]]


def draw(task: str, documents: int, search: int, holdout: int | None, seed: int) -> SplitItems:
    """Return document indices per split: drawn without replacement, sorted, search first and holdout from the rest.

    `holdout` None takes all the others. The draw depends on `seed` and the task's name alone, so that adding an
    objective moves no other task's items. Raises `ValueError` when the task has too few documents.
    """
    wanted = search + (holdout or 0)
    if wanted > documents:
        raise ValueError(f"{wanted} items wanted of {documents}")
    name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8])
    order = np.random.default_rng([seed, name]).permutation(documents).tolist()
    stop = documents if holdout is None else wanted
    return {"search": tuple(sorted(order[:search])), "holdout": tuple(sorted(order[search:stop]))}


def check(objectives: Sequence[Objective], evaluation: Evaluation, documents: dict[str, int]) -> list[FieldError]:
    """Return what is wrong with the numbers of items asked for; `documents` has the number of documents per task.

    Objectives without documents (those of the weights) are passed over.
    """
    errors: list[FieldError] = []
    first: dict[str, tuple[int, int | None]] = {}
    for index, objective in enumerate(objectives):
        if objective.task not in documents:
            continue
        search, holdout = evaluation.items_of(objective)
        if first.setdefault(objective.task, (search, holdout)) != (search, holdout):
            message = f"objectives of task {objective.task!r} must agree on search_items and holdout_items"
            errors.append(field_error(f"objectives.{index}", (search, holdout), message, str(first[objective.task])))
            continue
        left = documents[objective.task]
        for name, wanted in (("search_items", search), ("holdout_items", holdout or 0)):
            if wanted > left:
                errors.append(
                    _too_few(index, objective, name, wanted, f"at most {left} of {documents[objective.task]}")
                )
                break
            left -= wanted
    return errors


def _too_few(index: int, objective: Objective, name: str, wanted: int, allowed: str) -> FieldError:
    own = getattr(objective, name) is not None
    field = f"objectives.{index}.{name}" if own else f"evaluation.{name}"
    return field_error(field, wanted, f"task {objective.task!r} has too few documents", allowed)
