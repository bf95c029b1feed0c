"""The routes of events: server-sent, in order, from any event on."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, cast

import anyio
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Message, Send

from api import examples
from api.problems import documented
from api.service import ServiceOf

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
EVENT_ID = {"ge": 0, "lt": 2**31}

After = Annotated[int, Query(**EVENT_ID)]
AfterOrNow = Annotated[int | None, Query(**EVENT_ID, description="0: from the first event on")]
LastEventId = Annotated[int | None, Header(**EVENT_ID)]

logger = logging.getLogger(__name__)


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["events"])

    @routes.get("/events", response_class=StreamingResponse, responses=examples.EVENTS | documented(422))
    def all_events(
        service: ServiceOf, after: AfterOrNow = None, last_event_id: LastEventId = None
    ) -> StreamingResponse:
        """Send the events of all campaigns with an id above Last-Event-ID, else above `after`, else from now on."""
        start = after if last_event_id is None else last_event_id
        if start is None:
            start = service.store.last_event_id()
        return EventStream(service.events.stream(None, start), service.settings.stream_stall_seconds)

    @routes.get(
        "/campaigns/{campaign_id}/events",
        response_class=StreamingResponse,
        responses=examples.EVENTS | documented(404, 422),
    )
    def events(
        campaign_id: str, service: ServiceOf, after: After = 0, last_event_id: LastEventId = None
    ) -> StreamingResponse:
        """Send the campaign's events with an id above Last-Event-ID, else above `after`, until the campaign is over."""
        service.store.campaign(campaign_id)
        start = after if last_event_id is None else last_event_id
        return EventStream(service.events.stream(campaign_id, start), service.settings.stream_stall_seconds)

    return routes


class EventStream(StreamingResponse):
    """A response that ends before its time when its client takes nothing for `stall_seconds`, or the database is gone.

    The server then closes the connection in the middle, so that the client knows to come again with the last id.
    """

    def __init__(self, events: AsyncIterator[str], stall_seconds: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._events = cast(AsyncGenerator[str], events)
        self._stall_seconds = stall_seconds

    async def stream_response(self, send: Send) -> None:
        """Send each piece in time, and leave the feed however that ends."""
        async with aclosing(self._events):
            try:
                await super().stream_response(partial(self._send_in_time, send))
            except TimeoutError:
                logger.info("an event stream was closed: its client took nothing for %g s", self._stall_seconds)
            except SQLAlchemyError:
                logger.warning("an event stream was closed: the database does not answer", exc_info=True)

    async def _send_in_time(self, send: Send, message: Message) -> None:
        with anyio.fail_after(self._stall_seconds):
            await send(message)
