"""DARE: drop by chance, rescale, add up (arXiv 2311.03099)."""

from typing import ClassVar

import torch

from campaigns.methods import DareLinearMerge, Method
from merging.masks import CHANCES
from merging.methods.method import Block, Numbers, base_if_unmoved, weighted_sum
from merging.tensor_facts import TensorFacts


class DareLinear:
    """theta = theta_0 + scale * sum_i w_i m_i tau_i / density_i, m_i 1 with chance density_i (arXiv 2311.03099)."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K factors, scale; K pairs of keys, K numbers of chances in favour."""
        assert isinstance(method, DareLinearMerge)
        return Numbers(
            [*method.weights, *dare_factors(method.densities, method.rescale), method.scale],
            [*facts.random_keys(), *dare_chances(method.densities)],
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * sum, in float32."""
        count = len(block.sources)
        return block.origin() + weighted_sum(dare_dropped(block), block) * block.floats[2 * count]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, DareLinearMerge)
        return base_if_unmoved(method.scale, method.weights, method.densities)


def dare_factors(densities: tuple[float, ...], rescale: bool) -> list[float]:
    """Return 1 / density per source, 1 without rescaling; where nothing is kept, it does not matter."""
    return [1.0 / density if rescale and density > 0 else 1.0 for density in densities]


def dare_chances(densities: tuple[float, ...]) -> list[int]:
    """Return how many of all chances keep an element, per source."""
    return [round(density * CHANCES) for density in densities]


def dare_dropped(block: Block) -> list[torch.Tensor]:
    """Return m_i tau_i times its factor; floats [K, 2K) are the factors, counts as `DareLinear.numbers` gives them."""
    count = len(block.sources)
    dropped = []
    for index, task_vector in enumerate(block.task_vectors()):
        kept = block.chances(index) < block.counts[2 * count + index].to(torch.int32)
        dropped.append(torch.where(kept, task_vector * block.floats[count + index], 0.0))
    return dropped
