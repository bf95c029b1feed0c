"""The map of every space over one merge method: from the cube to its parameters, group by group, and the recipe."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaigns.errors import FieldError, InvalidSpec, field_error
from campaigns.methods import (
    BreadcrumbsMerge,
    BreadcrumbsTiesMerge,
    ConsensusMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaLinearMerge,
    DellaMerge,
    EmrMerge,
    FisherMerge,
    KarcherMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    ObimMerge,
    RegMeanMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.pools import Pool
from campaigns.recipe import Recipe, Rule
from campaigns.space_needs import needs_base, needs_statistics
from campaigns.spaces import MethodSpace, MixSpace, ObimSpace, RandomSparseSpace
from campaigns.trial import Candidate, Kind, Point
from search_spaces.blocks import Block, blocks
from search_spaces.coordinates import Axis, checked_point, placed
from search_spaces.search_space import TASK_ARITHMETIC, TASK_ARITHMETIC_SCALE, UNIFORM_SOUP
from search_spaces.tensor_groups import TensorGroup, tensor_groups

METHODS: dict[str, type[Method]] = {
    "linear": LinearMerge,
    "slerp": SlerpMerge,
    "nuslerp": NuSlerpMerge,
    "multislerp": MultiSlerpMerge,
    "karcher": KarcherMerge,
    "task_arithmetic": TaskArithmeticMerge,
    "ties": TiesMerge,
    "dare_linear": DareLinearMerge,
    "dare_ties": DareTiesMerge,
    "della": DellaMerge,
    "della_linear": DellaLinearMerge,
    "breadcrumbs": BreadcrumbsMerge,
    "breadcrumbs_ties": BreadcrumbsTiesMerge,
    "model_stock": ModelStockMerge,
    "sce": SceMerge,
    "consensus": ConsensusMerge,
    "emr": EmrMerge,
    "fisher": FisherMerge,
    "regmean": RegMeanMerge,
    "obim": ObimMerge,
}
ROUNDING = 1e-9
"""By how much numbers of two recipes may differ, relative or absolute, that one point makes."""
SETTINGS = ("normalize", "rescale", "trim", "trim_by")
"""Fields of a space that are its method's, as they are, and are never searched."""


@dataclass(frozen=True)
class Slot:
    """A block's place in the point: the coordinates from `start` on, for one group of tensors or for all."""

    block: Block
    start: int
    groups: tuple[TensorGroup, ...]
    apart: bool

    @property
    def axes(self) -> dict[str, Axis]:
        """Its coordinates by name."""
        return {self.named(axis.name): axis for axis in self.block.axes}

    def named(self, name: str) -> str:
        """Return the parameter's name in this place, which says the group that it is for."""
        return self.groups[0].named(name) if self.apart else name

    def value(self, point: Point) -> Any:
        """Return the value of the block's field at `point`."""
        return self.block.value(point[self.start : self.start + len(self.block.axes)])


