"""Task arithmetic (arXiv 2212.04089)."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from campaigns.recipe import Method, TaskArithmeticMerge
from merging.methods.method import weighted_sum


class TaskArithmetic:
    """theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089). Weights or scale 0 give the base."""

    needs_base: ClassVar[bool] = True

    def numbers(self, method: Method) -> list[float]:
        """Return the weights, one per source, then the scale."""
        assert isinstance(method, TaskArithmeticMerge)
        return [*method.weights, method.scale]

    def formula(
        self, sources: Sequence[torch.Tensor], base: torch.Tensor | None, numbers: torch.Tensor
    ) -> torch.Tensor:
        """Return theta_0 + scale * sum_i w_i (theta_i - theta_0) in float32; n elements from len(sources) x n."""
        assert base is not None
        origin = base.float()
        task_vectors = [source.float() - origin for source in sources]
        return origin + weighted_sum(task_vectors, numbers) * numbers[len(sources)]

    def verbatim(self, numbers: Sequence[float]) -> int | None:
        """Return -1, the base, when the task vectors come to nothing."""
        return -1 if numbers[-1] == 0 or not any(numbers[:-1]) else None
