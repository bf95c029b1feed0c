"""The methods of mergekit that we have too: what each reads of the document, and the method noun that comes of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from campaigns.errors import InvalidSpec, field_error
from campaigns.mergekit.inputs import TensorInputs
from campaigns.methods import (
    BreadcrumbsMerge,
    BreadcrumbsTiesMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaLinearMerge,
    DellaMerge,
    KarcherMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)

TINY_SUM = 1e-8
TINY_RATIO_SUM = 1e-6
MULTISLERP_EPS = 1e-8
NO_RESCALE = "what this method keeps is not rescaled"


@dataclass(frozen=True)
class MergekitMethod:
    """One merge method of mergekit.

    `base`: whether base_model is one of the inputs, an optional or a required origin of task vectors, or the first of
    two (slerp). `parameters`: those that it reads. `required`: the one that has no default. `min_sources` and
    `max_sources` count the base for `input` and `first` only. `needs_all`: whether every slice must have every
    source, since there are no weights to leave one out.
    """

    base: Literal["input", "first", "optional", "required"]
    build: Callable[[TensorInputs], Method]
    parameters: tuple[str, ...]
    required: str | None = None
    min_sources: int = 1
    max_sources: int | None = None
    needs_all: bool = False


def _linear(inputs: TensorInputs) -> Method:
    weights = inputs.each("weight")
    if not inputs.flag("normalize", True):
        return LinearMerge(weights=weights)
    total = math.fsum(weights)
    if total == 0:
        message = f"the weights of tensor {inputs.name} sum to zero and cannot be normalized"
        raise InvalidSpec([field_error(inputs.part.field, weights, message, "other weights, or normalize: false")])
    return LinearMerge(weights=tuple(weight / total for weight in weights))


def _passthrough(inputs: TensorInputs) -> Method:
    if sum(inputs.is_present) != 1:
        message = "passthrough copies one model"
        raise InvalidSpec([field_error(inputs.part.field, sum(inputs.is_present), message, "one model")])
    return LinearMerge(weights=inputs.each("scale", 1.0))


def _slerp(inputs: TensorInputs) -> Method:
    return SlerpMerge(t=float(inputs.shared("t")))


def _nuslerp(inputs: TensorInputs) -> Method:
    whole = "the angle is that of whole tensors"
    inputs.fixed("nuslerp_flatten", True, whole)
    inputs.fixed("nuslerp_row_wise", False, whole)
    first, second = inputs.each("weight")
    is_tiny = abs(first + second) < TINY_RATIO_SUM  # mergekit goes half way then
    return NuSlerpMerge(weights=(0.5, 0.5) if is_tiny else (first, second))


def _multislerp(inputs: TensorInputs) -> Method:
    inputs.fixed("eps", MULTISLERP_EPS, "eps is not a parameter here")
    return MultiSlerpMerge(weights=inputs.each("weight"), normalize=inputs.flag("normalize_weights", True))


def _karcher(inputs: TensorInputs) -> Method:
    present = inputs.is_present
    return KarcherMerge(
        weights=tuple(there / sum(present) for there in present),
        max_iterations=int(inputs.shared("max_iter", 10)),
        tolerance=inputs.number("tol", 1e-5),
    )


def _task_arithmetic(inputs: TensorInputs) -> Method:
    return TaskArithmeticMerge(weights=_summed_weights(inputs), scale=inputs.number("lambda", 1.0))


def _ties(inputs: TensorInputs) -> Method:
    inputs.fixed("rescale", False, NO_RESCALE)
    return TiesMerge(
        weights=inputs.each("weight"),
        densities=_densities(inputs),
        scale=inputs.number("lambda", 1.0),
        normalize=inputs.flag("normalize", True),
    )


def _dare_linear(inputs: TensorInputs) -> Method:
    return DareLinearMerge(
        weights=_summed_weights(inputs),
        densities=_densities(inputs),
        scale=inputs.number("lambda", 1.0),
        rescale=inputs.flag("rescale", True),
    )


def _dare_ties(inputs: TensorInputs) -> Method:
    return DareTiesMerge(
        weights=inputs.each("weight"),
        densities=_densities(inputs),
        scale=inputs.number("lambda", 1.0),
        normalize=inputs.flag("normalize", False),
        rescale=inputs.flag("rescale", True),
    )


def _della(inputs: TensorInputs) -> Method:
    return DellaMerge(
        weights=inputs.each("weight"),
        densities=_densities(inputs),
        epsilon=inputs.common("epsilon", 0.15),
        scale=inputs.number("lambda", 1.0),
        normalize=inputs.flag("normalize", True),
        rescale=inputs.flag("rescale", True),
    )


def _della_linear(inputs: TensorInputs) -> Method:
    return DellaLinearMerge(
        weights=_summed_weights(inputs),
        densities=_densities(inputs),
        epsilon=inputs.common("epsilon", 0.15),
        scale=inputs.number("lambda", 1.0),
        rescale=inputs.flag("rescale", True),
    )


def _breadcrumbs(inputs: TensorInputs) -> Method:
    inputs.fixed("rescale", False, NO_RESCALE)
    return BreadcrumbsMerge(
        weights=_summed_weights(inputs),
        densities=_densities(inputs),
        gamma=inputs.common("gamma", 0.01),
        scale=inputs.number("lambda", 1.0),
    )


def _breadcrumbs_ties(inputs: TensorInputs) -> Method:
    inputs.fixed("rescale", False, NO_RESCALE)
    return BreadcrumbsTiesMerge(
        weights=inputs.each("weight"),
        densities=_densities(inputs),
        gamma=inputs.common("gamma", 0.01),
        scale=inputs.number("lambda", 1.0),
        normalize=inputs.flag("normalize", False),
    )


def _model_stock(inputs: TensorInputs) -> Method:
    inputs.fixed("filter_wise", False, "the angle is that of whole tensors")
    return ModelStockMerge()


def _sce(inputs: TensorInputs) -> Method:
    return SceMerge(top_fraction=inputs.number("select_topk", 1.0))


def _summed_weights(inputs: TensorInputs) -> tuple[float, ...]:
    """Return the weights of a method that only adds up: there, to normalize is to divide by the sum beforehand."""
    weights = inputs.each("weight")
    total = math.fsum(weights)
    if not inputs.flag("normalize", False) or abs(total) < TINY_SUM:  # mergekit does not divide by next to nothing
        return weights
    return tuple(weight / total for weight in weights)


def _densities(inputs: TensorInputs) -> tuple[float, ...]:
    return inputs.each("density", 1.0, absent=1.0)


SUMMED = ("weight", "lambda", "normalize")
SPARSE = (*SUMMED, "density", "rescale")
METHODS: dict[str, MergekitMethod] = {
    "linear": MergekitMethod("input", _linear, ("weight", "normalize"), "weight"),
    "passthrough": MergekitMethod("input", _passthrough, ("scale",)),
    "slerp": MergekitMethod("first", _slerp, ("t",), "t", 2, 2, needs_all=True),
    "nuslerp": MergekitMethod(
        "optional", _nuslerp, ("weight", "nuslerp_flatten", "nuslerp_row_wise"), "weight", 2, 2, needs_all=True
    ),
    "multislerp": MergekitMethod("optional", _multislerp, ("weight", "normalize_weights", "eps"), "weight"),
    "karcher": MergekitMethod("input", _karcher, ("max_iter", "tol")),
    "task_arithmetic": MergekitMethod("required", _task_arithmetic, SUMMED, "weight"),
    "ties": MergekitMethod("required", _ties, SPARSE, "weight"),
    "dare_linear": MergekitMethod("required", _dare_linear, SPARSE, "weight"),
    "dare_ties": MergekitMethod("required", _dare_ties, SPARSE, "weight"),
    "della": MergekitMethod("required", _della, (*SPARSE, "epsilon"), "weight"),
    "della_linear": MergekitMethod("required", _della_linear, (*SPARSE, "epsilon"), "weight"),
    "breadcrumbs": MergekitMethod("required", _breadcrumbs, (*SPARSE, "gamma"), "weight"),
    "breadcrumbs_ties": MergekitMethod("required", _breadcrumbs_ties, (*SPARSE, "gamma"), "weight"),
    "model_stock": MergekitMethod("required", _model_stock, ("filter_wise",), None, 2, needs_all=True),
    "sce": MergekitMethod("required", _sce, ("select_topk",), needs_all=True),
}
"""The merge methods of mergekit that can be read, by their name there."""
