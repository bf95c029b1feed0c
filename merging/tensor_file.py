"""Arrays kept in one safetensors file: written block by block, read through a memory map."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from merging.dtypes import TORCH_DTYPES
from merging.image_layout import PlacedTensor, header_of
from merging.mapping import map_file
from merging.safetensors_header import read_header
from merging.whole_file import replace_file

NUMPY_DTYPES: dict[str, npt.DTypeLike] = {"U8": np.uint8, "I64": np.int64, "F64": np.float64}


class TensorFile(Mapping[str, npt.NDArray[np.generic]]):
    """The 1-D arrays of a file by name, as views of the page cache.

    Raises `CorruptHeader` for a file that is not whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors = read_header(path)
        self._map = map_file(path)

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        """Return the array of this name, without a copy."""
        found = self._tensors[name]
        array: npt.NDArray[np.generic] = np.frombuffer(
            self._map, dtype=NUMPY_DTYPES[found.dtype], count=found.count, offset=found.start
        )
        return array

    def copy(self, name: str) -> npt.NDArray[np.generic]:
        """Return the array of this name in memory of its own: for all of it, that is faster than mapping its pages."""
        found = self._tensors[name]
        array: npt.NDArray[np.generic] = np.fromfile(
            self._path, dtype=NUMPY_DTYPES[found.dtype], count=found.count, offset=found.start
        )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def write_tensor_file(
    path: Path, counts: Mapping[str, int], dtype: str, blocks: Iterable[npt.NDArray[np.generic]]
) -> None:
    """Write arrays of `counts` elements, by name, whose content is that of `blocks` one after the other.

    The file is there whole or not at all; the caller holds its lock.
    """
    tensors: list[PlacedTensor] = []
    end = 0
    for name, count in counts.items():
        start, end = end, end + count * TORCH_DTYPES[dtype].itemsize
        tensors.append(PlacedTensor(name, dtype, (count,), start, end))
    content = (np.ascontiguousarray(block, dtype=NUMPY_DTYPES[dtype]).data.cast("B") for block in blocks if block.size)
    replace_file(path, itertools.chain([header_of(tensors)], content))
