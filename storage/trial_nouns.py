"""The way from a trial's row back to the noun."""

from campaigns.trial import Trial
from storage.measurements import measurement_noun
from storage.rows import TrialRow

COPIED = (
    *("id", "campaign_id", "number", "candidate", "state", "attempts", "actor", "reason"),
    *("created_at", "started_at", "finished_at", "told", "hypervolume", "timings"),
)


def trial_noun(row: TrialRow, with_outcomes: bool = False) -> Trial:
    """Return the trial of `row`, whose measurements have been loaded."""
    measurements = tuple(measurement_noun(measurement, with_outcomes) for measurement in row.measurements)
    return Trial.model_validate({**{name: getattr(row, name) for name in COPIED}, "measurements": measurements})
