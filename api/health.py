"""Whether the service is up and ready, and what its workers can do."""

from datetime import datetime

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from api import examples
from api.answering import in_time
from api.problems import documented
from api.service import ServiceOf
from campaigns.errors import NotReady
from campaigns.inventory import Inventory
from campaigns.noun import Noun
from storage import Store

DATABASE_SECONDS = 2.0
"""What `/readyz` waits for the database: less than those who ask wait for it."""


class Health(Noun):
    """The process answers."""

    status: str = "ok"


class Readiness(Noun):
    """The database answers, its schema is this version's, and these workers were heard of lately."""

    status: str = "ready"
    workers: tuple[str, ...]


class WorkerView(Noun):
    """A live worker, without the tasks that it offers: `/v1/inventory` has those of all."""

    id: str
    host: str
    devices: tuple[str, ...]
    versions: dict[str, str]
    started_at: datetime
    seen_at: datetime


class Workers(Noun):
    """All live workers, the longest-running first."""

    items: tuple[WorkerView, ...]


def router() -> APIRouter:
    """Return the routes of health, workers and inventory."""
    routes = APIRouter(tags=["service"])

    @routes.get("/healthz")
    async def healthz() -> Health:  # on no thread: they may all be waiting for a database
        """Answer as long as the process is up."""
        return Health()

    @routes.get("/readyz", responses=examples.READY | documented(503))
    async def readyz(service: ServiceOf) -> Readiness:
        """Say within seconds whether a campaign that is launched now would run, and if not, why."""
        try:
            return await in_time(
                DATABASE_SECONDS, lambda: readiness(service.store, service.settings.worker_seen_seconds)
            )
        except TimeoutError:
            raise NotReady(f"the database did not answer within {DATABASE_SECONDS:g} seconds") from None
        except SQLAlchemyError:
            raise NotReady("the database does not answer") from None

    @routes.get("/v1/inventory", responses=documented(503))
    def inventory(service: ServiceOf) -> Inventory:
        """Return tasks, merge methods, strategies and devices that live workers offer between them."""
        return service.store.inventory(service.settings.worker_seen_seconds)

    @routes.get("/v1/workers")
    def workers(service: ServiceOf) -> Workers:
        """Return the workers heard of lately."""
        found = service.store.workers(service.settings.worker_seen_seconds)
        return Workers(items=tuple(WorkerView(**worker._asdict()) for worker in found))

    return routes


def readiness(store: Store, worker_seen_seconds: float) -> Readiness:
    """Return the readiness. Raises `NotReady` for a schema of another version, and when no worker was heard of."""
    present, needed = store.schema_revisions()
    if present != needed:
        raise NotReady(f"the database's schema is at revision {present}, this Mergefront works with {needed}")
    workers = store.worker_ids(worker_seen_seconds)
    if not workers:
        raise NotReady(f"no worker was heard of in the last {worker_seen_seconds:g} seconds")
    return Readiness(workers=tuple(workers))
