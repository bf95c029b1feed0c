import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.objectives import Objective
from campaigns.states import TrialState
from fronts.pareto import MAX_EXACT_OBJECTIVES, frozen_reference_point, hypervolume, non_dominated, search_losses

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


def test_losses_of_a_pruned_trial_are_estimates_where_there_are_any(make_trial, measure) -> None:
    """The weights are measured exactly, and have no estimate."""
    objectives = (
        Objective(task="sort", metric="acc", direction="maximize"),
        Objective(task="text", metric="ppl", direction="minimize"),
        Objective(task="weights", metric="delta_l1", direction="minimize"),
    )
    found = (
        measure("sort/acc", [1.0, 0.0], estimate=0.25),
        measure("text/ppl", [4.0, 6.0], estimate=7.0),
        measure("weights/delta_l1", [], value=3.0),
        measure("sort/acc", [1.0], split="holdout", estimate=0.9),
    )
    pruned = make_trial(0, *found).replace(state=TrialState.PRUNED)
    assert search_losses(objectives, pruned) == (-0.25, 7.0, 3.0)
    assert [pruned.expected(o.name) for o in objectives] == [0.25, 7.0, 3.0]
    assert (pruned.value("sort/acc", "search"), pruned.expected("sort/f1")) == (0.5, None)
    complete = make_trial(0, *(m.replace(estimate=None) for m in found))
    assert search_losses(objectives, complete) == (-0.5, 5.0, 3.0)
    with pytest.raises(ValueError, match="no search measurement of weights/delta_l1"):
        search_losses(objectives, make_trial(0, *found[:2]))
