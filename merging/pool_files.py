"""The files of a whole pool, opened lazily and guarded against changes on disk."""

import socket
from collections.abc import Mapping
from pathlib import Path

from campaigns.errors import FieldError, InvalidCheckpoint, InvalidInput, field_error
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe
from merging.adapter import LoraAdapter
from merging.calibration import CalibrationStatistics
from merging.calibration.pool_statistics import PoolStatistics
from merging.checkpoint import CheckpointFiles
from merging.dtypes import MERGED
from merging.inspection import inspect_files, stamp_of
from merging.pool_lookups import PoolLookups
from merging.recipe_report import idle_rules, recipe_errors
from merging.vocabulary import fitted, fixed_tensors

BASE_FIELD = "pool.base.path"
COPIES = "copies"
"""The folder of the cache that holds the content digests of copies, in one file per machine."""


class PoolFiles:
    """Every checkpoint of a pool, by content digest.

    `checkpoints` are as the pool sees them: adapters merged into the base, vocabularies of the template's size.
    Nothing is read but headers; `lookups` keeps under `cache_dir` what merges find out about the tensors. Raises
    `InvalidCheckpoint` when a checkpoint is gone or is not what it was when the pool was inspected. A machine that has
    copies of its own knows them `by_content`: files with other times are read through once, and are what they were if
    their digest says so.
    """

    def __init__(self, pool: Pool, cache_dir: Path | None = None, by_content: bool = False) -> None:
        self.pool = pool
        self._fields = {f"pool.checkpoints.{i}.path": checkpoint for i, checkpoint in enumerate(pool.checkpoints)}
        if pool.base is not None:
            self._fields[BASE_FIELD] = pool.base
        self._files = _open(self._fields)
        self._statistics = PoolStatistics(pool)
        self._stamps = {field: checkpoint.stamp for field, checkpoint in self._fields.items()}
        if by_content:
            self._accept_copies(cache_dir)
        self.verify()
        whole = {field: _whole(self._files[field], checkpoint) for field, checkpoint in self._fields.items()}
        template = next(whole[field] for field, c in self._fields.items() if c is pool.template)
        self.fixed_tensors = fixed_tensors(whole.values(), template, pool.embeddings)
        self.checkpoints = {
            c.digest: fitted(whole[field], template, pool.embeddings, self.fixed_tensors)
            for field, c in self._fields.items()
        }
        self.lookups = PoolLookups(self.checkpoints, cache_dir)

    @property
    def template(self) -> CheckpointFiles:
        """The checkpoint whose configuration, tokenizer, tensor order and buffers merges get."""
        return self.checkpoints[self.pool.template.digest]

    @property
    def statistics(self) -> dict[str, CalibrationStatistics]:
        """The calibration statistics of the checkpoints that have them, by the checkpoints' content digest.

        Their files are opened on first use. Raises `InvalidCheckpoint` when one is not what it was when the pool was
        inspected.
        """
        return self._statistics.files

    def is_merged(self, tensor: str) -> bool:
        """Say whether a tensor of the template is merged; the others are the template's own in every merge.

        These are buffers of whole numbers, copied as they are, and vocabulary tensors of unequal sizes under
        `embeddings: base`, which get the merge's type. The latter are the template's in every one of `checkpoints`.
        """
        return self.template.tensors[tensor].dtype in MERGED and tensor not in self.fixed_tensors

    def verify(self) -> None:
        """Raise `InvalidCheckpoint` naming every checkpoint and statistics file that changed since its inspection."""
        errors: list[FieldError] = []
        for field, checkpoint in self._fields.items():
            if stamp_of(self._files[field].files) != self._stamps[field]:
                message = f"checkpoint {checkpoint.name!r} changed on disk after it was inspected"
                errors.append(field_error(field, checkpoint.path, message, "the files as they were; inspect it again"))
        errors += self._statistics.changes()
        if errors:
            raise InvalidCheckpoint(errors)

    def _accept_copies(self, cache_dir: Path | None) -> None:
        """Go by this machine's stamps from now on, for the checkpoints whose content is what was inspected."""
        cache_file = None if cache_dir is None else cache_dir / COPIES / f"{socket.gethostname()}.json"
        for field, checkpoint in self._fields.items():
            if stamp_of(self._files[field].files) != checkpoint.stamp:
                found = inspect_files(self._files[field], checkpoint.name, cache_file)
                if found.digest == (checkpoint.content_digest or checkpoint.digest):
                    self._stamps[field] = found.stamp

    def check(self, recipe: Recipe) -> None:
        """Raise `InvalidInput` naming everything that keeps `recipe` from being made of this pool."""
        errors = [*recipe_errors(recipe, self.pool), *idle_rules(recipe, [*self.template.merged_tensors])]
        errors += self._statistics.misfits(recipe)
        if errors:
            raise InvalidInput(errors)


def _open(checkpoints: Mapping[str, Checkpoint]) -> dict[str, CheckpointFiles | LoraAdapter]:
    """Open the checkpoints and adapters of a pool by field; raise `InvalidCheckpoint` naming all that fail."""
    base = checkpoints.get(BASE_FIELD)
    base_files = CheckpointFiles(Path(base.path), BASE_FIELD) if base else None
    opened: dict[str, CheckpointFiles | LoraAdapter] = {}
    errors: list[FieldError] = []
    for field, checkpoint in checkpoints.items():
        try:
            if checkpoint.merged_file is None:
                opened[field] = CheckpointFiles(Path(checkpoint.path), field)
            else:
                assert base_files is not None
                opened[field] = LoraAdapter(Path(checkpoint.path), base_files, field)
        except InvalidCheckpoint as error:
            errors += error.errors
    if errors:
        raise InvalidCheckpoint(errors)
    return opened


def _whole(files: CheckpointFiles | LoraAdapter, checkpoint: Checkpoint) -> CheckpointFiles:
    """Return a member as a whole checkpoint. What an adapter makes of its base is found anew if the cache lost it."""
    if isinstance(files, CheckpointFiles):
        return files
    return files.merged(Path(str(checkpoint.merged_file)))
