"""How weights are mapped: linear merges with each normalization, and task arithmetic."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from campaigns.errors import InvalidSpec
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import CampaignSpec, parse_spec
from campaigns.trial import Candidate
from search_spaces import SearchSpace, build_space

NAMES = ("math", "code", "chat", "law", "poems")
K = len(NAMES)


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(name=name, path=f"/models/{name}", digest=f"digest-of-{name}", stamp="s", size_bytes=1)


def spec_of(space: dict[str, Any], names: tuple[str, ...] = NAMES) -> CampaignSpec:
    return parse_spec(
        {
            "name": "test",
            "pool": {"checkpoints": [{"name": n, "path": n} for n in names], "base": {"name": "base", "path": "base"}},
            "space": space,
            "objectives": [{"task": "sort", "metric": "acc"}],
            "budget": {"evaluations": 1},
        }
    )


def build(space: dict[str, Any], names: tuple[str, ...] = NAMES) -> SearchSpace:
    pool = Pool(
        checkpoints=tuple(checkpoint(name) for name in names),
        base=checkpoint("base"),
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        parameter_count=1,
    )
    return build_space(spec_of(space, names), pool)


def weights(candidate: Candidate) -> list[float]:
    return list(candidate.recipe.method.weights)


EXAMPLES: dict[str, dict[str, Any]] = {
    "sum": {"kind": "linear"},
    "sum within bounds": {"kind": "linear", "bounds": (0.1, 2.0), "bounds_of": {"law": (0.5, 0.6)}},
    "sum frozen grouped": {"kind": "linear", "freeze": {"code": 0.3}, "groups": (("chat", "math"),)},
    "softmax": {"kind": "linear", "normalize": "softmax"},
    "softmax frozen grouped": {
        "kind": "linear",
        "normalize": "softmax",
        "freeze": {"poems": 0.125},
        "groups": (("math", "code"), ("chat", "law")),
    },
    "free": {"kind": "linear", "normalize": "free"},
    "free all": {
        "kind": "linear",
        "normalize": "free",
        "bounds": (-1.0, 2.0),
        "bounds_of": {"math": (0.0, 0.25)},
        "freeze": {"law": -0.5},
        "groups": (("math", "chat"),),
    },
    "task arithmetic": {"kind": "task_arithmetic"},
    "task arithmetic scaled": {"kind": "task_arithmetic", "scale": (0.1, 1.5), "freeze": {"math": 1.5}},
    "task arithmetic fixed scale": {"kind": "task_arithmetic", "scale": 0.3, "groups": (NAMES,)},
}
every_example = pytest.mark.parametrize("example", EXAMPLES)
units = st.floats(min_value=0.0, max_value=1.0)


def points(space: SearchSpace) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[units] * space.dimensions)


@every_example
@given(data=st.data())
def test_every_point_of_the_cube_is_a_candidate(example: str, data: st.DataObject) -> None:
    space = build(EXAMPLES[example])
    point = data.draw(points(space))
    candidate = space.candidate(point)
    assert candidate.kind == "candidate"
    assert candidate.label is None
    assert candidate.point == point
    assert candidate == space.candidate(point)
    assert len(space.names) == len(set(space.names)) == space.dimensions
    named = {f"weight.{name}": weight for name, weight in zip(NAMES, weights(candidate), strict=True)}
    assert {name: value for name, value in candidate.parameters.items() if name != "scale"} == named
    assert ("scale" in candidate.parameters) == (candidate.recipe.method.kind == "task_arithmetic")
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate


@every_example
@given(data=st.data())
def test_frozen_weights_are_exact_and_groups_equal(example: str, data: st.DataObject) -> None:
    declared = EXAMPLES[example]
    candidate = build(declared).candidate(data.draw(points(build(declared))))
    for name, weight in declared.get("freeze", {}).items():
        assert candidate.parameters[f"weight.{name}"] == weight
    for group in declared.get("groups", ()):
        assert len({candidate.parameters[f"weight.{name}"] for name in group}) == 1


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name.startswith(("sum", "softmax"))])
@given(data=st.data())
def test_normalized_weights_sum_to_one(example: str, data: st.DataObject) -> None:
    space = build(EXAMPLES[example])
    found = weights(space.candidate(data.draw(points(space))))
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-12)
    assert all(0.0 <= weight <= 1.0 for weight in found)


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name.startswith(("free", "task"))])
@given(data=st.data())
def test_unnormalized_weights_keep_their_bounds(example: str, data: st.DataObject) -> None:
    declared = EXAMPLES[example]
    space = build(declared)
    candidate = space.candidate(data.draw(points(space)))
    ranges = {**dict.fromkeys(NAMES, declared.get("bounds", (0.0, 1.0))), **declared.get("bounds_of", {})}
    for name in set(NAMES) - set(declared.get("freeze", {})):
        low, high = ranges[name]
        assert low <= candidate.parameters[f"weight.{name}"] <= high
    if "scale" in declared:
        scale = candidate.parameters["scale"]
        assert scale == declared["scale"] if isinstance(declared["scale"], float) else 0.1 <= scale <= 1.5


@every_example
@pytest.mark.parametrize("index", range(K))
def test_a_parent_is_exactly_itself(example: str, index: int) -> None:
    parent = build(EXAMPLES[example]).parent(index)
    assert (parent.kind, parent.label) == ("parent", NAMES[index])
    assert weights(parent) == [1.0 if other == index else 0.0 for other in range(K)]
    assert parent.parameters.get("scale", 1.0) == 1.0


@every_example
def test_the_uniform_soup_is_exactly_uniform(example: str) -> None:
    soup = build(EXAMPLES[example]).uniform_soup()
    assert (soup.kind, soup.label) == ("soup", "uniform soup")
    assert weights(soup) == [1 / K] * K
    assert soup.parameters.get("scale", 1.0) == 1.0


@every_example
def test_baselines_lie_in_the_cube(example: str) -> None:
    space = build(EXAMPLES[example])
    for baseline in (*(space.parent(index) for index in range(K)), space.uniform_soup()):
        assert len(baseline.point) == space.dimensions
        assert all(0.0 <= unit <= 1.0 for unit in baseline.point)
        space.candidate(baseline.point)


@pytest.mark.parametrize(
    ("declared", "parents_too"),
    [
        ({"kind": "linear"}, True),
        ({"kind": "linear", "bounds": (0.5, 0.75)}, False),
        ({"kind": "linear", "normalize": "softmax"}, False),
        ({"kind": "linear", "normalize": "free"}, True),
        ({"kind": "linear", "normalize": "free", "bounds": (-1.0, 1.0)}, True),
        ({"kind": "task_arithmetic"}, True),
        ({"kind": "task_arithmetic", "scale": (0.0, 2.0)}, True),
    ],
)
def test_the_point_of_a_baseline_within_reach_is_that_baseline(declared: dict[str, Any], parents_too: bool) -> None:
    space = build(declared)
    baselines = [space.uniform_soup(), *(space.parent(index) for index in range(K) if parents_too)]
    for baseline in baselines:
        reached = space.candidate(baseline.point)
        assert reached.parameters == pytest.approx(baseline.parameters, abs=1e-15)
    if declared == {"kind": "linear"}:
        assert all(space.candidate(b.point).recipe.digest == b.recipe.digest for b in baselines)


def test_a_parent_out_of_reach_has_the_nearest_point() -> None:
    softmax = build({"kind": "linear", "normalize": "softmax"})
    assert softmax.parent(2).point == (0.0, 0.0, 1.0, 0.0, 0.0)
    assert weights(softmax.candidate(softmax.parent(2).point))[2] > 0.99
    grouped = build({"kind": "linear", "normalize": "free", "groups": (("math", "code"),), "freeze": {"law": 0.2}})
    assert grouped.parent(0).point == (0.5, 0.0, 0.0)
    scaled = build({"kind": "task_arithmetic", "scale": (0.0, 0.5), "bounds_of": {"math": (0.2, 0.6)}})
    assert scaled.parent(0).point == (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert scaled.parent(1).point == (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def test_the_soup_of_separate_bounds_has_the_nearest_point() -> None:
    space = build({"kind": "linear", "bounds_of": {"math": (2.0, 3.0)}})  # the others reach 1: 1.5 lies between
    assert space.uniform_soup().point == (0.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("freeze", [{}, {"code": 0.4}])
def test_sum_of_nothing_is_uniform_over_what_varies(freeze: dict[str, float]) -> None:
    space = build({"kind": "linear", "freeze": freeze})
    found = space.candidate((0.0,) * space.dimensions).parameters
    share = (1.0 - sum(freeze.values())) / space.dimensions
    assert found == {f"weight.{name}": freeze.get(name, share) for name in NAMES}


@given(point=st.tuples(*[units] * K), factor=st.floats(min_value=0.05, max_value=1.0))
def test_sum_takes_ratios_only(point: tuple[float, ...], factor: float) -> None:
    assume(max(point) > 1e-9)
    space = build({"kind": "linear"})
    shrunk = tuple(unit * factor for unit in point)
    assert weights(space.candidate(shrunk)) == pytest.approx(weights(space.candidate(point)), abs=1e-12)


def test_the_formulas() -> None:
    assert weights(build({"kind": "linear"}).candidate((1.0, 0.5, 0.25, 0.25, 0.0))) == [0.5, 0.25, 0.125, 0.125, 0.0]
    raw = (-4.0, -2.0, 0.0, 2.0, 4.0)
    total = sum(math.exp(value) for value in raw)
    softmax = build({"kind": "linear", "normalize": "softmax"}).candidate((0.0, 0.25, 0.5, 0.75, 1.0))
    assert weights(softmax) == pytest.approx([math.exp(value) / total for value in raw], rel=1e-14)
    frozen = build({"kind": "linear", "freeze": {"law": 0.5}, "groups": (("math", "code"),)})
    assert weights(frozen.candidate((1.0, 0.0, 0.5))) == [0.2, 0.2, 0.0, 0.5, 0.1]
    free = build({"kind": "linear", "normalize": "free", "bounds": (-1.0, 1.0)})
    assert weights(free.candidate((0.0, 0.25, 0.5, 0.75, 1.0))) == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_names_follow_the_pool_and_groups_stand_where_their_first_member_does() -> None:
    declared = {"kind": "task_arithmetic", "scale": (0.0, 1.0), "groups": (("poems", "code"),), "freeze": {"chat": 0.1}}
    assert build(declared).names == ("weight.math", "weight.group(code,poems)", "weight.law", "scale")
    assert build({"kind": "linear", "groups": (("law",), ())}).names == tuple(f"weight.{name}" for name in NAMES)


def test_the_bounds_of_a_group_are_those_that_all_members_keep() -> None:
    declared = {"kind": "linear", "normalize": "free", "groups": (("math", "code", "chat"),)}
    space = build({**declared, "bounds_of": {"math": (0.0, 0.5), "code": (0.25, 2.0)}})
    assert space.candidate((0.0, 0.0, 0.0)).parameters["weight.chat"] == 0.25
    assert space.candidate((1.0, 0.0, 0.0)).parameters["weight.chat"] == 0.5


def test_groups_without_a_common_weight_are_all_named() -> None:
    declared = {
        "kind": "linear",
        "groups": (("math", "code"), ("chat", "law")),
        "bounds_of": {"math": (0.0, 0.1), "code": (0.2, 0.3), "chat": (0.5, 0.6), "law": (0.0, 0.5)},
    }
    with pytest.raises(InvalidSpec) as refused:
        build(declared)
    assert [error.field for error in refused.value.errors] == ["space.bounds_of.math", "space.bounds_of.chat"]
    assert "math, code" in refused.value.errors[0].message


@every_example
@pytest.mark.parametrize("wrong", [-1e-9, 1.0 + 1e-9, math.nan, math.inf])
def test_a_coordinate_outside_the_cube_is_refused_by_name(example: str, wrong: float) -> None:
    space = build(EXAMPLES[example])
    point = (*(0.5,) * (space.dimensions - 1), wrong)
    with pytest.raises(ValueError, match="must lie in") as refused:
        space.candidate(point)
    assert space.names[-1] in str(refused.value)


@every_example
@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_point_of_another_length_is_refused(example: str, surplus: int) -> None:
    space = build(EXAMPLES[example])
    with pytest.raises(ValueError, match=f"{space.dimensions} coordinates, got {space.dimensions + surplus}"):
        space.candidate((0.5,) * (space.dimensions + surplus))


def test_huge_bounds_do_not_overflow() -> None:
    free = build({"kind": "linear", "normalize": "free", "bounds": (-1.7e308, 1.7e308)})
    assert weights(free.candidate((0.0, 0.5, 1.0, 0.5, 0.5))) == [-1.7e308, 0.0, 1.7e308, 0.0, 0.0]
    assert free.uniform_soup().point == (0.5,) * K
    total = build({"kind": "linear", "bounds": (0.0, 1.7e308)})
    assert weights(total.candidate((1.0,) * K)) == [0.2] * K


def test_no_weight_is_a_negative_zero() -> None:
    """-0.0 equals 0.0 but has another JSON, and would give an equal merge another digest."""
    space = build({"kind": "linear", "normalize": "free", "bounds": (-1.0, -0.0), "freeze": {"law": -0.0}})
    found = weights(space.candidate((1.0,) * space.dimensions))
    assert [math.copysign(1.0, weight) for weight in found] == [1.0] * K


def test_recipes_name_the_pool_by_content() -> None:
    linear = build({"kind": "linear"}).uniform_soup().recipe
    assert linear.sources == tuple(f"digest-of-{name}" for name in NAMES)
    assert (linear.base, linear.dtype) == (None, "bfloat16")
    task_arithmetic = build({"kind": "task_arithmetic"})
    assert task_arithmetic.candidate((0.5,) * task_arithmetic.dimensions).recipe.base == "digest-of-base"


@pytest.mark.parametrize("index", range(K))
def test_a_parent_of_task_arithmetic_is_the_checkpoint_without_the_rounding_of_a_detour(index: int) -> None:
    assert build({"kind": "task_arithmetic"}).parent(index).recipe == build({"kind": "linear"}).parent(index).recipe


def test_digests_stay_what_they_were() -> None:
    """A digest is a merged model's public id: a change here breaks every link to every merge made so far."""
    linear = build({"kind": "linear"}).candidate((1.0, 0.5, 0.25, 0.25, 0.0))
    scaled = build({"kind": "task_arithmetic", "scale": (0.0, 2.0)}).candidate((1.0, 0.5, 0.25, 0.25, 0.0, 0.3))
    assert linear.recipe.digest == "e36921f34baa6ddf32776230d8621734cf5f7286290b8f63cd39ca1819d39f19"
    assert scaled.recipe.digest == "79105a79385e1f5e68d8d0cb50feae43252bc3afbeddffac292dae5ef15f41b8"


def test_task_arithmetic_without_a_base_is_refused() -> None:
    pool = Pool(
        checkpoints=tuple(checkpoint(name) for name in NAMES),
        base=None,
        dtype="float32",
        architecture="LlamaForCausalLM",
        parameter_count=1,
    )
    with pytest.raises(InvalidSpec, match="base") as refused:
        build_space(spec_of({"kind": "task_arithmetic"}), pool)
    assert [error.field for error in refused.value.errors] == ["pool.base"]
