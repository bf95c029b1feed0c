"""Inspecting checkpoints: digests, stamps, finite numbers, and the cache."""

import json
import math
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from campaigns.errors import InvalidCheckpoint
from merging import inspection
from merging.inspection import inspect_checkpoint, stamp
from merging.inspection_cache import InspectionCache

Make = Callable[..., Path]


def spoil(file: Path, name: str, value: float) -> None:
    weights = load_file(file)
    weights[name].view(-1)[-1] = value
    save_file(weights, file, metadata={"format": "pt"})


def test_checkpoint_says_what_was_found(make_checkpoint: Make) -> None:
    path = make_checkpoint("a")
    found = inspect_checkpoint(path, "alpha", "pool.checkpoints.0.path")
    counted = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert (found.name, found.path, found.stamp) == ("alpha", str(path), stamp(path))
    assert found.size_bytes == sum((path / name).stat().st_size for name in counted)


def test_digest_follows_the_content_alone(make_checkpoint: Make, tmp_path: Path) -> None:
    path = make_checkpoint("a")
    digest = inspect_checkpoint(path, "a", "path").digest
    (path / "README.md").write_text("no part of the model")
    os.utime(path / "model.safetensors", (1, 1))
    assert inspect_checkpoint(path, "b", "path").digest == digest
    assert inspect_checkpoint(path.rename(tmp_path / "moved"), "c", "path").digest == digest


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json"])
def test_digest_and_stamp_notice_every_file(make_checkpoint: Make, name: str) -> None:
    path = make_checkpoint("a")
    before = inspect_checkpoint(path, "a", "path")
    if name == "model.safetensors":
        spoil(path / name, "lm_head.weight", 0.75)
    else:
        (path / name).write_text(json.dumps({**json.loads((path / name).read_text()), "new": 1}))
    after = inspect_checkpoint(path, "a", "path")
    assert after.digest != before.digest
    assert after.stamp != before.stamp


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_that_are_not_finite_are_named(make_checkpoint: Make, value: float, dtype: torch.dtype) -> None:
    path = make_checkpoint("a", dtype=dtype)
    spoil(path / "model.safetensors", "model.layers.1.mlp.up_proj.weight", value)
    with pytest.raises(InvalidCheckpoint) as caught:
        inspect_checkpoint(path, "a", "pool.checkpoints.3.path")
    assert caught.value.errors[0].field == "pool.checkpoints.3.path"
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert "up_proj" not in str(caught.value).replace("layers.1.mlp.up_proj", "")


def test_every_block_of_every_shard_is_checked(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks cut tensors anywhere; the digest must not notice, the NaN must be found in each tensor."""
    path = make_checkpoint("a", shard_size="40KB")
    whole = inspect_checkpoint(path, "a", "path").digest
    monkeypatch.setattr(inspection, "BLOCK_BYTES", 4096)
    assert inspect_checkpoint(path, "a", "path").digest == whole
    names = [(file, name) for file in sorted(path.glob("*.safetensors")) for name in load_file(file)]
    for file, name in names[::4]:
        content = file.read_bytes()
        spoil(file, name, math.nan)
        with pytest.raises(InvalidCheckpoint, match=name):
            inspect_checkpoint(path, "a", "path")
        file.write_bytes(content)


def test_a_large_sum_is_not_taken_for_infinity(make_checkpoint: Make) -> None:
    path = make_checkpoint("a", dtype=torch.float16)
    weights = load_file(path / "model.safetensors")
    save_file({name: torch.full_like(t, 65504.0) for name, t in weights.items()}, path / "model.safetensors")
    assert inspect_checkpoint(path, "a", "path").digest


def test_progress_ends_at_the_size(make_checkpoint: Make, tmp_path: Path) -> None:
    path = make_checkpoint("a")
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        calls.clear()
        found = inspect_checkpoint(path, "a", "path", tmp_path / "cache.json", lambda *call: calls.append(call))
        assert calls[-1] == (found.size_bytes, found.size_bytes)
        assert calls == sorted(calls)


def test_cache_saves_the_second_read_until_the_files_change(make_checkpoint: Make, tmp_path: Path) -> None:
    """The cached digest is told apart by being wrong on purpose."""
    path, cache = make_checkpoint("a"), tmp_path / "cache" / "inspections.json"
    honest = inspect_checkpoint(path, "a", "path", cache)
    cache.write_text(cache.read_text().replace(honest.digest, "remembered"))
    assert inspect_checkpoint(path, "a", "path", cache).digest == "remembered"
    os.utime(path / "config.json", (1, 1))
    assert inspect_checkpoint(path, "a", "path", cache).digest == honest.digest


def test_bad_weights_are_never_cached(make_checkpoint: Make, tmp_path: Path) -> None:
    path, cache = make_checkpoint("a"), tmp_path / "inspections.json"
    spoil(path / "model.safetensors", "lm_head.weight", math.nan)
    for _ in range(2):
        with pytest.raises(InvalidCheckpoint, match="NaN"):
            inspect_checkpoint(path, "a", "path", cache)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"p": 3}', '{"p": {"stamp": "s", "digest": 3}}', "[" * 100_000])
def test_unreadable_cache_counts_as_empty(tmp_path: Path, content: str) -> None:
    cache = InspectionCache(tmp_path / "inspections.json")
    (tmp_path / "inspections.json").write_text(content)
    assert cache.get(Path("p"), "s") is None
    cache.put(Path("p"), "s", "digest")
    assert cache.get(Path("p"), "s") == "digest"
    assert cache.get(Path("p"), "other") is None


def _remember(file: Path, worker: int) -> None:
    for number in range(20):
        InspectionCache(file).put(Path(f"{worker}-{number}"), "stamp", "digest")


def test_concurrent_processes_lose_no_entry(tmp_path: Path) -> None:
    file = tmp_path / "inspections.json"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_remember, args=(file, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(InspectionCache(file).get(Path(f"{w}-{n}"), "stamp") for w in range(4) for n in range(20))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["inspections.json", "inspections.json.lock"]


def _remember_in_little_space(file: Path, action: int) -> None:
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    InspectionCache(file).put(Path("p"), "stamp", "digest" * 1000)


@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL], ids=["full disk", "killed"])
def test_a_full_disk_and_a_killed_writer_keep_what_was_known(tmp_path: Path, action: int) -> None:
    """The limit on file sizes ends the write in the middle: with an error, or by killing the process on the spot."""
    file = tmp_path / "inspections.json"
    InspectionCache(file).put(Path("known"), "stamp", "digest")
    child = multiprocessing.get_context("fork").Process(target=_remember_in_little_space, args=(file, action))
    child.start()
    child.join()
    assert child.exitcode == (0 if action == signal.SIG_IGN else -signal.SIGXFSZ)
    assert InspectionCache(file).get(Path("known"), "stamp") == "digest"
    assert InspectionCache(file).get(Path("p"), "stamp") is None
    assert (tmp_path / "inspections.json.partial").exists() == (action == signal.SIG_DFL)
    InspectionCache(file).put(Path("p"), "stamp", "digest")
    assert InspectionCache(file).get(Path("p"), "stamp") == "digest"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["inspections.json", "inspections.json.lock"]


def test_a_cache_that_cannot_be_written_is_done_without(make_checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = tmp_path / "file" / "inspections.json"
    path = make_checkpoint("a")
    assert inspect_checkpoint(path, "a", "path", cache) == inspect_checkpoint(path, "a", "path")
