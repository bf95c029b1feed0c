"""The document's models over the layers: `models`, `slices` and `modules`, all brought into slices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaigns.errors import FieldError, field_error, unknown_name
from campaigns.mergekit.references import Local, ModelReference, parse_reference
from campaigns.mergekit.settings import Level, parse_level

FORMS = ("models", "slices")


@dataclass(frozen=True)
class Source:
    """One model of a slice, with the parameters that only it has; `field` is its path in the document."""

    model: ModelReference
    level: Level
    field: str


@dataclass(frozen=True)
class Slice:
    """The layers [first, stop) and the models that they come from. `stop` None: to the last layer.

    `levels` are the parameters of slice, module and document, the nearest first.
    """

    first: int
    stop: int | None
    sources: tuple[Source, ...]
    levels: tuple[Level, ...]
    field: str


class LayoutReader:
    """Reads the places of one document that name models. Every mistake becomes an entry of `errors`."""

    def __init__(self, local: Local, used: Iterable[str], errors: list[FieldError]) -> None:
        self._local = local
        self._used = tuple(used)
        self._errors = errors

    def reference(self, found: object, field: str) -> ModelReference | None:
        """Read a model reference."""
        return parse_reference(found, field, self._local, self._errors)

    def level(self, holder: Mapping[str, Any], field: str) -> Level:
        """Read the `parameters` of `holder`, which lies at `field`."""
        place = f"{field}.parameters" if field else "parameters"
        return parse_level(holder.get("parameters"), place, self._used, self._errors)

    def slices(self, document: Mapping[str, Any], base: ModelReference | None) -> list[Slice]:
        """Return the slices of a document over the base that it names; without any, there are errors."""
        given = [key for key in (*FORMS, "modules") if document.get(key)]
        if len(given) != 1:
            message = "exactly one of models, slices and modules must be there"
            self._errors.append(field_error(given[1] if given else "models", given, message))
            return []
        levels = (self.level(document, ""),)
        if given != ["modules"]:
            return self._slices_of(document, "", levels, base)
        modules = document["modules"]
        if not isinstance(modules, Mapping) or len(modules) != 1:
            message = "only models of one module can be merged"
            self._errors.append(field_error("modules", modules, message, "one module"))
            return []
        [(name, module)] = modules.items()
        field = f"modules.{name}"
        if not self._is_mapping(module, field, (*FORMS, "parameters")):
            return []
        if len([key for key in FORMS if module.get(key)]) != 1:
            self._errors.append(field_error(field, [*module], "a module has either models or slices"))
            return []
        return self._slices_of(module, f"{field}.", (self.level(module, field), *levels), base)

    def _slices_of(
        self, holder: Mapping[str, Any], prefix: str, levels: tuple[Level, ...], base: ModelReference | None
    ) -> list[Slice]:
        if holder.get("models"):
            field = f"{prefix}models"
            sources = self._sources(holder["models"], field, ("model", "parameters"))
            if base is not None and base not in [source.model for source in sources]:
                sources.append(Source(base, Level("base_model.parameters", {}), "base_model"))
            return [Slice(0, None, tuple(sources), levels, field)]
        found = holder["slices"]
        if not isinstance(found, list):
            self._errors.append(field_error(f"{prefix}slices", found, "slices must be a list"))
            return []
        slices: list[Slice] = []
        for index, item in enumerate(found):
            first = slices[-1].stop or 0 if slices else 0
            part = self._slice(item, f"{prefix}slices.{index}", levels, first, base)
            if part is None:
                return slices
            slices.append(part)
        return slices

    def _slice(
        self, item: object, field: str, levels: tuple[Level, ...], first: int, base: ModelReference | None
    ) -> Slice | None:
        keys = ("sources", "base_model", "parameters", "residual_weight")
        if not self._is_mapping(item, field, keys):
            return None
        assert isinstance(item, Mapping)
        if item.get("residual_weight") is not None:
            message = "residual_weight has no effect in mergekit and is not supported"
            self._errors.append(field_error(f"{field}.residual_weight", item["residual_weight"], message))
        if (own := item.get("base_model")) is not None and self.reference(own, f"{field}.base_model") != base:
            message = "all slices must have the base_model of the whole document"
            self._errors.append(field_error(f"{field}.base_model", own, message))
        sources = self._sources(item.get("sources"), f"{field}.sources", ("model", "layer_range", "parameters"))
        given = item["sources"] if isinstance(item.get("sources"), list) else []
        read = [self._range(part, f"{field}.sources.{index}.layer_range") for index, part in enumerate(given)]
        ranges = [layers for layers in read if layers is not None]
        if not sources or len(ranges) < len(read):
            return None
        stop = ranges[0][1]
        for index, layers in enumerate(ranges):
            if layers != (first, stop):
                message = (
                    "all sources of a slice must give the same layers, and slices must follow one another from layer 0"
                    " on: layers are merged where they are, never restacked"
                )
                allowed = f"[{first}, {stop if stop > first else '...'}]"
                self._errors.append(field_error(f"{field}.sources.{index}.layer_range", list(layers), message, allowed))
                return None
        levels = (self.level(item, field), *levels)
        return Slice(first, stop, tuple(sources), levels, f"{field}.sources")

    def _sources(self, found: object, field: str, keys: Sequence[str]) -> list[Source]:
        if not isinstance(found, list) or not found:
            self._errors.append(field_error(field, found, "there must be a list of models"))
            return []
        sources: list[Source] = []
        for index, item in enumerate(found):
            place = f"{field}.{index}"
            if not self._is_mapping(item, place, keys):
                continue
            model = self.reference(item.get("model"), f"{place}.model")
            if model is None:
                continue
            if model in [source.model for source in sources]:
                self._errors.append(field_error(f"{place}.model", item["model"], "this model is listed already"))
            sources.append(Source(model, self.level(item, place), place))
        return sources

    def _range(self, item: object, field: str) -> tuple[int, int] | None:
        found = item.get("layer_range") if isinstance(item, Mapping) else None
        whole = isinstance(found, list) and len(found) == 2 and all(type(end) is int for end in found)
        if isinstance(found, list) and whole and 0 <= found[0] < found[1]:
            return (found[0], found[1])
        self._errors.append(field_error(field, found, "not a range of layers", "[first, stop] with 0 <= first < stop"))
        return None

    def _is_mapping(self, found: object, field: str, keys: Sequence[str]) -> bool:
        if not isinstance(found, Mapping):
            self._errors.append(field_error(field, found, "must be a mapping", ", ".join(keys)))
            return False
        for key in found:
            if key not in keys:
                self._errors.append(unknown_name(f"{field}.{key}", str(key), keys, "key"))
        return True
