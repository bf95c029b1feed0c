"""Merging many tensors in few calls: tensors that follow each other in every file, and in the result, make one run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from merging.checkpoint import CheckpointFiles
from merging.residence import Residence
from merging.safetensors_header import TensorInfo


@dataclass(frozen=True)
class Slot:
    """Where a merged tensor goes in a 1-D result: elements [start, start + count)."""

    name: str
    start: int
    count: int


@dataclass(frozen=True)
class Place:
    """Where the elements of a run lie in a checkpoint: from byte `start` of `file` on."""

    file: Path
    start: int


@dataclass(frozen=True)
class Run:
    """Elements [start, start + count) of a 1-D result, and where they come from: one 1-D view per checkpoint digest.

    `slots` are the tensors that they belong to, in order and without gaps; `places` tells by digest where the files
    have them.
    """

    start: int
    count: int
    slots: tuple[Slot, ...]
    sources: dict[str, torch.Tensor]
    places: dict[str, Place]

    def kept(self, residence: Residence, device: torch.device) -> "Run":
        """Return the run with its sources where they are to stay for merges on `device`."""
        if residence == "page cache":
            return self
        keep = torch.Tensor.pin_memory if residence == "pinned" else lambda source: source.to(device)
        return replace(self, sources={digest: keep(source) for digest, source in self.sources.items()})


def plan_runs(slots: Iterable[Slot], checkpoints: Mapping[str, CheckpointFiles]) -> list[Run]:
    """Return the fewest runs that cover `slots`, which are in order, from every one of `checkpoints` (by digest)."""
    groups: list[list[Slot]] = []
    for slot in slots:
        if groups and _follows(slot, groups[-1][-1], checkpoints):
            groups[-1].append(slot)
        elif slot.count:
            groups.append([slot])
    return [_run(group, checkpoints) for group in groups]


def _follows(slot: Slot, before: Slot, checkpoints: Mapping[str, CheckpointFiles]) -> bool:
    return slot.start == before.start + before.count and all(
        _touch(files.tensors[before.name], files.tensors[slot.name]) for files in checkpoints.values()
    )


def _touch(before: TensorInfo, tensor: TensorInfo) -> bool:
    return before.file == tensor.file and before.dtype == tensor.dtype and before.stop == tensor.start


def _run(group: list[Slot], checkpoints: Mapping[str, CheckpointFiles]) -> Run:
    count = sum(slot.count for slot in group)
    sources, places = {}, {}
    for digest, files in checkpoints.items():
        first = files.tensors[group[0].name]
        sources[digest] = files.flat(first.file, first.dtype, first.start, count)
        places[digest] = Place(first.file, first.start)
    return Run(group[0].start, count, tuple(group), sources, places)
