"""A machine's own copies of the pool: the same content under other times is the pool, anything else is not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.errors import InvalidCheckpoint
from campaigns.pools import Pool
from merging import inspection
from merging.pool_files import PoolFiles

Make = Callable[..., Path]


@pytest.fixture
def pool(make_checkpoint: Make, pool_of: Any, tmp_path: Path) -> Pool:
    for seed, name in enumerate("ab"):
        make_checkpoint(name, seed)
    found: Pool = pool_of(tmp_path, ["a", "b"])
    return found


def copy_anew(folder: Path) -> None:
    """Replace the folder by a copy whose files have other times."""
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    for file in folder.iterdir():
        os.utime(file, (1, 1))


def test_copies_are_the_pool_by_content_and_not_by_stamp(pool: Pool, tmp_path: Path) -> None:
    copy_anew(tmp_path / "b")
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk"):
        PoolFiles(pool)
    files = PoolFiles(pool, by_content=True)
    files.verify()
    os.utime(tmp_path / "b" / "config.json", (2, 2))
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk"):
        files.verify()


def test_copies_of_other_content_are_refused(pool: Pool, tmp_path: Path, make_checkpoint: Make) -> None:
    make_checkpoint("b", 9)
    with pytest.raises(InvalidCheckpoint, match="'b' changed on disk") as caught:
        PoolFiles(pool, by_content=True)
    assert [(e.field, str(tmp_path / "b") in e.value) for e in caught.value.errors] == [
        ("pool.checkpoints.1.path", True)
    ]


def test_a_copy_is_read_through_once(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    through = inspection._read_through
    monkeypatch.setattr(
        inspection, "_read_through", lambda files, *rest: read.append(files.path) or through(files, *rest)
    )
    PoolFiles(pool, tmp_path / "cache", by_content=True)
    assert read == []
    copy_anew(tmp_path / "b")
    for _ in range(2):
        PoolFiles(pool, tmp_path / "cache", by_content=True)
    assert read == [tmp_path / "b"]
