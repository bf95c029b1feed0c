"""The merge methods and their parameters, as recipes carry them. What they compute is in `merging/methods/`.

theta_0 is the base, theta_i source i, tau_i = theta_i - theta_0, w_i the weight of source i. Every tuple has one entry
per source, in the order of the recipe's sources.
"""

import math
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from campaigns.noun import Noun, wrong

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Weights = Annotated[tuple[float, ...], Field(min_length=1)]
Total = TypeVar("Total", bound=tuple[float, ...])


def _has_total(weights: Total) -> Total:
    if abs(math.fsum(weights)) <= MIN_SHARE * math.fsum(map(abs, weights)):
        raise wrong("", weights, "the weights must not sum to zero, nor nearly: they are divided by their sum")
    return weights


Shares = Annotated[tuple[float, ...], Field(min_length=1), AfterValidator(_has_total)]
PositiveShares = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_has_total)]
Densities = Annotated[tuple[Fraction, ...], Field(min_length=1)]


MIN_SHARE = 1e-6
"""A sum of weights below this share of their absolute sum counts as zero."""
StatisticsKind = Literal["gram_diagonal", "gram", "fisher"]


class MergeNoun(Noun):
    """What all methods share: what they need of a pool beside its checkpoints."""

    needs_base: ClassVar[bool] = False

    @property
    def needs_statistics(self) -> StatisticsKind | None:
        """The calibration statistics that every source must have."""
        return None


class LinearMerge(MergeNoun):
    """theta = sum_i w_i theta_i (arXiv 2203.05482). One weight per source; they need not sum to one."""

    kind: Literal["linear"] = "linear"
    weights: Weights


class SlerpMerge(MergeNoun):
    """From source 0 (t = 0) to source 1 (t = 1) along the great circle through them, per tensor."""

    kind: Literal["slerp"] = "slerp"
    t: Fraction


class NuSlerpMerge(MergeNoun):
    """Slerp of two sources, or of their task vectors where there is a base, at t = w_1 / (w_0 + w_1)."""

    kind: Literal["nuslerp"] = "nuslerp"
    weights: Annotated[tuple[float, float], AfterValidator(_has_total)]


class MultiSlerpMerge(MergeNoun):
    """Mean of directions on the sphere, in the tangent space at their weighted mean; of task vectors with a base."""

    kind: Literal["multislerp"] = "multislerp"
    weights: Shares
    normalize: bool = Field(True, description="Divide the weights by their sum")


class KarcherMerge(MergeNoun):
    """Riemannian (Karcher) mean of directions on the sphere, scaled by the mean norm."""

    kind: Literal["karcher"] = "karcher"
    weights: PositiveShares
    max_iterations: int = Field(10, ge=1, le=1000)
    tolerance: float = Field(1e-5, gt=0)


class TaskArithmeticMerge(MergeNoun):
    """theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["task_arithmetic"] = "task_arithmetic"
    weights: Weights
    scale: float = 1.0


class TiesMerge(MergeNoun):
    """Trim, elect signs, merge what agrees (arXiv 2306.01708). Needs a base.

    `trim` keeps the largest of each tensor or of the whole model; by magnitude, or by OBM's saliency
    tau^2 * diag(X X^T) (arXiv 2502.12217), which needs calibration statistics.
    """

    needs_base: ClassVar[bool] = True
    kind: Literal["ties"] = "ties"
    weights: Weights
    densities: Densities
    scale: float = 1.0
    normalize: bool = Field(True, description="Divide by the sum of the agreeing weights")
    trim: Literal["tensor", "global"] = "tensor"
    trim_by: Literal["magnitude", "saliency"] = "magnitude"

    @property
    def needs_statistics(self) -> StatisticsKind | None:
        """The calibration statistics that every source must have."""
        return "gram_diagonal" if self.trim_by == "saliency" else None


class DareLinearMerge(MergeNoun):
    """Keep each element of tau_i with probability density, rescale, add up (arXiv 2311.03099). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["dare_linear"] = "dare_linear"
    weights: Weights
    densities: Densities
    scale: float = 1.0
    rescale: bool = Field(True, description="Divide what is kept by its density")


class DareTiesMerge(MergeNoun):
    """Random dropping as in DARE, then the sign election of TIES. Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["dare_ties"] = "dare_ties"
    weights: Weights
    densities: Densities
    scale: float = 1.0
    normalize: bool = Field(False, description="Divide by the sum of the agreeing weights")
    rescale: bool = Field(True, description="Divide what is kept by its density")


class DellaMerge(MergeNoun):
    """Random dropping that spares what is large in its row, then sign election (arXiv 2406.11617). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["della"] = "della"
    weights: Weights
    densities: Densities
    epsilon: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    scale: float = 1.0
    normalize: bool = Field(True, description="Divide by the sum of the agreeing weights")
    rescale: bool = Field(True, description="Divide what is kept by the probability of keeping it")


