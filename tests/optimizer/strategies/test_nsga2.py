import statistics

import numpy as np
import pytest

from campaigns import strategies as specs
from campaigns.strategies import Nsga2Search, RandomSearch
from campaigns.trial import Point
from fronts.pareto import frozen_reference_point, hypervolume
from optimizer.strategies import Observation, SearchProblem, Strategy, build_strategy
from optimizer.strategies.sobol import SobolSequence


def build(dimensions: int = 3, **fields: int) -> Strategy:
    return build_strategy(Nsga2Search(**{"population_size": 6, **fields}), SearchProblem(dimensions, (1.0, 1.0), 7))


def front_point(share: float) -> Observation:
    """One of a family of points that do not dominate each other."""
    return Observation((share, 0.5, 0.5), (share, 1.0 - share))


def full(strategy: Strategy) -> Strategy:
    """Spend the design, fill the population with a front."""
    for _ in range(3):
        strategy.ask(())
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        strategy.tell(front_point(share))
    return strategy


@pytest.mark.parametrize(("fields", "design"), [({}, 3), ({"initial_points": 5}, 5), ({"population_size": 24}, 12)])
def test_the_design_is_sobol_then_children(fields: dict[str, int], design: int) -> None:
    strategy, sequence = build(**fields), SobolSequence(3, 7)
    strategy.tell(front_point(0.3))  # a baseline does not shorten the design
    assert [strategy.ask(()) for _ in range(design)] == [sequence.next() for _ in range(design)]
    assert strategy.ask(()) != sequence.next()


def test_with_nothing_feasible_told_the_design_goes_on() -> None:
    strategy, sequence = build(), SobolSequence(3, 7)
    for _ in range(20):
        point = strategy.ask(())
        assert point == sequence.next()
        strategy.tell(Observation(point, None))


def test_an_infeasible_point_never_enters() -> None:
    strategy, other = full(build()), full(build())
    other.tell(Observation((0.9, 0.9, 0.9), None))
    assert [strategy.ask(()) for _ in range(20)] == [other.ask(()) for _ in range(20)]


def test_a_dominated_point_does_not_enter_a_full_population() -> None:
    strategy, other = full(build()), full(build())
    other.tell(Observation((0.9, 0.9, 0.9), (2.0, 2.0)))
    assert [strategy.ask(()) for _ in range(20)] == [other.ask(()) for _ in range(20)]


def test_a_better_point_takes_over() -> None:
    strategy = full(build())
    for _ in range(6):  # six that dominate all others: nothing else is left to mate
        strategy.tell(Observation((0.125, 0.25, 0.75), (-1.0, -1.0)))
    children = np.array([strategy.ask(()) for _ in range(30)])
    inherited = (children == np.array([0.125, 0.25, 0.75])).mean()
    assert inherited > 0.5  # mutation alone moves them


def test_of_the_last_front_the_crowded_are_dropped() -> None:
    strategy = full(build())  # all of its members have 0.5 as their last coordinate
    strategy.tell(Observation((0.41, 0.1, 0.1), (0.41, 0.59)))  # next to 0.4: the least room of all
    assert all(abs(strategy.ask(())[2] - 0.5) < 0.25 for _ in range(30))
    strategy.tell(Observation((0.9, 0.1, 0.1), (-0.5, 1.5)))  # an extreme: the most room
    assert any(strategy.ask(())[2] < 0.25 for _ in range(30))


def test_told_and_pending_points_are_not_proposed_again() -> None:
    strategy = build(dimensions=1, mutation_eta=1)
    seen: list[Point] = []
    for turn in range(300):
        point = strategy.ask(seen)
        assert all(abs(point[0] - other[0]) >= 1e-9 for other in seen)
        seen.append(point)
        if turn % 2:
            strategy.tell(Observation(point, (point[0], 1 - point[0])))


def test_a_population_of_one_can_be_mutated() -> None:
    strategy = build()
    strategy.tell(Observation((0.5, 0.5, 0.5), (1.0, 1.0)))
    points = [strategy.ask(()) for _ in range(10)]
    assert len(set(points)) == 10


def constrained(*observations: Observation) -> Strategy:
    strategy = build_strategy(Nsga2Search(population_size=6, initial_points=1), SearchProblem(3, (1.0, 1.0), 7, 2))
    strategy.ask(())
    for observation in observations:
        strategy.tell(observation)
    return strategy


