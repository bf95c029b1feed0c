import numpy as np
import pytest
from scipy.stats import norm

from campaigns.objectives import Objective
from fronts.items import item_table
from fronts.membership import near_front, non_dominated_shares

SORT = Objective(task="sort", metric="acc", direction="maximize")
TEXT = Objective(task="text", metric="loss", direction="minimize")
SAY = Objective(task="say", metric="bleu", direction="maximize")


def shares(make_trial, measure, rows, **options):
    """`rows` has (accuracies, losses) of each trial."""
    trials = [
        make_trial(n, measure("sort/acc", right), measure("text/loss", losses))
        for n, (right, losses) in enumerate(rows)
    ]
    return non_dominated_shares(item_table([SORT, TEXT], trials, "search"), **options)


def test_one_item_more_dominates_unless_it_is_not_drawn(make_trial, measure):
    """Equal but for one item of 20: the worse one is on the front when that is not drawn, (19/20)^20 of the time."""
    worse = [1.0] * 10 + [0.0] * 10
    better = [1.0] * 11 + [0.0] * 9
    found = shares(make_trial, measure, [(worse, [1.0, 2.0]), (better, [1.0, 2.0])], resamples=20_000)
    assert found[1] == 1.0
    assert found[0] == pytest.approx(0.95**20, abs=0.01)


def test_items_that_are_hard_for_all_are_no_noise_between_trials(make_trial, measure):
    """A loss that is always 0.01 higher is always dominated, however much the items differ."""
    hard = np.random.default_rng(0).exponential(10, size=50)
    found = shares(make_trial, measure, [([1, 0], hard), ([1, 0], hard + 0.01)])
    assert found.tolist() == [1.0, 0.0]


def test_independent_outcomes_give_the_normal_probability(make_trial, measure):
    rng = np.random.default_rng(3)
    one, other = rng.normal(1.0, 0.3, 400), rng.normal(1.01, 0.3, 400)
    found = shares(make_trial, measure, [([1, 0], one), ([1, 0], other)], resamples=5000)
    differences = other - one
    expected = norm.cdf(differences.mean() / (differences.std() / 20))
    assert found[0] == pytest.approx(expected, abs=0.03)
    assert found.sum() == pytest.approx(1.0)  # one of the two dominates, as they never tie


def test_trials_that_trade_off_or_are_equal_are_all_on_the_front(make_trial, measure):
    rows = [([1, 1, 1], [9.0, 9.0]), ([0, 0, 0], [1.0, 1.0]), ([0, 0, 0], [1.0, 1.0]), ([0, 0, 0], [2.0, 2.0])]
    assert shares(make_trial, measure, rows).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_metrics_without_outcomes_stay_as_measured(make_trial, measure):
    trials = [make_trial(n, measure("say/bleu", (), value=value)) for n, value in enumerate((30.0, 31.0))]
    assert non_dominated_shares(item_table([SAY], trials, "search")).tolist() == [0.0, 1.0]


def test_shares_are_the_same_every_time(make_trial, measure):
    rng = np.random.default_rng(5)
    rows = [(rng.integers(0, 2, 30), rng.random(20)) for _ in range(12)]
    first, second = (shares(make_trial, measure, rows) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert 0 < first.min() < first.max() <= 1


def test_of_nobody_there_are_no_shares():
    assert non_dominated_shares(item_table([SORT], [], "search")).tolist() == []


def test_near_the_front_are_whole_ranks():
    chain = [(float(n), float(n)) for n in range(5)]
    assert near_front(chain, most=3) == [0, 1, 2]
    front = [(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)]
    behind = [(1.0, 2.0), (2.0, 1.0)]
    assert near_front([*behind, *front], most=4) == [2, 3, 4]  # the second rank does not fit
    assert near_front([*behind, *front], most=1) == [2, 3, 4]
    assert near_front([*behind, *front], most=5) == [0, 1, 2, 3, 4]
    assert near_front([]) == []
