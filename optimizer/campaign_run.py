"""One leased campaign in a thread of its own, from its lease to its release."""

import logging
import threading
import time
from pathlib import Path

from campaigns.errors import Conflict, Fault, InvalidInput, LeaseLost
from campaigns.log_context import log_fields
from campaigns.noun import Noun
from campaigns.states import CampaignState, CampaignStep
from optimizer.candidate_evaluator import evaluation_setup
from optimizer.executors.ray_actors import RayExecutor
from optimizer.heart import Heart
from optimizer.loop import SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space
from storage import Lease, Store

MAX_CRASHES = 6  # the waits between them double from two seconds on: about two minutes in all
CALM_SECONDS = 600.0
"""After a run of this length, a crash is the first in a row."""
NO_PLACE_SECONDS = 60.0
"""For how long a campaign keeps its lease while none of its actors finds a place in the cluster."""
WANTS_ACTORS = (CampaignState.QUEUED, CampaignState.RUNNING, CampaignState.STOPPING)

logger = logging.getLogger(__name__)


class RunSettings(Noun):
    """What all runs of a worker have in common."""

    task_folders: tuple[Path, ...]
    cache_dir: Path
    poll_seconds: float


class CampaignRun:
    """Runs the loop of one campaign until that is over, paused or lost, or `stop` is called.

    Whatever goes wrong ends this run and no other: a fault or wrong input fails the campaign; after anything else
    nothing is lost, and it may be tried again in `rest_seconds`.
    """

    def __init__(self, store: Store, lease: Lease, heart: Heart, settings: RunSettings, crashes: int) -> None:
        self.lease = lease
        self.crashes = crashes
        self.rest_seconds = 0.0
        self._store = store
        self._heart = heart
        self._settings = settings
        self._stopped = threading.Event()
        self._executor: RayExecutor | None = None
        self._actors = 1
        self._thread = threading.Thread(target=self._run, name=f"campaign-{lease.campaign_id}", daemon=True)

    def start(self) -> None:
        """Begin to renew the lease, and to run."""
        self._heart.hold(self.lease, self.stop)
        self._thread.start()

    def resize(self, actors: int) -> None:
        """Let the campaign have `actors` actors, at least 1, from now on."""
        self._actors = actors
        if self._executor is not None:
            self._executor.resize(actors)

    def stop(self) -> None:
        """Ask the run to end; the campaign is left as it stands and goes on wherever it is leased next."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for the run to end."""
        self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended, and the lease been given back."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = time.monotonic()
        with log_fields(campaign_id=self.lease.campaign_id):
            try:
                self._run_campaign()
                self.crashes = 0
            except LeaseLost:
                logger.warning("campaign %s was taken over by another worker", self.lease.campaign_id)
            except (InvalidInput, Fault) as error:
                fail(self._store, self.lease, str(error))
            except Exception as error:  # a database that is away, say: nothing is lost, so it is tried again later
                logger.exception("campaign %s was interrupted", self.lease.campaign_id)
                self._note_crash(error, time.monotonic() - started)
            finally:
                self._heart.drop(self.lease)
                release(self._store, self.lease)

    def _run_campaign(self) -> None:
        campaign = self._store.campaign(self.lease.campaign_id)
        spec = campaign.spec
        space = build_space(spec, campaign.pool)
        weights = tuple(objective.weight for objective in spec.objectives)
        problem = SearchProblem(space.dimensions, weights, spec.seed, len(spec.constraints))
        strategy = build_strategy(spec.strategy, problem)
        folders = tuple(str(folder) for folder in self._settings.task_folders)
        setup = evaluation_setup(spec, campaign.pool, folders, self._settings.cache_dir)
        executor = self._executor = RayExecutor(setup, spec.resources, self._actors)
        try:
            while not executor.ready(self._settings.poll_seconds):
                state = self._store.campaign(campaign.id).state
                if self._should_stop() or state not in WANTS_ACTORS:
                    return
            SearchLoop(self._store, self.lease, executor, strategy, space, self._should_stop).run()
        finally:
            executor.close()

    def _should_stop(self) -> bool:
        assert self._executor is not None
        if self._executor.seconds_without_place < NO_PLACE_SECONDS:
            return self._stopped.is_set()
        logger.warning("no actor of campaign %s has found a place; it is given back", self.lease.campaign_id)
        self.rest_seconds = NO_PLACE_SECONDS
        return True

    def _note_crash(self, error: Exception, seconds: float) -> None:
        self.crashes = 1 if seconds > CALM_SECONDS else self.crashes + 1
        self.rest_seconds = 2.0**self.crashes
        if self.crashes >= MAX_CRASHES:
            kind, first_line = type(error).__name__, (str(error).splitlines() or [""])[0]
            reason = f"interrupted {self.crashes} times, the last time by {kind}: {first_line}"
            fail(self._store, self.lease, reason)


def fail(store: Store, lease: Lease, reason: str) -> None:
    """End a campaign as failed, unless it has ended or been taken over. Never raises."""
    logger.error("campaign %s failed: %s", lease.campaign_id, reason)
    try:
        store.step(lease.campaign_id, CampaignStep.FAIL, reason, lease)
    except Conflict:
        logger.warning("campaign %s has ended, or another worker holds it", lease.campaign_id)
    except Exception:
        logger.exception("campaign %s could not be failed; whoever leases it next will find the same")


def release(store: Store, lease: Lease) -> None:
    """Give a campaign back, or let its lease run out where the database cannot be reached. Never raises."""
    try:
        store.release(lease)
    except LeaseLost:
        logger.warning("the lease of campaign %s had already passed on", lease.campaign_id)
    except Exception:
        logger.exception("the lease of campaign %s will run out by itself", lease.campaign_id)
