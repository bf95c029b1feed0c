"""Directories that are there whole or not at all, whatever kills the writer."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def scratch_directory(directory: Path) -> Iterator[Path]:
    """Make a hidden sibling of `directory`, gone afterwards unless it was renamed; first remove those of dead writers.

    A writer holds a lock on its own for as long as it lives.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name}."
    with ExitStack() as stack:
        with _locked_directory(directory.parent):
            for left in directory.parent.glob(f"{glob.escape(prefix)}*{PARTIAL}"):
                with suppress(BlockingIOError, FileNotFoundError), _locked_directory(left, fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=prefix, suffix=PARTIAL))
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            stack.enter_context(_locked_directory(temporary))
        temporary.chmod(0o755)
        yield temporary


@contextmanager
def _locked_directory(directory: Path, flags: int = 0) -> Iterator[None]:
    """Hold an exclusive lock on a directory; with LOCK_NB, raise BlockingIOError when somebody else does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)
