"""mergekit's documents become the recipes that mergekit means: precedence, gradients, filters, slices, refusals."""

import pytest
import yaml

from campaigns.errors import InvalidSpec
from campaigns.mergekit import is_mergekit, parse_mergekit
from campaigns.methods import LinearMerge, NuSlerpMerge, SlerpMerge, TaskArithmeticMerge
from campaigns.pools import Checkpoint, Pool

LAYERS = 4
PARTS = ("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PARTS),
    "model.norm.weight",
    "lm_head.weight",
]
EMBEDDING, NORM, HEAD = TENSORS[0], TENSORS[-2], TENSORS[-1]
DIRECTORIES = ("base", "a", "b", "c", "adapter", "odd+name")


def local(path):
    return path if path in DIRECTORIES else None


def parse(text):
    return parse_mergekit(yaml.safe_load(text), local)


def pool_of(merge):
    def found(spec):
        place = spec.path or spec.hub
        return Checkpoint(name=spec.name, path=place, digest=f"digest of {place}", stamp="s", size_bytes=1)

    return Pool(
        checkpoints=tuple(map(found, merge.pool.checkpoints)),
        base=None if merge.pool.base is None else found(merge.pool.base),
        dtype=merge.pool.dtype or "bfloat16",
        architecture="LlamaForCausalLM",
        parameter_count=1,
    )


def recipe(text, tensors=TENSORS, seed=0):
    merge = parse(text)
    return merge.recipe(pool_of(merge), tensors, seed)


def tensor(layer, part):
    return f"model.layers.{layer}.{part}.weight"


def linear(weights, extra=""):
    models = "".join(f"  - {{model: {name}, parameters: {{weight: {w}}}}}\n" for name, w in weights.items())
    return f"merge_method: linear\n{extra}models:\n{models}"


def test_the_key_merge_method_tells_mergekit_from_ours():
    assert is_mergekit({"merge_method": "linear", "models": []})
    assert not is_mergekit({"pool": {}, "method": "linear"})


def test_a_linear_merge_is_normalized_unless_the_document_says_no():
    found = recipe(linear({"a": 1, "b": 3}))
    assert found.method == LinearMerge(weights=(0.25, 0.75))
    assert found.sources == ("digest of a", "digest of b")
    assert (found.base, found.template, found.rules) == (None, "digest of a", ())
    raw = recipe(linear({"a": 1, "b": 3}, "parameters: {normalize: false}\n"))
    assert raw.method == LinearMerge(weights=(1, 3))


@pytest.mark.parametrize(
    ("types", "expected"),
    [("dtype: float16", "float16"), ("dtype: float32\nout_dtype: bfloat16", "bfloat16"), ("name: x", None)],
)
def test_the_type_of_the_merge_is_out_dtype_else_dtype(types, expected):
    assert parse(linear({"a": 1, "b": 1}, f"{types}\n")).pool.dtype == expected


def test_a_base_among_linear_inputs_is_an_input_and_the_template():
    found = recipe(linear({"a": 1, "base": 3}, "base_model: base\n"))
    assert found.method == LinearMerge(weights=(0.25, 0.75))
    assert found.sources == ("digest of a", "digest of base")
    assert (found.base, found.template) == (None, "digest of base")


def test_a_base_of_weight_zero_in_a_linear_merge_gives_its_configuration_only():
    found = recipe(linear({"a": 1, "b": 1, "base": 0}, "base_model: base\n"))
    assert found.method == LinearMerge(weights=(0.5, 0.5))
    assert found.sources == ("digest of a", "digest of b")
    assert found.template == "digest of base"


def test_slerp_goes_from_the_base_to_the_other_model():
    found = recipe("{merge_method: slerp, base_model: b, parameters: {t: 0.3}, models: [{model: a}, {model: b}]}")
    assert found.method == SlerpMerge(t=0.3)
    assert found.sources == ("digest of b", "digest of a")
    assert found.template == "digest of b"
    added = recipe("{merge_method: slerp, base_model: b, parameters: {t: 0.3}, models: [{model: a}]}")
    assert added == found


