"""Groups of tensors: that each tensor of a model gets the numbers of the group it belongs to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from campaigns.errors import InvalidSpec
from campaigns.methods import LinearMerge, TaskArithmeticMerge
from campaigns.recipe import Recipe
from search_spaces import SearchSpace

Build = Callable[..., SearchSpace]
TWO = ("math", "code")
LAYERS = 10


def llama_names() -> list[str]:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    with torch.device("meta"):
        return list(LlamaForCausalLM(config).state_dict())


LLAMA = llama_names()
ATTENTION = "model.layers.3.self_attn.q_proj.weight"
MLP = "model.layers.3.mlp.up_proj.weight"
NORM = "model.layers.3.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


def distinct(space: SearchSpace) -> Recipe:
    """A recipe in which no two coordinates agree."""
    return space.candidate(tuple((index + 1) / (space.dimensions + 1) for index in range(space.dimensions))).recipe


def weights_by_group(build: Build, space: dict[str, Any]) -> dict[str, list[str]]:
    """Return the tensors of a Llama that share weights, under the name of the first weight that they share."""
    built = build({"kind": "task_arithmetic", **space}, TWO)
    point = tuple((index + 1) / (built.dimensions + 1) for index in range(built.dimensions))
    candidate = built.candidate(point)
    called = {candidate.parameters[name]: name for name in built.names if name.startswith("weight.math")}
    groups: dict[str, list[str]] = {}
    for tensor in LLAMA:
        method = candidate.recipe.method_of(tensor)
        assert isinstance(method, TaskArithmeticMerge)
        groups.setdefault(called.get(method.weights[0], "copied"), []).append(tensor)
    return groups


def layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def test_the_names_are_those_of_a_llama() -> None:
    assert {ATTENTION, MLP, NORM, EMBEDDING, "model.norm.weight", "lm_head.weight"} <= set(LLAMA)


def test_layers_are_cut_into_groups_of_nearly_equal_size(build: Build) -> None:
    groups = weights_by_group(build, {"layer_groups": 3})
    sizes = {name: {layer(tensor) for tensor in tensors} for name, tensors in groups.items()}
    assert sizes == {
        "weight.math@layers[0,3)": {0, 1, 2},
        "weight.math@layers[3,6)": {3, 4, 5},
        "weight.math@layers[6,10)": {6, 7, 8, 9},
        "weight.math@rest": {None},
    }
    assert set(groups["weight.math@rest"]) == {EMBEDDING, "model.norm.weight", "lm_head.weight"}


def test_ranges_of_layers_may_leave_a_gap(build: Build) -> None:
    groups = weights_by_group(build, {"layer_groups": [[0, 2], [8, 10]]})
    assert {layer(tensor) for tensor in groups["weight.math@layers[8,10)"]} == {8, 9}
    assert {layer(tensor) for tensor in groups["weight.math@rest"]} == {None, *range(2, 8)}


def test_modules_are_told_apart_by_strings_of_their_names(build: Build) -> None:
    groups = weights_by_group(build, {"modules": {"attention": "self_attn", "outside": ["embed", "lm_head"]}})
    assert len(groups["weight.math@attention"]) == 4 * LAYERS
    assert groups["weight.math@outside"] == [EMBEDDING, "lm_head.weight"]
    assert {MLP, NORM, "model.norm.weight"} <= set(groups["weight.math@rest"])
    assert weights_by_group(build, {"modules": ["mlp"]}).keys() == {"weight.math@mlp", "weight.math@rest"}


def test_layers_and_modules_make_every_pair(build: Build) -> None:
    groups = weights_by_group(build, {"layer_groups": 2, "modules": ["self_attn", "mlp"]})
    pairs = [f"weight.math@layers[{span})/{module}" for span in ("0,5", "5,10") for module in ("self_attn", "mlp")]
    assert set(groups) == {*pairs, "weight.math@rest"}
    assert ATTENTION in groups[pairs[0]]
    assert MLP in groups[pairs[1]]
    assert NORM in groups["weight.math@rest"]


def test_the_rest_may_be_copied(build: Build) -> None:
    groups = weights_by_group(build, {"modules": ["mlp"], "rest": "copy"})
    assert groups.keys() == {"weight.math@mlp", "copied"}
    built = build({"kind": "task_arithmetic", "modules": ["mlp"], "rest": "copy"}, TWO)
    assert built.names == ("weight.math@mlp", "weight.code@mlp")
    assert distinct(built).method == TaskArithmeticMerge(weights=(0.0, 0.0))


def test_only_some_tensors_are_merged(build: Build) -> None:
    recipe = distinct(build({"kind": "ties", "only": ["self_attn", "mlp"]}, TWO))
    assert {tensor: recipe.method_of(tensor).kind for tensor in (ATTENTION, MLP, NORM, EMBEDDING)} == {
        ATTENTION: "ties",
        MLP: "ties",
        NORM: "task_arithmetic",
        EMBEDDING: "task_arithmetic",
    }
    assert recipe.method_of(EMBEDDING) == TaskArithmeticMerge(weights=(0.0, 0.0))
    assert recipe.base == "digest-of-base"


def test_without_a_base_the_first_checkpoint_is_copied(build: Build) -> None:
    recipe = distinct(build({"kind": "slerp", "only": ["layers."]}, TWO))
    assert recipe.method_of(MLP).kind == "slerp"
    assert recipe.method_of(EMBEDDING) == LinearMerge(weights=(1.0, 0.0))
    assert recipe.base is None


def test_only_narrows_groups_and_their_rest(build: Build) -> None:
    groups = weights_by_group(build, {"only": ["proj"], "modules": ["mlp"]})
    assert groups.keys() == {"weight.math@mlp", "weight.math@rest", "copied"}
    assert MLP in groups["weight.math@mlp"]
    assert ATTENTION in groups["weight.math@rest"]
    assert {NORM, EMBEDDING} <= set(groups["copied"])


def test_what_varies_by_group_is_asked_for(build: Build) -> None:
    declared = {"kind": "ties", "modules": ["mlp"]}
    assert build(declared, TWO).names == (
        "weight.math@mlp",
        "weight.code@mlp",
        "weight.math@rest",
        "weight.code@rest",
        "density.math",
        "density.code",
        "scale",
    )
    assert build({**declared, "by_group": ["densities", "scale"]}, TWO).names == (
        "weight.math",
        "weight.code",
        "density.math@mlp",
        "density.code@mlp",
        "density.math@rest",
        "density.code@rest",
        "scale@mlp",
        "scale@rest",
    )


def test_slerp_has_a_t_for_each_group(build: Build) -> None:
    space = build({"kind": "slerp", "modules": ["self_attn", "mlp"]}, TWO)
    assert space.names == ("t@self_attn", "t@mlp", "t@rest")
    recipe = space.candidate((0.1, 0.2, 0.3)).recipe
    found = [getattr(recipe.method_of(tensor), "t", None) for tensor in (ATTENTION, MLP, NORM)]
    assert found == pytest.approx([0.1, 0.2, 0.3])


def test_shares_sum_to_one_in_each_group(build: Build) -> None:
    recipe = distinct(build({"kind": "linear", "layer_groups": 5}))
    assert len(recipe.methods) == 6
    assert [sum(m.weights) for m in recipe.methods if m.kind == "linear"] == pytest.approx([1.0] * 6)


def test_layers_of_other_architectures_count_as_well(build: Build) -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=LAYERS, n_head=2))
    recipe = distinct(build({"kind": "task_arithmetic", "layer_groups": 2, "modules": ["attn"]}, TWO))
    methods = {name: recipe.method_of(name) for name in model.state_dict()}
    assert methods["transformer.h.4.attn.c_attn.weight"] == recipe.rules[0].method
    assert methods["transformer.h.5.attn.c_attn.weight"] == recipe.rules[1].method
    assert methods["transformer.h.5.mlp.c_fc.weight"] == methods["transformer.wte.weight"] == recipe.method


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({"kind": "ties", "layer_groups": 0}, "space.layer_groups"),
        ({"kind": "ties", "layer_groups": "many"}, "space.layer_groups"),
        ({"kind": "ties", "layer_groups": []}, "space.layer_groups"),
        ({"kind": "ties", "layer_groups": [[0, 4], [3, 6]]}, "space.layer_groups"),
        ({"kind": "ties", "layer_groups": [[4, 4]]}, "space.layer_groups"),
        ({"kind": "ties", "modules": {}}, "space.modules"),
        ({"kind": "ties", "modules": {"mlp": []}}, "space.modules.mlp"),
        ({"kind": "ties", "modules": ["rest"]}, "space.modules.rest"),
        ({"kind": "ties", "rest": "copy"}, "space.rest"),
        ({"kind": "ties", "layer_groups": 2, "by_group": ["t"]}, "space.by_group"),
        ({"kind": "ties", "layer_groups": 2, "by_group": ["colour"]}, "space.by_group.0"),
        ({"kind": "ties", "layer_groups": 2, "by_group": ["densities"], "trim": "global"}, "space.by_group"),
        ({"kind": "sce", "layer_groups": 2}, "space.by_group"),
        ({"kind": "emr", "modules": ["mlp"]}, "space.by_group"),
    ],
)
def test_groups_that_make_no_sense_are_refused_by_field(build: Build, declared: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        build(declared, TWO)
    assert [error.field for error in refused.value.errors] == [field]
