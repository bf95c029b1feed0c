import random

import cma
import numpy as np
import pytest

from campaigns.strategies import CmaEsSearch
from campaigns.trial import Point
from optimizer.strategies import Observation, SearchProblem, Strategy, build_strategy

TARGET = np.array([0.3, 0.6, 0.8])


def build(weights: tuple[float, ...] = (1.0,), seed: int = 11, **fields: float) -> Strategy:
    return build_strategy(CmaEsSearch(**fields), SearchProblem(3, weights, seed))


def distance(point: Point) -> float:
    return float(((np.array(point) - TARGET) ** 2).sum())


def test_asked_and_told_in_order_it_is_cma_itself() -> None:
    strategy = build()
    options = {"seed": np.nan, "randn": np.random.RandomState(11).randn, "bounds": [0, 1], "verbose": -10}
    plain = cma.CMAEvolutionStrategy([0.5] * 3, 0.25, options)
    for _ in range(15):
        expected = plain.ask()
        points = [strategy.ask(()) for _ in expected]
        assert np.array(points) == pytest.approx(
            np.array(expected), abs=1e-9
        )  # BLAS rounds one sample otherwise than ten
        plain.tell(expected, [distance(point) for point in points])
        for point in points:
            strategy.tell(Observation(point, (distance(point),)))


@pytest.mark.parametrize("actors", [1, 4, 30])
def test_it_converges_with_results_out_of_order(actors: int) -> None:
    strategy, order, pending = build(), random.Random(0), list[Point]()
    best = 1.0
    for _ in range(400):
        while len(pending) < actors:
            pending.append(strategy.ask(pending))
        point = pending.pop(order.randrange(len(pending)))
        best = min(best, distance(point))
        strategy.tell(Observation(point, (distance(point),)))
    assert best < 1e-3


def test_it_converges_though_every_fifth_is_infeasible_and_every_seventh_never_told() -> None:
    strategy = build()
    best = 1.0
    for turn in range(500):
        point = strategy.ask(())
        best = min(best, distance(point))
        if turn % 7:
            strategy.tell(Observation(point, (distance(point),) if turn % 5 else None))
    assert best < 1e-3


def test_a_generation_of_infeasible_points_is_survived() -> None:
    strategy = build(population_size=4)
    for _ in range(20):
        strategy.tell(Observation(strategy.ask(()), None))
    assert all(0.0 <= unit <= 1.0 for unit in strategy.ask(()))


def test_it_starts_from_the_best_baseline() -> None:
    baselines = [(1.0, 0.0, 0.0), (0.2, 0.9, 0.4), (0.5, 0.5, 0.5)]
    strategy = build(weights=(1.0, 1.0), sigma=1e-6)
    for point, losses in zip(baselines, [(3.0, 3.0), (1.0, 2.0), (0.0, 4.0)], strict=True):
        strategy.tell(Observation(point, losses))
    strategy.tell(Observation((0.9, 0.9, 0.9), None))
    assert strategy.ask(()) == pytest.approx((0.2, 0.9, 0.4), abs=1e-3)


def test_without_baselines_it_starts_from_the_centre() -> None:
    assert build(sigma=1e-6).ask(()) == pytest.approx((0.5, 0.5, 0.5), abs=1e-3)


def test_it_climbs_the_weighted_macro_average() -> None:
    """Objectives pull at the two ends; the weighted mean of squared distances is least at the weighted mean."""
    strategy = build(weights=(3.0, 1.0, 0.0))
    for _ in range(600):
        point = strategy.ask(())
        at_low = float(((np.array(point) - 0.2) ** 2).sum())
        at_high = float(((np.array(point) - 0.8) ** 2).sum())
        strategy.tell(Observation(point, (at_low, at_high, -1e9 * point[0])))
    assert strategy.ask(()) == pytest.approx((0.35, 0.35, 0.35), abs=0.03)


def test_points_that_it_never_asked_for_are_passed_over_once_it_runs() -> None:
    told, untold = build(), build()
    for _ in range(40):
        point = told.ask(())
        assert point == untold.ask(())
        told.tell(Observation((0.1, 0.1, 0.1), (-5.0,)))
        for strategy in (told, untold):
            strategy.tell(Observation(point, (distance(point),)))


