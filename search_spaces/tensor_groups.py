"""Groups of tensors that have parameters of their own, as filters on tensor names."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from campaigns.errors import InvalidSpec, field_error
from campaigns.granularity import REST, Granularity
from campaigns.recipe import LayerRange, TensorFilter


@dataclass(frozen=True)
class TensorGroup:
    """A group by its label, "" where there are no groups; a tensor belongs to it that fits any of its filters."""

    label: str
    filters: tuple[TensorFilter, ...]
    is_merged: bool = True

    def named(self, parameter: str) -> str:
        """Return the name of this group's own parameter: `weight.math@layers[0,8)`."""
        return f"{parameter}@{self.label}" if self.label else parameter


def tensor_groups(declared: Granularity, layers: int | None, field: str) -> list[TensorGroup]:
    """Return the groups in the order in which tensors are matched with them. The last one takes every tensor.

    `layers` is how many the model has. Raises `InvalidSpec`, fields under `field`, when it has not enough.
    """
    ranges: Sequence[LayerRange | None] = _layer_ranges(declared, layers, field) or [None]
    modules = declared.modules or {}
    groups = []
    for span in ranges:
        for called, texts in (modules or {"": ("",)}).items():
            label = "/".join(part for part in (_label(span), called) if part)
            filters = tuple(TensorFilter(contains=(text,) if text else (), layers=span) for text in texts)
            groups.append(TensorGroup(label, filters))
    if declared.has_groups:
        groups.append(TensorGroup(REST, (TensorFilter(),), declared.rest == "vary"))
    if declared.only:
        groups = [TensorGroup(group.label, _narrowed(group, declared.only), group.is_merged) for group in groups]
        groups.append(TensorGroup("", (TensorFilter(),), is_merged=False))
    return groups


def _layer_ranges(declared: Granularity, layers: int | None, field: str) -> list[LayerRange]:
    wanted = declared.layer_groups
    if wanted is None:
        return []
    if layers is None:
        raise InvalidSpec([field_error(f"{field}.layer_groups", wanted, "the names of the tensors count no layers")])
    most = wanted if isinstance(wanted, int) else wanted[-1][1]
    if most > layers:
        raise InvalidSpec([field_error(f"{field}.layer_groups", wanted, f"the model has only {layers} layers")])
    if isinstance(wanted, tuple):
        return list(wanted)
    return list(pairwise(index * layers // wanted for index in range(wanted + 1)))


def _label(span: LayerRange | None) -> str:
    return "" if span is None else f"layers[{span[0]},{span[1]})"


def _narrowed(group: TensorGroup, only: tuple[str, ...]) -> tuple[TensorFilter, ...]:
    return tuple(
        TensorFilter(contains=(*each.contains, text), layers=each.layers) for each in group.filters for text in only
    )
