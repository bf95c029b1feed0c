"""Arrays in a file: what is written is read, and a file is there whole or not at all."""

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from merging.safetensors_header import CorruptHeader
from merging.tensor_file import NUMPY_DTYPES, TensorFile, write_tensor_file


@pytest.mark.parametrize("dtype", [*NUMPY_DTYPES])
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    """However the content is cut into blocks; names in any script, arrays without elements."""
    values = np.arange(11).astype(NUMPY_DTYPES[dtype])
    counts = {"a": 3, "nothing": 0, "größe": 7, "last": 1, "none": 0}
    for blocks in ([values], [values[:1], values[1:1], values[1:5], values[5:]]):
        write_tensor_file(tmp_path / "x", counts, dtype, blocks)
        found = TensorFile(tmp_path / "x")
        assert {name: array.tolist() for name, array in found.items()} == {
            "a": [0, 1, 2],
            "nothing": [],
            "größe": [3, 4, 5, 6, 7, 8, 9],
            "last": [10],
            "none": [],
        }
        assert {array.dtype for array in found.values()} == {np.dtype(NUMPY_DTYPES[dtype])}
        assert len(found) == 5


def test_other_libraries_read_it(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "x", {"a": 2, "b": 1}, "F64", [np.array([1.5, -2.0, 3.0])])
    assert {name: array.tolist() for name, array in load_file(tmp_path / "x").items()} == {"a": [1.5, -2.0], "b": [3.0]}


def test_writing_to_an_array_never_reaches_the_file(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "x", {"a": 3}, "U8", [np.zeros(3, np.uint8)])
    array = TensorFile(tmp_path / "x")["a"]
    array[:] = 7
    assert TensorFile(tmp_path / "x")["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kept", [0, 5, 20, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    write_tensor_file(tmp_path / "x", {"a": 3}, "I64", [np.arange(3)])
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[:kept])
    with pytest.raises(CorruptHeader):
        TensorFile(tmp_path / "x")


def failing() -> Iterator[np.ndarray]:
    yield np.arange(2)
    raise KeyboardInterrupt


def test_an_interruption_leaves_the_file_of_before(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "x", {"a": 3}, "I64", [np.arange(3)])
    with pytest.raises(KeyboardInterrupt):
        write_tensor_file(tmp_path / "x", {"a": 3}, "I64", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert TensorFile(tmp_path / "x")["a"].tolist() == [0, 1, 2]


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """The device that is always full lies where the file is being written."""
    (tmp_path / "x.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensor_file(tmp_path / "x", {"a": 3}, "I64", [np.arange(3)])
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
