"""What may vary, as asked for: one class per merge method, and a choice between several.

`search_spaces` turns these into maps from the unit cube to recipes. Of each parameter, a number fixes it and bounds
[lower, upper] let the search vary it; the default shows which of the two it is unless asked otherwise. Fields are named
as in `campaigns.methods`, which says what they do.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from campaigns.granularity import Granularity
from campaigns.noun import Noun, wrong
from campaigns.ranges import Bounds, Densities, PerCheckpoint, Real, Share, Whole, told_once, within

NUMBERS = ("t", "scale", "epsilon", "gamma", "top_fraction", "agreeing", "mask_threshold", "alpha", "rounds")
"""Parameters that are one number, in the order of their coordinates."""
WHOLE_NUMBERS = ("agreeing", "rounds")

Seed = Annotated[
    Annotated[int, Field(ge=0, lt=2**32)] | Literal["per_candidate"],
    told_once("no seed", "a whole number from 0 to 4294967295, or 'per_candidate'"),
]
STEP: Bounds = (0.5, 1.5)  # of the common scale, where the size of the weights says nothing about the step's


class MethodSpace(Granularity):
    """What the spaces over one merge method share."""

    kind: str

    @model_validator(mode="after")
    def _groups_differ(self) -> "MethodSpace":
        has = self.parameters()
        if self.has_groups and not set(has) & set(self.by_group):
            message = f"groups would not differ: method {self.kind!r} has none of these parameters"
            raise wrong("by_group", self.by_group, message, ", ".join(has) or "no parameter")
        return self

    def parameters(self) -> tuple[str, ...]:
        """Return the names of what the method can vary, in the order of the coordinates."""
        return tuple(name for name in ("densities", *NUMBERS) if name in type(self).model_fields)

    def numbers(self) -> dict[str, float | tuple[float, float]]:
        """Return the parameters that are one number, fixed or with bounds."""
        return {name: getattr(self, name) for name in NUMBERS if name in type(self).model_fields}

    def named_checkpoints(self) -> list[tuple[str, str]]:
        """Return (field path, checkpoint name) for every checkpoint that this space mentions."""
        return []

    def varies(self, names: tuple[str, ...]) -> bool:
        """Whether anything is left to search over the checkpoints `names`."""
        return any(isinstance(value, tuple) for value in self.numbers().values())


class WeightedSpace(PerCheckpoint, MethodSpace):
    """One weight per checkpoint. `freeze` fixes final weights; checkpoints of one group share one dimension."""

    def parameters(self) -> tuple[str, ...]:
        """Return the names of what the method can vary, in the order of the coordinates."""
        return ("weights", *super().parameters())

    def named_checkpoints(self) -> list[tuple[str, str]]:
        """Return (field path, checkpoint name) for every checkpoint that this space mentions."""
        return PerCheckpoint.named_checkpoints(self)

    def varies(self, names: tuple[str, ...]) -> bool:
        """Whether anything is left to search over the checkpoints `names`."""
        return bool(set(names) - self.freeze.keys()) or super().varies(names)


class MixSpace(WeightedSpace):
    """Weights that are shares. `normalize` says how raw coordinates r_i become weights w_i:

    - `sum`: w_i = r_i / sum(r), r in `bounds`, default [0, 1]; every parent and the uniform soup are reachable;
    - `softmax`: w = softmax(r), r in `bounds`, default [-4, 4].

    Frozen weights are final: the others share what they leave of one.
    """

    normalize: Literal["sum", "softmax", "free"] = "sum"
    bounds: Bounds | None = None

    @model_validator(mode="after")
    def _normalizable(self) -> "MixSpace":
        if self.normalize == "sum":
            for field, bounds in (("bounds", self.bounds), *((f"bounds_of.{n}", b) for n, b in self.bounds_of.items())):
                if bounds is not None and bounds[0] < 0:
                    raise wrong(field, bounds, "with normalize 'sum' the lower bound must be at least 0")
        total = math.fsum(self.freeze.values())
        if self.normalize != "free" and (total >= 1 or any(weight < 0 for weight in self.freeze.values())):
            message = "frozen weights must be at least 0 and sum to less than 1 unless normalize is 'free'"
            raise wrong("freeze", self.freeze, message)
        return self


class TaskVectorSpace(WeightedSpace):
    """One weight per task vector: the raw coordinate itself."""

    bounds: Bounds = (0.0, 1.0)


class SparseSpace(TaskVectorSpace):
    """One weight and one density per task vector."""

    densities: Densities = Densities()

    def named_checkpoints(self) -> list[tuple[str, str]]:
        """Return (field path, checkpoint name) for every checkpoint that this space mentions."""
        return super().named_checkpoints() + [(f"densities.{f}", n) for f, n in self.densities.named_checkpoints()]

    def varies(self, names: tuple[str, ...]) -> bool:
        """Whether anything is left to search over the checkpoints `names`."""
        return self.densities.vary(names) or super().varies(names)


class RandomSparseSpace(SparseSpace):
    """Elements are dropped at random.

    With one `seed` for all candidates a search overfits to one draw of the masks; `per_candidate` derives another seed
    from the parameters of each.
    """

    rescale: bool = True
    seed: Seed = 0


class LinearSpace(MixSpace):
    """Linear merges. `normalize` says how raw coordinates r_i become weights w_i:

    - `sum`: w_i = r_i / sum(r), r in `bounds`, default [0, 1]; every parent and the uniform soup are reachable;
    - `softmax`: w = softmax(r), r in `bounds`, default [-4, 4];
    - `free`: w_i = r_i, default [0, 1]; weights need not sum to one.

    Frozen weights are final: under `sum` and `softmax` the others share what they leave of one.
    """

    kind: Literal["linear"] = "linear"


class SlerpSpace(MethodSpace):
    """Slerp of two checkpoints: t alone."""

    kind: Literal["slerp"] = "slerp"
    t: Share = (0.0, 1.0)


class NuSlerpSpace(MixSpace):
    """Slerp of two checkpoints, or of their task vectors, by the ratio of their weights."""

    kind: Literal["nuslerp"] = "nuslerp"
    normalize: Literal["sum", "softmax"] = "sum"
    task_vectors: bool = Field(False, description="Needs a base")


class MultiSlerpSpace(MixSpace):
    """Mean of the directions of checkpoints, or of task vectors, in the tangent space at their mean: weights."""

    kind: Literal["multislerp"] = "multislerp"
    normalize: Literal["sum", "softmax"] = "sum"
    task_vectors: bool = Field(False, description="Needs a base")


class KarcherSpace(MixSpace):
    """Riemannian mean of the checkpoints' directions: weights."""

    kind: Literal["karcher"] = "karcher"
    normalize: Literal["sum", "softmax"] = "sum"


