import numpy as np
import pytest

from campaigns.objectives import Objective
from fronts.understanding import understand

OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize"),
    Objective(task="text", metric="loss", direction="minimize", weight=3.0),
)
REFERENCE_POINT = (0.1, 0.1)


@pytest.fixture
def search(make_trial, measure):
    """Trials whose accuracy is the weight of a and whose loss is minus the weight of b, at given weights."""

    def make(rows, names=("weight.a", "weight.b", "weight.c"), method=None):
        trials = []
        for number, row in enumerate(rows):
            values = (row[0], -row[1])
            trial = make_trial(
                number, *(measure(o.name, (), value=value) for o, value in zip(OBJECTIVES, values, strict=True))
            )
            parameters = dict(zip(names, map(float, row), strict=True))
            trials.append(trial.replace(candidate=trial.candidate.replace(parameters=parameters)))
        return trials

    return make


def random_weights(count, sum_to_one=False):
    rows = np.random.default_rng(1).random((count, 3))
    return rows / rows.sum(axis=1, keepdims=True) if sum_to_one else rows


def test_free_weights_are_set_to_0_by_hand(search):
    """At (0.8, 0.6) the losses are -0.8 and -0.6: 0.9 x 0.7; without a they are 0 and -0.6: 0.1 x 0.7."""
    trials = search([*random_weights(40), (0.8, 0.6, 0.5)])
    found = understand(OBJECTIVES, "abc", trials, ["c-40"], REFERENCE_POINT)
    assert found.trials == 41
    losses = {name: c.hypervolume_loss for name, c in found.contributions.items()}
    assert losses == pytest.approx({"a": 1 - 0.07 / 0.63, "b": 1 - 0.09 / 0.63, "c": 0.0}, abs=1e-3)
    assert {(c.members, c.lost_members) for c in found.contributions.values()} == {(1, 0)}


def test_weights_that_sum_to_one_are_shared_out_again(search):
    """Without a, (0.8, 0.2, 0) becomes (0, 1, 0), and (1, 0, 0) is no merge any more."""
    trials = search([*random_weights(40, sum_to_one=True), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0)])
    found = understand(OBJECTIVES, "abc", trials, ["c-40", "c-41"], REFERENCE_POINT)
    whole = 0.9 * 0.3 + 0.2 * 0.1
    a, b, c = (found.contributions[name] for name in "abc")
    assert (a.members, a.lost_members) == (2, 1)
    assert a.hypervolume_loss == pytest.approx(1 - 0.1 * 1.1 / whole, abs=2e-3)
    assert (b.members, b.lost_members) == (1, 0)
    assert b.hypervolume_loss == pytest.approx(1 - 1.1 * 0.1 / whole, abs=2e-3)  # both become (1, 0, 0)
    assert (c.members, c.hypervolume_loss) == (0, pytest.approx(0.0, abs=1e-9))


def test_groups_of_layers_each_share_out_their_own_weights(search):
    first, second = random_weights(40, sum_to_one=True), random_weights(40, sum_to_one=True)[::-1]
    names = [f"weight.{c}@{group}" for group in ("layers[0,2)", "layers[2,4)") for c in "abc"]
    trials = search(np.column_stack([first, second]), names)
    found = understand(OBJECTIVES, "abc", trials, ["c-3"], REFERENCE_POINT)
    w = first[3] / first[3].sum()
    whole = (0.1 + w[0]) * (0.1 + w[1])
    without_c = (0.1 + w[0] / (w[0] + w[1])) * (0.1 + w[1] / (w[0] + w[1]))
    assert found.contributions["c"].hypervolume_loss == pytest.approx(1 - without_c / whole, abs=0.01)


def test_the_surrogate_is_reported_with_what_it_is_worth(search):
    found = understand(OBJECTIVES, "abc", search(random_weights(40)), ["c-0"], REFERENCE_POINT)
    assert set(found.r_squared) == {"sort/acc", "text/loss", "macro_average"}
    assert min(found.r_squared.values()) > 0.999
    importance = found.importance["macro_average"]
    assert importance["weight.b"] > importance["weight.a"] > 0.05 > importance["weight.c"]  # three to one in the macro
    assert found.importance["sort/acc"]["weight.a"] > 1


def test_one_kind_of_merge_is_described(search, make_trial):
    other = [t.replace(id=f"d-{t.number}") for t in search(random_weights(10), names=("weight.a", "weight.b", "scale"))]
    found = understand(OBJECTIVES, "abc", [*search(random_weights(30)), *other], ["c-0", "d-1"], REFERENCE_POINT)
    assert found.trials == 30
    assert set(found.importance["sort/acc"]) == {"weight.a", "weight.b", "weight.c"}


def test_of_many_trials_front_and_latest_are_taken(search):
    found = understand(OBJECTIVES, "abc", search(random_weights(450)), ["c-0"], REFERENCE_POINT)
    assert found.trials == 400
    assert found.contributions["a"].members == 1
    everybody = [f"c-{number}" for number in range(450)]
    crowded = understand(OBJECTIVES, "abc", search(random_weights(450)), everybody, REFERENCE_POINT)
    assert crowded.trials == 400


def test_too_few_trials_or_no_reference_point(search):
    few = understand(OBJECTIVES, "abc", search(random_weights(19)), ["c-0"], REFERENCE_POINT)
    assert (few.trials, few.r_squared, few.importance, few.contributions) == (19, None, None, None)
    assert understand(OBJECTIVES, "abc", [], [], None).trials == 0
    assert understand(OBJECTIVES, "abc", search(random_weights(30)), ["c-0"], None).contributions is None
    assert understand(OBJECTIVES, "abc", search(random_weights(30)), [], REFERENCE_POINT).contributions is None
