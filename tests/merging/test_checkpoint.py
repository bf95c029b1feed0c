"""Opening checkpoints: what is read lazily, and every way in which a directory can be wrong."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from campaigns.errors import InvalidCheckpoint
from merging.checkpoint import CheckpointFiles


def problem(path: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        CheckpointFiles(path, "pool.checkpoints.0.path")
    assert all(error.field == "pool.checkpoints.0.path" for error in caught.value.errors)
    return str(caught.value)


def write_safetensors(file: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("shard_size", ["5GB", "40KB"])
def test_tensors_are_those_of_safetensors(make_checkpoint: Callable[..., Path], shard_size: str) -> None:
    path = make_checkpoint("a", shard_size=shard_size)
    files = CheckpointFiles(path)
    expected = {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert set(files.tensors) == set(expected)
    assert (len(files.shards) > 1) == (shard_size != "5GB")
    for name, tensor in expected.items():
        assert files.tensors[name].dtype == "BF16"
        assert files.tensor(name).shape == tensor.shape
        assert torch.equal(files.tensor(name), tensor)


def test_tensors_share_the_page_cache_and_never_reach_the_file(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    before = (path / "model.safetensors").read_bytes()
    files = CheckpointFiles(path)
    assert files.tensor("lm_head.weight").data_ptr() == files.tensor("lm_head.weight").data_ptr()
    files.tensor("lm_head.weight").zero_()
    assert (path / "model.safetensors").read_bytes() == before


def test_odd_header_lengths_and_empty_tensors_are_read(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    header = {
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]},
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    assert len(text) % 2 == 1
    write_safetensors(path / "model.safetensors", text, struct.pack("<2f", 1.5, -2.5))
    files = CheckpointFiles(path)
    assert files.tensor("x").tolist() == [1.5, -2.5]
    assert files.tensor("empty").shape == (0, 3)


def test_odd_names_shapes_and_places_are_read(make_checkpoint: Callable[..., Path]) -> None:
    """A flag of three bytes comes first, so that no number after it lies at a multiple of its size."""
    names = ["", "a b", "\n", '"', "\\", "日本.weight", "a/../b"]
    header: dict[str, Any] = {"flag": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    for index, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [], "data_offsets": [3 + 4 * index, 7 + 4 * index]}
    path = make_checkpoint("a")
    write_safetensors(path / "model.safetensors", header, bytes([1, 0, 1]) + struct.pack("<7f", *range(7)))
    files = CheckpointFiles(path)
    assert [*files.tensors] == ["flag", *names]
    assert [files.tensor(name).item() for name in names] == [*range(7)]
    assert files.tensor("").shape == ()
    assert files.tensor("flag").tolist() == [True, False, True]


def test_missing_directory(tmp_path: Path) -> None:
    assert "there is no such directory" in problem(tmp_path / "nothing")


def test_pickled_weights_are_refused_by_name(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    found = problem(path)
    assert "pickled" in found
    assert "pytorch_model.bin" in found
    assert "model.safetensors" in found


def test_no_weights_and_no_config_are_named_together(tmp_path: Path) -> None:
    found = problem(tmp_path)
    assert "the directory has no config.json" in found
    assert "the directory has no weights" in found


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800", '{"a": "\\ud800"}', "[" * 100_000])
def test_unreadable_config(make_checkpoint: Callable[..., Path], content: str) -> None:
    path = make_checkpoint("a")
    (path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert "config.json" in problem(path)


def test_quantized_checkpoint(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert "quantized" in problem(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -1000])
def test_truncated_file(make_checkpoint: Callable[..., Path], keep: int) -> None:
    file = make_checkpoint("a") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "truncated" in problem(file.parent)


def test_bytes_left_over(make_checkpoint: Callable[..., Path]) -> None:
    file = make_checkpoint("a") / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    assert "bytes after the last tensor" in problem(file.parent)


def entry(start: Any = 0, stop: Any = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (b"not json", 0, "not JSON"),
        (b"[]", 0, "not a JSON object"),
        (b"\xff\xfe{}", 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b'{"a\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', 8, "not Unicode text"),
        ({"x": {"dtype": "F32"}}, 8, "malformed"),
        ({"x": 3}, 8, "malformed"),
        ({"x": entry(dtype="F3")}, 8, "unknown type"),
        ({"x": entry(dtype=["F32"])}, 8, "unknown type"),
        ({"x": entry(shape=(-2,))}, 8, "malformed shape"),
        ({"x": entry(shape=(2.5,))}, 8, "malformed shape"),
        ({"x": entry(start=-8, stop=0)}, 8, "malformed shape or offsets"),
        ({"x": entry(shape=(3,))}, 8, "do not match its shape"),
        ({"x": entry(stop=4)}, 8, "do not match its shape"),
        ({"x": entry(), "y": entry(4, 12)}, 12, "overlaps"),
        ({"x": entry(), "y": entry()}, 8, "overlaps"),
        ({"x": entry(), "y": entry(12, 20)}, 20, "hole"),
        ({"x": entry(4, 12)}, 12, "hole"),
        ({"x": entry(dtype="F8_E4M3", stop=2)}, 2, "cannot be merged"),
        ({"x": entry(dtype="F64", stop=16)}, 16, "cannot be merged"),
    ],
)
def test_corrupt_header(make_checkpoint: Callable[..., Path], header: Any, size: int, message: str) -> None:
    path = make_checkpoint("a")
    write_safetensors(path / "model.safetensors", header, bytes(size))
    assert message in problem(path)


def test_header_length_beyond_the_file(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert str(2**63) in problem(path)


def test_missing_shards_are_all_named(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a", shard_size="30KB")
    shards = sorted(path.glob("*.safetensors"))
    for shard in shards[:2]:
        shard.unlink()
    found = problem(path)
    assert shards[0].name in found
    assert shards[1].name in found


def test_index_may_not_lead_elsewhere(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a", shard_size="30KB")
    index = path / "model.safetensors.index.json"
    for name in ("../b/model.safetensors", "/etc/passwd", "pytorch_model.bin"):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        assert name in problem(path)


@pytest.mark.parametrize("document", ["{}", '{"weight_map": 3}', '{"weight_map": {}}', "no"])
def test_unusable_index(make_checkpoint: Callable[..., Path], document: str) -> None:
    path = make_checkpoint("a", shard_size="30KB")
    (path / "model.safetensors.index.json").write_text(document)
    assert "model.safetensors.index.json" in problem(path)


def test_index_that_promises_too_much(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a", shard_size="30KB")
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["ghost.weight"] = sorted(path.glob("*.safetensors"))[0].name
    index.write_text(json.dumps(document))
    assert "ghost.weight" in problem(path)


def test_a_tensor_in_two_shards(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint("a")
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    save_file(weights, path / "one.safetensors")
    save_file({"lm_head.weight": weights["lm_head.weight"]}, path / "two.safetensors")
    weight_map = {**dict.fromkeys(weights, "one.safetensors"), "lm_head.weight": "two.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "earlier shard" in problem(path)


def test_a_shard_that_cannot_be_read(make_checkpoint: Callable[..., Path]) -> None:
    """Reading a process's memory at address 0 is an input/output error, as a bad disk gives."""
    file = make_checkpoint("a") / "model.safetensors"
    file.unlink()
    file.symlink_to("/proc/self/mem")
    assert "model.safetensors cannot be read" in problem(file.parent)
