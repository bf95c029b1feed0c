"""What the search flattered: the same trial on the items that chose it and on items that the search never saw."""

import math
from collections.abc import Sequence

from campaigns.noun import Noun
from campaigns.objectives import Objective, Split, macro_average, macro_standard_error
from campaigns.trial import Trial

MACRO = "macro_average"


class Score(Noun):
    """A value with its standard error, None where the metric has none."""

    value: float
    standard_error: float | None


class Gap(Noun):
    """One objective of one trial on both splits.

    `optimism` is how much better the search items make it look than the holdout items do, above 0 for flattery,
    whatever the direction. The splits share no item, so the variances add up. What is not measured is None.
    """

    search: Score | None
    holdout: Score | None
    optimism: float | None
    standard_error: float | None


class Optimism(Noun):
    """The mean optimism of the front's members, and that of the parents and soups that no search selected.

    That of the baselines says how much harder the holdout items are; what the front has beyond it, the search did.
    None where nothing was scored on both splits.
    """

    front: float | None
    baselines: float | None


def gaps(objectives: tuple[Objective, ...], trial: Trial) -> dict[str, Gap]:
    """Return the trial's gap by objective, and that of the macro-average as "macro_average"."""
    found = {o.name: _gap(_score(trial, o, "search"), _score(trial, o, "holdout"), o.loss(1.0) < 0) for o in objectives}
    return {**found, MACRO: _gap(_macro(objectives, trial, "search"), _macro(objectives, trial, "holdout"), True)}


def optimism(front: Sequence[dict[str, Gap]], baselines: Sequence[dict[str, Gap]]) -> dict[str, Optimism]:
    """Return the mean optimism by objective and for the macro-average, from the gaps of each trial."""
    names = list(dict.fromkeys(name for found in (*front, *baselines) for name in found))
    return {name: Optimism(front=_mean(front, name), baselines=_mean(baselines, name)) for name in names}


def _mean(trials: Sequence[dict[str, Gap]], name: str) -> float | None:
    known = [gap.optimism for found in trials if (gap := found[name]).optimism is not None]
    return math.fsum(known) / len(known) if known else None


def _gap(search: Score | None, holdout: Score | None, more_is_better: bool) -> Gap:
    if search is None or holdout is None:
        return Gap(search=search, holdout=holdout, optimism=None, standard_error=None)
    difference = search.value - holdout.value
    errors = (search.standard_error, holdout.standard_error)
    error = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return Gap(
        search=search,
        holdout=holdout,
        optimism=difference if more_is_better else -difference,
        standard_error=error,
    )


def _score(trial: Trial, objective: Objective, split: Split) -> Score | None:
    found = next((m for m in trial.measurements if m.objective == objective.name and m.split == split), None)
    return None if found is None else Score(value=found.value, standard_error=found.standard_error)


def _macro(objectives: tuple[Objective, ...], trial: Trial, split: Split) -> Score | None:
    value = macro_average(objectives, trial.measurements, split)
    if value is None:
        return None
    return Score(value=value, standard_error=macro_standard_error(objectives, trial.measurements, split))
