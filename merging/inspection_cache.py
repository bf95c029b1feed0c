"""What inspections found, kept in a JSON file so that gigabytes are read once, not at every start."""

import json
import logging
from pathlib import Path

from merging.whole_file import locked, replace_file

logger = logging.getLogger(__name__)


class InspectionCache:
    """Content digests by path and stamp. Safe against processes that use the same file at once.

    `file` None keeps nothing. A file that cannot be read as a cache counts as empty and is written anew; one that
    cannot be written (a full disk) is left as it is, with a warning in the log.
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
        try:
            with locked(self.file):
                entries = {**self._load(), str(path): {"stamp": stamp, "digest": digest}}
                replace_file(self.file, [json.dumps(entries, indent=1).encode()])
        except OSError as error:
            logger.warning("%s cannot be written, so %s will be read again: %s", self.file, path, error)

    def _load(self) -> dict[str, dict[str, str]]:
        if self.file is None:
            return {}
        try:
            entries = json.loads(self.file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {path: entry for path, entry in entries.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