def test_a_backlog_of_results_is_worked_off() -> None:
    strategy = build(population_size=4)
    points = [strategy.ask(()) for _ in range(40)]
    for point in points:
        strategy.tell(Observation(point, (distance(point),)))
    for _ in range(12):
        strategy.ask(())
    assert strategy.state()["draws"] == [40, *[1] * 9, 3]  # ten updates, one per ask


def test_a_history_shorter_than_the_state_is_refused() -> None:
    strategy = build(population_size=3)
    history = []
    for _ in range(8):
        point = strategy.ask(())
        history.append(Observation(point, (distance(point),)))
        strategy.tell(history[-1])
    with pytest.raises(ValueError, match="the 2 of the history"):
        build(population_size=3).restore(strategy.state(), history[:2])


def test_a_replay_forgives_the_last_bits() -> None:
    """Another processor may round otherwise than the one that drew the points on record."""
    strategy, nudged, exact = build(), build(), build()
    history = []
    for _ in range(50):
        point = strategy.ask(())
        history.append(Observation(point, (distance(point),)))
        strategy.tell(history[-1])
    off = [Observation(tuple(min(1.0, unit * (1 + 1e-15)) for unit in o.point), o.losses) for o in history]
    nudged.restore(strategy.state(), off)
    exact.restore(strategy.state(), history)
    assert nudged.ask(()) == exact.ask(()) == strategy.ask(())


def test_broken_constraints_rank_behind_all_that_keep_them() -> None:
    """The loss falls without end towards x0 = 1; where x0 > 0.4 a constraint is broken."""
    strategy = build_strategy(CmaEsSearch(), SearchProblem(3, (1.0,), 11, constraints=2))
    kept = []
    for _ in range(400):
        point = strategy.ask(())
        kept.append(point[0] <= 0.4)
        strategy.tell(Observation(point, (-1e6 * point[0],), (point[0] - 0.4, -1.0)))
    assert strategy.ask(())[0] == pytest.approx(0.4, abs=0.01)
    assert any(kept[-20:])


def test_where_all_are_broken_it_goes_to_the_least_violation() -> None:
    strategy = build_strategy(CmaEsSearch(sigma=0.1), SearchProblem(3, (1.0,), 11, constraints=1))
    for _ in range(300):
        point = strategy.ask(())
        strategy.tell(Observation(point, (-distance(point),), (0.5 + distance(point),)))
    assert distance(strategy.ask(())) < 0.01


def test_a_broken_baseline_is_not_where_it_starts() -> None:
    strategy = build_strategy(CmaEsSearch(sigma=1e-6), SearchProblem(3, (1.0,), 11, constraints=1))
    strategy.tell(Observation((0.9, 0.9, 0.9), (-5.0,), (0.1,)))
    strategy.tell(Observation((0.2, 0.3, 0.4), (3.0,), (0.0,)))
    assert strategy.ask(()) == pytest.approx((0.2, 0.3, 0.4), abs=1e-3)


def concave_front(point: Point) -> tuple[float, ...]:
    """Losses on a front that bulges inwards: any average is least at an end of it. Units differ."""
    angle = 0.5 * np.pi * point[0]
    away = (point[1] - 0.5) ** 2 + (point[2] - 0.5) ** 2
    return float(np.cos(angle) + away), 1000.0 * float(np.sin(angle) + away)


@pytest.mark.parametrize(("scalarization", "balanced"), [("mean", False), ("tchebycheff", True)])
def test_only_tchebycheff_finds_the_middle_of_a_concave_front(scalarization: str, balanced: bool) -> None:
    spec = CmaEsSearch(scalarization=scalarization)
    strategy = build_strategy(spec, SearchProblem(3, (1.0, 1.0), 11))
    for point in ((0.0, 0.5, 0.5), (1.0, 0.5, 0.5)):
        strategy.tell(Observation(point, concave_front(point)))
    for _ in range(400):
        point = strategy.ask(())
        strategy.tell(Observation(point, concave_front(point)))
    x, *rest = strategy.ask(())
    assert (abs(x - 0.5) < 0.05) is balanced
    assert rest == pytest.approx([0.5, 0.5], abs=0.05)


