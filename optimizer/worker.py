"""The worker process: publishes what it can do, leases campaigns one after the other and runs their loops."""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import ray
import torch

from campaigns.errors import Conflict, LeaseLost, MergefrontError
from campaigns.inventory import Inventory, Worker
from campaigns.noun import Noun
from campaigns.states import CampaignStep
from evaluators.inventory import offered_tasks, versions
from merging.methods import METHODS
from optimizer.candidate_evaluator import evaluation_setup
from optimizer.executors.ray_actors import RayExecutor, connect
from optimizer.heart import Heart
from optimizer.loop import SearchLoop
from optimizer.strategies import STRATEGIES, build_strategy
from search_spaces import build_space
from storage import Lease, Store

logger = logging.getLogger(__name__)


class WorkerSettings(Noun):
    """How a worker runs: without `ray_address` on a Ray of its own; a dead one blocks for up to `lease_seconds`."""

    database_url: str
    home: Path
    task_folders: tuple[Path, ...] = ()
    ray_address: str | None = None
    lease_seconds: float = 10.0
    poll_seconds: float = 0.5


class WorkerProcess:
    """Runs campaigns until told to stop. The database is the only truth: a killed worker is replaced by any other."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._store = Store.open(settings.database_url)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._heart = Heart(self._store, self._id, settings.lease_seconds)
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the worker to end; a campaign that runs is left as it stands and goes on wherever it is leased next."""
        self._stop.set()

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Publish the inventory, then lease and run campaigns until `stop`."""
        self._publish()
        self._heart.start()
        connect(self._settings.ray_address)
        on_ready()
        try:
            while not self._stop.wait(self._settings.poll_seconds):
                lease = self._store.lease_next(self._id, self._settings.lease_seconds)
                if lease is not None:
                    self._run_leased(lease)
        finally:
            self._heart.stop()
            ray.shutdown()

    def _publish(self) -> None:
        now = datetime.now(UTC)
        worker = Worker(
            id=self._id, host=socket.gethostname(), inventory=self._inventory(), started_at=now, seen_at=now
        )
        self._store.publish_worker(worker)

    def _inventory(self) -> Inventory:
        gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        return Inventory(
            tasks=offered_tasks(self._settings.task_folders, self._settings.home / "cache"),
            methods=tuple(METHODS),
            strategies=tuple(STRATEGIES),
            devices=("cpu", *gpus),
            versions=versions(),
        )

    def _run_leased(self, lease: Lease) -> None:
        self._heart.hold(lease)
        try:
            self._run_campaign(lease)
        except LeaseLost:
            logger.warning("campaign %s was taken over by another worker", lease.campaign_id)
        except Exception as error:
            logger.exception("campaign %s failed", lease.campaign_id)
            self._fail(lease, error)
        finally:
            self._heart.hold(None)
            self._release(lease)

    def _run_campaign(self, lease: Lease) -> None:
        campaign = self._store.campaign(lease.campaign_id)
        spec = campaign.spec
        space = build_space(spec, campaign.pool)
        weights = tuple(objective.weight for objective in spec.objectives)
        strategy = build_strategy(spec.strategy, space.dimensions, weights, spec.seed)
        folders = tuple(str(folder) for folder in self._settings.task_folders)
        executor = RayExecutor(evaluation_setup(spec, campaign.pool, folders), spec.resources)
        try:
            SearchLoop(self._store, lease, executor, strategy, space, self._stop.is_set).run()
        finally:
            executor.close()

    def _fail(self, lease: Lease, error: Exception) -> None:
        reason = str(error) if isinstance(error, MergefrontError) else f"{type(error).__name__}: {error}"
        try:
            self._store.step(lease.campaign_id, CampaignStep.FAIL, reason, lease)
        except Conflict:
            logger.warning("campaign %s has ended, or another worker holds it", lease.campaign_id)

    def _release(self, lease: Lease) -> None:
        try:
            self._store.release(lease)
        except LeaseLost:
            logger.warning("the lease of campaign %s had already passed on", lease.campaign_id)
