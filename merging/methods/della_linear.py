"""DELLA's dropping, which spares what is large in its row, with a weighted sum (arXiv 2406.11617)."""

from typing import ClassVar

import torch

from campaigns.methods import DellaLinearMerge, Method
from merging.masks import CHANCES
from merging.methods.method import Block, Numbers, base_if_unmoved, weighted_sum
from merging.row_ranks import LEVELS
from merging.tensor_facts import TensorFacts


class DellaLinear:
    """theta = theta_0 + scale * sum_i w_i m_i tau_i / p_i; m_i is 1 with probability p_i (arXiv 2406.11617).

    p_i grows linearly, in 256 steps, from density_i - epsilon for the smallest |tau_i| of a row to density_i + epsilon
    for the largest, within [0, 1].
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K lowest probabilities, their step, scale; K pairs of keys; K levels; rescale."""
        assert isinstance(method, DellaLinearMerge)
        return Numbers(
            [*method.weights, *della_floats(method.densities, method.epsilon), method.scale],
            facts.random_keys(),
            flags=(method.rescale,),
            mapped_extras=True,
            extras=[facts.row_ranks(index) for index in range(len(method.weights))],
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * sum, in float32."""
        count = len(block.sources)
        return (
            block.origin()
            + weighted_sum(della_dropped(block, rescale=block.flags[0]), block) * block.floats[2 * count + 1]
        )

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, DellaLinearMerge)
        return base_if_unmoved(method.scale, method.weights)


def della_floats(densities: tuple[float, ...], epsilon: float) -> list[float]:
    """Return K lowest probabilities and the step from level to level.

    Densities of 0 and 1 stay what they are: nothing is kept, or everything. Their lowest probability is far outside
    [0, 1], so that all levels are.
    """
    outside = {0.0: -2.0, 1.0: 2.0}
    lowest = [outside.get(density, density - epsilon) for density in densities]
    return [*lowest, 2 * epsilon / (LEVELS - 1)]


def della_dropped(block: Block, rescale: bool) -> list[torch.Tensor]:
    """Return m_i tau_i / p_i; floats, counts and extras as `DellaLinear.numbers` gives them."""
    count = len(block.sources)
    step = block.floats[2 * count]
    dropped = []
    for index, task_vector in enumerate(block.task_vectors()):
        probability = (block.floats[count + index] + block.extras[index].float() * step).clamp(0.0, 1.0)
        kept = block.chances(index) < (probability * CHANCES).to(torch.int32)
        dropped.append(torch.where(kept, task_vector / probability if rescale else task_vector, 0.0))
    return dropped
