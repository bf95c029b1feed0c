"""Recipes written for mergekit: read back, they are the same; what mergekit cannot do is refused by its field."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.errors import InvalidInput
from campaigns.mergekit import export, parse_mergekit
from campaigns.mergekit.yaml_text import yaml_text
from campaigns.methods import (
    BreadcrumbsMerge,
    BreadcrumbsTiesMerge,
    ConsensusMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaLinearMerge,
    DellaMerge,
    EmrMerge,
    FisherMerge,
    KarcherMerge,
    LinearMerge,
    ModelStockMerge,
    MultiSlerpMerge,
    NuSlerpMerge,
    ObimMerge,
    RegMeanMerge,
    SceMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe, Rule, TensorFilter

LAYERS = 4
PARTS = ("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PARTS),
    "model.norm.weight",
    "lm_head.weight",
]
NAMES = ("base", "a", "b", "c")
CHECKPOINTS = {
    name: Checkpoint(name=name, path=f"/models/{name}", digest=name, stamp="s", size_bytes=1) for name in NAMES
}
WITHOUT_BASE = ("linear", "slerp", "karcher")


def pool_of(names, base=None):
    return Pool(
        checkpoints=tuple(CHECKPOINTS[name] for name in names),
        base=None if base is None else CHECKPOINTS[base],
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        parameter_count=1,
    )


def recipe_of(method, sources=("a", "b"), rules=(), base="base", **changes):
    has_base = base is not None and method.kind not in WITHOUT_BASE
    return Recipe(
        method=method,
        sources=sources,
        base=base if has_base else None,
        template=base if has_base else sources[0],
        dtype="bfloat16",
        rules=tuple(Rule(tensors=tensors, method=method) for tensors, method in rules),
        **changes,
    )


def pool_for(recipe):
    return pool_of(recipe.sources, None if recipe.template == recipe.sources[0] else recipe.template)


def read(text, tensors=TENSORS, seed=0):
    """Read a document over the same checkpoints, as `mergefront merge` would."""
    paths = {checkpoint.path: name for name, checkpoint in CHECKPOINTS.items()}
    merge = parse_mergekit(yaml.safe_load(text), lambda path: path if path in paths else None)
    base = None if merge.pool.base is None else paths[merge.pool.base.path]
    pool = pool_of([paths[checkpoint.path] for checkpoint in merge.pool.checkpoints], base)
    return merge.recipe(pool.replace(dtype=merge.pool.dtype), tensors, seed)


number = st.floats(-2, 2).map(lambda value: value + 0.0)
fraction = st.floats(0, 1).map(lambda value: value + 0.0)
flag = st.booleans()
positive = st.tuples(st.floats(0.1, 1), st.floats(0.1, 1))
pair, fractions = st.tuples(number, number), st.tuples(fraction, fraction)
della = {
    "weights": pair,
    "densities": st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
    "epsilon": st.floats(0, 0.25),
    "scale": number,
    "rescale": flag,
}
sparse = {"weights": pair, "densities": fractions, "scale": number}
METHODS = {
    "linear": st.builds(LinearMerge, weights=pair),
    "slerp": st.builds(SlerpMerge, t=fraction),
    "nuslerp": st.builds(NuSlerpMerge, weights=positive),
    "multislerp": st.builds(MultiSlerpMerge, weights=positive, normalize=flag),
    "karcher": st.builds(
        KarcherMerge,
        weights=st.just((0.5, 0.5)),
        max_iterations=st.integers(1, 1000),
        tolerance=st.floats(1e-12, 1),
    ),
    "task_arithmetic": st.builds(TaskArithmeticMerge, weights=pair, scale=number),
    "ties": st.builds(TiesMerge, **sparse, normalize=flag),
    "dare_linear": st.builds(DareLinearMerge, **sparse, rescale=flag),
    "dare_ties": st.builds(DareTiesMerge, **sparse, normalize=flag, rescale=flag),
    "della": st.builds(DellaMerge, **della, normalize=flag),
    "della_linear": st.builds(DellaLinearMerge, **della),
    "breadcrumbs": st.builds(BreadcrumbsMerge, **sparse, gamma=fraction),
    "breadcrumbs_ties": st.builds(BreadcrumbsTiesMerge, **sparse, gamma=fraction, normalize=flag),
    "model_stock": st.builds(ModelStockMerge),
    "sce": st.builds(SceMerge, top_fraction=fraction),
}


@pytest.mark.parametrize("kind", METHODS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_as_the_same_recipe(kind, data):
    recipe = recipe_of(data.draw(METHODS[kind]))
    assert read(export(recipe, pool_for(recipe))) == recipe


filters = st.builds(
    TensorFilter,
    contains=st.sampled_from([(), ("self_attn",), ("q_proj",), ("mlp",), ("norm",)]),
    layers=st.none() | st.sampled_from([(a, b) for a in range(LAYERS) for b in range(a + 1, LAYERS + 2)]),
)


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind != "karcher"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_the_rules_every_tensor_gets_its_method_or_the_recipe_is_refused(kind, data):
    rules = data.draw(st.lists(st.tuples(filters, METHODS[kind]), max_size=4))
    recipe = recipe_of(data.draw(METHODS[kind]), rules=rules)
    try:
        text = export(recipe, pool_for(recipe), TENSORS)
    except InvalidInput as error:
        assert [found.field for found in error.errors] == ["recipe.rules"]
        return
    found = read(text)
    assert [found.method_of(name) for name in TENSORS] == [recipe.method_of(name) for name in TENSORS]
    assert (found.sources, found.base, found.template) == (recipe.sources, recipe.base, recipe.template)


def sums(*weights):
    return TaskArithmeticMerge(weights=weights)


ONE, TWO, THREE = sums(1, 1), sums(2, 1), sums(3, 1)
RULES = {
    "filters, the first counts": [
        (TensorFilter(contains=("q_proj",)), ONE),
        (TensorFilter(contains=("self_attn",)), TWO),
    ],
    "layers, the rest has the default": [(TensorFilter(layers=(0, 2)), ONE)],
    "layers in the middle": [(TensorFilter(layers=(1, 3)), ONE)],
    "filter and layers": [
        (TensorFilter(contains=("mlp",), layers=(0, 2)), ONE),
        (TensorFilter(contains=("mlp",), layers=(2, 4)), TWO),
    ],
    "every layer another": [(TensorFilter(layers=(i, i + 1)), sums(i, 7)) for i in range(LAYERS)],
    "tensors outside the layers": [
        (TensorFilter(contains=("lm_head",)), ONE),
        (TensorFilter(contains=("embed",)), TWO),
    ],
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_come_back_as_they_were(rules):
    recipe = recipe_of(THREE, rules=rules)
    assert read(export(recipe, pool_for(recipe), TENSORS)) == recipe


def test_filters_are_written_under_models_and_layers_as_slices():
    filtered = yaml.safe_load(
        export(recipe_of(THREE, rules=RULES["filters, the first counts"]), pool_of("ab", "base"), TENSORS)
    )
    assert filtered == {
        "merge_method": "task_arithmetic",
        "base_model": "/models/base",
        "models": [
            {
                "model": "/models/a",
                "parameters": {
                    "weight": [
                        {"filter": "q_proj", "value": 1.0},
                        {"filter": "self_attn", "value": 2.0},
                        {"value": 3.0},
                    ]
                },
            },
            {"model": "/models/b", "parameters": {"weight": 1.0}},
        ],
        "parameters": {"lambda": 1.0},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    sliced = yaml.safe_load(
        export(recipe_of(THREE, rules=RULES["layers in the middle"]), pool_of("ab", "base"), TENSORS)
    )
    ranges = [[source["layer_range"] for source in part["sources"]] for part in sliced["slices"]]
    assert ranges == [[[0, 1]] * 3, [[1, 3]] * 3, [[3, 4]] * 3]
    weights = [part["sources"][0]["parameters"]["weight"] for part in sliced["slices"]]
    assert weights == [3.0, 1.0, 3.0]


def test_a_template_that_is_no_source_of_a_linear_merge_is_listed_with_weight_zero():
    recipe = recipe_of(LinearMerge(weights=(0.25, 0.75))).replace(template="base")
    text = export(recipe, pool_of("ab", "base"))
    listed = [(entry["model"], entry["parameters"]["weight"]) for entry in yaml.safe_load(text)["models"]]
    assert listed == [("/models/a", 0.25), ("/models/b", 0.75), ("/models/base", 0.0)]
    assert read(text) == recipe


def test_a_template_that_mergekit_would_not_take_is_told_in_a_comment():
    recipe = recipe_of(SlerpMerge(t=0.5)).replace(template="base")
    assert "# configuration and tokenizer are those of /models/base" in export(recipe, pool_of("ab", "base"))


@pytest.mark.parametrize(
    ("method", "is_random"), [(ONE, False), (DareTiesMerge(weights=(1, 1), densities=(1, 1)), True)]
)
def test_the_comments_tell_the_recipe_and_the_seed_of_random_methods(method, is_random):
    recipe = recipe_of(method, seed=41)
    text = export(recipe, pool_for(recipe))
    assert text.startswith(f"# Mergefront recipe {recipe.digest}\n")
    assert ("# seed 41" in text) == is_random
    assert read(text, seed=41) == recipe


@pytest.mark.parametrize("weights", [(0, 1), (1, 0), (0, 0)])
def test_a_source_of_weight_zero_stays_a_source(weights):
    recipe = recipe_of(LinearMerge(weights=weights))
    assert read(export(recipe, pool_for(recipe))) == recipe


def test_an_adapter_is_written_on_its_base():
    adapter = CHECKPOINTS["a"].replace(merged_file="/cache/merged.safetensors")
    pool = pool_of("ab", "base").replace(checkpoints=(adapter, CHECKPOINTS["b"]))
    document = yaml.safe_load(export(recipe_of(ONE), pool))
    assert [entry["model"] for entry in document["models"]] == ["/models/base+/models/a", "/models/b"]


def ties(**changes):
    return TiesMerge(weights=(1, 1), densities=(0.5, 0.5), **changes)


INEXPRESSIBLE = [
    (FisherMerge(weights=(1, 1)), "recipe.method.kind"),
    (RegMeanMerge(weights=(1, 1)), "recipe.method.kind"),
    (ObimMerge(weights=(1, 1), densities=(0.5, 0.5)), "recipe.method.kind"),
    (ConsensusMerge(weights=(1, 1)), "recipe.method.kind"),
    (EmrMerge(), "recipe.method.kind"),
    (ties(trim="global"), "recipe.method.trim"),
    (ties(trim_by="saliency"), "recipe.method.trim_by"),
    (SceMerge(scale=0.5), "recipe.method.scale"),
    (KarcherMerge(weights=(0.25, 0.75)), "recipe.method.weights"),
    (DellaMerge(weights=(1, 1), densities=(0.5, 0.1)), "recipe.method.epsilon"),
]


@pytest.mark.parametrize(("method", "field"), INEXPRESSIBLE)
def test_what_mergekit_cannot_do_is_refused_by_its_field(method, field):
    with pytest.raises(InvalidInput) as caught:
        export(recipe_of(method), pool_of("ab", "base"))
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ((TensorFilter(contains=("mlp", "up_proj")), ONE), "recipe.rules.0.tensors.contains"),
        ((TensorFilter(contains=("mlp",)), ModelStockMerge()), "recipe.rules.0.method.kind"),
    ],
)
def test_a_rule_that_mergekit_has_no_words_for_is_refused(rule, field):
    with pytest.raises(InvalidInput) as caught:
        export(recipe_of(THREE, rules=[rule]), pool_of("ab", "base"), TENSORS)
    assert [error.field for error in caught.value.errors] == [field]


def test_all_that_stands_against_a_recipe_is_told_at_once():
    pool = pool_of("ab", "base").replace(embeddings="truncate")
    with pytest.raises(InvalidInput) as caught:
        export(recipe_of(ties(trim="global"), sources=("a", "base")), pool)
    assert [error.field for error in caught.value.errors] == [
        "recipe.method.trim",
        "recipe.sources.1",
        "pool.embeddings",
    ]


def test_rules_need_the_names_of_the_tensors():
    with pytest.raises(ValueError, match="names of the tensors"):
        export(recipe_of(THREE, rules=[(TensorFilter(contains=("mlp",)), ONE)]), pool_of("ab", "base"))


letters = st.text("aZ09_. :#-+'\"\\/{}[],&*!|>%@`~=<éπ\n", max_size=8)
scalars = st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.integers() | letters
documents = st.dictionaries(
    st.sampled_from("abcd"),
    scalars | st.lists(scalars) | st.lists(st.dictionaries(st.sampled_from("xy"), scalars, min_size=1), min_size=1),
)


@settings(deadline=None)
@given(documents)
def test_yaml_comes_back_as_it_was(document):
    text = yaml_text(document)
    assert (yaml.safe_load(text) or {}) == document
    assert json.dumps(yaml.safe_load(text) or {}) == json.dumps(document)


@pytest.mark.parametrize(
    "word", ["true", "No", "null", "~", "1e5", "0x1f", "2024-01-01", ".inf", "a: b", "- a", "=", "<<"]
)
def test_words_that_yaml_reads_as_something_else_are_quoted(word):
    assert yaml.safe_load(yaml_text({"a": word})) == {"a": word}
