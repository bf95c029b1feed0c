"""What can be believed of a front: everything that the stored outcomes of its items say, put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from campaigns.campaign import Recommendation
from campaigns.noun import Noun
from campaigns.objectives import Objective, Split, macro_average
from campaigns.trial import Trial
from fronts.gaps import MACRO, Gap, Optimism, gaps, optimism
from fronts.items import Floats, ItemTable, item_table
from fronts.membership import non_dominated_shares
from fronts.output_warnings import output_warnings
from fronts.paired import LEVEL, RESAMPLES, PairedDifference, compare, compare_macro, holm
from fronts.recommendation import By, choose, explain
from fronts.resampling import macro_averages, resampled_means, resampled_values

BLOCK = 32  # members compared at a time: what is held is 10,000 resamples of these and of the baselines
MOST_MEMBERS = 60  # compared with every baseline: 2 s
RIVALS = ("parent", "soup", "task_arithmetic")
Choice = tuple[Trial, By, Mapping[str, float] | None]


class Comparison(Noun):
    """One trial against one baseline: `differences` by objective, and of the macro-average as "macro_average".

    An objective whose metric has no outcomes per item (BLEU, say) has no difference, and neither has a macro-average
    that counts one. `adjusted_p_values` are Holm's, over the parents that the trial is compared with; soups and task
    arithmetic are not of that family and keep theirs.
    """

    trial_id: str
    label: str | None
    kind: str
    differences: dict[str, PairedDifference]
    adjusted_p_values: dict[str, float]


class MemberStatistics(Noun):
    """What is known of one trial of the front.

    `non_dominated` is the probability of being non-dominated, None where its outcomes could not be put beside the
    others'. `better_than_every_parent` names the objectives, or "macro_average", in which every gain over a parent is
    significant at 5% after Holm's correction; none where a scored parent could not be compared. `gaps` are by objective
    and for the "macro_average".
    """

    trial_id: str
    number: int
    label: str | None
    non_dominated: float | None
    comparisons: tuple[Comparison, ...]
    better_than_every_parent: tuple[str, ...]
    gaps: dict[str, Gap]
    warnings: tuple[str, ...]


class NearMember(Noun):
    """A trial behind the front that keeps all constraints, with its probability of being non-dominated."""

    trial_id: str
    number: int
    non_dominated: float


class FrontStatistics(Noun):
    """The front by the outcomes on the items of `split`; `front` is how many trials are on it.

    `members` are by number; of more than 60 the recommended ones and those of the highest macro-averages. `optimism` is
    the mean over the members that the search found, by objective and for the "macro_average". `left_out` has the reason
    for each trial, by id, that could not be compared. `recommendations` are by "macro", by "knee" and, where weights
    were given, by "prefer".
    """

    split: Split
    front: int
    members: tuple[MemberStatistics, ...]
    near_front: tuple[NearMember, ...]
    optimism: dict[str, Optimism]
    recommendations: dict[str, Recommendation]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Cast:
    """Trials with their outcomes: the front, the baselines to beat, and those close behind the front.

    A baseline may be on the front or close behind it as well.
    """

    front: Sequence[Trial]
    baselines: Sequence[Trial]
    near: Sequence[Trial] = ()


def front_statistics(
    objectives: tuple[Objective, ...], cast: Cast, split: Split, prefer: Mapping[str, float] | None = None
) -> FrontStatistics:
    """Return all statistics on `split`. They are deterministic: equal outcomes give equal numbers.

    Comparisons take 10,000 resamples and probabilities 1,000.
    """
    everybody = {trial.id: trial for trial in (*cast.front, *cast.near, *cast.baselines)}
    table = item_table(objectives, list(everybody.values()), split)
    contenders = table.of([*cast.front, *cast.near])
    shares = dict(zip((t.id for t in contenders.trials), non_dominated_shares(contenders).tolist(), strict=True))
    chosen = _choices(objectives, cast, split, prefer)
    compared = _most_wanted(objectives, cast, split, [trial for trial, _, _ in chosen.values()])
    comparisons = _comparisons(table, compared, cast.baselines)
    parents = [trial for trial in cast.baselines if trial.candidate.kind == "parent"]
    members = tuple(
        MemberStatistics(
            trial_id=trial.id,
            number=trial.number,
            label=trial.candidate.label,
            non_dominated=shares.get(trial.id),
            comparisons=comparisons[trial.id],
            better_than_every_parent=_beaten(comparisons[trial.id], [p.id for p in parents if p.id != trial.id]),
            gaps=gaps(objectives, trial),
            warnings=output_warnings(objectives, trial, parents, split),
        )
        for trial in compared
    )
    selected = [gaps(objectives, trial) for trial in cast.front if not trial.candidate.is_baseline]
    unselected = [gaps(objectives, trial) for trial in cast.baselines if _is_unselected(trial)]
    return FrontStatistics(
        split=split,
        front=len(cast.front),
        members=members,
        near_front=tuple(
            NearMember(trial_id=trial.id, number=trial.number, non_dominated=shares[trial.id])
            for trial in cast.near
            if trial.id in shares
        ),
        optimism=optimism(selected, unselected),
        recommendations=_recommendations(objectives, cast, members, split, chosen),
        left_out=table.left_out,
    )


def _most_wanted(objectives: tuple[Objective, ...], cast: Cast, split: Split, chosen: Sequence[Trial]) -> list[Trial]:
    """Return the members to compare, in the order of the front: `chosen`, and the best by macro-average."""
    wanted = {trial.id for trial in chosen}
    scores = {trial.id: macro_average(objectives, trial.measurements, split) for trial in cast.front}
    known = {trial_id: -math.inf if score is None else score for trial_id, score in scores.items()}
    best = sorted(cast.front, key=lambda trial: (trial.id not in wanted, -known[trial.id]))[:MOST_MEMBERS]
    taken = {trial.id for trial in best}
    return [trial for trial in cast.front if trial.id in taken]


def _comparisons(
    table: ItemTable, members: Sequence[Trial], baselines: Sequence[Trial]
) -> dict[str, tuple[Comparison, ...]]:
    """Compare every member with every parent and soup; resamples are made for a block of members at a time."""
    rivals = [trial for trial in baselines if trial.candidate.kind in RIVALS]
    found: dict[str, tuple[Comparison, ...]] = {}
    for start in range(0, len(members), BLOCK):
        block = members[start : start + BLOCK]
        beside = list({t.id: t for t in (*rivals, *block)}.values())
        found |= _compare_block(table.of(beside), block, rivals)
    return found


def _compare_block(
    table: ItemTable, block: Sequence[Trial], rivals: Sequence[Trial]
) -> dict[str, tuple[Comparison, ...]]:
    means = resampled_means(table, RESAMPLES)
    resampled = macro_averages(table, resampled_values(table, means))
    measured = macro_averages(table, np.stack([c.values for c in table.columns], axis=1)) if table.columns else None
    found = {}
    for trial in block:
        ours, compared = table.row(trial.id), []
        for rival in rivals:
            theirs = table.row(rival.id)
            if measured is None or ours is None or theirs is None or ours == theirs:
                continue
            differences = {
                column.objective.name: compare(column, draws, ours, theirs)
                for column, draws in zip(table.columns, means, strict=True)
                if draws is not None
            }
            macro = _macro_difference(table, measured, resampled, ours, theirs, differences)
            compared.append((rival, differences if macro is None else differences | {MACRO: macro}))
        found[trial.id] = _with_adjusted_p_values(compared)
    return found


def _with_adjusted_p_values(compared: list[tuple[Trial, dict[str, PairedDifference]]]) -> tuple[Comparison, ...]:
    parents = [differences for rival, differences in compared if rival.candidate.kind == "parent"]
    adjusted: dict[str, list[float]] = {
        name: holm([differences[name].p_value for differences in parents]) for name in (parents[0] if parents else ())
    }
    rank = {id(differences): index for index, differences in enumerate(parents)}
    return tuple(
        Comparison(
            trial_id=rival.id,
            label=rival.candidate.label,
            kind=rival.candidate.kind,
            differences=differences,
            adjusted_p_values={
                name: adjusted[name][rank[id(differences)]] if id(differences) in rank else difference.p_value
                for name, difference in differences.items()
            },
        )
        for rival, differences in compared
    )


def _macro_difference(  # noqa: PLR0913  what `_compare_block` hands on
    table: ItemTable,
    measured: Floats,
    resampled: Floats,
    ours: int,
    theirs: int,
    differences: Mapping[str, PairedDifference],
) -> PairedDifference | None:
    """Return the difference of the macro-averages, None where one objective in it has noise that nobody knows.

    A macro-average of one metric is that metric, and so is its test.
    """
    weighted = [c for c in table.columns if c.objective.weight]
    noisy = [c for c in weighted if not c.objective.is_of_weights]
    if not noisy or any(c.outcomes is None for c in noisy):
        return None
    if len(weighted) == 1 and weighted[0].tested == "value":
        return differences[weighted[0].objective.name].replace(tested="macro_average", wins=None, losses=None)
    return compare_macro(table, measured, resampled, ours, theirs)


def _is_unselected(trial: Trial) -> bool:
    """Whether nothing on the search items chose the baseline: they do choose who is in a greedy soup."""
    return trial.candidate.kind in RIVALS and not (trial.candidate.label or "").startswith("greedy soup")


def _beaten(comparisons: Sequence[Comparison], parent_ids: Sequence[str]) -> tuple[str, ...]:
    """Return in what every parent is beaten; in nothing where one of them could not be compared."""
    parents = [comparison for comparison in comparisons if comparison.kind == "parent"]
    names = parents[0].differences if len(parents) == len(parent_ids) > 0 else {}
    return tuple(
        name
        for name in names
        if all(c.differences[name].gain > 0 and c.adjusted_p_values[name] <= LEVEL for c in parents)
    )


def _choices(
    objectives: tuple[Objective, ...], cast: Cast, split: Split, prefer: Mapping[str, float] | None
) -> dict[str, Choice]:
    wanted: list[tuple[str, By, Mapping[str, float] | None]] = [("macro", "macro", None), ("knee", "knee", None)]
    if prefer is not None:
        wanted.append(("prefer", "macro", prefer))
    found = {name: (choose(objectives, cast.front, split, by, weights), by, weights) for name, by, weights in wanted}
    return {name: (trial, by, weights) for name, (trial, by, weights) in found.items() if trial is not None}


def _recommendations(
    objectives: tuple[Objective, ...],
    cast: Cast,
    members: Sequence[MemberStatistics],
    split: Split,
    choices: Mapping[str, Choice],
) -> dict[str, Recommendation]:
    by_id = {member.trial_id: member for member in members}
    found = {}
    for name, (chosen, by, weights) in choices.items():
        member = by_id[chosen.id]
        differences = {c.trial_id: c.differences[MACRO] for c in member.comparisons if MACRO in c.differences}
        found[name] = explain(
            objectives, cast.baselines, cast.front, chosen, split, by, weights, differences, member.warnings
        )
    return found
