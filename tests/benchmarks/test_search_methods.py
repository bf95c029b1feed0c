"""The baselines do what the tools that they stand for do."""

import cma
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from search_methods import (
    BASELINES,
    POPULATION,
    GenerationalNsga2,
    GreedySoup,
    MergekitEvolve,
    PublicMmMo,
    build_method,
    fits,
    methods,
    proposed,
)
from search_problems import SearchBenchmark, build_problem

from optimizer.strategies import STRATEGIES

CENTRES = np.array([[0.2, 0.3, 0.4], [0.7, 0.6, 0.5]])
SEED = 5


def losses_of(points):
    steps = np.asarray(points)[:, None, :] - CENTRES
    return (steps**2).sum(axis=2), np.zeros((len(points), 0))


def bowl(first_points=(), constraints=0):
    def measure(points):
        losses, none = losses_of(points)
        return losses, np.asarray(points)[:, :constraints] - 0.5 if constraints else none

    return SearchBenchmark("bowl", "test", 3, (1.0, 1.0), constraints, measure, (2.0, 2.0), tuple(first_points))


def run(method, benchmark, evaluations):
    """Return the points of a run, one evaluation at a time."""
    points = []
    while len(points) < evaluations:
        point = method.ask(())
        (losses, constraints), _ = benchmark.seen(point, 0)
        method.tell(point, losses.tolist(), constraints.tolist())
        points.append(point)
    return points


def test_without_known_points_the_generational_baseline_is_pymoos_own():
    class Bowl(Problem):
        def __init__(self):
            super().__init__(n_var=3, n_obj=2, xl=0.0, xu=1.0)

        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = losses_of(x)[0]

    points = run(GenerationalNsga2(bowl(), SEED), bowl(), 4 * POPULATION)
    sampled = np.array(points[:POPULATION])
    algorithm = NSGA2(pop_size=POPULATION, sampling=sampled, eliminate_duplicates=True)
    result = minimize(Bowl(), algorithm, ("n_gen", 4), seed=SEED, save_history=True)
    theirs = np.concatenate([generation.off.get("X") for generation in result.history[1:]])
    np.testing.assert_array_equal(points[POPULATION:], theirs)


def test_what_is_known_is_in_the_first_population_and_is_not_asked_again():
    known = [(0.1, 0.1, 0.1), (0.9, 0.9, 0.9)]
    benchmark = bowl(known)
    method = build_method("nsga2_generational", benchmark, SEED)
    first = [method.ask(()) for _ in range(POPULATION - len(known))]
    assert not set(first) & set(known)
    assert method.ask(first) is None  # the barrier
    for point in first:
        method.tell(point, benchmark.seen(point, 0)[0][0].tolist(), [])
    assert method.ask(()) not in {*first, *known}


def test_the_generational_baseline_keeps_constraints():
    benchmark = bowl(constraints=1)
    points = np.array(run(GenerationalNsga2(benchmark, SEED), benchmark, 8 * POPULATION))
    share = (points[:, 0] <= 0.5).reshape(8, POPULATION).mean(axis=1)
    assert share[-1] > 0.8 > share[0]


def test_mergekit_evolve_starts_at_equal_weights_with_its_step_and_population():
    benchmark = build_problem("weights_sum")
    method = build_method("mergekit_evolve", benchmark, SEED)
    first = [method.ask(()) for _ in range(cma.CMAEvolutionStrategy([0.125] * 8, 1 / 6, {"verbose": -10}).popsize)]
    assert method.ask(first) is None
    options = {"seed": np.nan, "randn": np.random.RandomState(SEED).randn, "verbose": -10}
    theirs = cma.CMAEvolutionStrategy([1 / 8] * 8, 1 / 6, options).ask()
    np.testing.assert_allclose(first, np.clip(np.abs(theirs), 0, 1))


def test_mergekit_evolve_climbs_the_macro_average():
    method = MergekitEvolve(bowl(), SEED)
    points = np.array(run(method, bowl(), 300))
    np.testing.assert_allclose(points[-20:].mean(axis=0), CENTRES.mean(axis=0), atol=0.05)


def test_with_a_reference_point_in_raw_units_the_proposals_do_not_depend_on_the_scores():
    draw = np.random.default_rng(0)
    points, values = draw.random((12, 3)), draw.standard_normal((12, 2))
    raw, in_units = np.array([50.0, 60.0]), np.array([-3.0, -3.0])
    blind = [proposed(points, scores, raw, SEED, count=2)[0] for scores in (values, values[::-1].copy())]
    sighted = [proposed(points, scores, in_units, SEED, count=2)[0] for scores in (values, values[::-1].copy())]
    np.testing.assert_array_equal(*blind)
    assert np.abs(sighted[0] - sighted[1]).max() > 0.01


def test_public_mm_mo_draws_ten_points_then_batches_of_five():
    benchmark = build_problem("zoo3")
    method = build_method("mm_mo_public", benchmark, SEED)
    first = [method.ask(()) for _ in range(10)]
    np.testing.assert_array_equal(first, np.random.default_rng(SEED).random((10, 8)))
    assert method.ask(first) is None
    for point in first:
        (losses, _), _ = benchmark.seen(point, SEED)
        method.tell(point, losses.tolist(), [])
    batch = [method.ask(()) for _ in range(5)]
    assert method.ask(batch) is None
    assert len(set(batch)) == 5
    assert np.min(batch) >= 0.0 and np.max(batch) <= 1.0
    assert isinstance(method, PublicMmMo)


def test_the_greedy_soup_adds_parents_while_the_average_gets_no_worse():
    parents = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    method = GreedySoup(bowl((*parents, (1.0, 1.0, 1.0))), SEED)
    for point, loss in zip(parents, (0.1, 0.2, 0.3), strict=True):
        method.tell(point, [loss, loss], [])
    assert method.ask(()) == (0.5, 0.5, 0.0)  # the two best
    assert method.ask([(0.5, 0.5, 0.0)]) is None  # one after the other
    method.tell((0.5, 0.5, 0.0), [0.15, 0.15], [])  # worse than the best alone
    assert method.ask(()) == (0.5, 0.0, 0.5)
    method.tell((0.5, 0.0, 0.5), [0.05, 0.05], [])
    assert method.ask(()) is None


def test_every_strategy_and_baseline_takes_part():
    assert methods() == [*STRATEGIES, *BASELINES]
    merges, constrained, standard = (build_problem(name) for name in ("zoo3", "zoo2_constrained", "zdt1"))
    assert [name for name in methods() if not fits(name, merges)] == []
    assert [name for name in methods() if not fits(name, constrained)] == list(BASELINES)[1:]
    assert [name for name in methods() if not fits(name, standard)] == ["greedy_soup"]


@pytest.mark.parametrize("name", ["random", "nsga2", "cma_es"])
def test_own_strategies_are_told_what_is_known(name):
    benchmark = build_problem("zoo2_constrained")
    method = build_method(name, benchmark, SEED)
    [point] = run(method, benchmark, 1)
    assert len(point) == benchmark.dimensions
