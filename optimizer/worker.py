"""The worker process: publishes what it can do, leases campaigns one after the other and runs their loops."""

import logging
import os
import secrets
import socket
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import ray
import torch

from campaigns.errors import Conflict, Fault, InvalidInput, LeaseLost
from campaigns.inventory import WEIGHTS_OFFER, Inventory, Worker
from campaigns.noun import Noun
from campaigns.objectives import WEIGHTS
from campaigns.states import CampaignState, CampaignStep
from evaluators.inventory import offered_tasks, versions
from merging.methods import METHODS
from optimizer.candidate_evaluator import evaluation_setup
from optimizer.executors.ray_actors import RayExecutor, connect
from optimizer.heart import Heart
from optimizer.loop import SearchLoop
from optimizer.strategies import STRATEGIES, SearchProblem, build_strategy
from search_spaces import build_space
from storage import Lease, Store

MAX_CRASHES = 6  # the waits between them double from two seconds on: about two minutes in all
WANTS_ACTORS = (CampaignState.QUEUED, CampaignState.RUNNING, CampaignState.STOPPING)

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
        self._cache_dir = settings.home / "cache"
        self._store = Store.open(settings.database_url)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._heart = Heart(self._store, self._id, settings.lease_seconds, self._publish)
        self._stop = threading.Event()
        self._crashes: Counter[str] = Counter()

    def stop(self) -> None:
        """Ask the worker to end; a campaign that runs is left as it stands and goes on wherever it is leased next."""
        self._stop.set()

    def start(self) -> None:
        """Start or join Ray, then publish what this worker can do. Ray takes over SIGTERM here."""
        connect(self._settings.ray_address)
        self._publish()

    def run(self) -> None:
        """Lease and run campaigns until `stop`; to be called after `start`."""
        self._heart.start()
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
            tasks=offered_tasks(self._settings.task_folders, self._cache_dir) | {WEIGHTS: WEIGHTS_OFFER},
            methods=tuple(METHODS),
            strategies=tuple(STRATEGIES),
            devices=("cpu", *gpus),
            versions=versions(),
        )

    def _run_leased(self, lease: Lease) -> None:
        self._heart.hold(lease)
        try:
            self._run_campaign(lease)
            self._crashes.pop(lease.campaign_id, None)
        except LeaseLost:
            logger.warning("campaign %s was taken over by another worker", lease.campaign_id)
        except (InvalidInput, Fault) as error:
            self._fail(lease, str(error))
        except Exception as error:  # a database that is away, say: nothing is lost, so try again later
            logger.exception("campaign %s was interrupted", lease.campaign_id)
            self._back_off(lease, error)
        finally:
            self._heart.hold(None)
            self._release(lease)

    def _run_campaign(self, lease: Lease) -> None:
        campaign = self._store.campaign(lease.campaign_id)
        spec = campaign.spec
        space = build_space(spec, campaign.pool)
        weights = tuple(objective.weight for objective in spec.objectives)
        problem = SearchProblem(space.dimensions, weights, spec.seed, len(spec.constraints))
        strategy = build_strategy(spec.strategy, problem)
        folders = tuple(str(folder) for folder in self._settings.task_folders)
        executor = RayExecutor(evaluation_setup(spec, campaign.pool, folders, self._cache_dir), spec.resources)
        try:
            while not executor.ready(self._settings.poll_seconds):
                if self._stop.is_set() or self._store.campaign(campaign.id).state not in WANTS_ACTORS:
                    return
            SearchLoop(self._store, lease, executor, strategy, space, self._stop.is_set).run()
        finally:
            executor.close()

    def _back_off(self, lease: Lease, error: Exception) -> None:
        self._crashes[lease.campaign_id] += 1
        crashes = self._crashes[lease.campaign_id]
        if crashes >= MAX_CRASHES:
            kind, first_line = type(error).__name__, (str(error).splitlines() or [""])[0]
            self._fail(lease, f"interrupted {crashes} times, the last time by {kind}: {first_line}")
        else:
            self._stop.wait(2.0**crashes)

    def _fail(self, lease: Lease, reason: str) -> None:
        logger.error("campaign %s failed: %s", lease.campaign_id, reason)
        try:
            self._store.step(lease.campaign_id, CampaignStep.FAIL, reason, lease)
        except Conflict:
            logger.warning("campaign %s has ended, or another worker holds it", lease.campaign_id)

    def _release(self, lease: Lease) -> None:
        try:
            self._store.release(lease)
        except LeaseLost:
            logger.warning("the lease of campaign %s had already passed on", lease.campaign_id)
        except Exception:
            logger.exception("the lease of campaign %s will run out by itself", lease.campaign_id)
