"""The layout of merged safetensors files, known from headers alone: shards, headers, and the place of each tensor."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.pools import Dtype
from merging.checkpoint import CheckpointFiles
from merging.dtypes import MERGED, RECIPE_DTYPES, SAFETENSORS_NAMES, TORCH_DTYPES
from merging.safetensors_header import LENGTH_BYTES

HEADER_ALIGNMENT_BYTES = 8
"""Headers are padded with spaces to a multiple of this, as safetensors' own writer does."""


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor of a merged file: its bytes are [start, stop), counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def is_merged(self) -> bool:
        """Whether the tensor is merged; the others are copied from the template."""
        return self.dtype in MERGED


@dataclass(frozen=True)
class ShardLayout:
    """One merged safetensors file. `header` is the file's beginning, its length field included."""

    file_name: str
    tensors: tuple[PlacedTensor, ...]
    header: bytes

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""
        return len(self.header) + (self.tensors[-1].stop if self.tensors else 0)


def plan_shards(template: CheckpointFiles, dtype: Dtype, max_shard_bytes: int) -> list[ShardLayout]:
    """Lay out the merge's tensors in the template's order, in files of at most `max_shard_bytes` of tensors each.

    A tensor that is larger than that gets a file of its own. One file is named model.safetensors, several
    model-00001-of-0000n.safetensors.
    """
    shards: list[list[PlacedTensor]] = [[]]
    end = 0
    for name, tensor in template.tensors.items():
        kind = SAFETENSORS_NAMES[dtype] if tensor.dtype in MERGED else tensor.dtype
        size = tensor.count * TORCH_DTYPES[kind].itemsize
        if shards[-1] and end + size > max_shard_bytes:
            shards.append([])
            end = 0
        shards[-1].append(PlacedTensor(name, kind, tensor.shape, end, end + size))
        end += size
    return [
        ShardLayout(_file_name(number, len(shards)), tuple(tensors), header_of(tensors))
        for number, tensors in enumerate(shards, start=1)
    ]


def index_document(shards: list[ShardLayout]) -> bytes:
    """Return the content of model.safetensors.index.json."""
    weight_map = {tensor.name: shard.file_name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.stop - tensor.start for shard in shards for tensor in shard.tensors)
    return _document({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def config_document(template: CheckpointFiles, dtype: Dtype) -> bytes:
    """Return the template's config.json with the merge's type under the key that it used, `dtype` by default."""
    key = "torch_dtype" if "torch_dtype" in template.config and "dtype" not in template.config else "dtype"
    return _document({**template.config, key: str(RECIPE_DTYPES[dtype]).removeprefix("torch.")})


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def header_of(tensors: Sequence[PlacedTensor]) -> bytes:
    """Return the beginning of a safetensors file that holds `tensors`, which follow each other without holes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        offsets = [tensor.start, tensor.stop]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _document(document: dict[str, object]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
