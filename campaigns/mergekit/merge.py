"""What a mergekit document asks for: which models, and which method every tensor gets of them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from campaigns.errors import FieldError, InvalidSpec, field_error, from_validation
from campaigns.merge_config import MergePool
from campaigns.mergekit.inputs import TensorInputs
from campaigns.mergekit.layout import Slice
from campaigns.mergekit.methods import METHODS
from campaigns.mergekit.references import ModelReference
from campaigns.mergekit.rules import compress
from campaigns.mergekit.settings import Level
from campaigns.methods import LinearMerge, Method
from campaigns.pools import Pool
from campaigns.recipe import Recipe, layer_of

EMBEDDING = re.compile(r"embed(?!_out)|\bw[tp]e\b")
"""What the names of tensors before the layers have in them; other tensors outside the layers come after them."""


@dataclass(frozen=True)
class MergekitMerge:
    """What a mergekit document asks for.

    `pool` is the pool to inspect. `fields` says where the document names each checkpoint, by the checkpoint's field:
    `pool.checkpoints.0` may be `models.1.model`.
    """

    pool: MergePool
    fields: Mapping[str, str]
    method: str
    models: tuple[ModelReference, ...]
    base: ModelReference | None
    slices: tuple[Slice, ...]

    def recipe(self, pool: Pool, tensors: Iterable[str], seed: int = 0) -> Recipe:
        """Return the recipe over `pool`, which is what was found of `self.pool`; `tensors` are its tensors' names.

        Raises `InvalidSpec` naming what cannot be done with these tensors: slices that leave layers out, for one.
        """
        methods = self.methods(tensors)
        digests = [checkpoint.digest for checkpoint in pool.checkpoints]
        if self._has_idle_base(methods):
            methods = {name: _without_last(method) for name, method in methods.items()}
            digests.pop()
        found = compress(methods, [part for level in self._levels() for part in level.parts])
        has_origin = METHODS[self.method].base in ("optional", "required")
        return Recipe(
            method=found.method,
            sources=tuple(digests),
            base=pool.base.digest if pool.base is not None and has_origin else None,
            template=pool.template.digest,
            dtype=pool.dtype,
            seed=seed,
            rules=found.rules,
        )

    def methods(self, tensors: Iterable[str]) -> dict[str, Method]:
        """Return the method that each tensor gets, over `self.models`. Raises `InvalidSpec` as `recipe` does."""
        names = [*tensors]
        layers = max((layer for name in names if (layer := layer_of(name)) is not None), default=-1) + 1
        self._check_layers(layers)
        errors: dict[str, FieldError] = {}
        methods = {}
        for name in names:
            part, t = self._place(name, layers)
            try:
                methods[name] = METHODS[self.method].build(TensorInputs(part, self.models, name, t))
            except InvalidSpec as error:
                errors = {found.field: found for found in error.errors} | errors
            except ValidationError as error:  # numbers that are right one by one and wrong together
                first = from_validation(error).errors[0]
                errors.setdefault(part.field, first.replace(field=part.field, message=f"{first.message} ({name})"))
        if errors:
            raise InvalidSpec([*errors.values()])
        return methods

    def _check_layers(self, layers: int) -> None:
        last = self.slices[-1]
        if last.stop is not None and last.stop != layers:
            message = f"the models have {layers} layers; slices must cover all of them: layers are never restacked"
            allowed = f"[{last.first}, {layers}]"
            field = f"{last.field}.0.layer_range"
            raise InvalidSpec([field_error(field, [last.first, last.stop], message, allowed)])

    def _place(self, tensor: str, layers: int) -> tuple[Slice, float]:
        """Return the slice that a tensor belongs to, and its depth there: 0 at the first layer, 1 at the last.

        mergekit's conventions: a slice of one layer is at depth 1; tensors before the layers belong to the first slice
        and those after them to the last, both at depth 0.
        """
        layer = layer_of(tensor)
        if layer is None:
            return self.slices[0 if EMBEDDING.search(tensor) else -1], 0.0
        part = next(part for part in self.slices if part.stop is None or layer < part.stop)
        steps = (part.stop or layers) - part.first - 1
        return part, (layer - part.first) / steps if steps else 1.0

    def _has_idle_base(self, methods: Mapping[str, Method]) -> bool:
        """Whether the base only gives its configuration: in a linear merge, the last of the models and of weight 0."""
        if len(self.models) == 1 or self.models[-1] != self.base:
            return False
        return all(isinstance(method, LinearMerge) and method.weights[-1] == 0 for method in methods.values())

    def _levels(self) -> Iterable[Level]:
        for part in self.slices:
            yield from (source.level for source in part.sources)
            yield from part.levels


def _without_last(method: Method) -> Method:
    assert isinstance(method, LinearMerge)
    return LinearMerge(weights=method.weights[:-1])
