"""Campaigns over HTTP: launch, validate, look, step."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from api.campaign_views import progress
from api.launching import completes
from campaigns.campaign import ImportReport, SearchSummary
from campaigns.inventory import Worker
from campaigns.spec import parse_spec
from campaigns.states import CampaignStep, TrialState
from storage import Store

YAML = {"Content-Type": "application/yaml"}


def test_a_launched_campaign_is_created_and_found(client: TestClient, worker: Worker, spec, store: Store) -> None:
    response = client.post("/v1/campaigns", json=spec)
    assert response.status_code == 201
    campaign = response.json()
    assert response.headers["location"] == f"/v1/campaigns/{campaign['id']}"
    assert client.get(response.headers["location"]).json() == campaign
    assert campaign["state"] == "queued"
    assert [objective["direction"] for objective in campaign["spec"]["objectives"]] == ["maximize", "minimize"]
    assert [checkpoint["name"] for checkpoint in campaign["pool"]["checkpoints"]] == ["math", "code"]
    assert campaign["pool"]["architecture"] == "LlamaForCausalLM"
    assert campaign["progress"] == {
        "evaluations_done": 0,
        "evaluations_total": 6,
        "running": 0,
        "seconds_elapsed": 0.0,
        "seconds_left": None,
        "actor_utilization": None,
        "search_item_evaluations": 0,
    }
    assert [found.id for found in store.campaigns(limit=10)] == [campaign["id"]]


def test_yaml_launches_the_same_as_json(client: TestClient, worker: Worker, spec) -> None:
    from_json = client.post("/v1/campaigns", json=spec).json()
    from_yaml = client.post("/v1/campaigns", content=yaml.safe_dump(spec), headers=YAML)
    assert from_yaml.status_code == 201
    assert from_yaml.json()["spec"] == from_json["spec"]
    assert from_yaml.json()["pool"] == from_json["pool"]


def test_an_idempotency_key_launches_once(client: TestClient, worker: Worker, spec, store: Store) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/v1/campaigns", json=spec, headers=headers)
    again = client.post("/v1/campaigns", json=spec, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/campaigns", json=spec | {"seed": 1}, headers=headers)
    assert other.status_code == 409
    assert other.json()["title"] == "Conflict"
    assert len(store.campaigns(limit=10)) == 1


def test_a_repeated_request_needs_no_checkpoint_and_no_worker(
    client: TestClient, worker: Worker, spec, store: Store, make_checkpoint
) -> None:
    headers = {"Idempotency-Key": "once"}
    path = make_checkpoint("short-lived")
    spec["pool"]["checkpoints"][1]["path"] = str(path)
    first = client.post("/v1/campaigns", json=spec, headers=headers)
    assert first.status_code == 201, first.text
    path.rename(path.with_name("elsewhere"))
    store.publish_worker(worker.replace(seen_at=worker.seen_at - timedelta(minutes=30)))
    again = client.post("/v1/campaigns", json=spec, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"]
    other = client.post("/v1/campaigns", json=spec | {"seed": 1}, headers=headers)
    assert (other.status_code, other.json()["title"]) == (409, "Conflict")
    nonsense = client.post("/v1/campaigns", json=spec | {"seed": -1}, headers=headers)
    assert (nonsense.status_code, [error["field"] for error in nonsense.json()["errors"]]) == (422, ["seed"])
    assert client.post("/v1/campaigns", json=spec).status_code == 503
    assert len(store.campaigns(limit=10)) == 1


def test_a_spec_completes_one_that_leaves_directions_out(spec) -> None:
    asked = parse_spec(spec)
    sums, text = asked.objectives
    up, down = sums.replace(direction="maximize"), text.replace(direction="minimize")
    completed = asked.replace(objectives=(up, down))
    assert completes(completed, asked)
    assert completes(completed, completed)
    assert completes(completed, asked.replace(objectives=(up, text)))
    assert not completes(completed, asked.replace(objectives=(sums.replace(direction="minimize"), text)))
    assert not completes(completed, asked.replace(objectives=(sums,)))
    assert not completes(completed.replace(objectives=(up,)), asked)
    assert not completes(completed, asked.replace(objectives=(text, sums)))
    assert not completes(completed, asked.replace(name="another"))


def test_validate_reports_and_writes_nothing(client: TestClient, worker: Worker, spec, store: Store) -> None:
    response = client.post("/v1/campaigns/validate", json=spec)
    assert response.status_code == 200
    assert set(response.json()) == {"spec", "pool"}
    assert response.json()["spec"]["objectives"][0]["direction"] == "maximize"
    assert response.json()["pool"]["parameter_count"] > 10_000
    assert store.campaigns(limit=1) == []
    launched = client.post("/v1/campaigns", json=spec).json()
    assert response.json() == {"spec": launched["spec"], "pool": launched["pool"]}


def test_campaigns_are_paged_from_the_newest(client: TestClient, campaign_id: str, store: Store) -> None:
    campaign = store.campaign(campaign_id)
    made = [campaign_id] + [store.create_campaign(campaign.spec, campaign.pool).id for _ in range(4)]
    pages = []
    query = "?limit=2"
    while query is not None:
        page = client.get(f"/v1/campaigns{query}").json()
        pages.append([item["id"] for item in page["items"]])
        query = page["next"] and f"?limit=2&before={page['next']}"
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]


def test_no_page_is_longer_than_the_operator_allows(client: TestClient, campaign_id: str, store: Store) -> None:
    campaign = store.campaign(campaign_id)
    for _ in range(20):
        store.create_campaign(campaign.spec, campaign.pool)
    page = client.get("/v1/campaigns?limit=1000000").json()
    assert len(page["items"]) == 20
    assert page["next"] == page["items"][-1]["id"]


def test_steps_move_the_campaign(client: TestClient, campaign_id: str, store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    assert client.post(f"{path}/pause").json()["state"] == "paused"
    assert client.post(f"{path}/resume").json()["state"] == "running"
    assert client.post(f"{path}/stop").json()["state"] == "stopping"
    cancelled = client.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert client.get(path).json() == cancelled.json()


@pytest.mark.parametrize("step", ["pause", "resume", "stop", "cancel"])
def test_an_illegal_step_is_a_conflict(client: TestClient, campaign_id: str, store: Store, step: str) -> None:
    store.step(campaign_id, CampaignStep.CANCEL)
    response = client.post(f"/v1/campaigns/{campaign_id}/{step}")
    assert response.status_code == 409
    assert response.json()["title"] == "Illegal transition"
    assert response.json()["detail"].startswith(f"a cancelled campaign cannot {step}")


@pytest.mark.parametrize("step", ["start", "finish", "fail"])
def test_steps_of_the_worker_are_no_routes(client: TestClient, campaign_id: str, step: str) -> None:
    assert client.post(f"/v1/campaigns/{campaign_id}/{step}").status_code == 404


def test_progress_counts_trials_and_busy_seconds(client: TestClient, campaign_id: str, search, store: Store) -> None:
    search.three_trials()
    running = store.ask(search.lease, search.candidate(0.1), {})
    store.start(search.lease, running.id, "actor-1")
    found = client.get(f"/v1/campaigns/{campaign_id}").json()["progress"]
    assert (found["evaluations_done"], found["evaluations_total"], found["running"]) == (3, 6, 1)
    assert found["search_item_evaluations"] == 3 * (4 + 4)
    assert found["seconds_left"] > 0
    assert 0 < found["actor_utilization"] <= 1


def test_progress_is_linear_in_time(campaign_id: str, store: Store) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    base = store.campaign(campaign_id).replace(state="running", started_at=start)
    counts = {TrialState.COMPLETE: 1, TrialState.PRUNED: 1, TrialState.RUNNING: 2, TrialState.QUEUED: 1}
    running = base.replace(trial_counts=counts)
    found = progress(running, busy_seconds=15.0, item_evaluations=7, now=start + timedelta(seconds=10))
    assert (found.evaluations_done, found.running, found.seconds_elapsed) == (2, 2, 10.0)
    assert found.seconds_left == 10 / 2 * 4
    assert found.actor_utilization == 15.0 / (2 * 10.0)
    assert found.search_item_evaluations == 7
    assert progress(base, 0.0, 0, start + timedelta(seconds=10)).seconds_left is None
    ended = running.replace(
        state="complete",
        search_finished_at=start + timedelta(seconds=20),
        finished_at=start + timedelta(seconds=30),
    )
    after = progress(ended, busy_seconds=38.0, item_evaluations=7, now=start + timedelta(hours=1))
    assert (after.seconds_elapsed, after.seconds_left, after.actor_utilization) == (30.0, None, 38 / 40)


def test_trials_are_paged_by_number(client: TestClient, campaign_id: str, search, store: Store) -> None:
    store.add_trials(search.lease, [search.candidate(i / 50) for i in range(45)])
    pages = []
    after = -1
    while after is not None:
        page = client.get(f"/v1/campaigns/{campaign_id}/trials?limit=100&after={after}").json()
        pages.append([item["number"] for item in page["items"]])
        after = page["next"]
    assert pages == [list(range(20)), list(range(20, 40)), list(range(40, 45))]


def test_one_trial_has_its_outcomes_and_its_recipe(client: TestClient, campaign_id: str, search) -> None:
    told = search.three_trials()[1]
    listed = client.get(f"/v1/campaigns/{campaign_id}/trials").json()["items"][1]
    found = client.get(f"/v1/trials/{told.id}").json()
    assert [m["outcomes"] for m in listed["measurements"]] == [[]] * 4
    assert found["measurements"][0]["outcomes"] == [1, 0, 1, 0]
    assert [(m["objective"], m["split"], m["value"]) for m in found["measurements"]] == [
        ("sums/acc", "search", 0.75),
        ("text/word_perplexity", "search", 8.0),
        ("sums/acc", "holdout", 0.625),
        ("text/word_perplexity", "holdout", 8.5),
    ]
    assert client.get(f"/v1/trials/{told.id}/recipe").json() == found["candidate"]["recipe"]


def test_checkpoints_that_were_read_before_are_not_read_again(
    client: TestClient, worker: Worker, spec, settings, zoo: Path
) -> None:
    first = client.post("/v1/campaigns/validate", json=spec).json()
    cache = settings.home / "cache"
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert kept
    assert client.post("/v1/campaigns/validate", json=spec).json() == first
    assert kept == {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_trials_say_which_constraints_they_break_against_the_best_parent(
    client: TestClient, worker: Worker, spec, search_of
) -> None:
    spec["constraints"] = [
        {"objective": "text/word_perplexity", "at_most": 8.5},
        {"objective": "sums/acc", "max_loss_to_best_parent": 0.125},
    ]
    launched = client.post("/v1/campaigns", json=spec).json()
    search = search_of(launched["id"])
    told = [search.run(search.candidate(0.25), 0.25, 8.0, SearchSummary())]
    told.append(search.run(search.candidate(1.0, "parent", "math"), 0.5, 9.0, SearchSummary()))
    told.append(search.run(search.candidate(0.5), 0.375, 4.0, SearchSummary()))
    search.store.ask(search.lease, search.candidate(0.75), {})
    items = client.get(f"/v1/campaigns/{launched['id']}/trials").json()["items"]
    assert [item["violations"] for item in items] == [[0, 0.125], [0.5, 0], [0, 0], None]
    assert [item["feasible"] for item in items] == [False, False, True, None]
    one = client.get(f"/v1/trials/{told[0].id}").json()
    assert (one["violations"], one["feasible"]) == ([0, 0.125], False)


def test_progress_never_passes_the_end(client: TestClient, campaign_id: str, search) -> None:
    """Averages that the greedy soup tries come on top of the 3 candidates, 2 parents and the uniform soup."""
    for number in range(7):
        search.run(search.candidate(number / 10, "soup", f"greedy soup: {number}"), 0.5, 8.0, SearchSummary())
    found = client.get(f"/v1/campaigns/{campaign_id}").json()["progress"]
    assert (found["evaluations_done"], found["evaluations_total"]) == (7, 7)


def test_progress_counts_warm_starts_and_imports(
    client: TestClient, worker: Worker, spec, store: Store, zoo: Path, search_of
) -> None:
    first = client.post("/v1/campaigns", json=spec).json()["id"]
    store.step(first, CampaignStep.CANCEL)
    spec["pool"]["base"] = {"name": "base", "path": str(zoo / "base")}
    spec["baselines"] = {"task_arithmetic": True}
    spec["warm_start"] = {"points": [{"weight.math": 1, "weight.code": 0.5}], "import_from": [first]}
    launched = client.post("/v1/campaigns", json=spec)
    assert launched.status_code == 201, launched.text
    assert launched.json()["progress"]["evaluations_total"] == 3 + 3 + 1 + 1
    search = search_of(launched.json()["id"])
    report = ImportReport(trials=4, baselines=1, known=0, other_sources=0, other_protocol=0, out_of_reach=0)
    store.import_results(search.lease, [], {}, SearchSummary(imports=report))
    found = client.get(f"/v1/campaigns/{launched.json()['id']}").json()
    assert found["progress"]["evaluations_total"] == 3 + 3 + 1 + 1 + 4
    assert found["summary"]["imports"] == report.model_dump()
