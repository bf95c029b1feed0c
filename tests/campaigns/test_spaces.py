"""Spaces as asked for: what each searches by default, and that every mistake is told with its field."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.inventory import Inventory, MetricOffer, TaskOffer, resolve
from campaigns.spec import CampaignSpec, parse_spec


def document(space, count=3, base=True, statistics=True):
    checkpoints = [{"name": f"m{i}", "path": f"/m{i}"} for i in range(count)]
    if statistics:
        checkpoints = [each | {"statistics": f"/{each['name']}.statistics"} for each in checkpoints]
    return {
        "name": "n",
        "pool": {"checkpoints": checkpoints} | ({"base": {"name": "base", "path": "/base"}} if base else {}),
        "space": space,
        "objectives": [{"task": "sort", "metric": "acc", "direction": "maximize"}],
        "budget": {"evaluations": 1},
    }


def fields(space, **pool):
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(document(space, **pool))
    return [error.field for error in refused.value.errors]


KINDS = [
    *("linear", "multislerp", "karcher", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della"),
    *("della_linear", "breadcrumbs", "breadcrumbs_ties", "sce", "consensus", "emr", "fisher", "regmean", "obim"),
]
NEED_NO_BASE = {"linear", "multislerp", "karcher", "fisher", "regmean"}
NEED_STATISTICS = {"fisher", "regmean", "obim"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_all_that_must_be_said(kind):
    spec = parse_spec(document({"kind": kind}))
    assert CampaignSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_and_statistics_are_asked_for_where_they_are_needed(kind):
    space = {"kind": kind}
    if kind in NEED_NO_BASE:
        parse_spec(document(space, base=False))
    else:
        assert fields(space, base=False) == ["pool.base"]
    if kind in NEED_STATISTICS:
        assert fields(space, statistics=False) == [f"pool.checkpoints.{index}.statistics" for index in range(3)]
    else:
        parse_spec(document(space, statistics=False))


def test_settings_may_need_a_base_or_statistics_too():
    assert fields({"kind": "nuslerp", "task_vectors": True}, count=2, base=False) == ["pool.base"]
    assert fields({"kind": "ties", "trim_by": "saliency"}, count=2, statistics=False) == [
        "pool.checkpoints.0.statistics",
        "pool.checkpoints.1.statistics",
    ]


@pytest.mark.parametrize("kind", ["slerp", "nuslerp"])
def test_a_pair_is_two_checkpoints(kind):
    parse_spec(document({"kind": kind}, count=2, base=False))
    assert fields({"kind": kind}) == ["pool.checkpoints"]


@pytest.mark.parametrize(
    ("space", "found"),
    [
        ({"kind": "ties", "scale": [1, 0]}, "space.scale"),
        ({"kind": "ties", "scale": "much"}, "space.scale"),
        ({"kind": "ties", "scale": [1, 2, 3]}, "space.scale"),
        ({"kind": "ties", "scale": [0, float("inf")]}, "space.scale"),
        ({"kind": "ties", "colour": 1}, "space.colour"),
        ({"kind": "ties", "densities": 1.5}, "space.densities.bounds"),
        ({"kind": "ties", "densities": [-0.1, 1]}, "space.densities.bounds"),
        ({"kind": "ties", "densities": {"bounds": [0.5, 0.5]}}, "space.densities.bounds"),
        ({"kind": "ties", "densities": {"bounds_of": {"m1": [0, 2]}}}, "space.densities.bounds_of.m1"),
        ({"kind": "ties", "densities": {"bounds_of": {"m1": [1, 0]}}}, "space.densities.bounds_of.m1"),
        ({"kind": "ties", "densities": {"freeze": {"m1": -0.5}}}, "space.densities.freeze.m1"),
        ({"kind": "ties", "densities": {"freeze": {"m9": 0.5}}}, "space.densities.freeze.m9"),
        ({"kind": "ties", "densities": {"groups": [["m0", "m9"]]}}, "space.densities.groups.0.1"),
        ({"kind": "ties", "densities": {"groups": [["m0"], ["m0"]]}}, "space.densities.groups.1"),
        ({"kind": "ties", "bounds_of": {"m9": [0, 1]}}, "space.bounds_of.m9"),
        ({"kind": "della", "epsilon": 1}, "space.epsilon"),
        ({"kind": "breadcrumbs", "gamma": [0, 1.5]}, "space.gamma"),
        ({"kind": "sce", "top_fraction": -1}, "space.top_fraction"),
        ({"kind": "consensus", "agreeing": [0.5, 2]}, "space.agreeing"),
        ({"kind": "consensus", "agreeing": [2, 2]}, "space.agreeing"),
        ({"kind": "consensus", "agreeing": 4}, "space.agreeing"),
        ({"kind": "consensus", "mask_threshold": -0.1}, "space.mask_threshold"),
        ({"kind": "obim", "rounds": [0, 3]}, "space.rounds"),
        ({"kind": "obim", "order": ["m0", "m1"]}, "space.order"),
        ({"kind": "regmean", "alpha": [0.5, 2]}, "space.alpha"),
        ({"kind": "fisher", "normalize": "free"}, "space.normalize"),
        ({"kind": "fisher", "bounds": [-1, 1]}, "space.bounds"),
        ({"kind": "karcher", "freeze": {"m0": 0.5, "m1": 0.25, "m2": 0.125}}, "space.freeze"),
        ({"kind": "dare_ties", "seed": "other"}, "space.seed"),
        ({"kind": "dare_ties", "seed": -1}, "space.seed"),
        ({"kind": "ties", "seed": 1}, "space.seed"),
        ({"kind": "model_stock"}, "space.kind"),
        ({"kind": "emr", "views": "unified"}, "space.kind"),
        ({"kind": "sce", "scale": 1, "top_fraction": 0.5}, "space.kind"),
        ({"kind": "task_arithmetic", "freeze": {"m0": 1, "m1": 1, "m2": 1}}, "space.freeze"),
        ({"kind": "choice", "options": [{"kind": "linear"}]}, "space.options"),
        ({"kind": "choice", "options": [{"kind": "linear"}, {"kind": "choice", "options": []}]}, "space.options.1"),
        (
            {"kind": "choice", "options": [{"kind": "linear"}, {"kind": "ties", "scale": [1, 0]}]},
            "space.options.1.scale",
        ),
        (
            {"kind": "choice", "options": [{"kind": "ties", "densities": {"freeze": {"m9": 1}}}, {"kind": "sce"}]},
            "space.options.0.densities.freeze.m9",
        ),
    ],
)
def test_a_mistake_is_named_by_its_field(space, found):
    assert fields(space) == [found]


def test_all_that_a_space_lacks_is_told_at_once():
    options = [{"kind": "slerp"}, {"kind": "ties"}, {"kind": "linear", "freeze": {"x": 0.1}}]
    assert set(fields({"kind": "choice", "options": options}, base=False)) == {
        "pool.checkpoints",
        "pool.base",
        "space.options.2.freeze.x",
    }


def test_all_weights_may_be_frozen_where_something_else_is_searched():
    everything = dict.fromkeys(("m0", "m1", "m2"), 1.0)
    parse_spec(document({"kind": "task_arithmetic", "freeze": everything, "scale": [0, 1]}))
    parse_spec(document({"kind": "dare_ties", "freeze": everything}))
    parse_spec(
        document({"kind": "dare_ties", "freeze": everything, "densities": {"bounds": 1, "bounds_of": {"m1": [0, 1]}}})
    )
    assert fields({"kind": "dare_ties", "freeze": everything, "densities": 1}) == ["space.freeze"]


def test_densities_have_a_short_form():
    short, long = ({"kind": "ties", "densities": each} for each in ([0.2, 0.8], {"bounds": [0.2, 0.8]}))
    assert parse_spec(document(short)).space == parse_spec(document(long)).space
    assert parse_spec(document({"kind": "ties", "densities": 0.5})).space.densities.bounds == 0.5


def test_modules_have_a_short_form():
    short, long = (
        {"kind": "ties", "modules": m} for m in (["mlp", "self_attn"], {"mlp": ["mlp"], "self_attn": "self_attn"})
    )
    assert parse_spec(document(short)).space == parse_spec(document(long)).space


def test_every_method_of_a_choice_must_be_offered_by_a_worker():
    offer = TaskOffer(name="sort", output_type="generate_until", metrics=(MetricOffer(metric="acc"),))
    inventory = Inventory(tasks={"sort": offer}, methods=("linear", "ties"), strategies=("nsga2", "gp_hypervolume"))
    options = [{"kind": "linear"}, {"kind": "della"}, {"kind": "ties"}, {"kind": "sce"}]
    with pytest.raises(InvalidSpec) as refused:
        resolve(parse_spec(document({"kind": "choice", "options": options})), inventory)
    assert [error.field for error in refused.value.errors] == ["space.options.1.kind", "space.options.3.kind"]
    known = parse_spec(document({"kind": "choice", "options": [options[0], options[2]]}))
    assert resolve(known, inventory) == known
