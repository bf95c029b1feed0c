"""The spec: what is accepted, and that every mistake is told with its field, value and what is allowed."""

import copy

import pytest

from campaigns.errors import InvalidSpec
from campaigns.spec import CampaignSpec, parse_spec

DOCUMENT = {
    "name": "two parents",
    "pool": {"checkpoints": [{"name": "a", "path": "/models/a"}, {"name": "b", "path": "/models/b"}]},
    "objectives": [{"task": "sort", "metric": "exact_match"}],
    "budget": {"evaluations": 10},
}


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    place = document
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place[int(last) if last.isdigit() else last] = value
    return document


def refusal(document):
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(document)
    return caught.value.errors


def test_the_smallest_spec_gets_the_documented_defaults():
    spec = parse_spec(DOCUMENT)
    assert (spec.space.kind, spec.space.normalize) == ("linear", "sum")
    assert spec.strategy.kind == "gp_hypervolume"
    assert spec.baselines.parents and spec.baselines.uniform_soup
    assert spec.evaluation.search_items == 100
    assert spec.has_holdout


def test_a_spec_survives_json():
    spec = parse_spec(DOCUMENT)
    assert CampaignSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        parse_spec(DOCUMENT).name = "other"


def test_an_objective_on_the_weights_needs_a_base():
    document = changed("objectives", [*DOCUMENT["objectives"], {"task": "weights", "metric": "delta_l1"}])
    [error] = refusal(document)
    assert (error.field, error.message) == ("pool.base", "objective 'weights/delta_l1' needs a base checkpoint")
    document["pool"] = {**document["pool"], "base": {"name": "base", "path": "/models/base"}}
    assert parse_spec(document).objectives[1].is_of_weights


def test_a_copy_is_validated_too():
    with pytest.raises(ValueError, match="at least 1 item"):
        parse_spec(DOCUMENT).replace(objectives=())


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("objectives", [], "objectives"),
        ("budget.evaluations", 0, "budget.evaluations"),
        ("budget.evaluations", 10**9, "budget.evaluations"),
        ("colour", "red", "colour"),
        ("pool.checkpoints.1.name", "a", "pool.checkpoints.1.name"),
        ("pool.checkpoints.1.name", "../b", "pool.checkpoints.1.name"),
        ("pool.checkpoints.1", {"name": "b"}, "pool.checkpoints.1.path"),
        ("pool.checkpoints.1", {"name": "b", "path": "/b", "hub": "o/b"}, "pool.checkpoints.1.path"),
        ("pool.checkpoints", [{"name": "a", "path": "/a"}], "pool.checkpoints"),
        ("space", {"kind": "linear", "bounds": [1, 0]}, "space.bounds"),
        ("space", {"kind": "linear", "bounds_of": {"a": [0.5, 0.5]}}, "space.bounds_of.a"),
        ("space", {"kind": "linear", "bounds": [-1, 1]}, "space.bounds"),
        ("space", {"kind": "linear", "freeze": {"c": 0.5}}, "space.freeze.c"),
        ("space", {"kind": "linear", "freeze": {"a": 1.5}}, "space.freeze"),
        ("space", {"kind": "linear", "freeze": {"a": 0.2, "b": 0.2}}, "space.freeze"),
        ("space", {"kind": "linear", "groups": [["a", "zz"]]}, "space.groups.0.1"),
        ("space", {"kind": "linear", "groups": [["a"], ["a"]]}, "space.groups.1"),
        ("space", {"kind": "task_arithmetic"}, "pool.base"),
        ("space", {"kind": "slurp"}, "space"),
        ("strategy", {"kind": "nsga9"}, "strategy"),
        ("strategy", {"kind": "nsga2", "population_size": 1}, "strategy.population_size"),
        ("objectives.0.weight", -1, "objectives.0.weight"),
        ("objectives.0.weight", 0, "objectives.0.weight"),
        ("objectives.0.weight", float("nan"), "objectives.0.weight"),
        ("evaluation.search_items", 0, "evaluation.search_items"),
        ("resources.actors", 0, "resources.actors"),
        ("seed", -1, "seed"),
        ("constraints", [{"objective": "sort/exact_match"}], "constraints.0"),
        ("constraints", [{"objective": "sort/exact_match", "at_least": 0.1, "at_most": 0.2}], "constraints.0"),
        ("constraints", [{"objective": "sort/acc", "at_least": 0.1}], "constraints.0.objective"),
        (
            "constraints",
            [{"objective": "sort/exact_match", "max_loss_to_best_parent": -0.1}],
            "constraints.0.max_loss_to_best_parent",
        ),
        ("evaluation.racing", {"rungs": []}, "evaluation.racing.rungs"),
        ("evaluation.racing", {"rungs": [0.3, 0.1]}, "evaluation.racing.rungs.1"),
        ("evaluation.racing", {"rungs": [0.1, 0.3, 0.3]}, "evaluation.racing.rungs.2"),
        ("evaluation.racing", {"rungs": [0.0, 0.3]}, "evaluation.racing.rungs.0"),
        ("evaluation.racing", {"rungs": [0.1, 1.0]}, "evaluation.racing.rungs.1"),
        ("evaluation.racing", {"rungs": [float("nan")]}, "evaluation.racing.rungs.0"),
        ("evaluation.racing", {"rungs": [i / 20 for i in range(1, 12)]}, "evaluation.racing.rungs"),
        ("evaluation.racing", {"tolerance": 0}, "evaluation.racing.tolerance"),
        ("evaluation.racing", {"tolerance": 1}, "evaluation.racing.tolerance"),
        ("evaluation.racing", {"rung": [0.1]}, "evaluation.racing.rung"),
        ("evaluation.reuse", "perhaps", "evaluation.reuse"),
        ("baselines", {"task_arithmetic": True}, "pool.base"),
        ("warm_start", {"import_from": ["abc", "abc"]}, "warm_start.import_from.1"),
        ("warm_start", {"points": [{"weight.a": None}]}, "warm_start.points.0.weight.a"),
    ],
)
def test_a_mistake_is_named_by_its_field(path, value, field):
    assert [error.field for error in refusal(changed(path, value))] == [field]


