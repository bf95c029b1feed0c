"""The Bayesian search: what it finds, what it keeps away from, and what an ask costs at most."""

import numpy as np
import pytest

from campaigns.strategies import GpHypervolumeSearch, SobolSearch
from fronts.pareto import hypervolume
from optimizer.strategies import Observation, SearchProblem, build_strategy, gp_hypervolume
from optimizer.strategies.gp_hypervolume import GpHypervolume, fit_kernels, is_taken, shares, softmax, standardized
from optimizer.strategies.matern import MaternProcess

CORNERS = [tuple(float(index == other) for other in range(4)) for index in range(4)]


def trade_off(point):
    """Return two losses of normalised weights, each least at weights of its own."""
    weights = shares(np.array([point]))[0]
    first, second = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.0, 0.2, 0.2, 0.6])
    return float(((weights - first) ** 2).sum()), float(((weights - second) ** 2).sum())


def build(seed=0, dimensions=4, objectives=2, constraints=0, **fields):
    problem = SearchProblem(dimensions, (1.0,) * objectives, seed, constraints)
    return GpHypervolume(GpHypervolumeSearch(**fields), problem)


def search(strategy, asks, losses=trade_off, baselines=()):
    """Tell the baselines, then ask and tell in turn; return the points asked for."""
    for point in baselines:
        strategy.tell(Observation(point, losses(point)))
    points = []
    for _ in range(asks):
        points.append(strategy.ask(()))
        strategy.tell(Observation(points[-1], losses(points[-1])))
    return points


def test_a_quarter_of_the_evaluations_reaches_more_than_sobol():
    for seed in range(2):
        ours = search(build(seed), 30, baselines=CORNERS)
        sobol = build_strategy(SobolSearch(), SearchProblem(4, (1.0, 1.0), seed))
        theirs = search(sobol, 120, baselines=CORNERS)
        volumes = [hypervolume([trade_off(p) for p in points], (0.4, 0.4)) for points in (ours, theirs)]
        assert volumes[0] > 1.02 * volumes[1]


def test_the_design_starts_as_sobol_does_and_counts_baselines():
    strategy, sobol = build(initial_points=8), build_strategy(SobolSearch(), SearchProblem(4, (1.0, 1.0), 0))
    design = [sobol.ask(()) for _ in range(12)]
    assert search(strategy, 4, baselines=CORNERS) == design[:4]
    assert strategy.ask(()) not in design


@pytest.mark.parametrize(("features", "index"), [(lambda x: x, 0), (shares, 1), (softmax, 2)])
def test_the_kernels_are_over_what_the_losses_are_smooth_in(features, index):
    points = np.random.default_rng(3).random((40, 5))
    losses = ((features(points) - 0.3) ** 2 * np.arange(1, 6)).sum(axis=1, keepdims=True)
    kernels = fit_kernels(points, standardized(losses)[0])
    assert kernels.features is gp_hypervolume.MAPS[index]


def test_pending_points_repel():
    strategy = build()
    search(strategy, 20, baselines=CORNERS)
    pending = []
    for _ in range(8):
        pending.append(strategy.ask(pending))
    weights = shares(np.array(pending))
    distances = [np.abs(a - b).max() for i, a in enumerate(weights) for b in weights[:i]]
    assert min(distances) > 1e-3


def test_a_proposal_that_was_not_taken_up_is_not_made_again():
    strategy = build()
    search(strategy, 15, baselines=CORNERS)
    assert len({strategy.ask(()) for _ in range(20)}) == 20


def test_points_of_the_same_shares_count_as_one():
    taken = np.array([[0.2, 0.4], [0.9, 0.1]])
    assert is_taken(np.array([0.1, 0.2]), taken)
    assert is_taken(np.array([0.9, 0.1]), taken)
    assert not is_taken(np.array([0.1, 0.21]), taken)


def test_it_keeps_away_from_what_cannot_be_scored():
    def losses(point):
        return None if point[0] > 0.5 else ((point[0] - 0.9) ** 2, (point[0] - 0.1) ** 2 + (point[1] - 0.2) ** 2)

    points = search(build(dimensions=2), 50, losses)
    assert sum(point[0] > 0.5 for point in points[30:]) <= 5  # of 20, half the cube: the best first losses lie there


