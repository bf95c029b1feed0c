"""Recipes with rules: each tensor is merged by its own method, whichever way the model is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from campaigns.errors import InvalidInput
from campaigns.methods import (
    DellaMerge,
    LinearMerge,
    ModelStockMerge,
    MultiSlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.pools import Pool
from campaigns.recipe import Recipe, Rule, TensorFilter
from merging.image import MergedModel
from merging.live import LiveModel
from merging.pool_files import PoolFiles

MakeRecipe = Callable[..., Recipe]
Merge = Callable[..., dict[str, torch.Tensor]]

W = (0.3, 0.5, 0.15)
D = (0.2, 0.6, 1.0)


def rule(method: Any, *contains: str, layers: tuple[int, int] | None = None) -> Rule:
    return Rule(tensors=TensorFilter(contains=contains, layers=layers), method=method)


RULES = (
    rule(TiesMerge(weights=W, densities=D), "mlp", layers=(0, 1)),
    rule(TiesMerge(weights=W, densities=(0.9, 0.1, 0.5), trim="global"), "mlp", layers=(1, 2)),
    rule(DellaMerge(weights=W, densities=D), "self_attn", "q_proj"),
    rule(LinearMerge(weights=(0.0, 1.0, 0.0)), "self_attn", "k_proj"),
    rule(TaskArithmeticMerge(weights=W, scale=0.0), layers=(1, 2)),
    rule(TaskArithmeticMerge(weights=W, scale=0.7), "norm"),
    rule(TaskArithmeticMerge(weights=W, scale=0.3), "self_attn"),
    rule(ModelStockMerge(), "lm_head"),
    rule(MultiSlerpMerge(weights=W), "down_proj"),
)
"""First matches count."""


@pytest.fixture(scope="module")
def files(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> PoolFiles:
    return PoolFiles(pool, tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=["bfloat16", "float32"])
def recipe(request: pytest.FixtureRequest, files: PoolFiles, recipe_of: MakeRecipe) -> Recipe:
    return recipe_of(files, LinearMerge(weights=W), request.param, rules=RULES, seed=2)


def equal(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> list[str]:
    assert {*some} == {*others}
    return [name for name, tensor in some.items() if not torch.equal(tensor, others[name])]


def test_each_tensor_is_merged_by_its_own_recipe(files: PoolFiles, recipe: Recipe, merge: Merge) -> None:
    merged = merge(files, recipe)
    used = set()
    for name in merged:
        method = recipe.method_of(name)
        used.add(method)
        alone = merge(files, recipe.replace(method=method, rules=()))
        assert torch.equal(merged[name], alone[name]), name
    assert used == {recipe.method, *(rule.method for rule in RULES)}


def test_the_first_rule_that_matches_counts(recipe: Recipe) -> None:
    kinds = {
        "model.layers.0.mlp.down_proj.weight": RULES[0],
        "model.layers.1.mlp.down_proj.weight": RULES[1],
        "model.layers.2.mlp.down_proj.weight": RULES[8],
        "model.layers.1.self_attn.q_proj.weight": RULES[2],
        "model.layers.1.self_attn.v_proj.weight": RULES[4],
        "model.layers.0.self_attn.v_proj.weight": RULES[6],
        "model.layers.0.input_layernorm.weight": RULES[5],
        "model.norm.weight": RULES[5],
        "lm_head.weight": RULES[7],
    }
    for name, expected in kinds.items():
        assert recipe.method_of(name) == expected.method, name
    assert recipe.method_of("model.embed_tokens.weight") == recipe.method


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 50_000])
def test_live_disk_and_ranges_are_the_same(
    files: PoolFiles, recipe: Recipe, merge: Merge, tmp_path: Path, max_shard_bytes: int
) -> None:
    expected = merge(files, recipe)
    model = MergedModel(files, recipe, max_shard_bytes=max_shard_bytes)
    model.write_directory(tmp_path / "merged")
    shards = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_bytes < 5_000_000_000)
    written = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert equal(written, expected) == []
    for shard in shards:
        content, size = shard.read_bytes(), shard.stat().st_size
        for start in range(0, size, 9973):
            part = b"".join(model.read(shard.name, start, min(start + 9973, size)))
            assert part == content[start : start + 9973]
    live = LiveModel(files, recipe.dtype)
    live.write(recipe)
    found = {name: tensor.detach() for name, tensor in live.model.state_dict().items() if name in expected}
    assert equal(found, expected) == []


def test_wrong_rules_are_refused_by_place(files: PoolFiles, recipe_of: MakeRecipe) -> None:
    rules = (rule(LinearMerge(weights=W), "a"), rule(LinearMerge(weights=(0.5, 0.5)), "b"))
    with pytest.raises(InvalidInput) as caught:
        files.check(recipe_of(files, LinearMerge(weights=W), rules=rules))
    assert [error.field for error in caught.value.errors] == ["recipe.rules.1.method.weights"]


def test_a_rule_that_needs_a_base_is_refused_without_one(files: PoolFiles, recipe_of: MakeRecipe) -> None:
    rules = (rule(TaskArithmeticMerge(weights=W), "mlp"),)
    with pytest.raises(InvalidInput, match="needs a base"):
        files.check(recipe_of(files, LinearMerge(weights=W), rules=rules, base=None))
