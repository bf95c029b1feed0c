"""Exact order statistics of long rows of magnitudes: a small table once, then the n-th largest in one look.

Magnitudes are float32 numbers >= 0, handled by their bits: these, taken as whole numbers, have the same order. Among
equals the earlier element comes first, as in a stable sort.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from merging.magnitudes import Bits, Magnitudes

MAX_ENTRIES = 1 << 16
MIN_ENTRIES = 1 << 10
ELEMENTS_PER_ENTRY = 16
"""A table has an entry for this many elements at most, within the limits above. Magnitudes with more distinct values
are told apart by their leading bits only."""


@dataclass(frozen=True)
class Cut:
    """A place in the order: before it lie the magnitudes above `threshold`, and those equal to it at elements below
    `position` (counted over all chunks)."""

    threshold: float
    position: int


ALL = Cut(0.0, np.iinfo(np.int64).max)
"""The cut with everything before it."""
NONE = Cut(float("inf"), 0)
"""The cut with nothing before it."""


def kept_count(density: float, count: int) -> int:
    """Return how many of `count` elements a density keeps: the whole part, but one at least unless it is 0."""
    return max(1, int(density * count)) if density > 0 else 0


@dataclass(frozen=True)
class MagnitudeTable:
    """How many magnitudes there are of each size: `counts[j]` of those whose bits, shifted, are `prefixes[j]`.

    Prefixes are ascending. With `shift` 0 the table tells every distinct magnitude.
    """

    prefixes: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    shift: int

    @classmethod
    def of(cls, magnitudes: Magnitudes) -> "MagnitudeTable":
        """Count all magnitudes."""
        limit = min(max(magnitudes.count // ELEMENTS_PER_ENTRY, MIN_ENTRIES), MAX_ENTRIES)
        table = cls(np.empty(0, np.int32), np.empty(0, np.int64), 0)
        for chunk in magnitudes.chunks():
            table = (table + cls._of_chunk(chunk, table.shift))._coarsened(limit)
        return table

    @classmethod
    def _of_chunk(cls, chunk: Bits, shift: int) -> "MagnitudeTable":
        chunk >>= shift
        chunk.sort()
        starts = np.flatnonzero(np.concatenate(([True], chunk[1:] != chunk[:-1])))
        return cls(chunk[starts], np.diff(np.append(starts, len(chunk))), shift)

    def __add__(self, other: "MagnitudeTable") -> "MagnitudeTable":
        """Return the table of both, as coarse as the coarser of the two."""
        shift = max(self.shift, other.shift)
        prefixes = np.concatenate([t.prefixes >> (shift - t.shift) for t in (self, other)])
        counts = np.concatenate([self.counts, other.counts])
        order = np.argsort(prefixes, kind="stable")
        return MagnitudeTable(*_summed(prefixes[order], counts[order]), shift)

    def _coarsened(self, limit: int) -> "MagnitudeTable":
        table = self
        while len(table.prefixes) > limit:
            table = MagnitudeTable(*_summed(table.prefixes >> 1, table.counts), table.shift + 1)
        return table

    def largest(self, count: int, magnitudes: Magnitudes) -> Cut:
        """Return the cut that has exactly `count` magnitudes before it: none when it is negative, at most all.

        `magnitudes` are those that were counted; they are looked through where the table alone does not tell.
        """
        if count >= int(self.counts.sum()):
            return ALL
        if count <= 0:
            return NONE
        before = np.cumsum(self.counts[::-1])
        entry = int(np.searchsorted(before, count))
        rest = count - (int(before[entry - 1]) if entry else 0)
        prefix = int(self.prefixes[::-1][entry])
        lower, upper = _magnitude(prefix << self.shift), _magnitude((prefix + 1) << self.shift)
        if rest == int(self.counts[::-1][entry]):
            return Cut(lower, ALL.position)
        if self.shift == 0:
            return Cut(lower, magnitudes.position(rest, lower, upper) + 1)
        positions, values = magnitudes.between(lower, upper)
        last = np.argsort(-values, kind="stable")[rest - 1]
        return Cut(float(values[last]), int(positions[last]) + 1)


def _summed(
    prefixes: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the distinct ones of ascending `prefixes` with the sums of their counts."""
    if not len(prefixes):
        return prefixes, counts
    starts = np.flatnonzero(np.concatenate(([True], prefixes[1:] != prefixes[:-1])))
    return prefixes[starts], np.add.reduceat(counts, starts)


def _magnitude(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))
