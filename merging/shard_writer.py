"""Writing a merged file: every thread reads sources, merges and writes windows of its own, each in its place."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from merging.kernel import Kernel, merging_threads
from merging.merged_shard import MergedShard, bytes_of, refuse_overflow
from merging.runs import Run
from merging.threads import spread

WINDOW_ELEMENTS = 1 << 20
"""Few enough for what a thread works on to stay in the processor's cache, enough to make up for the calls."""
WHOLE_BYTES = 16 << 20
"""What a thread may read of all sources together, to have a tensor at hand that is looked at before it is merged."""

Window = tuple[Run, int, int, int]
"""Elements [start, stop) of a run, and the byte of the file where the first of them goes."""


def write_shard(shard: MergedShard, file: Path) -> Iterator[int]:
    """Write a merged file; yield how many bytes each step has added to it.

    Sources are read into buffers, not through their memory maps: to copy a page out of the page cache costs a fraction
    of mapping and unmapping it, and the buffers bound the memory.
    """
    with ExitStack() as stack:
        target = stack.enter_context(file.open("wb", buffering=0)).fileno()
        yield _write(target, shard.layout.header, 0)
        offset = len(shard.layout.header)
        for part in shard.parts:
            if part.copied is not None:
                yield _write(target, bytes_of(part.copied), offset + part.start)
        opened: dict[Path, int | None] = {}
        windows = _windows(shard, offset, opened, stack)
        threads = merging_threads(shard.kernel)
        yield from spread(lambda: _Desk(shard.kernel, target, opened).merge, windows, threads)


def _windows(shard: MergedShard, offset: int, opened: dict[Path, int | None], stack: ExitStack) -> Iterator[Window]:
    """Yield the windows of a file in order; their sources are `opened` by then, to be closed by `stack`."""
    size = shard.kernel.dtype.itemsize
    for part in shard.parts:
        if part.run is not None:
            for place in part.run.places.values():
                if place.file not in opened:
                    opened[place.file] = _open(place.file, stack)
            whole = WHOLE_BYTES // sum(source.itemsize for source in part.run.sources.values())
            for start, stop in shard.kernel.windows(part.run, WINDOW_ELEMENTS, whole):
                yield part.run, start, stop, offset + part.start + start * size


def _open(file: Path, stack: ExitStack) -> int | None:
    """Open a file for reading; None when it is gone, but mapped: a cache may be emptied while it is in use."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    stack.callback(os.close, descriptor)
    return descriptor


class _Desk:
    """What one thread works with: buffers for every source and for the result."""

    def __init__(self, kernel: Kernel, target: int, opened: Mapping[Path, int | None]) -> None:
        self._kernel = kernel
        self._target = target
        self._opened = opened
        self._buffers: dict[str, torch.Tensor] = {}

    def merge(self, window: Window) -> int:
        """Merge a window, write it where it goes, and return its bytes."""
        run, start, stop, offset = window
        loaded = {digest: self._read(run, digest, start, stop) for digest in run.sources}
        out = self._buffer("", stop - start, self._kernel.dtype)
        self._kernel.merge_run(run, out, start, loaded)
        refuse_overflow(out)
        return _write(self._target, bytes_of(out), offset)

    def _read(self, run: Run, digest: str, start: int, stop: int) -> torch.Tensor:
        view, place = run.sources[digest], run.places[digest]
        buffer = self._buffer(digest, stop - start, view.dtype)
        descriptor = self._opened[place.file]
        if descriptor is None:
            return buffer.copy_(view[start:stop])
        content, offset = bytes_of(buffer), place.start + start * view.itemsize
        done = 0
        while done < len(content):
            count = os.preadv(descriptor, [content[done:]], offset + done)
            if not count:
                raise EOFError(f"{place.file} became shorter while it was read")
            done += count
        return buffer

    def _buffer(self, name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        found = self._buffers.get(name)
        if found is None or len(found) < count or found.dtype != dtype:
            found = self._buffers[name] = torch.empty(count, dtype=dtype)
        return found[:count]


def _write(target: int, content: bytes | memoryview, offset: int) -> int:
    view = memoryview(content)
    done = 0
    while done < len(view):
        done += os.pwrite(target, view[done:], offset + done)
    return done
