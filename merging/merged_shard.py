"""The bytes of one merged safetensors file, any range of them, made as they are asked for."""

import itertools
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
DISK_ELEMENTS = 1 << 23
"""The same for files: the fewer blocks, the less the threads that merge and write wait for each other."""
BUFFERS = 3
"""One that is filled, one that waits, one that is written."""


@dataclass(frozen=True)
class _Part:
    """Bytes [start, stop) of the file's tensors, merged from `run` or copied (`copied` holds the bytes)."""

    start: int
    stop: int
    run: Run | None
    copied: torch.Tensor | None


class MergedShard:
    """One merged file. Opening it reads nothing; reading it needs a few blocks of memory."""

    def __init__(self, kernel: Kernel, layout: ShardLayout, block_elements: int) -> None:
        self.layout = layout
        self._block_elements = block_elements
        self._kernel = kernel
        recipe, pool_files = kernel.recipe, kernel.pool_files
        self._dtype = RECIPE_DTYPES[recipe.dtype]
        wanted = {*recipe.sources} | ({recipe.base} if recipe.base else set())
        self._checkpoints = {d: files for d, files in pool_files.checkpoints.items() if d in wanted}
        self._template = pool_files.template
        self._parts = [
            part
            for is_merged, tensors in groupby(layout.tensors, lambda tensor: tensor.is_merged)
            for part in (self._merged_parts([*tensors]) if is_merged else self._copied_parts([*tensors]))
        ]

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield bytes [start, stop) of the file, 0 <= start <= stop <= size, to its end by default, in blocks.

        A block lasts until the second one after it is asked for: while one is written, the next can be made.
        """
        stop = self.layout.size_bytes if stop is None else stop
        header = self.layout.header
        if start < min(stop, len(header)):
            yield memoryview(header)[start : min(stop, len(header))]
        size = min(self._block_elements, stop - start)
        buffers = itertools.cycle([torch.empty(size, dtype=self._dtype) for _ in range(BUFFERS)])
        for part in self._parts:
            first, last = max(start - len(header), part.start), min(stop - len(header), part.stop)
            if first < last:
                yield from self._part_blocks(part, first - part.start, last - part.start, buffers)

    def _merged_parts(self, tensors: list[PlacedTensor]) -> Iterator[_Part]:
        size = self._dtype.itemsize
        origin = tensors[0].start
        slots = [Slot(t.name, (t.start - origin) // size, (t.stop - t.start) // size) for t in tensors]
        for run in plan_runs(slots, self._checkpoints):
            yield _Part(origin + run.start * size, origin + (run.start + run.count) * size, run, None)

    def _copied_parts(self, tensors: list[PlacedTensor]) -> Iterator[_Part]:
        for tensor in tensors:
            found = self._template.tensors[tensor.name]
            content = self._template.flat(found.file, "U8", found.start, found.stop - found.start)
            yield _Part(tensor.start, tensor.stop, None, content)

    def _part_blocks(self, part: _Part, first: int, last: int, buffers: Iterator[torch.Tensor]) -> Iterator[memoryview]:
        """Yield bytes [first, last) of a part. An element that the range cuts in two is merged whole."""
        if part.run is None:
            assert part.copied is not None
            yield _bytes_of(part.copied[first:last])
            return
        size = self._dtype.itemsize
        begin, end = first // size, -(-last // size)
        for start in range(begin, end, self._block_elements):
            count = min(self._block_elements, end - start)
            block = next(buffers)[:count]
            self._kernel.merge_run(part.run, block, start)
            if self._dtype == torch.float16 and not torch.isfinite(block).all():
                message = "the merge has numbers that are too large for float16"
                raise InvalidInput([field_error("recipe.dtype", "float16", message, "bfloat16, float32")])
            content = _bytes_of(block)
            yield content[max(first - start * size, 0) : min(last - start * size, len(content))]


def _bytes_of(elements: torch.Tensor) -> memoryview:
    content: memoryview = elements.view(torch.uint8).numpy().data
    return content
