"""Who chooses the next candidate: one file per algorithm, one row per algorithm in `STRATEGIES`."""

from collections.abc import Callable
from typing import Any

from campaigns import strategies as specs
from optimizer.strategies.cma_es import CmaEs
from optimizer.strategies.nsga2 import Nsga2
from optimizer.strategies.random_search import RandomSearch
from optimizer.strategies.sobol import SobolSearch
from optimizer.strategies.strategy import Observation, SearchProblem, Strategy

__all__ = ["STRATEGIES", "Observation", "SearchProblem", "Strategy", "build_strategy"]

STRATEGIES: dict[str, Callable[[Any, SearchProblem], Strategy]] = {
    "random": lambda _, problem: RandomSearch(problem),
    "sobol": lambda _, problem: SobolSearch(problem),
    "nsga2": Nsga2,
    "cma_es": CmaEs,
}
"""kind -> how to build it from (spec, problem)."""


def build_strategy(spec: specs.Strategy, problem: SearchProblem) -> Strategy:
    """Return a new strategy over [0, 1]^dimensions."""
    return STRATEGIES[spec.kind](spec, problem)
