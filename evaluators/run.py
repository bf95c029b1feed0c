"""One run: several tasks on one split, answered together and scored, as one command of `lm_eval` does."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.metrics import mean

from campaigns.errors import BadCandidate, InvalidSpec, unknown_name
from campaigns.objectives import Measurement, Objective, Split
from evaluators.resident_lm import Generation, ResidentLM
from evaluators.resident_task import RawMetrics, ResidentTask
from evaluators.standard_errors import outcomes, standard_error


@dataclass(frozen=True)
class Part:
    """A task of a run, and the objectives taken from it, each with its protocol digest."""

    task: ResidentTask
    objectives: tuple[tuple[Objective, str], ...]


class Run:
    """Tasks whose requests go to the model together: all requests of one type at once, in the order of the tasks."""

    def __init__(self, split: Split, parts: Sequence[Part], lm: ResidentLM) -> None:
        self._split: Split = split
        self._parts = tuple(parts)
        by_type: dict[str, list[Any]] = defaultdict(list)
        for part in parts:
            for request in part.task.requests:
                by_type[request.request_type] += [request] * request.repeats
        self._plans: list[tuple[list[Any], Callable[[], list[Any]]]] = [
            (requests, lm.plan(request_type, requests)) for request_type, requests in by_type.items()
        ]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order in which `lm_eval` is given them."""
        return tuple(part.task.name for part in self._parts)

    def evaluate(self) -> list[Measurement]:
        """Return the measurements of the model's current weights. Raises `BadCandidate`."""
        for part in self._parts:
            part.task.clear()
        generations: dict[str, list[Generation]] = defaultdict(list)
        for requests, answer in self._plans:
            for request, answered in zip(requests, answer(), strict=True):
                if isinstance(answered, Generation):
                    generations[request.task_name].append(answered)
                    request.resps.append(answered.text)
                else:
                    request.resps.append(answered)
        return [
            measurement
            for part in self._parts
            for measurement in _measure(part, self._split, generations[part.task.name])
        ]


def _measure(part: Part, split: Split, generations: Sequence[Generation]) -> list[Measurement]:
    raw = part.task.score(objective.filter for objective, _ in part.objectives)
    documents = part.task.documents
    shared: dict[str, Any] = {"split": split, "items": len(documents), "item_ids": documents}
    if generations:
        shared["truncation_rate"] = sum(one.truncated for one in generations) / len(generations)
        shared["output_tokens"] = sum(one.tokens for one in generations) / len(generations)
    return [
        Measurement(objective=objective.name, protocol=protocol, **shared, **_value(objective, part.task, raw))
        for objective, protocol in part.objectives
    ]


def _value(objective: Objective, task: ResidentTask, raw: RawMetrics) -> dict[str, Any]:
    """Return value, standard error and outcomes of one objective, by the task's own aggregation."""
    values = raw.get((objective.metric, objective.filter))
    if values is None:
        known = {metric for metric, _ in raw}
        raise InvalidSpec([unknown_name("objectives", objective.metric, known, f"metric of task {task.name!r}")])
    aggregation = task.aggregation.get(objective.metric, mean)
    try:
        value = float(aggregation(values))
    except OverflowError:  # the exponential of a perplexity
        value = math.inf
    if not math.isfinite(value):
        raise BadCandidate(f"{objective.name} is not finite")
    return {
        "value": value,
        "standard_error": standard_error(aggregation, values),
        "outcomes": outcomes(aggregation, values),
    }
