"""Carrying out a recipe: the same bits by plain operations on cache-sized blocks or by one compiled pass."""

import functools
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from merging.tensor_facts import TensorFacts

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
class Form:
    """What a formula sees of every block of a stretch but its elements; `sources` and `base` are digests."""

    sources: tuple[str, ...]
    base: str | None
    numbers: Block

    def block(self, elements: Mapping[str, torch.Tensor], start: int) -> Block:
        """Return the block of `elements` (1-D, by digest), which begin `start` elements into the stretch."""
        sources = [elements[digest] for digest in self.sources]
        section = slice(start, start + len(sources[0]))
        return self.numbers._replace(
            sources=sources,
            base=None if self.base is None else elements[self.base],
            extras=[extra[section] for extra in self.numbers.extras],
            start=self.numbers.start + start,
        )


@dataclass
class Stretch:
    """Tensors of a run that are merged with the same numbers, as one long block.

    `lean` leaves out the sources that weigh nothing: what plain operations go through. `missing` elements are not
    merged yet.
    """

    kind: str
    form: Form
    lean: Form
    mapped_extras: bool
    missing: int


class Kernel:
    """One recipe over a pool, ready to be carried out on any run of its tensors, by several threads at once.

    With `compiled`, long blocks go through a function that torch compiles once per method, number of sources and types:
    one pass over memory at the price of seconds at first use. It needs a C++ compiler; without one the plain operations
    take over. Both give the same bits (the compiler is told not to fuse multiply and add).
    With `frugal`, each element is merged once: what was found out about a tensor is forgotten with its last element,
    and what was read of mapped files is unmapped; it stays in the page cache, but not in the process.
    """

    def __init__(self, recipe: Recipe, pool_files: PoolFiles, compiled: bool = False, frugal: bool = False) -> None:
        self.recipe = recipe
        self.pool_files = pool_files
        self.dtype = RECIPE_DTYPES[recipe.dtype]
        self.compiled = compiled
        self.frugal = frugal
        self._groups: dict[str, list[list[Slot]]] = {}
        self._stretches: dict[str, Stretch] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def windows(self, run: Run, elements: int, whole: int) -> Iterator[tuple[int, int]]:
        """Cut a run into windows [start, stop): of `elements`, or of whole tensors where a method looks at these first.

        Tensors of more than `whole` elements are cut nevertheless.
        """
        open_from = 0
        for slots in self._groups_of(run):
            first, stop = _bounds(run, slots)
            if stop - open_from > whole and first > open_from:
                yield open_from, first
                open_from = first
            limit = whole if self._is_per_tensor(slots) else elements
            while stop - open_from > limit:
                yield open_from, open_from + min(elements, limit)
                open_from += min(elements, limit)
        if open_from < run.count:
            yield open_from, run.count

    def merge_run(
        self, run: Run, out: torch.Tensor, start: int = 0, loaded: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write elements [start, start + n) of the merged run into `out` (1-D, n elements, on the run's device).

        The result is rounded once to the recipe's type, then converted to that of `out`, should it be another.
        `loaded` has these elements of each source by digest, should they be in memory already.
        """
        stop = start + len(out)
        sources = loaded or {digest: source[start:stop] for digest, source in run.sources.items()}
        groups = self._groups_of(run)
        for slots in groups[bisect_right(groups, run.start + start, key=_start) - 1 :]:
            first, last = _bounds(run, slots)
            if first >= stop:
                break
            begin, end = max(start, first), min(stop, last)
            if begin < end:  # a tensor may be empty
                section = slice(begin - start, end - start)
                own = {digest: source[section] for digest, source in sources.items()}
                self._merge(run, slots, begin - first, out[section], own)

    def _groups_of(self, run: Run) -> list[list[Slot]]:
        name = run.slots[0].name
        if name not in self._groups:  # a race finds the same twice
            self._groups[name] = [*self._grouped(run.slots)]
        return self._groups[name]

    def _grouped(self, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
        """Yield the tensors that are merged with the same numbers, in order."""
        for _, group in groupby(slots, key=self._manner):
            members = list(group)
            if self._is_per_tensor(members):
                yield from ([slot] for slot in members)
            else:
                yield members

    def _is_per_tensor(self, slots: Sequence[Slot]) -> bool:
        method, is_merged = self._manner(slots[0])
        return is_merged and METHODS[method.kind].per_tensor

    def _manner(self, slot: Slot) -> tuple[Method, bool]:
        return self.recipe.method_of(slot.name), self.pool_files.is_merged(slot.name)

    def _merge(
        self, run: Run, slots: list[Slot], start: int, out: torch.Tensor, sources: Mapping[str, torch.Tensor]
    ) -> None:
        """Merge elements from `start` on of the tensors `slots`; `sources` has exactly these elements."""
        method, is_merged = self._manner(slots[0])
        rule = METHODS[method.kind]
        copied = rule.verbatim(method) if is_merged else 0  # what is not merged is the same in every source's view
        if copied is not None:
            digest = self.recipe.base if copied < 0 else self.recipe.sources[copied]
            assert digest is not None
            _copy(sources[digest], out, self.dtype)
            return
        stretch = self._stretch(run, slots, rule, sources)
        for first, stop in _spans(start, start + len(out)):
            section = slice(first - start, stop - start)
            own = {digest: source[section] for digest, source in sources.items()}
            if self.compiled and _is_worth_compiling(stretch, own):
                compiled_merging(stretch.kind, self.dtype)(out[section], stretch.form.block(own, first))
            else:
                _in_blocks(merging(stretch.kind, self.dtype), out[section], stretch.lean, own, first)
        if self.frugal:
            self._let_go(slots[0].name, stretch, start, start + len(out))

    def _let_go(self, name: str, stretch: Stretch, start: int, stop: int) -> None:
        """Free what elements [start, stop) needed, and the whole stretch with its last element."""
        if stretch.mapped_extras:
            unmap([extra[start:stop] for extra in stretch.form.numbers.extras])
        with self._locks[name]:
            stretch.missing -= stop - start
            if not stretch.missing:
                self._stretches.pop(name, None)

    def _stretch(self, run: Run, slots: list[Slot], rule: MergeMethod, sources: Mapping[str, torch.Tensor]) -> Stretch:
        name = slots[0].name
        with self._locks[name]:
            if name not in self._stretches:
                self._stretches[name] = self._prepare(run, slots, rule, sources)
            return self._stretches[name]

    def _prepare(self, run: Run, slots: list[Slot], rule: MergeMethod, loaded: Mapping[str, torch.Tensor]) -> Stretch:
        """Find the numbers of a stretch; `loaded` is some of its elements, perhaps all."""
        name = slots[0].name
        first, stop = _bounds(run, slots)
        is_whole = len(loaded[self.recipe.sources[0]]) == stop - first
        whole = loaded if is_whole else {digest: source[first:stop] for digest, source in run.sources.items()}
        sources = [whole[digest] for digest in self.recipe.sources]
        base = whole[self.recipe.base] if self.recipe.base else None
        method = self.recipe.method_of(name)
        shape = self.pool_files.template.tensors[name].shape
        compiled = self.compiled and len(sources[0]) >= COMPILED_FROM_ELEMENTS
        is_mapped, is_loaded = self.frugal and not is_whole, self.frugal and is_whole
        facts = TensorFacts(name, shape, sources, base, self.recipe, self.pool_files, compiled, is_mapped, is_loaded)
        numbers = rule.numbers(method, facts)
        if is_mapped:
            unmap(whole.values())
        form = _form(self.recipe, numbers, sources[0].device)
        lean = _lean(form) if rule.skips_zero_weights else form
        is_mapping_extras = numbers.mapped_extras and is_mapped and sources[0].device.type == "cpu"
        return Stretch(method.kind, form, lean, is_mapping_extras, stop - first)


def merging_threads(kernel: Kernel) -> int:
    """Return how many threads merge at once: plain operations are too short to be worth more than one."""
    return torch.get_num_threads() if kernel.compiled else 1


def _start(slots: Sequence[Slot]) -> int:
    return slots[0].start


def _bounds(run: Run, slots: Sequence[Slot]) -> tuple[int, int]:
    """Return where in the run the elements of `slots`, which follow each other, begin and end."""
    return slots[0].start - run.start, slots[-1].start + slots[-1].count - run.start


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) where one span of a tensor ends and the next begins."""
    while start < stop:
        end = min(stop, (start // SPAN + 1) * SPAN)
        yield start, end
        start = end


def _form(recipe: Recipe, numbers: Numbers, device: torch.device) -> Form:
    sources = tuple(recipe.sources[index] for index in numbers.order) or recipe.sources
    floats = torch.tensor(numbers.floats, dtype=torch.float32)
    block = Block(
        (),
        None,
        numbers.extras,
        numbers.columns,
        floats.to(device),
        torch.tensor(numbers.counts, dtype=torch.int64, device=device),
        numbers.flags,
        torch.zeros(1, dtype=torch.int64, device=device),
        has_idle=bool((floats[: len(sources)] == 0).any()),
    )
    return Form(sources, recipe.base, block)


def _lean(form: Form) -> Form:
    """Leave out the sources of weight 0; all but one where all are."""
    count = len(form.sources)
    floats = form.numbers.floats
    active = floats[:count].nonzero().flatten().tolist()
    kept = active or [0]
    block = form.numbers._replace(floats=floats[[*kept, *range(count, len(floats))]], has_idle=not active)
    return Form(tuple(form.sources[index] for index in kept), form.base, block)


def _is_worth_compiling(stretch: Stretch, elements: Mapping[str, torch.Tensor]) -> bool:
    """A compiled function reads all sources: where most weigh nothing, leaving them out is faster."""
    first = elements[stretch.form.sources[0]]
    is_long = first.device.type == "cpu" and len(first) >= COMPILED_FROM_ELEMENTS
    return is_long and 2 * len(stretch.lean.sources) > len(stretch.form.sources)


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


def _in_blocks(
    merge_block: Pass, out: torch.Tensor, form: Form, elements: Mapping[str, torch.Tensor], start: int
) -> None:
    size = CPU_BLOCK_ELEMENTS if out.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    for first in range(0, len(out), size):
        part = out[first : first + size]
        own = {digest: source[first : first + len(part)] for digest, source in elements.items()}
        merge_block(part, _on(out.device, form.block(own, start + first)))


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
        block.has_idle,
    )
