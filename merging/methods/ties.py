"""TIES merging: trim, elect signs, merge what agrees (arXiv 2306.01708)."""

from typing import ClassVar

import torch

from campaigns.methods import Method, TiesMerge
from merging.methods.method import Block, Numbers, base_if_unmoved
from merging.methods.sign_election import elected_sum, election_flags
from merging.selection import Cut, kept_count
from merging.tensor_facts import TensorFacts


class Ties:
    """theta = theta_0 + scale * (weighted mean of the trimmed tau_i that have the elected sign) (arXiv 2306.01708).

    The trim keeps the floor(density * n) largest (one at least, unless the density is 0) of each tensor or of the
    model, by |tau| or by tau^2 * diag(X X^T) (arXiv 2502.12217); of equals, the first.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K thresholds, scale; K positions; K columns of energies when by saliency."""
        assert isinstance(method, TiesMerge)
        cuts = _cuts(method, facts)
        floats = [*method.weights, *(cut.threshold for cut in cuts), method.scale]
        flags = election_flags(method.weights, method.normalize)
        by_saliency = method.trim_by == "saliency"
        columns = [facts.input_energies(index) for index in range(len(cuts))] if by_saliency else []
        return Numbers(floats, [cut.position for cut in cuts], columns=columns, flags=flags)

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * merged, in float32."""
        count = len(block.sources)
        trimmed = []
        for index, task_vector in enumerate(block.task_vectors()):
            size = task_vector * task_vector * block.column(index) if block.columns else task_vector.abs()
            kept = block.is_within(size, block.floats[count + index], block.counts[index])
            trimmed.append(torch.where(kept, task_vector, 0.0))
        merged = elected_sum(trimmed, block.floats, block.flags)
        return block.origin() + merged * block.floats[2 * count]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, TiesMerge)
        return base_if_unmoved(method.scale, method.weights, method.densities)


def _cuts(method: TiesMerge, facts: TensorFacts) -> list[Cut]:
    if method.trim == "global":
        return [facts.largest_of_model(index, density) for index, density in enumerate(method.densities)]
    counts = [kept_count(density, facts.count) for density in method.densities]
    if method.trim_by == "saliency":
        return [facts.most_salient(index, count) for index, count in enumerate(counts)]
    return facts.largest(counts)
