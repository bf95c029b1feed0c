import math

import numpy as np
import pytest

from campaigns.objectives import Objective
from fronts.items import item_table

ACCURACY = Objective(task="sort", metric="acc", direction="maximize")
PERPLEXITY = Objective(task="text", metric="word_perplexity", direction="minimize")


def test_outcomes_are_aligned_by_item(make_trial, measure):
    one = make_trial(0, measure("sort/acc", (1, 0, 0), item_ids=(7, 3, 5)))
    other = make_trial(1, measure("sort/acc", (0, 1, 1, 1), item_ids=(3, 5, 7, 9)))
    [column] = item_table([ACCURACY], [one, other], "search").columns
    assert column.outcomes.tolist() == [[0, 0, 1], [0, 1, 1]]  # items 3, 5 and 7


def test_only_equal_protocols_and_complete_measurements_are_compared(make_trial, measure):
    trials = [
        make_trial(0, measure("sort/acc", (1, 0), protocol="old")),
        make_trial(1, measure("sort/acc", (1, 0))),
        make_trial(2, measure("sort/acc", (1, 1))),
        make_trial(3, measure("sort/acc", (1, 1), split="holdout")),
    ]
    table = item_table([ACCURACY], trials, "search")
    assert [trial.number for trial in table.trials] == [1, 2]
    assert (table.row("c-2"), table.row("c-0")) == (1, None)
    assert list(table.left_out) == ["c-0", "c-3"]
    assert "another protocol" in table.left_out["c-0"]
    assert "not scored on the search items" in table.left_out["c-3"]


def test_nothing_to_compare(make_trial, measure):
    table = item_table([ACCURACY], [make_trial(0, measure("sort/acc", (1, 0)))], "holdout")
    assert (table.trials, table.columns) == ((), ())


@pytest.mark.parametrize(
    ("value_of_mean", "tested"),
    [(lambda mean: mean, "value"), (math.exp, "log_value"), (lambda mean: 3.0, "item_mean")],
)
def test_what_the_mean_outcome_is(make_trial, measure, value_of_mean, tested):
    outcomes = [(0.5, 1.5, 1.3), (2.0, 2.5, 2.1)]
    trials = [
        make_trial(n, measure("text/word_perplexity", row, value=value_of_mean(float(np.mean(row)))))
        for n, row in enumerate(outcomes)
    ]
    [column] = item_table([PERPLEXITY], trials, "search").columns
    assert column.tested == tested
    means = column.outcomes.mean(axis=1)
    np.testing.assert_allclose(column.values_at(means), column.values)
    doubled = column.values_at(means + math.log(2))
    expected = column.values + math.log(2) if tested == "value" else 2 * column.values
    np.testing.assert_allclose(doubled, expected)


def test_a_metric_without_outcomes_has_none(make_trial, measure):
    bleu = Objective(task="say", metric="bleu", direction="maximize")
    [column] = item_table([bleu], [make_trial(0, measure("say/bleu", (), value=30.0))], "search").columns
    assert column.outcomes is None
    assert column.values.tolist() == [30.0]
