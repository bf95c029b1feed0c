"""What a worker can do, published to the database so that specs can be checked without lm-eval or Ray."""

from datetime import datetime

from pydantic import Field

from campaigns.errors import FieldError, InvalidSpec, unknown_name
from campaigns.noun import Noun
from campaigns.objectives import WEIGHTS, Objective
from campaigns.spaces import methods_of
from campaigns.spec import CampaignSpec


class MetricOffer(Noun):
    """One metric of a task, after one filter."""

    metric: str
    filter: str = "none"
    higher_is_better: bool = True


class TaskOffer(Noun):
    """One lm-eval task with its metrics. `output_type` is lm-eval's: generate_until, multiple_choice, ..."""

    name: str
    output_type: str
    metrics: tuple[MetricOffer, ...]


WEIGHTS_OFFER = TaskOffer(
    name=WEIGHTS, output_type=WEIGHTS, metrics=(MetricOffer(metric="delta_l1", higher_is_better=False),)
)
"""What every worker can measure of the merged weights, beside lm-eval's tasks."""


class Inventory(Noun):
    """Tasks, merge methods, strategies and devices of a worker, and the versions of what it scores with."""

    tasks: dict[str, TaskOffer] = {}
    methods: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    cluster: str = Field(
        "", exclude_if=lambda cluster: cluster == "", description="The Ray cluster that a worker places actors on"
    )


class Worker(Noun):
    """A worker process that published its inventory. `seen_at` is its last heartbeat."""

    id: str
    host: str
    inventory: Inventory
    started_at: datetime
    seen_at: datetime


def resolve(spec: CampaignSpec, inventory: Inventory) -> CampaignSpec:
    """Check `spec` against what workers offer and fill in each objective's direction.

    Raises `InvalidSpec` naming every unknown task, metric, filter, method and strategy, with the nearest known names.
    """
    errors: list[FieldError] = []
    for field, space in methods_of(spec.space):
        if space.kind not in inventory.methods:
            errors.append(unknown_name(f"{field}.kind", space.kind, inventory.methods, "merge method of a worker"))
    if spec.strategy.kind not in inventory.strategies:
        errors.append(unknown_name("strategy.kind", spec.strategy.kind, inventory.strategies, "strategy of a worker"))
    objectives = []
    for index, objective in enumerate(spec.objectives):
        found = _offer(objective, inventory, f"objectives.{index}")
        if isinstance(found, FieldError):
            errors.append(found)
        elif objective.direction is None:
            direction = "maximize" if found.higher_is_better else "minimize"
            objectives.append(objective.replace(direction=direction))
        else:
            objectives.append(objective)
    if errors:
        raise InvalidSpec(errors)
    return spec.replace(objectives=tuple(objectives))


def _offer(objective: Objective, inventory: Inventory, field: str) -> MetricOffer | FieldError:
    task = inventory.tasks.get(objective.task)
    if task is None:
        return unknown_name(f"{field}.task", objective.task, inventory.tasks, "task")
    same_metric = [offer for offer in task.metrics if offer.metric == objective.metric]
    if not same_metric:
        known = {offer.metric for offer in task.metrics}
        return unknown_name(f"{field}.metric", objective.metric, known, f"metric of task {task.name!r}")
    for offer in same_metric:
        if offer.filter == objective.filter:
            return offer
    return unknown_name(f"{field}.filter", objective.filter, {o.filter for o in same_metric}, "filter of this metric")
