"""Candidates of every search space become models: the recipes that spaces make are those that the engine takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from campaigns.errors import InvalidSpec
from campaigns.pools import Pool
from campaigns.recipe import Recipe
from campaigns.space_needs import needs_statistics
from campaigns.spec import CampaignSpec, parse_spec
from merging.image import MergedModel
from merging.methods import METHODS
from merging.pool_files import PoolFiles
from search_spaces import build_space

MakePool = Callable[..., Pool]
PAIRS = ("slerp", "nuslerp")
GROUPS: dict[str, Any] = {"layer_groups": 2, "modules": ["self_attn", "mlp"], "only": ["layers."]}
ATTENTION = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def spec_of(space: dict[str, Any], names: tuple[str, ...]) -> CampaignSpec:
    return parse_spec(
        {
            "name": "test",
            "pool": {"checkpoints": [{"name": n, "path": n} for n in names], "base": {"name": "base", "path": "base"}},
            "space": space,
            "objectives": [{"task": "sort", "metric": "acc"}],
            "budget": {"evaluations": 1},
        }
    )


@pytest.fixture(scope="module")
def pools(zoo: Path, pool: Pool, pool_of: MakePool) -> dict[int, Pool]:
    """A pool of two and a pool of three checkpoints, by that number."""
    return {2: pool_of(zoo, ["a", "b"], base="base"), 3: pool}


def searchable(kind: str) -> bool:
    """Whether a space of this kind, asked for by its name alone, can be searched in a pool without statistics."""
    try:
        spec = spec_of({"kind": kind}, ("a", "b"))
    except InvalidSpec:
        return False
    return not needs_statistics(spec.space)


SEARCHABLE = [kind for kind in METHODS if searchable(kind)]


def recipe_of(space: dict[str, Any], pool: Pool, unit: float) -> Recipe:
    built = build_space(spec_of(space, pool.names), pool)
    return built.candidate((unit,) * built.dimensions).recipe


def merged(pool: Pool, recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    MergedModel(PoolFiles(pool), recipe).write_directory(folder)
    return load_file(folder / "model.safetensors")


def test_most_methods_can_be_searched() -> None:
    assert {"linear", "task_arithmetic", "ties", "dare_ties", "slerp"} <= set(SEARCHABLE)
    assert set(METHODS) - set(SEARCHABLE) <= {"model_stock", "fisher", "regmean", "obim"}


def test_the_layers_of_a_pool_are_counted(pool: Pool) -> None:
    assert pool.layers == 3
    with pytest.raises(InvalidSpec, match="only 3 layers"):
        recipe_of({"kind": "linear", "layer_groups": 4}, pool, 0.5)


@pytest.mark.parametrize("kind", SEARCHABLE)
@pytest.mark.parametrize("unit", [0.0, 0.6, 1.0])
def test_candidates_become_models(pools: dict[int, Pool], tmp_path: Path, kind: str, unit: float) -> None:
    pool = pools[2 if kind in PAIRS else 3]
    tensors = merged(pool, recipe_of({"kind": kind}, pool, unit), tmp_path / "merged")
    base = load_file(Path(pool.template.path) / "model.safetensors")
    assert tensors.keys() == base.keys()
    for name, tensor in tensors.items():
        assert (tensor.shape, tensor.dtype) == (base[name].shape, torch.bfloat16)
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("kind", [kind for kind in SEARCHABLE if kind not in ("sce", "emr")])
def test_groups_and_copied_tensors_become_models(pools: dict[int, Pool], tmp_path: Path, kind: str) -> None:
    """What `only` leaves out is verbatim the base's, or the first checkpoint's; the rest is merged."""
    pool = pools[2 if kind in PAIRS else 3]
    recipe = recipe_of({"kind": kind, **GROUPS}, pool, 0.6)
    tensors = merged(pool, recipe, tmp_path / "merged")
    origin = pool.template if recipe.base is not None else pool.checkpoints[0]
    copied = load_file(Path(origin.path) / "model.safetensors")
    assert torch.equal(tensors[EMBEDDING], copied[EMBEDDING])
    assert not torch.equal(tensors[ATTENTION], copied[ATTENTION])


def test_a_choice_of_all_methods_becomes_a_model_of_each(pools: dict[int, Pool], tmp_path: Path) -> None:
    pool = pools[2]
    kinds = [*SEARCHABLE, *(["model_stock"] if "model_stock" in METHODS else [])]
    space = {"kind": "choice", "options": [{"kind": kind} for kind in kinds]}
    built = build_space(spec_of(space, pool.names), pool)
    for index, kind in enumerate(kinds):
        point = ((index + 0.5) / len(kinds), *(0.6,) * (built.dimensions - 1))
        recipe = built.candidate(point).recipe
        assert recipe.method.kind == kind
        assert torch.isfinite(merged(pool, recipe, tmp_path / kind)[ATTENTION]).all()
