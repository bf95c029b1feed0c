"""Parsing a mergekit document: every key checked, models and parameters brought into slices."""

from collections.abc import Mapping, Sequence
from typing import Any

from campaigns.errors import FieldError, InvalidSpec, field_error, unknown_name
from campaigns.merge_config import MergePool
from campaigns.mergekit.layout import LayoutReader, Slice, Source
from campaigns.mergekit.merge import MergekitMerge
from campaigns.mergekit.methods import METHODS, MergekitMethod
from campaigns.mergekit.references import Local, ModelReference
from campaigns.mergekit.settings import PARAMETERS
from campaigns.pools import MAX_CHECKPOINTS, Dtype

METHOD_KEY = "merge_method"
KEYS = (
    METHOD_KEY,
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
)
DTYPES: dict[str, Dtype] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


def is_mergekit(document: Mapping[str, Any]) -> bool:
    """Whether `document` is one of mergekit's."""
    return METHOD_KEY in document


def parse_mergekit(document: Mapping[str, Any], local: Local) -> MergekitMerge:
    """Return what `document` asks for, or raise `InvalidSpec` naming every wrong key.

    `local` finds the directories that paths mean. Nothing is read of the models: what depends on their layers and
    tensors is checked by `MergekitMerge.recipe`.
    """
    errors = [unknown_name(str(key), str(key), KEYS, "key of mergekit") for key in document if key not in KEYS]
    kind = str(document.get(METHOD_KEY))
    if kind not in METHODS:
        unknown = unknown_name(METHOD_KEY, kind, METHODS, "merge method here")
        raise InvalidSpec([unknown.replace(allowed=", ".join(METHODS)), *errors])
    row = METHODS[kind]
    reader = LayoutReader(local, row.parameters, errors)
    base = _base(document, row, reader, errors)
    slices = reader.slices(document, base)
    models = _models(row, base, slices, errors)
    dtype = _dtype(document, errors)
    _check_tokenizer(document, reader, base, models, errors)
    if not errors:
        _check_sources(kind, models, slices, errors)
        _check_required(row, models, slices, errors)
    if errors:
        raise InvalidSpec(errors)
    return _merge(kind, models, base, slices, dtype)


def _merge(
    kind: str,
    models: Sequence[ModelReference],
    base: ModelReference | None,
    slices: Sequence[Slice],
    dtype: Dtype | None,
) -> MergekitMerge:
    taken: set[str] = set()
    checkpoints = tuple(model.place.checkpoint(taken) for model in models)
    fields = {f"pool.checkpoints.{index}": _field_of(model, slices) for index, model in enumerate(models)}
    if base is not None:
        fields["pool.base"] = "base_model"
    base_checkpoint = None if base is None else base.place.checkpoint(taken)
    pool = MergePool(checkpoints=checkpoints, base=base_checkpoint, dtype=dtype)
    return MergekitMerge(pool, fields, kind, tuple(models), base, tuple(slices))


def _field_of(model: ModelReference, slices: Sequence[Slice]) -> str:
    sources = (source for part in slices for source in part.sources if source.model == model)
    return _model_field(next(sources))


def _model_field(source: Source) -> str:
    return source.field if source.field == "base_model" else f"{source.field}.model"


def _base(
    document: Mapping[str, Any], row: MergekitMethod, reader: LayoutReader, errors: list[FieldError]
) -> ModelReference | None:
    if document.get("base_model") is None:
        if row.base in ("first", "required"):
            message = f"merge_method {document[METHOD_KEY]!r} needs a base_model"
            errors.append(field_error("base_model", None, message))
        return None
    base = reader.reference(document["base_model"], "base_model")
    if base is not None and base.adapter is not None:
        errors.append(field_error("base_model", document["base_model"], "the base cannot have an adapter"))
    return base


def _models(
    row: MergekitMethod, base: ModelReference | None, slices: Sequence[Slice], errors: list[FieldError]
) -> list[ModelReference]:
    """Return the sources of the recipe, in the order in which they appear."""
    for part in slices:
        for source in part.sources:
            if source.model.adapter is not None and (base is None or source.model.model != base.model):
                message = "an adapter can be merged only where the model that it goes on is the base_model"
                errors.append(field_error(_model_field(source), source.model.model.path, message))
    listed = [source.model for part in slices for source in part.sources]
    models = list(dict.fromkeys(listed if row.base == "input" else [m for m in listed if m != base]))
    if row.base == "first" and base is not None:
        models.insert(0, base)
    if len(models) > MAX_CHECKPOINTS:
        errors.append(field_error("models", len(models), "too many models", f"at most {MAX_CHECKPOINTS}"))
    return models


