"""Task arithmetic (arXiv 2212.04089)."""

from typing import ClassVar

import torch

from campaigns.methods import Method, TaskArithmeticMerge
from merging.methods.method import Block, Numbers, base_if_unmoved, weighted_sum
from merging.tensor_facts import TensorFacts


class TaskArithmetic:
    """theta = theta_0 + scale * sum_i w_i (theta_i - theta_0) (arXiv 2212.04089). Weights or scale 0 give the base."""

    per_tensor: ClassVar[bool] = False
    skips_zero_weights: ClassVar[bool] = True

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the weights, one per source, then the scale."""
        assert isinstance(method, TaskArithmeticMerge)
        return Numbers([*method.weights, method.scale])

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * sum_i w_i (theta_i - theta_0) in float32."""
        return block.origin() + weighted_sum(block.task_vectors(), block) * block.floats[len(block.sources)]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when the task vectors come to nothing."""
        assert isinstance(method, TaskArithmeticMerge)
        return base_if_unmoved(method.scale, method.weights)
