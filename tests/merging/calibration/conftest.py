"""A text, and the calibration of tiny checkpoints on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merging.calibration import CalibrationSettings, CalibrationStatistics
from merging.calibration.calibrate import calibrate
from merging.checkpoint import CheckpointFiles
from merging.inspection import inspect_checkpoint

Calibrate = Callable[..., CalibrationStatistics]

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "zebra", "quartz")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty paragraphs of words in no order."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    paragraphs = [" ".join(WORDS[(7 * i + j * j) % 10] for j in range(20 + i)) for i in range(30)]
    file.write_text("\n\n".join(paragraphs))
    return file


@pytest.fixture
def calibrated(tmp_path: Path, texts: Path) -> Calibrate:
    """`calibrated(checkpoint, "gram", sequences=6)`: the statistics of a checkpoint on `texts`."""

    def run(checkpoint: Path, *kinds: Any, folder: str = "statistics", **options: Any) -> CalibrationStatistics:
        sizes = {"sequences": 6, "sequence_length": 24, "batch_size": 4}
        settings = CalibrationSettings(kinds=kinds, **{**sizes, **options})
        digest = inspect_checkpoint(checkpoint, "x", "path").digest
        return CalibrationStatistics(calibrate(CheckpointFiles(checkpoint), digest, texts, tmp_path / folder, settings))

    return run
