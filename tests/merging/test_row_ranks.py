"""Levels of magnitudes within their rows."""

import math
from fractions import Fraction

import numpy as np
import pytest

from merging.row_ranks import LEVELS, row_ranks


def bits_of(magnitudes: np.ndarray) -> np.ndarray:
    return magnitudes.astype(np.float32).view(np.int32)


@pytest.mark.parametrize("columns", [2, 3, 7, 255, 256, 257, 1000])
def test_levels_follow_a_stable_sort_of_each_row(columns: int) -> None:
    generator = np.random.default_rng(columns)
    for magnitudes in (generator.random((5, columns)), generator.integers(0, 4, (5, columns)), np.zeros((2, columns))):
        levels = row_ranks(bits_of(magnitudes))
        assert levels.dtype == np.uint8
        for row, found in zip(magnitudes, levels, strict=True):
            ranks = np.empty(columns, dtype=int)
            ranks[np.argsort(row, kind="stable")] = np.arange(columns)
            exact = [Fraction((LEVELS - 1) * int(rank), columns - 1) for rank in ranks]
            assert found.tolist() == [math.floor(level + Fraction(1, 2)) for level in exact]


def test_the_only_element_of_a_row_has_the_middle_level() -> None:
    assert row_ranks(bits_of(np.array([[0.0], [3.0]]))).tolist() == [[128], [128]]


def test_small_and_huge_numbers_are_told_apart() -> None:
    row = np.array([[3e38, 1e-45, 0.0, 1.0, 2e-45]], dtype=np.float32)
    assert row_ranks(row.view(np.int32)).tolist() == [[255, 64, 0, 191, 128]]
