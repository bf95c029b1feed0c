"""MM-MO (arXiv 2407.00487): Bayesian batches, each proposal moved towards the best configurations, screened by Fisher.

Initial design: uniform random points. After it, batch after batch: qEHVI under one Gaussian process per objective makes
proposals; each is moved by one step of differential evolution between the best configurations so far, "weak-to-strong";
of those, the ones with the least Fisher information are evaluated.

The public code standardizes the outcomes but not the reference point, so that with scores in percent no point improves
the hypervolume and the search is random. Here both are in the same units (`gaussian_processes.Surrogate`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from campaigns.strategies import MmMoSearch
from campaigns.trial import Point
from optimizer.strategies.gaussian_processes import Array, Effort, Surrogate, number_seed, standardized, untaken
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints

DIFFERENTIAL_WEIGHT, CROSSOVER_RATE = 0.5, 0.5  # F and CR
DONORS = 5


class MmMo:
    """MM-MO over [0, 1]^n, to be asked and told in any order.

    A batch is planned when an ask finds the one before it used up, from what is told by then, pending points counting
    as gained. With results awaited batch by batch that is the published method. Randomness: ask k has a seed of its own
    from (seed, k); the state is the number of asks and what is left of the batch.
    """

    def __init__(self, spec: MmMoSearch, problem: SearchProblem) -> None:
        self._spec = spec
        self._problem = problem
        self._effort = Effort(spec.samples, spec.scanned_points, spec.climbs)
        self._history: list[Observation] = []
        self._taken = TakenPoints(problem.dimensions)
        self._planned: list[Point] = []
        self._asked = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a random point in the initial design or while no point was scored, else the batch's next point."""
        seed = number_seed(self._problem.seed, self._asked)
        generator = np.random.default_rng(seed)
        self._asked += 1
        if self._asked > self._spec.initial_points and not self._planned and self._scored():
            self._planned = self._plan(pending, seed, generator)
        if self._planned:
            return untaken(self._planned.pop(0), self._taken, pending, generator)
        while self._taken.has(point := tuple(generator.random(self._problem.dimensions).tolist()), pending):
            pass
        return point

    def tell(self, observation: Observation) -> None:
        """Keep the observation for the next batch; baselines are learned from, and bred from, like all others."""
        check_observation(observation, self._problem)
        self._history.append(observation)
        self._taken.add(observation.point)

    def state(self) -> dict[str, Any]:
        """Return how many points were asked for, and the rest of the batch that is being asked."""
        return {"asked": self._asked, "planned": [list(point) for point in self._planned]}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Tell the history again, in order, and go on with the batch."""
        for observation in history:
            self.tell(observation)
        self._asked = int(state["asked"])
        self._planned = [tuple(point) for point in state["planned"]]

    def _plan(self, pending: Sequence[Point], seed: int, generator: np.random.Generator) -> list[Point]:
        """Propose, move, screen: return the next batch."""
        surrogate = Surrogate(self._problem, self._history)
        proposals = surrogate.propose(pending, self._spec.proposals, self._effort, seed)
        donors = np.array([observation.point for observation in strongest(self._scored(), DONORS)])
        moved = [weak_to_strong(np.array(proposal), donors, generator) for proposal in proposals]
        return least_known(moved, surrogate.variances(moved), self._spec.batch_size)

    def _scored(self) -> list[Observation]:
        return [observation for observation in self._history if observation.losses is not None]


def strongest(scored: Sequence[Observation], count: int) -> list[Observation]:
    """Return the `count` observations that break constraints the least and, among equals, have the least summed losses.

    Each objective's losses are standardized before they are added up, so that its unit does not matter.
    """
    sums = standardized(np.array([observation.losses for observation in scored], dtype=np.float64)).sum(axis=1)
    order = sorted(range(len(scored)), key=lambda index: (scored[index].violation, sums[index], index))
    return [scored[index] for index in order[:count]]


def weak_to_strong(proposal: Array, donors: Array, generator: np.random.Generator) -> Point:
    """Return `proposal` (n) after one step of DE/rand/1/bin with the rows of `donors` (k x n, k at least 1).

    v = a + F (b - c) for three rows a, b, c, which differ when there are three; coordinate j is v_j with probability
    CR, and one random j always is. Clipped to [0, 1].
    """
    a, b, c = donors[generator.choice(len(donors), 3, replace=len(donors) < 3)]
    crossed = generator.random(len(proposal)) < CROSSOVER_RATE
    crossed[generator.integers(len(proposal))] = True
    moved = np.where(crossed, a + DIFFERENTIAL_WEIGHT * (b - c), proposal)
    return tuple(np.clip(moved, 0.0, 1.0).tolist())


def least_known(points: Sequence[Point], variances: Array, count: int) -> list[Point]:
    """Return the `count` points with the least Fisher information ("Fisher screening"), least first.

    The Fisher information that a normal prediction carries about its mean is 1 / variance; it is summed over the
    objectives (columns of `variances`, rows as `points`). Least information is most uncertainty: the step explores, and
    promise entered before it, in the proposals and in their move.
    """
    information = (1.0 / np.maximum(variances, 1e-12)).sum(axis=1)
    return [points[index] for index in np.argsort(information, kind="stable")[:count]]
