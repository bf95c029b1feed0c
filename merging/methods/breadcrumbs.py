"""Model breadcrumbs: drop the outliers and the crumbs of task vectors (arXiv 2312.06795)."""

from typing import ClassVar

import torch

from campaigns.methods import BreadcrumbsMerge, Method
from merging.methods.method import Block, Numbers, base_if_unmoved, weighted_sum
from merging.selection import kept_count
from merging.tensor_facts import TensorFacts


class Breadcrumbs:
    """theta = theta_0 + scale * sum_i w_i m_i tau_i; m_i is 1 for neither the largest nor the smallest |tau_i|.

    The floor(gamma * n) largest of a tensor are dropped, fewer where not enough would be left, and the next
    floor(density * n) kept.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K upper and K lower thresholds, scale; K upper and K lower positions."""
        assert isinstance(method, BreadcrumbsMerge)
        thresholds, positions = breadcrumb_cuts(method.densities, method.gamma, facts)
        return Numbers([*method.weights, *thresholds, method.scale], positions)

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * sum, in float32."""
        count = len(block.sources)
        return block.origin() + weighted_sum(breadcrumbs_of(block), block) * block.floats[3 * count]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, BreadcrumbsMerge)
        return base_if_unmoved(method.scale, method.weights, method.densities)


def breadcrumb_cuts(densities: tuple[float, ...], gamma: float, facts: TensorFacts) -> tuple[list[float], list[int]]:
    """Return thresholds and positions of the cuts above and below what is kept: K of the upper, then K of the lower."""
    kept = [kept_count(density, facts.count) for density in densities]
    dropped = [min(int(gamma * facts.count), facts.count - count) for count in kept]
    reached = [above + count for above, count in zip(dropped, kept, strict=True)]
    cuts = facts.largest([*dropped, *reached])
    return [cut.threshold for cut in cuts], [cut.position for cut in cuts]


def breadcrumbs_of(block: Block) -> list[torch.Tensor]:
    """Return m_i tau_i; floats [K, 3K) are the thresholds, counts the positions."""
    count = len(block.sources)
    kept = []
    for index, task_vector in enumerate(block.task_vectors()):
        size = task_vector.abs()
        outlier = block.is_within(size, block.floats[count + index], block.counts[index])
        wanted = block.is_within(size, block.floats[2 * count + index], block.counts[count + index])
        kept.append(torch.where(wanted & ~outlier, task_vector, 0.0))
    return kept
