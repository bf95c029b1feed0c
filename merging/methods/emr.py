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
        """Return the task's scale; which source is the task's, if any."""
        assert isinstance(method, EmrMerge)
        if method.task is None:
            return Numbers([])
        flags = tuple(index == method.task for index in range(len(facts.sources)))
        return Numbers([facts.remembered("emr", _scales)[method.task]], flags=flags)

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + the unified task vector, or what the task makes of it, in float32."""
        task_vectors = block.task_vectors()
        unified = unify(task_vectors)
        if not any(block.flags):
            return block.origin() + unified
        return block.origin() + masked(unified, task_vectors[block.flags.index(True)]) * block.floats[0]

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


def masked(unified: torch.Tensor, task_vector: torch.Tensor) -> torch.Tensor:
    """Return m tau: the elements of the unified task vector that have a task's sign."""
    return torch.where(torch.where(unified > 0, task_vector > 0, task_vector < 0), unified, 0.0)


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
        left = [masked(unified, tau).abs() for tau in task_vectors]
        yield torch.stack([*(tau.abs() for tau in task_vectors), *left])
