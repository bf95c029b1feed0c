import itertools
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Objective
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Candidate, Kind, Trial
from optimizer.front import MAX_EXACT_OBJECTIVES, frozen_reference_point, hypervolume, non_dominated, recommend

Losses = tuple[float, ...]
grid = st.integers(min_value=0, max_value=5).map(float)  # few values: ties and duplicates are frequent
clouds = st.integers(min_value=1, max_value=4).flatmap(lambda m: st.lists(st.tuples(*[grid] * m), max_size=12))


def dominates(one: Losses, other: Losses) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@given(losses=clouds)
def test_non_dominated_is_the_definition_with_duplicates_left_out(losses: list[Losses]) -> None:
    expected = [
        index
        for index, point in enumerate(losses)
        if point not in losses[:index] and not any(dominates(other, point) for other in losses)
    ]
    assert non_dominated(losses) == expected


def test_of_nothing_nothing_is_non_dominated() -> None:
    assert non_dominated([]) == []
    assert hypervolume([], (1.0, 1.0)) == 0.0


@pytest.mark.parametrize(
    ("losses", "reference_point", "volume"),
    [
        ([(1.0,)], (3.0,), 2.0),
        ([(1.0, 2.0)], (3.0, 3.0), 2.0),
        ([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)], (3.0, 3.0), 6.0),  # a staircase: 3 + 2 + 1
        ([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0), (2.5, 2.5), (1.0, 1.0)], (3.0, 3.0), 6.0),
        ([(0.0, 0.0, 1.0), (1.0, 1.0, 0.0)], (2.0, 2.0, 2.0), 5.0),  # 4 + 2 - 1
        ([(-0.5, -0.5)], (0.0, 0.0), 0.25),  # losses of maximised scores are negative
        ([(3.0, 0.0)], (3.0, 3.0), 0.0),  # on the edge of the reference point
        ([(4.0, -9.0)], (3.0, 3.0), 0.0),  # beyond it in one objective
    ],
)
def test_hypervolumes_by_hand(losses: list[Losses], reference_point: Losses, volume: float) -> None:
    assert hypervolume(losses, reference_point) == pytest.approx(volume, abs=1e-12)


@settings(max_examples=60)
@given(losses=clouds.filter(bool))
def test_hypervolume_is_the_number_of_covered_cells(losses: list[Losses]) -> None:
    """With losses on a grid, the volume is the number of unit cells whose lower corner a point weakly dominates."""
    side = 6
    cells = itertools.product(range(side), repeat=len(losses[0]))
    covered = sum(any(all(x <= c for x, c in zip(point, cell, strict=True)) for point in losses) for cell in cells)
    assert hypervolume(losses, (float(side),) * len(losses[0])) == pytest.approx(covered)


@pytest.mark.parametrize("objectives", [MAX_EXACT_OBJECTIVES, MAX_EXACT_OBJECTIVES + 1, 12])
def test_hypervolume_never_falls_and_dominated_points_add_nothing(objectives: int) -> None:
    points = np.random.default_rng(0).random((40, objectives))
    losses = [tuple(row) for row in points.tolist()]
    reference_point = (1.1,) * objectives
    history = [hypervolume(losses[:count], reference_point) for count in range(41)]
    assert all(before <= after for before, after in itertools.pairwise(history))
    assert hypervolume([*losses, (1.05,) * objectives], reference_point) == history[-1]


def test_beyond_the_exact_limit_the_estimate_is_close() -> None:
    """A box has a volume that is known, and so have two that meet in a third."""
    one, other = (0.5,) * 7, (0.2,) * 3 + (0.7,) * 4
    both = 0.5**7 + 0.8**3 * 0.3**4 - 0.5**3 * 0.3**4
    assert hypervolume([one], (1.0,) * 7) == pytest.approx(0.5**7, rel=0.01)
    assert hypervolume([one, other], (1.0,) * 7) == pytest.approx(both, rel=0.01)


