"""Our own merge document reaches every method, with rules, a seed and calibration statistics."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.merge_config import METHODS, parse_merge_config
from campaigns.methods import DareTiesMerge, EmrMerge, LinearMerge, ObimMerge, SlerpMerge, TiesMerge
from campaigns.pools import Checkpoint, Pool, Statistics

NAMES = ("a", "b")


def document(statistics=False, base=True, names=NAMES, **rest):
    own = {"statistics": "/calibration.safetensors"} if statistics else {}
    pool = {"checkpoints": [{"name": name, "path": f"/{name}", **own} for name in names]}
    return {"pool": {**pool, "base": {"name": "base", "path": "/base"}} if base else pool, **rest}


def pool_of(config, measured=True):
    def found(spec):
        statistics = (
            Statistics(path="/x", digest=f"statistics of {spec.name}") if spec.statistics and measured else None
        )
        return Checkpoint(
            name=spec.name, path="/x", digest=f"digest of {spec.name}", stamp="s", size_bytes=1, statistics=statistics
        )

    return Pool(
        checkpoints=tuple(map(found, config.pool.checkpoints)),
        base=None if config.pool.base is None else found(config.pool.base),
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        parameter_count=1,
    )


def recipe(found):
    config = parse_merge_config(found)
    return config.recipe(pool_of(config))


BOTH = {"weights": 0.5, "densities": 0.2}
PARAMETERS = {
    "linear": {"weights": 0.5},
    "slerp": {"t": 0.25},
    "nuslerp": {"weights": 0.5},
    "multislerp": {"weights": 0.5, "normalize": False},
    "karcher": {"weights": 0.5, "max_iterations": 3},
    "task_arithmetic": {"weights": 0.5, "scale": 0.5},
    "ties": {**BOTH, "trim": "global"},
    "dare_linear": {**BOTH, "rescale": False},
    "dare_ties": {**BOTH, "normalize": True},
    "della": {**BOTH, "epsilon": 0.1},
    "della_linear": {**BOTH, "epsilon": 0.1},
    "breadcrumbs": {**BOTH, "gamma": 0.1},
    "breadcrumbs_ties": {**BOTH, "gamma": 0.1},
    "model_stock": {},
    "sce": {"top_fraction": 0.5},
    "consensus": {"weights": 0.5, "agreeing": 1},
    "emr": {"task": 1},
    "fisher": {"weights": 0.5, "floor": 0.1},
    "regmean": {"weights": 0.5, "alpha": 0.5},
    "obim": {**BOTH, "rounds": 2},
}


def test_the_table_here_names_every_method():
    assert set(PARAMETERS) == set(METHODS)


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS.items())
def test_every_method_is_reached_by_the_names_of_its_parameters(kind, parameters):
    found = recipe(document(statistics=True, method=kind, **parameters))
    assert found.method.kind == kind
    for name, value in parameters.items():
        assert getattr(found.method, name) == ((value,) * 2 if name in BOTH else value)
    without_base = ("linear", "slerp", "karcher", "fisher", "regmean")
    assert found.base == (None if kind in without_base else "digest of base")
    needs_statistics = kind in ("fisher", "regmean", "obim")
    assert found.statistics == (("statistics of a", "statistics of b") if needs_statistics else ())


def test_numbers_by_name_leave_others_weightless_and_dense():
    found = recipe(document(method="ties", weights={"b": 2}, densities={"a": 0.1}))
    assert found.method == TiesMerge(weights=(0, 2), densities=(0.1, 1))


def test_trimming_by_saliency_takes_statistics():
    found = recipe(document(statistics=True, method="ties", **BOTH, trim_by="saliency"))
    assert found.statistics == ("statistics of a", "statistics of b")


def test_checkpoints_are_named_where_a_parameter_means_them():
    assert recipe(document(method="emr", task="b")).method == EmrMerge(task=1)
    ordered = recipe(document(statistics=True, method="obim", **BOTH, order=["b", "a"]))
    assert ordered.method == ObimMerge(weights=(0.5, 0.5), densities=(0.2, 0.2), order=(1, 0))


def test_one_checkpoint_over_a_base_is_a_merge():
    assert recipe(document(names=("a",), method="task_arithmetic", weights=0.5)).sources == ("digest of a",)


def test_a_rule_changes_what_it_names_or_has_a_method_of_its_own():
    rules = [
        {"tensors": {"contains": ["mlp"], "layers": [0, 2]}, "weights": {"a": 1}},
        {"tensors": {"contains": ["norm"]}, "method": "linear", "weights": {"b": 1}},
    ]
    found = recipe(document(method="dare_ties", **BOTH, rescale=False, rules=rules, seed=5))
    default = DareTiesMerge(weights=(0.5, 0.5), densities=(0.2, 0.2), rescale=False)
    assert found.seed == 5
    assert found.method_of("model.layers.0.self_attn.q_proj.weight") == default
    assert found.method_of("model.layers.1.mlp.up_proj.weight") == default.replace(weights=(1, 0))
    assert found.method_of("model.layers.2.mlp.up_proj.weight") == default
    assert found.method_of("model.norm.weight") == LinearMerge(weights=(0, 1))
    assert found.base == "digest of base"


def test_slerp_between_two_of_the_pool():
    assert recipe(document(base=False, method="slerp", t=0.25)).method == SlerpMerge(t=0.25)


def rule(**rest):
    return document(method="ties", **BOTH, rules=[{"tensors": {"contains": ["mlp"]}, **rest}])


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (document(), "weights"),
        (document(method="ties", weights=1), "densities"),
        (document(method="ties", weights=1, densities=1.5), "densities"),
        (document(method="ties", weights=1, densities={"b": 1.5}), "densities.b"),
        (document(method="ties", weights={"c": 1}, densities=1), "weights.c"),
        (document(method="ties", weights="much", densities=1), "weights"),
        (document(weights={"a": "much"}), "weights.a"),
        (document(weights={1: 0.5}), "weights"),
        (document(weights=1, parameters=1), "parameters"),
        (document(method="linear", weights={}), "weights"),
        (document(method="linear", weights=1, densities=1), "densities"),
        (document(method="linear", weights=1, scale=0.5), "scale"),
        (document(method="sce", weights=1), "weights"),
        (document(method="slerp"), "t"),
        (document(method="slerp", t=2), "t"),
        (document(method="slerp", t=0.5, names=("a", "b", "c")), "pool.checkpoints"),
        (document(method="nuslerp", weights=1, names=("a",)), "pool.checkpoints"),
        (document(method="nuslerp", weights=0), "weights"),
        (document(method="model_stock", names=("a",)), "pool.checkpoints"),
        (document(method="ties", base=False, weights=1, densities=1), "pool.base"),
        (document(method="emr", task="c"), "task"),
        (document(statistics=True, method="obim", **BOTH, order=["a", "a"]), "order"),
        (document(method="fisher", weights=1), "pool.checkpoints.0.statistics"),
        (document(method="ties", **BOTH, trim_by="saliency"), "pool.checkpoints.0.statistics"),
        (document(method="ties", **BOTH, trim="everything"), "trim"),
        (document(method=["linear"]), "method"),
        (rule(densities={"a": -1}), "rules.0.densities.a"),
        (rule(method="slurp"), "rules.0.method"),
        (rule(method="linear"), "rules.0.weights"),
        (rule(colour="red"), "rules.0.colour"),
        ({**document(method="ties", **BOTH), "rules": [{"weights": 1}]}, "rules.0.tensors"),
        ({**document(method="ties", **BOTH), "rules": [1]}, "rules.0"),
        ({**document(weights=1), "seed": "x"}, "seed"),
    ],
)
def test_a_wrong_document_is_refused_by_field(wrong, field):
    with pytest.raises(InvalidSpec) as caught:
        parse_merge_config(wrong)
    assert [error.field for error in caught.value.errors] == [field]


def test_a_pool_without_the_statistics_that_it_promised_is_refused_by_checkpoint():
    config = parse_merge_config(document(statistics=True, method="fisher", weights=1))
    with pytest.raises(InvalidSpec) as caught:
        config.recipe(pool_of(config, measured=False))
    fields = [error.field for error in caught.value.errors]
    assert fields == ["pool.checkpoints.0.statistics", "pool.checkpoints.1.statistics"]
    assert "'a'" in caught.value.errors[0].message
