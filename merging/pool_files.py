"""The files of a whole pool, opened lazily and guarded against changes on disk."""

from pathlib import Path

from campaigns.errors import FieldError, InvalidCheckpoint, InvalidInput, field_error
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.checkpoint import CheckpointFiles
from merging.inspection import stamp_of
from merging.methods import METHODS


class PoolFiles:
    """Every checkpoint of a pool, by content digest.

    Nothing is read but headers. Raises `InvalidCheckpoint` when a checkpoint is gone or is not what it was when the
    pool was inspected.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._fields = {f"pool.checkpoints.{i}.path": checkpoint for i, checkpoint in enumerate(pool.checkpoints)}
        if pool.base is not None:
            self._fields["pool.base.path"] = pool.base
        self._files = {field: CheckpointFiles(Path(c.path), field) for field, c in self._fields.items()}
        self.checkpoints = {c.digest: self._files[field] for field, c in self._fields.items()}
        self.verify()

    @property
    def template(self) -> CheckpointFiles:
        """The checkpoint whose configuration, tokenizer, tensor order and buffers merges get."""
        return self.checkpoints[self.pool.template.digest]

    def verify(self) -> None:
        """Raise `InvalidCheckpoint` naming every checkpoint that changed on disk since the pool was inspected."""
        errors: list[FieldError] = []
        for field, checkpoint in self._fields.items():
            if stamp_of(self._files[field].files) != checkpoint.stamp:
                message = f"checkpoint {checkpoint.name!r} changed on disk after it was inspected"
                errors.append(field_error(field, checkpoint.path, message, "the files as they were; inspect it again"))
        if errors:
            raise InvalidCheckpoint(errors)

    def check(self, recipe: Recipe) -> None:
        """Raise `InvalidInput` naming everything that keeps `recipe` from being made of this pool."""
        errors: list[FieldError] = []
        allowed = ", ".join(f"{c.digest[:12]}... ({c.name})" for c in self._fields.values())
        for index, digest in enumerate(recipe.sources):
            if digest not in self.checkpoints:
                errors.append(field_error(f"recipe.sources.{index}", digest, "no checkpoint of this content", allowed))
        if METHODS[recipe.method.kind].needs_base and recipe.base not in self.checkpoints:
            errors.append(field_error("recipe.base", recipe.base, f"{recipe.method.kind} needs a base", allowed))
        if recipe.template != self.pool.template.digest:
            template = self.pool.template.digest
            errors.append(field_error("recipe.template", recipe.template, "not the template of this pool", template))
        if len(recipe.method.weights) != len(recipe.sources):
            message = "there must be one weight per source"
            value = recipe.method.weights
            errors.append(field_error("recipe.method.weights", value, message, f"{len(recipe.sources)} weights"))
        if errors:
            raise InvalidInput(errors)
