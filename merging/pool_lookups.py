"""What merges of a pool ask for again and again: found once, kept on disk by content digest."""

import hashlib
import logging
import shutil
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from merging.checkpoint import CheckpointFiles
from merging.dot_products import dot_products
from merging.magnitudes import Joined, TaskMagnitudes
from merging.mapping import unmap
from merging.row_ranks import row_ranks
from merging.safetensors_header import CorruptHeader, TensorInfo
from merging.selection import Cut, MagnitudeTable, kept_count
from merging.tensor_file import TensorFile, write_tensor_file
from merging.whole_file import locked

FOLDER = "lookups"
VERSION = 3
"""Part of every file's name: to be raised when the content of lookups changes."""

ROW_BLOCK_ELEMENTS = 1 << 20
REMEMBERED_CUTS = 64
"""Cuts over a whole model that are kept: those of the recipes at hand."""

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Found = TypeVar("Found")


class PoolLookups:
    """Magnitude tables, row ranks and dot products of the tensors of a pool's checkpoints, by their digests.

    Each is found for all tensors when it is first asked for, and kept in a file under `directory`, where later
    processes find it; of several that ask at once, one looks and the others wait. Without a directory, files last as
    long as this object.
    """

    def __init__(self, checkpoints: Mapping[str, CheckpointFiles], directory: Path | None) -> None:
        self._checkpoints = checkpoints
        self._directory = directory / FOLDER if directory else self._temporary_directory()
        self._open: dict[tuple[str, ...], TensorFile] = {}
        self._model_cuts: dict[tuple[str, str, float], dict[str, Cut]] = {}
        self._remembered: dict[Hashable, list[float]] = {}
        self._lock = threading.Lock()

    def magnitudes(self, source: str, base: str, tensor: str) -> MagnitudeTable:
        """Return the table of |tau| of a tensor, tau = source - base."""
        return _unpacked(self._find("magnitudes", [source, base], self._write_magnitudes)[tensor])

    def remembered(self, key: Hashable, find: Callable[[], list[float]]) -> list[float]:
        """Return what `find` returned the first time that `key` was asked for in this process."""
        if key not in self._remembered:  # a race finds the same twice
            self._remembered[key] = find()
        return self._remembered[key]

    def model_cut(self, source: str, base: str, density: float, tensor: str) -> Cut:
        """Return what the cut with `density` of a source's |tau| over all tensors before it comes to in `tensor`.

        Tensors follow each other in the order of the base's files.
        """
        key = (source, base, density)
        known = self._model_cuts.get(key)
        if known is None:
            if len(self._model_cuts) >= REMEMBERED_CUTS:
                self._model_cuts.clear()
            known = self._model_cuts[key] = self._find_model_cuts(source, base, density)
        return known[tensor]

    def _find_model_cuts(self, source: str, base: str, density: float) -> dict[str, Cut]:
        names = self._names([base])
        tables = [self.magnitudes(source, base, name) for name in names]
        counts = [self._checkpoints[base].tensors[name].count for name in names]
        joined = Joined([self._task([source, base], name) for name in names])
        cut = MagnitudeTable.joined(tables).largest(kept_count(density, joined.count), joined)
        firsts = np.cumsum([0, *counts])[:-1].tolist()
        return {name: Cut(cut.threshold, cut.position - first) for name, first in zip(names, firsts, strict=True)}

    def row_ranks(self, source: str, base: str, tensor: str, copied: bool = False) -> torch.Tensor:
        """Return the level of |tau| of each element within its row, 0 to 255; uint8, 1-D.

        It is a view of a file, unless a copy is wanted.
        """
        file = self._find("row-ranks", [source, base], self._write_row_ranks)
        return torch.from_numpy(file.copy(tensor) if copied else file[tensor])

    def dot_products(self, sources: Sequence[str], base: str | None, tensor: str) -> npt.NDArray[np.float64]:
        """Return <x_i, x_j> of a tensor for each pair of sources or, with a base, of task vectors; float64, square."""
        digests = [*sources, base or ""]
        found = self._find("dot-products", digests, self._write_dot_products)[tensor]
        return found.astype(np.float64).reshape(len(sources), len(sources))

    def _find(self, kind: str, digests: Sequence[str], write: Callable[[Path, Sequence[str]], None]) -> TensorFile:
        wanted = (kind, *digests)
        with self._lock:
            if wanted not in self._open:
                key = hashlib.sha256("\0".join([str(VERSION), *digests]).encode()).hexdigest()
                path = self._directory / f"{kind}-{key[:32]}.safetensors"
                self._open[wanted] = self._opened(path) or self._written(path, kind, digests, write)
            return self._open[wanted]

    def _temporary_directory(self) -> Path:
        directory = tempfile.mkdtemp(prefix="mergefront-lookups-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        return Path(directory)

    def _opened(self, path: Path) -> TensorFile | None:
        try:
            return TensorFile(path)
        except (FileNotFoundError, CorruptHeader):
            return None

    def _written(
        self, path: Path, kind: str, digests: Sequence[str], write: Callable[[Path, Sequence[str]], None]
    ) -> TensorFile:
        logger.info(
            "finding %s of %s, once for this pool", kind, ", ".join(digest[:12] for digest in digests if digest)
        )
        try:
            with locked(path):
                if (found := self._opened(path)) is None:  # another process may have written it meanwhile
                    write(path, digests)
                return found or TensorFile(path)
        except OSError as error:
            logger.warning("%s cannot keep what merges look up (%s): it is found anew in every process", path, error)
        path = self._temporary_directory() / path.name
        write(path, digests)
        return TensorFile(path)

    def _write_magnitudes(self, path: Path, digests: Sequence[str]) -> None:
        names = self._names(digests)

        def table(name: str) -> npt.NDArray[np.int64]:
            found = _packed(MagnitudeTable.of(self._task(digests, name)))
            self._unmap(digests, name)
            return found

        counts = {}
        with tempfile.TemporaryFile(dir=path.parent) as spool:  # lengths come first in the file and are known last
            for name, packed in zip(names, _ahead(table, names), strict=True):
                counts[name] = len(packed)
                packed.tofile(spool)
            spool.seek(0)
            blocks = (np.fromfile(spool, dtype=np.int64, count=counts[name]) for name in names)
            write_tensor_file(path, counts, "I64", blocks)

    def _write_row_ranks(self, path: Path, digests: Sequence[str]) -> None:
        tensors = {name: self._checkpoints[digests[0]].tensors[name] for name in self._names(digests)}
        counts = {name: tensor.count for name, tensor in tensors.items()}

        def ranks(block: tuple[str, int, int]) -> npt.NDArray[np.uint8]:
            name, start, stop = block
            bits = self._task(digests, name).bits(start, stop)
            self._unmap(digests, name)
            return row_ranks(bits.reshape(-1, _columns(tensors[name]))).reshape(-1)

        write_tensor_file(path, counts, "U8", _ahead(ranks, _row_blocks(tensors)))

    def _write_dot_products(self, path: Path, digests: Sequence[str]) -> None:
        names = self._names(digests)
        *sources, base = digests

        def products(name: str) -> npt.NDArray[np.float64]:
            origin = self._flat(base, name) if base else None
            found = dot_products([self._flat(digest, name) for digest in sources], origin).reshape(-1)
            self._unmap(digests, name)
            return found

        write_tensor_file(path, dict.fromkeys(names, len(sources) ** 2), "F64", _ahead(products, names))

    def _names(self, digests: Sequence[str]) -> list[str]:
        return list(self._checkpoints[digests[0]].merged_tensors)

    def _task(self, digests: Sequence[str], tensor: str) -> TaskMagnitudes:
        source, base = (self._flat(digest, tensor) for digest in digests)
        return TaskMagnitudes(source, base)

    def _unmap(self, digests: Sequence[str], tensor: str) -> None:
        unmap([self._flat(digest, tensor) for digest in digests if digest])

    def _flat(self, digest: str, tensor: str) -> torch.Tensor:
        return self._checkpoints[digest].tensor(tensor).view(-1)


def _packed(table: MagnitudeTable) -> npt.NDArray[np.int64]:
    return np.concatenate([[table.shift], table.prefixes, table.upto])


def _unpacked(packed: npt.NDArray[Any]) -> MagnitudeTable:
    entries = len(packed) // 2
    return MagnitudeTable(packed[1 : 1 + entries], packed[1 + entries :], int(packed[0]))


def _columns(tensor: TensorInfo) -> int:
    return tensor.shape[-1] if tensor.shape else 1


def _row_blocks(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and stop of blocks of whole rows that cover all tensors."""
    for name, tensor in tensors.items():
        if tensor.count:
            step = max(1, ROW_BLOCK_ELEMENTS // _columns(tensor)) * _columns(tensor)
            for start in range(0, tensor.count, step):
                yield name, start, min(start + step, tensor.count)


def _ahead(find: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """Yield find(item) for each item in order, found by as many threads as torch uses, a few items ahead."""
    threads = torch.get_num_threads()
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for item in items:
            waiting.append(executor.submit(find, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
