"""What a merge method is."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch

from campaigns.recipe import Method


class MergeMethod(Protocol):
    """A pure map from the sources' elements and a few numbers to the merged elements, element by element.

    Because it works element by element, any cut of the tensors into blocks gives the same bits. `formula` must use each
    operation by itself (no fused multiply-add) and in the order of the sources, so that every device agrees.
    """

    needs_base: ClassVar[bool]

    def numbers(self, method: Method) -> list[float]:
        """Return the numbers that `formula` takes; the first len(sources) are the sources' weights."""
        ...

    def formula(
        self, sources: Sequence[torch.Tensor], base: torch.Tensor | None, numbers: torch.Tensor
    ) -> torch.Tensor:
        """Return the merged elements in float32, before they are rounded.

        `sources`: at least one 1-D tensor of equal length n, of any type that is merged; `base`: n elements, when the
        method needs one; `numbers`: as from the method of that name, 1-D float32. Sources of weight 0 are left out
        beforehand unless the function is being compiled; either way they must not change a bit of the result.
        """
        ...

    def verbatim(self, numbers: Sequence[float]) -> int | None:
        """Return which input the merge copies, None when it computes: an index into the sources, or -1 for the base."""
        ...


def weighted_sum(terms: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Return sum_i w_i x_i in float32, added up in order.

    Plain callers leave out terms of weight 0. A compiled function serves all weights, so there such a term counts as
    -0.0: the one number that, added to any other (-0.0 included), does not change it.
    """
    total: torch.Tensor | None = None
    for index, term in enumerate(terms):
        product = term.float() * weights[index]
        if torch.compiler.is_compiling():
            product = torch.where(weights[index] == 0, -0.0, product)
        total = product if total is None else total + product
    assert total is not None
    return total
