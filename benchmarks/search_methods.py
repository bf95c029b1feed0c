"""What the search benchmark compares: every strategy of the project, and four baselines as they are used elsewhere.

A method is asked for points and told what came of them. `ask` returns None where it has nothing to propose before more
results are in: the baselines work in generations or batches, and wait for each to be complete.
"""

import math
import warnings

import cma
import numpy as np
from pydantic import TypeAdapter
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.problems.static import StaticProblem

from campaigns.spec import CampaignSpec
from campaigns.strategies import Strategy as StrategySpec
from optimizer.greedy_soup import greedy_soup
from optimizer.strategies import STRATEGIES, Observation, SearchProblem, build_strategy

DEFAULT = CampaignSpec.model_fields["strategy"].default.kind
"""The strategy that a campaign gets when its spec names none."""

POPULATION = 25
MM_MO_FIRST, MM_MO_PROPOSALS, MM_MO_BATCH, MM_MO_DONORS = 10, 10, 5, 5
PERCENT = 100.0
SLOW = frozenset({"gp", "qnehvi", "mm_mo", "mm_mo_public"})
"""Methods that take about a second for a proposal: they get fewer evaluations, seeds and problems, as tables say."""


class OwnStrategy:
    """One of the project's strategies, by kind, with its usual settings."""

    def __init__(self, kind, benchmark, seed):
        spec = TypeAdapter(StrategySpec).validate_python({"kind": kind})
        problem = SearchProblem(benchmark.dimensions, benchmark.weights, seed, benchmark.constraints)
        self._strategy = build_strategy(spec, problem)

    def ask(self, pending):
        return self._strategy.ask(pending)

    def tell(self, point, losses, constraints):
        self._strategy.tell(Observation(point, tuple(losses), tuple(constraints)))


class Batches:
    """What works in generations: all points of one are handed out, and all results awaited before the next.

    Subclasses say how the next generation is made (`_next`, a list of points) and what becomes of the results
    (`_finish`, rows of losses and of constraints in the order of the points).
    """

    def __init__(self):
        self._waiting = []  # points of this generation that were not handed out
        self._order = []
        self._results = {}

    def ask(self, pending):
        if not self._waiting:
            if len(self._results) < len(set(self._order)):
                return None
            self._advance()
        return self._waiting.pop(0)

    def tell(self, point, losses, constraints):
        if point in self._order:
            self._results[point] = (np.array(losses), np.array(constraints))

    def _advance(self):
        if self._order:
            losses, constraints = zip(*(self._results[point] for point in self._order), strict=True)
            self._finish(np.array(losses), np.array(constraints))
        self._results = {}
        self._order = self._next()
        self._waiting = list(self._order)


class GenerationalNsga2(Batches):
    """NSGA-II by pymoo as mergenetic calls it: NSGA2(pop_size, eliminate_duplicates=True), all else pymoo's defaults.

    That is uniform sampling, SBX (probability 0.9, eta 15) and polynomial mutation (eta 20). What is known at the start
    is part of the first population, and is not evaluated again.
    """

    def __init__(self, benchmark, seed, population=POPULATION):
        super().__init__()
        self._problem = Problem(
            n_var=benchmark.dimensions, n_obj=benchmark.objectives, n_ieq_constr=benchmark.constraints, xl=0.0, xu=1.0
        )
        self._size, self._seed = population, seed
        self._known = {}
        self._algorithm = None
        self._infills = None

    def tell(self, point, losses, constraints):
        if self._algorithm is None:
            self._known[point] = (np.array(losses), np.array(constraints))
        else:
            super().tell(point, losses, constraints)

    def _start(self):
        generator = np.random.default_rng(self._seed)
        others = FloatRandomSampling().do(self._problem, self._size - len(self._known), random_state=generator)
        known = np.array(list(self._known)).reshape(-1, self._problem.n_var)
        first = np.concatenate([known, others.get("X")])
        self._algorithm = NSGA2(pop_size=self._size, sampling=first, eliminate_duplicates=True)
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=self._seed)

    def _next(self):
        if self._algorithm is None:
            self._start()
        self._infills = self._algorithm.ask()
        return [point for point in self._points() if point not in self._known]

    def _points(self):
        return [tuple(row) for row in self._infills.get("X").tolist()]

    def _finish(self, losses, constraints):
        found = {**self._known, **dict(zip(self._order, zip(losses, constraints, strict=True), strict=True))}
        values = {"F": np.array([found[point][0] for point in self._points()])}
        if self._problem.n_ieq_constr:
            values["G"] = np.array([found[point][1] for point in self._points()])
        Evaluator().eval(StaticProblem(self._problem, **values), self._infills)
        self._algorithm.tell(infills=self._infills)


class MergekitEvolve(Batches):
    """CMA-ES on the macro-average as mergekit-evolve runs it: start 1/n, sigma 1/6, no bounds, absolute values.

    It never looks at what is known at the start. Weights above 1 are cut to the cube.
    """

    def __init__(self, benchmark, seed):
        super().__init__()
        start = [1.0 / benchmark.dimensions] * benchmark.dimensions
        options = {"seed": math.nan, "randn": np.random.RandomState(seed).randn, "verbose": -10}
        self._search = cma.CMAEvolutionStrategy(start, 1 / 6, options)
        self._weights = np.array(benchmark.weights) / sum(benchmark.weights)
        self._samples = []

    def _next(self):
        self._samples = self._search.ask()
        return [tuple(np.clip(np.abs(sample), 0.0, 1.0).tolist()) for sample in self._samples]

    def _finish(self, losses, constraints):
        self._search.tell(self._samples, (losses @ self._weights).tolist())


