"""Whether checkpoints can be merged with each other; if not, everything that stands against it, at once."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from campaigns.errors import FieldError, InvalidCheckpoint, MisfitPool, field_error
from campaigns.pools import Checkpoint, CheckpointSpec, Dtype, Pool, PoolSpec
from merging.checkpoint import CheckpointFiles
from merging.dtypes import MERGED
from merging.inspection import Progress, inspect_checkpoint
from merging.sources import locate

CACHE_NAME = "inspections.json"
SHOWN_TENSORS = 3
# One of these is needed: of tokenizer_config.json alone, transformers makes a tokenizer without words.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
VOCABULARY_TENSORS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")


def inspect_pool(
    spec: PoolSpec,
    roots: Sequence[Path],
    hub_repositories: Sequence[str],
    cache_dir: Path | None,
    progress: Progress | None = None,
) -> Pool:
    """Find, read through and compare the checkpoints of `spec`.

    `cache_dir` keeps downloads and what inspections found. `progress` is called with (bytes done, bytes in all) of each
    checkpoint in turn.
    Raises `InvalidCheckpoint` naming every checkpoint that cannot be used, else `MisfitPool` naming every misfit with
    the template (the base if there is one, else the first checkpoint): architecture, tensor names, shapes, types,
    tokenizer. Fields are as in the spec: `pool.checkpoints.2.path`, `pool.base.path`.
    """
    named = [(f"pool.checkpoints.{index}", checkpoint) for index, checkpoint in enumerate(spec.checkpoints)]
    if spec.base is not None:
        named.insert(0, ("pool.base", spec.base))
    hub_cache = cache_dir / "hub" if cache_dir else None
    cache_file = cache_dir / CACHE_NAME if cache_dir else None
    errors: list[FieldError] = []
    found: list[tuple[CheckpointFiles, Checkpoint]] = []
    for field, checkpoint in named:
        try:
            path = locate(checkpoint, field, roots, hub_repositories, hub_cache)
            leaf = _field_of(field, checkpoint)
            inspected = inspect_checkpoint(path, checkpoint.name, leaf, cache_file, progress)
            found.append((CheckpointFiles(path, leaf), inspected))
        except InvalidCheckpoint as error:
            errors += error.errors
    if errors:
        raise InvalidCheckpoint(errors)
    return _pool(spec, found)


def _field_of(field: str, checkpoint: CheckpointSpec) -> str:
    return f"{field}.path" if checkpoint.hub is None else f"{field}.hub"


def _pool(spec: PoolSpec, found: list[tuple[CheckpointFiles, Checkpoint]]) -> Pool:
    template = found[0][0]
    errors = [*_template_errors(template)]
    for files, _ in found[1:]:
        errors += misfits(files, template)
    if errors:
        raise MisfitPool(errors)
    checkpoints = [checkpoint for _, checkpoint in found]
    base = checkpoints.pop(0) if spec.base is not None else None
    first = found[0 if base is None else 1][0]
    return Pool(
        checkpoints=tuple(checkpoints),
        base=base,
        dtype=spec.dtype or main_dtype(first),
        architecture=_architecture(template),
        parameter_count=sum(tensor.count for tensor in template.merged_tensors.values()),
    )


def main_dtype(files: CheckpointFiles) -> Dtype:
    """Return the type that most of a checkpoint's merged elements have."""
    counts = dict.fromkeys(MERGED, 0)
    for tensor in files.merged_tensors.values():
        counts[tensor.dtype] += tensor.count
    return MERGED[max(counts, key=lambda name: counts[name])]


def misfits(files: CheckpointFiles, template: CheckpointFiles) -> Iterator[FieldError]:
    """Yield everything that keeps a checkpoint from being merged with `template`, under the checkpoint's field."""
    if _architecture(files) != _architecture(template):
        yield field_error(files.field, _architecture(files), "architecture differs", _architecture(template))
    yield from _name_misfits(files, template)
    yield from _shape_misfits(files, template)
    if (difference := _tokenizer_difference(files.path, template.path)) is not None:
        yield field_error(files.field, difference, "tokenizer differs", f"the tokenizer of {template.path}")


