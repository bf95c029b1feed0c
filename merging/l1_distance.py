"""The L1 distance of long tensors, with the same bits for any number of threads."""

from collections.abc import Iterator

import torch

from merging.kernel import DEVICE_BLOCK_ELEMENTS

CPU_SUM_ELEMENTS = 1 << 14
"""Elements that are added up at once: so few that torch does it on one thread, in an order that is always the same."""


def l1_parts(values: torch.Tensor, base: torch.Tensor) -> Iterator[float]:
    """Yield the sum |values - base| of block after block of two 1-D tensors of equal length, added up in float64.

    `base` is first rounded to the type of `values`. To be added up exactly (`math.fsum`).
    """
    size = CPU_SUM_ELEMENTS if values.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    for start in range(0, len(values), size):
        block = values[start : start + size]
        rounded = base[start : start + size].to(block.device, block.dtype)
        yield float((block.double() - rounded.double()).abs().sum())
