"""What one tensor is merged from: the parameters of its sources, by mergekit's precedence."""

from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.errors import InvalidSpec, field_error
from campaigns.mergekit.layout import Slice, Source
from campaigns.mergekit.references import ModelReference
from campaigns.mergekit.settings import PARAMETERS, Level, Value


@dataclass(frozen=True)
class TensorInputs:
    """The parameters of the tensor `name`, which lies at depth `t` of a slice.

    `models` are the recipe's sources; values come in their order. The nearest level that says something about the
    tensor counts: model, slice, module, document. Every method raises `InvalidSpec` naming the key that is wrong.
    """

    part: Slice
    models: Sequence[ModelReference]
    name: str
    t: float

    def shared(self, name: str, default: Value | None = None) -> Value:
        """Return the parameter that all sources share; without a default it must be there."""
        return self._find(name, self.part.levels, default)[0]

    def number(self, name: str, default: float) -> float:
        """Return a shared number."""
        return float(self.shared(name, default))

    def flag(self, name: str, default: bool) -> bool:
        """Return a shared flag."""
        return bool(self.shared(name, default))

    def each(self, name: str, default: float | None = None, absent: float = 0.0) -> tuple[float, ...]:
        """Return one number per source: `absent` for those that the slice has not, `default` where nothing is said."""
        return tuple(
            absent if source is None else float(self._find(name, (source.level, *self.part.levels), default)[0])
            for source in map(self._source, self.models)
        )

    def common(self, name: str, default: float) -> float:
        """Return a number that mergekit has per source and we have once; sources that disagree are an error."""
        sources = [source for source in map(self._source, self.models) if source is not None]
        found = [self._find(name, (source.level, *self.part.levels), default) for source in sources]
        for value, field in found:
            if value != found[0][0]:
                message = f"{name} must be the same for all models"
                raise InvalidSpec([field_error(field, value, message, f"{found[0][0]:g}")])
        return float(found[0][0])

    def fixed(self, name: str, only: Value, why: str) -> None:
        """Refuse any other value than `only` for a shared parameter, saying why."""
        value, field = self._find(name, self.part.levels, only)
        if value != only:
            raise InvalidSpec([field_error(field, value, why, _text(only))])

    @property
    def is_present(self) -> tuple[bool, ...]:
        """Which of the sources the slice has."""
        return tuple(self._source(model) is not None for model in self.models)

    def _source(self, model: ModelReference) -> Source | None:
        return next((source for source in self.part.sources if source.model == model), None)

    def _find(self, name: str, levels: Sequence[Level], default: Value | None) -> tuple[Value, str]:
        for level in levels:
            value = level.find(name, self.name, self.t)
            if value is not None:
                return value, f"{level.field}.{name}"
        if default is None:
            message = f"parameter {name!r} is needed, and nothing says what it is for tensor {self.name}"
            raise InvalidSpec([field_error(f"{levels[0].field}.{name}", None, message, PARAMETERS[name].allowed)])
        return default, f"{levels[0].field}.{name}"


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
