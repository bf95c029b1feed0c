"""A merged model as a directory that need not exist: sizes are known at once, bytes are merged as they are read."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from campaigns.errors import InvalidInput, NotFound, field_error
from campaigns.recipe import Recipe
from merging.checkpoint import COMPANIONS, CONFIG, INDEX
from merging.image_layout import config_document, index_document, plan_shards
from merging.inspection import Progress
from merging.kernel import COMPILE_FROM_ELEMENTS, Kernel
from merging.merged_shard import STREAM_ELEMENTS, MergedShard
from merging.pool_files import PoolFiles
from merging.shard_writer import write_shard
from merging.whole_directory import scratch_directory

MAX_SHARD_BYTES = 5_000_000_000
COPY_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class MergedFile:
    """One file of a merged model. Equal `etag` (sha256, hex), equal bytes."""

    name: str
    size_bytes: int
    etag: str


class MergedModel:
    """The model directory that `recipe` makes of a pool, as virtual files.

    Weights are merged when they are read; config.json is the template's with the merge's dtype; generation settings,
    tokenizer and chat template are the template's own. `extra_files` (a model card, say) come on top of these.
    `compiled` is whether `write_directory` may compile its passes; by default large models are worth that.
    Raises `InvalidInput` for a recipe that this pool cannot make and `InvalidCheckpoint` for one that changed on disk.
    """

    def __init__(
        self,
        pool_files: PoolFiles,
        recipe: Recipe,
        extra_files: Mapping[str, bytes] | None = None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        compiled: bool | None = None,
    ) -> None:
        pool_files.check(recipe)
        pool_files.verify()
        self.pool_files = pool_files
        self.recipe = recipe
        self.compiled = pool_files.pool.parameter_count >= COMPILE_FROM_ELEMENTS if compiled is None else compiled
        template = pool_files.template
        shards = plan_shards(template, recipe.dtype, max_shard_bytes)
        self._shards = {shard.file_name: shard for shard in shards}
        self._documents = {CONFIG: config_document(template, recipe.dtype)}
        if len(shards) > 1:
            self._documents[INDEX] = index_document(shards)
        self._documents |= extra_files or {}
        self._copied = {name: file for name, file in template.files.items() if name in COMPANIONS}
        self._copied = {name: file for name, file in self._copied.items() if name not in self._documents}
        self.files: dict[str, MergedFile] = {file.name: file for file in sorted(self._list(), key=lambda f: f.name)}

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files.values())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield bytes [start, stop) of a file, to its end by default, in blocks of a few megabytes.

        Raises `NotFound` for a file that the model does not have, and ValueError for a range outside the file.
        """
        if name not in self.files:
            raise NotFound(f"the model has no file {name!r}; it has {', '.join(self.files)}")
        size = self.files[name].size_bytes
        stop = size if stop is None else stop
        if not 0 <= start <= stop <= size:
            raise ValueError(f"{name} has {size} bytes; bytes {start} to {stop} are no range of it")
        if name in self._shards:
            self.pool_files.verify()
            shard = MergedShard(Kernel(self.recipe, self.pool_files), self._shards[name])
            return (bytes(block) for block in shard.blocks(start, stop, STREAM_ELEMENTS))
        if name in self._documents:
            return iter([self._documents[name][start:stop]])
        return _read_file(self._copied[name], start, stop)

    def write_directory(self, directory: Path, progress: Progress | None = None) -> None:
        """Write all files to `directory`: to a temporary sibling first, so that it is there whole or not at all.

        What a killed writer leaves is a sibling whose name starts with a dot, without config.json; the next writer of
        the same directory removes it. `progress` is called with (bytes done, bytes in all). Raises `InvalidInput` when
        `directory` exists already, unless it is empty, and when it cannot be written, which leaves nothing.
        """
        directory = directory.resolve()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            allowed = "a new or empty directory"
            raise InvalidInput([field_error("directory", str(directory), "there is something here already", allowed)])
        try:
            with scratch_directory(directory) as temporary:
                self._write_files(temporary, progress or (lambda done, total: None))
                temporary.replace(directory)
            if progress is not None:
                progress(self.size_bytes, self.size_bytes)
        except OSError as error:
            message, allowed = f"the model cannot be written ({error.strerror})", f"{self.size_bytes} bytes of space"
            raise InvalidInput([field_error("directory", str(directory), message, allowed)]) from error

    def _write_files(self, directory: Path, progress: Callable[[int, int], None]) -> None:
        self.pool_files.verify()
        done = 0
        kernel = Kernel(self.recipe, self.pool_files, self.compiled, frugal=True)
        for name in sorted(self.files, key=lambda name: name == CONFIG):  # no directory is a model without it
            shard = self._shards.get(name)
            path = directory / name
            for written in write_shard(MergedShard(kernel, shard), path) if shard else self._copy_file(name, path):
                done += written
                if done < self.size_bytes:  # all of it is done when the directory is in its place
                    progress(done, self.size_bytes)
        self.pool_files.verify()

    def _copy_file(self, name: str, path: Path) -> Iterator[int]:
        with path.open("wb") as stream:
            for block in self.read(name):
                yield stream.write(block)

    def _list(self) -> Iterator[MergedFile]:
        for name, shard in self._shards.items():
            identity = f"{self.recipe.digest}\0{name}\0{shard.size_bytes}"
            yield MergedFile(name, shard.size_bytes, hashlib.sha256(identity.encode()).hexdigest())
        for name, content in self._documents.items():
            yield MergedFile(name, len(content), hashlib.sha256(content).hexdigest())
        for name, file in self._copied.items():
            status = file.stat()
            yield MergedFile(name, status.st_size, _content_digest(file, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _content_digest(file: Path, size_bytes: int, modified_ns: int) -> str:
    """Return the sha256 (hex) of a file; size and modification time are there to notice that it changed."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_file(file: Path, start: int, stop: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(start)
        while start < stop:
            block = stream.read(min(COPY_BLOCK_BYTES, stop - start))
            if not block:
                raise EOFError(f"{file} became shorter while it was read")
            start += len(block)
            yield block
