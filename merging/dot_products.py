"""Sums and dot products of tensors, the same to the last bit on every machine."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

LANES = 1 << 15


def dot_products(tensors: Sequence[torch.Tensor], origin: torch.Tensor | None = None) -> npt.NDArray[np.float64]:
    """Return <x_i, x_j> for each pair of 1-D tensors of one length, less the origin if given; float64, square.

    Differences are those of float32. Products of float32 numbers are exact in float64, and they are added up in a fixed
    order, so the result depends neither on threads nor on the device.
    """
    count = len(tensors)
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    lanes = torch.zeros(len(pairs), LANES, dtype=torch.float64, device=tensors[0].device)
    for start in range(0, len(tensors[0]), LANES):
        block = [tensor[start : start + LANES].float() for tensor in tensors]
        if origin is not None:
            block = [values - origin[start : start + LANES].float() for values in block]
        block = [values.double() for values in block]
        for lane, (i, j) in zip(lanes, pairs, strict=True):
            lane[: len(block[0])].addcmul_(block[i], block[j])
    found = np.zeros((count, count))
    for (i, j), value in zip(pairs, _added_up(lanes), strict=True):
        found[i, j] = found[j, i] = value
    return found


def sums(blocks: Iterable[torch.Tensor], count: int) -> list[float]:
    """Return the sums over the second dimension of all blocks, each `count` x at most LANES, in float64."""
    lanes: torch.Tensor | None = None
    for block in blocks:
        if lanes is None:
            lanes = torch.zeros(count, LANES, dtype=torch.float64, device=block.device)
        lanes[:, : block.shape[1]] += block.double()
    return [0.0] * count if lanes is None else _added_up(lanes)


def _added_up(lanes: torch.Tensor) -> list[float]:
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    found: list[float] = lanes[:, 0].tolist()
    return found
