"""The bytes of one merged safetensors file, any range of them, made as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch

from campaigns.errors import InvalidInput, field_error
from merging.dtypes import RECIPE_DTYPES
from merging.image_layout import PlacedTensor, ShardLayout
from merging.kernel import Kernel
from merging.runs import Run, Slot, plan_runs

STREAM_ELEMENTS = 1 << 20
"""Elements that are merged before they are handed on to somebody who waits: 2 MiB of bfloat16."""


@dataclass(frozen=True)
class Part:
    """Bytes [start, stop) of the file's tensors, merged from `run` or copied (`copied` holds the bytes)."""

    start: int
    stop: int
    run: Run | None
    copied: torch.Tensor | None


class MergedShard:
    """One merged file. Opening it reads nothing; reading it needs a few blocks of memory."""

    def __init__(self, kernel: Kernel, layout: ShardLayout) -> None:
        self.layout = layout
        self.kernel = kernel
        recipe, pool_files = kernel.recipe, kernel.pool_files
        self._dtype = RECIPE_DTYPES[recipe.dtype]
        wanted = {*recipe.sources} | ({recipe.base} if recipe.base else set())
        self._checkpoints = {d: files for d, files in pool_files.checkpoints.items() if d in wanted}
        self._template = pool_files.template
        self.parts = [
            part
            for is_merged, tensors in groupby(layout.tensors, lambda tensor: tensor.is_merged)
            for part in (self._merged_parts([*tensors]) if is_merged else self._copied_parts([*tensors]))
        ]

    def blocks(self, start: int, stop: int, block_elements: int) -> Iterator[memoryview]:
        """Yield bytes [start, stop) of the file, 0 <= start <= stop <= size, in blocks; each lasts until the next."""
        header = self.layout.header
        if start < min(stop, len(header)):
            yield memoryview(header)[start : min(stop, len(header))]
        buffer = torch.empty(min(block_elements, stop - start), dtype=self._dtype)
        for part in self.parts:
            first, last = max(start - len(header), part.start), min(stop - len(header), part.stop)
            if first < last:
                yield from self._part_blocks(part, first - part.start, last - part.start, buffer)

    def _merged_parts(self, tensors: list[PlacedTensor]) -> Iterator[Part]:
        size = self._dtype.itemsize
        origin = tensors[0].start
        slots = [Slot(t.name, (t.start - origin) // size, (t.stop - t.start) // size) for t in tensors]
        for run in plan_runs(slots, self._checkpoints):
            yield Part(origin + run.start * size, origin + (run.start + run.count) * size, run, None)

    def _copied_parts(self, tensors: list[PlacedTensor]) -> Iterator[Part]:
        for tensor in tensors:
            found = self._template.tensors[tensor.name]
            content = self._template.flat(found.file, "U8", found.start, found.stop - found.start)
            yield Part(tensor.start, tensor.stop, None, content)

    def _part_blocks(self, part: Part, first: int, last: int, buffer: torch.Tensor) -> Iterator[memoryview]:
        """Yield bytes [first, last) of a part. An element that the range cuts in two is merged whole."""
        if part.run is None:
            assert part.copied is not None
            yield bytes_of(part.copied[first:last])
            return
        size = self._dtype.itemsize
        begin, end = first // size, -(-last // size)
        for start in range(begin, end, len(buffer)):
            block = buffer[: end - start]
            self.kernel.merge_run(part.run, block, start)
            refuse_overflow(block)
            content = bytes_of(block)
            yield content[max(first - start * size, 0) : min(last - start * size, len(content))]


def refuse_overflow(merged: torch.Tensor) -> None:
    """Raise `InvalidInput` where a merge came out larger than float16 can hold."""
    if merged.dtype == torch.float16 and not torch.isfinite(merged).all():
        message = "the merge has numbers that are too large for float16"
        raise InvalidInput([field_error("recipe.dtype", "float16", message, "bfloat16, float32")])


def bytes_of(elements: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous 1-D tensor, without a copy."""
    content: memoryview = elements.view(torch.uint8).numpy().data
    return content
