"""One merge without a search: the document that `mergefront merge` reads."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from campaigns.errors import from_validation
from campaigns.noun import Noun, wrong
from campaigns.pools import Pool, PoolSpec
from campaigns.recipe import LinearMerge, Recipe, TaskArithmeticMerge


class MergeConfig(Noun):
    """A pool, a method and one weight per checkpoint, by name; `scale` is task arithmetic's lambda."""

    pool: PoolSpec
    method: Literal["linear", "task_arithmetic"] = "linear"
    weights: dict[str, float] = Field(min_length=1)
    scale: float = 1.0

    @model_validator(mode="after")
    def _weights_fit_pool(self) -> "MergeConfig":
        for name in self.weights:
            if name not in self.pool.names:
                raise wrong(f"weights.{name}", name, "no checkpoint has this name", ", ".join(self.pool.names))
        if self.method == "task_arithmetic" and self.pool.base is None:
            raise wrong("pool.base", None, "method 'task_arithmetic' needs a base checkpoint")
        if self.method == "linear" and self.scale != 1.0:
            raise wrong("scale", self.scale, "scale goes with method 'task_arithmetic' only", "1.0")
        return self

    def recipe(self, pool: Pool) -> Recipe:
        """Return the recipe over `pool`, which is what was found of `self.pool`. A checkpoint left out weighs 0."""
        weights = tuple(self.weights.get(name, 0.0) for name in pool.names)
        is_linear = self.method == "linear"
        return Recipe(
            method=LinearMerge(weights=weights)
            if is_linear
            else TaskArithmeticMerge(weights=weights, scale=self.scale),
            sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
            base=None if is_linear else pool.template.digest,
            template=pool.template.digest,
            dtype=pool.dtype,
        )


def parse_merge_config(document: Mapping[str, Any]) -> MergeConfig:
    """Return the configuration that `document` says, or raise `InvalidSpec` naming every wrong field."""
    try:
        return MergeConfig.model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None
