"""Order statistics against brute force: every count of small inputs, the boundaries of large ones."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.magnitudes import CPU_CHUNK_ELEMENTS, SMALLEST, Joined, Magnitudes, Saliencies, TaskMagnitudes
from merging.selection import (
    ALL,
    ELEMENTS_PER_ENTRY,
    MAX_ENTRIES,
    MIN_ENTRIES,
    NONE,
    Cut,
    Look,
    MagnitudeTable,
    kept_count,
)


def magnitudes_of(values: Sequence[float] | np.ndarray) -> Magnitudes:
    """Magnitudes as they are, by way of task vectors over a base of zeros."""
    source = torch.as_tensor(np.array(values, dtype=np.float32))
    return TaskMagnitudes(source, torch.zeros_like(source))


def before(cut: Cut, values: np.ndarray) -> np.ndarray:
    """Which elements lie before the cut."""
    return (values > cut.threshold) | ((values == cut.threshold) & (np.arange(len(values)) < cut.position))


def brute_force(values: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values, kind="stable")[: max(count, 0)]] = True
    return chosen


def assert_cuts(magnitudes: Magnitudes, values: np.ndarray, counts: Sequence[int]) -> None:
    table = MagnitudeTable.of(magnitudes)
    assert int(table.upto[-1]) == len(values)
    assert (np.diff(table.prefixes) < 0).all() and (np.diff(table.upto, prepend=0) > 0).all()
    assert len(table.prefixes) <= max(MIN_ENTRIES, min(MAX_ENTRIES, len(values) // ELEMENTS_PER_ENTRY))
    for count in counts:
        cut = table.largest(count, magnitudes)
        assert np.array_equal(before(cut, values), brute_force(values, count)), count


TINY = float(np.float32(1e-45))
HUGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    "values",
    [
        [0.5],
        [0.0],
        [0.0] * 9,
        [1.5] * 9,
        [3.0, 1.0, 2.0],
        [1.0, 2.0, 2.0, 1.0, 2.0, 0.0, 1.0],
        [TINY, 0.0, 2 * TINY, TINY, 3 * TINY, 1e-38],
        [HUGE, 1.0, HUGE, 0.0, 3e38, HUGE],
        [1.0, np.nextafter(np.float32(1), np.float32(2)), 1.0, np.nextafter(np.float32(1), np.float32(0))],
    ],
    ids=str,
)
def test_every_count_of_small_inputs(values: list[float]) -> None:
    found = np.array(values, dtype=np.float32)
    assert_cuts(magnitudes_of(found), found, range(-1, len(found) + 2))


@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=60), st.integers(0, 61))
@settings(max_examples=80, deadline=None)
def test_any_small_input_with_many_ties(values: list[float], count: int) -> None:
    assert_cuts(magnitudes_of(values), np.abs(np.array(values, dtype=np.float32)), [count])


def around(boundaries: Sequence[int], count: int) -> list[int]:
    """Return counts at, before and behind the boundaries, and some in between."""
    near = {b + step for b in boundaries for step in (-1, 0, 1)} | {0, 1, count - 1, count}
    return sorted(near | {count // 7, count // 2, count - count // 5})


@pytest.mark.parametrize("kind", ["normal", "wide", "close", "few", "zeros", "bfloat16", "one apart"])
def test_boundaries_of_large_inputs(kind: str) -> None:
    """More than a chunk, and with most kinds many more distinct magnitudes than a table has entries."""
    generator = torch.Generator().manual_seed(1)
    count = CPU_CHUNK_ELEMENTS + 12_345
    normal = torch.randn(count, generator=generator)
    values = {
        "normal": normal,
        "wide": torch.exp(normal * 20).clamp(max=1e38),
        "close": 1 + normal.abs() * 1e-4,
        "few": (normal * 3).round(),
        "zeros": torch.where(normal > 1, normal, 0.0),
        "bfloat16": normal.bfloat16().float(),
        "one apart": torch.where(torch.arange(count) == 99_999, 1.5, 1.0),
    }[kind]
    found = values.abs().numpy()
    magnitudes = magnitudes_of(values.numpy())
    table = MagnitudeTable.of(magnitudes)
    last = len(table.upto) - 1
    chosen = [int(table.upto[entry]) for entry in {0, last // 100, last // 2, last}]
    assert_cuts(magnitudes, found, around(chosen, count))


def test_a_table_of_nothing() -> None:
    table = MagnitudeTable.of(magnitudes_of([]))
    assert [table.largest(count, magnitudes_of([])) for count in (0, 1)] == [ALL, ALL]


def test_nothing_and_all_hold_for_any_magnitude() -> None:
    values = np.array([0.0, TINY, 1.0, HUGE], dtype=np.float32)
    assert before(ALL, values).all()
    assert not before(NONE, values).any()


def test_only_cuts_within_an_entry_are_looked_for() -> None:
    """What is looked for has one magnitude where the table tells all, else it is the rest of the count in an entry."""
    tied = MagnitudeTable.of(magnitudes_of([2.0, 1.0, 1.0, 3.0]))
    assert [tied.look(count) for count in (0, 1, 2, 4)] == [NONE, Cut(3.0, ALL.position), Cut(2.0, ALL.position), ALL]
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    assert tied.look(3) == Look(lower=1.0, upper=above, count=1, is_exact=True)
    coarse = MagnitudeTable.of(magnitudes_of(np.arange(1, 20_001)))
    assert coarse.shift > 0
    look = coarse.look(int(coarse.upto[5]) + 1)
    assert isinstance(look, Look) and (look.count, look.is_exact) == (1, False)
    members = np.arange(1, 20_001)
    assert np.count_nonzero((members >= look.lower) & (members < look.upper)) == coarse.upto[6] - coarse.upto[5]


def test_exact_tables_and_coarse_ones_add_up() -> None:
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(50_000, generator=generator), torch.randint(-3, 4, (1001,), generator=generator).float()]
    parts += [torch.zeros(5), torch.randn(1, generator=generator), torch.randn(20_000, generator=generator) * 1e-30]
    joined = Joined([magnitudes_of(part.numpy()) for part in parts])
    tables = [MagnitudeTable.of(magnitudes_of(part.numpy())) for part in parts]
    assert {tables[0].shift > 0, tables[1].shift > 0} == {True, False}
    table = MagnitudeTable.joined(tables)
    assert table.shift == max(part.shift for part in tables)
    values = torch.cat(parts).abs().numpy()
    for count in around(table.upto[::300].tolist(), len(values)):
        assert np.array_equal(before(table.largest(count, joined), values), brute_force(values, count)), count


def test_saliencies_are_ordered_as_they_are_computed() -> None:
    generator = torch.Generator().manual_seed(3)
    source, base = torch.randn(2, 5000, generator=generator)
    energies = torch.rand(50, generator=generator)
    tau = source - base
    values = (tau * tau * energies.repeat(100)).numpy()
    assert_cuts(Saliencies(source, base, energies), values, around([2500], 5000))


def test_free_elements_come_before_occupied_ones() -> None:
    """Even those that did not move, or by next to nothing; among these, the earlier ones come first."""
    generator = torch.Generator().manual_seed(4)
    source, base = torch.randn(2, 3000, generator=generator)
    source[::3] = base[::3]
    source[1::30], base[1::30] = 1e-22, 0.0
    free = torch.rand(3000, generator=generator) < 0.6
    tau = source - base
    values = torch.where(free, (tau * tau).clamp_min(SMALLEST), 0.0).numpy()
    saliencies = Saliencies(source, base, torch.ones(1), free)
    count = int(free.sum())
    assert_cuts(saliencies, values, around([count, count - count // 3], 3000))
    cut = MagnitudeTable.of(saliencies).largest(count, saliencies)
    assert np.array_equal(before(cut, values), free.numpy())


@pytest.mark.parametrize(
    "density, count, kept", [(0.0, 10, 0), (1e-9, 10, 1), (0.5, 5, 2), (0.1, 10, 1), (0.99, 10, 9), (1.0, 10, 10)]
)
def test_kept_count(density: float, count: int, kept: int) -> None:
    assert kept_count(density, count) == kept
