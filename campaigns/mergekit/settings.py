"""The values of parameters as mergekit writes them: one number, a gradient over layers, or a list of filters."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from campaigns.errors import FieldError, field_error, unknown_name

EVERY_TENSOR = "*"

Value = float | bool


@dataclass(frozen=True)
class Parameter:
    """A parameter that mergekit knows: its type, and the interval [low, high] that ours must lie in."""

    kind: type[float] | type[int] | type[bool] = float
    low: float = -math.inf
    high: float = math.inf

    @property
    def allowed(self) -> str:
        """What the parameter may be, in words."""
        if self.kind is bool:
            return "true or false"
        noun = "a whole number" if self.kind is int else "a finite number"
        limits = [f"at least {self.low:g}"] if self.low > -math.inf else []
        limits += [f"at most {self.high:g}"] if self.high < math.inf else []
        return " ".join([noun, " and ".join(limits)]).strip()


FRACTION = Parameter(float, 0, 1)
PARAMETERS: dict[str, Parameter] = {
    "weight": Parameter(),
    "density": FRACTION,
    "t": FRACTION,
    "lambda": Parameter(),
    "scale": Parameter(),
    "gamma": FRACTION,
    "epsilon": Parameter(float, 0, math.nextafter(1, 0)),
    "select_topk": FRACTION,
    "normalize": Parameter(bool),
    "normalize_weights": Parameter(bool),
    "rescale": Parameter(bool),
    "int8_mask": Parameter(bool),
    "filter_wise": Parameter(bool),
    "nuslerp_flatten": Parameter(bool),
    "nuslerp_row_wise": Parameter(bool),
    "max_iter": Parameter(int, 1, 1000),
    "tol": Parameter(float, math.ulp(0.0)),
    "eps": Parameter(),
    "r": Parameter(),
    "alpha": Parameter(),
}
"""Every parameter of mergekit 0.1.5. A method passes over those that are not its own, as mergekit does."""


@dataclass(frozen=True)
class Choice:
    """Values for the tensors whose name contains `part` (None: for all): one, or a gradient over the layers."""

    part: str | None
    values: tuple[Value, ...]

    def matches(self, tensor: str) -> bool:
        """Whether the tensor of this name is meant."""
        return self.part is None or self.part in tensor

    def at(self, t: float) -> Value:
        """Return the value at depth `t` in [0, 1]: interpolated between numbers, picked among flags."""
        place = t * (len(self.values) - 1)
        first = int(place)
        if isinstance(self.values[first], bool):
            return self.values[first]
        second = min(len(self.values) - 1, first + 1)
        fraction = place - first
        return (1 - fraction) * self.values[first] + fraction * self.values[second]


Setting = tuple[Choice, ...]


@dataclass(frozen=True)
class Level:
    """The parameters that one place of the document sets; `field` is the dotted path of that place."""

    field: str
    settings: Mapping[str, Setting]

    def find(self, name: str, tensor: str, t: float) -> Value | None:
        """Return what this level says about a tensor, None when it says nothing or no filter of it matches."""
        choices = self.settings.get(name, ())
        return next((choice.at(t) for choice in choices if choice.matches(tensor)), None)

    @property
    def parts(self) -> list[str]:
        """The strings that filters look for, in order."""
        return [choice.part for setting in self.settings.values() for choice in setting if choice.part is not None]


def parse_level(found: object, field: str, used: Iterable[str], errors: list[FieldError]) -> Level:
    """Read the mapping `parameters` of one place; `field` is its path. Only parameters in `used` are looked into."""
    if found is None:
        return Level(field, {})
    if not isinstance(found, Mapping):
        errors.append(field_error(field, found, "parameters must be a mapping", "name: value"))
        return Level(field, {})
    settings = {}
    for name, value in found.items():
        if name not in PARAMETERS:
            errors.append(unknown_name(f"{field}.{name}", str(name), PARAMETERS, "parameter of mergekit"))
        elif name in used:
            settings[name] = _setting(value, PARAMETERS[name], f"{field}.{name}", errors)
    return Level(field, settings)


def _setting(value: object, parameter: Parameter, field: str, errors: list[FieldError]) -> Setting:
    if isinstance(value, Mapping):
        return _choices([value], parameter, field, errors)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return _choices(value, parameter, field, errors)
    return (Choice(None, _values(value, parameter, field, errors)),)


def _choices(items: list[Any], parameter: Parameter, field: str, errors: list[FieldError]) -> Setting:
    choices = []
    for index, item in enumerate(items):
        place = f"{field}.{index}" if len(items) > 1 else field
        for key in item:
            if key not in ("filter", "value"):
                errors.append(unknown_name(f"{place}.{key}", str(key), ("filter", "value"), "key of a filter"))
        part = item.get("filter")
        if part is not None and not isinstance(part, str):
            errors.append(field_error(f"{place}.filter", part, "a filter is a part of tensor names", "a string"))
        if "value" not in item:
            errors.append(field_error(f"{place}.value", None, "a filter needs a value", parameter.allowed))
            continue
        values = _values(item["value"], parameter, f"{place}.value", errors)
        choices.append(Choice(None if part == EVERY_TENSOR else part, values))
    return tuple(choices)


def _values(value: object, parameter: Parameter, field: str, errors: list[FieldError]) -> tuple[Value, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        errors.append(field_error(field, value, "a gradient needs a value", f"a list of {parameter.allowed}"))
    values = []
    for index, item in enumerate(items):
        converted = _converted(item, parameter)
        if converted is None:
            place = f"{field}.{index}" if isinstance(value, list) else field
            errors.append(field_error(place, item, "not a value that this parameter can have", parameter.allowed))
        else:
            values.append(converted)
    if parameter.kind is int and len(set(values)) > 1:
        errors.append(field_error(field, value, "there is no gradient between whole numbers", parameter.allowed))
    return tuple(values)


def _converted(item: object, parameter: Parameter) -> Value | None:
    if parameter.kind is bool:
        return item if isinstance(item, bool) else None
    try:
        # YAML 1.1 takes 1e-5, without a point, for a string
        number = float(item) if isinstance(item, int | float | str) and not isinstance(item, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    is_whole = parameter.kind is not int or number.is_integer()
    return number if math.isfinite(number) and is_whole and parameter.low <= number <= parameter.high else None
