"""The problems of the search benchmark: what is seen, what is measured, what counts."""

import numpy as np
import pytest
from search_problems import (
    PROBLEMS,
    SEEN_ITEMS,
    SearchBenchmark,
    attainable,
    baseline_points,
    build_problem,
    checkpoint_pool,
    merge_weights,
    zoo_surrogate,
)
from search_surrogate import OBJECTIVES

from campaigns.spaces import LinearSpace
from search_spaces import MethodMap

CENTRE = (0.5,) * 8


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_measures_what_it_says(name):
    benchmark = build_problem(name)
    points = np.random.default_rng(0).random((20, benchmark.dimensions))
    losses, constraints = benchmark.measure(points)
    assert losses.shape == (20, benchmark.objectives)
    assert constraints.shape == (20, benchmark.constraints)
    assert benchmark.name == name
    assert np.isfinite(losses).all() and np.isfinite(constraints).all()
    np.testing.assert_allclose(benchmark.measure(points[3:4])[0][0], losses[3], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if build_problem(name).first_points])
def test_parents_and_soup_lie_before_the_reference_point(name):
    benchmark = build_problem(name)
    assert len(benchmark.first_points) == 9
    losses, _ = benchmark.measure(np.array(benchmark.first_points))
    assert (losses < benchmark.reference_point).all()


def test_linear_merges_have_the_weights_of_the_real_map():
    space = MethodMap(LinearSpace(), checkpoint_pool(8))
    points = [*np.random.default_rng(0).random((5, 8)).tolist(), [0.0] * 8, *baseline_points(space, 8)]
    theirs = [space.candidate(tuple(point)).recipe.method.weights for point in points]
    np.testing.assert_allclose(merge_weights(np.array(points)), theirs, atol=1e-12)


def test_accuracies_are_seen_as_if_on_a_hundred_items_and_measured_without_noise():
    benchmark = build_problem("zoo3")
    exact = zoo_surrogate().losses(merge_weights([CENTRE]))[0, : benchmark.objectives]
    draws = []
    for seed in range(400):
        (losses, _), (measured, _) = benchmark.seen(CENTRE, seed)
        np.testing.assert_allclose(measured, exact, rtol=1e-12)
        draws.append(losses)
    right = -np.array(draws) * SEEN_ITEMS
    np.testing.assert_allclose(right, right.round(), atol=1e-9)
    deviation = np.sqrt(exact * (-1 - exact) / SEEN_ITEMS)
    np.testing.assert_allclose(np.mean(draws, axis=0), exact, atol=4 * deviation.max() / 20)
    np.testing.assert_allclose(np.std(draws, axis=0), deviation, rtol=0.2)


def test_bits_per_byte_are_seen_with_the_error_of_a_hundred_items():
    benchmark = build_problem("zoo5")
    text = OBJECTIVES.index("text")
    draws = [benchmark.seen(CENTRE, seed)[0][0][text] for seed in range(400)]
    exact = benchmark.measure([CENTRE])[0][0, text]
    assert np.mean(draws) == pytest.approx(exact, abs=4 * np.std(draws) / 20)
    assert 0.001 < np.std(draws) < 0.02


def test_the_noise_belongs_to_the_point_and_the_seed():
    benchmark = build_problem("zoo3")
    once, again, otherwise = (benchmark.seen(CENTRE, seed)[0][0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != otherwise).any()


def test_constraints_are_seen_with_noise_too():
    benchmark = build_problem("zoo2_constrained")
    exact = benchmark.measure([CENTRE])[1][0]
    draws = np.array([benchmark.seen(CENTRE, seed)[0][1] for seed in range(200)])
    np.testing.assert_allclose(draws.mean(axis=0), exact, atol=0.01)
    assert (draws.std(axis=0) > 0.005).all()


def test_points_that_break_a_constraint_cover_nothing():
    benchmark = SearchBenchmark("squares", "test", 2, (1.0, 1.0), 1, None, (4.0, 4.0))
    losses, constraints = [[1.0, 1.0], [0.0, 0.0]], [[0.0], [0.1]]
    assert benchmark.hypervolume(losses, constraints) == 9.0
    assert benchmark.hypervolume(losses[1:], constraints[1:]) == 0.0


def test_quadratic_losses_vanish_at_their_targets_alone():
    benchmark = build_problem("weights_sum")
    targets = benchmark.measure.args[0]
    losses, _ = benchmark.measure(targets / targets.max(axis=1, keepdims=True))
    np.testing.assert_allclose(np.diag(losses), 0.0, atol=1e-12)
    assert (losses[~np.eye(3, dtype=bool)] > 0.01).all()


def test_what_is_attainable_on_zdt1_is_what_its_front_covers():
    # The front is 1 - sqrt(f1) for f1 in [0, 1]; before (11, 11) it covers 121 - 1/3.
    assert attainable(build_problem("zdt1"), generations=120, population=60) == pytest.approx(121 - 1 / 3, rel=2e-3)


def test_what_is_attainable_keeps_the_constraints():
    benchmark = build_problem("zoo2_constrained")
    points = np.random.default_rng(0).random((300, 8))
    assert attainable(benchmark, generations=20, population=40) > benchmark.hypervolume(*benchmark.measure(points))
