"""What every search space does: the contract that the loop relies on."""

from collections.abc import Sequence
from typing import Protocol

from campaigns.trial import Candidate, Point

UNIFORM_SOUP = "uniform soup"


class SearchSpace(Protocol):
    """A map from the unit cube [0, 1]^n to candidates."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name per dimension: `weight.math`, `weight.group(a,b)`, `density.math@layers[0,8)`, `scale`."""

    @property
    def dimensions(self) -> int:
        """The number n of dimensions, at least 1."""

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; its parameters are the final numbers: weights by checkpoint name, say.

        Its point is `point` itself, by which strategies know it again, even where other points make the same recipe.
        Raises ValueError when `point` has not n coordinates or one of them lies outside [0, 1]: nothing is clipped.
        """

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` of the pool as a baseline: its weight is exactly 1, all others exactly 0.

        Bounds, groups and frozen weights are set aside for it; `point` is the nearest that the space can reach.
        """

    def soup(self, members: Sequence[int], label: str = UNIFORM_SOUP) -> Candidate:
        """Return the plain average of n checkpoints, by index, as a baseline: each weight is exactly 1/n, or 0."""

    def uniform_soup(self) -> Candidate:
        """Return the plain average of all K checkpoints as a baseline: every weight is exactly 1/K."""
