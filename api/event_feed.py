"""One look at the database for all event streams of a process.

A single task reads what is new, every `POLL_SECONDS`, and keeps the latest events as text. Streams take from there, and
from the database only what is older: when they begin, or when they have fallen far behind. A stream keeps no queue of
its own, so that a client that reads slowly costs one piece of text, however much happens meanwhile.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from anyio import CapacityLimiter, to_thread

from campaigns.campaign import Event
from campaigns.errors import NotFound
from campaigns.states import CampaignState
from storage import Store

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
BATCH = 200
PIECE_CHARACTERS = 64 << 10
REMEMBERED_EVENTS = 2000
REMEMBERED_CHARACTERS = 4 << 20
READING_THREADS = 4  # of their own: merges that are streamed may hold all the others
ENDS = tuple(f"campaign.{state}" for state in CampaignState if state.is_final)
KEEP_ALIVE = ": keep-alive\n\n"

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class SentEvent(NamedTuple):
    """An event as it is sent, and whether it may be among the last of its campaign."""

    id: int
    campaign_id: str
    text: str
    ends: bool


class EventFeed:
    """The latest events, and who waits for more. Everything but reads happens in one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = CapacityLimiter(READING_THREADS)
        self._latest: deque[SentEvent] = deque()
        self._characters = 0
        self._start = self._end = 0  # `_latest` has every event with an id above `_start`, up to `_end`
        self._waiting: dict[str | None, set[asyncio.Event]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()

    @property
    def active(self) -> int:
        """The number of streams."""
        return sum(len(waiting) for waiting in self._waiting.values())

    async def stream(self, campaign_id: str | None, after: int) -> AsyncIterator[str]:
        """Yield the events with an id above `after` as they appear, as server-sent text; comments in silence.

        Those of one campaign until it is over, or deleted; those of all campaigns, for `campaign_id` None, for ever.
        Raises `sqlalchemy.exc.SQLAlchemyError` when the database is away while older events are read.
        """
        with self._waited_for(campaign_id) as news:
            await self._begin()
            may_be_over = campaign_id is not None
            while True:
                news.clear()
                if may_be_over and campaign_id is not None and await self._is_over(campaign_id):
                    while found := await self._read(campaign_id, after):
                        for piece in _pieces(found):
                            yield piece
                        after = found[-1].id
                    return
                found, after = await self._after(campaign_id, after)
                may_be_over = campaign_id is not None and any(event.ends for event in found)
                for piece in _pieces(found):
                    yield piece
                if not found and not await _happens(news, KEEP_ALIVE_SECONDS):
                    yield KEEP_ALIVE
                    may_be_over = campaign_id is not None

    async def _begin(self) -> None:
        """Start reading what is new, unless that goes on already."""
        async with self._beginning:
            if self._reader is None:
                self._latest.clear()
                self._characters = 0
                self._start = self._end = await self._in_thread(self._store.last_event_id)
                self._reader = asyncio.create_task(self._keep_reading())

    @contextmanager
    def _waited_for(self, campaign_id: str | None) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self._waiting.setdefault(campaign_id, set()).add(news)
        try:
            yield news
        finally:
            self._waiting[campaign_id].discard(news)
            if not self._waiting[campaign_id]:
                del self._waiting[campaign_id]
            if not self._waiting and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _keep_reading(self) -> None:
        was_away = False
        while True:
            found: list[SentEvent] = []
            try:
                found = await self._read(None, self._end)
                was_away = False
            except Exception:  # streams stay open: the next read has what happened meanwhile
                if not was_away:
                    logger.warning("events cannot be read; streams wait until the database is back", exc_info=True)
                was_away = True
            self._remember(found)
            if len(found) < BATCH:
                await asyncio.sleep(POLL_SECONDS)

    def _remember(self, found: Sequence[SentEvent]) -> None:
        for event in found:
            self._latest.append(event)
            self._characters += len(event.text)
            self._end = event.id
            while len(self._latest) > REMEMBERED_EVENTS or self._characters > REMEMBERED_CHARACTERS:
                forgotten = self._latest.popleft()
                self._characters -= len(forgotten.text)
                self._start = forgotten.id
        for campaign_id in {None, *(event.campaign_id for event in found)} if found else ():
            for news in self._waiting.get(campaign_id, ()):
                news.set()

    async def _after(self, campaign_id: str | None, after: int) -> tuple[list[SentEvent], int]:
        """Return the next events after `after`, and the id up to which none is missing then."""
        seen = self._end
        if after < self._start:
            found = await self._read(campaign_id, after)
        else:
            found = self._remembered(campaign_id, after)
        if len(found) < BATCH:
            return found, max(after, seen, found[-1].id if found else 0)
        return found, found[-1].id

    def _remembered(self, campaign_id: str | None, after: int) -> list[SentEvent]:
        found: list[SentEvent] = []
        for event in reversed(self._latest):  # what is new is short, what is remembered long
            if event.id <= after:
                break
            if campaign_id is None or event.campaign_id == campaign_id:
                found.append(event)
        return found[::-1][:BATCH]

    async def _read(self, campaign_id: str | None, after: int) -> list[SentEvent]:
        return await self._in_thread(lambda: [_sent(e) for e in self._store.events(campaign_id, after, BATCH)])

    async def _is_over(self, campaign_id: str) -> bool:
        try:
            return (await self._in_thread(lambda: self._store.campaign(campaign_id))).state.is_final
        except NotFound:
            return True

    async def _in_thread(self, ask: Callable[[], Answer]) -> Answer:
        return await to_thread.run_sync(ask, limiter=self._threads)


def server_sent(event: Event) -> str:
    """Return the event in the format of text/event-stream; JSON without line breaks fits one data line."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"


def _sent(event: Event) -> SentEvent:
    return SentEvent(event.id, event.campaign_id, server_sent(event), event.kind in ENDS)


def _pieces(events: Sequence[SentEvent]) -> Iterator[str]:
    """Yield the events' text, several events at once but for long ones."""
    texts: list[str] = []
    characters = 0
    for event in events:
        if texts and characters + len(event.text) > PIECE_CHARACTERS:
            yield "".join(texts)
            texts, characters = [], 0
        texts.append(event.text)
        characters += len(event.text)
    if texts:
        yield "".join(texts)


async def _happens(news: asyncio.Event, within_seconds: float) -> bool:
    try:
        async with asyncio.timeout(within_seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True
