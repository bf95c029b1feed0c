"""Gaussian processes by Optuna: log expected hypervolume improvement, constrained, pending-aware.

What expected hypervolume improvement costs grows steeply with the objectives: with 100 results in 8 dimensions, an ask
of GPSampler took 0.3 s for two, 0.8 s for three and 5 s for four. Beyond three, each ask therefore improves one number,
the augmented Tchebycheff distance by weights of its own, drawn uniformly from the simplex (ParEGO, Knowles 2006).
"""

import numpy as np
import optuna
from optuna.samplers import GPSampler

from campaigns.strategies import GpSearch
from optimizer.strategies.optuna_study import WEIGHT_STREAM, OptunaSearch, empty_study, named_constraints
from optimizer.strategies.scalarization import Losses, TchebycheffScale
from optimizer.strategies.strategy import SearchProblem

MAX_HYPERVOLUME_OBJECTIVES = 3


class OptunaGp(OptunaSearch):
    """GPSampler of Optuna, the kernels fitted anew at each ask.

    It passes over trials that failed, and would go there again. So a point without losses is given the worst of each
    loss and constraint that was measured so far.
    """

    def __init__(self, spec: GpSearch, problem: SearchProblem) -> None:
        super().__init__(spec.initial_points, problem)

    def _sampler(self, seed: int) -> GPSampler:
        return GPSampler(n_startup_trials=1, seed=seed)

    def _study(self, number: int) -> optuna.Study:
        scored = [(o.losses, o.constraints) for o in self._told if o.losses is not None]
        losses, constraints = zip(*scored, strict=True)
        worst = _worst(losses), _worst(constraints)
        filled = [worst if o.losses is None else (o.losses, o.constraints) for o in self._told]
        values = self._values([losses for losses, _ in filled], number)
        study = empty_study(len(values[0]))
        for observation, value, (_, limits) in zip(self._told, values, filled, strict=True):
            study.add_trial(self._trial(observation.point, values=value, constraints=named_constraints(limits)))
        return study

    def _values(self, losses: list[Losses], number: int) -> list[Losses]:
        """Return what ask `number` minimises."""
        objectives = self._problem.objectives
        if objectives <= MAX_HYPERVOLUME_OBJECTIVES:
            return losses
        generator = np.random.default_rng([self._problem.seed, WEIGHT_STREAM, number])
        scale = TchebycheffScale(generator.dirichlet(np.ones(objectives)).tolist())
        scale.widen(losses)
        return [(scale.distance(vector),) for vector in losses]


def _worst(columns: tuple[Losses, ...]) -> Losses:
    return tuple(max(column) for column in zip(*columns, strict=True))
