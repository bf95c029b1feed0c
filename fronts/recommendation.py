"""Which trial of the front to take, and why, in words."""

from collections.abc import Mapping, Sequence
from typing import Literal

from campaigns.campaign import Recommendation
from campaigns.objectives import Objective, Split, macro_average
from campaigns.trial import Trial
from fronts.paired import LEVEL, PairedDifference
from fronts.preference import knee, preferred

By = Literal["macro", "knee"]


def split_to_judge_by(objectives: Sequence[Objective], front: Sequence[Trial]) -> Split:
    """Return "holdout" once every trial of the front has been scored on all objectives there, else "search"."""
    rescored = bool(front) and all(_is_scored(objectives, trial, "holdout") for trial in front)
    return "holdout" if rescored else "search"


def choose(
    objectives: tuple[Objective, ...],
    front: Sequence[Trial],
    split: Split,
    by: By = "macro",
    prefer: Mapping[str, float] | None = None,
) -> Trial | None:
    """Return a trial of `front` by its values on `split`, the earliest of equals; None if none was scored there.

    "macro" takes the highest macro-average and "knee" the knee; weights in `prefer` (by objective name) go before both.
    """
    scored = sorted((t for t in front if _is_scored(objectives, t, split)), key=lambda trial: trial.number)
    if not scored:
        return None
    if prefer is not None:
        return preferred(scored, objectives, prefer, split)
    if by == "knee":
        return knee(scored, objectives, split)
    return max(scored, key=lambda trial: (_score(objectives, trial, split), -trial.number))


def recommend(
    objectives: tuple[Objective, ...], trials: Sequence[Trial], front: Sequence[Trial]
) -> Recommendation | None:
    """Return the trial of `front` with the highest macro-average, the first asked where two tie; None for no front.

    Judged on the holdout items once the whole front has been scored there. The reason says on which, and names the
    margins over the best parent and the best soup among `trials`.
    """
    split = split_to_judge_by(objectives, front)
    chosen = choose(objectives, front, split)
    return None if chosen is None else explain(objectives, trials, front, chosen, split)


def explain(  # noqa: PLR0913  one argument per thing that the reason tells
    objectives: tuple[Objective, ...],
    trials: Sequence[Trial],
    front: Sequence[Trial],
    chosen: Trial,
    split: Split,
    by: By = "macro",
    prefer: Mapping[str, float] | None = None,
    differences: Mapping[str, PairedDifference] | None = None,
    warnings: Sequence[str] = (),
) -> Recommendation:
    """Return `chosen`, which `choose` gave, with the reason in words.

    `differences` are those of its macro-average to baselines, by trial id: a margin that has one is told with its
    interval and whether it is significant by itself. `warnings` are told last.
    """
    parts = [_ground(objectives, front, chosen, split, by, prefer)]
    score = _score(objectives, chosen, split)
    margins = [
        f"{score - other:+.4g} over {label} ({other:.4g}{_evidence((differences or {}).get(trial.id))})"
        for label, other, trial in _rivals(objectives, trials, split)
        if trial.id != chosen.id
    ]
    parts += [", ".join(margins)] if margins else []
    parts += [_selection(front, split)] if margins and differences and len(front) > 1 else []
    if chosen.candidate.label:
        parts.append(f"it is the baseline {chosen.candidate.label!r} itself")
    parts += [f"beware: {warning}" for warning in warnings]
    return Recommendation(trial_id=chosen.id, reason="; ".join(parts))


def _ground(  # noqa: PLR0913  what `explain` hands on
    objectives: tuple[Objective, ...],
    front: Sequence[Trial],
    chosen: Trial,
    split: Split,
    by: By,
    prefer: Mapping[str, float] | None,
) -> str:
    members = sum(_is_scored(objectives, trial, split) for trial in front)
    where = f"on the {split} items of the {members} on the front"
    macro = f"{_score(objectives, chosen, split):.4g}"
    if prefer is not None:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in prefer.items())
        return f"least weighted loss {where}, for {weights}; macro-average {macro}"
    if by == "knee":
        return f"knee {where}, all objectives alike on the front's scale; macro-average {macro}"
    return f"highest macro-average {where}: {macro}"


def _selection(front: Sequence[Trial], split: Split) -> str:
    """Return what intervals and p-values leave out: that the trial was chosen, and by what."""
    if split == "search":
        return "the search chose by these very items, which flatters intervals and p-values"
    return f"intervals and p-values do not count that it was chosen among {len(front)} by these items"


def _evidence(difference: PairedDifference | None) -> str:
    if difference is None:
        return ""
    low, high = difference.interval
    verdict = "significant" if difference.p_value <= LEVEL else "not significant"
    return f"; 95% interval {low:+.4g} to {high:+.4g}, p = {difference.p_value:.2g}: {verdict}"


def _rivals(objectives: tuple[Objective, ...], trials: Sequence[Trial], split: Split) -> list[tuple[str, float, Trial]]:
    """Return (name, macro-average, trial) of the best parent and of the best soup, as far as they were measured."""
    rivals = []
    for kind, noun in (("parent", "the best parent"), ("soup", "the")):
        scored = [
            (_score(objectives, t, split), t)
            for t in trials
            if t.candidate.kind == kind and _is_scored(objectives, t, split)
        ]
        if scored:
            score, trial = max(scored, key=lambda pair: (pair[0], -pair[1].number))
            rivals.append((f"{noun} {trial.candidate.label}", score, trial))
    return rivals


def _is_scored(objectives: Sequence[Objective], trial: Trial, split: Split) -> bool:
    return all(trial.value(objective.name, split) is not None for objective in objectives)


def _score(objectives: tuple[Objective, ...], trial: Trial, split: Split) -> float:
    score = macro_average(objectives, trial.measurements, split)
    assert score is not None, f"trial {trial.id} has all its values on the {split} items"
    return score
