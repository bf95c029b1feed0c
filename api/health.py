"""Whether the service is up and ready, and what its workers can do."""

from datetime import datetime

from fastapi import APIRouter
from sqlalchemy.exc import OperationalError

from api.problems import documented
from api.service import ServiceOf
from campaigns.errors import NotReady
from campaigns.inventory import Inventory
from campaigns.noun import Noun


class Health(Noun):
    """The process answers."""

    status: str = "ok"


class Readiness(Noun):
    """The database answers and these workers were heard of lately."""

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
    def healthz() -> Health:
        """Answer as long as the process is up."""
        return Health()

    @routes.get("/readyz", responses=documented(503))
    def readyz(service: ServiceOf) -> Readiness:
        """Say whether a campaign that is launched now would run."""
        try:
            workers = service.store.worker_ids(service.settings.worker_seen_seconds)
        except OperationalError:
            raise NotReady("the database does not answer") from None
        if not workers:
            raise NotReady(f"no worker was heard of in the last {service.settings.worker_seen_seconds:g} seconds")
        return Readiness(workers=tuple(workers))

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
