"""What every search space must keep to, whatever its method."""

import math
import typing
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.errors import InvalidSpec
from campaigns.methods import LinearMerge, Method, TaskArithmeticMerge, per_source
from campaigns.noun import Noun
from campaigns.spaces import NUMBERS, OneMethod
from campaigns.trial import Candidate
from search_spaces import SearchSpace
from search_spaces.method_map import METHODS

Build = Callable[..., SearchSpace]

FIVE = ("math", "code", "chat", "law", "poems")
TWO = ("math", "code")
SPACES: dict[str, type[Noun]] = {
    noun.model_fields["kind"].default: noun for noun in typing.get_args(typing.get_args(OneMethod)[0])
}
EXAMPLES: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in SPACES if kind != "model_stock"} | {
    "frozen and grouped": {
        "kind": "ties",
        "bounds": (-1.0, 2.0),
        "freeze": {"math": 0.25},
        "groups": (("code", "law"),),
        "densities": {"bounds": 0.5, "bounds_of": {"chat": (0.1, 0.2)}, "freeze": {"law": 0.0}},
    },
    "all fixed but one": {"kind": "della", "densities": 0.5, "scale": 1, "epsilon": 0, "groups": (FIVE,)},
    "softmax": {"kind": "karcher", "normalize": "softmax", "freeze": {"code": 0.125}},
    "task vectors": {"kind": "multislerp", "task_vectors": True},
    "saliency": {"kind": "ties", "trim_by": "saliency", "trim": "global"},
    "whole numbers": {"kind": "obim", "rounds": (1, 4), "order": FIVE[::-1]},
    "tasks": {"kind": "emr", "views": "tasks"},
    "a seed each": {"kind": "dare_ties", "seed": "per_candidate", "layer_groups": 2},
    "groups": {"kind": "dare_linear", "layer_groups": 3, "modules": ["self_attn", "mlp"], "by_group": ["densities"]},
    "slerp by group": {"kind": "slerp", "modules": {"attention": "self_attn", "mlp": ["mlp"]}},
    "only attention": {"kind": "breadcrumbs", "only": ["self_attn"], "layer_groups": [[0, 2], [4, 10]], "rest": "copy"},
    "choice": {
        "kind": "choice",
        "options": [
            {"kind": "linear"},
            {"kind": "ties"},
            {"kind": "model_stock"},
            {"kind": "ties", "trim": "global"},
            {"kind": "dare_ties", "layer_groups": 2},
        ],
    },
}
every_example = pytest.mark.parametrize("example", EXAMPLES)
units = st.floats(min_value=0.0, max_value=1.0)


def names_of(example: str) -> tuple[str, ...]:
    return TWO if EXAMPLES[example]["kind"] in ("slerp", "nuslerp") else FIVE


def methods_of(candidate: Candidate) -> tuple[Method, ...]:
    """The methods that merge, without those that copy."""
    recipe = candidate.recipe
    return tuple(m for m in recipe.methods if not (m.kind == "task_arithmetic" and not any(m.weights)))


def test_every_method_has_a_space_and_every_space_a_method() -> None:
    methods = {noun.model_fields["kind"].default: noun for noun in typing.get_args(typing.get_args(Method)[0])}
    assert methods == METHODS
    assert SPACES.keys() == METHODS.keys()


@pytest.mark.parametrize("kind", SPACES)
def test_a_space_speaks_of_all_parameters_of_its_method(kind: str) -> None:
    """Left to their defaults are those that only say how far an iteration goes, and the sum of weights that are one."""
    named = set(SPACES[kind].model_fields) | {"weights"}
    known = {"max_iterations", "tolerance", "floor", "task"}
    assert set(METHODS[kind].model_fields) - known <= named
    assert {name for name in NUMBERS if name in named} == {
        name for name in NUMBERS if name in METHODS[kind].model_fields
    }


