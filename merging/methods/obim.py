"""OBIM: every element belongs to one source at most, to whom it matters most (arXiv 2502.12217)."""

from typing import ClassVar

import torch

from campaigns.methods import Method, ObimMerge
from merging.magnitudes import SMALLEST, Magnitudes
from merging.methods.method import Block, Numbers, base_if_unmoved
from merging.selection import Cut, MagnitudeTable
from merging.tensor_facts import TensorFacts

CHUNK_ELEMENTS = 1 << 18


class Obim:
    """theta = theta_0 + sum_i w_i m_i tau_i with masks m_i that exclude each other (arXiv 2502.12217, section 3).

    In each round every source in turn takes its most salient elements among those still free, by
    s_i = tau_i^2 * diag(X_i X_i^T): floor(density_i * n) of a tensor in all, an equal share per round. Tensors that
    multiply no input are judged by tau_i^2 alone.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, then one threshold per round and source; the cuts' positions; energies; the order."""
        assert isinstance(method, ObimMerge)
        order = method.order or tuple(range(len(method.weights)))
        thresholds, positions = _cuts(method, order, facts)
        return Numbers(
            [*(method.weights[index] for index in order), *thresholds],
            positions,
            columns=[facts.input_energies(index) for index in order],
            order=order,
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + what each source adds where it was first, in float32."""
        count = len(block.sources)
        task_vectors = block.task_vectors()
        saliencies = [(tau * tau * block.column(index)).clamp_min(SMALLEST) for index, tau in enumerate(task_vectors)]
        occupied = torch.zeros_like(task_vectors[0]) != 0
        added = torch.zeros_like(task_vectors[0])
        for turn in range(len(block.counts)):
            index = turn % count
            wanted = block.is_within(saliencies[index], block.floats[count + turn], block.counts[turn])
            wanted = wanted & (task_vectors[index] != 0)
            added = torch.where(wanted & ~occupied, task_vectors[index] * block.floats[index], added)
            occupied = occupied | wanted
        return block.origin() + added

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, ObimMerge)
        return base_if_unmoved(1.0, method.weights, method.densities)


def _cuts(method: ObimMerge, order: tuple[int, ...], facts: TensorFacts) -> tuple[list[float], list[int]]:
    """Return thresholds and positions of the cut that each turn makes among what the turns before it left free."""
    free = torch.ones(facts.count, dtype=torch.bool, device=facts.device)
    taken = dict.fromkeys(order, 0)
    thresholds, positions = [], []
    for number in range(1, method.rounds + 1):
        for index in order:
            share = int(method.densities[index] * facts.count) * number // method.rounds
            saliencies = facts.saliencies(index, free)
            cut = MagnitudeTable.of(saliencies).largest(share - taken[index], saliencies)
            taken[index] = share
            thresholds.append(cut.threshold)
            positions.append(cut.position)
            _occupy(free, facts, index, saliencies, cut)
    return thresholds, positions


def _occupy(free: torch.Tensor, facts: TensorFacts, index: int, saliencies: Magnitudes, cut: Cut) -> None:
    """Mark what a turn takes; an element that its source never moved stays free."""
    for start in range(0, len(free), CHUNK_ELEMENTS):
        chunk = slice(start, min(start + CHUNK_ELEMENTS, len(free)))
        found = saliencies.measure(chunk)
        earlier = torch.arange(chunk.start, chunk.stop, device=free.device) < cut.position
        wanted = (found > cut.threshold) | ((found == cut.threshold) & earlier)
        free[chunk] &= ~(wanted & (facts.task_vector(index, chunk) != 0))
