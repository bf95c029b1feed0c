"""The problems of the search benchmark, by family.

- `zoo`: merges of the tiny zoo's eight generalists, from the surrogate of recorded evaluations. A strategy sees each
  accuracy as if on 100 items; the front is measured on the smooth functions themselves.
- `weights`: quadratic losses of eight merge weights, through the maps of the search spaces (shares by sum, softmax).
- `test`: ZDT1, ZDT2, ZDT3, DTLZ2 and the constrained C2-DTLZ2 from pymoo, in eight dimensions.
- `live`: the tiny zoo itself, scored on 100 search items; the front is measured on holdout items.
"""

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from pymoo.problems import get_problem
from search_surrogate import ACCURACIES, CHECKPOINTS, OBJECTIVES, ZooSurrogate, read_table

from campaigns.pools import Checkpoint, Pool
from campaigns.spaces import LinearSpace
from fronts.pareto import frozen_reference_point, hypervolume
from optimizer.jobs import Job, Scored
from search_spaces import MethodMap

DIMENSIONS = 8
SEEN_ITEMS = 100
"""Items of each task that a strategy's score is drawn from."""

TOLERANCE = 1e-9
LIVE_HOLDOUT_ITEMS = 300


@dataclass(frozen=True)
class SearchBenchmark:
    """A problem over [0, 1]^n: losses (minimised) and constraints (kept where <= 0).

    `measure` maps points (k x n) to noise-free losses (k x m) and constraints (k x c). `observe` maps (points, losses,
    constraints, a generator) to what a strategy sees of them. `first_points` are known to every method at the start.
    """

    name: str
    family: str
    dimensions: int
    weights: tuple[float, ...]
    constraints: int
    measure: Callable
    reference_point: tuple[float, ...]
    first_points: tuple[tuple[float, ...], ...] = ()
    observe: Callable | None = None

    @property
    def objectives(self):
        return len(self.weights)

    def seen(self, point, seed):
        """Return (losses, constraints) as a search with this seed sees them at one point, and the noise-free ones.

        The noise belongs to seed and point: methods see the same of a point that two of them try.
        """
        losses, constraints = self.measure(np.array([point]))
        if self.observe is None:
            return (losses[0], constraints[0]), (losses[0], constraints[0])
        generator = np.random.default_rng([seed, zlib.crc32(np.array(point).round(9).tobytes())])
        seen = self.observe(np.array([point]), losses, constraints, generator)
        return (seen[0][0], seen[1][0]), (losses[0], constraints[0])

    def hypervolume(self, losses, constraints):
        """Return the hypervolume of noise-free losses (k x m) among the points that keep all constraints."""
        kept = (np.asarray(constraints).reshape(len(losses), -1) <= TOLERANCE).all(axis=1)
        return hypervolume([tuple(row) for row in np.asarray(losses)[kept]], self.reference_point)


# Merges of the tiny zoo


def checkpoint_pool(count):
    """Return a pool of checkpoints that have names and digests and nothing else: all that a map needs."""
    members = [Checkpoint(name=f"g{i}", path=f"/g{i}", digest=f"g{i}", stamp="s", size_bytes=1) for i in range(count)]
    return Pool(checkpoints=tuple(members), base=None, dtype="float32", architecture="llama", parameter_count=1)


@cache
def zoo_surrogate():
    return ZooSurrogate(read_table())


@cache
def text_error():
    """Return the standard error of the bits per byte on as many items as a strategy sees."""
    recorded = read_table()
    measured = recorded.standard_errors[:, OBJECTIVES.index("text")].mean()
    return float(measured * np.sqrt(recorded.items / SEEN_ITEMS))


def merge_weights(points):
    """Return the weights that linear merges have at points of the cube: x / sum(x), and 1/8 each at the origin."""
    points = np.asarray(points, dtype=float)
    total = points.sum(axis=1, keepdims=True)
    return np.where(total > 0, points / np.where(total > 0, total, 1.0), 1.0 / points.shape[1])


def measured_zoo(objectives, limits, points):
    losses = zoo_surrogate().losses(merge_weights(points))
    columns = {name: losses[:, index] for index, name in enumerate(OBJECTIVES)}
    constraints = [columns[name] + least for name, least in limits.items()]
    return np.stack([columns[name] for name in objectives], axis=1), np.array(constraints).T.reshape(len(points), -1)