class TaskArithmeticSpace(TaskVectorSpace):
    """Task arithmetic: one weight per task vector, and the common `scale` (lambda) fixed or searched."""

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    scale: Real = 1.0


class TiesSpace(SparseSpace):
    """TIES: weights, densities and the common scale; how elements are trimmed is fixed."""

    kind: Literal["ties"] = "ties"
    scale: Real = STEP
    normalize: bool = True
    trim: Literal["tensor", "global"] = "tensor"
    trim_by: Literal["magnitude", "saliency"] = "magnitude"

    @model_validator(mode="after")
    def _one_threshold(self) -> "TiesSpace":
        if self.trim == "global" and self.has_groups and "densities" in self.by_group:
            message = "with trim 'global' a checkpoint has one density, that of the whole model"
            raise wrong("by_group", self.by_group, message)
        return self


class DareLinearSpace(RandomSparseSpace):
    """DARE: weights and densities."""

    kind: Literal["dare_linear"] = "dare_linear"
    scale: Real = 1.0


class DareTiesSpace(RandomSparseSpace):
    """DARE-TIES: by default weight and density in [0, 1] per expert, the space of MM-MO (arXiv 2407.00487)."""

    kind: Literal["dare_ties"] = "dare_ties"
    densities: Densities = Densities(bounds=(0.0, 1.0))
    scale: Real = 1.0
    normalize: bool = False


class DellaSpace(RandomSparseSpace):
    """DELLA: weights, densities, by how much large and small elements differ in them, and the common scale."""

    kind: Literal["della"] = "della"
    epsilon: Annotated[Real, within(0.0, 0.99)] = (0.0, 0.3)
    scale: Real = STEP
    normalize: bool = True


class DellaLinearSpace(RandomSparseSpace):
    """DELLA without the election of signs: weights, densities, and by how much elements differ in them."""

    kind: Literal["della_linear"] = "della_linear"
    epsilon: Annotated[Real, within(0.0, 0.99)] = (0.0, 0.3)
    scale: Real = 1.0