class PublicMmMo(Batches):
    """The loop of MM-MO (arXiv 2407.00487) with the mismatch of its public code.

    The processes are fitted to z-scored outcomes while the reference point stays in raw units, percents: no outcome
    lies above it, qEHVI is 0 everywhere, and what is left are random proposals and the steps of differential evolution.
    """

    def __init__(self, benchmark, seed):
        super().__init__()
        self._dimensions = benchmark.dimensions
        self._reference = -PERCENT * np.array(benchmark.reference_point)
        self._seed = seed
        self._generator = np.random.default_rng(seed)
        self._points, self._scores = [], []

    def tell(self, point, losses, constraints):
        self._points.append(point)
        self._scores.append(-PERCENT * np.array(losses))
        super().tell(point, losses, constraints)

    def _next(self):
        if not self._results and not self._order:
            return [tuple(row) for row in self._generator.random((MM_MO_FIRST, self._dimensions)).tolist()]
        points, scores = np.array(self._points), np.array(self._scores)
        z_scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
        proposals, variance = proposed(points, z_scores, self._reference, self._seed + len(points))
        donors = points[np.argsort(-scores.sum(axis=1))[:MM_MO_DONORS]]
        moved = np.array([self._moved(proposal, donors) for proposal in proposals])
        chosen = np.argsort((1.0 / variance(moved)).sum(axis=1))[:MM_MO_BATCH]
        return [tuple(row) for row in moved[chosen].tolist()]

    def _finish(self, losses, constraints):
        """Everything was told already."""

    def _moved(self, proposal, donors):
        """One step of DE/rand/1/bin with F = CR = 0.5."""
        a, b, c = donors[self._generator.choice(len(donors), 3, replace=False)]
        crossed = self._generator.random(len(proposal)) < 0.5
        return np.clip(np.where(crossed, a + 0.5 * (b - c), proposal), 0.0, 1.0)


def proposed(points, values, reference, seed, count=MM_MO_PROPOSALS):
    """Return `count` points that qEHVI proposes (maximised `values`), and a function for the variances at points."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from botorch.acquisition.multi_objective import qExpectedHypervolumeImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler
        from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
        from gpytorch.mlls import SumMarginalLogLikelihood

        torch.manual_seed(seed)
        x, y = torch.tensor(points), torch.tensor(values)
        model = ModelListGP(*[SingleTaskGP(x, column[:, None], outcome_transform=None) for column in y.T])
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        ref_point = torch.tensor(reference)
        acquisition = qExpectedHypervolumeImprovement(
            model=model,
            ref_point=ref_point,
            partitioning=FastNondominatedPartitioning(ref_point=ref_point, Y=y),
            sampler=SobolQMCNormalSampler(torch.Size([32]), seed=seed),
        )
        bounds = torch.stack([torch.zeros(x.shape[1]), torch.ones(x.shape[1])]).double()
        found, _ = optimize_acqf(acquisition, bounds, q=count, num_restarts=2, raw_samples=32, sequential=True)

    def variance(at):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.posterior(torch.tensor(at)).variance.numpy()

    return found.numpy(), variance


class GreedySoup:
    """The averages that the greedy soup (arXiv 2203.05482) tries, one after the other, and then nothing more."""

    def __init__(self, benchmark, seed):
        self._parents = benchmark.first_points[: benchmark.dimensions]
        self._weights = np.array(benchmark.weights) / sum(benchmark.weights)
        self._scores = {}  # by point
        self._soups = []  # what was tried, by the members' indices

    def ask(self, pending):
        if pending:
            return None
        tried = {members: self._scores.get(self._average(members)) for members in self._soups}
        members = greedy_soup([self._scores.get(point) for point in self._parents], tried).next_members
        if members is None:
            return None
        self._soups.append(members)
        return self._average(members)

    def tell(self, point, losses, constraints):
        self._scores[point] = -float(self._weights @ np.array(losses))

    def _average(self, members):
        return tuple(np.mean([self._parents[index] for index in sorted(members)], axis=0).tolist())


BASELINES = {
    "nsga2_generational": GenerationalNsga2,
    "mergekit_evolve": MergekitEvolve,
    "mm_mo_public": PublicMmMo,
    "greedy_soup": GreedySoup,
}
UNCONSTRAINED = frozenset({"mergekit_evolve", "mm_mo_public", "greedy_soup"})
"""Baselines that know no constraints."""


def methods():
    """Return the names of all methods, the project's strategies first."""
    return [*STRATEGIES, *BASELINES]


def fits(name, benchmark):
    """Whether the method can take part: it knows constraints where there are any, and has parents to average."""
    if name in UNCONSTRAINED and benchmark.constraints:
        return False
    return name != "greedy_soup" or bool(benchmark.first_points)


def build_method(name, benchmark, seed, **settings):
    """Return a method that was told what is known at the start, as this seed sees it."""
    method = BASELINES[name](benchmark, seed, **settings) if name in BASELINES else OwnStrategy(name, benchmark, seed)
    for point in benchmark.first_points:
        (losses, constraints), _ = benchmark.seen(point, seed)
        method.tell(point, losses.tolist(), constraints.tolist())
    return method
