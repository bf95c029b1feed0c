"""What the genetic strategies share: no generation barrier, so no worker waits for another.

Initial design: Sobol points. After it, each ask mates the population as it stands (tournament, SBX, polynomial
mutation) and each tell inserts one point and truncates by the survival rule of the algorithm.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection

from campaigns.strategies import Nsga2Search, Nsga3Search
from campaigns.trial import Point
from optimizer.strategies.counted import CountedStrategy
from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation
from optimizer.strategies.taken_points import TakenPoints

MATING_TRIES = 50
ASK_STREAM, TELL_STREAM = 0, 1

# Weights that are normalised afterwards mean little one by one, so a child stays near one whole parent: nearly every
# coordinate is crossed, few are exchanged between the parents. pymoo's defaults (0.9, 0.5 and 0.5, eta 15) suit
# separable problems: on quadratic trade-offs over 8 weights they gained less over random search in 96 evaluations.
CROSSOVER_PROBABILITY, CROSSED_SHARE, EXCHANGED_SHARE = 1.0, 0.9, 0.2


class SteadyState(CountedStrategy):
    """A population over [0, 1]^n, to be asked and told in any order.

    A subclass says who wins a tournament and who survives; a point that breaks a constraint loses against every one
    that keeps all, and of two that break some the smaller violation wins (Deb 2000). Randomness: ask k and tell k each
    have a generator of their own, seeded by (seed, stream, k), handed to pymoo's operators. So the population is a
    function of the history alone, and the state two counters.
    """

    def __init__(self, spec: Nsga2Search | Nsga3Search, problem: SearchProblem) -> None:
        self._size = spec.population_size
        self._design_points = spec.initial_points or max(1, spec.population_size // 2)
        self._problem = problem
        self._pymoo_problem = Problem(
            n_var=problem.dimensions, n_obj=problem.objectives, n_ieq_constr=problem.constraints, xl=0.0, xu=1.0
        )
        self._select = TournamentSelection(func_comp=self._winners)
        self._cross = SBX(
            eta=spec.crossover_eta,
            n_offsprings=1,
            prob=CROSSOVER_PROBABILITY,
            prob_var=CROSSED_SHARE,
            prob_bin=EXCHANGED_SHARE,
        )
        self._mutate = PM(eta=spec.mutation_eta)
        self._design = SobolSequence(problem.dimensions, problem.seed)
        self._population = Population.create()
        self._taken = TakenPoints(problem.dimensions)
        self._asked = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a design point while there are any (or nothing is known yet), else a child of the population."""
        generator = np.random.default_rng([self._problem.seed, ASK_STREAM, self._asked])
        self._asked += 1
        if self._design.drawn < self._design_points or len(self._population) == 0:
            return self._design.next_free(self._taken, pending)
        for _ in range(MATING_TRIES):
            if not self._taken.has(child := self._child(generator), pending):
                return child
        return tuple(generator.random(self._problem.dimensions).tolist())

    def tell(self, observation: Observation) -> None:
        """Let a scored point compete for a place in the population; baselines compete like all others."""
        check_observation(observation, self._problem)
        generator = np.random.default_rng([self._problem.seed, TELL_STREAM, len(self._taken)])
        self._taken.add(observation.point)
        if observation.losses is None:
            return
        newcomer = Individual(
            X=np.array(observation.point), F=np.array(observation.losses), G=np.array(observation.constraints)
        )
        contenders = Population.merge(self._population, Population.create(newcomer))
        self._population = self._survivors(contenders, generator)

    @abstractmethod
    def _winners(
        self, population: Population, pairs: np.ndarray[Any, Any], random_state: np.random.Generator, **_: object
    ) -> np.ndarray[Any, Any]:
        """Return the index of the winner of each of the `pairs` (k x 2 indices): k x 1."""

    @abstractmethod
    def _survivors(self, contenders: Population, generator: np.random.Generator) -> Population:
        """Return at most `self._size` of the contenders, of whom the last is new."""

    def _child(self, generator: np.random.Generator) -> Point:
        problem = self._pymoo_problem
        parents = self._select.do(problem, self._population, n_select=1, n_parents=2, random_state=generator)
        children = self._cross.do(problem, parents, random_state=generator)
        children = self._mutate.do(problem, children, random_state=generator)
        return tuple(np.asarray(children.get("X")[0], dtype=np.float64).tolist())
