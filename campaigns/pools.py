"""The pool: which checkpoints are merged, as asked for (`PoolSpec`) and as found (`Pool`)."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from campaigns.noun import Noun, wrong

MAX_CHECKPOINTS = 64

Dtype = Literal["float32", "bfloat16", "float16"]
Embeddings = Literal["refuse", "base", "truncate"]
"""Where vocabulary sizes differ: refuse the pool, copy the template's tensors, or merge the template's rows only."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class CheckpointSpec(Noun):
    """One checkpoint: a short name and where it lies, a directory or a repository of the hub."""

    name: Name
    path: str | None = Field(None, description="Directory with safetensors, under a configured model root")
    hub: str | None = Field(None, description="Hub repository, `owner/name`, on the operator's allow list")
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository")
    statistics: str | None = Field(None, description="File that `mergefront calibrate` wrote of this checkpoint")

    @model_validator(mode="after")
    def _one_place(self) -> "CheckpointSpec":
        if (self.path is None) == (self.hub is None):
            raise wrong("path", self.path, "give exactly one of path and hub")
        if self.revision is not None and self.hub is None:
            raise wrong("revision", self.revision, "revision goes with hub only")
        return self


class PoolSpec(Noun):
    """The checkpoints to merge, in order, and the base that task vectors are taken from."""

    checkpoints: tuple[CheckpointSpec, ...] = Field(min_length=2, max_length=MAX_CHECKPOINTS)
    base: CheckpointSpec | None = None
    dtype: Dtype | None = Field(None, description="Type of merged tensors; default: that of the first checkpoint")
    embeddings: Embeddings = Field("refuse", description="What becomes of vocabularies of different sizes")

    @model_validator(mode="after")
    def _distinct_names(self) -> "PoolSpec":
        seen: set[str] = set()
        for index, checkpoint in enumerate(self.checkpoints):
            if checkpoint.name in seen:
                raise wrong(f"checkpoints.{index}.name", checkpoint.name, "two checkpoints have this name")
            seen.add(checkpoint.name)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the checkpoints, in order, the base left out."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)


class Statistics(Noun):
    """Calibration statistics of a checkpoint: a file, and the sha256 (hex) of its content."""

    path: str
    digest: str


class Checkpoint(Noun):
    """A checkpoint that was found, read through once and fits its pool.

    `digest` is the sha256 (hex) over its weight, configuration and tokenizer files; that of a LoRA adapter is made of
    its files' and the base's, and where the pool changes what is merged (vocabularies cut or left out), of that, too.
    `stamp` is a digest of the files' names, sizes and modification times, so that a change on disk is noticed without
    reading them again.
    """

    name: str
    path: str
    digest: str
    stamp: str
    size_bytes: int
    statistics: Statistics | None = Field(None, exclude_if=lambda statistics: statistics is None)
    content_digest: str | None = Field(
        None,
        exclude_if=lambda digest: digest is None,
        description="sha256 (hex) over its own files, where `digest` is made of more than these",
    )
    merged_file: str | None = Field(
        None, exclude_if=lambda file: file is None, description="What a LoRA adapter makes of the base"
    )


class Pool(Noun):
    """Checkpoints that fit together. `template` is the checkpoint whose configuration and tokenizer merges get."""

    checkpoints: tuple[Checkpoint, ...]
    base: Checkpoint | None
    dtype: Dtype
    architecture: str
    parameter_count: int
    embeddings: Embeddings = Field("refuse", exclude_if=lambda embeddings: embeddings == "refuse")
    layers: int | None = Field(
        None, exclude_if=lambda layers: layers is None, description="How many layers tensor names count; None: unknown"
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the checkpoints, in order, the base left out."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    @property
    def template(self) -> Checkpoint:
        """The base if there is one, else the first checkpoint."""
        return self.base or self.checkpoints[0]
