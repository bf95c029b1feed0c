"""Asynchronous NSGA-III (Deb and Jain 2014, steady state), for four objectives and more.

With many objectives nearly all points are non-dominated and crowding says little; here the survivors of the last front
are those nearest to reference directions that few others have. Losses are compared between the ideal point and the
intercepts of the hyperplane through the extreme points, which the survival keeps from tell to tell, so that they, too,
are a function of the history.
"""

import warnings
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.util.reference_direction import das_dennis, get_number_of_uniform_points, get_partition_closest_to_points

from campaigns.strategies import Nsga3Search
from optimizer.strategies.steady_state import SteadyState
from optimizer.strategies.strategy import SearchProblem


class Nsga3(SteadyState):
    """Mates at random (a tournament on violations where constraints are broken), truncates by reference directions."""

    def __init__(self, spec: Nsga3Search, problem: SearchProblem) -> None:
        super().__init__(spec, problem)
        self._survive = ReferenceDirectionSurvival(reference_directions(problem.objectives, spec.population_size))

    def _winners(
        self, population: Population, pairs: np.ndarray[Any, Any], random_state: np.random.Generator, **_: object
    ) -> np.ndarray[Any, Any]:
        # Not pymoo's comp_by_cv_then_random: of two equal violations it takes one by a generator that nobody seeded.
        violations = population.get("CV")[:, 0][pairs]
        winners = np.where(violations[:, 0] < violations[:, 1], pairs[:, 0], pairs[:, 1])
        drawn = pairs[np.arange(len(pairs)), random_state.integers(2, size=len(pairs))]
        return np.where(violations[:, 0] == violations[:, 1], drawn, winners)[:, None]

    def _survivors(self, contenders: Population, generator: np.random.Generator) -> Population:
        with warnings.catch_warnings():  # pymoo switches all warnings off, for good, where it finds the intercepts
            return self._survive.do(self._pymoo_problem, contenders, n_survive=self._size, random_state=generator)


def reference_directions(objectives: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return at most `count` directions (k x m, each at least 0 with sum 1), or the centre alone where count < m.

    Das and Dennis's lattice, as fine as `count` allows. A lattice with fewer steps than objectives has no point inside
    the simplex; then a second layer, at half the size, fills it (Deb and Jain 2014, section V).
    """
    steps = get_partition_closest_to_points(count, objectives)
    outer = np.asarray(das_dennis(steps, objectives), dtype=np.float64)
    left = count - get_number_of_uniform_points(steps, objectives)
    if steps == 0 or steps >= objectives or left < 1:
        return outer
    inner = das_dennis(get_partition_closest_to_points(left, objectives), objectives)
    return np.concatenate([outer, (inner + 1.0 / objectives) / 2.0])
