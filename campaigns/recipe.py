"""The recipe: everything that determines the bytes of a merged model, and so its identity."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from campaigns.methods import Method
from campaigns.noun import Noun, canonical_digest
from campaigns.pools import Dtype

LayerRange = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class TensorFilter(Noun):
    """Which tensors are meant: those whose name has all strings of `contains`, in layers [first, stop) if given."""

    contains: Annotated[
        tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
    ] = ()
    layers: LayerRange | None = None

    def matches(self, name: str) -> bool:
        """Whether the tensor `name` is meant."""
        layer = layer_of(name)
        in_layers = self.layers is None or (layer is not None and self.layers[0] <= layer < self.layers[1])
        return in_layers and all(part in name for part in self.contains)


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor belongs to, the first number in its dotted name; None outside the layers."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


class Rule(Noun):
    """Another method, or the same one with other numbers, for some of the tensors."""

    tensors: TensorFilter
    method: Method


class Recipe(Noun):
    """A merge method with its parameters over sources named by content digest.

    The same recipe gives the same bytes on any device, thread count, chunking or way out. Fields that came after the
    first recipes were given ids are left out of the canonical JSON while they are empty.
    """

    method: Method
    sources: tuple[str, ...] = Field(min_length=1, description="Content digests of the checkpoints, in order")
    base: str | None = Field(None, description="Content digest of the base, where the method needs one")
    template: str = Field(description="Content digest of the checkpoint whose configuration and tokenizer it gets")
    dtype: Dtype
    seed: int = 0
    rules: tuple[Rule, ...] = Field(
        (), exclude_if=lambda rules: not rules, description="The first that matches a tensor replaces `method` for it"
    )
    statistics: tuple[str, ...] = Field(
        (),
        exclude_if=lambda digests: not digests,
        description="Content digests of the sources' calibration statistics, in order, where a method needs them",
    )

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the canonical JSON: the identity of the merged model."""
        return canonical_digest(self)

    def method_of(self, tensor: str) -> Method:
        """Return the method that makes the tensor of this name."""
        return next((rule.method for rule in self.rules if rule.tensors.matches(tensor)), self.method)

    @property
    def methods(self) -> tuple[Method, ...]:
        """All methods that this recipe uses."""
        return (self.method, *(rule.method for rule in self.rules))
