"""Electing signs: the last two steps of TIES (arXiv 2306.01708, section 3)."""

from collections.abc import Sequence

import torch

from merging.magnitudes import SMALLEST

MIN_SHARE = 1e-6
"""A sum of weights below this share of their absolute sum is nothing but rounding."""


def election_flags(weights: Sequence[float], normalize: bool) -> tuple[bool, bool]:
    """Return the flags of `elected_sum`: whether to normalize, and whether weights of both signs may cancel out."""
    return normalize, min(weights) < 0 < max(weights)


def elected_sum(terms: Sequence[torch.Tensor], weights: torch.Tensor, flags: tuple[bool, ...]) -> torch.Tensor:
    """Return the sum of those w_i x_i whose sign is that of sum_i w_i x_i; a sum of 0 counts as positive.

    To normalize is to divide it by the sum of their w_i, element by element, unless that is nearly 0. Where weights
    cannot cancel out, a number too small to change a sum of weights is added instead of making that choice.
    """
    normalize, may_cancel = flags
    weighted = [term * weights[index] for index, term in enumerate(terms)]
    positive = total(weighted) >= 0
    agreeing = [torch.where(positive, term > 0, term < 0) for term in weighted]
    merged = total([torch.where(agrees, term, 0.0) for agrees, term in zip(agreeing, weighted, strict=True)])
    if not normalize:
        return merged
    divisor = total([torch.where(agrees, weights[index], 0.0) for index, agrees in enumerate(agreeing)])
    if may_cancel:
        smallest = total([weights[index].abs() for index in range(len(terms))]) * MIN_SHARE
        return merged / torch.where(divisor.abs() <= smallest, 1.0, divisor)
    return merged / (divisor + SMALLEST)


def total(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return sum_i x_i, added up in order."""
    found = terms[0]
    for term in terms[1:]:
        found = found + term
    return found
