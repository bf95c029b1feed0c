"""Numbers that a search may vary: a fixed value, or the bounds to search it in; one for all or one per checkpoint."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from campaigns.noun import Noun, wrong


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise wrong("", bounds, "the lower bound must be below the upper bound")
    return bounds


def told_once(message: str, allowed: str) -> WrapValidator:
    """Return a validator that tells one thing about a value that fits no type of a union, instead of one for each."""

    def validated(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            ours = [str(found["msg"]) for found in error.errors() if found["type"] == "wrong"]
            raise wrong("", value, ours[0] if ours else message, allowed) from None

    return WrapValidator(validated)


def within(low: float, high: float) -> AfterValidator:
    """Return a validator that refuses numbers, and bounds, that do not lie in [low, high]."""

    def validated(value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                raise wrong("", value, f"must lie between {low} and {high}")
        return value

    return AfterValidator(validated)


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]
WholeBounds = Annotated[tuple[int, int], AfterValidator(_ordered)]

Real = Annotated[
    float | Bounds, told_once("neither a number nor bounds to search it in", "a number, or [lower, upper]")
]
Share = Annotated[Real, within(0.0, 1.0)]
Whole = Annotated[
    int | WholeBounds, told_once("neither a whole number nor bounds", "a whole number, or [lowest, highest]")
]
"""Both bounds are reached; every whole number between them has an equal part of the unit interval."""


class PerCheckpoint(Noun):
    """One number per checkpoint.

    `freeze` fixes final numbers by checkpoint name; checkpoints of one group share one dimension.
    """

    bounds_of: dict[str, Bounds] = Field({}, description="Bounds of single checkpoints, by name")
    freeze: dict[str, float] = Field({}, description="Final numbers held fixed, by checkpoint name")
    groups: tuple[tuple[str, ...], ...] = Field((), description="Checkpoints that share one number, by name")

    @model_validator(mode="after")
    def _one_role_each(self) -> "PerCheckpoint":
        grouped: set[str] = set()
        for index, group in enumerate(self.groups):
            for name in group:
                if name in grouped or name in self.freeze:
                    message = "a checkpoint may be in one group only, and not frozen as well"
                    raise wrong(f"groups.{index}", name, message)
                grouped.add(name)
        return self

    def named_checkpoints(self) -> list[tuple[str, str]]:
        """Return (field path, checkpoint name) for every checkpoint that is mentioned here."""
        mentioned = [(f"bounds_of.{name}", name) for name in self.bounds_of]
        mentioned += [(f"freeze.{name}", name) for name in self.freeze]
        mentioned += [(f"groups.{i}.{j}", name) for i, group in enumerate(self.groups) for j, name in enumerate(group)]
        return mentioned


class Densities(PerCheckpoint):
    """How much of each task vector is kept, in [0, 1]: density 1 keeps all of it, density 0 nothing.

    A number or a pair in its place, `densities: 0.5` or `densities: [0.2, 0.8]`, stands for `bounds` alone.
    """

    bounds: Share = Field((0.05, 1.0), description="A number fixes the densities that are not mentioned beside it")

    @model_validator(mode="before")
    @classmethod
    def _bounds_alone(cls, value: Any) -> Any:
        return {"bounds": value} if isinstance(value, int | float | list | tuple) else value

    @model_validator(mode="after")
    def _are_shares(self) -> "Densities":
        given = [(f"bounds_of.{name}", bounds) for name, bounds in self.bounds_of.items()]
        given += [(f"freeze.{name}", (density, density)) for name, density in self.freeze.items()]
        for field, (low, high) in given:
            if low < 0 or high > 1:
                raise wrong(field, low if low == high else (low, high), "densities must lie between 0.0 and 1.0")
        return self

    def vary(self, names: tuple[str, ...]) -> bool:
        """Whether the density of any of the checkpoints `names` is searched."""
        searched = set(names) if isinstance(self.bounds, tuple) else set(self.bounds_of)
        return bool(searched - self.freeze.keys())
