"""Fisher merging: weighted by how much each parameter matters to each source (arXiv 2111.09832)."""

import math
from typing import ClassVar

import torch

from campaigns.methods import FisherMerge, Method
from merging.dot_products import dot_products
from merging.methods.method import Block, Numbers
from merging.methods.sign_election import total
from merging.tensor_facts import TensorFacts


class Fisher:
    """theta = sum_i w_i f_i theta_i / sum_i w_i f_i (arXiv 2111.09832, eq. 4), element by element.

    f_i is the diagonal Fisher information, divided by its norm over the whole model, and at least the floor. Where a
    tensor has none, it is the weighted mean.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K factors of the information, the floor; the information of each source."""
        assert isinstance(method, FisherMerge)
        found = [facts.statistics(index).fisher(facts.name) for index in range(len(facts.sources))]
        # A vocabulary that the pool truncates has fewer rows than the statistics: the first.
        information = [torch.ones(1).expand(facts.count) if f is None else f[: facts.count] for f in found]
        norms = facts.remembered("fisher", _norms)
        factors = [1.0 / norm if norm > 0 else 1.0 for norm in norms]
        extras = [extra.to(facts.device) for extra in information]
        return Numbers([*method.weights, *factors, method.floor], extras=extras)

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted mean in float32."""
        count = len(block.sources)
        floor = block.floats[2 * count]
        weights = [
            torch.maximum(extra * block.floats[count + index], floor) * block.floats[index]
            for index, extra in enumerate(block.extras)
        ]
        weighted = [source.float() * weight for source, weight in zip(block.sources, weights, strict=True)]
        return total(weighted) / total(weights)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight."""
        assert isinstance(method, FisherMerge)
        active = [index for index, weight in enumerate(method.weights) if weight != 0]
        return active[0] if len(active) == 1 else None


def _norms(facts: TensorFacts) -> list[float]:
    """Return the norm of each source's information over the whole model."""
    norms = []
    for index in range(len(facts.sources)):
        found = [facts.statistics(index).fisher(tensor.name) for tensor in facts.all_tensors()]
        norms.append(math.sqrt(math.fsum(float(dot_products([f])[0, 0]) for f in found if f is not None)))
    return norms
