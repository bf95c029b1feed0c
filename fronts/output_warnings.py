"""Warnings in words where a trial's outputs end or run on differently from its parents': its scores may be about that.

A published gain of ten points on GSM8K became a loss of one once longer outputs were allowed.
"""

import math
from collections.abc import Sequence

from campaigns.objectives import Measurement, Objective, Split
from campaigns.trial import Trial

LEAST_TRUNCATION = 0.02
STANDARD_ERRORS = 2.0
LONGER = 1.5
SHORTER = 0.5


def output_warnings(
    objectives: Sequence[Objective], trial: Trial, parents: Sequence[Trial], split: Split
) -> tuple[str, ...]:
    """Return one sentence for each task and reason, of the measurements on `split`; none without parents measured.

    Truncation: the share of outputs cut at the length limit is above the parents' highest by more than 2 points and by
    more than 2 standard errors of the difference of the two shares, sqrt((p (1 - p) + q (1 - q)) / items). Length: the
    mean output is longer than 1.5 times the longest parent's, or shorter than half of the shortest parent's.
    """
    warnings: list[str] = []
    for objective in objectives:
        ours = _measurement(objective, trial, split)
        theirs = [m for parent in parents if (m := _measurement(objective, parent, split)) is not None]
        if ours is not None:
            warnings += [f"{objective.task}: {text}" for text in (*_truncation(ours, theirs), *_length(ours, theirs))]
    return tuple(dict.fromkeys(warnings))  # the objectives of one task share its outputs


def _truncation(ours: Measurement, theirs: Sequence[Measurement]) -> list[str]:
    shares = [m.truncation_rate for m in theirs if m.truncation_rate is not None]
    if ours.truncation_rate is None or not shares:
        return []
    share, worst = ours.truncation_rate, max(shares)
    error = math.sqrt((share * (1 - share) + worst * (1 - worst)) / ours.items)
    if share - worst <= max(LEAST_TRUNCATION, STANDARD_ERRORS * error):
        return []
    return [f"{share:.0%} of the outputs end at the length limit, {worst:.0%} at most among the parents"]


def _length(ours: Measurement, theirs: Sequence[Measurement]) -> list[str]:
    lengths = [m.output_tokens for m in theirs if m.output_tokens is not None]
    if ours.output_tokens is None or not lengths:
        return []
    length, shortest, longest = ours.output_tokens, min(lengths), max(lengths)
    if length > LONGER * longest:
        return [f"the mean output has {length:.0f} tokens, {longest:.0f} at most among the parents"]
    if length < SHORTER * shortest:
        return [f"the mean output has {length:.0f} tokens, {shortest:.0f} at least among the parents"]
    return []


def _measurement(objective: Objective, trial: Trial, split: Split) -> Measurement | None:
    return next((m for m in trial.measurements if m.objective == objective.name and m.split == split), None)
