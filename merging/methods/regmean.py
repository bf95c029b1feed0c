"""RegMean: linear layers whose outputs come nearest to those of all sources on their own inputs (arXiv 2212.09849)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch

from campaigns.methods import Method, RegMeanMerge
from merging.methods.method import Block, Numbers, lone_source, weighted_sum
from merging.tensor_facts import TensorFacts

RIDGE = 1e-8
"""Added to the diagonal, times its mean: fewer tokens than inputs leave directions open, and these keep the mean."""


class RegMean:
    """W = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i, G_i = X_i^T X_i / n (arXiv 2212.09849, eq. 2), per linear layer.

    Off-diagonal elements of G_i are multiplied by alpha. Tensors without inputs get the weighted mean. Each layer is
    solved as a whole in float64, on one CPU thread whatever the device: its bits are those of the machine's LAPACK.
    """

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K shares of the mean; the solution, where there is one to find."""
        assert isinstance(method, RegMeanMerge)
        whole = sum(method.weights)
        shares = [weight / whole for weight in method.weights]
        grams = [facts.statistics(index).gram(facts.name) for index in range(len(shares))]
        known = [gram for gram in grams if gram is not None]
        if len(known) < len(shares):
            return Numbers(shares)
        return Numbers(shares, extras=[_solution(facts, known, shares, method.alpha).to(facts.device)])

    def formula(self, block: Block) -> torch.Tensor:
        """Return the solution, or the weighted mean, in float32."""
        return block.extras[0].float() if block.extras else weighted_sum(block.sources, block)

    def verbatim(self, method: Method) -> int | None:
        """Return the only source with a weight."""
        assert isinstance(method, RegMeanMerge)
        return lone_source(method.weights)


def _solution(facts: TensorFacts, grams: list[torch.Tensor], shares: list[float], alpha: float) -> torch.Tensor:
    """Return W, flat, in float32: the mean, changed as far as inputs tell."""
    is_transposed = facts.statistics(0).input_axis(facts.name) == 1

    def inputs_by_outputs(source: torch.Tensor) -> torch.Tensor:
        weight = source.cpu().double().view(facts.shape)
        return weight.T if is_transposed else weight

    with one_thread():  # how many threads share a product decides its last bits
        mean = sum_of(inputs_by_outputs(source) * share for source, share in zip(facts.sources, shares, strict=True))
        left = torch.zeros(grams[0].shape, dtype=torch.float64)
        right = torch.zeros_like(mean)
        for gram, share, source in zip(grams, shares, facts.sources, strict=True):
            diagonal = gram.double().diagonal()
            scaled = (gram.double() - diagonal.diag()) * alpha + diagonal.diag()
            left += scaled * share
            right += scaled @ (inputs_by_outputs(source) - mean) * share
        left.diagonal().add_(RIDGE * float(left.diagonal().mean()) or 1.0)
        found: torch.Tensor = mean + torch.linalg.solve(left, right)
    return (found.T if is_transposed else found).contiguous().view(-1).float()


def sum_of(terms: Iterator[torch.Tensor]) -> torch.Tensor:
    """Return the sum of tensors of which only one is there at a time."""
    found = next(terms).clone()
    for term in terms:
        found += term
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
