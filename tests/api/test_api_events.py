"""Server-sent events, from a real server."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from api.events import stream
from campaigns.states import CampaignStep
from storage import Store


def received(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream, each with the id and name that it was sent under."""
    found: dict[str, Any] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        else:
            yield found | {"data": json.loads(found["data"])}
            found = {}


def all_of(client: httpx.Client, path: str, **options: Any) -> list[dict[str, Any]]:
    with client.stream("GET", path, **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        return list(received(response))


def test_events_of_a_finished_campaign_are_all_sent_and_the_stream_ends(
    served: httpx.Client, campaign_id: str, search, store: Store
) -> None:
    search.three_trials()
    store.step(campaign_id, CampaignStep.FINISH, lease=search.lease)
    stored = store.events(campaign_id)
    events = all_of(served, f"/v1/campaigns/{campaign_id}/events")
    assert [event["data"] for event in events] == [event.model_dump(mode="json") for event in stored]
    assert [int(event["id"]) for event in events] == [event.id for event in stored]
    assert [event["event"] for event in events] == [event.kind for event in stored]


def test_a_stream_goes_on_from_the_last_event_that_was_seen(
    served: httpx.Client, campaign_id: str, search, store: Store
) -> None:
    search.three_trials()
    store.step(campaign_id, CampaignStep.FINISH, lease=search.lease)
    ids = [event.id for event in store.events(campaign_id)]
    path = f"/v1/campaigns/{campaign_id}/events"
    by_header = all_of(served, path, headers={"Last-Event-ID": str(ids[4])}, params={"after": 0})
    by_query = all_of(served, path, params={"after": ids[4]})
    assert [int(event["id"]) for event in by_header] == ids[5:]
    assert by_query == by_header
    assert all_of(served, path, params={"after": ids[-1]}) == []


def test_events_arrive_while_the_campaign_runs(served: httpx.Client, campaign_id: str, search, store: Store) -> None:
    seen: list[str] = []
    with served.stream("GET", f"/v1/campaigns/{campaign_id}/events") as response:
        for event in received(response):
            seen.append(event["event"])
            if event["event"] == "campaign.running":
                search.three_trials()
            if event["event"] == "trial.holdout":
                store.step(campaign_id, CampaignStep.FINISH, lease=search.lease)
    assert seen == [event.kind for event in store.events(campaign_id)]
    assert seen[-1] == "campaign.complete"


def test_a_reader_that_hangs_up_leaves_the_server_free(served: httpx.Client, campaign_id: str, search) -> None:
    for _ in range(3):
        with served.stream("GET", f"/v1/campaigns/{campaign_id}/events") as response:
            assert next(received(response))["event"] == "campaign.created"
    assert served.get(f"/v1/campaigns/{campaign_id}").status_code == 200


def test_more_events_than_one_batch_arrive_in_order(
    store: Store, campaign_id: str, search, served: httpx.Client
) -> None:
    store.add_trials(search.lease, [search.candidate(i / 500) for i in range(450)])
    store.step(campaign_id, CampaignStep.CANCEL)
    ids = [event.id for event in store.events(campaign_id, limit=5000)]
    events = all_of(served, f"/v1/campaigns/{campaign_id}/events")
    assert [int(event["id"]) for event in events] == ids
    assert len(ids) > 900


def test_silence_is_filled_with_comments(
    store: Store, campaign_id: str, search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.events.KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr("api.events.POLL_SECONDS", 0.01)
    last = store.events(campaign_id)[-1].id

    async def first_words() -> list[str]:
        words = []
        async for text in stream(store, campaign_id, last):
            words.append(text)
            if len(words) == 2:
                threading.Thread(target=store.step, args=(campaign_id, CampaignStep.CANCEL)).start()
        return words

    words = anyio.run(first_words)
    assert words[:2] == [": keep-alive\n\n"] * 2
    assert words[-1].startswith(f"id: {last + 1}\nevent: campaign.cancelled\ndata: {{")


@pytest.mark.parametrize("last", ["x", "-1", str(2**40)])
def test_a_last_event_id_that_is_none(served: httpx.Client, campaign_id: str, last: str) -> None:
    response = served.get(f"/v1/campaigns/{campaign_id}/events", headers={"Last-Event-ID": last})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "last-event-id"
