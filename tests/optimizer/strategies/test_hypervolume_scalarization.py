"""The hypervolume over rays against the exact one, and expected improvement against sampling."""

import moocore
import numpy as np
import pytest

from optimizer.strategies.hypervolume_scalarization import (
    directions,
    expected_improvement,
    hypervolume_estimate,
    lengths,
)


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_the_estimate_is_near_the_exact_hypervolume(objectives):
    generator = np.random.default_rng(objectives)
    losses = generator.uniform(0.0, 1.2, (30, objectives))
    rays = directions(objectives, 4096, generator)
    exact = moocore.hypervolume(losses[(losses < 1.0).all(axis=1)], ref=np.ones(objectives))
    assert hypervolume_estimate(losses, rays) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("objectives", [1, 2, 4])
def test_directions_are_positive_and_of_length_one(objectives):
    rays = directions(objectives, 64, np.random.default_rng(0))
    assert (rays > 0.0).all()
    assert (rays**2).sum(axis=1) == pytest.approx(1.0)


def test_nothing_known_covers_nothing():
    assert (lengths(np.empty((0, 2)), directions(2, 8, np.random.default_rng(0))) == 0.0).all()


@pytest.mark.parametrize("objectives", [1, 2, 4])
def test_expected_improvement_is_the_mean_growth_of_sampled_losses(objectives):
    generator = np.random.default_rng(7)
    rays = directions(objectives, 128, generator)
    covered = lengths(generator.uniform(0.2, 1.0, (5, objectives)), rays)
    means, deviations = generator.uniform(0.0, 0.8, (6, objectives)), generator.uniform(0.05, 0.4, (6, objectives))
    expected = expected_improvement(means, deviations, covered, rays)
    for mean, deviation, value in zip(means, deviations, expected, strict=True):
        drawn = mean + deviation * generator.standard_normal((20_000, objectives))
        reached = np.maximum(((1.0 - drawn)[:, None, :] / rays).min(axis=2), covered)
        growth = (reached**objectives - covered**objectives).mean(axis=1)
        assert value == pytest.approx(growth.mean(), abs=5.0 * growth.std() / np.sqrt(20_000) + 0.01 * growth.mean())


def test_a_candidate_that_is_surely_dominated_promises_nothing():
    rays = directions(2, 32, np.random.default_rng(0))
    covered = lengths(np.array([[0.2, 0.2]]), rays)
    worth = expected_improvement(np.array([[0.5, 0.5], [0.1, 0.1]]), np.full((2, 2), 0.01), covered, rays)
    assert worth[0] == 0.0 < worth[1]
