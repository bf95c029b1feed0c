"""Exact order statistics of long rows of magnitudes: a small table once, then the n-th largest in one look.

Magnitudes are float32 numbers >= 0, handled by their bits: these, taken as whole numbers, have the same order. Among
equals the earlier element comes first, as in a stable sort.
"""

from collections.abc import Iterable
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
class Look:
    """Where a cut is to be looked for: it has `count` of the magnitudes with lower <= magnitude < upper before it.

    `is_exact` tells that these are all equal.
    """

    lower: float
    upper: float
    count: int
    is_exact: bool

    def into(self, magnitudes: Magnitudes) -> Cut:
        """Return the cut."""
        if self.is_exact:
            return Cut(self.lower, magnitudes.position(self.count, self.lower, self.upper) + 1)
        positions, values = magnitudes.between(self.lower, self.upper)
        last = np.argsort(-values, kind="stable")[self.count - 1]
        return Cut(float(values[last]), int(positions[last]) + 1)


@dataclass(frozen=True)
class MagnitudeTable:
    """How many magnitudes there are of each size: `upto[j]` whose bits, shifted, are at least `prefixes[j]`.

    Prefixes are descending. With `shift` 0 the table tells every distinct magnitude.
    """

    prefixes: npt.NDArray[np.int64]
    upto: npt.NDArray[np.int64]
    shift: int

    @classmethod
    def of(cls, magnitudes: Magnitudes) -> "MagnitudeTable":
        """Count all magnitudes."""
        limit = min(max(magnitudes.count // ELEMENTS_PER_ENTRY, MIN_ENTRIES), MAX_ENTRIES)
        counts = Counts(np.empty(0, np.int64), np.empty(0, np.int64), 0)
        for chunk in magnitudes.chunks():
            counts = counts.plus(Counts.of_chunk(chunk, counts.shift)).coarsened(limit)
        return counts.table()

    @classmethod
    def joined(cls, tables: Iterable["MagnitudeTable"]) -> "MagnitudeTable":
        """Return the table of the magnitudes of all `tables` together, as coarse as the coarsest of them."""
        whole = Counts(np.empty(0, np.int64), np.empty(0, np.int64), 0)
        for table in tables:
            counts = np.diff(table.upto, prepend=0)
            whole = whole.plus(Counts(table.prefixes[::-1], counts[::-1], table.shift))
        return whole.table()

    def look(self, count: int) -> Cut | Look:
        """Return the cut that has exactly `count` magnitudes before it, or where to look for it.

        A negative `count` is none, one beyond all magnitudes is all.
        """
        if not len(self.upto) or count >= int(self.upto[-1]):
            return ALL
        if count <= 0:
            return NONE
        entry = int(np.searchsorted(self.upto, count))
        before = int(self.upto[entry - 1]) if entry else 0
        prefix = int(self.prefixes[entry])
        lower, upper = _magnitude(prefix << self.shift), _magnitude((prefix + 1) << self.shift)
        if count == int(self.upto[entry]):
            return Cut(lower, ALL.position)
        return Look(lower, upper, count - before, self.shift == 0)

    def largest(self, count: int, magnitudes: Magnitudes) -> Cut:
        """Return the cut that has exactly `count` of `magnitudes`, which are those that were counted, before it."""
        found = self.look(count)
        return found if isinstance(found, Cut) else found.into(magnitudes)


@dataclass(frozen=True)
class Counts:
    """A table in the making: `counts[j]` magnitudes whose bits, shifted, are `prefixes[j]`; ascending."""

    prefixes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    shift: int

    @classmethod
    def of_chunk(cls, chunk: Bits, shift: int) -> "Counts":
        """Count the magnitudes of a chunk, which is overwritten."""
        chunk >>= shift
        chunk.sort()
        starts = np.flatnonzero(np.concatenate(([True], chunk[1:] != chunk[:-1])))
        return cls(chunk[starts].astype(np.int64), np.diff(np.append(starts, len(chunk))), shift)

    def plus(self, other: "Counts") -> "Counts":
        """Return the counts of both, as coarse as the coarser of the two."""
        shift = max(self.shift, other.shift)
        prefixes = np.concatenate([part.prefixes >> (shift - part.shift) for part in (self, other)])
        counts = np.concatenate([self.counts, other.counts])
        order = np.argsort(prefixes, kind="stable")
        return Counts(prefixes[order], counts[order], shift)._summed()

    def coarsened(self, limit: int) -> "Counts":
        """Return the counts with at most `limit` entries."""
        found = self
        while len(found.prefixes) > limit:
            found = Counts(found.prefixes >> 1, found.counts, found.shift + 1)._summed()
        return found

    def table(self) -> MagnitudeTable:
        """Return the finished table."""
        return MagnitudeTable(self.prefixes[::-1].copy(), np.cumsum(self.counts[::-1]), self.shift)

    def _summed(self) -> "Counts":
        """Put entries of equal prefixes together."""
        if not len(self.prefixes):
            return self
        starts = np.flatnonzero(np.concatenate(([True], self.prefixes[1:] != self.prefixes[:-1])))
        return Counts(self.prefixes[starts], np.add.reduceat(self.counts, starts), self.shift)


def _magnitude(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))