def test_tchebycheff_evens_out_the_weighted_losses_in_units_of_the_range_seen() -> None:
    spec = CmaEsSearch(scalarization="tchebycheff", start="center")
    strategy = build_strategy(spec, SearchProblem(3, (2.0, 1.0, 0.0), 11))
    points = [(0.0, 0.5, 0.5), (1.0, 0.5, 0.5)]
    for turn in range(402):
        if turn >= 2:
            points.append(strategy.ask(()))
        strategy.tell(Observation(points[turn], (*concave_front(points[turn]), -points[turn][0])))
    seen = np.array([concave_front(point) for point in points])
    scaled = (seen[-1] - seen.min(axis=0)) / np.ptp(seen, axis=0)
    assert 2.0 * scaled[0] == pytest.approx(scaled[1], rel=0.02)


def test_the_published_settings_can_be_said() -> None:
    """Initial step 1/6 and 4 + floor(3 ln n) samples a generation."""
    strategy = build_strategy(CmaEsSearch(sigma=1 / 6), SearchProblem(16, (1.0,), 11))
    for _ in range(3 * 12):
        point = strategy.ask(())
        strategy.tell(Observation(point, (sum(point),)))
    assert strategy.state()["draws"] == [12, 12, 12]


def test_converged_it_goes_on_with_new_points_and_survives_a_kill() -> None:
    def told(count: int) -> tuple[Strategy, list[Observation]]:
        strategy, history = build_strategy(CmaEsSearch(), SearchProblem(1, (1.0,), 11)), list[Observation]()
        for _ in range(count):
            point = strategy.ask(())
            history.append(Observation(point, ((point[0] - 0.3) ** 2,)))
            strategy.tell(history[-1])
        return strategy, history

    strategy, history = told(500)
    points = np.sort([observation.point[0] for observation in history])
    assert np.diff(points).min() >= 1e-9
    assert strategy.state()["scattered"] > 0
    restored = build_strategy(CmaEsSearch(), SearchProblem(1, (1.0,), 11))
    restored.restore(strategy.state(), history)
    assert [restored.ask(()) for _ in range(5)] == [strategy.ask(()) for _ in range(5)]


def test_tchebycheff_killed_whenever_equals_never_killed() -> None:
    problem, spec = SearchProblem(3, (1.0, 2.0), 11), CmaEsSearch(scalarization="tchebycheff", population_size=4)
    strategy, order = build_strategy(spec, problem), random.Random(1)
    pending, history = list[Point](), list[Observation]()
    for _ in range(80):
        restored = build_strategy(spec, problem)
        restored.restore(strategy.state(), history)
        pending.append(strategy.ask(pending))
        assert restored.ask(pending[:-1]) == pending[-1]
        while len(pending) > order.randrange(12):
            point = pending.pop(order.randrange(len(pending)))
            history.append(Observation(point, concave_front(point)))
            strategy.tell(history[-1])


@pytest.mark.parametrize(
    ("start", "first"), [("center", (0.5,) * 3), ("uniform", (1 / 3,) * 3), ("best", (0.9, 0.2, 0.1))]
)
def test_it_starts_where_the_spec_says(start: str, first: Point) -> None:
    strategy = build(start=start, sigma=1e-6)
    strategy.tell(Observation((0.9, 0.2, 0.1), (0.0,)))
    assert strategy.ask(()) == pytest.approx(first, abs=1e-4)


def test_told_what_a_campaign_of_the_same_seed_drew_it_goes_on_and_has_not_converged() -> None:
    problem, spec = SearchProblem(8, (1.0,), 0), CmaEsSearch(start="center")

    def searched(told: list[Observation]) -> list[Observation]:
        strategy = build_strategy(spec, problem)
        for observation in told:
            strategy.tell(observation)
        history = list(told)
        for _ in range(300):
            point = strategy.ask(())
            history.append(Observation(point, (sum((unit - 0.3) ** 2 for unit in point),)))
            strategy.tell(history[-1])
        assert strategy.state()["scattered"] == 0
        restored = build_strategy(spec, problem)
        restored.restore(strategy.state(), history)
        assert restored.ask(()) == strategy.ask(())
        return history[len(told) :]

    imported = searched([])[:30]
    found = searched(imported)
    assert not {observation.point for observation in imported} & {observation.point for observation in found}
    assert min(observation.losses[0] for observation in found if observation.losses) < 1e-2
