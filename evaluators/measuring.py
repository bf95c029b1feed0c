"""From a task's answers to the measurements of its objectives, by the task's own aggregations."""

import math
from typing import Any

from lm_eval.api.metrics import mean

from campaigns.errors import BadCandidate, InvalidSpec, unknown_name
from campaigns.objectives import Measurement, Objective, Split
from evaluators.resident_task import RawMetrics, ResidentTask
from evaluators.run import Answered, Part
from evaluators.standard_errors import outcomes, standard_error


def measure(part: Part, split: Split, answered: Answered) -> list[Measurement]:
    """Return the measurements of the part's objectives. Raises `BadCandidate` where a value is not finite."""
    documents = part.task.documents
    shared: dict[str, Any] = {"split": split, "items": len(documents), "item_ids": documents}
    if generations := answered.generations:
        shared["truncation_rate"] = sum(one.truncated for one in generations) / len(generations)
        shared["output_tokens"] = sum(one.tokens for one in generations) / len(generations)
    return [
        Measurement(objective=objective.name, protocol=protocol, **shared, **_value(objective, part.task, answered.raw))
        for objective, protocol in zip(part.objectives, part.protocols, strict=True)
    ]


def _value(objective: Objective, task: ResidentTask, raw: RawMetrics) -> dict[str, Any]:
    """Return value, standard error and outcomes of one objective, by the task's own aggregation."""
    by_document = raw.get((objective.metric, objective.filter))
    if by_document is None:
        known = {metric for metric, _ in raw}
        raise InvalidSpec([unknown_name("objectives", objective.metric, known, f"metric of task {task.name!r}")])
    values = [*by_document.values()]
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
