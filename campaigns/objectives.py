"""What is measured: an objective is a task's metric with a direction; a measurement is one value of it."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from campaigns.noun import Noun, wrong

WEIGHTS = "weights"

Direction = Literal["maximize", "minimize"]
Split = Literal["search", "holdout"]
Items = dict[str, tuple[int, ...]]
"""Some items of each task: by its name, their indices among its documents, ascending."""


class Objective(Noun):
    """One metric of one lm-eval task, or of the merged weights themselves (task `weights`, weight 0 unless given).

    `delta_l1` of `weights` is sum |theta - theta_0|, the L1 norm of the merged task vector: the sparsity objective of
    MM-MO (arXiv 2407.00487), to be minimised. It needs a base.
    `direction` is filled in from the task when it is left out. `weight` is the objective's share in the macro-average
    that scalar strategies climb and the recommendation uses; 0 keeps an objective out of it (a perplexity, say, whose
    unit does not add up with accuracies).
    """

    task: str = Field(min_length=1, description="Name of an lm-eval task that a worker offers, or weights")
    metric: str = Field(min_length=1, description="Name of one of the task's metrics, such as exact_match or acc")
    filter: str = Field("none", description="Name of the lm-eval filter that the metric is taken after")
    direction: Direction | None = None
    weight: float = Field(1.0, ge=0)
    num_fewshot: int | None = Field(None, ge=0, le=64)
    search_items: int | None = Field(None, ge=1, description="Overrides evaluation.search_items")
    holdout_items: int | None = Field(None, ge=0, description="Overrides evaluation.holdout_items")

    @model_validator(mode="before")
    @classmethod
    def _weights_stay_out_of_the_average(cls, value: Any) -> Any:
        of_weights = isinstance(value, Mapping) and value.get("task") == WEIGHTS
        return {"weight": 0.0, **value} if of_weights else value

    @model_validator(mode="after")
    def _weights_have_no_items(self) -> "Objective":
        for field in ("num_fewshot", "search_items", "holdout_items"):
            if self.is_of_weights and getattr(self, field) is not None:
                raise wrong(field, getattr(self, field), "weights are measured without items", "leave it out")
        return self

    @property
    def is_of_weights(self) -> bool:
        """Whether the merged weights are measured, and no task."""
        return self.task == WEIGHTS

    @property
    def name(self) -> str:
        """How measurements refer to this objective."""
        return f"{self.task}/{self.metric}" + ("" if self.filter == "none" else f"@{self.filter}")

    def loss(self, value: float) -> float:
        """Return `value` as something to minimise, the sense in which strategies see it."""
        return value if self.direction == "minimize" else -value


class Measurement(Noun):
    """One objective of one trial on one split of the items.

    `item_ids` are the indices of the items among the task's documents, as `lm_eval --samples` takes them; `outcomes`
    holds one number for each, in that order. `truncation_rate` is the share of generations that ended at the
    length limit, `output_tokens` their mean length; both are None for tasks that generate nothing. Only measurements of
    an equal `protocol` (a digest of task, items, batch size, dtype, device and library versions) compare. What is
    measured of the weights is exact: one item, no outcomes, standard error 0.

    A trial that a race stopped was scored on some of its search items. `items`, `item_ids`, `outcomes` and `value` are
    of those; `estimate` is what the value on all of them is expected to be, None where nothing was left out.
    """

    objective: str
    split: Split
    value: float
    estimate: float | None = Field(None, exclude_if=lambda estimate: estimate is None)
    standard_error: float | None = Field(ge=0)
    items: int = Field(ge=1)
    item_ids: tuple[int, ...] = ()
    outcomes: tuple[float, ...] = ()
    truncation_rate: float | None = None
    output_tokens: float | None = None
    protocol: str


def macro_average(
    objectives: tuple[Objective, ...], measurements: tuple[Measurement, ...], split: Split
) -> float | None:
    """Return the weighted mean over the objectives, higher is better, or None when one was not measured on `split`."""
    found = _values(objectives, measurements, split)
    if found is None:
        return None
    total = math.fsum(o.weight for o in objectives)
    return math.fsum(-o.weight * o.loss(m.value) for o, m in zip(objectives, found, strict=True)) / total


def macro_standard_error(
    objectives: tuple[Objective, ...], measurements: tuple[Measurement, ...], split: Split
) -> float | None:
    """Return the standard error of the macro-average, the objectives' errors taken as independent."""
    found = _values(objectives, measurements, split)
    if found is None or any(m.standard_error is None for o, m in zip(objectives, found, strict=True) if o.weight):
        return None
    total = math.fsum(o.weight for o in objectives)
    return math.hypot(*(o.weight * (m.standard_error or 0.0) / total for o, m in zip(objectives, found, strict=True)))


def _values(
    objectives: tuple[Objective, ...], measurements: tuple[Measurement, ...], split: Split
) -> list[Measurement] | None:
    by_name = {m.objective: m for m in measurements if m.split == split}
    if any(o.name not in by_name for o in objectives):
        return None
    return [by_name[o.name] for o in objectives]
