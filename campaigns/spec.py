"""The campaign spec: one document that says what to merge, what to vary, what to measure and for how long."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from campaigns.errors import from_validation
from campaigns.noun import Noun
from campaigns.objectives import Objective
from campaigns.pools import PoolSpec
from campaigns.spaces import LinearSpace, Space
from campaigns.strategies import Nsga2Search, Strategy

MAX_EVALUATIONS = 100_000
MAX_OBJECTIVES = 12


class Evaluation(Noun):
    """How candidates are scored. Search and holdout items of a task are disjoint, drawn once by the campaign's seed."""

    search_items: int = Field(100, ge=1, description="Items of each task that a candidate is scored on")
    holdout_items: int | None = Field(None, ge=0, description="Items kept for the final front; default: all the others")
    batch_size: int = Field(16, ge=1, le=4096)
    apply_chat_template: bool = False


class Baselines(Noun):
    """Which known merges are evaluated first, beside the budget: what a front must beat."""

    parents: bool = True
    uniform_soup: bool = True


class Budget(Noun):
    """When the search ends. Baselines and holdout scoring come on top."""

    evaluations: int = Field(ge=1, le=MAX_EVALUATIONS, description="Candidates that the strategy may propose")


class Resources(Noun):
    """What the campaign runs on: each actor keeps one live model."""

    actors: int = Field(2, ge=1, le=1024)
    cpus_per_actor: int = Field(1, ge=1, le=256)
    gpus_per_actor: float = Field(0.0, ge=0, le=16)
    retries: int = Field(2, ge=0, le=10, description="How often a trial is run again after a fault")


class CampaignSpec(Noun):
    """Everything that determines a campaign; locked when it is created."""

    name: str = Field(min_length=1, max_length=100)
    notes: str = Field("", max_length=10_000)
    pool: PoolSpec
    space: Space = LinearSpace()
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=MAX_OBJECTIVES)
    evaluation: Evaluation = Evaluation()
    baselines: Baselines = Baselines()
    strategy: Strategy = Nsga2Search()
    budget: Budget
    resources: Resources = Resources()
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _space_fits_pool(self) -> "CampaignSpec":
        if self.space.kind == "task_arithmetic" and self.pool.base is None:
            message = "method 'task_arithmetic' needs a base checkpoint"
            raise PydanticCustomError("base", message, {"field": "pool.base", "value": None})
        for field, name in self.space.named_checkpoints():
            if name not in self.pool.names:
                context = {"field": f"space.{field}", "value": name, "allowed": ", ".join(self.pool.names)}
                raise PydanticCustomError("name", "no checkpoint of the pool has this name", context)
        if len(self.space.freeze) == len(self.pool.names):
            context = {"field": "space.freeze", "value": dict(self.space.freeze)}
            raise PydanticCustomError("freeze", "at least one checkpoint must be left to vary", context)
        return self

    @model_validator(mode="after")
    def _objectives_go_together(self) -> "CampaignSpec":
        fewshot: dict[str, int | None] = {}
        names: set[str] = set()
        for index, objective in enumerate(self.objectives):
            if objective.name in names:
                context = {"field": f"objectives.{index}", "value": objective.name}
                raise PydanticCustomError("duplicate", "this objective is listed twice", context)
            names.add(objective.name)
            if fewshot.setdefault(objective.task, objective.num_fewshot) != objective.num_fewshot:
                context = {"field": f"objectives.{index}.num_fewshot", "value": objective.num_fewshot}
                raise PydanticCustomError("fewshot", "objectives of one task must agree on this", context)
        if not any(objective.weight for objective in self.objectives):
            context = {"field": "objectives.0.weight", "value": 0}
            raise PydanticCustomError("weight", "at least one objective needs a weight above 0", context)
        return self


def parse_spec(document: Mapping[str, Any]) -> CampaignSpec:
    """Return the spec that `document` says, or raise `InvalidSpec` naming every wrong field."""
    try:
        return CampaignSpec.model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None
