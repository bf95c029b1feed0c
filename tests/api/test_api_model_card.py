"""The model card: a pure function of campaign and trial."""

import json
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from api.model_card import card_files, model_card
from campaigns.campaign import Campaign, SearchSummary
from campaigns.merge_config import METHODS
from campaigns.methods import (
    EmrMerge,
    LinearMerge,
    Method,
    ModelStockMerge,
    ObimMerge,
    SlerpMerge,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.recipe import Rule, TensorFilter
from campaigns.trial import Trial
from storage import Store


@pytest.fixture
def told(search) -> list[Trial]:
    return search.three_trials()


@pytest.fixture
def campaign(store: Store, campaign_id: str) -> Campaign:
    return store.campaign(campaign_id)


def test_the_card_says_what_the_merge_is_made_of_and_how_good_it_is(
    store: Store, campaign: Campaign, told: list[Trial]
) -> None:
    trial = store.trial(told[1].id)
    card = model_card(campaign, trial)
    math, code = campaign.pool.checkpoints
    for line in (
        f"# tiny: merge {trial.id}",
        f"| `math` | 0.75 | `{math.digest}` |",
        f"| `code` | 0.25 | `{code.digest}` |",
        "| `sums/acc` | higher | 0.7500 ± 0.2500 (4) | 0.6250 ± 0.2500 (4) |",
        "| `text/word_perplexity` | lower | 8.0000 (4) | 8.5000 (4) |",
        "lm_eval --model hf --model_args pretrained=.,dtype=bfloat16 --tasks sums,text "
        "--samples items.search.json --batch_size 16",
        "lm_eval --model hf --model_args pretrained=.,dtype=bfloat16 --tasks sums,text "
        "--samples items.holdout.json --batch_size 16",
    ):
        assert line in card.splitlines()
    assert "It was proposed by the `gp_hypervolume` strategy." in card
    assert card == model_card(campaign, trial)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "task_arithmetic", "label": "task arithmetic 0.3"}, "the baseline `task arithmetic 0.3`"),
        ({"kind": "point", "label": "point 1"}, "It is `point 1` of those that the campaign was given."),
        ({"kind": "imported", "imported_from": "abc-7"}, "Its scores are those of trial `abc-7` of another campaign."),
    ],
)
def test_the_card_says_where_a_warm_start_comes_from(
    campaign: Campaign, told: list[Trial], changes: dict[str, str], text: str
) -> None:
    trial = told[1].replace(candidate=told[1].candidate.replace(**changes))
    assert text in model_card(campaign, trial)


def test_the_front_matter_is_yaml(campaign: Campaign, told: list[Trial]) -> None:
    _, front_matter, _ = model_card(campaign, told[1]).split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mergefront", "merge", "merge-linear"],
        "mergefront_trial": told[1].id,
        "mergefront_recipe": told[1].candidate.recipe.digest,
    }


def test_baselines_say_that_they_are(campaign: Campaign, told: list[Trial]) -> None:
    assert "It is the parent `math`" in model_card(campaign, told[0])
    for label in ("uniform soup", "greedy soup: math+code"):
        soup = told[0].replace(candidate=told[0].candidate.replace(kind="soup", label=label))
        assert f"It is the baseline `{label}`: an average of parents" in model_card(campaign, soup)


def card_of(campaign: Campaign, trial: Trial, method: Method, **recipe: Any) -> str:
    """The card of a trial with another recipe, in a pool with a base."""
    base = campaign.pool.checkpoints[0].replace(name="root", digest="b" * 64)
    campaign = campaign.replace(pool=campaign.pool.replace(base=base))
    made = trial.candidate.recipe.replace(method=method, base=base.digest, **recipe)
    return model_card(campaign, trial.replace(candidate=trial.candidate.replace(recipe=made)))


def recipe_lines(card: str) -> list[str]:
    return card.partition("## Recipe\n\n")[2].partition("\n\n## ")[0].splitlines()


def test_a_base_and_a_scale_are_shown(campaign: Campaign, told: list[Trial]) -> None:
    card = card_of(campaign, told[1], TaskArithmeticMerge(weights=(0.5, 0.5), scale=1.25))
    assert "Method `task_arithmetic`, scale 1.25, stored as `bfloat16`;" in card
    assert f"| `root`, the base | – | `{'b' * 64}` |" in card
    assert "2 checkpoints and a base" in card


