"""Which numbers vary per checkpoint: the one map between unit-cube coordinates and raw numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from campaigns.errors import FieldError, InvalidSpec, field_error, unknown_name
from campaigns.ranges import Bounds, PerCheckpoint
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

    def place(self, raw: float | str) -> float | None:
        """Return the coordinate of a raw number within the bounds; None for anything else."""
        low, high = self.bounds
        return self.unit(raw) if isinstance(raw, float) and low <= raw <= high else None

    @property
    def allowed(self) -> str:
        """What `place` takes, in words."""
        return f"a number from {self.bounds[0]:g} to {self.bounds[1]:g}"


@dataclass(frozen=True)
class Cells:
    """One dimension of the cube that picks one of several values: each has an equal part of the unit interval."""

    name: str
    values: tuple[float | str, ...]

    def index(self, unit: float) -> int:
        """Return which of them the coordinate `unit` in [0, 1] picks."""
        return min(int(unit * len(self.values)), len(self.values) - 1)

    def middle(self, index: int) -> float:
        """Return the middle of the part of the interval that picks `index`."""
        return (index + 0.5) / len(self.values)

    def place(self, raw: float | str) -> float | None:
        """Return the middle of the part that picks the value `raw`; None where it is not one of them."""
        return self.middle(self.values.index(raw)) if raw in self.values else None

    @property
    def allowed(self) -> str:
        """What `place` takes, in words."""
        return ", ".join(value if isinstance(value, str) else f"{value:g}" for value in self.values)


Axis = Coordinate | Cells


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of K checkpoints. Every checkpoint is either frozen or a member of exactly one coordinate."""

    checkpoints: tuple[str, ...]
    free: tuple[Coordinate, ...]
    frozen: Mapping[int, float]

    def raw(self, point: Sequence[float]) -> list[float]:
        """Return K raw numbers: the coordinate's value where one varies, the final number where one is frozen."""
        numbers = [self.frozen.get(index, 0.0) + 0.0 for index in range(len(self.checkpoints))]
        for coordinate, unit in zip(self.free, point, strict=True):
            for index in coordinate.members:
                numbers[index] = coordinate.raw(unit)
        return numbers

    def nearest(self, numbers: Sequence[float]) -> Point:
        """Return the point whose raw numbers come nearest (least squares) to the K `numbers`."""
        return tuple(c.unit(math.fsum(numbers[i] for i in c.members) / len(c.members)) for c in self.free)


def coordinates(
    declared: PerCheckpoint, checkpoints: Sequence[str], default: Bounds | float, label: str, field: str
) -> Coordinates:
    """Lay out the coordinates `label.name` in the pool's order; a group stands where its first member does.

    A group's interval is the intersection of the bounds that `bounds_of` gives to its members, `default` if none; where
    `default` is a number, it is frozen at that. Raises `InvalidSpec`, fields under `field`, naming every group whose
    intersection is empty.
    """
    errors: list[FieldError] = []
    free = []
    frozen = {index: declared.freeze[name] for index, name in enumerate(checkpoints) if name in declared.freeze}
    for members in _memberships(declared, checkpoints):
        names = [checkpoints[index] for index in members]
        given = [declared.bounds_of[name] for name in names if name in declared.bounds_of]
        if not given and not isinstance(default, tuple):
            frozen.update(dict.fromkeys(members, default))
            continue
        given = given or [default] if isinstance(default, tuple) else given
        bounds = (max(low for low, _ in given), min(high for _, high in given))
        if bounds[0] >= bounds[1]:
            message = f"no {label} keeps the bounds of all of the group {', '.join(names)}"
            errors.append(field_error(f"{field}.bounds_of.{names[0]}", given, message))
        called = names[0] if len(names) == 1 else f"group({','.join(names)})"
        free.append(Coordinate(f"{label}.{called}", bounds, members))
    if errors:
        raise InvalidSpec(errors)
    return Coordinates(tuple(checkpoints), tuple(free), frozen)


def checked_point(point: Sequence[float], names: Sequence[str]) -> Point:
    """Return `point` as it is; raise ValueError unless it has one coordinate in [0, 1] for each of `names`."""
    if len(point) != len(names):
        raise ValueError(f"a point of this space has {len(names)} coordinates, got {len(point)}: {tuple(point)}")
    for name, unit in zip(names, point, strict=True):
        if not 0.0 <= unit <= 1.0:  # NaN fails this as well
            raise ValueError(f"coordinate {name!r} must lie in [0, 1], got {unit}")
    return tuple(float(unit) for unit in point)


def placed(values: Mapping[str, float | str], axes: Mapping[str, Axis], field: str) -> Point:
    """Return the point that has these raw values, by the names of the coordinates, all of them.

    Raises `InvalidSpec`, fields under `field`, naming every coordinate that is missing, unknown or out of bounds.
    """
    errors = [unknown_name(f"{field}.{name}", name, axes, "coordinate here") for name in values if name not in axes]
    point = []
    for name, axis in axes.items():
        unit = axis.place(values[name]) if name in values else None
        if unit is None:
            message = "not what this coordinate takes" if name in values else "a point gives every coordinate"
            errors.append(field_error(f"{field}.{name}", values.get(name), message, axis.allowed))
        point.append(0.0 if unit is None else unit)
    if errors:
        raise InvalidSpec(errors)
    return tuple(point)


def _memberships(declared: PerCheckpoint, checkpoints: Sequence[str]) -> list[tuple[int, ...]]:
    group_of = {name: group for group in declared.groups for name in group}
    laid: list[tuple[int, ...]] = []
    for name in checkpoints:
        group = group_of.get(name, (name,))
        members = tuple(index for index, other in enumerate(checkpoints) if other in group)
        if name not in declared.freeze and members not in laid:
            laid.append(members)
    return laid
