"""Server-sent events, from a real server."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import event as sql_event

from api.event_feed import BATCH, EventFeed
from campaigns.campaign_edit import CampaignEdit
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
    monkeypatch.setattr("api.event_feed.KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr("api.event_feed.POLL_SECONDS", 0.01)
    last = store.events(campaign_id)[-1].id

    async def first_words() -> list[str]:
        words = []
        async for text in EventFeed(store).stream(campaign_id, last):
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


def test_events_of_all_campaigns_come_in_one_stream(served: httpx.Client, campaign_id: str, store: Store) -> None:
    launched = store.campaign(campaign_id)
    other = store.create_campaign(launched.spec, launched.pool).id
    seen: list[tuple[str, str]] = []
    with served.stream("GET", "/v1/events", params={"after": 0}) as response:
        for event in received(response):
            seen.append((event["data"]["campaign_id"], event["event"]))
            if len(seen) == 2:
                store.step(campaign_id, CampaignStep.CANCEL)  # the stream goes on after it
            if len(seen) == 3:
                store.step(other, CampaignStep.PAUSE)
            if len(seen) == 4:
                break
    created = [(campaign_id, "campaign.created"), (other, "campaign.created")]
    assert seen == [*created, (campaign_id, "campaign.cancelled"), (other, "campaign.paused")]


def test_the_stream_of_all_campaigns_begins_now_or_where_it_was_left(
    served: httpx.Client, campaign_id: str, store: Store
) -> None:
    last = store.last_event_id()
    with served.stream("GET", "/v1/events") as response:
        store.step(campaign_id, CampaignStep.PAUSE)
        assert next(received(response))["event"] == "campaign.paused"
    store.step(campaign_id, CampaignStep.RESUME)
    with served.stream("GET", "/v1/events", headers={"Last-Event-ID": str(last + 1)}, params={"after": 0}) as response:
        assert next(received(response))["event"] == "campaign.running"


def test_an_id_that_is_not_there_yet_is_waited_for(served: httpx.Client, campaign_id: str, store: Store) -> None:
    last = store.last_event_id()
    with served.stream("GET", "/v1/events", params={"after": last + 1}) as response:
        store.step(campaign_id, CampaignStep.PAUSE)
        store.step(campaign_id, CampaignStep.RESUME)
        assert int(next(received(response))["id"]) == last + 2


def counted_reads(store: Store) -> Callable[[], int]:
    """Count the statements that read events, from now on."""
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "FROM events" in statement:
            statements.append(statement)

    sql_event.listen(store._database.engine, "before_cursor_execute", note)
    return lambda: len(statements)


def test_however_many_streams_there_are_the_database_is_read_once(
    store: Store, campaign_id: str, search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.event_feed.POLL_SECONDS", 0.05)
    last, streams, changes = store.last_event_id(), 200, 12
    reads = counted_reads(store)

    async def one(feed: EventFeed) -> list[int]:
        ids: list[int] = []
        async for text in feed.stream(campaign_id, last):
            ids += [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
        return ids

    async def all_streams() -> tuple[list[list[int]], int]:
        feed = EventFeed(store)
        tasks = [asyncio.create_task(one(feed)) for _ in range(streams)]
        while feed.active < streams:
            await asyncio.sleep(0.01)
        before = reads()
        for number in range(changes):
            await asyncio.to_thread(store.edit_campaign, campaign_id, CampaignEdit(notes=f"note {number}"))
            await asyncio.sleep(0.1)
        during = reads() - before
        await asyncio.to_thread(store.step, campaign_id, CampaignStep.CANCEL)
        return await asyncio.gather(*tasks), during

    received_ids, during = anyio.run(all_streams)
    assert received_ids == [list(range(last + 1, store.last_event_id() + 1))] * streams
    assert during < streams * changes // 4  # each stream looking for itself would have taken all of them and more


def test_a_feed_that_nobody_listens_to_reads_nothing(store: Store, campaign_id: str) -> None:
    async def leave() -> EventFeed:
        feed = EventFeed(store)
        for _ in range(2):
            stream = feed.stream(campaign_id, 0)
            assert "campaign.created" in await anext(stream)
            assert feed.active == 1
            await stream.aclose()
            assert feed.active == 0
            assert feed._reader is None
        return feed

    anyio.run(leave)


def test_what_was_forgotten_is_read_again(store: Store, campaign_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that falls behind what is remembered misses nothing."""
    monkeypatch.setattr("api.event_feed.POLL_SECONDS", 0.01)
    monkeypatch.setattr("api.event_feed.REMEMBERED_EVENTS", 5)
    last, count = store.last_event_id(), BATCH + 20

    async def slow_reader() -> list[int]:
        feed = EventFeed(store)
        ids: list[int] = []
        changed = asyncio.create_task(asyncio.to_thread(change))
        async for text in feed.stream(campaign_id, last):
            ids += [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
            await asyncio.sleep(0.05)
            assert len(feed._latest) <= 5
        await changed
        return ids

    def change() -> None:
        for number in range(count):
            store.edit_campaign(campaign_id, CampaignEdit(notes=f"note {number}"))
        store.step(campaign_id, CampaignStep.CANCEL)

    assert anyio.run(slow_reader) == list(range(last + 1, last + count + 2))


def streams_of(client: httpx.Client) -> int:
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("mergefront_event_streams")]
    return int(line.split()[1])


def test_a_client_that_never_reads_blocks_nobody_and_is_let_go(settings, store: Store, campaign_id: str, serve) -> None:
    """A real socket that takes nothing, while megabytes happen: others get everything, and the stream ends."""
    served = serve(settings.replace(stream_stall_seconds=1.0))
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((served.base_url.host, served.base_url.port))
        request = f"GET /v1/campaigns/{campaign_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        silent.sendall(request.encode())
        while streams_of(served) < 1:
            time.sleep(0.02)
        for number in range(150):  # two notes of 10,000 characters in each event: three megabytes
            store.edit_campaign(campaign_id, CampaignEdit(notes=str(number % 10) * 10_000))
        seen: list[str] = []
        with served.stream("GET", f"/v1/campaigns/{campaign_id}/events") as response:
            for event in received(response):
                seen.append(event["event"])
                if len(seen) == 151:
                    store.step(campaign_id, CampaignStep.CANCEL)
        assert seen == ["campaign.created", *["campaign.edited"] * 150, "campaign.cancelled"]
        while streams_of(served) > 0:  # the test's own time limit is the longest this may take
            time.sleep(0.02)
        silent.settimeout(10)
        taken = bytearray()
        while piece := silent.recv(65536):
            taken += piece
    assert b"campaign.created" in taken
    assert not taken.endswith(b"0\r\n\r\n")  # cut off, so that a client knows there is more
    assert len(taken) < 3_000_000
