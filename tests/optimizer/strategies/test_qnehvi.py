"""qNEHVI: what its proposals make of objectives, constraints, failures and pending points."""

import math
from collections.abc import Callable

import moocore
import numpy as np
import pytest
import torch

from campaigns.strategies import QnehviSearch
from campaigns.trial import Point
from optimizer.strategies import Observation, SearchProblem
from optimizer.strategies.gaussian_processes import Surrogate, front_of, logei, observations_used, standardized, untaken
from optimizer.strategies.qnehvi import Qnehvi
from optimizer.strategies.taken_points import TakenPoints

SPEC = QnehviSearch(initial_points=6, samples=16, scanned_points=32, climbs=2)


def two_optima(point: Point) -> tuple[float, ...]:
    return sum((x - 0.2) ** 2 for x in point), sum((x - 0.8) ** 2 for x in point)


def uniform(count: int, dimensions: int, seed: int = 0) -> list[Point]:
    return [tuple(point) for point in np.random.default_rng(seed).random((count, dimensions)).tolist()]


def told(problem: SearchProblem, observations: list[Observation]) -> Qnehvi:
    """Return a search past its design that was told `observations`."""
    search = Qnehvi(SPEC, problem)
    for _ in range(6):
        search.ask(())
    for observation in observations:
        search.tell(observation)
    return search


def test_a_short_search_beats_random_points() -> None:
    search = Qnehvi(SPEC, SearchProblem(3, (1.0, 1.0), 0))
    found = []
    for _ in range(16):
        point = search.ask(())
        found.append(two_optima(point))
        search.tell(Observation(point, found[-1]))
    drawn = [[two_optima(point) for point in uniform(16, 3, seed)] for seed in range(20)]
    assert hypervolume(found) > max(hypervolume(losses) for losses in drawn)


def hypervolume(losses: list[tuple[float, ...]]) -> float:
    return float(moocore.hypervolume(np.array(losses), ref=[1.5, 1.5]))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("observations", [1, 8])
def test_any_number_of_objectives_from_the_first_observation_on(objectives: int, observations: int) -> None:
    optima = uniform(objectives, 2, seed=3)
    history = [
        Observation(point, tuple(math.dist(point, optimum) for optimum in optima)) for point in uniform(observations, 2)
    ]
    search = told(SearchProblem(2, (1.0,) * objectives, 0), history)
    proposals = [search.ask(()), search.ask(())]
    assert all(0.0 <= unit <= 1.0 for point in proposals for unit in point)
    assert not {observation.point for observation in history} & set(proposals)


def test_one_objective_is_climbed() -> None:
    def loss(point: Point) -> tuple[float, ...]:
        return (math.dist(point, (0.3, 0.7)) ** 2,)

    search = told(SearchProblem(2, (1.0,), 0), [Observation(point, loss(point)) for point in uniform(10, 2)])
    for _ in range(3):
        point = search.ask(())
        search.tell(Observation(point, loss(point)))
    assert math.dist(point, (0.3, 0.7)) < 0.1


def test_equal_losses_leave_something_to_explore() -> None:
    history = [Observation(point, (0.25, 3.0)) for point in uniform(8, 2)]
    point = told(SearchProblem(2, (1.0, 1.0), 0), history).ask(())
    assert min(math.dist(point, observation.point) for observation in history) > 0.05


def test_pending_points_are_kept_away_from() -> None:
    search = told(SearchProblem(2, (1.0, 1.0), 0), [Observation(p, two_optima(p)) for p in uniform(12, 2)])
    pending: list[Point] = []
    for _ in range(4):
        pending.append(search.ask(pending))
    nearest = min(math.dist(a, b) for index, a in enumerate(pending) for b in pending[:index])
    assert nearest > 0.02


def test_units_of_losses_do_not_matter() -> None:
    """With a power of two the arithmetic is the same to the last bit: the reference point moves with the outcomes."""

    def proposal(unit: float) -> Point:
        history = [Observation(point, tuple(unit * loss for loss in two_optima(point))) for point in uniform(8, 3)]
        return told(SearchProblem(3, (1.0, 1.0), 0), history).ask(())

    assert proposal(1.0) == proposal(128.0) == proposal(2.0**-10)


def first_small(point: Point) -> float:
    return point[0] - 0.4


def sum_large(point: Point) -> float:
    return 1.0 - sum(point)


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("constraint", [first_small, sum_large])
def test_constraints_are_learned(objectives: int, constraint: Callable[[Point], float]) -> None:
    """Both optima lie in the part of the square that one of the two constraints forbids."""

    def observation(point: Point) -> Observation:
        optima = [(0.9, 0.1), (0.7, 0.0)] if constraint is first_small else [(0.2, 0.1), (0.1, 0.3)]
        losses = tuple(math.dist(point, optimum) for optimum in optima[:objectives])
        return Observation(point, losses, (constraint(point),))

    search = told(SearchProblem(2, (1.0,) * objectives, 0, constraints=1), [observation(p) for p in uniform(14, 2)])
    violations = []
    for _ in range(4):
        point = search.ask(())
        violations.append(constraint(point))
        search.tell(observation(point))
    assert max(violations) < 0.05
    assert min(violations) <= 0.0