@every_example
@given(data=st.data())
def test_every_point_of_the_cube_is_a_candidate(build: Build, example: str, data: st.DataObject) -> None:
    space = build(EXAMPLES[example], names_of(example))
    point = data.draw(st.tuples(*[units] * space.dimensions))
    candidate = space.candidate(point)
    assert (candidate.kind, candidate.label, candidate.point) == ("candidate", None, point)
    assert candidate == space.candidate(point)
    assert len(space.names) == len(set(space.names)) == space.dimensions > 0
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate
    assert candidate.recipe.sources == tuple(f"digest-of-{name}" for name in names_of(example))
    assert candidate.recipe.template == "digest-of-base"
    for method in candidate.recipe.methods:
        assert all(len(values) == len(names_of(example)) for values in per_source(method).values())


@every_example
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_corners_are_candidates(build: Build, example: str, corner: float) -> None:
    space = build(EXAMPLES[example], names_of(example))
    space.candidate((corner,) * space.dimensions)


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name != "choice"])
def test_every_coordinate_of_a_method_matters(build: Build, example: str) -> None:
    space = build(EXAMPLES[example], names_of(example))
    middle = (0.45,) * space.dimensions
    recipes = {space.candidate(middle).recipe.digest}
    for index in range(space.dimensions):
        recipes.add(space.candidate((*middle[:index], 0.95, *middle[index + 1 :])).recipe.digest)
    assert len(recipes) == space.dimensions + 1


@every_example
def test_baselines_are_linear_merges_and_lie_in_the_cube(build: Build, example: str) -> None:
    names = names_of(example)
    space = build(EXAMPLES[example], names)
    for index, name in enumerate(names):
        parent = space.parent(index)
        assert (parent.kind, parent.label) == ("parent", name)
        assert parent.recipe.method == LinearMerge(weights=tuple(float(index == i) for i in range(len(names))))
    soup = space.uniform_soup()
    assert (soup.kind, soup.label) == ("soup", "uniform soup")
    assert soup.recipe.method == LinearMerge(weights=(1 / len(names),) * len(names))
    some = space.soup([0, 1], "some")
    assert (some.kind, some.label) == ("soup", "some")
    assert some.recipe.method == LinearMerge(weights=(0.5, 0.5, *(0.0,) * (len(names) - 2)))
    for baseline in (*(space.parent(index) for index in range(len(names))), soup, some):
        assert baseline.recipe.rules == ()
        assert space.candidate(baseline.point).point == baseline.point


@every_example
@pytest.mark.parametrize("wrong", [-1e-9, 1.0 + 1e-9, math.nan])
def test_a_coordinate_outside_the_cube_is_refused_by_name(build: Build, example: str, wrong: float) -> None:
    space = build(EXAMPLES[example], names_of(example))
    with pytest.raises(ValueError, match="must lie in") as refused:
        space.candidate((*(0.5,) * (space.dimensions - 1), wrong))
    assert repr(space.names[-1]) in str(refused.value)
    with pytest.raises(ValueError, match=f"has {space.dimensions} coordinates"):
        space.candidate((0.5,) * (space.dimensions + 1))


@every_example
@given(data=st.data())
def test_a_point_is_found_again_from_its_recipe(build: Build, example: str, data: st.DataObject) -> None:
    space = build(EXAMPLES[example], names_of(example))
    recipe = space.candidate(data.draw(st.tuples(*[units] * space.dimensions))).recipe
    point = space.point_of(recipe)
    if "seed each" in example and point is None:
        return  # numbers that differ in rounding have another seed
    assert point is not None
    assert without_rounding(space.candidate(point).recipe.model_dump()) == without_rounding(recipe.model_dump())


