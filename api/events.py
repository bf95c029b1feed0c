"""The route of events: server-sent, in order, from any event on."""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from api.problems import documented
from api.service import ServiceOf
from campaigns.campaign import Event
from storage import Store

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
BATCH = 200
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
EVENT_ID = {"ge": 0, "lt": 2**31}


def router() -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1/campaigns/{campaign_id}", tags=["events"])
    described = {200: {"description": "Events", "content": {"text/event-stream": {}}}, **documented(404, 422)}

    @routes.get("/events", response_class=StreamingResponse, responses=described)
    def events(
        campaign_id: str,
        service: ServiceOf,
        after: Annotated[int, Query(**EVENT_ID)] = 0,
        last_event_id: Annotated[int | None, Header(**EVENT_ID)] = None,
    ) -> StreamingResponse:
        """Send the campaign's events with an id above Last-Event-ID, else above `after`, until the campaign is over."""
        service.store.campaign(campaign_id)
        start = after if last_event_id is None else last_event_id
        return StreamingResponse(
            stream(service.store, campaign_id, start), media_type="text/event-stream", headers=HEADERS
        )

    return routes


async def stream(store: Store, campaign_id: str, after: int) -> AsyncIterator[str]:
    """Yield events as server-sent text as they appear; a comment when there was nothing to say for a while."""
    silent_seconds = 0.0
    while True:
        events, is_over = await to_thread.run_sync(_next_events, store, campaign_id, after)
        for event in events:
            yield server_sent(event)
            after, silent_seconds = event.id, 0.0
        if is_over:
            return
        if events:
            continue
        if silent_seconds >= KEEP_ALIVE_SECONDS:
            yield ": keep-alive\n\n"
            silent_seconds = 0.0
        await anyio.sleep(POLL_SECONDS)
        silent_seconds += POLL_SECONDS


def server_sent(event: Event) -> str:
    """Return the event in the format of text/event-stream; JSON without line breaks fits one data line."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"


def _next_events(store: Store, campaign_id: str, after: int) -> tuple[list[Event], bool]:
    """Return the next events, and whether none will follow. The state is read first: events come before their end."""
    is_final = store.campaign(campaign_id).state.is_final
    events = store.events(campaign_id, after, BATCH)
    return events, is_final and len(events) < BATCH
