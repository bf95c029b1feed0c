"""EMR merging: one unified task vector, and masks and scales that make each task's model of it (arXiv 2405.17461)."""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from campaigns.methods import EmrMerge, Method
from merging.dot_products import LANES, sums
from merging.methods.method import Block, Numbers
from merging.methods.sign_election import total
from merging.tensor_facts import TensorFacts


class Emr:
    """theta = theta_0 + tau, or theta_0 + l_i m_i tau for task i (arXiv 2405.17461, section 3.2).

    tau has the sign of sum_i tau_i and the largest |tau_i| of that sign; m_i = [tau_i tau > 0];
    l_i = sum |tau_i| / sum |m_i tau| over the whole model.
    """

    per_tensor: ClassVar[bool] = False
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the scale, and one float per source: 1 for the task's, 0 for the others; all 0 for the unified one."""
        assert isinstance(method, EmrMerge)
        chosen = [float(index == method.task) for index in range(len(facts.sources))]
        return Numbers([1.0 if method.task is None else facts.remembered("emr", _scales)[method.task], *chosen])

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * what the mask leaves of the unified task vector, in float32."""
        task_vectors = block.task_vectors()
        unified = unify(task_vectors)
        is_unified = total([block.floats[1 + index] for index in range(len(task_vectors))]) == 0
        masks = [(tau * unified > 0) & (block.floats[1 + index] != 0) for index, tau in enumerate(task_vectors)]
        kept = total([mask.to(torch.int32) for mask in masks]) > 0
        return block.origin() + torch.where(kept | is_unified, unified, 0.0) * block.floats[0]

    def verbatim(self, method: Method) -> int | None:
        """Return None: no parameter makes it a copy."""
        return None


def unify(task_vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the elected sign times the largest magnitude of that sign, element by element."""
    positive = total(task_vectors) >= 0
    sizes = [torch.where(torch.where(positive, tau > 0, tau < 0), tau.abs(), 0.0) for tau in task_vectors]
    largest = sizes[0]
    for size in sizes[1:]:
        largest = torch.maximum(largest, size)
    return torch.where(positive, largest, -largest)


def _scales(facts: TensorFacts) -> list[float]:
    """Return l_i for each source; 0 where nothing is left of a task."""
    count = len(facts.sources)
    found = [sums(_sizes(tensor), 2 * count) for tensor in facts.all_tensors()]
    whole = [math.fsum(values) for values in zip(*found, strict=True)]
    return [own / left if left > 0 else 0.0 for own, left in zip(whole[:count], whole[count:], strict=True)]


def _sizes(facts: TensorFacts) -> Iterator[torch.Tensor]:
    """Yield |tau_i|, then |m_i tau|, a few elements at a time; 2K x n."""
    for start in range(0, facts.count, LANES):
        task_vectors = facts.task_vectors(slice(start, min(start + LANES, facts.count)))
        unified = unify(task_vectors)
        left = [torch.where(tau * unified > 0, unified.abs(), 0.0) for tau in task_vectors]
        yield torch.stack([*(tau.abs() for tau in task_vectors), *left])