def broken(violation: float) -> Observation:
    """A point with the best of losses that breaks the first constraint."""
    return Observation((0.9, 0.1 * violation, 0.9), (-9.0, -9.0), (violation, -5.0))


def kept(share: float) -> Observation:
    return Observation((0.1, share, 0.1), (share, 1.0 - share), (0.0, -1.0))


def test_points_that_keep_all_constraints_come_first_the_others_by_violation() -> None:
    strategy = constrained(broken(4), kept(0.2), broken(1), broken(3), kept(0.8), kept(0.5), broken(2), broken(5))
    population = strategy._population  # type: ignore[attr-defined]
    assert sorted(population.get("CV")[:, 0]) == [0, 0, 0, 1, 2, 3]


def test_who_keeps_all_constraints_wins_every_tournament() -> None:
    """Two that keep them among six: a child of others comes only where four are drawn that break some."""
    strategy = constrained(*(broken(v) for v in (1, 2, 3, 4)), kept(0.3), kept(0.6))
    children = np.array([strategy.ask(()) for _ in range(200)])
    assert (children[:, 0] < 0.5).mean() > 0.6
    untold = build_strategy(Nsga2Search(population_size=6, initial_points=1), SearchProblem(3, (1.0, 1.0), 7))
    untold.ask(())
    for observation in (*(broken(v) for v in (1, 2, 3, 4)), kept(0.3), kept(0.6)):
        untold.tell(Observation(observation.point, observation.losses))
    assert (np.array([untold.ask(()) for _ in range(200)])[:, 0] < 0.5).mean() < 0.4


def test_with_all_constraints_broken_the_least_violation_is_bred() -> None:
    strategy = constrained(*(broken(v) for v in range(1, 10)))
    assert sorted(strategy._population.get("CV")[:, 0]) == [1, 2, 3, 4, 5, 6]  # type: ignore[attr-defined]
    assert all(0.0 <= unit <= 1.0 for unit in strategy.ask(()))


class QuadraticTradeOffs:
    """Four objectives over eight weights on the simplex, each best at a point of its own (a model of merging)."""

    checkpoints = 8

    def __init__(self, seed: int, concentration: float) -> None:
        generator = np.random.default_rng(seed)
        self._optima = generator.dirichlet(np.full(self.checkpoints, concentration), size=4)
        self._curvatures = generator.uniform(0.5, 2.0, size=(4, self.checkpoints))

    def losses(self, point: Point) -> tuple[float, ...]:
        raw = np.array(point)
        weights = raw / raw.sum()
        return tuple((self._curvatures * (weights - self._optima) ** 2).sum(axis=1).tolist())

    def baselines(self) -> list[Point]:
        corners = [tuple(row) for row in np.eye(self.checkpoints).tolist()]
        return [*corners, (0.5,) * self.checkpoints]

    def covered(self, spec: specs.Strategy, seed: int, evaluations: int = 96, actors: int = 4) -> float:
        """Return the hypervolume after `evaluations` asks with `actors` results out at any time, told out of order."""
        strategy = build_strategy(spec, SearchProblem(self.checkpoints, (1.0,) * 4, seed))
        told = [Observation(point, self.losses(point)) for point in self.baselines()]
        reference_point = frozen_reference_point([o.losses for o in told if o.losses])
        for observation in told:
            strategy.tell(observation)
        arrival = np.random.default_rng(seed)
        pending: list[Point] = []
        asked = 0
        while asked < evaluations or pending:
            while asked < evaluations and len(pending) < actors:
                pending.append(strategy.ask(pending))
                asked += 1
            point = pending.pop(int(arrival.integers(len(pending))))
            told.append(Observation(point, self.losses(point)))
            strategy.tell(told[-1])
        return hypervolume([o.losses for o in told if o.losses], reference_point)


@pytest.mark.parametrize(("problem_seed", "concentration"), [(12, 0.5), (1, 1.0), (2, 3.0)])
def test_it_beats_random_search_in_96_evaluations(problem_seed: int, concentration: float) -> None:
    problem = QuadraticTradeOffs(problem_seed, concentration)
    searched = [problem.covered(Nsga2Search(), seed) for seed in range(10)]
    drawn = [problem.covered(RandomSearch(), seed) for seed in range(10)]
    assert statistics.median(searched) > statistics.median(drawn)
    assert sum(a > b for a, b in zip(searched, drawn, strict=True)) >= 8
