"""`mergefront merge`: one merge from a file, without a service."""

from collections.abc import Callable
from pathlib import Path

from campaigns.merge_config import parse_merge_config
from mergefront.documents import read_document
from mergefront.settings import default_home
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool


def merge_directory(
    config: Path, directory: Path, hub_repositories: tuple[str, ...], progress: Callable[[int, int], None]
) -> None:
    """Write the merge that the YAML file `config` describes into `directory`.

    The person at the terminal may read any path of their own; a service restricts paths to its model roots.
    Raises `InvalidSpec`, `InvalidCheckpoint` or `MisfitPool`, and leaves nothing half-written.
    """
    wanted = parse_merge_config(read_document(config))
    folder = config.resolve().parent
    roots = (folder, Path(folder.anchor))  # relative paths count from the file, absolute ones may lie anywhere
    pool = inspect_pool(wanted.pool, roots, hub_repositories, default_home() / "cache")
    MergedModel(PoolFiles(pool), wanted.recipe(pool)).write_directory(directory, progress)
