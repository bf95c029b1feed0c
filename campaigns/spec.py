"""The campaign spec: one document that says what to merge, what to vary, what to measure and for how long."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from campaigns.errors import from_validation
from campaigns.noun import Noun, wrong
from campaigns.objectives import Objective
from campaigns.pools import PoolSpec
from campaigns.space_needs import check_space
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

    def items_of(self, objective: Objective) -> tuple[int, int | None]:
        """Return how many search and holdout items `objective` is scored on; None: all that remain."""
        search = self.search_items if objective.search_items is None else objective.search_items
        holdout = self.holdout_items if objective.holdout_items is None else objective.holdout_items
        return search, holdout


class Baselines(Noun):
    """Which known merges are evaluated first, beside the budget: what a front must beat."""

    parents: bool = True
    uniform_soup: bool = True
    greedy_soup: bool = Field(
        False, description="Average the best parents as long as that helps (arXiv 2203.05482): up to K - 1 more trials"
    )

    @model_validator(mode="after")
    def _greedy_soup_of_parents(self) -> "Baselines":
        if self.greedy_soup and not self.parents:
            raise wrong("greedy_soup", True, "the greedy soup starts from the scores of the parents", "parents: true")
        return self


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

    @property
    def has_holdout(self) -> bool:
        """Whether any objective keeps items for the final front."""
        return any(self.evaluation.items_of(objective)[1] != 0 for objective in self.objectives)

    @model_validator(mode="after")
    def _space_fits_pool(self) -> "CampaignSpec":
        check_space(self.space, self.pool)
        return self

    @model_validator(mode="after")
    def _objectives_go_together(self) -> "CampaignSpec":
        fewshot: dict[str, int | None] = {}
        names: set[str] = set()
        for index, objective in enumerate(self.objectives):
            if objective.name in names:
                raise wrong(f"objectives.{index}", objective.name, "this objective is listed twice")
            names.add(objective.name)
            if fewshot.setdefault(objective.task, objective.num_fewshot) != objective.num_fewshot:
                field = f"objectives.{index}.num_fewshot"
                raise wrong(field, objective.num_fewshot, "objectives of one task must agree on this")
        if not any(objective.weight for objective in self.objectives):
            raise wrong("objectives.0.weight", 0, "at least one objective needs a weight above 0")
        return self


def parse_spec(document: Mapping[str, Any]) -> CampaignSpec:
    """Return the spec that `document` says, or raise `InvalidSpec` naming every wrong field."""
    try:
        return CampaignSpec.model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None
