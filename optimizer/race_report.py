"""What racing did: how many candidates stopped after each rung, and how far the estimates of the others were off."""

import math
from collections.abc import Sequence

from campaigns.campaign import RungReport
from campaigns.objectives import Measurement
from campaigns.trial import Trial

Estimates = dict[str, float]


class RaceReport:
    """Counts candidates once they are final, so that one that is judged again after a restart counts once."""

    def __init__(self, rungs: Sequence[RungReport]) -> None:
        self._rungs = list(rungs)
        self._judged: dict[str, list[tuple[int, Estimates]]] = {}

    @property
    def rungs(self) -> tuple[RungReport, ...]:
        """The report for each rung after which candidates were judged, in order."""
        return tuple(self._rungs)

    def note(self, trial_id: str, rung: int, items: int, measurements: Sequence[Measurement]) -> None:
        """Note what was expected of a candidate that was scored on `items` items after `rung` (from 0)."""
        while len(self._rungs) <= rung:
            self._rungs.append(RungReport(items=items))
        if rung == 0:  # the first time, or again after a fault
            self._judged[trial_id] = []
        self._judged[trial_id].append((rung, {m.objective: m.estimate for m in measurements if m.estimate is not None}))

    def stopped(self, trial_id: str) -> None:
        """Count a candidate that stopped after the last rung noted."""
        judgements = self._judged.pop(trial_id)
        for rung, _ in judgements:
            self._count(rung, stopped=rung == judgements[-1][0])

    def completed(self, trial: Trial) -> None:
        """Count a candidate that was scored on all items; one that did not race is passed over."""
        for rung, estimates in self._judged.pop(trial.id, []):
            self._compare(rung, trial, estimates)
            self._count(rung, stopped=False)

    def dropped(self, trial_id: str) -> None:
        """Forget a candidate that has no result."""
        self._judged.pop(trial_id, None)

    def _count(self, rung: int, stopped: bool) -> None:
        known = self._rungs[rung]
        self._rungs[rung] = known.replace(judged=known.judged + 1, stopped=known.stopped + stopped)

    def _compare(self, rung: int, trial: Trial, estimates: Estimates) -> None:
        known = self._rungs[rung]
        errors = dict(known.estimate_errors)
        for objective, estimate in estimates.items():
            error = estimate - (trial.value(objective, "search") or 0.0)
            squares = known.completed * errors.get(objective, 0.0) ** 2 + error**2
            errors[objective] = math.sqrt(squares / (known.completed + 1))
        self._rungs[rung] = known.replace(completed=known.completed + 1, estimate_errors=errors)
