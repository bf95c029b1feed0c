"""How a checkpoint's vocabulary is brought to its pool's: tied output embeddings, and rows that are too many.

Both are views of the files: nothing is copied or written.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

import torch

from campaigns.pools import Embeddings
from merging.checkpoint import CheckpointFiles
from merging.dtypes import TORCH_DTYPES
from merging.safetensors_header import TensorInfo

INPUT_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
OUTPUT_EMBEDDINGS = ("lm_head.weight", "embed_out.weight")
VOCABULARY_TENSORS = (*INPUT_EMBEDDINGS, *OUTPUT_EMBEDDINGS, "lm_head.bias")
"""The ends of the names of tensors that have one row per token."""


def differs_in_vocabulary(name: str, tensor: TensorInfo, other: TensorInfo) -> bool:
    """Say whether two tensors of this name differ in nothing but the number of tokens."""
    rows, others = tensor.shape, other.shape
    return name.endswith(VOCABULARY_TENSORS) and len(rows) == len(others) and rows != others and rows[1:] == others[1:]


def fixed_tensors(
    members: Iterable[CheckpointFiles], template: CheckpointFiles, embeddings: Embeddings
) -> frozenset[str]:
    """Return the names of the tensors that merges take from the template, converted to their type, under `base`:
    those that have another number of rows in any of the members."""
    if embeddings != "base":
        return frozenset()
    return frozenset(
        name
        for files in members
        for name, tensor in _with_outputs_of(template, files).items()
        if name in template.tensors and differs_in_vocabulary(name, tensor, template.tensors[name])
    )


def fitted(
    files: CheckpointFiles, template: CheckpointFiles, embeddings: Embeddings, fixed: frozenset[str]
) -> CheckpointFiles:
    """Return a member of the pool with the tensors that its template has, as far as they can be had.

    An output embedding that only one of the two stores, as it is tied to the input embedding, is left out or is the
    input embedding. `truncate` cuts rows beyond the template's (rows lead, so that the rest is one piece of the file).
    In place of those of the pool's `fixed` tensors stand the template's.
    """
    tensors = _with_outputs_of(template, files)
    for name, tensor in tensors.items():
        other = template.tensors.get(name)
        if other is None or not (name in fixed or differs_in_vocabulary(name, tensor, other)):
            continue
        if name in fixed:
            tensors[name] = other
        elif embeddings == "truncate" and tensor.shape[0] > other.shape[0]:
            tensors[name] = _first_rows(tensor, other.shape)
    return files.with_tensors(tensors)


def digest_in_pool(
    digest: str, files: CheckpointFiles, template: CheckpointFiles, embeddings: Embeddings, fixed: frozenset[str]
) -> str:
    """Return the content digest of a member as its pool sees it: another one when the pool takes or leaves tensors of
    other names or sizes than the files have, as what is merged of it differs then."""
    tensors = fitted(files, template, embeddings, fixed).tensors
    names = sorted(files.tensors.keys() | tensors.keys())
    changes = {name: _size(tensors, name) for name in names if _size(tensors, name) != _size(files.tensors, name)}
    if files.path == template.path or not (changes or fixed):
        return digest
    text = json.dumps([digest, changes, sorted(fixed)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _size(tensors: dict[str, TensorInfo], name: str) -> int | None:
    return tensors[name].count if name in tensors else None


def tied_outputs(files: CheckpointFiles, template: CheckpointFiles) -> list[str]:
    """Return the output embeddings that `files` stores and the template does not, as it ties them."""
    if not _is_tied(template):
        return []
    extra = files.tensors.keys() - template.tensors.keys()
    return sorted(name for name in extra if name.endswith(OUTPUT_EMBEDDINGS))


def is_copy_of_input(files: CheckpointFiles, output: str) -> bool:
    """Say whether an output embedding has the same type, shape and bytes as the input embedding."""
    twin = _input_embedding(files)
    if twin is None:
        return False
    one, other = files.tensors[output], files.tensors[twin]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(files.flat(t.file, "U8", t.start, t.stop - t.start) for t in (one, other)))


def _with_outputs_of(template: CheckpointFiles, files: CheckpointFiles) -> dict[str, TensorInfo]:
    """Return the tensors of `files` with those output embeddings that the template stores."""
    left_out = tied_outputs(files, template)
    tensors = {name: tensor for name, tensor in files.tensors.items() if name not in left_out}
    twin = _input_embedding(files)
    for name in template.tensors.keys() - tensors.keys():
        if name.endswith(OUTPUT_EMBEDDINGS) and twin is not None and _is_tied(files):
            tensors[name] = files.tensors[twin]
    return tensors


def _input_embedding(files: CheckpointFiles) -> str | None:
    return next((name for name in files.tensors if name.endswith(INPUT_EMBEDDINGS)), None)


def _is_tied(files: CheckpointFiles) -> bool:
    """Say whether a checkpoint may leave out its output embedding; many configurations take that for granted."""
    return files.config.get("tie_word_embeddings", True) is not False


def _first_rows(tensor: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    cut = replace(tensor, shape=shape)
    return replace(cut, stop=tensor.start + cut.count * TORCH_DTYPES[tensor.dtype].itemsize)
