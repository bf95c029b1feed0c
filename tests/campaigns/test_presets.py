"""Presets: what each fills in, how a document overrides it, and what the stored spec says."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from campaigns.errors import InvalidSpec
from campaigns.presets import PRESETS, expand_preset
from campaigns.spec import CampaignSpec, parse_spec
from campaigns.strategies import CmaEsSearch, MmMoSearch

CHECKPOINTS = [{"name": name, "path": f"/models/{name}"} for name in ("math", "code", "chat")]
DOCUMENT = {
    "name": "three experts",
    "pool": {"checkpoints": CHECKPOINTS, "base": {"name": "base", "path": "/models/base"}},
    "objectives": [{"task": "gsm8k", "metric": "exact_match"}, {"task": "mbpp", "metric": "pass_at_1"}],
}
PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text()
BUDGET = {"recycle": {"budget": {"evaluations": 40}}}


def with_preset(name, **own):
    return {**copy.deepcopy(DOCUMENT), **BUDGET.get(name, {}), "preset": name, **own}


def refusal(document):
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(document)
    return caught.value.errors


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_completes_a_plain_document(name):
    spec = parse_spec(with_preset(name))
    assert spec.name == "three experts"
    assert CampaignSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_field_is_in_the_spec(name):
    """What a preset fills in is in the stored spec as it stands there."""
    found = parse_spec(with_preset(name)).model_dump(mode="json")
    for field, value in PRESETS[name].items():
        if isinstance(value, dict):
            for key, part in value.items():
                assert found[field][key] == ({**found[field][key], "bounds": part} if key == "densities" else part)


def test_recycle_is_cma_es_from_the_uniform_soup():
    spec = parse_spec(with_preset("recycle"))
    assert (spec.space.kind, spec.space.normalize) == ("linear", "softmax")
    assert isinstance(spec.strategy, CmaEsSearch)
    assert (spec.strategy.start, spec.strategy.scalarization) == ("center", "mean")
    assert spec.baselines.greedy_soup


def test_mm_mo_has_the_published_budget_and_one_more_objective():
    spec = parse_spec(with_preset("mm-mo"))
    assert spec.budget.evaluations == 30 == 10 + 4 * 5
    assert spec.strategy == MmMoSearch(initial_points=10, proposals=10, batch_size=5)
    assert (spec.space.kind, spec.space.bounds, spec.space.densities.bounds) == ("dare_ties", (0.0, 1.0), (0.0, 1.0))
    assert [(o.name, o.weight) for o in spec.objectives[2:]] == [("weights/delta_l1", 0.0)]


def test_evolve_starts_as_mergekit_evolve_does():
    spec = parse_spec(with_preset("evolve"))
    assert isinstance(spec.strategy, CmaEsSearch)
    assert (spec.strategy.start, spec.strategy.sigma) == ("uniform", 1 / 6)


def test_the_document_overrides_field_by_field():
    spec = parse_spec(with_preset("mm-mo", strategy={"kind": "mm_mo", "batch_size": 3}, budget={"evaluations": 12}))
    assert spec.strategy == MmMoSearch(initial_points=10, proposals=10, batch_size=3)
    assert spec.budget.evaluations == 12
    assert spec.space.seed == "per_candidate"
    assert parse_spec(with_preset("mm-mo", space={"seed": 3})).space.seed == 3


def test_another_kind_takes_nothing_from_the_preset():
    spec = parse_spec(with_preset("mm-mo", strategy={"kind": "nsga2"}, space={"kind": "ties"}))
    assert (spec.strategy.kind, spec.space.kind) == ("nsga2", "ties")
    assert spec.budget.evaluations == 30


def test_an_objective_of_the_document_goes_before_the_same_of_the_preset():
    own = {"task": "weights", "metric": "delta_l1", "weight": 0.5}
    spec = parse_spec(with_preset("mm-mo", objectives=[own, *DOCUMENT["objectives"]]))
    assert [(o.task, o.weight) for o in spec.objectives] == [("weights", 0.5), ("gsm8k", 1.0), ("mbpp", 1.0)]


def test_a_preset_changes_neither_itself_nor_the_document():
    document, presets = with_preset("mm-mo", strategy={"batch_size": 3}), copy.deepcopy(PRESETS)
    before = copy.deepcopy(document)
    expand_preset(document)
    parse_spec(document)
    assert document == before
    assert presets == PRESETS


@pytest.mark.parametrize("name", ["mm_mo", "", 3, None, ["mm-mo"]])
def test_an_unknown_preset_is_named_with_the_known_ones(name):
    [error] = refusal(with_preset("mm-mo", preset=name))
    assert error.field == "preset"
    assert error.allowed == "evolve, mm-mo, recycle"
    assert ("did you mean 'mm-mo'" in error.message) == (name in ("mm_mo", ["mm-mo"]))


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"objectives": 3}, "objectives"),
        ({"strategy": 3}, "strategy"),
        ({"space": {"kind": "dare_ties", "colour": "red"}}, "space.colour"),
        ({"budget": {"evaluations": 0}}, "budget.evaluations"),
        ({"pool": {"checkpoints": CHECKPOINTS}}, "pool.base"),
    ],
)
def test_mistakes_beside_a_preset_are_told_as_without_one(own, field):
    assert field in [error.field for error in refusal(with_preset("mm-mo", **own))]


def test_no_objectives_are_refused_as_none_and_not_for_the_weight_of_the_presets_own():
    [error] = refusal(with_preset("mm-mo", objectives=[]))
    assert (error.field, error.value) == ("objectives", "[]")


def test_the_objectives_of_a_preset_do_not_stand_in_for_the_users():
    document = with_preset("mm-mo")
    del document["objectives"]
    [error] = refusal(document)
    assert (error.field, error.message) == ("objectives", "Field required")


@pytest.mark.parametrize("document", [[], "mm-mo", None, 3])
def test_what_is_no_document_is_refused_as_ever(document):
    assert [error.field for error in refusal(document)] == ["spec"]


def test_the_page_has_a_section_for_every_preset_and_an_example_that_runs():
    assert re.findall(r"\n### (.*)\n", PAGE) == list(PRESETS)
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert parse_spec(yaml.safe_load(example)).strategy.kind == "mm_mo"
