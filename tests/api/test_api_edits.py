"""Changes over HTTP: name and notes, entity tags, and what is done once however often it is asked."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from campaigns.states import CampaignStep
from storage import Store

PROBLEM = "application/problem+json"


def test_name_and_notes_change_and_that_is_an_event(client: TestClient, campaign_id: str, store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    edited = client.patch(path, json={"name": "generalists", "notes": "try ties next"})
    assert edited.status_code == 200, edited.text
    assert (edited.json()["spec"]["name"], edited.json()["spec"]["notes"]) == ("generalists", "try ties next")
    assert client.get(path).json() == edited.json()
    assert client.get("/v1/campaigns?name=general").json()["items"][0]["id"] == campaign_id
    event = store.events(campaign_id)[-1]
    assert event.kind == "campaign.edited"
    names, notes = {"from": "tiny", "to": "generalists"}, {"from": "", "to": "try ties next"}
    assert event.data == {"changed": {"name": names, "notes": notes}}


def test_what_is_so_already_is_no_change(client: TestClient, campaign_id: str, store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    before, events = client.get(path), store.events(campaign_id)
    for changes in ({}, {"name": "tiny"}, {"notes": ""}):
        unchanged = client.patch(path, json=changes)
        assert (unchanged.status_code, unchanged.headers["etag"]) == (200, before.headers["etag"])
    assert store.events(campaign_id) == events


def test_a_campaign_that_is_over_can_be_renamed(client: TestClient, campaign_id: str, store: Store) -> None:
    store.step(campaign_id, CampaignStep.CANCEL)
    assert client.patch(f"/v1/campaigns/{campaign_id}", json={"name": "dead end"}).json()["state"] == "cancelled"


def test_the_spec_as_launched_still_answers_its_idempotency_key(client: TestClient, worker, spec, store: Store) -> None:
    headers = {"Idempotency-Key": "once"}
    launched = client.post("/v1/campaigns", json=spec, headers=headers).json()["id"]
    assert client.patch(f"/v1/campaigns/{launched}", json={"name": "another"}).status_code == 200
    again = client.post("/v1/campaigns", json=spec, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["spec"]["name"]) == (201, launched, "another")
    renamed = client.post("/v1/campaigns", json=spec | {"name": "another"}, headers=headers)
    assert renamed.status_code == 409
    assert len(store.campaigns(limit=10)) == 1


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"budget": {"evaluations": 9}}, "budget", "fork"),
        ({"seed": 1, "name": "fine"}, "seed", "fork"),
        ({"state": "paused"}, "state", "no such field"),
        ({"nam": "x"}, "nam", "did you mean 'name'"),
        ({"name": ""}, "name", "at least 1"),
        ({"name": None}, "name", "string"),
        ({"name": "x" * 101}, "name", "100"),
        ({"notes": "x" * 10_001}, "notes", "10000"),
        ({"notes": 5}, "notes", "string"),
    ],
)
def test_what_may_not_change_is_named(
    client: TestClient, campaign_id: str, store: Store, changes: dict[str, Any], field: str, said: str
) -> None:
    before = store.campaign(campaign_id)
    response = client.patch(f"/v1/campaigns/{campaign_id}", json=changes)
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
    (error,) = response.json()["errors"]
    assert (error["field"], said in error["message"]) == (field, True)
    assert store.campaign(campaign_id) == before


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/yaml", 415),
        (b"{}", "text/plain", 415),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe\xfd", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/merge-patch+json", 422),
    ],
)
def test_a_body_that_is_no_change(
    client: TestClient, campaign_id: str, body: bytes, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type}
    response = client.patch(f"/v1/campaigns/{campaign_id}", content=body, headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)


def test_nobody_can_edit_what_is_not_there(client: TestClient) -> None:
    response = client.patch("/v1/campaigns/nosuchid", json={"name": "x"}, headers={"If-Match": '"x"'})
    assert (response.status_code, response.headers["content-type"]) == (404, PROBLEM)


def test_the_tag_changes_with_every_change_and_not_with_time(client: TestClient, campaign_id: str, search) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    seen = [client.get(path).headers["etag"]]

    def changed() -> bool:
        seen.append(client.get(path).headers["etag"])
        return seen[-1] not in seen[:-1]

    first, again = client.get(path), client.get(path)
    assert first.json()["progress"]["seconds_elapsed"] < again.json()["progress"]["seconds_elapsed"]
    assert first.headers["etag"] == again.headers["etag"]
    search.store.renew(search.lease, 600)
    assert client.get(path).headers["etag"] == seen[0]
    trial = search.store.ask(search.lease, search.candidate(0.5), {})
    assert changed()
    search.store.start(search.lease, trial.id, "actor-0")
    assert changed()
    client.patch(path, json={"notes": "hm"})
    assert changed()
    paused = client.post(f"{path}/pause")
    assert changed()
    assert paused.headers["etag"] == seen[-1]


def test_what_is_known_is_not_sent_again(client: TestClient, campaign_id: str) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    tag = client.get(path).headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        response = client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200
    client.patch(path, json={"notes": "new"})
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_a_change_of_what_has_changed_is_refused(client: TestClient, campaign_id: str, store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    tag = client.get(path).headers["etag"]
    mine = client.patch(path, json={"notes": "mine"}, headers={"If-Match": tag})
    assert mine.status_code == 200
    events = store.events(campaign_id)
    for given in (tag, f"W/{mine.headers['etag']}", "nonsense"):
        refused = [client.patch(path, json={"notes": "theirs"}, headers={"If-Match": given})]
        refused += [client.post(f"{path}/{step}", headers={"If-Match": given}) for step in ("pause", "cancel")]
        for response in refused:
            assert (response.status_code, response.headers["content-type"]) == (412, PROBLEM)
            assert response.json()["title"] == "Changed meanwhile"
    assert store.events(campaign_id) == events
    paused = client.post(f"{path}/pause", headers={"If-Match": f'"x", {mine.headers["etag"]}'})
    assert paused.json()["state"] == "paused"
    assert client.post(f"{path}/resume", headers={"If-Match": "*"}).json()["state"] == "running"


def together(count: int, send: Any) -> list[httpx.Response]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(send, range(count)))


def test_of_several_edits_at_once_one_wins(served: httpx.Client, campaign_id: str, store: Store) -> None:
    path = f"/v1/campaigns/{campaign_id}"
    headers = {"If-Match": served.get(path).headers["etag"]}
    responses = together(6, lambda i: served.patch(path, json={"notes": f"by {i}"}, headers=headers))
    assert sorted(response.status_code for response in responses) == [200] + [412] * 5
    (won,) = (response for response in responses if response.status_code == 200)
    assert served.get(path).json()["spec"]["notes"] == won.json()["spec"]["notes"]
    assert [event.kind for event in store.events(campaign_id)].count("campaign.edited") == 1


def test_equal_requests_at_once_launch_one_campaign(served: httpx.Client, worker, spec, store: Store) -> None:
    headers = {"Idempotency-Key": "at once"}
    responses = together(6, lambda _: served.post("/v1/campaigns", json=spec, headers=headers))
    assert [response.status_code for response in responses] == [201] * 6
    assert len({response.json()["id"] for response in responses}) == 1
    assert [event.kind for event in store.events(None)] == ["campaign.created"]


def test_of_different_requests_with_one_key_one_wins(served: httpx.Client, worker, spec, store: Store) -> None:
    headers = {"Idempotency-Key": "at once"}
    responses = together(4, lambda i: served.post("/v1/campaigns", json=spec | {"seed": i}, headers=headers))
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409]
    assert len(store.campaigns(limit=10)) == 1


def test_a_key_may_not_be_empty_or_endless(client: TestClient, worker, spec) -> None:
    for key in ("", "k" * 256):
        response = client.post("/v1/campaigns", json=spec, headers={"Idempotency-Key": key})
        assert response.status_code == 422
        assert json.loads(response.text)["errors"][0]["field"] == "idempotency-key"
