import numpy as np
import pytest
from scipy.stats import qmc

from campaigns import strategies as specs
from campaigns.strategies import RandomSearch, SobolSearch
from optimizer.strategies import SearchProblem, build_strategy
from optimizer.strategies.taken_points import TakenPoints


def points(spec: specs.Strategy, count: int, seed: int = 0) -> np.ndarray:
    strategy = build_strategy(spec, SearchProblem(4, (1.0,), seed))
    return np.array([strategy.ask(()) for _ in range(count)])


def test_sobol_is_the_scrambled_sequence_of_scipy() -> None:
    assert np.array_equal(points(SobolSearch(), 32, seed=9), qmc.Sobol(4, scramble=True, rng=9).random(32))


def test_sobol_is_more_even_than_random() -> None:
    assert qmc.discrepancy(points(SobolSearch(), 64)) < 0.5 * qmc.discrepancy(points(RandomSearch(), 64))


def test_random_points_are_uniform_in_every_coordinate() -> None:
    drawn = points(RandomSearch(), 4000)
    assert drawn.mean(axis=0) == pytest.approx(np.full(4, 0.5), abs=0.02)
    assert drawn.var(axis=0) == pytest.approx(np.full(4, 1 / 12), abs=0.005)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.06


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_taken_points_are_those_told_and_those_pending_to_the_nearest_billionth(count: int) -> None:
    told = np.random.default_rng(0).random((count, 3))
    taken = TakenPoints(3)
    for row in told.tolist():
        taken.add(tuple(row))
    assert len(taken) == count
    assert all(taken.has(tuple(row), ()) for row in (told + 1e-10).tolist())
    assert not any(taken.has(tuple(row), ()) for row in (told + np.array([1e-8, 0.0, 0.0])).tolist())
    assert taken.has((0.1, 0.2, 0.3), [(0.9, 0.9, 0.9), (0.1, 0.2, 0.3)])
    assert not taken.has((0.1, 0.2, 0.3), [(0.1, 0.2, 0.4)])
