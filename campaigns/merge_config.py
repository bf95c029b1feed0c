"""One merge without a search: the document that `mergefront merge` reads."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from campaigns.errors import InvalidSpec, field_error, from_validation
from campaigns.methods import MergeNoun, Method
from campaigns.noun import Noun, wrong
from campaigns.pools import MAX_CHECKPOINTS, CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe, Rule, TensorFilter

METHODS: dict[str, type[MergeNoun]] = {
    noun.model_fields["kind"].default: noun for noun in get_args(get_args(Method)[0])
}
"""The noun of every merge method, by kind."""
TYPED_METHOD: TypeAdapter[Method] = TypeAdapter(Method)
TAKE_A_BASE = ("nuslerp", "multislerp")
"""The methods that work on task vectors where there is a base, and need none."""
EXACT_SOURCES = {"slerp": 2, "nuslerp": 2}
LEAST_SOURCES = {"model_stock": 2}
NAMING = ("order", "task")
"""The parameters whose values are checkpoints."""
STATISTICS_FILE = "a file that `mergefront calibrate` wrote"
PER_SOURCE = ("weights", "densities")
ABSENT = {"weights": 0.0, "densities": 1.0}
"""What a checkpoint has that a mapping by name leaves out."""


def _one_or_by_name(value: object, read: ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except ValidationError:
        items = value.items() if isinstance(value, Mapping) else ()
        key = next((str(key) for key, number in items if not _is_number(number)), "")
        raise wrong(key, value, "must be a finite number for all, or numbers by checkpoint name") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


Numbers = Annotated[dict[str, float] | float, WrapValidator(_one_or_by_name)]


class MergePool(PoolSpec):
    """A pool for one merge: one checkpoint is enough, where a search needs two."""

    checkpoints: tuple[CheckpointSpec, ...] = Field(min_length=1, max_length=MAX_CHECKPOINTS)


class MethodConfig(Noun):
    """A merge method with its parameters as people write them.

    `weights` and `densities` are given by checkpoint name, or as one number for all. A checkpoint left out of `weights`
    weighs 0. The method's other parameters have the names that they have in a recipe (`campaigns/methods.py`), beside
    `method`; obim's `order` and emr's `task` name checkpoints.
    """

    method: str = "linear"
    weights: Numbers | None = None
    densities: Numbers | None = None
    parameters: dict[str, Any] = Field({}, description="The method's other parameters, by name")

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, document: object) -> object:
        """Move the method's own parameters out of the document; what is left over is refused as an unknown field."""
        if not isinstance(document, Mapping) or not isinstance(document.get("parameters", {}), Mapping):
            return document
        noun = METHODS.get(str(document.get("method", "linear")))
        own = set(noun.model_fields) - {"kind", *cls.model_fields} if noun else set()
        rest = {key: value for key, value in document.items() if key not in own}
        moved = {key: value for key, value in document.items() if key in own}
        return {**rest, "parameters": {**document.get("parameters", {}), **moved}}

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        if self.method not in METHODS:
            raise wrong("method", self.method, "no such merge method", ", ".join(METHODS))
        return self

    def build(self, names: tuple[str, ...]) -> Method:
        """Return the method over the checkpoints `names`. Raises what `wrong` returns, naming the field."""
        given = {name: self._numbers(name, names) for name in PER_SOURCE if getattr(self, name) is not None}
        named = {name: _indices(name, value, names) for name, value in self.parameters.items()}
        try:
            return TYPED_METHOD.validate_python({"kind": self.method, **given, **named})
        except ValidationError as error:
            found = error.errors()[0]
            context = found.get("ctx", {})
            field = self._field(found["loc"][1:], names) or context.get("field", "method")
            value = None if found["type"] == "missing" else context.get("value", found["input"])
            raise wrong(field, value, found["msg"], context.get("allowed")) from None

    def _field(self, place: tuple[int | str, ...], names: tuple[str, ...]) -> str:
        """Return where people wrote what a method noun has at `place`: numbers per source by name, or once."""
        parts = [str(part) for part in place]
        if len(place) == 2 and place[0] in PER_SOURCE:
            parts[1:] = [names[int(place[1])]] if isinstance(getattr(self, parts[0]), dict) else []
        return ".".join(parts)

    def _numbers(self, name: str, names: tuple[str, ...]) -> tuple[float, ...]:
        given: Numbers = getattr(self, name)
        if name not in METHODS[self.method].model_fields:
            raise wrong(name, given, f"method {self.method!r} has no {name}")
        if not isinstance(given, dict):
            return (given,) * len(names)
        if not given:
            raise wrong(name, given, "there must be at least one number", ", ".join(names))
        for key in given:
            if key not in names:
                raise wrong(f"{name}.{key}", key, "no checkpoint has this name", ", ".join(names))
        return tuple(given.get(key, ABSENT[name]) for key in names)


