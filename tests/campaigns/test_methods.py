"""The nouns of merge methods and of recipes with rules: what they refuse, what they need, how they are written down."""

import json
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from campaigns.methods import (
    ConsensusMerge,
    DareLinearMerge,
    DellaMerge,
    EmrMerge,
    FisherMerge,
    KarcherMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    ObimMerge,
    RegMeanMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
    per_source,
)
from campaigns.recipe import Recipe, Rule, TensorFilter, layer_of

NOUNS = {noun.model_fields["kind"].default: noun for noun in get_args(get_args(Method)[0])}
ANY = TypeAdapter(Method)

W = (0.3, 0.7)
EXAMPLES = {
    "slerp": {"t": 0.5},
    "model_stock": {},
    "sce": {},
    "emr": {},
}
WITH_DENSITIES = {
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "obim",
}


def example(kind):
    """Return the least that a method of this kind must be told."""
    return {"kind": kind} | EXAMPLES.get(kind, {"weights": W}) | ({"densities": W} if kind in WITH_DENSITIES else {})


@pytest.mark.parametrize("kind", [*NOUNS])
def test_every_method_is_read_as_it_is_written(kind):
    method = ANY.validate_python(example(kind))
    assert type(method) is NOUNS[kind]
    assert ANY.validate_json(method.model_dump_json()) == method


@pytest.mark.parametrize("kind", [*NOUNS])
def test_every_method_says_what_it_computes(kind):
    assert len(NOUNS[kind].__doc__.splitlines()[0]) > 30


