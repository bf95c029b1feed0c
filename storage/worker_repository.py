"""Workers and what they can do."""

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from campaigns.errors import NotFound, NotReady
from campaigns.inventory import Inventory, Worker
from storage.columns import now
from storage.rows import WorkerRow


class WorkerRepository:
    """Reads and writes workers within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def publish(self, worker: Worker) -> None:
        """Write what a worker can do, over what it said before."""
        values = {**dict(worker), "inventory": worker.inventory.model_dump(mode="json")}
        self._session.merge(WorkerRow(**values))

    def heartbeat(self, worker_id: str) -> None:
        """Note that the worker lives. Raises `NotFound` for one that never published."""
        row = self._session.get(WorkerRow, worker_id)
        if row is None:
            raise NotFound(f"no worker {worker_id!r}")
        row.seen_at = now()

    def seen(self, within_seconds: float) -> list[Worker]:
        """Return the workers whose last heartbeat is at most `within_seconds` old, the longest-running first."""
        since = now() - timedelta(seconds=within_seconds)
        query = select(WorkerRow).where(WorkerRow.seen_at >= since).order_by(WorkerRow.started_at, WorkerRow.id)
        return [_worker(row) for row in self._session.scalars(query)]

    def inventory(self, within_seconds: float) -> Inventory:
        """Return what the workers seen lately can do between them; the last to start wins where they differ.

        Raises `NotReady` when there is none.
        """
        workers = self.seen(within_seconds)
        if not workers:
            raise NotReady(f"no worker has been seen in the last {within_seconds:g} seconds; start one")
        return _union([worker.inventory for worker in workers])


def _worker(row: WorkerRow) -> Worker:
    inventory = Inventory.model_validate(row.inventory)
    return Worker(id=row.id, host=row.host, inventory=inventory, started_at=row.started_at, seen_at=row.seen_at)


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
