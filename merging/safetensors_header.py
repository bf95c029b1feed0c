"""The header of one safetensors file, parsed and checked without reading any tensor.

Layout: 8 bytes little-endian header length n, n bytes of JSON, then the tensors' bytes without holes.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.dtypes import TORCH_DTYPES

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000


class CorruptHeader(ValueError):
    """What is wrong with a safetensors file, in words; `value` is what was found, `allowed` what may be there."""

    def __init__(self, message: str, value: object, allowed: str | None = None) -> None:
        super().__init__(message)
        self.value = value
        self.allowed = allowed


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `start` and `stop` are byte positions in `file`, counted from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return the tensors of `file` by name, in the order of their bytes.

    Raises `CorruptHeader` for a file that is truncated, has bytes left over, or whose header is not what it should be.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            allowed = f"at most {max(0, min(size - LENGTH_BYTES, MAX_HEADER_BYTES))} bytes of header in this file"
            raise CorruptHeader("truncated or corrupt: the header is longer than the file", length, allowed)
        text = stream.read(length)
    data_start = LENGTH_BYTES + length
    tensors = [
        (name, _tensor(name, entry, file, data_start)) for name, entry in _parse(text).items() if name != "__metadata__"
    ]
    tensors.sort(key=lambda named: (named[1].start, named[1].stop))
    _check_cover(tensors, data_start, size)
    return dict(tensors)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptHeader(f"corrupt: the header is not JSON ({error})", text[:60]) from None
    if not isinstance(header, dict):
        raise CorruptHeader("corrupt: the header is not a JSON object", header, "an object of tensors by name")
    return header


def _tensor(name: str, entry: Any, file: Path, data_start: int) -> TensorInfo:
    if not _is_text(name):
        raise CorruptHeader("corrupt: a tensor has a name that is not Unicode text", name, "names in UTF-8")
    try:
        dtype, shape, (start, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        allowed = "an object with dtype, shape and data_offsets"
        raise CorruptHeader(f"corrupt: the header's entry for tensor {name!r} is malformed", entry, allowed) from None
    if dtype not in TORCH_DTYPES:
        raise CorruptHeader(f"tensor {name!r} has an unknown type", dtype, ", ".join(TORCH_DTYPES))
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise CorruptHeader(f"corrupt: tensor {name!r} has a malformed shape or offsets", entry, "whole numbers from 0")
    expected = math.prod(shape) * TORCH_DTYPES[dtype].itemsize
    if stop - start != expected:
        message = f"corrupt: the offsets of tensor {name!r} do not match its shape {list(shape)} and type {dtype}"
        raise CorruptHeader(message, [start, stop], f"{expected} bytes")
    return TensorInfo(dtype, shape, file, data_start + start, data_start + stop)


def _is_text(name: str) -> bool:
    """Say whether the name can be written to a file: JSON can spell halves of characters, which UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_cover(tensors: list[tuple[str, TensorInfo]], data_start: int, size: int) -> None:
    """Refuse overlapping tensors, holes between them, and a file that ends before or after its last tensor."""
    end = data_start
    for name, tensor in tensors:
        if tensor.start != end:
            kind = "overlaps the tensor before it" if tensor.start < end else "leaves a hole before it"
            offsets = [tensor.start - data_start, tensor.stop - data_start]
            raise CorruptHeader(f"corrupt: tensor {name!r} {kind}", offsets, f"offsets from {end - data_start}")
        end = tensor.stop
    if end != size:
        what = (
            "truncated: the file ends before its last tensor" if size < end else "corrupt: bytes after the last tensor"
        )
        raise CorruptHeader(what, f"{size} bytes", f"{end} bytes by its header")