def test_all_mistakes_are_told_at_once():
    document = changed("budget.evaluations", 0) | {"objectives": [], "colour": "red"}
    assert {error.field for error in refusal(document)} == {"budget.evaluations", "objectives", "colour"}


def test_an_error_shows_value_and_what_is_allowed():
    [error] = refusal(changed("space", {"kind": "linear", "freeze": {"c": 0.5}}))
    assert (error.value, error.allowed) == ("'c'", "a, b")


def test_an_objective_is_listed_once():
    twice = [{"task": "sort", "metric": "exact_match"}] * 2
    assert [error.field for error in refusal(changed("objectives", twice))] == ["objectives.1"]


def test_objectives_of_one_task_agree_on_the_examples_shown():
    objectives = [{"task": "t", "metric": "acc", "num_fewshot": 0}, {"task": "t", "metric": "f1", "num_fewshot": 5}]
    assert [error.field for error in refusal(changed("objectives", objectives))] == ["objectives.1.num_fewshot"]


def test_items_of_an_objective_override_the_evaluation():
    spec = parse_spec(changed("objectives.0", {"task": "t", "metric": "m", "search_items": 7, "holdout_items": 0}))
    assert spec.evaluation.items_of(spec.objectives[0]) == (7, 0)
    assert not spec.has_holdout


def test_frozen_weights_may_sum_to_anything_under_free():
    parse_spec(changed("space", {"kind": "linear", "normalize": "free", "freeze": {"a": -0.5}}))


def test_a_constraint_shows_the_objectives_that_it_may_be_on():
    [error] = refusal(changed("constraints", [{"objective": "sort/acc", "at_least": 0.1}]))
    assert (error.value, error.allowed) == ("'sort/acc'", "sort/exact_match")


def test_a_relative_constraint_needs_the_parents():
    document = changed("constraints", [{"objective": "sort/exact_match", "max_loss_to_best_parent": 0.02}])
    assert parse_spec(document).constraints[0].is_relative
    [error] = refusal({**document, "baselines": {"parents": False}})
    assert (error.field, error.value) == ("constraints.0.max_loss_to_best_parent", "0.02")
    assert error.allowed == "baselines.parents: true"


def test_a_race_is_off_unless_it_is_asked_for_and_measurements_are_reused():
    assert (parse_spec(DOCUMENT).evaluation.racing, parse_spec(DOCUMENT).evaluation.reuse) == (None, True)
    racing = parse_spec(changed("evaluation.racing", {})).evaluation.racing
    assert (racing.rungs, racing.tolerance, racing.anchors) == ((0.05, 0.1, 0.2, 0.4), 0.15, False)
    parse_spec(changed("evaluation.racing", {"rungs": [i / 20 for i in range(1, 11)]}))


def test_rungs_say_what_they_may_be():
    [descends] = refusal(changed("evaluation.racing", {"rungs": [0.3, 0.1]}))
    assert (descends.value, descends.allowed) == ("0.1", "above 0.3, below 1")
    [whole] = refusal(changed("evaluation.racing", {"rungs": [0.3, 1]}))
    assert (whole.value, whole.message) == ("1", "Input should be less than 1")


def test_anchors_need_the_parents():
    document = changed("evaluation.racing", {"anchors": True})
    assert parse_spec(document).evaluation.racing.anchors
    [error] = refusal({**document, "baselines": {"parents": False}})
    assert (error.field, error.value, error.allowed) == (
        "evaluation.racing.anchors",
        "True",
        "baselines.parents: true",
    )


def test_a_race_needs_an_objective_with_items():
    document = changed("evaluation.racing", {})
    document["pool"] = {**document["pool"], "base": {"name": "base", "path": "/models/base"}}
    weights = {"task": "weights", "metric": "delta_l1", "weight": 1.0}
    assert parse_spec({**document, "objectives": [*document["objectives"], weights]}).evaluation.racing is not None
    [error] = refusal({**document, "objectives": [weights]})
    assert (error.field, error.allowed) == ("evaluation.racing", "an objective on a task")


def test_an_import_needs_a_result_of_the_campaigns_own():
    document = changed("warm_start", {"import_from": ["abc"]})
    assert parse_spec(document).warm_start.import_from == ("abc",)
    bare = {**document, "baselines": {"parents": False, "uniform_soup": False}}
    assert [error.field for error in refusal(bare)] == ["warm_start.import_from"]
    parse_spec({**bare, "warm_start": {"import_from": ["abc"], "points": [{"weight.a": 1, "weight.b": 0}]}})
