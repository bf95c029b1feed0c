"""Asynchronous NSGA-II (Deb et al. 2002, steady state): no generation barrier, so no worker waits for another.

Initial design: Sobol points. After it, each ask mates the population as it stands (binary tournament on rank and
crowding, SBX, polynomial mutation) and each tell inserts one point and truncates by rank and crowding.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from campaigns.strategies import Nsga2Search
from campaigns.trial import Point
from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation, SearchProblem, check_observation

SAME_POINT = 1e-9  # points nearer than this in every coordinate count as one
MATING_TRIES = 50
ASK_STREAM, TELL_STREAM = 0, 1

# Weights that are normalised afterwards mean little one by one, so a child stays near one whole parent: nearly every
# coordinate is crossed, few are exchanged between the parents. pymoo's defaults (0.9, 0.5 and 0.5, eta 15) suit
# separable problems: on quadratic trade-offs over 8 weights they gained less over random search in 96 evaluations.
CROSSOVER_PROBABILITY, CROSSED_SHARE, EXCHANGED_SHARE = 1.0, 0.9, 0.2


class Nsga2:
    """NSGA-II over [0, 1]^n, to be asked and told in any order.

    Randomness: ask k and tell k each have a generator of their own, seeded by (seed, stream, k), handed to pymoo's
    operators. So the population is a function of the history alone, and the state two counters.
    """

    def __init__(self, spec: Nsga2Search, problem: SearchProblem) -> None:
        self._size = spec.population_size
        self._design_points = spec.initial_points or max(1, spec.population_size // 2)
        self._problem = problem
        self._bounds = Problem(n_var=problem.dimensions, n_obj=problem.objectives, xl=0.0, xu=1.0)
        self._select = TournamentSelection(func_comp=binary_tournament)
        self._cross = SBX(
            eta=spec.crossover_eta,
            n_offsprings=1,
            prob=CROSSOVER_PROBABILITY,
            prob_var=CROSSED_SHARE,
            prob_bin=EXCHANGED_SHARE,
        )
        self._mutate = PM(eta=spec.mutation_eta)
        self._survive = RankAndCrowding()
        self._design = SobolSequence(problem.dimensions, problem.seed)
        self._population = Population.create()
        self._told: list[Point] = []
        self._asked = 0

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return a design point while there are any (or nothing is known yet), else a child of the population."""
        generator = np.random.default_rng([self._problem.seed, ASK_STREAM, self._asked])
        self._asked += 1
        if self._design.drawn < self._design_points or len(self._population) == 0:
            return self._design.next()
        taken = np.array([*self._told, *pending])
        for _ in range(MATING_TRIES):
            child = self._child(generator)
            if not (np.abs(taken - child) < SAME_POINT).all(axis=1).any():
                return tuple(child.tolist())
        return tuple(generator.random(self._problem.dimensions).tolist())

    def tell(self, observation: Observation) -> None:
        """Let a feasible point compete for a place in the population; baselines compete like all others."""
        check_observation(observation, self._problem)
        generator = np.random.default_rng([self._problem.seed, TELL_STREAM, len(self._told)])
        self._told.append(observation.point)
        if observation.losses is None:
            return
        newcomer = Individual(X=np.array(observation.point), F=np.array(observation.losses))
        contenders = Population.merge(self._population, Population.create(newcomer))
        survivors = self._survive.do(self._bounds, contenders, n_survive=self._size, random_state=generator)
        # Again without truncation: crowding is to be measured among those who are left.
        self._population = self._survive.do(self._bounds, survivors, random_state=generator)

    def state(self) -> dict[str, Any]:
        """Return how many points were asked for, and how many of them came from the design."""
        return {"asked": self._asked, "design": self._design.drawn}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Tell the history again, in order, and go on after the asks already made."""
        for observation in history:
            self.tell(observation)
        self._asked = int(state["asked"])
        self._design.skip_to(int(state["design"]))

    def _child(self, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
        # The tournament reads its rule and its generator from the algorithm that it believes to be part of.
        rule = SimpleNamespace(tournament_type="comp_by_rank_and_crowding", random_state=generator)
        parents = self._select.do(
            self._bounds, self._population, n_select=1, n_parents=2, algorithm=rule, random_state=generator
        )
        children = self._cross.do(self._bounds, parents, random_state=generator)
        children = self._mutate.do(self._bounds, children, random_state=generator)
        return np.asarray(children.get("X")[0], dtype=np.float64)