ONE_WEIGHT_EACH = "[{model: base}, {model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]"


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("task_arithmetic", "{}", {"weights": (1, 3), "scale": 1}),
        ("task_arithmetic", "{normalize: true, lambda: 0.5}", {"weights": (0.25, 0.75), "scale": 0.5}),
        ("task_arithmetic", "{int8_mask: true, density: 0.5}", {"weights": (1, 3), "scale": 1}),
        ("ties", "{}", {"weights": (1, 3), "densities": (1, 1), "normalize": True, "trim": "tensor"}),
        ("ties", "{density: 0.5, normalize: false}", {"densities": (0.5, 0.5), "normalize": False}),
        ("dare_linear", "{density: 0.5}", {"weights": (1, 3), "densities": (0.5, 0.5), "rescale": True}),
        ("dare_linear", "{normalize: true, rescale: false}", {"weights": (0.25, 0.75), "rescale": False}),
        ("dare_ties", "{}", {"weights": (1, 3), "normalize": False, "rescale": True}),
        ("della", "{}", {"epsilon": 0.15, "normalize": True, "rescale": True}),
        ("della_linear", "{epsilon: 0.05, normalize: true}", {"weights": (0.25, 0.75), "epsilon": 0.05}),
        ("breadcrumbs", "{gamma: 0.02, density: 0.9}", {"densities": (0.9, 0.9), "gamma": 0.02}),
        ("breadcrumbs_ties", "{}", {"gamma": 0.01, "normalize": False}),
        ("model_stock", "{}", {}),
        ("sce", "{select_topk: 0.1}", {"top_fraction": 0.1, "scale": 1}),
        ("nuslerp", "{}", {"weights": (1, 3)}),
        ("multislerp", "{normalize_weights: false}", {"weights": (1, 3), "normalize": False}),
    ],
)
def test_every_method_over_a_base_is_read_with_the_defaults_of_mergekit(kind, parameters, expected):
    text = f"{{merge_method: {kind}, base_model: base, parameters: {parameters}, models: {ONE_WEIGHT_EACH}}}"
    found = recipe(text)
    assert found.method.kind == kind
    assert {name: getattr(found.method, name) for name in expected} == expected
    assert found.sources == ("digest of a", "digest of b")
    assert found.base == found.template == "digest of base"


def test_karcher_weighs_all_its_models_alike_the_base_among_them():
    found = recipe("{merge_method: karcher, base_model: base, parameters: {tol: 1e-6}, models: [{model: a}]}")
    assert found.method.weights == (0.5, 0.5)
    assert (found.method.max_iterations, found.method.tolerance) == (10, 1e-6)
    assert found.base is None


def test_nuslerp_of_weights_that_cancel_goes_half_way():
    models = "[{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]"
    assert recipe(f"{{merge_method: nuslerp, models: {models}}}").method == NuSlerpMerge(weights=(0.5, 0.5))


def test_a_single_task_vector_is_enough():
    text = "{merge_method: task_arithmetic, base_model: base, models: [{model: a, parameters: {weight: 0.5}}]}"
    found = recipe(text)
    assert (found.method, found.sources) == (TaskArithmeticMerge(weights=(0.5,)), ("digest of a",))


def test_passthrough_copies_one_model_or_scales_it():
    assert recipe("{merge_method: passthrough, models: [{model: a}]}").method == LinearMerge(weights=(1,))
    scaled = recipe("{merge_method: passthrough, models: [{model: a, parameters: {scale: 0.5}}]}")
    assert scaled.method == LinearMerge(weights=(0.5,))


def test_the_seed_is_the_callers():
    assert recipe(linear({"a": 1, "b": 1}), seed=7).seed == 7


GRADIENT = """
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: [0, 0.5, 0.8]}
"""


def test_a_gradient_is_interpolated_over_the_layers_and_starts_outside_them():
    found = recipe(GRADIENT)
    # four layers at 0, 1/3, 2/3 and 1 of the gradient 0, 0.5, 0.8, whose knots lie at 0, 1/2 and 1
    by_hand = [0, 0 + 2 / 3 * 0.5, 0.5 + 1 / 3 * 0.3, 0.8]
    for layer, t in enumerate(by_hand):
        assert [found.method_of(tensor(layer, part)).t for part in PARTS] == pytest.approx([t] * 4, abs=1e-15)
    assert [found.method_of(name).t for name in (EMBEDDING, NORM, HEAD)] == [0, 0, 0]
    assert [rule.tensors.layers for rule in found.rules] == [(1, 2), (2, 3), (3, 4)]


def test_a_slice_of_one_layer_takes_the_end_of_a_gradient():
    found = recipe(GRADIENT, [EMBEDDING, tensor(0, "mlp.up_proj")])
    assert found.method_of(tensor(0, "mlp.up_proj")).t == 0.8
    assert found.method_of(EMBEDDING).t == 0


def test_a_gradient_of_flags_picks_one_without_interpolating():
    text = """
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
parameters: {normalize: [true, false]}
"""
    found = recipe(text)
    weights = [found.method_of(tensor(layer, "mlp.up_proj")).weights for layer in range(LAYERS)]
    assert weights == [(0.25, 0.75), (0.25, 0.75), (0.25, 0.75), (1, 3)]


