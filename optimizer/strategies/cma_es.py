"""CMA-ES on one number per candidate, as in checkpoint recycling (arXiv 2412.04144).

Asynchronous use: every ask draws one more sample from the present distribution, so nobody waits at the end of a
generation. The first `population_size` results to arrive make a generation, whichever samples they belong to; a sample
drawn before the last update counts as injected (arXiv 1110.4181), its step clipped by `cma`. A sample whose result
never comes is missed by nobody.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cma
import numpy as np

from campaigns.strategies import CmaEsSearch
from campaigns.trial import Point
from optimizer.strategies.scalarization import TchebycheffScale, weighted_mean
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import SAME_POINT, TakenPoints

DRAWS_UNTIL_CONVERGED = 10
CONVERGED_WITHIN = 1e-4  # of the cube's side: taken samples as near as this to each other are those of a tiny step
Sample = np.ndarray[Any, np.dtype[np.float64]]
Rank = tuple[float, float]  # violation, then loss: less is better


class CmaEs:
    """CMA-ES in [0, 1]^n, the bounds kept by cma's own BoundTransform.

    Starts where the spec says; by default from the cube's centre or, when baselines were told before the first ask,
    from the best of them. Later results of points that it did not ask for are passed over. Within a generation, samples
    that keep all constraints rank by the scalarized loss, behind them those that break some, by violation; one without
    losses ranks with the worst. Once the step size is so small that samples coincide with points already known, it has
    converged; what it proposes from then on are uniform draws.

    The range of losses by which Tchebycheff's distance is scaled grows with each update: it is that of the results
    before the first ask and of those which updates used, so that it does not depend on when an ask came.

    The state is what was drawn in which generation, from which `restore` replays.
    """

    def __init__(self, spec: CmaEsSearch, problem: SearchProblem) -> None:
        self._spec = spec
        self._problem = problem
        self._scale = TchebycheffScale(problem.objective_weights) if spec.scalarization == "tchebycheff" else None
        self._taken = TakenPoints(problem.dimensions)
        self._told_before_start: list[Observation] = []
        self._search: Any = None  # cma.CMAEvolutionStrategy, from the first ask on
        self._draws: list[int] = []  # samples drawn in each generation
        self._rejected: list[int] = []  # which samples, counted from 0, were taken already when they were drawn
        self._scattered = 0  # uniform draws, once it has converged
        self._outstanding: list[tuple[int, Sample]] = []  # (generation, sample) without a result
        self._results: list[tuple[int, Sample, Observation]] = []  # (generation, sample, result) for the next updates

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a sample of the present distribution, updated first when a generation's results are in."""
        if not self._scattered and (fresh := self._fresh_draw(pending)) is not None:
            return fresh
        while self._taken.has(point := self._scatter(), pending):
            pass
        return point

    def tell(self, observation: Observation) -> None:
        """Keep the result of an own sample for the next update."""
        check_observation(observation, self._problem)
        self._taken.add(observation.point)
        if self._search is None:
            self._told_before_start.append(observation)
            return
        for index, (generation, sample) in enumerate(self._outstanding):
            if _distance(sample, observation.point) < SAME_POINT:
                del self._outstanding[index]
                self._results.append((generation, sample, observation))
                return

    def state(self) -> dict[str, Any]:
        """Return the draws per generation, those rejected, the uniform ones, and how many results came before all."""
        return {
            "draws": list(self._draws),
            "rejected": list(self._rejected),
            "scattered": self._scattered,
            "told_before_start": len(self._told_before_start),
        }

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
        self._scattered = int(state["scattered"])

    def _replay(self, state: dict[str, Any], told: Iterator[Observation]) -> None:
        rejected = set(state["rejected"])
        for _ in range(int(state["told_before_start"])):
            self.tell(next(told))
        for generation, draws in enumerate(state["draws"]):
            while generation > 0 and len(self._results) < self._search.popsize:
                self.tell(next(told))
            for _ in range(draws):
                self._draw()  # the first of a generation updates, as it did; for the others too few results are in
                if sum(self._draws) - 1 in rejected:
                    self._reject()

    def _draw(self) -> Point:
        if self._search is None:
            self._start()
        elif len(self._results) >= self._search.popsize:
            self._update()
        sample = np.asarray(self._search.ask(1)[0], dtype=np.float64)
        self._draws[-1] += 1
        self._outstanding.append((len(self._draws), sample))
        return tuple(sample.tolist())

    def _fresh_draw(self, pending: Sequence[Point]) -> Point | None:
        """Return a sample that is not taken; None once ten in a row are, near each other.

        Samples far apart are taken for another reason: an imported campaign of the same seed drew them first.
        """
        near: list[Point] = []
        while len(near) < DRAWS_UNTIL_CONVERGED:
            if not self._taken.has(point := self._draw(), pending):
                return point
            self._reject()
            near = [*near, point] if not near or _distance(point, near[0]) < CONVERGED_WITHIN else [point]
        return None

    def _reject(self) -> None:
        self._rejected.append(sum(self._draws) - 1)
        self._outstanding.pop()

    def _scatter(self) -> Point:
        generator = np.random.default_rng([self._problem.seed, self._scattered])
        self._scattered += 1
        return tuple(generator.random(self._problem.dimensions).tolist())

    def _start(self) -> None:
        options = {
            "seed": np.nan,  # none: seeding is for numpy's global generator,
            "randn": np.random.RandomState(self._problem.seed).randn,  # from which cma would draw without this
            "bounds": [0.0, 1.0],
            "CMA_mirrors": 0,
            "verbose": -10,  # silent, and no signals file is looked for
        }
        if self._spec.population_size is not None:
            options["popsize"] = self._spec.population_size
        self._search = cma.CMAEvolutionStrategy(list(self._start_point()), self._spec.sigma, options)
        self._draws.append(0)

    def _start_point(self) -> Point:
        dimensions = self._problem.dimensions
        ranks = self._ranks(self._told_before_start)  # widens the range of losses, wherever the search starts
        if self._spec.start != "best":
            return (0.5 if self._spec.start == "center" else 1.0 / dimensions,) * dimensions
        scored = [(rank, o.point) for rank, o in zip(ranks, self._told_before_start, strict=True) if o.losses]
        centre = (0.5,) * dimensions
        return min(scored, key=lambda pair: pair[0], default=((0.0, 0.0), centre))[1]

    def _update(self) -> None:
        """One update; a backlog is worked off by the asks that follow, each of which draws in between."""
        size = self._search.popsize
        arrived, self._results = self._results[:size], self._results[size:]
        ranks = self._ranks([observation for _, _, observation in arrived])
        places = {rank: float(place) for place, rank in enumerate(sorted(set(ranks)))}  # all that cma goes by
        late = [index for index, (generation, _, _) in enumerate(arrived) if generation < len(self._draws)]
        self._search.tell(
            [sample for _, sample, _ in arrived], [places[rank] for rank in ranks], check_points=late or None
        )
        self._draws.append(0)

    def _ranks(self, observations: Sequence[Observation]) -> list[Rank]:
        if self._scale is not None:
            self._scale.widen(o.losses for o in observations if o.losses is not None and o.violation == 0.0)
        scored = [self._rank(o) for o in observations if o.losses is not None]
        worst = max(scored, default=(0.0, 0.0))
        return [worst if o.losses is None else self._rank(o) for o in observations]

    def _rank(self, observation: Observation) -> Rank:
        assert observation.losses is not None
        if observation.violation > 0.0:
            return observation.violation, 0.0
        if self._scale is not None:
            return 0.0, self._scale.distance(observation.losses)
        return 0.0, weighted_mean(observation.losses, self._problem.objective_weights)


def _distance(one: Sample | Point, other: Point) -> float:
    return float(np.abs(np.subtract(one, other)).max())
