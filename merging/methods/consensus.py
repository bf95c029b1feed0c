"""Consensus merging by TALL masks: keep what matters to several tasks (arXiv 2405.07813)."""

from typing import ClassVar

import torch

from campaigns.methods import ConsensusMerge, Method
from merging.methods.method import Block, Numbers, base_if_unmoved, weighted_sum
from merging.methods.sign_election import total
from merging.tensor_facts import TensorFacts


class Consensus:
    """theta = theta_0 + scale * tau * [sum_i m_i >= agreeing] with tau = sum_i w_i tau_i (arXiv 2405.07813).

    m_i = [|tau_i| >= lambda |tau - tau_i|] is the TALL mask of task i (eq. 4).
    """

    per_tensor: ClassVar[bool] = False
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, lambda, scale; how many must agree."""
        assert isinstance(method, ConsensusMerge)
        return Numbers([*method.weights, method.mask_threshold, method.scale], [method.agreeing])

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * what is agreed upon, in float32."""
        count = len(block.sources)
        task_vectors = block.task_vectors()
        merged = weighted_sum(task_vectors, block)
        masks = [tau.abs() >= (merged - tau).abs() * block.floats[count] for tau in task_vectors]
        agreed = total([mask.to(torch.int32) for mask in masks]) >= block.counts[0]
        return block.origin() + torch.where(agreed, merged, 0.0) * block.floats[count + 1]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, ConsensusMerge)
        return base_if_unmoved(method.scale, method.weights)
