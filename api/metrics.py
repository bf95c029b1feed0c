"""Figures for Prometheus: what this process has answered, and what is in the database that all processes share."""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import psutil
from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from api import examples
from api.answering import in_time
from api.service import Service, ServiceOf
from campaigns.states import CampaignState, TrialState
from storage.statistics import StoreStatistics

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds, in seconds: from a campaign that is looked up to a checkpoint that is merged as it streams."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_ROUTE = "none"
"""What was refused before it came to a route, or asked for what is not there."""
DATABASE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Answered(NamedTuple):
    """What requests are counted by: never an id or a path, so that the number of series is bounded."""

    method: str
    route: str
    status: int


class RequestFigures:
    """Counts and times of the requests that this process has answered."""

    def __init__(self) -> None:
        self._counts: Counter[Answered] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def note(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request that took `seconds` until its answer was sent."""
        known_method, known_route = method if method in METHODS else "other", route or NO_ROUTE
        self._counts[Answered(known_method, known_route, status)] += 1
        buckets = self._buckets.setdefault((known_method, known_route), [0] * (len(BUCKETS) + 1))
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[known_method, known_route] = self._seconds.get((known_method, known_route), 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """Yield the figures as Prometheus reads them."""
        yield from _head("mergefront_http_requests_total", "counter", "Requests answered by this process.")
        for answered, count in sorted(self._counts.items()):
            yield _line("mergefront_http_requests_total", count, **answered._asdict())
        name = "mergefront_http_request_duration_seconds"
        yield from _head(name, "histogram", "Seconds until an answer was sent whole; streams take as long as they do.")
        for (method, route), buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
                total += count
                yield _line(f"{name}_bucket", total, method=method, route=route, le=bound)
            yield _line(f"{name}_sum", self._seconds[method, route], method=method, route=route)
            yield _line(f"{name}_count", total, method=method, route=route)


def router(figures: RequestFigures) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["service"])

    @routes.get("/metrics", response_class=Response, responses=examples.METRICS)
    async def metrics(service: ServiceOf) -> Response:
        """Return figures for Prometheus. Without the database there are only those of this process."""
        lines = [*figures.lines(), *_process_lines(service)]
        try:
            seconds = service.settings.worker_seen_seconds
            found = await in_time(DATABASE_SECONDS, lambda: service.store.statistics(seconds))
            lines += _database_lines(found)
        except (SQLAlchemyError, TimeoutError):
            logger.warning("metrics lack what is in the database, which does not answer")
            lines += _up(is_up=False)
        return Response("\n".join(lines) + "\n", media_type=MEDIA_TYPE)

    return routes


def _process_lines(service: Service) -> Iterator[str]:
    process = psutil.Process()
    yield from _gauge("mergefront_event_streams_active", "Event streams of this process.", service.events.active)
    with process.oneshot():
        memory, cpu, started = process.memory_info().rss, process.cpu_times(), process.create_time()
    yield from _gauge("process_resident_memory_bytes", "Resident memory of this process.", memory)
    yield from _head("process_cpu_seconds_total", "counter", "CPU time of this process.")
    yield _line("process_cpu_seconds_total", cpu.user + cpu.system)
    yield from _gauge("process_start_time_seconds", "When this process started, in seconds since 1970.", started)


def _database_lines(found: StoreStatistics) -> Iterator[str]:
    yield from _up(is_up=True)
    yield from _by_state("mergefront_campaigns", "Campaigns by state.", found.campaigns)
    yield from _by_state("mergefront_trials", "Trials by state, of all campaigns.", found.trials)
    waiting = "Campaigns that want work and that no worker holds."
    yield from _gauge("mergefront_campaigns_waiting", waiting, found.waiting)
    yield from _gauge("mergefront_workers_alive", "Workers heard of lately.", found.workers)
    yield from _head("mergefront_events_total", "counter", "Events written so far: the id of the last one.")
    yield _line("mergefront_events_total", found.events)


def _up(is_up: bool) -> Iterator[str]:
    return _gauge("mergefront_database_up", "Whether the database answered just now.", int(is_up))


def _by_state(name: str, text: str, counts: Mapping[CampaignState, int] | Mapping[TrialState, int]) -> Iterator[str]:
    yield from _head(name, "gauge", text)
    for state, count in counts.items():
        yield _line(name, count, state=state)


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    yield from _head(name, "gauge", text)
    yield _line(name, value)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, value: float, **labels: object) -> str:
    """Return one sample. Labels are names of ours: nothing in them needs escaping."""
    within = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{within}}} {value}" if within else f"{name} {value}"