class DellaLinearMerge(MergeNoun):
    """Random dropping that spares what is large in its row, then a weighted sum (arXiv 2406.11617). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["della_linear"] = "della_linear"
    weights: Weights
    densities: Densities
    epsilon: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    scale: float = 1.0
    rescale: bool = Field(True, description="Divide what is kept by the probability of keeping it")


class BreadcrumbsMerge(MergeNoun):
    """Drop the largest gamma and the smallest 1 - density - gamma of each task vector (arXiv 2312.06795)."""

    needs_base: ClassVar[bool] = True
    kind: Literal["breadcrumbs"] = "breadcrumbs"
    weights: Weights
    densities: Densities
    gamma: Fraction = 0.01
    scale: float = 1.0


class BreadcrumbsTiesMerge(MergeNoun):
    """The masks of breadcrumbs, then the sign election of TIES (arXiv 2312.06795, 2306.01708). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["breadcrumbs_ties"] = "breadcrumbs_ties"
    weights: Weights
    densities: Densities
    gamma: Fraction = 0.01
    scale: float = 1.0
    normalize: bool = Field(True, description="Divide by the sum of the agreeing weights")


class ModelStockMerge(MergeNoun):
    """Between the base and the mean of the sources, as near as their angle tells (arXiv 2403.19522). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["model_stock"] = "model_stock"


class SceMerge(MergeNoun):
    """Select by variance, calculate weights from energies, erase minority signs (arXiv 2408.07990). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["sce"] = "sce"
    top_fraction: Fraction = Field(1.0, description="The fraction of elements kept, those that vary most")
    scale: float = 1.0


class ConsensusMerge(MergeNoun):
    """Keep what matters to at least `agreeing` tasks by their TALL masks (arXiv 2405.07813). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["consensus"] = "consensus"
    weights: Weights
    agreeing: int = Field(2, ge=0)
    mask_threshold: float = Field(0.4, ge=0, description="lambda: |tau_i| >= lambda |tau_mtl - tau_i| is kept")
    scale: float = 1.0


class EmrMerge(MergeNoun):
    """Elect, mask and rescale (arXiv 2405.17461): one unified task vector, or source `task`'s view of it."""

    needs_base: ClassVar[bool] = True
    kind: Literal["emr"] = "emr"
    task: int | None = Field(None, ge=0, description="Index of the source whose model is made; None: unified")


class FisherMerge(MergeNoun):
    """theta = sum_i w_i F_i theta_i / sum_i w_i F_i, F_i the diagonal Fisher information (arXiv 2111.09832)."""

    kind: Literal["fisher"] = "fisher"
    weights: PositiveShares
    floor: float = Field(1e-6, ge=1e-30)

    @property
    def needs_statistics(self) -> StatisticsKind | None:
        """The calibration statistics that every source must have."""
        return "fisher"


class RegMeanMerge(MergeNoun):
    """W = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i with G_i = X_i^T X_i / n (arXiv 2212.09849); averages elsewhere."""

    kind: Literal["regmean"] = "regmean"
    weights: PositiveShares
    alpha: Fraction = Field(0.9, description="Factor of the Gram matrices' off-diagonal elements")

    @property
    def needs_statistics(self) -> StatisticsKind | None:
        """The calibration statistics that every source must have."""
        return "gram"


class ObimMerge(MergeNoun):
    """Each element belongs to one source at most, by saliency tau^2 * diag(X X^T) (arXiv 2502.12217). Needs a base."""

    needs_base: ClassVar[bool] = True
    kind: Literal["obim"] = "obim"
    weights: Weights
    densities: Densities
    rounds: int = Field(1, ge=1, le=100)
    order: tuple[int, ...] | None = Field(None, description="Who chooses first; default: the order of the sources")

    @property
    def needs_statistics(self) -> StatisticsKind | None:
        """The calibration statistics that every source must have."""
        return "gram_diagonal"

    @model_validator(mode="after")
    def _orders_all(self) -> "ObimMerge":
        if self.order is not None and sorted(self.order) != list(range(len(self.weights))):
            raise wrong("order", self.order, "order must name every source once", f"0 to {len(self.weights) - 1}")
        return self


Method = Annotated[
    LinearMerge
    | SlerpMerge
    | NuSlerpMerge
    | MultiSlerpMerge
    | KarcherMerge
    | TaskArithmeticMerge
    | TiesMerge
    | DareLinearMerge
    | DareTiesMerge
    | DellaMerge
    | DellaLinearMerge
    | BreadcrumbsMerge
    | BreadcrumbsTiesMerge
    | ModelStockMerge
    | SceMerge
    | ConsensusMerge
    | EmrMerge
    | FisherMerge
    | RegMeanMerge
    | ObimMerge,
    Field(discriminator="kind"),
]


def per_source(method: MergeNoun) -> dict[str, tuple[object, ...]]:
    """Return the parameters of `method` that have one entry per source, by name."""
    return {name: value for name, value in method if isinstance(value, tuple)}
