"""Lookups: right, found once for all processes, and never in the way when a file is spoilt."""

import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from campaigns.methods import DellaMerge, ModelStockMerge, TiesMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.pool_files import PoolFiles
from merging.row_ranks import LEVELS

Merge = Callable[..., dict[str, torch.Tensor]]
MakeRecipe = Callable[..., Recipe]
MakePool = Callable[..., PoolFiles]

METHODS: list[Any] = [
    TiesMerge(weights=(0.4, 0.6), densities=(0.3, 0.7)),
    TiesMerge(weights=(0.4, 0.6), densities=(0.3, 0.7), trim="global"),
    DellaMerge(weights=(0.4, 0.6), densities=(0.3, 0.7)),
    ModelStockMerge(),
]
FILES = {"magnitudes": 2, "row-ranks": 2, "dot-products": 1}
"""How many files these methods make, of each kind: one per source, or one per list of checkpoints."""
PATTERN = "*.safetensors"


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (30, 400), "none": (0, 3), "b": (9,), "c": (2, 3, 4), "d": ()}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def pool(tensor_pool: MakePool) -> Pool:
    return tensor_pool([tensors(1), tensors(2)], tensors(0)).pool


def merged(files: PoolFiles, merge: Merge, recipe_of: MakeRecipe) -> list[bytes]:
    made = [merge(files, recipe_of(files, method)) for method in METHODS]
    return [tensor.numpy().tobytes() for every in made for tensor in every.values()]


@pytest.fixture
def cache(pool: Pool, tmp_path: Path, merge: Merge, recipe_of: MakeRecipe) -> Path:
    """A cache in which every lookup of these methods lies."""
    merged(PoolFiles(pool, tmp_path / "cache"), merge, recipe_of)
    return tmp_path / "cache"


def lookups(cache: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (cache / "lookups").glob(PATTERN)}


def test_tables_count_every_magnitude(pool: Pool) -> None:
    files = PoolFiles(pool)
    assert pool.base is not None
    for source in pool.checkpoints:
        for name in files.template.merged_tensors:
            theta, origin = (files.checkpoints[c.digest].tensor(name).float() for c in (source, pool.base))
            sizes = (theta - origin).abs().flatten().numpy()
            table = files.lookups.magnitudes(source.digest, pool.base.digest, name)
            assert (table.shift > 0) == (name == "a")
            prefixes, counts = np.unique(sizes.view(np.int32) >> table.shift, return_counts=True)
            assert table.prefixes.tolist() == prefixes[::-1].tolist()
            assert table.upto.tolist() == np.cumsum(counts[::-1]).tolist()


def test_ranks_are_those_of_rows(pool: Pool) -> None:
    """Rows run along the last axis, whatever the number of axes."""
    files = PoolFiles(pool)
    assert pool.base is not None
    for name, columns in (("a", 400), ("b", 9), ("c", 4), ("d", 1)):
        theta, origin = (files.checkpoints[c.digest].tensor(name) for c in (pool.checkpoints[0], pool.base))
        rows = (theta.float() - origin.float()).abs().view(-1, columns)
        ranks = rows.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        found = files.lookups.row_ranks(pool.checkpoints[0].digest, pool.base.digest, name)
        steps = columns - 1
        levels = (2 * (LEVELS - 1) * ranks + steps) // (2 * steps) if steps else torch.full_like(ranks, LEVELS // 2)
        assert found.tolist() == levels.flatten().tolist()


def test_dot_products_are_those_of_the_tensors(pool: Pool) -> None:
    files = PoolFiles(pool)
    digests = [c.digest for c in pool.checkpoints]
    for name in files.template.merged_tensors:
        stacked = torch.stack([files.checkpoints[digest].tensor(name).double().flatten() for digest in digests])
        np.testing.assert_allclose(files.lookups.dot_products(digests, None, name), stacked @ stacked.T, rtol=1e-12)


def test_dot_products_over_a_base_are_those_of_float32_task_vectors(pool: Pool) -> None:
    files = PoolFiles(pool)
    assert pool.base is not None
    digests, base = [c.digest for c in pool.checkpoints], pool.base.digest
    for name in files.template.merged_tensors:
        origin = files.checkpoints[base].tensor(name).float().flatten()
        sources = [files.checkpoints[digest].tensor(name).float().flatten() for digest in digests]
        stacked = torch.stack([(source - origin).double() for source in sources])
        found = files.lookups.dot_products(digests, base, name)
        np.testing.assert_allclose(found, stacked @ stacked.T, rtol=1e-12, atol=1e-15)


