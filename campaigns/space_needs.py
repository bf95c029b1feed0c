"""What a space needs of its pool: a base, calibration statistics, a number of checkpoints, names that are there."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from campaigns.noun import wrong
from campaigns.pools import PoolSpec
from campaigns.spaces import (
    ChoiceSpace,
    ConsensusSpace,
    EmrSpace,
    FisherSpace,
    MethodSpace,
    MixSpace,
    ModelStockSpace,
    MultiSlerpSpace,
    NuSlerpSpace,
    ObimSpace,
    RegMeanSpace,
    SceSpace,
    SlerpSpace,
    Space,
    TaskVectorSpace,
    TiesSpace,
    WeightedSpace,
    methods_of,
)


def needs_base(space: MethodSpace) -> bool:
    """Whether the method works on task vectors, the differences from a base."""
    if isinstance(space, NuSlerpSpace | MultiSlerpSpace):
        return space.task_vectors
    return isinstance(space, TaskVectorSpace | ModelStockSpace | SceSpace | EmrSpace)


def needs_statistics(space: MethodSpace) -> bool:
    """Whether the method weighs elements by calibration statistics of every checkpoint."""
    if isinstance(space, TiesSpace):
        return space.trim_by == "saliency"
    return isinstance(space, FisherSpace | RegMeanSpace | ObimSpace)


def check_space(space: Space, pool: PoolSpec) -> None:
    """Raise `ValidationError`, with fields as in the campaign spec, for everything that `pool` does not have."""
    errors = []
    for field, option in methods_of(space):
        errors += [*_missing(option, pool), *_misfits(option, pool.names, field)]
        if not isinstance(space, ChoiceSpace):
            errors += _nothing_to_search(option, pool.names, field)
    if errors:
        by_field = {(error.context or {})["field"]: error for error in errors}  # two options may lack the same base
        details = [InitErrorDetails(type=error, loc=(), input=None) for error in by_field.values()]
        raise ValidationError.from_exception_data("space", details)


def _missing(space: MethodSpace, pool: PoolSpec) -> Iterator[PydanticCustomError]:
    if needs_base(space) and pool.base is None:
        yield wrong("pool.base", None, f"method {space.kind!r} needs a base checkpoint")
    if needs_statistics(space):
        for index, checkpoint in enumerate(pool.checkpoints):
            if checkpoint.statistics is None:
                message = f"method {space.kind!r} needs calibration statistics of every checkpoint"
                yield wrong(f"pool.checkpoints.{index}.statistics", None, message, "a file of `mergefront calibrate`")
    if isinstance(space, SlerpSpace | NuSlerpSpace) and len(pool.checkpoints) != 2:
        yield wrong("pool.checkpoints", len(pool.checkpoints), f"method {space.kind!r} merges exactly 2 checkpoints")


def _misfits(space: MethodSpace, names: Sequence[str], field: str) -> Iterator[PydanticCustomError]:
    for place, name in space.named_checkpoints():
        if name not in names:
            yield wrong(f"{field}.{place}", name, "no checkpoint has this name", ", ".join(names))
    if isinstance(space, MixSpace) and space.normalize != "free" and set(names) <= space.freeze.keys():
        yield wrong(f"{field}.freeze", space.freeze, "at least one checkpoint must be left to vary")
    if isinstance(space, ConsensusSpace):
        most = space.agreeing[1] if isinstance(space.agreeing, tuple) else space.agreeing
        if most > len(names):
            yield wrong(f"{field}.agreeing", space.agreeing, f"no more than the {len(names)} checkpoints can agree")
    if isinstance(space, ObimSpace) and space.order is not None and sorted(space.order) != sorted(names):
        yield wrong(f"{field}.order", space.order, "order must name every checkpoint once", ", ".join(names))


def _nothing_to_search(space: MethodSpace, names: tuple[str, ...], field: str) -> Iterator[PydanticCustomError]:
    if space.varies(names):
        return
    if isinstance(space, WeightedSpace):
        yield wrong(f"{field}.freeze", space.freeze, "at least one checkpoint must be left to vary")
    else:
        message = f"method {space.kind!r} has nothing to search here; it can be an option of a choice"
        yield wrong(f"{field}.kind", space.kind, message)
