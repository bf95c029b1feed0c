"""Statistics of a stored front over HTTP, recomputed from the outcomes that the store gives back."""

import json
import math

import httpx
import numpy as np
import pytest
from scipy.stats import binomtest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from campaigns.campaign import SearchSummary
from campaigns.objectives import Split
from campaigns.trial import Candidate, Evaluated, Trial
from fronts import statistics
from mergefront.cli import app
from storage import Store

ITEMS = 40


def scored(search, split: Split, right: float, nats: float, seed: int) -> Evaluated:
    """A share of right answers, and nats per word; documents differ in length, so their mean is not the metric."""
    easy = np.random.default_rng(0).permutation(ITEMS) / ITEMS
    noise = np.random.default_rng((seed, split == "search"))
    answers = (easy + 0.1 * noise.normal(size=ITEMS) < right).astype(float)
    documents = nats + 0.1 * noise.normal(size=ITEMS)
    template = search.evaluated(float(answers.mean()), math.exp(nats), split)
    ids = tuple(range(0, 2 * ITEMS, 2) if split == "search" else range(1, 2 * ITEMS, 2))
    accuracy, perplexity = template.measurements
    own = {"items": ITEMS, "item_ids": ids}
    return template.replace(
        measurements=(
            accuracy.replace(**own, outcomes=tuple(answers), truncation_rate=seed / 10, output_tokens=20.0),
            perplexity.replace(**own, outcomes=tuple(documents)),
        )
    )


@pytest.fixture
def told(search, store: Store) -> list[Trial]:
    """Two parents, a soup, a merge behind the front, and a front of a parent and two merges."""
    casting: list[tuple[Candidate, float, float]] = [
        (search.candidate(1.0, "parent", "math"), 0.5, 2.0),
        (search.candidate(0.0, "parent", "code"), 0.3, 1.0),
        (search.candidate(0.5, "soup", "uniform soup"), 0.4, 1.6),
        (search.candidate(0.4), 0.45, 1.7),
        (search.candidate(0.7), 0.9, 1.5),
        (search.candidate(0.2), 0.7, 1.2),
    ]
    front = tuple(f"{search.lease.campaign_id}-{number}" for number in (1, 4, 5))
    for number, (candidate, right, nats) in enumerate(casting):
        trial = store.ask(search.lease, candidate, {})
        store.start(search.lease, trial.id, "actor-0")
        evaluated = scored(search, "search", right, nats, seed=number)
        store.tell(search.lease, trial.id, evaluated, {}, SearchSummary(front=front if number == 5 else ()))
    return store.trials(search.lease.campaign_id)


def outcomes(client: TestClient, trial_id: str, objective: str) -> np.ndarray:
    measurements = client.get(f"/v1/trials/{trial_id}").json()["measurements"]
    [found] = [m for m in measurements if (m["objective"], m["split"]) == (objective, "search")]
    return np.array(found["outcomes"])


def test_the_tests_are_those_of_the_stored_outcomes(client: TestClient, campaign_id: str, told: list[Trial]) -> None:
    found = client.get(f"/v1/campaigns/{campaign_id}/front/statistics").json()
    assert found["split"] == "search"  # nothing has been scored on the holdout items
    assert [member["trial_id"] for member in found["members"]] == [told[n].id for n in (1, 4, 5)]
    member = found["members"][1]
    assert [c["label"] for c in member["comparisons"]] == ["math", "code", "uniform soup"]
    for comparison in member["comparisons"]:
        ours, theirs = (outcomes(client, i, "sums/acc") for i in (member["trial_id"], comparison["trial_id"]))
        difference = comparison["differences"]["sums/acc"]
        wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
        assert (difference["test"], difference["tested"], difference["items"]) == ("mcnemar", "value", ITEMS)
        assert (difference["wins"], difference["losses"]) == (wins, losses)
        assert difference["p_value"] == pytest.approx(binomtest(wins, wins + losses).pvalue)
        ours, theirs = (
            outcomes(client, i, "text/word_perplexity") for i in (member["trial_id"], comparison["trial_id"])
        )
        text = comparison["differences"]["text/word_perplexity"]
        assert (text["test"], text["tested"]) == ("bootstrap", "item_mean")
        assert text["gain"] == pytest.approx((theirs - ours).mean())
        assert text["standard_error"] == pytest.approx((theirs - ours).std(ddof=1) / math.sqrt(ITEMS))
        assert text["interval"][0] < text["gain"] < text["interval"][1]
        assert comparison["differences"]["macro_average"]["gain"] == pytest.approx(difference["gain"])
    assert "sums/acc" in member["better_than_every_parent"]
    assert "text/word_perplexity" not in member["better_than_every_parent"]


def test_members_and_their_neighbours_have_probabilities(
    client: TestClient, campaign_id: str, told: list[Trial]
) -> None:
    found = client.get(f"/v1/campaigns/{campaign_id}/front/statistics").json()
    assert all(member["non_dominated"] > 0.9 for member in found["members"])
    near = {trial["trial_id"]: trial["non_dominated"] for trial in found["near_front"]}
    assert set(near) == {told[n].id for n in (0, 2, 3)}
    assert max(near.values()) < 0.1
    assert found["left_out"] == {}


