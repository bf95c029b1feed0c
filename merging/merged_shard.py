"""The bytes of one merged safetensors file, any range of them, made as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch

from campaigns.recipe import Recipe
from merging.dtypes import RECIPE_DTYPES
from merging.image_layout import PlacedTensor, ShardLayout
from merging.kernel import Kernel
from merging.pool_files import PoolFiles
from merging.runs import Run, Slot, plan_runs

BLOCK_ELEMENTS = 1 << 21
"""Elements that are merged before they are handed on: 8 MiB of float32."""


@dataclass(frozen=True)
class _Part:
    """Bytes [start, stop) of the file's tensors, merged from `run` or copied (`copied` holds the bytes)."""

    start: int
    stop: int
    run: Run | None
    copied: torch.Tensor | None


class MergedShard:
    """One merged file. Opening it reads nothing; reading it needs a few blocks of memory."""

    def __init__(self, pool_files: PoolFiles, recipe: Recipe, layout: ShardLayout) -> None:
        self.layout = layout
        self._dtype = RECIPE_DTYPES[recipe.dtype]
        self._kernel = Kernel(recipe)
        wanted = {*recipe.sources} | ({recipe.base} if recipe.base else set())
        self._checkpoints = {d: files for d, files in pool_files.checkpoints.items() if d in wanted}
        self._template = pool_files.template
        self._parts = [
            part
            for is_merged, tensors in groupby(layout.tensors, lambda tensor: tensor.is_merged)
            for part in (self._merged_parts([*tensors]) if is_merged else self._copied_parts([*tensors]))
        ]

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes [start, stop) of the file, 0 <= start <= stop <= size, in blocks."""
        header = self.layout.header
        if start < min(stop, len(header)):
            yield header[start : min(stop, len(header))]
        for part in self._parts:
            first, last = max(start - len(header), part.start), min(stop - len(header), part.stop)
            if first < last:
                yield from self._read_part(part, first - part.start, last - part.start)

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

    def _read_part(self, part: _Part, first: int, last: int) -> Iterator[bytes]:
        """Yield bytes [first, last) of a part. An element that the range cuts in two is merged whole."""
        if part.run is None:
            assert part.copied is not None
            yield part.copied[first:last].numpy().tobytes()
            return
        size = self._dtype.itemsize
        begin, end = first // size, -(-last // size)
        for start in range(begin, end, BLOCK_ELEMENTS):
            count = min(BLOCK_ELEMENTS, end - start)
            block = torch.empty(count, dtype=self._dtype)
            self._kernel.merge_run(part.run, block, start)
            content = block.view(torch.uint8).numpy()
            yield content[max(first - start * size, 0) : min(last - start * size, len(content))].tobytes()
