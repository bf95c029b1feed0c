"""Electing signs: the last two steps of TIES (arXiv 2306.01708, section 3)."""

from collections.abc import Sequence

import torch

MIN_DIVISOR = 1e-8


def elected_sum(terms: Sequence[torch.Tensor], weights: torch.Tensor, normalize: torch.Tensor) -> torch.Tensor:
    """Return the sum of those w_i x_i whose sign is that of sum_i w_i x_i; a sum of 0 counts as positive.

    Where `normalize` (one number) is not 0, it is divided by the sum of their w_i, element by element, unless that is
    nearly 0.
    """
    weighted = [term * weights[index] for index, term in enumerate(terms)]
    positive = total(weighted) >= 0
    agreeing = [torch.where(positive, term > 0, term < 0) for term in weighted]
    merged = total([torch.where(agrees, term, 0.0) for agrees, term in zip(agreeing, weighted, strict=True)])
    divisor = total([torch.where(agrees, weights[index], 0.0) for index, agrees in enumerate(agreeing)])
    return merged / torch.where((normalize == 0) | (divisor.abs() < MIN_DIVISOR), 1.0, divisor)


def total(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return sum_i x_i, added up in order."""
    found = terms[0]
    for term in terms[1:]:
        found = found + term
    return found