NUMBERS = {"weights": (0.75, 0.25), "densities": (0.5, 0.125)}


@pytest.mark.parametrize("kind", METHODS)
def test_the_card_of_every_method_shows_all_its_numbers(kind: str, campaign: Campaign, told: list[Trial]) -> None:
    fields = METHODS[kind].model_fields
    required = {"t": 0.375} | NUMBERS
    method = METHODS[kind](**{name: value for name, value in required.items() if name in fields})
    lead, _, header, _, first, second, base = recipe_lines(card_of(campaign, told[1], method))
    assert lead.startswith(f"Method `{kind}`")
    assert ("seed 0" in lead) == ("rescale" in fields)
    shown = [name for name in NUMBERS if name in fields]
    for row, index in ((first, 0), (second, 1)):
        assert row.split(" | ")[1:-1] == [repr(NUMBERS[name][index]) for name in shown]
    assert header.count("|") == base.count("|") == len(shown) + 3
    for name in set(fields) - {"kind", "order", "task", *NUMBERS}:
        assert f" {name} " in lead


@pytest.mark.parametrize(
    ("method", "lead"),
    [
        (SlerpMerge(t=0.375), "Method `slerp`, t 0.375, stored as"),
        (ModelStockMerge(), "Method `model_stock`, stored as"),
        (EmrMerge(), "Method `emr`, the unified model, stored as"),
        (EmrMerge(task=1), "Method `emr`, the model of `code`, stored as"),
        (
            ObimMerge(**NUMBERS, order=(1, 0)),
            "Method `obim`, rounds 1, order code, math, stored as",
        ),
    ],
)
def test_what_is_no_number_per_parent_stands_in_the_first_line(
    method: Method, lead: str, campaign: Campaign, told: list[Trial]
) -> None:
    assert recipe_lines(card_of(campaign, told[1], method))[0].startswith(lead)


def test_statistics_are_named_by_their_content(campaign: Campaign, told: list[Trial]) -> None:
    lines = recipe_lines(card_of(campaign, told[1], ObimMerge(**NUMBERS), statistics=("s" * 64, "t" * 64)))
    assert lines[2].endswith("| sha256 of its content | sha256 of its statistics |")
    assert [line.rpartition("| ")[2] for line in lines[4:]] == [f"`{'s' * 64}` |", f"`{'t' * 64}` |", "– |"]


def test_rules_have_a_row_each(campaign: Campaign, told: list[Trial]) -> None:
    ties = TiesMerge(weights=(0.5, 0.25), densities=(0.5, 1.0))
    rules = (
        Rule(tensors=TensorFilter(contains=("self_attn", "weight"), layers=(0, 2)), method=ties),
        Rule(tensors=TensorFilter(layers=(5, 6)), method=LinearMerge(weights=(0.0, 1.0))),
    )
    card = card_of(campaign, told[1], TaskArithmeticMerge(weights=(0.0, 0.0)), rules=rules)
    lines = recipe_lines(card)
    assert lines[0].startswith("Method `ties`, stored as")  # the others copy
    assert lines[2] == "| parent | sha256 of its content |"
    numbers = "weights math 0.5, code 0.25; densities math 0.5, code 1.0"
    settings = "scale 1.0; normalize true; trim tensor; trim_by magnitude"
    assert lines[-5:] == [
        "| tensors | merge |",
        "|---|---|",
        f"| `self_attn` and `weight` in layers 0 to 1 | `ties`; {numbers}; {settings} |",
        "| layer 5 | a copy of `code` |",
        "| all others | a copy of `root` |",
    ]
    assert yaml.safe_load(card.split("---\n", 2)[1])["tags"] == ["mergefront", "merge", "merge-ties"]


