"""Model stock: how far from the base the mean of few fine-tuned checkpoints should go (arXiv 2403.19522)."""

from typing import ClassVar

import numpy as np
import torch

from campaigns.methods import Method, ModelStockMerge
from merging.methods.method import Block, Numbers
from merging.methods.spherical import directions, weighted_vectors
from merging.tensor_facts import TensorFacts


class ModelStock:
    """theta = theta_0 + t * mean_i tau_i, t = K c / (1 + (K - 1) c), c the mean cosine of pairs of tau (eq. 3).

    Per tensor. t is kept within [0, 1]: a negative c gives numbers outside, and a pole at -1 / (K - 1).
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K times t / K."""
        assert isinstance(method, ModelStockMerge)
        cosines = directions(facts.dot_products(facts.recipe.base))
        count = len(cosines)
        if count == 1:
            return Numbers([1.0])
        cosine = max(float(np.mean(cosines[np.triu_indices(count, 1)])), 0.0)
        t = count * cosine / (1.0 + (count - 1) * cosine)
        return Numbers([t / count] * count)

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + the weighted sum of the task vectors, in float32."""
        return weighted_vectors(block)

    def verbatim(self, method: Method) -> int | None:
        """Return None: no parameter makes it a copy."""
        return None
