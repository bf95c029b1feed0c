"""What may vary, as asked for. `search_spaces` turns these into maps from the unit cube to recipes."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from campaigns.noun import Noun, wrong


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise wrong("", bounds, "the lower bound must be below the upper bound")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class _Weights(Noun):
    """What every space over one weight per checkpoint shares.

    `freeze` fixes final weights by checkpoint name; checkpoints of one group share one dimension.
    """

    bounds_of: dict[str, Bounds] = Field({}, description="Bounds of single checkpoints, by name")
    freeze: dict[str, float] = Field({}, description="Final weights held fixed, by checkpoint name")
    groups: tuple[tuple[str, ...], ...] = Field((), description="Checkpoints that share one weight, by name")

    @model_validator(mode="after")
    def _one_role_each(self) -> "_Weights":
        grouped: set[str] = set()
        for index, group in enumerate(self.groups):
            for name in group:
                if name in grouped or name in self.freeze:
                    message = "a checkpoint may be in one group only, and not frozen as well"
                    raise wrong(f"groups.{index}", name, message)
                grouped.add(name)
        return self

    def named_checkpoints(self) -> list[tuple[str, str]]:
        """Return (field path, checkpoint name) for every checkpoint that this space mentions."""
        mentioned = [(f"bounds_of.{name}", name) for name in self.bounds_of]
        mentioned += [(f"freeze.{name}", name) for name in self.freeze]
        mentioned += [(f"groups.{i}.{j}", name) for i, group in enumerate(self.groups) for j, name in enumerate(group)]
        return mentioned


class LinearSpace(_Weights):
    """Linear merges. `normalize` says how raw coordinates r_i become weights w_i:

    - `sum`: w_i = r_i / sum(r), r in `bounds`, default [0, 1]; every parent and the uniform soup are reachable;
    - `softmax`: w = softmax(r), r in `bounds`, default [-4, 4];
    - `free`: w_i = r_i, default [0, 1]; weights need not sum to one.

    Frozen weights are final: under `sum` and `softmax` the others share what they leave of one.
    """

    kind: Literal["linear"] = "linear"
    normalize: Literal["sum", "softmax", "free"] = "sum"
    bounds: Bounds | None = None

    @model_validator(mode="after")
    def _normalizable(self) -> "LinearSpace":
        if self.normalize == "sum":
            for field, bounds in (("bounds", self.bounds), *((f"bounds_of.{n}", b) for n, b in self.bounds_of.items())):
                if bounds is not None and bounds[0] < 0:
                    raise wrong(field, bounds, "with normalize 'sum' the lower bound must be at least 0")
        total = math.fsum(self.freeze.values())
        if self.normalize != "free" and (total >= 1 or any(weight < 0 for weight in self.freeze.values())):
            message = "frozen weights must be at least 0 and sum to less than 1 unless normalize is 'free'"
            raise wrong("freeze", self.freeze, message)
        return self


class TaskArithmeticSpace(_Weights):
    """Task arithmetic: one weight per task vector, and the common `scale` (lambda) fixed or searched."""

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    bounds: Bounds = (0.0, 1.0)
    scale: float | Bounds = 1.0


Space = Annotated[LinearSpace | TaskArithmeticSpace, Field(discriminator="kind")]
