"""The greedy soup (arXiv 2203.05482, recipe 1): checkpoints join, best first, as long as their average is no worse.

It takes at most K - 1 evaluations beside the K parents', one after the other, and keeps no state: how far it has come
follows from the scores of parents and soups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from campaigns.trial import Candidate

Members = frozenset[int]
PREFIX = "greedy soup: "


@dataclass(frozen=True)
class GreedySoup:
    """How far it has come: the checkpoints that are in, by index, and the average to be scored next, None at the end.

    Nobody is in when no parent could be scored.
    """

    members: Members
    next_members: Members | None


def greedy_soup(parents: Sequence[float | None], soups: Mapping[Members, float | None]) -> GreedySoup:
    """Follow the recipe as far as scores (higher is better) are known.

    `parents` are the K scores of the checkpoints, None where one could not be scored: it is left out. `soups` are the
    scores of averages of several checkpoints, None where one could not be scored: it counts as worse. Of equal parents
    the first comes first; an average that is just as good is taken.
    """
    scores = {index: score for index, score in enumerate(parents) if score is not None}
    members: Members = frozenset()
    best = float("-inf")
    for index in sorted(scores, key=lambda index: (-scores[index], index)):
        wider = members | {index}
        score = scores[index]
        if members:
            if wider not in soups:
                return GreedySoup(members, wider)
            found = soups[wider]
            if found is None or found < best:
                continue
            score = found
        members, best = wider, score
    return GreedySoup(members, None)


def label_of(members: Members, names: Sequence[str]) -> str:
    """Return what the average of `members` is called: "greedy soup: a+b"."""
    return PREFIX + "+".join(names[index] for index in sorted(members))


def is_greedy_soup(candidate: Candidate) -> bool:
    """Whether the candidate is an average that the greedy soup tried."""
    return candidate.label is not None and candidate.kind == "soup" and candidate.label.startswith(PREFIX)
