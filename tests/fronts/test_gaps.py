import pytest

from campaigns.objectives import Objective
from fronts.gaps import gaps, optimism

OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize"),
    Objective(task="text", metric="loss", direction="minimize"),
)


@pytest.fixture
def scored(make_trial, measure):
    def make(number, search, holdout=None):
        values = [("search", search)] + ([("holdout", holdout)] if holdout else [])
        return make_trial(
            number,
            *(
                measure(objective.name, (), split, value=value, standard_error=error)
                for split, pair in values
                for objective, value, error in zip(OBJECTIVES, pair, (0.3, 0.4), strict=True)
            ),
        )

    return make


def test_flattery_is_above_0_in_either_direction(scored):
    found = gaps(OBJECTIVES, scored(0, (0.9, 2.0), (0.8, 2.5)))
    accuracy, loss, macro = found["sort/acc"], found["text/loss"], found["macro_average"]
    assert (accuracy.search.value, accuracy.holdout.value) == (0.9, 0.8)
    assert accuracy.optimism == pytest.approx(0.1)
    assert accuracy.standard_error == pytest.approx((2 * 0.3**2) ** 0.5)
    assert loss.optimism == pytest.approx(0.5)
    assert macro.search.value == pytest.approx((0.9 - 2.0) / 2)
    assert macro.optimism == pytest.approx(0.3)
    assert macro.standard_error == pytest.approx((2 * (0.3**2 + 0.4**2) / 4) ** 0.5)


def test_without_holdout_scores_there_is_no_gap(scored):
    found = gaps(OBJECTIVES, scored(0, (0.9, 2.0)))
    assert found["sort/acc"].search.value == 0.9
    assert [(gap.holdout, gap.optimism, gap.standard_error) for gap in found.values()] == [(None, None, None)] * 3


def test_a_gap_without_standard_errors_has_none(make_trial, measure):
    trial = make_trial(
        0, *(measure("sort/acc", (), split, value=0.5, standard_error=None) for split in ("search", "holdout"))
    )
    gap = gaps(OBJECTIVES[:1], trial)["sort/acc"]
    assert (gap.optimism, gap.standard_error) == (0.0, None)


def test_the_mean_optimism_of_front_and_baselines(scored):
    front = [scored(0, (0.9, 2.0), (0.8, 2.0)), scored(1, (0.7, 1.0), (0.5, 1.5)), scored(2, (1.0, 1.0))]
    found = optimism([gaps(OBJECTIVES, t) for t in front], [gaps(OBJECTIVES, scored(3, (0.5, 3.0), (0.5, 2.0)))])
    assert found["sort/acc"].front == pytest.approx(0.15)
    assert found["sort/acc"].baselines == 0.0
    assert found["text/loss"].front == pytest.approx(0.25)
    assert found["text/loss"].baselines == -1.0
    assert found["macro_average"].front == pytest.approx(0.2)
    assert optimism([], []) == {}
    assert optimism([gaps(OBJECTIVES, front[2])], [])["sort/acc"].front is None
