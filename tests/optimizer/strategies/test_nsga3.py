import statistics
import warnings

import numpy as np
import pytest

from campaigns import strategies as specs
from campaigns.strategies import Nsga3Search, RandomSearch
from campaigns.trial import Point
from fronts.pareto import frozen_reference_point, hypervolume
from optimizer.strategies import Observation, SearchProblem, Strategy, build_strategy
from optimizer.strategies.nsga3 import reference_directions
from optimizer.strategies.sobol import SobolSequence


def build(objectives: int = 4, constraints: int = 0, **fields: int) -> Strategy:
    problem = SearchProblem(3, (1.0,) * objectives, 7, constraints)
    return build_strategy(Nsga3Search(**{"population_size": 8, "initial_points": 3, **fields}), problem)


def past_the_design(strategy: Strategy) -> Strategy:
    for _ in range(3):
        strategy.ask(())
    return strategy


@pytest.mark.parametrize(
    ("objectives", "count", "expected"),
    [(1, 24, 1), (2, 24, 24), (3, 24, 21), (4, 24, 24), (5, 24, 20), (8, 24, 16), (12, 24, 24), (12, 8, 1), (4, 4, 4)],
)
def test_directions_lie_on_the_simplex_and_are_no_more_than_asked_for(
    objectives: int, count: int, expected: int
) -> None:
    directions = reference_directions(objectives, count)
    assert directions.shape == (expected, objectives)
    assert directions.min() >= 0.0
    assert directions.sum(axis=1) == pytest.approx(np.ones(expected))
    assert len(np.unique(directions.round(9), axis=0)) == expected


def test_a_coarse_lattice_has_a_second_layer_inside() -> None:
    directions = reference_directions(4, 24)
    inside = directions[directions.min(axis=1) > 0.0]
    assert sorted(inside.tolist(), reverse=True) == [
        [0.625 if row == column else 0.125 for column in range(4)] for row in range(4)
    ]


def test_the_design_is_sobol_then_children() -> None:
    strategy, sequence = build(), SobolSequence(3, 7)
    strategy.tell(Observation((0.3, 0.5, 0.5), (1.0, 2.0, 3.0, 4.0)))
    assert [strategy.ask(()) for _ in range(3)] == [sequence.next() for _ in range(3)]
    assert strategy.ask(()) != sequence.next()


def test_a_niche_that_nobody_has_is_kept_and_of_a_crowd_one_is_dropped() -> None:
    """Seven points around one direction and four at the corners compete for eight places: the corners all stay."""
    strategy = past_the_design(build())
    crowd = [Observation((0.5, 0.5, 0.1), tuple(0.5 + 0.01 * np.cos(k + np.arange(4)))) for k in range(7)]
    for observation in crowd:
        strategy.tell(observation)
    for corner in range(4):
        losses = tuple(1.0 if index == corner else 0.0 for index in range(4))
        strategy.tell(Observation((0.5, 0.5, 0.9), losses))
    population = strategy._population.get("F")  # type: ignore[attr-defined]
    assert len(population) == 8
    assert sorted(np.flatnonzero(row == 1.0).item() for row in population if (row == 1.0).any()) == [0, 1, 2, 3]


def test_dominated_points_leave_first() -> None:
    strategy, other = past_the_design(build()), past_the_design(build())
    for s in (strategy, other):
        for share in np.linspace(0.1, 0.9, 8):
            s.tell(Observation((float(share), 0.5, 0.5), (share, 1 - share, share, 1 - share)))
    other.tell(Observation((0.9, 0.9, 0.9), (2.0, 2.0, 2.0, 2.0)))
    ours = strategy._population.get("F")  # type: ignore[attr-defined]
    theirs = other._population.get("F")  # type: ignore[attr-defined]
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_broken_constraints_lose_by_violation_whatever_the_losses() -> None:
    strategy = past_the_design(build(constraints=2))
    for violation in range(1, 9):
        strategy.tell(Observation((0.1 * violation, 0.1, 0.1), (-9.0,) * 4, (violation, -1.0)))
    for _ in range(6):
        strategy.tell(Observation((0.5, 0.9, 0.9), (1.0,) * 4, (-1.0, 0.0)))
    assert sorted(strategy._population.get("CV")[:, 0]) == [0, 0, 0, 0, 0, 0, 1, 2]  # type: ignore[attr-defined]


def test_tournaments_between_equal_violations_are_drawn_by_the_strategys_own_generator() -> None:
    strategies = [past_the_design(build(constraints=1)) for _ in range(2)]
    for strategy in strategies:
        for x in (0.1, 0.3, 0.5, 0.7, 0.9):
            strategy.tell(Observation((x, x, x), (x,) * 4, (1.0,)))
    assert [strategies[0].ask(()) for _ in range(20)] == [strategies[1].ask(()) for _ in range(20)]


def test_warnings_stay_as_they_were() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        strategy = past_the_design(build())
        for x in np.linspace(0.1, 0.9, 12):
            strategy.tell(Observation((float(x), 0.5, 0.5), (x, 1 - x, x**2, (1 - x) ** 2)))
        assert warnings.filters == before


class FiveTargets:
    """Five objectives over six weights on the simplex, each the squared distance from a point of its own."""

    def __init__(self, seed: int) -> None:
        self._optima = np.random.default_rng(seed).dirichlet(np.full(6, 0.7), size=5)

    def losses(self, point: Point) -> tuple[float, ...]:
        weights = np.array(point) / sum(point)
        return tuple(((weights - self._optima) ** 2).sum(axis=1).tolist())

    def covered(self, spec: specs.Strategy, seed: int, evaluations: int = 150) -> float:
        strategy = build_strategy(spec, SearchProblem(6, (1.0,) * 5, seed))
        told = [self.losses(tuple(row)) for row in np.eye(6).tolist()]
        reference_point = frozen_reference_point(told)
        for point, losses in zip(np.eye(6).tolist(), list(told), strict=True):
            strategy.tell(Observation(tuple(point), losses))
        for _ in range(evaluations):
            point = strategy.ask(())
            told.append(self.losses(point))
            strategy.tell(Observation(point, told[-1]))
        return hypervolume(told, reference_point)


def test_it_covers_more_than_random_search_in_five_objectives() -> None:
    problem = FiveTargets(3)
    searched = [problem.covered(Nsga3Search(), seed) for seed in range(5)]
    drawn = [problem.covered(RandomSearch(), seed) for seed in range(5)]
    assert statistics.median(searched) > statistics.median(drawn)
