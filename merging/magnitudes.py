"""Magnitudes of a whole tensor, measured in chunks: nothing as large as the tensor is ever held."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from merging.compiling import compiled_or_plain
from merging.mapping import unmap

SMALLEST = 2.0**-126
"""The smallest normal float32."""
CPU_CHUNK_ELEMENTS = 1 << 18
ROW_ELEMENTS = 1 << 8
SECTION_ROWS = 1 << 13
DEVICE_CHUNK_ELEMENTS = 1 << 25
CPU_BLOCK_ELEMENTS = 1 << 15
"""Torch runs operations of this size on the calling thread: threads over tensors do not get in each other's way."""

Bits = npt.NDArray[np.int32]
Measure = Callable[[slice | torch.Tensor], torch.Tensor]
"""Returns the magnitudes (float32, at least 0) of the elements that a slice or an index selects."""


class Magnitudes:
    """`count` numbers >= 0, by element of a tensor, as `measure` finds them."""

    def __init__(self, measure: Measure, count: int, device: torch.device) -> None:
        self.measure = measure
        self.count = count
        self.device = device

    def bits(self, start: int, stop: int) -> Bits:
        """Return the bits of the magnitudes of elements [start, stop), in a fresh array."""
        blocks = range(start, stop, CPU_BLOCK_ELEMENTS)
        measured = [self.measure(slice(block, min(block + CPU_BLOCK_ELEMENTS, stop))) for block in blocks]
        return torch.cat(measured).view(torch.int32).cpu().numpy()

    def chunks(self) -> Iterator[Bits]:
        """Yield the bits of all magnitudes in order, in fresh arrays."""
        for start in range(0, self.count, CPU_CHUNK_ELEMENTS):
            yield self.bits(start, min(start + CPU_CHUNK_ELEMENTS, self.count))

    def position(self, count: int, lower: float, upper: float) -> int:
        """Return the element that is the `count`-th, from 1 on, of those with lower <= magnitude < upper."""
        for start, members in self.members(lower, upper):
            if (here := int(torch.count_nonzero(members))) >= count:
                return start + int(_nonzero(members)[count - 1])
            count -= here
        raise ValueError(f"there are not so many magnitudes from {lower} to {upper}")

    def between(self, lower: float, upper: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the elements with lower <= magnitude < upper, in order, and their magnitudes."""
        positions = torch.cat([_nonzero(members) + start for start, members in self.members(lower, upper)])
        return positions.cpu().numpy(), self.measure(positions).cpu().numpy()

    def members(self, lower: float, upper: float) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield, chunk by chunk, its first element and which of its elements have lower <= magnitude < upper."""
        size = CPU_BLOCK_ELEMENTS if self.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
        for start in range(0, self.count, size):
            magnitudes = self.measure(slice(start, min(start + size, self.count)))
            yield start, (magnitudes >= lower) & (magnitudes < upper)


class TaskMagnitudes(Magnitudes):
    """|tau| = |theta_i - theta_0| of a tensor (1-D each).

    `rows`, if given, tells how many members each row of the tensor has between the limits that are looked for, as
    `members_of_rows` counts them: only rows with members are looked at then.
    """

    def __init__(self, source: torch.Tensor, base: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        def measure(elements: slice | torch.Tensor) -> torch.Tensor:
            return (source[elements].float() - base[elements].float()).abs()

        super().__init__(measure, len(source), source.device)
        self._rows = rows

    def position(self, count: int, lower: float, upper: float) -> int:
        """Return the element that is the `count`-th, from 1 on, of those with lower <= magnitude < upper."""
        if self._rows is None:
            return super().position(count, lower, upper)
        before = self._rows.numpy().cumsum()
        row = int(np.searchsorted(before, count))
        rest = count - (int(before[row - 1]) if row else 0)
        start = row * ROW_ELEMENTS
        magnitudes = self.measure(slice(start, start + 2 * ROW_ELEMENTS)).numpy()
        return start + int(np.flatnonzero((magnitudes >= lower) & (magnitudes < upper))[rest - 1])

    def between(self, lower: float, upper: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the elements with lower <= magnitude < upper, in order, and their magnitudes."""
        if self._rows is None:
            return super().between(lower, upper)
        found, sizes = [], []
        for elements in self._near_members(self._rows):
            magnitudes = self.measure(elements)
            members = (magnitudes >= lower) & (magnitudes < upper)
            found.append(elements[members])
            sizes.append(magnitudes[members])
        return torch.cat(found).numpy(), torch.cat(sizes).numpy()

    def _near_members(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the elements of rows with members, and of the last, shorter one, a few rows at a time."""
        near = torch.nonzero(rows)
        for first in range(0, len(near), CPU_BLOCK_ELEMENTS // ROW_ELEMENTS):
            some = near[first : first + CPU_BLOCK_ELEMENTS // ROW_ELEMENTS]
            yield (some * ROW_ELEMENTS + torch.arange(ROW_ELEMENTS)).view(-1)
        yield torch.arange(len(rows) * ROW_ELEMENTS, self.count)


def members_of_rows(
    sources: Sequence[torch.Tensor], base: torch.Tensor, limits: Sequence[tuple[float, float]], frugal: bool = False
) -> torch.Tensor:
    """Return how many |tau_i| of each row lie within the limits of source i; K x rows, int64.

    A row is ROW_ELEMENTS elements; a last, shorter one is left out. One compiled pass over all sources, on the CPU.
    With `frugal` they are views of files, and unmapped as they are passed.
    """
    rows = torch.empty(len(sources), len(base) // ROW_ELEMENTS, dtype=torch.int64)
    for first in range(0, rows.shape[1], SECTION_ROWS):
        stop = min(first + SECTION_ROWS, rows.shape[1])
        section = slice(first * ROW_ELEMENTS, stop * ROW_ELEMENTS)
        views = [source[section] for source in sources]
        counted = torch.empty(len(sources), stop - first)
        compiled_or_plain(_count_members)(counted, views, base[section], torch.tensor(limits))
        rows[:, first:stop] = counted.to(torch.int64)
        if frugal:
            unmap([*views, base[section]])
    return rows


def _count_members(
    rows: torch.Tensor, sources: Sequence[torch.Tensor], base: torch.Tensor, limits: torch.Tensor
) -> None:
    origin = base.float()
    for index, source in enumerate(sources):
        magnitudes = (source.float() - origin).abs()
        # Numbers instead of booleans, which the compiler does not vectorize.
        members = torch.where((magnitudes >= limits[index, 0]) & (magnitudes < limits[index, 1]), 1.0, 0.0)
        rows[index].copy_(members.view(-1, ROW_ELEMENTS).sum(1))


class Saliencies(Magnitudes):
    """tau^2 * e of a tensor (1-D), e the energies of its columns: one per column, or just one.

    Elements that are not `free` count as 0, and those that are as SMALLEST at least, so that they come first.
    """

    def __init__(
        self, source: torch.Tensor, base: torch.Tensor, energies: torch.Tensor, free: torch.Tensor | None = None
    ) -> None:
        def measure(elements: slice | torch.Tensor) -> torch.Tensor:
            if isinstance(elements, slice):
                position = torch.arange(elements.start, elements.stop, device=source.device)
            else:
                position = elements
            task_vector = source[elements].float() - base[elements].float()
            found = task_vector * task_vector * energies[position % len(energies)]
            return found if free is None else torch.where(free[elements], found.clamp_min(SMALLEST), 0.0)

        super().__init__(measure, len(source), source.device)


class Joined(Magnitudes):
    """The magnitudes of several tensors, one after the other."""

    def __init__(self, parts: Sequence[Magnitudes]) -> None:
        super().__init__(self._measure, sum(part.count for part in parts), parts[0].device)
        self._parts = parts

    def members(self, lower: float, upper: float) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the members of each part in turn, counted over all parts."""
        first = 0
        for part in self._parts:
            for start, members in part.members(lower, upper):
                yield first + start, members
            first += part.count

    def _measure(self, elements: slice | torch.Tensor) -> torch.Tensor:
        assert isinstance(elements, torch.Tensor)  # in order, as `between` finds them
        found, first = [], 0
        for part in self._parts:
            here = elements[(elements >= first) & (elements < first + part.count)]
            found.append(part.measure(here - first))
            first += part.count
        return torch.cat(found)


def _nonzero(members: torch.Tensor) -> torch.Tensor:
    if members.device.type == "cpu":  # several times faster than torch's where few are true
        return torch.from_numpy(np.flatnonzero(members.numpy()))
    return torch.nonzero(members).flatten()
