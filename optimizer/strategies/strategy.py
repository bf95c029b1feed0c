"""What every strategy does: the contract that the loop relies on, and the check of what it is told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from campaigns.trial import Point


@dataclass(frozen=True)
class Observation:
    """A point of [0, 1]^n with its losses, minimised, one per objective; None where the point is infeasible."""

    point: Point
    losses: tuple[float, ...] | None


class Strategy(Protocol):
    """Chooses the points of a search. Owns its randomness: no global generator is read or moved.

    A strategy that was killed and restored proposes what it would have proposed had it never been killed.
    """

    def ask(self, pending: Sequence[Point]) -> Point:
        """Return the next point of [0, 1]^n, at any time; `pending` are the points that have no result yet."""

    def tell(self, observation: Observation) -> None:
        """Take a result in, in any order, also of a point that was never asked for (a baseline).

        Raises ValueError for a wrong number of coordinates or losses, a coordinate outside [0, 1], or a loss that is
        not finite; nothing is taken in then.
        """

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs beside the history, as small JSON."""

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Go on from where `state` was saved; `history` are all observations told until then, in that order.

        To be called on a strategy just built with the same arguments.
        """


def check_observation(observation: Observation, dimensions: int, objectives: int) -> None:
    """Raise ValueError, naming the value, unless the observation is of this search and finite."""
    point, losses = observation.point, observation.losses
    if len(point) != dimensions:
        raise ValueError(f"a point of this search has {dimensions} coordinates, got {len(point)}: {point}")
    if outside := [unit for unit in point if not 0.0 <= unit <= 1.0]:
        raise ValueError(f"coordinates must lie in [0, 1], got {outside[0]} in {point}")
    if losses is None:
        return
    if len(losses) != objectives:
        raise ValueError(f"this search has {objectives} objectives, got {len(losses)} losses: {losses}")
    if wild := [loss for loss in losses if not math.isfinite(loss)]:
        raise ValueError(f"losses must be finite, got {wild[0]} in {losses}; an infeasible point has losses None")
