"""The worker process: publishes what it can do, leases campaigns and runs as many at once as find room."""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import ray
import torch
from sqlalchemy.exc import SQLAlchemyError

from campaigns.errors import Conflict, NotFound
from campaigns.inventory import WEIGHTS_OFFER, Inventory, Worker
from campaigns.noun import Noun
from campaigns.objectives import WEIGHTS
from campaigns.states import CampaignStep
from evaluators.inventory import offered_tasks, versions
from merging.methods import METHODS
from optimizer.campaign_run import CampaignRun, RunSettings
from optimizer.executors.ray_actors import cluster_id, cluster_nodes, connect
from optimizer.heart import Heart
from optimizer.sharing import Node, divide, fits, misfit
from optimizer.strategies import STRATEGIES
from storage import Claim, Lease, Store

SEEN_LEASES = 3.0
"""For how many times `lease_seconds` a worker that is not heard of counts as alive."""

logger = logging.getLogger(__name__)
shares_of = lru_cache(maxsize=4)(divide)


class WorkerSettings(Noun):
    """How a worker runs: without `ray_address` on a Ray of its own; a dead one blocks for up to `lease_seconds`."""

    database_url: str
    home: Path
    task_folders: tuple[Path, ...] = ()
    ray_address: str | None = None
    lease_seconds: float = 10.0
    poll_seconds: float = 0.5


class WorkerProcess:
    """Runs campaigns until told to stop, each in a thread of its own, on actors that they share.

    The database is the only truth: a killed worker is replaced by any other, and workers on one cluster compute the
    same shares from it.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._cache_dir = settings.home / "cache"
        self._store = Store.open(settings.database_url)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._heart = Heart(self._store, self._id, settings.lease_seconds, self._publish)
        self._stop = threading.Event()
        self._runs: dict[str, CampaignRun] = {}
        self._crashes: dict[str, int] = {}
        self._rest_until: dict[str, float] = {}
        self._nodes: tuple[Node, ...] = ()
        self._too_large: dict[str, Claim] = {}
        self._warned: set[str] = set()
        self._run_settings = RunSettings(
            task_folders=settings.task_folders, cache_dir=self._cache_dir, poll_seconds=settings.poll_seconds
        )

    def stop(self) -> None:
        """Ask the worker to end; campaigns that run are left as they stand and go on wherever they are leased next."""
        self._stop.set()

    def start(self) -> None:
        """Start or join Ray, then publish what this worker can do. Ray takes over SIGTERM here."""
        connect(self._settings.ray_address)
        self._publish()

    def run(self) -> None:
        """Lease and run campaigns until `stop`; to be called after `start`. Raises `Fault` when Ray dies under it."""
        self._heart.start()
        try:
            while not self._stop.wait(self._settings.poll_seconds):
                try:
                    self._turn()
                except SQLAlchemyError as error:  # those that run see for themselves, and go on when it is back
                    logger.warning("the database does not answer: %s", str(error).partition("\n")[0])
        finally:
            for run in self._runs.values():
                run.stop()
            for run in self._runs.values():
                run.join()
            self._heart.stop()
            ray.shutdown()

    def _turn(self) -> None:
        """Let go of the runs that are over, take campaigns while there is room, and share the actors out."""
        self._reap()
        self._nodes = cluster_nodes()
        self._too_large.clear()
        while (lease := self._store.lease_next(self._id, self._settings.lease_seconds, self._fits)) is not None:
            self._begin(lease)
        self._refuse_too_large()
        self._share()

    def _reap(self) -> None:
        for campaign_id, run in list(self._runs.items()):
            if run.is_over:
                del self._runs[campaign_id]
                self._crashes[campaign_id] = run.crashes
                self._rest_until[campaign_id] = time.monotonic() + run.rest_seconds

    def _fits(self, claim: Claim, held: Sequence[Claim]) -> bool:
        """Whether the campaign can run here now; note it when it never can."""
        is_resting = time.monotonic() < self._rest_until.get(claim.campaign_id, 0.0)
        if claim.campaign_id in self._runs or is_resting:
            return False
        if misfit(self._nodes, claim.resources) is not None:
            self._too_large[claim.campaign_id] = claim
            return False
        return fits(self._nodes, claim, held)

    def _refuse_too_large(self) -> None:
        """Fail campaigns whose actors nobody can ever place: a Ray of one's own never grows; others may."""
        for campaign_id, claim in self._too_large.items():
            error = misfit(self._nodes, claim.resources)
            seen = self._store.worker_ids(SEEN_LEASES * self._settings.lease_seconds)
            if self._settings.ray_address is None and seen == [self._id]:
                logger.error("campaign %s failed: %s", campaign_id, error)
                with contextlib.suppress(Conflict, NotFound):  # somebody took, ended or deleted it in this moment
                    self._store.step(campaign_id, CampaignStep.FAIL, str(error))
            elif campaign_id not in self._warned:
                self._warned.add(campaign_id)
                logger.warning("campaign %s waits for a larger machine: %s", campaign_id, error)

    def _begin(self, lease: Lease) -> None:
        logger.info("worker %s took campaign %s", self._id, lease.campaign_id)
        crashes = self._crashes.get(lease.campaign_id, 0)
        run = CampaignRun(self._store, lease, self._heart, self._run_settings, crashes)
        self._runs[lease.campaign_id] = run
        run.start()

    def _share(self) -> None:
        """Let each run have its share of the actors."""
        shares = shares_of(self._nodes, tuple(self._store.claims(self._id))) if self._runs else {}
        for campaign_id, run in self._runs.items():
            if campaign_id in shares:
                run.resize(shares[campaign_id])

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
            cluster=cluster_id(),
        )
