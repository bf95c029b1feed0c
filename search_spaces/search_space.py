"""What every search space does: the contract that the loop relies on."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from campaigns.recipe import Recipe
from campaigns.trial import Candidate, Point

UNIFORM_SOUP = "uniform soup"
TASK_ARITHMETIC_SCALE = 0.3
TASK_ARITHMETIC = f"task arithmetic {TASK_ARITHMETIC_SCALE}"


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

    def task_arithmetic(self) -> Candidate:
        """Return base + 0.3 sum_i tau_i (arXiv 2212.04089, lambda = 0.3) as a baseline; the pool must have a base."""

    def point(self, values: Mapping[str, float | str], field: str) -> Point:
        """Return the point with these raw values by name: numbers, the name of a view, and the name of an option.

        Raises `InvalidSpec`, fields under `field`, naming every coordinate that is missing, unknown or out of bounds.
        """

    def point_of(self, recipe: Recipe) -> Point | None:
        """Return a point that makes `recipe`, its numbers equal but for rounding (1e-9); None where no point does."""
