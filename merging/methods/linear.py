"""Linear merging, also known as model soups (arXiv 2203.05482)."""

from typing import ClassVar

import torch

from campaigns.methods import LinearMerge, Method
from merging.methods.method import Block, Numbers, lone_source, weighted_sum
from merging.tensor_facts import TensorFacts


class Linear:
    """theta = sum_i w_i theta_i (arXiv 2203.05482). Weights of exactly one-hot give back the parent, bit for bit."""

    per_tensor: ClassVar[bool] = False
    skips_zero_weights: ClassVar[bool] = True

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the weights, one per source."""
        assert isinstance(method, LinearMerge)
        return Numbers(method.weights)

    def formula(self, block: Block) -> torch.Tensor:
        """Return sum_i w_i theta_i in float32."""
        return weighted_sum(block.sources, block)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight when that weight is 1."""
        assert isinstance(method, LinearMerge)
        lone = lone_source(method.weights)
        return lone if lone is not None and method.weights[lone] == 1 else None
