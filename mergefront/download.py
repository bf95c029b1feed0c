"""Downloading a merged model directory whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

CHUNK_BYTES = 2**20


def download_directory(
    http: httpx.Client,
    files: Sequence[Mapping[str, Any]],
    directory: Path,
    progress: Callable[[int, int], None],
) -> Path:
    """Fetch every file of a manifest into `directory`, through a temporary sibling that is renamed at the end.

    Raises FileExistsError when `directory` holds something, OSError when a file arrives with another size than said.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    total = sum(file["size_bytes"] for file in files)
    done = 0
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for file in files:
            for size in _fetch(http, file, partial / Path(file["name"]).name):
                done += size
                progress(done, total)
        partial.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return directory


def _fetch(http: httpx.Client, file: Mapping[str, Any], path: Path) -> Iterator[int]:
    with http.stream("GET", file["url"]) as response, path.open("wb") as out:
        response.raise_for_status()
        for chunk in response.iter_bytes(CHUNK_BYTES):
            out.write(chunk)
            yield len(chunk)
    if path.stat().st_size != file["size_bytes"]:
        raise OSError(f"{file['name']} arrived with {path.stat().st_size} bytes instead of {file['size_bytes']}")