FILTERS = """
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters:
      weight:
        - {filter: q_proj, value: 0.1}
        - {filter: self_attn, value: [0.2, 0.8]}
        - {filter: norm, value: 0.3}
  - {model: b, parameters: {weight: 0.5}}
parameters: {weight: 0.9}
"""


def test_the_first_filter_that_occurs_in_the_name_counts_and_else_the_next_level():
    found = recipe(FILTERS)
    for layer in range(LAYERS):
        weights = [found.method_of(tensor(layer, part)).weights[0] for part in PARTS]
        assert weights == pytest.approx([0.3, 0.1, 0.2 + 0.6 * layer / 3, 0.9], abs=1e-15)
    assert [found.method_of(name).weights for name in (EMBEDDING, NORM, HEAD)] == [(0.9, 0.5), (0.3, 0.5), (0.9, 0.5)]


def test_rules_of_filters_keep_the_order_of_the_document():
    found = recipe(FILTERS)
    assert [rule.tensors.contains for rule in found.rules] == [
        ("q_proj",),
        *[("self_attn",)] * LAYERS,
        ("norm",),
    ]


def test_an_asterisk_matches_every_tensor():
    models = "[{model: a, parameters: {weight: [{filter: '*', value: 2}, {value: 5}]}}, {model: b}]"
    found = recipe(f"{{merge_method: linear, parameters: {{weight: 1, normalize: false}}, models: {models}}}")
    assert (found.method, found.rules) == (LinearMerge(weights=(2, 1)), ())


def test_filters_of_several_parameters_meet_in_rules_with_several_strings():
    text = """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: self_attn, value: 1}, {value: 2}], density: 1}}
  - model: b
    parameters: {weight: 1, density: [{filter: q_proj, value: 0.25}, {filter: up_proj, value: 0.5}, {value: 1}]}
"""
    found = recipe(text)
    by_part = {part: found.method_of(tensor(2, part)) for part in PARTS}
    assert [(by_part[p].weights[0], by_part[p].densities[1]) for p in PARTS] == [(2, 1), (1, 0.25), (1, 1), (2, 0.5)]
    assert {rule.tensors.contains for rule in found.rules} == {("self_attn", "q_proj"), ("self_attn",), ("up_proj",)}


PRECEDENCE = """
merge_method: ties
base_model: base
modules:
  default:
    slices:
      - sources:
          - {model: base, layer_range: [0, 2]}
          - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
          - {model: b, layer_range: [0, 2]}
          - {model: c, layer_range: [0, 2]}
        parameters: {weight: 2, density: 0.2}
      - sources:
          - {model: base, layer_range: [2, 4]}
          - {model: a, layer_range: [2, 4]}
          - {model: b, layer_range: [2, 4], parameters: {density: [0.5, 0.6]}}
    parameters: {weight: 3, lambda: 0.7}
parameters: {weight: 4, density: 0.4, lambda: 0.8}
"""


def test_model_comes_before_slice_module_and_document_and_an_absent_model_weighs_nothing():
    found = recipe(PRECEDENCE)
    first, last = (found.method_of(tensor(layer, "mlp.up_proj")) for layer in (1, 2))
    assert (first.weights, first.densities, first.scale) == ((1, 2, 2), (0.2, 0.2, 0.2), 0.7)
    assert (last.weights, last.densities, last.scale) == ((3, 3, 0), (0.4, 0.5, 1), 0.7)
    assert found.method_of(EMBEDDING) == first
    assert found.method_of(HEAD) == found.method_of(NORM) == last
    assert found.method_of(tensor(3, "mlp.up_proj")).densities == (0.4, 0.6, 1)
    assert found.sources == ("digest of a", "digest of b", "digest of c")


def test_layers_of_different_models_are_put_together_where_they_are():
    text = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 1]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""
    found = recipe(text)
    picked = [found.method_of(name).weights for name in (EMBEDDING, tensor(0, "mlp.up_proj"), tensor(1, "mlp.up_proj"))]
    assert picked == [(1, 0), (1, 0), (0, 1)]
    assert found.method_of(HEAD).weights == (0, 1)


def test_a_hub_repository_keeps_its_revision_and_checkpoints_get_distinct_names():
    merge = parse(linear({"owner/model@v2": 1, "other/model": 1, "a": 1}))
    found = [(c.name, c.path, c.hub, c.revision) for c in merge.pool.checkpoints]
    assert found == [
        ("model", None, "owner/model", "v2"),
        ("model-2", None, "other/model", None),
        ("a", "a", None, None),
    ]
    assert merge.fields["pool.checkpoints.1"] == "models.1.model"


