"""Asynchronous NSGA-II (Deb et al. 2002, steady state), with constraint domination."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.population import Population
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from campaigns.strategies import Nsga2Search
from optimizer.strategies.steady_state import SteadyState
from optimizer.strategies.strategy import SearchProblem


class Nsga2(SteadyState):
    """Mates by binary tournament on rank and crowding, truncates by rank and crowding."""

    def __init__(self, spec: Nsga2Search, problem: SearchProblem) -> None:
        super().__init__(spec, problem)
        self._survive = RankAndCrowding()

    def _winners(
        self, population: Population, pairs: np.ndarray[Any, Any], random_state: np.random.Generator, **_: object
    ) -> np.ndarray[Any, Any]:
        # The tournament reads its rule and its generator from the algorithm that it believes to be part of.
        rule = SimpleNamespace(tournament_type="comp_by_rank_and_crowding", random_state=random_state)
        return np.asarray(binary_tournament(population, pairs, rule))

    def _survivors(self, contenders: Population, generator: np.random.Generator) -> Population:
        survivors = self._survive.do(self._pymoo_problem, contenders, n_survive=self._size, random_state=generator)
        if len(survivors) == len(contenders):
            return survivors
        # Again without truncation: crowding is to be measured among those who are left.
        return self._survive.do(self._pymoo_problem, survivors, random_state=generator)
