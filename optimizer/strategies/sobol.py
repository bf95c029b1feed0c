"""Sobol search: a scrambled low-discrepancy sequence, uniform draws without clumps."""

from collections.abc import Sequence
from typing import Any

from scipy.stats import qmc

from campaigns.trial import Point
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints


class SobolSequence:
    """The scrambled Sobol sequence of [0, 1]^n that `seed` gives; `drawn` is the position in it."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self._engine = qmc.Sobol(dimensions, scramble=True, rng=seed)
        self.drawn = 0

    def next(self) -> Point:
        """Return the next point of the sequence."""
        self.drawn += 1
        return tuple(self._engine.random(1)[0].tolist())

    def next_free(self, taken: TakenPoints, pending: Sequence[Point]) -> Point:
        """Return the next point of the sequence that is neither told nor pending."""
        while taken.has(point := self.next(), pending):
            pass
        return point

    def skip_to(self, drawn: int) -> None:
        """Go to position `drawn` of the sequence."""
        self._engine.reset()
        if drawn > 0:  # scipy counts one point too few when it forwards a fresh engine by none
            self._engine.fast_forward(drawn)
        self.drawn = drawn


class SobolSearch:
    """Proposes the points of a Sobol sequence in order."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._taken = TakenPoints(problem.dimensions)
        self._sequence = SobolSequence(problem.dimensions, problem.seed)

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return the next point of the sequence that is not taken."""
        return self._sequence.next_free(self._taken, pending)

    def tell(self, observation: Observation) -> None:
        """Check the observation; the sequence depends on none."""
        check_observation(observation, self._problem)
        self._taken.add(observation.point)

    def state(self) -> dict[str, Any]:
        """Return the position in the sequence."""
        return {"drawn": self._sequence.drawn}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Go on from the saved position."""
        for observation in history:
            self.tell(observation)
        self._sequence.skip_to(int(state["drawn"]))