class BreadcrumbsSpace(SparseSpace):
    """Breadcrumbs: weights, densities, and the fraction of outliers."""

    kind: Literal["breadcrumbs"] = "breadcrumbs"
    gamma: Share = (0.0, 0.05)
    scale: Real = 1.0


class BreadcrumbsTiesSpace(SparseSpace):
    """Breadcrumbs with the election of signs: weights, densities, the fraction of outliers, and the common scale."""

    kind: Literal["breadcrumbs_ties"] = "breadcrumbs_ties"
    gamma: Share = (0.0, 0.05)
    scale: Real = STEP
    normalize: bool = True


class ModelStockSpace(MethodSpace):
    """Model Stock has no parameter: it is one point, and so for use as an option of a choice."""

    kind: Literal["model_stock"] = "model_stock"


class SceSpace(MethodSpace):
    """SCE, which finds its own weights: the fraction of elements kept, and the common scale."""

    kind: Literal["sce"] = "sce"
    top_fraction: Share = (0.05, 1.0)
    scale: Real = STEP


class ConsensusSpace(TaskVectorSpace):
    """Consensus: weights, how many tasks must agree, and the threshold of their masks."""

    kind: Literal["consensus"] = "consensus"
    agreeing: Annotated[Whole, within(0, 64)] = (1, 2)
    mask_threshold: Annotated[Real, within(0.0, 1e6)] = (0.2, 0.6)
    scale: Real = 1.0


class EmrSpace(MethodSpace):
    """EMR has no number: the search picks one of its models, each task's own and the unified one."""

    kind: Literal["emr"] = "emr"
    views: Literal["all", "tasks", "unified"] = Field("all", description="Which of its models may be picked")

    def varies(self, names: tuple[str, ...]) -> bool:
        """Whether anything is left to search over the checkpoints `names`."""
        return self.views != "unified"


class FisherSpace(MixSpace):
    """Fisher merging: weights. Needs calibration statistics."""

    kind: Literal["fisher"] = "fisher"
    normalize: Literal["sum", "softmax"] = "sum"


class RegMeanSpace(MixSpace):
    """RegMean: weights, and the factor of the off-diagonal elements. Needs calibration statistics."""

    kind: Literal["regmean"] = "regmean"
    normalize: Literal["sum", "softmax"] = "sum"
    alpha: Share = (0.6, 0.95)


class ObimSpace(SparseSpace):
    """OBIM: what part of the elements each expert may claim, and its weight there. Needs calibration statistics."""

    kind: Literal["obim"] = "obim"
    densities: Densities = Densities(bounds=(0.05, 0.5))
    rounds: Annotated[Whole, within(1, 100)] = 1
    order: tuple[str, ...] | None = Field(None, description="Who claims first, by name; default: the pool's order")


OneMethod = Annotated[
    LinearSpace
    | SlerpSpace
    | NuSlerpSpace
    | MultiSlerpSpace
    | KarcherSpace
    | TaskArithmeticSpace
    | TiesSpace
    | DareLinearSpace
    | DareTiesSpace
    | DellaSpace
    | DellaLinearSpace
    | BreadcrumbsSpace
    | BreadcrumbsTiesSpace
    | ModelStockSpace
    | SceSpace
    | ConsensusSpace
    | EmrSpace
    | FisherSpace
    | RegMeanSpace
    | ObimSpace,
    Field(discriminator="kind"),
]


class ChoiceSpace(Noun):
    """Several methods: one coordinate picks an option, each option has coordinates of its own.

    Parameters are named after their option, `ties.weight.math`; a second option of one kind is `ties2`.
    """

    kind: Literal["choice"] = "choice"
    options: tuple[OneMethod, ...] = Field(min_length=2, max_length=32)

    def named_options(self) -> list[tuple[str, OneMethod]]:
        """Return every option with the name that its parameters are given."""
        kinds = [option.kind for option in self.options]
        earlier = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
        names = [kind if count == 0 else f"{kind}{count + 1}" for kind, count in zip(kinds, earlier, strict=True)]
        return list(zip(names, self.options, strict=True))


Space = Annotated[OneMethod | ChoiceSpace, Field(discriminator="kind")]


def methods_of(space: Space, field: str = "space") -> list[tuple[str, OneMethod]]:
    """Return (field path, space) of the one method, or of every option of a choice."""
    if isinstance(space, ChoiceSpace):
        return [(f"{field}.options.{index}", option) for index, option in enumerate(space.options)]
    return [(field, space)]
