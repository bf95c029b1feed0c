"""Tree-structured Parzen estimator by Optuna: multi-objective (Ozaki et al. 2022), constrained, pending-aware."""

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from campaigns.strategies import TpeSearch
from optimizer.strategies.optuna_study import OptunaSearch, empty_study, named_constraints
from optimizer.strategies.strategy import Observation, SearchProblem


class OptunaTpe(OptunaSearch):
    """TPE by Optuna; running trials count as bad ones (constant liar), points without losses as pruned ones."""

    def __init__(self, spec: TpeSearch, problem: SearchProblem) -> None:
        super().__init__(spec.initial_points, problem)
        self._spec = spec
        self._kept: optuna.Study | None = None
        self._added = 0

    def _sampler(self, seed: int) -> TPESampler:
        return TPESampler(
            n_startup_trials=1,
            n_ei_candidates=self._spec.candidates,
            multivariate=self._spec.multivariate,
            constant_liar=True,
            seed=seed,
        )

    def _study(self, number: int) -> optuna.Study:
        """Add what is new to the study of the ask before; begin anew once it is mostly of trials that only ran."""
        if self._kept is None or len(self._kept.get_trials(deepcopy=False)) > 2 * len(self._told) + 100:
            self._kept, self._added = empty_study(self._problem.objectives), 0
        self._kept.add_trials(self._finished(observation) for observation in self._told[self._added :])
        self._added = len(self._told)
        return self._kept

    def _finished(self, observation: Observation) -> FrozenTrial:
        if observation.losses is None:
            return self._trial(observation.point, state=TrialState.PRUNED)
        constraints = named_constraints(observation.constraints)
        return self._trial(observation.point, values=observation.losses, constraints=constraints)