def test_each_number_of_examples_has_its_own_command(store: Store, campaign: Campaign, told: list[Trial]) -> None:
    one, two = campaign.spec.objectives
    spec = campaign.spec.replace(objectives=(one.replace(num_fewshot=5), two))
    spec = spec.replace(evaluation=spec.evaluation.replace(apply_chat_template=True, batch_size=3))
    card = model_card(campaign.replace(spec=spec), store.trial(told[2].id))
    commands = [line for line in card.splitlines() if line.startswith("lm_eval")]
    assert [command.partition("--tasks ")[2] for command in commands] == [
        "sums --samples items.search.json --batch_size 3 --num_fewshot 5 --apply_chat_template",
        "text --samples items.search.json --batch_size 3 --apply_chat_template",
    ]


def test_the_merge_stands_beside_the_best_parent_and_the_soup(
    search, store: Store, campaign: Campaign, told: list[Trial]
) -> None:
    search.run(search.candidate(0.0, "parent", "code"), 0.5, 9.0, SearchSummary())
    soup = search.run(search.candidate(0.5, "soup", "uniform soup"), 0.625, 9.0, SearchSummary())
    store.add_holdout(search.lease, soup.id, search.evaluated(0.375, 9.0, "holdout"))
    section = model_card(campaign, store.trial(told[1].id), store.baselines(campaign.id)).split("\n## ")[3]
    assert section.splitlines() == [
        "Baselines",
        "",
        "Weighted mean over the objectives, higher is better.",
        "",
        "| model | search | holdout |",
        "|---|---|---|",
        "| this merge | 0.7500 ± 0.2500 | 0.6250 ± 0.2500 |",
        "| best parent, `code` | 0.5000 ± 0.2500 | – |",
        "| uniform soup | 0.6250 ± 0.2500 | 0.3750 ± 0.2500 |",
    ]


def test_of_what_the_greedy_soup_tried_the_best_is_shown(search, campaign: Campaign, told: list[Trial]) -> None:
    tried = {"greedy soup: math+code": 0.625, "greedy soup: math+law": 0.5, "uniform soup": 0.25}
    soups = [
        search.run(search.candidate(0.5, "soup", label), score, 9.0, SearchSummary()) for label, score in tried.items()
    ]
    section = model_card(campaign, told[1], soups).split("\n## ")[3]
    assert [line.split(" | ")[0] for line in section.splitlines()[6:]] == [
        "| this merge",
        "| greedy soup: math+code",
        "| uniform soup",
    ]


def test_without_a_scored_baseline_there_is_nothing_to_compare(campaign: Campaign, told: list[Trial]) -> None:
    unscored = told[0].replace(measurements=(), state="failed")
    assert model_card(campaign, told[1], [unscored]) == model_card(campaign, told[1])


def test_a_trial_without_scores_says_so(campaign: Campaign, told: list[Trial]) -> None:
    bare = told[1].replace(measurements=(), state="infeasible")
    card = model_card(campaign, bare)
    assert "None: the trial is infeasible." in card
    assert "lm_eval" not in card


def test_the_lists_of_items_are_those_that_were_scored(
    client: TestClient, store: Store, campaign: Campaign, told: list[Trial]
) -> None:
    files = card_files(campaign, store.trial(told[1].id))
    assert set(files) == {"README.md", "items.search.json", "items.holdout.json"}
    assert json.loads(files["items.search.json"]) == {"sums": [0, 2, 4, 6], "text": [0, 2, 4, 6]}
    assert json.loads(files["items.holdout.json"]) == {"sums": [1, 3, 5, 7], "text": [1, 3, 5, 7]}
    assert client.get(f"/v1/checkpoints/{told[1].id}/files/items.search.json").content == files["items.search.json"]


def test_names_cannot_break_the_page(campaign: Campaign, told: list[Trial]) -> None:
    spec = campaign.spec.replace(name="a\n---\n# b | `c`")
    card = model_card(campaign.replace(spec=spec), told[1])
    assert "# a --- # b \\| `c`: merge" in card


def test_the_card_is_served_with_the_checkpoint(
    client: TestClient, store: Store, campaign: Campaign, told: list[Trial]
) -> None:
    response = client.get(f"/v1/checkpoints/{told[1].id}/files/README.md")
    assert response.text == model_card(campaign, store.trial(told[1].id), store.baselines(campaign.id))
    assert "| best parent, `math` |" in response.text
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
