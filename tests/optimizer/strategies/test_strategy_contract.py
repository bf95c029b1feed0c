"""What every strategy of the table must keep to."""

import json
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns import strategies as specs
from campaigns.trial import Point
from optimizer.strategies import STRATEGIES, Observation, SearchProblem, Strategy, build_strategy

SPECS: dict[str, specs.Strategy] = {
    "random": specs.RandomSearch(),
    "sobol": specs.SobolSearch(),
    "nsga2": specs.Nsga2Search(population_size=6, initial_points=3),
    "nsga3": specs.Nsga3Search(population_size=6, initial_points=3),
    "cma_es": specs.CmaEsSearch(population_size=4),
    "tpe": specs.TpeSearch(initial_points=3),
    "gp": specs.GpSearch(initial_points=3),
    "gp_hypervolume": specs.GpHypervolumeSearch(initial_points=4, model_observations=20),
    "qnehvi": specs.QnehviSearch(initial_points=3, samples=4, scanned_points=4, climbs=1),
    "mm_mo": specs.MmMoSearch(initial_points=3, proposals=3, batch_size=2, samples=4, scanned_points=4, climbs=1),
}
DIMENSIONS = 3
WEIGHTS = (1.0, 2.0)
SLOW = ("gp", "qnehvi", "mm_mo")  # from 0.1 s per ask: checked over fewer turns
UNHURRIED = (*SLOW, "tpe", "gp_hypervolume")  # from 5 ms per ask: too long for many examples
LEARNING = [kind for kind in STRATEGIES if kind not in {"random", "sobol"}]
every_strategy = pytest.mark.parametrize("kind", STRATEGIES)


def build(kind: str, seed: int = 5, dimensions: int = DIMENSIONS, constraints: int = 0) -> Strategy:
    return build_strategy(SPECS[kind], SearchProblem(dimensions, WEIGHTS, seed, constraints))


def turns(kind: str, count: int) -> int:
    """Return `count`, or where every turn takes long, fewer that still leave the initial design."""
    return max(count // 50, 6) if kind in SLOW else count


def losses(point: Point) -> tuple[float, ...]:
    return sum((x - 0.2) ** 2 for x in point), sum((x - 0.8) ** 2 for x in point)


def constraints_of(point: Point, count: int) -> tuple[float, ...]:
    return (point[0] - 0.5, 0.3 - point[-1])[:count]


@dataclass
class Search:
    """A strategy with its pending points and what it was told, as the loop and the database would have it."""

    strategy: Strategy
    constraints: int = 0
    pending: list[Point] = field(default_factory=list)
    history: list[Observation] = field(default_factory=list)

    def ask(self) -> Point:
        self.pending.append(self.strategy.ask(self.pending))
        return self.pending[-1]

    def tell(self, point: Point, feasible: bool = True) -> None:
        limits = constraints_of(point, self.constraints)
        self.history.append(Observation(point, losses(point), limits) if feasible else Observation(point, None))
        self.strategy.tell(self.history[-1])

    def do(self, action: str, which: int) -> None:
        if action == "ask":
            self.ask()
        elif action == "baseline":
            self.tell(tuple(float(index == which % DIMENSIONS) for index in range(DIMENSIONS)))
        elif self.pending:
            point = self.pending.pop(which % len(self.pending))
            if action != "fault":  # a fault says nothing of the point: it is never told
                self.tell(point, feasible=action == "tell")

    def killed_and_resumed(self, kind: str, seed: int) -> "Search":
        state = json.loads(json.dumps(self.strategy.state(), allow_nan=False))
        strategy = build(kind, seed, constraints=self.constraints)
        strategy.restore(state, self.history)
        return Search(strategy, self.constraints, list(self.pending), list(self.history))


actions = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 4 + ["tell"] * 4 + ["infeasible", "baseline", "fault"]),
        st.integers(min_value=0, max_value=10),
    ),
    max_size=60,
)
seeds = st.integers(min_value=0, max_value=2**32 - 1)


