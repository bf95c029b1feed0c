"""What a merge method is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch

from campaigns.methods import Method
from merging.masks import SPAN, chances
from merging.tensor_facts import TensorFacts


@dataclass(frozen=True)
class Numbers:
    """What a method works with on one tensor, found once and then used for every element.

    `floats` and `counts` are its own numbers, in an order of its own; `extras` have one entry per element, `columns`
    one per column of the tensor (or just one). Extras and columns lie on the device of the sources.
    """

    floats: Sequence[float]
    counts: Sequence[int] = ()
    extras: Sequence[torch.Tensor] = field(default=())
    columns: Sequence[torch.Tensor] = field(default=())
    mapped_extras: bool = False
    """Whether extras are views of files, which may be unmapped after use."""
    flags: tuple[bool, ...] = ()
    """Choices that are made once per merge: a compiled function has none of them left."""
    order: Sequence[int] = ()
    """In what order the formula gets the sources; () leaves them in the recipe's."""


class Block(NamedTuple):
    """Consecutive elements of one tensor, from `start` on: what a formula sees. All tensors are 1-D.

    A block lies within one span of SPAN elements, counted from the tensor's beginning.

    `sources`, `base` and `extras` have n elements each, of any type that is merged; `floats` is float32, `counts` and
    `start` (one element) are int64.
    """

    sources: Sequence[torch.Tensor]
    base: torch.Tensor | None
    extras: Sequence[torch.Tensor]
    columns: Sequence[torch.Tensor]
    floats: torch.Tensor
    counts: torch.Tensor
    flags: tuple[bool, ...]
    start: torch.Tensor
    has_idle: bool = False
    """Whether a source weighs nothing: one of the first floats is 0."""

    def task_vectors(self) -> list[torch.Tensor]:
        """Return tau_i = theta_i - theta_0, in float32."""
        origin = self.origin()
        return [source.float() - origin for source in self.sources]

    def origin(self) -> torch.Tensor:
        """Return theta_0 in float32."""
        assert self.base is not None
        return self.base.float()

    def offsets(self) -> torch.Tensor:
        """Return the number of each element within the block; int32."""
        return torch.arange(len(self.sources[0]), dtype=torch.int32, device=self.floats.device)

    def is_within(self, magnitude: torch.Tensor, threshold: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return which elements lie before the `merging.selection.Cut` of this threshold (float32) and position
        (int64)."""
        is_earlier = self.offsets() < (position - self.start).clamp(0, SPAN).to(torch.int32)
        return (magnitude > threshold) | ((magnitude == threshold) & is_earlier)

    def chances(self, index: int) -> torch.Tensor:
        """Return the chances (`merging.masks.chances`) of source `index`; the first counts are pairs of keys."""
        return chances(self.offsets(), self.start, self.counts[2 * index : 2 * index + 2])

    def column(self, index: int) -> torch.Tensor:
        """Return the entry of `columns[index]` that belongs to each element."""
        values = self.columns[index]
        first = (self.start % len(values)).to(torch.int32)
        return values[(self.offsets() + first) % len(values)]


class MergeMethod(Protocol):
    """First a look at each whole tensor, then a pure map, element by element.

    Because the map works element by element, any cut of the tensors into blocks gives the same bits, in the live model,
    on disk and in a stream. `formula` must use each operation by itself (no fused multiply-add) and in the order of the
    sources, so that every device agrees.
    """

    per_tensor: ClassVar[bool]
    """Whether numbers differ between tensors, or elements are told apart by their place in the tensor."""
    skips_zero_weights: ClassVar[bool]
    """Whether leaving out the sources whose `floats` entry is 0 changes no bit; the first floats are weights then."""

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return what the formula needs for the tensor that `facts` are about.

        Raises `InvalidInput` when the pool lacks statistics that the method needs.
        """
        ...

    def formula(self, block: Block) -> torch.Tensor:
        """Return the merged elements in float32, before they are rounded."""
        ...

    def verbatim(self, method: Method) -> int | None:
        """Return which input the merge copies, None when it computes: an index into the sources, or -1 for the base."""
        ...


def lone_source(weights: Sequence[float]) -> int | None:
    """Return the only source with a weight, None when there are more or none."""
    active = [index for index, weight in enumerate(weights) if weight != 0]
    return active[0] if len(active) == 1 else None


def base_if_unmoved(scale: float, weights: Sequence[float], densities: Sequence[float] | None = None) -> int | None:
    """Return -1, the base, when scale times weights times densities add nothing to it, else None."""
    moving = weights if densities is None else [w * d for w, d in zip(weights, densities, strict=True)]
    return None if scale != 0 and any(moving) else -1


def weighted_sum(terms: Sequence[torch.Tensor], block: Block) -> torch.Tensor:
    """Return sum_i w_i x_i in float32, added up in order, w_i the first floats; a weight of 0 changes no bit of it.

    Such a term counts as -0.0: the one number that, added to any other (-0.0 included), does not change it.
    """
    total: torch.Tensor | None = None
    for index, term in enumerate(terms):
        product = term.float() * block.floats[index]
        if block.has_idle:
            product = torch.where(block.floats[index] == 0, -0.0, product)
        total = product if total is None else total + product
    assert total is not None
    return total
