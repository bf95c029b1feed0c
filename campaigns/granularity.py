"""Which tensors vary, and which of them vary together."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from campaigns.noun import Noun, wrong
from campaigns.ranges import told_once
from campaigns.recipe import LayerRange

Parameter = Literal[
    "weights",
    "densities",
    "t",
    "scale",
    "epsilon",
    "gamma",
    "top_fraction",
    "agreeing",
    "mask_threshold",
    "alpha",
    "rounds",
]

REST = "rest"


def _in_order(groups: int | tuple[LayerRange, ...]) -> int | tuple[LayerRange, ...]:
    free = 0
    for first, stop in groups if isinstance(groups, tuple) else ():
        if not free <= first < stop:
            raise wrong("", groups, "ranges of layers [first, stop) must be in order and must not overlap")
        free = stop
    return groups


def _named(modules: object) -> object:
    """In a list each string names its own group; a group of one string need not be a list."""
    if isinstance(modules, list | tuple):
        return {text: (text,) for text in modules if isinstance(text, str)} or modules
    if isinstance(modules, Mapping):
        return {name: (texts,) if isinstance(texts, str) else texts for name, texts in modules.items()}
    return modules


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
LayerGroups = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[LayerRange, ...], Field(min_length=1)],
    told_once("neither a number of groups nor ranges of layers", "how many groups, or a list of [first, stop)"),
    AfterValidator(_in_order),
]
Modules = Annotated[dict[Text, Texts], BeforeValidator(_named), Field(min_length=1)]


class Granularity(Noun):
    """Groups of tensors that have parameters of their own.

    They are the ranges of layers, the modules, or every pair of the two; a tensor belongs to the first group that its
    name fits. What fits none (embeddings, the last norm) makes the group "rest".
    """

    layer_groups: LayerGroups | None = Field(
        None, description="How many groups of (nearly) equal size, or a list of [first, stop)"
    )
    modules: Modules | None = Field(
        None, description="Strings by group, of which tensor names contain one; or a list of such strings"
    )
    by_group: tuple[Parameter, ...] = Field(
        ("weights", "t"), description="Parameters that each group has for itself; others are common to all groups"
    )
    rest: Literal["vary", "copy"] = Field("vary", description="Whether tensors in no group are merged or copied")
    only: tuple[Text, ...] = Field(
        (),
        description="Merge only tensors whose name contains one of these strings. Tensors that are not merged are "
        "those of the base, or of the first checkpoint in methods without a base",
    )

    @property
    def has_groups(self) -> bool:
        """Whether any group is asked for."""
        return self.layer_groups is not None or self.modules is not None

    @model_validator(mode="after")
    def _other_names(self) -> "Granularity":
        if self.modules is not None and REST in self.modules:
            raise wrong(f"modules.{REST}", self.modules[REST], "this is the name of the tensors in no group")
        return self

    @model_validator(mode="after")
    def _rest_of_groups(self) -> "Granularity":
        if self.rest == "copy" and not self.has_groups:
            raise wrong("rest", self.rest, "there is no rest without layer_groups or modules", "vary")
        return self
