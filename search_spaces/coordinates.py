"""Which weights vary: the one map between unit-cube coordinates and raw weights that all spaces share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from campaigns.errors import FieldError, InvalidSpec, field_error
from campaigns.spaces import Bounds, Space
from campaigns.trial import Point


@dataclass(frozen=True)
class Coordinate:
    """One dimension of the cube: a name, the raw interval that it spans, and the checkpoints that it moves."""

    name: str
    bounds: tuple[float, float]
    members: tuple[int, ...] = ()

    def raw(self, unit: float) -> float:
        """Map [0, 1] onto `bounds`; 0 and 1 give the bounds themselves."""
        low, high = self.bounds
        mixed = low * (1.0 - unit) + high * unit  # low + unit * (high - low) would overflow for huge bounds
        return min(max(mixed, low), high) + 0.0  # + 0.0 turns -0.0, another JSON and so another digest, into 0.0

    def unit(self, raw: float) -> float:
        """Return the coordinate whose raw value is nearest to `raw`."""
        low, high = self.bounds
        clipped = min(max(raw, low), high)
        return min(max((clipped / 2 - low / 2) / (high / 2 - low / 2), 0.0), 1.0)


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of K checkpoints. Every checkpoint is either frozen or a member of exactly one coordinate."""

    checkpoints: tuple[str, ...]
    free: tuple[Coordinate, ...]
    frozen: Mapping[int, float]

    def raw(self, point: Sequence[float]) -> list[float]:
        """Return K raw weights: the coordinate's value where one varies, the final weight where one is frozen."""
        weights = [self.frozen.get(index, 0.0) + 0.0 for index in range(len(self.checkpoints))]
        for coordinate, unit in zip(self.free, point, strict=True):
            for index in coordinate.members:
                weights[index] = coordinate.raw(unit)
        return weights

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the point whose raw weights come nearest (least squares) to the K `weights`."""
        return tuple(c.unit(math.fsum(weights[i] for i in c.members) / len(c.members)) for c in self.free)

    def parameters(self, weights: Sequence[float]) -> dict[str, float]:
        """Return the K weights by name, as a candidate's parameters carry them."""
        return {f"weight.{name}": weight for name, weight in zip(self.checkpoints, weights, strict=True)}


def coordinates(space: Space, checkpoints: Sequence[str], default: Bounds) -> Coordinates:
    """Lay out the coordinates of `space` in the pool's order; a group stands where its first member does.

    A group's interval is the intersection of the bounds that `bounds_of` gives to its members, `default` if none.
    Raises `InvalidSpec` naming every group whose intersection is empty.
    """
    errors: list[FieldError] = []
    free = []
    for members in _memberships(space, checkpoints):
        names = [checkpoints[index] for index in members]
        given = [space.bounds_of[name] for name in names if name in space.bounds_of] or [default]
        bounds = (max(low for low, _ in given), min(high for _, high in given))
        if bounds[0] >= bounds[1]:
            message = f"no weight keeps the bounds of all of the group {', '.join(names)}"
            errors.append(field_error(f"space.bounds_of.{names[0]}", given, message))
        label = names[0] if len(names) == 1 else f"group({','.join(names)})"
        free.append(Coordinate(f"weight.{label}", bounds, members))
    if errors:
        raise InvalidSpec(errors)
    frozen = {index: space.freeze[name] for index, name in enumerate(checkpoints) if name in space.freeze}
    return Coordinates(tuple(checkpoints), tuple(free), frozen)


def checked_point(point: Sequence[float], names: Sequence[str]) -> Point:
    """Return `point` as it is; raise ValueError unless it has one coordinate in [0, 1] for each of `names`."""
    if len(point) != len(names):
        raise ValueError(f"a point of this space has {len(names)} coordinates, got {len(point)}: {tuple(point)}")
    for name, unit in zip(names, point, strict=True):
        if not 0.0 <= unit <= 1.0:  # NaN fails this as well
            raise ValueError(f"coordinate {name!r} must lie in [0, 1], got {unit}")
    return tuple(float(unit) for unit in point)


def _memberships(space: Space, checkpoints: Sequence[str]) -> list[tuple[int, ...]]:
    group_of = {name: group for group in space.groups for name in group}
    laid: list[tuple[int, ...]] = []
    for name in checkpoints:
        group = group_of.get(name, (name,))
        members = tuple(index for index, other in enumerate(checkpoints) if other in group)
        if name not in space.freeze and members not in laid:
            laid.append(members)
    return laid
