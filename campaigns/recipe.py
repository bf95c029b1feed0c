"""The recipe: everything that determines the bytes of a merged model, and so its identity."""

from typing import Annotated, Literal

from pydantic import Field

from campaigns.noun import Noun, canonical_digest
from campaigns.pools import Dtype


class LinearMerge(Noun):
    """theta = sum_i w_i theta_i (arXiv 2203.05482). One weight per source; they need not sum to one."""

    kind: Literal["linear"] = "linear"
    weights: tuple[float, ...] = Field(min_length=1)


class TaskArithmeticMerge(Noun):
    """theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089). Needs a base."""

    kind: Literal["task_arithmetic"] = "task_arithmetic"
    weights: tuple[float, ...] = Field(min_length=1)
    scale: float = 1.0


Method = Annotated[LinearMerge | TaskArithmeticMerge, Field(discriminator="kind")]


class Recipe(Noun):
    """A merge method with its parameters over sources named by content digest.

    The same recipe gives the same bytes on any device, thread count, chunking or way out.
    """

    method: Method
    sources: tuple[str, ...] = Field(min_length=1, description="Content digests of the checkpoints, in order")
    base: str | None = Field(None, description="Content digest of the base, where the method needs one")
    template: str = Field(description="Content digest of the checkpoint whose configuration and tokenizer it gets")
    dtype: Dtype
    seed: int = 0

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the canonical JSON: the identity of the merged model."""
        return canonical_digest(self)
