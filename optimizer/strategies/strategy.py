"""What every strategy does: the contract that the loop relies on, and the check of what it is told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from campaigns.trial import Point


@dataclass(frozen=True)
class SearchProblem:
    """What a strategy is built for: n dimensions, m objectives with their weights, c constraints, and a seed.

    `objective_weights` are at least 0 with a positive sum; `seed` lies in [0, 2^32).
    Raises ValueError for no dimension, no objective, or weights that do not sum above 0.
    """

    dimensions: int
    objective_weights: tuple[float, ...]
    seed: int
    constraints: int = 0

    def __post_init__(self) -> None:
        if self.dimensions < 1 or sum(self.objective_weights, 0.0) <= 0.0:
            message = "a search needs at least one dimension and one objective of weight above 0"
            raise ValueError(f"{message}, got {self.dimensions} and {self.objective_weights}")

    @property
    def objectives(self) -> int:
        """The number m of objectives."""
        return len(self.objective_weights)


@dataclass(frozen=True)
class Observation:
    """A point of [0, 1]^n with its losses, minimised, one per objective; None where the point cannot be scored.

    `constraints` has one number g per constraint of the problem, kept where g <= 0 and broken by g where g > 0; it is
    empty where there are no losses.
    """

    point: Point
    losses: tuple[float, ...] | None
    constraints: tuple[float, ...] = ()

    @property
    def violation(self) -> float:
        """By how much constraints are broken, summed up: 0 where all are kept."""
        return sum(max(g, 0.0) for g in self.constraints)


class Strategy(Protocol):
    """Chooses the points of a search. Owns its randomness: no global generator is read or moved.

    A strategy that was killed and restored proposes what it would have proposed had it never been killed.
    """

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return the next point of [0, 1]^n, at any time; `pending` are the points that have no result yet."""

    def tell(self, observation: Observation) -> None:
        """Take a result in, in any order, also of a point that was never asked for (a baseline).

        A point that breaks a constraint is worse than every point that keeps all, whatever its losses.
        Raises ValueError for a wrong number of coordinates, losses or constraints, a coordinate outside [0, 1], or a
        loss or constraint that is not finite; nothing is taken in then.
        """

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs beside the history, as small JSON."""

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Go on from where `state` was saved; `history` are all observations told until then, in that order.

        To be called on a strategy just built with the same arguments.
        """


def check_observation(observation: Observation, problem: SearchProblem) -> None:
    """Raise ValueError, naming the value, unless the observation is of this search and finite."""
    point, losses, constraints = observation.point, observation.losses, observation.constraints
    if len(point) != problem.dimensions:
        raise ValueError(f"a point of this search has {problem.dimensions} coordinates, got {len(point)}: {point}")
    if outside := [unit for unit in point if not 0.0 <= unit <= 1.0]:
        raise ValueError(f"coordinates must lie in [0, 1], got {outside[0]} in {point}")
    if losses is None:
        return
    if len(losses) != problem.objectives:
        raise ValueError(f"this search has {problem.objectives} objectives, got {len(losses)} losses: {losses}")
    if len(constraints) != problem.constraints:
        raise ValueError(f"this search has {problem.constraints} constraints, got {len(constraints)}: {constraints}")
    if wild := [number for number in (*losses, *constraints) if not math.isfinite(number)]:
        message = "losses and constraints must be finite"
        raise ValueError(f"{message}, got {wild[0]} in {losses}, {constraints}; what cannot be scored has losses None")
