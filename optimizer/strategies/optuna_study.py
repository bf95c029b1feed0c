"""What the Optuna strategies share: a study in memory, rebuilt from the history, that one sampler is asked through.

Optuna does not store samplers, and theirs are random. So no sampler outlives an ask: ask k gets a new one, seeded by
(seed, k), that sees the results in the order in which they were told and, behind them, the pending points as running
trials. What is proposed is a function of history, pending points and k.
"""

import contextlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from campaigns.trial import Point
from optimizer.strategies.counted import CountedStrategy
from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints

SAMPLER_STREAM, STEP_STREAM, WEIGHT_STREAM = 0, 1, 2
SIDESTEP = 0.1


class OptunaSearch(CountedStrategy):
    """Sobol points first, then what an Optuna sampler proposes; each ask and tell at any time.

    Where a sampler proposes a point that is taken (a corner of the cube, say), a tenth of the way from there to a
    uniform draw is gone instead. The state is two counters.
    """

    def __init__(self, initial_points: int, problem: SearchProblem) -> None:
        self._initial_points = initial_points
        self._problem = problem
        self._distributions = {f"x{index}": FloatDistribution(0.0, 1.0) for index in range(problem.dimensions)}
        self._design = SobolSequence(problem.dimensions, problem.seed)
        self._taken = TakenPoints(problem.dimensions)
        self._told: list[Observation] = []
        self._anything_scored = False
        self._asked = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a design point while there are any (or nothing is scored yet), else the sampler's proposal."""
        number, self._asked = self._asked, self._asked + 1
        if self._design.drawn < self._initial_points or not self._anything_scored:
            return self._design.next_free(self._taken, pending)
        point = self._proposal(pending, number)
        generator = np.random.default_rng([self._problem.seed, STEP_STREAM, number])
        while self._taken.has(point, pending):
            step = SIDESTEP * (generator.random(len(point)) - point)
            point = tuple((np.array(point) + step).tolist())
        return point

    def tell(self, observation: Observation) -> None:
        """Keep the result for the studies to come."""
        check_observation(observation, self._problem)
        self._taken.add(observation.point)
        self._told.append(observation)
        self._anything_scored |= observation.losses is not None

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler of the kind that this strategy is about."""

    @abstractmethod
    def _study(self, number: int) -> optuna.Study:
        """Return a study for ask `number` that holds what was told, in that order, and no running trial."""

    def _proposal(self, pending: Sequence[Point], number: int) -> Point:
        with _silence():
            study = self._study(number)
            study.sampler = self._sampler(_sampler_seed(self._problem.seed, number))
            finished = len(study.get_trials(deepcopy=False))
            study.add_trials(self._trial(point, state=TrialState.RUNNING) for point in pending)
            with np.errstate(
                invalid="ignore"
            ):  # GPSampler divides 0 by 0 where one start is far better than all others
                asked = study.ask(self._distributions)
            point = tuple(float(asked.params[name]) for name in self._distributions)
            for running in range(finished, asked.number + 1):  # so that none of them is running in the next ask
                study.tell(running, state=TrialState.FAIL)
        return point

    def _trial(self, point: Point, **result: Any) -> FrozenTrial:
        """Return a trial of `point` with what `optuna.create_trial` calls state, values and constraints."""
        params = dict(zip(self._distributions, point, strict=True))
        return optuna.create_trial(params=params, distributions=self._distributions, **result)


def empty_study(objectives: int) -> optuna.Study:
    """Return a new study in memory that minimises."""
    return optuna.create_study(directions=["minimize"] * objectives)


def named_constraints(constraints: Sequence[float]) -> dict[str, float]:
    """Return the constraints (kept where at most 0, as Optuna has it) by the names that a study knows them by."""
    return {f"c{index}": value for index, value in enumerate(constraints)}


def _sampler_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, SAMPLER_STREAM, number]).generate_state(1)[0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Optuna from announcing studies and trials of which the user knows nothing."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
