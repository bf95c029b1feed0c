"""The calibration statistics of a pool: found by its spec, opened when first asked for, guarded against changes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from campaigns.errors import FieldError, InvalidCheckpoint, field_error
from campaigns.pools import Checkpoint, Pool, Statistics
from campaigns.recipe import Recipe
from merging.calibration.statistics import CalibrationStatistics
from merging.inspection import stamp_of
from merging.inspection_cache import InspectionCache
from merging.sources import locate_file


def find_statistics(
    path: str, checkpoint: Checkpoint, field: str, roots: Sequence[Path], cache_file: Path | None
) -> Statistics:
    """Return the statistics at `path`, under one of `roots`; `cache_file` remembers what their file's digest was.

    Raises `InvalidCheckpoint` with `field` for a file that is missing or outside the roots, that holds no statistics,
    or those of a checkpoint of other content.
    """
    found = CalibrationStatistics(locate_file(path, field, roots), field)
    if found.checkpoint_digest != checkpoint.digest:
        message = "these are the statistics of another checkpoint"
        allowed = f"statistics of {checkpoint.digest[:12]}... ({checkpoint.name})"
        raise InvalidCheckpoint([field_error(field, f"{path} of {found.checkpoint_digest[:12]}...", message, allowed)])
    cache = InspectionCache(cache_file)
    digest = cache.get(found.path, found.stamp)
    if digest is None:
        digest = found.digest
        cache.put(found.path, found.stamp, digest)
    return Statistics(path=str(found.path), digest=digest)


class PoolStatistics:
    """The statistics files of a pool's checkpoints. None is opened before `files` is asked for."""

    def __init__(self, pool: Pool) -> None:
        named = {f"pool.checkpoints.{index}.statistics": found for index, found in enumerate(pool.checkpoints)}
        if pool.base is not None:
            named["pool.base.statistics"] = pool.base
        self._checkpoints = {field: checkpoint for field, checkpoint in named.items() if checkpoint.statistics}
        self._known = {c.digest: c.statistics for c in self._checkpoints.values() if c.statistics}
        self._stamps = {field: _stamp(checkpoint) for field, checkpoint in self._checkpoints.items()}
        self._files: dict[str, CalibrationStatistics] | None = None

    @property
    def files(self) -> dict[str, CalibrationStatistics]:
        """The statistics by content digest of their checkpoint.

        The first time, all of them are read through to compare their content: `InvalidCheckpoint` when one changed.
        """
        if self._files is None:
            self._files = {c.digest: _open(c, field) for field, c in self._checkpoints.items()}
        return self._files

    def changes(self) -> Iterator[FieldError]:
        """Yield one error for each file that is gone or changed on disk since this was built."""
        for field, checkpoint in self._checkpoints.items():
            stamp = _stamp(checkpoint)
            if stamp is None or stamp != self._stamps[field]:
                yield _changed(checkpoint, field)

    def misfits(self, recipe: Recipe) -> Iterator[FieldError]:
        """Yield one error for each source without the statistics that the recipe names or its methods need."""
        needed = {method.needs_statistics: method.kind for method in recipe.methods if method.needs_statistics}
        if not recipe.statistics and not needed:
            return
        if len(recipe.statistics) != len(recipe.sources):
            message, allowed = "there must be one per source", f"{len(recipe.sources)} digests"
            if needed:
                message = f"{', '.join(needed.values())} needs calibration statistics of every source"
            yield field_error("recipe.statistics", recipe.statistics, message, allowed)
            return
        for index, (source, digest) in enumerate(zip(recipe.sources, recipe.statistics, strict=True)):
            known = self._known.get(source)
            if known is None or known.digest != digest:
                message = f"not the statistics of source {index} in this pool"
                yield field_error(f"recipe.statistics.{index}", digest, message, known.digest if known else "none")
                continue
            kinds = self.files[source].kinds
            for kind, method in needed.items():
                if kind not in kinds:
                    found, allowed = ", ".join(sorted(kinds)), f"a file that mergefront calibrate wrote with {kind}"
                    yield field_error(f"recipe.statistics.{index}", found, f"{method} needs {kind}", allowed)


def _open(checkpoint: Checkpoint, field: str) -> CalibrationStatistics:
    assert checkpoint.statistics is not None
    opened = CalibrationStatistics(Path(checkpoint.statistics.path), field)
    if opened.digest != checkpoint.statistics.digest:
        raise InvalidCheckpoint([_changed(checkpoint, field)])
    return opened


def _stamp(checkpoint: Checkpoint) -> str | None:
    """Return the stamp of a checkpoint's statistics file, None when it is gone."""
    assert checkpoint.statistics is not None
    path = Path(checkpoint.statistics.path)
    return stamp_of({path.name: path}) if path.is_file() else None


def _changed(checkpoint: Checkpoint, field: str) -> FieldError:
    assert checkpoint.statistics is not None
    message = f"the statistics of {checkpoint.name!r} changed on disk after they were inspected"
    return field_error(field, checkpoint.statistics.path, message, "the file as it was; inspect it again")
