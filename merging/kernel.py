"""Carrying out a recipe: the same bits by plain operations on cache-sized blocks or by one compiled pass."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from campaigns.methods import Method
from campaigns.recipe import Recipe
from merging.compiling import compiled_or_plain
from merging.dtypes import RECIPE_DTYPES
from merging.mapping import unmap
from merging.masks import SPAN
from merging.methods import METHODS
from merging.methods.method import Block, MergeMethod, Numbers
from merging.pool_files import PoolFiles
from merging.runs import Run, Slot
from merging.tensor_facts import UNMAPPED_FROM_ELEMENTS, TensorFacts

CPU_BLOCK_ELEMENTS = 1 << 15
"""Elements that are merged at once. Their float32 intermediates stay in the cache, and torch runs operations of this
size on the calling thread: waking others for each costs more than it brings, and far more on a busy machine."""
DEVICE_BLOCK_ELEMENTS = 1 << 25
COMPILE_FROM_ELEMENTS = 64_000_000
"""From this size on, the seconds that compiling takes are won back within tens of candidates of a model."""
COMPILED_FROM_ELEMENTS = 1 << 16
"""Shorter stretches are not worth the call of a compiled function."""

Pass = Callable[[torch.Tensor, Block], None]
"""Writes a merged block, rounded once, into the first argument (1-D)."""


@dataclass(frozen=True)
class Stretch:
    """Tensors of a run that are merged with the same numbers, as one long block.

    `lean` is the block without the sources that weigh nothing: what plain operations go through.
    """

    kind: str
    block: Block
    lean: Block
    mapped_extras: bool


class Kernel:
    """One recipe over a pool, ready to be carried out on any run of its tensors.

    With `compiled`, long stretches go through a function that torch compiles once per method, number of sources and
    types: one pass over memory at the price of seconds at first use. It needs a C++ compiler; without one the plain
    operations take over. Both give the same bits (the compiler is told not to fuse multiply and add).
    With `frugal`, sources that were read are unmapped: they stay in the page cache, but not in the process.
    """

    def __init__(self, recipe: Recipe, pool_files: PoolFiles, compiled: bool = False, frugal: bool = False) -> None:
        self.recipe = recipe
        self.pool_files = pool_files
        self.dtype = RECIPE_DTYPES[recipe.dtype]
        self.frugal = frugal
        self._compiled = compiled
        self._groups: dict[str, list[list[Slot]]] = {}
        self._stretches: dict[str, Stretch] = {}

    def merge_run(self, run: Run, out: torch.Tensor, start: int = 0) -> None:
        """Write elements [start, start + n) of the merged run into `out` (1-D, n elements, on the run's device).

        The result is rounded once to the recipe's type, then converted to that of `out`, should it be another.
        """
        name = run.slots[0].name
        if name not in self._groups:
            self._groups[name] = [*self._grouped(run.slots)]
        for slots in self._groups[name]:
            first, stop = slots[0].start - run.start, slots[-1].start + slots[-1].count - run.start
            begin, end = max(start, first), min(start + len(out), stop)
            if begin < end:
                self._merge(run, slots, begin - first, out[begin - start : end - start])
        if self.frugal:
            unmap([source[start : start + len(out)] for source in run.sources.values()])

    def _grouped(self, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
        """Yield the tensors that are merged with the same numbers, in order."""
        for (method, is_merged), group in groupby(slots, key=self._manner):
            if is_merged and METHODS[method.kind].per_tensor:
                yield from ([slot] for slot in group)
            else:
                yield list(group)

    def _manner(self, slot: Slot) -> tuple[Method, bool]:
        return self.recipe.method_of(slot.name), self.pool_files.is_merged(slot.name)

    def _merge(self, run: Run, slots: list[Slot], start: int, out: torch.Tensor) -> None:
        method, is_merged = self._manner(slots[0])
        rule = METHODS[method.kind]
        copied = rule.verbatim(method) if is_merged else 0  # what is not merged is the same in every source's view
        if copied is not None:
            digest = self.recipe.base if copied < 0 else self.recipe.sources[copied]
            assert digest is not None
            begin = slots[0].start - run.start + start
            _copy(run.sources[digest][begin : begin + len(out)], out, self.dtype)
            return
        if slots[0].name not in self._stretches:  # a race finds the same twice
            self._stretches[slots[0].name] = self._prepare(run, slots, rule)
        stretch = self._stretches[slots[0].name]
        for first, stop in _spans(start, start + len(out)):
            part = out[first - start : stop - start]
            if self._compiled and _is_worth_compiling(stretch):
                compiled_merging(stretch.kind, self.dtype)(part, _section(stretch.block, first, len(part)))
            else:
                _in_blocks(merging(stretch.kind, self.dtype), part, stretch.lean, first)
        if self.frugal:
            self._let_go(slots[0].name, stretch, start, start + len(out))

    def _let_go(self, name: str, stretch: Stretch, start: int, stop: int) -> None:
        """Free what elements [start, stop) needed, and the whole stretch with its last element."""
        if stretch.mapped_extras:
            unmap([extra[start:stop] for extra in stretch.block.extras])
        if stop == len(stretch.block.sources[0]):
            self._stretches.pop(name, None)

    def _prepare(self, run: Run, slots: list[Slot], rule: MergeMethod) -> Stretch:
        name = slots[0].name
        first = slots[0].start - run.start
        section = slice(first, first + sum(slot.count for slot in slots))
        sources = [run.sources[digest][section] for digest in self.recipe.sources]
        base = run.sources[self.recipe.base][section] if self.recipe.base else None
        method = self.recipe.method_of(name)
        shape = self.pool_files.template.tensors[name].shape
        compiled = self._compiled and len(sources[0]) >= COMPILED_FROM_ELEMENTS
        facts = TensorFacts(name, shape, sources, base, self.recipe, self.pool_files, compiled, self.frugal)
        numbers = rule.numbers(method, facts)
        if self.frugal and facts.count >= UNMAPPED_FROM_ELEMENTS:
            unmap([source[section] for source in run.sources.values()])
        block = _block(sources, base, numbers)
        lean = _lean(block, numbers) if rule.skips_zero_weights else block
        return Stretch(method.kind, block, lean, numbers.mapped_extras and sources[0].device.type == "cpu")


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) where one span of a tensor ends and the next begins."""
    while start < stop:
        end = min(stop, (start // SPAN + 1) * SPAN)
        yield start, end
        start = end


def _block(sources: Sequence[torch.Tensor], base: torch.Tensor | None, numbers: Numbers) -> Block:
    device = sources[0].device
    sources = [sources[index] for index in numbers.order] or sources
    return Block(
        sources,
        base,
        numbers.extras,
        numbers.columns,
        torch.tensor(numbers.floats, dtype=torch.float32, device=device),
        torch.tensor(numbers.counts, dtype=torch.int64, device=device),
        numbers.flags,
        torch.zeros(1, dtype=torch.int64, device=device),
    )


def _lean(block: Block, numbers: Numbers) -> Block:
    """Leave out the sources of weight 0; all but one where all are."""
    count = len(block.sources)
    active = [index for index in range(count) if numbers.floats[index] != 0] or [0]
    floats = block.floats[[*active, *range(count, len(numbers.floats))]]
    return block._replace(sources=[block.sources[index] for index in active], floats=floats)


def _section(block: Block, start: int, count: int) -> Block:
    section = slice(start, start + count)
    return block._replace(
        sources=[source[section] for source in block.sources],
        base=None if block.base is None else block.base[section],
        extras=[extra[section] for extra in block.extras],
        start=block.start + start,
    )


def _is_worth_compiling(stretch: Stretch) -> bool:
    """A compiled function reads all sources: where most weigh nothing, leaving them out is faster."""
    first = stretch.block.sources[0]
    is_long = first.device.type == "cpu" and len(first) >= COMPILED_FROM_ELEMENTS
    return is_long and 2 * len(stretch.lean.sources) > len(stretch.block.sources)


def _copy(source: torch.Tensor, out: torch.Tensor, dtype: torch.dtype) -> None:
    size = CPU_BLOCK_ELEMENTS if out.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    for start in range(0, len(out), size):
        out[start : start + size].copy_(source[start : start + size].to(dtype))


@functools.cache
def merging(kind: str, dtype: torch.dtype) -> Pass:
    """Return the pass of a merge method by plain operations, rounded to `dtype`. Meant for blocks that fit a cache."""
    formula = METHODS[kind].formula

    def merge_block(out: torch.Tensor, block: Block) -> None:
        out.copy_(formula(block).to(dtype))

    return merge_block


@functools.cache
def compiled_merging(kind: str, dtype: torch.dtype) -> Pass:
    """Return the pass of a merge method as one compiled function, by plain operations where it cannot be compiled."""
    return compiled_or_plain(merging(kind, dtype))


def _in_blocks(merge_block: Pass, out: torch.Tensor, block: Block, start: int) -> None:
    size = CPU_BLOCK_ELEMENTS if out.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    for first in range(0, len(out), size):
        part = out[first : first + size]
        merge_block(part, _on(out.device, _section(block, start + first, len(part))))


def _on(device: torch.device, block: Block) -> Block:
    """Return the block on the device where it is merged: sources may stay elsewhere."""
    if block.floats.device == device:
        return block

    def moved(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.to(device, non_blocking=True) for tensor in tensors]

    floats, counts, start = moved([block.floats, block.counts, block.start])
    return Block(
        moved(block.sources),
        None if block.base is None else block.base.to(device, non_blocking=True),
        moved(block.extras),
        moved(block.columns),
        floats,
        counts,
        block.flags,
        start,
    )
