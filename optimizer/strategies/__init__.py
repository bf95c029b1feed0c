"""Who chooses the next candidate: one file per algorithm, one row per algorithm in `STRATEGIES`."""

from collections.abc import Callable
from typing import Any

from campaigns import strategies as specs
from optimizer.strategies.cma_es import CmaEs
from optimizer.strategies.nsga2 import Nsga2
from optimizer.strategies.random_search import RandomSearch
from optimizer.strategies.sobol import SobolSearch
from optimizer.strategies.strategy import Observation, Strategy

__all__ = ["STRATEGIES", "Observation", "Strategy", "build_strategy"]

# kind -> how to build it from (spec, dimensions, objective weights, seed)
STRATEGIES: dict[str, Callable[[Any, int, tuple[float, ...], int], Strategy]] = {
    "random": lambda _, dimensions, weights, seed: RandomSearch(dimensions, len(weights), seed),
    "sobol": lambda _, dimensions, weights, seed: SobolSearch(dimensions, len(weights), seed),
    "nsga2": lambda spec, dimensions, weights, seed: Nsga2(spec, dimensions, len(weights), seed),
    "cma_es": CmaEs,
}


def build_strategy(spec: specs.Strategy, dimensions: int, objective_weights: tuple[float, ...], seed: int) -> Strategy:
    """Return a new strategy over [0, 1]^dimensions for as many objectives as there are weights.

    `seed` lies in [0, 2^32). Raises ValueError for no dimension, no objective, or weights that do not sum above 0.
    """
    if dimensions < 1 or sum(objective_weights, 0.0) <= 0.0:
        message = "a search needs at least one dimension and one objective of weight above 0"
        raise ValueError(f"{message}, got {dimensions} and {objective_weights}")
    return STRATEGIES[spec.kind](spec, dimensions, objective_weights, seed)
