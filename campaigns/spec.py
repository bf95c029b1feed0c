"""The campaign spec: one document that says what to merge, what to vary, what to measure and for how long."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from campaigns.constraints import Constraint
from campaigns.errors import from_validation
from campaigns.noun import Noun, wrong
from campaigns.objectives import Objective
from campaigns.pools import PoolSpec
from campaigns.presets import expand_preset
from campaigns.ranges import told_once
from campaigns.space_needs import check_space
from campaigns.spaces import LinearSpace, Space
from campaigns.strategies import GpHypervolumeSearch, Strategy

MAX_NAME = 100
MAX_NOTES = 10_000
MAX_EVALUATIONS = 100_000
MAX_ITEM_EVALUATIONS = 10**12
MAX_OBJECTIVES = 12
MAX_CONSTRAINTS = 48
MAX_POINTS = 1000
MAX_IMPORTED_CAMPAIGNS = 100
MAX_RUNGS = 10
DEFAULT_PRIORITY = 10
MIN_GPU_SHARE = 0.01

Rung = Annotated[float, Field(gt=0, lt=1)]


class Racing(Noun):
    """Candidates that will hardly add anything to the front stop after a part of their search items, and are pruned.

    `rungs` are the cumulative shares of each task's search items after which that is decided; what is left after the
    last decision is scored in one go. A candidate stops when the growth of the front's hypervolume that it can be
    expected to bring is below `tolerance / budget.evaluations` of it: all that stop would together have added at most
    `tolerance`, and as many of them would have added the same, far less. Baselines never race.
    """

    rungs: tuple[Rung, ...] = Field((0.05, 0.1, 0.2, 0.4), min_length=1, max_length=MAX_RUNGS)
    tolerance: float = Field(0.15, gt=0, lt=1, description="What racing may cost at most, as a share of hypervolume")
    anchors: bool = Field(
        False,
        description="The first rungs hold the items that say most about the others, by the parents' outcomes, instead "
        "of random ones",
    )

    @model_validator(mode="after")
    def _rungs_ascend(self) -> "Racing":
        for index, (before, share) in enumerate(pairwise(self.rungs), start=1):
            if share <= before:
                raise wrong(f"rungs.{index}", share, "the shares must ascend", f"above {before:g}, below 1")
        return self


class Evaluation(Noun):
    """How candidates are scored. Search and holdout items of a task are disjoint, drawn once by the campaign's seed."""

    search_items: int = Field(100, ge=1, description="Items of each task that a candidate is scored on")
    holdout_items: int | None = Field(None, ge=0, description="Items kept for the final front; default: all the others")
    batch_size: int = Field(16, ge=1, le=4096)
    apply_chat_template: bool = False
    racing: Racing | None = Field(None, description="Left out: every candidate is scored on all its search items")
    reuse: bool = Field(
        True, description="Take over measurements of the same recipe under the same protocol from the database"
    )

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
    task_arithmetic: bool = Field(
        False, description="The base plus 0.3 times the sum of all task vectors (arXiv 2212.04089); needs pool.base"
    )

    @model_validator(mode="after")
    def _greedy_soup_of_parents(self) -> "Baselines":
        if self.greedy_soup and not self.parents:
            raise wrong("greedy_soup", True, "the greedy soup starts from the scores of the parents", "parents: true")
        return self


RawValue = Annotated[
    float | str, told_once("neither a number nor a name", "a number, or the name of an option or of a view")
]


class WarmStart(Noun):
    """What the search knows before the strategy's first point. It comes on top of the budget.

    Each of `points` gives one number per coordinate of the space, by name and in raw units (`weight.math: 0.4`); of a
    choice between methods, `option` by name and the coordinates of that option. `import_from` lists campaigns whose
    results are taken over where recipe and protocol are this campaign's own.
    """

    points: tuple[dict[str, RawValue], ...] = Field((), max_length=MAX_POINTS)
    import_from: tuple[str, ...] = Field((), max_length=MAX_IMPORTED_CAMPAIGNS, description="Campaign ids")

    @model_validator(mode="after")
    def _import_once(self) -> "WarmStart":
        for index, campaign_id in enumerate(self.import_from):
            if campaign_id in self.import_from[:index]:
                raise wrong(f"import_from.{index}", campaign_id, "this campaign is listed twice")
        return self


class Budget(Noun):
    """When the search ends: as soon as one of these is spent, no candidate is proposed any more.

    What runs then ends; baselines, points of the user's and holdout scoring come on top.
    """

    evaluations: int = Field(ge=1, le=MAX_EVALUATIONS, description="Candidates that the strategy may propose")
    item_evaluations: int | None = Field(
        None,
        ge=1,
        le=MAX_ITEM_EVALUATIONS,
        description="Search items of tasks that trials, baselines included, are scored on here",
    )
    seconds: float | None = Field(
        None, gt=0, description="Since the campaign started, the time in which it was paused left out"
    )
    gpu_seconds: float | None = Field(
        None, gt=0, description="Seconds that actors spent on search items, times resources.gpus_per_actor"
    )


