"""MM-MO: its design and batches, and the three steps that make a batch."""

import numpy as np
import pytest
from pydantic import ValidationError

from campaigns.strategies import MmMoSearch
from campaigns.trial import Point
from optimizer.strategies import Observation, SearchProblem
from optimizer.strategies.gaussian_processes import number_seed
from optimizer.strategies.mm_mo import MmMo, least_known, strongest, weak_to_strong

SPEC = MmMoSearch(initial_points=6, proposals=4, batch_size=3, samples=16, scanned_points=16, climbs=1)
PROBLEM = SearchProblem(3, (1.0, 1.0), 0)


def losses(point: Point, unit: float = 1.0) -> tuple[float, ...]:
    return unit * sum((x - 0.2) ** 2 for x in point), unit * sum((x - 0.8) ** 2 for x in point)


def searched(evaluations: int, unit: float = 1.0) -> list[Point]:
    """Return the points of a search with one worker."""
    search = MmMo(SPEC, PROBLEM)
    points = []
    for _ in range(evaluations):
        points.append(search.ask(()))
        search.tell(Observation(points[-1], losses(points[-1], unit)))
    return points


def test_published_budget() -> None:
    assert MmMoSearch() == MmMoSearch(initial_points=10, proposals=10, batch_size=5)


def test_the_design_depends_on_no_result() -> None:
    untold = MmMo(SPEC, PROBLEM)
    assert searched(6) == [untold.ask(()) for _ in range(6)]
    assert len(set(searched(6))) == 6


def test_a_batch_is_planned_once_from_what_is_told_by_then() -> None:
    search = MmMo(SPEC, PROBLEM)
    for _ in range(6):
        point = search.ask(())
        search.tell(Observation(point, losses(point)))
    assert search.state() == {"asked": 6, "planned": []}
    first = search.ask(())
    second, third = search.state()["planned"]
    search.tell(Observation(first, losses(first)))
    assert [search.ask(()), search.ask(())] == [tuple(second), tuple(third)]
    assert search.state()["planned"] == []
    search.ask([tuple(second), tuple(third)])
    assert len(search.state()["planned"]) == 2


def test_units_of_losses_do_not_matter() -> None:
    """With a power of two the arithmetic is the same to the last bit: the reference point moves with the outcomes."""
    assert searched(9) == searched(9, unit=128.0)


def test_random_points_go_on_until_something_was_scored() -> None:
    search = MmMo(SPEC, PROBLEM)
    for _ in range(8):
        search.tell(Observation(search.ask(()), None))
    assert search.state() == {"asked": 8, "planned": []}


def test_weak_to_strong_crosses_with_the_donors() -> None:
    """Of equal donors the difference is zero: each coordinate is the proposal's or the donors', one at least theirs."""
    generator = np.random.default_rng(0)
    donors = np.tile([0.25, 0.5, 0.75], (5, 1))
    crossed = []
    for _ in range(400):
        moved = weak_to_strong(np.zeros(3), donors, generator)
        assert all(unit in (0.0, donor) for unit, donor in zip(moved, donors[0], strict=True))
        crossed.append(sum(unit > 0.0 for unit in moved))
    assert min(crossed) == 1
    assert np.mean(crossed) == pytest.approx(2.0, abs=0.15)  # 1 + (n - 1) CR


def test_weak_to_strong_steps_by_half_a_difference() -> None:
    """a + (b - c) / 2 over the orders of 0, 0.25 and 1, clipped; the one coordinate is always crossed."""
    donors = np.array([[0.0], [0.25], [1.0]])
    moved = {weak_to_strong(np.array([0.6]), donors, np.random.default_rng(seed))[0] for seed in range(60)}
    assert moved == {0.0, 0.375, 0.75, 0.875, 1.0}


@pytest.mark.parametrize("known", [1, 2])
def test_weak_to_strong_with_fewer_than_three_donors(known: int) -> None:
    moved = weak_to_strong(np.full(2, 0.5), np.random.default_rng(1).random((known, 2)), np.random.default_rng(0))
    assert all(0.0 <= unit <= 1.0 for unit in moved)


def test_the_strongest_keep_constraints_and_are_summed_without_units() -> None:
    scored = [
        Observation((0.1,), (0.0, 0.0), (0.5,)),
        Observation((0.2,), (1.0, 3000.0), (0.0,)),
        Observation((0.3,), (3.0, 1000.0), (-1.0,)),
        Observation((0.4,), (1.0, 2000.0), (-1.0,)),
        Observation((0.5,), (0.0, 0.0), (0.25,)),
    ]
    assert [observation.point[0] for observation in strongest(scored, 4)] == [0.4, 0.2, 0.3, 0.5]
    assert len(strongest(scored[:2], 5)) == 2


def test_screening_takes_what_is_least_known() -> None:
    """Sums of 1 / variance: 1/1 + 1/1 = 2, 1/4 + 1/4 = 0.5, 1/0.1 + 1/100 = 10.01, 1/2 + 1/2 = 1."""
    points = [(0.1,), (0.2,), (0.3,), (0.4,)]
    variances = np.array([[1.0, 1.0], [4.0, 4.0], [0.1, 100.0], [2.0, 2.0]])
    assert least_known(points, variances, 3) == [(0.2,), (0.4,), (0.1,)]
    assert least_known(points, np.zeros((4, 2)), 2) == [(0.1,), (0.2,)]


def test_a_batch_is_chosen_from_its_proposals() -> None:
    with pytest.raises(ValidationError, match="more points than there are proposals"):
        MmMoSearch(proposals=4, batch_size=5)


def test_told_what_a_campaign_of_the_same_seed_drew_its_design_is_new_and_not_beside_it() -> None:
    spec = MmMoSearch(initial_points=5)
    first, second = MmMo(spec, PROBLEM), MmMo(spec, PROBLEM)
    drawn = [first.ask(()) for _ in range(5)]
    for point in drawn:
        second.tell(Observation(point, (0.0, 0.0)))
    found = [second.ask(()) for _ in range(5)]
    again = [np.random.default_rng(number_seed(0, ask)).random((2, 3)).tolist() for ask in range(5)]
    assert [tuple(draws[0]) for draws in again] == drawn
    assert [tuple(draws[1]) for draws in again] == found
