"""SCE: select by variance, calculate weights, erase minority signs (arXiv 2408.07990)."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from campaigns.methods import Method, SceMerge
from merging.dot_products import LANES, sums
from merging.magnitudes import SMALLEST, Magnitudes
from merging.methods.method import Block, Numbers
from merging.methods.sign_election import total
from merging.selection import ALL, Cut, MagnitudeTable
from merging.tensor_facts import TensorFacts

ABOVE_ZERO = 1.401298464324817e-45
"""The smallest float32 that is not 0."""


class Sce:
    """theta = theta_0 + scale * sum_i w_i tau_i / sum_i w_i over the tau_i with the sign of sum_i tau_i
    (arXiv 2408.07990, section 3.2).

    Of the elements that vary over the sources at all, the top fraction by variance take part; w_i is the share of
    source i in their energy sum tau_i^2, per tensor.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, the threshold of variance, scale; the cut's position."""
        assert isinstance(method, SceMerge)
        cut = _cut(method.top_fraction, facts)
        energies = sums(_energies(cut, facts), len(facts.sources))
        whole = sum(energies) or 1.0
        return Numbers([*(energy / whole for energy in energies), cut.threshold, method.scale], [cut.position])

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * merged, in float32."""
        count = len(block.sources)
        task_vectors = block.task_vectors()
        selected = block.is_within(variance(task_vectors), block.floats[count], block.counts[0])
        positive = total(task_vectors) >= 0
        agreeing = [torch.where(positive, tau > 0, tau < 0) & selected for tau in task_vectors]
        weights = [torch.where(agrees, block.floats[i], 0.0) for i, agrees in enumerate(agreeing)]
        divisor = total(weights)
        merged = total([tau * weight for tau, weight in zip(task_vectors, weights, strict=True)])
        merged = merged / (divisor + SMALLEST)
        return block.origin() + merged * block.floats[count + 1]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, SceMerge)
        return -1 if method.scale == 0 or method.top_fraction == 0 else None


def variance(task_vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the variance of each element over the sources, in float32."""
    mean = total(task_vectors) / len(task_vectors)
    deviations = [tau - mean for tau in task_vectors]
    return total([deviation * deviation for deviation in deviations]) / len(task_vectors)


def _cut(top_fraction: float, facts: TensorFacts) -> Cut:
    if top_fraction == 1:
        return ALL
    variances = Magnitudes(lambda elements: variance(facts.task_vectors(elements)), facts.count, facts.device)
    table = MagnitudeTable.of(variances)
    varying = facts.count - sum(int(torch.count_nonzero(m)) for _, m in variances.members(0.0, ABOVE_ZERO))
    return table.largest(int(top_fraction * varying), variances)


def _energies(cut: Cut, facts: TensorFacts) -> Iterator[torch.Tensor]:
    """Yield tau_i^2 of the elements before the cut, a few at a time; K x n."""
    for start in range(0, facts.count, LANES):
        task_vectors = facts.task_vectors(slice(start, min(start + LANES, facts.count)))
        variances = variance(task_vectors)
        earlier = torch.arange(start, start + len(variances), device=facts.device) < cut.position
        selected = (variances > cut.threshold) | ((variances == cut.threshold) & earlier)
        yield torch.stack([torch.where(selected, tau.double() ** 2, 0.0) for tau in task_vectors])