def test_points_that_break_a_constraint_teach_where_it_is_kept():
    strategy = build(dimensions=3, constraints=1)
    points = []
    for _ in range(40):
        points.append(strategy.ask(()))
        losses = tuple((x - 0.9) ** 2 for x in points[-1][:2])
        strategy.tell(Observation(points[-1], losses, (max(points[-1]) - 0.5,)))
    assert max(max(point) for point in points[30:]) < 0.52
    best = [point for point in points if max(point) <= 0.5 and min(point[:2]) > 0.45]
    assert best  # the least losses that are allowed lie at (0.5, 0.5, any)


@pytest.mark.parametrize("seed", range(2))
def test_it_finds_all_places_where_a_constraint_is_kept(seed):
    places = np.full(3, 0.2), np.full(3, 0.8)
    strategy = build(seed, dimensions=3, constraints=1)
    found = []
    for _ in range(50):
        point = strategy.ask(())
        distances = [float(np.linalg.norm(np.array(point) - place)) for place in places]
        found.append([distance < 0.25 for distance in distances])
        strategy.tell(Observation(point, (distances[0] ** 2, distances[1] ** 2), (min(distances) - 0.25,)))
    assert min(np.sum(found, axis=0)) >= 5


def test_with_nothing_allowed_yet_it_looks_for_what_is():
    strategy = build(dimensions=3, constraints=1)
    amounts = []
    for _ in range(25):
        point = strategy.ask(())
        amounts.append(sum((x - 0.8) ** 2 for x in point) - 0.002)
        strategy.tell(Observation(point, point[:2], (amounts[-1],)))
    assert min(amounts[:8]) > 0.02  # none of the design is near
    assert min(amounts) <= 0.0


def test_a_diverged_merge_does_not_flatten_the_others():
    values, zeros = standardized(np.array([[0.1], [0.2], [0.3], [0.4], [1e300]]))
    assert np.ptp(values[:4]) > 0.1
    assert np.isfinite(zeros).all()


def test_equal_losses_are_no_trouble():
    points = search(build(), 20, losses=lambda _: (0.5, 0.5))
    assert len(set(points)) == 20


def test_what_an_ask_costs_is_bounded(monkeypatch):
    sizes = []

    class Watched(MaternProcess):
        def __init__(self, hyper, points, values):
            sizes.append(len(points))
            super().__init__(hyper, points, values)

    monkeypatch.setattr(gp_hypervolume, "MaternProcess", Watched)
    monkeypatch.setattr("optimizer.strategies.matern.MaternProcess", Watched)
    strategy = build(initial_points=1, model_observations=30)
    generator = np.random.default_rng(0)
    for told in range(60):
        point = tuple(generator.random(4).tolist())
        strategy.tell(Observation(point, trade_off(point)))
        if told % 10 == 9:
            sizes.clear()
            strategy.ask([tuple(row) for row in generator.random((gp_hypervolume.MAX_PENDING, 4)).tolist()])
            assert bool(sizes) == (told < 30)
            assert max(sizes, default=0) <= 30 + gp_hypervolume.MAX_PENDING
    strategy = build()
    search(strategy, 30)
    sizes.clear()
    many = [tuple(row) for row in generator.random((1000, 4)).tolist()]
    assert strategy.ask(many) not in many
    assert not sizes


def test_a_crowd_that_starts_at_once_goes_on_with_the_design():
    strategy, sobol = build(), build_strategy(SobolSearch(), SearchProblem(4, (1.0, 1.0), 0))
    pending = [strategy.ask([(0.5,) * 4] * turn) for turn in range(100)]
    for point in pending[:5]:
        strategy.tell(Observation(point, trade_off(point)))
    assert [*pending, strategy.ask(pending[5:])] == [sobol.ask(()) for _ in range(101)]


def test_the_hyperparameters_are_those_of_a_beginning_of_the_history():
    """However often it was asked before: so a search that was killed goes on as if it had not been."""
    often, once = build(), build()
    points = search(often, 25)
    for point in points:
        once.tell(Observation(point, trade_off(point)))
    once.restore(often.state(), ())
    assert once.ask(()) == often.ask(())
