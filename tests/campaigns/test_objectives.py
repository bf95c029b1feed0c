"""Objectives: direction, macro-average and its standard error, by hand."""

import math

import pytest

from campaigns.objectives import Measurement, Objective, macro_average, macro_standard_error

SORT = Objective(task="sort", metric="exact_match", direction="maximize")
TEXT = Objective(task="text", metric="bits_per_byte", direction="minimize", weight=0.5)


def measured(objective, value, error=0.1, split="search"):
    name = objective.name
    return Measurement(objective=name, split=split, value=value, standard_error=error, items=10, protocol="p")


def test_a_loss_is_smaller_where_the_value_is_better():
    assert SORT.loss(0.9) < SORT.loss(0.1)
    assert TEXT.loss(1.0) < TEXT.loss(2.0)


def test_the_name_says_the_filter_only_where_there_is_one():
    assert SORT.name == "sort/exact_match"
    assert SORT.replace(filter="strict").name == "sort/exact_match@strict"


def test_the_macro_average_weighs_and_turns_what_is_minimised():
    found = (measured(SORT, 0.8), measured(TEXT, 1.2))
    assert macro_average((SORT, TEXT), found, "search") == pytest.approx((0.8 - 0.5 * 1.2) / 1.5)
    assert macro_standard_error((SORT, TEXT), found, "search") == pytest.approx(math.hypot(0.1, 0.05) / 1.5)


def test_an_objective_of_weight_zero_stays_out():
    text = TEXT.replace(weight=0.0)
    found = (measured(SORT, 0.8), measured(text, 1.2, error=None))
    assert macro_average((SORT, text), found, "search") == 0.8
    assert macro_standard_error((SORT, text), found, "search") == pytest.approx(0.1)


def test_there_is_no_macro_average_while_an_objective_is_missing():
    assert macro_average((SORT, TEXT), (measured(SORT, 0.8),), "search") is None
    assert macro_average((SORT,), (measured(SORT, 0.8),), "holdout") is None
    assert macro_standard_error((SORT,), (measured(SORT, 0.8, error=None),), "search") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_is_a_number(value):
    with pytest.raises(ValueError, match="finite number"):
        measured(SORT, value)


def test_only_an_estimate_that_was_made_is_written_down():
    whole, part = measured(SORT, 0.5), measured(SORT, 0.5).replace(estimate=0.4)
    assert "estimate" not in whole.model_dump(mode="json")
    assert part.model_dump(mode="json")["estimate"] == 0.4
    assert [Measurement.model_validate_json(m.model_dump_json()) for m in (whole, part)] == [whole, part]
    with pytest.raises(ValueError, match="finite number"):
        whole.replace(estimate=float("nan"))


def test_weights_stay_out_of_the_macro_average_unless_asked_in():
    assert Objective(task="weights", metric="delta_l1").weight == 0.0
    assert Objective(task="weights", metric="delta_l1", weight=0.5).weight == 0.5
    assert Objective.model_validate({"task": "weights", "metric": "delta_l1"}).is_of_weights
    assert not SORT.is_of_weights


@pytest.mark.parametrize("field", ["num_fewshot", "search_items", "holdout_items"])
def test_weights_have_no_items(field):
    with pytest.raises(ValueError, match="weights are measured without items"):
        Objective(task="weights", metric="delta_l1", **{field: 3})
