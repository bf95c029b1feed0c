"""Whether checkpoints can be merged with each other; if not, everything that stands against it, at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaigns.errors import FieldError, InvalidCheckpoint, MisfitPool, field_error
from campaigns.pools import Checkpoint, CheckpointSpec, Dtype, Embeddings, Pool, PoolSpec
from campaigns.recipe import layer_of
from merging.adapter import LoraAdapter, is_adapter
from merging.calibration.pool_statistics import find_statistics
from merging.checkpoint import CheckpointFiles
from merging.dtypes import MERGED
from merging.inspection import CACHE_NAME, Progress, inspect_adapter, inspect_checkpoint
from merging.sources import locate
from merging.tokenizer_report import VOCABULARY_FILES, tokenizer_difference
from merging.vocabulary import (
    differs_in_vocabulary,
    digest_in_pool,
    fitted,
    fixed_tensors,
    is_copy_of_input,
    tied_outputs,
)

SHOWN_TENSORS = 3

Member = tuple[CheckpointFiles, Checkpoint]


def inspect_pool(
    spec: PoolSpec,
    roots: Sequence[Path],
    hub_repositories: Sequence[str],
    cache_dir: Path | None,
    progress: Progress | None = None,
) -> Pool:
    """Find, read through and compare the checkpoints of `spec`; merge adapters into the base.

    `cache_dir` keeps downloads, what inspections found, and what adapters make of the base. `progress` is called with
    (bytes done, bytes in all) of each checkpoint in turn.
    Raises `InvalidCheckpoint` naming every checkpoint that cannot be used, else `MisfitPool` naming every misfit with
    the template (the base if there is one, else the first checkpoint): architecture, tensor names, shapes, tokenizer.
    Floating types may differ, and vocabulary sizes as far as `spec.embeddings` says. Fields are as in the spec:
    `pool.checkpoints.2.path`, `pool.base.path`, `pool.base.statistics`.
    """
    named = [(f"pool.checkpoints.{index}", checkpoint) for index, checkpoint in enumerate(spec.checkpoints)]
    if spec.base is not None:
        named.insert(0, ("pool.base", spec.base))
    places = _Places(roots, hub_repositories, cache_dir, progress)
    errors: list[FieldError] = []
    found: dict[str, Member] = {}
    for field, checkpoint in named:
        try:
            found[field] = places.find(field, checkpoint, spec.base is not None, found.get("pool.base"))
        except InvalidCheckpoint as error:
            errors += error.errors
    if errors:
        raise InvalidCheckpoint(errors)
    return _pool(spec, [*found.values()])


@dataclass(frozen=True)
class _Places:
    """Where checkpoints may lie, where what is found out about them is kept, and who is told how far it is."""

    roots: Sequence[Path]
    hub_repositories: Sequence[str]
    cache_dir: Path | None
    progress: Progress | None

    def find(self, field: str, checkpoint: CheckpointSpec, has_base: bool, base: Member | None) -> Member:
        """Return the checkpoint, read through once. Raises `InvalidCheckpoint`, with no errors when it is all right
        but for its base, which was refused already."""
        hub_cache = self.cache_dir / "hub" if self.cache_dir else None
        cache_file = self.cache_dir / CACHE_NAME if self.cache_dir else None
        path = locate(checkpoint, field, self.roots, self.hub_repositories, hub_cache)
        leaf = _field_of(field, checkpoint)
        if not is_adapter(path):
            inspected = inspect_checkpoint(path, checkpoint.name, leaf, cache_file, self.progress)
            files = CheckpointFiles(path, leaf)
        elif not has_base or field == "pool.base":
            message = "a LoRA adapter can be merged into the base of its pool only, which must be a whole model"
            raise InvalidCheckpoint([field_error(leaf, str(path), message, "a pool with a base, pool.base")])
        elif base is None:
            raise InvalidCheckpoint([])
        else:
            files, inspected = self._adapter(LoraAdapter(path, base[0], leaf), checkpoint.name, base[1].digest)
        if checkpoint.statistics is not None:
            own = f"{field}.statistics"
            statistics = find_statistics(checkpoint.statistics, inspected, own, self.roots, cache_file)
            inspected = inspected.replace(statistics=statistics)
        return files, inspected

    def _adapter(self, adapter: LoraAdapter, name: str, base_digest: str) -> Member:
        if self.cache_dir is None:
            message = "a LoRA adapter needs a cache directory, which keeps what it makes of the base"
            raise InvalidCheckpoint([field_error(adapter.field, str(adapter.path), message)])
        inspected = inspect_adapter(adapter, name, base_digest, self.cache_dir, self.progress)
        return adapter.merged(Path(str(inspected.merged_file))), inspected


def _field_of(field: str, checkpoint: CheckpointSpec) -> str:
    return f"{field}.path" if checkpoint.hub is None else f"{field}.hub"


def _pool(spec: PoolSpec, found: list[Member]) -> Pool:
    template = found[0][0]
    errors = [*template_errors(template)]
    for files, _ in found[1:]:
        errors += misfits(files, template, spec.embeddings)
    if errors:
        raise MisfitPool(errors)
    fixed = fixed_tensors([files for files, _ in found], template, spec.embeddings)
    checkpoints = [
        _with_digest(checkpoint, digest_in_pool(checkpoint.digest, files, template, spec.embeddings, fixed))
        for files, checkpoint in found
    ]
    base = checkpoints.pop(0) if spec.base is not None else None
    # What an adapter makes of the base is float32, whatever the base is.
    first = next((files for files, c in found[base is not None :] if c.merged_file is None), template)
    return Pool(
        checkpoints=tuple(checkpoints),
        base=base,
        dtype=spec.dtype or main_dtype(first),
        architecture=_architecture(template),
        parameter_count=sum(tensor.count for tensor in template.merged_tensors.values()),
        embeddings=spec.embeddings,
        layers=_layers(template),
    )


def _with_digest(checkpoint: Checkpoint, digest: str) -> Checkpoint:
    if digest == checkpoint.digest:
        return checkpoint
    return checkpoint.replace(digest=digest, content_digest=checkpoint.content_digest or checkpoint.digest)


def _layers(files: CheckpointFiles) -> int | None:
    """Return how many layers the names of merged tensors count, None when they have no numbers."""
    return max((layer + 1 for name in files.merged_tensors if (layer := layer_of(name)) is not None), default=None)


def main_dtype(files: CheckpointFiles) -> Dtype:
    """Return the type that most of a checkpoint's merged elements have."""
    counts = dict.fromkeys(MERGED, 0)
    for tensor in files.merged_tensors.values():
        counts[tensor.dtype] += tensor.count
    return MERGED[max(counts, key=lambda name: counts[name])]


