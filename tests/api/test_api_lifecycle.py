"""A campaign's life over HTTP: budgets, forks, queued points, deletion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient
from typer.testing import CliRunner

from api.forking import merge_patch
from campaigns.campaign import SearchSummary
from campaigns.inventory import Worker
from campaigns.states import CampaignStep
from campaigns.trial import Trial
from mergefront import Client
from mergefront.cli import app
from storage import Store

PROBLEM = "application/problem+json"
POINT = {"weight.math": 0.75, "weight.code": 0.25}


def fields(response: Any) -> list[str]:
    assert response.headers["content-type"] == PROBLEM, response.text
    return [error["field"] for error in response.json()["errors"]]


def kinds(store: Store, campaign_id: str) -> list[str]:
    return [event.kind for event in store.events(campaign_id)]


@pytest.mark.parametrize(
    ("budget", "field"),
    [
        ({"evaluations": 3, "item_evaluations": 0}, "budget.item_evaluations"),
        ({"evaluations": 3, "seconds": 0}, "budget.seconds"),
        ({"evaluations": 3, "gpu_seconds": -1}, "budget.gpu_seconds"),
        ({"evaluations": 3, "gpu_seconds": 60}, "budget.gpu_seconds"),
        ({"seconds": 60}, "budget.evaluations"),
    ],
)
def test_a_budget_that_cannot_be_is_told_by_field(
    client: TestClient, worker: Worker, spec: dict[str, Any], budget: dict[str, Any], field: str
) -> None:
    response = client.post("/v1/campaigns", json=spec | {"budget": budget})
    assert (response.status_code, fields(response)) == (422, [field])


def test_every_budget_is_in_the_spec_as_launched(client: TestClient, worker: Worker, spec: dict[str, Any]) -> None:
    budget = {"evaluations": 3, "item_evaluations": 600, "seconds": 3600.0, "gpu_seconds": 1800.0}
    resources = {"actors": 2, "gpus_per_actor": 0.5}
    launched = client.post("/v1/campaigns", json=spec | {"budget": budget, "resources": resources})
    assert (launched.status_code, launched.json()["spec"]["budget"]) == (201, budget)


def test_a_fork_is_a_campaign_with_the_spec_changed_that_imports_the_old_one(
    client: TestClient, campaign_id: str, store: Store
) -> None:
    before = client.get(f"/v1/campaigns/{campaign_id}")
    patch = {"budget": {"evaluations": 200}, "notes": "more of it"}
    response = client.post(f"/v1/campaigns/{campaign_id}/fork", json=patch)
    assert response.status_code == 201, response.text
    fork, old = response.json(), before.json()
    assert response.headers["location"] == f"/v1/campaigns/{fork['id']}"
    assert response.headers["etag"] == client.get(response.headers["location"]).headers["etag"]
    changed = old["spec"] | {"warm_start": {"points": [], "import_from": [campaign_id]}, "notes": "more of it"}
    changed["budget"] = old["spec"]["budget"] | {"evaluations": 200}
    assert fork["spec"] == changed
    assert (fork["state"], fork["forked_from"], old["forked_from"]) == ("queued", campaign_id, None)
    assert fork["pool"] == old["pool"]
    assert kinds(store, campaign_id) == ["campaign.created", "campaign.forked"]
    assert kinds(store, fork["id"]) == ["campaign.created", "campaign.forked"]
    for event in (store.events(campaign_id)[-1], store.events(fork["id"])[-1]):
        assert (event.data["forked_from"], event.data["forked_into"]) == (campaign_id, fork["id"])
        assert event.data["fields"] == ["budget", "notes"]
    assert client.get(f"/v1/campaigns/{campaign_id}").headers["etag"] == before.headers["etag"]


def test_a_fork_has_the_name_and_notes_that_the_old_one_has_now(client: TestClient, campaign_id: str) -> None:
    client.patch(f"/v1/campaigns/{campaign_id}", json={"name": "renamed"})
    assert client.post(f"/v1/campaigns/{campaign_id}/fork", json={}).json()["spec"]["name"] == "renamed"


def test_a_fork_of_a_fork_imports_both(client: TestClient, campaign_id: str) -> None:
    fork = client.post(f"/v1/campaigns/{campaign_id}/fork", json={}).json()["id"]
    second = client.post(f"/v1/campaigns/{fork}/fork", json={"strategy": {"kind": "nsga2", "population_size": 8}})
    assert second.status_code == 201, second.text
    assert second.json()["spec"]["warm_start"]["import_from"] == [campaign_id, fork]
    assert second.json()["spec"]["strategy"]["kind"] == "nsga2"
    assert second.json()["forked_from"] == fork


def test_a_fork_leaves_out_what_its_parent_imported_from_and_is_gone(
    client: TestClient, campaign_id: str, store: Store
) -> None:
    fork = client.post(f"/v1/campaigns/{campaign_id}/fork", json={}).json()["id"]
    store.step(campaign_id, CampaignStep.CANCEL)
    store.delete_campaign(campaign_id)
    second = client.post(f"/v1/campaigns/{fork}/fork", json={})
    assert second.json()["spec"]["warm_start"]["import_from"] == [fork]
    asked = {"warm_start": {"import_from": [campaign_id]}}
    refused = client.post(f"/v1/campaigns/{fork}/fork", json=asked)
    assert (refused.status_code, fields(refused)) == (422, ["warm_start.import_from.0"])
    assert "has been deleted" in refused.text


def test_a_key_forks_once(client: TestClient, campaign_id: str, store: Store, spec: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "once"}
    path = f"/v1/campaigns/{campaign_id}/fork"
    first = client.post(path, json={"seed": 1}, headers=headers)
    client.patch(f"/v1/campaigns/{campaign_id}", json={"name": "renamed in between"})
    again = client.post(path, json={"seed": 1}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert client.post(path, json={"seed": 2}, headers=headers).status_code == 409
    other = client.post(f"/v1/campaigns/{first.json()['id']}/fork", json={"seed": 1}, headers=headers)
    assert other.status_code == 409
    assert client.post("/v1/campaigns", json=spec, headers=headers).status_code == 409
    client.post("/v1/campaigns", json=spec, headers={"Idempotency-Key": "launched"})
    assert client.post(path, json={}, headers={"Idempotency-Key": "launched"}).status_code == 409
    assert len(store.campaigns(limit=10)) == 3
    assert kinds(store, campaign_id).count("campaign.forked") == 1


def test_a_repeated_fork_of_a_deleted_campaign_is_answered_with_the_first(
    client: TestClient, campaign_id: str, store: Store
) -> None:
    headers, path = {"Idempotency-Key": "once"}, f"/v1/campaigns/{campaign_id}/fork"
    first = client.post(path, json={}, headers=headers)
    store.step(campaign_id, CampaignStep.CANCEL)
    store.delete_campaign(campaign_id)
    assert client.post(path, json={}, headers=headers).json()["id"] == first.json()["id"]
    assert client.post(path, json={}).status_code == 410


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"budget": {"evaluations": 0}}, "budget.evaluations"),
        ({"budget": None}, "budget"),
        ({"colour": "red"}, "colour"),
        ({"objectives": [{"task": "sums", "metric": "speed"}]}, "objectives.0.metric"),
        ({"warm_start": {"import_from": ["nosuchid"]}}, "warm_start.import_from.0"),
        ({"warm_start": {"points": [{"weight.math": 2}]}}, "warm_start.points.0.weight.math"),
        ({"pool": {"checkpoints": [{"name": "a", "path": "/etc"}, {"name": "b", "path": "/etc"}]}}, None),
        ({"space": 5}, "space"),
        ({"baselines": {"parents": False, "uniform_soup": False}}, "warm_start.import_from"),
    ],
)
def test_a_patch_that_makes_no_campaign_is_told_as_by_a_launch(
    client: TestClient, campaign_id: str, store: Store, patch: dict[str, Any], field: str | None
) -> None:
    response = client.post(f"/v1/campaigns/{campaign_id}/fork", json=patch)
    assert response.status_code == 422, response.text
    assert (field or "pool.checkpoints.0.path") in fields(response)
    assert len(store.campaigns(limit=10)) == 1
    assert kinds(store, campaign_id) == ["campaign.created"]


def test_what_is_no_patch_is_no_error_of_the_service(client: TestClient, campaign_id: str) -> None:
    path = f"/v1/campaigns/{campaign_id}/fork"
    assert client.post(path, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(path, json=[1]).status_code == 422
    assert client.post(path, content="a: 1", headers={"Content-Type": "application/yaml"}).status_code == 415
    deep = "".join('{"space":' for _ in range(300)) + "1" + "}" * 300
    assert client.post(path, content=deep, headers={"Content-Type": "application/json"}).status_code == 422
    nan = client.post(path, content='{"budget": {"seconds": NaN}}', headers={"Content-Type": "application/json"})
    assert (nan.status_code, fields(nan)) == (422, ["budget.seconds"])
    assert client.post("/v1/campaigns/nosuchid/fork", json={}).status_code == 404


def test_a_fork_needs_the_files_as_they_were(
    client: TestClient, worker: Worker, spec: dict[str, Any], make_checkpoint: Callable[..., Path], store: Store
) -> None:
    path = make_checkpoint("short-lived")
    spec["pool"]["checkpoints"][1]["path"] = str(path)
    campaign_id = client.post("/v1/campaigns", json=spec).json()["id"]
    config = path / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "temperature": 0.5}))
    weights = path / "config.json"
    weights.write_text(json.dumps({**json.loads(weights.read_text()), "rope_theta": 20000.0}))
    response = client.post(f"/v1/campaigns/{campaign_id}/fork", json={})
    assert (response.status_code, fields(response)) == (422, ["pool.checkpoints.1.path"])
    assert "changed since the campaign was launched" in response.text
    path.rename(path.with_name("elsewhere"))
    assert client.post(f"/v1/campaigns/{campaign_id}/fork", json={}).status_code == 422
    moved = [spec["pool"]["checkpoints"][0], {"name": "code", "path": str(path.with_name("elsewhere"))}]
    asked_for = client.post(f"/v1/campaigns/{campaign_id}/fork", json={"pool": {"checkpoints": moved}})
    assert asked_for.status_code == 201, asked_for.text


def test_a_merge_patch_is_that_of_the_standard_but_for_other_kinds() -> None:
    target = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 3}
    assert merge_patch(target, {"a": {"b": 5, "c": None}, "d": [3], "f": {"g": None, "h": 1}}) == {
        "a": {"b": 5},
        "d": [3],
        "e": 3,
        "f": {"h": 1},
    }
    assert target == {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 3}
    space = {"space": {"kind": "linear", "normalize": "sum"}}
    assert merge_patch(space, {"space": {"normalize": "none"}})["space"] == {"kind": "linear", "normalize": "none"}
    assert merge_patch(space, {"space": {"kind": "ties", "k": 1}})["space"] == {"kind": "ties", "k": 1}


def queue(client: TestClient, campaign_id: str, *points: Any) -> Any:
    return client.post(f"/v1/campaigns/{campaign_id}/points", json={"points": list(points)})


def test_points_become_queued_trials_after_the_baselines(client: TestClient, campaign_id: str, store: Store) -> None:
    response = queue(client, campaign_id, POINT, {"weight.math": 0.25, "weight.code": 0.75})
    assert response.status_code == 201, response.text
    assert response.json()["created"] == 2
    shown = [
        (t["number"], t["state"], t["candidate"]["kind"], t["candidate"]["label"]) for t in response.json()["items"]
    ]
    assert shown == [(3, "queued", "point", "point 1"), (4, "queued", "point", "point 2")]
    assert response.json()["items"][0]["candidate"]["parameters"] == POINT
    assert [t.candidate.kind for t in store.trials(campaign_id)] == ["parent", "parent", "soup", "point", "point"]
    campaign = client.get(f"/v1/campaigns/{campaign_id}").json()
    assert (campaign["points_queued"], campaign["progress"]["evaluations_total"]) == (2, 3 + 3 + 2)
    event = store.events(campaign_id)[-1]
    assert (event.kind, event.data) == ("campaign.points_queued", {"numbers": [3, 4]})
    assert [e.trial_id for e in store.events(campaign_id) if e.kind == "trial.queued"][-1] == f"{campaign_id}-4"


def test_labels_are_numbered_on_from_the_points_of_the_spec(
    client: TestClient, worker: Worker, spec: dict[str, Any]
) -> None:
    campaign_id = client.post("/v1/campaigns", json=spec | {"warm_start": {"points": [POINT]}}).json()["id"]
    labels = []
    for math in (0.1, 0.2):
        answer = queue(client, campaign_id, POINT, {"weight.math": math, "weight.code": 0.9}).json()
        assert answer["created"] == 1
        labels.append([trial["candidate"]["label"] for trial in answer["items"]])
    assert labels == [["point 1", "point 2"], ["point 1", "point 3"]]


def test_points_that_are_known_are_answered_with_their_trials(
    client: TestClient, campaign_id: str, store: Store
) -> None:
    first = queue(client, campaign_id, POINT, POINT)
    assert (first.status_code, first.json()["created"]) == (201, 1)
    assert [trial["number"] for trial in first.json()["items"]] == [3, 3]
    events = store.last_event_id()
    parent = {"weight.math": 1.0, "weight.code": 0.0}
    again = queue(client, campaign_id, POINT, parent)
    assert (again.status_code, again.json()["created"]) == (200, 0)
    assert [trial["candidate"]["label"] for trial in again.json()["items"]] == ["point 1", "math"]
    assert store.last_event_id() == events
    assert len(store.trials(campaign_id)) == 4


def test_points_are_taken_while_the_campaign_goes_on(client: TestClient, campaign_id: str, store: Store) -> None:
    points = [{"weight.math": math / 16, "weight.code": 1.0} for math in range(1, 5)]
    assert queue(client, campaign_id, points[0]).status_code == 201
    store.step(campaign_id, CampaignStep.START)
    assert queue(client, campaign_id, points[1]).status_code == 201
    store.step(campaign_id, CampaignStep.PAUSE)
    assert queue(client, campaign_id, points[2]).status_code == 201
    store.step(campaign_id, CampaignStep.STOP)
    refused = queue(client, campaign_id, points[3])
    assert (refused.status_code, refused.headers["content-type"]) == (409, PROBLEM)
    assert "queued, running, paused" in refused.json()["detail"]
    assert len(store.trials(campaign_id)) == 6
    assert queue(client, "nosuchid", POINT).status_code == 404


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"points": []}, "points"),
        ({}, "points"),
        ({"points": [POINT], "colour": "red"}, "colour"),
        ({"points": [POINT, {"weight.math": 0.5}]}, "points.1.weight.code"),
        ({"points": [POINT | {"weight.law": 0.5}]}, "points.0.weight.law"),
        ({"points": [POINT | {"weight.math": 7}]}, "points.0.weight.math"),
        ({"points": [POINT | {"weight.math": "much"}]}, "points.0.weight.math"),
        ({"points": [POINT | {"weight.math": [1]}]}, "points.0.weight.math"),
        ({"points": [5]}, "points.0"),
        ({"points": [POINT] * 1001}, "points"),
    ],
)
def test_wrong_points_are_told_by_field_and_none_is_queued(
    client: TestClient, campaign_id: str, store: Store, document: dict[str, Any], field: str
) -> None:
    response = client.post(f"/v1/campaigns/{campaign_id}/points", json=document)
    assert response.status_code == 422, response.text
    assert field in fields(response)
    assert store.trials(campaign_id) == []


@pytest.fixture
def over(client: TestClient, campaign_id: str, search: Any, store: Store) -> list[Trial]:
    """The three trials of a campaign that is complete."""
    trials = list(search.three_trials())
    store.step(campaign_id, CampaignStep.FINISH, lease=search.lease)
    return trials


def test_deletion_asks_first_and_says_what_would_be_lost(
    client: TestClient, campaign_id: str, over: list[Trial], store: Store
) -> None:
    events = store.last_event_id()
    for asked in ({}, {"confirm": "another"}, {"confirm": ""}):
        response = client.delete(f"/v1/campaigns/{campaign_id}", params=asked)
        assert (response.status_code, response.headers["content-type"]) == (409, PROBLEM)
        problem = response.json()
        assert problem["type"] == "urn:mergefront:problem:unconfirmed"
        assert (
            f"3 trials with 3 evaluations of 24 search items, for good; send confirm={campaign_id}" in problem["detail"]
        )
    assert len(store.trials(campaign_id)) == 3
    assert store.last_event_id() == events


@pytest.mark.parametrize("by_name", [False, True])
def test_a_deleted_campaign_is_gone_with_all_that_it_had(
    client: TestClient, campaign_id: str, over: list[Trial], store: Store, by_name: bool
) -> None:
    confirm = "tiny" if by_name else campaign_id
    response = client.delete(f"/v1/campaigns/{campaign_id}", params={"confirm": confirm})
    assert response.status_code == 200, response.text
    expected = {"id": campaign_id, "name": "tiny", "trials": 3, "evaluations": 3, "search_item_evaluations": 24}
    assert response.json() == expected
    for path in ("", "/trials", "/front", "/hypervolume", "/best", "/events", "/understanding", "/front/statistics"):
        gone = client.get(f"/v1/campaigns/{campaign_id}{path}")
        assert (gone.status_code, gone.headers["content-type"]) == (410, PROBLEM), path
        assert gone.json()["type"] == "urn:mergefront:problem:gone"
    for step in ("pause", "resume", "stop", "cancel", "fork", "points"):
        body = {"points": [POINT]} if step == "points" else {}
        assert client.post(f"/v1/campaigns/{campaign_id}/{step}", json=body).status_code == 410, step
    assert client.patch(f"/v1/campaigns/{campaign_id}", json={"name": "back"}).status_code == 410
    assert client.delete(f"/v1/campaigns/{campaign_id}", params={"confirm": campaign_id}).status_code == 410
    assert client.get(f"/v1/trials/{over[0].id}").status_code == 404
    assert client.get("/v1/campaigns").json() == {"items": [], "next": None}
    [event] = store.events(None)
    assert (event.campaign_id, event.kind, event.data) == (
        campaign_id,
        "campaign.deleted",
        {"name": "tiny", "trials": 3},
    )


@pytest.mark.parametrize("steps", [(), ("pause",)])
def test_a_campaign_that_is_not_over_is_cancelled_first(
    client: TestClient, campaign_id: str, steps: tuple[str, ...]
) -> None:
    for step in steps:
        client.post(f"/v1/campaigns/{campaign_id}/{step}")
    response = client.delete(f"/v1/campaigns/{campaign_id}", params={"confirm": campaign_id})
    assert (response.status_code, response.json()["type"]) == (409, "urn:mergefront:problem:illegal-transition")
    assert "cancel it first" in response.json()["detail"]
    client.post(f"/v1/campaigns/{campaign_id}/cancel")
    assert client.delete(f"/v1/campaigns/{campaign_id}", params={"confirm": campaign_id}).status_code == 200


def test_a_campaign_that_changed_meanwhile_is_not_deleted(client: TestClient, campaign_id: str) -> None:
    tag = client.post(f"/v1/campaigns/{campaign_id}/cancel").headers["etag"]
    client.patch(f"/v1/campaigns/{campaign_id}", json={"notes": "keep this"})
    path, params = f"/v1/campaigns/{campaign_id}", {"confirm": campaign_id}
    assert client.delete(path, params=params, headers={"If-Match": tag}).status_code == 412
    now = client.get(path).headers["etag"]
    assert client.delete(path, params=params, headers={"If-Match": now}).status_code == 200


def test_nothing_is_imported_from_a_deleted_campaign(
    client: TestClient, campaign_id: str, over: list[Trial], spec: dict[str, Any], store: Store
) -> None:
    store.delete_campaign(campaign_id)
    refused = client.post("/v1/campaigns", json=spec | {"warm_start": {"import_from": [campaign_id]}})
    assert (refused.status_code, fields(refused)) == (422, ["warm_start.import_from.0"])
    assert "has been deleted" in refused.json()["errors"][0]["message"]


def test_a_page_may_begin_where_a_campaign_was_deleted(
    client: TestClient, worker: Worker, spec: dict[str, Any], store: Store
) -> None:
    ids = [client.post("/v1/campaigns", json=spec).json()["id"] for _ in range(3)]
    store.step(ids[1], CampaignStep.CANCEL)
    store.delete_campaign(ids[1])
    page = client.get("/v1/campaigns", params={"before": ids[1]}).json()
    assert [campaign["id"] for campaign in page["items"]] == [ids[0]]


def test_a_key_of_a_deleted_campaign_is_not_used_again(
    client: TestClient, worker: Worker, spec: dict[str, Any], store: Store
) -> None:
    headers = {"Idempotency-Key": "once"}
    campaign_id = client.post("/v1/campaigns", json=spec, headers=headers).json()["id"]
    store.step(campaign_id, CampaignStep.CANCEL)
    store.delete_campaign(campaign_id)
    again = client.post("/v1/campaigns", json=spec, headers=headers)
    assert (again.status_code, again.headers["content-type"]) == (409, PROBLEM)
    assert "has been deleted" in again.json()["detail"]
    assert store.campaigns(limit=10) == []


def test_the_end_of_a_campaign_ends_its_trials(client: TestClient, campaign_id: str, search: Any, store: Store) -> None:
    """Pause, resume and stop leave running trials alone; cancel ends them in the same transaction."""
    running = store.ask(search.lease, search.candidate(0.5), {})
    store.start(search.lease, running.id, "actor-0")
    for step, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopping")):
        assert client.post(f"/v1/campaigns/{campaign_id}/{step}").json()["state"] == state
        assert store.trial(running.id).state == "running"
    assert client.post(f"/v1/campaigns/{campaign_id}/cancel").json()["trial_counts"] == {"cancelled": 1}
    steps = [event.kind for event in store.events(campaign_id) if event.kind.startswith("campaign.")]
    assert steps[-4:] == ["campaign.paused", "campaign.running", "campaign.stopping", "campaign.cancelled"]
    with pytest.raises(Exception, match="cancelled"):
        store.tell(search.lease, running.id, search.evaluated(1.0, 1.0), {}, SearchSummary())


def test_the_document_describes_the_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    paths = document["paths"]
    delete = paths["/v1/campaigns/{campaign_id}"]["delete"]
    assert {"200", "404", "409", "410", "412"} <= set(delete["responses"])
    assert delete["security"][0] == {"token": ["admin"]}
    for name, created in (("fork", "201"), ("points", "201")):
        operation = paths[f"/v1/campaigns/{{campaign_id}}/{name}"]["post"]
        assert {created, "404", "409", "410", "422"} <= set(operation["responses"])
        assert operation["security"][0] == {"token": ["launch"]}
        assert operation["requestBody"]["content"]["application/json"]["example"]
    for path, operations in paths.items():
        for operation in operations.values():
            if "{campaign_id}" in path and "404" in operation["responses"]:
                assert "410" in operation["responses"], path


def test_the_examples_are_answered(client: TestClient, campaign_id: str) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for name in ("fork", "points"):
        content = paths[f"/v1/campaigns/{{campaign_id}}/{name}"]["post"]["requestBody"]["content"]
        example = yaml.safe_load(json.dumps(content["application/json"]["example"]))
        assert client.post(f"/v1/campaigns/{campaign_id}/{name}", json=example).status_code == 201


def test_the_client_and_the_command_line_fork(
    served: Any, worker: Worker, spec: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    patch = tmp_path / "patch.yml"
    patch.write_text("budget: {evaluations: 200}\n")
    with Client(str(served.base_url)) as client:
        campaign_id = client.launch(spec)["id"]
        first = client.fork(campaign_id, {"seed": 1}, idempotency_key="once")
        assert client.fork(campaign_id, {"seed": 1}, idempotency_key="once")["id"] == first["id"]
    arguments = ["fork", campaign_id, str(patch), "--set", "notes=more", "--url", str(served.base_url)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    fork = store.campaign(done.output.strip())
    assert (fork.forked_from, fork.spec.notes) == (campaign_id, "more")
    assert fork.spec.budget.evaluations == 200