def test_the_table_is_that_of_the_specs() -> None:
    tags = {spec.model_fields["kind"].default for spec in specs.Strategy.__args__[0].__args__}
    assert set(STRATEGIES) == tags == set(SPECS)


@pytest.mark.parametrize("kind", [kind for kind in STRATEGIES if kind not in UNHURRIED])  # those: after every step
@settings(max_examples=60, deadline=None)
@given(interleaving=actions, seed=seeds, constraints=st.sampled_from([0, 2]))
def test_killed_and_resumed_equals_never_killed(
    kind: str, interleaving: list[tuple[str, int]], seed: int, constraints: int
) -> None:
    never_killed = Search(build(kind, seed, constraints=constraints), constraints)
    for action, which in interleaving:
        never_killed.do(action, which)
    resumed = never_killed.killed_and_resumed(kind, seed)
    for turn in range(10):
        assert resumed.ask() == never_killed.ask()
        if turn % 3 != 2:
            resumed.do("tell", turn)
            never_killed.do("tell", turn)
    assert resumed.strategy.state() == never_killed.strategy.state()


@every_strategy
@pytest.mark.parametrize("constraints", [0, 2])
def test_killed_after_every_step_equals_never_killed(kind: str, constraints: int) -> None:
    never_killed = Search(build(kind, constraints=constraints), constraints)
    killed = Search(build(kind, constraints=constraints), constraints)
    choices = random.Random(3)
    for _ in range(24 if kind in SLOW else 80):
        action = choices.choice(["ask", "ask", "tell", "tell", "infeasible", "baseline", "fault"])
        which = choices.randrange(10)
        never_killed.do(action, which)
        killed.do(action, which)
        assert killed.pending == never_killed.pending
        killed = killed.killed_and_resumed(kind, seed=5)


class HalfForbidden:
    """Two quadratic losses, best at x0 = 0.25; where x0 > 0.5 both are lower by far, and a constraint is broken."""

    def __init__(self, strategy: Strategy, constraints: int) -> None:
        self.strategy = strategy
        self.constraints = constraints

    def turn(self) -> bool:
        """Ask and tell once; return whether the point keeps the constraints."""
        point = self.strategy.ask(())
        rest = point[1:]
        offset = (point[0] - 0.25) ** 2 - (2.0 if point[0] > 0.5 else 0.0)
        values = offset + sum((x - 0.2) ** 2 for x in rest), offset + sum((x - 0.8) ** 2 for x in rest)
        self.strategy.tell(Observation(point, values, (point[0] - 0.5, -1.0)[: self.constraints]))
        return point[0] <= 0.5


@pytest.mark.parametrize("kind", LEARNING)
def test_it_learns_to_keep_constraints(kind: str) -> None:
    search = HalfForbidden(build(kind, constraints=2), 2)
    for _ in range(14 if kind in SLOW else 60):
        search.turn()
    asks = 6 if kind in SLOW else 24
    assert sum(search.turn() for _ in range(asks)) >= 0.7 * asks


@pytest.mark.parametrize("kind", [kind for kind in LEARNING if kind not in SLOW])
def test_told_of_no_constraint_it_goes_where_the_losses_are_low(kind: str) -> None:
    """So it is the constraints that keep it away, in the test above."""
    search = HalfForbidden(build(kind), 0)
    for _ in range(60):
        search.turn()
    assert sum(search.turn() for _ in range(24)) <= 0.5 * 24


@every_strategy
def test_a_point_that_is_told_or_pending_is_never_proposed(kind: str) -> None:
    """Whatever a strategy would propose next is told, or made pending, by somebody else just before."""
    search = Search(build(kind))
    for turn in range(turns(kind, 40)):
        wanted = search.killed_and_resumed(kind, seed=5).ask()
        if turn % 2:
            search.pending.append(wanted)
        else:
            search.tell(wanted)
        assert max(abs(a - b) for a, b in zip(search.ask(), wanted, strict=True)) >= 1e-9
        search.do("tell", turn)