def test_a_directory_with_a_plus_in_its_name_is_found():
    assert parse(linear({"odd+name": 1, "a": 1})).pool.checkpoints[0].path == "odd+name"


@pytest.mark.parametrize("reference", ["base+adapter", "{model: {path: base}, lora: adapter}"])
def test_an_adapter_on_the_base_is_a_member_of_the_pool(reference):
    models = f"[{{model: {reference}, parameters: {{weight: 1}}}}, {{model: a, parameters: {{weight: 1}}}}]"
    merge = parse(f"{{merge_method: ties, base_model: base, models: {models}}}")
    assert [checkpoint.path for checkpoint in merge.pool.checkpoints] == ["adapter", "a"]
    assert merge.pool.base.path == "base"


@pytest.mark.parametrize(
    "tokenizer",
    ["tokenizer_source: base", "tokenizer_source: a", "tokenizer: {source: base}", "tokenizer: {source: b}"],
)
def test_a_tokenizer_of_the_merge_is_accepted(tokenizer):
    assert recipe(linear({"a": 1, "b": 1}, f"base_model: a\n{tokenizer}\n")).template == "digest of a"


def based(kind, parameters="{weight: 1}", own="{}"):
    models = f"[{{model: a, parameters: {own}}}, {{model: b}}]"
    return f"{{merge_method: {kind}, base_model: base, parameters: {parameters}, models: {models}}}"


def sliced(*ranges, kind="linear"):
    parts = (f"{{sources: [{{model: a, layer_range: {a}}}, {{model: b, layer_range: {b}}}]}}" for a, b in ranges)
    return f"{{merge_method: {kind}, parameters: {{weight: 1}}, slices: [{', '.join(parts)}]}}"