def misfits(
    files: CheckpointFiles, template: CheckpointFiles, embeddings: Embeddings = "refuse"
) -> Iterator[FieldError]:
    """Yield everything that keeps a checkpoint from being merged with `template`, under the checkpoint's field."""
    if _architecture(files) != _architecture(template):
        yield field_error(files.field, _architecture(files), "architecture differs", _architecture(template))
    for output in tied_outputs(files, template):
        if not is_copy_of_input(files, output):
            allowed = f"a copy of the input embedding, as {template.path} ties the two"
            yield field_error(files.field, output, "the output embedding is not tied", allowed)
    view = fitted(files, template, embeddings, fixed_tensors([files], template, embeddings))
    yield from _name_misfits(view, template)
    yield from _shape_misfits(view, template)
    if (difference := tokenizer_difference(files.path, template.path, embeddings != "refuse")) is not None:
        yield field_error(files.field, difference, "tokenizer differs", f"the tokenizer of {template.path}")


def _architecture(files: CheckpointFiles) -> str:
    architectures = files.config.get("architectures")
    listed = isinstance(architectures, list) and architectures
    return str(listed[0] if listed else files.config.get("model_type"))


def template_errors(template: CheckpointFiles) -> Iterator[FieldError]:
    """Yield what keeps a checkpoint from giving a model and its tokenizer, under the checkpoint's field."""
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
            kind = "vocabulary size differs" if differs_in_vocabulary(name, tensor, other) else "shape differs"
            kinds.setdefault(kind, []).append((f"{name} {list(tensor.shape)}", f"{name} {list(other.shape)}"))
        if tensor.dtype != other.dtype and not {tensor.dtype, other.dtype} <= MERGED.keys():
            kinds.setdefault("type differs", []).append((f"{name} {tensor.dtype}", f"{name} {other.dtype}"))
    for kind, pairs in kinds.items():
        yield field_error(files.field, _some([p[0] for p in pairs]), kind, _some([p[1] for p in pairs]))


def _some(items: Sequence[str]) -> str:
    rest = len(items) - SHOWN_TENSORS
    return ", ".join(items[:SHOWN_TENSORS]) + (f" and {rest} more" if rest > 0 else "")
