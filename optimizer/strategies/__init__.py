"""Who chooses the next candidate: one file per algorithm, one row per algorithm in `STRATEGIES`."""

from collections.abc import Callable
from typing import Any

from campaigns import strategies as specs
from optimizer.strategies.cma_es import CmaEs
from optimizer.strategies.gp_hypervolume import GpHypervolume
from optimizer.strategies.mm_mo import MmMo
from optimizer.strategies.nsga2 import Nsga2
from optimizer.strategies.nsga3 import Nsga3
from optimizer.strategies.optuna_gp import OptunaGp
from optimizer.strategies.optuna_tpe import OptunaTpe
from optimizer.strategies.qnehvi import Qnehvi
from optimizer.strategies.random_search import RandomSearch
from optimizer.strategies.sobol import SobolSearch
from optimizer.strategies.strategy import Observation, SearchProblem, Strategy

__all__ = ["STRATEGIES", "Observation", "SearchProblem", "Strategy", "build_strategy"]

STRATEGIES: dict[str, Callable[[Any, SearchProblem], Strategy]] = {
    "random": lambda _, problem: RandomSearch(problem),
    "sobol": lambda _, problem: SobolSearch(problem),
    "nsga2": Nsga2,
    "nsga3": Nsga3,
    "cma_es": CmaEs,
    "qnehvi": Qnehvi,
    "mm_mo": MmMo,
    "tpe": OptunaTpe,
    "gp": OptunaGp,
    "gp_hypervolume": GpHypervolume,
}
"""kind -> how to build it from (spec, problem)."""


def build_strategy(spec: specs.Strategy, problem: SearchProblem) -> Strategy:
    """Return a new strategy over [0, 1]^dimensions."""
    return STRATEGIES[spec.kind](spec, problem)
