"""Chance by counting: the generator word by word, its statistics, and that nothing depends on how a tensor is cut."""

import itertools
import math

import numpy as np
import pytest
import torch

from merging.masks import CHANCES, SPAN, chances, random_keys

COUNT = 1 << 20
SIGMAS = 5.0
"""Draws are fixed, so these tests never fail by chance; a fair generator passes about 3 million such tests in a row."""


def drawn(start: int, count: int, keys: tuple[int, int]) -> np.ndarray:
    offsets = torch.arange(count, dtype=torch.int32)
    return chances(offsets, torch.tensor([start]), torch.tensor(keys)).numpy()


def by_words(position: int, keys: tuple[int, int]) -> int:
    """The hash with whole numbers of any size, cut to 32 bits after each step."""
    span, offset = divmod(position, 1 << 30)
    word = offset ^ ((keys[0] ^ span * 0x7FEB352D) & 0xFFFFFFFF)
    word = (word ^ word >> 16) * 0x7FEB352D & 0xFFFFFFFF
    word = (word ^ word >> 15 ^ keys[1] & 0xFFFFFFFF) * 0x846CA68B & 0xFFFFFFFF
    return (word ^ word >> 16) >> 8


@pytest.mark.parametrize("start", [0, 1, 12345, SPAN - 300, SPAN, 7 * SPAN + 5, 200 * SPAN])
@pytest.mark.parametrize("keys", [(0, 0), (1, -1), (-(1 << 31), (1 << 31) - 1), random_keys(3, "a.weight", "b")])
def test_each_word_is_that_of_the_definition(start: int, keys: tuple[int, int]) -> None:
    assert drawn(start, 200, keys).tolist() == [by_words(start + offset, keys) for offset in range(200)]


def test_the_keys_are_pinned() -> None:
    """They name the masks of every recipe that was ever made: merges of yesterday must come out the same."""
    assert random_keys(0, "model.norm.weight", "ab" * 32) == (1145429435, -1278030814)
    assert random_keys(1, "model.norm.weight", "ab" * 32) != random_keys(0, "model.norm.weight", "ab" * 32)


def test_keys_tell_seeds_tensors_and_sources_apart() -> None:
    triples = itertools.product(range(5), ("a", "b", "a.b"), ("x", "y", "xy"))
    assert len({random_keys(*triple) for triple in triples}) == 45


def test_any_cut_draws_the_same() -> None:
    keys = random_keys(0, "t", "s")
    whole = drawn(0, 1000, keys)
    parts = [drawn(start, min(7, 1000 - start), keys) for start in range(0, 1000, 7)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_every_part_of_the_number_is_uniform() -> None:
    """Chi-square of the leading, the middle and the last 8 bits, 255 degrees of freedom."""
    for source in ("a", "b", "c"):
        words = drawn(0, COUNT, random_keys(0, "tensor", source))
        assert words.min() >= 0 and words.max() < CHANCES
        for shift in (0, 8, 16):
            counts = np.bincount(words >> shift & 255, minlength=256)
            chi_square = float(((counts - COUNT / 256) ** 2).sum() / (COUNT / 256))
            assert abs(chi_square - 255) < SIGMAS * math.sqrt(2 * 255)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.93])
def test_as_many_are_kept_as_the_density_says(density: float) -> None:
    for seed in range(4):
        kept = np.count_nonzero(drawn(0, COUNT, random_keys(seed, "tensor", "source")) < density * CHANCES)
        assert abs(kept - density * COUNT) < SIGMAS * math.sqrt(density * (1 - density) * COUNT)


def assert_unrelated(some: np.ndarray, others: np.ndarray) -> None:
    """Neither the numbers nor what two densities keep of them go together."""
    bound = SIGMAS / math.sqrt(len(some))
    assert abs(np.corrcoef(some, others)[0, 1]) < bound
    for density in (0.1, 0.5):
        assert abs(np.corrcoef(some < density * CHANCES, others < density * CHANCES)[0, 1]) < bound


def test_models_tensors_and_seeds_are_unrelated() -> None:
    first = drawn(0, COUNT, random_keys(0, "layers.0.weight", "a"))
    for other in ((0, "layers.0.weight", "b"), (0, "layers.1.weight", "a"), (1, "layers.0.weight", "a")):
        assert_unrelated(first, drawn(0, COUNT, random_keys(*other)))


@pytest.mark.parametrize("distance", [1, 2, 3, 8, 64, 768, 1024, 4096, 1 << 15])
def test_elements_are_unrelated_to_their_neighbours(distance: int) -> None:
    words = drawn(0, COUNT + distance, random_keys(0, "tensor", "source"))
    assert_unrelated(words[:-distance], words[distance:])


def test_spans_are_unrelated() -> None:
    keys = random_keys(0, "tensor", "source")
    assert_unrelated(drawn(0, COUNT, keys), drawn(SPAN, COUNT, keys))
    assert_unrelated(drawn(SPAN, COUNT, keys), drawn(2 * SPAN, COUNT, keys))


def test_rows_and_columns_keep_as_many_as_each_other() -> None:
    """No stripes: kept per row and per column of a matrix vary as draws one by one would."""
    kept = drawn(0, 1 << 20, random_keys(0, "tensor", "source")).reshape(1024, 1024) < CHANCES // 10
    for counts in (kept.sum(0), kept.sum(1)):
        spread = float(np.var(counts)) / (1024 * 0.1 * 0.9)
        assert abs(spread - 1) < SIGMAS * math.sqrt(2 / 1024)