def test_a_second_object_finds_everything(
    pool: Pool, cache: Path, merge: Merge, recipe_of: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    found = lookups(cache)
    kinds = [name.rsplit("-", 1)[0] for name in found]
    assert {kind: kinds.count(kind) for kind in kinds} == FILES
    expected = merged(PoolFiles(pool), merge, recipe_of)
    with caplog.at_level(logging.INFO, "merging.pool_lookups"):
        assert merged(PoolFiles(pool, cache), merge, recipe_of) == expected
    assert caplog.records == []
    assert lookups(cache) == found


def test_a_cache_that_is_only_read_needs_no_locks(pool: Pool, cache: Path, merge: Merge, recipe_of: MakeRecipe) -> None:
    """Who may do anything, as root may, leaves no lock either."""
    expected, folder = merged(PoolFiles(pool), merge, recipe_of), cache / "lookups"
    for lock in folder.glob("*.lock"):
        lock.unlink()
    files = sorted(folder.iterdir())
    folder.chmod(0o555)
    try:
        assert merged(PoolFiles(pool, cache), merge, recipe_of) == expected
        assert sorted(folder.iterdir()) == files
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "gone"])
def test_a_spoilt_file_is_made_again(pool: Pool, cache: Path, merge: Merge, recipe_of: MakeRecipe, damage: str) -> None:
    expected = merged(PoolFiles(pool), merge, recipe_of)
    whole = {path: path.read_bytes() for path in (cache / "lookups").glob(PATTERN)}
    for path, content in whole.items():
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "cut": content[:-3], "noise": os.urandom(len(content))}[damage])
    assert merged(PoolFiles(pool, cache), merge, recipe_of) == expected
    assert {path: path.read_bytes() for path in (cache / "lookups").glob(PATTERN)} == whole


def test_the_time_of_a_lookup_is_told(pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = PoolFiles(pool, tmp_path)
    digests = [c.digest for c in pool.checkpoints]
    with caplog.at_level(logging.INFO, "merging.pool_lookups"):
        for name in files.template.merged_tensors:
            files.lookups.dot_products(digests, None, name)
    assert [record.getMessage() for record in caplog.records] == [
        f"finding dot-products of {digests[0][:12]}, {digests[1][:12]}, once for this pool"
    ]


def _merge_into(pool: Pool, cache: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    files = PoolFiles(pool, cache)
    ready.wait()
    for source in pool.checkpoints:
        assert pool.base is not None
        for name in files.template.merged_tensors:
            files.lookups.magnitudes(source.digest, pool.base.digest, name)
            files.lookups.row_ranks(source.digest, pool.base.digest, name)


def test_two_processes_may_look_at_once(pool: Pool, cache: Path, merge: Merge, recipe_of: MakeRecipe) -> None:
    """Forked, as the test's module cannot be imported by name; their torch is told to use no threads."""
    expected, whole = merged(PoolFiles(pool), merge, recipe_of), {*lookups(cache)}
    shutil.rmtree(cache)
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)
    processes = [context.Process(target=_merge_into, args=(pool, cache, ready)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert {name for name in whole if not name.startswith("dot")} == {*lookups(cache)}
    assert merged(PoolFiles(pool, cache), merge, recipe_of) == expected


def test_without_a_directory_files_go_with_their_object(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = PoolFiles(pool)
    files.lookups.dot_products([c.digest for c in pool.checkpoints], None, "a")
    (folder,) = tmp_path.iterdir()
    assert len([*folder.glob(PATTERN)]) == 1
    del files
    assert list(tmp_path.iterdir()) == []


def test_another_base_has_files_of_its_own(tensor_pool: MakePool, tmp_path: Path) -> None:
    for base in (0, 3):
        files = tensor_pool([tensors(1), tensors(2)], tensors(base), tmp_path)
        assert files.pool.base is not None
        files.lookups.magnitudes(files.pool.checkpoints[0].digest, files.pool.base.digest, "a")
    assert len(lookups(tmp_path)) == 2


def test_a_lookup_that_cannot_be_written_is_an_error_that_tells_so(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "lookups").write_text("a file where the folder should be")
    with pytest.raises(NotADirectoryError, match="lookups"):
        PoolFiles(pool, tmp_path).lookups.dot_products([c.digest for c in pool.checkpoints], None, "a")
