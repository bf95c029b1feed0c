"""`mergefront calibrate`: the calibration statistics of one checkpoint on one text."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from campaigns.errors import InvalidCheckpoint, InvalidInput, field_error
from mergefront.progress import byte_progress
from mergefront.settings import default_home
from merging.adapter import is_adapter
from merging.calibration import CalibrationSettings
from merging.calibration.calibrate import calibrate
from merging.checkpoint import CheckpointFiles
from merging.inspection import CACHE_NAME, inspect_checkpoint

FOLDER = "calibration"
"""Beside the checkpoint by default: under the same model root, where a service finds it, and out of the model itself,
which may be a download that is not ours to add to."""


def calibrate_checkpoint(  # noqa: PLR0913  the command's options
    checkpoint: Path,
    texts: Path,
    directory: Path | None,
    settings: CalibrationSettings,
    device: str | None,
    console: Console,
) -> Path:
    """Return the file with the statistics of `checkpoint` on `texts`; at once when it is there already.

    Raises `InvalidCheckpoint` or `InvalidInput`, and leaves nothing half-written.
    """
    chosen = _device(device)
    path = checkpoint.resolve()
    if is_adapter(path):
        message = "statistics are of whole models, and this is a LoRA adapter"
        raise InvalidCheckpoint([field_error("checkpoint", str(path), message, "a directory with the merged model")])
    with byte_progress(console, f"reading {path.name}") as progress:
        found = inspect_checkpoint(path, path.name, "checkpoint", default_home() / "cache" / CACHE_NAME, progress)
    files = CheckpointFiles(path, "checkpoint")
    with _token_progress(console, f"calibrating {path.name}") as progress:
        return calibrate(files, found.digest, texts, directory or path.parent / FOLDER, settings, progress, chosen)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch was built without it, or the machine has none
        message = f"torch cannot use this device ({str(error).splitlines()[0]})"
        raise InvalidInput([field_error("device", name, message, "cpu, cuda, cuda:1, ...")]) from None


@contextmanager
def _token_progress(console: Console, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; the function it gives takes tokens done and in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