class Resources(Noun):
    """What the campaign runs on: each actor keeps one live model."""

    actors: int = Field(2, ge=1, le=1024, description="At most as many; fewer where campaigns share the cluster")
    cpus_per_actor: int = Field(1, ge=1, le=256)
    gpus_per_actor: float = Field(0.0, ge=0, le=16, description="0.5: two actors on each GPU; above 1 a whole number")
    retries: int = Field(2, ge=0, le=10, description="How often a trial is run again after a fault")

    @model_validator(mode="after")
    def _gpus_can_be_given(self) -> "Resources":
        gpus = self.gpus_per_actor
        if 0 < gpus < MIN_GPU_SHARE or (gpus > 1 and gpus != int(gpus)):
            allowed = f"0, {MIN_GPU_SHARE:g} to 1, or a whole number"
            raise wrong("gpus_per_actor", gpus, "an actor gets a share of one GPU, or whole ones", allowed)
        return self


class CampaignSpec(Noun):
    """Everything that determines a campaign; locked when it is created."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    notes: str = Field("", max_length=MAX_NOTES)
    pool: PoolSpec
    space: Space = LinearSpace()
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=MAX_OBJECTIVES)
    constraints: tuple[Constraint, ...] = Field((), max_length=MAX_CONSTRAINTS)
    evaluation: Evaluation = Evaluation()
    baselines: Baselines = Baselines()
    warm_start: WarmStart = WarmStart()
    strategy: Strategy = GpHypervolumeSearch()
    budget: Budget
    resources: Resources = Resources()
    priority: int = Field(
        DEFAULT_PRIORITY, ge=1, le=100, description="This campaign's share of the cluster relative to that of others"
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def has_holdout(self) -> bool:
        """Whether any objective keeps items for the final front."""
        return any(self.evaluation.items_of(o)[1] != 0 for o in self.objectives if not o.is_of_weights)

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
            if objective.is_of_weights and self.pool.base is None:
                raise wrong("pool.base", None, f"objective {objective.name!r} needs a base checkpoint")
            if fewshot.setdefault(objective.task, objective.num_fewshot) != objective.num_fewshot:
                field = f"objectives.{index}.num_fewshot"
                raise wrong(field, objective.num_fewshot, "objectives of one task must agree on this")
        if not any(objective.weight for objective in self.objectives):
            raise wrong("objectives.0.weight", 0, "at least one objective needs a weight above 0")
        return self

    @model_validator(mode="after")
    def _constraints_are_on_objectives(self) -> "CampaignSpec":
        names = [objective.name for objective in self.objectives]
        for index, constraint in enumerate(self.constraints):
            field = f"constraints.{index}"
            if constraint.objective not in names:
                message = "constraints are on objectives of the campaign"
                raise wrong(f"{field}.objective", constraint.objective, message, ", ".join(names))
            if constraint.is_relative and not self.baselines.parents:
                field, value = f"{field}.max_loss_to_best_parent", constraint.max_loss_to_best_parent
                raise wrong(field, value, "the parents must be scored to know the best", "baselines.parents: true")
        return self

    @model_validator(mode="after")
    def _gpu_seconds_are_of_gpus(self) -> "CampaignSpec":
        limit = self.budget.gpu_seconds
        if limit is not None and not self.resources.gpus_per_actor:
            message = "no actor has a GPU whose seconds could be counted"
            raise wrong("budget.gpu_seconds", limit, message, "resources.gpus_per_actor above 0")
        return self

    @model_validator(mode="after")
    def _race_has_what_it_needs(self) -> "CampaignSpec":
        racing = self.evaluation.racing
        if racing is None:
            return self
        if all(objective.is_of_weights for objective in self.objectives):
            message = "a race needs items, and the weights are measured without"
            raise wrong("evaluation.racing", racing.rungs, message, "an objective on a task")
        if racing.anchors and not self.baselines.parents:
            message = "anchors are chosen by the outcomes of the parents"
            raise wrong("evaluation.racing.anchors", True, message, "baselines.parents: true")
        return self

    @model_validator(mode="after")
    def _warm_start_has_what_it_needs(self) -> "CampaignSpec":
        wanted = self.baselines
        if wanted.task_arithmetic and self.pool.base is None:
            raise wrong("pool.base", None, "task arithmetic needs a base checkpoint")
        own_first = wanted.parents or wanted.uniform_soup or wanted.task_arithmetic or self.warm_start.points
        if self.warm_start.import_from and not own_first:
            message = "results are compared with this campaign's own first one: it needs a baseline or a point"
            raise wrong("warm_start.import_from", self.warm_start.import_from, message, "baselines.parents: true, say")
        return self


def parse_spec(document: Mapping[str, Any]) -> CampaignSpec:
    """Return the spec that `document` says, its preset filled in, or raise `InvalidSpec` naming every wrong field."""
    try:
        return CampaignSpec.model_validate(expand_preset(document))
    except ValidationError as error:
        raise from_validation(error) from None