def test_the_reference_point_lies_a_tenth_of_the_range_beyond_the_worst() -> None:
    baselines = [(-0.9, 10.0), (-0.1, 12.0), (-0.5, 20.0)]
    assert frozen_reference_point(baselines) == pytest.approx((-0.1 + 0.08, 21.0))


@pytest.mark.parametrize(("column", "expected"), [((0.0, 0.0), 0.001), ((-0.5, -0.5), -0.4995), ((80.0, 80.0), 80.08)])
def test_baselines_that_agree_still_cover_some_volume(column: Losses, expected: float) -> None:
    assert frozen_reference_point([(value,) for value in column]) == pytest.approx((expected,))
    assert hypervolume([(column[0],)], frozen_reference_point([(column[0],)])) > 0


@given(losses=clouds.filter(bool))
def test_every_baseline_is_strictly_inside_the_reference_point(losses: list[Losses]) -> None:
    reference_point = frozen_reference_point(losses)
    assert all(loss < limit for point in losses for loss, limit in zip(point, reference_point, strict=True))
    assert all(math.isfinite(limit) for limit in reference_point)


def test_a_reference_point_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none"):
        frozen_reference_point([])


OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize"),
    Objective(task="add", metric="acc", direction="maximize", weight=3.0),
    Objective(task="text", metric="ppl", direction="minimize", weight=0.0),
)


def trial(number: int, values: Losses, kind: Kind = "candidate", label: str | None = None) -> Trial:
    recipe = Recipe(method=LinearMerge(weights=(1.0,)), sources=("a",), template="a", dtype="float32")
    measurements = tuple(
        Measurement(objective=o.name, split="search", value=value, standard_error=0.1, items=10, protocol="p")
        for o, value in zip(OBJECTIVES, values, strict=False)
    )
    return Trial(
        id=f"c-{number}",
        campaign_id="c",
        number=number,
        candidate=Candidate(kind=kind, label=label, point=(0.5,), parameters={}, recipe=recipe),
        state=TrialState.COMPLETE,
        created_at=datetime.now(UTC),
        measurements=measurements,
    )


PARENTS = [
    trial(0, (0.9, 0.1, 8.0), "parent", "sorter"),
    trial(1, (0.1, 0.5, 8.0), "parent", "adder"),  # macro-average 0.4: the best parent
    trial(2, (0.4, 0.4, 8.0), "soup", "uniform soup"),  # also 0.4
]


def test_the_highest_weighted_macro_average_is_recommended_with_its_margins() -> None:
    front = [trial(5, (1.0, 0.4, 9.0)), trial(4, (0.2, 0.9, 99.0)), trial(3, (0.2, 0.5, 1.0))]
    found = recommend(OBJECTIVES, [*PARENTS, *front], front)
    assert found is not None
    assert found.trial_id == "c-4"  # (0.2 + 3 * 0.9) / 4 = 0.725; the perplexity has no say
    assert "0.725" in found.reason
    assert "+0.325 over the best parent adder (0.4)" in found.reason
    assert "+0.325 over the uniform soup (0.4)" in found.reason


def test_of_equals_the_first_asked_is_recommended() -> None:
    front = [trial(7, (0.5, 0.5, 1.0)), trial(6, (0.5, 0.5, 2.0))]
    found = recommend(OBJECTIVES, front, front)
    assert found is not None
    assert found.trial_id == "c-6"
    assert "over" not in found.reason  # there is nothing to compare with


def test_a_baseline_is_recommended_where_no_merge_is_better() -> None:
    front = [PARENTS[1], trial(3, (0.2, 0.2, 1.0))]
    found = recommend(OBJECTIVES, [*PARENTS, front[1]], front)
    assert found is not None
    assert found.trial_id == "c-1"
    assert "the baseline 'adder' itself" in found.reason
    assert "over the best parent" not in found.reason
    assert "+0 over the uniform soup" in found.reason


def test_an_empty_front_has_no_recommendation() -> None:
    assert recommend(OBJECTIVES, PARENTS, []) is None
    assert recommend(OBJECTIVES, PARENTS, [trial(3, (0.5,))]) is None  # not measured on all objectives
