"""The L1 norm of the merged task vector, against a plain computation, whatever the threads."""

import pytest
import torch
from safetensors.torch import load_file

from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from merging.image import MergedModel
from merging.l1_distance import CPU_SUM_ELEMENTS, l1_parts
from merging.live import LiveModel
from merging.pool_files import PoolFiles


def task_arithmetic(pool: Pool, *weights: float) -> Recipe:
    assert pool.base is not None
    return Recipe(
        method=TaskArithmeticMerge(weights=weights),
        sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
        base=pool.base.digest,
        template=pool.base.digest,
        dtype=pool.dtype,
    )


@pytest.mark.parametrize("weights", [(0.3, 0.3, 0.3), (1.0, 0.0, 0.0), (0.5, -0.25, 1.5)])
def test_equals_the_sum_over_the_files_of_the_merge(pool: Pool, tmp_path, weights: tuple[float, ...]) -> None:
    recipe, live = task_arithmetic(pool, *weights), LiveModel(PoolFiles(pool), "bfloat16")
    live.write(recipe)
    MergedModel(live.pool_files, recipe).write_directory(tmp_path / "merged")
    assert pool.base is not None
    merged, base = (
        load_file(tmp_path / "merged" / "model.safetensors"),
        load_file(f"{pool.base.path}/model.safetensors"),
    )
    expected = sum((merged[name].double() - base[name].double()).abs().sum().item() for name in base)
    assert expected > 100.0
    assert live.delta_l1() == pytest.approx(expected, rel=1e-12)


def test_the_base_itself_is_at_distance_zero(pool: Pool) -> None:
    live = LiveModel(PoolFiles(pool), "bfloat16")
    live.write(task_arithmetic(pool, 0.0, 0.0, 0.0))
    assert live.delta_l1() == 0.0


def test_of_a_checkpoint_alone_it_is_the_distance_to_the_base_in_the_type_of_the_merge(zoo, pool_of) -> None:
    """In float32 nothing is rounded away, so that a checkpoint in bfloat16 is as far from its base as in the files."""
    pool = pool_of(zoo, ["a", "b", "c"], base="base", dtype="float32")
    recipe = Recipe(
        method=LinearMerge(weights=(1.0, 0.0, 0.0)),
        sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
        template=pool.template.digest,
        dtype="float32",
    )
    live = LiveModel(PoolFiles(pool), "float32")
    live.write(recipe)
    own, base = load_file(zoo / "a" / "model.safetensors"), load_file(zoo / "base" / "model.safetensors")
    expected = sum((own[name].double() - base[name].double()).abs().sum().item() for name in base)
    assert live.delta_l1() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values, base = (torch.randn(5 * CPU_SUM_ELEMENTS + 7, generator=generator).to(dtype) for _ in range(2))
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append([*l1_parts(values, base)])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6


def test_a_pool_without_a_base_has_no_task_vectors(zoo, pool_of) -> None:
    live = LiveModel(PoolFiles(pool_of(zoo, ["a", "b"])), "bfloat16")
    with pytest.raises(RuntimeError, match="without a base"):
        live.delta_l1()
