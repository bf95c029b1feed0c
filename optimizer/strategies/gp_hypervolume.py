"""Bayesian search for the whole front: one Gaussian process per loss, asked where the hypervolume would grow the most.

A Sobol design comes first, less what is already known (baselines). Then each ask fits the processes to the history,
takes pending points to have given what the processes expect of them, and proposes the point with the most expected
hypervolume improvement, weighted by how likely it is to be scored and to keep the constraints. Long histories, and long
queues of pending points, are handed over to steady-state NSGA-II, so that an ask never costs more than a bound.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from campaigns.strategies import GpHypervolumeSearch, Nsga2Search
from campaigns.trial import Point
from fronts.pareto import non_dominated
from optimizer.strategies.hypervolume_scalarization import directions, expected_improvement, lengths
from optimizer.strategies.matern import Array, Hyperparameters, MaternProcess, fit
from optimizer.strategies.nsga2 import Nsga2
from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints

SAME_RECIPE = 1e-6  # points nearer than this in every coordinate, or every share, count as one
ASK_STREAM = 2  # 0 and 1 are those of the evolution
MAX_PENDING = 64  # pending points that the processes know of; with more, evolution proposes
FIRST_POPULATION = 24  # scored points that evolution needs before it proposes, else the design goes on
MAX_FITTED = 100  # observations that hyperparameters are fitted to
REFIT_GROWTH = 1.2  # hyperparameters are fitted again once the history has grown by this factor
RAYS = 32
# Processes are made for the whole cube and doubt too much where the search already is: with all of their doubt, what
# is asked for in 8 dimensions lies at the faces, and fronts are reached later (ZDT1, DTLZ2, quadratic trade-offs).
EXPLORATION = 0.25  # of the standard deviations
# The best often lies just beyond what can be scored or is allowed, and a product of gain and chance would go on trying.
# So a lesser chance than the first number is weighted by the second once more. Nothing models where scores are missing;
# where a constraint is kept a process does, and what is kept may lie in several places.
SCORED, KEPT = (0.75, 1e-3), (0.5, 0.1)
REFERENCE_MARGIN = 0.1

POOL = 512
ELITES, CHILDREN = 4, 16
STEPS = tuple(0.1 * 0.6**turn for turn in range(9))  # standard deviations of the refinement's moves

Map = Callable[[Array], Array]


def shares(points: Array) -> Array:
    """Return the coordinates over their sums: P x n."""
    sums = points.sum(axis=1, keepdims=True)
    return np.where(sums > 0.0, points / np.where(sums > 0.0, sums, 1.0), 1.0 / points.shape[1])


def softmax(points: Array) -> Array:
    """Return the softmax of coordinates that span [-4, 4]: P x n."""
    powers = np.exp(8.0 * (points - points.max(axis=1, keepdims=True)))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


MAPS: tuple[Map, ...] = (lambda points: points, shares, softmax)
"""What losses may be smooth in: the coordinates, or the weights that they make; the evidence decides."""


@dataclass(frozen=True)
class Kernels:
    """What is refitted rarely: which map, its centre and scale, and the hyperparameters of every process."""

    features: Map
    centre: Array
    scale: float
    hyper: tuple[Hyperparameters, ...]

    def inputs(self, points: Array) -> Array:
        """Return what the processes take for P x n points."""
        return np.asarray((self.features(points) - self.centre) / self.scale)


def standardized(values: Array) -> tuple[Array, Array]:
    """Return the columns of N x k values with mean 0 and variance 1, and where 0 then lies (k).

    Values that are far worse than most are drawn in: a diverged merge is not to flatten all others.
    """
    values = np.clip(values, -1e100, 1e100)
    low, middle, high, top = np.quantile(values, [0.0, 0.5, 0.75, 1.0], axis=0)
    values = np.minimum(values, middle + 5.0 * np.where(high > low, high - low, top - low))
    centre, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 1e-12 * np.maximum(np.abs(centre), 1e-100), spread, 1.0)
    return (values - centre) / spread, -centre / spread


def fit_kernels(points: Array, values: Array) -> Kernels:
    """Return the kernels, with the map that predicts best, of N x k standardized values at N x n points.

    Maps compare by how well each value is predicted from the others. Corners of the cube, which parents are, do not
    count: they lie apart, and a map may predict them well and the points between them badly.
    """
    inside = ((points > 0.0) & (points < 1.0)).any(axis=1)
    best, most = None, -math.inf
    for features in MAPS if points.shape[1] > 1 else MAPS[:1]:
        mapped = features(points)
        centre = mapped.mean(axis=0)
        scale = max(math.sqrt(12.0 * float(((mapped - centre) ** 2).mean())), 1e-6)
        inputs = (mapped - centre) / scale
        hyper = tuple(fit(inputs, column) for column in values.T)
        predicted = sum(
            float(MaternProcess(each, inputs, column).left_out()[inside].sum())
            for each, column in zip(hyper, values.T, strict=True)
        )
        if best is None or predicted > most:
            best, most = Kernels(features, centre, scale, hyper), predicted
    assert best is not None
    return best


class Model:
    """What is believed at one moment: the processes with pending points, the front, and where it would grow."""

    def __init__(  # noqa: PLR0913  one argument per part of the belief
        self,
        kernels: Kernels,
        processes: list[MaternProcess],
        objectives: int,
        points: Array,
        feasible: Array,
        unscored: Array,
        zeros: Array,
        pending: Array,
        rays: Array,
        far: bool,
    ) -> None:
        self._kernels, self._objectives, self._zeros, self._rays = kernels, objectives, zeros, rays
        self._points, self._unscored = points, unscored
        self._any_feasible = bool(feasible.any())
        inputs = kernels.inputs(np.vstack([points, pending]))
        means = np.stack([process.mean(inputs) for process in processes[:objectives]], axis=1)
        kept = np.concatenate([feasible, np.ones(len(pending), dtype=bool)])
        told = means[: len(points)][feasible] if self._any_feasible else means[: len(points)]
        front = told[non_dominated([tuple(row) for row in told.tolist()])]
        self._low = low = front.min(axis=0)
        upper = means[: len(points)].max(axis=0) if far else front.max(axis=0)
        self._range = np.maximum(upper - low, 0.1) * (1.0 + REFERENCE_MARGIN)
        self._covered = lengths((means[kept] - low) / self._range, rays)
        self.front = points[feasible] if self._any_feasible else points
        self.front = self.front[non_dominated([tuple(row) for row in told.tolist()])]
        self._processes = processes
        if len(pending):
            extra = kernels.inputs(pending)
            self._processes = [process.with_pending(extra) for process in processes]

    def worth(self, points: Array) -> Array:
        """Return how much P x n points promise, at least 0."""
        inputs = self._kernels.inputs(points)
        beliefs = [process.posterior(inputs) for process in self._processes]
        chance = self._chance_of_a_score(points)
        objectives = self._objectives
        margins = [
            (mean - zero, spread)
            for (mean, spread), zero in zip(beliefs[objectives:], self._zeros[objectives:], strict=True)
        ]
        if not self._any_feasible:
            broken = sum(
                mean * ndtr(mean / spread) + spread * np.exp(-0.5 * (mean / spread) ** 2) / math.sqrt(2 * math.pi)
                for mean, spread in margins
            )
            return np.asarray(chance * np.exp(-broken))
        chance = cautious(chance, *SCORED)
        for mean, spread in margins:
            chance = chance * cautious(ndtr(-mean / spread), *KEPT)
        means = np.stack([mean for mean, _ in beliefs[:objectives]], axis=1)
        spreads = EXPLORATION * np.stack([spread for _, spread in beliefs[:objectives]], axis=1)
        gain = expected_improvement((means - self._low) / self._range, spreads / self._range, self._covered, self._rays)
        return np.asarray(chance * gain)

    def _chance_of_a_score(self, points: Array) -> Array:
        if not len(self._unscored):
            return np.ones(len(points))
        width = 2.0 * 0.1**2 * points.shape[1]
        good, bad = (
            np.exp(-((points[:, None, :] - others[None, :, :]) ** 2).sum(axis=2) / width).sum(axis=1)
            for others in (self._points, self._unscored)
        )
        return np.asarray((1.0 + good) / (1.0 + good + bad))


def cautious(chances: Array, enough: float, weight: float) -> Array:
    """Return P chances, those that are not enough by a weight less."""
    return np.asarray(np.where(chances > enough, chances, weight * chances))


class GpHypervolume:
    """Expected hypervolume improvement over [0, 1]^n, to be asked and told in any order.

    Randomness: ask k has a generator of its own, seeded by (seed, stream, k). The processes are a function of the
    history alone, each fit of the hyperparameters of a beginning of it. So the state is a few counters. Sums of
    floating-point numbers depend on the linear algebra library and may depend on its number of threads.
    """

    def __init__(self, spec: GpHypervolumeSearch, problem: SearchProblem) -> None:
        self._problem = problem
        self._most = spec.model_observations
        self._initial = spec.initial_points or min(max(8, 2 * problem.dimensions), 16)
        self._design = SobolSequence(problem.dimensions, problem.seed)
        self._evolution = Nsga2(Nsga2Search(initial_points=1), problem)
        self._evolution.restore({"asked": 0, "design": 1}, ())  # its design is not wanted
        self._told: list[Point] = []
        self._taken = TakenPoints(problem.dimensions)
        self._scored: list[Observation] = []
        self._values: list[tuple[float, ...]] = []  # losses and constraints of those
        self._unscored: list[Point] = []
        self._asked = 0
        self._last: tuple[int, int] | None = None
        self._kernels: tuple[int, Kernels] | None = None

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a design point while there are any (or too little is known), else what promises the most."""
        generator = np.random.default_rng([self._problem.seed, ASK_STREAM, self._asked])
        self._asked += 1
        here = (len(self._told), len(pending))
        refused, self._last = self._last == here, here
        if self._designing(pending):
            return self._design.next_free(self._taken, pending)
        if refused or len(pending) > MAX_PENDING or len(self._scored) > self._most:
            return self._evolution.ask(pending)
        model = self._model(np.array(pending).reshape(len(pending), self._problem.dimensions), generator)
        return self._best(model, pending, generator)

    def tell(self, observation: Observation) -> None:
        """Take a result in; baselines count as what is known like all others."""
        check_observation(observation, self._problem)
        self._evolution.tell(observation)
        self._told.append(observation.point)
        self._taken.add(observation.point)
        if observation.losses is None:
            self._unscored.append(observation.point)
        else:
            self._scored.append(observation)
            self._values.append((*observation.losses, *observation.constraints))

    def state(self) -> dict[str, Any]:
        """Return the counters of asks, and when the last one was."""
        return {
            "asked": self._asked,
            "design": self._design.drawn,
            "evolution": self._evolution.state(),
            "last": None if self._last is None else list(self._last),
        }

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Tell the history again, in order, and go on after the asks already made."""
        for observation in history:
            self.tell(observation)
        self._asked = int(state["asked"])
        self._design.skip_to(int(state["design"]))
        self._evolution.restore(state["evolution"], ())
        self._last = None if state["last"] is None else (int(state["last"][0]), int(state["last"][1]))

    def _designing(self, pending: Sequence[Point]) -> bool:
        scored, drawn = len(self._scored), self._design.drawn
        if scored < 2 or (len(pending) > MAX_PENDING and scored < FIRST_POPULATION):
            return True
        return scored + len(pending) < self._initial or drawn < self._initial // 4

    def _model(self, pending: Array, generator: np.random.Generator) -> Model:
        kernels = self._fitted_kernels()
        points = np.array([observation.point for observation in self._scored])
        values, zeros = standardized(np.array(self._values))
        inputs = kernels.inputs(points)
        processes = [
            MaternProcess(hyper, inputs, column) for hyper, column in zip(kernels.hyper, values.T, strict=True)
        ]
        rays = directions(self._problem.objectives, RAYS, generator)
        feasible = np.array([observation.violation == 0.0 for observation in self._scored])
        unscored = np.array(self._unscored[-200:]).reshape(-1, points.shape[1])
        far = self._asked % 2 == 1
        return Model(
            kernels, processes, self._problem.objectives, points, feasible, unscored, zeros, pending, rays, far
        )

    def _fitted_kernels(self) -> Kernels:
        size = 2
        while (larger := max(size + 1, int(REFIT_GROWTH * size))) <= min(len(self._scored), MAX_FITTED):
            size = larger
        if self._kernels is None or self._kernels[0] != size:
            points = np.array([observation.point for observation in self._scored[:size]])
            self._kernels = size, fit_kernels(points, standardized(np.array(self._values[:size]))[0])
        return self._kernels[1]

    def _best(self, model: Model, pending: Sequence[Point], generator: np.random.Generator) -> Point:
        taken = np.array(self._told + list(pending))
        points = pool(model.front, self._problem.dimensions, generator)
        worth = model.worth(points)
        for step in STEPS:
            elites = np.argsort(-worth, kind="stable")[:ELITES]
            children = moved(np.repeat(points[elites], CHILDREN, axis=0), step, generator)
            points = np.vstack([points, children])
            worth = np.concatenate([worth, model.worth(children)])
        for index in np.argsort(-worth, kind="stable"):
            if not is_taken(points[index], taken):
                return tuple(points[index].tolist())
        return tuple(generator.random(self._problem.dimensions).tolist())


def is_taken(point: Array, taken: Array) -> bool:
    """Return whether one of N x n points is this one, or has the same shares."""
    near = (np.abs(taken - point) < SAME_RECIPE).all(axis=1)
    if len(point) > 1:
        near |= (np.abs(shares(taken) - shares(point[None, :])) < SAME_RECIPE).all(axis=1)
    return bool(near.any())


def moved(points: Array, step: float | Array, generator: np.random.Generator) -> Array:
    """Return P x n points after normal steps in some of their coordinates, at least one each, kept in the cube."""
    count, dimensions = points.shape
    share = generator.choice([1.0, 0.5, 1.5 / dimensions], size=(count, 1))
    mask = generator.random((count, dimensions)) < share
    mask[np.arange(count), generator.integers(dimensions, size=count)] = True
    return np.asarray(np.clip(points + step * mask * generator.standard_normal((count, dimensions)), 0.0, 1.0))


def pool(front: Array, dimensions: int, generator: np.random.Generator) -> Array:
    """Return candidates: all over the cube, on its faces, between members of the front, and near them."""
    quarter = POOL // 4
    anywhere = generator.random((quarter, dimensions))
    faces = np.where(
        generator.random((quarter, dimensions)) < generator.random((quarter, 1)),
        generator.random((quarter, dimensions)) < 0.3,
        generator.random((quarter, dimensions)),
    ).astype(float)
    first, second, near = (front[generator.integers(len(front), size=quarter)] for _ in range(3))
    between = np.clip(first + generator.uniform(-0.3, 1.3, (quarter, 1)) * (second - first), 0.0, 1.0)
    steps = 10.0 ** generator.uniform(-2.0, -0.4, (quarter, 1))
    return np.vstack([anywhere, faces, between, moved(near, steps, generator)])