@every_strategy
@pytest.mark.parametrize("dimensions", [1, 2, 9])
def test_points_lie_in_the_cube(kind: str, dimensions: int) -> None:
    strategy = build(kind, dimensions=dimensions)
    for turn in range(turns(kind, 60)):
        point = strategy.ask(())
        assert len(point) == dimensions
        assert all(type(unit) is float and 0.0 <= unit <= 1.0 for unit in point)
        strategy.tell(Observation(point, losses(point) if turn % 7 else None))


@every_strategy
def test_same_seed_same_points_other_seed_other_points(kind: str) -> None:
    def points(seed: int) -> list[Point]:
        search = Search(build(kind, seed))
        for turn in range(turns(kind, 30)):
            search.do("ask", 0)
            search.do("tell", turn)
        return [observation.point for observation in search.history]

    assert points(1) == points(1)
    assert points(1) != points(2)
    assert len(set(points(1))) == turns(kind, 30)


@every_strategy
def test_global_generators_are_neither_moved_nor_read(kind: str) -> None:
    def points(global_seed: int) -> list[Point]:
        random.seed(global_seed)
        np.random.seed(global_seed)
        torch.manual_seed(global_seed)
        before = (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())
        search = Search(build(kind))
        for turn in range(turns(kind, 30)):
            search.do("ask", 0)
            search.do("infeasible" if turn == 4 else "tell", turn)
        search = search.killed_and_resumed(kind, seed=5)
        asked = [search.ask() for _ in range(5)]
        assert (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()) == before
        return asked

    assert points(1) == points(2)


@every_strategy
@pytest.mark.parametrize(
    ("observation", "named"),
    [
        (Observation((0.1, 0.2, 0.3), (float("nan"), 1.0)), "nan"),
        (Observation((0.1, 0.2, 0.3), (1.0, float("inf"))), "inf"),
        (Observation((0.1, 0.2, 0.3), (1.0, 2.0, 3.5)), "3.5"),
        (Observation((0.1, 0.2), (1.0, 2.0)), "3 coordinates, got 2"),
        (Observation((0.1, 0.2, 1.5), (1.0, 2.0)), "1.5"),
        (Observation((0.1, 0.2, float("nan")), None), "nan"),
    ],
)
def test_a_wrong_tell_names_the_value_and_changes_nothing(kind: str, observation: Observation, named: str) -> None:
    told, untold = build(kind), build(kind)
    with pytest.raises(ValueError, match=named):
        told.tell(observation)
    assert told.state() == untold.state()
    assert [told.ask(()) for _ in range(5)] == [untold.ask(()) for _ in range(5)]


@every_strategy
@pytest.mark.parametrize(
    ("constraints", "named"), [((), "2 constraints, got 0"), ((0.1,), "got 1"), ((0.1, float("nan")), "nan")]
)
def test_wrong_constraints_are_refused(kind: str, constraints: tuple[float, ...], named: str) -> None:
    strategy = build(kind, constraints=2)
    with pytest.raises(ValueError, match=named):
        strategy.tell(Observation((0.1, 0.2, 0.3), (1.0, 2.0), constraints))


@every_strategy
def test_asks_never_wait_for_tells(kind: str) -> None:
    search = Search(build(kind))
    points = [search.ask() for _ in range(40)]
    assert len(set(points)) == 40
    for point in reversed(points):
        search.tell(point)
    assert search.ask() not in points


@every_strategy
def test_the_state_stays_small(kind: str) -> None:
    search = Search(build(kind))
    for turn in range(turns(kind, 400)):
        search.do("ask", 0)
        search.do("tell", turn)
    assert len(json.dumps(search.strategy.state())) < 1000


@pytest.mark.parametrize(("dimensions", "weights"), [(0, (1.0,)), (2, ()), (2, (0.0, 0.0))])
def test_a_search_of_nothing_is_refused(dimensions: int, weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at least one dimension"):
        SearchProblem(dimensions, weights, 0)
