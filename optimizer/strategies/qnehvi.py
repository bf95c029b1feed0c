"""Bayesian search by noisy expected hypervolume improvement (qNEHVI, arXiv 2105.08195, in its log form, 2310.20708).

Initial design: Sobol points. After it, each ask fits Gaussian processes to what was told and proposes the point that,
beside the pending ones, should gain the most hypervolume.
"""

from collections.abc import Sequence

import numpy as np

from campaigns.strategies import QnehviSearch
from campaigns.trial import Point
from optimizer.strategies.counted import CountedStrategy
from optimizer.strategies.gaussian_processes import Effort, Surrogate, number_seed, untaken
from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints


class Qnehvi(CountedStrategy):
    """qNEHVI over [0, 1]^n, to be asked and told in any order; expected improvement for one objective.

    Randomness: ask k has a seed of its own from (seed, k), and a fit is a function of what was told. So the state is
    two counters.
    """

    def __init__(self, spec: QnehviSearch, problem: SearchProblem) -> None:
        self._problem = problem
        self._effort = Effort(spec.samples, spec.scanned_points, spec.climbs)
        self._design_points = spec.initial_points or 2 * (problem.dimensions + 1)
        self._design = SobolSequence(problem.dimensions, problem.seed)
        self._history: list[Observation] = []
        self._taken = TakenPoints(problem.dimensions)
        self._surrogate: Surrogate | None = None
        self._asked = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a design point while there are any (or no point was scored yet), else the most promising one."""
        seed = number_seed(self._problem.seed, self._asked)
        self._asked += 1
        scored = any(observation.losses is not None for observation in self._history)
        if self._design.drawn < self._design_points or not scored:
            return self._design.next_free(self._taken, pending)
        if self._surrogate is None:
            self._surrogate = Surrogate(self._problem, self._history)
        proposal = self._surrogate.propose(pending, 1, self._effort, seed)[0]
        return untaken(proposal, self._taken, pending, np.random.default_rng(seed))

    def tell(self, observation: Observation) -> None:
        """Keep the observation for the next fit; baselines are learned from like all others."""
        check_observation(observation, self._problem)
        self._history.append(observation)
        self._taken.add(observation.point)
        self._surrogate = None
