"""Fisher merging: weighted by how much each parameter matters to each source (arXiv 2111.09832)."""

import math
from typing import ClassVar

import torch

from campaigns.methods import FisherMerge, Method
from merging.dot_products import dot_products
from merging.methods.method import Block, Numbers, lone_source, weighted_sum
from merging.methods.sign_election import total
from merging.tensor_facts import TensorFacts


class Fisher:
    """theta = sum_i w_i f_i theta_i / sum_i w_i f_i (arXiv 2111.09832, eq. 4), element by element.

    f_i is the diagonal Fisher information, divided by its norm over the whole model, and at least the floor. Tensors
    that a source has no information about get the weighted mean.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K shares, K factors of the information, the floor; the information of each source."""
        assert isinstance(method, FisherMerge)
        whole = sum(method.weights)
        shares = [weight / whole for weight in method.weights]
        found = [facts.statistics(index).fisher(facts.name) for index in range(len(facts.sources))]
        known = [information for information in found if information is not None]
        if len(known) < len(found):
            return Numbers([*shares, *(1.0 for _ in shares), method.floor])
        factors = [1.0 / norm if norm > 0 else 1.0 for norm in facts.remembered("fisher", _norms)]
        # A vocabulary that the pool truncates has fewer rows than the statistics: the first.
        extras = [information[: facts.count].to(facts.device) for information in known]
        return Numbers([*shares, *factors, method.floor], extras=extras)

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted mean in float32."""
        count = len(block.sources)
        if not block.extras:
            return weighted_sum(block.sources, block)
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
        return lone_source(method.weights)


def _norms(facts: TensorFacts) -> list[float]:
    """Return the norm of each source's information over the whole model."""
    norms = []
    for index in range(len(facts.sources)):
        found = [facts.statistics(index).fisher(tensor.name) for tensor in facts.all_tensors()]
        norms.append(math.sqrt(math.fsum(float(dot_products([f])[0, 0]) for f in found if f is not None)))
    return norms
