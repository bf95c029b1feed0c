"""What inspections found, kept in a JSON file so that gigabytes are read once, not at every start."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InspectionCache:
    """Content digests by path and stamp. Safe against processes that use the same file at once.

    `file` None keeps nothing. A file that cannot be read as a cache counts as empty and is written anew.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file

    def get(self, path: Path, stamp: str) -> str | None:
        """Return the content digest that was found for `path` at `stamp`, or None."""
        known = self._load().get(str(path), {})
        return known.get("digest") if known.get("stamp") == stamp else None

    def put(self, path: Path, stamp: str, digest: str) -> None:
        """Remember the content digest of `path` at `stamp`, in place of that of an earlier stamp."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(self.file):
            entries = {**self._load(), str(path): {"stamp": stamp, "digest": digest}}
            descriptor, temporary = tempfile.mkstemp(dir=self.file.parent, prefix=self.file.name)
            with os.fdopen(descriptor, "w") as stream:
                json.dump(entries, stream, indent=1)
            Path(temporary).replace(self.file)

    def _load(self) -> dict[str, dict[str, str]]:
        if self.file is None:
            return {}
        try:
            entries = json.loads(self.file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {path: entry for path, entry in entries.items() if isinstance(entry, dict)}

    @contextmanager
    def _locked(self, file: Path) -> Iterator[None]:
        """Hold an exclusive lock on a sibling file: the cache itself is replaced, which would lose a lock on it."""
        with file.with_name(file.name + ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
