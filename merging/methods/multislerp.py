"""Mean direction of several checkpoints or task vectors (as `multislerp` of the merge tools)."""

from typing import ClassVar

import numpy as np
import torch

from campaigns.methods import Method, MultiSlerpMerge
from merging.methods.method import Block, Numbers, lone_source
from merging.methods.spherical import MIN_LENGTH, as_floats, directions, inverse_lengths, lengths, weighted_vectors
from merging.tensor_facts import TensorFacts


class MultiSlerp:
    """(sum_i w_i ||x_i||) * m, m the unit vector along sum_i w_i x_i / ||x_i||; of tau_i where there is a base.

    Where the directions cancel out, it is 0. The mean of the u_i = x_i / ||x_i|| in the tangent space at m, which is
    often added, is 0: sum_i w_i u_i is along m.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the K weights of the vectors."""
        assert isinstance(method, MultiSlerpMerge)
        products = facts.dot_products(facts.recipe.base)
        weights = np.array(method.weights)
        if method.normalize:
            weights = weights / weights.sum()
        length = float(np.sqrt(max(weights @ directions(products) @ weights, 0.0)))
        if length <= MIN_LENGTH * float(np.abs(weights).sum()):
            return Numbers(as_floats(np.zeros_like(weights)))
        return Numbers(as_floats(weights * inverse_lengths(products) * (weights @ lengths(products)) / length))

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted sum in float32."""
        return weighted_vectors(block)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight when that weight is 1."""
        assert isinstance(method, MultiSlerpMerge)
        lone = lone_source(method.weights)
        return lone if lone is not None and (method.normalize or method.weights[lone] == 1) else None