def _architecture(files: CheckpointFiles) -> str:
    architectures = files.config.get("architectures")
    listed = isinstance(architectures, list) and architectures
    return str(listed[0] if listed else files.config.get("model_type"))


def _template_errors(template: CheckpointFiles) -> Iterator[FieldError]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = template.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        message = "transformers has no causal language model of this type, and code in checkpoints is never run"
        yield field_error(template.field, model_type, message, "a model_type that transformers knows")
    if not template.merged_tensors:
        yield field_error(template.field, str(template.path), "the checkpoint has no tensor to merge")
    if not template.files.keys() & set(VOCABULARY_FILES):
        allowed = f"a directory with one of {', '.join(VOCABULARY_FILES)}"
        yield field_error(template.field, str(template.path), "the checkpoint has no tokenizer", allowed)


def _name_misfits(files: CheckpointFiles, template: CheckpointFiles) -> Iterator[FieldError]:
    expected, names = set(template.tensors), set(files.tensors)
    for message, different in (("tensors are missing", expected - names), ("tensors are extra", names - expected)):
        if different:
            yield field_error(files.field, _some(sorted(different)), message, f"the tensors of {template.path}")


def _shape_misfits(files: CheckpointFiles, template: CheckpointFiles) -> Iterator[FieldError]:
    """Yield one error per kind of misfit, each with its first tensors."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, tensor in files.tensors.items():
        other = template.tensors.get(name)
        if other is None:
            continue
        if tensor.shape != other.shape:
            kind = (
                "vocabulary size differs"
                if _differs_in_vocabulary(name, tensor.shape, other.shape)
                else "shape differs"
            )
            kinds.setdefault(kind, []).append((f"{name} {list(tensor.shape)}", f"{name} {list(other.shape)}"))
        if tensor.dtype != other.dtype:
            kinds.setdefault("type differs", []).append((f"{name} {tensor.dtype}", f"{name} {other.dtype}"))
    for kind, pairs in kinds.items():
        yield field_error(files.field, _some([p[0] for p in pairs]), kind, _some([p[1] for p in pairs]))


def _differs_in_vocabulary(name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return name.endswith(VOCABULARY_TENSORS) and len(shape) == len(other) and shape[1:] == other[1:]


def _some(items: Sequence[str]) -> str:
    rest = len(items) - SHOWN_TENSORS
    return ", ".join(items[:SHOWN_TENSORS]) + (f" and {rest} more" if rest > 0 else "")


def _tokenizer_difference(path: Path, template: Path) -> str | None:
    """Return what differs between two tokenizers, None when nothing does or one of them is not there to compare."""
    for name in (*VOCABULARY_FILES, "merges.txt"):
        mine, theirs = path / name, template / name
        if not (mine.is_file() and theirs.is_file()) or mine.read_bytes() == theirs.read_bytes():
            continue
        if name != "tokenizer.json":
            return f"{mine.name} has other content"
        try:
            return _json_difference(json.loads(mine.read_bytes()), json.loads(theirs.read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return f"{mine.name} that is no tokenizer, or does not compare with one ({type(error).__name__}: {error})"
    return None


def _json_difference(mine: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Compare what gives tokens their ids; truncation and padding settings may differ."""
    if mine.get("model", {}).get("vocab") != theirs.get("model", {}).get("vocab"):
        return f"vocabulary with {len(mine['model']['vocab'])} entries"
    if mine.get("model", {}).get("merges") != theirs.get("model", {}).get("merges"):
        return "other merge rules"
    added = [{token["content"]: token["id"] for token in side.get("added_tokens") or []} for side in (mine, theirs)]
    if added[0] != added[1]:
        return f"added tokens {sorted(set(added[0].items()) ^ set(added[1].items()))}"
    return None
