"""The application: routes, errors, authentication and headers put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware

import dashboard
from api import (
    campaigns,
    checkpoints,
    events,
    front,
    front_statistics,
    health,
    hub,
    lifecycle,
    metrics,
    problems,
    trials,
    understanding,
)
from api.authentication import BearerAuthentication, Tokens
from api.body_limit import BodyLimit
from api.event_feed import EventFeed
from api.launching import CACHE
from api.metrics import RequestFigures
from api.open_pools import OpenPools
from api.openapi import complete_openapi
from api.other_sites import OtherSites
from api.rate_limit import Buckets, RateLimit
from api.request_log import RequestLog
from api.security_headers import SecurityHeaders
from api.service import Service
from api.settings import Settings, is_loopback
from api.streams import Streams
from campaigns.errors import InvalidInput, field_error
from storage import Store

DESCRIPTION = (
    "Search the weights that merge your checkpoints into better models, and pull the merge you want by its id."
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Opens the database, and makes or upgrades its tables, at once.

    Raises `InvalidInput` for a host that others can reach, when neither the settings nor the database have a token.
    """
    streams = Streams(settings.max_streams, settings.stream_wait_seconds, settings.stream_stall_seconds)
    store = _open_store(settings)
    service = Service(settings, store, OpenPools(cache_dir=settings.home / CACHE), streams, EventFeed(store))
    figures = RequestFigures()
    tokens = Tokens(service.store, settings.token)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        tokens.close()
        service.store.close()

    app = FastAPI(
        title="Mergefront",
        version=version("mergefront"),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=_middleware(settings, tokens, figures),
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    for routes in (campaigns, lifecycle, front, front_statistics, understanding, trials, events, checkpoints, health):
        app.include_router(routes.router())
    app.include_router(dashboard.router())
    app.include_router(hub.router())
    app.include_router(metrics.router(figures))
    complete_openapi(app)
    return app


def _open_store(settings: Settings) -> Store:
    store = Store.open(settings.database_url)
    if settings.token is None and not is_loopback(settings.host) and not store.has_valid_token():
        store.close()
        allowed = "127.0.0.1, ::1, localhost, or create a token: mergefront token create NAME --scope admin"
        message = "a host that other machines can reach needs a token"
        raise InvalidInput([field_error("host", settings.host, message, allowed)])
    return store


def _middleware(settings: Settings, tokens: Tokens, figures: RequestFigures) -> list[Middleware]:
    """Return what a request passes through, in this order, before it reaches a route."""
    return [
        Middleware(SecurityHeaders),
        Middleware(RequestLog, figures=figures),
        Middleware(BearerAuthentication, tokens=tokens),
        Middleware(OtherSites, tokens=tokens),
        Middleware(RateLimit, buckets=Buckets(settings.requests_per_second, settings.burst)),
        Middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, body_seconds=settings.body_seconds),
    ]