def observed_zoo(objectives, limits, _, losses, constraints, generator):
    """Draw accuracies as shares of `SEEN_ITEMS` items, and bits per byte with their standard error."""
    seen = np.empty_like(losses)
    for index, name in enumerate(objectives):
        seen[:, index] = noisy(name, losses[:, index], generator)
    broken = np.empty_like(constraints)
    for index, (name, least) in enumerate(limits.items()):
        broken[:, index] = noisy(name, constraints[:, index] - least, generator) + least
    return seen, broken


def noisy(name, losses, generator):
    if name in ACCURACIES:
        return -generator.binomial(SEEN_ITEMS, np.clip(-losses, 0.0, 1.0)) / SEEN_ITEMS
    return losses + text_error() * generator.standard_normal(len(losses))


def baseline_points(space, checkpoints):
    """Return the points of the parents and the uniform soup, in this order."""
    return (*(space.parent(index).point for index in range(checkpoints)), space.uniform_soup().point)


def zoo_problem(name, objectives, weights=None, limits=None):
    measure = partial(measured_zoo, objectives, limits or {})
    first = baseline_points(MethodMap(LinearSpace(), checkpoint_pool(CHECKPOINTS)), CHECKPOINTS)
    losses, _ = measure(np.array(first))
    return SearchBenchmark(
        name=name,
        family="zoo",
        dimensions=CHECKPOINTS,
        weights=weights or (1.0,) * len(objectives),
        constraints=len(limits or {}),
        measure=measure,
        reference_point=frozen_reference_point([tuple(row) for row in losses.tolist()]),
        first_points=first,
        observe=partial(observed_zoo, objectives, limits or {}),
    )


# Quadratic losses of merge weights


def quadratic_losses(targets, shapes, space, points):
    """Return (w - t_j)' A_j (w - t_j) for each objective j, with w the weights that `space` makes of each point."""
    weights = np.array([space.candidate(tuple(point)).recipe.method.weights for point in np.asarray(points).tolist()])
    steps = weights[:, None, :] - targets[None, :, :]
    return np.einsum("kjd,jde,kje->kj", steps, shapes, steps), np.zeros((len(points), 0))


def quadratic_problem(name, normalize, objectives=3):
    """Targets lie on the simplex, between one parent or two and the soup; each objective has curvatures of its own."""
    draw = np.random.default_rng(zlib.crc32(b"quadratic"))
    targets = 0.5 * draw.dirichlet(np.full(CHECKPOINTS, 0.3), objectives) + 0.5 / CHECKPOINTS
    factors = draw.standard_normal((objectives, CHECKPOINTS, CHECKPOINTS)) * draw.uniform(0.3, 2.0, (objectives, 1, 8))
    shapes = np.einsum("jdk,jek->jde", factors, factors) / CHECKPOINTS + 0.1 * np.eye(CHECKPOINTS)
    space = MethodMap(LinearSpace(normalize=normalize), checkpoint_pool(CHECKPOINTS))
    first = baseline_points(space, CHECKPOINTS)
    measure = partial(quadratic_losses, targets, shapes, space)
    losses, _ = measure(first)
    return SearchBenchmark(
        name=name,
        family="weights",
        dimensions=space.dimensions,
        weights=(1.0,) * objectives,
        constraints=0,
        measure=measure,
        reference_point=frozen_reference_point([tuple(row) for row in losses.tolist()]),
        first_points=first,
    )


# Standard test problems


def measured_by_pymoo(problem, points):
    found = problem.evaluate(np.asarray(points, dtype=float), return_as_dictionary=True)
    return found["F"], found["G"] if problem.n_ieq_constr else np.zeros((len(points), 0))


def test_problem(name, reference_point, **settings):
    problem = get_problem(name, n_var=DIMENSIONS, **settings)
    return SearchBenchmark(
        name=name,
        family="test",
        dimensions=DIMENSIONS,
        weights=(1.0,) * problem.n_obj,
        constraints=problem.n_ieq_constr,
        measure=partial(measured_by_pymoo, problem),
        reference_point=reference_point,
    )


# The zoo itself


