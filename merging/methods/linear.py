"""Linear merging, also known as model soups (arXiv 2203.05482)."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from campaigns.recipe import LinearMerge, Method
from merging.methods.method import weighted_sum


class Linear:
    """theta = sum_i w_i theta_i (arXiv 2203.05482). Weights of exactly one-hot give back the parent, bit for bit."""

    needs_base: ClassVar[bool] = False

    def numbers(self, method: Method) -> list[float]:
        """Return the weights, one per source."""
        assert isinstance(method, LinearMerge)
        return list(method.weights)

    def formula(
        self, sources: Sequence[torch.Tensor], base: torch.Tensor | None, numbers: torch.Tensor
    ) -> torch.Tensor:
        """Return sum_i w_i theta_i in float32; n elements from len(sources) x n."""
        return weighted_sum(sources, numbers)

    def verbatim(self, numbers: Sequence[float]) -> int | None:
        """Return the only source with a weight when that weight is 1."""
        active = [index for index, weight in enumerate(numbers) if weight != 0]
        return active[0] if len(active) == 1 and numbers[active[0]] == 1 else None
