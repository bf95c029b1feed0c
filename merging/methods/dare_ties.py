"""DARE with the sign election of TIES (arXiv 2311.03099, 2306.01708)."""

from typing import ClassVar

import torch

from campaigns.methods import DareTiesMerge, Method
from merging.methods.dare_linear import dare_chances, dare_dropped, dare_factors
from merging.methods.method import Block, Numbers, base_if_unmoved
from merging.methods.sign_election import elected_sum, election_flags
from merging.tensor_facts import TensorFacts


class DareTies:
    """theta = theta_0 + scale * (sum of those w_i m_i tau_i / density_i that have the elected sign), m_i as in DARE."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K factors, scale; K pairs of keys, K numbers of chances in favour."""
        assert isinstance(method, DareTiesMerge)
        factors = dare_factors(method.densities, method.rescale)
        return Numbers(
            [*method.weights, *factors, method.scale],
            [*facts.random_keys(), *dare_chances(method.densities)],
            flags=election_flags(method.weights, method.normalize),
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * merged, in float32."""
        count = len(block.sources)
        merged = elected_sum(dare_dropped(block), block.floats, block.flags)
        return block.origin() + merged * block.floats[2 * count]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, DareTiesMerge)
        return base_if_unmoved(method.scale, method.weights, method.densities)