class MethodMap:
    """A map from the cube to merges by one method of K checkpoints; see `SearchSpace`."""

    def __init__(self, space: MethodSpace, pool: Pool, field: str = "space") -> None:
        """Raise `InvalidSpec`, fields under `field`, when the pool has not what the space needs."""
        _refuse_missing(space, pool)
        self._space = space
        self._pool = pool
        self._groups = tensor_groups(space, pool.layers, field)
        self._blocks = blocks(space, pool.names, field)
        self._slots = self._laid_out()
        self.axes = {name: axis for slot in self._slots for name, axis in slot.axes.items()}
        self.names = tuple(self.axes)

    @property
    def dimensions(self) -> int:
        """One per coordinate."""
        return len(self.names)

    def candidate(self, point: Point) -> Candidate:
        """Return the candidate at `point`; see `SearchSpace.candidate`."""
        point = checked_point(point, self.names)
        fields: dict[str, dict[str, Any]] = {group.label: self._settings() for group in self._merged_groups}
        parameters: dict[str, float] = {}
        for slot in self._slots:
            value = slot.value(point)
            parameters |= {slot.named(name): number for name, number in slot.block.parameters(value).items()}
            for group in slot.groups:
                fields[group.label][slot.block.field] = value
        methods = {label: METHODS[self._space.kind](**given) for label, given in fields.items()}
        return Candidate(point=point, parameters=parameters, recipe=self._recipe(methods))

    def parent(self, index: int) -> Candidate:
        """Return checkpoint `index` alone, bit for bit; see `SearchSpace.parent`."""
        return self._average("parent", self._pool.names[index], [index])

    def soup(self, members: Sequence[int], label: str = UNIFORM_SOUP) -> Candidate:
        """Return the average of some checkpoints; see `SearchSpace.soup`."""
        return self._average("soup", label, members)

    def uniform_soup(self) -> Candidate:
        """Return the average of all checkpoints; see `SearchSpace.uniform_soup`."""
        return self.soup(range(len(self._pool.checkpoints)))

    def task_arithmetic(self) -> Candidate:
        """Return task arithmetic at 0.3; see `SearchSpace.task_arithmetic`."""
        count = len(self._pool.checkpoints)
        method = TaskArithmeticMerge(weights=(1.0,) * count, scale=TASK_ARITHMETIC_SCALE)
        near = (TASK_ARITHMETIC_SCALE,) * count
        candidate = self._baseline("task_arithmetic", TASK_ARITHMETIC, method, near)
        return candidate.replace(parameters={**candidate.parameters, "scale": TASK_ARITHMETIC_SCALE})

    def point(self, values: Mapping[str, float | str], field: str) -> Point:
        """Return the point with these raw values; see `SearchSpace.point`."""
        return placed(values, self.axes, field)

    def point_of(self, recipe: Recipe) -> Point | None:
        """Return a point that makes `recipe`; see `SearchSpace.point_of`."""
        methods = self._methods_of(recipe)
        if recipe.sources != _digests(self._pool) or any(
            methods[group.label].kind != self._space.kind for group in self._merged_groups
        ):
            return None
        values = [getattr(methods[slot.groups[0].label], slot.block.field) for slot in self._slots]
        pairs = zip(self._slots, values, strict=True)
        point = tuple(unit for slot, value in pairs for unit in slot.block.units(value))
        made = self.candidate(point).recipe.model_dump()
        return point if _alike(made, recipe.model_dump()) else None

    @property
    def _merged_groups(self) -> tuple[TensorGroup, ...]:
        return tuple(group for group in self._groups if group.is_merged)

    def _laid_out(self) -> list[Slot]:
        slots: list[Slot] = []
        start = 0
        for block in self._blocks:
            apart = self._space.has_groups and block.field in self._space.by_group
            for groups in [(group,) for group in self._merged_groups] if apart else [self._merged_groups]:
                slots.append(Slot(block, start, groups, apart))
                start += len(block.axes)
        return slots

    def _methods_of(self, recipe: Recipe) -> dict[str, Method]:
        """Return the method of each group, by label, that `recipe` has where it has this space's groups."""
        methods = {group.label: recipe.method for group in self._groups}
        for rule in recipe.rules:
            methods |= {group.label: rule.method for group in self._groups if rule.tensors in group.filters}
        return methods

    def _settings(self) -> dict[str, Any]:
        space = self._space
        settings = {name: getattr(space, name) for name in SETTINGS if name in type(space).model_fields}
        if isinstance(space, MixSpace):
            del settings["normalize"]  # how coordinates become weights, not what the method does with them
        if isinstance(space, ObimSpace) and space.order is not None:
            settings["order"] = tuple(self._pool.names.index(name) for name in space.order)
        return settings

    def _recipe(self, methods: dict[str, Method]) -> Recipe:
        """Put the methods of groups into rules; the last group's, which takes what no rule does, is the recipe's."""
        of_groups = [methods[group.label] if group.is_merged else self._copy() for group in self._groups]
        rules = [
            Rule(tensors=tensors, method=method)
            for group, method in zip(self._groups[:-1], of_groups, strict=False)
            for tensors in group.filters
        ]
        pool, space = self._pool, self._space
        recipe = Recipe(
            method=of_groups[-1],
            sources=_digests(pool),
            base=pool.base.digest if needs_base(space) and pool.base is not None else None,
            template=pool.template.digest,
            dtype=pool.dtype,
            rules=tuple(rules),
            statistics=_statistics(pool) if needs_statistics(space) else (),
        )
        if not isinstance(space, RandomSparseSpace):
            return recipe
        return recipe.replace(seed=int(recipe.digest[:8], 16) if space.seed == "per_candidate" else space.seed)

    def _copy(self) -> Method:
        """Return a method that copies: the base, where no task vector has a weight, else the first checkpoint."""
        count = len(self._pool.checkpoints)
        if needs_base(self._space):
            return TaskArithmeticMerge(weights=(0.0,) * count)
        return LinearMerge(weights=_even([0], count))

    def _average(self, kind: Kind, label: str, members: Sequence[int]) -> Candidate:
        weights = _even(members, len(self._pool.checkpoints))
        candidate = self._baseline(kind, label, LinearMerge(weights=weights), weights)
        if "scale" not in self._space.parameters():
            return candidate
        return candidate.replace(parameters={**candidate.parameters, "scale": 1.0})

    def _baseline(
        self, kind: Kind, label: str, method: LinearMerge | TaskArithmeticMerge, near: tuple[float, ...]
    ) -> Candidate:
        """Return a merge that the space need not reach, at the point nearest to sum_i near_i theta_i."""
        pool = self._pool
        recipe = Recipe(
            method=method,
            sources=_digests(pool),
            base=pool.base.digest if method.needs_base and pool.base is not None else None,
            template=pool.template.digest,
            dtype=pool.dtype,
        )
        parameters = {f"weight.{name}": weight for name, weight in zip(pool.names, method.weights, strict=True)}
        return Candidate(kind=kind, label=label, point=self._nearest(near), parameters=parameters, recipe=recipe)

    def _nearest(self, near: tuple[float, ...]) -> Point:
        """Return the point nearest to sum_i near_i theta_i: first the common scale, then the weights by it."""
        scale = next((block for block in self._blocks if block.field == "scale"), None)
        if scale is None:
            return tuple(unit for slot in self._slots for unit in slot.block.nearest(near))
        units = scale.units(self._nearest_scale(near))
        left = tuple(weight / (scale.value(units) or 1.0) for weight in near)
        return tuple(u for slot in self._slots for u in (units if slot.block is scale else slot.block.nearest(left)))

    def _nearest_scale(self, near: tuple[float, ...]) -> float:
        """Return the scale that weights want: their sum where they are normalized, else 1 unless all are frozen."""
        if getattr(self._space, "normalize", False):
            return math.fsum(near)
        weights = next((block for block in self._blocks if block.field == "weights"), None)
        frozen = weights.value(()) if weights is not None and not weights.axes else ()
        if not any(frozen):
            return 1.0
        return math.fsum(map(operator.mul, near, frozen)) / math.fsum(weight * weight for weight in frozen)


def _even(members: Sequence[int], count: int) -> tuple[float, ...]:
    return tuple(1.0 / len(members) if index in members else 0.0 for index in range(count))


def _alike(one: Any, other: Any) -> bool:
    """Whether two dumps are equal but for rounding; seeds and other whole numbers must be equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(one == other)


def _digests(pool: Pool) -> tuple[str, ...]:
    return tuple(checkpoint.digest for checkpoint in pool.checkpoints)


def _statistics(pool: Pool) -> tuple[str, ...]:
    return tuple(checkpoint.statistics.digest for checkpoint in pool.checkpoints if checkpoint.statistics is not None)


def _refuse_missing(space: MethodSpace, pool: Pool) -> None:
    errors: list[FieldError] = []
    if needs_base(space) and pool.base is None:
        errors.append(field_error("pool.base", None, f"method {space.kind!r} needs a base checkpoint"))
    if needs_statistics(space):
        message = f"method {space.kind!r} needs calibration statistics of every checkpoint"
        errors += [
            field_error(f"pool.checkpoints.{index}.statistics", None, message)
            for index, checkpoint in enumerate(pool.checkpoints)
            if checkpoint.statistics is None
        ]
    if errors:
        raise InvalidSpec(errors)