def without_rounding(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_rounding(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_rounding(each) for each in value]
    return pytest.approx(value, rel=1e-8, abs=1e-8) if isinstance(value, float) else value


@every_example
def test_a_recipe_that_no_point_makes_has_none(build: Build, example: str) -> None:
    names = names_of(example)
    space = build(EXAMPLES[example], names)
    recipe = space.candidate((0.4,) * space.dimensions).recipe
    assert space.point_of(recipe.replace(dtype="float16")) is None
    assert space.point_of(recipe.replace(sources=recipe.sources[::-1])) is None
    fewer = LinearMerge(weights=(1.0,))
    assert space.point_of(recipe.replace(sources=recipe.sources[:1], method=fewer, rules=())) is None
    negative = LinearMerge(weights=(-7.0, *(1.0,) * (len(names) - 1)))
    assert space.point_of(recipe.replace(method=negative, rules=())) is None


def test_a_frozen_number_and_a_bound_keep_recipes_out(build: Build) -> None:
    wide, narrow = build({"kind": "task_arithmetic"}, TWO), build({"kind": "task_arithmetic", "bounds": (0, 0.5)}, TWO)
    frozen = build({"kind": "task_arithmetic", "freeze": {"math": 0.25}}, TWO)
    inside, outside = wide.candidate((0.25, 0.5)).recipe, wide.candidate((0.3, 0.75)).recipe
    assert (narrow.point_of(inside), narrow.point_of(outside)) == ((0.5, 1.0), None)
    assert (frozen.point_of(inside), frozen.point_of(outside)) == ((0.5,), None)


@pytest.mark.parametrize("normalize", ["sum", "softmax"])
def test_shares_are_turned_back_into_raw_numbers_within_their_bounds(build: Build, normalize: str) -> None:
    bounds = {"bounds": (0.5, 2.0)} if normalize == "sum" else {"bounds": (-1.0, 1.0)}
    space = build({"kind": "linear", "normalize": normalize, **bounds}, TWO)
    reached = space.candidate((1.0, 0.0))
    point = space.point_of(reached.recipe)
    assert point is not None and space.candidate(point).parameters == pytest.approx(reached.parameters)
    assert space.point_of(reached.recipe.replace(method=LinearMerge(weights=(0.99, 0.01)))) is None


@every_example
def test_task_arithmetic_is_a_baseline_of_every_space(build: Build, example: str) -> None:
    names = names_of(example)
    space = build(EXAMPLES[example], names)
    baseline = space.task_arithmetic()
    assert (baseline.kind, baseline.label) == ("task_arithmetic", "task arithmetic 0.3")
    assert baseline.recipe.method == TaskArithmeticMerge(weights=(1.0,) * len(names), scale=0.3)
    assert baseline.recipe.base == "digest-of-base"
    assert baseline.parameters == {f"weight.{name}": 1.0 for name in names} | {"scale": 0.3}
    assert space.candidate(baseline.point).point == baseline.point


FROZEN = {"freeze": {"math": 1.0, "code": 1.0}, "scale": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("declared", "weight", "scale"),
    [
        ({"kind": "task_arithmetic"}, 0.3, 1.0),
        ({"kind": "task_arithmetic", "layer_groups": 2}, 0.3, 1.0),
        ({"kind": "task_arithmetic", "scale": 0.5}, 0.6, 0.5),
        ({"kind": "task_arithmetic", "scale": (0.1, 0.6)}, 0.5, 0.6),
        ({"kind": "task_arithmetic", **FROZEN}, 1.0, 0.3),
        (
            {"kind": "task_arithmetic", "scale": (0.0, 1.0), "by_group": ["scale"], "layer_groups": 2, **FROZEN},
            1.0,
            0.3,
        ),
        ({"kind": "ties", "densities": 1.0, **FROZEN}, 1.0, 0.6),  # its weights are normalized: 0.6 of their mean
        ({"kind": "dare_ties", "densities": 1.0}, 0.3, 1.0),
        ({"kind": "choice", "options": [{"kind": "linear"}, {"kind": "task_arithmetic"}]}, 0.3, 1.0),
        ({"kind": "choice", "options": [{"kind": "emr"}, {"kind": "dare_ties"}, {"kind": "linear"}]}, 0.3, 1.0),
    ],
)
def test_the_point_of_task_arithmetic_is_as_near_as_it_gets(
    build: Build, declared: dict[str, Any], weight: float, scale: float
) -> None:
    space = build(declared, TWO)
    reached = space.candidate(space.task_arithmetic().point).parameters
    weights = [value for name, value in reached.items() if "weight." in name]
    scales = [value for name, value in reached.items() if "scale" in name]
    assert weights == pytest.approx([weight] * len(weights)) and len(weights) >= len(TWO)
    assert scales == pytest.approx([scale] * len(scales)) and scales


def refused(space: SearchSpace, values: dict[str, float | str]) -> dict[str, tuple[str, str | None]]:
    with pytest.raises(InvalidSpec) as caught:
        space.point(values, "points.0")
    return {error.field: (error.value, error.allowed) for error in caught.value.errors}


def test_a_point_is_given_by_names_in_raw_units(build: Build) -> None:
    space = build({"kind": "consensus", "bounds": (-1.0, 1.0), "mask_threshold": 0.4}, TWO)
    given: dict[str, float | str] = {"agreeing": 2.0, "weight.code": 0.5, "weight.math": -1.0}
    point = space.point(given, "points.0")
    assert point == (0.0, 0.75, 0.75)
    assert space.candidate(point).parameters == {**given, "mask_threshold": 0.4, "scale": 1.0}
    view = build({"kind": "emr"}, TWO)
    assert view.candidate(view.point({"view": "code"}, "points.0")).parameters["view.code"] == 1.0


def test_all_that_is_wrong_with_a_point_is_named(build: Build) -> None:
    space = build({"kind": "consensus", "mask_threshold": 0.4}, TWO)
    assert refused(space, {"weight.maths": 0.5, "weight.code": 1.5, "agreeing": 3.0}) == {
        "points.0.weight.maths": ("'weight.maths'", "agreeing, weight.code, weight.math"),
        "points.0.weight.math": ("None", "a number from 0 to 1"),
        "points.0.weight.code": ("1.5", "a number from 0 to 1"),
        "points.0.agreeing": ("3.0", "1, 2"),
    }
    assert refused(build({"kind": "emr"}, TWO), {"view": "poems"}) == {
        "points.0.view": ("'poems'", "unified, math, code")
    }


def test_a_point_of_a_choice_gives_the_coordinates_of_one_option(build: Build) -> None:
    space = build({"kind": "choice", "options": [{"kind": "linear"}, {"kind": "slerp"}, {"kind": "slerp"}]}, TWO)
    point = space.point({"option": "slerp2", "slerp2.t": 0.25}, "points.0")
    assert space.names == ("option", "linear.weight.math", "linear.weight.code", "slerp.t", "slerp2.t")
    assert point == (pytest.approx(5 / 6), 0.5, 0.5, 0.5, 0.25)
    assert space.candidate(point).parameters["slerp2.t"] == 0.25
    assert list(refused(space, {"option": "slerp", "slerp2.t": 0.25})) == ["points.0.slerp2.t", "points.0.slerp.t"]
    assert refused(space, {"option": "lerp"}) == {"points.0.option": ("'lerp'", "linear, slerp, slerp2")}
    assert list(refused(space, {"slerp.t": 0.25})) == ["points.0.option"]


def test_mm_mo_searches_weight_and_density_of_each_expert_between_0_and_1(build: Build) -> None:
    space = build({"kind": "dare_ties"}, TWO)
    assert space.names == ("weight.math", "weight.code", "density.math", "density.code")
    low, high = space.candidate((0.0,) * 4), space.candidate((1.0,) * 4)
    assert per_source(low.recipe.method) == {"weights": (0.0, 0.0), "densities": (0.0, 0.0)}
    assert per_source(high.recipe.method) == {"weights": (1.0, 1.0), "densities": (1.0, 1.0)}
    assert low.parameters["scale"] == high.parameters["scale"] == 1.0


def test_names_say_what_is_searched_in_order(build: Build) -> None:
    assert build({"kind": "ties"}, TWO).names == (
        "weight.math",
        "weight.code",
        "density.math",
        "density.code",
        "scale",
    )
    grouped = {"kind": "della", "densities": {"groups": [TWO]}, "freeze": {"code": 1.0}, "scale": 1.0}
    assert build(grouped, TWO).names == ("weight.math", "density.group(math,code)", "epsilon")
    assert build({"kind": "sce"}).names == ("scale", "top_fraction")
    assert build({"kind": "emr"}).names == ("view",)


def test_fixed_numbers_are_told_as_well(build: Build) -> None:
    candidate = build({"kind": "sce", "scale": 0.7}).candidate((0.0,))
    assert candidate.parameters == {"scale": 0.7, "top_fraction": 0.05}
    frozen = build(EXAMPLES["frozen and grouped"]).candidate((0.5,) * 5)
    assert {name: value for name, value in frozen.parameters.items() if name.startswith("density")} == {
        "density.math": 0.5,
        "density.code": 0.5,
        "density.chat": pytest.approx(0.15),
        "density.law": 0.0,
        "density.poems": 0.5,
    }


def test_whole_numbers_have_equal_cells(build: Build) -> None:
    space = build({"kind": "consensus", "agreeing": (0, 3), "mask_threshold": 0.4, "freeze": dict.fromkeys(FIVE, 1.0)})
    assert space.names == ("agreeing",)
    found = [space.candidate((unit,)).parameters["agreeing"] for unit in (0.0, 0.2499, 0.25, 0.5, 0.75, 1.0)]
    assert found == [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]
    assert {type(m.agreeing) for m in methods_of(space.candidate((0.3,))) if m.kind == "consensus"} == {int}


def test_views_have_equal_cells_and_parents_their_own(build: Build) -> None:
    space = build({"kind": "emr"}, TWO)
    taken = [space.candidate((unit,)).recipe.method for unit in (0.0, 0.3, 0.34, 0.67, 1.0)]
    assert [getattr(method, "task", "?") for method in taken] == [None, None, 0, 1, 1]
    assert space.candidate((0.5,)).parameters == {"view.unified": 0.0, "view.math": 1.0, "view.code": 0.0}
    assert [getattr(space.candidate(space.parent(i).point).recipe.method, "task", "?") for i in (0, 1)] == [0, 1]


def test_t_leads_from_the_first_checkpoint_to_the_second(build: Build) -> None:
    space = build({"kind": "slerp"}, TWO)
    assert space.names == ("t",)
    assert (space.parent(0).point, space.uniform_soup().point, space.parent(1).point) == ((0.0,), (0.5,), (1.0,))


def test_order_and_statistics_reach_the_recipe(build: Build) -> None:
    recipe = build(EXAMPLES["whole numbers"]).candidate((0.5,) * 11).recipe
    assert getattr(recipe.method, "order", None) == (4, 3, 2, 1, 0)
    assert recipe.statistics == tuple(f"statistics-of-{name}" for name in FIVE)
    assert build({"kind": "ties"}).candidate((0.5,) * 11).recipe.statistics == ()
    assert build({"kind": "ties", "trim_by": "saliency"}).candidate((0.5,) * 11).recipe.statistics


def test_a_base_is_named_only_where_it_is_used(build: Build) -> None:
    for kind in ("linear", "karcher", "multislerp", "fisher"):
        space = build({"kind": kind})
        assert space.candidate((0.5,) * space.dimensions).recipe.base is None
    space = build(EXAMPLES["task vectors"])
    assert space.candidate((0.5,) * 5).recipe.base == "digest-of-base"


def test_a_seed_is_fixed_or_drawn_from_the_parameters(build: Build) -> None:
    fixed, own = build({"kind": "dare_ties", "seed": 7}), build({"kind": "dare_ties", "seed": "per_candidate"})
    points = [(0.5,) * 10, (0.5,) * 9 + (0.25,)]
    assert [fixed.candidate(point).recipe.seed for point in points] == [7, 7]
    seeds = [own.candidate(point).recipe.seed for point in points]
    assert seeds == [own.candidate(point).recipe.seed for point in points]
    assert len({*seeds, 0}) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_of_a_choice_only_the_coordinates_of_the_option_matter(build: Build) -> None:
    space = build(EXAMPLES["choice"])
    assert space.names[:2] == ("option", "linear.weight.math")
    assert {"ties.density.law", "ties2.density.law", "dare_ties.weight.law@rest"} <= set(space.names)
    owners = [name.split(".")[0] for name in space.names[1:]]
    for index, option in enumerate(("linear", "ties", "model_stock", "ties2", "dare_ties")):
        picks = (index + 0.5) / 5
        candidate = space.candidate((picks, *(0.4,) * len(owners)))
        assert candidate.recipe.method.kind == option.rstrip("2")
        assert candidate.parameters[f"option.{option}"] == 1.0
        assert sum(value for name, value in candidate.parameters.items() if name.startswith("option.")) == 1.0
        others = space.candidate((picks, *(0.4 if owner == option else 0.9 for owner in owners)))
        assert others.recipe == candidate.recipe
        assert others.parameters == candidate.parameters
        for place in (number for number, owner in enumerate(owners) if owner == option):
            own = space.candidate((picks, *(0.9 if place == number else 0.4 for number in range(len(owners)))))
            assert own.recipe != candidate.recipe


def test_what_the_pool_lacks_is_named(build: Build) -> None:
    def fields(space: dict[str, Any], **changes: Any) -> list[str]:
        with pytest.raises(InvalidSpec) as refused:
            build(space, TWO, **changes)
        return [error.field for error in refused.value.errors]

    assert fields({"kind": "sce"}, base=None) == ["pool.base"]
    assert fields({"kind": "ties", "layer_groups": 11}) == ["space.layer_groups"]
    assert fields({"kind": "ties", "layer_groups": [[0, 11]]}) == ["space.layer_groups"]
    assert fields({"kind": "ties", "layer_groups": 2}, layers=None) == ["space.layer_groups"]
    bare = [{"name": n, "path": n, "digest": n, "stamp": "s", "size_bytes": 1} for n in TWO]
    missing = ["pool.checkpoints.0.statistics", "pool.checkpoints.1.statistics"]
    assert fields({"kind": "fisher"}, checkpoints=bare) == missing
    pairs = {"layer_groups": 10, "modules": [f"module{index}" for index in range(100)]}
    assert fields({"kind": "linear", **pairs}) == ["space"]
    apart = {"groups": [TWO], "bounds_of": {"math": (0.1, 0.2), "code": (0.3, 0.4)}}
    option = {"kind": "dare_ties", "densities": apart}
    assert fields(option) == ["space.densities.bounds_of.math"]
    chosen = {"kind": "choice", "options": [{"kind": "linear"}, option]}
    assert fields(chosen) == ["space.options.1.densities.bounds_of.math"]


@pytest.mark.parametrize(
    ("declared", "digest"),
    [
        ({"kind": "dare_ties"}, "a3a3bd43784b210757cbf7ec8c3ca204810a69c5bd3a65439ec222a80c0982ff"),
        (
            {"kind": "ties", "layer_groups": 2, "modules": ["mlp"]},
            "bf184b68afc78d37b720042520b3b99ee6db23d3f9a6ebba6cdfe43e44c57b6b",
        ),
        (
            {"kind": "della", "seed": "per_candidate"},
            "f19a79937fb3b44e0e4c777c17538615789fa826e4c8ad310d7cda97586cde34",
        ),
        ({"kind": "fisher"}, "d5fbbf087e51aa4b019d243a11a5f6f36137e971b516c20900ce4627c0b00fef"),
        ({"kind": "slerp", "only": ["self_attn"]}, "0c222fddea2fabcdda10f3499c9dd24ac07eccbabc16365c5ee0e19dddb7cdeb"),
    ],
)
def test_digests_stay_what_they_were(build: Build, declared: dict[str, Any], digest: str) -> None:
    """A digest is a merged model's public id: a change here breaks every link to every merge made so far."""
    space = build(declared, TWO)
    point = tuple((index + 1) / (space.dimensions + 1) for index in range(space.dimensions))
    assert space.candidate(point).recipe.digest == digest
