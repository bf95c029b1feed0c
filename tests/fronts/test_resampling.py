import zlib

import numpy as np
import pytest

from campaigns.objectives import Objective
from fronts import resampling
from fronts.items import item_table
from fronts.resampling import macro_averages, resampled_means, resampled_values

SORT = Objective(task="sort", metric="acc", direction="maximize")
SORT_NORM = Objective(task="sort", metric="acc_norm", direction="maximize")
TEXT = Objective(task="text", metric="loss", direction="minimize", weight=3.0)
BLEU = Objective(task="say", metric="bleu", direction="maximize", weight=0.0)


@pytest.fixture
def table(make_trial, measure):
    rng = np.random.default_rng(1)
    trials = [
        make_trial(
            number,
            measure("sort/acc", rng.integers(0, 2, 6).astype(float)),
            measure("sort/acc_norm", rng.integers(0, 2, 6).astype(float)),
            measure("text/loss", rng.random(4)),
            measure("say/bleu", (), value=30.0 + number),
        )
        for number in range(3)
    ]
    return item_table([SORT, SORT_NORM, TEXT, BLEU], trials, "search")


@pytest.mark.parametrize("most", [resampling.MAX_DRAWN, 13])
def test_the_means_are_those_of_the_drawn_items(table, monkeypatch, most):
    """One draw after the other, item by item; the objectives of a task see the same draws, in blocks of any size."""
    monkeypatch.setattr(resampling, "MAX_DRAWN", most)
    means = resampled_means(table, 50, seed=7)
    for index in (0, 1, 2):
        column = table.columns[index]
        items = column.outcomes.shape[1]
        generator = np.random.default_rng((7, zlib.crc32(column.objective.task.encode()), items))
        for resample in range(50):
            drawn = generator.integers(0, items, items)
            expected = [np.mean([row[item] for item in drawn]) for row in column.outcomes]
            np.testing.assert_allclose(means[index][resample], expected)
    assert means[3] is None


def test_a_pair_gets_the_same_draws_whoever_is_beside_it(table, make_trial):
    alone = item_table([column.objective for column in table.columns], table.trials[1:], "search")
    for both, pair in zip(resampled_means(table, 20)[:3], resampled_means(alone, 20)[:3], strict=True):
        np.testing.assert_allclose(both[:, 1:], pair)


def test_the_macro_average_weighs_gains_and_a_metric_without_outcomes_stays(table):
    values = resampled_values(table, resampled_means(table, 20))
    assert values.shape == (20, 3, 4)
    assert (values[:, :, 3] == [30.0, 31.0, 32.0]).all()
    expected = (values[:, :, 0] + values[:, :, 1] - 3 * values[:, :, 2]) / 5
    np.testing.assert_allclose(macro_averages(table, values), expected)


def test_resampled_means_spread_as_the_standard_error_says(make_trial, measure):
    outcomes = np.random.default_rng(0).exponential(size=200)
    table = item_table([TEXT], [make_trial(0, measure("text/loss", outcomes))], "search")
    [means] = resampled_means(table, 20_000)
    assert means.mean() == pytest.approx(outcomes.mean(), abs=0.003)
    assert means.std() == pytest.approx(outcomes.std() / np.sqrt(200), rel=0.03)
