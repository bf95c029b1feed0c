"""CMA-ES on the macro-average of the objectives, as in checkpoint recycling (arXiv 2412.04144).

Asynchronous use: every ask draws one more sample from the present distribution, so nobody waits at the end of a
generation. The first `population_size` results to arrive make a generation, whichever samples they belong to; a sample
drawn before the last update counts as injected (arXiv 1110.4181), its step clipped by `cma`. A sample whose result
never comes is missed by nobody.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import cma
import numpy as np

from campaigns.strategies import CmaEsSearch
from campaigns.trial import Point
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation

SAME_POINT = 1e-9  # a replay on another processor may differ from the points on record in their last bits
Sample = np.ndarray[Any, np.dtype[np.float64]]


class CmaEs:
    """CMA-ES in [0, 1]^n, the bounds kept by cma's own BoundTransform.

    Starts from the cube's centre or, when baselines were told before the first ask, from the best of them; later
    results of points that it did not ask for are passed over. An infeasible sample ranks with the worst feasible one
    of its generation. The state is the number of samples drawn per generation, from which `restore` replays.
    """

    def __init__(self, spec: CmaEsSearch, problem: SearchProblem) -> None:
        self._spec = spec
        self._problem = problem
        self._best_told: tuple[float, Point] | None = None
        self._told_before_start = 0
        self._search: Any = None  # cma.CMAEvolutionStrategy, from the first ask on
        self._draws: list[int] = []  # samples drawn in each generation
        self._outstanding: list[tuple[int, Sample]] = []  # (generation, sample) without a result
        self._results: list[tuple[int, Sample, float | None]] = []  # (generation, sample, loss) for the next updates

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a sample of the present distribution, updated first when a generation's results are in."""
        if self._search is None:
            self._start()
        elif len(self._results) >= self._search.popsize:
            self._update()
        sample = np.asarray(self._search.ask(1)[0], dtype=np.float64)
        self._draws[-1] += 1
        self._outstanding.append((len(self._draws), sample))
        return tuple(sample.tolist())

    def tell(self, observation: Observation) -> None:
        """Keep the result of an own sample for the next update."""
        check_observation(observation, self._problem)
        loss = self._macro_loss(observation.losses)
        if self._search is None:
            self._told_before_start += 1
            if loss is not None and (self._best_told is None or loss < self._best_told[0]):
                self._best_told = (loss, observation.point)
            return
        for index, (generation, sample) in enumerate(self._outstanding):
            if np.abs(sample - observation.point).max() < SAME_POINT:
                del self._outstanding[index]
                self._results.append((generation, sample, loss))
                return

    def state(self) -> dict[str, Any]:
        """Return the draws per generation, and how many results came before the first."""
        return {"draws": list(self._draws), "told_before_start": self._told_before_start}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Replay: the same draws and updates in the same order from the same seed.

        Raises ValueError when the history is too short for the state.
        """
        told = iter(history)
        try:
            self._replay(state, told)
        except StopIteration:
            message = f"the saved state speaks of more results than the {len(history)} of the history"
            raise ValueError(message) from None
        for observation in told:
            self.tell(observation)

    def _replay(self, state: dict[str, Any], told: Iterator[Observation]) -> None:
        for _ in range(int(state["told_before_start"])):
            self.tell(next(told))
        for generation, draws in enumerate(state["draws"]):
            while generation > 0 and len(self._results) < self._search.popsize:
                self.tell(next(told))
            for _ in range(draws):
                self.ask(())  # the first of a generation updates, as it did; for the others too few results are in

    def _start(self) -> None:
        start = self._best_told[1] if self._best_told else (0.5,) * self._problem.dimensions
        options = {
            "seed": np.nan,  # none: seeding is for numpy's global generator,
            "randn": np.random.RandomState(self._problem.seed).randn,  # from which cma would draw without this
            "bounds": [0.0, 1.0],
            "CMA_mirrors": 0,
            "verbose": -10,  # silent, and no signals file is looked for
        }
        if self._spec.population_size is not None:
            options["popsize"] = self._spec.population_size
        self._search = cma.CMAEvolutionStrategy(list(start), self._spec.sigma, options)
        self._draws.append(0)

    def _update(self) -> None:
        """One update; a backlog is worked off by the asks that follow, each of which draws in between."""
        size = self._search.popsize
        arrived, self._results = self._results[:size], self._results[size:]
        worst = max((loss for _, _, loss in arrived if loss is not None), default=0.0)
        losses = [worst if loss is None else loss for _, _, loss in arrived]
        late = [index for index, (generation, _, _) in enumerate(arrived) if generation < len(self._draws)]
        self._search.tell([sample for _, sample, _ in arrived], losses, check_points=late or None)
        self._draws.append(0)

    def _macro_loss(self, losses: tuple[float, ...] | None) -> float | None:
        if losses is None:
            return None
        weights = self._problem.objective_weights
        return math.fsum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / math.fsum(weights)
