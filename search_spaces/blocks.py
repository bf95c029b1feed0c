"""Blocks of coordinates: each maps its part of a point to one field of a merge method."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from campaigns.ranges import Bounds
from campaigns.spaces import WHOLE_NUMBERS, EmrSpace, MethodSpace, MixSpace, SparseSpace, TaskVectorSpace
from campaigns.trial import Point
from search_spaces.coordinates import Axis, Cells, Coordinate, Coordinates, coordinates
from search_spaces.shares import NORMALIZATIONS, RAW

DEFAULT_BOUNDS: Mapping[str, Bounds] = {"sum": (0.0, 1.0), "softmax": (-4.0, 4.0), "free": (0.0, 1.0)}
MIDDLE = 0.5


class Block(Protocol):
    """Coordinates that make one field of a merge method of K sources."""

    field: str
    """The method's field, and the parameter's name in `by_group`."""
    axes: tuple[Axis, ...]
    """One per coordinate; none when the field is fixed."""

    def value(self, point: Sequence[float]) -> Any:
        """Return the field's value at this part of a point."""

    def parameters(self, value: Any) -> dict[str, float]:
        """Return the value as numbers by name, as candidates carry them."""

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the coordinates that bring the merge nearest to sum_i w_i theta_i."""

    def units(self, value: Any) -> Point:
        """Return the coordinates of a value of the field where there are any, else some near ones."""


class Shares:
    """Weights of which those that are not frozen share what the frozen ones leave of one."""

    field = "weights"

    def __init__(self, raw: Coordinates, normalize: str) -> None:
        self._raw = raw
        self._normalize = NORMALIZATIONS[normalize]
        self._raw_of = RAW[normalize]
        self.axes: tuple[Axis, ...] = raw.free

    def value(self, point: Sequence[float]) -> tuple[float, ...]:
        """Return the K weights, which sum to one."""
        weights = self._raw.raw(point)
        varying = [index for coordinate in self._raw.free for index in coordinate.members]
        share = 1.0 - math.fsum(self._raw.frozen.values())
        for index, part in zip(varying, self._normalize([weights[index] for index in varying]), strict=True):
            weights[index] = share * part
        return tuple(weights)

    def parameters(self, value: Sequence[float]) -> dict[str, float]:
        """Return the weights by checkpoint."""
        return _by_checkpoint("weight", self._raw.checkpoints, value)

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return equal raw coordinates for equal weights; else all that can be given to those that are not 0."""
        if len(set(weights)) > 1:
            return tuple(float(any(weights[index] for index in c.members)) for c in self._raw.free)
        low = max(coordinate.bounds[0] for coordinate in self._raw.free)
        high = min(coordinate.bounds[1] for coordinate in self._raw.free)
        return tuple(coordinate.unit(low / 2 + high / 2) for coordinate in self._raw.free)

    def units(self, value: Sequence[float]) -> Point:
        """Return coordinates that give these weights; a group is taken to have its first member's."""
        raw = self._raw_of([value[c.members[0]] for c in self._raw.free], [c.bounds for c in self._raw.free])
        return tuple(coordinate.unit(number) for coordinate, number in zip(self._raw.free, raw, strict=True))


class RawNumbers:
    """Weights, or densities, that are the raw coordinates themselves."""

    def __init__(self, field: str, label: str, raw: Coordinates) -> None:
        self.field = field
        self._label = label
        self._raw = raw
        self.axes: tuple[Axis, ...] = raw.free

    def value(self, point: Sequence[float]) -> tuple[float, ...]:
        """Return the K numbers."""
        return tuple(self._raw.raw(point))

    def parameters(self, value: Sequence[float]) -> dict[str, float]:
        """Return the numbers by checkpoint."""
        return _by_checkpoint(self._label, self._raw.checkpoints, value)

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the point of the nearest weights, and of the highest densities: a linear merge drops nothing."""
        return self._raw.nearest(weights if self.field == "weights" else [1.0] * len(weights))

    def units(self, value: Sequence[float]) -> Point:
        """Return the coordinates of these numbers."""
        return self._raw.nearest(value)


class Number:
    """A real number, fixed or within bounds."""

    def __init__(self, field: str, declared: float | Bounds) -> None:
        self.field = field
        self._declared = Coordinate(field, declared) if isinstance(declared, tuple) else declared
        self.axes: tuple[Axis, ...] = (self._declared,) if isinstance(self._declared, Coordinate) else ()

    def value(self, point: Sequence[float]) -> float:
        """Return the number."""
        return self._declared.raw(point[0]) if isinstance(self._declared, Coordinate) else float(self._declared)

    def parameters(self, value: float) -> dict[str, float]:
        """Return the number by its name."""
        return {self.field: value}

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the point of t = w_1; of other numbers a linear merge knows nothing."""
        if not isinstance(self._declared, Coordinate):
            return ()
        return (self._declared.unit(weights[-1]) if self.field == "t" else MIDDLE,)

    def units(self, value: float) -> Point:
        """Return the coordinate of the number, none where it is fixed."""
        return (self._declared.unit(value),) if isinstance(self._declared, Coordinate) else ()


