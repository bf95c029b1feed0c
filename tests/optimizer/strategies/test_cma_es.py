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
