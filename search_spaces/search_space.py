"""What every search space does: the contract that the loop relies on."""

from typing import Protocol

from campaigns.trial import Candidate, Point

UNIFORM_SOUP = "uniform soup"


class SearchSpace(Protocol):
    """A map from the unit cube [0, 1]^n to candidates."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name per dimension: `weight.math`, `weight.group(a,b)`, `scale`."""

    @property
    def dimensions(self) -> int:
        """The number n of dimensions, at least 1."""

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; its parameters are the final weights, by checkpoint name.

        Raises ValueError when `point` has not n coordinates or one of them lies outside [0, 1]: nothing is clipped.
        """

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` of the pool as a baseline: its weight is exactly 1, all others exactly 0.

        Bounds, groups and frozen weights are set aside for it; `point` is the nearest that the space can reach.
        """

    def uniform_soup(self) -> Candidate:
        """Return the plain average of all K checkpoints as a baseline: every weight is exactly 1/K."""
