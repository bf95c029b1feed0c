"""Statistics in a pool: found under the roots, of the right checkpoint, guarded against changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.errors import InvalidCheckpoint, InvalidInput
from campaigns.methods import LinearMerge
from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe
from merging.calibration import CalibrationStatistics
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool

Make = Callable[..., Path]
Calibrate = Callable[..., CalibrationStatistics]


@pytest.fixture
def root(make_checkpoint: Make, calibrated: Calibrate, tmp_path: Path) -> Path:
    """A root with a base and two checkpoints of it, and their statistics beside them."""
    for seed, name in enumerate(("base", "a", "b")):
        statistics = calibrated(make_checkpoint(f"root/{name}", seed), "gram", folder="root/calibration")
        statistics.path.rename(tmp_path / "root" / "calibration" / f"{name}.safetensors")
    return tmp_path / "root"


def inspect(root: Path, cache: Path | None = None, **statistics: str) -> Pool:
    """Inspect the pool with `statistics` by checkpoint."""
    specs = {name: CheckpointSpec(name=name, path=name, statistics=statistics.get(name)) for name in ("base", "a", "b")}
    base = specs.pop("base")
    return inspect_pool(PoolSpec(checkpoints=tuple(specs.values()), base=base), [root], [], cache)


def refusal(root: Path, field: str, **statistics: str) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        inspect(root, **statistics)
    assert [error.field for error in caught.value.errors] == [field]
    return str(caught.value)


@pytest.fixture
def pool(root: Path) -> Pool:
    return inspect(root, **{name: f"calibration/{name}.safetensors" for name in ("base", "a", "b")})


def recipe(pool: Pool, *statistics: str) -> Recipe:
    sources = tuple(checkpoint.digest for checkpoint in pool.checkpoints)
    template, method = pool.template.digest, LinearMerge(weights=(0.5, 0.5))
    return Recipe(method=method, sources=sources, template=template, dtype="bfloat16", statistics=statistics)


def digests(pool: Pool) -> list[str]:
    return [checkpoint.statistics.digest for checkpoint in pool.checkpoints if checkpoint.statistics]


def test_a_pool_knows_its_statistics(root: Path, pool: Pool) -> None:
    for checkpoint in pool.checkpoints:
        file = root / "calibration" / f"{checkpoint.name}.safetensors"
        assert checkpoint.statistics is not None
        assert checkpoint.statistics.path == str(file)
        assert checkpoint.statistics.digest == CalibrationStatistics(file).digest
    assert pool.base is not None and pool.base.statistics is not None
    assert Pool.model_validate_json(pool.model_dump_json()) == pool


def test_a_pool_without_statistics_is_as_before(root: Path) -> None:
    pool = inspect(root, a="calibration/a.safetensors")
    assert pool.checkpoints[0].statistics is not None
    assert pool.checkpoints[1].statistics is None
    assert PoolFiles(inspect(root)).statistics == {}


def test_digests_are_remembered(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = inspect(root, tmp_path / "cache", a="calibration/a.safetensors")
    entries = json.loads((tmp_path / "cache" / "inspections.json").read_text())
    assert entries[str(root / "calibration" / "a.safetensors")]["digest"] == digests(first)[0]

    def read(self: Any) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr(CalibrationStatistics, "digest", property(read))
    assert inspect(root, tmp_path / "cache", a="calibration/a.safetensors") == first


@pytest.mark.parametrize("path", ["calibration/c.safetensors", "calibration", "a\0b", "x" * 5000, ""])
def test_no_such_file(root: Path, path: str) -> None:
    refusal(root, "pool.checkpoints.1.statistics", b=path)


def test_files_outside_the_roots(root: Path) -> None:
    secret = root.parent / "secret.safetensors"
    (root / "calibration" / "a.safetensors").rename(secret)
    (root / "link.safetensors").symlink_to(secret)
    for path in (str(secret), "../secret.safetensors", "a/../../secret.safetensors", "link.safetensors"):
        assert "outside the model roots" in refusal(root, "pool.checkpoints.0.statistics", a=path)
    absent = refusal(root, "pool.checkpoints.0.statistics", a="../absent.safetensors")
    there = refusal(root, "pool.checkpoints.0.statistics", a="../secret.safetensors")
    assert there.replace("secret", "absent") == absent


def test_statistics_of_another_checkpoint(root: Path) -> None:
    found = refusal(root, "pool.checkpoints.1.statistics", b="calibration/a.safetensors")
    assert "of another checkpoint" in found and "(b)" in found
    assert "of another checkpoint" in refusal(root, "pool.base.statistics", base="calibration/a.safetensors")


def test_files_that_are_no_statistics(root: Path) -> None:
    assert "holds no calibration" in refusal(root, "pool.checkpoints.1.statistics", b="b/model.safetensors")
    assert "pool.checkpoints.1.statistics" in refusal(root, "pool.checkpoints.1.statistics", b="b/config.json")


def test_all_wrong_statistics_are_named_at_once(root: Path) -> None:
    with pytest.raises(InvalidCheckpoint) as caught:
        inspect(root, base="none", a="calibration/b.safetensors", b="/etc/passwd")
    fields = [error.field for error in caught.value.errors]
    assert fields == ["pool.base.statistics", "pool.checkpoints.0.statistics", "pool.checkpoints.1.statistics"]


def test_statistics_are_opened_by_their_checkpoints_digest(pool: Pool) -> None:
    files = PoolFiles(pool)
    assert files.statistics.keys() == {c.digest for c in (*pool.checkpoints, pool.template)}
    gram = files.statistics[pool.checkpoints[1].digest].gram("lm_head.weight")
    assert gram is not None and gram.shape == (32, 32)
    assert files.statistics[pool.checkpoints[1].digest] is files.statistics[pool.checkpoints[1].digest]


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("change", ["content", "gone"])
def test_a_file_that_changes_is_noticed(root: Path, pool: Pool, opened: bool, change: str) -> None:
    files = PoolFiles(pool)
    assert not opened or files.statistics
    file = root / "calibration" / "b.safetensors"
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes((root / "calibration" / "a.safetensors").read_bytes())
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk") as caught:
        files.verify()
    assert [error.field for error in caught.value.errors] == ["pool.checkpoints.1.statistics"]


def test_a_file_that_changed_after_inspection_is_not_opened(root: Path, pool: Pool) -> None:
    file = root / "calibration" / "b.safetensors"
    file.write_bytes((root / "calibration" / "a.safetensors").read_bytes())
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk") as caught:
        _ = PoolFiles(pool).statistics
    assert [error.field for error in caught.value.errors] == ["pool.checkpoints.1.statistics"]
    file.unlink()
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk"):
        PoolFiles(pool)


def test_recipes_name_the_statistics_of_their_sources(pool: Pool) -> None:
    files = PoolFiles(pool)
    first, second = digests(pool)
    files.check(recipe(pool))
    files.check(recipe(pool, first, second))
    for statistics, fields in (
        ((second, first), ["recipe.statistics.0", "recipe.statistics.1"]),
        ((first, "0" * 64), ["recipe.statistics.1"]),
        ((first,), ["recipe.statistics"]),
    ):
        with pytest.raises(InvalidInput) as caught:
            files.check(recipe(pool, *statistics))
        assert [error.field for error in caught.value.errors] == fields
    with pytest.raises(InvalidInput, match=rf"recipe\.statistics\.1: .*allowed: {second}"):
        files.check(recipe(pool, first, first))


def test_a_source_without_statistics_has_none_to_name(root: Path) -> None:
    pool = inspect(root, a="calibration/a.safetensors")
    with pytest.raises(InvalidInput, match=r"recipe\.statistics\.1: .*allowed: none"):
        PoolFiles(pool).check(recipe(pool, *digests(pool), "0" * 64))
