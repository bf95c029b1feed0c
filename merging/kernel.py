"""Merging runs of elements: the same bits by plain operations on cache-sized blocks or by one compiled pass."""

import functools
import logging
from collections.abc import Callable, Sequence

import torch

from campaigns.recipe import Recipe
from merging.dtypes import RECIPE_DTYPES
from merging.methods import METHODS
from merging.runs import Run

CPU_BLOCK_ELEMENTS = 1 << 15
"""Elements that are merged at once. Their float32 intermediates stay in the cache, and torch runs operations of this
size on the calling thread: waking others for each costs more than it brings, and far more on a busy machine."""
DEVICE_BLOCK_ELEMENTS = 1 << 25
COMPILED_FROM_ELEMENTS = 1 << 20
"""Shorter runs are not worth the call of a compiled function."""

logger = logging.getLogger(__name__)
Sources = Sequence[torch.Tensor]
Pass = Callable[[torch.Tensor, Sources, torch.Tensor | None, torch.Tensor], None]
"""Writes into the first argument the merge of the sources, with the base, by the method's numbers."""


class Kernel:
    """One recipe, ready to be carried out on any run.

    With `compiled`, long runs go through a function that torch compiles once per method, number of sources and types:
    one pass over memory at the price of seconds at first use. It needs a C++ compiler; without one the plain
    operations take over. Both give the same bits (the compiler is told not to fuse multiply and add).
    """

    def __init__(self, recipe: Recipe, compiled: bool = False) -> None:
        self.recipe = recipe
        self.dtype = RECIPE_DTYPES[recipe.dtype]
        method = METHODS[recipe.method.kind]
        self._numbers = torch.tensor(method.numbers(recipe.method), dtype=torch.float32)
        numbers: list[float] = self._numbers.tolist()
        count = len(recipe.sources)
        self._verbatim = method.verbatim(numbers)
        self._active = [index for index in range(count) if numbers[index] != 0]
        self._active_numbers = self._numbers[[*self._active, *range(count, len(numbers))]]
        # A compiled function reads all sources: where most have weight 0, leaving them out is faster.
        self._compiled = compiled and 2 * len(self._active) > count

    def merge_run(self, run: Run, out: torch.Tensor, start: int = 0) -> None:
        """Write elements [start, start + n) of the merged run into `out` (1-D, n elements, on the run's device).

        The result is rounded once to the recipe's type, then converted to that of `out`, should it be another.
        """
        section = slice(start, start + len(out))
        sources = [run.sources[digest][section] for digest in self.recipe.sources]
        base = run.sources[self.recipe.base][section] if self.recipe.base else None
        kind = self.recipe.method.kind
        if self._verbatim is not None:
            copied = base if self._verbatim < 0 else sources[self._verbatim]
            assert copied is not None
            _in_blocks(copying(self.dtype), out, [copied], None, self._numbers)
        elif not self._active:
            out.zero_()
        elif self._compiled and out.device.type == "cpu" and len(out) >= COMPILED_FROM_ELEMENTS:
            compiled_merging(kind, self.dtype)(out, sources, base, self._numbers)
        else:
            active = [sources[index] for index in self._active]
            _in_blocks(merging(kind, self.dtype), out, active, base, self._active_numbers.to(out.device))


@functools.cache
def copying(dtype: torch.dtype) -> Pass:
    """Return the pass that copies its only source, rounded to `dtype`."""

    def copy_block(out: torch.Tensor, sources: Sources, base: torch.Tensor | None, numbers: torch.Tensor) -> None:
        out.copy_(sources[0].to(dtype))

    return copy_block


@functools.cache
def merging(kind: str, dtype: torch.dtype) -> Pass:
    """Return the pass of a merge method by plain operations, rounded to `dtype`. Meant for blocks that fit a cache."""
    formula = METHODS[kind].formula

    def merge_block(out: torch.Tensor, sources: Sources, base: torch.Tensor | None, numbers: torch.Tensor) -> None:
        out.copy_(formula(sources, base, numbers).to(dtype))

    return merge_block


@functools.cache
def compiled_merging(kind: str, dtype: torch.dtype) -> Pass:
    """Return the pass of a merge method as one compiled function, or by blocks where it cannot be compiled."""
    plain = merging(kind, dtype)
    compiled = torch.compile(plain, dynamic=True, fullgraph=True)
    usable = True

    def merge_run(out: torch.Tensor, sources: Sources, base: torch.Tensor | None, numbers: torch.Tensor) -> None:
        nonlocal usable
        if usable:
            try:
                compiled(out, sources, base, numbers)
                return
            except Exception as error:  # whatever the compiler's tool chain raises
                usable = False
                logger.warning("merging without a compiled pass, which is slower: %s", str(error).split("\n", 1)[0])
        _in_blocks(plain, out, sources, base, numbers)

    return merge_run


def _in_blocks(
    merge_block: Pass, out: torch.Tensor, sources: Sources, base: torch.Tensor | None, numbers: torch.Tensor
) -> None:
    size = CPU_BLOCK_ELEMENTS if out.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    for start in range(0, len(out), size):
        block = slice(start, start + size)
        merge_block(out[block], [source[block] for source in sources], None if base is None else base[block], numbers)
