"""Files that are there whole or not at all, whoever writes them at once and whatever kills the writer."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a sibling of `file`: the file itself is replaced, which would lose a lock on it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_file(file: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write `blocks` in place of `file`, whose lock the caller holds. Readers see the old file or the new one.

    What a killed writer leaves is a sibling named `.partial`, which the next writer overwrites. Raises OSError when the
    disk is full, and leaves nothing then.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            for block in blocks:
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
