"""Constraints: bounds on objectives that a trial must keep to be on the front.

A constraint becomes one number g of a trial, in the objective's own unit: kept where g <= 0, broken by g where g > 0.
Values are those of the search items, estimates where a race stopped the trial. A bound that is relative to the best
parent depends on which parents are known:

- a strategy is told g against the parents told up to and including the trial itself, in the order of telling, so that
  its history replayed from the database is exactly what it was told;
- front, summary and API use all parents told so far, in the end the best parent of all.
"""

from collections.abc import Iterable, Sequence

from pydantic import Field, model_validator

from campaigns.noun import Noun, wrong
from campaigns.objectives import Objective, Split
from campaigns.states import TrialState
from campaigns.trial import Trial

BOUNDS = ("at_least", "at_most", "max_loss_to_best_parent")
SPLIT: Split = "search"
ROUNDING = 1e-12


class Constraint(Noun):
    """One bound on one objective of the campaign, by its name, `task/metric` or `task/metric@filter`."""

    objective: str
    at_least: float | None = None
    at_most: float | None = None
    max_loss_to_best_parent: float | None = Field(
        None, ge=0, description="By how much it may be worse than the best parent; needs baselines.parents"
    )

    @model_validator(mode="after")
    def _one_bound(self) -> "Constraint":
        given = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong("", ", ".join(given) or None, "give exactly one bound", ", ".join(BOUNDS))
        return self

    @property
    def is_relative(self) -> bool:
        """Whether the bound moves with the best parent."""
        return self.max_loss_to_best_parent is not None

    def broken_by(self, value: float, objective: Objective, best_parent_loss: float | None) -> float:
        """Return g for a value of `objective`; where no parent is known there is nothing yet to fall behind.

        A value that meets the bound but for rounding (0.48 is 0.02 below 0.5) has g = 0.
        """
        if self.at_least is not None:
            g = self.at_least - value
        elif self.at_most is not None:
            g = value - self.at_most
        else:
            assert self.max_loss_to_best_parent is not None
            loss = objective.loss(value)
            g = loss - (loss if best_parent_loss is None else best_parent_loss) - self.max_loss_to_best_parent
        return 0.0 if abs(g) <= ROUNDING * max(abs(value), 1.0) else g

    def in_words(self, broken_by: float) -> str:
        """Return what is broken and by how much: "arc/acc misses at_least 0.5 by 0.03"."""
        [name] = [name for name in BOUNDS if getattr(self, name) is not None]
        return f"{self.objective} misses {name} {getattr(self, name):.4g} by {broken_by:.4g}"


class Limits:
    """The constraints of a campaign with the best parents known so far; one `Limits` follows one order of trials."""

    def __init__(self, constraints: Sequence[Constraint], objectives: Sequence[Objective]) -> None:
        by_name = {objective.name: objective for objective in objectives}
        self._constraints = [(constraint, by_name[constraint.objective]) for constraint in constraints]
        self._best: dict[str, float] = {}

    def learn(self, trial: Trial) -> bool:
        """Take in what `trial` says of the best parent; return whether that moves any bound."""
        if trial.candidate.kind != "parent" or trial.state is not TrialState.COMPLETE:
            return False
        moved = False
        for constraint, objective in self._constraints:
            value = trial.value(objective.name, SPLIT) if constraint.is_relative else None
            if value is not None and objective.loss(value) < self._best.get(objective.name, float("inf")):
                self._best[objective.name] = objective.loss(value)
                moved = True
        return moved

    def of(self, trial: Trial) -> tuple[float, ...]:
        """Return g of every constraint for a trial that was measured on the search items.

        Raises ValueError when an objective was not measured.
        """
        found = []
        for constraint, objective in self._constraints:
            value = trial.expected(objective.name)
            if value is None:
                raise ValueError(f"trial {trial.id} has no search measurement of {objective.name}")
            found.append(constraint.broken_by(value, objective, self._best.get(objective.name)))
        return tuple(found)

    def violations(self, trial: Trial) -> tuple[float, ...] | None:
        """Return by how much a complete trial breaks each constraint, 0 where it keeps it; None for any other trial."""
        return tuple(max(g, 0.0) for g in self.of(trial)) if trial.state is TrialState.COMPLETE else None


def limits(constraints: Sequence[Constraint], objectives: Sequence[Objective], parents: Iterable[Trial] = ()) -> Limits:
    """Return the constraints with the best of `parents`; trials that are no complete parents are passed over."""
    found = Limits(constraints, objectives)
    for trial in parents:
        found.learn(trial)
    return found
