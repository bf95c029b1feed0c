"""Read a checkpoint once: digest its bytes and make sure that every number in it is finite."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import torch

from campaigns.errors import FieldError, InvalidCheckpoint, field_error
from campaigns.pools import Checkpoint
from merging.adapter import LoraAdapter
from merging.checkpoint import CheckpointFiles
from merging.dtypes import MERGED, TORCH_DTYPES
from merging.inspection_cache import InspectionCache
from merging.safetensors_header import TensorInfo

BLOCK_BYTES = 4 << 20
SHOWN_TENSORS = 5
CACHE_NAME = "inspections.json"
ADAPTERS = "adapters"
"""The folder of the cache that holds what adapters make of their bases."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def inspect_checkpoint(
    path: Path, name: str, field: str, cache_file: Path | None = None, progress: Progress | None = None
) -> Checkpoint:
    """Return the checkpoint at `path`, read through once; at once when `cache_file` knows its stamp.

    Raises `InvalidCheckpoint` with `field` for what `CheckpointFiles` refuses, NaN or infinite weights (naming the
    tensors), and files that change while they are read.
    """
    return inspect_files(CheckpointFiles(path, field), name, cache_file, progress)


def inspect_adapter(
    adapter: LoraAdapter, name: str, base_digest: str, cache_dir: Path, progress: Progress | None = None
) -> Checkpoint:
    """Return an adapter as a member of the pool, read through once.

    Its digest is made of that of its files and of the base's; its tensors are kept under `cache_dir`. Raises
    `InvalidCheckpoint` as `inspect_checkpoint` does.
    """
    own = inspect_files(adapter, name, cache_dir / CACHE_NAME, progress)
    digest = hashlib.sha256(f"lora\0{own.digest}\0{base_digest}\n".encode()).hexdigest()
    merged_file = str(cache_dir / ADAPTERS / f"{digest}.safetensors")
    return own.replace(digest=digest, content_digest=own.digest, merged_file=merged_file)


def inspect_files(
    files: CheckpointFiles | LoraAdapter, name: str, cache_file: Path | None, progress: Progress | None = None
) -> Checkpoint:
    """Return what `files` are by their own content, as `inspect_checkpoint` does."""
    before = stamp_of(files.files)
    size_bytes = sum(file.stat().st_size for file in files.files.values())
    cache = InspectionCache(cache_file)
    digest = cache.get(files.path, before)
    if digest is None:
        digest = _read_through(files, size_bytes, progress)
        if stamp_of(files.files) != before:
            message = "the files changed while they were read"
            raise InvalidCheckpoint([field_error(files.field, str(files.path), message)])
        cache.put(files.path, before, digest)
    elif progress:
        progress(size_bytes, size_bytes)
    return Checkpoint(name=name, path=str(files.path), digest=digest, stamp=before, size_bytes=size_bytes)


def stamp(path: Path, field: str = "path") -> str:
    """Return the sha256 (hex) of the names, sizes and modification times of a checkpoint's files.

    Raises `InvalidCheckpoint` when the directory is no longer a checkpoint.
    """
    return stamp_of(CheckpointFiles(path, field).files)


def stamp_of(files: dict[str, Path]) -> str:
    """Return the stamp of `files`; a file that is gone makes it differ from every stamp with the file."""
    lines = []
    for name, file in sorted(files.items()):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        lines.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_through(files: CheckpointFiles | LoraAdapter, size_bytes: int, progress: Progress | None) -> str:
    """Return the sha256 (hex) over name, size and sha256 of each file; refuse weights that are not finite."""
    digest = hashlib.sha256()
    errors: list[FieldError] = []
    done = 0
    for name, file in files.files.items():
        content = hashlib.sha256()
        tensors = [(n, tensor) for n, tensor in files.stored.items() if tensor.file == file]
        bad: dict[str, None] = {}
        with file.open("rb") as stream:
            for block in _blocks(stream, tensors, bad):
                content.update(block)
                done += len(block)
                if progress:
                    progress(done, size_bytes)
        digest.update(f"{name}\0{file.stat().st_size}\0{content.hexdigest()}\n".encode())
        if bad:
            shown = ", ".join([*bad][:SHOWN_TENSORS]) + (
                f", ... ({len(bad)} in all)" if len(bad) > SHOWN_TENSORS else ""
            )
            message = f"{name}: weights are NaN or infinite in {shown}"
            errors.append(field_error(files.field, str(files.path), message, "finite numbers"))
    if errors:
        raise InvalidCheckpoint(errors)
    return digest.hexdigest()


def _blocks(stream: BinaryIO, tensors: list[tuple[str, TensorInfo]], bad: dict[str, None]) -> Iterator[memoryview]:
    """Yield the bytes of a file in order; on the way, add the names of tensors that are not finite to `bad`."""
    buffer = bytearray(BLOCK_BYTES)
    position = 0
    for dtype, group in groupby(tensors, lambda named: named[1].dtype):
        same = list(group)
        yield from _plain_blocks(stream, buffer, same[0][1].start - position)
        position = same[0][1].start
        while position < same[-1][1].stop:
            length = min(BLOCK_BYTES, same[-1][1].stop - position)
            block = memoryview(buffer)[: stream.readinto(memoryview(buffer)[:length])]  # type: ignore[attr-defined]
            if dtype in MERGED and not _is_finite(block, dtype):
                _name_bad(block, position, same, bad)
            position += length
            yield block
            if len(block) < length:
                return
    yield from _plain_blocks(stream, buffer, None)


def _plain_blocks(stream: BinaryIO, buffer: bytearray, length: int | None) -> Iterator[memoryview]:
    while length is None or length > 0:
        wanted = BLOCK_BYTES if length is None else min(BLOCK_BYTES, length)
        block = memoryview(buffer)[: stream.readinto(memoryview(buffer)[:wanted])]  # type: ignore[attr-defined]
        if not block:
            return
        length = None if length is None else length - len(block)
        yield block


def _is_finite(block: memoryview, dtype: str) -> bool:
    """Say whether all elements are finite, in one pass without a copy: minimum and maximum carry NaN and infinity."""
    count = len(block) // TORCH_DTYPES[dtype].itemsize
    if count == 0:
        return True
    low, high = torch.frombuffer(block, dtype=TORCH_DTYPES[dtype], count=count).aminmax()
    return bool(low.isfinite() and high.isfinite())


def _name_bad(block: memoryview, position: int, tensors: list[tuple[str, TensorInfo]], bad: dict[str, None]) -> None:
    for name, tensor in tensors:
        start, stop = max(tensor.start, position), min(tensor.stop, position + len(block))
        if start < stop and not _is_finite(block[start - position : stop - position], tensor.dtype):
            bad[name] = None
