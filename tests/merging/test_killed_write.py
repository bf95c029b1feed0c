"""Writing a directory and failing: what is left is never taken for a model, nor in the way of the next writer."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from campaigns.errors import InvalidCheckpoint, InvalidInput
from campaigns.methods import LinearMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.checkpoint import CheckpointFiles
from merging.image import MAX_SHARD_BYTES, MergedModel
from merging.pool_files import PoolFiles

MANY_SHARDS = 40_000
FEW_BYTES = 50_000


def merged_model(pool: Pool, max_shard_bytes: int) -> MergedModel:
    sources = tuple(c.digest for c in pool.checkpoints)
    method = LinearMerge(weights=(0.5, 0.3, 0.2))
    recipe = Recipe(method=method, sources=sources, template=pool.template.digest, dtype="bfloat16")
    return MergedModel(PoolFiles(pool), recipe, {"README.md": b"# A merge\n"}, max_shard_bytes)


def write_and_die(pool: Pool, max_shard_bytes: int, target: Path, step: int) -> None:
    """Write the model, but be killed when progress is told for the `step`-th time."""
    torch.set_num_threads(1)
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)

    merged_model(pool, max_shard_bytes).write_directory(target, progress)


@pytest.mark.parametrize("max_shard_bytes", [MAX_SHARD_BYTES, MANY_SHARDS])
def test_a_killed_writer_leaves_no_model(pool: Pool, tmp_path: Path, max_shard_bytes: int) -> None:
    """Killed at every step in turn; each writer cleans up after the one before. Forked, as spawning takes seconds."""
    steps: list[tuple[int, int]] = []
    merged_model(pool, max_shard_bytes).write_directory(tmp_path / "elsewhere" / "m", lambda *call: steps.append(call))
    assert len(steps) > (max_shard_bytes == MANY_SHARDS) + 3
    target = tmp_path / "models" / "merged"
    assert steps[-1][0] == steps[-1][1]  # all is told to be done when the directory is in its place
    for step in range(1, len(steps)):
        writer = multiprocessing.get_context("fork").Process(
            target=write_and_die, args=(pool, max_shard_bytes, target, step)
        )
        writer.start()
        writer.join(60)
        assert writer.exitcode == -signal.SIGKILL
        (left,) = target.parent.iterdir()
        assert left.name.startswith(".")
        with pytest.raises(InvalidCheckpoint):
            CheckpointFiles(left)
    merged_model(pool, max_shard_bytes).write_directory(target)
    assert [*target.parent.iterdir()] == [target]
    assert CheckpointFiles(target).tensors.keys() == PoolFiles(pool).template.tensors.keys()


def test_a_writer_at_work_is_left_alone(pool: Pool, tmp_path: Path) -> None:
    """Whoever writes the same directory meanwhile does not take its files for leftovers; the first to end has it."""
    target = tmp_path / "merged"

    def overtake(done: int, total: int) -> None:
        if not target.exists():
            merged_model(pool, MAX_SHARD_BYTES).write_directory(target)

    with pytest.raises(InvalidInput, match="cannot be written"):
        merged_model(pool, MAX_SHARD_BYTES).write_directory(target, overtake)
    assert [*tmp_path.iterdir()] == [target]
    assert CheckpointFiles(target).tensors.keys() == PoolFiles(pool).template.tensors.keys()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes: EFBIG, for want of a disk to fill."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_an_error_that_tells_so(pool: Pool, tmp_path: Path) -> None:
    target, model = tmp_path / "merged", merged_model(pool, MAX_SHARD_BYTES)
    with small_files(FEW_BYTES), pytest.raises(InvalidInput, match="cannot be written") as caught:
        model.write_directory(target)
    (error,) = caught.value.errors
    assert error.field == "directory" and error.value.startswith(repr(str(target))[:100])
    assert f"{sum(file.size_bytes for file in model.files.values())} bytes" in str(error)
    assert [*tmp_path.iterdir()] == []
    model.write_directory(target)
    assert [*tmp_path.iterdir()] == [target]
