"""The Pareto archive: who is on the front, kept up to date trial by trial."""

from dataclasses import dataclass

import numpy as np

from campaigns.constraints import Limits
from campaigns.spec import CampaignSpec
from campaigns.trial import Trial
from fronts.pareto import Losses, search_losses


@dataclass(frozen=True)
class Rejected:
    """A complete trial that breaks constraints, with its number g for each."""

    trial: Trial
    broken_by: tuple[float, ...]

    @property
    def order(self) -> tuple[float, int]:
        """By how much constraints are broken, summed up, then the trial's number."""
        return sum(max(g, 0.0) for g in self.broken_by), self.trial.number


class ParetoArchive:
    """The complete trials that no other dominates, among those that keep all constraints.

    A trial is compared with the front alone. All are looked at again only when a parent moves a relative bound.
    """

    def __init__(self, spec: CampaignSpec) -> None:
        self._objectives = spec.objectives
        self._limits = Limits(spec.constraints, spec.objectives)
        self._trials: dict[str, Trial] = {}
        self._members: list[Trial] = []
        self._losses = np.empty((0, len(spec.objectives)))
        self._least: Rejected | None = None

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def front(self) -> list[Trial]:
        """The trials on the front, by number. Of trials with equal losses only the first asked is on it."""
        return sorted(self._members, key=lambda trial: trial.number)

    @property
    def losses(self) -> list[Losses]:
        """The losses of the trials on the front, in no particular order."""
        return [tuple(row) for row in self._losses.tolist()]

    @property
    def least_violating(self) -> Rejected | None:
        """The trial that breaks constraints least, if any does."""
        return self._least

    def add(self, trial: Trial) -> bool:
        """Take in a complete trial, or an earlier one as it is now; return whether anything else changes."""
        is_known = trial.id in self._trials
        self._trials[trial.id] = trial
        if is_known:
            places = [index for index, member in enumerate(self._members) if member.id == trial.id]
            for index in places:
                self._members[index] = trial
            return bool(places)
        if not self._limits.learn(trial):
            return self._insert(trial)
        self._members, self._losses, self._least = [], self._losses[:0], None
        for each in self._trials.values():
            self._insert(each)
        return True

    def _insert(self, trial: Trial) -> bool:
        broken_by = self._limits.of(trial)
        if any(g > 0 for g in broken_by):
            rejected = Rejected(trial, broken_by)
            is_least: bool = self._least is None or rejected.order < self._least.order
            self._least = rejected if is_least else self._least
            return is_least
        losses = np.array(search_losses(self._objectives, trial))
        equal = np.flatnonzero((self._losses == losses).all(axis=1))
        if len(equal):
            is_first: bool = trial.number < self._members[equal[0]].number
            self._members[equal[0]] = trial if is_first else self._members[equal[0]]
            return is_first
        if (self._losses <= losses).all(axis=1).any():
            return False
        kept = np.flatnonzero((losses > self._losses).any(axis=1))
        self._members = [*(self._members[index] for index in kept), trial]
        self._losses = np.vstack([self._losses[kept], losses])
        return True