def _check_sources(
    kind: str, models: Sequence[ModelReference], slices: Sequence[Slice], errors: list[FieldError]
) -> None:
    row = METHODS[kind]
    beside = " beside the base_model" if row.base == "required" else ""
    wanted = f"{row.min_sources}" if row.min_sources == row.max_sources else f"at least {row.min_sources}"
    for part in slices:
        present = [source.model for source in part.sources if source.model in models]
        if kind == "passthrough":
            is_right, wanted = len(present) == 1, "1"
        else:
            is_right = len(present) >= row.min_sources and len(models) <= (row.max_sources or len(models))
        if not is_right:
            message = f"{kind} merges {wanted} model{'' if wanted.endswith('1') else 's'}{beside}"
            errors.append(field_error(part.field, len(present), message, wanted))
        elif row.needs_all and len(present) != len(models):
            message = f"{kind} has no weights: every slice must have the same models"
            errors.append(field_error(part.field, len(present), message, f"{len(models)} models"))


def _check_required(
    row: MergekitMethod, models: Sequence[ModelReference], slices: Sequence[Slice], errors: list[FieldError]
) -> None:
    """Miss a parameter that no level sets before the models are read."""
    if row.required is None:
        return
    allowed = PARAMETERS[row.required].allowed
    for part in slices:
        holders = [None] if row.required == "t" else [source for source in part.sources if source.model in models]
        for source in holders:
            levels = part.levels if source is None else (source.level, *part.levels)
            if any(row.required in level.settings for level in levels):
                continue
            if source is not None and source.field == "base_model":
                message = "mergekit counts the base_model among the inputs: list it under models, with a weight"
                errors.append(field_error("base_model", None, message, "weight 0 to take its configuration only"))
                continue
            field = f"{levels[0].field}.{row.required}"
            errors.append(field_error(field, None, f"parameter {row.required!r} is needed", allowed))


def _dtype(document: Mapping[str, Any], errors: list[FieldError]) -> Dtype | None:
    """Return the type of the merged tensors: out_dtype, else dtype, in which mergekit also computes."""
    found = {key: document[key] for key in ("dtype", "out_dtype") if document.get(key) is not None}
    named = {key: DTYPES.get(str(value).removeprefix("torch.")) for key, value in found.items()}
    for key, name in named.items():
        if name is None:
            errors.append(field_error(key, found[key], "models cannot be written in this type", ", ".join(DTYPES)))
    return named.get("out_dtype", named.get("dtype"))


def _check_tokenizer(
    document: Mapping[str, Any],
    reader: LayoutReader,
    base: ModelReference | None,
    models: Sequence[ModelReference],
    errors: list[FieldError],
) -> None:
    """Refuse what would make another tokenizer than the template's, which all models of a pool share."""
    source, field = document.get("tokenizer_source"), "tokenizer_source"
    if (template := document.get("chat_template")) is not None:
        errors.append(field_error("chat_template", template, "the chat template is that of the base_model"))
    if (tokenizer := document.get("tokenizer")) is not None:
        if not isinstance(tokenizer, Mapping):
            errors.append(field_error("tokenizer", tokenizer, "must be a mapping", "source: base"))
            return
        for key, value in tokenizer.items():
            if key not in ("source", "tokens", "pad_to_multiple_of"):
                errors.append(unknown_name(f"tokenizer.{key}", str(key), ("source",), "key of tokenizer"))
            elif key != "source" and value:
                errors.append(field_error(f"tokenizer.{key}", value, "vocabularies are merged as they are"))
        source, field = tokenizer.get("source", "union"), "tokenizer.source"
    if source is None or (source == "base" and base is not None):
        return
    if source in ("union", "base"):
        message = "no new vocabulary is made" if source == "union" else "there is no base_model"
        errors.append(field_error(field, source, message, "base, or a model of the merge"))
    elif (found := reader.reference(source, field)) is not None and found not in (base, *models):
        errors.append(field_error(field, source, "not a model of the merge", "base, or a model of the merge"))