def test_no_point_keeps_the_constraint_yet() -> None:
    history = [Observation(point, two_optima(point), (point[0] + 0.1,)) for point in uniform(10, 2)]
    point = told(SearchProblem(2, (1.0, 1.0), 0, constraints=1), history).ask(())
    assert point[0] < min(observation.point[0] for observation in history)


def test_what_cannot_be_scored_is_kept_away_from() -> None:
    """Losses fall towards the right edge, but nothing right of the middle can be scored."""

    def observation(point: Point) -> Observation:
        return Observation(point, (1.0 - point[0], abs(point[1] - 0.5)) if point[0] < 0.5 else None)

    search = told(SearchProblem(2, (1.0, 1.0), 0), [observation(point) for point in uniform(16, 2)])
    for _ in range(4):
        point = search.ask(())
        search.tell(observation(point))
        assert point[0] < 0.6


def test_the_design_goes_on_until_something_was_scored() -> None:
    search, untold = told(SearchProblem(2, (1.0,), 0), [Observation((0.5, 0.5), None)]), Qnehvi(SPEC, PROBLEM)
    design = [untold.ask(()) for _ in range(8)]
    assert [search.ask(()), search.ask(())] == design[6:]


PROBLEM = SearchProblem(2, (1.0,), 0)


def test_long_histories_are_cut_to_the_front_and_the_latest() -> None:
    losses = [(1.0, 0.0), (5.0, 5.0), (0.0, 1.0), (6.0, 6.0), None, (7.0, 7.0)]
    history = [Observation((index / 10,), loss) for index, loss in enumerate(losses)]
    assert observations_used(history, 6) == history
    assert observations_used(history, 4) == [history[index] for index in (0, 2, 4, 5)]
    assert observations_used(history, 1) == [history[2]]


def test_the_front_is_of_those_who_break_constraints_the_least() -> None:
    history = [
        Observation((0.1,), (0.0, 0.0), (2.0,)),
        Observation((0.2,), (1.0, 3.0), (0.5,)),
        Observation((0.3,), (3.0, 1.0), (0.5,)),
        Observation((0.4,), (4.0, 4.0), (0.5,)),
    ]
    assert front_of(history) == [1, 2]
    assert front_of([*history, Observation((0.5,), (9.0, 9.0), (-0.1,))]) == [4]


def test_losses_are_standardized_and_outliers_cut() -> None:
    """Median 3 and best 1: what is more than 5 x 2 behind 3 is cut to 13. A column of equal losses becomes zeros."""
    losses = np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0], [4.0, 7.0], [1e9, 7.0]])
    cut = np.array([1.0, 2.0, 3.0, 4.0, 13.0])
    found = standardized(losses)
    assert found[:, 0] == pytest.approx((cut - cut.mean()) / cut.std())
    assert found[:, 1].tolist() == [0.0] * 5
    ties = np.array([[2.0], [2.0], [2.0], [9.0]])
    assert standardized(ties)[:, 0] == pytest.approx((ties[:, 0] - ties.mean()) / ties.std())


def test_a_taken_point_is_replaced_nearby() -> None:
    generator, taken = np.random.default_rng(0), TakenPoints(2)
    assert untaken((0.5, 1.0), taken, [(0.5, 0.9)], generator) == (0.5, 1.0)
    pending = untaken((0.5, 1.0), taken, [(0.5, 1.0)], generator)
    taken.add((0.5, 1.0))
    for replaced in (pending, untaken((0.5, 1.0), taken, (), generator)):
        assert 0.0 < math.dist(replaced, (0.5, 1.0)) < 0.3
        assert all(0.0 <= unit <= 1.0 for unit in replaced)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter_and_stays(threads: int) -> None:
    problem, history = SearchProblem(3, (1.0, 1.0), 0), [Observation(p, two_optima(p)) for p in uniform(40, 3)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = told(problem, history).ask(())
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found == told(problem, history).ask(())


def test_no_kernel_is_compiled() -> None:
    """BoTorch's would be, on first use, where there is a compiler: proposals would depend on that."""
    told(SearchProblem(2, (1.0, 1.0), 0), [Observation(p, two_optima(p)) for p in uniform(4, 2)]).ask(())
    assert logei._C is None


def test_variances_grow_with_the_distance_from_what_is_known() -> None:
    history = [Observation((x, 0.5), (x**2, (1.0 - x) ** 2)) for x in (0.0, 0.1, 0.2, 0.3)]
    variances = Surrogate(SearchProblem(2, (1.0, 1.0), 0), history).variances([(0.15, 0.5), (0.6, 0.5), (1.0, 0.5)])
    assert variances.shape == (3, 2)
    assert (np.diff(variances, axis=0) > 0.0).all()
