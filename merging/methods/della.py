"""DELLA: drop by chance, sparing what is large in its row, then elect signs (arXiv 2406.11617)."""

from typing import ClassVar

import torch

from campaigns.methods import DellaMerge, Method
from merging.methods.della_linear import della_dropped, della_floats
from merging.methods.method import Block, Numbers, base_if_unmoved
from merging.methods.sign_election import elected_sum, election_flags
from merging.tensor_facts import TensorFacts


class Della:
    """theta = theta_0 + scale * (weighted mean of the m_i tau_i / p_i that have the elected sign) (2406.11617)."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, what dropping needs, scale; K pairs of keys; K levels; election, rescale."""
        assert isinstance(method, DellaMerge)
        dropping = della_floats(method.densities, method.epsilon)
        return Numbers(
            [*method.weights, *dropping, method.scale],
            facts.random_keys(),
            flags=(*election_flags(method.weights, method.normalize), method.rescale),
            mapped_extras=True,
            extras=[facts.row_ranks(index) for index in range(len(method.weights))],
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * merged, in float32."""
        count = len(block.sources)
        merged = elected_sum(della_dropped(block, rescale=block.flags[2]), block.floats, block.flags[:2])
        return block.origin() + merged * block.floats[2 * count + 1]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, DellaMerge)
        return base_if_unmoved(method.scale, method.weights)
