"""`mergefront merge`: one merge from a file, without a service."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from campaigns.errors import FieldError, InvalidInput
from campaigns.merge_config import parse_merge_config
from campaigns.mergekit import is_mergekit, parse_mergekit
from campaigns.pools import Pool, PoolSpec
from campaigns.recipe import Recipe
from mergefront.documents import read_document
from mergefront.settings import default_home
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool


def merge_directory(
    config: Path,
    directory: Path,
    hub_repositories: tuple[str, ...],
    progress: Callable[[int, int], None],
    seed: int | None = None,
) -> None:
    """Write the merge that the YAML file `config` describes, in our terms or mergekit's, into `directory`.

    `seed` replaces the document's. The person at the terminal may read any path of their own; a service restricts paths
    to its model roots. Raises `InvalidSpec`, `InvalidCheckpoint` or `MisfitPool`, and leaves nothing half-written.
    """
    document = read_document(config)
    files, recipe = (_mergekit if is_mergekit(document) else _ours)(document, config, hub_repositories, seed)
    MergedModel(files, recipe).write_directory(directory, progress)


def _ours(
    document: Mapping[str, Any], config: Path, hub_repositories: tuple[str, ...], seed: int | None
) -> tuple[PoolFiles, Recipe]:
    wanted = parse_merge_config(document)
    pool = _inspect(wanted.pool, config, hub_repositories)
    recipe = wanted.recipe(pool)
    return PoolFiles(pool, _cache()), recipe if seed is None else recipe.replace(seed=seed)


def _mergekit(
    document: Mapping[str, Any], config: Path, hub_repositories: tuple[str, ...], seed: int | None
) -> tuple[PoolFiles, Recipe]:
    """Read mergekit's document. Paths count from the current directory, as there, or from the document's own."""

    def local(path: str) -> str | None:
        found = next((root / path for root in (Path.cwd(), config.resolve().parent) if (root / path).is_dir()), None)
        return None if found is None else str(found)

    wanted = parse_mergekit(document, local)
    try:
        pool = _inspect(wanted.pool, config, hub_repositories)
    except InvalidInput as error:
        raise type(error)([_as_written(found, wanted.fields) for found in error.errors]) from error
    files = PoolFiles(pool, _cache())
    return files, wanted.recipe(pool, files.template.merged_tensors, seed or 0)


def _inspect(spec: PoolSpec, config: Path, hub_repositories: tuple[str, ...]) -> Pool:
    folder = config.resolve().parent
    roots = (folder, Path(folder.anchor))  # relative paths count from the file, absolute ones may lie anywhere
    return inspect_pool(spec, roots, hub_repositories, _cache())


def _cache() -> Path:
    return default_home() / "cache"


def _as_written(error: FieldError, fields: Mapping[str, str]) -> FieldError:
    """Return the error under the key of the document that names the checkpoint."""
    checkpoint = next((field for field in fields if error.field.startswith(f"{field}.")), None)
    if checkpoint is None:
        return error
    is_unknown = "hub repository" in error.message  # what has the form of owner/name may have been meant as a path
    message = f"there is no such directory, and {error.message}" if is_unknown else error.message
    return error.replace(field=fields[checkpoint], message=message)