@pytest.mark.parametrize("kind", [*NOUNS])
@pytest.mark.parametrize(
    "change",
    [
        {"weights": ()},
        {"weights": (float("nan"), 1.0)},
        {"weights": (float("inf"), 1.0)},
        {"densities": (0.5, 1.5)},
        {"densities": (-0.1, 0.5)},
        {"densities": ()},
        {"scale": float("nan")},
        {"t": -0.1},
        {"t": 1.1},
        {"epsilon": 1.0},
        {"epsilon": -0.1},
        {"gamma": 1.1},
        {"top_fraction": -0.1},
        {"mask_threshold": -1.0},
        {"agreeing": -1},
        {"task": -1},
        {"floor": 0.0},
        {"alpha": 1.5},
        {"rounds": 0},
        {"max_iterations": 0},
        {"tolerance": 0.0},
        {"trim": "row"},
        {"trim_by": "luck"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(kind, change):
    """Fields that a method does not have are refused as well, so every change is wrong for every method."""
    with pytest.raises(ValidationError) as caught:
        ANY.validate_python(example(kind) | change)
    assert {error["loc"][1] for error in caught.value.errors()} == {*change}


def test_weights_of_nuslerp_must_have_a_ratio():
    with pytest.raises(ValidationError, match="must not sum to zero"):
        NuSlerpMerge(weights=(0.5, -0.5))
    with pytest.raises(ValidationError):
        NuSlerpMerge(weights=(0.5, 0.2, 0.3))


@pytest.mark.parametrize("order", [(0,), (0, 0), (0, 2), (1, 0, 2)])
def test_the_order_of_obim_names_every_source_once(order):
    with pytest.raises(ValidationError, match="order must name every source once"):
        ObimMerge(weights=W, densities=W, order=order)


def test_the_order_of_obim_may_be_any():
    assert ObimMerge(weights=W, densities=W, order=(1, 0)).order == (1, 0)


@pytest.mark.parametrize("noun", [MultiSlerpMerge, KarcherMerge, FisherMerge, RegMeanMerge])
def test_weights_that_are_divided_by_their_sum_have_one(noun):
    with pytest.raises(ValidationError, match="must not sum to zero"):
        noun(weights=(0.0, 0.0))
    assert noun(weights=(0.0, 1.0)).weights == (0.0, 1.0)


@pytest.mark.parametrize("noun", [KarcherMerge, FisherMerge, RegMeanMerge])
def test_weights_of_means_are_not_negative(noun):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        noun(weights=(1.0, -0.1))


def test_methods_say_what_statistics_they_need():
    needs = {kind: ANY.validate_python(example(kind)).needs_statistics for kind in NOUNS}
    assert {kind: need for kind, need in needs.items() if need} == {
        "fisher": "fisher",
        "regmean": "gram",
        "obim": "gram_diagonal",
    }
    assert TiesMerge(weights=W, densities=W, trim_by="saliency").needs_statistics == "gram_diagonal"


def test_methods_say_whether_they_need_a_base():
    without = {"linear", "slerp", "nuslerp", "multislerp", "karcher", "fisher", "regmean"}
    assert {kind for kind, noun in NOUNS.items() if not noun.needs_base} == without


def test_parameters_per_source_are_the_tuples():
    assert per_source(DareLinearMerge(weights=W, densities=(0.1, 0.2))) == {"weights": W, "densities": (0.1, 0.2)}
    assert per_source(LinearMerge(weights=W)) == {"weights": W}
    assert per_source(ObimMerge(weights=W, densities=W)) == {"weights": W, "densities": W}
    for method in (SlerpMerge(t=0.3), ModelStockMerge(), SceMerge(), EmrMerge(task=1)):
        assert per_source(method) == {}


def test_defaults_are_those_of_the_papers_and_tools():
    assert (DellaMerge(weights=W, densities=W).epsilon, TaskArithmeticMerge(weights=W).scale) == (0.15, 1.0)
    assert (ConsensusMerge(weights=W).agreeing, ConsensusMerge(weights=W).mask_threshold) == (2, 0.4)
    assert (KarcherMerge(weights=W).max_iterations, KarcherMerge(weights=W).tolerance) == (10, 1e-5)
    assert MultiSlerpMerge(weights=W).normalize and TiesMerge(weights=W, densities=W).normalize
    assert (RegMeanMerge(weights=W).alpha, FisherMerge(weights=W).floor, SceMerge().top_fraction) == (0.9, 1e-6, 1.0)


@pytest.mark.parametrize(
    "name, layer",
    [
        ("model.layers.7.mlp.up_proj.weight", 7),
        ("transformer.h.11.attn.c_attn.weight", 11),
        ("model.layers.0.experts.5.w1.weight", 0),
        ("3.weight", 3),
        ("layers.12", 12),
        ("model.embed_tokens.weight", None),
        ("model.norm2.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_the_layer_is_the_first_number_in_the_name(name, layer):
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    "contains, layers, matches",
    [
        ((), None, True),
        (("mlp",), None, True),
        (("mlp", "up_proj"), None, True),
        (("mlp", "self_attn"), None, False),
        ((), (2, 4), True),
        ((), (3, 4), True),
        ((), (0, 3), False),
        ((), (4, 9), False),
        (("mlp",), (3, 3), False),
        (("up_proj",), (0, 9), True),
    ],
)
def test_a_filter_takes_all_strings_and_a_range_of_layers(contains, layers, matches):
    assert TensorFilter(contains=contains, layers=layers).matches("model.layers.3.mlp.up_proj.weight") == matches


def test_tensors_outside_the_layers_are_in_no_range():
    assert not TensorFilter(layers=(0, 99)).matches("model.embed_tokens.weight")


def recipe(**changes):
    method = TaskArithmeticMerge(weights=(0.3, -0.7), scale=0.8)
    fields = {"method": method, "sources": ("a", "b"), "base": "c", "template": "c", "dtype": "float32", "seed": 4}
    return Recipe(**{**fields, **changes})


RULES = (
    Rule(tensors=TensorFilter(contains=("mlp",)), method=LinearMerge(weights=W)),
    Rule(tensors=TensorFilter(layers=(0, 2)), method=TiesMerge(weights=W, densities=W)),
)


def test_recipes_of_before_keep_their_identity():
    """The digest is what the first release made of it."""
    assert recipe().digest == "601591bade3ab3add9ca7a41b949bf919e537a4aace87c6db771741eb0a48773"


def test_rules_and_statistics_are_left_out_while_empty():
    assert {*json.loads(recipe().model_dump_json())} == {"method", "sources", "base", "template", "dtype", "seed"}
    written = json.loads(recipe(rules=RULES, statistics=("d", "e")).model_dump_json())
    assert written["statistics"] == ["d", "e"]
    assert [rule["tensors"] for rule in written["rules"]] == [
        {"contains": ["mlp"], "layers": None},
        {"contains": [], "layers": [0, 2]},
    ]


def test_rules_and_statistics_are_part_of_the_identity():
    recipes = [recipe(), recipe(rules=RULES), recipe(rules=RULES[::-1]), recipe(statistics=("d", "e"))]
    assert len({found.digest for found in recipes}) == 4
    for found in recipes:
        assert Recipe.model_validate_json(found.model_dump_json()) == found


def test_the_first_rule_that_matches_makes_the_tensor():
    found = recipe(rules=RULES)
    assert found.method_of("model.layers.1.mlp.up_proj.weight") == RULES[0].method
    assert found.method_of("model.layers.1.self_attn.q_proj.weight") == RULES[1].method
    assert found.method_of("model.layers.2.self_attn.q_proj.weight") == found.method
    assert found.methods == (found.method, RULES[0].method, RULES[1].method)
