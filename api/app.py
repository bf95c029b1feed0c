"""The application: routes, errors, authentication and headers put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware

import dashboard
from api import campaigns, checkpoints, events, front, front_statistics, health, problems, trials, understanding
from api.authentication import BearerAuthentication
from api.body_limit import BodyLimit
from api.launching import CACHE
from api.open_pools import OpenPools
from api.openapi import complete_openapi
from api.other_sites import OtherSites
from api.security_headers import SecurityHeaders
from api.service import Service
from api.settings import Settings
from storage import Store

DESCRIPTION = (
    "Search the weights that merge your checkpoints into better models, and pull the merge you want by its id."
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Opens the database, and makes or upgrades its tables, at once."""
    service = Service(settings, Store.open(settings.database_url), OpenPools(cache_dir=settings.home / CACHE))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.store.close()

    app = FastAPI(
        title="Mergefront",
        version=version("mergefront"),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=_middleware(settings),
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    for routes in (campaigns, front, front_statistics, understanding, trials, events, checkpoints, health):
        app.include_router(routes.router())
    app.include_router(dashboard.router())
    complete_openapi(app, needs_token=settings.token is not None)
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """Return what a request passes through, in this order, before it reaches a route."""
    middleware = [Middleware(SecurityHeaders), Middleware(OtherSites, checks_host=settings.token is None)]
    if settings.token is not None:
        middleware.append(Middleware(BearerAuthentication, token=settings.token))
    return [*middleware, Middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)]
