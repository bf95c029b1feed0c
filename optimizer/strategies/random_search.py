"""Random search: uniform and independent draws, the baseline that every strategy must beat."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from campaigns.trial import Point
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints


class RandomSearch:
    """Uniform draws from [0, 1]^n. Draw k comes from a generator of its own, seeded by (seed, k)."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._taken = TakenPoints(problem.dimensions)
        self._drawn = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return the next draw that is not taken."""
        while self._taken.has(point := self._draw(), pending):
            pass
        return point

    def tell(self, observation: Observation) -> None:
        """Check the observation; draws depend on none."""
        check_observation(observation, self._problem)
        self._taken.add(observation.point)

    def state(self) -> dict[str, Any]:
        """Return the number of draws."""
        return {"drawn": self._drawn}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Go on after the draws already made."""
        for observation in history:
            self.tell(observation)
        self._drawn = int(state["drawn"])

    def _draw(self) -> Point:
        draw = np.random.default_rng([self._problem.seed, self._drawn]).random(self._problem.dimensions)
        self._drawn += 1
        return tuple(draw.tolist())
