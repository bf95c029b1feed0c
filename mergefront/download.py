"""Downloading a merged model directory: whole or not at all, checked by digest, going on where it broke off."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

CONFIG = "config.json"
ATTEMPTS = 5
"""Requests in a row that brought not one byte, and copies of a file with a wrong digest that are fetched again."""
BUSY_ATTEMPTS = 20
BACKOFF_SECONDS = 1.0
BUSY = (429, 503)
NO_READ_TIMEOUT = httpx.Timeout(60.0, read=None)  # a digest may take as long as merging the file

File = Mapping[str, Any]
Progress = Callable[[int, int], None]


class FileChanged(OSError):
    """A file is no longer what the manifest said: its ETag is another."""


class Busy(Exception):
    """The service asks to come back in so many seconds."""

    def __init__(self, response: httpx.Response) -> None:
        asked = response.headers.get("retry-after", "")
        self.seconds = float(asked) if asked.isdecimal() else BACKOFF_SECONDS
        self.response = response


def _raise_for_status(response: httpx.Response) -> None:
    response.raise_for_status()


def download_directory(
    http: httpx.Client,
    list_files: Callable[[], Sequence[File]],
    directory: Path,
    progress: Progress,
    check: Callable[[httpx.Response], None] = _raise_for_status,
) -> Path:
    """Fetch every file of a manifest into `directory`, which is there whole at the end or not at all.

    What arrived of an interrupted download stays in a hidden sibling, under names that no loader takes for a model; the
    next download into the same directory goes on from there, where ETags are the same. `list_files` reads the manifest,
    again if a file changes meanwhile; `check` raises for a response that is an error. Raises FileExistsError when
    `directory` holds something, BlockingIOError while another download into it runs, and OSError when a file keeps
    arriving with other bytes than the service says.
    """
    directory = directory.resolve()
    _refuse_if_taken(directory)
    with _partial_directory(directory) as partial:
        _refuse_if_taken(directory)  # by a download that ended just now
        for reading in range(ATTEMPTS):
            files = list_files()
            try:
                _Download(http, files, partial, progress, check).run()
                break
            except FileChanged:
                if reading == ATTEMPTS - 1:
                    raise
        for file in sorted(files, key=lambda file: file["name"] == CONFIG):  # no directory is a model without it
            _whole(partial, file).replace(partial / _name(file))
        partial.replace(directory)
    return directory


class _Download:
    """One manifest's files on their way into `partial`."""

    def __init__(
        self,
        http: httpx.Client,
        files: Sequence[File],
        partial: Path,
        progress: Progress,
        check: Callable[[httpx.Response], None],
    ) -> None:
        self._http, self._files, self._partial, self._check = http, files, partial, check
        self._progress = progress
        self._total = sum(file["size_bytes"] for file in files)

    def run(self) -> None:
        """Have all files whole and checked. Raises FileChanged when one is no longer what the manifest says."""
        kept = {path(self._partial, file) for file in self._files for path in (_part, _whole)}
        for left in set(self._partial.iterdir()) - kept:
            left.unlink()
        for file in self._files:
            self._fetch(file)
        self._progress(self._total, self._total)

    def _fetch(self, file: File) -> None:
        """Have the file whole and checked, at once where an earlier download left it so."""
        part, whole = _part(self._partial, file), _whole(self._partial, file)
        for _ in range(ATTEMPTS):
            if whole.exists():
                return
            self._patiently(lambda: self._receive(file, part), part)
            if _digest(part) == self._expected(file, part):
                part.replace(whole)
            else:
                part.unlink()
        if not whole.exists():
            raise OSError(f"{file['name']} arrived {ATTEMPTS} times with another sha256 than the service says")

    def _patiently(self, request: Callable[[], None], part: Path) -> None:
        """Do `request` until it succeeds, unless the network or the service keeps refusing."""
        broken = busy = 0
        while True:
            before = _size(part)
            try:
                return request()
            except httpx.TransportError:
                broken = 0 if _size(part) > before else broken + 1
                if broken == ATTEMPTS:
                    raise
                time.sleep(BACKOFF_SECONDS * broken)
            except Busy as error:
                busy += 1
                if busy == BUSY_ATTEMPTS:
                    self._check(error.response)
                time.sleep(error.seconds)

    def _receive(self, file: File, part: Path) -> None:
        """Receive what is missing of a file. Raises OSError when there is more or less of it than the manifest says."""
        size = _size(part)
        if size == file["size_bytes"] and part.exists():
            return
        headers = {"Accept-Encoding": "identity"}
        if size:
            headers |= {"Range": f"bytes={size}-", "If-Range": f'"{file["etag"]}"'}
        with self._http.stream("GET", file["url"], headers=headers) as response:
            self._refuse(response)
            if response.headers.get("etag") != f'"{file["etag"]}"':
                raise FileChanged(f"{file['name']} changed while it was downloaded")
            others = sum(path.stat().st_size for path in self._partial.iterdir()) - size
            with part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb", buffering=0) as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    self._progress(others + out.tell(), self._total)
        if _size(part) != file["size_bytes"]:
            size = _size(part)
            part.unlink()
            raise OSError(f"{file['name']} arrived with {size} bytes instead of {file['size_bytes']}")

    def _expected(self, file: File, part: Path) -> str:
        """Return the sha256 that the file must have: the manifest's, else the service's, which may have to merge."""
        if file["sha256"] is not None:
            return str(file["sha256"])
        found: dict[str, Any] = {}

        def ask() -> None:
            response = self._http.get(f"{file['url']}/digest", timeout=NO_READ_TIMEOUT)
            self._refuse(response)
            found.update(response.json())

        self._patiently(ask, part)
        if found["etag"] != file["etag"]:
            raise FileChanged(f"{file['name']} changed while it was downloaded")
        return str(found["sha256"])

    def _refuse(self, response: httpx.Response) -> None:
        if response.is_error:
            response.read()
        if response.status_code in BUSY:
            raise Busy(response)
        self._check(response)


def _name(file: File) -> str:
    return Path(file["name"]).name


def _part(partial: Path, file: File) -> Path:
    return partial / f"{_name(file)}.{_version(file)}.part"


def _whole(partial: Path, file: File) -> Path:
    return partial / f"{_name(file)}.{_version(file)}.whole"


def _version(file: File) -> str:
    return hashlib.sha256(file["etag"].encode()).hexdigest()[:16]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_if_taken(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty directory")


@contextmanager
def _partial_directory(directory: Path) -> Iterator[Path]:
    """Make or find the hidden sibling and hold its lock. Empty, it is removed again."""
    partial = directory.parent / f".{directory.name}.pull"
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(f"another download into {directory} is running") from None
    try:
        yield partial
    finally:
        with suppress(OSError):
            partial.rmdir()
        os.close(descriptor)
