"""Slerp of two checkpoints or of their task vectors, by weights."""

from typing import ClassVar

import torch

from campaigns.methods import Method, NuSlerpMerge
from merging.methods.method import Block, Numbers
from merging.methods.spherical import slerp_weights, weighted_vectors
from merging.tensor_facts import TensorFacts

MIN_SINE = 1e-4  # between vectors nearer to opposite, the great circle is a matter of rounding


class NuSlerp:
    """Slerp at t = w_1 / (w_0 + w_1); of tau_i, added to theta_0, where there is a base. Tensors taken as vectors."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the weights of the two vectors."""
        assert isinstance(method, NuSlerpMerge)
        first, second = method.weights
        return Numbers(slerp_weights(facts.dot_products(facts.recipe.base), second / (first + second), MIN_SINE))

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted sum in float32."""
        return weighted_vectors(block)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight."""
        assert isinstance(method, NuSlerpMerge)
        first, second = method.weights
        return 0 if second == 0 else 1 if first == 0 else None