class RuleConfig(MethodConfig):
    """Another method, or other parameters, for the tensors that `tensors` means."""

    tensors: TensorFilter


class MergeConfig(MethodConfig):
    """A pool, a method with its parameters, rules for some of the tensors, and the seed of random methods.

    The first rule that matches a tensor counts. A rule without a `method` changes only the parameters that it names.
    """

    pool: MergePool
    rules: tuple[RuleConfig, ...] = ()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _complete_rules(cls, document: object) -> object:
        """Let rules without a method have the document's, with its parameters where they name no other."""
        if not isinstance(document, Mapping) or not isinstance(document.get("rules"), list | tuple):
            return document
        inherited = {key: value for key, value in document.items() if key not in ("pool", "rules", "seed")}
        rules = [
            {**inherited, **rule} if isinstance(rule, Mapping) and "method" not in rule else rule
            for rule in document["rules"]
        ]
        return {**document, "rules": rules}

    @model_validator(mode="after")
    def _fits_pool(self) -> Self:
        for prefix, config in self._configs():
            self._check_count(config.method)
            try:
                method = config.build(self.pool.names)
            except PydanticCustomError as error:
                found = error.context or {}
                raise wrong(f"{prefix}{found['field']}", found["value"], error.message(), found["allowed"]) from None
            self._check_needs(method)
        return self

    def recipe(self, pool: Pool) -> Recipe:
        """Return the recipe over `pool`, which is what was found of `self.pool`.

        Raises `InvalidSpec` naming the checkpoints that lack the calibration statistics that a method needs.
        """
        methods = [config.build(pool.names) for _, config in self._configs()]
        has_origin = any(method.needs_base or method.kind in TAKE_A_BASE for method in methods)
        return Recipe(
            method=methods[0],
            sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
            base=pool.base.digest if has_origin and pool.base is not None else None,
            template=pool.template.digest,
            dtype=pool.dtype,
            seed=self.seed,
            rules=tuple(
                Rule(tensors=rule.tensors, method=method) for rule, method in zip(self.rules, methods[1:], strict=True)
            ),
            statistics=_statistics(pool) if any(method.needs_statistics for method in methods) else (),
        )

    def _configs(self) -> Iterator[tuple[str, MethodConfig]]:
        """Yield the document's method, then those of its rules, each with the beginning of its fields."""
        yield "", self
        yield from ((f"rules.{index}.", rule) for index, rule in enumerate(self.rules))

    def _check_count(self, kind: str) -> None:
        count = len(self.pool.checkpoints)
        if count != EXACT_SOURCES.get(kind, count) or count < LEAST_SOURCES.get(kind, 1):
            allowed = str(EXACT_SOURCES[kind]) if kind in EXACT_SOURCES else f"at least {LEAST_SOURCES[kind]}"
            raise wrong("pool.checkpoints", count, f"method {kind!r} merges another number of checkpoints", allowed)

    def _check_needs(self, method: Method) -> None:
        if method.needs_base and self.pool.base is None:
            raise wrong("pool.base", None, f"method {method.kind!r} needs a base checkpoint")
        for index, checkpoint in enumerate(self.pool.checkpoints):
            if method.needs_statistics and checkpoint.statistics is None:
                message = f"method {method.kind!r} needs calibration statistics of checkpoint {checkpoint.name!r}"
                raise wrong(f"pool.checkpoints.{index}.statistics", None, message, STATISTICS_FILE)


def parse_merge_config(document: Mapping[str, Any]) -> MergeConfig:
    """Return the configuration that `document` says, or raise `InvalidSpec` naming every wrong field."""
    try:
        return MergeConfig.model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None


def _indices(name: str, value: object, names: tuple[str, ...]) -> object:
    """Replace checkpoint names in obim's order and emr's task by their places; other values pass."""
    if name not in NAMING or value is None:
        return value
    wanted = value if isinstance(value, list | tuple) else [value]
    for item in wanted:
        if isinstance(item, str) and item not in names:
            raise wrong(name, item, "no checkpoint has this name", ", ".join(names))
    places = [names.index(item) if isinstance(item, str) else item for item in wanted]
    return places if isinstance(value, list | tuple) else places[0]


def _statistics(pool: Pool) -> tuple[str, ...]:
    errors, digests = [], []
    for index, checkpoint in enumerate(pool.checkpoints):
        if checkpoint.statistics is None:
            message = f"checkpoint {checkpoint.name!r} has no calibration statistics"
            errors.append(field_error(f"pool.checkpoints.{index}.statistics", None, message, STATISTICS_FILE))
        else:
            digests.append(checkpoint.statistics.digest)
    if errors:
        raise InvalidSpec(errors)
    return tuple(digests)
