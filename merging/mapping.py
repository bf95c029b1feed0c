"""Views of memory-mapped files, and letting go of them."""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

import torch

_LIBC = ctypes.CDLL(None, use_errno=True)


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file. Copy on write, as torch warns about buffers that are read-only; nobody writes."""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def unmap(views: Iterable[torch.Tensor]) -> None:
    """Take the whole pages under `views`, of files that nobody writes to, out of this process's memory.

    They stay in the page cache and come back when they are read. Views of other memory must not be given.
    """
    for view in views:
        first = -(-view.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (view.data_ptr() + view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < stop:
            _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(stop - first), mmap.MADV_DONTNEED)