class WholeNumber:
    """A whole number, fixed or within bounds that are both reached."""

    def __init__(self, field: str, declared: float | Bounds) -> None:
        self.field = field
        lowest, highest = declared if isinstance(declared, tuple) else (declared, declared)
        self._lowest = int(lowest)
        self._cells = Cells(field, tuple(range(int(lowest), int(highest) + 1)))
        self.axes: tuple[Axis, ...] = (self._cells,) if isinstance(declared, tuple) else ()

    def value(self, point: Sequence[float]) -> int:
        """Return the number."""
        return self._lowest + (self._cells.index(point[0]) if point else 0)

    def parameters(self, value: int) -> dict[str, float]:
        """Return the number by its name."""
        return {self.field: float(value)}

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the middle: a linear merge says nothing about it."""
        return (MIDDLE,) * len(self.axes)

    def units(self, value: int) -> Point:
        """Return the middle of the number's part, none where it is fixed."""
        placed = self._cells.place(value)
        return (MIDDLE if placed is None else placed,) * len(self.axes)


class View:
    """Which of EMR's models is made: the unified one (None), or that of one task (its index)."""

    field = "task"

    def __init__(self, space: EmrSpace, checkpoints: Sequence[str]) -> None:
        unified: list[int | None] = [None] if space.views != "tasks" else []
        tasks = list(range(len(checkpoints))) if space.views != "unified" else []
        self._views = [*unified, *tasks]
        self._called = tuple("unified" if view is None else checkpoints[view] for view in self._views)
        self._cells = Cells("view", self._called)
        self.axes: tuple[Axis, ...] = (self._cells,) if len(self._views) > 1 else ()

    def value(self, point: Sequence[float]) -> int | None:
        """Return the view."""
        return self._views[self._cells.index(point[0]) if point else 0]

    def parameters(self, value: int | None) -> dict[str, float]:
        """Return 1 for the view that is taken and 0 for the others, by name."""
        return {f"view.{name}": float(view == value) for name, view in zip(self._called, self._views, strict=True)}

    def nearest(self, weights: Sequence[float]) -> Point:
        """Return the middle of the view of the only checkpoint that has a weight, else that of the first view."""
        alone = [index for index, weight in enumerate(weights) if weight]
        view = alone[0] if len(alone) == 1 and alone[0] in self._views else self._views[0]
        return (self._cells.middle(self._views.index(view)),) * len(self.axes)

    def units(self, value: int | None) -> Point:
        """Return the middle of the view's part, of the first view's for one that is not among them."""
        index = self._views.index(value) if value in self._views else 0
        return (self._cells.middle(index),) * len(self.axes)


def blocks(space: MethodSpace, checkpoints: Sequence[str], field: str) -> list[Block]:
    """Return the blocks of `space`, in the order of its coordinates.

    Raises `InvalidSpec`, fields under `field`, when the members of a group have bounds that no common number can keep.
    """
    found: list[Block] = []
    if isinstance(space, MixSpace):
        raw = coordinates(space, checkpoints, space.bounds or DEFAULT_BOUNDS[space.normalize], "weight", field)
        free = space.normalize == "free"
        found.append(RawNumbers("weights", "weight", raw) if free else Shares(raw, space.normalize))
    if isinstance(space, TaskVectorSpace):
        raw = coordinates(space, checkpoints, space.bounds, "weight", field)
        found.append(RawNumbers("weights", "weight", raw))
    if isinstance(space, SparseSpace):
        declared = space.densities
        raw = coordinates(declared, checkpoints, declared.bounds, "density", f"{field}.densities")
        found.append(RawNumbers("densities", "density", raw))
    for name, number in space.numbers().items():
        found.append(WholeNumber(name, number) if name in WHOLE_NUMBERS else Number(name, number))
    if isinstance(space, EmrSpace):
        found.append(View(space, checkpoints))
    return found


def _by_checkpoint(label: str, checkpoints: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {f"{label}.{name}": value for name, value in zip(checkpoints, values, strict=True)}
