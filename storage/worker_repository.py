"""Workers and what they can do."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from campaigns.errors import NotFound, NotReady
from campaigns.inventory import Inventory, Worker
from storage.columns import now
from storage.rows import WorkerRow

FORGOTTEN_AFTER = timedelta(hours=1)
LONGEST_RUNNING_FIRST = (WorkerRow.started_at, WorkerRow.id)


class LiveWorker(NamedTuple):
    """A worker without the tasks, methods and strategies that it offers."""

    id: str
    host: str
    devices: list[str]
    versions: dict[str, str]
    started_at: datetime
    seen_at: datetime


class WorkerRepository:
    """Reads and writes workers within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def publish(self, worker: Worker) -> None:
        """Write what a worker can do, over what it said before, and delete those not heard of for an hour."""
        self._session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now() - FORGOTTEN_AFTER))
        values = {**dict(worker), "inventory": worker.inventory.model_dump(mode="json")}
        self._session.merge(WorkerRow(**values))

    def heartbeat(self, worker_id: str) -> None:
        """Note that the worker lives. Raises `NotFound` for one that never published."""
        beat = update(WorkerRow).where(WorkerRow.id == worker_id).values(seen_at=now()).returning(WorkerRow.id)
        if self._session.scalar(beat) is None:
            raise NotFound(f"no worker {worker_id!r}")

    def ids(self, within_seconds: float) -> list[str]:
        """Return the ids of the workers that `seen` returns."""
        query = select(WorkerRow.id).where(_is_seen(within_seconds)).order_by(*LONGEST_RUNNING_FIRST)
        return list(self._session.scalars(query))

    def seen(self, within_seconds: float) -> list[LiveWorker]:
        """Return the workers whose last heartbeat is at most `within_seconds` old, the longest-running first.

        The database takes devices and versions out of the inventories, whose thousands of tasks stay where they are.
        """
        offered = (WorkerRow.inventory["devices"], WorkerRow.inventory["versions"])
        query = select(WorkerRow.id, WorkerRow.host, *offered, WorkerRow.started_at, WorkerRow.seen_at)
        query = query.where(_is_seen(within_seconds)).order_by(*LONGEST_RUNNING_FIRST)
        return [LiveWorker(*row) for row in self._session.execute(query)]

    def inventory(self, within_seconds: float) -> Inventory:
        """Return what the workers seen lately can do between them; the last to start wins where they differ.

        Raises `NotReady` when there is none.
        """
        query = select(WorkerRow.inventory).where(_is_seen(within_seconds)).order_by(*LONGEST_RUNNING_FIRST)
        inventories = [Inventory.model_validate(inventory) for inventory in self._session.scalars(query)]
        if not inventories:
            raise NotReady(f"no worker has been seen in the last {within_seconds:g} seconds; start one")
        return _union(inventories)


def _is_seen(within_seconds: float) -> ColumnElement[bool]:
    return WorkerRow.seen_at >= now() - timedelta(seconds=within_seconds)


def _union(inventories: list[Inventory]) -> Inventory:
    return Inventory(
        tasks={name: task for inventory in inventories for name, task in inventory.tasks.items()},
        methods=_distinct([inventory.methods for inventory in inventories]),
        strategies=_distinct([inventory.strategies for inventory in inventories]),
        devices=_distinct([inventory.devices for inventory in inventories]),
        versions={name: version for inventory in inventories for name, version in inventory.versions.items()},
    )


def _distinct(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))