class LiveZoo:
    """Scores merges in a live model, on search or holdout items; what was scored once is remembered."""

    def __init__(self, folder):
        from record_zoo import evaluation_setup

        from campaigns.spec import Evaluation
        from mergefront.demo import load_zoo_module
        from optimizer.candidate_evaluator import CandidateEvaluator

        logging.disable(logging.WARNING)
        zoo = load_zoo_module().build_zoo(Path(folder).resolve() / "zoo")
        batch = Evaluation(search_items=SEEN_ITEMS, holdout_items=LIVE_HOLDOUT_ITEMS, batch_size=LIVE_HOLDOUT_ITEMS)
        setup = evaluation_setup(zoo, Path(folder), SEEN_ITEMS).replace(evaluation=batch)
        self._setup = setup
        self._evaluator = CandidateEvaluator(setup)
        self._space = MethodMap(LinearSpace(), setup.pool)
        self._known = {}

    def measure(self, points):
        return self._losses(points, "holdout"), np.zeros((len(points), 0))

    def observe(self, points, losses, constraints, generator):
        return self._losses(points, "search"), constraints

    def first_points(self):
        return baseline_points(self._space, CHECKPOINTS)

    def _losses(self, points, split):
        return np.array([self._score(tuple(point), split) for point in np.asarray(points).tolist()])

    def _score(self, point, split):
        if (point, split) not in self._known:
            job = Job(trial_id="benchmark", recipe=self._space.candidate(point).recipe, split=split)
            outcome = self._evaluator.evaluate(job).outcome
            if not isinstance(outcome, Scored):
                raise RuntimeError(outcome.reason)
            measured = zip(self._setup.objectives, outcome.evaluated.measurements, strict=True)
            self._known[point, split] = [objective.loss(measurement.value) for objective, measurement in measured]
        return self._known[point, split]


def live_problem(folder):
    zoo = LiveZoo(folder)
    first = zoo.first_points()
    losses, _ = zoo.measure(first)
    return SearchBenchmark(
        name="zoo_live",
        family="live",
        dimensions=CHECKPOINTS,
        weights=(1.0, 1.0, 1.0, 1.0, 0.0),
        constraints=0,
        measure=zoo.measure,
        reference_point=frozen_reference_point([tuple(row) for row in losses.tolist()]),
        first_points=first,
        observe=zoo.observe,
    )


# The table


PROBLEMS = {
    "zoo3": partial(zoo_problem, "zoo3", ("max", "most", "sort")),
    "zoo5": partial(zoo_problem, "zoo5", OBJECTIVES, (1.0, 1.0, 1.0, 1.0, 0.0)),
    "zoo2_constrained": partial(
        zoo_problem, "zoo2_constrained", ("max", "most"), None, {"sort": 0.88, "reverse": 0.95}
    ),
    "weights_sum": partial(quadratic_problem, "weights_sum", "sum"),
    "weights_softmax": partial(quadratic_problem, "weights_softmax", "softmax"),
    "zdt1": partial(test_problem, "zdt1", (11.0, 11.0)),
    "zdt2": partial(test_problem, "zdt2", (11.0, 11.0)),
    "zdt3": partial(test_problem, "zdt3", (11.0, 11.0)),
    "dtlz2": partial(test_problem, "dtlz2", (1.1, 1.1, 1.1), n_obj=3),
    "c2dtlz2": partial(test_problem, "c2dtlz2", (1.1, 1.1, 1.1), n_obj=3),
}
"""name -> how to build it. The constrained zoo asks for a sorting accuracy of 0.88 and a reversing one of 0.95."""


@cache
def build_problem(name, folder=None):
    """Return a problem by name; `zoo_live` needs the folder that its zoo is in."""
    return live_problem(folder) if name == "zoo_live" else PROBLEMS[name]()


# How much there is to be reached


class Minimised(Problem):
    """A benchmark's noise-free functions as pymoo takes them."""

    def __init__(self, benchmark):
        super().__init__(
            n_var=benchmark.dimensions, n_obj=benchmark.objectives, n_ieq_constr=benchmark.constraints, xl=0.0, xu=1.0
        )
        self._measure = benchmark.measure

    def _evaluate(self, x, out, *args, **kwargs):
        losses, constraints = self._measure(x)
        out["F"] = losses
        if constraints.shape[1]:
            out["G"] = constraints


def attainable(benchmark, generations=250, population=200):
    """Return the hypervolume of a long noise-free NSGA-II run, with every point that it saw: the unit of the tables."""
    minimised = Minimised(benchmark)
    seen = []

    def remember(algorithm):
        seen.append(algorithm.opt)

    minimize(minimised, NSGA2(pop_size=population), ("n_gen", generations), seed=1, callback=remember)
    losses = np.concatenate([front.get("F") for front in seen])
    points = np.concatenate([front.get("X") for front in seen])
    _, distinct = np.unique(losses.round(9), axis=0, return_index=True)
    losses, points = losses[distinct], points[distinct]
    return benchmark.hypervolume(losses, benchmark.measure(points)[1])