def test_warnings_and_recommendations(client: TestClient, campaign_id: str, told: list[Trial]) -> None:
    """The parents' outputs are cut in 0 and 10% of the cases, those of the merges in 40 and 50%."""
    found = client.get(f"/v1/campaigns/{campaign_id}/front/statistics?prefer=text/word_perplexity:1").json()
    assert [len(member["warnings"]) for member in found["members"]] == [0, 1, 1]
    [warning] = found["members"][1]["warnings"]
    assert warning == "sums: 40% of the outputs end at the length limit, 10% at most among the parents"
    macro, prefer = found["recommendations"]["macro"], found["recommendations"]["prefer"]
    assert macro["trial_id"] == told[4].id
    assert macro["reason"].endswith(f"beware: {warning}")
    assert "over the best parent math" in macro["reason"]
    assert ": significant" in macro["reason"]
    assert prefer["trial_id"] == told[1].id


def test_the_holdout_has_gaps(client: TestClient, campaign_id: str, search, told: list[Trial], store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}/front/statistics"
    holdout = {0: (0.5, 2.0), 1: (0.3, 1.0), 2: (0.4, 1.6), 4: (0.7, 1.5)}
    for number, (right, nats) in holdout.items():
        evaluated = scored(search, "holdout", right, nats, seed=number)
        store.add_holdout(search.lease, told[number].id, evaluated)
    assert client.get(path).json()["split"] == "search"
    found = client.get(path, params={"split": "holdout"}).json()
    assert found["left_out"] == {told[5].id: "not scored on the holdout items of every objective"}
    assert found["members"][2]["non_dominated"] is None
    gap = found["members"][1]["gaps"]["sums/acc"]
    assert gap["optimism"] == pytest.approx(gap["search"]["value"] - gap["holdout"]["value"])
    assert gap["optimism"] == found["optimism"]["sums/acc"]["front"] > 0.1  # of the one merge with both
    assert abs(found["optimism"]["sums/acc"]["baselines"]) < 0.1
    store.add_holdout(search.lease, told[5].id, scored(search, "holdout", 0.7, 1.2, seed=5))
    found = client.get(path).json()
    assert (found["split"], found["left_out"]) == ("holdout", {})
    assert "on the holdout items" in found["recommendations"]["macro"]["reason"]


def test_before_the_first_tell_there_is_nothing(client: TestClient, campaign_id: str) -> None:
    found = client.get(f"/v1/campaigns/{campaign_id}/front/statistics")
    assert found.status_code == 200
    assert (found.json()["members"], found.json()["recommendations"]) == ([], {})


@pytest.mark.parametrize(
    ("query", "status"), [("split=both", 422), ("prefer=nothing:1", 422), ("split=search", 200), ("split=holdout", 200)]
)
def test_what_may_be_asked(client: TestClient, campaign_id: str, query: str, status: int) -> None:
    response = client.get(f"/v1/campaigns/{campaign_id}/front/statistics?{query}")
    assert response.status_code == status
    if status == 422:
        assert response.headers["content-type"] == "application/problem+json"
        assert [error["field"] for error in response.json()["errors"]] == [query.partition("=")[0]]


def test_an_unknown_campaign_is_not_found(client: TestClient) -> None:
    assert client.get("/v1/campaigns/none/front/statistics").status_code == 404


def test_the_command_line_shows_them(served: httpx.Client, campaign_id: str, search, told: list[Trial]) -> None:
    found = served.get(f"/v1/campaigns/{campaign_id}/front/statistics").json()
    command = ["front", campaign_id, "--url", str(served.base_url)]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    against_code, against_math = (
        {c["label"]: c["differences"]["macro_average"] for c in found["members"][1]["comparisons"]}[label]
        for label in ("code", "math")
    )
    assert against_math["gain"] < against_code["gain"]
    assert f"{against_math['gain']:+.3f} math" in shown.output
    assert f"[{against_math['interval'][0]:+.3f}, {against_math['interval'][1]:+.3f}]" in shown.output
    text = " ".join(shown.output.split())
    assert f"Take {told[4].id}: {found['recommendations']['macro']['reason']}." in text
    assert f"{told[5].id}: {found['members'][2]['warnings'][0]}." in text
    documents = CliRunner().invoke(app, [*command, "--split", "search", "--json"], env={"COLUMNS": "200"})
    assert json.loads(documents.output)["statistics"] == found
    assert CliRunner().invoke(app, [*command, "--split", "both"]).exit_code == 2


def test_the_command_line_tells_of_members_that_were_not_compared(
    served: httpx.Client, campaign_id: str, search, told: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_MEMBERS", 2)
    shown = CliRunner().invoke(app, ["front", campaign_id, "--url", str(served.base_url)], env={"COLUMNS": "200"})
    assert "The second table has 2 of the 3 on the front." in shown.output
