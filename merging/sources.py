"""Where a checkpoint lies: a directory under the operator's model roots, or a repository on their allow list."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from campaigns.errors import InvalidCheckpoint, field_error, unknown_name
from campaigns.pools import CheckpointSpec
from merging.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPANIONS, CONFIG, INDEX

HUB_PATTERNS = ("model*.safetensors", INDEX, CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS, *COMPANIONS)
"""The files that are fetched from the hub. Pickled weights and code are never among them."""
READ_FOLDERS = ("additional_chat_templates",)
"""The folders of a checkpoint that transformers looks into."""
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_+-]|[./](?![./])){0,254}")
"""What names a branch, tag or commit and stays where it is as part of a path."""


def locate(
    spec: CheckpointSpec,
    field: str,
    roots: Sequence[Path],
    hub_repositories: Sequence[str],
    cache_dir: Path | None,
) -> Path:
    """Return the directory of a checkpoint, with all symbolic links resolved.

    `field` is the dotted path of the checkpoint in its spec, without `.path` or `.hub`. A relative path counts from the
    first root that has it. Hub files are kept under `cache_dir` (None: the hub client's own cache).
    Raises `InvalidCheckpoint` for a path that is missing or lies outside the roots, itself or by a link in it, for a
    directory with pipes or devices, which would be waited for, and for a repository that is not on the list or cannot
    be fetched.
    """
    if spec.hub is not None:
        return _fetch(spec.hub, spec.revision, field, hub_repositories, cache_dir)
    return _find_directory(str(spec.path), f"{field}.path", [root.resolve() for root in roots])


def locate_file(path: str, field: str, roots: Sequence[Path]) -> Path:
    """Return the file at `path`, found and refused as `locate` does with directories, under the name `field`."""
    return _find(path, field, [root.resolve() for root in roots], Path.is_file, "there is no such file")


def _find(path: str, field: str, roots: Sequence[Path], is_wanted: Callable[[Path], bool], absent: str) -> Path:
    allowed = _allowed(roots)
    try:
        candidates = [(root / path).resolve() for root in roots]
        inside = [candidate for candidate in candidates if _lies_under(candidate, roots)]
        found = next((candidate for candidate in inside if is_wanted(candidate)), None)
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        raise InvalidCheckpoint([field_error(field, path, f"not a usable path ({error})", allowed)]) from None
    if not inside:
        raise InvalidCheckpoint([field_error(field, path, "path lies outside the model roots", allowed)])
    if found is None:
        raise InvalidCheckpoint([field_error(field, path, absent, allowed)])
    return found


def _find_directory(path: str, field: str, roots: Sequence[Path]) -> Path:
    found = _find(path, field, roots, Path.is_dir, "there is no such directory")
    try:
        messages = [*_escapes(found, roots)]
    except (OSError, RuntimeError) as error:  # not readable, a loop of links
        messages = [f"the directory cannot be read ({error})"]
    if messages:
        raise InvalidCheckpoint([field_error(field, path, messages[0], _allowed(roots))])
    return found


def _escapes(directory: Path, roots: Sequence[Path]) -> Iterator[str]:
    """Yield what is wrong with the entries of a checkpoint's directory."""
    for file in sorted(directory.iterdir()):
        target = file.resolve()
        if file.is_symlink() and not _lies_under(target, roots):
            yield f"{file.name} is a link that leads outside the model roots"
        elif target.exists() and not (target.is_file() or target.is_dir()):
            yield f"{file.name} is neither a file nor a folder"
        elif file.name in READ_FOLDERS and target.is_dir():
            yield from _escapes(target, roots)


def _allowed(roots: Sequence[Path]) -> str:
    return f"under {', '.join(str(root) for root in roots)}" if roots else "no model root is configured"


def _lies_under(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _fetch(
    repository: str, revision: str | None, field: str, hub_repositories: Sequence[str], cache_dir: Path | None
) -> Path:
    if repository not in hub_repositories:
        noun = "hub repository on the operator's allow list"
        raise InvalidCheckpoint([unknown_name(f"{field}.hub", repository, hub_repositories, noun)])
    if revision is not None and not REVISION.fullmatch(revision):
        message, allowed = "not the name of a revision", "a branch, tag or commit"
        raise InvalidCheckpoint([field_error(f"{field}.revision", revision, message, allowed)])
    try:
        snapshot = snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=[*HUB_PATTERNS])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        value = repository if revision is None else f"{repository}@{revision}"
        message = f"the hub repository cannot be fetched ({str(error).strip().splitlines()[0]})"
        raise InvalidCheckpoint([field_error(f"{field}.hub", value, message)]) from error
    return Path(str(snapshot)).resolve()
