"""The trial: one candidate, from the moment it is chosen to its measurements."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from campaigns.noun import Noun
from campaigns.objectives import Measurement, Split
from campaigns.recipe import Recipe
from campaigns.states import TrialState

Point = tuple[float, ...]
Kind = Literal["parent", "soup", "task_arithmetic", "point", "imported", "candidate"]
BASELINES: tuple[Kind, ...] = ("parent", "soup", "task_arithmetic", "point")


class Candidate(Noun):
    """A point of the search space with its named parameters and the recipe that they make.

    `point` lies in the unit cube [0, 1]^n; a baseline that the space cannot reach has the nearest point it can.
    `label` names a baseline: the parent's name, "uniform soup", "greedy soup: a+b" by the parents in it, "task
    arithmetic 0.3", or "point 1" for the first that the user gave. `imported_from` is the trial of another campaign
    whose result this one's is.
    """

    kind: Kind = "candidate"
    label: str | None = None
    point: tuple[float, ...]
    parameters: dict[str, float]
    recipe: Recipe
    imported_from: str | None = Field(None, exclude_if=lambda trial_id: trial_id is None)

    @property
    def is_baseline(self) -> bool:
        """Whether this is a known merge that a front must beat."""
        return self.kind in BASELINES


class Timing(Noun):
    """Where an evaluation's seconds went, on the actor. `model` is time inside the model's own forward and generate."""

    merge_seconds: float = Field(ge=0)
    model_seconds: float = Field(ge=0)
    total_seconds: float = Field(ge=0)

    def plus(self, other: "Timing") -> "Timing":
        """Return the sum of both."""
        return Timing(
            merge_seconds=self.merge_seconds + other.merge_seconds,
            model_seconds=self.model_seconds + other.model_seconds,
            total_seconds=self.total_seconds + other.total_seconds,
        )


class Evaluated(Noun):
    """What an actor reports of a candidate that could be scored on one split.

    On the holdout split an objective may have no items left, and then no measurement.
    """

    measurements: tuple[Measurement, ...]
    timing: Timing


class Trial(Noun):
    """One candidate of a campaign. `number` counts from 0 in the order of asking; `attempts` counts starts."""

    id: str
    campaign_id: str
    number: int
    candidate: Candidate
    state: TrialState
    attempts: int = 0
    actor: str | None = None
    reason: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    told: int | None = Field(None, description="Position in the order in which results arrived, from 0")
    hypervolume: float | None = Field(None, description="Of the search front, once this trial had been told")
    measurements: tuple[Measurement, ...] = ()
    timings: dict[Split, Timing] = {}

    def value(self, objective: str, split: Split) -> float | None:
        """Return the measured value, or None when there is none."""
        found = self._measured(objective, split)
        return None if found is None else found.value

    def expected(self, objective: str) -> float | None:
        """Return the value on all search items: the estimate where a race stopped the trial, else what was measured.

        None when there is neither.
        """
        found = self._measured(objective, "search")
        if found is None:
            return None
        return found.value if found.estimate is None else found.estimate

    def _measured(self, objective: str, split: Split) -> Measurement | None:
        return next((m for m in self.measurements if m.objective == objective and m.split == split), None)
