"""Measurements: the check that they are what the campaign asked for, and their way into rows and back."""

from collections.abc import Sequence

from campaigns.errors import Conflict
from campaigns.objectives import Measurement, Split
from campaigns.spec import CampaignSpec
from campaigns.trial import Evaluated
from storage.rows import CampaignRow, MeasurementRow

NUMBERS = ("value", "estimate", "standard_error", "items", "truncation_rate", "output_tokens", "protocol")


def objective_names(campaign: CampaignRow) -> list[str]:
    """Return the names of the campaign's objectives."""
    return [objective.name for objective in CampaignSpec.model_validate(campaign.spec).objectives]


def check_measurements(asked: Sequence[str], evaluated: Evaluated, split: Split, is_pruned: bool = False) -> None:
    """Raise `Conflict` unless every measurement is on `split` and of another one of the objectives `asked`.

    On the search split all objectives must be there; on the holdout split some may have no items. Estimates belong to
    pruned trials: one of theirs has one at least, of a task that was not scored on all its items.
    """
    found = [measurement.objective for measurement in evaluated.measurements]
    complete = len(found) == len(asked) if split == "search" else True
    distinct = len(set(found)) == len(found) and set(found) <= set(asked)
    if not (complete and distinct) or any(m.split != split for m in evaluated.measurements):
        got = ", ".join(f"{m.objective} on {m.split}" for m in evaluated.measurements)
        raise Conflict(f"measurements of {', '.join(asked)} on {split} were asked for, got {got}")
    estimated = [m.objective for m in evaluated.measurements if m.estimate is not None]
    if bool(estimated) != is_pruned:
        kind = "a pruned trial has estimates" if is_pruned else "only a pruned trial has estimates"
        raise Conflict(f"{kind}, got {', '.join(estimated) or 'none'}")


def measurement_rows(trial_id: str, evaluated: Evaluated) -> list[MeasurementRow]:
    """Return one row per measurement, in order."""
    return [
        MeasurementRow(
            trial_id=trial_id,
            split=measurement.split,
            objective=measurement.objective,
            position=position,
            item_ids=list(measurement.item_ids),
            outcomes=list(measurement.outcomes),
            **{name: getattr(measurement, name) for name in NUMBERS},
        )
        for position, measurement in enumerate(evaluated.measurements)
    ]


def measurement_noun(row: MeasurementRow, with_outcomes: bool) -> Measurement:
    """Return the measurement of `row`; its outcomes are left out unless they were loaded and asked for."""
    return Measurement.model_validate(
        {
            "objective": row.objective,
            "split": row.split,
            "item_ids": row.item_ids if with_outcomes else (),
            "outcomes": row.outcomes if with_outcomes else (),
            **{name: getattr(row, name) for name in NUMBERS},
        }
    )
