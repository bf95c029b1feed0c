"""What a trial that a race stopped is over HTTP: shown with its estimates, its merge there, never on a front."""

from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from api.model_card import model_card
from campaigns.trial import Trial
from mergefront.client import Client
from mergefront.watching import look
from storage import Store


@pytest.fixture
def spec(spec: dict) -> dict:
    return spec | {"evaluation": {"search_items": 4, "racing": {"rungs": [0.5]}}}


@pytest.fixture
def told(search) -> list[Trial]:
    return search.three_trials()


@pytest.fixture
def pruned(search, told: list[Trial]) -> Trial:
    """By its estimates, it would dominate the whole front."""
    trial: Trial = search.prune(search.candidate(0.9))
    return trial


def test_a_trial_is_shown_with_reason_estimates_and_items(client: TestClient, campaign_id: str, pruned: Trial) -> None:
    found = client.get(f"/v1/trials/{pruned.id}").json()
    assert (found["state"], found["told"], found["reason"]) == (
        "pruned",
        3,
        "chance 0.04 to be on the front, below 0.1",
    )
    assert [(m["value"], m["estimate"], m["items"], m["item_ids"]) for m in found["measurements"]] == [
        (1.0, 0.875, 2, [0, 4]),
        (2.0, 2.5, 2, [0, 4]),
    ]
    assert (found["feasible"], found["violations"]) == (None, None)
    *complete, listed = client.get(f"/v1/campaigns/{campaign_id}/trials").json()["items"]
    assert listed == found | {"measurements": [m | {"outcomes": [], "item_ids": []} for m in found["measurements"]]}
    assert not any("estimate" in m for trial in complete for m in trial["measurements"])


def test_the_progress_counts_it_as_done_with_its_items(client: TestClient, campaign_id: str, pruned: Trial) -> None:
    found = client.get(f"/v1/campaigns/{campaign_id}").json()
    assert found["trial_counts"] == {"complete": 3, "pruned": 1}
    assert found["progress"]["evaluations_done"] == 4
    assert found["progress"]["search_item_evaluations"] == 3 * (4 + 4) + (2 + 2)
    [listed] = client.get("/v1/campaigns").json()["items"]
    assert listed["progress"]["search_item_evaluations"] == 28
    assert listed["spec"]["evaluation"]["racing"] == {"rungs": [0.5], "tolerance": 0.15, "anchors": False}


@pytest.mark.parametrize("query", ["", "?by=knee", "?prefer=sums/acc:1", "?prefer=text/word_perplexity:1"])
def test_it_is_never_the_best(client: TestClient, campaign_id: str, search, told: list[Trial], query: str) -> None:
    before = client.get(f"/v1/campaigns/{campaign_id}/best{query}").json()
    search.prune(search.candidate(0.9))
    assert client.get(f"/v1/campaigns/{campaign_id}/best{query}").json() == before


@pytest.mark.parametrize("route", ["front", "front/statistics", "front/statistics?split=search", "understanding"])
def test_no_statement_about_the_front_uses_it(
    client: TestClient, campaign_id: str, search, told: list[Trial], route: str
) -> None:
    for weight in (0.2, 0.3, 0.4, 0.6):
        search.run(search.candidate(weight), weight, 9.0 - weight, search.store.campaign(campaign_id).summary)
    before = client.get(f"/v1/campaigns/{campaign_id}/{route}")
    assert before.status_code == 200
    search.prune(search.candidate(0.9))
    assert client.get(f"/v1/campaigns/{campaign_id}/{route}").json() == before.json()


def test_its_place_in_the_hypervolumes_history_changes_nothing(
    client: TestClient, campaign_id: str, pruned: Trial
) -> None:
    *_, last, added = client.get(f"/v1/campaigns/{campaign_id}/hypervolume").json()["history"]
    assert (added["told"], added["trial_id"]) == (last["told"] + 1, pruned.id)
    assert added["hypervolume"] == last["hypervolume"] == 1.5


def test_its_end_is_an_event(client: TestClient, campaign_id: str, store: Store, search, pruned: Trial) -> None:
    store.step(campaign_id, "cancel")
    lines = client.get(f"/v1/campaigns/{campaign_id}/events").text
    assert "event: trial.pruned" in lines
    assert '"estimates":{"sums/acc":0.875,"text/word_perplexity":2.5}' in lines


def test_its_recipe_and_checkpoint_are_there_like_any_trials(
    served: httpx.Client, campaign_id: str, search, tmp_path: Path
) -> None:
    search.three_trials()
    trial = search.prune(search.candidate(0.9))
    with Client(str(served.base_url)) as client:
        assert client.recipe(trial.id)["method"]["weights"] == [0.9, pytest.approx(0.1)]
        directory = client.pull(trial.id, tmp_path / "pruned")
        assert (directory / "model.safetensors").stat().st_size > 10_000
        card = (directory / "README.md").read_text()
        assert "A race stopped this trial after a part of them" in card
        campaign = client.campaign(campaign_id)
        assert str(look(campaign, client.front(campaign_id))).startswith("search 4/6 1 pruned · hypervolume 1.5")


def test_the_card_tells_parts_and_estimates_from_scores(
    store: Store, campaign_id: str, told: list[Trial], pruned: Trial
) -> None:
    campaign = store.campaign(campaign_id)
    card = model_card(campaign, store.trial(pruned.id), store.baselines(campaign_id))
    assert "| `sums/acc` | higher | 1.0000 ± 0.2500 (2) ≈ 0.8750 | – |" in card.splitlines()
    assert "| `text/word_perplexity` | lower | 2.0000 (2) ≈ 2.5000 | – |" in card.splitlines()
    assert "| this merge | – | – |" in card.splitlines()
    complete = model_card(campaign, store.trial(told[1].id), store.baselines(campaign_id))
    assert "≈" not in complete and "A race stopped" not in complete


def test_the_card_says_that_a_raced_score_came_of_several_runs(
    store: Store, campaign_id: str, told: list[Trial]
) -> None:
    campaign = store.campaign(campaign_id)
    evaluation = campaign.spec.evaluation.replace(racing=None)
    whole = campaign.replace(spec=campaign.spec.replace(evaluation=evaluation))
    baseline, candidate = store.trial(told[0].id), store.trial(told[1].id)
    assert "answered in several runs, a part of them in each" in model_card(campaign, candidate)
    assert "answered in several runs, a part of them in each" not in model_card(campaign, baseline)
    assert "answered in several runs, a part of them in each" not in model_card(whole, candidate)
