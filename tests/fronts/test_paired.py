"""Differences, intervals and p-values, by hand and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from campaigns.objectives import Objective
from fronts.items import item_table
from fronts.paired import (
    bonett_price_interval,
    bootstrap_p_value,
    compare,
    compare_macro,
    holm,
    mcnemar_p_value,
    percentile_interval,
)
from fronts.resampling import macro_averages, resampled_means, resampled_values

ACCURACY = Objective(task="sort", metric="acc", direction="maximize")
LOSS = Objective(task="text", metric="loss", direction="minimize")


def compared(make_trial, measure, objective, ours, theirs):
    trials = [make_trial(n, measure(objective.name, row)) for n, row in enumerate((ours, theirs))]
    table = item_table([objective], trials, "search")
    [means] = resampled_means(table, 10_000)
    return compare(table.columns[0], means, 0, 1)


def test_mcnemar_by_hand(make_trial, measure):
    """Of 12 items the one wins 6 and loses 1: p = 2 (1 + 7) / 2^7."""
    ours = [1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0]
    theirs = [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    found = compared(make_trial, measure, ACCURACY, ours, theirs)
    assert (found.test, found.tested, found.items, found.wins, found.losses) == ("mcnemar", "value", 12, 6, 1)
    assert found.gain == pytest.approx(5 / 12)
    assert found.p_value == pytest.approx(0.125)
    variance = (7 - 12 * (5 / 12) ** 2) / 11  # of seven differences ±1 and five of 0
    assert found.standard_error == pytest.approx(math.sqrt(variance / 12))
    reach = norm.ppf(0.975) * math.sqrt((9 / 14 - (5 / 14) ** 2) / 14)
    assert found.interval == pytest.approx((5 / 14 - reach, 5 / 14 + reach))
    mirrored = compared(make_trial, measure, ACCURACY, theirs, ours)
    assert mirrored.gain == -found.gain
    assert mirrored.p_value == found.p_value


@given(wins=st.integers(0, 300), losses=st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar_p_value(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_trials_that_agree_on_every_item_are_not_told_apart(make_trial, measure):
    found = compared(make_trial, measure, ACCURACY, [1, 0, 1], [1, 0, 1])
    assert (found.gain, found.standard_error, found.p_value) == (0, 0, 1)
    assert found.interval[0] < 0 < found.interval[1]  # three items say little
    found = compared(make_trial, measure, LOSS, [0.5, 0.25, 2.0], [0.5, 0.25, 2.0])
    assert (found.gain, found.interval, found.p_value, found.test) == (0, (0, 0), 1, "bootstrap")


def test_the_bootstrap_of_two_items_by_hand(make_trial, measure):
    """Gains 1 and 3: a resample's mean is 1, 2, 2 or 3, never at or below 0."""
    found = compared(make_trial, measure, LOSS, [2.0, 5.0], [3.0, 8.0])
    assert (found.test, found.tested, found.gain, found.wins, found.losses) == ("bootstrap", "value", 2, 2, 0)
    assert found.standard_error == 1.0  # sd sqrt(2), over sqrt(2)
    assert found.interval == (1.0, 3.0)
    assert found.p_value == pytest.approx(2 / 10_001)


def test_one_item_has_no_standard_error(make_trial, measure):
    assert compared(make_trial, measure, LOSS, [2.0], [3.0]).standard_error is None


def test_interval_and_p_value_of_given_draws():
    draws = np.arange(-3.0, 97.0)  # -3, -2, ..., 96: four at or below 0
    assert bootstrap_p_value(draws) == pytest.approx(2 * 5 / 101)
    assert bootstrap_p_value(-draws) == pytest.approx(2 * 5 / 101)
    assert bootstrap_p_value(np.zeros(9)) == 1.0
    assert percentile_interval(draws) == pytest.approx((-3 + 0.025 * 99, -3 + 0.975 * 99))


def test_the_macro_average_takes_all_tasks_together(make_trial, measure):
    """Better by 0.5 in one and worse by 0.5 in the other: nothing is left, and ties count on both sides."""
    trials = [
        make_trial(0, measure("sort/acc", [1, 1, 1, 1]), measure("text/loss", [2.5, 2.5])),
        make_trial(1, measure("sort/acc", [0.5, 0.5, 0.5, 0.5]), measure("text/loss", [2.0, 2.0])),
    ]
    table = item_table([ACCURACY, LOSS], trials, "search")
    values = resampled_values(table, resampled_means(table, 500))
    measured = macro_averages(table, np.stack([column.values for column in table.columns], axis=1))
    found = compare_macro(table, measured, macro_averages(table, values), 0, 1)
    assert (found.gain, found.p_value, found.items) == (0, 1, 6)
    assert (found.tested, found.wins, found.losses) == ("macro_average", None, None)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 3 x 0.01, 2 x 0.03, then not below that
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_the_bonferroni_values_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    for raw, found in zip(p_values, adjusted, strict=True):
        assert raw <= found <= min(1.0, len(p_values) * raw)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))
    assert sorted(adjusted) == [found for _, found in sorted(zip(p_values, adjusted, strict=True))]


def test_intervals_of_paired_proportions_cover_the_truth():
    """80 items: both right 40%, only the one 20%, only the other 10%; the true difference is 0.1."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(80, [0.4, 0.2, 0.1, 0.3], size=4000)
    intervals = [bonett_price_interval(int(row[1]), int(row[2]), 80) for row in counts]
    covered = np.mean([low <= 0.1 <= high for low, high in intervals])
    assert 0.94 < covered < 0.97


def test_mcnemar_raises_few_false_alarms():
    rng = np.random.default_rng(1)
    counts = rng.multinomial(80, [0.4, 0.15, 0.15, 0.3], size=4000)
    assert np.mean([mcnemar_p_value(int(row[1]), int(row[2])) <= 0.05 for row in counts]) < 0.055


def test_bootstrap_intervals_cover_and_p_values_are_uniform(make_trial, measure):
    """Skewed differences of 100 items that share most of their noise; the true gain is 0.2, and 0 after a shift."""
    rng = np.random.default_rng(2)
    hard = rng.exponential(size=(600, 100))
    ours, theirs = hard + 0.3 * rng.exponential(size=hard.shape), hard + 0.5 * rng.exponential(size=hard.shape)
    covered, alarms = [], []
    for one, other in zip(ours, theirs, strict=True):
        trials = [make_trial(n, measure("text/loss", row)) for n, row in enumerate((one, other, other - 0.2))]
        table = item_table([LOSS], trials, "search")
        [means] = resampled_means(table, 1000)
        low, high = compare(table.columns[0], means, 0, 1).interval
        covered.append(low <= 0.2 <= high)
        alarms.append(compare(table.columns[0], means, 0, 2).p_value <= 0.05)
    assert 0.92 < np.mean(covered) < 0.975
    assert 0.025 < np.mean(alarms) < 0.08