WRONG = {
    "merge_method: arcee_fusion": "merge_method",
    "merge_method: 5": "merge_method",
    "merge_method: [linear]": "merge_method",
    "{merge_method: linear, modles: []}": "modles models",
    linear({"a": 1, "b": 1}, "colour: red\n"): "colour",
    linear({"a": 1, "b": 1}, "slices: [1]\n"): "slices",
    linear({"a": 1, "b": 1}, "dtype: int8\n"): "dtype",
    linear({"a": 1, "b": 1}, "out_dtype: float64\n"): "out_dtype",
    linear({"a": 1, "b": 1}, "tokenizer_source: union\n"): "tokenizer_source",
    linear({"a": 1, "b": 1}, "tokenizer_source: base\n"): "tokenizer_source",
    linear({"a": 1, "b": 1}, "tokenizer_source: c\n"): "tokenizer_source",
    linear({"a": 1, "b": 1}, "tokenizer: {}\n"): "tokenizer.source",
    linear({"a": 1, "b": 1}, "tokenizer: {source: a, tokens: {x: {source: a}}}\n"): "tokenizer.tokens",
    linear({"a": 1, "b": 1}, "chat_template: auto\n"): "chat_template",
    linear({"a": 1, "b": 1}, "parameters: {normalise: true}\n"): "parameters.normalise",
    linear({"a": 1, "b": 1}, "parameters: {normalize: 2}\n"): "parameters.normalize",
    linear({"a": 1, "b": 1}, "parameters: [1]\n"): "parameters",
    linear({"a": 1, "b": "much"}): "models.1.parameters.weight",
    linear({"a": 1, "b": "[]"}): "models.1.parameters.weight",
    linear({"a": 1, "b": "[1, .nan]"}): "models.1.parameters.weight.1",
    linear({"a": 1, "b": "[{filter: mlp, value: x}, {value: 1}]"}): "models.1.parameters.weight.0.value",
    linear({"a": 1, "b": "[{filter: mlp}, {value: 1}]"}): "models.1.parameters.weight.0.value",
    linear({"a": 1, "b": "[{filtre: mlp, value: 1}, {value: 1}]"}): "models.1.parameters.weight.0.filtre",
    linear({"a": 1, "a ": 1}): "models.1.model",
    linear({"a": 1, "nowhere": 1}): "models.1.model",
    linear({"a": 1, "b@main": 1}): "models.1.model",
    linear({"a": 1, "base+adapter": 1}): "models.1.model",
    linear({"a": 1, "b": 1}, "base_model: base+adapter\n"): "base_model",
    linear({"a": 1, "b": 1}, "base_model: base\n"): "base_model",
    linear({"a": 1, "b": -1}): "models",
    "{merge_method: linear, models: [{model: a, weight: 1}, {model: b}]}": "models.0.weight",
    "{merge_method: linear, models: [{model: a}, {model: b, parameters: {weight: 1}}]}": "models.0.parameters.weight",
    "{merge_method: linear, models: [{model: [a], parameters: {weight: 1}}]}": "models.0.model",
    "{merge_method: linear, parameters: {weight: 1}, modules: {x: {models: []}, y: {models: []}}}": "modules",
    "{merge_method: ties, models: [{model: a, parameters: {weight: 1}}]}": "base_model",
    "{merge_method: ties, base_model: base, parameters: {weight: 1}, models: [{model: base}]}": "models",
    "{merge_method: slerp, base_model: a, models: [{model: b}]}": "parameters.t",
    "{merge_method: slerp, base_model: a, parameters: {t: 1.5}, models: [{model: b}]}": "parameters.t",
    "{merge_method: slerp, base_model: a, parameters: {t: 1}, models: [{model: b}, {model: c}]}": "models",
    "{merge_method: model_stock, base_model: base, models: [{model: a}]}": "models",
    "{merge_method: passthrough, models: [{model: a}, {model: b}]}": "models",
    based("ties", own="{density: 1.5}"): "models.0.parameters.density",
    based("ties", "{weight: 1, rescale: true}"): "parameters.rescale",
    based("della", "{weight: 1, epsilon: 0.1}", "{epsilon: 0.2}"): "parameters.epsilon",
    based("breadcrumbs", own="{gamma: 0.5}"): "models.1.parameters.gamma",
    based("model_stock", "{filter_wise: true}"): "parameters.filter_wise",
    based("nuslerp", "{weight: 1, nuslerp_row_wise: true}"): "parameters.nuslerp_row_wise",
    based("nuslerp", "{weight: 1, nuslerp_flatten: false}"): "parameters.nuslerp_flatten",
    based("multislerp", "{weight: 1, eps: 0.1}"): "parameters.eps",
    based("multislerp", "{weight: 1}", "{weight: -1}"): "models",
    based("karcher", "{max_iter: [1, 9]}"): "parameters.max_iter",
    based("karcher", "{max_iter: 2.5}"): "parameters.max_iter",
    sliced(("[0, 2]", "[0, 2]"), ("[3, 4]", "[3, 4]")): "slices.1.sources.0.layer_range",
    sliced(("[0, 2]", "[1, 3]"), ("[2, 4]", "[2, 4]")): "slices.0.sources.1.layer_range",
    sliced(("[0, 3]", "[0, 3]"), ("[2, 4]", "[2, 4]")): "slices.1.sources.0.layer_range",
    sliced(("[0, 4]", "[0, 4]"), ("[0, 4]", "[0, 4]")): "slices.1.sources.0.layer_range",
    sliced(("[0, 3]", "[0, 3]")): "slices.0.sources.0.layer_range",
    sliced(("[0, 9]", "[0, 9]")): "slices.0.sources.0.layer_range",
    sliced(("4", "[0, 4]")): "slices.0.sources.0.layer_range",
}


@pytest.mark.parametrize(("text", "fields"), WRONG.items())
def test_a_wrong_document_is_refused_by_its_key(text, fields):
    with pytest.raises(InvalidSpec) as caught:
        recipe(text)
    assert [error.field for error in caught.value.errors] == fields.split()


def test_a_method_that_is_not_here_is_answered_with_those_that_are():
    with pytest.raises(InvalidSpec, match=r"(?s)no such merge method.*linear, passthrough.*, sce"):
        parse("{merge_method: nearswap, models: [{model: a}]}")


def test_a_typing_error_is_answered_with_the_nearest_name():
    with pytest.raises(InvalidSpec, match="did you mean 'density'"):
        parse(based("ties", own="{densty: 0.5}"))


def test_slices_must_agree_on_the_base():
    with pytest.raises(InvalidSpec) as caught:
        parse(
            """
merge_method: linear
base_model: a
parameters: {weight: 1}
slices: [{base_model: b, residual_weight: 1, sources: [{model: a, layer_range: [0, 4]}]}]
"""
        )
    assert {error.field for error in caught.value.errors} == {"slices.0.base_model", "slices.0.residual_weight"}


def test_an_eighty_layer_gradient_has_one_rule_per_layer_and_kind_of_tensor():
    tensors = [EMBEDDING, *(tensor(layer, part) for layer in range(80) for part in PARTS), HEAD]
    text = """
merge_method: slerp
base_model: a
models: [{model: b}]
parameters: {t: [{filter: self_attn, value: [0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]}
"""
    found = recipe(text, tensors)
    assert len(found.rules) == 160
    assert found.method == SlerpMerge(t=0.5)
    assert found.method_of(tensor(79, "mlp.up_proj")).t == 0
