"""The file of statistics: what is read, lazily, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from campaigns.errors import InvalidCheckpoint
from merging.calibration import CalibrationStatistics
from merging.calibration.statistics import METADATA_KEY

Make = Callable[..., Path]
Calibrate = Callable[..., CalibrationStatistics]

FIELD = "pool.checkpoints.1.statistics"


def refusal(path: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        CalibrationStatistics(path, FIELD)
    assert [error.field for error in caught.value.errors] == [FIELD]
    return str(caught.value)


@pytest.fixture
def statistics(make_checkpoint: Make, calibrated: Calibrate) -> CalibrationStatistics:
    return calibrated(make_checkpoint("a"), "gram", "fisher")


def described(path: Path, change: dict[str, Any]) -> None:
    """Rewrite a file of statistics with another description."""
    with safe_open(path, framework="pt") as opened:
        description = json.loads(opened.metadata()[METADATA_KEY])
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps({**description, **change})})


def test_the_digest_is_that_of_the_file_as_it_is(statistics: CalibrationStatistics) -> None:
    path = statistics.path
    assert statistics.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    described(path, {"tokens": 1})
    assert statistics.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert CalibrationStatistics(path).digest == statistics.digest


def test_values_are_those_in_the_file(statistics: CalibrationStatistics) -> None:
    stored = load_file(statistics.path)
    name = "model.layers.0.self_attn.o_proj.weight"
    for prefix, value in (
        ("gram", statistics.gram(name)),
        ("gram_diagonal", statistics.gram_diagonal(name)),
        ("fisher", statistics.fisher(name)),
    ):
        assert value is not None
        assert torch.equal(value, stored[f"{prefix}/{name}"])


def test_writing_to_a_value_does_not_reach_the_file(statistics: CalibrationStatistics) -> None:
    before = statistics.digest
    diagonal = statistics.gram_diagonal("lm_head.weight")
    assert diagonal is not None
    diagonal.zero_()
    assert CalibrationStatistics(statistics.path).digest == before
    assert hashlib.sha256(statistics.path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file(statistics: CalibrationStatistics, size: int) -> None:
    content = statistics.path.read_bytes()
    statistics.path.write_bytes(content[:size])
    assert "truncated" in refusal(statistics.path)


def test_a_file_that_is_not_ours(make_checkpoint: Make, tmp_path: Path) -> None:
    assert "holds no calibration statistics" in refusal(make_checkpoint("a") / "model.safetensors")
    (tmp_path / "words.txt").write_text("words and more words")
    assert FIELD in refusal(tmp_path / "words.txt")
    assert "cannot be read" in refusal(tmp_path / "missing.safetensors")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version"),
        ({"settings": {"kinds": ["gramm"]}}, "settings.kinds"),
        ({"colour": "red"}, "colour"),
        ({"tensors": {"a": {"fisher": "b"}}}, "'fisher/b' is not there"),
        ({"tensors": {"a": {"inputs": "lm_head.weight", "input_axis": 2}}}, "input_axis"),
    ],
)
def test_a_corrupt_description(statistics: CalibrationStatistics, change: dict[str, Any], told: str) -> None:
    described(statistics.path, change)
    found = refusal(statistics.path)
    assert told in found and "mergefront calibrate" in found


def test_values_of_another_type(statistics: CalibrationStatistics) -> None:
    with safe_open(statistics.path, framework="pt") as opened:
        metadata = opened.metadata()
    halves = {name: tensor.half() for name, tensor in load_file(statistics.path).items()}
    save_file(halves, statistics.path, metadata=metadata)
    assert "is not there as float32" in refusal(statistics.path)
